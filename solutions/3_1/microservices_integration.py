"""An order that goes through six services: a saga of small tasks, each of them safe to run twice.

From top to bottom: the app, the data, the client for services, what Redis remembers of an order,
how a step is tried, the steps forward, the steps back, the end, and what stands beside the orders.

    process_order -> three validations at once -> assess -> process_payment -> update_inventory
        -> create_order_record -> settle -> conclude                          (completed)
                                         -> mark_order_failed -> release_inventory
                                            -> refund_payment -> conclude     (failed)
"""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Annotated, Any

import redis
import requests
from celery import Celery, Task, chain, chord
from celery.utils.log import get_task_logger
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError


class Patient(Task):
    """A task that may be retried without end: each `retry` below keeps its own count.

    `retry(max_retries=None)` does not say that; it means the task's own limit, three by default.
    """

    max_retries = None


# The app is called like its module, so a task has one name wherever it is sent from.
app = Celery(
    "microservices_integration",
    broker="redis://127.0.0.1:6379/0",
    backend="redis://127.0.0.1:6379/1",
    task_cls=Patient,
)
app.conf.update(
    # A message is acknowledged when its task has ended, and goes back to the queue when the process
    # that ran it is killed. Both are needed: late acknowledgement alone turns a killed process into
    # a failed task. The price is that any task may run twice, and every task here may.
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    # What waits in a worker's memory can't be taken by another worker.
    worker_prefetch_multiplier=1,
    result_expires=24 * 3600,
)
log = get_task_logger(__name__)

SERVICES = {
    f"{name}_service": os.environ.get(f"{name.upper()}_SERVICE_URL", f"http://127.0.0.1:{port}")
    for name, port in {
        "user": 8001,
        "order": 8002,
        "payment": 8003,
        "notification": 8004,
        "inventory": 8005,
        "analytics": 8006,
    }.items()
}
TIMEOUT = float(os.environ.get("SERVICE_TIMEOUT", "5"))
MEMORY = redis.Redis.from_url(
    os.environ.get("LAB_REDIS_URL")
    or os.environ.get("CELERY_RESULT_BACKEND")
    or "redis://127.0.0.1:6379/1",
    decode_responses=True,
)

FORWARD_TRIES = 4  # waits of 0.5, 1 and 2 s
BACKWARD_TRIES = 400  # waits grow to 10 s: more than an hour
FIRST_WAIT, LONGEST_WAIT = 0.5, 10.0
LEASE = 2 * 3600  # longer than any order takes
REMEMBERED = 30 * 24 * 3600


# --------------------------------------------------------------------------------------------- data


def two_decimals(amount: float) -> float:
    """Refuse an amount that is no whole number of cents."""
    # str() of a float is the shortest text that means it; Decimal(0.1) would show the binary one.
    if Decimal(str(amount)).as_tuple().exponent < -2 and Decimal(str(amount)) * 100 % 1:
        raise ValueError("more than 2 decimals")
    return amount


Name = Annotated[str, Field(min_length=1)]
Amount = Annotated[float, Field(gt=0, allow_inf_nan=False), AfterValidator(two_decimals)]


class Strict(BaseModel):
    """Text is not taken for a number; what is not named is ignored."""

    model_config = ConfigDict(strict=True)


class OrderItem(Strict):
    """One line of an order."""

    id: Name
    name: str
    quantity: int = Field(ge=1)
    price: float


class OrderData(Strict):
    """An order as a client sends it."""

    order_id: Name
    user_id: Name
    items: list[OrderItem] = Field(min_length=1)
    total_amount: Amount
    payment_method: Name
    shipping_address: dict[str, Any] | None

    @classmethod
    def read(cls, order: Any) -> OrderData:
        """Return the order; ValueError, and no class of pydantic's, where it is malformed."""
        try:
            return cls.model_validate(order)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "order"
            raise ValueError(f"malformed order: {where}: {first['msg']}") from None


class ServiceResponse(BaseModel):
    """What came of one call of a service; `response_time` in seconds.

    A failure is `transient` when the outcome is unknown or may be another next time. A call that
    was not sent at all (an open circuit, the rate limit) may be made `after` so many seconds.
    """

    service: str
    success: bool
    data: dict[str, Any] | None = None
    error: str | None = None
    response_time: float = 0.0
    transient: bool = False
    after: float | None = None


# ------------------------------------------------------------------------------ talking to services


class ServiceCommunicator:
    """Calls services; what goes wrong comes back as a response, never as an exception."""

    @classmethod
    def call_service(
        cls,
        service: str,
        endpoint: str,
        data: dict[str, Any] | None = None,
        method: str = "POST",
        *,
        key: str = "",
        correlation: str = "",
        guarded: bool = True,
    ) -> ServiceResponse:
        """Call one endpoint of a service, once.

        Args:
            key: the Idempotency-Key of a write.
            correlation: the X-Correlation-ID, the same in all that belongs to one order.
            guarded: heed the circuit breaker and the rate limit.
        """
        if service not in SERVICES:
            return ServiceResponse(service=service, success=False, error="unknown service")
        if guarded and (wait := may_call(service)):
            words = f"{service} is not called for another {wait:.1f} s"
            return ServiceResponse(
                service=service, success=False, error=words, transient=True, after=wait
            )
        url = f"{SERVICES[service]}/{endpoint.lstrip('/')}"
        headers = {"Idempotency-Key": key, "X-Correlation-ID": correlation}
        began = time.monotonic()
        response = cls._exchange(service, url, data, method.upper(), headers)
        response.response_time = time.monotonic() - began
        if guarded:
            note_call(service, response)
        result = "ok" if response.success else response.error
        log.info("[%s] %s %s: %s", correlation or "-", service, endpoint, result)
        return response

    @staticmethod
    def _exchange(
        service: str, url: str, data: Any, method: str, headers: dict[str, str]
    ) -> ServiceResponse:
        content = {"params": data} if method == "GET" else {"json": data or {}}
        sent = {name: value for name, value in headers.items() if value}
        try:
            answer = requests.request(method, url, headers=sent, timeout=TIMEOUT, **content)
        except requests.RequestException as error:
            # No answer is not "not done": the charge may be made. Only asking again, with the same
            # key, or undoing it by the order's id tells.
            words = f"no answer ({type(error).__name__})"
            return ServiceResponse(service=service, success=False, error=words, transient=True)
        try:
            body = answer.json()
        except ValueError:
            body = None
        if answer.ok and isinstance(body, dict):
            return ServiceResponse(service=service, success=True, data=body)
        code = answer.status_code
        words = body.get("message") if isinstance(body, dict) else None
        return ServiceResponse(
            service=service,
            success=False,
            data=body if isinstance(body, dict) else None,
            error=str(words or f"HTTP {code}"),
            # Every other 4xx is the service's considered answer, and will be the same next time.
            transient=answer.ok or code >= 500 or code in (408, 429),
        )


# Circuit breakers and the rate limit live in Redis, because a worker has many processes and there
# may be many workers. Each is a key that expires by itself; nobody has to tidy up.

FAILURES_TO_OPEN, OPEN_SECONDS = 5, 10
RATE = float(os.environ.get("PAYMENT_RATE_LIMIT") or 0)
# A slot a call: the next free one is moved on by 1/rate seconds, by one script, so that two
# processes can't take the same. Redis's own clock is the one that all of them share.
TAKE_SLOT = """
local now = redis.call('TIME'); now = now[1] + now[2] / 1000000
local free = tonumber(redis.call('GET', KEYS[1]) or '0')
if free > now then return tostring(free - now) end
redis.call('SET', KEYS[1], string.format('%.6f', now + ARGV[1]), 'EX', 60)
return '0'
"""


def may_call(service: str) -> float:
    """Return 0 if the service may be called now, else the seconds to wait before asking again."""
    if wait := circuit_wait(service):
        return wait
    if service == "payment_service" and RATE:
        return float(MEMORY.eval(TAKE_SLOT, 1, "rate:payment", 1 / RATE))
    return 0.0


def circuit_wait(service: str) -> float:
    """Return how long the circuit stays open; in its trial one caller passes and others wait."""
    left = MEMORY.pttl(f"circuit:{service}:open")
    if left > 0:
        return left / 1000
    if int(MEMORY.get(f"circuit:{service}:failures") or 0) < FAILURES_TO_OPEN:
        return 0.0
    mine = MEMORY.set(f"circuit:{service}:trial", 1, nx=True, px=int(TIMEOUT * 1000) + 1000)
    return 0.0 if mine else 0.5


def note_call(service: str, response: ServiceResponse) -> None:
    """Count a transient failure; anything else shows that the service is there."""
    failures, trial = f"circuit:{service}:failures", f"circuit:{service}:trial"
    if not response.transient:
        MEMORY.delete(failures, trial)
    elif MEMORY.incr(failures) >= FAILURES_TO_OPEN:
        MEMORY.set(f"circuit:{service}:open", 1, ex=OPEN_SECONDS)
        MEMORY.delete(trial)


# ------------------------------------------------------------------------ what is known of an order


class Journal:
    """What was decided about one order, in Redis. The first decision stands.

    A redelivered task may come to another conclusion than the run before it: that one gave up on
    the charge, this one gets through. Both adopt what was written first: an order takes one road.
    """

    def __init__(self, order_id: str) -> None:
        self.id = order_id
        self.row, self.steps = f"order:{order_id}", f"order:{order_id}:steps"

    def claim(self, owner: str) -> bool:
        """Say whether this task may run the order: the first one may, and its redelivery."""
        MEMORY.set(f"{self.row}:owner", owner, nx=True, ex=LEASE)
        return MEMORY.get(f"{self.row}:owner") == owner

    def decide(self, step: str, decision: dict[str, Any]) -> dict[str, Any]:
        """Write a step's decision down unless there is one, and return the one that stands."""
        with MEMORY.pipeline() as transaction:
            transaction.hsetnx(self.row, step, json.dumps(decision))
            transaction.expire(self.row, REMEMBERED)
            transaction.execute()
        return self.decision(step) or decision

    def decision(self, step: str) -> dict[str, Any] | None:
        """Return what was decided, None if nothing was yet."""
        found = MEMORY.hget(self.row, step)
        return json.loads(found) if found else None

    def note(self, step: str, words: str) -> None:
        """Add a line to the order's trace."""
        line = {"step": step, "at": time.time(), "outcome": words}
        with MEMORY.pipeline() as transaction:
            transaction.rpush(self.steps, json.dumps(line))
            transaction.expire(self.steps, REMEMBERED)
            transaction.execute()


# ---------------------------------------------------------------------------------- how a step goes


def attempt(
    task: Task,
    order_id: str,
    tries: int,
    service: str,
    endpoint: str,
    data: dict[str, Any],
    most: int = FORWARD_TRIES,
) -> ServiceResponse:
    """Call a service for a task; a transient failure becomes the task's next try.

    Nothing waits here: `retry` publishes the task again for later and ends this run. Tries are
    counted in the task's own arguments, because a call that was never sent is not one of them.
    """
    name = task.name.rpartition(".")[2]
    # One key a piece of work, however often it is tried: the order and the step name it.
    key = f"{order_id}:{name}"
    response = ServiceCommunicator.call_service(
        service, endpoint, data, key=key, correlation=f"order-{order_id}"
    )
    Journal(order_id).note(name, "ok" if response.success else str(response.error))
    if response.after is not None:
        again(task, tries, response.after)
    if response.transient and tries < most:
        again(task, tries + 1, min(FIRST_WAIT * 2 ** (tries - 1), LONGEST_WAIT))
    return response


def again(task: Task, tries: int, wait: float) -> None:
    """End this run of the task and have it run again after `wait` seconds."""
    kwargs = {**(task.request.kwargs or {}), "tries": tries}
    raise task.retry(kwargs=kwargs, countdown=wait)


def forward(
    task: Task, state: dict[str, Any], tries: int, service: str, endpoint: str, data: dict[str, Any]
) -> dict[str, Any]:
    """Take a step forward and return its decision: `ok`, `data`, `error`, `unknown`.

    `unknown` says that the work may have been done all the same, so that it has to be undone.
    """
    order_id, step = state["order"]["order_id"], task.name.rpartition(".")[2]
    journal = Journal(order_id)
    if (decided := journal.decision(step)) is not None:
        return decided
    response = attempt(task, order_id, tries, service, endpoint, data)
    decision = {
        "ok": response.success,
        "data": response.data if response.success else None,
        "error": response.error,
        "unknown": response.transient,
    }
    return journal.decide(step, decision)


# -------------------------------------------------------------------------------- the steps forward


@app.task(bind=True)
def process_order(self, order):
    """Take an order; the task is replaced by the workflow, whose result becomes its own."""
    data = OrderData.read(order)
    journal = Journal(data.order_id)
    if (outcome := journal.decision("outcome")) is not None:
        return outcome
    if not journal.claim(self.request.id):
        # The same order is on its way already. Its end will be ours too.
        raise self.retry(countdown=min(0.5 * 1.5**self.request.retries, 5))
    validations = [
        validate_user_info.s(order),
        check_inventory.s(order),
        validate_payment_method.s(order),
    ]
    raise self.replace(
        chord(validations, assess.s(order))
        | process_payment.s()
        | update_inventory.s()
        | create_order_record.s()
        | settle.s()
    )


@app.task(bind=True)
def validate_user_info(self, order, tries=1):
    """Ask whether the user may order; return the objection, None for none."""
    endpoint = f"users/{order['user_id']}/validate"
    data = {"shipping_address": order["shipping_address"]}
    response = attempt(self, order["order_id"], tries, "user_service", endpoint, data)
    return objection("user", response, lambda body: body["valid"], lambda body: body["error"])


@app.task(bind=True)
def check_inventory(self, order, tries=1):
    """Ask whether everything is there; return the objection, None for none."""
    data = {"items": order["items"]}
    response = attempt(self, order["order_id"], tries, "inventory_service", "check", data)
    return objection(
        "inventory",
        response,
        lambda body: body["all_available"],
        lambda body: f"not available: {', '.join(body['unavailable_items'])}",
    )


@app.task(bind=True)
def validate_payment_method(self, order, tries=1):
    """Ask whether the method can pay the amount; return the objection, None for none."""
    data = {"method": order["payment_method"], "amount": order["total_amount"]}
    response = attempt(self, order["order_id"], tries, "payment_service", "validate", data)
    return objection("payment", response, lambda body: body["valid"], lambda body: body["error"])


def objection(name, response, fine, reason):
    """Return what a validation says against the order, None for nothing."""
    if not response.success:
        return f"{name}: {response.error}"
    return None if fine(response.data) else f"{name}: {reason(response.data)}"


@app.task
def assess(objections, order):
    """Begin the order's state with what the validations said.

    From here on a state travels from task to task. Once it has an `error`, the steps forward pass
    it on as it is: no exception, so no errback, and the last task of the chain always runs and
    gives the workflow its result.
    """
    # Journalled like a step: validations that are repeated after a crash may see other stock.
    said = {"error": "; ".join(filter(None, objections)) or None}
    decided = Journal(order["order_id"]).decide("assess", said)
    return {"order": order, "error": decided["error"], "undo": []}


@app.task(bind=True)
def process_payment(self, state, tries=1):
    """Charge the order."""
    if state["error"]:
        return state
    order = state["order"]
    data = {
        "order_id": order["order_id"],
        "amount": order["total_amount"],
        "method": order["payment_method"],
        "user_id": order["user_id"],
    }
    step = forward(self, state, tries, "payment_service", "process", data)
    state = after_step(state, step, "payment", undo="refund")
    return {**state, "transaction_id": step["data"]["transaction_id"]} if step["ok"] else state


@app.task(bind=True)
def update_inventory(self, state, tries=1):
    """Take the items off the shelf."""
    if state["error"]:
        return state
    order = state["order"]
    data = {"order_id": order["order_id"], "items": order["items"]}
    step = forward(self, state, tries, "inventory_service", "update", data)
    return after_step(state, step, "inventory", undo="release")


@app.task(bind=True)
def create_order_record(self, state, tries=1):
    """Write the record of the completed order."""
    if state["error"]:
        return state
    order = state["order"]
    data = {
        "order_id": order["order_id"],
        "order_data": order,
        "transaction_id": state["transaction_id"],
    }
    step = forward(self, state, tries, "order_service", "create", data)
    state = after_step(state, step, "order record", undo=None)
    return {**state, "record_id": step["data"]["record_id"]} if step["ok"] else state


def after_step(state, step, name, undo):
    """Return the state after a step: what has to be undone if the order fails, and the error."""
    state = dict(state)
    if undo and (step["ok"] or step["unknown"]):
        state["undo"] = [*state["undo"], undo]
    if not step["ok"]:
        state["error"] = f"{name}: {step['error']}"
    return state


# ----------------------------------------------------------------------------------- the steps back


@app.task(bind=True)
def settle(self, state):
    """Conclude an order that went well; have one that did not undone first."""
    if not state["error"]:
        raise self.replace(conclude.s(state))
    # The record first: it closes the order, so that no late call can complete it.
    back = [mark_order_failed.s(state)]
    back += [release_inventory.s()] if "release" in state["undo"] else []
    back += [refund_payment.s()] if "refund" in state["undo"] else []
    raise self.replace(chain(*back, conclude.s()))


@app.task(bind=True)
def mark_order_failed(self, state, tries=1):
    """Record the order as failed."""
    endpoint = f"orders/{state['order']['order_id']}/mark_failed"
    return backward(
        self, state, tries, "order_service", endpoint, {"error_message": state["error"]}
    )


@app.task(bind=True)
def release_inventory(self, state, tries=1):
    """Give back what the order holds of the stock."""
    data = {"order_id": state["order"]["order_id"]}
    return backward(self, state, tries, "inventory_service", "release", data)


@app.task(bind=True)
def refund_payment(self, state, tries=1):
    """Give the money back."""
    # By order, not by transaction: the answer that named the transaction may be the one that was
    # lost. An order that was never charged is refunded nothing.
    data = {"order_id": state["order"]["order_id"], "transaction_id": None}
    return backward(self, state, tries, "payment_service", "refund", data)


def backward(task, state, tries, service, endpoint, data):
    """Undo something: it is tried until it is done, and never gives up quietly."""
    order_id = state["order"]["order_id"]
    response = attempt(task, order_id, tries, service, endpoint, data, most=BACKWARD_TRIES)
    if not response.success:
        # For a person to look at; the other steps back still run.
        MEMORY.rpush("orders:stuck", json.dumps([order_id, task.name, response.error]))
        log.error("[order-%s] %s could not be undone: %s", order_id, task.name, response.error)
    return state


# ------------------------------------------------------------------------------------------ the end


@app.task
def conclude(state):
    """Write the outcome down, tell whom it concerns, and return it: the workflow's result."""
    order = state["order"]
    failed = bool(state["error"])
    outcome = {
        "order_id": order["order_id"],
        "status": "failed" if failed else "completed",
        "transaction_id": state.get("transaction_id"),
        "order_record_id": None if failed else state["record_id"],
        "processed_at": time.time(),
        "error": state["error"],
    }
    outcome = Journal(order["order_id"]).decide("outcome", outcome)
    # Sent after the outcome is written: a crash in between runs this task again, and the keys keep
    # the second notice from going out. Nobody waits for these tasks, so they can't fail the order.
    if failed:
        send_error_notification.delay(order, outcome["error"])
    else:
        send_order_confirmation.delay(order, outcome)
    update_analytics.delay(f"order_{outcome['status']}", order)
    return outcome


@app.task(bind=True, ignore_result=True)
def send_order_confirmation(self, order, outcome, tries=1):
    """Tell the customer that the order went through."""
    tell(self, order, tries, "order_confirmation", record=outcome["order_record_id"])


@app.task(bind=True, ignore_result=True)
def send_error_notification(self, order, error, tries=1):
    """Tell the customer that the order failed."""
    tell(self, order, tries, "order_failed", error=error)


def tell(task, order, tries, kind, **details):
    """Send a notice about an order."""
    data = {
        "user_id": order["user_id"],
        "type": kind,
        "data": {"order_id": order["order_id"], **details},
    }
    attempt(task, order["order_id"], tries, "notification_service", "send", data)


@app.task(bind=True, ignore_result=True)
def update_analytics(self, event, order, tries=1):
    """Count the order."""
    data = {
        "event_type": event,
        "data": {"order_id": order["order_id"], "items": len(order["items"])},
    }
    attempt(self, order["order_id"], tries, "analytics_service", "track", data)


# -------------------------------------------------------------------------------- beside the orders


@app.task
def microservices_health_check():
    """Ask all six services at once how they are."""
    # Threads, because asking is waiting: the slowest service alone decides how long it takes.
    with ThreadPoolExecutor(len(SERVICES)) as pool:
        services = dict(zip(SERVICES, pool.map(health, SERVICES), strict=True))
    healthy = sum(each["status"] == "healthy" for each in services.values())
    overall = "healthy" if healthy == len(services) else "partial" if healthy else "unhealthy"
    return {
        "overall_status": overall,
        "healthy_services": healthy,
        "total_services": len(services),
        "services": services,
    }


def health(service):
    """Return one service's part of the health report."""
    # Past the breaker: how the service is, is what is asked here.
    response = ServiceCommunicator.call_service(service, "health", method="GET", guarded=False)
    return {
        "status": "healthy" if response.success else "unhealthy",
        "response_time": round(response.response_time, 4),
        "error": response.error,
    }


@app.task
def order_trace(order_id):
    """Return what was done for an order, each step with its time (epoch seconds)."""
    lines = [json.loads(line) for line in MEMORY.lrange(Journal(order_id).steps, 0, -1)]
    # Steps that run beside each other may be written down in another order than they ended in.
    return sorted(lines, key=lambda line: line["at"])

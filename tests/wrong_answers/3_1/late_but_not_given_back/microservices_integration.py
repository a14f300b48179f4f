"""Late acknowledgement alone: the task of a killed process fails instead of going back."""

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


app = Celery(
    "microservices_integration",
    broker="redis://127.0.0.1:6379/0",
    backend="redis://127.0.0.1:6379/1",
    task_cls=Patient,
)
app.conf.update(
    task_acks_late=True,
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


def two_decimals(amount: float) -> float:
    """Refuse an amount that is no whole number of cents."""
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

    A failure is `transient` when the outcome is unknown or may be another next time.
    """

    service: str
    success: bool
    data: dict[str, Any] | None = None
    error: str | None = None
    response_time: float = 0.0
    transient: bool = False


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
    ) -> ServiceResponse:
        """Call one endpoint of a service, once.

        Args:
            key: the Idempotency-Key of a write.
            correlation: the X-Correlation-ID, the same in all that belongs to one order.
        """
        if service not in SERVICES:
            return ServiceResponse(service=service, success=False, error="unknown service")
        url = f"{SERVICES[service]}/{endpoint.lstrip('/')}"
        headers = {"Idempotency-Key": key, "X-Correlation-ID": correlation}
        began = time.monotonic()
        response = cls._exchange(service, url, data, method.upper(), headers)
        response.response_time = time.monotonic() - began
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
            transient=answer.ok or code >= 500 or code in (408, 429),
        )


class Journal:
    """What was decided about one order, in Redis. The first decision stands.

    A redelivered task may come to another conclusion than the run before it: that one gave up on
    the charge, this one gets through. Both adopt what was written first: an order takes one road.
    """

    def __init__(self, order_id: str) -> None:
        self.id = order_id
        self.row = f"order:{order_id}"

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
    key = f"{order_id}:{name}"
    response = ServiceCommunicator.call_service(
        service, endpoint, data, key=key, correlation=f"order-{order_id}"
    )
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


@app.task(bind=True)
def process_order(self, order):
    """Take an order; the task is replaced by the workflow, whose result becomes its own."""
    data = OrderData.read(order)
    journal = Journal(data.order_id)
    if (outcome := journal.decision("outcome")) is not None:
        return outcome
    if not journal.claim(self.request.id):
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


@app.task(bind=True)
def settle(self, state):
    """Conclude an order that went well; have one that did not undone first."""
    if not state["error"]:
        raise self.replace(conclude.s(state))
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
    data = {"order_id": state["order"]["order_id"], "transaction_id": None}
    return backward(self, state, tries, "payment_service", "refund", data)


def backward(task, state, tries, service, endpoint, data):
    """Undo something: it is tried until it is done, and never gives up quietly."""
    order_id = state["order"]["order_id"]
    response = attempt(task, order_id, tries, service, endpoint, data, most=BACKWARD_TRIES)
    if not response.success:
        MEMORY.rpush("orders:stuck", json.dumps([order_id, task.name, response.error]))
        log.error("[order-%s] %s could not be undone: %s", order_id, task.name, response.error)
    return state


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


@app.task
def microservices_health_check():
    """Ask all six services at once how they are."""
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
    response = ServiceCommunicator.call_service(service, "health", method="GET")
    return {
        "status": "healthy" if response.success else "unhealthy",
        "response_time": round(response.response_time, 4),
        "error": response.error,
    }

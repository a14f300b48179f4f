"""Orders over six services, replayed.

`saga` is the whole workflow, as one generator that does nothing itself: it asks for steps and is sent what
came of them. `advance` plays it from the beginning with what the journal in Redis knows, sends the steps
that nobody has sent, and ends. Each step writes into the journal and has the saga advanced. At the end the
parked `process_order` messages are sent again under their old ids, and find the outcome.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from decimal import Decimal, InvalidOperation
from hashlib import sha1
from typing import Any
from urllib.parse import quote, urlsplit

import redis
from celery import Celery
from celery.exceptions import Ignore
from celery.utils.log import get_task_logger
from kombu import Exchange, Queue

logger = get_task_logger(__name__)

app = Celery(
    "microservices_integration",
    broker="redis://127.0.0.1:6379/0",
    backend="redis://127.0.0.1:6379/1",
    set_as_current=True,
)
main_exchange = Exchange("celery", type="direct")
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
    # What has to be undone doesn't stand in line behind new orders.
    task_queues=(
        Queue("celery", main_exchange, routing_key="celery"),
        Queue("compensations", main_exchange, routing_key="compensations"),
    ),
    task_default_queue="celery",
    task_default_exchange="celery",
    task_default_routing_key="celery",
    task_routes={
        f"microservices_integration.{name}": {
            "queue": "compensations",
            "routing_key": "compensations",
        }
        for name in (
            "refund_payment",
            "release_inventory",
            "mark_order_failed",
            "send_error_notification",
        )
    },
)

SERVICES = {
    "user_service": os.environ.get("USER_SERVICE_URL", "http://127.0.0.1:8001"),
    "order_service": os.environ.get("ORDER_SERVICE_URL", "http://127.0.0.1:8002"),
    "payment_service": os.environ.get("PAYMENT_SERVICE_URL", "http://127.0.0.1:8003"),
    "notification_service": os.environ.get("NOTIFICATION_SERVICE_URL", "http://127.0.0.1:8004"),
    "inventory_service": os.environ.get("INVENTORY_SERVICE_URL", "http://127.0.0.1:8005"),
    "analytics_service": os.environ.get("ANALYTICS_SERVICE_URL", "http://127.0.0.1:8006"),
}
SERVICE_TIMEOUT = float(os.environ.get("SERVICE_TIMEOUT", "5"))
REDIS_URL = os.environ.get("LAB_REDIS_URL") or os.environ.get(
    "CELERY_RESULT_BACKEND", "redis://127.0.0.1:6379/1"
)
REDIS = redis.Redis.from_url(REDIS_URL, decode_responses=True)  # connects when it is first used

FORWARD_TRIES, COMPENSATION_TRIES = 6, 60


# --- data ------------------------------------------------------------------------------


def is_money(value: Any) -> bool:
    """Whether it is a number of at most 2 decimals, above 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return value > 0 and Decimal(str(value)).quantize(Decimal("0.01")) == Decimal(str(value))
    except InvalidOperation:  # nan, inf, and what is no money either
        return False


def is_line(line: Any) -> bool:
    """Whether it is one line of an order."""
    if not isinstance(line, dict):
        return False
    quantity, price = line.get("quantity"), line.get("price")
    return (
        isinstance(line.get("id"), str)
        and isinstance(line.get("name"), str)
        and isinstance(quantity, int)
        and not isinstance(quantity, bool)
        and quantity > 0
        and isinstance(price, (int, float))
        and not isinstance(price, bool)
    )


@dataclass
class OrderData:
    """An order, validated."""

    order_id: str
    user_id: str
    items: list[dict[str, Any]]
    total_amount: float
    payment_method: str
    shipping_address: dict[str, Any] | None

    def __post_init__(self):
        problems = [
            name
            for name in ("order_id", "user_id", "payment_method")
            if not isinstance(getattr(self, name), str)
        ]
        if not isinstance(self.items, list) or not self.items or not all(map(is_line, self.items)):
            problems.append("items")
        if not is_money(self.total_amount):
            problems.append("total_amount")
        if not isinstance(self.shipping_address, (dict, type(None))):
            problems.append("shipping_address")
        if problems:
            raise ValueError("malformed: " + ", ".join(problems))

    @classmethod
    def load(cls, order: Any) -> OrderData:
        try:
            return cls(**{field.name: order[field.name] for field in fields(cls)})
        except (KeyError, TypeError, IndexError):
            raise ValueError("an order is an object with all six fields") from None

    def wanted(self):
        return [{"id": line["id"], "quantity": line["quantity"]} for line in self.items]


@dataclass
class ServiceResponse:
    """What came of one call; `response_time` in seconds. `status` is 0 if there was no answer."""

    service: str
    success: bool = False
    data: Any = None
    error: str | None = None
    response_time: float = 0.0
    status: int = 0

    @property
    def transient(self):
        """Whether it may be otherwise the next time."""
        if self.success:
            return False
        return self.status in (408, 429) or not 400 <= self.status < 500


async def request(service, endpoint, data, method, headers):
    """Make one request over a connection of its own, in HTTP 1.0: the end of the answer is its end."""
    response = ServiceResponse(service)
    began = time.monotonic()
    writer = None

    async def talk():
        nonlocal writer
        url = urlsplit(SERVICES[service])
        reader, writer = await asyncio.open_connection(url.hostname, url.port or 80)
        body = b"" if data is None and method != "POST" else json.dumps(data or {}).encode()
        lines = [
            f"{method} {url.path.rstrip('/')}/{endpoint.lstrip('/')} HTTP/1.0",
            f"Host: {url.netloc}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        writer.write("\r\n".join(lines).encode("ascii") + b"\r\n\r\n" + body)
        await writer.drain()
        head, gap, content = (await reader.read(-1)).partition(b"\r\n\r\n")
        first, *rest = head.decode("latin-1").split("\r\n")
        if not gap or not first.startswith("HTTP/"):
            raise ConnectionError("no answer")
        told = dict(line.lower().split(":", 1) for line in rest)
        if int(told.get("content-length", len(content))) != len(content):
            raise ConnectionError("half an answer")
        return int(first.split()[1]), content

    try:
        status, content = await asyncio.wait_for(talk(), SERVICE_TIMEOUT)
        response.status = status
        response.data = json.loads(content)
        if not isinstance(response.data, dict):
            raise ValueError("not a JSON object")
        response.success = 200 <= status < 300
        if not response.success:
            response.error = (
                f"{status} {response.data.get('error')}: {response.data.get('message')}"
            )
    except TimeoutError:
        response.error = f"no answer within {SERVICE_TIMEOUT} seconds"
    except Exception as problem:
        response.error = f"{response.status or 'no status'} {type(problem).__name__}: {problem}"
    finally:
        if writer is not None:
            writer.close()
    response.response_time = time.monotonic() - began
    return response


def run_async(make):
    """Run a coroutine to its end, also where a loop is running already."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.run(make())).result()


class ServiceCommunicator:
    """Calls services; whatever goes wrong comes back as a response."""

    @staticmethod
    def call_service(service, endpoint, data=None, method="POST", **headers) -> ServiceResponse:
        """Make one request; keywords are headers, `idempotency_key` being `Idempotency-Key`."""
        named = {name.replace("_", "-").title(): value for name, value in headers.items()}
        return run_async(lambda: request(service, endpoint, data, method, named))


# --- the saga --------------------------------------------------------------------------


@dataclass
class Meanwhile:
    """Steps that are sent, and not waited for."""

    steps: tuple[str, ...]


def saga():
    """Yield the steps of an order, be sent what came of them, return how it ended."""
    verdicts = yield "validate_user_info", "check_inventory", "validate_payment_method"
    errors = [verdict["error"] for verdict in verdicts if verdict["error"]]
    undo, charge, record = [], {}, {}
    if not errors:
        undo.append("refund_payment")
        (charge,) = yield ("process_payment",)
        errors += filter(None, [charge["error"]])
    if not errors:
        undo.append("release_inventory")
        (stock,) = yield ("update_inventory",)
        errors += filter(None, [stock["error"]])
    if not errors:
        (record,) = yield ("create_order_record",)
        errors += filter(None, [record["error"]])
    error = "; ".join(errors) or None
    if error:
        yield Meanwhile(("send_error_notification",))
        yield (*undo, "mark_order_failed")
    else:
        yield Meanwhile(("send_order_confirmation", "update_analytics"))
    return {
        "status": "failed" if error else "completed",
        "transaction_id": charge.get("value"),
        "order_record_id": None if error else record["value"],
        "error": error,
    }


STEPS_THAT_DECIDE = (
    "validate_user_info",
    "check_inventory",
    "validate_payment_method",
    "process_payment",
    "update_inventory",
    "create_order_record",
)


def journal(order_id):
    """Return the key of an order's journal."""
    return f"journal:{order_id}"


@app.task(bind=True)
def process_order(self, order):
    """Tell how the order ended; if it hasn't, park until then, and be the one that begins it if none has."""
    data = OrderData.load(order)
    key = journal(data.order_id)
    with REDIS.pipeline(transaction=True) as pipe:
        pipe.hsetnx(key, "order", json.dumps(order))
        pipe.hsetnx(key, "root", self.request.id)
        pipe.sadd(f"{key}:parked", self.request.id)
        pipe.hmget(key, "root", "outcome")
        root, outcome = pipe.execute()[-1]
    if outcome is not None:
        return json.loads(outcome)
    if root == self.request.id:
        advance.delay(data.order_id)
    raise Ignore("parked")


@app.task(bind=True)
def advance(self, order_id):
    """Play the saga as far as it is known, and send what comes next."""
    key = journal(order_id)
    known = REDIS.hgetall(key)
    if "outcome" in known:
        return

    def send(step):
        # Once; but if this very message comes a second time, nobody knows how far it came.
        REDIS.hsetnx(key, f"sent {step}", self.request.id)
        if REDIS.hget(key, f"sent {step}") == self.request.id:
            app.tasks[f"microservices_integration.{step}"].apply_async((order_id,))

    play = saga()
    wanted = next(play)
    while True:
        if isinstance(wanted, Meanwhile):
            for step in wanted.steps:
                send(step)
            results = None
        else:
            missing = [step for step in wanted if step not in known]
            for step in missing:
                send(step)
            if missing:
                return
            results = [json.loads(known[step]) for step in wanted]
        try:
            wanted = play.send(results)
        except StopIteration as end:
            outcome = {"order_id": order_id, **end.value, "processed_at": time.time()}
            break
    with REDIS.pipeline(transaction=True) as pipe:
        pipe.hsetnx(key, "outcome", json.dumps(outcome))
        pipe.smembers(f"{key}:parked")
        parked = pipe.execute()[-1]
    for task_id in parked:
        process_order.apply_async((json.loads(known["order"]),), task_id=task_id)


# --- steps -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Leg:
    """One step: what it asks, and what it takes from the answer."""

    doc: str
    service: str
    endpoint: Any  # text, or a function of the order
    body: Any  # a function of the order and the journal
    word: str
    value: str  # the field that an answer must have
    reason: Any = None  # of a validation: a function of an answer that says no
    write: bool = True
    undo: bool = False
    stubborn: bool = False

    def wait(self, retries):
        """Return how long to wait after so many retries, or None if it is enough."""
        if retries + 1 >= (COMPENSATION_TRIES if self.undo else FORWARD_TRIES):
            return None
        return min(0.4 * 2 ** min(retries, 20), 6.0) if self.undo else 0.4 * 2**retries

    def conclude(self, response):
        """Return what goes into the journal."""
        if not response.success:
            return {"value": None, "error": f"{self.word}: {response.error}"}
        value = response.data[self.value]
        if self.reason is not None and value is not True:
            return {"value": value, "error": f"{self.word}: {self.reason(response.data)}"}
        return {"value": value, "error": None}


def error_text(known):
    """Return why an order failed."""
    found = [json.loads(known[step])["error"] for step in STEPS_THAT_DECIDE if step in known]
    return "; ".join(filter(None, found))


LEGS = {
    "validate_user_info": Leg(
        "Ask for the customer.",
        "user_service",
        lambda order: f"/users/{quote(order.user_id, safe='')}/validate",
        lambda order, known: {"shipping_address": order.shipping_address},
        "user",
        "valid",
        lambda data: data.get("error"),
        write=False,
    ),
    "check_inventory": Leg(
        "Ask for the stock.",
        "inventory_service",
        "/check",
        lambda order, known: {"items": order.wanted()},
        "inventory",
        "all_available",
        lambda data: f"out of stock: {data.get('unavailable_items')}",
        write=False,
    ),
    "validate_payment_method": Leg(
        "Ask for the method.",
        "payment_service",
        "/validate",
        lambda order, known: {"method": order.payment_method, "amount": order.total_amount},
        "payment",
        "valid",
        lambda data: data.get("error"),
        write=False,
    ),
    "process_payment": Leg(
        "Charge.",
        "payment_service",
        "/process",
        lambda order, known: {
            "order_id": order.order_id,
            "amount": order.total_amount,
            "method": order.payment_method,
            "user_id": order.user_id,
        },
        "payment",
        "transaction_id",
    ),
    "update_inventory": Leg(
        "Take the stock.",
        "inventory_service",
        "/update",
        lambda order, known: {"order_id": order.order_id, "items": order.wanted()},
        "inventory",
        "updated_items",
    ),
    "create_order_record": Leg(
        "Write the record.",
        "order_service",
        "/create",
        lambda order, known: {
            "order_id": order.order_id,
            "order_data": json.loads(known["order"]),
            "transaction_id": json.loads(known["process_payment"])["value"],
        },
        "order record",
        "record_id",
    ),
    "send_order_confirmation": Leg(
        "Tell the good news.",
        "notification_service",
        "/send",
        lambda order, known: {
            "user_id": order.user_id,
            "type": "order_confirmation",
            "data": {"order_id": order.order_id},
        },
        "confirmation",
        "notification_id",
    ),
    "update_analytics": Leg(
        "Count.",
        "analytics_service",
        "/track",
        lambda order, known: {
            "event_type": "order_completed",
            "data": {"order_id": order.order_id},
        },
        "analytics",
        "event_id",
        write=False,
    ),
    "refund_payment": Leg(
        "Give back all money.",
        "payment_service",
        "/refund",
        lambda order, known: {"order_id": order.order_id, "transaction_id": None},
        "refund",
        "order_id",
        undo=True,
        stubborn=True,
    ),
    "release_inventory": Leg(
        "Give back all stock.",
        "inventory_service",
        "/release",
        lambda order, known: {"order_id": order.order_id},
        "release",
        "order_id",
        undo=True,
        stubborn=True,
    ),
    "mark_order_failed": Leg(
        "Mark the order.",
        "order_service",
        lambda order: f"/orders/{quote(order.order_id, safe='')}/mark_failed",
        lambda order, known: {"error_message": error_text(known)},
        "mark",
        "order_id",
        undo=True,
        stubborn=True,
    ),
    "send_error_notification": Leg(
        "Tell the bad news.",
        "notification_service",
        "/send",
        lambda order, known: {
            "user_id": order.user_id,
            "type": "order_failed",
            "data": {"order_id": order.order_id, "error": error_text(known)},
        },
        "notice",
        "notification_id",
        undo=True,
    ),
}


def make_task(step, leg):
    """Make a task of a leg."""

    def run(self, order_id):
        key = journal(order_id)
        known = REDIS.hgetall(key)
        if step not in known:
            order = OrderData.load(json.loads(known["order"]))
            headers = {}
            if leg.write:
                headers["idempotency_key"] = sha1(f"{step} {ascii(order_id)}".encode()).hexdigest()
            endpoint = leg.endpoint if isinstance(leg.endpoint, str) else leg.endpoint(order)
            response = ServiceCommunicator.call_service(
                leg.service, endpoint, leg.body(order, known), **headers
            )
            if response.success and leg.value not in response.data:
                response.success, response.status, response.error = False, 0, f"no {leg.value}"
            logger.info("%s of %s: %s", step, order_id, response)
            if response.transient or (leg.stubborn and not response.success):
                wait = leg.wait(self.request.retries)
                if wait is not None:
                    raise self.retry(countdown=wait)
            REDIS.hsetnx(key, step, json.dumps(leg.conclude(response)))
        advance.delay(order_id)

    run.__name__, run.__doc__ = step, leg.doc
    name = f"microservices_integration.{step}"
    return app.task(run, bind=True, name=name, max_retries=None, ignore_result=True)


for _step, _leg in LEGS.items():
    globals()[_step] = make_task(_step, _leg)


# --- health ----------------------------------------------------------------------------


@app.task
def microservices_health_check():
    """Ask the six services at once."""

    async def ask_all():
        return await asyncio.gather(*(request(one, "/health", None, "GET", {}) for one in SERVICES))

    services = {}
    for response in run_async(ask_all):
        if response.success and response.data.get("status") != "ok":
            response.success, response.error = False, f"says {response.data.get('status')!r}"
        services[response.service] = {
            "status": "healthy" if response.success else "unhealthy",
            "response_time": response.response_time if response.success else None,
            "error": response.error,
        }
    healthy = sum(1 for found in services.values() if found["status"] == "healthy")
    return {
        "overall_status": "partial"
        if 0 < healthy < len(services)
        else "healthy"
        if healthy
        else "unhealthy",
        "healthy_services": healthy,
        "total_services": len(services),
        "services": services,
    }

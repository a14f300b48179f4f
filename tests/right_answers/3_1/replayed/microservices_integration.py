"""The workflow is a plain Python generator. ``drive`` replays it from the order's journal, and
replaces itself by the next activity and another ``drive``. A try that failed is not retried by
Celery: the activity replaces itself by a later copy of itself.
"""

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields
from decimal import Decimal
from urllib.parse import quote
from uuid import uuid4

import redis
import requests
from celery import Celery, chain, group, shared_task
from celery.signals import worker_process_init
from celery.utils.log import get_task_logger

logger = get_task_logger("shop")
ME = "microservices_integration"
PEERS = ["user", "order", "payment", "notification", "inventory", "analytics"]


class Settings:
    BROKER_URL = os.environ.get("CELERY_BROKER_URL", "redis://127.0.0.1:6379/0")
    RESULT_BACKEND = os.environ.get("CELERY_RESULT_BACKEND", "redis://127.0.0.1:6379/1")
    TASK_ACKS_LATE = True
    TASK_REJECT_ON_WORKER_LOST = True
    TASK_TRACK_STARTED = True
    WORKER_PREFETCH_MULTIPLIER = 2
    BROKER_CONNECTION_RETRY_ON_STARTUP = True


def create_app() -> Celery:
    made = Celery(ME)
    made.conf.update({k.lower(): v for k, v in vars(Settings).items() if k.isupper()})
    return made


app = create_app()
app.set_default()


def store() -> redis.Redis:
    if store.client is None:
        url = os.environ.get("LAB_REDIS_URL") or Settings.RESULT_BACKEND
        store.client = redis.from_url(url, decode_responses=True)
    return store.client


store.client = None


@worker_process_init.connect
def _own_connection(**_):
    store.client = None


# ---- data


def number(value):
    return isinstance(value, (int, float)) and value == value and abs(value) != float("inf")


@dataclass
class OrderData:
    order_id: str
    user_id: str
    items: list
    total_amount: float
    payment_method: str
    shipping_address: dict | None

    def __post_init__(self):
        for what in ("order_id", "user_id", "payment_method"):
            self._need(isinstance(getattr(self, what), str), what)
        self._need(isinstance(self.shipping_address, (dict, type(None))), "shipping_address")
        self._need(isinstance(self.items, list) and len(self.items) > 0, "items")
        for item in self.items:
            self._need(isinstance(item, dict), "items")
            self._need(isinstance(item.get("id"), str), "items.id")
            self._need(isinstance(item.get("name"), str), "items.name")
            self._need(number(item.get("price")), "items.price")
            quantity = item.get("quantity")
            self._need(isinstance(quantity, int) and quantity >= 1, "items.quantity")
        self._need(number(self.total_amount) and self.total_amount > 0, "total_amount")
        cents = Decimal(str(self.total_amount)) * 100
        self._need(cents == cents.to_integral_value(), "total_amount")

    @staticmethod
    def _need(condition, what):
        if not condition:
            raise ValueError(f"malformed order: {what}")

    @classmethod
    def from_message(cls, raw):
        cls._need(isinstance(raw, dict), "no object")
        names = [f.name for f in fields(cls)]
        for name in names:
            cls._need(name in raw, f"{name} is missing")
        return cls(**{name: raw[name] for name in names})


@dataclass
class ServiceResponse:
    success: bool
    data: dict | None = None
    error: str | None = None
    response_time: float = 0.0
    code: int = 0
    settled: bool = field(default=False, repr=False)


class ServiceCommunicator:
    @staticmethod
    def call_service(service, endpoint, data=None, method="POST", **headers):
        start = time.time()
        r = ServiceResponse(False)
        try:
            if service not in [f"{p}_service" for p in PEERS]:
                raise LookupError(f"unknown service: {service}")
            url = os.environ[f"{service.upper()}_URL"].rstrip("/") + "/" + endpoint.lstrip("/")
            wait = float(os.environ.get("SERVICE_TIMEOUT", 5))
            send = {} if data is None else {"json": data}
            reply = requests.request(
                method,
                url,
                timeout=wait,
                headers={k.replace("_", "-"): v for k, v in headers.items()},
                **send,
            )
            r.code = reply.status_code
            try:
                r.data = reply.json()
            except ValueError:
                r.data = None
            if not isinstance(r.data, dict):
                r.data = None
            r.success = 200 <= r.code < 300 and r.data is not None
            r.settled = r.success or (400 <= r.code < 500 and r.code not in (408, 429))
            if not r.success:
                said = r.data or {}
                r.error = said.get("error") or said.get("message") or f"HTTP {r.code}, no JSON"
        except Exception as oops:
            r.error = f"{type(oops).__name__}: {oops}"
        r.response_time = max(time.time() - start, 0.0)
        return r


# ---- journal: what happened to an order, once and for all


class Journal:
    def __init__(self, order_id):
        self.key = f"journal/{order_id}"

    def get(self, entry):
        text = store().hget(self.key, entry)
        return text and json.loads(text)

    def put(self, entry, value):
        store().hsetnx(self.key, entry, json.dumps(value))
        return self.get(entry)

    def secret(self, entry):
        """A random text that stays the same."""
        return self.put(entry, uuid4().hex)

    def tick(self, entry):
        return store().hincrby(self.key, entry, 1)

    def trace(self, step):
        store().rpush(self.key + "/trace", json.dumps({"step": step, "at": time.time()}))


# ---- circuit breaker and rate, for all processes


def guard(service):
    """None: go on; "trial": go on, all depends on it; a number: not for so many seconds."""
    with store().lock(f"guard/{service}", timeout=3):
        state = store().hgetall(f"breaker/{service}")
        if int(state.get("failures", 0)) < 5:
            return None
        now = time.time()
        until = max(float(state["open_until"]), float(state.get("trial_until", 0)))
        if now < until:
            return min(until - now, 10.0)
        lease = now + float(os.environ.get("SERVICE_TIMEOUT", 5)) + 3
        store().hset(f"breaker/{service}", "trial_until", lease)
        return "trial"


def unguard(service, ticket, answered):
    with store().lock(f"guard/{service}", timeout=3):
        key = f"breaker/{service}"
        failures = int(store().hget(key, "failures") or 0)
        if ticket is None and failures >= 5:
            return
        if answered:
            store().delete(key)
            return
        store().hset(key, "failures", failures + 1)
        if failures + 1 >= 5:
            store().hset(key, mapping={"open_until": time.time() + 10.1, "trial_until": 0})


def payment_slot():
    rate = float(os.environ.get("PAYMENT_RATE_LIMIT") or 0)
    if rate <= 0:
        return 0
    with store().lock("guard/slot", timeout=3):
        now, free = time.time(), float(store().get("slot") or 0)
        if now < free:
            return free - now
        store().set("slot", now + 1.1 / rate)
        return 0


# ---- activities: each is one call


def activity(service, tries=4, longest=4.0):
    def wrap(describe):
        name = describe.__name__

        def run(self, order):
            data = OrderData(**order)
            journal = Journal(data.order_id)
            if journal.get(name):
                return
            later = self.si(order)
            if service == "payment_service" and (wait := payment_slot()):
                raise self.replace(later.set(countdown=wait + 0.7 * int(uuid4().hex[:2], 16) / 255))
            ticket = guard(service)
            if isinstance(ticket, float):
                if time.time() - journal.put(name + "/blocked", time.time()) < 15 * tries:
                    raise self.replace(later.set(countdown=ticket + 0.2))
                journal.put(name, {"ok": False, "why": "circuit open", "data": None})
                return
            journal.trace(name)
            endpoint, body = describe(data, journal)
            correlation = journal.secret("correlation")
            logger.info("-> %s %s correlation=%s", service, endpoint, correlation)
            answer = ServiceCommunicator.call_service(
                service,
                endpoint,
                body,
                X_Correlation_ID=correlation,
                Idempotency_Key=journal.secret("key/" + name),
            )
            logger.info("<- %s %s correlation=%s", service, answer.code, correlation)
            unguard(service, ticket, answer.settled)
            if not answer.settled:
                failed = journal.tick(name + "/failed")
                if failed < tries:
                    wait = min(0.4 * 2.2 ** (failed - 1), longest)
                    raise self.replace(later.set(countdown=wait))
            said = {"ok": answer.success, "why": answer.error, "data": answer.data}
            journal.put(name, said)

        run.__name__ = name
        return shared_task(run, bind=True, name=f"{ME}.{name}", ignore_result=False)

    return wrap


def compensation(service):
    return activity(service, tries=30, longest=6.0)


@activity("user_service")
def validate_user_info(order, journal):
    where = f"/users/{quote(order.user_id, safe='')}/validate"
    return where, {"shipping_address": order.shipping_address}


@activity("inventory_service")
def check_inventory(order, journal):
    return "/check", {"items": order.items}


@activity("payment_service")
def validate_payment_method(order, journal):
    return "/validate", {"method": order.payment_method, "amount": order.total_amount}


@activity("payment_service")
def process_payment(order, journal):
    return "/process", {
        "order_id": order.order_id,
        "amount": order.total_amount,
        "method": order.payment_method,
        "user_id": order.user_id,
    }


@activity("inventory_service")
def reserve_stock(order, journal):
    return "/reserve", {"order_id": order.order_id, "items": order.items}


@activity("inventory_service")
def update_inventory(order, journal):
    return "/update", {"order_id": order.order_id, "items": order.items}


@activity("order_service")
def create_order_record(order, journal):
    paid = journal.get("process_payment")["data"]["transaction_id"]
    return "/create", {
        "order_id": order.order_id,
        "order_data": asdict(order),
        "transaction_id": paid,
    }


@activity("notification_service")
def send_order_confirmation(order, journal):
    about = {"order_id": order.order_id, "amount": order.total_amount}
    return "/send", {"user_id": order.user_id, "type": "order_confirmation", "data": about}


@activity("analytics_service")
def update_analytics(order, journal):
    return "/track", {"event_type": "order_completed", "data": {"order_id": order.order_id}}


@compensation("payment_service")
def refund_payment(order, journal):
    return "/refund", {"order_id": order.order_id, "transaction_id": None}


@compensation("inventory_service")
def release_inventory(order, journal):
    return "/release", {"order_id": order.order_id}


@compensation("order_service")
def mark_order_failed(order, journal):
    where = f"/orders/{quote(order.order_id, safe='')}/mark_failed"
    return where, {"error_message": journal.get("problem")}


@compensation("notification_service")
def send_error_notification(order, journal):
    about = {"order_id": order.order_id, "error": journal.get("problem")}
    return "/send", {"user_id": order.user_id, "type": "order_failed", "data": about}


# ---- the workflow


def said_no(outcome, good, reason):
    if not outcome["ok"]:
        return outcome["why"]
    if outcome["data"].get(good) is True:
        return None
    return outcome["data"].get(reason) or "refused"


def saga(order):
    """Yields the activities that come next, all at once; is sent their outcomes."""
    user, stock, card = yield validate_user_info, check_inventory, validate_payment_method
    reasons = {
        "user": said_no(user, "valid", "error"),
        "inventory": said_no(stock, "all_available", "unavailable_items"),
        "payment": said_no(card, "valid", "error"),
    }
    problem = " / ".join(f"{word} {why}" for word, why in reasons.items() if why)
    charge = record = None
    if not problem:
        (charge,) = yield (process_payment,)
        if not charge["ok"]:
            problem = f"payment {charge['why']}"
    if not problem:
        for step in (reserve_stock, update_inventory):
            (moved,) = yield (step,)
            if not moved["ok"]:
                problem = f"inventory {moved['why']}"
                break
    if not problem:
        (record,) = yield (create_order_record,)
        if not record["ok"]:
            problem = f"record {record['why']}"
    if problem:
        Journal(order.order_id).put("problem", problem)
        # all at once: one that takes long does not keep the others waiting
        yield (
            refund_payment,
            release_inventory,
            mark_order_failed,
            send_error_notification,
        )
    else:
        yield send_order_confirmation, update_analytics
    return {
        "order_id": order.order_id,
        "status": "failed" if problem else "completed",
        "transaction_id": ((charge or {}).get("data") or {}).get("transaction_id"),
        "order_record_id": None if problem else record["data"]["record_id"],
        "processed_at": time.time(),
        "error": problem or None,
    }


@shared_task(bind=True, name=f"{ME}.drive")
def drive(self, order):
    data = OrderData(**order)
    journal = Journal(data.order_id)
    play = saga(data)
    outcomes = None
    while True:
        try:
            wanted = play.send(outcomes)
        except StopIteration as end:
            return journal.put("result", end.value)
        names = [task.name.rpartition(".")[2] for task in wanted]
        outcomes = [journal.get(name) for name in names]
        if None in outcomes:
            break
    todo = [task.si(order) for task, done in zip(wanted, outcomes) if done is None]
    first = group(todo) if len(todo) > 1 else todo[0]
    raise self.replace(chain(first, drive.si(order)))


@shared_task(bind=True, name=f"{ME}.process_order")
def process_order(self, order):
    data = OrderData.from_message(order)
    raise self.replace(drive.si(asdict(data)))


@shared_task(name=f"{ME}.order_trace")
def order_trace(order_id):
    steps = [json.loads(s) for s in store().lrange(f"journal/{order_id}/trace", 0, -1)]
    return sorted(steps, key=lambda s: s["at"])


@shared_task(name=f"{ME}.microservices_health_check")
def microservices_health_check():
    names = [f"{peer}_service" for peer in PEERS]
    with ThreadPoolExecutor(len(names)) as pool:
        seen = list(
            pool.map(lambda n: ServiceCommunicator.call_service(n, "health", method="GET"), names)
        )
    good = sum(r.success for r in seen)
    return {
        "overall_status": "healthy" if good == len(names) else "partial" if good else "unhealthy",
        "healthy_services": good,
        "total_services": len(names),
        "services": {
            name: {
                "status": "healthy" if r.success else "unhealthy",
                "response_time": r.response_time if r.success else None,
                "error": r.error,
            }
            for name, r in zip(names, seen)
        },
    }

"""Orders as a choreography: each step writes its conclusion down and rings the next one.

No canvas and no retry(): the next step, and the next try, are messages of their own. process_order
is not replaced but ignored, and sent again under the same id when there is an outcome. The
outcome is told before the notices and the compensations have run.
"""

import random
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

from celery import Celery
from celery.exceptions import Ignore

from .config import BACKEND, BROKER, URLS
from .guard import in_turn, may_call, tell
from .http import ServiceCommunicator, ServiceResponse
from .order import OrderData
from .saga import Saga

app = Celery("microservices_integration", broker=BROKER, backend=BACKEND)
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
)

FORWARD = (0.4, 0.8, 1.6, 3.2)
BACKWARD = (0.5, 1, 2, 4, 8, 15, 20, 25, 30, 30)
CHECKS = ("validate_user_info", "check_inventory", "validate_payment_method")
WORD = {
    "validate_user_info": "user",
    "check_inventory": "inventory",
    "validate_payment_method": "payment",
}


def task(func):
    return app.task(bind=True, name="microservices_integration." + func.__name__)(func)


def ring(name, order_id, attempt=0, countdown=None):
    app.tasks["microservices_integration." + name].apply_async(
        (order_id, attempt), countdown=countdown
    )


def step(service, path, body, waits=FORWARD, write=True, good=lambda d: True):
    """Make a task of a function that says where the order goes from a conclusion."""

    def build(func):
        name = func.__name__

        def run(self, order_id, attempt=0):
            saga = Saga(order_id)
            saga.note(name)
            end = saga.get(name)
            if end is None:
                o = saga.order
                closed = may_call(service)
                if closed and not in_turn(service):
                    ring(name, order_id, attempt, random.uniform(0.5, 2))
                    return
                if closed:
                    res = ServiceCommunicator.call_service(
                        service,
                        path(o),
                        body(o, saga),
                        idempotency_key=saga.key(name) if write else "",
                        correlation=saga.token,
                    )
                    tell(service, res.final)
                else:
                    res = ServiceResponse(service, False, error="circuit_open")
                if res.success and not good(res.data):
                    res.success, res.error, res.code = False, "a field is missing in the answer", 0
                if not res.final and attempt < len(waits):
                    ring(name, order_id, attempt + 1, waits[attempt])
                    return
                end = saga.once(
                    name,
                    {"ok": res.success, "data": res.data, "error": res.error, "sure": res.final},
                )
            saga.me = self.request.id
            func(saga, end)

        run.__name__ = name
        return task(run)

    return build


def fail(saga, reason, *compensations):
    saga.once("fate", {"status": "failed", "error": reason})
    for c in (*compensations, "mark_order_failed", "send_error_notification"):
        ring(c, saga.id)
    close(saga)


def close(saga):
    fate = saga.get("fate")
    paid = saga.get("process_payment") or {}
    record = saga.get("create_order_record") or {}
    done = fate["status"] == "completed"
    saga.once(
        "outcome",
        {
            "order_id": saga.id,
            "status": fate["status"],
            "transaction_id": paid["data"]["transaction_id"] if paid.get("ok") else None,
            "order_record_id": record["data"]["record_id"] if done else None,
            "processed_at": time.time(),
            "error": fate["error"],
        },
    )
    for task_id in saga.waiting():
        process_order.apply_async((saga.order,), task_id=task_id)


@task
def process_order(self, order):
    data = OrderData.read(order)
    saga = Saga(data.order_id)
    saga.once("order", order)
    saga.wait_for_end(self.request.id)
    outcome = saga.get("outcome")
    if outcome:
        return outcome
    if saga.once("owner", self.request.id) == self.request.id:
        for c in CHECKS:
            ring(c, saga.id)
    raise Ignore()


def joined(saga, _end=None):
    """The validation that finds all three concluded goes on."""
    ends = {c: saga.get(c) for c in CHECKS}
    if not all(ends.values()) or saga.once("join", saga.me) != saga.me:
        return
    bad = [f"{WORD[c]}: {why}" for c, e in ends.items() if (why := verdict(e))]
    if bad:
        fail(saga, "; ".join(bad))
    else:
        ring("process_payment", saga.id)


def verdict(end):
    if not end["ok"]:
        return end["error"]
    d = end["data"]
    if d.get("valid") or d.get("all_available"):
        return None
    if d.get("unavailable_items"):
        return "unavailable " + ", ".join(map(str, d["unavailable_items"]))
    return d.get("error") or "refused"


@step(
    "user_service",
    lambda o: f"users/{quote(o['user_id'], safe='')}/validate",
    lambda o, s: {"shipping_address": o["shipping_address"]},
    write=False,
    good=lambda d: "valid" in d,
)
def validate_user_info(saga, end):
    joined(saga)


@step(
    "inventory_service",
    lambda o: "check",
    lambda o, s: {"items": o["items"]},
    write=False,
    good=lambda d: "all_available" in d,
)
def check_inventory(saga, end):
    joined(saga)


@step(
    "payment_service",
    lambda o: "validate",
    lambda o, s: {"method": o["payment_method"], "amount": o["total_amount"]},
    write=False,
    good=lambda d: "valid" in d,
)
def validate_payment_method(saga, end):
    joined(saga)


@step(
    "payment_service",
    lambda o: "process",
    lambda o, s: {
        "order_id": s.id,
        "amount": o["total_amount"],
        "method": o["payment_method"],
        "user_id": o["user_id"],
    },
    good=lambda d: d.get("transaction_id"),
)
def process_payment(saga, end):
    if end["ok"]:
        ring("update_inventory", saga.id)
    else:
        fail(saga, "payment failed: " + end["error"], "refund_payment")


@step("inventory_service", lambda o: "update", lambda o, s: {"order_id": s.id, "items": o["items"]})
def update_inventory(saga, end):
    if end["ok"]:
        ring("create_order_record", saga.id)
    else:
        fail(saga, "inventory failed: " + end["error"], "refund_payment", "release_stock")


@step(
    "order_service",
    lambda o: "create",
    lambda o, s: {
        "order_id": s.id,
        "order_data": o,
        "transaction_id": s.get("process_payment")["data"]["transaction_id"],
    },
    good=lambda d: d.get("record_id"),
)
def create_order_record(saga, end):
    if not end["ok"]:
        fail(saga, "order record failed: " + end["error"], "refund_payment", "release_stock")
        return
    saga.once("fate", {"status": "completed", "error": None})
    ring("send_order_confirmation", saga.id)
    ring("update_analytics", saga.id)
    close(saga)


@step(
    "notification_service",
    lambda o: "send",
    lambda o, s: {
        "user_id": o["user_id"],
        "type": "order_confirmation",
        "data": {"order_id": s.id},
    },
)
def send_order_confirmation(saga, end):
    pass


@step(
    "analytics_service",
    lambda o: "track",
    lambda o, s: {"event_type": "order_completed", "data": {"order_id": s.id}},
)
def update_analytics(saga, end):
    pass


@step(
    "payment_service",
    lambda o: "refund",
    lambda o, s: {"order_id": s.id, "transaction_id": None},
    waits=BACKWARD,
)
def refund_payment(saga, end):
    pass


@step("inventory_service", lambda o: "release", lambda o, s: {"order_id": s.id}, waits=BACKWARD)
def release_stock(saga, end):
    pass


@step(
    "order_service",
    lambda o: f"orders/{quote(o['order_id'], safe='')}/mark_failed",
    lambda o, s: {"error_message": s.get("fate")["error"]},
    waits=BACKWARD,
)
def mark_order_failed(saga, end):
    pass


@step(
    "notification_service",
    lambda o: "send",
    lambda o, s: {
        "user_id": o["user_id"],
        "type": "order_failed",
        "data": {"order_id": s.id, "error": s.get("fate")["error"]},
    },
    waits=BACKWARD,
)
def send_error_notification(saga, end):
    pass


@app.task(name="microservices_integration.order_trace")
def order_trace(order_id):
    return Saga(order_id).trace()


@app.task(name="microservices_integration.microservices_health_check")
def microservices_health_check():
    def ask(name):
        r = ServiceCommunicator.call_service(name, "health", method="GET")
        return {
            "status": "healthy" if r.success else "unhealthy",
            "response_time": r.response_time,
            "error": r.error,
        }

    with ThreadPoolExecutor(len(URLS)) as pool:
        services = dict(zip(URLS, pool.map(ask, URLS), strict=True))
    n = sum(s["status"] == "healthy" for s in services.values())
    return {
        "overall_status": "healthy" if n == len(URLS) else "partial" if n else "unhealthy",
        "healthy_services": n,
        "total_services": len(URLS),
        "services": services,
    }

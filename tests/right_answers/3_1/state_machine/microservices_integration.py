"""A state machine: each task does one thing and hands the order on by a table of transitions."""

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal

import redis
import urllib3
from celery import Celery, group

app = Celery("machine")
app.conf.task_acks_late = True
app.conf.task_reject_on_worker_lost = True

NAMES = ("user", "order", "payment", "notification", "inventory", "analytics")
URLS = {f"{name}_service": os.environ.get(f"{name.upper()}_SERVICE_URL", "") for name in NAMES}
SECONDS = float(os.environ.get("SERVICE_TIMEOUT", 5))
HTTP = urllib3.PoolManager(retries=False, timeout=SECONDS)
STORE = redis.from_url(os.environ["LAB_REDIS_URL"])
FORWARD = [0.4, 0.9, 2]
BACKWARD = [0.5, 1, 2, 4, 8] + [15] * 100


@dataclass
class OrderData:
    order_id: str
    user_id: str
    items: list
    total_amount: float
    payment_method: str
    shipping_address: dict

    def __post_init__(self):
        texts = (self.order_id, self.user_id, self.payment_method)
        address = self.shipping_address is None or isinstance(self.shipping_address, dict)
        if not all(isinstance(t, str) and t for t in texts) or not address:
            raise ValueError("order_id, user_id, payment_method or shipping_address is wrong")
        if type(self.total_amount) not in (int, float) or not self.total_amount > 0:
            raise ValueError(f"total_amount: {self.total_amount!r}")
        if Decimal(repr(self.total_amount)) % Decimal("0.01"):
            raise ValueError(f"total_amount: {self.total_amount!r}")
        if not isinstance(self.items, list) or not self.items:
            raise ValueError("no items")
        for item in self.items:
            if not isinstance(item, dict) or not {"id", "name", "quantity", "price"} <= set(item):
                raise ValueError(f"item: {item!r}")
            if type(item["quantity"]) is not int or item["quantity"] < 1:
                raise ValueError(f"item: {item!r}")


@dataclass
class ServiceResponse:
    service: str
    success: bool
    data: object = None
    error: str = ""
    response_time: float = 0.0
    again: bool = False


class ServiceCommunicator:
    def call_service(service, endpoint, data=None, method="POST", headers=None):
        if service not in URLS:
            return ServiceResponse(service, False, None, f"who is {service}?", None)
        url = URLS[service] + "/" + endpoint.strip("/")
        start = time.perf_counter()
        try:
            if method == "GET":
                answer = HTTP.request("GET", url, fields=data, headers=headers)
            else:
                answer = HTTP.request(method, url, json=data or {}, headers=headers)
            status, body = answer.status, answer.data
        except urllib3.exceptions.HTTPError as error:
            status, body = 0, repr(error).encode()
        spent = time.perf_counter() - start
        try:
            said = json.loads(body)
        except ValueError:
            said = None
        if 200 <= status < 300 and said is not None:
            return ServiceResponse(service, True, said, "", spent)
        text = said["message"] if said else f"{status} {body[:200].decode(errors='replace')}"
        again = status in (0, 408, 429) or status >= 500 or status < 300
        return ServiceResponse(service, False, said, text, spent, again)


def ask(task, order_id, service, endpoint, data, waits=FORWARD):
    headers = {"Idempotency-Key": f"{task.__name__}/{order_id}"}
    answer = ServiceCommunicator.call_service(service, endpoint, data, headers=headers)
    if answer.again and task.request.retries < len(waits):
        raise task.retry(countdown=waits[task.request.retries], max_retries=len(waits))
    return answer


def task(function):
    return app.task(
        function, bind=True, max_retries=None, name=f"microservices_integration.{function.__name__}"
    )


@task
def process_order(self, order):
    try:
        data = OrderData(**order)
    except TypeError as error:
        raise ValueError(str(error)) from None
    if ended := STORE.get(f"end:{data.order_id}"):
        return json.loads(ended)
    STORE.set(f"run:{data.order_id}", self.request.id, nx=True)
    if STORE.get(f"run:{data.order_id}").decode() != self.request.id:
        raise self.retry(countdown=1)
    asked = group(validate_user_info.s(order), check_inventory.s(order))
    asked = group([*asked.tasks, validate_payment_method.s(order)])
    raise self.replace(asked | assess.s(order) | advance.s())


@task
def validate_user_info(self, order):
    data = {"shipping_address": order["shipping_address"]}
    answer = ask(
        self, order["order_id"], "user_service", f"users/{order['user_id']}/validate", data
    )
    fine = answer.success and answer.data["valid"]
    return "" if fine else f"user: {answer.error or answer.data['error']}"


@task
def check_inventory(self, order):
    answer = ask(self, order["order_id"], "inventory_service", "check", order)
    fine = answer.success and answer.data["all_available"]
    return "" if fine else f"inventory: {answer.error or answer.data['unavailable_items']}"


@task
def validate_payment_method(self, order):
    data = {**order, "method": order["payment_method"], "amount": order["total_amount"]}
    answer = ask(self, order["order_id"], "payment_service", "validate", data)
    fine = answer.success and answer.data["valid"]
    return "" if fine else f"payment: {answer.error or answer.data['error']}"


@task
def assess(self, complaints, order):
    error = ", ".join(filter(None, complaints))
    first = error or ""
    key = f"assessed:{order['order_id']}"
    STORE.set(key, json.dumps(first), nx=True)
    error = json.loads(STORE.get(key))
    return {"order": order, "at": "failing" if error else "checked", "error": error or None}


TABLE = {
    "checked": "process_payment",
    "charged": "update_inventory",
    "taken": "create_order_record",
    "failing": "mark_order_failed",
    "marked": "release_stock",
    "released": "refund_payment",
}


@task
def advance(self, state):
    """Hand the order to the task of its state, or end."""
    if following := TABLE.get(state["at"]):
        raise self.replace(app.tasks[f"microservices_integration.{following}"].s(state))
    order, done = state["order"], state["at"] == "recorded"
    result = {
        "order_id": order["order_id"],
        "status": "completed" if done else "failed",
        "transaction_id": state.get("transaction"),
        "order_record_id": state.get("record") if done else None,
        "processed_at": time.time(),
        "error": state["error"],
    }
    STORE.set(f"end:{order['order_id']}", json.dumps(result), nx=True)
    result = json.loads(STORE.get(f"end:{order['order_id']}"))
    (send_order_confirmation if done else send_error_notification).delay(order)
    update_analytics.delay(result["status"], order)
    return result


def decide(state, name, new):
    """Keep what the first run of a step came to; a second one follows it."""
    key = f"step:{name}:{state['order']['order_id']}"
    STORE.set(key, json.dumps(new), nx=True)
    return {**state, **json.loads(STORE.get(key))}


@task
def process_payment(self, state):
    order = state["order"]
    data = {"amount": order["total_amount"], "method": order["payment_method"]}
    data |= {"order_id": order["order_id"], "user_id": order["user_id"]}
    answer = ask(self, order["order_id"], "payment_service", "process", data)
    new = {"at": "failing", "error": answer.error}
    if answer.success:
        new = {"at": "charged", "transaction": answer.data["transaction_id"]}
    raise self.replace(advance.s(decide(state, "charge", new)))


@task
def update_inventory(self, state):
    order = state["order"]
    data = {"order_id": order["order_id"], "items": order["items"]}
    answer = ask(self, order["order_id"], "inventory_service", "update", data)
    new = {"at": "taken"} if answer.success else {"at": "failing", "error": answer.error}
    raise self.replace(advance.s(decide(state, "take", new)))


@task
def create_order_record(self, state):
    order = state["order"]
    data = {"order_id": order["order_id"], "order_data": order}
    data["transaction_id"] = state["transaction"]
    answer = ask(self, order["order_id"], "order_service", "create", data)
    new = {"at": "failing", "error": answer.error}
    if answer.success:
        new = {"at": "recorded", "record": answer.data["record_id"]}
    raise self.replace(advance.s(decide(state, "record", new)))


@task
def mark_order_failed(self, state):
    id = state["order"]["order_id"]
    data = {"error_message": state["error"]}
    ask(self, id, "order_service", f"/orders/{id}/mark_failed", data, BACKWARD)
    raise self.replace(advance.s({**state, "at": "marked"}))


@task
def release_stock(self, state):
    id = state["order"]["order_id"]
    ask(self, id, "inventory_service", "release", {"order_id": id}, BACKWARD)
    raise self.replace(advance.s({**state, "at": "released"}))


@task
def refund_payment(self, state):
    id = state["order"]["order_id"]
    data = {"order_id": id, "transaction_id": None}
    ask(self, id, "payment_service", "refund", data, BACKWARD)
    raise self.replace(advance.s({**state, "at": "undone"}))


@task
def send_order_confirmation(self, order):
    notify(self, order, "order_confirmation")


@task
def send_error_notification(self, order):
    notify(self, order, "order_failed")


def notify(task, order, kind):
    data = {"user_id": order["user_id"], "type": kind, "data": {"order_id": order["order_id"]}}
    ask(task, order["order_id"], "notification_service", "send", data)


@task
def update_analytics(self, event, order):
    data = {"event_type": event, "data": {"order_id": order["order_id"]}}
    ask(self, order["order_id"], "analytics_service", "track", data)


@task
def microservices_health_check(self):
    def look(service):
        answer = ServiceCommunicator.call_service(service, "/health", method="GET")
        status = "healthy" if answer.success else "unhealthy"
        took = answer.response_time if answer.success else None
        return {"status": status, "response_time": took, "error": answer.error}

    with ThreadPoolExecutor(6) as pool:
        rows = dict(zip(URLS, pool.map(look, URLS), strict=True))
    good = [row for row in rows.values() if row["status"] == "healthy"]
    overall = {6: "healthy", 0: "unhealthy"}.get(len(good), "partial")
    return {
        "overall_status": overall,
        "healthy_services": len(good),
        "total_services": 6,
        "services": rows,
    }

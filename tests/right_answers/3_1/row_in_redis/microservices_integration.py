"""An orchestrator that keeps the order as a row in Redis: process_order looks, sends, looks again.

It never waits: each look is a retry of the task itself. A second process_order of the same order
looks at the same row, so that both end with the same outcome.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from typing import Any

import redis
import requests
from celery import Celery
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

app = Celery("microservices_integration")
app.conf.update(task_acks_late=True, task_reject_on_worker_lost=True, task_ignore_result=False)
rows = redis.Redis.from_url(os.environ["LAB_REDIS_URL"], decode_responses=True)

LOOK = 1.0  # seconds between two looks
AGAIN = 30.0  # a step that has not said anything for so long is sent again
TRIES = {"forward": 3, "backward": 60}


class OrderData(BaseModel):
    model_config = ConfigDict(strict=True)
    order_id: str
    user_id: str
    items: list[dict[str, Any]] = Field(min_length=1)
    total_amount: float = Field(gt=0)
    payment_method: str
    shipping_address: dict[str, Any] | None

    @field_validator("items")
    @classmethod
    def whole(cls, items):
        for item in items:
            count = item.get("quantity")
            if {"id", "name", "price"} - set(item) or type(count) is not int or count < 1:
                raise ValueError("an item lacks something")
        return items

    @field_validator("total_amount")
    @classmethod
    def cents(cls, amount):
        if round(amount, 2) != amount:
            raise ValueError("fractions of a cent")
        return amount


class ServiceResponse(BaseModel):
    service: str
    success: bool
    data: Any = None
    error: str | None = None
    response_time: float = 0.0
    code: int = 0


class ServiceCommunicator:
    @staticmethod
    def call_service(service, endpoint, data=None, method="POST", **headers):
        base = os.environ.get(f"{service.upper()}_URL")
        if not base:
            return ServiceResponse(
                service=service, success=False, error="no such service", code=404
            )
        began, code = time.time(), 0
        try:
            answer = requests.request(
                method,
                f"{base.rstrip('/')}/{endpoint.lstrip('/')}",
                json=data,
                headers={name.replace("_", "-"): value for name, value in headers.items()},
                timeout=float(os.environ.get("SERVICE_TIMEOUT") or 5),
            )
            code, body = answer.status_code, answer.json()
            error = None if answer.ok else f"{body.get('error')}: {body.get('message')}"
        except (OSError, ValueError) as problem:
            body, error = None, f"{type(problem).__name__}: {problem}"
            code = 0 if code < 400 else code
        return ServiceResponse(
            service=service,
            success=error is None,
            data=body,
            error=error,
            response_time=time.time() - began,
            code=code,
        )


def permanent(response):
    return 400 <= response.code < 500 and response.code not in (408, 429)


def row_of(order_id):
    return f"orders/{order_id}"


@app.task(bind=True, max_retries=None)
def process_order(self, order):
    try:
        OrderData.model_validate(order)
    except ValidationError as error:
        raise ValueError(str(error)) from None
    row = row_of(order["order_id"])
    rows.hsetnx(row, "order", json.dumps(order))
    for name in wanted(row):
        send_step(row, name, order["order_id"])
    outcome = rows.hget(row, "outcome")
    if outcome:
        return json.loads(outcome)
    raise self.retry(countdown=LOOK)


FIRST = ("validate_user_info", "check_inventory", "validate_payment_method")
THEN = ("process_payment", "update_inventory", "create_order_record")
BACK = ("mark_order_failed", "release_inventory", "refund_payment")


def said(row, name):
    text = rows.hget(row, f"said:{name}")
    return json.loads(text) if text else None


def wanted(row):
    """Return the steps that the order is waiting for; write the outcome when there is none."""
    answers = {name: said(row, name) for name in FIRST}
    if None in answers.values():
        return [name for name, answer in answers.items() if answer is None]
    errors = [answer["error"] for answer in answers.values() if answer["error"]]
    for name in THEN if not errors else ():
        answer = said(row, name)
        if answer is None:
            return [name]
        if answer["error"]:
            errors.append(answer["error"])
            break
    if errors:
        rows.hsetnx(row, "error", "; ".join(errors))
        if missing := [name for name in BACK if said(row, name) is None]:
            return missing
    conclude(row)
    return ["notify", "update_analytics"]


def conclude(row):
    order, error = json.loads(rows.hget(row, "order")), rows.hget(row, "error")
    charge, record = said(row, "process_payment") or {}, said(row, "create_order_record") or {}
    outcome = {
        "order_id": order["order_id"],
        "status": "failed" if error else "completed",
        "transaction_id": charge.get("transaction_id"),
        "order_record_id": None if error else record.get("record_id"),
        "processed_at": int(time.time()),
        "error": error,
    }
    rows.hsetnx(row, "outcome", json.dumps(outcome))


def send_step(row, name, order_id):
    """Send a step unless it is on its way."""
    if name == "notify":
        failed = rows.hexists(row, "error")
        name = "send_error_notification" if failed else "send_order_confirmation"
    if rows.set(f"{row}/sent/{name}", 1, nx=True, ex=int(AGAIN)):
        app.send_task(f"microservices_integration.{name}", [order_id])


def step(kind, read=lambda data: {}):
    """Make a task of a function that says whom to ask what about an order."""

    def make(function):
        @app.task(bind=True, max_retries=None, name=f"{__name__}.{function.__name__}")
        def run(self, order_id):
            row, name = row_of(order_id), function.__name__
            if rows.hexists(row, f"said:{name}"):
                return
            order = json.loads(rows.hget(row, "order"))
            service, endpoint, data = function(order, row)
            answer = ServiceCommunicator.call_service(
                service, endpoint, data, Idempotency_Key=f"{name}-{order_id}"
            )
            tries = self.request.retries + 1
            if not answer.success and not permanent(answer) and tries < TRIES[kind]:
                raise self.retry(countdown=min(0.5 * 2 ** (tries - 1), 20))
            error = None if answer.success else f"{service.split('_')[0]}: {answer.error}"
            words = {"error": error, **(read(answer.data) if answer.success else {})}
            rows.hsetnx(row, f"said:{name}", json.dumps(words))

        return run

    return make


def judged(name, field, reason):
    def read(data):
        return {"error": None if data[field] else f"{name}: {data[reason]}"}

    return read


@step("forward", judged("user", "valid", "error"))
def validate_user_info(order, row):
    address = {"shipping_address": order["shipping_address"]}
    return "user_service", f"users/{order['user_id']}/validate", address


@step("forward", judged("inventory", "all_available", "unavailable_items"))
def check_inventory(order, row):
    return "inventory_service", "check", {"items": order["items"]}


@step("forward", judged("payment", "valid", "error"))
def validate_payment_method(order, row):
    means = {"method": order["payment_method"], "amount": order["total_amount"]}
    return "payment_service", "validate", means


@step("forward", lambda data: {"transaction_id": data["transaction_id"]})
def process_payment(order, row):
    charge = {"method": order["payment_method"], "amount": order["total_amount"]}
    charge |= {"order_id": order["order_id"], "user_id": order["user_id"]}
    return "payment_service", "process", charge


@step("forward")
def update_inventory(order, row):
    items = {"order_id": order["order_id"], "items": order["items"]}
    return "inventory_service", "update", items


@step("forward", lambda data: {"record_id": data["record_id"]})
def create_order_record(order, row):
    transaction = said(row, "process_payment")["transaction_id"]
    record = {"order_id": order["order_id"], "order_data": order, "transaction_id": transaction}
    return "order_service", "create", record


@step("backward")
def mark_order_failed(order, row):
    why = {"error_message": rows.hget(row, "error")}
    return "order_service", f"orders/{order['order_id']}/mark_failed", why


@step("backward")
def release_inventory(order, row):
    return "inventory_service", "release", {"order_id": order["order_id"]}


@step("backward")
def refund_payment(order, row):
    refund = {"order_id": order["order_id"], "transaction_id": None}
    return "payment_service", "refund", refund


def notice(order, kind):
    data = {"user_id": order["user_id"], "type": kind, "data": {"order_id": order["order_id"]}}
    return "notification_service", "send", data


@step("forward")
def send_order_confirmation(order, row):
    return notice(order, "order_confirmation")


@step("forward")
def send_error_notification(order, row):
    return notice(order, "order_failed")


@step("forward")
def update_analytics(order, row):
    data = {"event_type": "order", "data": {"order_id": order["order_id"]}}
    return "analytics_service", "track", data


@app.task
def microservices_health_check():
    names = ["user", "order", "payment", "notification", "inventory", "analytics"]
    services = asyncio.run(look_at_all([f"{name}_service" for name in names]))
    well = sum(row["status"] == "healthy" for row in services.values())
    return {
        "overall_status": "healthy" if well == 6 else "partial" if well else "unhealthy",
        "healthy_services": well,
        "total_services": 6,
        "services": services,
    }


async def look_at_all(names):
    looks = [asyncio.to_thread(look, name) for name in names]
    return dict(zip(names, await asyncio.gather(*looks), strict=True))


def look(name):
    answer = ServiceCommunicator.call_service(name, "health", method="GET")
    return {
        "status": "healthy" if answer.success else "unhealthy",
        "response_time": answer.response_time,
        "error": answer.error,
    }

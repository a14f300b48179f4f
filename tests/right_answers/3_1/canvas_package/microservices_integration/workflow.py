"""The order's way."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

from celery import chain, chord, group

from .base import Call, app, first, memory, register
from .data import read
from .services import ServiceCommunicator


class Validation(Call):
    word = fine = why = ""

    def run(self, order):
        response = self.ask(order)
        if not response.success:
            return f"{self.word} ({response.error})"
        return None if response.data[self.fine] else f"{self.word} ({response.data[self.why]})"


@register
class ValidateUser(Validation):
    name, service, word = "validate_user_info", "user_service", "user"
    fine, why = "valid", "error"

    def endpoint(self, order):
        return f"users/{order['user_id']}/validate"

    def payload(self, order, state):
        return {"shipping_address": order["shipping_address"]}


@register
class CheckInventory(Validation):
    name, service, word = "check_inventory", "inventory_service", "inventory"
    fine, why = "all_available", "unavailable_items"

    def endpoint(self, order):
        return "check"

    def payload(self, order, state):
        return {"items": order["items"]}


@register
class ValidatePayment(Validation):
    name, service, word = "validate_payment_method", "payment_service", "payment"
    fine, why = "valid", "error"

    def endpoint(self, order):
        return "validate"

    def payload(self, order, state):
        return {"method": order["payment_method"], "amount": order["total_amount"]}


class Forward(Call):
    """Adds its answer to the state; does nothing in a state that has an error."""

    path = ""

    def endpoint(self, order):
        return self.path

    def run(self, state, order):
        if state.get("error"):
            return state
        response = self.ask(order, state)
        news = response.data if response.success else {"error": response.error}
        return {**state, **first(f"{self.name}:{order['order_id']}", news)}


@register
class ProcessPayment(Forward):
    name, service, path = "process_payment", "payment_service", "process"

    def payload(self, order, state):
        return {
            "order_id": order["order_id"],
            "amount": order["total_amount"],
            "method": order["payment_method"],
            "user_id": order["user_id"],
        }


@register
class UpdateInventory(Forward):
    name, service, path = "update_inventory", "inventory_service", "update"

    def payload(self, order, state):
        return {"order_id": order["order_id"], "items": order["items"]}


@register
class CreateRecord(Forward):
    name, service, path = "create_order_record", "order_service", "create"

    def payload(self, order, state):
        return {
            "order_id": order["order_id"],
            "order_data": order,
            "transaction_id": state["transaction_id"],
        }


class Backward(Call):
    tries = 12
    first, growth = 10, 2  # in no hurry: 10, 20, 40, 80 s and so on

    def run(self, order, error):
        self.ask(order, error)


@register
class Refund(Backward):
    name, service = "refund_payment", "payment_service"

    def endpoint(self, order):
        return "refund"

    def payload(self, order, state):
        return {"order_id": order["order_id"], "transaction_id": None}


@register
class Release(Backward):
    name, service = "release_inventory", "inventory_service"

    def endpoint(self, order):
        return "release"

    def payload(self, order, state):
        return {"order_id": order["order_id"]}


@register
class MarkFailed(Backward):
    name, service = "mark_order_failed", "order_service"

    def endpoint(self, order):
        return f"orders/{order['order_id']}/mark_failed"

    def payload(self, order, state):
        return {"error_message": state}


class Notice(Call):
    service, kind, ignore_result = "notification_service", "", True

    def endpoint(self, order):
        return "send"

    def payload(self, order, state):
        data = {"order_id": order["order_id"]}
        return {"user_id": order["user_id"], "type": self.kind, "data": data}

    def run(self, order):
        self.ask(order)


@register
class Confirmation(Notice):
    name, kind = "send_order_confirmation", "order_confirmation"


@register
class Regret(Notice):
    name, kind = "send_error_notification", "order_failed"


@register
class Track(Notice):
    name, service = "update_analytics", "analytics_service"

    def endpoint(self, order):
        return "track"

    def payload(self, order, state):
        return {"event_type": "order", "data": {"order_id": order["order_id"]}}


@app.task(name="microservices_integration.join_validations")
def join_validations(complaints, order):
    error = "; ".join(c for c in complaints if c) or None
    return first(f"validated:{order['order_id']}", {"error": error})


@app.task(bind=True, name="microservices_integration.settle")
def settle(self, state, order):
    if not state.get("error"):
        return finish(None, order, state)
    undo = group(task.si(order, state["error"]) for task in (MarkFailed, Release, Refund))
    raise self.replace(chord(undo.tasks, finish.s(order, state)))


@app.task(name="microservices_integration.finish")
def finish(_, order, state):
    done = not state.get("error")
    result = {
        "order_id": order["order_id"],
        "status": "completed" if done else "failed",
        "transaction_id": state.get("transaction_id"),
        "order_record_id": state.get("record_id") if done else None,
        "processed_at": time.time(),
        "error": state.get("error"),
    }
    result = first(f"end:{order['order_id']}", result)
    group((Confirmation if done else Regret).si(order), Track.si(order)).apply_async()
    return result


@app.task(name="microservices_integration.net")
def net(request, error, traceback):
    memory.rpush("for a person to look at", f"{request.id}: {error!r}")


@app.task(bind=True, max_retries=None, name="microservices_integration.process_order")
def process_order(self, order):
    order = read(order)
    if memory.exists(f"end:{order['order_id']}"):
        return first(f"end:{order['order_id']}", None)
    if first(f"runs:{order['order_id']}", self.request.id) != self.request.id:
        raise self.retry(countdown=0.7)
    validations = [task.si(order) for task in (ValidateUser, CheckInventory, ValidatePayment)]
    forward = chain(task.s(order) for task in (ProcessPayment, UpdateInventory, CreateRecord))
    workflow = chord(validations, join_validations.s(order)) | forward | settle.s(order)
    raise self.replace(workflow.on_error(net.s()))


@app.task(name="microservices_integration.microservices_health_check")
def microservices_health_check():
    names = ["user", "order", "payment", "notification", "inventory", "analytics"]
    services = [f"{name}_service" for name in names]
    with ThreadPoolExecutor(6) as pool:
        answers = list(
            pool.map(lambda s: ServiceCommunicator.call_service(s, "health", None, "GET"), services)
        )
    well = sum(answer.success for answer in answers)
    return {
        "overall_status": ("unhealthy", "partial", "healthy")[(well > 0) + (well == 6)],
        "healthy_services": well,
        "total_services": 6,
        "services": {
            service: {
                "status": "healthy" if answer.success else "unhealthy",
                "response_time": answer.response_time,
                "error": answer.error,
            }
            for service, answer in zip(services, answers, strict=True)
        },
    }

"""Exercise 3_1: an order goes through six services that fail now and then. The TODOs are yours."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from celery import Celery

# TODO: is this app ready for a process that is killed while it runs a task?
app = Celery(
    "microservices_integration",
    broker="redis://127.0.0.1:6379/0",
    backend="redis://127.0.0.1:6379/1",
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
# A Redis for what your tasks have to remember.
REDIS_URL = os.environ.get("LAB_REDIS_URL") or os.environ.get(
    "CELERY_RESULT_BACKEND", "redis://127.0.0.1:6379/1"
)


@dataclass
class OrderData:
    """An order. TODO: refuse a malformed one with ValueError."""

    order_id: str
    user_id: str
    items: list[dict[str, Any]]
    total_amount: float
    payment_method: str
    shipping_address: dict[str, Any] | None


@dataclass
class ServiceResponse:
    """What came of one call; `response_time` in seconds. Add what your tasks need to know."""

    service: str
    success: bool
    data: Any = None
    error: str | None = None
    response_time: float = 0.0


class ServiceCommunicator:
    """Calls services; whatever goes wrong comes back as a response."""

    @staticmethod
    def call_service(
        service: str,
        endpoint: str,
        data: dict[str, Any] | None = None,
        method: str = "POST",
        idempotency_key: str = "",
    ) -> ServiceResponse:
        """TODO: make one request and say what came of it."""
        raise NotImplementedError


# Forward: each step may be tried several times, and each may run twice. How do the steps follow
# each other, if no task waits for another?


@app.task(bind=True)
def process_order(self, order):
    """TODO: start the workflow that this task is replaced by."""
    raise NotImplementedError


@app.task(bind=True)
def validate_user_info(self):
    """TODO."""
    raise NotImplementedError


@app.task(bind=True)
def check_inventory(self):
    """TODO."""
    raise NotImplementedError


@app.task(bind=True)
def validate_payment_method(self):
    """TODO."""
    raise NotImplementedError


@app.task(bind=True)
def process_payment(self):
    """TODO."""
    raise NotImplementedError


@app.task(bind=True)
def update_inventory(self):
    """TODO."""
    raise NotImplementedError


@app.task(bind=True)
def create_order_record(self):
    """TODO."""
    raise NotImplementedError


@app.task(bind=True)
def send_order_confirmation(self):
    """TODO."""
    raise NotImplementedError


@app.task(bind=True)
def update_analytics(self):
    """TODO."""
    raise NotImplementedError


# Backward: what was done for an order that fails has to be undone, however long it takes.


@app.task(bind=True)
def refund_payment(self):
    """TODO."""
    raise NotImplementedError


@app.task(bind=True)
def mark_order_failed(self):
    """TODO."""
    raise NotImplementedError


@app.task(bind=True)
def send_error_notification(self):
    """TODO."""
    raise NotImplementedError


@app.task
def microservices_health_check():
    """TODO: ask the six services at once."""
    raise NotImplementedError

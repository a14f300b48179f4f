"""The HTTP side of the six services: typed requests, one FastAPI application a service.

Each application has an OpenAPI page at /docs. What arrives malformed is 400, and every error has
the form {"error": CODE, "message": TEXT}.
"""

from __future__ import annotations

import contextvars
from collections import Counter
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Header, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from grader.ledger import Ledger
from grader.services.shop.state import STATES, Refusal

# The request that is being worked on: the effects' entries carry its number.
current: contextvars.ContextVar[tuple[int, str, str]] = contextvars.ContextVar("current")


MOST = 1e12


def to_cents(amount: float) -> int:
    """Return a JSON number of at most two decimals in cents; ValueError for any other."""
    try:
        cents = Decimal(str(amount)) * 100
        if 0 < amount < MOST and cents == cents.to_integral_value():
            return int(cents)
    except (InvalidOperation, OverflowError):
        pass
    raise ValueError("an amount is above 0 and has at most 2 decimals")


Name = Annotated[str, Field(min_length=1, max_length=200)]
Money = Annotated[float, AfterValidator(to_cents)]
Key = Annotated[
    str | None,
    Header(alias="Idempotency-Key", description="The same for every attempt of one piece of work."),
]


class Strict(BaseModel):
    """A request's body: text is not taken for a number; unknown fields are ignored."""

    model_config = ConfigDict(strict=True)


class Item(Strict):
    """Some pieces of one article."""

    id: Name
    quantity: int = Field(ge=1)


class Cart(Strict):
    """Articles; the same one twice counts together."""

    items: list[Item] = Field(min_length=1)

    @property
    def pieces(self) -> dict[str, int]:
        """Item -> quantity."""
        total: Counter[str] = Counter()
        for item in self.items:
            total[item.id] += item.quantity
        return dict(total)


class OrderCart(Cart):
    """Articles of an order."""

    order_id: Name


class OrderId(Strict):
    """Only the order."""

    order_id: Name


class Customer(Strict):
    """Where to send it to."""

    shipping_address: dict[str, Any] | None


class Means(Strict):
    """How to pay what."""

    method: Name
    amount: Money


class Payment(Means):
    """A charge."""

    order_id: Name
    user_id: Name


class Refund(Strict):
    """Which charge to give back; null means all of the order's."""

    order_id: Name
    transaction_id: Name | None


class Record(Strict):
    """A completed order."""

    order_id: Name
    order_data: dict[str, Any]
    transaction_id: Name


class Failure(Strict):
    """Why an order failed."""

    error_message: str = Field(min_length=1)


class OfOrder(BaseModel):
    """Data about an order, whatever else is in it."""

    model_config = ConfigDict(strict=True, extra="allow")
    order_id: Name


class Notice(Strict):
    """What to tell a customer."""

    user_id: Name
    type: Literal["order_confirmation", "order_failed"]
    data: OfOrder


class Event(Strict):
    """What to count."""

    event_type: Name
    data: OfOrder


def application(service: str, ledger: Ledger) -> tuple[FastAPI, Any]:
    """Return a service's application and its state."""

    def note(effect: str, order: str, **what: Any) -> None:
        number, name, route = current.get()
        ledger.add("effect", number, name, route, order, effect=effect, **what)

    app = FastAPI(title=f"{service} service", version="1", redirect_slashes=False)
    state = STATES[service](note)
    _errors(app)

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Say that the service is there."""
        return {"status": "ok", "service": f"{service}_service"}

    ROUTES[service](app, state)
    return app, state


def _errors(app: FastAPI) -> None:
    @app.exception_handler(Refusal)
    async def refused(request: Request, refusal: Refusal) -> JSONResponse:
        return JSONResponse(refusal.body, refusal.status)

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body") or "body"
        return JSONResponse({"error": "bad_request", "message": f"{where}: {first['msg']}"}, 400)

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> JSONResponse:
        code = {404: "no_such_route", 405: "method_not_allowed"}.get(error.status_code, "error")
        words = f"{request.method} {request.url.path}: {error.detail}"
        return JSONResponse({"error": code, "message": words}, error.status_code, error.headers)


def _user(app: FastAPI, users: Any) -> None:
    @app.post("/users/{id}/validate")
    async def validate(id: str, body: Customer) -> dict[str, Any]:
        """Ids that begin with `unknown` are unknown, those with `blocked` are not valid."""
        answer: dict[str, Any] = users.validate(id, body.shipping_address)
        return answer


def _inventory(app: FastAPI, warehouse: Any) -> None:
    @app.post("/check")
    async def check(body: Cart) -> dict[str, Any]:
        """No effect. There is none of `sold_out`, one of `last_one`, plenty of all else."""
        return warehouse.check(body.pieces)

    @app.post("/reserve")
    async def reserve(body: OrderCart, key: Key = None) -> dict[str, Any]:
        """All or nothing."""
        return warehouse.reserve(body.order_id, body.pieces)

    @app.post("/update")
    async def update(body: OrderCart, key: Key = None) -> dict[str, Any]:
        """Takes stock; uses up a reservation of the order."""
        return warehouse.update(body.order_id, body.pieces)

    @app.post("/release")
    async def release(body: OrderId, key: Key = None) -> dict[str, Any]:
        """Gives back all that the order holds; 200 when that is nothing."""
        return warehouse.release(body.order_id)


def _payment(app: FastAPI, payments: Any) -> None:
    @app.post("/validate")
    async def validate(body: Means) -> dict[str, Any]:
        """`expired_card` and methods that nobody knows are not valid."""
        return payments.validate(body.method, body.amount)

    @app.post("/process")
    async def process(body: Payment, key: Key = None) -> dict[str, Any]:
        """Charges. An `empty_card` is valid and is declined here (402)."""
        return payments.process(body.order_id, body.amount, body.method, body.user_id)

    @app.post("/refund")
    async def refund(body: Refund, key: Key = None) -> dict[str, Any]:
        """Gives back; 200 when there is nothing to give back."""
        return payments.refund(body.order_id, body.transaction_id)


def _order(app: FastAPI, orders: Any) -> None:
    @app.post("/create")
    async def create(body: Record, key: Key = None) -> dict[str, Any]:
        """Records a completed order."""
        return orders.create(body.order_id, body.order_data, body.transaction_id)

    @app.post("/orders/{id}/mark_failed")
    async def mark_failed(id: str, body: Failure, key: Key = None) -> dict[str, Any]:
        """Records a failed order; a completed record becomes a failed one."""
        return orders.mark_failed(id, body.error_message)


def _notification(app: FastAPI, notifications: Any) -> None:
    @app.post("/send")
    async def send(body: Notice, key: Key = None) -> dict[str, Any]:
        """Tells the customer."""
        return notifications.send(body.user_id, body.type, body.data.model_dump())


def _analytics(app: FastAPI, analytics: Any) -> None:
    @app.post("/track")
    async def track(body: Event) -> dict[str, Any]:
        """Counts an event."""
        return analytics.track(body.event_type, body.data.model_dump())


ROUTES = {
    "user": _user,
    "inventory": _inventory,
    "payment": _payment,
    "order": _order,
    "notification": _notification,
    "analytics": _analytics,
}

"""What travels: orders and answers."""

from __future__ import annotations

from typing import Any, NamedTuple, TypedDict

KINDS = {
    "order_id": str,
    "user_id": str,
    "items": list,
    "total_amount": (int, float),
    "payment_method": str,
    "shipping_address": (dict, type(None)),
}
ITEM = {"id": str, "name": str, "quantity": int, "price": (int, float)}


def _check(mapping: Any, kinds: dict) -> None:
    if not isinstance(mapping, dict):
        raise ValueError(f"not an object: {mapping!r}")
    for name, kind in kinds.items():
        if name not in mapping:
            raise ValueError(f"{name} is missing")
        if not isinstance(mapping[name], kind) or isinstance(mapping[name], bool):
            raise ValueError(f"{name} is {mapping[name]!r}")


class OrderData(TypedDict):
    order_id: str
    user_id: str
    items: list[dict[str, Any]]
    total_amount: float
    payment_method: str
    shipping_address: dict[str, Any] | None


def read(order: Any) -> OrderData:
    _check(order, KINDS)
    if not order["items"]:
        raise ValueError("an order without items")
    for item in order["items"]:
        _check(item, ITEM)
        if item["quantity"] < 1:
            raise ValueError(f"quantity of {item['id']}: {item['quantity']}")
    whole, _, fraction = str(order["total_amount"]).partition(".")
    if not order["total_amount"] > 0 or len(fraction) > 2 or not whole.isdecimal():
        raise ValueError(f"total_amount is {order['total_amount']!r}")
    return order


class ServiceResponse(NamedTuple):
    success: bool
    data: Any
    error: str | None
    response_time: float
    transient: bool = False

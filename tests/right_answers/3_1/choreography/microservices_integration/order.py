"""What an order looks like."""

from dataclasses import dataclass
from decimal import Decimal


def need(ok, what):
    if not ok:
        raise ValueError(what)


@dataclass
class OrderData:
    order_id: str
    user_id: str
    items: list
    total_amount: float
    payment_method: str
    shipping_address: dict | None

    FIELDS = ("order_id", "user_id", "items", "total_amount", "payment_method", "shipping_address")

    @classmethod
    def read(cls, raw):
        need(isinstance(raw, dict), "an order is a dict")
        for f in cls.FIELDS:
            need(f in raw, f"{f} is missing")
        return cls(**{f: raw[f] for f in cls.FIELDS})

    def __post_init__(self):
        for f in ("order_id", "user_id", "payment_method"):
            v = getattr(self, f)
            need(isinstance(v, str) and v.strip(), f"{f} must be text")
        need(
            self.shipping_address is None or isinstance(self.shipping_address, dict),
            "shipping_address",
        )
        need(isinstance(self.items, list) and self.items, "no items")
        for i in self.items:
            need(isinstance(i, dict), "an item is a dict")
            need(isinstance(i.get("id"), str) and i["id"], "item id")
            need(isinstance(i.get("name"), str), "item name")
            need(type(i.get("quantity")) is int and i["quantity"] >= 1, "quantity")
            need(type(i.get("price")) in (int, float), "price")
        need(type(self.total_amount) in (int, float), "total_amount")
        d = Decimal(str(self.total_amount))
        need(d.is_finite() and d > 0 and d == round(d, 2), "total_amount")

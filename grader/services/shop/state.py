"""What the six services know and do. No HTTP here: each method is the work of one route.

A refused request raises `Refusal`. Money is counted in cents.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

# Called with an effect's name, the order, and whatever describes it.
Note = Callable[..., None]
Items = Mapping[str, int]
ENOUGH = 10_000
KNOWN_METHODS = ("credit_card", "debit_card", "paypal", "bank_transfer", "empty_card")


class Refusal(Exception):
    """An answer that is an error: its status, its code, a sentence, and what goes with it."""

    def __init__(self, status: int, code: str, message: str, **more: Any) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": code, "message": message, **more}


def closed(order: str) -> Refusal:
    """Return the refusal of work for an order whose compensation has come already."""
    return Refusal(409, "order_closed", f"order {order} was compensated here before")


def euros(cents: int) -> float:
    """Return cents as a JSON number of at most two decimals."""
    return cents / 100


@dataclass
class Users:
    """Everybody is a user but those whose id begins with "unknown"; "blocked" ones may not buy."""

    note: Note

    def validate(self, user: str, address: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return whether this user may order to this address."""
        if user.startswith("unknown"):
            raise Refusal(404, "unknown_user", f"there is no account {user}")
        error = None
        if user.startswith("blocked"):
            error = "the account is blocked"
        elif address is not None and not address:
            error = "the shipping address is empty"
        info = {"user_id": user}
        return {"valid": error is None, "user_info": info, "error": error}


@dataclass
class Warehouse:
    """Stock, reservations and what orders have taken.

    Attributes:
        stock: item -> pieces on the shelf, reserved ones included; unnamed items have ENOUGH.
    """

    note: Note
    stock: dict[str, int] = field(default_factory=lambda: {"sold_out": 0, "last_one": 1})
    reserved: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    taken: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    closed: set[str] = field(default_factory=set)

    def free(self, item: str, order: str = "") -> int:
        """Return how many pieces of an item an order may have: others' reservations are theirs."""
        others = sum(held[item] for owner, held in self.reserved.items() if owner != order)
        return self.stock.get(item, ENOUGH) - others

    def check(self, items: Items) -> dict[str, Any]:
        """Say which items can't be had, without any effect."""
        lacking = [item for item, wanted in items.items() if self.free(item) < wanted]
        return {"all_available": not lacking, "unavailable_items": lacking}

    def reserve(self, order: str, items: Items) -> dict[str, Any]:
        """Put all items aside for an order, or nothing."""
        self._open(order, items)
        self.reserved[order].update(items)
        self.note("reserved", order, items=dict(items))
        return {"order_id": order, "reserved_items": _rows(items)}

    def update(self, order: str, items: Items) -> dict[str, Any]:
        """Take all items off the shelf, or nothing; a reservation of the order is used up."""
        self._open(order, items)
        for item, count in items.items():
            self.stock[item] = self.stock.get(item, ENOUGH) - count
        self.reserved[order] -= Counter(items)
        self.taken[order].update(items)
        self.note("taken", order, items=dict(items))
        return {"order_id": order, "updated_items": _rows(items)}

    def release(self, order: str) -> dict[str, Any]:
        """Give back all that an order holds, and refuse it any more."""
        self.closed.add(order)
        freed, back = self.reserved.pop(order, Counter()), self.taken.pop(order, Counter())
        for item, count in back.items():
            self.stock[item] = self.stock.get(item, ENOUGH) + count
        if freed or back:
            self.note("released", order, items=dict(back), reserved=dict(freed))
        return {"order_id": order, "released_items": _rows(freed + back)}

    def _open(self, order: str, items: Items) -> None:
        if order in self.closed:
            raise closed(order)
        if lacking := [i for i, wanted in items.items() if self.free(i, order) < wanted]:
            words = f"not enough of {', '.join(lacking)}"
            raise Refusal(409, "insufficient_stock", words, unavailable_items=lacking)


def _rows(items: Items) -> list[dict[str, Any]]:
    return [{"id": item, "quantity": count} for item, count in items.items()]


@dataclass
class Charge:
    """One charge, in cents, and what of it is left after refunds."""

    order: str
    amount: int
    left: int


@dataclass
class Payments:
    """Charges and refunds."""

    note: Note
    charges: dict[str, Charge] = field(default_factory=dict)
    refunds: int = 0
    closed: set[str] = field(default_factory=set)

    def validate(self, method: str, amount: int) -> dict[str, Any]:
        """Say whether this method can pay this amount, without charging it."""
        error = None
        if method == "expired_card":
            error = "the card has expired"
        elif method not in KNOWN_METHODS:
            error = f"{method} is no known method"
        details = None if error else {"method": method, "amount": euros(amount)}
        return {"valid": error is None, "details": details, "error": error}

    def process(self, order: str, amount: int, method: str, user: str) -> dict[str, Any]:
        """Charge the amount."""
        if order in self.closed:
            raise closed(order)
        if method not in KNOWN_METHODS or method == "empty_card":
            raise Refusal(402, "declined", "the bank declined the charge")
        transaction = f"tx-{len(self.charges) + 1:05d}"
        self.charges[transaction] = Charge(order, amount, amount)
        self.note("charged", order, cents=amount, transaction=transaction)
        return {
            "transaction_id": transaction,
            "order_id": order,
            "amount": euros(amount),
            "status": "charged",
        }

    def refund(self, order: str, transaction: str | None) -> dict[str, Any]:
        """Give back one charge of the order, or all of them, and refuse any more."""
        mine = {t: c for t, c in self.charges.items() if c.order == order}
        if transaction is not None and transaction not in mine:
            raise Refusal(404, "unknown_transaction", f"order {order} has no {transaction}")
        self.closed.add(order)
        chosen = [c for t, c in mine.items() if transaction in (None, t)]
        total = sum(charge.left for charge in chosen)
        for charge in chosen:
            charge.left = 0
        if not total:
            return {"refund_id": None, "order_id": order, "amount": 0.0}
        self.refunds += 1
        refund = f"rf-{self.refunds:05d}"
        self.note("refunded", order, cents=total, refund=refund)
        return {"refund_id": refund, "order_id": order, "amount": euros(total)}


@dataclass
class Orders:
    """The records of orders: completed or failed."""

    note: Note
    records: dict[str, list[str]] = field(default_factory=dict)
    made: int = 0
    closed: set[str] = field(default_factory=set)

    def create(self, order: str, data: Mapping[str, Any], transaction: str) -> dict[str, Any]:
        """Write the record of a completed order."""
        if order in self.closed:
            raise closed(order)
        self.made += 1
        record = f"rec-{self.made:05d}"
        self.records.setdefault(order, []).append(record)
        self.note("recorded", order, record=record, transaction=transaction)
        return {"record_id": record, "order_id": order, "status": "completed"}

    def mark_failed(self, order: str, message: str) -> dict[str, Any]:
        """Turn the order's record into a failed one, or write one, and refuse any other."""
        if order not in self.closed:
            self.note("failed", order, message=message[:500])
        self.closed.add(order)
        return {"order_id": order, "status": "failed"}


@dataclass
class Notifications:
    """What customers were told."""

    note: Note
    sent: int = 0

    def send(self, user: str, kind: str, data: Mapping[str, Any]) -> dict[str, Any]:
        """Tell the customer."""
        self.sent += 1
        self.note("told", str(data["order_id"]), type=kind, user=user)
        return {"notification_id": f"note-{self.sent:05d}", "status": "sent"}


@dataclass
class Analytics:
    """What was counted."""

    note: Note
    events: int = 0

    def track(self, event: str, data: Mapping[str, Any]) -> dict[str, Any]:
        """Count an event."""
        self.events += 1
        self.note("tracked", str(data["order_id"]), event=event)
        return {"event_id": f"event-{self.events:05d}"}


STATES: dict[str, Callable[[Note], Any]] = {
    "user": Users,
    "order": Orders,
    "payment": Payments,
    "notification": Notifications,
    "inventory": Warehouse,
    "analytics": Analytics,
}
SERVICES = tuple(STATES)

"""What must be true of a shop's orders in the end, judged from the ledger alone.

Pure functions over recorded entries: no broker, no services. `breaches` returns what is wrong; the
ledger's effects say what happened, whatever a submission says of itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from grader.ledger import Entry

COMPLETED, FAILED = "completed", "failed"
# A forward call has three tries at least: one more failure may have used them all up.
PATIENCE = 2
FAILURES = {"lost", "refused", "killed", "hung up"}


@dataclass(frozen=True)
class Sale:
    """An order as it was placed.

    Attributes:
        id: the order's id.
        cents: what it costs.
        items: item -> quantity.
        aliases: what stands for it in requests that name no order.
    """

    id: str
    cents: int
    items: Mapping[str, int]
    aliases: tuple[str, ...] = ()

    @property
    def subjects(self) -> tuple[str, ...]:
        """What its entries in the ledger are filed under."""
        return (self.id, *self.aliases)


@dataclass(frozen=True)
class Breach:
    """One thing that is wrong with one order. `kind` names the invariant."""

    kind: str
    order: str
    expected: str
    observed: str


@dataclass
class Balance:
    """What the effects of one order come to; money in cents. What is `held` is only reserved."""

    charged: int = 0
    refunded: int = 0
    taken: Counter[str] = field(default_factory=Counter)
    held: Counter[str] = field(default_factory=Counter)
    recorded: int = 0
    failed: bool = False
    told: Counter[str] = field(default_factory=Counter)
    lowest: int = 0

    @property
    def ending(self) -> str:
        """ "completed", "failed" (a failed record wins), or "" for neither."""
        if self.failed:
            return FAILED
        return COMPLETED if self.recorded else ""


def balances(entries: Iterable[Entry]) -> dict[str, Balance]:
    """Return order -> what its effects come to."""
    found: dict[str, Balance] = {}
    for entry in entries:
        if entry.kind == "effect":
            _book(found.setdefault(entry.subject, Balance()), entry.what)
    return found


def _book(balance: Balance, what: Mapping[str, object]) -> None:
    effect = what.get("effect")
    cents, items = what.get("cents"), what.get("items")
    if effect == "charged" and isinstance(cents, int):
        balance.charged += cents
    elif effect == "refunded" and isinstance(cents, int):
        balance.refunded += cents
    elif effect == "reserved" and isinstance(items, Mapping):
        balance.held += Counter(items)
    elif effect in ("taken", "released") and isinstance(items, Mapping):
        # What is taken uses up the reservation; a release ends it.
        balance.held = balance.held - Counter(items) if effect == "taken" else Counter()
        for item, count in items.items():
            balance.taken[item] += count if effect == "taken" else -count
            balance.lowest = min(balance.lowest, balance.taken[item])
    elif effect == "recorded":
        balance.recorded += 1
    elif effect == "failed":
        balance.failed = True
    elif effect == "told":
        balance.told[str(what.get("type"))] += 1


def breaches(
    entries: Sequence[Entry], sales: Iterable[Sale], results: Mapping[str, str] | None = None
) -> list[Breach]:
    """Return everything that is wrong with the orders, in their sequence.

    Args:
        entries: the whole ledger.
        sales: the orders as they were placed.
        results: order -> the status that the workflow returned; an order that is not in it has
            returned none, which is judged only where there is a mapping at all.
    """
    booked = balances(entries)
    spoiled = _failed_sends(entries)
    found: list[Breach] = []
    for sale in sales:
        balance = booked.get(sale.id, Balance())
        found += _of(sale, balance, spoiled[sale.id])
        if results is not None:
            found += _result(sale, balance, results.get(sale.id))
    return found


def _of(sale: Sale, balance: Balance, spoiled: int) -> list[Breach]:
    found: list[Breach] = []
    done = balance.ending == COMPLETED
    due = sale.cents if done else 0
    wanted = {item: count for item, count in sale.items.items() if done}
    kept = balance.charged - balance.refunded
    if not balance.ending:
        found.append(Breach("ending", sale.id, "completed | failed", "-"))
    if balance.recorded > 1:
        seen = f"completed x {balance.recorded}"
        found.append(Breach("ending", sale.id, "completed x 1", seen))
    if kept != due:
        seen = f"{euros(balance.charged)} - {euros(balance.refunded)} = {euros(kept)}"
        found.append(Breach("money", sale.id, f"{balance.ending or '-'}: {euros(due)}", seen))
    taken = {item: count for item, count in balance.taken.items() if count}
    if taken != wanted or balance.lowest < 0:
        shown = f"{balance.ending or '-'}: {wanted or 0}"
        found.append(Breach("stock", sale.id, shown, str(taken or balance.lowest)))
    elif balance.held and not done and balance.ending:
        shown, seen = f"{balance.ending}: 0", f"reserved: {dict(balance.held)}"
        found.append(Breach("stock", sale.id, shown, seen))
    return found + _told(sale, balance, done, spoiled)


def _told(sale: Sale, balance: Balance, done: bool, spoiled: int) -> list[Breach]:
    seen = balance.told["order_confirmation"]
    allowed = {0, 1} if done and spoiled > PATIENCE else {int(done)}
    if seen in allowed or not balance.ending:
        return []
    wanted = f"{balance.ending}: {' | '.join(map(str, sorted(allowed)))}"
    return [Breach("confirmation", sale.id, wanted, str(seen))]


def _result(sale: Sale, balance: Balance, result: str | None) -> list[Breach]:
    if result == balance.ending or not balance.ending:
        return []
    return [Breach("result", sale.id, balance.ending, result or "-")]


def _failed_sends(entries: Iterable[Entry]) -> Counter[str]:
    """Return order -> how many of its confirmations' sends met a fault."""
    confirming = {
        entry.request
        for entry in entries
        if entry.kind == "request" and (entry.service, entry.route) == ("notification", "send")
    }
    return Counter(
        entry.subject
        for entry in entries
        if entry.kind == "answer" and entry.request in confirming and _spoiled(entry.what)
    )


def _spoiled(what: Mapping[str, object]) -> bool:
    answered = what.get("answered")
    if answered in FAILURES or str(what.get("fault", "")).startswith("malformed"):
        return True
    return isinstance(answered, int) and (answered >= 500 or answered in (408, 429))


def euros(cents: int) -> str:
    """Return cents as an amount with two decimals."""
    return f"{Decimal(cents) / 100:.2f}"

"""What became of a shop's orders: how the checks judge it, and the limits that they judge by.

The sentences that these judgments speak in are the exercise's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from grader.orders import Order, Orders

if TYPE_CHECKING:
    from grader.lab import Lab

# exercise.toml sets SERVICE_TIMEOUT to 4.
TIMEOUT = 4.0
# For how long an answer is held back until something else has happened: shorter than that.
TOGETHER = 3.5
LEAST_TRIES, MOST_TRIES = 3, 6


def works_of(lab: Lab) -> Orders:
    """Return the lab's orders."""
    return lab.once("orders", lambda: Orders(lab))


def keeps(lab: Lab, works: Orders, *orders: Order) -> bool:
    """Whether every invariant holds for these orders; the first that does not is noted."""
    for breach in works.breaches(orders):
        order = next(order for order in orders if order.id == breach.order)
        said = {"order": breach.order, "wanted": breach.expected, "seen": breach.observed}
        lab.fact(False, f"broken_{breach.kind}", **said, timeline=works.timeline(order))
        return False
    return True


def ends(lab: Lab, works: Orders, order: Order, wanted: str) -> bool:
    """Whether an order's workflow returned this status and the ledger agrees."""
    said: dict[str, Any] = {"order": order.id, "wanted": wanted, "seen": order.told or "nothing"}
    said["timeline"] = works.timeline(order)
    return lab.fact(order.status == wanted, "ends", **said) and keeps(lab, works, order)


def requests(lab: Lab, works: Orders, order: Order, route: str, wanted: int) -> bool:
    """Whether a route got so many requests of an order; those that timed out don't count."""
    service, name = route.split()
    found = [e for e in works.seen(service, name, order) if e.answered != "hung up"]
    said = {"order": order.id, "route": route, "wanted": wanted, "seen": len(found)}
    return lab.fact(len(found) == wanted, "requests", **said, timeline=works.timeline(order))

"""What became of a shop's orders: how the checks judge it, and the limits that they judge by.

The sentences that these judgments speak in are the exercise's own.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from grader.order import Order
from grader.orders import Orders
from grader.services.shop.state import SERVICES

if TYPE_CHECKING:
    from grader.lab import Lab

# exercise.toml sets SERVICE_TIMEOUT to 4.
TIMEOUT = 4.0
# For how long an answer is held back until something else has happened: shorter than that.
TOGETHER = 3.5
LEAST_TRIES, MOST_TRIES = 3, 6
# What a circuit breaker does, and a moment more.
FAULTS_TO_OPEN, OPEN_SECONDS = 5, 10.5
# Of a final result.
KEYS = ("order_id", "status", "transaction_id", "order_record_id", "processed_at", "error")
LATELY = 600.0


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


def tries_enough(lab: Lab, works: Orders, order: Order, route: str) -> bool:
    """Whether a call that met nothing but faults was tried as often as it should be."""
    service, name = route.split()
    tries = len(works.seen(service, name, order))
    said: dict[str, Any] = {"order": order.id, "route": route, "seen": tries}
    said |= {"wanted": f"{LEAST_TRIES}..{MOST_TRIES}", "timeline": works.timeline(order)}
    return lab.fact(LEAST_TRIES <= tries <= MOST_TRIES, "requests", **said)


def result_has(lab: Lab, order: Order, **wanted: Any) -> bool:
    """Whether an order's final result has its six keys, these values, and a time that can be."""
    result = order.results[0]
    told = result.get("processed_at")
    timely = isinstance(told, int | float) and abs(told - time.time()) < LATELY
    right = timely and all(key in result for key in KEYS)
    right = right and {key: result.get(key) for key in wanted} == wanted
    failed = wanted["status"] == "failed"
    right = right and bool(result.get("error")) == failed
    shown = dict.fromkeys(KEYS, "...") | wanted | {"processed_at": "epoch seconds"}
    shown["error"] = "why it failed" if failed else None
    return lab.fact(right, "result", wanted=shown, seen=result)


def rested(works: Orders) -> None:
    """Wait until a circuit breaker that the last faults have opened, if any, is shut again."""
    last = faults_in_a_row(works, FAULTS_TO_OPEN)
    works.lab.until(lambda: time.time() > last + OPEN_SECONDS, within=2 * OPEN_SECONDS)


def faults_in_a_row(works: Orders, count: int) -> float:
    """Return when a service's last request ended, if so many before it met a fault; 0 if none."""
    rows = [[e for e in works.seen(name, "") if e.ended][-count:] for name in SERVICES]
    bad = [row for row in rows if len(row) == count and all(each.fault for each in row)]
    return max((each.ended or 0.0 for row in bad for each in row), default=0.0)


def requests(lab: Lab, works: Orders, order: Order, route: str, wanted: int) -> bool:
    """Whether a route got so many requests of an order; those that timed out don't count."""
    service, name = route.split()
    found = [e for e in works.seen(service, name, order) if e.answered != "hung up"]
    said = {"order": order.id, "route": route, "wanted": wanted, "seen": len(found)}
    return lab.fact(len(found) == wanted, "requests", **said, timeline=works.timeline(order))

"""The extension challenges of exercise 3_1: breaker, correlation, trace, rate limit."""

from __future__ import annotations

import json
import time
from datetime import datetime

from grader.check import check, hint
from grader.fulfilment import works_of
from grader.services.shop.trouble import status

FAILURES, OPEN_SECONDS = 5, 10
# What the order of a breaker's opening and the last request on its way may differ by.
GRACE = 0.5
STEPS = ("process_payment", "update_inventory", "create_order_record")
# Long enough for one request a second too many to show.
RATE, SPAN, ORDERS = 2, 6, 10


def completed(lab, works, orders):
    """Whether these orders were completed; without that there is nothing to see."""
    bad = next((order for order in orders if order.status != "completed"), None)
    if bad is None:
        return True
    said = {"order": bad.id, "wanted": "completed", "seen": bad.told}
    return lab.fact(False, "ends", **said, timeline=works.timeline(bad))


@check
def test_correlation(lab):
    """Challenge 2: all requests and log lines of one order carry one correlation id."""
    works = works_of(lab)
    orders = [works.order(), works.order()]
    works.shop.script("payment", "process", orders[0].id, status(503))
    works.play(orders)
    assert completed(lab, works, orders)

    owners = {}
    for order in orders:
        requests = [e for e in works.seen("", "") if e.subject in order.sale.subjects]
        ids = {each.correlation for each in requests}
        alone = len(ids) == 1 and "" not in ids and not ids & set(owners)
        assert lab.fact(alone, "one_id", order=order.id, seen=sorted(ids))
        owners[ids.pop()] = {f"{each.service}_service" for each in requests}
    for id, services in owners.items():
        lines = [line for line in lab.worker.log.splitlines() if id in line]
        silent = [name for name in services if not any(name in line for line in lines)]
        assert lab.fact(not silent, "logged", id=id, seen=silent), hint("logs")


@check
def test_order_trace(lab):
    """Challenge 3: order_trace lists an order's steps with their times."""
    works = works_of(lab)
    missing = lab.unregistered(["order_trace"])
    assert lab.fact(not missing, "registered", missing=missing, found=lab.tasks)
    order, other = works.order(), works.order()
    began = time.time()
    works.play([order, other])
    assert completed(lab, works, [order, other])

    lab.restart_worker()  # one process may have done every step: what it remembers is no trace
    call = lab.call("order_trace", order.id, within=15)

    steps = call.reply.result if call.reply and call.reply.succeeded else None
    rows = steps if isinstance(steps, list) else []
    names = [step_of(row) for row in rows]
    times = [moment(row) for row in rows]
    right = (
        list(dict.fromkeys(name for name in names if name in STEPS)) == list(STEPS)
        and None not in times
        and times == sorted(times)
        and all(began - 5 <= each <= time.time() + 5 for each in times)
        and other.id not in json.dumps(rows)
    )
    said = {"order": order.id, "wanted": ", ".join(STEPS), "seen": steps}
    assert lab.fact(right, "trace", **said)


def step_of(row):
    """Return the name of a step of a trace."""
    return str(row.get("step")).rpartition(".")[2] if isinstance(row, dict) else None


def moment(row):
    """Return a step's time in epoch seconds, None if it has none that can be read."""
    at = row.get("at") if isinstance(row, dict) else None
    if isinstance(at, int | float):
        return float(at)
    try:
        return datetime.fromisoformat(at).timestamp()
    except (TypeError, ValueError):
        return None


@check(after=test_correlation, lane="breaker")
def test_circuit_breaker(lab):
    """Challenge 1: after 5 failures a service is left alone for 10 s, then tried once."""
    works = works_of(lab)
    shop = works.shop
    # One process, real waits: a breaker's memory may be its process's own.
    lab.restart_worker(concurrency=1, speed=1)
    shop.down("notification", status(503))
    orders = [works.order() for _ in range(6)]
    for order in orders:
        works.send(order)
    lab.until(lambda: len(works.seen("notification", "send")) >= FAILURES, within=40)
    tries = works.seen("notification", "send")
    enough = len(tries) >= FAILURES
    said = {"wanted": f"{FAILURES} requests", "seen": f"{len(tries)} requests in 40 s"}
    assert lab.fact(enough, "breaker", **said)
    lab.until(lambda: works.seen("notification", "send")[FAILURES - 1].ended, within=10)
    opened = works.seen("notification", "send")[FAILURES - 1].ended

    lab.until(lambda: time.time() > opened + OPEN_SECONDS + GRACE, within=OPEN_SECONDS * 2)
    for order in (late := [works.order() for _ in range(4)]):
        works.send(order)
    trial = opened + OPEN_SECONDS - GRACE
    lab.until(lambda: len(after(works, trial)) > 0, within=20)
    lab.until(lambda: len(after(works, trial)) > 1, within=4)

    early = [e for e in works.seen("notification", "send") if opened + GRACE < e.at < trial]
    said = {"wanted": "0 requests", "seen": f"{len(early)} requests"}
    assert lab.fact(not early, "breaker", **said)
    tried = len(after(works, trial))
    said = {"wanted": "then 1 request", "seen": f"{tried} requests"}
    assert lab.fact(tried == 1, "breaker", **said), hint("trial")
    assert shuts_again(lab, works), hint("closes")
    lab.finish([order.calls[0] for order in late])
    assert completed(lab, works, late)


def shuts_again(lab, works):
    """Whether the circuit is closed for good when the service is mended after a failed trial.

    It is closed if single faults do no harm then. Where it is half open, or all failures are
    counted and not those in a row, each fault opens it for another 10 s.
    """
    works.shop.down("notification", None)
    shut = time.time() + OPEN_SECONDS + GRACE
    lab.until(lambda: time.time() > shut, within=OPEN_SECONDS * 2)
    first, *others = [works.order() for _ in range(FAILURES)]
    for order in others:
        works.shop.script("notification", "send", order.id, status(503))
    # Less than it takes with a wait of 10 s for each fault.
    within = OPEN_SECONDS * (len(others) - 1)
    return confirmed(lab, works, [first], within) and confirmed(lab, works, others, within)


def confirmed(lab, works, orders, within):
    """Whether these customers are told in time once their orders are sent."""
    for order in orders:
        works.send(order)
    lab.until(lambda: all(works.effects(each, "told") for each in orders), within=within)
    seen = sum(bool(works.effects(each, "told")) for each in orders)
    return lab.fact(seen == len(orders), "shut", wanted=len(orders), seen=seen, within=within)


def after(works, moment):
    """Return the notices that were tried after a moment."""
    return [e for e in works.seen("notification", "send") if e.at > moment]


@check(after=test_correlation, lane="rate")
def test_payment_rate_limit(lab):
    """Challenge 4: PAYMENT_RATE_LIMIT holds for all worker processes together."""
    works = works_of(lab)
    extra = {"PAYMENT_RATE_LIMIT": str(RATE)}
    lab.restart_worker(extra, speed=1)
    lab.second_worker(extra, speed=1)
    orders = [works.order() for _ in range(ORDERS)]

    works.play(orders)

    assert completed(lab, works, orders)
    times = [e.at for e in works.seen("payment", "")]
    # A window that begins between two of the limiter's own seconds sees parts of both.
    most = RATE * (SPAN + 1) + 1
    busiest = max(sum(start <= at < start + SPAN for at in times) for start in times)
    said = {"limit": RATE, "span": SPAN, "most": most, "seen": busiest}
    assert lab.fact(busiest <= most, "rate", **said)

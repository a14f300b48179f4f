"""Compensations of exercise 3_1 that keep failing: for how long they are tried again."""

from __future__ import annotations

import base64
import contextlib
import functools
import itertools
import time

from grader.check import check, hint, named
from grader.fulfilment import FAULTS_TO_OPEN, MOST_TRIES, ends, faults_in_a_row, works_of
from grader.orders import QUIET_SECONDS
from grader.services.shop.trouble import lost, refuse, status

# What a compensation's planned waits come to at least, but for what goes lost in the looking.
PATIENT_SECONDS = 59
# A message is seen so long after the try that it follows, at most.
SEEN_SECONDS = 0.3
# Who has ended the order and has not tried for so long does not try again.
SILENT_SECONDS = 20.0
RECORD_FAILS = named("record_fails")  # in test_faults.py
# By the route that fails four times: what an order meets there.
FLAKY = {
    "payment refund": (status(503), refuse(), status(500), refuse()),
    "inventory release": (refuse(), status(429), refuse(), lost()),
    "order mark_failed": (status(503), status(503), status(503), lost()),
}


@check(after=RECORD_FAILS, lane="patience")
def test_flaky_compensation(lab):
    """Compensations that fail are tried again for at least 60 s, and made in the end."""
    works = works_of(lab)
    orders = failing(works, FLAKY)

    works.play(list(orders.values()))

    for order in orders.values():
        assert ends(lab, works, order, "failed")
    for route, (seconds, tries) in patience(lab, works).items():
        said = {"route": route, "seen": f"{tries} tries, {seconds:.0f} s"}
        assert lab.fact(seconds >= PATIENT_SECONDS, "patience", **said), hint("gives_up")


def failing(works, faults):
    """Return route -> an order that fails after all its steps and meets these faults there."""
    orders = {route: works.order() for route in faults}
    for route, order in orders.items():
        works.shop.script("order", "create", order.id, *[status(422)] * MOST_TRIES)
        works.shop.script(*route.split(), order.id, *faults[route])
    return orders


def patience(lab, works):
    """Return route -> for how many seconds it was to be tried, and how often it was so far.

    None of these compensations is ever made: the orders are left alone as soon as enough has been
    seen. Others go well meanwhile, so that no circuit breaker opens and makes the waits long.
    """
    orders = failing(works, {route: [status(503)] * 1000 for route in FLAKY})
    mark, well = len(lab.history.messages), []

    def planned(route):
        others = [order.id for order in (*orders.values(), *well) if order is not orders[route]]
        mine = [m for m in lab.history.messages[mark:] if not named_in(m, others)]
        return patience_of(works.seen(*route.split(), orders[route]), mine)

    def given_up(route):
        last = max((each.at for each in works.seen(*route.split(), orders[route])), default=0.0)
        return orders[route].status and time.time() - last > SILENT_SECONDS

    def over():
        lab.publisher.fetch(calls)
        idle = works.ended(calls) and works.quiet_for() > QUIET_SECONDS
        return idle or all(planned(r) >= PATIENT_SECONDS or given_up(r) for r in orders)

    def in_danger():
        lab.publisher.fetch([order.calls[0] for order in well[-1:]])
        return all(o.status for o in well[-1:]) and faults_in_a_row(works, FAULTS_TO_OPEN - 2)

    lab.dirty = True
    with lab.tapped():
        calls = [works.send(order) for order in orders.values()]
        deadline = time.monotonic() + 2 * PATIENT_SECONDS
        while not over() and time.monotonic() < deadline:
            lab.until(lambda: over() or in_danger(), within=PATIENT_SECONDS)
            well.append(works.order())
            works.send(well[-1])
    return {r: (planned(r), len(works.seen(*r.split(), o))) for r, o in orders.items()}


def named_in(message, ids):
    """Whether a message names one of these orders, as far as it can be read."""
    text = readable(message.body)
    return any(id in text for id in ids)


@functools.lru_cache(4096)
def readable(body):
    """Return a message's body as text; Redis holds it in base 64."""
    with contextlib.suppress(ValueError):
        return base64.b64decode(body[: len(body) // 4 * 4], validate=True).decode(errors="replace")
    return body


def patience_of(tries, messages):
    """Return how long it is from the first try to the last one that is planned.

    A wait that a message plans is shorter here, so what it was to be counts; any other wait is as
    long as it is. Messages that only look whether they may try count as much as the longest.
    """
    total = 0.0
    nexts = [each.at for each in tries[1:]]
    for each, following in itertools.zip_longest(tries, nexts):
        ends = following or float("inf")
        sent = [m for m in messages if m.planned_for and each.at <= m.at < ends]
        waits = [m.planned_for - m.at + min(m.at - each.at, SEEN_SECONDS) for m in sent]
        total += max(following - each.at if following else 0.0, *waits, 0.0)
    return total

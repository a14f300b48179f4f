"""Compensations of exercise 3_1 that keep failing: for how long they are tried again."""

from __future__ import annotations

import itertools

from grader.check import check, hint, named
from grader.fulfilment import MOST_TRIES, ends, works_of
from grader.orders import QUIET_SECONDS
from grader.services.shop.trouble import lost, refuse, status

# A compensation's planned waits come to a minute at least; each is seen a little late.
PATIENT_SECONDS = 50
RECORD_FAILS = named("record_fails")  # in test_faults.py


@check(after=RECORD_FAILS, lane="patience")
def test_flaky_compensation(lab):
    """Compensations that fail are tried again for at least 60 s, and made in the end."""
    works = works_of(lab)
    order = works.order()
    works.shop.script("order", "create", order.id, *[status(422)] * MOST_TRIES)
    works.shop.script("payment", "refund", order.id, status(503), refuse(), status(500), refuse())
    works.shop.script("inventory", "release", order.id, refuse(), status(429), refuse(), lost())
    works.shop.script("order", "mark_failed", order.id, *[status(503)] * 3, lost())

    works.play([order])

    assert ends(lab, works, order, "failed")
    seconds, tries = patience(lab, works)
    said = {"seen": f"{tries} tries, {seconds:.0f} s"}
    assert lab.fact(seconds >= PATIENT_SECONDS, "patience", **said), hint("gives_up")


def patience(lab, works):
    """Return for how many seconds an order's refund was to be tried, and how often it was so far.

    The refund is never made: the order is left alone as soon as enough has been seen.
    """
    order = works.order()
    works.shop.script("order", "create", order.id, *[status(422)] * MOST_TRIES)
    works.shop.script("payment", "refund", order.id, *[status(503)] * 1000)
    mark, longest = len(lab.history.messages), 2 * PATIENT_SECONDS

    def planned():
        return patience_of(works.seen("payment", "refund", order), lab.history.messages[mark:])

    def over():
        idle = works.ended([call]) and works.quiet_for() > QUIET_SECONDS
        return planned() >= PATIENT_SECONDS or idle

    lab.dirty = True
    with lab.tapped():
        call = works.send(order)
        lab.until(over, within=longest)
    return planned(), len(works.seen("payment", "refund", order))


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
        waits = [m.planned_for - m.at for m in sent]
        total += max(following - each.at if following else 0.0, *waits, 0.0)
    return total

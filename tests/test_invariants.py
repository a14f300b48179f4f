"""The checker over recorded histories, good and bad, and the schedules: pure functions."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from grader import schedule
from grader.invariants import Sale, breaches
from grader.ledger import Entry
from grader.schedule import Plan, Trouble, draw, shrink, text

SALE = Sale("o1", 1230, {"tea": 2})
CHARGED = {"effect": "charged", "cents": 1230}
REFUNDED = {"effect": "refunded", "cents": 1230}
TAKEN = {"effect": "taken", "items": {"tea": 2}}
RESERVED = {"effect": "reserved", "items": {"tea": 2}}
RELEASED = {"effect": "released", "items": {"tea": 2}}
RECORDED = {"effect": "recorded"}
FAILED = {"effect": "failed"}
CONFIRMED = {"effect": "told", "type": "order_confirmation"}
REGRETTED = {"effect": "told", "type": "order_failed"}
GOOD = [CHARGED, TAKEN, RECORDED, CONFIRMED]
UNDONE = [CHARGED, TAKEN, FAILED, RELEASED, REFUNDED, REGRETTED]


def entries(*effects, sends=()):
    """Return a ledger with these effects on o1, and answers to its confirmation's sends."""
    rows = [Entry(0, "effect", n, "x", "x", "o1", what) for n, what in enumerate(effects)]
    for number, what in enumerate(sends, 1000):
        rows.append(Entry(0, "request", number, "notification", "send", "o1", {}))
        rows.append(Entry(0, "answer", number, "notification", "send", "o1", what))
    return rows


@pytest.mark.parametrize(
    "effects",
    [
        GOOD,
        UNDONE,
        [FAILED],
        [RESERVED, *GOOD],
        [RESERVED, *UNDONE],
        [RESERVED, RELEASED | {"items": {}}, FAILED],
        [*UNDONE, REFUNDED | {"cents": 0}],
    ],
)
def test_good_histories_have_no_breach(effects):
    """A completed order, and one that was undone, are right."""
    result = "failed" if FAILED in effects else "completed"

    assert breaches(entries(*effects), [SALE], {"o1": result}) == []


@pytest.mark.parametrize(
    ("effects", "kinds"),
    [
        ([], ["ending"]),
        ([CHARGED], ["ending", "money"]),
        ([CHARGED, *GOOD], ["money"]),
        ([CHARGED, FAILED], ["money"]),
        ([TAKEN, FAILED], ["stock"]),
        ([RELEASED, TAKEN, FAILED], ["stock"]),
        ([RESERVED, FAILED], ["stock"]),
        ([CHARGED, RECORDED, CONFIRMED], ["stock"]),
        ([*GOOD, TAKEN], ["stock"]),
        ([*GOOD, RECORDED], ["ending"]),
        ([*GOOD, CONFIRMED], ["confirmation"]),
        (GOOD[:3], ["confirmation"]),
        ([*UNDONE, CONFIRMED], ["confirmation"]),
        ([*GOOD, FAILED], ["money", "stock", "confirmation"]),
        ([CHARGED, REFUNDED, REFUNDED, FAILED], ["money"]),
    ],
)
def test_bad_histories_are_told_by_what_is_wrong(effects, kinds):
    """Each kind of mistake is a breach of its own invariant."""
    assert [breach.kind for breach in breaches(entries(*effects), [SALE])] == kinds


@pytest.mark.parametrize(
    ("sends", "right"),
    [
        ([], False),
        ([{"answered": 503}] * 2, False),
        ([{"answered": 503}, {"answered": "lost"}, {"answered": "killed"}], True),
        ([{"answered": 200, "fault": "malformed"}] * 3, True),
        ([{"answered": 200}] * 3, False),
    ],
)
def test_a_confirmation_may_be_missing_only_after_three_failures(sends, right):
    """Where sending failed more than twice, at most one confirmation is wanted, not exactly one."""
    found = breaches(entries(*GOOD[:3], sends=sends), [SALE])

    assert (found == []) is right


@pytest.mark.parametrize(("result", "right"), [("completed", True), ("failed", False), ("", False)])
def test_the_workflow_says_what_the_record_says(result, right):
    """A returned status that differs from the record is a breach, and so is none."""
    assert (breaches(entries(*GOOD), [SALE], {"o1": result}) == []) is right


def test_other_orders_are_no_concern():
    """Effects on orders that were not placed are not judged."""
    assert breaches(entries(CHARGED), []) == []


# Schedules


def test_a_schedule_is_the_same_for_the_same_seed():
    """The same seed draws the same orders and faults, another seed others."""
    assert draw(random.Random(5)) == draw(random.Random(5)) != draw(random.Random(6))


def test_schedules_stay_within_the_contract():
    """Compensations meet four faults at most, and as many kills are drawn as asked for."""
    for seed in range(50):
        plans = draw(random.Random(seed), orders=40, kills=5)
        troubles = [trouble for plan in plans for trouble in plan.troubles]
        back = [t for t in troubles if (t.service, t.route) in schedule.BACKWARD]
        assert len(plans) == 40 and all(len(t.faults) <= 4 for t in back)
        assert sum("kill" in f for t in troubles for f in t.faults) == 5


def test_some_orders_of_a_schedule_go_well():
    """An order goes well that meets no fault on its way forward and is refused by nobody."""
    forward, back = Trouble("user", "validate", ("lost",)), Trouble("payment", "refund", ("lost",))

    assert Plan(1).goes_well and Plan(2, troubles=(back,)).goes_well
    assert not any(
        plan.goes_well
        for plan in (
            Plan(1, troubles=(forward,)),
            Plan(2, scarce=True),
            Plan(3, user="blocked"),
            Plan(4, method="empty_card"),
        )
    )
    # Their successes are what keeps the others' failures from coming five in a row.
    least = min(
        sum(p.goes_well for p in draw(random.Random(seed), orders=40, kills=5))
        for seed in range(50)
    )
    assert least >= 3


def test_a_failing_schedule_is_shrunk_to_the_order_that_fails():
    """Only the guilty order is left, and only the trouble that it takes."""
    guilty = Trouble("payment", "process", ("lost",))
    other = Trouble("user", "validate", ("refuse",))
    plans = [Plan(n, troubles=(other,)) for n in range(1, 9)]
    plans[4] = replace(plans[4], troubles=(guilty, other))

    def fails(chosen):
        return any(guilty in plan.troubles for plan in chosen)

    assert shrink(plans, [2, 5], fails) == [Plan(5, troubles=(guilty,))]


def test_what_fails_only_together_is_shown_whole():
    """When no part fails by itself the whole schedule stays."""
    plans = [Plan(n) for n in range(1, 4)]

    assert shrink(plans, [1], lambda chosen: len(chosen) == 3) == plans


def test_shrinking_plays_no_more_than_allowed():
    """The number of plays is bounded."""
    played = []
    plans = [Plan(n, troubles=(Trouble("a", "b", ("x",) * 2),) * 5) for n in range(20)]

    shrink(plans, range(20), lambda chosen: played.append(1) or True, tries=3)

    assert len(played) <= 3


def test_a_schedule_is_told_in_words():
    """Each order is a line with its faults."""
    plan = Plan(3, scarce=True, twice=True, troubles=(Trouble("user", "validate", ("lost",)),))

    assert text([plan, Plan(4)]).splitlines() == [
        "order 3 (user, credit_card, scarce item, sent twice): user validate: lost",
        "order 4 (user, credit_card): no fault",
    ]

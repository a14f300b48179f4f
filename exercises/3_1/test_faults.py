"""Orders of exercise 3_1 that fail for good, and those that meet a fault or two on the way.

They are played together, each with faults of its own, and judged one by one from the services'
ledger.
"""

from __future__ import annotations

import itertools

from grader.check import check, hint, named
from grader.fulfilment import (
    MOST_TRIES,
    TIMEOUT,
    ends,
    requests,
    rested,
    result_has,
    tries_enough,
    works_of,
)
from grader.services.shop.trouble import hold, latency, lost, malformed, refuse, status

# What the error of an order says: the word of each validation that failed, and one of the reasons.
BLOCKED = {"user": ("the account is blocked",)}
SOLD_OUT = {"inventory": ("sold_out",)}
EXPIRED = {"payment": ("the card has expired",)}
REASONS = {
    "blocked": BLOCKED,
    "sold_out": SOLD_OUT,
    "expired": EXPIRED,
    # The service's reason is its error: the code or the sentence.
    "unknown": {"user": ("unknown_user", "no account")},
    "all": BLOCKED | SOLD_OUT | EXPIRED,
}
# Calls that are never answered well: each stops its order, wherever that has got to.
SILENT = ("user validate", "inventory check", "payment validate", "order create")
FORWARD = (*SILENT, "payment process", "inventory update", "notification send")
WRITES = ("reserve", "update", "release", "process", "refund", "create", "mark_failed", "send")
# In test_basics.py and test_concurrency.py.
ORDERLY = (named("happy_path"), named("one_child_is_enough"))


def first_batch(lab):
    """Play the orders that fail for good, and those that meet a fault or two on the way."""
    return lab.once("first batch", lambda: play_first(works_of(lab)))


def play_first(works):
    """Make the orders, script their faults and play them all at once."""
    orders = first_orders(works)
    fail_for_good(works.shop, orders)
    # Two faults stop no call, because each has three tries at least.
    disturb(works.shop, orders["bumpy"])
    works.shop.script("payment", "process", orders["lost"].id, lost())
    works.shop.script("payment", "process", orders["slow"].id, latency(TIMEOUT + 0.5))
    works.play(list(orders.values()))
    return orders


def first_orders(works):
    """Return orders by what they are for; the first six have the reason to fail in themselves."""
    return {
        "blocked": works.order(user="blocked"),
        "unknown": works.order(user="unknown"),
        "sold_out": works.order(item="sold_out"),
        "expired": works.order(method="expired_card"),
        "all": works.order(user="blocked", item="sold_out", method="expired_card"),
        "declined": works.order(method="empty_card"),
        "stock_gone": works.order(),
        "record": works.order(),
        "bumpy": works.order(),
        "lost": works.order(),
        "slow": works.order(),
        "undone": works.order(),
    }


def exhausted(lab):
    """Play orders one of whose calls never succeeds and has no effect; return them by its route."""
    return lab.once("exhausted", lambda: play_exhausted(works_of(lab)))


def play_exhausted(works):
    orders = {route: works.order() for route in SILENT}
    for route, order in orders.items():
        subject = works.subject(order, *route.split())
        works.shop.script(*route.split(), subject, *[status(503)] * (MOST_TRIES + 1))
    works.play(list(orders.values()))
    rested(works)
    return orders


def fail_for_good(shop, orders):
    """Script what makes orders fail that have nothing wrong in themselves."""
    gone, undone = orders["stock_gone"], orders["undone"]

    def sell_out():
        shop.stock(gone.item, 0)
        return True

    # Sold to somebody else between the check and the update.
    shop.script("payment", "process", gone.id, hold(sell_out, 1))
    shop.script("order", "create", orders["record"].id, *[status(422)] * MOST_TRIES)
    shop.script("order", "create", undone.id, status(422))
    for place in (("order", "mark_failed"), ("inventory", "release"), ("payment", "refund")):
        shop.script(*place, undone.id, status(503))


def disturb(shop, order):
    """Script two faults on each call of an order.

    Nothing is lost here: what a missing key does is told by another order.
    """
    shop.script("user", "validate", order.body["user_id"], status(503), refuse())
    shop.script("inventory", "check", order.item, status(504), status(500))
    shop.script("payment", "validate", order.amount, malformed(), status(503))
    shop.script("payment", "process", order.id, status(500), refuse())
    shop.script("inventory", "update", order.id, refuse(), status(503))
    shop.script("order", "create", order.id, status(502), refuse())
    shop.script("notification", "send", order.id, status(500), status(503))


@check(after=ORDERLY)
def test_failed_validations(lab):
    """Each failed validation, and all at once, fail the order: no charge, the reasons told."""
    works, orders = works_of(lab), first_batch(lab)
    for name, reasons in REASONS.items():
        order = orders[name]
        assert requests(lab, works, order, "payment process", 0), hint("charged")
        assert ends(lab, works, order, "failed")
        told = str(order.results[0].get("error")).lower()
        for word, wanted in reasons.items():
            right = word in told and any(reason in told for reason in wanted)
            said = {"order": order.id, "word": word, "reason": wanted[0], "seen": told}
            assert lab.fact(right, "reason", **said), hint("reason")
        bare = order.results[0].get("order_record_id") is None
        assert lab.fact(bare, "no_record", order=order.id, seen=order.results[0])
        assert result_has(lab, order, order_id=order.id, status="failed"), hint("result")
    for route, order in exhausted(lab).items():
        # What is tried too often is a matter of transient_errors.
        if route != "order create" and len(works.seen(*route.split(), order)) <= MOST_TRIES:
            assert requests(lab, works, order, "payment process", 0), hint("silent")
            assert ends(lab, works, order, "failed"), hint("silent")


@check(after=ORDERLY)
def test_declined(lab):
    """A declined charge fails the order, and no stock is touched."""
    works, order = works_of(lab), first_batch(lab)["declined"]

    assert requests(lab, works, order, "inventory update", 0)
    assert requests(lab, works, order, "order create", 0)
    assert ends(lab, works, order, "failed")


@check(after=ORDERLY)
def test_stock_gone(lab):
    """Stock that is gone after the charge: refunded, marked failed, the customer told."""
    works, order = works_of(lab), first_batch(lab)["stock_gone"]

    assert ends(lab, works, order, "failed"), hint("not_refunded")
    lab.until(lambda: "order_failed" in notices(works, order), within=5)
    told = notices(works, order)
    said = {"order": order.id, "seen": told, "timeline": works.timeline(order)}
    assert lab.fact("order_failed" in told, "notice", **said), hint("not_told")
    result = order.results[0]
    right = bool(result.get("error"))
    assert lab.fact(right, "result", wanted={"error": "why it failed"}, seen=result), hint("why")


def notices(works, order):
    """Return the types of the notices that an order's customer got."""
    return [effect["type"] for effect in works.effects(order, "told")]


@check(after=ORDERLY)
def test_record_fails(lab):
    """A record that can't be written after charge and stock: refunded and released."""
    works, order = works_of(lab), first_batch(lab)["record"]

    assert ends(lab, works, order, "failed")
    silent = exhausted(lab)["order create"]
    # What is tried too often is a matter of transient_errors, here as above.
    if len(works.seen("order", "create", silent)) <= MOST_TRIES:
        assert ends(lab, works, silent, "failed")


@check(after=ORDERLY)
def test_transient_errors(lab):
    """A transient error is tried again, 3 to 6 times in all, after waits that grow."""
    works, bumpy = works_of(lab), first_batch(lab)["bumpy"]
    assert ends(lab, works, bumpy, "completed")
    for route, silent in exhausted(lab).items():
        assert tries_enough(lab, works, silent, route), hint("count")

    # Three, one after the other: a machine that is busy for a moment blurs what is seen of one.
    for order in (works.order() for _ in range(3)):
        works.shop.script("payment", "process", order.id, status(503), status(503))
        mark = len(lab.history.messages)
        with lab.tapped():
            works.play([order])

        assert ends(lab, works, order, "completed"), hint("gives_up")
        messages = lab.history.messages[mark:]
        first, second = planned_waits(works.seen("payment", "process", order), messages)
        shown = f"{sum(first) / 2:.2f} s, {sum(second) / 2:.2f} s"
        near = first[1] >= 0.25 and first[0] <= 2.5
        assert lab.fact(near, "first_wait", seen=shown), hint("waits")
        assert lab.fact(second[1] > first[0] + 0.1, "growing", seen=shown), hint("waits")


def planned_waits(tries, messages):
    """Return the two waits between three tries, each as the least and the most it can have been.

    A task that is sent for later says when it is due. It was sent after the service's answer and
    before the grader saw it, and on a busy machine these lie apart: only a wait that is wrong
    either way is held against anybody. For a wait of any other kind the time between the requests
    is all there is to see.
    """
    later = sorted((m for m in messages if m.planned_for), key=lambda m: m.at)
    # A task that only looks at the order now and then is put off as well, in whatever rhythm.
    later = [m for m in later if m.task.endswith(".process_payment")] or later
    waits = []
    for place, (before, after) in enumerate(itertools.pairwise(tries)):
        ended, gap = before.ended or before.at, after.at - (before.ended or before.at)
        due = [m for m in later if ended <= m.at <= (after.ended or after.at)]
        if len(later) == len(tries) - 1:
            due = [later[place]]
        # The longest one: whatever else was put off meanwhile is no wait of this call.
        last = max(due, key=lambda m: m.planned_for - m.at, default=None)
        lag = (last.planned_for - last.at, last.planned_for - ended) if last else (gap - 0.15, gap)
        waits.append(lag)
    return waits[:2]


@check(after=ORDERLY)
def test_busy_services(lab):
    """408 (it took too long) and 429 (too many requests) are tried again as well."""
    works = works_of(lab)
    orders = {code: works.order() for code in (408, 429)}
    for code, order in orders.items():
        for route in FORWARD:
            subject = works.subject(order, *route.split())
            works.shop.script(*route.split(), subject, status(code))

    works.play(list(orders.values()))

    for code, order in orders.items():
        assert ends(lab, works, order, "completed"), hint(str(code))


@check(after=ORDERLY)
def test_permanent_errors(lab):
    """A permanent error (a 4xx but 408 and 429) is not tried again."""
    works, orders = works_of(lab), first_batch(lab)
    cases = {
        "unknown": "user validate",
        "declined": "payment process",
        "stock_gone": "inventory update",
        "record": "order create",
    }
    if refused(works.seen("inventory", "reserve", orders["stock_gone"])):
        cases["stock_gone"] = "inventory reserve"  # asked for first, by whoever reserves
    for name, route in cases.items():
        assert requests(lab, works, orders[name], route, 1)


def refused(exchanges):
    """Whether one of the requests was answered with 409."""
    return any(each.answered == 409 for each in exchanges)


@check(after=(test_transient_errors, test_record_fails))
def test_idempotency_keys(lab):
    """A write has an Idempotency-Key, the same in each attempt, another for each order."""
    works = works_of(lab)
    first_batch(lab)
    owners = {}
    for each in (e for e in works.seen("", "") if e.route in WRITES):
        place = (each.service, each.route)
        said = {"route": " ".join(place), "order": each.subject, "seen": each.key or "-"}
        assert lab.fact(each.key, "no_key", **said), hint("no_key")
        mine = owners.setdefault(place, {})
        keys = {key for key, order in mine.items() if order == each.subject} | {each.key}
        said["seen"] = ", ".join(sorted(keys))
        assert lab.fact(len(keys) == 1, "new_key", **said), hint("new_key")
        other = mine.setdefault(each.key, each.subject)
        said["other"] = other
        assert lab.fact(other == each.subject, "shared_key", **said), hint("shared_key")


@check(after=test_idempotency_keys)
def test_lost_charge_answer(lab):
    """A charge whose answer is lost is not made a second time."""
    works, orders = works_of(lab), first_batch(lab)
    for order, words in ((orders["lost"], "default"), (orders["slow"], "too_late")):
        charges = works.effects(order, "charged")
        said = {"order": order.id, "seen": len(charges), "timeline": works.timeline(order)}
        assert lab.fact(len(charges) == 1, "one_charge", **said), hint(words)
        assert ends(lab, works, order, "completed"), hint(words)

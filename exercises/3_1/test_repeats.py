"""What comes more than once in exercise 3_1: calls that never succeed, and orders sent again."""

from __future__ import annotations

from grader.check import check, hint, named
from grader.fulfilment import TOGETHER, ends, keeps, tries_enough, works_of
from grader.services.shop.trouble import hold, lost, status

# In test_basics.py and test_concurrency.py.
ORDERLY = (named("happy_path"), named("one_child_is_enough"))
# In test_faults.py.
TRANSIENT_ERRORS, RECORD_FAILS = named("transient_errors"), named("record_fails")
LOST_CHARGE_ANSWER = named("lost_charge_answer")


@check(after=(LOST_CHARGE_ANSWER, RECORD_FAILS))
def test_all_charge_answers_lost(lab):
    """When every answer to a write is lost, what it may have done is undone by the order's id."""
    works, orders = works_of(lab), last_batch(lab)

    assert ends(lab, works, orders["all_lost"], "failed")
    assert tries_enough(lab, works, orders["all_lost"], "payment process")
    assert ends(lab, works, orders["stock_lost"], "failed"), hint("stock")
    assert tries_enough(lab, works, orders["stock_lost"], "inventory update")


@check(after=TRANSIENT_ERRORS)
def test_optional_calls(lab):
    """A confirmation or an analytics call that keeps failing does not fail the order."""
    works, orders = works_of(lab), last_batch(lab)

    assert ends(lab, works, orders["untold"], "completed")
    for route in ("notification send", "analytics track"):
        assert tries_enough(lab, works, orders["untold"], route), hint("tries")


def last_batch(lab):
    """Play the orders that could open a circuit breaker, after everything else."""
    return lab.once("last batch", lambda: play_last(works_of(lab)))


def play_last(works):
    shop = works.shop
    orders = {"all_lost": works.order(), "untold": works.order(), "stock_lost": works.order()}
    shop.script("payment", "process", orders["all_lost"].id, *[lost()] * 12)
    for service, route in (("notification", "send"), ("analytics", "track")):
        shop.script(service, route, orders["untold"].id, *[status(500)] * 12)
    shop.script("inventory", "update", orders["stock_lost"].id, *[lost()] * 12)
    works.play([orders["all_lost"], orders["untold"]])
    works.play([orders["stock_lost"]])
    return orders


@check(after=ORDERLY)
def test_order_sent_again(lab):
    """The last item sold and the order sent again: still one completed order."""
    works = works_of(lab)
    order = works.order()
    works.shop.stock(order.item, order.sale.items[order.item])
    works.play([order])
    assert ends(lab, works, order, "completed")

    works.play([order])

    assert keeps(lab, works, order)
    assert same_end(lab, works, order)
    assert failed_again(lab, works), hint("failed")


def failed_again(lab, works):
    """Whether an order that failed for lack of stock stays failed when there is some again."""
    order = works.order()
    works.shop.stock(order.item, 0)
    works.play([order])
    works.shop.stock(order.item, 100)

    works.play([order])

    entries = works.shop.ledger.entries
    mine = [e.what.get("effect") for e in entries if e.kind == "effect" and e.subject == order.id]
    untouched = not {"charged", "taken", "recorded"} & set(mine)
    right = untouched and [result.get("status") for result in order.results] == ["failed", "failed"]
    said = {"order": order.id, "seen": order.told, "timeline": works.timeline(order)}
    return lab.fact(right, "still_failed", **said)


def same_end(lab, works, order):
    """Whether an order that was sent twice returned the same both times."""
    names = ("order_id", "status", "transaction_id", "order_record_id")
    seen = [{name: result.get(name) for name in names} for result in order.results]
    said = {"order": order.id, "seen": order.told}
    right = seen[0] == seen[1] and seen[0]["status"] == "completed"
    return lab.fact(right, "same_end", **said, timeline=works.timeline(order))


@check(after=test_order_sent_again)
def test_duplicate_during_charge(lab):
    """The order sent again while it is being charged: one charge, one end for both."""
    works = works_of(lab)
    order = works.order()
    works.shop.stock(order.item, order.sale.items[order.item])

    def second_began():
        calls = order.calls[1:]
        return bool(calls) and lab.history.executions(calls[0].id) > 0

    works.shop.script("payment", "process", order.id, hold(second_began, TOGETHER))
    works.send(order)
    lab.until(lambda: works.seen("payment", "process", order), within=20)

    works.play([order])

    assert keeps(lab, works, order)
    assert same_end(lab, works, order)

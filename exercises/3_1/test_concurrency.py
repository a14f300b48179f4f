"""What exercise 3_1 asks at the same time: an order's validations, the health of six services.

The last check leaves the worker a single child: nothing may wait inside a task then.
"""

from __future__ import annotations

from grader.check import check, hint, named
from grader.fulfilment import TIMEOUT, TOGETHER, ends, works_of
from grader.order import words_of
from grader.services.shop.trouble import hold, latency, refuse, status

SERVICES = ("user", "order", "payment", "notification", "inventory", "analytics")
HEALTH_SECONDS = 30
HAPPY = named("happy_path")  # in test_basics.py


def held_together(works, places):
    """Script a hold on each (service, route, subject) until all of them have been asked."""
    began = len(works.shop.ledger.entries)

    def all_asked():
        seen = {
            (entry.service, entry.route)
            for entry in works.shop.ledger.entries[began:]
            if entry.kind == "request"
        }
        return all(place[:2] in seen for place in places)

    for place in places:
        works.shop.script(*place, hold(all_asked, TOGETHER))


def overlapping(exchanges):
    """Whether each of these requests had come before any of them was answered."""
    last = max(each.at for each in exchanges)
    return all(each.ended is None or each.ended >= last for each in exchanges)


@check(after=HAPPY)
def test_validations_overlap(lab):
    """The three validations of an order are under way at the same time."""
    works = works_of(lab)
    order = works.order()
    places = [
        ("user", "validate", order.body["user_id"]),
        ("inventory", "check", order.item),
        ("payment", "validate", order.amount),
    ]
    held_together(works, places)

    works.play([order])

    firsts = [works.seen(service, route, order)[:1] for service, route, _ in places]
    together = all(firsts) and overlapping([each for [each] in firsts])
    assert lab.fact(together, "overlap", timeline=works.timeline(order))
    assert ends(lab, works, order, "completed")


def health(lab, works):
    """Ask for the health report and return it, {} if there was none."""
    call = lab.call("microservices_health_check", within=HEALTH_SECONDS)
    result = call.reply.result if call.reply and call.reply.succeeded else None
    return (result if isinstance(result, dict) else {}), call


def reports(lab, works, down):
    """Whether the health report is right while these services are down."""
    seen, call = health(lab, works)
    healthy = len(SERVICES) - len(down)
    overall = "healthy" if not down else "partial" if healthy else "unhealthy"
    wanted = {"overall_status": overall, "healthy_services": healthy, "total_services": 6}
    rows = seen.get("services") if isinstance(seen.get("services"), dict) else {}
    states = {name: state_of(rows.get(f"{name}_service")) for name in SERVICES}
    wrong = {n: s for n, s in states.items() if s != ("unhealthy" if n in down else "healthy")}
    right = not wrong and {key: seen.get(key) for key in wanted} == wanted and timed(rows)
    shown = {**wanted, "unhealthy": sorted(down)}
    return lab.fact(right, "health", wanted=shown, seen=seen or words_of(call))


def state_of(row):
    """Return the status in a service's row, None if there is none."""
    return row.get("status") if isinstance(row, dict) else None


def timed(rows):
    """Whether the six services' rows have a time in seconds; null will do for an ill service."""
    return all(
        (isinstance(took := row.get("response_time", ""), int | float) and 0 <= took < 60)
        or (took is None and state_of(row) != "healthy")
        for row in map(rows.get, (f"{name}_service" for name in SERVICES))
    )


@check(after=HAPPY)
def test_health_check(lab):
    """The health check tells how each of the six services is, also when all are down."""
    works = works_of(lab)
    away, ill = lab.rng.sample(SERVICES, 2)

    for down in ([], [away, ill], SERVICES):
        for service in down:
            works.shop.down(service, status(503) if service == ill else refuse())
        try:
            assert reports(lab, works, down)
        finally:
            for service in SERVICES:
                works.shop.down(service, None)


@check(after=test_health_check)
def test_health_in_parallel(lab):
    """The six are asked at once, and one that is slower than the timeout is unhealthy."""
    works = works_of(lab)
    held_together(works, [(service, "health", "*") for service in SERVICES])

    began = len(works.shop.ledger.entries)
    assert reports(lab, works, [])

    fresh = {e.request for e in works.shop.ledger.entries[began:]}
    asked = [e for s in SERVICES for e in works.seen(s, "health") if e.number in fresh]
    assert lab.fact(overlapping(asked), "health_overlap", seen=len(asked)), hint("one_by_one")
    slow = lab.rng.choice(SERVICES)
    works.shop.script(slow, "health", "*", latency(TIMEOUT * 2))
    assert reports(lab, works, [slow])


@check(after=HAPPY, lane="single")
def test_one_child_is_enough(lab):
    """Orders are completed by a worker with a single child too: nothing waits inside a task."""
    works = works_of(lab)
    lab.restart_worker(concurrency=1)
    # The second holds nothing on its way: what is undone is told by other orders.
    orders = [works.order(), works.order(user="blocked", item="sold_out")]

    works.play(orders)

    assert ends(lab, works, orders[0], "completed")
    assert ends(lab, works, orders[1], "failed")

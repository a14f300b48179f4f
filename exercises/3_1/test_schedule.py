"""Killed children of exercise 3_1, and everything together: a random schedule of forty orders."""

from __future__ import annotations

from grader.check import check, named
from grader.fulfilment import MOST_TRIES, TIMEOUT, ends, works_of
from grader.orders import LONGEST, STALL_SECONDS
from grader.schedule import BACKWARD, FORWARD, draw, shrink, text
from grader.services.shop.trouble import kill, status

CONFIRMATION = ("notification", "send")


@check(after=(named("lost_charge_answer"), named("order_sent_again")), lane="kills")
def test_killed_children(lab):
    """A pool child killed while it waits for a service, at each of the six, does no harm."""
    works = works_of(lab)
    # A client that waits long enough to be found, however busy the machine is.
    worker = lab.restart_worker({"SERVICE_TIMEOUT": "30"})
    worker.processes(1)  # a pool of threads has no child to kill
    # Each service's requests on the way forward, and those back.
    orders = {place: killed_at(works, place, kill()) for place in (*FORWARD, *BACKWARD)}
    works.play(list(orders.values()), cap=2 * LONGEST)  # so many killed take long on a busy machine
    works.killed()
    for place, order in orders.items():
        assert ends(lab, works, order, "failed" if place in BACKWARD else "completed")

    # Where nothing follows that would miss it, before the work: alone, lest another child is hit.
    for place in (CONFIRMATION, *BACKWARD):
        lost = killed_at(works, place, kill(works=False))
        works.play([lost])
        works.killed()
        assert ends(lab, works, lost, "failed" if place in BACKWARD else "completed")


def killed_at(works, place, fault):
    """Return an order whose request at this place is its sender's last."""
    order = works.order()
    works.shop.script(*place, works.subject(order, *place), fault)
    if place in BACKWARD:
        works.shop.script("order", "create", order.id, *[status(422)] * MOST_TRIES)
    return order


@check(
    after=(
        test_killed_children,
        named("duplicate_during_charge"),
        named("flaky_compensation"),
        named("all_charge_answers_lost"),
        named("optional_calls"),
        named("stock_gone"),
        named("failed_validations"),
        named("declined"),
    ),
    lane="kills",
)
def test_random_schedule(lab):
    """Forty orders, most at once, with random faults and killed children: all invariants hold."""
    works = works_of(lab)
    plans = draw(lab.rng)

    orders = play_schedule(works, plans)

    if bad := works.breaches(orders):
        plans, orders = smaller(works, plans, orders, bad)
    said = {"seed": lab.seed, "schedule": text(plans) if len(plans) < 6 else f"{len(plans)} orders"}
    for breach in works.breaches(orders)[:1]:
        order = next(order for order in orders if order.id == breach.order)
        said |= {"kind": breach.kind, "order": breach.order, "wanted": breach.expected}
        said |= {"seen": breach.observed, "timeline": works.timeline(order)}
        assert lab.fact(False, "schedule", **said)


def smaller(works, plans, orders, bad):
    """Return fewer plans and their orders, among which something is still wrong.

    What was played is returned where nothing smaller goes wrong again.
    """
    ids = {breach.order for breach in bad}
    suspects = [plan.number for plan, order in zip(plans, orders, strict=True) if order.id in ids]
    shown = plans, orders

    def fails(chosen):
        nonlocal shown
        # Few orders have few successes between their failures: all of these belong to the schedule.
        again = play_schedule(works, chosen, most_in_a_row=0)
        if broken := bool(works.breaches(again)):
            shown = chosen, again
        return broken

    shrink(plans, suspects, fails, tries=4)
    return shown


def play_schedule(works, plans, most_in_a_row=2):
    """Play a schedule and return its orders.

    Services seldom fail in a row, and the orders that go well follow one by one, for circuits that
    open have a check of their own: retries hurry here, but those ten seconds do not, so that an
    answer which counts them among its tries would run out of these.
    """
    orders = works.arrange(plans, slow=TIMEOUT + 0.5)
    in_company = True
    rows = sorted(zip(plans, orders, strict=True), key=lambda row: row[0].goes_well)
    with works.shop.spaced(most_in_a_row):
        for plan, order in rows:
            calls = [works.send(order) for _ in range(1 + plan.twice)]
            if plan.goes_well and in_company:
                in_company = works.answered(calls, STALL_SECONDS)
        works.settle(orders)
    return orders

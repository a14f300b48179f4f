"""The service of exercise debug_1: each kind of traffic runs in a fresh, watched process.

What a process holds is read by psutil, never asked of the submission. A leak is more than 0.5 KiB
a task; the limit must lie outside a 99.9% interval of the slope, or more tasks are run, or the
verdict is `unknown`. On clean tasks, most of them with the machine busy with other work, 90 watches
of 300 tasks each raised no alarm: a rate of at most one in 30, at 95%.
A process that is replaced takes its leak with it, so the worker is told never to recycle one.

What a task answers is worked out again in grader/traffic.py, to compare.
"""

from __future__ import annotations

from statistics import median

from grader import bench, gauge, traffic
from grader.check import check, hint
from grader.expect import returns
from grader.growth import LIMIT_KIB, Trend, alone, picture, watch

MOST_CUSTOMERS = 128
TIMES_FASTER = 10
ROUNDS = 5


def right(call):
    """Return what a call of the service has to answer."""
    return returns(traffic.ANSWERS[call.task.rpartition(".")[2]](*call.args))


def stays_flat(lab, name, draw):
    """Watch one kind of traffic and hold it against the limits."""
    # What answers wrong, and slowly perhaps, need not be watched for hundreds of tasks.
    for call in lab.calls([draw()]):
        assert call == right(call)
    growth = watch(lab, name, draw)
    said = {"traffic": name, "tasks": growth.tasks, "limit": LIMIT_KIB, "curve": growth.curve}
    assert lab.fact(growth.steady, "child_replaced", **said)
    for call in growth.calls:
        assert call == right(call)
    rise = growth.descriptors
    assert lab.fact(not rise, "descriptors_rise", rise=rise, **said)
    assert lab.fact(not growth.connections, "connections_rise", rise=growth.connections, **said)
    assert lab.fact(not growth.strangers, "keys_rise", rise=growth.strangers, **said), hint("keys")
    flat = growth.trend is Trend.FLAT
    said["picture"] = "-" if flat else picture(lab, name, growth)
    slope = f"{growth.slope.estimate:.2f}"
    assert lab.fact(flat, "memory_rises", slope=slope, **said)


@check
def test_orders_with_attachments(lab):
    """Thousands of orders with an attachment leave nothing behind in the process."""

    def draw():
        return "process_record", traffic.record(lab.rng, attachment=traffic.text(lab.rng, 4096))

    stays_flat(lab, "attachments", draw)


@check
def test_orders_sent_back(lab):
    """Thousands of orders that are sent back leave nothing behind in the process."""

    def draw():
        note = traffic.text(lab.rng, 8192)
        return "process_record", traffic.record(lab.rng, lines=traffic.BAD_LINES, note=note)

    stays_flat(lab, "sent_back", draw)


@check
def test_many_customers(lab):
    """Thousands of different customers leave nothing behind in the process but a bounded cache."""
    stays_flat(lab, "customers", lambda: ("enrich", traffic.user(lab.rng)))


@check
def test_foreign_currencies(lab):
    """Thousands of reports with foreign currencies leave nothing behind in the process."""

    def draw():
        currency = lab.rng.choice(sorted(traffic.RATES))
        return "render_report", [traffic.row(lab.rng), traffic.row(lab.rng, currency=currency)]

    stays_flat(lab, "currencies", draw)


@check
def test_refunds(lab):
    """Thousands of reports with refunds leave nothing behind in the process."""

    def draw():
        refund = traffic.row(lab.rng, "-", reason=traffic.text(lab.rng, 8192))
        return "render_report", [traffic.row(lab.rng), refund]

    stays_flat(lab, "refunds", draw)


@check
def test_large_reports(lab):
    """Thousands of large reports leave nothing behind in the process."""
    stays_flat(lab, "large", lambda: ("render_report", [traffic.row(lab.rng) for _ in range(40)]))


# The cache


@check(after=test_many_customers)
def test_customers_are_remembered(lab):
    """A second enrich of a customer is ten times faster; at most 128 are kept, the newest too."""
    planted = bench.plant(lab)
    process = alone(lab, "-I", planted.module)

    def cost(run, rows):
        """Return the milliseconds of processor time that each call took in the process."""
        before = gauge.processor(process)
        run(rows)
        return (gauge.processor(process) - before) * 1000 / len(rows)

    def echo(rows):
        bench.run(lab, planted, "echo", traffic.customer(rows[0]), times=len(rows))

    def enrich(rows):
        for call in lab.calls([("enrich", each) for each in rows], within=60):
            assert call == returns(traffic.customer(*call.args)), hint("wrong_after_eviction")

    users = [traffic.user(lab.rng) for _ in range(300)]
    chunks = [[traffic.user(lab.rng) for _ in range(10)] for _ in range(8)]
    cost(echo, users[:20])  # what is loaded on first use is loaded now
    first = cost(enrich, users)
    # What Celery itself takes for a task with such a result. Whatever else is busy on the machine
    # makes a task dearer, never cheaper: the least is nearest to the truth.
    empty = min(cost(echo, chunk) for chunk in chunks)

    def beyond(one):
        return cost(enrich, [one]) - empty

    known = crowd_known(beyond, users[-MOST_CUSTOMERS - 1 :], first - empty)
    said = {"most": MOST_CUSTOMERS, "crowd": MOST_CUSTOMERS + 1}
    assert lab.fact(not known, "cache_over", **said), hint("too_many")
    old = cost(enrich, users[130:170])
    pairs = [(cost(enrich, chunk), cost(enrich, chunk)) for chunk in chunks]
    firsts, seconds = zip(*pairs, strict=True)
    slow, fast = median(firsts) - empty, min(seconds) - empty

    # Where 128 are kept, customers with 130 newer ones are gone; by chance a third may have stayed.
    share = (old - empty) / (first - empty)
    said = {"most": MOST_CUSTOMERS, "share": f"{100 * share:.0f}"}
    assert lab.fact(share >= 0.5, "cache_large", **said), hint("too_many")
    said = {"first": f"{slow:.2f}", "second": f"{fast:.2f}", "times": TIMES_FASTER}
    assert lab.fact(slow >= TIMES_FASTER * fast, "cache_slow", **said), hint("not_remembered")


def crowd_known(cost, crowd, visit):
    """Whether a crowd of one too many is known to the last one.

    Of 129 customers one is unknown to a cache of 128, whichever that is, and costs a `visit`. Each
    round goes the other way, so that a cache that drops the oldest drops few. Something else that
    takes time may look like one more unknown; hence the rounds, of which one must be clear.

    Args:
        cost: returns the milliseconds that a customer took beyond what Celery takes.
    """
    for _ in range(ROUNDS):
        crowd = crowd[::-1]
        if all(cost(one) < visit / 2 for one in crowd):
            return True
    return False

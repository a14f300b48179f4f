"""The core checks of exercise 3_1: orders on their way through six services that fail.

Most scenarios are played together in three batches, each order with faults of its own, and judged
one by one from the services' ledger.
"""

from __future__ import annotations

import copy
import itertools
import time
from dataclasses import replace

from grader.check import check, hint
from grader.orders import QUIET_SECONDS, Orders, words_of
from grader.schedule import draw, shrink, text
from grader.services.shop.trouble import (
    hold,
    kill,
    latency,
    lost,
    malformed,
    refuse,
    status,
)

TASKS = (
    "process_order",
    "validate_user_info",
    "check_inventory",
    "validate_payment_method",
    "process_payment",
    "update_inventory",
    "create_order_record",
    "send_order_confirmation",
    "update_analytics",
    "refund_payment",
    "mark_order_failed",
    "send_error_notification",
    "microservices_health_check",
)
SERVICES = ("user", "order", "payment", "notification", "inventory", "analytics")
FORWARD = (
    "user validate",
    "inventory check",
    "payment validate",
    "payment process",
    "inventory update",
    "order create",
    "notification send",
    "analytics track",
)
WRITES = ("reserve", "update", "release", "process", "refund", "create", "mark_failed", "send")
# exercise.toml sets SERVICE_TIMEOUT to 4.
TIMEOUT = 4.0
# One that is neither that nor the default of 5.
OTHER_TIMEOUT = 2.0
TOGETHER = 3.5
LEAST_TRIES, MOST_TRIES = 3, 6
# A compensation's planned waits come to a minute at least; each is seen a little late.
PATIENT_SECONDS = 50
HEALTH_SECONDS = 30


# --- what several checks share -----------------------------------------------------------------


def works_of(lab):
    """Return the lab's orders."""
    return lab.once("orders", lambda: Orders(lab))


def keeps(lab, works, *orders):
    """Whether every invariant holds for these orders; the first that does not is noted."""
    for breach in works.breaches(orders):
        order = next(order for order in orders if order.id == breach.order)
        said = {"order": breach.order, "wanted": breach.expected, "seen": breach.observed}
        lab.fact(False, f"broken_{breach.kind}", **said, timeline=works.timeline(order))
        return False
    return True


def ends(lab, works, order, wanted):
    """Whether an order's workflow returned this status and the ledger agrees."""
    said = {"order": order.id, "wanted": wanted, "seen": order.told or "nothing"}
    said["timeline"] = works.timeline(order)
    return lab.fact(order.status == wanted, "ends", **said) and keeps(lab, works, order)


def requests(lab, works, order, route, wanted, least=None):
    """Whether a route got so many requests of an order; those that timed out don't count."""
    found = [e for e in works.seen(*route.split(), order) if e.answered != "hung up"]
    right = len(found) >= least if least is not None else len(found) == wanted
    shown = f">= {least}" if least is not None else wanted
    said = {"order": order.id, "route": route, "wanted": shown, "seen": len(found)}
    return lab.fact(right, "requests", **said, timeline=works.timeline(order))


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


def amount(order):
    """Return what stands for an order where payment's validation names only the amount."""
    return f"{order.sale.cents / 100:.2f}"


# --- the first order ---------------------------------------------------------------------------


@check
def test_happy_path(lab):
    """An order that meets no fault is completed: every service saw what it should, once."""
    missing = lab.unregistered(TASKS)
    assert lab.fact(not missing, "registered", missing=missing, found=lab.tasks)
    works = works_of(lab)

    order = works.order(items=2)
    works.play([order])

    assert ends(lab, works, order, "completed")
    for route in FORWARD:
        assert requests(lab, works, order, route, 1), hint("too_often")
    assert result_is_right(lab, works, order), hint("result")


def result_is_right(lab, works, order):
    """Whether the final result names the transaction and the record that the services made."""
    [charge], [record] = works.effects(order, "charged"), works.effects(order, "recorded")
    wanted = {
        "order_id": order.id,
        "status": "completed",
        "transaction_id": charge["transaction"],
        "order_record_id": record["record"],
    }
    result = order.results[0]
    seen = {key: result.get(key) for key in wanted}
    told = result.get("processed_at")
    timely = isinstance(told, int | float) and abs(told - time.time()) < 600
    right = seen == wanted and timely and not result.get("error") and "error" in result
    shown = {**wanted, "processed_at": "epoch seconds", "error": None}
    return lab.fact(right, "result", wanted=shown, seen=result)


@check(after=test_happy_path)
def test_refuses_malformed(lab):
    """A malformed order fails with ValueError before any request is made."""
    works = works_of(lab)
    asked = len(works.shop.ledger.entries)
    calls = [lab.send("process_order", body, within=20) for body in malformed_orders(works)]

    lab.finish(calls)

    for call in calls:
        reply = call.reply
        right = reply is not None and reply.failed and reply.error_type == "ValueError"
        body = str(call.args[0])[:300]
        assert lab.fact(right, "malformed", body=body, seen=words_of(call))
    seen = [e for e in works.shop.ledger.entries[asked:] if e.kind == "request"]
    words = [f"{e.service} {e.route}" for e in seen]
    assert lab.fact(not seen, "no_request", seen=words), hint("asked_first")
    plain = plain_order(works)
    works.play([plain])
    assert ends(lab, works, plain, "completed"), hint("too_strict")


def plain_order(works):
    """Return an order that is all right, with a whole amount."""
    order = works.order()
    whole = order.sale.cents // 100
    order.body["total_amount"] = whole
    order.sale = replace(order.sale, cents=whole * 100)
    return order


def malformed_orders(works):
    """Return orders with one thing wrong in each."""
    good = works.order().body
    bodies = [{k: v for k, v in good.items() if k != name} for name in good]
    wrong = {"order_id": 7, "user_id": None, "payment_method": 3, "shipping_address": "Porto"}
    bodies += [{**good, name: value} for name, value in wrong.items()]
    for value in (0, -5.5, "12.50", None, 10.001, 0.1 + 0.2):
        bodies.append({**good, "total_amount": value})
    bodies += [{**good, "items": items} for items in ([], "item-1", None, ["item-1"])]
    for name, value in (("quantity", 0), ("quantity", -1), ("quantity", "2"), ("quantity", 1.5)):
        body = copy.deepcopy(good)
        body["items"][0][name] = value
        bodies.append(body)
    for name in ("id", "quantity"):
        body = copy.deepcopy(good)
        del body["items"][0][name]
        bodies.append(body)
    return bodies


@check(after=test_happy_path)
def test_communicator(lab):
    """call_service tells what came of a call, and raises nothing whatever goes wrong."""
    works = works_of(lab)
    shop = works.shop
    for service, fault in (("order", refuse()), ("analytics", malformed()), ("user", status(503))):
        shop.script(service, "health", "*", fault)
    shop.script("notification", "health", "*", latency(OTHER_TIMEOUT * 4))
    client = lab.start_client({"SERVICE_TIMEOUT": f"{OTHER_TIMEOUT:g}"})
    means = {"method": "paypal", "amount": 12.5}
    rows = [
        (("payment_service", "validate", means), True),
        (("payment_service", "/validate", means), True),
        (("inventory_service", "health", None, "GET"), True),
        (("user_service", "users/unknown-1/validate", {"shipping_address": None}), False),
        (("coffee_service", "health"), False),
        (("order_service", "health", None, "GET"), False),
        (("analytics_service", "health", None, "GET"), False),
        (("user_service", "health", None, "GET"), False),
        (("notification_service", "health", None, "GET"), False),
    ]

    answers = [(row, wanted, respond(client, row)) for row, wanted in rows]

    for row, wanted, answer in answers:
        seen = answer.value if not answer.error else {}
        right = isinstance(seen, dict) and is_response(seen, wanted)
        shown = answer.error or seen
        assert lab.fact(right, "response", row=row, wanted=wanted, seen=shown)
    assert lab.fact(
        answers[0][2].value["data"].get("valid") is True, "response_data", seen=answers[0][2].value
    )
    seconds = answers[-1][2].value["response_time"]
    said = {"timeout": OTHER_TIMEOUT, "seen": seconds}
    # Short of the default, which a client has that does not read the variable.
    heeded = OTHER_TIMEOUT * 0.8 <= seconds < 4.6
    assert lab.fact(heeded, "timeout", **said), hint("timeout")


def respond(client, row):
    """Call ServiceCommunicator.call_service in a client process of the submission."""
    names = ["success", "data", "error", "response_time"]
    client.start(
        "read", path="ServiceCommunicator.call_service", args=list(row), kwargs={}, attributes=names
    )
    return client.answer(30)


def is_response(seen, success):
    """Whether this is what a ServiceResponse says of a call that did or did not succeed."""
    timed = isinstance(seen.get("response_time"), int | float)
    if seen.get("success") is not success or not timed:
        return False
    return isinstance(seen.get("data"), dict) if success else bool(seen.get("error"))


@check(after=test_happy_path)
def test_validations_overlap(lab):
    """The three validations of an order are under way at the same time."""
    works = works_of(lab)
    order = works.order()
    places = [
        ("user", "validate", order.body["user_id"]),
        ("inventory", "check", order.item),
        ("payment", "validate", amount(order)),
    ]
    held_together(works, places)

    works.play([order])

    firsts = [works.seen(service, route, order)[:1] for service, route, _ in places]
    together = all(firsts) and overlapping([each for [each] in firsts])
    assert lab.fact(together, "overlap", timeline=works.timeline(order))
    assert ends(lab, works, order, "completed")


# --- health ------------------------------------------------------------------------------------


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
    states = {}
    for name in SERVICES:
        row = rows.get(f"{name}_service")
        states[name] = row.get("status") if isinstance(row, dict) else None
    wrong = {n: s for n, s in states.items() if s != ("unhealthy" if n in down else "healthy")}
    right = not wrong and {key: seen.get(key) for key in wanted} == wanted and timed(rows)
    shown = {**wanted, "unhealthy": sorted(down)}
    return lab.fact(right, "health", wanted=shown, seen=seen or words_of(call))


def timed(rows):
    """Whether each service's row has its response time in seconds."""
    times = [row.get("response_time") for row in rows.values()]
    return all(isinstance(each, int | float) and 0 <= each < 60 for each in times)


@check(after=test_happy_path)
def test_health_check(lab):
    """The health check tells how each of the six services is, also when all are down."""
    works = works_of(lab)
    away, ill = lab.rng.sample(SERVICES, 2)

    for down in ([], [away, ill], SERVICES):
        for service in SERVICES:
            fault = status(503) if service == ill else refuse()
            works.shop.down(service, fault if service in down else None)
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


# --- one child ---------------------------------------------------------------------------------


@check(after=test_happy_path, lane="single")
def test_one_child_is_enough(lab):
    """Orders are completed by a worker with a single child too: nothing waits inside a task."""
    works = works_of(lab)
    lab.restart_worker(concurrency=1)
    # The second holds nothing on its way: what is undone is told by other orders.
    orders = [works.order(), works.order(user="blocked", item="sold_out")]

    works.play(orders)

    assert ends(lab, works, orders[0], "completed")
    assert ends(lab, works, orders[1], "failed")


# --- scenarios, played together ----------------------------------------------------------------


def first_batch(lab):
    """Play the orders that fail for good, and those that meet a fault or two on the way."""
    return lab.once("first batch", lambda: play_first(works_of(lab)))


def play_first(works):
    shop = works.shop
    orders = {
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
        "undone": works.order(),
    }
    gone = orders["stock_gone"]

    def sell_out():
        shop.stock(gone.item, 0)
        return True

    # Sold to somebody else between the check and the update.
    shop.script("payment", "process", gone.id, hold(sell_out, 1))
    shop.script("order", "create", orders["record"].id, *[status(422)] * MOST_TRIES)
    shop.script("payment", "process", orders["lost"].id, lost())
    undone = orders["undone"]
    shop.script("order", "create", undone.id, status(422))
    for place in (("order", "mark_failed"), ("inventory", "release"), ("payment", "refund")):
        shop.script(*place, undone.id, status(503))
    bumpy = orders["bumpy"]
    # Each call has three tries at least, so two faults stop none of them.
    shop.script("user", "validate", bumpy.body["user_id"], status(503), refuse())
    shop.script("inventory", "check", bumpy.item, status(429), status(500))
    shop.script("payment", "validate", amount(bumpy), malformed(), status(503))
    # Nothing is lost here: what a missing key does is told by another order.
    shop.script("payment", "process", bumpy.id, status(500), refuse())
    shop.script("inventory", "update", bumpy.id, refuse(), status(429))
    shop.script("order", "create", bumpy.id, status(502), refuse())
    shop.script("notification", "send", bumpy.id, status(408), status(503))
    works.play(list(orders.values()))
    return orders


ORDERLY = (test_happy_path, test_one_child_is_enough)


@check(after=ORDERLY)
def test_failed_validations(lab):
    """Each failed validation, and all at once, fail the order: no charge, the reasons told."""
    works, orders = works_of(lab), first_batch(lab)
    reasons = {
        "user": ("the account is blocked",),
        "inventory": ("sold_out",),
        "payment": ("the card has expired",),
    }
    cases = {"blocked": ["user"], "sold_out": ["inventory"], "expired": ["payment"]}
    for name, failing in {**cases, "unknown": ["user"], "all": [*reasons]}.items():
        order = orders[name]
        assert requests(lab, works, order, "payment process", 0), hint("charged")
        assert ends(lab, works, order, "failed")
        told = str(order.results[0].get("error")).lower()
        for word in failing:
            # For an unknown user the service's reason is its error: the code or the sentence.
            words = ("unknown_user", "no account") if name == "unknown" else reasons[word]
            right = word in told and any(reason in told for reason in words)
            said = {"order": order.id, "word": word, "reason": words[0], "seen": told}
            assert lab.fact(right, "reason", **said), hint("reason")
        bare = order.results[0].get("order_record_id") is None
        assert lab.fact(bare, "no_record", order=order.id, seen=order.results[0])


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


@check(after=ORDERLY)
def test_transient_errors(lab):
    """A transient error is tried again, 3 to 6 times in all, after waits that grow."""
    works, bumpy = works_of(lab), first_batch(lab)["bumpy"]
    assert ends(lab, works, bumpy, "completed")

    order = works.order()
    works.shop.script("payment", "process", order.id, status(503), status(503))
    mark = len(lab.history.messages)
    with lab.tapped():
        works.play([order])

    assert ends(lab, works, order, "completed"), hint("gives_up")
    messages = lab.history.messages[mark:]
    (least, most), (second, _) = planned_waits(works.seen("payment", "process", order), messages)
    shown = f"{least:.2f} s, {second:.2f} s"
    assert lab.fact(most >= 0.25 and least <= 2.5, "first_wait", seen=shown), hint("waits")
    assert lab.fact(second > least + 0.1, "growing", seen=shown), hint("waits")


def planned_waits(tries, messages):
    """Return the two waits between three tries, each as the least and the most it can have been.

    A task that is sent for later says when it is due. It was sent after the service's answer and
    before the grader saw it, and on a busy machine these lie apart: only a wait that is wrong
    either way is held against anybody. For a wait of any other kind the time between the requests
    is all there is to see.
    """
    later = sorted((m for m in messages if m.planned_for), key=lambda m: m.at)
    waits = []
    for place, (before, after) in enumerate(itertools.pairwise(tries)):
        ended, gap = before.ended or before.at, after.at - (before.ended or before.at)
        due = [m for m in later if ended <= m.at <= (after.ended or after.at)]
        if len(later) == len(tries) - 1:
            due = [later[place]]
        # The longest one: a task that only looks now and then may have been sent as well.
        last = max(due, key=lambda m: m.planned_for - m.at, default=None)
        lag = (last.planned_for - last.at, last.planned_for - ended) if last else (gap - 0.15, gap)
        waits.append(lag)
    return waits[:2]


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
    for name, route in cases.items():
        assert requests(lab, works, orders[name], route, 1)


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
    works, order = works_of(lab), first_batch(lab)["lost"]

    charges = works.effects(order, "charged")
    said = {"order": order.id, "seen": len(charges), "timeline": works.timeline(order)}
    assert lab.fact(len(charges) == 1, "one_charge", **said)
    assert ends(lab, works, order, "completed")


@check(after=test_record_fails, lane="patience")
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


@check(after=(test_lost_charge_answer, test_record_fails))
def test_all_charge_answers_lost(lab):
    """When every answer to a write is lost, what it may have done is undone by the order's id."""
    works, orders = works_of(lab), last_batch(lab)

    assert ends(lab, works, orders["all_lost"], "failed")
    assert tries_enough(lab, works, orders["all_lost"], "payment process")
    assert ends(lab, works, orders["stock_lost"], "failed"), hint("stock")
    assert tries_enough(lab, works, orders["stock_lost"], "inventory update")


def tries_enough(lab, works, order, route):
    """Whether a call that met nothing but faults was tried as often as it should be."""
    tries = len(works.seen(*route.split(), order))
    said = {"order": order.id, "route": route, "seen": tries}
    right = LEAST_TRIES <= tries <= MOST_TRIES
    wanted = f"{LEAST_TRIES}..{MOST_TRIES}"
    return lab.fact(right, "requests", **said, wanted=wanted, timeline=works.timeline(order))


@check(after=test_transient_errors)
def test_optional_calls(lab):
    """A confirmation or an analytics call that keeps failing does not fail the order."""
    works, orders = works_of(lab), last_batch(lab)

    assert ends(lab, works, orders["untold"], "completed")
    assert tries_enough(lab, works, orders["untold"], "notification send"), hint("tries")


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


# --- the same order twice ----------------------------------------------------------------------


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


# --- killed children, and everything together --------------------------------------------------


@check(after=(test_lost_charge_answer, test_order_sent_again), lane="kills")
def test_killed_children(lab):
    """A pool child killed while it waits for a service, at each of the six, does no harm."""
    works = works_of(lab)
    places = [
        ("user", "validate"),
        ("payment", "process"),
        ("inventory", "update"),
        ("order", "create"),
        ("notification", "send"),
        ("analytics", "track"),
    ]
    # A client that waits long enough to be found, however busy the machine is.
    lab.restart_worker({"SERVICE_TIMEOUT": "30"})
    orders = [works.order() for _ in places]
    for order, (service, route) in zip(orders, places, strict=True):
        subject = order.body["user_id"] if service == "user" else order.id
        works.shop.script(service, route, subject, kill())

    works.play(orders)

    works.killed()
    for order in orders:
        assert ends(lab, works, order, "completed")


@check(
    after=(
        test_killed_children,
        test_duplicate_during_charge,
        test_flaky_compensation,
        test_all_charge_answers_lost,
        test_optional_calls,
        test_stock_gone,
        test_failed_validations,
        test_declined,
    ),
    lane="kills",
)
def test_random_schedule(lab):
    """Forty orders at once, with random faults and killed children: every invariant holds."""
    works = works_of(lab)
    plans = draw(lab.rng)

    orders = play_schedule(works, plans)

    bad = works.breaches(orders)
    if bad:
        ids = {breach.order for breach in bad}
        suspects = [
            plan.number for plan, order in zip(plans, orders, strict=True) if order.id in ids
        ]
        shown = plans, orders

        def fails(chosen):
            nonlocal shown
            again = play_schedule(works, chosen)
            if broken := bool(works.breaches(again)):
                shown = chosen, again
            return broken

        shrink(plans, suspects, fails, tries=4)
        plans, orders = shown
    said = {"seed": lab.seed, "schedule": text(plans) if len(plans) < 6 else f"{len(plans)} orders"}
    for breach in works.breaches(orders)[:1]:
        order = next(order for order in orders if order.id == breach.order)
        said |= {"kind": breach.kind, "order": breach.order, "wanted": breach.expected}
        said |= {"seen": breach.observed, "timeline": works.timeline(order)}
        assert lab.fact(False, "schedule", **said)


def play_schedule(works, plans):
    """Play a schedule and return its orders."""
    orders = works.arrange(plans, slow=TIMEOUT + 0.5)
    for plan, order in zip(plans, orders, strict=True):
        for _ in range(1 + plan.twice):
            works.send(order)
    works.settle(orders)
    return orders

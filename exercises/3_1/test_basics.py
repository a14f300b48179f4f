"""The first order of exercise 3_1, what is refused before one begins, and call_service alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from grader.check import check, hint
from grader.fulfilment import ends, requests, result_has, works_of
from grader.order import words_of
from grader.schedule import FORWARD
from grader.services.shop.trouble import latency, malformed, refuse, status

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
# Neither what exercise.toml sets SERVICE_TIMEOUT to nor the default of 5.
OTHER_TIMEOUT, DEFAULT_TIMEOUT = 2.0, 5.0
MEANS = {"method": "paypal", "amount": 12.5}
# What call_service is asked, and whether that succeeds where `disturb` has been. The first has data
# that are looked at, the last one's answer comes too late.
CALLS = (
    (("payment_service", "validate", MEANS), True),
    (("payment_service", "/validate", MEANS), True),
    (("inventory_service", "health", None, "GET"), True),
    (("user_service", "users/unknown-1/validate", {"shipping_address": None}), False),
    (("coffee_service", "health"), False),
    (("order_service", "health", None, "GET"), False),
    (("analytics_service", "health", None, "GET"), False),
    (("user_service", "health", None, "GET"), False),
    (("notification_service", "health", None, "GET"), False),
)
# Asked by a client that was told no timeout; no other call asks this.
SLOW = ("payment_service", "health", None, "GET")


@check
def test_happy_path(lab):
    """An order that meets no fault is completed: every service saw what it should, once."""
    missing = lab.unregistered(TASKS)
    assert lab.fact(not missing, "registered", missing=missing, found=lab.tasks)
    works = works_of(lab)

    order = works.order(items=2, quantity=2)
    works.play([order])

    assert ends(lab, works, order, "completed")
    for route in map(" ".join, FORWARD):
        assert requests(lab, works, order, route, 1), hint("too_often")
    assert result_is_right(lab, works, order), hint("result")
    for route, wanted, seen in bodies(works, order):
        said = {"order": order.id, "route": route, "wanted": wanted, "seen": seen}
        assert lab.fact(wanted == seen, "body", **said), hint("body")


def bodies(works, order):
    """Return (route, wanted, seen) for what a request says and no invariant looks at."""
    body = order.body
    asked, checked, valid, paid = (
        works.seen(*route.split(), order)[0].body
        for route in ("user validate", "inventory check", "payment validate", "payment process")
    )
    [charge], [record] = works.effects(order, "charged"), works.effects(order, "recorded")
    [notice] = works.effects(order, "told")
    street, user, method = body["shipping_address"], body["user_id"], body["payment_method"]
    # What is added to an address, or to anything, is nobody's concern.
    address = {name: (asked.get("shipping_address") or {}).get(name) for name in street}
    return (
        ("user validate", {"shipping_address": street}, {"shipping_address": address}),
        ("inventory check", order.sale.items, pieces(checked)),
        ("payment validate", {"method": method}, {"method": valid.get("method")}),
        (
            "payment process",
            {"method": method, "user_id": user},
            {name: paid.get(name) for name in ("method", "user_id")},
        ),
        (
            "order create",
            {"transaction_id": charge["transaction"]},
            {"transaction_id": record["transaction"]},
        ),
        ("notification send", {"user_id": user}, {"user_id": notice["user"]}),
    )


def pieces(body):
    """Return item -> quantity of a request's items."""
    found = Counter()
    for item in body["items"]:
        found[item["id"]] += item["quantity"]
    return dict(found)


def result_is_right(lab, works, order):
    """Whether the final result names the transaction and the record that the services made."""
    [charge], [record] = works.effects(order, "charged"), works.effects(order, "recorded")
    ids = {"transaction_id": charge["transaction"], "order_record_id": record["record"]}
    return result_has(lab, order, order_id=order.id, status="completed", **ids)


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
    plain = [priced(works, lab.rng.randint(11, 999)), priced(works, odd_amount(lab.rng))]
    works.play(plain)
    for order in plain:
        assert ends(lab, works, order, "completed"), hint("too_strict")


def priced(works, amount):
    """Return an order that is all right, with this amount, which no other order has."""
    order = works.order()
    user, _, *items = order.sale.aliases
    order.body["total_amount"] = amount
    cents = round(amount * 100)
    aliases = (user, f"{cents / 100:.2f}", *items)
    order.sale = replace(order.sale, cents=cents, aliases=aliases)
    return order


def odd_amount(rng):
    """Return an amount of cents that is less than a whole number when it is multiplied by 100."""
    return next(
        cents / 100
        for cents in iter(lambda: rng.randint(1001, 99999), None)
        if cents / 100 * 100 < cents
    )


def malformed_orders(works):
    """Return orders with one thing wrong in each."""
    good = works.order().body
    bodies = [{k: v for k, v in good.items() if k != name} for name in good]
    wrong = {"order_id": 7, "user_id": None, "payment_method": 3, "shipping_address": "Porto"}
    bodies += [{**good, name: value} for name, value in wrong.items()]
    amounts = (0, -5.5, "12.50", None, 10.001, 0.1 + 0.2)
    bodies += [{**good, "total_amount": amount} for amount in amounts]
    lists = ([], "item-1", None, ["item-1"], *([item] for item in malformed_items(good)))
    [item], [second] = good["items"], works.order().body["items"]
    lists += ([item, {**second, "quantity": 0}], [item, {"id": second["id"]}])
    return bodies + [{**good, "items": items} for items in lists]


def malformed_items(good):
    """Return an order's item with one thing wrong in each."""
    [item] = good["items"]
    items = [{**item, "quantity": quantity} for quantity in (0, -1, "2", 1.5)]
    return items + [{k: v for k, v in item.items() if k != name} for name in item]


@check(after=test_happy_path)
def test_communicator(lab):
    """call_service tells what came of a call, and raises nothing whatever goes wrong."""
    client = lab.start_client({"SERVICE_TIMEOUT": f"{OTHER_TIMEOUT:g}"})
    usual = lab.start_client({"SERVICE_TIMEOUT": None})
    for each in (client, usual):
        each.hello()
    disturb(works_of(lab).shop)
    ask(usual, SLOW)  # meanwhile the other one is asked all else

    answers = [(row, wanted, respond(client, row)) for row, wanted in CALLS]
    answers.append((SLOW, False, usual.answer(30)))

    for row, wanted, answer in answers:
        seen = answer.value if not answer.error else {}
        # Of a service that there is not, nothing was measured.
        right = isinstance(seen, dict) and is_response(seen, wanted, row[0] != "coffee_service")
        shown = answer.error or seen
        assert lab.fact(right, "response", row=row, wanted=wanted, seen=shown)
    first, last, slow = (answers[number][2].value for number in (0, -2, -1))
    assert lab.fact(first["data"].get("valid") is True, "response_data", seen=first)
    # Short of the default, which a client has that does not read the variable; and the default is
    # short of the answer.
    limits = ((last, OTHER_TIMEOUT, 4.6), (slow, DEFAULT_TIMEOUT, DEFAULT_TIMEOUT * 1.9))
    for response, timeout, most in limits:
        seconds = response["response_time"]
        heeded = timeout * 0.8 <= seconds < most
        assert lab.fact(heeded, "timeout", timeout=timeout, seen=seconds), hint("timeout")


def disturb(shop):
    """Script a fault on the next health request of five services: each one fails otherwise."""
    for service, fault in (("order", refuse()), ("analytics", malformed()), ("user", status(503))):
        shop.script(service, "health", "*", fault)
    shop.script("notification", "health", "*", latency(OTHER_TIMEOUT * 4))
    shop.script("payment", "health", "*", latency(DEFAULT_TIMEOUT * 2))


def respond(client, row):
    """Call ServiceCommunicator.call_service in a client process of the submission."""
    ask(client, row)
    return client.answer(30)


def ask(client, row):
    """Begin such a call; do not wait for its answer."""
    names = ["success", "data", "error", "response_time"]
    client.start(
        "read", path="ServiceCommunicator.call_service", args=list(row), kwargs={}, attributes=names
    )


def is_response(seen, success, measured=True):
    """Whether this is what a ServiceResponse says of a call that did or did not succeed."""
    took = seen.get("response_time")
    timed = isinstance(took, int | float) or (took is None and not measured)
    if seen.get("success") is not success or not timed:
        return False
    return isinstance(seen.get("data"), dict) if success else bool(seen.get("error"))

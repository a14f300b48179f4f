"""The first order of exercise 3_1, what is refused before one begins, and call_service alone."""

from __future__ import annotations

import time
from dataclasses import replace

from grader.check import check, hint
from grader.fulfilment import ends, requests, works_of
from grader.orders import words_of
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
# Neither what exercise.toml sets SERVICE_TIMEOUT to nor the default of 5.
OTHER_TIMEOUT = 2.0
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
    amounts = (0, -5.5, "12.50", None, 10.001, 0.1 + 0.2)
    bodies += [{**good, "total_amount": amount} for amount in amounts]
    lists = ([], "item-1", None, ["item-1"], *([item] for item in malformed_items(good)))
    return bodies + [{**good, "items": items} for items in lists]


def malformed_items(good):
    """Return an order's item with one thing wrong in each."""
    [item] = good["items"]
    items = [{**item, "quantity": quantity} for quantity in (0, -1, "2", 1.5)]
    return items + [{k: v for k, v in item.items() if k != name} for name in ("id", "quantity")]


@check(after=test_happy_path)
def test_communicator(lab):
    """call_service tells what came of a call, and raises nothing whatever goes wrong."""
    disturb(works_of(lab).shop)
    client = lab.start_client({"SERVICE_TIMEOUT": f"{OTHER_TIMEOUT:g}"})

    answers = [(row, wanted, respond(client, row)) for row, wanted in CALLS]

    for row, wanted, answer in answers:
        seen = answer.value if not answer.error else {}
        right = isinstance(seen, dict) and is_response(seen, wanted)
        shown = answer.error or seen
        assert lab.fact(right, "response", row=row, wanted=wanted, seen=shown)
    first, last = answers[0][2].value, answers[-1][2].value
    assert lab.fact(first["data"].get("valid") is True, "response_data", seen=first)
    seconds = last["response_time"]
    said = {"timeout": OTHER_TIMEOUT, "seen": seconds}
    # Short of the default, which a client has that does not read the variable.
    heeded = OTHER_TIMEOUT * 0.8 <= seconds < 4.6
    assert lab.fact(heeded, "timeout", **said), hint("timeout")


def disturb(shop):
    """Script a fault on the next health request of four services: each one fails otherwise."""
    for service, fault in (("order", refuse()), ("analytics", malformed()), ("user", status(503))):
        shop.script(service, "health", "*", fault)
    shop.script("notification", "health", "*", latency(OTHER_TIMEOUT * 4))


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

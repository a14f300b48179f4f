"""The extension challenges of exercise 1_2 that need no page: trigonometry, history, batch."""

from __future__ import annotations

import math
from datetime import datetime

from grader.check import check, hint
from grader.expect import answers, fails_with, lists, returns

KEPT = 1000
USUAL = 10  # entries, where the caller names no limit
ITEMS = 8


@check
def test_trigonometry(lab):
    """Challenge 1: sin, cos and tan take radians, or degrees when asked."""
    x, d = round(lab.rng.uniform(0.1, 1.4), 6), lab.rng.randint(1, 44)
    rows = [((name, x), getattr(math, name)(x)) for name in ("sin", "cos", "tan")]
    rows += [((name, -x, "radians"), getattr(math, name)(-x)) for name in ("sin", "cos", "tan")]
    for name in ("sin", "cos", "tan"):
        rows.append(((name, d, "degrees"), getattr(math, name)(math.radians(d))))
    rows += [(("sin", 30, "degrees"), 0.5), (("cos", 60, "degrees"), 0.5)]
    rows += [(("tan", 45, "degrees"), 1.0), (("cos", 0), 1.0)]

    for call, (_, value) in zip(lab.calls([row for row, _ in rows]), rows, strict=True):
        assert call == returns(value, rel=1e-12), hint("units")


@check(after=test_trigonometry)
def test_trigonometry_refusals(lab):
    """Challenge 1: tan of 90 degrees and an unknown unit are a ValueError."""
    unit = "".join(lab.rng.choices("bcdfghjk", k=5))
    turns = lab.rng.randint(-3, 3) * 180

    for call in lab.calls([("tan", angle, "degrees") for angle in (90, -90, 270, 90 + turns)]):
        assert call == fails_with("ValueError"), hint("tan_of_90")
    for call in lab.calls([(name, 1, unit) for name in ("sin", "cos", "tan")]):
        assert call == fails_with("ValueError")


def history(lab, limit, wanted):
    """Ask for the history until it is as wanted: an entry may be written after the result."""
    call = lab.call("history", limit)

    def ready():
        nonlocal call
        call = lab.call("history", limit)
        assert call == lists()
        return wanted(call.reply.result)

    lab.until(ready)
    return call.reply.result


def entry(call):
    """Return the part of a history entry that follows from a call."""
    reply = call.reply
    error = told(f"{reply.error_type}: {reply.error_message}") if reply.failed else None
    return {
        "operation": call.task.rpartition(".")[2],
        "args": list(call.args),
        "result": None if reply.failed else reply.result,
        "error": error,
    }


def newest(entries, count):
    """Return the first entries without what only the worker can know."""
    return [
        {key: row.get(key) for key in ("operation", "args", "result")}
        | {"error": told(row.get("error"))}
        for row in entries[:count]
        if isinstance(row, dict)
    ]


def told(error):
    """Return "Type: message" as it is; where there is no message, the type alone."""
    return error.rstrip(": ") if isinstance(error, str) else error


def has_offset(row):
    """Whether the entry's time is ISO 8601 with an offset."""
    try:
        return datetime.fromisoformat(row["at"]).utcoffset() is not None
    except (KeyError, TypeError, ValueError):
        return False


@check
def test_history_records(lab):
    """Challenge 2: history(limit) tells each calculation, failed ones too, the newest first."""
    missing = lab.unregistered(["history"])
    assert lab.fact(not missing, "registered", missing=missing, found=lab.tasks)
    n = lab.rng.randint(2, 999)
    rows = [("add", n, 1), ("divide", n, 0), ("factorial", 5), ("multiply", "2.5", n)]

    wanted = []
    for row in rows:
        call = lab.call(*row)
        assert call == answers()
        wanted.insert(0, entry(call))
        seen = history(lab, 4, lambda seen, w=wanted: newest(seen, len(w)) == w)
        assert_newest(lab, seen, wanted)

    assert lab.fact(len(seen) == 4, "history_limit", limit=4, seen=len(seen))
    for row in seen:
        assert lab.fact(has_offset(row), "history_time", seen=row.get("at"))
    for call in asked_of_each_process(lab):
        assert call == lists()
        assert_newest(lab, call.reply.result, wanted)


def asked_of_each_process(lab):
    """Ask every process of the pool, not only the one that wrote: one at a time stands still."""
    asked = []
    for process in lab.worker.pool:
        with lab.frozen([process]):
            calls = lab.send_all([("history", 4)] * 4)
            # The one that stands still may have got one of them, and answers it afterwards.
            lab.until(lambda sent=calls: len(lab.publisher.fetch(sent)) <= 2)
        asked += lab.finish(calls)
    return asked


def assert_newest(lab, seen, wanted):
    """Compare the newest entries with the calculations that were made, the last one first."""
    told = newest(seen, len(wanted))
    mistake = "newest_first" if told and told == wanted[::-1] else "default"
    for place, want in enumerate(wanted):
        said = {"place": place + 1, "entry": want, "seen": told[place : place + 1]}
        assert lab.fact(told[place : place + 1] == [want], "history_entry", **said), hint(mistake)


@check(after=test_history_records)
def test_history_is_shared(lab):
    """Challenge 2: the history survives a worker's restart, is shared, and keeps at most 1000."""
    n = lab.rng.randint(2, 999)
    call = lab.call("subtract", n, 7)
    assert call == answers()
    kept = entry(call)
    history(lab, 1, lambda seen: newest(seen, 1) == [kept])

    lab.restart_worker()
    after = newest(history(lab, 1, lambda seen: newest(seen, 1) == [kept]), 1)
    assert lab.fact(after == [kept], "history_survives", entry=kept, seen=after)

    lab.second_worker()
    for call in lab.calls([("history", 1)] * 12):
        assert call == lists()
        seen = newest(call.reply.result, 1)
        assert lab.fact(seen == [kept], "history_two_workers", entry=kept, seen=seen)
    lab.finish(lab.send_all([("add", i, n) for i in range(KEPT + 20)], within=30))
    seen = history(lab, 2 * KEPT, lambda seen: len(seen) == KEPT)
    assert lab.fact(len(seen) == KEPT, "history_cap", kept=KEPT, seen=len(seen)), hint("unbounded")
    call = lab.call("history")
    assert call == lists()
    seen = len(call.reply.result)
    assert lab.fact(seen == USUAL, "history_limit", limit=USUAL, seen=seen)


def items_of(lab, count=ITEMS):
    """Draw a batch of good items."""
    return [
        {"operation": "add", "args": [lab.rng.randint(1, 999), lab.rng.randint(1, 999)]}
        for _ in range(count)
    ]


@check
def test_batch_results(lab):
    """Challenge 4: calculate_batch answers in order, and one bad item spoils no other."""
    items = items_of(lab)
    wanted = [{"ok": True, "result": float(sum(item["args"]))} for item in items]
    items[2] = {"operation": "divide", "args": [1, 0]}
    items[5] = {"operation": "sqrt", "args": [-4]}
    # These two may fail before they are sent.
    items[3] = {"operation": "add", "args": [lab.rng.randint(1, 999)]}
    items[6] = {"operation": "".join(lab.rng.choices("bcdfghjk", k=6)), "args": [1, 2]}

    for given, want in (([], []), (items[:1], wanted[:1])):
        answer = lab.client.call("calculate_batch", given)
        said = {"items": given, "wanted": want, "seen": answer.error or answer.value}
        assert lab.fact(answer.value == want and not answer.error, "batch_shape", **said)

    answer = lab.client.call("calculate_batch", items)
    rows = answer.value if isinstance(answer.value, list) else []
    count = {"items": len(items), "seen": answer.error or len(rows)}
    assert lab.fact(len(rows) == len(items), "batch_length", **count), hint("unsent")
    for place, (row, want) in enumerate(zip(rows, wanted, strict=True)):
        bad = {2: "ZeroDivisionError", 5: "ValueError", 3: "", 6: ""}.get(place)
        said = {"item": items[place], "place": place + 1, "seen": row}
        if bad is not None:
            said["error"] = f"{bad or 'Type'}: "
            assert lab.fact(is_error(row, bad), "batch_error", **said), hint("spoiled")
        else:
            assert lab.fact(row == want, "batch_item", wanted=want, **said), hint("spoiled")


def is_error(row, kind):
    """Whether this is a batch's answer for an item that failed with that type, or with any."""
    text = row.get("error") if isinstance(row, dict) else None
    if not isinstance(text, str) or row.get("ok") is not False:
        return False
    name, colon, _ = text.partition(":")
    return name == kind if kind else bool(colon)


@check(after=test_batch_results)
def test_batch_in_parallel(lab):
    """Challenge 4: the items of a batch are calculated in parallel, not one after the other."""
    items, before = items_of(lab), len(lab.history.messages)

    def published():
        return len(lab.history.messages) - before

    with lab.tapped():
        with lab.frozen():
            lab.client.start("call", function="calculate_batch", args=[items], kwargs={})
            lab.until(lambda: published() >= ITEMS, within=3)
            seen = published()
        answer = lab.client.answer()

    said = {"items": ITEMS, "seen": seen}
    assert lab.fact(seen >= 2, "batch_published", **said), hint("one_message")
    rows = answer.value if isinstance(answer.value, list) else []
    said = {"items": ITEMS, "seen": answer.error or len(rows)}
    assert lab.fact(len(rows) == ITEMS, "batch_length", **said)

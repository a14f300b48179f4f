"""What the workers of exercise 1_2 share (challenge 2): the history of all calculations.

The last check leaves other workers behind. Files are taken in the order of their names, so nothing
needs a fresh lab after it.
"""

from __future__ import annotations

from datetime import datetime

from grader.check import check, hint
from grader.expect import answers, lists

KEPT = 1000
USUAL = 10  # entries, where the caller names no limit


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

"""What was seen in one lab, cut down to what a picture or a story of it needs.

A history keeps everything, for a judgment to be tried on it again. A scene is small and bounded,
for a student to look at: the checks that had their turn in the lab, and the calls, messages,
events, requests and faults of each one's time, as plain data.
"""

from __future__ import annotations

import contextlib
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from grader.check import Check
from grader.expect import short
from grader.history import Call, History, Message, instant

# So much of each kind is kept of one check: its first and its last.
MOST = {"calls": 120, "messages": 300, "events": 300, "requests": 200, "faults": 40}
LONGEST = 160


@contextlib.contextmanager
def turn(check: Check, lab: Any) -> Iterator[None]:
    """Note in the lab's history from when to when the check had its turn."""
    row = {"id": check.id, "lane": check.lane, "began": time.time(), "ended": None}
    lab.history.checks.append(row)
    try:
        yield
    finally:
        row["ended"] = time.time()


def scene(history: History) -> dict[str, Any]:
    """Return what happened in a lab while its checks had their turn.

    Each kind is a list of rows in the order of their time `at`; `checks` say from when to when, and
    under `left_out` how many rows there were beside those that are kept.
    """
    every: dict[str, list[tuple[float, Any]]] = {
        "calls": [(call.sent_at, call) for call in list(history.calls)],
        "messages": [(message.at, message) for message in list(history.messages)],
        "events": [(instant(e.get("timestamp")), e) for e in list(history.events) if e.get("uuid")],
        "requests": [(instant(request.get("at")), request) for request in list(history.requests)],
        "faults": [(instant(fault.get("at")), fault) for fault in list(history.faults)],
    }
    for rows in every.values():
        rows.sort(key=_time)
    last = max((rows[-1][0] for rows in every.values() if rows), default=0.0)
    found: dict[str, Any] = {kind: [] for kind in every}
    turns = []
    for check in list(history.checks):
        # One that was cut off saw all that came after.
        turn = {**check, "ended": check["ended"] or max(check["began"], last), "left_out": {}}
        for kind, rows in every.items():
            mine = _within(rows, turn)
            kept = _few(mine, MOST[kind])
            found[kind] += [{"at": at, **ROWS[kind](row)} for at, row in kept]
            if len(kept) < len(mine):
                turn["left_out"][kind] = len(mine) - len(kept)
        turns.append(turn)
    return {"broker": history.broker, "checks": turns, **found}


def _time(row: tuple[float, Any]) -> float:
    return row[0]


def _within(
    rows: Sequence[tuple[float, Any]], turn: Mapping[str, Any]
) -> Sequence[tuple[float, Any]]:
    begin = bisect_left(rows, turn["began"], key=_time)
    return rows[begin : bisect_right(rows, turn["ended"], key=_time)]


def _few(rows: Sequence[tuple[float, Any]], most: int) -> Sequence[tuple[float, Any]]:
    return rows if len(rows) <= most else [*rows[: most // 2], *rows[-(most - most // 2) :]]


def _call(call: Call) -> dict[str, Any]:
    row = {"id": call.id, "task": call.task, "words": str(call)[:LONGEST]}
    reply = call.reply
    if reply is None:
        return {**row, "state": "", "said": "", "done": None}
    error = f"{reply.error_type}: {reply.error_message}" if reply.error_type else ""
    said = short(error, LONGEST, quote=False) if error else short(reply.result, LONGEST)
    return {**row, "state": reply.state[:LONGEST], "said": said, "done": reply.done_at}


def _message(message: Message) -> dict[str, Any]:
    words = {name: str(getattr(message, name))[:LONGEST] for name in ("id", "task", "queue")}
    retries = message.retries if isinstance(message.retries, int) else 0
    return {**words, "retries": min(max(retries, 0), 10**6), "planned": message.planned_for}


def _event(event: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": short(event["uuid"], LONGEST, quote=False),
        "type": short(event.get("type"), LONGEST, quote=False),
        "worker": short(event.get("hostname", ""), LONGEST, quote=False),
    }


def _request(request: Mapping[str, Any]) -> dict[str, Any]:
    took = instant(request.get("ended")) - instant(request.get("began"))
    words = f"{request.get('method')} {request.get('path')}"
    return {
        "service": str(request.get("service")),
        "words": short(words, LONGEST, quote=False),
        "answered": request.get("answered"),
        "took": max(took, 0.0),
    }


def _fault(fault: Mapping[str, Any]) -> dict[str, Any]:
    return {"kind": short(fault.get("kind"), 40, quote=False)}


# How a row of each kind is made.
ROWS: Mapping[str, Callable[[Any], dict[str, Any]]] = {
    "calls": _call,
    "messages": _message,
    "events": _event,
    "requests": _request,
    "faults": _fault,
}

"""What was seen in one lab, cut down to what a picture or a story of it needs.

A history keeps everything, for a judgment to be tried on it again. A scene is small and bounded,
for a student to look at: the checks that had their turn in the lab, and the calls, messages,
events, requests and faults of each one's time, as plain data.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from grader.check import Check
from grader.expect import short
from grader.history import Call, History, Message

# So much of each kind is kept of one check: its first and its last.
MOST = {"calls": 60, "messages": 120, "events": 240, "requests": 120, "faults": 40}
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
    every = {
        "calls": [_call(call) for call in list(history.calls)],
        "messages": [_message(message) for message in list(history.messages)],
        "events": [_event(event) for event in list(history.events) if event.get("uuid")],
        "requests": [_request(request) for request in list(history.requests)],
        "faults": [_fault(fault) for fault in list(history.faults)],
    }
    found: dict[str, Any] = {kind: [] for kind in every}
    turns = []
    for check in list(history.checks):
        turn = {**check, "ended": check["ended"] or check["began"], "left_out": {}}
        for kind, rows in every.items():
            mine = sorted(_within(rows, check), key=lambda row: row["at"])
            kept = _few(mine, MOST[kind])
            found[kind] += kept
            if len(kept) < len(mine):
                turn["left_out"][kind] = len(mine) - len(kept)
        turns.append(turn)
    return {"broker": history.broker, "checks": turns, **found}


def _within(rows: Sequence[dict[str, Any]], check: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of the check's time; one that was cut off saw all that came after."""
    ended = check["ended"] or float("inf")
    return [row for row in rows if check["began"] <= row["at"] <= ended]


def _few(rows: list[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    return rows if len(rows) <= most else [*rows[: most // 2], *rows[-(most - most // 2) :]]


def _number(value: Any) -> float:
    """Return a time; anybody who reaches the broker can send one that is none."""
    return float(value) if isinstance(value, int | float) else 0.0


def _call(call: Call) -> dict[str, Any]:
    row = {"at": call.sent_at, "id": call.id, "task": call.task, "words": str(call)[:LONGEST]}
    reply = call.reply
    if reply is None:
        return {**row, "state": "", "said": "", "done": None}
    error = f"{reply.error_type}: {reply.error_message}" if reply.error_type else ""
    said = short(error, LONGEST, quote=False) if error else short(reply.result, LONGEST)
    return {**row, "state": reply.state[:LONGEST], "said": said, "done": reply.done_at}


def _message(message: Message) -> dict[str, Any]:
    row = asdict(message)
    kept = {name: row[name] for name in ("at", "id", "task", "queue", "retries")}
    return {**kept, "planned": message.planned_for}


def _event(event: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "at": _number(event.get("timestamp")),
        "id": short(event["uuid"], LONGEST, quote=False),
        "type": short(event.get("type"), LONGEST, quote=False),
        "worker": short(event.get("hostname", ""), LONGEST, quote=False),
    }


def _request(request: Mapping[str, Any]) -> dict[str, Any]:
    took = _number(request.get("ended")) - _number(request.get("began"))
    words = f"{request.get('method')} {request.get('path')}"
    return {
        "at": _number(request.get("at")),
        "service": str(request.get("service")),
        "words": short(words, LONGEST, quote=False),
        "answered": request.get("answered"),
        "took": max(took, 0.0),
    }


def _fault(fault: Mapping[str, Any]) -> dict[str, Any]:
    return {"at": _number(fault.get("at")), "kind": short(fault.get("kind"), 40, quote=False)}

"""Executions as the workers' events tell them: who ran what, when, and how it ended."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

ENDS = {
    "task-succeeded": "succeeded",
    "task-failed": "failed",
    "task-retried": "retried",
    "task-revoked": "revoked",
}
# A worker's log names the process of its pool: [...: INFO/ForkPoolWorker-2] Task a.b[id] succeeded
POOL = re.compile(r"/ForkPoolWorker-(?P<slot>\d+)\] Task (?P<name>[\w.]+)\[(?P<id>[\w-]+)\]")


@dataclass(frozen=True)
class Span:
    """One execution; `end` is None and `state` "lost" where nothing was heard of its end."""

    id: str
    name: str
    worker: str
    start: float
    end: float | None
    state: str
    slot: int = 0

    @property
    def short(self) -> str:
        """The task's name without its module."""
        return self.name.rpartition(".")[2]


def spans(events: Iterable[dict[str, Any]], log: str = "") -> list[Span]:
    """Return the executions in the order of their start.

    Args:
        events: as `recorded` collects them.
        log: the worker's, which knows the pool's process of each task.
    """
    ordered = sorted(events, key=lambda event: event["timestamp"])
    names = {e["uuid"]: e["name"] for e in ordered if e.get("name") and e.get("uuid")}
    slots = {match["id"]: int(match["slot"]) for match in POOL.finditer(log)}
    found = []
    for start in (e for e in ordered if e["type"] == "task-started"):
        end, state = _end(start, ordered)
        id = start["uuid"]
        found.append(
            Span(
                id,
                names.get(id, "?"),
                start["hostname"],
                start["timestamp"],
                end,
                state,
                slots.get(id, 0),
            )
        )
    return found


def _end(start: dict[str, Any], ordered: list[dict[str, Any]]) -> tuple[float | None, str]:
    """Return when the execution ended and how: by the same worker, after its start."""
    for event in ordered:
        ours = (event.get("uuid"), event["hostname"]) == (start["uuid"], start["hostname"])
        if ours and event["type"] in ENDS and event["timestamp"] >= start["timestamp"]:
            return event["timestamp"], ENDS[event["type"]]
    return None, "lost"

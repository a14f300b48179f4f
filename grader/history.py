"""The history of a run: what was sent, what came back, what the broker and the workers said.

Facts are collected first and judged afterwards. Everything here is plain data that can be saved as
JSON and read again, so a verdict can be replayed without a broker.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from grader.clock import parse_offset_datetime

DEEPEST = 100
# The task by which the lab asks workers whether they are there; none of them knows it.
HAIL = "lab.ready"


@dataclass(frozen=True)
class Reply:
    """A result document as the backend stored it, read without importing anything it names."""

    state: str
    result: Any = None
    error_type: str = ""
    error_module: str = ""
    error_message: str = ""
    raw: str = ""

    @classmethod
    def parse(cls, raw: bytes) -> Reply:
        """Read a stored document; what is no such document gets the state `unreadable`."""
        text = raw.decode("utf-8", "replace")
        try:
            document = json.loads(text)
            state, result = str(document["status"]), document["result"]
            readable = not nested(document)
        except (ValueError, KeyError, TypeError, RecursionError):
            readable = False
        if not readable:
            return cls("unreadable", raw=text[:4000])
        if state != "FAILURE" or not isinstance(result, dict):
            return cls(state, result, raw=text[:4000])
        return cls(
            state,
            error_type=str(result.get("exc_type", "")),
            error_module=str(result.get("exc_module", "")),
            error_message=_message(result.get("exc_message", "")),
            raw=text[:4000],
        )

    @property
    def succeeded(self) -> bool:
        """Whether the task ended with a result."""
        return self.state == "SUCCESS"

    @property
    def failed(self) -> bool:
        """Whether the task ended with an error."""
        return self.state == "FAILURE"

    @property
    def done_at(self) -> float | None:
        """When it was stored, an epoch time in seconds; None where it does not say."""
        return done_at(self.raw)

    @property
    def final(self) -> bool:
        """Whether nothing more is to come."""
        return self.state in ("SUCCESS", "FAILURE", "REVOKED", "unreadable")


def done_at(raw: str) -> float | None:
    """Return when a stored document says that it was stored, None where it does not say."""
    _, _, rest = raw.partition('"date_done": "')
    try:
        return parse_offset_datetime(rest.partition('"')[0]).timestamp()
    except (ValueError, OverflowError, OSError):
        return None


def nested(value: Any, limit: int = DEEPEST) -> bool:
    """Whether plain data is nested so deep that printing or saving it could fail."""
    level = [value]
    for _ in range(limit):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return False
    return True


def _message(arguments: Any) -> str:
    """Return the text str(exception) would give for these arguments."""
    if not isinstance(arguments, list):
        return str(arguments)
    if not arguments:
        return ""
    return str(arguments[0]) if len(arguments) == 1 else str(tuple(arguments))


@dataclass(eq=False)
class Call:
    """One task that the grader (or a client of the submission) sent, and its reply if one came.

    `limit` is the time it was given, in seconds; `sent_at` an epoch time in seconds.
    """

    id: str
    task: str
    args: Sequence[Any] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    sent_at: float = 0.0
    limit: float = 5.0
    reply: Reply | None = None

    def __str__(self) -> str:
        from grader.expect import short

        words = [short(a, 60) for a in self.args]
        words += [f"{k}={short(v, 60)}" for k, v in self.kwargs.items()]
        return f"{self.task.rpartition('.')[2]}({', '.join(words)})"


@dataclass(frozen=True)
class Message:
    """A task message as it was published, seen by the grader at the broker itself.

    `size` is in bytes, as the broker holds it. Of one too long to be read only that is known.
    """

    task: str
    id: str
    queue: str
    content_type: str
    retries: int
    eta: str | None
    at: float
    body: str = ""
    size: int = 0

    @property
    def planned_for(self) -> float | None:
        """The ETA as an epoch time in seconds, or None for `now` (and for one that is no time).

        One without an offset is in UTC: that is how Celery's worker reads it.
        """
        with contextlib.suppress(ValueError, TypeError, OverflowError, OSError):
            if self.eta:
                due = datetime.fromisoformat(self.eta)
                return (due if due.tzinfo else due.replace(tzinfo=UTC)).timestamp()
        return None


def instant(stamp: Any) -> float:
    """Return a time as seconds since 1970, 0 for what is none.

    Anybody who reaches the broker can send an event without a time, or with one that is no number.
    """
    try:
        number = float(stamp) if isinstance(stamp, int | float) else 0.0
    except OverflowError:
        return 0.0
    return number if math.isfinite(number) else 0.0


@dataclass
class History:
    """Everything that was seen in one run of one submission on one broker."""

    exercise: str = ""
    broker: str = ""
    seed: int = 0
    calls: list[Call] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    faults: list[dict[str, Any]] = field(default_factory=list)
    measurements: list[dict[str, Any]] = field(default_factory=list)
    checks: list[dict[str, Any]] = field(
        default_factory=list
    )  # id, began, ended: whose turn it was

    def events_of(self, task_id: str, kind: str = "") -> list[dict[str, Any]]:
        """Return a task's events in the order of their own clock, of one kind if named."""
        chosen = (e for e in self.events if e.get("uuid") == task_id)
        return sorted(
            (e for e in chosen if not kind or e.get("type") == kind),
            key=lambda e: instant(e.get("timestamp")),
        )

    def executions(self, task_id: str) -> int:
        """Return how often a worker started this task."""
        return len(self.events_of(task_id, "task-started"))

    def published(self, task_id: str) -> int:
        """Return how many messages with this task were seen at the broker."""
        return sum(m.id == task_id for m in self.messages)

    def message(self, task_id: str) -> Message | None:
        """Return the first message seen that carries this task, None if there was none."""
        return next((m for m in self.messages if m.id == task_id), None)

    def planned_waits(self, task_id: str) -> list[float]:
        """Return the wait in seconds that each retry was published with, by retry number.

        It is the message's ETA less the time it was published; no ETA means 0. Messages are paired
        by their retry number because they may be seen out of order.
        """
        mine = {m.retries: m for m in self.messages if m.id == task_id and m.retries}
        return [max(0.0, (m.planned_for or m.at) - m.at) for _, m in sorted(mine.items())]

    def save(self, path: Path) -> None:
        """Write the history as JSON, in ASCII: a submission may have sent half a character."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(vars(self), default=_plain), encoding="ascii")

    @classmethod
    def load(cls, path: Path) -> History:
        """Read a history that `save` wrote."""
        data = json.loads(path.read_text(encoding="ascii"))
        replies = [row.pop("reply") for row in data["calls"]]
        calls = [Call(**row) for row in data.pop("calls")]
        for call, reply in zip(calls, replies, strict=True):
            call.reply = Reply(**reply) if reply else None
        messages = [Message(**row) for row in data.pop("messages")]
        return cls(**data, calls=calls, messages=messages)


def _plain(value: Any) -> Any:
    """Return what JSON can say of a value; `asdict` would copy all that it holds first."""
    return vars(value) if is_dataclass(value) else repr(value)

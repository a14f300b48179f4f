"""One order of a shop: how it was placed, what came of it, and whether more is to come."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from grader.clock import parse_offset_datetime
from grader.history import Call
from grader.invariants import Sale

# A wait so long, once it is hastened, may be mistaken for a standstill.
LONG_SECONDS = 5.0
# Who waits for longer than that is not waited for. Celery's own wait is 180 s, hastened 45.
AHEAD_SECONDS = 60.0
# What is due is started within that.
LATE_SECONDS = 2.0


@dataclass(eq=False)
class Order:
    """An order, how it was placed and what came of it.

    Attributes:
        body: what process_order gets.
        sale: what the invariants know of it.
        calls: one for each time it was sent.
    """

    body: dict[str, Any]
    sale: Sale
    calls: list[Call] = field(default_factory=list)

    @property
    def id(self) -> str:
        """The order's id."""
        return self.sale.id

    @property
    def item(self) -> str:
        """Its first item."""
        return str(self.body["items"][0]["id"])

    @property
    def amount(self) -> str:
        """What stands for it where payment's validation names only the amount."""
        return f"{self.sale.cents / 100:.2f}"

    @property
    def results(self) -> list[dict[str, Any]]:
        """What each call of it returned, {} for one that returned no object."""
        replies = [call.reply for call in self.calls]
        found = [reply.result if reply and reply.succeeded else None for reply in replies]
        return [result if isinstance(result, dict) else {} for result in found]

    @property
    def told(self) -> list[str]:
        """What came of each call, in short words."""
        return [words_of(call) for call in self.calls]

    @property
    def status(self) -> str:
        """The status that the first call returned, "" if none."""
        return str(self.results[0].get("status", "")) if self.calls else ""


def words_of(call: Call) -> str:
    """Return what came of a call, in short words."""
    if call.reply is None:
        return "no result"
    if call.reply.failed:
        return f"{call.reply.error_type}: {call.reply.error_message[:200]}"
    return str(call.reply.result)[:300]


def put_off(events: Iterable[Mapping[str, Any]], speed: float, ended: Collection[str] = ()) -> bool:
    """Whether a task is soon to come that its sender put off for long.

    Args:
        events: the workers' events.
        speed: how many times sooner than planned the worker starts it.
        ended: the ids of tasks that have ended since.
    """
    now = time.time()
    for event in events:
        if event.get("type") != "task-received" or str(event.get("uuid")) in ended:
            continue
        received = event.get("timestamp")
        # A submission can send any event, with anything for a time.
        if not isinstance(received, float):
            continue
        wait = (_moment(event.get("eta")) - received) / speed
        if wait > LONG_SECONDS and -LATE_SECONDS < received + wait - now < AHEAD_SECONDS:
            return True
    return False


def _moment(eta: Any) -> float:
    """Return an event's ETA in epoch seconds, 0 if it has none."""
    try:
        return parse_offset_datetime(str(eta)).timestamp()
    except (ValueError, OverflowError, OSError):
        return 0.0

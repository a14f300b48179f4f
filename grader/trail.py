"""What became of one call of a task that asks a service: its messages and its requests, paired.

A planned wait is not measured but read: a retry's message names the moment that it is due (its
ETA), and that moment was set after the attempt had its answer and before the message was seen. Both
are the grader's own observations, so the wait lies between two numbers, however slow the machine
is: a busy one makes the interval wider, never wrong. An interval wider than a second says little;
a check reads the waits of several tasks, so that some of them are sharp.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from grader.history import Call, Message
from grader.services.wire import Request


@dataclass(frozen=True)
class Wait:
    """A planned wait, known to lie between `low` and `high` seconds."""

    low: float
    high: float

    def near(self, wanted: float, tolerance: float = 0.5) -> bool:
        """Whether the wait can be `wanted`, give or take the tolerance."""
        return self.within(wanted, wanted, tolerance)

    def within(self, least: float, most: float, tolerance: float = 0.5) -> bool:
        """Whether the wait can lie between these two, give or take the tolerance."""
        return self.high >= least - tolerance and self.low <= most + tolerance

    def __str__(self) -> str:
        return f"{max(0.0, (self.low + self.high) / 2):.1f}"


@dataclass
class Trail:
    """One call's attempts.

    Attributes:
        call: what the grader sent.
        requests: what the service got on the call's behalf, in the order of arrival.
        messages: every message seen with the call's id.
        since: the retry number that the call itself was sent with.
    """

    call: Call
    requests: Sequence[Request]
    messages: Sequence[Message] = field(default_factory=list)
    since: int = 0

    @property
    def retries(self) -> dict[int, Message]:
        """The message of each retry by its number, the first one first.

        A task that is put off publishes the same number again; the first one is the retry.
        """
        found: dict[int, Message] = {}
        for message in self.messages:
            if message.retries > self.since:
                found.setdefault(message.retries, message)
        return dict(sorted(found.items()))

    @property
    def attempts(self) -> int:
        """How often the task was executed, put-offs apart.

        Without a published retry the requests count: a loop inside the task is one execution, and
        tries again all the same.
        """
        return 1 + len(self.retries) if self.retries else len(self.requests)

    @property
    def waits(self) -> list[Wait]:
        """The planned wait before each retry, in the order of their numbers."""
        return [self._wait(place, message) for place, message in enumerate(self.retries.values())]

    def _wait(self, place: int, message: Message) -> Wait:
        due = message.planned_for
        if due is None:
            return Wait(0.0, 0.0)
        # Some write the moment down in whole milliseconds.
        return Wait(due - message.at - 0.001, due - self._failed_at(place, message) + 0.001)

    def _failed_at(self, place: int, message: Message) -> float:
        """Return the latest known moment that came before a retry was planned."""
        if len(self.requests) - len(self.retries) in (0, 1):  # one request an attempt
            return answered_at(self.requests[place])
        ended = (answered_at(r) for r in self.requests)
        return max((at for at in ended if at <= message.at), default=self.call.sent_at)


def answered_at(request: Request) -> float:
    """Return the epoch time of a request's end, of its arrival while it has none."""
    return request.at + ((request.ended or request.began) - request.began)


def constant(waits: Sequence[Wait]) -> bool:
    """Whether all of the waits may be the same, give or take the rounding of the moments."""
    return max(wait.low for wait in waits) <= min(wait.high for wait in waits) + 0.02


def trail(
    call: Call, requests: Sequence[Request], messages: Sequence[Message], since: int = 0
) -> Trail:
    """Return the trail of a call: its own messages out of all, with its requests."""
    return Trail(call, list(requests), [m for m in messages if m.id == call.id], since)

"""A submission's beat in a simulated time: `celery beat` itself with another clock.

Whatever scheduler and whatever schedule objects the submission has, what counts is when it sends
what. It learns the time a moment at a time (grader/passage.py), so that what is due can't be
foretold; and what it says to have sent counts once its broker has it.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from grader.beat import death
from grader.errors import LabFault, SubmissionFault
from grader.passage import Passage, Span
from grader.process import wait_until
from grader.queues import published

if TYPE_CHECKING:
    from grader.twin import Twin

SIMULATION_SECONDS = 300.0
# The part of that time that whoever is busy gets of a processor, also on a busy machine.
HARDLY = 0.05
LONGEST, MOST = 20_000, 200_000
REAL = 6.0  # real seconds after a call: what was added must be in force by then
SOON = 1.0  # seconds until a call that failed is made again


@dataclass(frozen=True)
class Sending:
    """A task that beat sent: times are epoch seconds, `life` is how long the message is valid."""

    task: str
    id: str
    at: float
    args: Sequence[Any]
    kwargs: Any
    life: float | None

    @classmethod
    def of(cls, row: dict[str, Any], at: float) -> Sending:
        """Read one line of a simulation; `at` is when it came."""
        life = None
        with contextlib.suppress(TypeError, ValueError):
            life = datetime.fromisoformat(row["expires"]).timestamp() - at
        args = row["args"] if isinstance(row["args"], list) else [row["args"]]
        return cls(str(row["sent"]), str(row["id"]), at, args, row["kwargs"], life)


class Simulation:
    """One beat in a time of its own; it starts at once, `finish` waits for its end.

    Args:
        twin: where it runs; its memory stays there for the next one.
        legs: pairs of epoch seconds.
        fine: pairs of epoch seconds between which everything is on time; elsewhere only what is due
            on the hour. All of the legs, if not given.
        whole: pairs of epoch seconds between which no wake-up is left out: what comes too often
            shows only there.
        add: calls (task, args) to make while it runs; they and what follows take real seconds.
        periods: seconds after a sending at which the same may be due again.
        end: the signal that ends it, 0 to let it end by itself.
        pace: how much faster than a real clock, 0 for as fast as it goes.

    Attributes:
        sent: what it says to have sent so far; what its broker really has, once it is finished.
        added: {"called": task, "value": ..., "at": seconds}, or with "error", for each call.
        conf: the app's timezone and enable_utc, once it is imported.
    """

    def __init__(
        self,
        twin: Twin,
        legs: Sequence[Span],
        *,
        fine: Sequence[Span] | None = None,
        whole: Sequence[Span] = (),
        add: Sequence[tuple[str, Sequence[Any]]] = (),
        periods: Sequence[float] = (300.0,),
        end: int = 0,
        pace: float = 0,
    ) -> None:
        fine, real = legs if fine is None else fine, REAL if add else 0.0
        self._time = Passage(list(legs), fine, whole, periods, real, pace)
        self._twin, self._calls, self._end = twin, dict(enumerate(add)), end
        self._errors: dict[int, dict[str, Any]] = {}
        self._orders: Generator[dict[str, Any], dict[str, Any], None] | None = None
        self.sent: list[Sending] = []
        self.added: list[dict[str, Any]] = []
        self.conf: dict[str, Any] = {}
        plan = {"module": twin.place.module, "begin": self._time.now}
        self.child = twin.place.start("beat", [json.dumps(plan)], stdin=True, stdout=True)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    @property
    def over(self) -> bool:
        """Whether it has lived through its legs."""
        return self._time.over

    def published(self) -> int:
        """Return how many messages its broker holds."""
        return len(self._kept())

    def _kept(self) -> set[tuple[str, str]]:
        with self._twin.servers["broker"].client() as client:
            return published(client)

    def _read(self) -> None:
        stream = self.child.process.stdout
        assert stream
        with contextlib.suppress(OSError, ValueError), stream:
            while (line := stream.readline(LONGEST)) and len(self.sent) < MOST:
                # A submission can write here too: what can't be read is none of ours.
                with contextlib.suppress(
                    ValueError, KeyError, TypeError, OverflowError, RecursionError
                ):
                    self._take(json.loads(line))

    def _take(self, row: dict[str, Any]) -> None:
        if "timezone" in row:
            self.conf = row
            return
        at = self._time.look(float(row["at"]))
        if "sent" in row:
            self.sent.append(Sending.of(row, at))
            self._time.sent(f"{row['sent']} {row['args']}")
        elif "sleep" in row:
            self._orders = self._sleep(float(row["sleep"]))
            self._say(next(self._orders))
        elif "called" in row and self._orders:
            self._say(self._orders.send({**row, "at": at}))

    def _say(self, order: dict[str, Any]) -> None:
        stream = self.child.process.stdin
        assert stream
        stream.write(json.dumps(order).encode() + b"\n")
        stream.flush()

    def _sleep(self, asked: float) -> Generator[dict[str, Any], dict[str, Any], None]:
        """Yield what beat has to do before it goes on, at last how long it sleeps."""
        if self._time.real > 0 and self._calls:
            yield from self._call()
            asked = min(asked, SOON) if self._calls else asked
        wait = self._time.rest(asked)
        if self._time.real <= 0:
            self._give_up()
        yield {"end": self._end} if self.over else {"wait": wait, "to": self._time.now}

    def _call(self) -> Generator[dict[str, Any], dict[str, Any], None]:
        """Have the calls made; one that fails is made again, for beat may not be ready yet."""
        for number, call in list(self._calls.items()):
            row = yield {"call": call}
            if "error" in row:
                self._errors[number] = row
            else:
                self.added.append(row)
                del self._calls[number]
                self._time.real = REAL

    def _give_up(self) -> None:
        """Note the calls that never went well."""
        self.added += [self._errors[number] for number in self._calls]
        self._calls = {}

    def finish(self, within: float = SIMULATION_SECONDS) -> Simulation:
        """Wait until it has lived through its legs and ended.

        Raises:
            SubmissionFault: beat ended before, or waits for something that never comes.
            LabFault: it takes too long; a scheduler that waits by itself has no other time.
        """

        def late() -> LabFault | SubmissionFault:
            # Time passes as fast as it goes, so whoever is not through has been busy.
            if self.child.cpu_seconds < within * HARDLY:
                return SubmissionFault("beat_waits", seconds=f"{within:g}")
            return LabFault("beat_slow", seconds=f"{within:g}")

        if self.over and not self._thread.is_alive():
            return self  # it was finished before
        wait_until(lambda: not self.child.alive, within, late, every=0.02)
        self._thread.join(5)
        if not self.over:
            raise death(self.child)
        kept = self._kept()
        self.sent = [row for row in self.sent if (row.task, row.id) in kept]
        return self

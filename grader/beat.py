"""A submission's beat: the real program, in real time, in a faked one, or in a simulated one.

A simulation is `celery beat` itself with another clock (see inside/beat.py): whatever scheduler and
whatever schedule objects the submission has, what counts is when it sends what.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from grader.errors import LabFault, SubmissionFault
from grader.place import Place
from grader.process import Child, wait_until

SIMULATION_SECONDS = 300.0
# The part of that time that whoever is busy gets of a processor, also on a busy machine.
HARDLY = 0.05
LONGEST, MOST = 20_000, 200_000
FAKETIME = (
    "/usr/lib/*/faketime/libfaketime.so.1",
    "/usr/lib*/faketime/libfaketime.so.1",
    "/usr/local/lib/faketime/libfaketime.so.1",
)


@dataclass(frozen=True)
class Sending:
    """A task that beat sent: times are epoch seconds, `life` is how long the message is valid."""

    task: str
    at: float
    args: Sequence[Any]
    kwargs: Any
    life: float | None

    @classmethod
    def of(cls, row: dict[str, Any]) -> Sending:
        """Read one line of a simulation."""
        life = None
        with contextlib.suppress(TypeError, ValueError):
            life = datetime.fromisoformat(row["expires"]).timestamp() - row["at"]
        args = row["args"] if isinstance(row["args"], list) else [row["args"]]
        return cls(str(row["sent"]), float(row["at"]), args, row["kwargs"], life)


class Simulation:
    """One beat in a time of its own; it starts at once, `finish` waits for its end.

    Args:
        place: where it runs; its memory stays there for the next one.
        legs: pairs of epoch seconds.
        fine: pairs of epoch seconds between which everything is on time; elsewhere only what is due
            on the hour. All of the legs, if not given.
        whole: pairs of epoch seconds between which no wake-up is left out: what comes too often
            shows only there.
        add: calls (task, args) to make while it runs.
        periods: seconds after a sending at which the same may be due again.
        end: the signal that ends it, 0 to let it end by itself.
        pace: how much faster than a real clock, 0 for as fast as it goes.
        publish: publish to the broker what beat sends.

    Attributes:
        sent: what it has sent so far.
        added: {"added": task, "value": ..., "at": seconds}, or with "error", for each call.
        conf: the app's timezone and enable_utc, once it is imported.
    """

    def __init__(
        self,
        place: Place,
        legs: Sequence[tuple[float, float]],
        *,
        fine: Sequence[tuple[float, float]] | None = None,
        whole: Sequence[tuple[float, float]] = (),
        add: Sequence[tuple[str, Sequence[Any]]] = (),
        periods: Sequence[float] = (300.0,),
        end: int = 0,
        pace: float = 0,
        publish: bool = False,
    ) -> None:
        plan = {"module": place.module, "legs": legs, "add": add, "end": end}
        plan |= {"pace": pace, "publish": publish, "fine": legs if fine is None else fine}
        plan |= {"whole": whole, "periods": periods}
        self.sent: list[Sending] = []
        self.added: list[dict[str, Any]] = []
        self.conf: dict[str, Any] = {}
        self.over = False
        self.child = place.start("beat", [json.dumps(plan)], stdout=True)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        stream = self.child.process.stdout
        assert stream
        with contextlib.suppress(OSError, ValueError), stream:
            while (line := stream.readline(LONGEST)) and len(self.sent) < MOST:
                # A submission can write here too: what can't be read is none of ours.
                with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
                    self._take(json.loads(line))

    def _take(self, row: dict[str, Any]) -> None:
        if "sent" in row:
            self.sent.append(Sending.of(row))
        elif "added" in row:
            self.added.append({**row, "at": float(row.get("at", 0.0))})
        elif "timezone" in row:
            self.conf = row
        elif row.get("over"):
            self.over = True

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

        wait_until(lambda: not self.child.alive, within, late, every=0.02)
        self._thread.join(5)
        if not self.over:
            raise death(self.child)
        return self


def death(child: Child) -> SubmissionFault:
    """Return the error that tells how a beat ended, with the last lines that it printed."""
    from grader.worker import how_it_ended, tail

    log = tail(child.output.finish(0.5))
    return SubmissionFault("beat_died", how=how_it_ended(child), log=log)


def start(place: Place, faked: float | None = None, pace: int = 60) -> Child:
    """Start `celery beat` as a user would.

    Args:
        faked: the epoch second that its clock begins with; needs `faketime`.
        pace: how much faster than a real one that clock goes.
    """
    extra = {}
    if faked is not None:
        # libfaketime reads it in the process's own zone.
        text = datetime.fromtimestamp(faked, UTC).strftime("%Y-%m-%d %H:%M:%S")
        extra = {"LD_PRELOAD": str(faketime()), "FAKETIME": f"@{text} x{pace}", "TZ": "UTC"}
    command = ("-m", "celery", "-A", place.module, "beat", "-l", "INFO")
    return place.start("program", command, extra)


def faketime() -> Path | None:
    """Return the library of the package faketime, None where it is not installed."""
    found = (path for pattern in FAKETIME for path in Path("/").glob(pattern.lstrip("/")))
    return next(found, None)


def idle(child: Child, seconds: float = 0.5) -> Callable[[], bool]:
    """Return a condition: for so long, the process has used next to no processor time."""
    last = [time.monotonic(), child.cpu_seconds]

    def condition() -> bool:
        now, used = time.monotonic(), child.cpu_seconds
        if used - last[1] > 0.02:
            last[:] = [now, used]
        return now - last[0] >= seconds

    return condition

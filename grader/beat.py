"""A submission's beat: the real program, in real time or in a faked one, and how it ended."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from grader.errors import SubmissionFault
from grader.place import Place
from grader.process import Child

FAKETIME = (
    "/usr/lib/*/faketime/libfaketime.so.1",
    "/usr/lib*/faketime/libfaketime.so.1",
    "/usr/local/lib/faketime/libfaketime.so.1",
)


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

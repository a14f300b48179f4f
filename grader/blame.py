"""Whose fault it is when a run's own server refuses or drowns the grader.

A private server has two clients: the submission and the grader, which sends it a handful of plain
commands. If it answers these with an error, or has too much to tell, the submission made it so.
"""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

from grader.errors import LabFault, SubmissionFault

# While the grader waits for a message of its own, an honest submission's processes send some ten
# commands a second. Whoever has read so many and has not come to it yet stands in a flood.
FLOOD = 3000
# More messages than any exercise needs by far; what comes after them is not kept.
MOST_MESSAGES = 50_000
MOST_EVENTS = 200_000
# Three times as many as any exercise has: then a late answer is the flood's work.
MANY_EVENTS = 60_000
# Less room than that on the run's own disk, while there is more on the machine's: bytes.
LITTLE = 1024 * 1024


def of_a_broker(error: BaseException) -> bool:
    """Whether a client of Redis or RabbitMQ raised this error."""
    import amqp
    import kombu.exceptions
    import redis

    kinds = (redis.RedisError, amqp.AMQPError, kombu.exceptions.OperationalError)
    return isinstance(error, kinds)


def of_its_own(error: BaseException, *folders: Path) -> SubmissionFault | None:
    """Return the submission's fault for an error over what it gave, or over where it writes.

    Args:
        error: what reached a check.
        folders: where the submission puts what it likes.
    """
    if isinstance(error, OverflowError):  # no figure of ours is that large
        return SubmissionFault("number_too_large", error=error)
    if not isinstance(error, OSError):
        return None
    # Of two names the second is the one that was to be replaced.
    names = [Path(n) for n in (error.filename2, error.filename) if isinstance(n, str | Path)]
    if error.errno == errno.ENOSPC:
        places = [*folders, *(name.parent for name in names[:1])]
        full = any(shutil.disk_usage(place).free < LITTLE for place in places if place.exists())
        return SubmissionFault("data_filled") if full else None
    for name in names:
        if any(name.is_relative_to(folder) for folder in folders):
            return SubmissionFault("no_plain_file", name=name.name)
    return None


def refused(error: BaseException) -> SubmissionFault | None:
    """Return the submission's fault for an error that a private Redis gave as its answer.

    None for anything else, a lost connection for example.
    """
    import redis

    text = str(error)
    if text.startswith("BUSY "):  # said while a script runs on and on, and none is the grader's
        return SubmissionFault("server_blocked", broker="redis")
    if "'maxmemory'" in text:
        return SubmissionFault("server_filled", broker="redis")
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, redis.ResponseError) or "max number of clients" in str(cause):
            return SubmissionFault("server_spoilt", broker="redis", error=text[:200])
        cause = cause.__cause__
    return None


def deaf(seen: int, seconds: float) -> LabFault | SubmissionFault:
    """Return the error of a tap that did not see our message within so many seconds.

    Args:
        seen: the commands or messages that it saw meanwhile.
    """
    if seen > FLOOD:
        return flooded()
    return LabFault("deaf_tap", seconds=f"{seconds:g}")


def drowned(events: int) -> bool:
    """Whether so many events were heard that a private Redis can't be blamed for being late."""
    return events > MANY_EVENTS


def flooded() -> SubmissionFault:
    """Return the error of a submission that says more than anybody can listen to."""
    return SubmissionFault("broker_flooded", most=MOST_MESSAGES)

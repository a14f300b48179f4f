"""Whose fault it is when a run's own server refuses or drowns the grader.

A private server has two clients: the submission and the grader, which sends it a handful of plain
commands. If it answers these with an error, or has too much to tell, the submission made it so.
"""

from __future__ import annotations

from grader.errors import LabFault, SubmissionFault

# While the grader waits for a message of its own, an honest submission's processes send some ten
# commands a second. Whoever has read so many and has not come to it yet stands in a flood.
FLOOD = 3000
# More messages than any exercise needs by far; what comes after them is not kept.
MOST_MESSAGES = 50_000
MOST_EVENTS = 200_000
# A private Redis that stands closes a connection by itself only when it can't be rid of what it
# has to tell there. Whoever has heard so many events by then heard a flood.
MANY_EVENTS = 20_000


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


def drowned(error: BaseException, events: int) -> bool:
    """Whether a standing private Redis closed a connection because too much was to be told there.

    Args:
        error: how the connection was lost.
        events: that were heard until then.
    """
    # No exercise comes to three times as many: then a late answer is the flood's work as well.
    return events > (MANY_EVENTS if "closed by server" in str(error) else 3 * MANY_EVENTS)


def flooded() -> SubmissionFault:
    """Return the error of a submission that says more than anybody can listen to."""
    return SubmissionFault("broker_flooded", most=MOST_MESSAGES)

"""Prints the seconds that the sandbox adds to one lab: boot, thirty calls, and the end.

Taken in turn with the same lab under resource limits alone, because the machine's speed drifts.
"""

from __future__ import annotations

import statistics
import time

from grader.exercise import SOLUTIONS, find
from grader.lab import Lab
from grader.sandbox import Sandbox, best
from grader.session import session
from grader.stack.provider import Stack
from grader.submission import Submission

PAIRS = 5


def seconds(stack: Stack, box: Sandbox) -> float:
    """Return how long one lab of the reference solution takes."""
    exercise, submission = find("1_2"), Submission.at(SOLUTIONS / "1_2")
    began = time.monotonic()
    lab = Lab(exercise, submission, "redis", stack, box, 1)
    calls = lab.calls([("add", number, 1) for number in range(30)], within=30)
    lab.close()
    assert all(call.reply and call.reply.succeeded for call in calls)
    return time.monotonic() - began


def main() -> None:
    """Take five pairs, after one lab that loads what both need."""
    with session("embedded") as stack:
        seconds(stack, best())
        pairs = [(seconds(stack, Sandbox("limits")), seconds(stack, best())) for _ in range(PAIRS)]
    print(f"{statistics.median(held - bare for bare, held in pairs):.3f}")


if __name__ == "__main__":
    main()

"""Lets a worker's retries wait a fraction of what was planned, without touching anything else.

Celery's worker holds a task that has an ETA by `call_at` of its timer. Only that one method is
changed: heartbeats, polling and restoring go through the timer's other methods, and every clock
that the submission can read stays right. What was planned is read from the published messages.
"""

import time
from typing import Any


def hasten(times: float) -> None:
    """Have tasks that are due later start after the `times`-th part of the remaining wait.

    With less than 1 they start later than they are due, which keeps them out of a check's way.

    An event-loop pool (prefork) uses this timer itself; the timer thread of the others keeps one
    inside and calls the same method.
    """
    from kombu.asynchronous.timer import Timer

    wait_whole = Timer.call_at

    def call_at(self: Any, eta: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(eta, int | float):  # seconds of the monotonic clock
            now = time.monotonic()
            eta = now + max(0.0, eta - now) / times
        return wait_whole(self, eta, *args, **kwargs)

    Timer.call_at = call_at  # type: ignore[method-assign]

"""What is still to come of orders: grader/order.py."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest

from grader.order import put_off


def received(wait, ago=0.0, id="a"):
    """Return the event of a task that was received `ago` seconds ago and is due `wait` later."""
    at = time.time() - ago
    eta = datetime.fromtimestamp(at + wait, UTC).isoformat() if wait else None
    return {"type": "task-received", "uuid": id, "timestamp": at, "eta": eta}


@pytest.mark.parametrize(
    ("wait", "ago", "ended", "awaited"),
    [
        (80, 10, (), True),
        (180, 40, (), True),
        (80, 30, (), False),  # it was due long ago
        (80, 10, ("a",), False),
        (4, 0, (), False),  # a task that looks now and then
        (3600, 0, (), False),  # a watchman for the next day
        (0, 0, (), False),
    ],
)
def test_a_long_wait_is_no_standstill(wait, ago, ended, awaited):
    """Only a task that was put off for long and is soon to come is waited for."""
    assert put_off([received(wait, ago)], 4, ended) is awaited


def test_what_is_no_eta_is_passed_over():
    """Events are a submission's: whatever they say raises nothing."""
    now = {"type": "task-received", "timestamp": time.time()}
    events = [{**now, "eta": eta} for eta in (None, "soon", 7, "2026-01-01")]
    events += [{**received(80), "timestamp": at} for at in (None, "x", 10**400, [], float("inf"))]
    assert put_off(events, 4) is False

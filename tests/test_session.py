"""A call's orderly end, also where Python loses the interrupt."""

from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from grader.lab import Lab
from grader.process import stopped
from grader.session import as_they_end


def test_futures_come_as_they_end():
    """Every future is yielded once, the finished ones first."""
    late: Future[int] = Future()
    early: Future[int] = Future()
    early.set_result(1)
    seen = []

    for future in as_they_end([late, early]):
        seen.append(future)
        if future is early:
            late.set_result(2)

    assert seen == [early, late]


def test_an_error_stays_in_its_future():
    """A future that failed is yielded like another: its error is its reader's."""
    with ThreadPoolExecutor(1) as pool:
        (future,) = as_they_end([pool.submit(int, "x")])

    assert isinstance(future.exception(), ValueError)


def test_a_lost_interrupt_ends_the_wait():
    """An interrupt that was noted but never raised ends the wait for what never ends."""
    stopped.set()
    try:
        with pytest.raises(KeyboardInterrupt):
            list(as_they_end([Future()]))
    finally:
        stopped.clear()


def test_a_checks_wait_ends_with_the_call():
    """A check that waits for a minute, in whichever thread, ends when the call is interrupted."""
    lab = SimpleNamespace(_listener=None)
    stopped.set()
    try:
        with pytest.raises(KeyboardInterrupt):
            Lab.until(lab, lambda: False, within=60)
    finally:
        stopped.clear()
    assert Lab.until(lab, lambda: True)

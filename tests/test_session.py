"""A call's orderly end, also where Python loses the interrupt."""

from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from grader.session import as_they_end, stopped


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

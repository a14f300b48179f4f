"""grader/trail.py: messages and requests of a call, paired into attempts and planned waits."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from grader.history import Call, Message
from grader.services.wire import Request
from grader.trail import Trail, Wait, trail

START = 1_700_000_000.0


def message(retries, seen, due=None, id="a"):
    eta = None if due is None else datetime.fromtimestamp(START + due, UTC).isoformat()
    return Message("t", id, "celery", "application/json", retries, eta, START + seen)


def request(at, ended=None):
    end = None if ended is None else 100 + ended - at
    return Request(START + at, "GET", "/jobs/k", "k", {}, began=100.0, ended=end)


def made(requests, messages, **options):
    return Trail(Call("a", "t", sent_at=START), requests, messages, **options)


def test_a_wait_lies_between_what_was_seen():
    """The wait is known to be at least ETA less sighting and at most ETA less the failed answer."""
    found = made([request(1, 1.2), request(3.5)], [message(0, 0.5), message(1, 1.5, due=3.25)])

    (wait,) = found.waits
    assert wait.low == pytest.approx(1.75, abs=0.01)
    assert wait.high == pytest.approx(2.05, abs=0.01)


def test_a_late_sighting_makes_a_wait_wide_and_not_wrong():
    """However late a message was seen, the wait that was planned lies within its bounds."""
    (wait,) = made([request(1, 1)], [message(1, 2.9, due=3)]).waits

    assert wait.low < 0.2 and wait.near(2) and not wait.near(3)


def test_a_retry_without_an_eta_waits_not_at_all():
    """A countdown of 0 has no ETA in its message."""
    (wait,) = made([request(1, 1)], [message(1, 1)]).waits

    assert wait == Wait(0, 0)


def test_a_moment_without_an_offset_is_in_utc():
    """`eta=datetime.utcnow() + ...` is sent as it is, and Celery's worker reads it as UTC."""
    eta = datetime.fromtimestamp(START + 3, UTC).replace(tzinfo=None).isoformat()
    row = Message("t", "a", "celery", "application/json", 1, eta, START + 1)

    assert row.planned_for == START + 3


def test_retries_are_paired_by_number():
    """Messages may be seen out of order, and a number that comes again was only put off."""
    rows = [message(2, 4, due=7), message(1, 1, due=3), message(2, 8, due=30)]
    found = made([request(1, 1), request(3, 3), request(7, 7)], rows)

    assert list(found.retries) == [1, 2] and found.attempts == 3
    assert found.waits[0].near(2) and found.waits[1].near(4)


def test_hidden_requests_do_not_shift_the_pairs():
    """With several requests an attempt, the wait counts from the last one before its message."""
    ends = [1, 1.1, 1.2, 3, 3.1, 3.2]
    found = made([request(at, at) for at in ends], [message(1, 1.3, 3.2), message(2, 3.3, 7.2)])

    assert found.attempts == 3 and found.waits[0].near(2, 0.1) and found.waits[1].near(4, 0.1)


def test_a_loop_inside_a_task_counts_by_its_requests():
    """Where no retry was published, each request is an attempt."""
    assert made([request(1), request(2), request(3)], [message(0, 0)]).attempts == 3


def test_a_call_that_was_sent_as_a_late_retry_has_later_ones_only():
    """The call's own message is none of its retries, whatever number it was sent with."""
    found = made([request(1, 1)], [message(4, 0), message(5, 1, due=9)], since=4)

    assert list(found.retries) == [5] and found.waits[0].near(8)


def test_a_trail_has_the_messages_of_its_call_alone():
    """Messages of other tasks are left out."""
    found = trail(Call("a", "t"), [], [message(1, 0), message(1, 0, id="b")])

    assert [m.id for m in found.messages] == ["a"]


@pytest.mark.parametrize(
    ("wait", "least", "most", "right"),
    [
        (Wait(2.9, 3.1), 3, 4, True),
        (Wait(2.3, 2.45), 3, 4, False),
        (Wait(4.4, 4.6), 3, 4, True),
        (Wait(4.6, 4.7), 3, 4, False),
        (Wait(0, 9), 3, 4, True),
    ],
)
def test_a_wait_is_within_where_it_can_be(wait, least, most, right):
    """A wait is refused only where no value between its bounds would do."""
    assert wait.within(least, most) is right


def test_a_wait_is_told_by_its_middle():
    """On the score card a wait is one number, never below nought."""
    assert str(Wait(1.98, 2.02)) == "2.0" and str(Wait(-0.2, 0.1)) == "0.0"

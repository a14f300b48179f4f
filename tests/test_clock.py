"""grader/clock.py: planned waits and moments with an offset."""

from __future__ import annotations

from datetime import timedelta

import pytest

from grader.clock import constant, doubling, near, parse_offset_datetime


def test_constant_repeats_one_wait():
    """A constant plan is the same wait, as a float, as often as asked; none at all for 0."""
    assert constant(2, times=3) == [2.0, 2.0, 2.0]
    assert constant(2, times=0) == []


def test_doubling_doubles_up_to_its_cap():
    """Each wait is twice the one before, and the cap holds for all of them, the first too."""
    assert doubling(first=1, times=5) == [1.0, 2.0, 4.0, 8.0, 16.0]
    assert doubling(first=1, times=5, cap=8) == [1.0, 2.0, 4.0, 8.0, 8.0]
    assert doubling(first=3, times=2, cap=2) == [2.0, 2.0]
    assert doubling(times=0) == []


@pytest.mark.parametrize("waits", [[0.98, 1.99, 4.0], [1.4, 2.5, 3.5]])
def test_near_bears_a_delay_either_way(waits):
    """A wait a little above or below the nominal one counts, up to the tolerance itself."""
    assert near(waits, doubling(first=1, times=3))


@pytest.mark.parametrize(
    "waits", [[], [1, 2], [1, 2, 4, 8], [1, 2, 4.6], [0.4, 2, 4], [2, 1, 4], [1, 2, float("nan")]]
)
def test_near_tells_other_waits(waits):
    """Too few, too many, too far off, in another order or no number at all: not near."""
    assert not near(waits, doubling(first=1, times=3))


def test_near_takes_another_tolerance():
    """The tolerance is the caller's, 0 included."""
    assert near([1.9], [1], tolerance=1)
    assert not near([1.001], [1], tolerance=0)
    assert near([], [])


@pytest.mark.parametrize(
    ("text", "hours"),
    [
        ("2024-03-01T10:00:00Z", 0),
        ("2024-03-01T10:00:00.123456+08:00", 8),
        ("2024-03-01 10:00:00-05:30", -5.5),
        ("20240301T100000+0000", 0),
    ],
)
def test_a_moment_with_an_offset_is_read(text, hours):
    """ISO 8601 with `Z` or a numeric offset keeps the instant and the offset."""
    assert parse_offset_datetime(text).utcoffset() == timedelta(hours=hours)


@pytest.mark.parametrize(
    "text",
    [
        "2024-03-01T10:00:00",
        "2024-03-01",
        "2024-03-01x10:00:00+00:00",
        "2024-03-01T10:00:00+25:00",
        " 2024-03-01T10:00:00Z",
        "2024-02-30T10:00:00Z",
        "1709287200",
        "now",
        "",
        None,
        1709287200,
        b"2024-03-01T10:00:00Z",
    ],
)
def test_what_has_no_offset_is_refused(text):
    """A naive moment, a bare date, nonsense and what is no text raise ValueError."""
    with pytest.raises(ValueError):
        parse_offset_datetime(text)

"""The grader's own almanac, held against the package ephem (horizon -0:34, no pressure)."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest

from grader.sun import event, events


@pytest.mark.parametrize(
    ("rises", "latitude", "longitude", "day", "wanted"),
    [
        (True, 31.2, 121.5, date(2027, 3, 28), "2027-03-27 21:48:40"),
        (False, 31.2, 121.5, date(2027, 12, 21), "2027-12-21 08:55:23"),
        (True, -33.9, 151.2, date(2030, 1, 1), "2029-12-31 18:47:28"),
        (False, 52.5, 13.4, date(2028, 6, 21), "2028-06-21 19:33:12"),
        (True, 0, -179.5, date(2029, 9, 23), "2029-09-23 17:46:50"),
        (False, -50, -70, date(2032, 2, 29), "2032-02-29 23:33:31"),
    ],
)
def test_the_sun_is_where_ephem_has_it(rises, latitude, longitude, day, wanted):
    """Sunrise and sunset are right to a quarter of a minute."""
    at = event(rises, latitude, longitude, day)

    assert abs(at - datetime.fromisoformat(wanted + "+00:00")) < timedelta(seconds=15)


def test_events_of_a_span():
    """A place has one sunset a day, and a span those that lie in it."""
    start = datetime(2027, 5, 3, 11, tzinfo=UTC)
    end = start + timedelta(days=3)

    found = events(False, 31.2, 121.5, start, end)

    assert len(found) == 3
    assert all(start <= at < end for at in found)
    assert events(False, 31.2, 121.5, found[0], found[1]) == found[:1]

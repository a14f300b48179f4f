"""The grader's own calendar, held against a cron library and against days of which we know."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from hypothesis import given, settings
from hypothesis import strategies as st

from grader.timetable import Wall, changes, compare, instants

SHANGHAI, BERLIN = ZoneInfo("Asia/Shanghai"), ZoneInfo("Europe/Berlin")
NEW_YORK = ZoneInfo("America/New_York")
ZONES = (SHANGHAI, BERLIN, NEW_YORK)
DAY = timedelta(days=1)


def by_cronsim(expression, zone, start, end):
    """Return the instants that cronsim finds from `start` on and before `end`."""
    found = []
    for at in CronSim(expression, (start - timedelta(minutes=1)).astimezone(zone)):
        if at.astimezone(UTC) >= end:
            return found
        if at.astimezone(UTC) >= start:
            found.append(at.astimezone(UTC))
    return found


@settings(deadline=None, max_examples=150)
@given(
    zone=st.sampled_from(ZONES),
    hour=st.integers(0, 23),
    minute=st.integers(0, 59),
    weekday=st.none() | st.integers(0, 6),
    start=st.datetimes(datetime(2024, 1, 1), datetime(2033, 1, 1)),
)
def test_a_time_of_the_day_is_where_cron_has_it(zone, hour, minute, weekday, start):
    """A fixed local time is due when cronsim says so, changes of the clock included."""
    start = start.replace(tzinfo=UTC, second=0, microsecond=0)
    end = start + 30 * DAY
    wall = Wall((hour,), (minute,), range(7) if weekday is None else (weekday,))
    day = "*" if weekday is None else str((weekday + 1) % 7)

    seen = by_cronsim(f"{minute} {hour} * * {day}", zone, start, end)

    due = wall.due(zone, start, end)
    # Of a time that occurs twice, cron takes the first.
    at_edge = [d for d in due if len(d) == 2 and not start <= d[0] < d[1] < end]
    assert not at_edge
    clear = [at for at in seen if at < end - timedelta(hours=2)]
    assert [each[0] for each in due if each[0] < end - timedelta(hours=2)] == clear


@settings(deadline=None, max_examples=60)
@given(zone=st.sampled_from(ZONES), year=st.integers(2024, 2035), day=st.integers(0, 360))
def test_quarters_are_where_cron_has_them(zone, year, day):
    """On a day without a change the quarters are those of cronsim."""
    start = datetime(year, 1, 1, 12, tzinfo=UTC) + day * DAY
    if any(start - DAY <= at <= start + 2 * DAY for at in changes(zone, year)):
        return

    due = Wall(minutes=(0, 15, 30, 45)).due(zone, start, start + DAY)

    assert [each[0] for each in due] == by_cronsim("*/15 * * * *", zone, start, start + DAY)


def test_changes_of_a_year():
    """The changes of a year are found to the minute; a zone may have none."""
    assert changes(SHANGHAI, 2027) == []
    assert changes(BERLIN, 2027) == [
        datetime(2027, 3, 28, 1, tzinfo=UTC),
        datetime(2027, 10, 31, 1, tzinfo=UTC),
    ]
    assert changes(NEW_YORK, 2027) == [
        datetime(2027, 3, 14, 7, tzinfo=UTC),
        datetime(2027, 11, 7, 6, tzinfo=UTC),
    ]


@pytest.mark.parametrize(
    ("local", "wanted"),
    [
        (datetime(2027, 3, 28, 2, 0), [datetime(2027, 3, 28, 1, tzinfo=UTC)]),
        (datetime(2027, 3, 28, 2, 45), [datetime(2027, 3, 28, 1, tzinfo=UTC)]),
        (datetime(2027, 3, 28, 3, 0), [datetime(2027, 3, 28, 1, tzinfo=UTC)]),
        (datetime(2027, 7, 1, 2, 0), [datetime(2027, 7, 1, 0, tzinfo=UTC)]),
        (
            datetime(2027, 10, 31, 2, 30),
            [datetime(2027, 10, 31, 0, 30, tzinfo=UTC), datetime(2027, 10, 31, 1, 30, tzinfo=UTC)],
        ),
    ],
)
def test_local_times_without_and_with_two_instants(local, wanted):
    """A missing time comes at the next instant there is; a repeated one has two."""
    assert list(instants(local, BERLIN)) == wanted


def test_times_that_coincide_are_due_once():
    """What is due at the same instant for two reasons is due once."""
    sunday = datetime(2027, 3, 27, 23, tzinfo=UTC)

    due = Wall((1, 2, 3), (0, 15, 30, 45)).due(BERLIN, sunday, sunday + timedelta(hours=3))

    assert len(due) == 8  # 01:00 to 01:45, then 03:00 to 03:45: the hour in between makes 03:00


START = datetime(2027, 5, 3, tzinfo=UTC)
DUE = [(START + timedelta(hours=n),) for n in (1, 2, 3)]


def seconds(*instants):
    """Return hours after START as epoch seconds."""
    return [(START + timedelta(hours=hour)).timestamp() for hour in instants]


@pytest.mark.parametrize(
    ("seen", "kind", "hour"),
    [
        (seconds(1, 2, 3), None, 0),
        ([at + 14 for at in seconds(1, 2, 3)], None, 0),
        (seconds(1, 3), "missing", 2),
        (seconds(1, 1.5, 2, 3), "extra", 1.5),
        (seconds(1, 2, 2, 3), "twice", 2),
        ([at + 16 for at in seconds(1, 2, 3)], "missing", 1),
        ([at - 2 for at in seconds(1, 2, 3)], "extra", 1 - 2 / 3600),
        ([], "missing", 1),
    ],
)
def test_the_first_difference_is_told(seen, kind, hour):
    """What is missing, superfluous or repeated is found, the earliest first."""
    found = compare(seen, DUE, late=15)

    if kind is None:
        assert found is None
    else:
        assert (found.kind, found.at.timestamp()) == (kind, seconds(hour)[0])


@pytest.mark.parametrize("seen", [seconds(1), seconds(2), seconds(1, 2)])
def test_a_repeated_time_may_come_at_either_instant(seen):
    """Of two instants of one local time, one is enough and both are allowed."""
    both = [(START + timedelta(hours=1), START + timedelta(hours=2))]

    assert compare(seen, both, late=15) is None
    assert compare([], both, late=15).kind == "missing"
    assert compare(seconds(1, 1), both, late=15).kind == "twice"

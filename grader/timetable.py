"""When something is due by the clock on the wall, across changes of that clock.

An instant is an aware datetime in UTC. A local time that does not exist (the clock is put forward
over it) is due at the next instant that does; one that occurs twice may come at either. Written
without any cron library, so that it can be held against one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

DAY, MINUTE = timedelta(days=1), timedelta(minutes=1)
EARLY = timedelta(seconds=1)


@dataclass(frozen=True)
class Wall:
    """Times of the day: every combination of hour and minute, on some days of the week.

    `weekdays` counts from Monday, which is 0.
    """

    hours: Sequence[int] = tuple(range(24))
    minutes: Sequence[int] = (0,)
    weekdays: Sequence[int] = tuple(range(7))
    days: Sequence[int] = tuple(range(1, 32))

    def due(self, zone: ZoneInfo, start: datetime, end: datetime) -> list[tuple[datetime, ...]]:
        """Return what is due from `start` on and before `end`, in order.

        Each is a tuple of instants: it is due at one of them.
        """
        found = dict.fromkeys(
            instants(datetime.combine(day, time(hour, minute)), zone)
            for day in days(start.astimezone(zone).date(), end.astimezone(zone).date())
            if day.weekday() in self.weekdays and day.day in self.days
            for hour in self.hours
            for minute in self.minutes
        )
        return sorted(due for due in found if start <= due[0] and due[-1] < end)


def days(first: date, last: date) -> Iterator[date]:
    """Yield the days from the first to the last, both included."""
    while first <= last:
        yield first
        first += DAY


def instants(local: datetime, zone: ZoneInfo) -> tuple[datetime, ...]:
    """Return the instant or the two instants at which the wall shows a naive local time."""
    both = {local.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1)}
    shown = [at for at in both if at.astimezone(zone).replace(tzinfo=None) == local]
    if shown:
        return tuple(sorted(shown))
    # The clock was put forward over it: the first minute that it shows afterwards.
    at = min(both) - MINUTE
    while at.astimezone(zone).replace(tzinfo=None) < local:
        at += MINUTE
    return (at,)


def changes(zone: ZoneInfo, year: int) -> list[datetime]:
    """Return the instants of a year at which the zone's clock is changed, to the minute."""
    first = datetime(year, 1, 1, tzinfo=UTC)
    edges = [first + number * DAY for number in range(366)]
    return [
        next(at for at in _minutes(edge) if _offset(zone, at) != _offset(zone, edge))
        for edge in edges
        if edge.year == year and _offset(zone, edge) != _offset(zone, edge + DAY)
    ]


def _minutes(day: datetime) -> Iterator[datetime]:
    return (day + number * MINUTE for number in range(1, 24 * 60 + 1))


def _offset(zone: ZoneInfo, at: datetime) -> timedelta | None:
    return at.astimezone(zone).utcoffset()


@dataclass(frozen=True)
class Difference:
    """The first thing wrong: `kind` is "missing", "extra" or "twice", `at` is when."""

    kind: str
    at: datetime


def compare(
    seen: Iterable[float], wanted: Sequence[tuple[datetime, ...]], late: float
) -> Difference | None:
    """Compare what happened with what was due.

    Args:
        seen: epoch seconds.
        wanted: from `Wall.due`.
        late: seconds that something may come after it was due.

    Returns:
        The earliest difference, None if there is none.
    """
    problems, left = [], {at: due for due in wanted for at in due}
    met: set[tuple[datetime, ...]] = set()
    for at in sorted(datetime.fromtimestamp(second, UTC) for second in seen):
        near = [due for due in left if due - EARLY <= at <= due + timedelta(seconds=late)]
        if near:
            met.add(left.pop(near[0]))
        else:
            again = any(
                due - EARLY <= at <= due + timedelta(seconds=late)
                for each in wanted
                for due in each
            )
            problems.append(Difference("twice" if again else "extra", at))
    problems += [Difference("missing", due[0]) for due in wanted if due not in met]
    return min(problems, key=lambda problem: problem.at, default=None)

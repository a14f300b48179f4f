"""When the sun rises and sets, to the minute: the low-precision formulas of Meeus and NOAA.

Written without any library of astronomy, so that it can be held against one.
"""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, time, timedelta

from grader.timetable import days

J2000 = datetime(2000, 1, 1, 12, tzinfo=UTC)
CENTURY = timedelta(days=36525)
# The upper edge of the disc is seen at the horizon when its centre is so far below, in degrees.
BELOW = -0.833


def events(
    rises: bool, latitude: float, longitude: float, start: datetime, end: datetime
) -> list[datetime]:
    """Return the sunrises (or sunsets) of a place from `start` on and before `end`.

    Args:
        latitude, longitude: degrees, north and east positive; not where there is a polar day.
        start, end: instants in UTC.
    """
    first, last = start.date() - timedelta(days=1), end.date() + timedelta(days=1)
    found = (event(rises, latitude, longitude, day) for day in days(first, last))
    return [at for at in found if start <= at < end]


def event(rises: bool, latitude: float, longitude: float, day: date) -> datetime:
    """Return the sunrise (or sunset) before (or after) the noon that the place has on a day."""
    midnight = datetime.combine(day, time(), UTC)
    at = midnight + timedelta(hours=12 - longitude / 15)
    for _ in range(4):  # where the sun stands depends, a little, on when it rises
        declination, ahead = _sun(at)
        noon = 720 - 4 * longitude - ahead
        half = 4 * math.degrees(_hour_angle(math.radians(latitude), declination))
        at = midnight + timedelta(minutes=noon - half if rises else noon + half)
    return at


def _hour_angle(latitude: float, declination: float) -> float:
    """Return how far the earth turns from sunrise to noon, in radians, as all angles here."""
    height = math.sin(math.radians(BELOW)) - math.sin(latitude) * math.sin(declination)
    return math.acos(height / (math.cos(latitude) * math.cos(declination)))


def _sun(at: datetime) -> tuple[float, float]:
    """Return the sun's declination in radians, and by how many minutes a sundial is ahead."""
    t = (at - J2000) / CENTURY
    mean = math.radians(280.46646 + 36000.76983 * t)
    anomaly = math.radians(357.52911 + 35999.05029 * t)
    centre = (1.914602 - 0.004817 * t) * math.sin(anomaly) + 0.019993 * math.sin(2 * anomaly)
    longitude = mean + math.radians(centre + 0.000289 * math.sin(3 * anomaly) - 0.00569)
    tilt = math.radians(23.439291 - 0.013004 * t)
    declination = math.asin(math.sin(tilt) * math.sin(longitude))
    ascension = math.atan2(math.cos(tilt) * math.sin(longitude), math.cos(longitude))
    behind = math.degrees(mean - math.radians(0.00569) - ascension)
    return declination, 4 * ((behind + 180) % 360 - 180)

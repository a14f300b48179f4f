"""Schedule objects that look at the wall clock themselves, without any crontab for the five."""

import math
import os
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from celery.schedules import BaseSchedule, ParseException, crontab, schedstate, schedule

NAME = os.environ.get("CELERY_TIMEZONE") or "Asia/Shanghai"
ZONE = ZoneInfo(NAME)
UTC = ZoneInfo("UTC")


def exists(wall):
    """Return the first instant at or after a local time that the wall clock shows."""
    at = wall.replace(tzinfo=ZONE).astimezone(UTC)
    if at.astimezone(ZONE).replace(tzinfo=None) == wall:
        return at
    after = at.astimezone(ZONE).utcoffset()
    while (at - timedelta(minutes=1)).astimezone(ZONE).utcoffset() == after:
        at -= timedelta(minutes=1)
    return at


class Wall(BaseSchedule):
    """Due at the next local time after the last run."""

    def following(self, local):
        """Return the next local time (naive) after a naive one."""
        raise NotImplementedError

    def due(self, last):
        """Return the instant at which the run after `last` is due."""
        last = last.astimezone(UTC)
        wall = last.astimezone(ZONE).replace(tzinfo=None)
        while True:
            wall = self.following(wall)
            at = exists(wall)
            if at > last:
                return at

    def remaining_estimate(self, last_run_at):
        return self.due(last_run_at) - self.now().astimezone(UTC)

    def is_due(self, last_run_at):
        left = self.remaining_estimate(last_run_at).total_seconds()
        if left > 0:
            return schedstate(False, left)
        now = self.now()
        return schedstate(True, (self.due(now) - now.astimezone(UTC)).total_seconds())

    def __eq__(self, other):
        return type(self) is type(other) and vars_of(self) == vars_of(other)

    def __reduce__(self):
        return type(self), vars_of(self)


def vars_of(plan):
    """Return what tells one plan from another."""
    return tuple(getattr(plan, name) for name in plan.fields)


class Daily(Wall):
    """Every day, or one day of the week (Monday is 0), at a full hour."""

    fields = ("hour", "weekday")

    def __init__(self, hour, weekday=None, **kwargs):
        super().__init__(**kwargs)
        self.hour, self.weekday = hour, weekday

    def following(self, local):
        at = local.replace(hour=self.hour, minute=0, second=0, microsecond=0)
        while at <= local or self.weekday not in (None, at.weekday()):
            at += timedelta(days=1)
        return at


class Quarters(Wall):
    """Every quarter of an hour."""

    fields = ()

    def following(self, local):
        hour = local.replace(minute=0, second=0, microsecond=0)
        return hour + timedelta(minutes=(local.minute // 15 + 1) * 15)


def read(info, app):
    """Return the schedule that somebody asked for."""
    kind, value = next(iter(info.items())) if isinstance(info, dict) and len(info) == 1 else ("", 0)
    if kind == "crontab" and isinstance(value, str):
        minute, hour, day, month, weekday = value.split()  # ValueError for another number
        try:
            return crontab(minute, hour, weekday, day, month, app=app)
        except ParseException as error:  # which is no ValueError
            raise ValueError(str(error)) from None
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind == "every" and number and math.isfinite(value) and value > 0:
        return schedule(run_every=value, app=app)
    raise ValueError(f"no schedule: {info!r}")


def local_today():
    """Return the local date."""
    return datetime.now(ZONE).date()

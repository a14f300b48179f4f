"""What beat keeps in Redis: the entries that were added, when each last ran, and a sign of life."""

from __future__ import annotations

import json
import math
import os
from datetime import datetime
from functools import cache
from typing import Any

import redis
from celery import Celery
from celery.schedules import crontab, schedule, solar

ENTRIES, RUNS, ALIVE = "beat:entries", "beat:runs", "beat:alive"
ALIVE_SECONDS = 10
SKIP = "skip"
# Takes a run for the one who asks first: the value must still be what the asker last saw.
CLAIM = """
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 1
"""


def schedule_of(info: Any, app: Celery) -> schedule:
    """Return the schedule that a description means.

    Raises:
        ValueError: it is not {"every": seconds > 0}, {"crontab": "m h dom mon dow"} or {"solar":
            "sunrise" or "sunset", "latitude": degrees, "longitude": degrees}, or has a policy for
            missed runs that is neither "run_once" nor "skip".
    """
    if not isinstance(info, dict) or info.get("missed", SKIP) not in (SKIP, "run_once"):
        raise ValueError(f"not a schedule: {info!r}")
    match {key: value for key, value in info.items() if key != "missed"}:
        # True is an int, and nan compares with nothing: both have to be asked about.
        case {"every": int() | float() as seconds, **rest} if not rest and seconds is not True:
            if math.isfinite(seconds) and seconds > 0:
                return schedule(seconds, app=app)
        case {"crontab": str() as text, **rest} if not rest and len(text.split()) == 5:
            minute, hour, day, month, weekday = text.split()
            try:
                return crontab(minute, hour, weekday, day, month, app=app)
            except Exception as error:  # some of its errors are no ValueErrors
                raise ValueError(f"not a crontab: {text!r} ({error})") from None
        case {
            "solar": "sunrise" | "sunset" as event,
            "latitude": lat,
            "longitude": lon,
            **rest,
        } if not rest and degrees(lat, 90) and degrees(lon, 180):
            return solar(event, lat, lon, app=app)
    raise ValueError(f"not a schedule: {info!r}")


def degrees(value: Any, most: float) -> bool:
    """Whether it is a number of degrees; nan lies between no two numbers."""
    return type(value) in (int, float) and -most <= value <= most


class Store:
    """Beat's memory. Two beats and any number of workers may use it at once."""

    def __init__(self, url: str) -> None:
        self.client = redis.Redis.from_url(
            url, decode_responses=True, socket_connect_timeout=2, socket_timeout=2
        )

    def add(self, name: str, entry: dict[str, Any]) -> None:
        """Keep an entry under a new name."""
        self.client.hset(ENTRIES, name, json.dumps(entry))

    def remove(self, name: str) -> bool:
        """Forget an entry; False if there is none of that name."""
        gone = self.client.hdel(ENTRIES, name)
        self.client.hdel(RUNS, name)
        return bool(gone)

    def entries(self) -> dict[str, dict[str, Any]]:
        """Return the entries by name, and leave a sign of life."""
        self.client.set(ALIVE, "1", ex=ALIVE_SECONDS)
        return {name: json.loads(text) for name, text in self.client.hgetall(ENTRIES).items()}

    def runs(self, starting: dict[str, datetime]) -> dict[str, datetime]:
        """Return when each entry last ran; one that never did counts from the time given."""
        with self.client.pipeline() as pipe:
            for name, at in starting.items():
                pipe.hsetnx(RUNS, name, at.isoformat())
            pipe.hgetall(RUNS)
            return {name: datetime.fromisoformat(at) for name, at in pipe.execute()[-1].items()}

    def ran(self, name: str, at: datetime) -> None:
        """Write down a run that could not be written down when it was due."""
        self.client.hset(RUNS, name, at.isoformat())

    def claim(self, name: str, last: datetime, this: datetime) -> bool:
        """Take the run after `last` for ourselves; False if another beat has taken it."""
        return bool(self.client.eval(CLAIM, 1, RUNS, name, last.isoformat(), this.isoformat()))

    def alive(self) -> bool:
        """Whether some beat has shown itself lately."""
        return bool(self.client.exists(ALIVE))


@cache
def store() -> Store:
    """Return the store of this process."""
    return Store(os.environ["LAB_REDIS_URL"])

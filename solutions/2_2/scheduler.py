"""A scheduler whose memory is Redis: entries come and go while it runs, and two can run at once."""

from __future__ import annotations

import logging
import time
from datetime import timedelta
from typing import Any

import redis
from celery.beat import ScheduleEntry, Scheduler

import entries

log = logging.getLogger(__name__)
LATE = timedelta(seconds=60)


class SharedScheduler(Scheduler):
    """Celery's own scheduler with another memory.

    What is due when is Celery's business. Ours is what entries there are and when they last ran:
    both are read from Redis again every second, and nothing is sent that another beat has sent.
    """

    # How long beat sleeps at most, and so how soon a new entry is in force.
    max_interval = 1

    def setup_schedule(self) -> None:
        """Begin with nothing: what there is to do is known when Redis has been asked."""
        self.store = entries.store()
        self.loaded, self.looked_at = False, 0.0
        self.skipping: set[str] = set()
        self.unwritten: set[str] = set()
        self.fixed = {
            name: self._maybe_entry(name, entry)
            for name, entry in self.app.conf.beat_schedule.items()
        }

    def tick(self, *args: Any, **kwargs: Any) -> float:
        """Look for news, then do what is due."""
        if not self.loaded or time.monotonic() - self.looked_at >= self.max_interval:
            try:
                self.load()
            except redis.RedisError as error:
                log.warning("Redis does not answer: %s", error)
                if not self.schedule:
                    # Started without its memory, beat would begin every interval anew and know
                    # nothing of what was added. It waits instead. Later it can go on from what it
                    # remembers.
                    return 1.0
        return super().tick(*args, **kwargs)

    def load(self) -> None:
        """Make the schedule what the configuration and Redis say."""
        added = {name: self.entry(name, e) for name, e in self.store.entries().items()}
        wanted = {**self.fixed, **added}
        wanted |= {name: entry for name, entry in self.schedule.items() if name in wanted}
        runs = self.store.runs({name: entry.last_run_at for name, entry in wanted.items()})
        changed = set(self.schedule) != set(wanted)
        for name, entry in wanted.items():
            # Only what we did send: a run that another beat took has a time with us too, and two
            # beats that wrote down each other's runs could both lose every claim from then on.
            if name in self.unwritten and entry.last_run_at > runs[name]:
                self.store.ran(name, entry.last_run_at)
            elif entry.last_run_at != runs[name]:
                changed, entry.last_run_at = True, runs[name]
        self.unwritten.clear()
        self.schedule = wanted
        self.loaded, self.looked_at = True, time.monotonic()
        if changed:
            self._heap = None  # plan anew

    def entry(self, name: str, stored: dict[str, Any]) -> ScheduleEntry:
        """Return an entry that was added at run time; one that we have already stays the same."""
        if name in self.schedule:
            return self.schedule[name]
        info = stored["schedule"]
        if info.get("missed") == entries.SKIP:
            self.skipping.add(name)
        plan = entries.schedule_of(info, self.app)
        return self.Entry(name, stored["task"], schedule=plan, args=stored["args"], app=self.app)

    def apply_entry(self, entry: ScheduleEntry, producer: Any = None) -> None:
        """Send a due entry, unless another beat has done so.

        The run is written down before it is sent. A beat that is killed in between has lost one
        run; the other way round it would send it twice.
        """
        late = -entry.schedule.remaining_estimate(entry.last_run_at)
        try:
            this = self.schedule[entry.name].last_run_at
            ours = self.store.claim(entry.name, entry.last_run_at, this)
        except redis.RedisError as error:
            # The health check has to run exactly then. Twice is better than not at all.
            log.warning("Redis does not answer, sending %s all the same: %s", entry.name, error)
            self.unwritten.add(entry.name)
            ours = True
        if not ours:
            self.loaded = False  # see what the other one did
        elif entry.name in self.skipping and late > LATE:
            log.info("%s was missed by %s and is left out", entry.name, late)
        else:
            super().apply_entry(entry, producer=producer)

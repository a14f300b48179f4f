"""A scheduler whose memory is that file; every run is written down before it is sent."""

from datetime import datetime

from celery.beat import Scheduler

from . import calendar, store


class FileScheduler(Scheduler):
    """Reads the file again whenever it ticks."""

    def setup_schedule(self):
        self.merge_inplace(self.app.conf.beat_schedule)
        self.read()

    def read(self):
        """Bring the schedule up to date."""
        wanted, runs = store.entries(), store.runs()
        fixed = self.app.conf.beat_schedule
        for name in set(self.schedule) - set(fixed) - set(wanted):
            del self.schedule[name]
        for name in set(wanted) - set(self.schedule):
            task, info, args = wanted[name]
            plan = calendar.read(info, self.app)
            self.schedule[name] = self.Entry(name, task, schedule=plan, args=args, app=self.app)
        for name, entry in self.schedule.items():
            if name in runs:
                entry.last_run_at = datetime.fromisoformat(runs[name])
            else:
                store.ran(name, entry.last_run_at.isoformat())

    def tick(self, *args, **kwargs):
        self.read()
        return super().tick(*args, **kwargs)

    def reserve(self, entry):
        renewed = super().reserve(entry)
        store.ran(entry.name, renewed.last_run_at.isoformat())
        return renewed

"""A package: schedule objects of its own, tasks as classes, added entries in a file of its own."""

import sqlite3

from celery import Celery

from . import calendar, store

app = Celery("night_shift", broker="memory://", backend="cache+memory://")
app.config_from_object(
    {
        "timezone": calendar.NAME,
        "enable_utc": True,
        "beat_scheduler": "scheduled_tasks.beat.FileScheduler",
        "beat_max_loop_interval": 1.5,
        "task_acks_late": True,
    }
)

from . import health, jobs  # noqa: E402  (they need the app)

PREFIX = "scheduled_tasks."
app.conf.beat_schedule = {
    "data-cleanup": {
        "task": PREFIX + "cleanup_old_data",
        "schedule": calendar.Daily(2),
        "kwargs": {"days_to_keep": 30},
        "options": {"expires": 7200.0},
    },
    "daily-report": {
        "task": PREFIX + "generate_daily_report",
        "schedule": calendar.Daily(8),
        "options": {"expires": 7200.0},
    },
    "health-check": {
        "task": PREFIX + "system_health_check",
        "schedule": 300,
        "options": {"expires": 240.0, "ignore_result": True},
    },
    "user-activity-summary": {
        "task": PREFIX + "summarize_user_activity",
        "schedule": calendar.Daily(1, weekday=0),
        "options": {"expires": 7200.0},
    },
    "cache-refresh": {
        "task": PREFIX + "refresh_cache",
        "schedule": calendar.Quarters(),
        "options": {"expires": 600.0},
    },
}


@app.task(bind=True)
def schedule_custom_task(self, task_name, schedule_info, task_args=None):
    if task_name not in self.app.tasks:
        raise ValueError(f"unknown: {task_name}")
    calendar.read(schedule_info, self.app)
    name = store.add(task_name, schedule_info, task_args or ())
    return {"name": name, "task": task_name, "schedule": schedule_info}


@app.task
def unschedule_custom_task(name):
    try:
        gone = store.remove(name)
    except sqlite3.Error as error:
        raise RuntimeError(str(error)) from error
    if not gone:
        raise ValueError(f"unknown: {name}")
    return True


__all__ = ["app", "health", "jobs"]

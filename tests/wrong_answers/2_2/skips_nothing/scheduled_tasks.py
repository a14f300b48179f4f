"""The policy is taken, and looked for under another key."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from datetime import time as day_time
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any
from uuid import uuid4
from zoneinfo import ZoneInfo

import psutil
import redis
from celery import Celery
from celery.schedules import crontab

import entries
import opsdata

ZONE = ZoneInfo(os.environ.get("CELERY_TIMEZONE") or "Asia/Shanghai")

app = Celery(
    "scheduled_tasks",
    broker="redis://127.0.0.1:6379/0",
    backend="redis://127.0.0.1:6379/1",
)
app.conf.update(
    timezone=ZONE.key,  # crontab means this clock; without it 02:00 would be 02:00 UTC
    enable_utc=True,
    task_serializer="json",
    result_serializer="json",
    accept_content=["json"],
    beat_scheduler="scheduler:SharedScheduler",
    beat_schedule={
        # An expiry no longer than the period: when no worker ran for a day, the next one finds one
        # health check in the queue, not 288. `args` is a tuple: (30) would be the number 30.
        "data-cleanup": {
            "task": "scheduled_tasks.cleanup_old_data",
            "schedule": crontab(hour=2, minute=0),
            "args": (30,),
            "options": {"expires": 12 * 3600},
        },
        "daily-report": {
            "task": "scheduled_tasks.generate_daily_report",
            "schedule": crontab(hour=8, minute=0),
            "options": {"expires": 12 * 3600},
        },
        # An interval, not "*/5": it has no gap where the clock is put back.
        "health-check": {
            "task": "scheduled_tasks.system_health_check",
            "schedule": 300.0,
            "options": {"expires": 290},
        },
        "user-activity-summary": {
            "task": "scheduled_tasks.summarize_user_activity",
            "schedule": crontab(day_of_week="mon", hour=1, minute=0),  # 0 would be Sunday
            "options": {"expires": 24 * 3600},
        },
        # On the quarter: an interval of 900 s would count from the moment that beat was started.
        "cache-refresh": {
            "task": "scheduled_tasks.refresh_cache",
            "schedule": crontab(minute="*/15"),
            "options": {"expires": 840},
        },
    },
)

# -------------------------------------------------------------------------------------- local time


def now() -> datetime:
    """Return the present instant; every datetime in this program knows its offset."""
    return datetime.now(UTC)


def midnight(day: Any) -> datetime:
    """Return the instant at which a local day begins."""
    return datetime.combine(day, day_time(), ZONE).astimezone(UTC)


# ------------------------------------------------------------------------------------ data-cleanup


@app.task
def cleanup_old_data(days_to_keep: int = 30) -> dict[str, Any]:
    """Delete what is older than so many days from the four tables."""
    # True is an int to Python; nobody means "one day" by it.
    if type(days_to_keep) is not int or days_to_keep < 0:
        raise ValueError(f"days_to_keep must be a whole number of 0 or more, not {days_to_keep!r}")
    # Days of 24 hours, taken from an instant in UTC: a local subtraction would move by an hour when
    # the clock was changed in between.
    cutoff = now() - timedelta(days=days_to_keep)
    deleted = {table: opsdata.delete_before(table, cutoff) for table in opsdata.EXPENDABLE}
    return {
        "cutoff": cutoff.isoformat(),
        "deleted": deleted,
        "total_deleted": sum(deleted.values()),
    }


# ------------------------------------------------------------------------------------ daily-report


@app.task
def generate_daily_report() -> dict[str, Any]:
    """Report on yesterday, from local midnight to local midnight."""
    today = now().astimezone(ZONE).date()
    day = today - timedelta(days=1)
    # Two midnights, not one and 24 hours: twice a year a day has 23 or 25.
    start, end = midnight(day), midnight(today)
    amounts = [row["amount"] for row in opsdata.between("transactions", start, end)]
    report = {
        "date": day.isoformat(),
        "new_users": len(opsdata.between("users", start, end)),
        "active_users": len({row["user_id"] for row in opsdata.between("activity", start, end)}),
        "transactions": {"count": len(amounts), "amount": round(sum(map(float, amounts)), 2)},
        "errors": len(opsdata.between("errors", start, end)),
    }
    write_whole(Path(os.environ["LAB_REPORT_DIR"]) / f"daily_report_{day:%Y%m%d}.json", report)
    return report


def write_whole(path: Path, document: Any) -> None:
    """Write a file that is either as before or complete, whatever happens on the way."""
    # The draft lies in the same folder, because only within one file system is a rename atomic.
    draft = NamedTemporaryFile("w", dir=path.parent, prefix=".draft-", delete=False)  # noqa: SIM115
    try:
        with draft:
            json.dump(document, draft, ensure_ascii=False, indent=1)
            draft.flush()
            os.fsync(draft.fileno())
        os.chmod(draft.name, 0o644)
        os.replace(draft.name, path)
    except BaseException:
        os.unlink(draft.name)
        raise


# ------------------------------------------------------------------------------------ health-check

RANKS = ("healthy", "warning", "critical")


@app.task
def system_health_check() -> dict[str, Any]:
    """Look at everything this system stands on; never raises for a component that is down."""
    checks = {
        "database": probed(read_database),
        "redis": probed(ping_redis),
        "broker": probed(ping_broker),
        "disk": probed(read_disk),
        "cpu": probed(read_cpu),
        "memory": probed(read_memory),
    }
    return {
        "overall_status": max((check["status"] for check in checks.values()), key=RANKS.index),
        "checks": checks,
        "recommendations": [
            f"{name}: {check.get('error') or check['status']}"
            for name, check in checks.items()
            if check["status"] != "healthy"
        ],
    }


def probed(probe: Any) -> dict[str, Any]:
    """Return what a probe found with the time it took; what it raises is a finding, too."""
    began = time.perf_counter()
    try:
        found = probe()
    except Exception as error:
        found = {"status": "critical", "error": f"{type(error).__name__}: {error}"}
    return {
        "status": "healthy",
        **found,
        "milliseconds": round(1000 * (time.perf_counter() - began), 3),
    }


def level(percent: float, warning: float, critical: float = float("inf")) -> str:
    """Return how bad a percentage is."""
    return RANKS[(percent >= warning) + (percent >= critical)]


def read_database() -> dict[str, Any]:
    """Ask the database something that needs its tables."""
    return {"users": opsdata.count("users")}


def ping_redis() -> dict[str, Any]:
    """Ping the Redis of the caches, with a limit: a health check must not hang."""
    with redis.Redis.from_url(
        os.environ["LAB_REDIS_URL"], socket_connect_timeout=2, socket_timeout=2
    ) as client:
        return {"ping": client.ping()}


def ping_broker() -> dict[str, Any]:
    """Open a connection to the broker."""
    with app.connection_for_read(connect_timeout=2) as connection:
        connection.ensure_connection(max_retries=1, timeout=2)
        return {"transport": connection.transport_cls}


def read_disk() -> dict[str, Any]:
    """Read the file system that the reports go to, not just any."""
    percent = psutil.disk_usage(os.environ["LAB_REPORT_DIR"]).percent
    return {"status": level(percent, 80, 90), "percent": percent}


def read_cpu() -> dict[str, Any]:
    """Read the processor's load over a moment; the first reading without one would be 0."""
    percent = psutil.cpu_percent(interval=0.1)
    return {"status": level(percent, 90), "percent": percent}


def read_memory() -> dict[str, Any]:
    """Read how much memory is in use."""
    percent = psutil.virtual_memory().percent
    return {"status": level(percent, 80, 90), "percent": percent}


# --------------------------------------------------------------------------- user-activity-summary


@app.task
def summarize_user_activity() -> dict[str, Any]:
    """Summarize the last full local week, Monday to Sunday."""
    today = now().astimezone(ZONE).date()
    monday = today - timedelta(days=today.weekday() + 7)
    start, end = midnight(monday), midnight(monday + timedelta(days=7))
    week = opsdata.between("activity", start, end)
    before = opsdata.between("activity", midnight(monday - timedelta(days=7)), start)
    users, old = ({row["user_id"] for row in rows} for rows in (week, before))
    # Which day and which hour it was is a question to the local clock, asked once for each row.
    local = [row["at"].astimezone(ZONE) for row in week]
    days, hours = Counter(f"{at:%A}" for at in local), Counter(at.hour for at in local)
    return {
        "week_start": monday.isoformat(),
        "active_users": len(users),
        "new_users": len(opsdata.between("users", start, end)),
        "retention": len(users & old) / len(old) if old else 0.0,
        "top_features": [
            {"feature": feature, "usage": usage}
            for feature, usage in Counter(row["feature"] for row in week).most_common(10)
        ],
        "busiest_day": most_common(days),
        "busiest_hour": most_common(hours),
    }


def most_common(counts: Counter) -> Any:
    """Return the key with the highest count, None if there is none."""
    return max(counts, key=counts.__getitem__, default=None)


# ----------------------------------------------------------------------------------- cache-refresh

CACHE_SECONDS = 1800  # two refreshes: one may fail and nobody misses the cache


@app.task
def refresh_cache() -> dict[str, Any]:
    """Compute what the dashboards ask for and put it into Redis, with a time to live."""
    caches = {
        "user_counts": per_day("users"),
        "feature_usage": dict(Counter(row["feature"] for row in opsdata.every("activity"))),
        "daily_revenue": revenue(),
        "error_counts": per_day("errors"),
        "top_users": Counter(str(row["user_id"]) for row in opsdata.every("activity")).most_common(
            10
        ),
    }
    with redis.Redis.from_url(os.environ["LAB_REDIS_URL"]) as client, client.pipeline() as pipe:
        for name, value in caches.items():
            # SET with EX is one command: there is no moment at which the key has no expiry.
            pipe.set(f"cache:{name}", json.dumps(value), ex=CACHE_SECONDS)
        pipe.execute()
    refreshed = {name: len(value) for name, value in caches.items()}
    return {"refreshed": refreshed, "total_items_refreshed": sum(refreshed.values())}


def per_day(table: str) -> dict[str, int]:
    """Count a table's rows by local day."""
    return dict(Counter(f"{row['at'].astimezone(ZONE):%Y-%m-%d}" for row in opsdata.every(table)))


def revenue() -> dict[str, float]:
    """Add up the transactions by local day."""
    days: Counter = Counter()
    for row in opsdata.every("transactions"):
        days[f"{row['at'].astimezone(ZONE):%Y-%m-%d}"] += float(row["amount"])
    return {day: round(amount, 2) for day, amount in days.items()}


# --------------------------------------------------------------------------------- dynamic entries


@app.task
def schedule_custom_task(
    task_name: str, schedule_info: dict[str, Any], task_args: list | None = None
) -> dict[str, Any]:
    """Add an entry to the running beat.

    Args:
        task_name: the full name of a registered task.
        schedule_info: {"every": seconds}, {"crontab": "m h dom mon dow"} or {"solar": "sunset",
            "latitude": 31.2, "longitude": 121.5}; "missed" says what to do about runs that were
            missed while no beat ran, "run_once" (the default) or "skip".
        task_args: the task's arguments.
    """
    if task_name not in app.tasks:
        raise ValueError(f"no task of this name is registered: {task_name!r}")
    if not isinstance(task_args, list | tuple | None):
        raise ValueError(f"task_args must be a list, not {task_args!r}")
    entries.schedule_of(schedule_info, app)  # raises ValueError; beat must never meet a bad one
    name = f"custom-{uuid4()}"
    entry = {"task": task_name, "schedule": schedule_info, "args": list(task_args or [])}
    entries.store().add(name, entry)
    return {"name": name, "task": task_name, "schedule": schedule_info}


@app.task
def unschedule_custom_task(name: str) -> dict[str, Any]:
    """Remove an entry that schedule_custom_task added."""
    if not isinstance(name, str) or not entries.store().remove(name):
        raise ValueError(f"no entry of this name was added: {name!r}")
    return {"name": name, "removed": True}


# ---------------------------------------------------------------------------------- the heartbeat


def main(arguments: list[str]) -> int:
    """Answer `python -m scheduled_tasks alive`: 0 while a beat lives, 1 when none does."""
    if arguments != ["alive"]:
        print("usage: python -m scheduled_tasks alive", file=sys.stderr)
        return 2
    try:
        lives = entries.store().alive()
    except redis.RedisError as error:
        print(f"Redis does not answer: {error}", file=sys.stderr)
        return 1
    print("beat is alive" if lives else "no sign of beat")
    return 0 if lives else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

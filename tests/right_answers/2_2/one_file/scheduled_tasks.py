"""One file: Celery's own persistent scheduler, with the added entries in a Redis hash."""

import json
import math
import os
import sqlite3
import uuid
from collections import Counter
from contextlib import closing
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import psutil
import redis
from celery import Celery
from celery.beat import PersistentScheduler
from celery.schedules import ParseException, crontab, schedule

TZ = ZoneInfo(os.environ.get("CELERY_TIMEZONE", "Asia/Shanghai"))
TABLES = ["user_sessions", "audit_logs", "temp_files", "cached_results"]
HASH = "dynamic"

app = Celery("ops", broker="redis://localhost/0", backend="redis://localhost/1")
app.conf.timezone = str(TZ)
app.conf.beat_scheduler = "scheduled_tasks:HashScheduler"
app.conf.beat_schedule = {
    "data-cleanup": {
        "task": "scheduled_tasks.cleanup_old_data",
        "schedule": crontab(minute="0", hour="2"),
        "args": (30,),
        "options": {"expires": 3600},
    },
    "daily-report": {
        "task": "scheduled_tasks.generate_daily_report",
        "schedule": crontab(minute="0", hour="8"),
        "options": {"expires": 3600},
    },
    "health-check": {
        "task": "scheduled_tasks.system_health_check",
        "schedule": timedelta(minutes=5),
        "options": {"expires": 300},
    },
    "user-activity-summary": {
        "task": "scheduled_tasks.summarize_user_activity",
        "schedule": crontab(minute="0", hour="1", day_of_week="1"),
        "options": {"expires": 3600},
    },
    "cache-refresh": {
        "task": "scheduled_tasks.refresh_cache",
        "schedule": crontab(minute="0,15,30,45"),
        "options": {"expires": 900},
    },
}


def ops_redis():
    """Connect to the Redis of the caches."""
    return redis.Redis.from_url(
        os.environ["LAB_REDIS_URL"], socket_timeout=2, socket_connect_timeout=2
    )


class HashScheduler(PersistentScheduler):
    """Looks into the hash every two seconds."""

    max_interval = 2
    memory = ops_redis()

    def setup_schedule(self):
        super().setup_schedule()
        self.refresh()

    def tick(self, *args, **kwargs):
        self.refresh()
        return super().tick(*args, **kwargs)

    def refresh(self):
        """Add what is new and drop what is gone."""
        try:
            rows = {k.decode(): json.loads(v) for k, v in self.memory.hgetall(HASH).items()}
        except redis.RedisError:
            return
        for name in [n for n in self.schedule if n.startswith("dyn-") and n not in rows]:
            del self.schedule[name]
        for name, row in rows.items():
            if name not in self.schedule:
                plan = parse(row["schedule"])
                entry = {"task": row["task"], "schedule": plan, "args": row["args"]}
                self.schedule[name] = self._maybe_entry(name, entry)


def parse(info):
    """Make a schedule of a description, or raise ValueError."""
    if isinstance(info, dict) and list(info) == ["every"]:
        every = info["every"]
        if type(every) in (int, float) and 0 < every < math.inf:
            return schedule(timedelta(seconds=every), app=app)
    if isinstance(info, dict) and list(info) == ["crontab"]:
        fields = str(info["crontab"]).split()
        if len(fields) == 5:
            minute, hour, dom, month, dow = fields
            return crontab(minute, hour, dow, dom, month, app=app)
    raise ValueError(f"no schedule: {info!r}")


def parsed(text):
    """Read a time of the database."""
    at = datetime.fromisoformat(text)
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def utc_now():
    """Return now."""
    return datetime.now(UTC)


def open_db():
    """Open the database, which has to be there."""
    return closing(sqlite3.connect(f"file:{os.environ['LAB_OPS_DB']}?mode=rw", uri=True))


def rows_of(table, column="created_at"):
    """Return a table's rows with the time read."""
    with open_db() as db:
        cursor = db.execute(f"select * from {table}")
        names = [d[0] for d in cursor.description]
        rows = [dict(zip(names, row, strict=True)) for row in cursor]
    for row in rows:
        row["when"] = parsed(row[column])
    return rows


def midnight(day):
    """Return the instant of a local midnight."""
    return datetime.combine(day, time(0), TZ)


def within(rows, start, end):
    """Return the rows of a span."""
    return [row for row in rows if start.timestamp() <= row["when"].timestamp() < end.timestamp()]


@app.task
def cleanup_old_data(days_to_keep=30):
    if isinstance(days_to_keep, bool) or not isinstance(days_to_keep, int) or days_to_keep < 0:
        raise ValueError(f"bad days_to_keep {days_to_keep!r}")
    cutoff = utc_now() - timedelta(days=days_to_keep)
    deleted = {}
    with open_db() as db:
        for table in TABLES:
            rows = db.execute(f"select id, created_at from {table}").fetchall()
            ids = [id for id, text in rows if parsed(text) < cutoff]
            for start in range(0, len(ids), 500):
                part = ids[start : start + 500]
                db.execute(f"delete from {table} where id in ({','.join('?' * len(part))})", part)
                db.commit()
            deleted[table] = len(ids)
    return {
        "cutoff": cutoff.isoformat(),
        "deleted": deleted,
        "total_deleted": sum(deleted.values()),
    }


@app.task
def generate_daily_report():
    today = utc_now().astimezone(TZ).date()
    day = today - timedelta(days=1)
    span = midnight(day), midnight(today)
    sales = within(rows_of("transactions"), *span)
    active = {row["user_id"] for row in within(rows_of("activity", "started_at"), *span)}
    report = {
        "date": str(day),
        "new_users": len(within(rows_of("users"), *span)),
        "active_users": len(active),
        "transactions": {"count": len(sales), "amount": round(sum(r["amount"] for r in sales), 2)},
        "errors": len(within(rows_of("errors"), *span)),
    }
    path = os.path.join(os.environ["LAB_REPORT_DIR"], day.strftime("daily_report_%Y%m%d.json"))
    save(path, json.dumps(report))
    return report


def save(path, text):
    """Write a file in one step."""
    try:
        with open(path + ".tmp", "w") as file:
            file.write(text)
        os.rename(path + ".tmp", path)
    finally:
        if os.path.exists(path + ".tmp"):
            os.remove(path + ".tmp")


def rate(percent, warning, critical=1000):
    """Say how bad a percentage is."""
    return "critical" if percent >= critical else "warning" if percent >= warning else "healthy"


def look(function):
    """Run one check."""
    try:
        return function()
    except Exception as error:
        return {"status": "critical", "error": repr(error)}


def database():
    with open_db() as db:
        return {"status": "healthy", "rows": db.execute("select count(*) from users").fetchone()[0]}


def cache():
    with ops_redis() as client:
        return {"status": "healthy", "ping": client.ping()}


def broker():
    with app.connection_for_write() as connection:
        connection.ensure_connection(max_retries=1)
    return {"status": "healthy"}


def disk():
    percent = psutil.disk_usage(os.environ["LAB_REPORT_DIR"]).percent
    return {"status": rate(percent, 80, 90), "percent": percent}


def cpu():
    percent = psutil.cpu_percent(0.1)
    return {"status": rate(percent, 90), "percent": percent}


def memory():
    percent = psutil.virtual_memory().percent
    return {"status": rate(percent, 80, 90), "percent": percent}


@app.task
def system_health_check():
    names = {"database": database, "redis": cache, "broker": broker}
    names.update({"disk": disk, "cpu": cpu, "memory": memory})
    checks = {name: look(function) for name, function in names.items()}
    found = [check["status"] for check in checks.values()]
    overall = next(s for s in ("critical", "warning", "healthy") if s in found)
    return {"overall_status": overall, "checks": checks, "recommendations": []}


@app.task
def summarize_user_activity():
    today = utc_now().astimezone(TZ).date()
    monday = today - timedelta(days=7 + today.weekday())
    start, end = midnight(monday), midnight(monday + timedelta(days=7))
    rows = rows_of("activity", "started_at")
    week = within(rows, start, end)
    users = {row["user_id"] for row in week}
    before = {row["user_id"] for row in within(rows, midnight(monday - timedelta(days=7)), start)}
    local = [row["when"].astimezone(TZ) for row in week]
    days = Counter(at.strftime("%A") for at in local).most_common(1)
    hours = Counter(at.hour for at in local).most_common(1)
    return {
        "week_start": str(monday),
        "active_users": len(users),
        "new_users": len(within(rows_of("users"), start, end)),
        "retention": len(users & before) / len(before) if before else 0,
        "top_features": [
            {"feature": name, "usage": count}
            for name, count in Counter(row["feature"] for row in week).most_common(3)
        ],
        "busiest_day": days[0][0] if days else None,
        "busiest_hour": hours[0][0] if hours else None,
    }


@app.task
def refresh_cache():
    sales, activity = rows_of("transactions"), rows_of("activity", "started_at")
    values = {
        "user_counts": {"total": len(rows_of("users"))},
        "feature_usage": Counter(row["feature"] for row in activity),
        "daily_revenue": {"total": sum(row["amount"] for row in sales)},
        "error_counts": {"total": len(rows_of("errors"))},
        "top_users": Counter(row["user_id"] for row in activity).most_common(5),
    }
    with ops_redis() as client:
        for name, value in values.items():
            client.setex(f"cache:{name}", 1800, json.dumps(value))
    counts = {name: len(value) for name, value in values.items()}
    return {"refreshed": counts, "total_items_refreshed": sum(counts.values())}


@app.task
def schedule_custom_task(task_name, schedule_info, task_args=None):
    if task_name not in app.tasks:
        raise ValueError(f"unknown task {task_name!r}")
    try:
        parse(schedule_info)
    except ParseException as error:  # which is no ValueError
        raise ValueError(str(error)) from None
    name = f"dyn-{uuid.uuid4()}"
    row = {"task": task_name, "schedule": schedule_info, "args": task_args or []}
    with ops_redis() as client:
        client.hset(HASH, name, json.dumps(row))
    return {"name": name, "task": task_name, "schedule": schedule_info}


@app.task
def unschedule_custom_task(name):
    with ops_redis() as client:
        if not client.hdel(HASH, name):
            raise ValueError(f"no entry {name!r}")
    return name

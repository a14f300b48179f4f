"""The jobs as classes; the database reads the times, by a function that it is given."""

import json
import os
import pathlib
import sqlite3
import tempfile
from contextlib import closing
from datetime import datetime, time, timedelta

import redis
from celery import Task

from . import app
from .calendar import UTC, ZONE, local_today

SPENT = {"user_sessions", "audit_logs", "temp_files", "cached_results"}


def epoch(text):
    """Return the epoch seconds of a time in the database."""
    at = datetime.fromisoformat(text)
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def database():
    """Open the database with that function in it."""
    db = sqlite3.connect(f"file:{os.environ['LAB_OPS_DB']}?mode=rw", uri=True, timeout=30)
    db.create_function("epoch", 1, epoch)
    db.create_function("weekday", 1, lambda at: f"{datetime.fromtimestamp(at, ZONE):%A}")
    db.create_function("hour", 1, lambda at: datetime.fromtimestamp(at, ZONE).hour)
    return closing(db)


def midnight(day):
    """Return the epoch second of a local midnight."""
    return datetime.combine(day, time(), ZONE).timestamp()


class Job(Task):
    """A task that is named for its class."""

    @classmethod
    def register(cls):
        cls.name = f"scheduled_tasks.{cls.__name__}"
        app.register_task(cls())


class cleanup_old_data(Job):
    def run(self, days_to_keep=30):
        if type(days_to_keep) is not int or days_to_keep < 0:
            raise ValueError(repr(days_to_keep))
        cutoff = datetime.now(UTC) - timedelta(days=days_to_keep)
        return {
            "cutoff": cutoff.isoformat().replace("+00:00", "Z"),
            "deleted": (deleted := {t: self.delete(t, cutoff.timestamp()) for t in SPENT}),
            "total_deleted": sum(deleted.values()),
        }

    def delete(self, table, cutoff):
        query = f"""DELETE FROM {table} WHERE id IN
                    (SELECT id FROM {table} WHERE epoch(created_at) < ? LIMIT 1000)"""
        total = 0
        with database() as db:
            while True:
                with db:
                    count = db.execute(query, (cutoff,)).rowcount
                if not count:
                    return total
                total += count


class generate_daily_report(Job):
    def run(self):
        day = local_today() - timedelta(1)
        span = midnight(day), midnight(local_today())
        where = "WHERE epoch({}) >= ? AND epoch({}) < ?"
        created, started = (where.format(c, c) for c in ("created_at", "started_at"))
        with database() as db:

            def ask(query):
                return db.execute(query, span).fetchone()

            count, amount = ask(f"SELECT count(*), total(amount) FROM transactions {created}")
            report = {
                "date": day.isoformat(),
                "new_users": ask(f"SELECT count(*) FROM users {created}")[0],
                "active_users": ask(f"SELECT count(DISTINCT user_id) FROM activity {started}")[0],
                "transactions": {"count": count, "amount": f"{amount:.2f}"},
                "errors": ask(f"SELECT count(*) FROM errors {created}")[0],
                "zone": ZONE.key,
            }
        self.keep(pathlib.Path(os.environ["LAB_REPORT_DIR"]), day, json.dumps(report).encode())
        return report

    def keep(self, folder, day, data):
        handle, draft = tempfile.mkstemp(dir=folder)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            os.replace(draft, folder / f"daily_report_{day.isoformat().replace('-', '')}.json")
        except OSError:
            os.unlink(draft)
            raise


class summarize_user_activity(Job):
    def run(self):
        today = local_today()
        monday = today - timedelta(today.weekday()) - timedelta(7)
        edges = [midnight(monday + timedelta(7 * n)) for n in (-1, 0, 1)]
        with database() as db:
            db.execute("""CREATE TEMP VIEW week AS
                          SELECT user_id, feature, epoch(started_at) AS at FROM activity""")

            def users(start, end):
                rows = db.execute("SELECT user_id FROM week WHERE at >= ? AND at < ?", (start, end))
                return {row[0] for row in rows}

            def top(what):
                query = f"""SELECT {what}, count(*) FROM week WHERE at >= ? AND at < ?
                            GROUP BY 1 ORDER BY 2 DESC"""
                return db.execute(query, edges[1:]).fetchall()

            before, now = users(*edges[:2]), users(*edges[1:])
            days, hours = top("weekday(at)"), top("hour(at)")
            return {
                "week_start": f"{monday:%Y-%m-%d}",
                "active_users": len(now),
                "new_users": db.execute(
                    "SELECT count(*) FROM users WHERE epoch(created_at) BETWEEN ? AND ? - 0.001",
                    edges[1:],
                ).fetchone()[0],
                "retention": len(now & before) / max(len(before), 1),
                "top_features": [{"feature": f, "usage": n} for f, n in top("feature")],
                "busiest_day": days[0][0] if days else "Monday",
                "busiest_hour": hours[0][0] if hours else 0,
            }


QUERIES = {
    "user_counts": "SELECT date(created_at), count(*) FROM users GROUP BY 1",
    "feature_usage": "SELECT feature, count(*), sum(seconds) FROM activity GROUP BY 1",
    "daily_revenue": "SELECT date(created_at), sum(amount) FROM transactions GROUP BY 1",
    "error_counts": "SELECT date(created_at), count(*) FROM errors GROUP BY 1",
    "top_users": "SELECT user_id, count(*) FROM activity GROUP BY 1 ORDER BY 2 DESC LIMIT 20",
}


class refresh_cache(Job):
    def run(self):
        counts = {}
        client = redis.from_url(os.environ["LAB_REDIS_URL"])
        with database() as db:
            for name, query in QUERIES.items():
                rows = db.execute(query).fetchall()
                client.set(f"cache:{name}", json.dumps(rows))
                client.expire(f"cache:{name}", 3600)
                counts[name] = len(rows)
        client.close()
        return {"refreshed": counts, "total_items_refreshed": sum(counts.values())}


for job in (cleanup_old_data, generate_daily_report, summarize_user_activity, refresh_cache):
    job.register()

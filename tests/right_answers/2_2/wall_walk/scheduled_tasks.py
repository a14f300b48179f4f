"""Night shift: beat walks the minutes, the way cron does; SQLite does the counting.

For each minute that has begun since it looked last, beat asks each entry whether the wall clock shows its
time. A run has a number (its minute, its multiple of an interval, its solar day), and who sets the claim
of that number in Redis sends it.
"""

import contextlib
import datetime as dt
import functools
import json
import math
import os
import secrets
import sqlite3
import string
import sys
import time
import urllib.parse
import zoneinfo

import celery
import psutil
import redis
from celery import signals
from celery.beat import Scheduler
from celery.utils.log import get_logger
from redis.backoff import NoBackoff
from redis.retry import Retry

log = get_logger("scheduled_tasks")
app = celery.Celery("scheduled_tasks")
app.conf.update(
    {
        "broker_url": "redis://127.0.0.1:6379/0",
        "result_backend": "redis://127.0.0.1:6379/1",
        "timezone": os.environ.get("CELERY_TIMEZONE") or "Asia/Shanghai",
        "enable_utc": True,
        "accept_content": ["json"],
        "beat_scheduler": "scheduled_tasks:Walker",
        "broker_connection_retry_on_startup": True,
        "broker_transport_options": {"confirm_publish": True},
        "task_ignore_result": False,
    }
)
ZONE = zoneinfo.ZoneInfo(app.conf.timezone)
MINUTE = dt.timedelta(minutes=1)
task = functools.partial(app.task, typing=True)


def kv(seconds=5):
    """A client; in a `with` it closes its connections at the end."""
    return redis.Redis.from_url(
        os.environ["LAB_REDIS_URL"],
        decode_responses=True,
        socket_timeout=seconds,
        socket_connect_timeout=seconds,
        retry=Retry(NoBackoff(), 0),
    )


# ------------------------------------------------------------------------------ entries

SIZES = [(0, 59), (0, 23), (1, 31), (1, 12), (0, 6)]


def numbers(field, low, high):
    result = set()
    for part in field.split(","):
        span, slash, step = part.partition("/")
        a, dash, b = span.partition("-")
        words = [w for w, there in ((a, span != "*"), (b, dash), (step, slash)) if there]
        if not all(w and set(w) <= set(string.digits) and len(w) < 4 for w in words):
            raise ValueError(f"{field!r} in a crontab")
        if slash and (int(step) == 0 or span != "*" and not dash):
            raise ValueError(f"{field!r} in a crontab")
        if span == "*":
            a, b = low, high
        else:
            a = int(a)
            b = int(b) if dash else a
            if not (low <= a <= high and low <= b <= high):
                raise ValueError(f"{field!r} in a crontab")
        turn = range(a, b + 1) if a <= b else [*range(a, high + 1), *range(low, b + 1)]
        result.update(turn[:: int(step) if slash else 1])
    return result


def real(value):
    if type(value) not in (int, float) or not -1e15 < value < 1e15:
        raise ValueError(f"{value!r} is no number here")
    return float(value)


class Walls:
    """Runs at minutes of the wall clock."""

    by_minute = True

    def __init__(self, text):
        if not isinstance(text, str):
            raise ValueError("a crontab is a text")
        fields = text.split()
        if len(fields) != 5:
            raise ValueError("a crontab has five fields")
        (self.minute, self.hour, self.day, self.month, self.weekday) = (
            numbers(field, *size) for field, size in zip(fields, SIZES)
        )
        self.every_hour = len(self.hour) == 24

    def shows(self, wall):
        return (
            wall.minute in self.minute
            and wall.hour in self.hour
            and wall.day in self.day
            and wall.month in self.month
            and wall.isoweekday() % 7 in self.weekday
        )

    def latest(self, since, now, anchor):
        """The last run in (since, now], as (number, instant), or None."""
        minute = int(now // 60)
        stop = max(int(since // 60), minute - 400 * 24 * 60)
        while minute > stop:
            before, here = (dt.datetime.fromtimestamp(60 * m, ZONE) for m in (minute - 1, minute))
            wall, end = (
                before.replace(tzinfo=None, fold=0) + MINUTE,
                here.replace(tzinfo=None, fold=0),
            )
            # A repeated hour is an hour again to those only that run each hour.
            if (not here.fold or self.every_hour) and self.shows(end):
                return minute, 60 * minute
            while wall < end:  # the clock was put forward: what it left out is now
                if self.shows(wall):
                    return minute, 60 * minute
                wall += MINUTE
            minute -= 1
        return None

    def wait(self, now, anchor):
        return 60 - now % 60


class Steps:
    """Runs at the multiples of an interval, from the time on that the entry was first seen."""

    by_minute = False

    def __init__(self, seconds):
        self.seconds = real(seconds)
        if self.seconds <= 0:
            raise ValueError("an interval is above 0")

    def latest(self, since, now, anchor):
        number = math.floor((now - anchor) / self.seconds)
        instant = anchor + number * self.seconds
        return (number, instant) if number > 0 and instant > since else None

    def wait(self, now, anchor):
        return self.seconds - (now - anchor) % self.seconds


class Suns:
    """Runs at sunrise or sunset."""

    by_minute = True

    def __init__(self, event, latitude, longitude):
        self.latitude, self.longitude = real(latitude), real(longitude)
        if event not in ("sunrise", "sunset"):
            raise ValueError("the events are sunrise and sunset")
        if not (-90 <= self.latitude <= 90 and -180 <= self.longitude <= 180):
            raise ValueError("there is no such place on earth")
        self.event = event

    def latest(self, since, now, anchor):
        import ephem

        place = ephem.Observer()
        place.lat, place.lon = str(self.latitude), str(self.longitude)
        place.pressure, place.horizon = 0, "-0:34"
        place.date = dt.datetime.fromtimestamp(now, dt.UTC).replace(tzinfo=None)
        look = place.previous_rising if self.event == "sunrise" else place.previous_setting
        try:
            instant = look(ephem.Sun()).datetime().replace(tzinfo=dt.UTC).timestamp()
        except ephem.CircumpolarError:
            return None
        if instant <= since:
            return None
        return math.floor((instant + 240 * self.longitude) / 86400), instant

    def wait(self, now, anchor):
        return 60 - now % 60


def rhythm(info):
    if not isinstance(info, dict):
        raise ValueError("a schedule is an object")
    if info.get("missed", "run_once") not in ("run_once", "skip"):
        raise ValueError("missed runs: run_once or skip")
    kinds = {("every",): Steps, ("crontab",): Walls, ("solar", "latitude", "longitude"): Suns}
    for keys, kind in kinds.items():
        if info.keys() - {"missed"} == set(keys):
            return kind(*(info[key] for key in keys))
    raise ValueError("a schedule has every, or crontab, or solar with latitude and longitude")


def entry(task, info, args=(), expires=None):
    return {"task": f"scheduled_tasks.{task}", "info": info, "args": list(args), "expires": expires}


OURS = {
    "data-cleanup": entry("cleanup_old_data", {"crontab": "0 2 * * *"}, [30], 86400 - 3600),
    "daily-report": entry("generate_daily_report", {"crontab": "0 8 * * *"}, [], 86400 - 3600),
    "health-check": entry("system_health_check", {"every": 300}, [], 295),
    "user-activity-summary": entry("summarize_user_activity", {"crontab": "0 1 * * 1"}, [], 604800),
    "cache-refresh": entry("refresh_cache", {"crontab": "*/15 * * * *"}, [], 895),
}

K_ENTRIES, K_EDITION, K_ALIVE = "walker:entries", "walker:edition", "walker:alive"
K_ANCHORS, K_DONE = f"walker:anchors:{app.conf.timezone}", f"walker:done:{app.conf.timezone}"


class Walker(Scheduler):
    def setup_schedule(self):
        self.kv, self.edition, self.known, self.send_by = None, (), {}, None
        self.up_since = None

    def tick(self, *_, **__):
        try:
            return self.step(time.time())
        except Exception as exc:
            log.error("step failed, next one in a second: %r", exc)
            self.edition = ()
            self.drop()
            return 1.0

    def step(self, now):
        if self.up_since is None:
            self.up_since = now
        if self.kv is None:
            self.kv = kv()
        with self.kv.pipeline(transaction=False) as pipe:
            edition = (pipe.setex(K_ALIVE, 30, "yes").get(K_EDITION).execute()[1],)
        if edition != self.edition:
            self.learn(now)
            self.edition = edition
        failed, minute = None, now // 60
        for name, it in self.known.items():
            if it["rhythm"].by_minute and it.get("looked") == minute:
                continue
            run = it["rhythm"].latest(it["since"], now, it["anchor"])
            try:
                if run:
                    self.run(name, it, *run, now)
            except Exception as exc:
                failed = exc
            else:
                it["looked"] = minute
                if isinstance(it["rhythm"], Walls):
                    it["since"] = now
        if failed:
            raise failed
        now = time.time()
        naps = (it["rhythm"].wait(now, it["anchor"]) for it in self.known.values())
        return max(0.01, min(3.0, *naps))

    def learn(self, now):
        entries = OURS | {
            name: json.loads(text) for name, text in self.kv.hgetall(K_ENTRIES).items()
        }
        with self.kv.pipeline() as pipe:
            for name in entries:
                pipe.hsetnx(K_ANCHORS, name, repr(now))
            *_, anchors, done = pipe.hgetall(K_ANCHORS).hgetall(K_DONE).execute()
        known = {}
        for name, it in entries.items():
            anchor = float(anchors[name])
            since = max(anchor, float(done.get(name, anchor)))
            if name in self.known:
                since = max(since, self.known[name]["since"])
            known[name] = it | {"rhythm": rhythm(it["info"]), "anchor": anchor, "since": since}
        self.known = known

    def run(self, name, it, number, instant, now):
        missed = it["info"].get("missed") == "skip" and instant < self.up_since - 3
        if not missed:
            self.post_office()
        claim = f"walker:claim:{app.conf.timezone}:{name}:{number}"
        if self.kv.set(claim, repr(now), nx=True, ex=40 * 86400):
            try:
                if not missed and (name in OURS or self.kv.hexists(K_ENTRIES, name)):
                    self.app.send_task(
                        it["task"],
                        it["args"],
                        producer=self.send_by,
                        retry=False,
                        expires=it["expires"],
                    )
                    log.info("%s: run %s sent", name, number)
            except BaseException:
                self.kv.delete(claim)
                raise
            self.kv.hset(K_DONE, name, repr(now))
        it["since"] = now

    def post_office(self):
        if self.send_by is None:
            connection = self.app.connection_for_write(connect_timeout=4)
            try:
                connection.ensure_connection(max_retries=0)
            except BaseException:
                connection.release()
                raise
            self.send_by = self.app.amqp.Producer(connection, auto_declare=False)

    def drop(self):
        producer, self.send_by = self.send_by, None
        if producer is not None:
            with contextlib.suppress(Exception):
                producer.connection.release()


@signals.beat_init.connect
def say_so(sender=None, **_):
    log.info("walking the minutes of %s", ZONE)


# ------------------------------------------------------------------------------ the data


@contextlib.contextmanager
def ops(seconds=30):
    path = urllib.parse.quote(os.path.abspath(os.environ["LAB_OPS_DB"]))
    db = sqlite3.connect(f"file:{path}?mode=rw", timeout=seconds, uri=True)
    db.isolation_level = None
    db.create_function("micros", 1, micros)
    db.create_function("local_day", 1, lambda text: local(text).date().isoformat())
    db.create_function("local_hour", 1, lambda text: local(text).hour)
    db.create_function("local_weekday", 1, lambda text: local(text).strftime("%A"))
    try:
        yield db
    finally:
        db.close()


@functools.lru_cache(maxsize=4096)
def aware(text):
    moment = dt.datetime.fromisoformat(text)
    return moment.replace(tzinfo=moment.tzinfo or dt.UTC)


def local(text):
    return aware(text).astimezone(ZONE)


def micros(moment):
    if moment is None:
        return None
    if isinstance(moment, str):
        moment = aware(moment)
    days = moment.astimezone(dt.UTC) - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    return days // dt.timedelta(microseconds=1)


def today():
    return dt.datetime.now(ZONE).date()


# ------------------------------------------------------------------------------ the jobs


@task
def cleanup_old_data(days_to_keep=30):
    """Delete what is older than `days_to_keep` days."""
    match days_to_keep:
        case bool() | float() | str() | None:
            raise ValueError(f"days_to_keep: {days_to_keep!r}")
        case int() if days_to_keep >= 0:
            pass
        case _:
            raise ValueError(f"days_to_keep: {days_to_keep!r}")
    cutoff = dt.datetime.now(dt.UTC) - dt.timedelta(days=days_to_keep)
    with ops() as db:
        deleted = {
            table: sum(delete_older(db, table, micros(cutoff)))
            for table in ["user_sessions", "audit_logs", "temp_files", "cached_results"]
        }
    return {
        "cutoff": cutoff.isoformat(timespec="microseconds"),
        "deleted": deleted,
        "total_deleted": sum(deleted.values()),
    }


def delete_older(db, table, cutoff):
    """Yield how many rows each transaction deleted."""
    (top,) = db.execute(f"SELECT max(id) FROM {table}").fetchone()
    (low,) = db.execute(f"SELECT min(id) FROM {table}").fetchone()
    while low is not None:
        # The last id of the next thousand rows, old ones or not.
        (high,) = db.execute(
            f"SELECT max(id) FROM (SELECT id FROM {table} WHERE id >= ? AND id <= ?"
            " ORDER BY id LIMIT 1000)",
            (low, top),
        ).fetchone()
        if high is None:
            return
        (old,) = db.execute(
            f"SELECT count(*) FROM {table} WHERE id BETWEEN ? AND ? AND micros(created_at) < ?",
            (low, high, cutoff),
        ).fetchone()
        if old:
            db.execute("BEGIN IMMEDIATE")
            with db:
                done = db.execute(
                    f"DELETE FROM {table} WHERE id IN (SELECT id FROM {table} WHERE id BETWEEN ? AND ?"
                    " AND micros(created_at) < ? LIMIT 1000)",
                    (low, high, cutoff),
                ).rowcount
            yield done
            time.sleep(0.01)
        low = high + 1


def bounds(first, last):
    """The two instants between which the local days from `first` to before `last` lie."""
    return {
        edge: micros(dt.datetime.combine(day, dt.time.min, ZONE))
        for edge, day in (("a", first), ("z", last))
    }


@task
def generate_daily_report():
    """Report on yesterday, and write the report to a file."""
    day = today() - dt.timedelta(days=1)
    with ops() as db:
        row = db.execute(
            """
            SELECT (SELECT count(*) FROM users WHERE micros(created_at) >= :a AND micros(created_at) < :z),
                   (SELECT count(DISTINCT user_id) FROM activity
                     WHERE micros(started_at) >= :a AND micros(started_at) < :z),
                   count(*), total(amount),
                   (SELECT count(*) FROM errors WHERE micros(created_at) >= :a AND micros(created_at) < :z)
              FROM transactions WHERE micros(created_at) >= :a AND micros(created_at) < :z
            """,
            bounds(day, day + dt.timedelta(days=1)),
        ).fetchone()
    users, active, count, amount, errors = row
    report = {
        "date": day.isoformat(),
        "new_users": users,
        "active_users": active,
        "transactions": {"count": count, "amount": amount},
        "errors": errors,
    }
    put(f"daily_report_{day:%Y%m%d}.json", json.dumps(report))
    return report


def put(name, text):
    folder = os.environ["LAB_REPORT_DIR"]
    os.makedirs(folder, exist_ok=True)
    draft = os.path.join(folder, f".{name}.{secrets.token_hex(8)}")
    with contextlib.ExitStack() as undo:
        file = open(draft, "x", encoding="utf-8")  # noqa: SIM115 (closed below)
        undo.callback(os.unlink, draft)
        with file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, os.path.join(folder, name))
        undo.pop_all()


def watch(limit):
    """A check that is healthy below `limit` seconds, a warning above, critical when it raises."""

    def wrap(look):
        @functools.wraps(look)
        def check():
            begin = time.perf_counter()
            try:
                reading = look()
            except Exception as exc:
                return {"status": "critical", "error": f"{type(exc).__name__}: {exc}"}
            seconds = time.perf_counter() - begin
            return {
                "status": "warning" if seconds > limit else "healthy",
                "seconds": seconds,
                **reading,
            }

        return check

    return wrap


@watch(1.0)
def database():
    with ops(5) as db:
        (version,) = db.execute("PRAGMA schema_version").fetchone()
        (newest,) = db.execute("SELECT max(id) FROM transactions").fetchone()
    return {"schema_version": version, "newest_transaction": newest}


@watch(1.0)
def redis_():
    with kv(3) as client:
        return {"pong": bool(client.ping())}


@watch(3.0)
def broker():
    with app.connection_for_read(connect_timeout=4) as connection:
        connection.ensure_connection(max_retries=0)
        return {"connected": bool(connection.connected)}


@watch(math.inf)
def disk():
    percent = psutil.disk_usage(os.environ["LAB_REPORT_DIR"]).percent
    return {"percent": percent, "status": grade(percent, 80, 90)}


@watch(math.inf)
def cpu():
    percent = psutil.cpu_percent(interval=0.5)
    return {"percent": percent, "status": grade(percent, 90)}


@watch(math.inf)
def memory():
    percent = psutil.virtual_memory().percent
    return {"percent": percent, "status": grade(percent, 80, 90)}


STATUS = "healthy", "warning", "critical"


def grade(percent, *limits):
    return STATUS[len([limit for limit in limits if percent >= limit])]


@task
def system_health_check():
    """Look at database, redis, broker, disk, cpu and memory."""
    checks = {
        look.__name__.rstrip("_"): look() for look in (database, redis_, broker, disk, cpu, memory)
    }
    order = sorted(checks, key=lambda name: STATUS.index(checks[name]["status"]))
    return {
        "overall_status": checks[order[-1]]["status"],
        "checks": checks,
        "recommendations": [
            f"Please look at the {name} ({checks[name]['status']})."
            for name in reversed(order)
            if checks[name]["status"] != STATUS[0]
        ],
    }


@task
def summarize_user_activity():
    """Summarize the last full week, Monday to Sunday."""
    day, week = today(), dt.timedelta(weeks=1)
    end = day - dt.timedelta(days=day.weekday())
    start = end - week
    span, earlier = bounds(start, end), bounds(start - week, start)
    part = "FROM activity WHERE micros(started_at) >= :a AND micros(started_at) < :z"
    with ops() as db:

        def ranking(expression):
            return db.execute(
                f"SELECT {expression}, count(*) AS n {part} GROUP BY 1 ORDER BY n DESC", span
            ).fetchall()

        active = {user for (user,) in db.execute(f"SELECT DISTINCT user_id {part}", span)}
        before = {user for (user,) in db.execute(f"SELECT DISTINCT user_id {part}", earlier)}
        (new,) = db.execute(
            "SELECT count(*) FROM users WHERE micros(created_at) >= :a AND micros(created_at) < :z",
            span,
        ).fetchone()
        features = ranking("feature")
        weekdays = ranking("local_weekday(started_at)") or [("Monday", 0)]
        hours = ranking("local_hour(started_at)") or [(0, 0)]
    return {
        "week_start": start.isoformat(),
        "active_users": len(active),
        "new_users": new,
        "retention": len(active & before) / len(before) if before else 0.0,
        "top_features": [{"feature": feature, "usage": usage} for feature, usage in features],
        "busiest_day": weekdays[0][0],
        "busiest_hour": hours[0][0],
    }


CACHES = {
    "user_counts": "SELECT local_day(created_at), count(*) FROM users GROUP BY 1 ORDER BY 1",
    "feature_usage": "SELECT feature, count(*), total(seconds) FROM activity GROUP BY 1 ORDER BY 2 DESC, 1",
    "daily_revenue": "SELECT local_day(created_at), count(*), total(amount) FROM transactions"
    " GROUP BY 1 ORDER BY 1",
    "error_counts": "SELECT local_day(created_at), count(*) FROM errors GROUP BY 1 ORDER BY 1",
    "top_users": "SELECT user_id, sum(rows), total(amount) FROM ("
    "SELECT user_id, 1 AS rows, 0 AS amount FROM activity UNION ALL"
    " SELECT user_id, 0, amount FROM transactions) GROUP BY 1 ORDER BY 2 DESC, 3 DESC, 1",
}


@task
def refresh_cache():
    """Write five caches to Redis."""
    with ops() as db:
        caches = {name: db.execute(query).fetchall() for name, query in CACHES.items()}
    with kv() as client, client.pipeline() as pipe:
        for name, rows in caches.items():
            pipe.set(f"cache:{name}", json.dumps(rows), px=1_000_000)
        pipe.execute()
    refreshed = {name: len(rows) for name, rows in caches.items()}
    return {"refreshed": refreshed, "total_items_refreshed": sum(refreshed.values())}


@task
def schedule_custom_task(task_name, schedule_info, task_args=None):
    """Add an entry to the running beat and return its name."""
    if not isinstance(task_name, str) or app.tasks.get(task_name) is None:
        raise ValueError(f"no task {task_name!r}")
    rhythm(schedule_info)
    name = f"entry-{time.time_ns():x}-{secrets.token_hex(6)}"
    text = json.dumps(
        {"task": task_name, "info": schedule_info, "args": list(task_args or ()), "expires": None}
    )
    with kv() as client, client.pipeline() as pipe:
        pipe.hsetnx(K_ENTRIES, name, text).incr(K_EDITION).execute()
    return {"name": name, "task": task_name, "schedule": schedule_info}


@task
def unschedule_custom_task(name):
    """Remove an entry that schedule_custom_task added."""
    if not isinstance(name, str):
        raise ValueError(f"no entry {name!r}")
    with kv() as client, client.pipeline() as pipe:
        pipe.hdel(K_ENTRIES, name).incr(K_EDITION).hdel(K_ANCHORS, name).hdel(K_DONE, name)
        there = pipe.execute()[0]
    if not there:
        raise ValueError(f"no entry {name!r}")
    return {"name": name}


if __name__ == "__main__":
    if sys.argv[1:] == ["alive"]:
        try:
            with kv() as client:
                sys.exit(not client.exists(K_ALIVE))
        except (OSError, redis.RedisError) as exc:
            sys.exit(f"cannot ask Redis: {exc}")
    sys.exit("usage: python -m scheduled_tasks alive")

"""The jobs of exercise 2_2: each is called by hand, with data whose rows lie at the edges.

The clock that a job sees is set by the lab (`stage`), so that yesterday, last week and the cutoff
are where the rows were put. Expected figures are counted here, from the rows that were drawn.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
import sqlite3
from collections import Counter
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from grader import timetable
from grader.check import check, hint
from grader.expect import answers, fails_with

TASKS = (
    "cleanup_old_data",
    "generate_daily_report",
    "system_health_check",
    "summarize_user_activity",
    "refresh_cache",
    "schedule_custom_task",
    "unschedule_custom_task",
)
EXPENDABLE = ("user_sessions", "audit_logs", "temp_files", "cached_results")
SCHEMA = (
    "".join(
        f"CREATE TABLE {table} (id INTEGER PRIMARY KEY, {columns});"
        for table, columns in {
            **dict.fromkeys(EXPENDABLE, "created_at TEXT NOT NULL"),
            "users": "created_at TEXT NOT NULL",
            "errors": "created_at TEXT NOT NULL",
            "transactions": "user_id INTEGER, amount REAL, created_at TEXT NOT NULL",
        }.items()
    )
    + "CREATE TABLE activity (user_id INTEGER, feature TEXT, started_at TEXT, seconds REAL);"
)
SHANGHAI, BERLIN = ZoneInfo("Asia/Shanghai"), ZoneInfo("Europe/Berlin")
SECOND, MINUTE, DAY = timedelta(seconds=1), timedelta(minutes=1), timedelta(days=1)
FEATURES = ("search", "export", "upload", "share")
CACHES = ("user_counts", "feature_usage", "daily_revenue", "error_counts", "top_users")
COMPONENTS = ("database", "redis", "broker", "disk", "cpu", "memory")
LEVELS = ("healthy", "warning", "critical")
PATIENT = 15.0
RESERVED = 0x40000001


# -------------------------------------------------------------------------- data, clock, readings


def written(rng, at):
    """Return an instant in one of the ways in which the database has them."""
    zone = rng.choice((SHANGHAI, ZoneInfo("America/New_York"), BERLIN))
    plain = at.astimezone(UTC).replace(tzinfo=None).isoformat()
    return rng.choice((plain, plain + "Z", plain + "+00:00", at.astimezone(zone).isoformat()))


@contextlib.contextmanager
def aside(lab):
    """Yield a path of the grader's own for a database.

    SQLite follows a path's links by itself, and gets lost on the one that leads into a cell.
    """
    path = lab.place.ledger.with_name(f"ops-{id(lab):x}.db")
    path.unlink(missing_ok=True)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def database(lab, **tables):
    """Put a new database in place of the old one: table=[values after the id, ...]."""
    place, draft = lab.data / "ops.db", lab.data / "ops.draft"
    draft.unlink(missing_ok=True)
    with aside(lab) as path:
        with contextlib.closing(sqlite3.connect(path)) as db, db:
            db.executescript(SCHEMA)
            for table, rows in tables.items():
                lead = [] if table == "activity" else [None]
                marks = ", ".join("?" * (len(lead) + len(rows[0]))) if rows else ""
                rows = [(*lead, *row) for row in rows]
                db.executemany(f"INSERT INTO {table} VALUES ({marks})", rows) if rows else None
        shutil.copyfile(path, draft)
    draft.chmod(0o666)
    draft.replace(place)
    reports = lab.data / "reports"
    if not reports.exists():
        reports.mkdir()
        reports.chmod(0o777)
    return place


def times(lab, instants):
    """Return rows with nothing but a time."""
    return [(written(lab.rng, at),) for at in instants]


def kept(lab, table):
    """Return the ids that a table has now."""
    with aside(lab) as path:
        shutil.copyfile(lab.data / "ops.db", path)
        with contextlib.closing(sqlite3.connect(path)) as db:
            return {row[0] for row in db.execute(f"SELECT id FROM {table}")}


@contextlib.contextmanager
def stage(lab, **values):
    """Set what a job sees while the block runs; see grader/inside/stage.py."""
    if isinstance(values.get("now"), datetime):
        values["now"] = values["now"].timestamp()
    file, draft = lab.data / "stage.json", lab.data / "stage.draft"
    draft.write_text(json.dumps(values))
    draft.replace(file)
    try:
        yield
    finally:
        file.unlink()


@contextlib.contextmanager
def zone(lab, name):
    """Have the worker live in another zone while the block runs."""
    was = lab.dirty
    lab.restart_worker({"CELERY_TIMEZONE": name})
    try:
        yield
    finally:
        lab.restart_worker()
        lab.dirty = was


def local(tz, *fields):
    """Return a local time as an instant."""
    return datetime(*fields, tzinfo=tz).astimezone(UTC)


def drawn_day(lab, tz, *fields):
    """Draw a day of the coming years at that time of the day."""
    return local(tz, lab.rng.randint(2027, 2032), *fields)


# ------------------------------------------------------------------------------------- comparing


def result(call):
    """Return a call's result, {} if it is no dict."""
    found = call.reply.result if call.reply and call.reply.succeeded else None
    return found if isinstance(found, dict) else {}


def succeeded(lab, call):
    """Note what a call came to where it gave no dict; return whether it gave one."""
    said = {"call": call, "seen": describe(call)}
    return lab.fact(bool(result(call)), "gives_dict", **said)


def describe(call):
    """Return a reply in a few words."""
    if call.reply is None:
        return "no answer"
    if call.reply.succeeded:
        return repr(call.reply.result)[:300]
    return f"{call.reply.state} {call.reply.error_type}: {call.reply.error_message}"[:300]


def same(seen, wanted):
    """Whether two values are the same; numbers may differ by half a cent, or be written as text."""
    if isinstance(wanted, float):
        with contextlib.suppress(TypeError, ValueError):
            return not isinstance(seen, bool) and abs(float(seen) - wanted) <= 0.005
        return False
    if isinstance(wanted, dict):
        return isinstance(seen, dict) and all(same(seen.get(k), v) for k, v in wanted.items())
    return seen == wanted and isinstance(seen, bool) == isinstance(wanted, bool)


def at_instant(text):
    """Read an ISO 8601 time as the database has them: without an offset it is UTC."""
    with contextlib.suppress(TypeError, ValueError):
        at = datetime.fromisoformat(text)
        return at if at.tzinfo else at.replace(tzinfo=UTC)
    return None


# -------------------------------------------------------------------------------------- the tasks


@check
def test_registered(lab):
    """The seven tasks are there, under their names."""
    missing = lab.unregistered(TASKS)

    assert lab.fact(not missing, "registered", missing=missing, found=lab.tasks)


def around(lab, cutoff):
    """Draw instants on both sides of a cutoff: (those before it, those that stay)."""
    rng = lab.rng
    older = [cutoff - SECOND, cutoff - SECOND / 4, cutoff - DAY * rng.randint(1, 300)]
    # Written in another zone, each of these has a date that belongs to the other side.
    older += [cutoff - timedelta(hours=rng.randint(1, 7)) for _ in range(rng.randint(4, 9))]
    newer = [cutoff, cutoff, cutoff, cutoff, cutoff + SECOND / 4, cutoff + SECOND]
    newer += [cutoff + timedelta(hours=rng.randint(1, 12)) for _ in range(rng.randint(4, 9))]
    return older, newer


@check(after=test_registered)
def test_cleanup_by_age(lab):
    """cleanup_old_data deletes what is older than the cutoff, and nothing that lies on it."""
    now = drawn_day(lab, SHANGHAI, lab.rng.randint(1, 12), 28, 7, 30)
    for args in ((), (lab.rng.randint(1, 9),)):
        cutoff = now - DAY * (args[0] if args else 30)
        rows = {table: around(lab, cutoff) for table in EXPENDABLE}
        database(lab, **{t: times(lab, old + new) for t, (old, new) in rows.items()})
        wanted = {table: len(old) for table, (old, _) in rows.items()}

        with stage(lab, now=now, moves=False):
            call = lab.call("cleanup_old_data", *args)

        assert succeeded(lab, call)
        for table, (old, new) in rows.items():
            ids = kept(lab, table)
            stay = set(range(len(old) + 1, len(old) + len(new) + 1))
            said = {"call": call, "table": table, "cutoff": cutoff.isoformat()}
            for wrong, mistake in ((stay - ids, "too_much"), (ids - stay, "too_little")):
                row = stated(rows[table], wrong)
                mistake = "on_the_cutoff" if row == cutoff.isoformat() else mistake
                assert lab.fact(not wrong, mistake, row=row, **said), hint(mistake)
        answer = result(call)
        for what, value in (("deleted", wanted), ("total_deleted", sum(wanted.values()))):
            assert is_value(lab, call, what, answer.get(what), value, now)
        right = at_instant(answer.get("cutoff")) == cutoff
        said = {"what": "cutoff", "wanted": cutoff.isoformat(), "seen": answer.get("cutoff")}
        assert lab.fact(right, "value", call=call, now=now.isoformat(), **said)


def stated(sides, ids):
    """Return the time of the first of these rows, "" if there is none."""
    old, new = sides
    return [*old, *new][min(ids) - 1].isoformat() if ids else ""


def is_value(lab, call, what, seen, wanted, now):
    """Compare one value of a result and say what differs."""
    said = {"call": call, "what": what, "wanted": wanted, "seen": repr(seen)[:200]}
    return lab.fact(same(seen, wanted), "value", now=now.isoformat(), **said)


@check(after=test_cleanup_by_age)
def test_cleanup_refuses(lab):
    """cleanup_old_data refuses what is no int of 0 or more, and deletes nothing then."""
    old = [datetime(2020, 1, 1, tzinfo=UTC)] * 3
    database(lab, **{table: times(lab, old) for table in EXPENDABLE})

    calls = lab.calls([("cleanup_old_data", bad) for bad in (True, "30", 2.5, -1)])

    for call in calls:
        assert call == fails_with("ValueError"), hint("accepts")
    for table in EXPENDABLE:
        said = {"table": table, "wanted": 3, "seen": len(kept(lab, table))}
        assert lab.fact(said["seen"] == 3, "rows_left", **said)


def header(path):
    """Return a database's count of write transactions, None in the WAL mode, which keeps none.

    Bytes 24 to 27 of an SQLite file count the transactions that changed it; 18 is the mode.
    """
    head = path.read_bytes()[:100]
    return None if head[18] == 2 else int.from_bytes(head[24:28], "big")


@check(after=test_cleanup_by_age)
def test_cleanup_in_batches(lab):
    """cleanup_old_data deletes at most 1000 rows in one transaction."""
    count = lab.rng.randint(4200, 4700)
    path = database(lab, audit_logs=[("2020-01-01T00:00:00Z",)] * count)
    before = header(path)

    call = lab.call("cleanup_old_data", 30, within=20)

    assert succeeded(lab, call)
    assert is_value(
        lab, call, "total_deleted", result(call).get("total_deleted"), count, before_now()
    )
    after = header(path)
    assert lab.fact(after is not None, "wal", seen="WAL"), hint("wal")
    wanted = -(-count // 1000)
    said = {"rows": count, "wanted": wanted, "seen": after - before}
    assert lab.fact(after - before >= wanted, "batches", **said), hint("one_transaction")


def before_now():
    """Return the present instant, to the second."""
    return datetime.now(UTC).replace(microsecond=0)


@check(after=test_cleanup_by_age)
def test_cleanup_waits_its_turn(lab):
    """cleanup_old_data waits while another writer holds the database for two seconds."""
    path = database(lab, audit_logs=[("2020-01-01T00:00:00Z",)] * 5)

    # This byte is what SQLite locks for a writer.
    with path.open("r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX, 1, RESERVED)
        call = lab.send("cleanup_old_data", 30, within=PATIENT)
        lab.until(lambda: not lab.publisher.fetch([call]), within=2)
    lab.finish([call])

    assert succeeded(lab, call), hint("locked")
    assert is_value(lab, call, "total_deleted", result(call).get("total_deleted"), 5, before_now())


# ------------------------------------------------------------------------------------ the report


def figures(start, end, tables):
    """Count what lies from `start` on and before `end`: the report's figures."""
    inside = {t: [row for row in rows if start <= row[-1] < end] for t, rows in tables.items()}
    return {
        "new_users": len(inside["users"]),
        "active_users": len({user for user, _ in inside["activity"]}),
        "transactions": {
            "count": len(inside["transactions"]),
            "amount": float(sum(amount for amount, _ in inside["transactions"])),
        },
        "errors": len(inside["errors"]),
    }


def edges(lab, start, end):
    """Draw instants around a day, unequally many on each side of each of its ends.

    Midnight by UTC is one of the times that are not an edge here.
    """
    rng = lab.rng
    noon = start + (end - start) / 2
    found = [start, start, start + SECOND, end - SECOND, end - SECOND, noon]
    found += [start - SECOND] * 3 + [end] * 4 + [end + SECOND]
    for midnight in (start, end):
        found += [midnight + timedelta(minutes=rng.randint(1, 400))] * rng.randint(1, 3)
        found += [midnight - timedelta(minutes=rng.randint(1, 400))] * rng.randint(4, 6)
    return [at.replace(microsecond=0) for at in found]


def day_data(lab, start, end):
    """Draw a database around a day: {table: [(..., instant)]}."""
    rng = lab.rng
    return {
        "users": [(at,) for at in edges(lab, start, end)],
        "activity": [(rng.randint(1, 9), at) for at in edges(lab, start, end)],
        "transactions": [(rng.randint(100, 99999) / 100, at) for at in edges(lab, start, end)],
        "errors": [(at,) for at in edges(lab, start, end)],
    }


def put(lab, tables):
    """Write such data into a new database."""
    rng = lab.rng
    rows = {
        "users": [(written(rng, at),) for (at,) in tables["users"]],
        "errors": [(written(rng, at),) for (at,) in tables["errors"]],
        "transactions": [(1, amount, written(rng, at)) for amount, at in tables["transactions"]],
        "activity": [
            (user, rng.choice(FEATURES), written(rng, at), 5.0) for user, at in tables["activity"]
        ],
    }
    database(lab, **rows)


def report_at(lab, tz, now):
    """Draw data around the day before `now`, ask for the report, return call and wanted figures."""
    today = now.astimezone(tz)
    end = local(tz, today.year, today.month, today.day)
    before = (today.replace(hour=12, fold=0) - DAY).date()
    start = local(tz, before.year, before.month, before.day)
    tables = day_data(lab, start, end)
    put(lab, tables)
    with stage(lab, now=now):
        call = lab.call("generate_daily_report")
    return call, {"date": before.isoformat(), **figures(start, end, tables)}


def compare_report(lab, call, wanted, now, mistake="default"):
    """Compare a report with what it should say, figure by figure."""
    assert succeeded(lab, call)
    for what, value in wanted.items():
        seen = result(call).get(what)
        named = mistake
        if what == "date" and seen == str(now.astimezone(SHANGHAI).date()):
            named = "today"
        assert is_value(lab, call, what, seen, value, now), hint(named)


@check(after=test_registered)
def test_report_of_yesterday(lab):
    """generate_daily_report counts yesterday, from local midnight to local midnight."""
    # Early in the local morning, UTC has another date; the first of a month looks back at the last.
    for month, day, hour in ((1, 1, 0), (3, 1, 7), (lab.rng.randint(4, 12), 15, 20)):
        now = drawn_day(lab, SHANGHAI, month, day, hour, lab.rng.randint(1, 59))

        call, wanted = report_at(lab, SHANGHAI, now)

        compare_report(lab, call, wanted, now, "which_day")


def files(lab):
    """Return what the folder of the reports holds: name -> bytes."""
    return {path.name: path.read_bytes() for path in sorted((lab.data / "reports").iterdir())}


def document(data):
    """Read a file's JSON, None if it is none."""
    with contextlib.suppress(ValueError, RecursionError):
        return json.loads(data or b"")
    return None


@check(after=test_report_of_yesterday)
def test_report_file(lab):
    """The report is also written to daily_report_YYYYMMDD.json; a second run replaces it."""
    now = drawn_day(lab, SHANGHAI, 6, lab.rng.randint(2, 28), 8, 0)
    name = f"daily_report_{(now.astimezone(SHANGHAI) - DAY):%Y%m%d}.json"
    for _ in range(2):
        call, wanted = report_at(lab, SHANGHAI, now)
        assert succeeded(lab, call)
        found = files(lab)
        seen = document(found.get(name))
        said = {"name": name, "wanted": wanted, "seen": seen if seen is not None else list(found)}
        assert lab.fact(same(seen, wanted), "report_file", **said)


@check(after=test_report_file)
def test_report_atomic(lab):
    """When the disk is full, the old report stays whole and no draft is left."""
    now = drawn_day(lab, SHANGHAI, 7, lab.rng.randint(2, 28), 8, 0)
    report_at(lab, SHANGHAI, now)
    before = files(lab)

    with stage(lab, now=now, room=40):
        call = lab.call("generate_daily_report")
    after = files(lab)

    assert call == answers()
    for name, data in before.items():
        said = {"name": name, "size": len(data), "seen": len(after.get(name, b""))}
        assert lab.fact(after.get(name) == data, "report_whole", **said), hint("written_in_place")
    drafts = sorted(set(after) - set(before))
    assert lab.fact(not drafts, "report_draft", seen=drafts), hint("draft")


# -------------------------------------------------------------------------------- the health check


def health(lab, **readings):
    """Ask for a health check with these readings: percentages, 10 if not given."""
    values = {"disk": 10.0, "memory": 10.0, "cpu": 10.0, **readings}
    with stage(lab, folder=str(lab.data / "reports"), **values):
        return lab.call("system_health_check", within=PATIENT)


def statuses(call):
    """Return each component's status."""
    checks = result(call).get("checks")
    found = checks if isinstance(checks, dict) else {}
    rows = {name: found.get(name) for name in COMPONENTS}
    return {name: row.get("status") if isinstance(row, dict) else row for name, row in rows.items()}


def compare_health(lab, call, mistake="default", given="", **wanted):
    """Compare a health check with what it should find: every other component is healthy."""
    assert succeeded(lab, call), hint("raised")
    want, seen = {**dict.fromkeys(COMPONENTS, "healthy"), **wanted}, statuses(call)
    said = {"given": given or "all readings at 10 percent"}
    for name, value in want.items():
        row = {"what": name, "wanted": value, "seen": seen[name], **said}
        assert lab.fact(seen[name] == value, "health", **row), hint(mistake)
    worst = max(want.values(), key=LEVELS.index)
    overall = result(call).get("overall_status")
    row = {"what": "overall_status", "wanted": worst, "seen": overall, **said}
    assert lab.fact(overall == worst, "health", **row), hint("worst")
    advice = result(call).get("recommendations")
    good = isinstance(advice, list) and all(isinstance(text, str) for text in advice)
    assert lab.fact(good, "recommendations", seen=repr(advice)[:200])


@check(after=test_registered)
def test_health_levels(lab):
    """The health check's levels: disk and memory from 80 and 90 percent, cpu from 90."""
    database(lab)
    compare_health(lab, health(lab))
    steps = [("disk", 79.9, 0), ("disk", 80.0, 1), ("disk", 89.9, 1), ("disk", 90.0, 2)]
    steps += [("memory", 79.9, 0), ("memory", 80.0, 1), ("memory", 90.0, 2)]
    steps += [("cpu", 89.9, 0), ("cpu", 90.0, 1), ("cpu", 100.0, 1)]
    for name, percent, rank in steps:
        call = health(lab, **{name: percent})
        compare_health(lab, call, "limits", f"{name} {percent} percent", **{name: LEVELS[rank]})


def compare_error(lab, call, name):
    """A component that is down says why."""
    row = result(call)["checks"][name]
    said = {"what": name, "seen": repr(row)[:200]}
    assert lab.fact(bool(row.get("error")), "health_error", **said)


@check(after=test_health_levels)
def test_health_redis_down(lab):
    """With its Redis down the health check says critical and why; later it is healthy again."""
    database(lab)
    server = lab.redis["ops"]
    server.down()
    try:
        call = health(lab)
    finally:
        server.up()

    compare_health(lab, call, "down", "LAB_REDIS_URL down", redis="critical")
    compare_error(lab, call, "redis")
    compare_health(lab, health(lab), "stays_down", "LAB_REDIS_URL up again")


@check(after=test_health_levels)
def test_health_database_missing(lab):
    """With the database file missing the health check says critical, and makes no new file."""
    path = database(lab)
    path.unlink()

    call = health(lab)
    made = path.exists()

    database(lab)
    compare_health(lab, call, "missing", "no file at LAB_OPS_DB", database="critical")
    compare_error(lab, call, "database")
    assert lab.fact(not made, "file_made", path=path.name), hint("missing")


# ---------------------------------------------------------------------------- the week's summary


def week_data(lab, tz, monday):
    """Draw two weeks of activity up to the Sunday after `monday`, and some rows on both sides.

    Returns:
        activity rows (user, feature, instant), users' instants, and the week's start and end.
    """
    rng = lab.rng
    at = [local(tz, *(monday + DAY * days).timetuple()[:3]) for days in (-7, 0, 7)]
    before, start, end = at
    rows = []
    # Whom the edges belong to decides: each of these users is seen nowhere else.
    for user, instant in enumerate(
        (before - SECOND, before, start - SECOND, start, end - SECOND, end, end + MINUTE), 101
    ):
        rows.append((user, rng.choice(FEATURES), instant))
    for week in (before, start, end):
        for _ in range(rng.randint(15, 25)):
            minute = rng.randint(0, 7 * 24 * 60 - 120)
            rows.append((rng.randint(1, 12), rng.choice(FEATURES), week + MINUTE * minute))
    # A busy time early on a local morning: by UTC, it is another day and another hour.
    day, hour = rng.randint(1, 6), rng.randint(1, 6)
    busy = local(tz, *(monday + DAY * day).timetuple()[:3], hour, 5)
    rows += [(rng.randint(1, 12), FEATURES[day % 4], busy + MINUTE * n) for n in range(45)]
    users = [at + SECOND * n for at in (before, start, end) for n in (-2, -1, 0, 1, 1)]
    return rows, users, start, end


def compare_summary(lab, tz, now, monday, mistake="default"):
    """Draw data, ask for the summary, and compare it figure by figure."""
    rows, users, start, end = week_data(lab, tz, monday)
    rng = lab.rng
    database(
        lab,
        activity=[(user, feature, written(rng, at), 1.5) for user, feature, at in rows],
        users=times(lab, users),
    )

    with stage(lab, now=now):
        call = lab.call("summarize_user_activity")

    assert succeeded(lab, call)
    before = local(tz, *(monday - DAY * 7).timetuple()[:3])
    week = [row for row in rows if start <= row[2] < end]
    seen, old = {row[0] for row in week}, {row[0] for row in rows if before <= row[2] < start}
    wanted = {
        "week_start": monday.date().isoformat(),
        "active_users": len(seen),
        "new_users": sum(start <= at < end for at in users),
        "retention": len(seen & old) / len(old),
    }
    answer = result(call)
    for what, value in wanted.items():
        assert is_value(lab, call, what, answer.get(what), value, now), hint(mistake)
    compare_features(lab, call, Counter(row[1] for row in week), now)
    clock = [row[2].astimezone(tz) for row in week]
    for what, counts in (
        ("busiest_day", Counter(f"{at:%A}" for at in clock)),
        ("busiest_hour", Counter(at.hour for at in clock)),
    ):
        best = [key for key, count in counts.items() if count == max(counts.values())]
        said = {"what": what, "wanted": " / ".join(map(str, best)), "seen": repr(answer.get(what))}
        right = answer.get(what) in best and not isinstance(answer.get(what), bool)
        assert lab.fact(right, "value", call=call, now=now.isoformat(), **said), hint("by_utc")


def compare_features(lab, call, counts, now):
    """The features are listed with their rows, the most used first; how many is left open."""
    listed = result(call).get("top_features")
    rows = listed if isinstance(listed, list) else []
    seen = [(r.get("feature"), r.get("usage")) for r in rows if isinstance(r, dict)]
    best = sorted(counts.values(), reverse=True)[: len(seen)]
    right = seen and all(counts.get(name) == usage for name, usage in seen)
    right = right and [usage for _, usage in seen] == best and len(dict(seen)) == len(seen)
    said = {"what": "top_features", "wanted": counts.most_common(), "seen": repr(listed)[:200]}
    assert lab.fact(right, "value", call=call, now=now.isoformat(), **said)


@check(after=test_registered)
def test_weekly_summary(lab):
    """summarize_user_activity tells of the last full local week, Monday to Sunday."""
    start = datetime(lab.rng.randint(2027, 2031), lab.rng.randint(1, 12), 1)
    monday = start + DAY * (7 - start.weekday())
    # On a Monday at one in the morning, where beat asks for it, and late on a Sunday.
    for days, hour in ((7, 1), (13, 23)):
        now = local(SHANGHAI, *(monday + DAY * days).timetuple()[:3], hour)
        compare_summary(lab, SHANGHAI, now, monday, "which_week")


@check(after=(test_report_of_yesterday, test_weekly_summary))
def test_another_zone(lab):
    """With CELERY_TIMEZONE=Europe/Berlin report and summary follow its clock, changes and all."""
    year = lab.rng.randint(2027, 2032)
    with zone(lab, "Europe/Berlin"):
        for change in timetable.changes(BERLIN, year):
            sunday = change.astimezone(BERLIN).replace(tzinfo=None, hour=0, minute=0)
            for days in (0, 1, 2):
                now = local(BERLIN, *(sunday + DAY * days).timetuple()[:3], 8, 0)
                call, wanted = report_at(lab, BERLIN, now)
                compare_report(lab, call, wanted, now, "zone")
            now = local(BERLIN, *(sunday + DAY).timetuple()[:3], 1, 0)
            compare_summary(lab, BERLIN, now, sunday - DAY * 6, "zone")


# -------------------------------------------------------------------------------------- the caches


def many(lab, times_over):
    """Fill the database with rows of the last forty days; the more of them, the more users."""
    rng, now = lab.rng, before_now()
    at = [now - timedelta(hours=rng.randint(0, 24 * 40), minutes=5) for _ in range(40 * times_over)]
    at += [now - timedelta(minutes=n) for n in range(2, 2 + times_over)]
    lately = [written(rng, each) for each in at]
    database(
        lab,
        users=[(text,) for text in lately],
        errors=[(text,) for text in lately],
        transactions=[(rng.randint(1, 9) * times_over, 5.25, text) for text in lately],
        activity=[(rng.randint(1, 9) * times_over, rng.choice(FEATURES), t, 2.0) for t in lately],
    )


def refreshed(lab):
    """Refresh the caches; return the call, and each cache's text and time to live in seconds."""
    with lab.redis["ops"].client() as client:
        client.delete(*(f"cache:{name}" for name in CACHES))
        call = lab.call("refresh_cache", within=PATIENT)
        keys = {name: f"cache:{name}" for name in CACHES}
        kinds = {name: client.type(key) for name, key in keys.items()}
        texts = {n: client.get(k) if kinds[n] == b"string" else None for n, k in keys.items()}
        return call, texts, {name: client.ttl(key) for name, key in keys.items()}


@check(after=test_registered)
def test_caches(lab):
    """refresh_cache writes five JSON texts, computed from the data, and counts their items."""
    many(lab, 1)
    call, before, _ = refreshed(lab)
    assert succeeded(lab, call)
    for name in CACHES:
        said = {"what": f"cache:{name}", "seen": repr(before[name])[:200]}
        assert lab.fact(document(before[name]) is not None, "cache_json", **said)
    counts = result(call).get("refreshed")
    for name in CACHES:
        value = document(before[name])
        seen = counts.get(name) if isinstance(counts, dict) else None
        good = isinstance(seen, int) and (not isinstance(value, list | dict) or seen == len(value))
        wanted = len(value) if isinstance(value, list | dict) else "int"
        said = {"what": f'refreshed["{name}"]', "wanted": wanted, "seen": repr(seen)}
        assert lab.fact(good, "value", call=call, now=before_now().isoformat(), **said)
    total, seen = sum(counts[name] for name in CACHES), result(call).get("total_items_refreshed")
    assert is_value(lab, call, "total_items_refreshed", seen, total, before_now())

    many(lab, 3)
    call, after, _ = refreshed(lab)
    assert succeeded(lab, call)
    for name in CACHES:
        changed = after[name] != before[name]
        assert lab.fact(changed, "cache_data", what=f"cache:{name}"), hint("not_computed")


@check(after=test_caches)
def test_caches_expire(lab):
    """Each cache has a time to live of 900 to 3600 seconds."""
    many(lab, 2)
    call, _, lives = refreshed(lab)
    assert succeeded(lab, call)
    for name, seconds in lives.items():
        said = {"what": f"cache:{name}", "seen": seconds}
        mistake = "for_ever" if seconds == -1 else "default"
        assert lab.fact(900 - PATIENT <= seconds <= 3600, "cache_life", **said), hint(mistake)

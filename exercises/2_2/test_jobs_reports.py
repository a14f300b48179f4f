"""The daily report and the weekly summary of exercise 2_2: local days and weeks, at their edges."""

from __future__ import annotations

import contextlib
from collections import Counter
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from grader import ops, timetable
from grader.check import check, hint
from grader.expect import answers
from grader.files import LARGEST, opened

PATIENT = 5.0
# What happens after the report could not be written is the submission's, also to try again later.
ENDED = ("SUCCESS", "FAILURE", "RETRY", "REVOKED", "unreadable")

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
    found = [start, start, start + ops.SECOND, end - ops.SECOND, end - ops.SECOND, noon]
    found += [start - ops.SECOND] * 3 + [end] * 4 + [end + ops.SECOND]
    found += [end - ops.SECOND / 4] * 2
    for midnight in (start, end):
        found += [midnight + timedelta(minutes=rng.randint(1, 400))] * rng.randint(1, 3)
        found += [midnight - timedelta(minutes=rng.randint(1, 400))] * rng.randint(4, 6)
    return found


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
        "users": [(ops.written(rng, at),) for (at,) in tables["users"]],
        "errors": [(ops.written(rng, at),) for (at,) in tables["errors"]],
        "transactions": [
            (1, amount, ops.written(rng, at)) for amount, at in tables["transactions"]
        ],
        "activity": [
            (user, rng.choice(ops.FEATURES), ops.written(rng, at), 5.0)
            for user, at in tables["activity"]
        ],
    }
    ops.database(lab, **rows)


def yesterday(tz, now):
    """Return the instants at which the day before `now` begins and ends."""
    today = now.astimezone(tz)
    before = (today.replace(hour=12, fold=0) - ops.DAY).date()
    return [ops.local(tz, day.year, day.month, day.day) for day in (before, today)]


def report_at(lab, tz, now):
    """Draw data around the day before `now`, ask for the report.

    Returns:
        the call, the wanted figures, and those of the day by UTC.
    """
    start, end = yesterday(tz, now)
    tables = day_data(lab, start, end)
    put(lab, tables)
    with ops.stage(lab, now=now):
        call = lab.call("generate_daily_report")
    wanted = {"date": start.astimezone(tz).date().isoformat(), **figures(start, end, tables)}
    return call, wanted, figures(*yesterday(ZoneInfo("UTC"), now), tables)


def compare_report(lab, call, wanted, now, mistake="default", by_utc=None):
    """Compare a report with what it should say, figure by figure.

    Args:
        by_utc: the figures with which `mistake` is likely; with any, if not given.
    """
    assert ops.succeeded(lab, call)
    for what, value in wanted.items():
        seen = ops.result(call).get(what)
        likely = by_utc is None or what == "date" or ops.same(seen, by_utc[what])
        named = mistake if likely else "default"
        if what == "date" and seen == str(now.astimezone(ops.SHANGHAI).date()):
            named = "today"
        assert ops.is_value(lab, call, what, seen, value, now), hint(named)


@check
def test_report_of_yesterday(lab):
    """generate_daily_report counts yesterday, from local midnight to local midnight."""
    assert ops.registered(lab, "generate_daily_report"), hint("named")
    # Early in the local morning, UTC has another date; the first of a month looks back at the last.
    for month, day, hour in ((1, 1, 0), (3, 1, 7), (lab.rng.randint(4, 12), 15, 20)):
        now = ops.drawn_day(lab, ops.SHANGHAI, month, day, hour, lab.rng.randint(1, 59))

        call, wanted, by_utc = report_at(lab, ops.SHANGHAI, now)

        compare_report(lab, call, wanted, now, "which_day", by_utc)


@check(after=test_report_of_yesterday)
def test_report_file(lab):
    """The report is also written to daily_report_YYYYMMDD.json; a second run replaces it."""
    # So early that UTC has another date.
    now = ops.drawn_day(lab, ops.SHANGHAI, 6, lab.rng.randint(2, 28), lab.rng.randint(1, 7), 30)
    name = f"daily_report_{(now.astimezone(ops.SHANGHAI) - ops.DAY):%Y%m%d}.json"
    for _ in range(2):
        call, wanted, _ = report_at(lab, ops.SHANGHAI, now)
        assert ops.succeeded(lab, call)
        found = ops.reports(lab)
        seen = ops.document(found.get(name))
        said = {"name": name, "wanted": wanted, "seen": seen if seen is not None else list(found)}
        assert lab.fact(ops.same(seen, wanted), "report_file", **said)


@check(after=test_report_file)
def test_report_atomic(lab):
    """When the disk is full, the old report stays whole and no draft is left."""
    now = ops.drawn_day(lab, ops.SHANGHAI, 7, lab.rng.randint(2, 28), 8, 0)
    report_at(lab, ops.SHANGHAI, now)
    before = ops.reports(lab)

    with ops.stage(lab, now=now, room=40):
        call = lab.send("generate_daily_report", within=PATIENT)
        put_off = tried(lab, call)
    after = ops.reports(lab)
    changed = read_meanwhile(lab, now, before)

    assert put_off or call == answers()
    for name, data in before.items():
        said = {"name": name, "size": len(data), "seen": len(after.get(name, b""))}
        assert lab.fact(after.get(name) == data, "report_whole", **said), hint("written_in_place")
    drafts = sorted(set(after) - set(before))
    assert lab.fact(not drafts, "report_draft", seen=drafts), hint("draft")
    # A draft that is copied over the report breaks it as well, where the disk is full by then.
    assert lab.fact(not changed, "report_read", name=changed), hint("written_in_place")


def tried(lab, call):
    """Wait until a call has ended, or has been put off to be tried again; return whether it was."""

    def state():
        return lab.publisher.state(call.id)

    if not lab.until(lambda: state() in ENDED, within=PATIENT):
        lab.finish([call])
    lab.publisher.fetch([call])
    return state() == "RETRY"


def read_meanwhile(lab, now, before):
    """Have the report replaced under a reader; return the name of a file that changed for him."""
    folder = lab.data / "reports"
    with contextlib.ExitStack() as stack:
        files = {name: stack.enter_context(opened(folder / name)) for name in before}
        report_at(lab, ops.SHANGHAI, now)
        texts = {name: file.read(LARGEST) for name, file in files.items() if file}
        return next((name for name, text in texts.items() if text != before[name]), "")


# ---------------------------------------------------------------------------- the week's summary


def week_data(lab, tz, monday):
    """Draw two weeks of activity up to the Sunday after `monday`, and some rows on both sides.

    Returns:
        activity rows (user, feature, instant), users' instants, and the week's start and end.
    """
    rng = lab.rng
    at = [ops.local(tz, *(monday + ops.DAY * days).timetuple()[:3]) for days in (-7, 0, 7)]
    before, start, end = at
    rows = []
    # Whom the edges belong to decides: each of these users is seen nowhere else.
    for user, instant in enumerate(
        (
            before - ops.SECOND,
            before,
            start - ops.SECOND,
            start,
            end - ops.SECOND,
            end,
            end + ops.MINUTE,
        ),
        101,
    ):
        rows.append((user, rng.choice(ops.FEATURES), instant))
    for week in (before, start, end):
        for _ in range(rng.randint(15, 25)):
            minute = rng.randint(0, 7 * 24 * 60 - 120)
            rows.append((rng.randint(1, 12), rng.choice(ops.FEATURES), week + ops.MINUTE * minute))
    # A busy time early on a local morning: by UTC, it is another day and another hour.
    day, hour = rng.randint(1, 6), rng.randint(1, 6)
    busy = ops.local(tz, *(monday + ops.DAY * day).timetuple()[:3], hour, 5)
    rows += [(rng.randint(1, 2), ops.FEATURES[day % 4], busy + ops.MINUTE * n) for n in range(45)]
    # Another hour of another day has more users, in fewer rows.
    crowd = ops.local(tz, *(monday + ops.DAY * (day - 1)).timetuple()[:3], hour + 10, 5)
    rows += [(user, rng.choice(ops.FEATURES), crowd + ops.MINUTE * user) for user in range(21, 33)]
    users = [at + ops.SECOND * n for at in (before, start, end) for n in (-2, -1, 0, 1, 1)]
    return rows, users, start, end


def figures_of_week(tz, monday, rows, users):
    """Count what the summary of the week from that Monday on tells, by a zone's clock."""
    before, start, end = (
        ops.local(tz, *(monday + ops.DAY * days).timetuple()[:3]) for days in (-7, 0, 7)
    )
    seen = {row[0] for row in rows if start <= row[2] < end}
    old = {row[0] for row in rows if before <= row[2] < start}
    return {
        "week_start": monday.date().isoformat(),
        "active_users": len(seen),
        "new_users": sum(start <= at < end for at in users),
        "retention": len(seen & old) / len(old) if old else 0.0,
    }


def by_utc_clock(now, rows, users):
    """Return these figures for the last week that is over by UTC."""
    today = now.replace(hour=0, minute=0, second=0, tzinfo=None)
    monday = today - ops.DAY * (7 + today.weekday())
    return figures_of_week(ZoneInfo("UTC"), monday, rows, users)


def compare_summary(lab, tz, now, monday, mistake="default", known=True):
    """Draw data, ask for the summary, and compare it figure by figure.

    Args:
        known: whether anybody was active in the week before.
    """
    rows, users, start, end = week_data(lab, tz, monday)
    rows = [row for row in rows if known or row[2] >= start]
    rng = lab.rng
    ops.database(
        lab,
        activity=[(user, feature, ops.written(rng, at), 1.5) for user, feature, at in rows],
        users=ops.times(lab, users),
    )

    with ops.stage(lab, now=now):
        call = lab.call("summarize_user_activity")

    assert ops.succeeded(lab, call)
    answer, by_utc = ops.result(call), by_utc_clock(now, rows, users)
    for what, value in figures_of_week(tz, monday, rows, users).items():
        found = answer.get(what)
        utc = what == "week_start" or ops.same(found, by_utc[what])
        named = "default" if mistake == "which_week" and not utc else mistake
        assert ops.is_value(lab, call, what, found, value, now), hint(named)
    week = [row for row in rows if start <= row[2] < end]
    compare_features(lab, call, Counter(row[1] for row in week), now)
    compare_busiest(lab, call, tz, [row[2] for row in week], now)


def busiest(instants, tz):
    """Return the weekdays and the hours with the most rows, by a zone's clock."""
    clock = [at.astimezone(tz) for at in instants]
    for what, key in (("busiest_day", "{:%A}".format), ("busiest_hour", lambda at: at.hour)):
        counts = Counter(key(at) for at in clock)
        yield what, [one for one, count in counts.items() if count == max(counts.values())]


def compare_busiest(lab, call, tz, instants, now):
    """The busiest day and the busiest hour; any of the tied will do."""
    by_utc = dict(busiest(instants, UTC))
    for what, best in busiest(instants, tz):
        seen = ops.result(call).get(what)
        said = {"what": what, "wanted": " / ".join(map(str, best)), "seen": repr(seen)}
        right = seen in best and not isinstance(seen, bool)
        named = "by_utc" if seen in by_utc[what] else "default"
        assert lab.fact(right, "value", call=call, now=now.isoformat(), **said), hint(named)


def compare_features(lab, call, counts, now):
    """The features are listed with their rows, the most used first; how many is left open."""
    listed = ops.result(call).get("top_features")
    rows = listed if isinstance(listed, list) else []
    seen = [(r.get("feature"), r.get("usage")) for r in rows if isinstance(r, dict)]
    seen = [row for row in seen if isinstance(row[0], str)]
    best = sorted(counts.values(), reverse=True)[: len(seen)]
    right = seen and all(counts.get(name) == usage for name, usage in seen)
    right = right and [usage for _, usage in seen] == best and len(dict(seen)) == len(seen)
    said = {"what": "top_features", "wanted": counts.most_common(), "seen": repr(listed)[:200]}
    assert lab.fact(right, "value", call=call, now=now.isoformat(), **said)


@check
def test_weekly_summary(lab):
    """summarize_user_activity tells of the last full local week, Monday to Sunday."""
    assert ops.registered(lab, "summarize_user_activity"), hint("named")
    start = datetime(lab.rng.randint(2027, 2031), lab.rng.randint(1, 12), 1)
    monday = start + ops.DAY * (7 - start.weekday())
    # On a Monday at one in the morning, where beat asks for it, and late on a Sunday.
    # The second time nobody was there the week before.
    for days, hour, known in ((7, 1, True), (13, 23, False)):
        now = ops.local(ops.SHANGHAI, *(monday + ops.DAY * days).timetuple()[:3], hour)
        compare_summary(lab, ops.SHANGHAI, now, monday, "which_week", known)


@check(after=(test_report_of_yesterday, test_weekly_summary))
def test_another_zone(lab):
    """With CELERY_TIMEZONE=Europe/Berlin report and summary follow its clock, a cutoff does not."""
    year = lab.rng.randint(2027, 2032)
    with ops.zone(lab, "Europe/Berlin"):
        for change in timetable.changes(ops.BERLIN, year):
            sunday = change.astimezone(ops.BERLIN).replace(tzinfo=None, hour=0, minute=0)
            for days in (0, 1, 2):
                now = ops.local(ops.BERLIN, *(sunday + ops.DAY * days).timetuple()[:3], 8, 0)
                call, wanted, _ = report_at(lab, ops.BERLIN, now)
                compare_report(lab, call, wanted, now, "zone")
            now = ops.local(ops.BERLIN, *(sunday + ops.DAY).timetuple()[:3], 1, 0)
            compare_summary(lab, ops.BERLIN, now, sunday - ops.DAY * 6, "zone")
            assert_cutoff_in_hours(lab, sunday)


def assert_cutoff_in_hours(lab, sunday):
    """Thirty days before now are 720 hours, also where the wall clock was changed meanwhile.

    Whatever else may be wrong with the cleanup is judged by the checks of the cleanup.
    """
    days = lab.rng.randint(3, 20)
    now = ops.local(ops.BERLIN, *(sunday + ops.DAY * days).timetuple()[:3], 12, 0)
    cutoff = now - ops.DAY * 30
    wall = (now.astimezone(ops.BERLIN) - ops.DAY * 30).astimezone(UTC)
    near = [at + ops.MINUTE * n for at in (cutoff, wall) for n in (-90, -1, 1, 90)]
    near = lab.rng.sample(near, len(near))
    ops.database(lab, **dict.fromkeys(ops.EXPENDABLE, ops.times(lab, near)))
    with ops.stage(lab, now=now, moves=False):
        call = lab.call("cleanup_old_data", 30)
    seen = [ops.kept(lab, table) for table in ops.EXPENDABLE]
    by_the_wall = {number for number, at in enumerate(near, 1) if at >= wall}
    said = {"call": call, "now": now.isoformat(), "cutoff": cutoff.isoformat()}
    wrong = all(ids == by_the_wall for ids in seen)
    assert lab.fact(not wrong, "hours", seen=wall.isoformat(), **said), hint("hours")

"""What beat sends when: a simulated fortnight in each of three zones, and a stop in the night.

The submission's own `celery beat` runs, with its own scheduler, in a time of the lab's (see
grader/simulation.py). When it sends what is held against grader/timetable.py.
"""

from __future__ import annotations

import itertools
import random
import signal
import statistics
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from grader.check import check, hint
from grader.simulation import Simulation
from grader.timetable import Wall, changes, compare

ZONES = ("Asia/Shanghai", "Europe/Berlin", "America/New_York")
MODULE = "scheduled_tasks."
CLEANUP, REPORT, HEALTH, SUMMARY, REFRESH = (
    MODULE + name
    for name in (
        "cleanup_old_data",
        "generate_daily_report",
        "system_health_check",
        "summarize_user_activity",
        "refresh_cache",
    )
)
QUARTERS = (0, 15, 30, 45)
DAILY = {CLEANUP: Wall(hours=(2,)), REPORT: Wall(hours=(8,))}
MONDAYS = Wall(hours=(1,), weekdays=(0,))
WALLS = {**DAILY, SUMMARY: MONDAYS, REFRESH: Wall(minutes=QUARTERS)}
PERIODS = {CLEANUP: 86400, REPORT: 86400, HEALTH: 300, SUMMARY: 7 * 86400, REFRESH: 900}
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
# Beat does one thing after the other, and may look for news only every five seconds.
LATE = 15.0
# When beat begins it may catch up; the first quarter of an hour is not judged.
SETTLED = timedelta(minutes=16)
# Of no round number: an interval that counts from here never meets a quarter.
OFF = timedelta(minutes=7, seconds=33)
# Long enough for two health checks, however the first one lies.
EACH = timedelta(minutes=11)
LANE = "schedule"
CUSTOM = 36_500  # days_to_keep of the entries that the lab adds: nothing is as old as that


class Zone:
    """The simulated days of one zone: `legs` are pairs of instants."""

    def __init__(self, lab, name):
        self.name, self.tz = name, ZoneInfo(name)
        draw = random.Random(f"{lab.seed} {name}")
        year = draw.randint(2027, 2032)
        if moved := changes(self.tz, year):
            # From the Thursday before the change to the Thursday after it.
            self.changed = [at.astimezone(self.tz).date() for at in moved]
            first = [(day - DAY * 3, day + DAY * 4) for day in self.changed]
        else:
            self.changed = []
            begin = datetime(year, draw.randint(1, 12), draw.randint(18, 28)).date()
            first = [(begin, begin + DAY * 14)]
        self.legs = [(self.noon(a), self.noon(b)) for a, b in first]
        # The lab's own entries, each told by its argument.
        self.customs = dict(enumerate(custom(name, first[0][0] + DAY * 2), CUSTOM))
        twin = lab.twin(self.tz.key.partition("/")[2].lower(), {"CELERY_TIMEZONE": name})
        legs = seconds(self.legs)
        # Six hours from each beginning, and the nights of the changes; all else is due on the hour.
        nights = [self.noon(day, 0) for day in self.changed or [first[0][0] + DAY * 8]]
        self.fine = [(at, at + HOUR * 6) for at in [a for a, _ in self.legs] + nights]
        # Who looks for news every few seconds would seem to check at the instants that count only.
        whole = [(self.legs[0][0] + HOUR, self.legs[0][0] + HOUR + EACH)]
        calls = [
            (MODULE + "schedule_custom_task", (CLEANUP, {"crontab": crontab}, [days]))
            for days, (crontab, _) in self.customs.items()
        ]
        self.simulation = Simulation(
            twin, legs, fine=seconds(self.fine), whole=seconds(whole), add=calls
        )
        lab.adopt_child(self.simulation.child)

    def noon(self, day, hour=12):
        """Return the instant, shortly after a local noon, at which a leg begins or ends."""
        noon = datetime(day.year, day.month, day.day, hour, tzinfo=self.tz)
        return noon.astimezone(UTC) + OFF

    def rows(self, task, custom=None):
        """Return what was sent of a task: of the given entry of the lab's, or of none of them."""
        rows = [row for row in self.simulation.sent if row.task == task]
        if custom is not None:
            return [row for row in rows if days_of(row) == custom]
        return [row for row in rows if task != CLEANUP or days_of(row) not in list(self.customs)]

    def sent(self, task, custom=None):
        """Return when a task was sent, as far as it is judged."""
        spans = seconds(self.judged(task))
        return [row.at for row in self.rows(task, custom) if any(a <= row.at < b for a, b in spans)]

    def judged(self, task):
        """Return the spans in which a task is judged, once beat has settled there."""
        spans = self.fine if task in (HEALTH, REFRESH) else self.legs
        return [(start + SETTLED, end) for start, end in spans]

    def due(self, task, wall, on_change):
        """Return what is due on the days of a change, or on all others."""
        found = [due for a, b in self.judged(task) for due in wall.due(self.tz, a, b)]
        return [due for due in found if self.on_change(due[0]) is on_change]

    def on_change(self, at):
        """Whether an instant is on a day at which the clock is changed."""
        return at.astimezone(self.tz).date() in self.changed

    def difference(self, task, wall, on_change=False, custom=None):
        """Compare when a task was sent with when it was due."""
        seen = [
            at
            for at in self.sent(task, custom)
            if self.on_change(datetime.fromtimestamp(at, UTC)) is on_change
        ]
        return compare(seen, self.due(task, wall, on_change), LATE)


def seconds(spans):
    """Return pairs of instants as pairs of epoch seconds."""
    return [(start.timestamp(), end.timestamp()) for start, end in spans]


def custom(name, day):
    """Return the crontabs of the lab's own entries, each with when it is due."""
    if name == "Asia/Shanghai":
        date = (f"0 6 {day.day} {day.month} *", Wall(hours=(6,), days=(day.day,)))
        return [date, ("0 5 * * 0,6", Wall(hours=(5,), weekdays=(5, 6)))]
    if name == "Europe/Berlin":
        # On the first afternoon, which is lived through minute by minute: no full hour.
        return [("25 15 * * 4", Wall(hours=(15,), minutes=(25,), weekdays=(3,)))]
    return [("0 6-7 * * 2-4", Wall(hours=(6, 7), weekdays=(1, 2, 3)))]


def days_of(row):
    """Return the days_to_keep that a cleanup was sent with, None for none."""
    if isinstance(row.kwargs, dict) and "days_to_keep" in row.kwargs:
        return row.kwargs["days_to_keep"]
    return row.args[0] if row.args else None


def zones(lab):
    """Return the three zones; all of them run at once."""
    return lab.once("zones", lambda: [Zone(lab, name) for name in ZONES])


def finished(lab):
    """Return the three zones when they are through."""
    stops(lab)  # so that they run beside the others
    for zone in zones(lab):
        zone.simulation.finish()
    return zones(lab)


def assert_due(zone, lab, task, wall, on_change=False, named=None):
    """Assert that a task was sent when it was due, and say what the first difference is."""
    found = zone.difference(task, wall, on_change)
    if found is None:
        return
    shown = found.at.astimezone(zone.tz)
    said = {
        "task": task.removeprefix(MODULE),
        "zone": zone.name,
        "at": f"{shown:%A %Y-%m-%d %H:%M %z}",
    }
    assert lab.fact(False, found.kind, **said), hint(mistake(zone, task, wall, named))


def mistake(zone, task, wall, named):
    """Name what may be behind a wrong time: the same wall clock, in UTC."""
    utc = [
        due for start, end in zone.legs for due in wall.due(ZoneInfo("UTC"), start + SETTLED, end)
    ]
    if task in DAILY and compare(zone.sent(task), utc, LATE) is None:
        return "utc"
    return named or "default"


@check(lane=LANE)
def test_sends_all_five(lab):
    """`celery -A scheduled_tasks beat` sends the five jobs, the cleanup with its argument 30."""
    for zone in finished(lab):
        seen = {row.task for row in zone.simulation.sent}
        missing = [task.removeprefix(MODULE) for task in PERIODS if task not in seen]
        said = {
            "zone": zone.name,
            "missing": ", ".join(missing),
            "seen": ", ".join(sorted(seen)) or "-",
        }
        assert lab.fact(not missing, "sends", log=words(zone), **said), hint("arguments")
        days = {repr(days_of(row)) for row in zone.rows(CLEANUP)}
        assert lab.fact(days == {"30"}, "argument", seen=", ".join(sorted(days)))
        conf = zone.simulation.conf
        assert lab.fact(conf.get("enable_utc") is True, "enable_utc", seen=conf.get("enable_utc"))


def words(zone):
    """Return what beat complained of, in a line."""
    lines = zone.simulation.child.output.text.splitlines()
    found = [line.strip() for line in lines if "rror" in line]
    return found[-1][:300] if found else "-"


@check(after=test_sends_all_five, lane=LANE)
def test_local_time(lab):
    """The cleanup is due daily at 02:00 and the report at 08:00, local, in whichever zone."""
    for zone in finished(lab):
        for task, wall in DAILY.items():
            assert_due(zone, lab, task, wall)


@check(after=test_local_time, lane=LANE)
def test_mondays(lab):
    """The activity summary is due on Mondays at 01:00, local."""
    for zone in finished(lab):
        sundays = Wall(hours=(1,), weekdays=(6,))
        named = "sunday" if zone.difference(SUMMARY, sundays) is None else None
        assert_due(zone, lab, SUMMARY, MONDAYS, named=named)


@check(after=test_sends_all_five, lane=LANE)
def test_every_300_seconds(lab):
    """The health check is sent every 300 seconds, also while a local hour is repeated."""
    for zone in finished(lab):
        for one, gap in wrong_gaps(zone):
            shown = datetime.fromtimestamp(one, zone.tz)
            said = {"zone": zone.name, "seen": round(gap), "at": f"{shown:%Y-%m-%d %H:%M:%S %z}"}
            named = "gap" if gap > 3000 else "often" if gap < 300 else "default"
            assert lab.fact(False, "gap", **said), hint(named)


def wrong_gaps(zone):
    """Yield from when on, and for how many seconds, health checks were too far or too close."""
    for start, end in seconds(zone.judged(HEALTH)):
        # Each may come late by as much as beat sleeps.
        marks = [start, *(at for at in zone.sent(HEALTH) if start <= at < end), end]
        for one, other in itertools.pairwise(marks):
            gap, inner = other - one, one != start and other != end
            if gap > 300 + LATE or (inner and gap < 300 - LATE):
                yield one, gap


@check(after=test_sends_all_five, lane=LANE)
def test_on_the_quarter(lab):
    """The caches are refreshed every 15 minutes, on the quarter."""
    for zone in finished(lab):
        sent = zone.sent(REFRESH)
        off = {round(at % 900) for at in sent if LATE < at % 900 < 899}
        named = "interval" if len(off) >= 1 and len(sent) > 60 else None
        assert_due(zone, lab, REFRESH, WALLS[REFRESH], named=named)


@check(after=(test_local_time, test_on_the_quarter), lane=LANE)
def test_daylight_saving(lab):
    """When the clock is changed nothing is lost: a missing time is made up for, once."""
    for zone in finished(lab):
        for task in (*DAILY, REFRESH):
            assert_due(zone, lab, task, WALLS[task], on_change=True)


@check(after=test_sends_all_five, lane=LANE)
def test_custom_crontab(lab):
    """An entry that schedule_custom_task added with a crontab fires at its local times."""
    for zone in finished(lab):
        for row in zone.simulation.added:
            crontabs = ", ".join(crontab for crontab, _ in zone.customs.values())
            said = {"crontab": crontabs, "seen": row.get("error") or row.get("value")}
            assert lab.fact("error" not in row, "added", **said)
        for days, (crontab, wall) in zone.customs.items():
            found = zone.difference(CLEANUP, wall, custom=days)
            at = found and found.at.astimezone(zone.tz)
            said = {"crontab": crontab, "zone": zone.name}
            said["at"] = f"{at:%A %Y-%m-%d %H:%M}" if at else ""
            assert lab.fact(found is None, f"crontab_{found.kind if found else 'missing'}", **said)


@check(after=test_sends_all_five, lane=LANE)
def test_expiry(lab):
    """Each of the five carries an expiry no longer than its period."""
    for zone in finished(lab):
        for task, period in PERIODS.items():
            # Half of them: what is sent just before a change may seem an hour longer.
            lives = [row.life for row in zone.rows(task)]
            life = None if None in lives else statistics.median(lives)
            said = {"task": task.removeprefix(MODULE), "wanted": period, "seen": life}
            good = life is not None and 0 < life <= period + 1
            assert lab.fact(good, "expiry", **said), hint("none" if life is None else "default")


# ---------------------------------------------------------------------------- stopped and started


class Stop:
    """A beat that lives from a Sunday evening to Monday, 01:02, and begins again at 05:20."""

    def __init__(self, lab, name, number, add=()):
        tz = ZoneInfo("Asia/Shanghai")
        draw = random.Random(f"{lab.seed} {name}")
        sunday = datetime(draw.randint(2027, 2032), draw.randint(1, 12), 1, tzinfo=tz)
        sunday += DAY * (6 - sunday.weekday())
        at = {
            "begin": sunday.replace(hour=22) + OFF,
            "end": sunday.replace(hour=1) + DAY + OFF / 3,
            "again": sunday.replace(hour=5, minute=20) + DAY + OFF / 9,
            "last": sunday.replace(hour=9, minute=5) + DAY,
        }
        self.name, self.tz, self.at = name, tz, {key: t.timestamp() for key, t in at.items()}
        self.twin = lab.twin(f"stop-{name.lower()}")
        self.lab, self.second = lab, None
        leg = (self.at["begin"], self.at["end"])
        self.first = Simulation(self.twin, [leg], add=add, end=number)
        lab.adopt_child(self.first.child)

    def again(self):
        """Start beat again, once the first one has ended and what was to be forgotten is."""
        if self.second is None:
            self.first.finish()
            self.twin.age(self.at["again"] - self.at["end"])
            leg = (self.at["again"], self.at["last"])
            self.second = Simulation(self.twin, [leg])
            self.lab.adopt_child(self.second.child)
        return self.second

    def sent(self, task):
        """Return when the second beat sent a task."""
        return [row.at for row in self.again().finish().sent if row.task == task]


def stops(lab):
    """Return the two beats that are ended, one asked to (SIGTERM), one killed."""
    return lab.once(
        "stops",
        lambda: [Stop(lab, s.name, int(s)) for s in (signal.SIGTERM, signal.SIGKILL)],
    )


@check(after=test_sends_all_five, lane=LANE)
def test_restart(lab):
    """Stopped or killed and started again, beat catches up at most once and misses nothing new."""
    for stop in stops(lab):
        stop.again()
    judged = on_time(lab)
    for stop in stops(lab):
        again, last = stop.at["again"], stop.at["last"]
        begin = datetime.fromtimestamp(again, UTC) + timedelta(seconds=60)
        end = datetime.fromtimestamp(last, UTC)
        for task in PERIODS:
            sent = stop.sent(task)
            caught = [at for at in sent if at < begin.timestamp()]
            said = {"task": task.removeprefix(MODULE), "how": stop.name, "seen": len(caught)}
            assert lab.fact(len(caught) <= 1, "caught_up", **said), hint("twice")
            rest = sent[len(caught) :]
            if task not in judged:
                continue
            if task == HEALTH:
                assert_no_gap(lab, stop, [again, *sent, last])
                continue
            found = compare(rest, WALLS[task].due(stop.tz, begin, end), LATE)
            at = found and found.at.astimezone(stop.tz)
            said = {
                "task": task.removeprefix(MODULE),
                "how": stop.name,
                "at": f"{at:%H:%M:%S}" if at else "",
            }
            assert lab.fact(found is None, f"restart_{found.kind if found else 'missing'}", **said)


def on_time(lab):
    """Return the jobs that are on time where nobody stops beat, or all if none is.

    Who has lost points for a job's times is not told once more that it comes at the wrong ones.
    """
    wrong = {
        task: any(zone.difference(task, WALLS[task]) for zone in finished(lab)) for task in WALLS
    }
    wrong[HEALTH] = any(any(wrong_gaps(zone)) for zone in finished(lab))
    return [task for task in PERIODS if not wrong[task]] or list(PERIODS)


def assert_no_gap(lab, stop, marks):
    """After its start, beat goes on checking every 300 seconds."""
    for one, other in itertools.pairwise(marks):
        shown = f"{datetime.fromtimestamp(one, stop.tz):%H:%M:%S}"
        said = {"task": "system_health_check", "how": stop.name, "at": shown}
        assert lab.fact(other - one <= 300 + LATE, "restart_missing", **said)

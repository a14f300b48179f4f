"""Beat as a service: a real one, beside a real worker, whose entries come and go."""

from __future__ import annotations

import base64
import contextlib
import json
import math
from datetime import datetime
from zoneinfo import ZoneInfo

from grader import beat, ops
from grader.check import check, hint, named
from grader.errors import LabFault
from grader.expect import fails_with

MODULE = "scheduled_tasks."
CLEANUP, HEALTH = MODULE + "cleanup_old_data", MODULE + "system_health_check"
SUMMARY, REFRESH = MODULE + "summarize_user_activity", MODULE + "refresh_cache"
EXPIRY = named("expiry")  # in test_schedule.py
BOOT, PATIENT = 20.0, 30.0
# Five seconds until an entry is in force, one until it is due, and some for a busy machine.
PROMPT = 10
HAIL = "lab.ready"  # what the lab itself asks workers
CUSTOM = 30_000  # days_to_keep of the lab's own entries: nothing is as old as that


# ----------------------------------------------------------------------- entries that come and go


def arguments(message):
    """Return the positional arguments of a published message."""
    for text in (message.body, base64.b64decode(message.body + "==", validate=False)):
        with contextlib.suppress(ValueError, TypeError, IndexError, RecursionError):
            return list(json.loads(text)[0])
    return []


def fired(lab, days):
    """Return how often the lab's entry with this argument (None: with none) was published."""
    wanted = [] if days is None else [days]
    return sum(m.task == CLEANUP and arguments(m) == wanted for m in lab.history.messages)


def waited(lab, since, days, neighbour):
    """Return how often its neighbour fired before an entry that was added after `since` messages.

    The neighbour is due every second: that is a clock by which a busy machine is no later.
    """
    told = [arguments(m) for m in lab.history.messages[since:] if m.task == CLEANUP]
    return told[: told.index([days])].count([neighbour])


class Service:
    """A real beat in the lab's own place, and the entries that were added to it."""

    def __init__(self, lab):
        self.lab, self.names = lab, {}
        first = CUSTOM + lab.rng.randint(1, 999) * 3
        self.one, self.two = first, first + 1
        self.start()

    def start(self):
        """Start beat and wait until it has nothing to do but wait."""
        self.child = self.lab.adopt_child(beat.start(self.lab.place))
        self.lab.until(lambda: "Starting..." in self.child.output.text, within=BOOT)
        resting = beat.idle(self.child)
        self.lab.until(lambda: resting() or not self.child.alive, within=BOOT)
        self.standing()

    def standing(self):
        """Raise where beat has ended by itself."""
        if not self.child.alive:
            raise beat.death(self.child)

    def wait(self, days, more, within=PATIENT):
        """Wait until an entry was published some more times; return whether it was."""
        start = fired(self.lab, days)

        def enough():
            self.standing()
            return fired(self.lab, days) >= start + more

        return self.lab.until(enough, within=within)


def service(lab):
    """Return the lab's beat."""
    return lab.once("service", lambda: Service(lab))


def added(lab, call):
    """Return the name that an addition answered with."""
    answer = call.reply.result if call.reply and call.reply.succeeded else None
    row = answer if isinstance(answer, dict) else {}
    seen = ops.describe(call)
    good = isinstance(row.get("name"), str) and {"task", "schedule"} <= set(row)
    assert lab.fact(good, "added_answer", seen=seen)
    assert lab.fact(row["task"] == CLEANUP, "added_answer", seen=seen)
    return row["name"]


@check(lane="service")
def test_dynamic_add(lab):
    """schedule_custom_task adds entries to the running beat, the same task twice if asked to."""
    found = ops.registered(lab, "schedule_custom_task", "unschedule_custom_task")
    assert found, hint("named")
    here = service(lab)
    with lab.tapped():
        for days in (here.one, here.two):
            call = lab.call("schedule_custom_task", CLEANUP, {"every": 1}, [days], within=15)
            here.names[days], since = added(lab, call), len(lab.history.messages)
            seen = here.wait(days, more=2)
            said = {"days": f"[{days}]", "seen": fired(lab, days)}
            assert lab.fact(seen, "added_fires", **said), hint("not_read_again")
            ticks = waited(lab, since, days, here.one)
            assert lab.fact(ticks <= PROMPT, "added_late", seen=ticks), hint("not_read_again")
        call = lab.call("schedule_custom_task", CLEANUP, {"every": 1}, within=15)
        added(lab, call)
        seen = here.wait(None, more=1)
        assert lab.fact(seen, "added_fires", days="[]", seen=fired(lab, None)), hint("no_arguments")
        assert lab.fact(here.wait(here.one, more=1), "added_stays", days=here.one), hint("replaced")
        same = [("schedule_custom_task", CLEANUP, {"every": 3600}, [CUSTOM]) for _ in "ab"]
        twins = [added(lab, call) for call in lab.calls(same, within=15)]
    names = sorted([*here.names.values(), *twins])
    assert lab.fact(len(set(names)) == 4, "names", seen=names)


@check(after=test_dynamic_add, lane="service")
def test_dynamic_refuses(lab):
    """An unregistered task or a malformed schedule is a ValueError, and disturbs no beat."""
    lines = ("0 2 * *", "0 2 * * * *", "99 * * * *", "0 24 * * *", "0 2 * 13 *", "a * * * *", "")
    lines += ("-5 2 * * *", "0 2 1,,5 * *")  # Celery's own error for these is no ValueError
    bad = [{}, None, *({"crontab": line} for line in lines)]
    bad += [{"every": value} for value in (0, -5, True, math.nan)]
    word = "".join(lab.rng.choices("bcdfghjk", k=6))
    rows = [("schedule_custom_task", CLEANUP, info, [CUSTOM]) for info in bad]
    rows.append(("schedule_custom_task", MODULE + word, {"every": 1}))
    rows.append(("unschedule_custom_task", word))

    for call in lab.calls(rows, within=15):
        mistake = "unregistered" if word in str(call.args[0]) else "malformed"
        assert call == fails_with("ValueError"), hint(mistake)

    here = service(lab)
    with lab.tapped():
        # What was refused, and kept all the same, would be in force by then.
        assert lab.fact(here.wait(here.one, more=7), "added_stays", days=here.one)
    sent = sorted({m.task for m in lab.history.messages if word in str(m.task)})
    assert lab.fact(not sent, "refused_fires", seen=", ".join(sent)), hint("kept")


@check(after=test_dynamic_add, lane="service")
def test_dynamic_remove(lab):
    """unschedule_custom_task removes one entry from the running beat, and no other."""
    here = service(lab)
    call = lab.call("unschedule_custom_task", here.names[here.two], within=15)
    ended = bool(call.reply and call.reply.succeeded)
    assert lab.fact(ended, "removed", seen=ops.describe(call))

    with lab.tapped():
        # Its neighbour fires every second: that is the clock by which the rest is judged.
        for more in (7, 3):
            before = fired(lab, here.two)
            stays = here.wait(here.one, more=more, within=2 * PATIENT)
            assert lab.fact(stays, "added_stays", days=here.one), hint("too_much")
        after = fired(lab, here.two)
    assert lab.fact(after == before, "removed_fires", seen=after - before), hint("not_removed")
    again = lab.call("unschedule_custom_task", here.names[here.two], within=15)
    assert again == fails_with("ValueError"), hint("twice")


@check(after=test_dynamic_remove, lane="service")
def test_dynamic_survives(lab):
    """What was added and removed stays so when beat and worker were killed and started again."""
    here = service(lab)
    here.child.end()
    lab.restart_worker()
    before = fired(lab, here.two)
    with lab.tapped():
        here.start()
        found = here.wait(here.one, more=3)
        assert lab.fact(found, "survives", days=here.one, seen=fired(lab, here.one)), hint("lost")
    again = fired(lab, here.two) - before
    assert lab.fact(again == 0, "removed_fires", seen=again), hint("back_again")
    call = lab.call("unschedule_custom_task", here.names[here.one], within=15)
    known = bool(call.reply and call.reply.succeeded)
    assert lab.fact(known, "removed", seen=ops.describe(call)), hint("forgotten")


# ------------------------------------------------------------------------------ a Monday at one


class Monday:
    """A real beat that begins on a Monday at 00:45, sixty times as fast as the clock.

    With faketime it is the unmodified program; without, its sleeps are shortened. The worker stands
    still meanwhile. The date is long ago: what has an expiry is expired when the worker goes on.
    """

    def __init__(self, lab):
        urls = {
            "CELERY_BROKER_URL": lab.space.student_broker,
            "CELERY_RESULT_BACKEND": lab.space.student_backend,
        }
        place = lab.twin("monday", urls).place
        begin = datetime(2024, 3, 4, 0, 45, tzinfo=ZoneInfo("Asia/Shanghai")).timestamp()
        self.how = "faketime" if beat.faketime() else "simulation x60"
        before = len(lab.history.messages)
        with lab.tapped(), lab.frozen():
            if beat.faketime():
                self.child = lab.adopt_child(beat.start(place, faked=begin))
            else:
                leg = (begin, begin + 3600)
                self.child = beat.Simulation(place, [leg], pace=60, publish=True).child
                lab.adopt_child(self.child)
            lab.until(lambda: self.over(lab.history.messages[before:]), within=45)
            log = self.child.output.text
        self.messages = lab.history.messages[before:]
        if not self.child.alive:
            raise beat.death(self.child)
        self.child.end()
        if not self.seen >= {SUMMARY} and "LocalTime -> 2024-03-03 16" not in log:
            raise LabFault("beat_slow", seconds="15")  # it was up too late for one o'clock

    def over(self, messages):
        """Whether everything that is due by then was seen, or nothing more will come."""
        return {HEALTH, SUMMARY, REFRESH} <= {m.task for m in messages} or not self.child.alive

    @property
    def seen(self):
        """The names of the tasks that were published."""
        return {message.task for message in self.messages}


def monday(lab):
    """Return that Monday."""
    return lab.once("monday", lambda: Monday(lab))


@check(lane="clock")
def test_fires_for_real(lab):
    """A real beat publishes what is due at the broker: a Monday at one, sixty times as fast."""
    run = monday(lab)
    missing = [t.removeprefix(MODULE) for t in (HEALTH, SUMMARY, REFRESH) if t not in run.seen]
    seen = ", ".join(sorted(run.seen - {HAIL})) or "-"
    said = {"missing": ", ".join(missing), "seen": seen, "how": run.how}
    assert lab.fact(not missing, "published", **said)


@check(after=(test_fires_for_real, EXPIRY), lane="clock")
def test_expired_not_run(lab):
    """What expired while no worker ran is not executed when one is back."""
    run = monday(lab)
    lab.await_worker(lab.worker)
    jobs = [m for m in run.messages if m.task in (HEALTH, SUMMARY, REFRESH)]
    calls = [lab.adopt(m.id, m.task.removeprefix(MODULE)) for m in jobs]
    lab.until(lambda: not lab.publisher.fetch(calls))
    ran = [str(c) for c in calls if c.reply and (c.reply.succeeded or c.reply.failed)]
    with lab.redis["ops"].client() as client:
        ran += [key.decode() for key in client.keys("cache:*")]
    assert lab.fact(not ran, "ran_expired", seen=ran[:5])


@check(after=test_fires_for_real, lane="clock")
def test_recovers(lab):
    """A beat that is started while its Redis is down does its work once Redis is back."""
    twin = lab.twin("recovers")
    for server in twin.servers.values():
        server.down(hard=True)
    begin = datetime(2024, 3, 4, 12, 0, tzinfo=ZoneInfo("Asia/Shanghai")).timestamp()
    # The health check is due every second.
    run = beat.Simulation(twin.place, [(begin, begin + 86400)], pace=300)
    lab.adopt_child(run.child)
    try:
        lab.until(lambda: run.conf or not run.child.alive, within=BOOT)
        lab.until(lambda: not run.child.alive, within=3)
    finally:
        for server in twin.servers.values():
            server.up()
    before = len(run.sent)
    lab.until(lambda: len(run.sent) > before + 2 or not run.child.alive, within=PATIENT)
    log = run.child.output.text.strip().splitlines()[-1:]
    said = {"seen": len(run.sent) - before, "alive": run.child.alive, "log": log}
    good = run.child.alive and len(run.sent) > before + 2
    run.child.end()
    assert lab.fact(good, "recovers", **said), hint("died" if not said["alive"] else "default")

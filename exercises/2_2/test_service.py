"""Beat as a service: a real one, beside a real worker, whose entries come and go."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import math
from datetime import datetime
from zoneinfo import ZoneInfo

from grader import beat, ops
from grader.check import check, hint
from grader.expect import fails_with
from grader.simulation import Simulation

MODULE = "scheduled_tasks."
CLEANUP, ADD = MODULE + "cleanup_old_data", MODULE + "schedule_custom_task"
BOOT, PATIENT = 20.0, 30.0
# Five seconds until an entry is in force, one until it is due, and some for a busy machine.
PROMPT = 10
# Beat does one thing after the other, and may look for news only every five seconds.
LATE, MINUTE = 15.0, 60.0
SELDOM = 600.5
CUSTOM = 30_000  # days_to_keep of the lab's own entries: nothing is as old as that


# ----------------------------------------------------------------------- entries that come and go


def arguments(message):
    """Return the positional arguments of a published message."""
    # As it is on RabbitMQ, and on Redis.
    for read in (str, lambda body: base64.b64decode(body + "==", validate=False)):
        with contextlib.suppress(ValueError, TypeError, LookupError, RecursionError):
            return list(json.loads(read(message.body))[0])
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
    quiet(lab)  # so that it runs meanwhile
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


class Quiet:
    """A beat in a time of the lab's (grader/simulation.py) that has nothing to do but wait.

    Then two entries are added to it: one of every second, and one of a period that is no whole
    number.
    """

    def __init__(self, lab):
        noon = datetime(lab.rng.randint(2027, 2032), 5, 5, 12, 1, tzinfo=ZoneInfo("Asia/Shanghai"))
        self.begin = noon.timestamp()
        leg, whole = (self.begin, self.begin + 3000), (self.begin, self.begin + MINUTE)
        self.often, self.seldom = CUSTOM, CUSTOM + 1
        infos = {self.often: 1, self.seldom: SELDOM}
        calls = [(ADD, (CLEANUP, {"every": every}, [days])) for days, every in infos.items()]
        self.beat = Simulation(
            lab.twin("quiet"), [leg], whole=[whole], add=calls, periods=(300, SELDOM)
        )
        lab.adopt_child(self.beat.child)

    def sent(self, days):
        """Return when an entry was sent."""
        rows = self.beat.finish().sent
        return [row.at for row in rows if row.task == CLEANUP and list(row.args) == [days]]


def quiet(lab):
    """Return the lab's quiet beat."""
    return lab.once("quiet", lambda: Quiet(lab))


@check(after=test_dynamic_add, lane="service")
def test_dynamic_interval(lab):
    """An interval given to a quiet beat is in force within 5 seconds, and keeps its seconds."""
    here = quiet(lab)
    often, seldom = here.sent(here.often), here.sent(here.seldom)
    for row in here.beat.added:
        assert lab.fact("error" not in row, "interval_taken", every=SELDOM, seen=row.get("error"))
    assert lab.fact(here.beat.added, "interval_taken", every=SELDOM, seen="-")
    since = here.beat.added[0]["at"]
    waited = round(often[0] - since, 1) if often else "-"
    prompt = bool(often) and often[0] <= since + PROMPT
    assert lab.fact(prompt, "interval_prompt", seen=waited), hint("not_read_again")
    # A beat that looks around every other second is still one of every second.
    span = here.begin + MINUTE - often[0]
    seen = sum(at < here.begin + MINUTE for at in often)
    said = {"every": 1, "seen": round(span / seen, 1)}
    assert lab.fact(span / 2.2 <= seen <= span * 1.5 + 2, "interval", **said), hint("seconds")
    gaps = [other - one for one, other in itertools.pairwise(seldom)]
    odd = next((gap for gap in gaps if abs(gap - SELDOM) > LATE), None)
    said = {"every": SELDOM, "seen": "-" if odd is None else round(odd, 1)}
    assert lab.fact(len(gaps) >= 2 and odd is None, "interval", **said), hint("seconds")


@check(after=test_dynamic_add, lane="service")
def test_dynamic_refuses(lab):
    """An unregistered task or a malformed schedule is a ValueError, and disturbs no beat."""
    lines = ("0 2 * *", "0 2 * * * *", "99 * * * *", "0 24 * * *", "0 2 * 13 *", "a * * * *", "")
    lines += ("-5 2 * * *", "0 2 1,,5 * *")  # Celery's own error for these is no ValueError
    bad = [{}, None, [], *({"crontab": line} for line in (*lines, None, 5))]
    bad += [{"every": value} for value in (0, -5, True, math.nan, None, [1])]
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

"""The extension challenges of exercise 2_2: two beats, a sign of life, missed runs, the sun."""

from __future__ import annotations

import base64
import contextlib
import json
import math
import random
import signal
import time
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from grader import beat, ops, sun
from grader.check import check, hint, named
from grader.expect import fails_with
from grader.extras import need
from grader.simulation import Simulation

MODULE = "scheduled_tasks."
CLEANUP = MODULE + "cleanup_old_data"
ADD = MODULE + "schedule_custom_task"
DYNAMIC, RESTART = named("dynamic_add"), named("restart")  # in the other files
BOOT, PATIENT, DEAD, PAUSE = 20.0, 30.0, 75.0, 1.5
SOON = 12.0
CUSTOM = 31_000
SOLAR, NEAR = CUSTOM + 10, 300.0


def arguments(message):
    """Return the positional arguments of a published message."""
    # As it is on RabbitMQ, and on Redis.
    for read in (str, lambda body: base64.b64decode(body + "==", validate=False)):
        with contextlib.suppress(ValueError, TypeError, IndexError, RecursionError):
            return list(json.loads(read(message.body))[0])
    return []


class Pair:
    """Two beats in folders of their own, with the same servers, and an entry for each second."""

    def __init__(self, lab):
        self.lab, self.days = lab, CUSTOM + lab.rng.randint(1, 999)
        same = {**lab.space.environment, **lab.resources.environment}
        self.places = [lab.place, lab.twin("pair", same).place]
        self.beats = [self.start(place) for place in self.places]
        self.await_rest()
        call = lab.call("schedule_custom_task", CLEANUP, {"every": 1}, [self.days], within=15)
        self.answer = ops.describe(call)

    def start(self, place):
        """Start one beat."""
        return self.lab.adopt_child(beat.start(place))

    def await_rest(self):
        """Wait until both have nothing to do but wait."""
        for child in self.beats:
            self.lab.until(lambda c=child: "Starting..." in c.output.text, within=BOOT)
            self.lab.until(beat.idle(child), within=BOOT)

    def fired(self):
        """Return when the entry was published, as far as it was seen."""
        seen = self.lab.history.messages
        return [m.at for m in seen if m.task == CLEANUP and arguments(m) == [self.days]]

    def wait(self, more, within=PATIENT):
        """Wait until it was published some more times; return the times since then."""
        start = len(self.fired())
        self.lab.until(lambda: len(self.fired()) >= start + more, within=within)
        return self.fired()[start:]

    def kill(self, number):
        """Kill one of the beats."""
        self.beats[number].end()

    def renew(self, number):
        """Start one of the beats again."""
        self.beats[number] = self.start(self.places[number])
        self.await_rest()


def pair(lab):
    """Return the lab's two beats."""
    return lab.once("pair", lambda: Pair(lab))


@check(after=DYNAMIC, lane="pair")
def test_two_beats(lab):
    """Challenge 1: while two beats run at once, every entry fires once."""
    with lab.tapped():
        both = pair(lab)
        both.wait(2)
        # Two beats that do not know of each other send twice as many. A tap that is late once makes
        # a stretch look short; a second, longer one tells.
        for count in (9, 18):
            times = both.wait(count, within=PATIENT + 2 * count)[:count]
            assert lab.fact(len(times) == count, "pair_fires", seen=len(times), answer=both.answer)
            span = times[-1] - times[0]
            if span >= (count - 1) * 0.7:
                return
    said = {"seconds": round(span, 1), "seen": count}
    assert lab.fact(False, "pair_once", **said), hint("twice")


@check(after=test_two_beats, lane="pair")
def test_one_goes_on(lab):
    """Challenge 1: when one of two beats is killed, the other one goes on."""
    both = pair(lab)
    with lab.tapped():
        for number in (0, 1):
            both.kill(number)
            # One may have been on its way; the other one has thirty seconds, and some to send it.
            seen = both.wait(2, within=PATIENT + 5)
            said = {"which": number + 1, "seen": len(seen)}
            assert lab.fact(len(seen) >= 2, "goes_on", **said)
            both.renew(number)


def alive(lab):
    """Return the exit status of `python -m scheduled_tasks alive` and its last line."""
    child = lab.start_program("-m", "scheduled_tasks", "alive")
    lab.until(lambda: not child.alive, within=PATIENT)
    status = child.exit_code
    child.end()
    return status, (child.output.finish().strip().splitlines() or ["-"])[-1][:200]


def wear_off(lab):
    """Let most of a minute pass for the keys in the lab's Redis, and wait for what beat does then.

    None is forgotten at once: a beat that holds a key looks after it every few seconds.
    """
    with lab.redis["ops"].client() as client:
        left = {key: client.pttl(key) for key in client.scan_iter(count=1000)}
        short = [key for key, ms in left.items() if SOON * 1000 < ms <= 60_000]
        for key in short:
            client.pexpire(key, int(SOON * 1000))

        def settled():
            now = [client.pttl(key) for key in short]
            return all(ms < 0 or ms > SOON * 1000 for ms in now)

        lab.until(settled, within=2 * SOON)


@check(after=DYNAMIC, lane="clock")
def test_heartbeat(lab):
    """Challenge 2: `python -m scheduled_tasks alive` says whether a beat lives."""
    said = [alive(lab)]
    assert lab.fact(said[0][0] != 0, "never_lived", seen=said[0])
    child = lab.adopt_child(beat.start(lab.place))

    def says(status):
        said.append(alive(lab))
        return said[-1][0] == status

    lab.until(lambda: says(0), within=BOOT)
    assert lab.fact(said[-1][0] == 0, "alive", seen=said[-1]), hint("alive")
    asked = [time.monotonic()]

    def says_by_and_by(status):
        if time.monotonic() < asked[-1] + PAUSE:
            return False  # each question takes a processor for a second
        asked.append(time.monotonic())
        return says(status)

    wear_off(lab)
    lab.until(lambda: says_by_and_by(0), within=PATIENT + SOON)
    assert lab.fact(said[-1][0] == 0, "still_alive", seen=said[-1]), hint("still_alive")
    child.end()
    lab.until(lambda: says_by_and_by(1), within=DEAD)
    assert lab.fact(said[-1][0] == 1, "dead", seen=said[-1]), hint("dead")


@check(after=RESTART, lane="schedule")
def test_missed_runs(lab):
    """Challenge 3: an entry's policy says whether a missed run is made up for."""
    draw = random.Random(f"{lab.seed} missed")
    tz = ZoneInfo("Asia/Shanghai")
    evening = datetime(draw.randint(2027, 2032), draw.randint(1, 12), 3, 22, 7, 33, tzinfo=tz)
    morning = evening + timedelta(hours=7)
    rows = {CUSTOM: "run_once", CUSTOM + 1: "skip", CUSTOM + 2: None}
    calls = []
    for days, policy in rows.items():
        info = {"crontab": "0 2,6 * * *", **({"missed": policy} if policy else {})}
        calls.append((ADD, (CLEANUP, info, [days])))
    twin = lab.twin("missed")
    end = evening + timedelta(minutes=30)
    leg = (evening.timestamp(), end.timestamp())
    first = Simulation(twin, [leg], fine=[], add=calls, end=int(signal.SIGTERM))
    lab.adopt_child(first.child)
    first.finish()
    for row in first.added:
        assert lab.fact("error" not in row, "policy_taken", seen=row.get("error"))
    twin.age((morning - end).total_seconds())
    leg = (morning.timestamp(), (morning + timedelta(hours=2)).timestamp())
    second = Simulation(twin, [leg], fine=[])
    lab.adopt_child(second.child)
    second.finish()

    for days, policy in rows.items():
        sent = [row.at for row in second.sent if row.task == CLEANUP and list(row.args) == [days]]
        caught = sum(at < morning.timestamp() + 60 for at in sent)
        wanted = 0 if policy == "skip" else 1
        said = {"policy": policy or "-", "wanted": wanted, "seen": caught}
        assert lab.fact(caught == wanted, "policy", **said), hint("policy")
        said = {"policy": policy or "-", "seen": len(sent) - caught}
        assert lab.fact(len(sent) - caught == 1, "policy_later", **said), hint("later")


class Sky:
    """A beat that lives through three days with an entry for sunrise and one for sunset."""

    def __init__(self, lab):
        draw = random.Random(f"{lab.seed} solar")
        self.rows = {SOLAR + n: place(draw, event) for n, event in enumerate(("sunrise", "sunset"))}
        begin = datetime(draw.randint(2027, 2032), draw.randint(1, 12), 9, tzinfo=UTC)
        self.begin = begin + timedelta(minutes=draw.randint(1, 1400))
        self.end = self.begin + timedelta(days=3)
        leg = (self.begin.timestamp(), self.end.timestamp())
        # Beat is let look around every half minute near each event.
        events = [at.timestamp() for days in self.rows for at in self.due(days)]
        fine = [(at + 30 * n, at + 30 * (n + 1)) for at in events for n in range(-14, 14)]
        calls = [(ADD, (CLEANUP, info, [days])) for days, info in self.rows.items()]
        self.beat = Simulation(lab.twin("solar"), [leg], fine=fine, add=calls)
        lab.adopt_child(self.beat.child)

    def due(self, days):
        """Return when the sun rises, or sets, at an entry's place."""
        event, latitude, longitude = self.rows[days].values()
        return sun.events(event == "sunrise", latitude, longitude, self.begin, self.end)

    def sent(self, days):
        """Return when the entry was sent."""
        rows = self.beat.finish().sent
        return [row.at for row in rows if row.task == CLEANUP and list(row.args) == [days]]


def place(draw, event):
    """Draw a place on earth."""
    latitude, longitude = draw.uniform(-50, 50), draw.uniform(-179, 179)
    return {"solar": event, "latitude": round(latitude, 2), "longitude": round(longitude, 2)}


@check(after=DYNAMIC, lane="schedule")
def test_solar(lab):
    """Challenge 4: an entry may fire at the sunrise or the sunset of a place."""
    need("solar")
    sky = lab.once("sky", lambda: Sky(lab))
    good = next(iter(sky.rows.values()))
    bad = [{"solar": "noonrise"}, {"latitude": 90.5}, {"longitude": -181}, {"latitude": math.nan}]
    calls = [("schedule_custom_task", CLEANUP, {**good, **wrong}) for wrong in bad]

    for call in lab.calls(calls, within=15):
        assert call == fails_with("ValueError"), hint("refuses")

    sky.beat.finish()
    for row in sky.beat.added:
        said = {"info": list(sky.rows.values()), "seen": row.get("error")}
        assert lab.fact("error" not in row, "solar_taken", **said)
    for days, info in sky.rows.items():
        sent, due = sky.sent(days), [at.timestamp() for at in sky.due(days)]
        # What has only just been when beat begins, or is about to be when it ends, is not judged.
        sure = [at for at in due if sky.begin.timestamp() + 900 < at < sky.end.timestamp() - 900]
        for at in sure:
            times = sum(abs(each - at) <= NEAR for each in sent)
            said = {
                "info": info,
                "at": f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M}",
                "seen": times,
            }
            assert lab.fact(times == 1, "solar", **said)
        odd = [each for each in sent if min(abs(each - at) for at in due) > NEAR]
        odd = [each for each in odd if each > sky.begin.timestamp() + 900]
        at = f"{datetime.fromtimestamp(odd[0], UTC):%Y-%m-%d %H:%M}" if odd else ""
        assert lab.fact(not odd, "solar_extra", info=info, at=at)

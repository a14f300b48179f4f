"""grader/beat.py, twin.py and inside/stage.py: a beat in another time, and a stage for tasks."""

from __future__ import annotations

import json
import signal
from datetime import UTC, datetime, timedelta

import psutil
import pytest

from grader import beat
from grader.errors import LabFault, SubmissionFault
from grader.exercise import load
from grader.home import Home
from grader.lab import Lab
from grader.sandbox import best
from grader.simulation import Sending, Simulation
from grader.stack.provider import Stack
from grader.submission import Submission

WORK = """
import os, time
from datetime import datetime, timezone
import psutil
from celery import Celery
from celery.beat import PersistentScheduler
from celery.schedules import crontab

app = Celery("work")
app.conf.beat_schedule = {
    "often": {"task": "work.often", "schedule": 300.0, "options": {"expires": 60}},
    "daily": {"task": "work.daily", "schedule": crontab(hour=2, minute=0), "args": (7,)},
}
app.conf.beat_scheduler = os.environ.get("SCHEDULER", "celery.beat:PersistentScheduler")
app.conf.timezone = os.environ.get("ZONE", "UTC")


class Polling(PersistentScheduler):
    max_interval = 1


class Dying(PersistentScheduler):
    def setup_schedule(self):
        raise SystemExit("no memory")


@app.task
def daily(days):
    pass

@app.task
def often():
    with open("ran", "a") as file:
        file.write("x")

@app.task
def now():
    return time.time(), datetime.now(timezone.utc).timestamp()

@app.task
def readings(folder):
    return [psutil.disk_usage(folder).percent, psutil.disk_usage("/").percent,
            psutil.virtual_memory().percent, psutil.cpu_percent()]

@app.task
def write(path, size):
    with open(path, "w") as file:
        file.write("x" * size)
"""
TOML = """
stars = 1
minutes = 1
module = "work"
brokers = ["redis"]
files = ["work.py"]
title = { en = "Work", zh = "工作" }
[environment]
LAB_STAGE = "{data}/stage.json"
LAB_OPS_URL = "{redis.ops}"
[criteria.it]
points = 2
zh = "它"
hints.default = { en = "Why?", zh = "？" }
"""
BEGIN = datetime(2027, 5, 3, 0, 7, 33, tzinfo=UTC)
HOUR = 3600.0


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A lab with a small submission on Redis."""
    folder = tmp_path_factory.mktemp("beat") / "beat"
    (folder / "work").mkdir(parents=True)
    (folder / "exercise.toml").write_text(TOML, encoding="utf-8")
    (folder / "work" / "work.py").write_text(WORK, encoding="utf-8")
    exercise, work = load(folder), Submission.at(folder / "work")
    with Home() as home, Stack(home) as stack:
        opened = Lab(exercise, work, "redis", stack, best(), 1)
        yield opened
        opened.close()


def hours(count):
    """Return a leg of so many hours."""
    return (BEGIN.timestamp(), BEGIN.timestamp() + count * HOUR)


def simulate(lab, name, legs, twin=None, env=None, **plan):
    """Run a simulation to its end."""
    twin = twin or lab.twin(name, env)
    run = Simulation(twin, legs, **plan)
    lab.adopt_child(run.child)
    return run.finish()


def offsets(run, task):
    """Return when a task was sent, in whole seconds since the beginning."""
    return [round(row.at - BEGIN.timestamp()) for row in run.sent if row.task == task]


@pytest.mark.parametrize("scheduler", ["celery.beat:PersistentScheduler", "work:Polling"])
def test_a_simulated_beat_sends_what_is_due(lab, scheduler):
    """An interval counts from the start, a crontab by the wall, whoever is polling or not."""
    run = simulate(lab, scheduler[-7:].lower(), [hours(3)], env={"SCHEDULER": scheduler})

    wanted = list(range(300, 3 * 3600, 300))
    seen = offsets(run, "work.often")
    # The last one is due just when the leg ends.
    assert len(seen) - len(wanted) in (0, 1)
    assert all(0 <= at - due <= 2 for at, due in zip(seen, wanted, strict=False))
    daily = [row for row in run.sent if row.task == "work.daily"]
    assert [round(row.at) % 86400 for row in daily] == [2 * 3600]
    assert daily[0].args == [7] and daily[0].life is None
    assert run.conf == {"timezone": "UTC", "enable_utc": True}


def test_what_a_message_carries(lab):
    """An expiry is read as the seconds that a message lives."""
    run = simulate(lab, "expiry", [hours(0.2)])

    assert {round(row.life) for row in run.sent} == {60}


def test_outside_of_what_is_fine_the_hours_count(lab):
    """Where it is not fine, what is due on the hour is on time and the rest comes with it."""
    run = simulate(lab, "coarse", [hours(4)], fine=[], env={"SCHEDULER": "work:Polling"})

    often = offsets(run, "work.often")
    assert len(often) < 16
    daily = [row.at % 86400 for row in run.sent if row.task == "work.daily"]
    assert len(daily) == 1 and 0 <= daily[0] - 2 * 3600 < 2


def test_a_second_leg_follows_the_first(lab):
    """Beat goes on in a later time, and catches up once."""
    later = (BEGIN + timedelta(days=30)).timestamp()
    run = simulate(lab, "legs", [hours(0.5), (later, later + HOUR)])

    assert sum(later <= row.at < later + 5 for row in run.sent) == 2
    assert not [row for row in run.sent if BEGIN.timestamp() + HOUR < row.at < later]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_beat_that_is_ended_leaves_its_memory(lab, number):
    """A second simulation in the same place knows what the first has sent, if that was kept."""
    twin = lab.twin(f"ended-{number.name.lower()}")
    first = simulate(lab, "", [hours(3)], twin, end=int(number))
    again = BEGIN.timestamp() + 5 * HOUR

    second = simulate(lab, "", [(again, again + HOUR)], twin)

    assert first.over and second.over
    caught = [row for row in second.sent if row.task == "work.daily"]
    # A beat that is killed has not written down that it has sent it.
    assert len(caught) == (number is signal.SIGKILL)


def test_calls_are_made_while_it_runs(lab):
    """A plan's calls are made in beat's own process; an error of theirs is told."""
    run = simulate(lab, "calls", [hours(0.2)], add=[("work.daily", [1]), ("work.nothing", [])])

    assert [row["called"] for row in run.added] == ["work.daily", "work.nothing"]
    assert "error" not in run.added[0] and "NotRegistered" in run.added[1]["error"]


def test_a_beat_that_ends_by_itself(lab):
    """A beat that ends before its time is the submission's failure, with its last words."""
    with pytest.raises(SubmissionFault, match="ended by itself"):
        simulate(lab, "dying", [hours(1)], env={"SCHEDULER": "work:Dying"})


def test_a_simulation_that_takes_too_long(lab):
    """A simulation that is not through in time proves nothing against the submission."""
    run = Simulation(lab.twin("slow"), [hours(1)], pace=1)
    lab.adopt_child(run.child)

    with pytest.raises(LabFault, match="not through"):
        run.finish(within=0.5)
    run.child.end()


def test_a_real_beat_publishes(lab):
    """What is sent reaches the broker, from where they are executed."""
    urls = lab.space.environment
    with lab.tapped():
        run = Simulation(lab.twin("real", urls), [hours(1)], pace=600)
        lab.adopt_child(run.child)
        assert lab.until(lambda: lab.history.messages, within=20)
        run.child.end()
    assert lab.history.messages[0].task == "work.often"


@pytest.mark.skipif(beat.faketime() is None, reason="the package faketime is not installed")
def test_a_beat_under_faketime(lab):
    """The unmodified program begins with the time that it is given, and runs faster."""
    with lab.tapped():
        before = len(lab.history.messages)
        child = lab.adopt_child(beat.start(lab.place, faked=BEGIN.timestamp(), pace=300))
        assert lab.until(lambda: len(lab.history.messages) > before, within=30)
        child.end()
    assert "2027-05-03 00:" in child.output.text


def test_idle_is_a_process_that_waits(lab):
    """A process is idle when it has used no processor time for a while."""
    child = lab.adopt_child(beat.start(lab.twin("idle").place))
    resting = beat.idle(child)

    assert not resting()
    assert lab.until(resting, within=30)
    child.end()


@pytest.mark.parametrize("expires", [None, "soon", 5])
def test_an_odd_expiry_is_none(expires):
    """What is no time says nothing about how long a message lives."""
    row = {"sent": "a", "id": 7, "args": 5, "kwargs": {}, "expires": expires}

    assert Sending.of(row, 1.0) == Sending("a", "7", 1.0, [5], {}, None)


def test_a_twin_ages(lab):
    """What a twin's servers would have forgotten by then is forgotten, and nothing else."""
    twin = lab.twin("ages")
    with twin.servers["ops"].client() as client:
        client.set("for ever", 1)
        client.set("short", 1, ex=50)
        client.set("long", 1, ex=5000)
        twin.age(100)
        assert sorted(client.keys()) == [b"for ever", b"long"]


def set_stage(lab, **values):
    """Write the stage's file."""
    (lab.data / "stage.json").write_text(json.dumps(values))


def test_the_stage_sets_the_clock_of_a_task(lab):
    """A task sees the stage's clock, standing or running, and the next one its own again."""
    set_stage(lab, now=BEGIN.timestamp(), moves=False)
    standing = lab.call("now").reply.result
    set_stage(lab, now=BEGIN.timestamp())
    moving = lab.call("now").reply.result
    (lab.data / "stage.json").unlink()
    own = lab.call("now").reply.result

    assert standing == [BEGIN.timestamp()] * 2
    assert BEGIN.timestamp() <= moving[0] <= moving[1] + 0.001 < BEGIN.timestamp() + 5
    assert abs(own[0] - datetime.now(UTC).timestamp()) < 60


def test_the_stage_sets_readings(lab):
    """psutil shows what the stage says; another folder's disk is nearly empty."""
    set_stage(lab, folder=str(lab.data), disk=85.5, memory=91.0, cpu=3.0)
    staged = lab.call("readings", str(lab.data)).reply.result
    (lab.data / "stage.json").unlink()
    own = lab.call("readings", str(lab.data)).reply.result

    assert staged == [85.5, 10.0, 91.0, 3.0]
    assert own[0] == psutil.disk_usage(str(lab.data)).percent


def test_the_stage_fills_the_disk(lab):
    """While the stage says so a task can write no more than that, and then as before."""
    set_stage(lab, room=100)
    path = str(lab.data / "file")
    calls = [lab.call("write", path, size) for size in (50, 5000)]
    (lab.data / "stage.json").unlink()
    after = lab.call("write", path, 5000)

    assert [call.reply.state for call in calls] == ["SUCCESS", "FAILURE"]
    assert calls[1].reply.error_type == "OSError"
    assert after.reply.succeeded

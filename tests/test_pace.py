"""grader/inside/pace.py and settle.py: retries start sooner, and lose no result by that."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from grader import process
from grader.exercise import load
from grader.home import Home
from grader.lab import Lab
from grader.sandbox import best
from grader.stack.provider import Stack
from grader.submission import Submission

PLANNED = [10, 20, 30]
STYLES = {
    "explicit": """
@app.task(bind=True, max_retries=3)
def work(self):
    note(self)
    if self.request.retries < 3:
        raise self.retry(countdown=[10, 20, 30][self.request.retries])
    return told(self)
""",
    "autoretry": """
@app.task(bind=True, autoretry_for=(OSError,), max_retries=3, retry_backoff=10, retry_jitter=False,
          retry_backoff_max=30)
def work(self):
    note(self)
    if self.request.retries < 3:
        raise OSError("again")
    return told(self)
""",
    "base class": """
class Patient(app.Task):
    max_retries = 3
    def __call__(self, *args, **kwargs):
        try:
            return super().__call__(*args, **kwargs)
        except OSError as error:
            raise self.retry(exc=error, countdown=10 * (self.request.retries + 1))

@app.task(bind=True, base=Patient)
def work(self):
    note(self)
    if self.request.retries < 3:
        raise OSError("again")
    return told(self)
""",
    "callable": """
class Patient(app.Task):
    max_retries = 3
    backoff = staticmethod(lambda retries: 10.0 * (retries + 1))
    def on_trouble(self, error):
        when = datetime.now(timezone.utc) + timedelta(seconds=self.backoff(self.request.retries))
        raise self.retry(exc=error, eta=when)

@app.task(bind=True, base=Patient)
def work(self):
    note(self)
    if self.request.retries < 3:
        self.on_trouble(OSError("again"))
    return told(self)
""",
}
HEAD = """
import time
from datetime import datetime, timedelta, timezone
from celery import Celery
app = Celery("tiny")

def note(task):
    app.backend.client.rpush("began:" + task.request.id, time.time())

def told(task):
    return [float(x) for x in app.backend.client.lrange("began:" + task.request.id, 0, -1)]
"""
TOML = """
stars = 1
minutes = 1
module = "tiny"
brokers = ["redis", "rabbitmq"]
files = ["tiny.py"]
speed = 100
title = { en = "x", zh = "x" }
[criteria.one]
points = 100
zh = "x"
hints.default = { en = "x", zh = "x" }
"""


@pytest.fixture
def opened(tmp_path):
    """Open a lab for a submission's text."""
    labs = []
    folder = tmp_path / "exercise"
    folder.mkdir()
    (folder / "exercise.toml").write_text(TOML)
    (tmp_path / "work").mkdir()
    with Home() as home, Stack(home, "") as stack:

        def opening(text, broker="redis"):
            (tmp_path / "work" / "tiny.py").write_text(HEAD + text)
            stack.prepare((broker,))
            work = Submission.at(tmp_path / "work")
            labs.append(Lab(load(folder), work, broker, stack, best(), 1))
            return labs[-1]

        yield opening
        for lab in labs:
            lab.close()


@pytest.mark.parametrize("style", STYLES)
def test_retries_start_sooner_in_every_style(opened, style):
    """Sixty planned seconds are over soon, in order, and the messages say what was planned."""
    lab = opened(STYLES[style])

    with lab.tapped():
        call = lab.call("work", within=20)

    assert call.reply and call.reply.succeeded, call.reply
    began = call.reply.result
    assert len(began) == 4 and began == sorted(began)
    waits = lab.history.planned_waits(call.id)
    assert [round(wait, -1) for wait in waits] == PLANNED
    assert began[-1] - began[0] < sum(PLANNED) / 3


def test_a_worker_can_be_given_the_time_that_was_asked(opened):
    """With speed 1 a retry does not start before it is due."""
    lab = opened(STYLES["explicit"].replace("[10, 20, 30]", "[1, 0, 0]"))
    lab.restart_worker(speed=1)

    began = lab.call("work", within=20).reply.result

    assert began[1] - began[0] >= 1


def test_only_what_waits_for_its_eta_is_hastened(opened):
    """The clocks, the timeouts and the other timers of a submission are as they are."""
    lab = opened("""
import threading
@app.task
def clock():
    began = time.monotonic()
    threading.Event().wait(0.5)
    return [time.time(), time.monotonic() - began]
""")
    now, waited = lab.call("clock").reply.result

    assert abs(now - time.time()) < 30 and waited >= 0.5


def test_the_history_of_a_hastened_run_is_plain(opened, tmp_path):
    """What was seen can be saved: nothing of the pace is hidden in it."""
    lab = opened(STYLES["explicit"])
    lab.call("work", within=20)
    lab.save(tmp_path / "history.json")

    assert json.loads((tmp_path / "history.json").read_text())["exercise"] == "exercise"


SETTLED = """
import sys
sys.path.insert(0, sys.argv[1])
import settle
settle.keep_final_states()
from celery import Celery, states
backend = Celery(backend=sys.argv[2]).backend
for state in (states.SUCCESS, states.FAILURE):
    backend.store_result(state, ValueError("x") if state == states.FAILURE else 1, state)
    meta = backend._get_result_meta(None, states.RETRY, None, None)
    backend._set_with_state(backend.get_key_for_task(state), backend.encode(meta), states.RETRY)
    assert backend.get_task_meta(state)["status"] == state, state
backend.store_result("new", ValueError("x"), states.RETRY)
assert backend.get_task_meta("new")["status"] == states.RETRY
assert backend.client.ttl(backend.get_key_for_task("new")) > 0
backend.store_result("new", 1, states.SUCCESS)
assert backend.get_task_meta("new")["status"] == states.SUCCESS
"""


def test_a_late_retry_never_replaces_a_final_state():
    """RETRY is stored where nothing final stands, with its expiry, and nowhere else."""
    with Home() as home, Stack(home, "") as stack:
        stack.prepare(("redis",))
        space = stack.open("redis")
        inside = Path(process.__file__).parent / "inside"
        command = [sys.executable, "-c", SETTLED, str(inside), space.student_backend]
        run = subprocess.run(command, capture_output=True, text=True)
        space.close()

    assert run.returncode == 0, run.stderr

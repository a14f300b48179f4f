"""grader/inside/pace.py: retries start sooner, and nothing else of a worker changes."""

from __future__ import annotations

import json
import time

import pytest

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


def test_a_retry_without_a_wait_keeps_its_result(opened):
    """The state RETRY of one attempt never replaces the result of the next, which may be quicker."""
    lab = opened(STYLES["explicit"].replace("[10, 20, 30]", "[0, 0, 0]"))

    calls = lab.calls([("work",)] * 60, within=20)

    assert all(call.reply and call.reply.succeeded for call in calls)

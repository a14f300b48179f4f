"""Checks that read files only, extras that one exercise needs, and what is left in a broker."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from grader import extras
from grader.desk import Desk
from grader.errors import LabFault
from grader.exercise import ROOT, load
from grader.home import Home
from grader.process import wait_until
from grader.queues import left
from grader.runner import Run
from grader.sandbox import Sandbox
from grader.stack.provider import Stack
from grader.submission import Submission
from grader.verdict import Verdict

TOML = """\
stars = 1
minutes = 1
module = "greeting"
brokers = ["redis"]
files = ["greeting.py"]
title = { en = "x", zh = "x" }
extras = ["flower"]
[criteria.starts]
points = 50
zh = "x"
hints.default = { en = "x", zh = "x" }
[criteria.reads]
points = 50
zh = "x"
hints.default = { en = "x", zh = "x" }
"""
CHECKS = '''
from grader.check import check
from grader.expect import returns
from grader.words import Text

@check
def test_starts(lab):
    """It starts."""
    assert lab.call("greet") == returns(1)

@check(live=False)
def test_reads(desk):
    """It has the file."""
    desk.remarks.append(Text.plain("seen"))
    assert (desk.folder / "greeting.py").read_text()
'''


@pytest.fixture
def exercise(tmp_path):
    """An exercise with a check that runs the submission and one that reads it."""
    folder = tmp_path / "9_8"
    folder.mkdir()
    (folder / "exercise.toml").write_text(TOML)
    (folder / "test_greeting.py").write_text(CHECKS)
    return load(folder)


def test_a_file_is_judged_although_nothing_starts(exercise, write):
    """A submission that can't be imported loses the live check and keeps the one of its files."""
    with Home("desk") as home, Stack(home) as stack:
        work = Submission.at(write("raise SystemExit(1)"))
        run = Run(exercise, work, "redis", stack, 1, Sandbox("limits"))
        starts, reads = run.finding("starts"), run.finding("reads")
        remarks = run.remarks
        run.close()
        left_over = list(home.folder.glob("*desk*"))

    assert (starts.verdict, reads.verdict) == (Verdict.FAILED, Verdict.PASSED)
    assert [remark.render("zh") for remark in remarks] == ["seen"] and not left_over


def test_a_desk_makes_things_once(exercise, write):
    """What is made at a desk under a name is made once."""
    with Home("desk") as home, Stack(home) as stack:
        desk = Desk(exercise, Submission.at(write("x = 1")), stack, 1)
        assert desk.once("a", list) is desk.once("a", list)
        desk.close()
        assert not desk.folder.exists()


def test_pytest_runs_a_check_of_files():
    """pytest takes a check that is not live like any other, with its remark on the card."""
    words = ["exercises/1_1", "--submission", "solutions/1_1", "-k", "compose_file", "--lang", "en"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words, "--broker", "redis"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout
    assert "compose stack" in done.stdout


# Extras


def test_an_extra_is_read_from_the_exercise(exercise):
    """exercise.toml names the extras that the exercise needs."""
    assert exercise.extras == ("flower",)


def test_what_is_there_is_not_installed(monkeypatch):
    """An extra that is installed is neither installed again nor spoken of."""
    monkeypatch.setattr(extras, "present", lambda extra: True)
    monkeypatch.setattr(extras, "install", lambda *_, **__: pytest.fail("installed"))
    told = []

    extras.supply(["flower"], told.append)
    extras.need("flower")

    assert told == []


def test_what_is_missing_is_installed_and_told(monkeypatch):
    """A missing extra is installed once, and a line says so."""
    there, told = [], []
    monkeypatch.setattr(extras, "present", lambda extra: bool(there))
    monkeypatch.setattr(extras, "install", lambda extra, quiet: there.append(extra))

    extras.supply(["flower", "flower"], told.append, "zh")

    assert there == ["flower"] and len(told) == 1 and "正在安装" in told[0]


def test_what_cant_be_installed_is_unknown_not_failed(monkeypatch, tmp_path):
    """Where the installation fails, the line and the criterion's fault name what to type."""
    monkeypatch.setattr(extras, "present", lambda extra: False)
    monkeypatch.setattr(extras, "ROOT", tmp_path)
    monkeypatch.setattr(extras.shutil, "which", lambda name: None)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    told = []

    extras.supply(["flower"], told.append)

    assert "--require-hashes" in told[-1]
    with pytest.raises(LabFault, match="lab install flower"):
        extras.need("flower")


# Queues


@pytest.fixture(scope="module", params=["redis", "rabbitmq"])
def space(request):
    """A namespace on either broker."""
    with Home("queues") as home, Stack(home) as stack:
        if stack.missing((request.param,)):
            assert os.environ.get("LAB_REQUIRE_RABBITMQ") != "1"
            pytest.skip("RabbitMQ is not installed")
        opened = stack.open(request.param)
        yield opened
        opened.close()


def full(space):
    return left(space.broker, space.grader_broker, ["full"]).get("full")


def test_what_lies_in_a_queue_is_counted(space):
    """Waiting messages are counted by queue; an empty or unknown queue is not mentioned."""
    from kombu import Connection

    with Connection(space.grader_broker) as connection:
        connection.SimpleQueue("empty").close()
        with connection.SimpleQueue("full") as queue:
            queue.put({"a": 1})
            queue.put({"a": 2})
    if space.broker == "rabbitmq":
        # What was published without a confirmation arrives a moment later.
        wait_until(lambda: full(space) == 2, 10, lambda: AssertionError("two messages"))

    assert left(space.broker, space.grader_broker, ["full", "empty", "unknown"]) == {"full": 2}


def test_what_was_taken_and_not_acknowledged_is_counted(space):
    """A message that a consumer holds, or gave back by going away, is still counted."""
    from kombu import Connection

    with Connection(space.grader_broker) as connection:
        queue = connection.SimpleQueue("taken")
        queue.put(json.loads("{}"))
        queue.get(timeout=5)
        if space.broker == "redis":
            assert left("redis", space.grader_broker, ["taken"]) == {"unacked": 1}
    wait_until(
        lambda: sum(left(space.broker, space.grader_broker, ["taken"]).values()) == 1,
        10,
        lambda: AssertionError("one message"),
    )

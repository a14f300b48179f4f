"""grader/blame.py: whose fault it is when a run's own server refuses or drowns the grader."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import pytest
import redis

from grader.blame import (
    FLOOD,
    MANY_EVENTS,
    MOST_MESSAGES,
    deaf,
    drowned,
    of_its_own,
    refused,
)
from grader.errors import LabFault, SubmissionFault
from grader.history import Message
from grader.home import Home
from grader.stack.provider import Stack
from grader.tap import RedisTap


@pytest.mark.parametrize(
    ("error", "key"),
    [
        (redis.ResponseError("BUSY Redis is busy running a script"), "server_blocked"),
        (redis.ResponseError("WRONGTYPE Operation against a key"), "server_spoilt"),
        (redis.OutOfMemoryError("used memory > 'maxmemory'."), "server_filled"),
        (redis.ConnectionError("max number of clients reached"), "server_spoilt"),
    ],
)
def test_a_private_servers_refusal_is_the_submissions(error, key):
    """What a private server refuses to plain commands, the submission has brought about."""
    wrapped = RuntimeError(str(error))
    wrapped.__cause__ = error

    for seen in (error, wrapped):
        fault = refused(seen)
        assert isinstance(fault, SubmissionFault)
        assert fault.text.templates == SubmissionFault(key, broker="", error="").text.templates


@pytest.mark.parametrize("error", [redis.ConnectionError("reset"), ValueError("x"), OSError()])
def test_anything_else_is_not_judged_here(error):
    """A lost connection, or an error of our own, accuses nobody."""
    assert refused(error) is None


def test_what_a_submission_gave_or_put_there_is_its_own(tmp_path):
    """Figures beyond all numbers and folders in a file's place accuse the submission."""
    there = OSError(21, "Is a directory", str(tmp_path / "target.db"))
    elsewhere = OSError(21, "Is a directory", "/tmp")

    assert of_its_own(OverflowError("int too large to convert to float"), tmp_path)
    assert of_its_own(there, tmp_path)
    for error in (elsewhere, OSError(28, "No space left on device"), ValueError("x")):
        assert of_its_own(error, tmp_path) is None


def test_a_full_disk_is_the_submissions_where_it_is_its_own(tmp_path, monkeypatch):
    """Who can write no more to the run's data has the submission to thank, if that disk is full."""
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=4096))

    assert of_its_own(OSError(28, "No space left on device"), tmp_path)


def test_only_a_flood_makes_a_server_late():
    """A late answer accuses nobody, unless there were more events than any exercise has."""
    assert drowned(MANY_EVENTS + 1)
    assert not drowned(MANY_EVENTS)


def test_a_server_tells_of_a_listener_that_it_cut_off():
    """A private Redis that closed a connection because too much was to be told there says so."""
    with (
        Home() as home,
        Stack(home) as stack,
        contextlib.closing(stack.open("redis")) as space,
        redis.Redis.from_url(space.student_backend) as client,
        client.pubsub() as late,
    ):
        late.subscribe("celeryev")
        before = space.overrun

        for _ in range(80):  # MB, twice what the server and the system keep for a listener
            client.publish("celeryev", b"x" * 2**20)

        assert (before, space.overrun) == (False, True)


def test_a_flood_is_the_submissions():
    """A tap that drowned in messages accuses the submission, one that heard nothing the lab."""
    assert isinstance(deaf(FLOOD + 1, 5), SubmissionFault)
    assert isinstance(deaf(FLOOD, 5), LabFault)


def test_a_tap_keeps_so_many_messages_and_no_more():
    """A submission can't fill the grader's memory with messages."""
    tap = RedisTap.__new__(RedisTap)
    one = Message("t", "i", "q", "application/json", 0, None, 0.0)
    tap.into = [one] * (MOST_MESSAGES - 1)

    tap._keep(one)

    with pytest.raises(SubmissionFault):
        tap._keep(one)

"""grader/blame.py: whose fault it is when a run's own server refuses or drowns the grader."""

from __future__ import annotations

import pytest
import redis

from grader.blame import FLOOD, MANY_EVENTS, MOST_MESSAGES, deaf, drowned, refused
from grader.errors import LabFault, SubmissionFault
from grader.history import Message
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


@pytest.mark.parametrize(
    ("error", "events", "flood"),
    [
        (redis.ConnectionError("Connection closed by server."), MANY_EVENTS + 1, True),
        (redis.ConnectionError("Connection closed by server."), 500, False),
        (redis.TimeoutError("Timeout reading from socket"), MANY_EVENTS + 1, False),
        (redis.ConnectionError("reset"), MANY_EVENTS + 1, False),
        (redis.TimeoutError("Timeout reading from socket"), 3 * MANY_EVENTS + 1, True),
    ],
)
def test_only_a_flood_closes_a_connection(error, events, flood):
    """A late answer accuses nobody, unless there were more events than any exercise has."""
    assert drowned(error, events) is flood


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

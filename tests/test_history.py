"""grader/history.py: stored documents as they come, and a history that can be replayed."""

from __future__ import annotations

import json
import math
from dataclasses import asdict

import pytest

from grader.expect import returns
from grader.history import Call, History, Message, Reply, nested


def document(**changes):
    """Return a result document as Celery stores it."""
    known = {"status": "SUCCESS", "result": 3, "traceback": None, "children": [], "task_id": "1"}
    return json.dumps(known | changes).encode()


def failure(result):
    return Reply.parse(document(status="FAILURE", result=result))


# Stored documents


def test_a_result_is_read():
    """A success has its value; JSON's nan and inf come as floats."""
    reply = Reply.parse(document(result={"a": [1, None]}))

    assert (reply.succeeded, reply.failed, reply.final) == (True, False, True)
    assert reply.result == {"a": [1, None]}
    assert math.isnan(Reply.parse(document(result=math.nan)).result)


def test_an_error_is_read_and_never_rebuilt():
    """Type, module and message are texts: what they name is not looked for."""
    reply = failure({"exc_type": "system", "exc_module": "os", "exc_message": ["rm -rf /"]})

    assert (reply.error_type, reply.error_module, reply.error_message) == (
        "system",
        "os",
        "rm -rf /",
    )
    assert (reply.succeeded, reply.failed, reply.final, reply.result) == (False, True, True, None)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["one"], "one"),
        ([], ""),
        (["a", 2], "('a', 2)"),
        ([["a"]], "['a']"),
        ("plain", "plain"),
        (None, "None"),
        ({"a": 1}, "{'a': 1}"),
    ],
)
def test_the_message_is_what_str_would_say(arguments, text):
    """An exception's arguments give the text that str() of it has."""
    assert failure({"exc_type": "E", "exc_message": arguments}).error_message == text


@pytest.mark.parametrize("result", [None, "text", 3, ["exc_type"], {}, {"exc_type": 3}])
def test_a_failure_without_its_error_is_still_one(result):
    """A failure whose document lacks the error, or holds another thing, is read all the same."""
    reply = failure(result)

    assert reply.failed and reply.final
    assert isinstance(reply.error_type, str) and isinstance(reply.error_message, str)


@pytest.mark.parametrize(
    ("state", "final"),
    [("SUCCESS", True), ("FAILURE", True), ("REVOKED", True), ("STARTED", False), ("RETRY", False)],
)
def test_which_states_are_final(state, final):
    """A task that runs or will be tried again may still say more."""
    assert Reply.parse(document(status=state)).final is final


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x80\x04pickled",
        b"null",
        b"[]",
        b'"SUCCESS"',
        b"3",
        b"{}",
        b'{"status": "SUCCESS"}',
        b'{"result": 3}',
        b'{"status": "SUCCESS", "result": 3',
        b"[" * 200_000,
        b'{"status": "SUCCESS", "result": ' + b"9" * 5000 + b"}",
        b'{"status": "SUCCESS", "result": ' + b"[" * 500 + b"]" * 500 + b"}",
        b'{"status": "FAILURE", "result": {"exc_message": ' + b"[" * 500 + b"]" * 500 + b"}}",
    ],
    ids=range(14),
)
def test_what_is_no_document_is_unreadable(raw):
    """Pickle, cut or monstrous documents end the wait, and are neither a result nor an error."""
    reply = Reply.parse(raw)

    assert (reply.state, reply.final, reply.succeeded, reply.failed) == (
        "unreadable",
        True,
        False,
        False,
    )
    assert not Call("1", "t.f", reply=reply) == returns(None)  # noqa: SIM201


def test_bytes_that_are_no_text_are_read_as_far_as_possible():
    """A broken character in a text spoils only itself."""
    raw = document(result="?").replace(b"?", b"\xff")

    assert Reply.parse(raw).result == "\ufffd"


def test_a_long_document_is_kept_in_part():
    """The raw text is kept for the timeline, but not all of it."""
    reply = Reply.parse(document(result="x" * 100_000))

    assert len(reply.raw) == 4000 and len(reply.result) == 100_000


def test_nesting_is_measured():
    """Lists and dicts alike count as levels; width does not."""
    value = 1
    for n in range(99):
        value = [value] if n % 2 else {"a": value}

    assert not nested(value)
    assert nested([[value]])
    assert not nested([0] * 10_000) and not nested("x" * 10_000)


# Calls


def test_a_call_reads_like_python():
    """A call's text is the function and its arguments, long ones cut."""
    text = str(Call("1", "pack.tiny.add", (1, "a", [None]), {"unit": "degrees"}))

    assert text == "add(1, 'a', [None], unit='degrees')"
    assert len(str(Call("1", "add", ("x" * 10_000,)))) < 80


# What a history tells


def event(kind, uuid="a", **more):
    return {"type": kind, "uuid": uuid, **more}


def test_events_are_sorted_by_their_own_clock():
    """Events of one task come in the order of their time; one without a time comes first."""
    events = [
        event("task-started", timestamp=3.0),
        event("task-received", timestamp=1),
        event("task-started", "b", timestamp=2.0),
        event("task-started", timestamp="soon"),
        event("task-succeeded"),
        {"type": "worker-online"},
    ]
    history = History(events=events)

    assert [e.get("timestamp") for e in history.events_of("a")] == ["soon", None, 1, 3.0]
    assert history.executions("a") == 2 and history.executions("c") == 0


def message(retries, eta, at=100.0, id="a"):
    return Message("t.f", id, "celery", "application/json", retries, eta, at)


def test_planned_waits_are_paired_by_retry_number():
    """Waits come by retry number however the messages came; no ETA means at once."""
    etas = ("1970-01-01T00:01:44+00:00", "1970-01-01T00:01:41Z", None)
    rows = [message(3, etas[0]), message(1, etas[1]), message(0, None), message(2, etas[2])]
    history = History(messages=[*rows, message(1, etas[0], id="b")])

    assert history.planned_waits("a") == [1.0, 0.0, 4.0]
    assert history.planned_waits("b") == [4.0] and history.planned_waits("c") == []
    assert history.message("a").retries == 3 and history.message("c") is None


@pytest.mark.parametrize("eta", ["soon", "", 5, ["x"], "9999-12-31T23:59:59-23:59", "2024-13-01"])
def test_an_eta_that_is_no_time_means_now(eta):
    """A message that a submission wrote by hand can't make the grader fail."""
    waits = History(messages=[message(1, eta)]).planned_waits("a")

    assert len(waits) == 1 and waits[0] >= 0


def test_an_eta_in_the_past_is_no_negative_wait():
    """A retry that was due before it was published waits for nothing."""
    assert History(messages=[message(1, "1970-01-01T00:00:01Z")]).planned_waits("a") == [0.0]


# Saved and replayed


def full_history():
    calls = [
        Call("a", "t.f", (1, "x"), {"k": None}, 5.5, 2.0, Reply.parse(document(result=[1, "é练"]))),
        Call("b", "t.g", reply=failure({"exc_type": "E", "exc_message": ["half \ud800 of one"]})),
        Call("c", "t.h"),
    ]
    return History(
        "1_2",
        "redis",
        42,
        calls,
        [event("task-started", text="\udc80\u202e", timestamp=1.5, args=(1, 2))],
        [message(1, None)],
        [{"at": 1.0}],
        [{"kind": "kill", "at": 2.0}],
    )


def test_a_history_comes_back_as_it_was(tmp_path):
    """What is saved can be read, half characters of a submission included, and judged again."""
    before, path = full_history(), tmp_path / "deep" / "er" / "h.json"
    before.save(path)
    after = History.load(path)

    saved, read = asdict(before), asdict(after)
    assert json.loads(json.dumps(saved)) == json.loads(json.dumps(read))
    assert after.calls[0].reply == before.calls[0].reply
    assert after.calls[0] == returns([1, "é练"])


def test_saving_does_not_depend_on_the_locale(tmp_path, monkeypatch):
    """The file is ASCII, whatever encoding the machine prefers."""
    full_history().save(tmp_path / "h.json")

    assert (tmp_path / "h.json").read_bytes().isascii()


def test_odd_values_are_saved_by_their_text(tmp_path):
    """A value that JSON has no form for is kept as its repr."""
    History(requests=[{"body": b"\xff", "when": {1, 2}}]).save(tmp_path / "h.json")

    assert History.load(tmp_path / "h.json").requests == [{"body": "b'\\xff'", "when": "{1, 2}"}]

"""grader/expect.py: which observation satisfies which expectation, and the words if none does."""

from __future__ import annotations

import math
import threading
from decimal import Decimal

import pytest

from grader.expect import (
    answers,
    fact,
    fails_with,
    last_difference,
    observed,
    returns,
    short,
    succeeds,
)
from grader.history import Call, Reply
from grader.words import Text

HUGE = 10**400


def name(value):
    """Name a test by its values in short."""
    return repr(value)[:16]


@pytest.fixture(autouse=True)
def forget():
    """Begin without a difference that another test has noted."""
    last_difference()


def call(state="SUCCESS", result=None, **error):
    """Return a call with that reply."""
    return Call("1", "tiny.add", (1, 2), {"z": 3}, reply=Reply(state, result, **error))


def failed(kind, module="builtins", message="no"):
    return call("FAILURE", error_type=kind, error_module=module, error_message=message)


SILENT = Call("1", "tiny.add", (1, 2), limit=2.5)


# Results


@pytest.mark.parametrize(
    ("value", "result"),
    [
        (8, 8),
        (8, 8.0),
        (8.0, 8),
        (0.3, 0.3),
        (-0.0, 0),
        (True, True),
        (None, None),
        ("8", "8"),
        ("", ""),
        ([1, 2.0], [1.0, 2]),
        ({"a": [1]}, {"a": [1]}),
        (float(10**17 - 1), 10**17 - 1),
        (10**300 + 1, 10**300 + 1),
        (HUGE, HUGE),
        (math.inf, math.inf),
    ],
    ids=name,
)
def test_equal_results_are_accepted(value, result):
    """Numbers are compared as numbers (a whole one may be exact), all else as it is."""
    assert call(result=result) == returns(value)
    assert last_difference() is None


@pytest.mark.parametrize(
    ("value", "result"),
    [
        (8, 8.7),
        (120, 120.5),
        (8, "8"),
        ("8", 8),
        ("8.0", 8.0),
        (1, True),
        (True, 1),
        (0, False),
        (0, None),
        (None, 0),
        (None, False),
        ([], 0),
        ({}, 0),
        ([1], 1),
        ("", None),
        (0.3, 0.1 + 0.2),
        (8.0, HUGE),
        (8, HUGE),
        (8.0, -HUGE),
        (HUGE, math.inf),
        (HUGE, 8.0),
        (8, math.nan),
        (math.nan, math.nan),
        (10**17, 10**17 + 1),
        (8, [8]),
        (8, {"value": 8}),
    ],
    ids=name,
)
def test_other_results_are_not(value, result):
    """Nothing is rounded or converted to fit; what is larger than any float is just wrong."""
    assert not call(result=result) == returns(value)  # noqa: SIM201 - as an assert in a check does
    assert last_difference()


@pytest.mark.parametrize(
    ("value", "result", "same"),
    [
        (1.0, 1.0 + 1e-13, True),
        (1.0, 1.0 + 1e-11, False),
        (1.0, 1, True),
        (100, 100.00000000001, True),
        (1.0, HUGE, False),
        (HUGE, 1.0, False),
        (1.0, math.nan, False),
        (1.0, math.inf, False),
        (1.0, "1.0", False),
        (1.0, True, False),
        (1.0, None, False),
        (0.0, 1e-300, False),
    ],
    ids=name,
)
def test_nearness_is_relative(value, result, same):
    """With `rel` a number may differ by that share; text, booleans, nan and giants never fit."""
    assert (call(result=result) == returns(value, rel=1e-12)) is same


@pytest.mark.parametrize(
    "seen", [SILENT, failed("ValueError"), call("REVOKED"), call("unreadable")]
)
def test_only_a_success_returns(seen):
    """A failure, no answer or another end is no result, not even None."""
    assert not seen == returns(None)  # noqa: SIM201
    assert not seen == returns(None, rel=1e-9)  # noqa: SIM201


# Errors and answers


@pytest.mark.parametrize(
    ("seen", "accepted"),
    [
        (failed("ValueError"), True),
        (failed("ZeroDivisionError"), True),
        (failed("TypeError"), False),
        (failed("OperandError", "tiny"), True),
        (call(result="ValueError"), False),
        (SILENT, False),
        (call("RETRY"), False),
        (call("unreadable"), False),
    ],
)
def test_an_error_is_one_of_the_named(seen, accepted):
    """One of the names, or a class that is not built in; a result or no answer is none."""
    assert (seen == fails_with("ValueError", "ZeroDivisionError")) is accepted


@pytest.mark.parametrize(
    ("seen", "accepted"),
    [
        (call(), True),
        (failed("X"), True),
        (SILENT, False),
        (call("REVOKED"), False),
        (call("unreadable"), False),
    ],
)
def test_an_answer_is_a_result_or_an_error(seen, accepted):
    """Whatever a task says at its end is an answer; silence and nonsense are none."""
    assert (seen == answers()) is accepted


def test_a_success_is_any_result():
    """A result of any kind is a success; an error and silence are none."""
    assert call(result=None) == succeeds() and call(result="x") == succeeds()
    assert not (call("FAILURE") == succeeds() or succeeds() == SILENT)


# The words


@pytest.mark.parametrize(
    ("seen", "expectation", "expected", "saw"),
    [
        (call(result=4), returns(3), "add(1, 2, z=3) returns 3", "it returned 4"),
        (
            call(result=4),
            returns(3, rel=1e-12),
            "add(1, 2, z=3) returns 3 (relative error at most 1e-12)",
            "it returned 4",
        ),
        (
            failed("KeyError", message="'a'  b\n c"),
            fails_with("ValueError", "TypeError"),
            "add(1, 2, z=3) fails with ValueError / TypeError",
            "it failed with KeyError: 'a' b c",
        ),
        (
            SILENT,
            answers(),
            "add(1, 2) is answered",
            "add(1, 2) gave no answer within 2.5 s",
        ),
        (
            call("unreadable"),
            returns(1),
            "add(1, 2, z=3) returns 1",
            "add(1, 2, z=3) ended in the state 'unreadable'",
        ),
    ],
)
def test_a_difference_is_said(seen, expectation, expected, saw):
    """Both sides are said in words, in both languages, and only once."""
    assert not seen == expectation  # noqa: SIM201

    difference = last_difference()
    assert difference.expected.render("en") == expected
    assert difference.observed.render("en") == saw
    assert difference.expected.render("zh") != expected
    assert last_difference() is None


def test_braces_and_percent_signs_of_a_stranger_stay(monkeypatch):
    """What a submission returned is data, never a template."""
    assert not call(result="{call} {0!r} %s {") == returns("{")  # noqa: SIM201

    assert last_difference().observed.render("en") == "it returned '{call} {0!r} %s {'"


def test_a_fact_is_noted_only_when_it_fails():
    """`fact` returns what it was given and keeps the words of the last that failed."""
    words = Text.plain("wanted"), Text.plain("seen")

    assert fact(True, *words) is True and last_difference() is None
    assert fact(False, *words) is False
    assert last_difference().observed.render("en") == "seen"


def test_differences_stay_on_their_thread():
    """Two exercises that are graded at once never see each other's difference."""
    thread = threading.Thread(target=lambda: fact(False, Text.plain("a"), Text.plain("b")))
    thread.start()
    thread.join()

    assert last_difference() is None


def deep(levels):
    value = []
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.1 + 0.2, "0.30000000000000004"),
        ("a\nb", "'a\\nb'"),
        (10**5000, "an integer of 16610 bits"),
        ([10**5000], "list (too large to print)"),
        (deep(100_000), "list (too large to print)"),
        (Decimal("1.50"), "Decimal('1.50')"),
        ("x" * 1000, "'" + "x" * 76 + " ... " + "x" * 76 + "'"),
    ],
    ids=range(7),
)
def test_any_value_gets_a_short_line(value, text):
    """Every value has a text of one line, however long, large or deep it is."""
    assert short(value) == text
    assert observed(value).render("en") == text


def test_a_message_is_one_line_without_quotes():
    """An error's message is put on one line, and cut in the middle."""
    assert short(" a\n\tb ", quote=False) == "a b"
    assert len(short("word " * 1000, quote=False)) <= 160

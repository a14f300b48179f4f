"""Expectations: what a check compares an observation with, and the words for a difference.

`assert call == returns(0.3)` reads like any assert. When the two differ, the expectation notes what
was expected and what was seen; the runner picks the note up (`last_difference`) and puts it on the
score card. Nothing here parses or runs anything of a submission's: observations are plain data.
"""

from __future__ import annotations

import math
import threading
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from grader.history import Call, Reply
from grader.words import Text

# What carries a task; an error of theirs is no answer of the submission's.
MACHINERY = ("celery", "kombu", "billiard", "amqp", "redis")

_noted = threading.local()


@dataclass(frozen=True)
class Difference:
    """What was expected and what was seen instead."""

    expected: Text
    observed: Text


def last_difference() -> Difference | None:
    """Return the difference noted last on this thread and forget it."""
    difference = getattr(_noted, "difference", None)
    _noted.difference = None
    return difference


def fact(holds: bool, expected: Text, observed: Text) -> bool:
    """Return `holds`; when it is false, note the words for the score card."""
    if not holds:
        _noted.difference = Difference(expected, observed)
    return holds


def foreign(module: str) -> bool:
    """Whether an error's class is of the submission or of a library that it works with."""
    return module.partition(".")[0] not in ("builtins", *MACHINERY)


class Expectation(ABC):
    """Equal to what satisfies it, and to nothing else."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, seen: object) -> bool:
        return fact(self.accepts(seen), self.wanted(seen), observed(seen))

    @abstractmethod
    def accepts(self, seen: Any) -> bool:
        """Say whether the observation is right."""

    @abstractmethod
    def wanted(self, seen: Any) -> Text:
        """Say in words what was expected where this was seen."""


@dataclass(eq=False)
class returns(Expectation):
    """A call that succeeds with `value`; a number within a relative error of `rel`.

    Numbers are compared as numbers (8 is 8.0) and never with text or booleans.
    """

    value: Any
    rel: float = 0.0

    def accepts(self, seen: Call) -> bool:
        reply = seen.reply
        return reply is not None and reply.succeeded and self._same(reply.result)

    def _same(self, result: Any) -> bool:
        if isinstance(result, bool) is not isinstance(self.value, bool):
            return False
        if not (_number(result) and _number(self.value)):
            return bool(result == self.value)
        try:
            if self.rel:
                return math.isclose(result, self.value, rel_tol=self.rel)
            # A whole number may be the exact answer whose nearest float was asked for.
            return bool((float(result) if isinstance(self.value, float) else result) == self.value)
        except OverflowError:  # larger than any float
            return bool(result == self.value)

    def wanted(self, seen: Call) -> Text:
        key = "wanted_near" if self.rel else "wanted_result"
        return Text.of(key, call=seen, value=short(self.value), rel=self.rel)


@dataclass(eq=False)
class fails_with(Expectation):
    """A call that fails with one of the named built-in errors.

    A foreign class (of the submission or of a library that it calculates with) is let pass here:
    which class it may be is a claim of its own, so that one mistake costs one criterion. An error
    that Celery met on the way, such as a lost process or a result that it can't encode, refuses
    nothing.
    """

    names: tuple[str, ...]

    def __init__(self, *names: str) -> None:
        self.names = names

    def accepts(self, seen: Call) -> bool:
        reply = seen.reply
        return (
            reply is not None
            and reply.failed
            and (reply.error_type in self.names or foreign(reply.error_module))
        )

    def wanted(self, seen: Call) -> Text:
        return Text.of("wanted_error", call=seen, error=" / ".join(self.names))


class lists(Expectation):
    """A call that succeeds with a list."""

    def accepts(self, seen: Call) -> bool:
        """Say whether the result is a list."""
        return bool(seen.reply and seen.reply.succeeded and isinstance(seen.reply.result, list))

    def wanted(self, seen: Call) -> Text:
        """Say that a list was expected."""
        return Text.of("wanted_list", call=seen)


class succeeds(Expectation):
    """A call that ends with a result, whatever it is."""

    def accepts(self, seen: Call) -> bool:
        """Say whether the reply is a result."""
        return seen.reply is not None and seen.reply.succeeded

    def wanted(self, seen: Call) -> Text:
        """Say that a result was expected."""
        return Text.of("wanted_success", call=seen)


class answers(Expectation):
    """A call that ends at all, with a result or with an error."""

    def accepts(self, seen: Call) -> bool:
        """Say whether a final reply came."""
        return seen.reply is not None and (seen.reply.succeeded or seen.reply.failed)

    def wanted(self, seen: Call) -> Text:
        """Say that an answer was expected."""
        return Text.of("wanted_answer", call=seen)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def observed(seen: object) -> Text:
    """Say in words what was seen: a call's reply, or the value itself."""
    if not isinstance(seen, Call):
        return Text.plain(short(seen))
    return _reply(seen.reply, seen)


def _reply(reply: Reply | None, call: Call) -> Text:
    if reply is None:
        return Text.of("saw_no_answer", call=call, seconds=f"{call.limit:g}")
    if reply.succeeded:
        return Text.of("saw_result", call=call, value=short(reply.result))
    if reply.failed:
        error = f"{reply.error_type}: {short(reply.error_message, quote=False)}"
        return Text.of("saw_error", call=call, error=error)
    return Text.of("saw_state", call=call, state=short(reply.state))


def short(value: object, limit: int = 160, quote: bool = True) -> str:
    """Return a value's text in one line of at most `limit` characters, its middle left out."""
    text = _text(value) if quote else " ".join(str(value).split())
    if len(text) <= limit:
        return text
    half = (limit - 5) // 2
    return f"{text[:half]} ... {text[-half:]}"


def _text(value: object) -> str:
    try:
        return repr(value)
    except (ValueError, RecursionError):
        # CPython refuses to print integers of more than 4300 digits, and lists too deep to follow.
        if isinstance(value, int):
            return f"an integer of {value.bit_length()} bits"
        return f"{type(value).__name__} (too large to print)"

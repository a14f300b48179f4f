"""What a check is: one claim about a submission, with the claims it builds on.

A check is a plain function `test_<criterion>(lab)` under exercises/<id>/. Its docstring is the
sentence the student reads; its prerequisites are passed as functions. It asserts
`observed == expectation`, and may say `hint("name")` for a mistake that it recognises.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, overload

# What it gets is a Lab, or a Desk where it is not live.
Function = Callable[[Any], None]


@dataclass(frozen=True)
class Check:
    """One claim: `id` is the criterion's id, `claim` its English title.

    Checks of one `lane` follow each other in one lab; lanes run beside each other, in a lab each.
    One that is not `live` reads the submission's files only, and gets a Desk instead of a Lab.
    """

    id: str
    claim: str
    function: Function
    after: tuple[str, ...]
    lane: str = ""
    live: bool = True


@dataclass(frozen=True)
class Hint:
    """Names a hint of the criterion in exercise.toml, as the message of an assert."""

    name: str


def hint(name: str) -> Hint:
    """Return the message for an assert: the criterion's hint `name` in exercise.toml."""
    return Hint(name)


@overload
def check(function: Function) -> Function: ...
@overload
def check(
    *, after: Function | tuple[Function, ...] = (), lane: str = "", live: bool = True
) -> Callable[[Function], Function]: ...
def check(
    function: Function | None = None,
    *,
    after: Function | tuple[Function, ...] = (),
    lane: str = "",
    live: bool = True,
) -> Function | Callable[[Function], Function]:
    """Mark `function` as a check.

    Args:
        after: the check or checks that must have passed for this one to mean anything.
        lane: for a check that mostly waits, or that restarts workers: it gets a lab beside the
            others', shared only with the checks of the same lane. Such checks stand last in their
            file, and build on one without a lane, so that a submission that does not start is
            tried once.
        live: False for a check that reads the submission's files and runs nothing of it.

    Raises:
        TypeError: no docstring, a name without `test_`, or a prerequisite that is no check.
    """
    prerequisites = after if isinstance(after, tuple) else (after,)

    def mark(target: Function) -> Function:
        target.check = _describe(target, prerequisites, lane, live)  # type: ignore[attr-defined]
        return target

    return mark(function) if function else mark


def named(id: str) -> Function:
    """Return a stand-in for the check of that id in another file of the exercise, for `after`."""

    def stand_in(lab: Any) -> None:
        raise NotImplementedError(id)

    stand_in.check = SimpleNamespace(id=id)  # type: ignore[attr-defined]
    return stand_in


def _describe(
    function: Function, prerequisites: tuple[Function, ...], lane: str, live: bool
) -> Check:
    name = function.__name__
    claim = " ".join((function.__doc__ or "").split())
    if not name.startswith("test_") or not claim:
        raise TypeError(f"{name}: a check is named test_<criterion> and has a docstring")
    for other in prerequisites:
        if not hasattr(other, "check"):
            raise TypeError(f"{name}: its prerequisite {other!r} is not a check")
    ids = tuple(other.check.id for other in prerequisites)  # type: ignore[attr-defined]
    return Check(name.removeprefix("test_"), claim, function, ids, lane, live)

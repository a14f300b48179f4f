"""Which exercise comes next, by what was graded so far."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence

from grader.exercise import Exercise
from grader.progress import Standing


class State(enum.StrEnum):
    """How far an exercise is: its core decides."""

    NEW = "new"
    BEGUN = "begun"
    CORE = "core"  # every core point, bonus points left
    DONE = "done"


def state_of(exercise: Exercise, standing: Standing) -> State:
    """Return how far an exercise is, by its best whole grading."""
    best = standing.best
    if best is None:
        return State.NEW
    if not best.full:
        return State.BEGUN
    return State.DONE if best.bonus >= exercise.points(bonus=True) else State.CORE


def next_up(exercises: Sequence[Exercise], standings: Mapping[str, Standing]) -> Exercise | None:
    """Return the exercise to go on with, None where there is nothing left to do.

    That is the one begun last whose core is not complete, then the first that is new, then the
    first with bonus points left.
    """
    known = {e.id: standings.get(e.id, Standing()) for e in exercises}
    by_state: dict[State, list[Exercise]] = {state: [] for state in State}
    for exercise in exercises:
        by_state[state_of(exercise, known[exercise.id])].append(exercise)
    if begun := by_state[State.BEGUN]:
        return max(begun, key=lambda e: _latest(known[e.id]))
    return next(iter([*by_state[State.NEW], *by_state[State.CORE]]), None)


def _latest(standing: Standing) -> float:
    return standing.last.when.timestamp() if standing.last else 0.0

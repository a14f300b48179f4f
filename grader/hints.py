"""The second and the third step of `lab hint`: exercises/<id>/hints.toml.

One table a criterion, in the order of exercise.toml, each text in both languages:

    [criterion]
    pointer = { en = "where to look", zh = "…" }
    answer = { en = "what to do", zh = "…" }

The first step, which asks, is the criterion's hint in exercise.toml.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

from grader.errors import BadExercise
from grader.exercise import Exercise, Reader
from grader.words import Text

FILE = "hints.toml"
STEPS = ("pointer", "answer")


def further(exercise: Exercise, criterion: str) -> Mapping[str, Text]:
    """Return a criterion's steps beyond the first, by their name; those that are not there are not.

    Raises:
        BadExercise: the file can't be read, or the text is not there in both languages.
    """
    table = _tables(exercise).get(criterion, {})
    reader = Reader(exercise.folder / FILE, {})
    return {
        step: Text(reader.both(table, step, f"{criterion}.{step}", fields=False))
        for step in STEPS
        if not isinstance(table, dict) or step in table
    }


def hint_problems(exercise: Exercise) -> Iterator[str]:
    """Yield what is wrong with an exercise's hints, a sentence each."""
    try:
        tables = _tables(exercise)
    except BadExercise as error:
        yield error.text.render("en")
        return
    rubric = [criterion.id for criterion in exercise.criteria]
    for id in rubric:
        yield from _missing(exercise, id)
    for id in [id for id in tables if id not in rubric]:
        yield f"{exercise.id}/{FILE}: there is no criterion {id}"
    mine = [id for id in tables if id in rubric]
    if mine != [id for id in rubric if id in mine]:
        yield f"{exercise.id}/{FILE}: its tables are not in the order of exercise.toml"


def _missing(exercise: Exercise, id: str) -> Iterator[str]:
    try:
        found = further(exercise, id)
    except BadExercise as error:
        yield error.text.render("en")
        return
    for step in STEPS:
        if step not in found:
            yield f"{exercise.id}/{FILE}: {id} has no {step}"


def _tables(exercise: Exercise) -> Mapping[str, Any]:
    file = exercise.folder / FILE
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, RecursionError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadExercise("broken_toml", file=file, error=error) from None

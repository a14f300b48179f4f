"""An instructor's own checks, added to an exercise's: what students don't see can't be drilled.

DIR/1_2/private.toml     criteria and words, written as in exercise.toml
DIR/1_2/test_own.py      their checks

Their ids begin with `private_`; a student's page and feedback say what points they earned and
nothing else. `after=named("arithmetic")` names a criterion of the exercise itself.
"""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

from grader.errors import BadExercise, UsageError
from grader.exercise import Exercise, Reader
from grader.words import Text

FILE = "private.toml"
PREFIX = "private_"


def with_private(exercise: Exercise, checks: Path | None) -> Exercise:
    """Return the exercise with the private checks that lie in `checks`/ID, as it is without any.

    Raises:
        UsageError: `checks` is no folder.
        BadExercise: private.toml is broken, or names a criterion that is there or not private.
    """
    if checks is None:
        return exercise
    if not checks.is_dir():
        raise UsageError("private_missing", folder=checks)
    folder = (checks / exercise.id).absolute()
    return _joined(exercise, folder) if folder.is_dir() else exercise


def _joined(exercise: Exercise, folder: Path) -> Exercise:
    file = folder / FILE
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, RecursionError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadExercise("broken_toml", file=file, error=error) from None
    reader = Reader(file, data)
    rows = reader.need(data, "criteria", dict, "criteria")
    for id in rows:
        if not id.startswith(PREFIX):
            raise reader.wrong(f"criteria.{id}", f"an id that begins with {PREFIX}")
    public = {path.name for path in exercise.check_files}
    if twice := public & {path.name for path in folder.glob("test_*.py")}:
        raise reader.wrong(", ".join(sorted(twice)), "files of other names than the exercise's own")
    own = tuple(reader.criterion(id, row, len(exercise.brokers)) for id, row in rows.items())
    words = reader.all_words()
    return replace(
        exercise,
        private=folder,
        criteria=(*exercise.criteria, *own),
        words={**words, **exercise.words},
    )


def for_student(document: dict[str, Any], lang: str) -> dict[str, Any]:
    """Return a result's document without what is only for instructors.

    That is the seed, and of private criteria everything but their verdicts and points.
    """
    numbers = {id: n for n, id in enumerate(dict.fromkeys(map(_private, document["criteria"])))}
    title = Text.of("private_title").render(lang)
    entries = [
        {**e, "id": f"{PREFIX}{numbers[e['id']]}", "title": title, **HIDDEN} if _private(e) else e
        for e in document["criteria"]
    ]
    return {**document, "criteria": entries, "seed": ""}


HIDDEN = {"expected": None, "observed": None, "hint": None}


def _private(entry: dict[str, Any]) -> str:
    return str(entry["id"]) if str(entry["id"]).startswith(PREFIX) else ""

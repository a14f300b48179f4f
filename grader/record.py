"""The last run of each exercise: what `lab hint` and `lab explain` go by.

Kept is the last grading of the student's own work, that is of what lies in exercises/<id>, by `lab
grade`, `lab watch` or pytest: .lab/student/last/<id>, one small file an exercise. Not kept are
other submissions, what the maintainer's and the instructor's commands grade, and gradings with an
instructor's own checks.
"""

from __future__ import annotations

import contextlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grader import progress
from grader.exercise import Exercise
from grader.report.document import Entry, document
from grader.verdict import Result
from grader.words import LANGUAGES, NOTHING, Text

FORMAT = 1
LARGEST = 500_000  # bytes of one record
LARGEST_TEXT = 50_000_000  # a file that somebody else put there may be a bomb


@dataclass(frozen=True)
class Record:
    """A last run: the result's documents by language, and what was seen in its labs."""

    documents: Mapping[str, Mapping[str, Any]]
    scenes: Sequence[Mapping[str, Any]]

    def entries(self, lang: str) -> Sequence[Entry]:
        """Return what the criteria came to, one for each broker, in the order of the run."""
        found: Sequence[Entry] = self.documents[lang]["criteria"]
        return found


def note(exercise: Exercise, path: Path, result: Result) -> Text:
    """Keep the result if it is one of the student's own work.

    Returns:
        A sentence where it could not be kept, which spoils nothing; NOTHING otherwise.
    """
    if exercise.private or not result.findings or not _own(exercise, path):
        return NOTHING
    try:
        with progress.change(exercise.id) as standing:
            standing[0] = standing[0].after(exercise, result)
            progress.put(_file(exercise.id), _packed(result))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        words = getattr(error, "strerror", None) or error
        return Text.of("study_not_kept", folder=progress.FOLDER, error=words)
    return NOTHING


def pointer(exercise: Exercise, path: Path, result: Result, lab: str) -> Text:
    """Return what to type next where the student's own work is not complete, NOTHING otherwise."""
    if exercise.private or result.exit_status != 1 or not _own(exercise, path):
        return NOTHING
    return Text.of("study_pointer", id=exercise.id, lab=lab)


def _own(exercise: Exercise, path: Path) -> bool:
    with contextlib.suppress(OSError):
        return path.resolve() == exercise.folder.resolve()
    return False


def last(id: str) -> Record | None:
    """Return the last run of an exercise, None where there is none that can be read."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError, zlib.error):
        text = zlib.decompressobj().decompress(_file(id).read_bytes(), LARGEST_TEXT)
        whole = json.loads(text)
        if whole["format"] == FORMAT:
            found = Record({lang: whole["documents"][lang] for lang in LANGUAGES}, whole["scenes"])
            if all(isinstance(found.entries(lang), list) for lang in LANGUAGES):
                return found
    return None


def _file(id: str) -> Path:
    return progress.FOLDER / "last" / id


def _packed(result: Result) -> bytes:
    """Return the record as bytes; of one too long, what passed is left out, then every scene."""
    documents = {lang: document(result, lang) for lang in LANGUAGES}
    failing = {f.id for f in result.findings if not f.points}
    short = [s for s in result.scenes if failing & {check["id"] for check in s["checks"]}]
    for scenes in (result.scenes, short, ()):
        whole = {"format": FORMAT, "documents": documents, "scenes": list(scenes)}
        packed = zlib.compress(json.dumps(whole, default=repr).encode("ascii"), 6)
        if len(packed) <= LARGEST:
            break
    return packed

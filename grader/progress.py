"""Where the student stands: .lab/student/progress.json, an entry an exercise.

Several calls of the lab may write at the same time, so each change is made under a lock and put in
place whole. What can't be read is set aside, never written over.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock

from grader.exercise import ROOT, Exercise
from grader.verdict import Result, Verdict

FOLDER = ROOT / ".lab" / "student"
LOCK_SECONDS = 5


@dataclass(frozen=True)
class Mark:
    """What one whole grading came to; `open` are points that the lab could not judge."""

    score: float
    max_score: float
    bonus: float
    max_bonus: float
    at: str
    open: float = 0

    @property
    def full(self) -> bool:
        """Whether every core point was earned."""
        return self.max_score > 0 and self.score == self.max_score

    @property
    def when(self) -> datetime:
        """The time of the grading."""
        return datetime.fromisoformat(self.at)

    @classmethod
    def read(cls, row: Any) -> Mark | None:
        """Return what `asdict` made of a mark, None for anything else."""
        with contextlib.suppress(TypeError, ValueError, KeyError):
            names = ("score", "max_score", "bonus", "max_bonus")
            score, most, bonus, most_bonus = (float(row[name]) for name in names)
            if datetime.fromisoformat(row["at"]).tzinfo:
                undecided = float(row.get("open", 0))
                return cls(score, most, bonus, most_bonus, row["at"], undecided)
        return None


@dataclass(frozen=True)
class Step:
    """How far the hints of a criterion were shown, and with which nudge they began."""

    step: int
    nudge: str


@dataclass(frozen=True)
class Standing:
    """Where the student stands in one exercise."""

    best: Mark | None = None
    last: Mark | None = None
    hints: Mapping[str, Step] = field(default_factory=dict)

    @classmethod
    def read(cls, row: Any) -> Standing:
        """Return what was written of a standing; what is no such thing counts as not written."""
        row = row if isinstance(row, dict) else {}
        hints = row.get("hints")
        steps = {
            str(id): Step(step["step"], str(step.get("nudge", "")))
            for id, step in (hints.items() if isinstance(hints, dict) else ())
            if isinstance(step, dict) and step.get("step") in (1, 2, 3)
        }
        return cls(Mark.read(row.get("best")), Mark.read(row.get("last")), steps)

    def after(self, exercise: Exercise, result: Result) -> Standing:
        """Return the standing after one more grading.

        Only one that judged every core criterion counts; what passed needs no hint any more.
        """
        passed = {f.id for f in result.findings if f.verdict is Verdict.PASSED}
        passed -= {f.id for f in result.findings if f.verdict is not Verdict.PASSED}
        hints = {id: step for id, step in self.hints.items() if id not in passed}
        core = {criterion.id for criterion in exercise.criteria if not criterion.bonus}
        if not core <= {finding.id for finding in result.findings}:
            return replace(self, hints=hints)
        mark = _mark(result)
        known = self.best
        better = not known or (mark.score, mark.bonus) > (known.score, known.bonus)
        return Standing(mark if better else known, mark, hints)


def _mark(result: Result) -> Mark:
    unknown = [f.max_points for f in result.findings if f.verdict is Verdict.UNKNOWN]
    at = result.started_at.astimezone().isoformat(timespec="seconds")
    return Mark(result.score, result.max_score, result.bonus, result.max_bonus, at, sum(unknown))


def read() -> dict[str, Standing]:
    """Return where the student stands, by exercise; nothing where it can't be read."""
    with contextlib.suppress(OSError, ValueError):
        return _parse()
    return {}


def broken() -> Path | None:
    """Return the file if it is there and can't be read, None if all is well."""
    try:
        _parse()
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return _file()
    return None


@contextlib.contextmanager
def change(id: str) -> Iterator[list[Standing]]:
    """Give a list with an exercise's standing; what is in it when the block ends is written.

    Raises:
        OSError: it can't be written, or another call holds the lock for too long.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(FOLDER / "progress.lock", timeout=LOCK_SECONDS):
            found = _parse_or_set_aside()
            standing = [found.get(id, Standing())]
            yield standing
            rows = {**found, id: standing[0]}
            whole = {"format": 1, "exercises": {id: asdict(row) for id, row in rows.items()}}
            put(_file(), json.dumps(whole, indent=1).encode("ascii"))
    except NotImplementedError as error:  # a file system without locks
        raise OSError(str(error)) from None


def put(file: Path, content: bytes) -> None:
    """Write a file so that, whatever happens meanwhile, it is the old one or the whole new one.

    Raises:
        OSError: it can't be written; nothing is left of the attempt.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with draft.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)


def _file() -> Path:
    return FOLDER / "progress.json"


def _parse() -> dict[str, Standing]:
    try:
        whole = json.loads(_file().read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError(str(error)) from None
    if not isinstance(whole, dict) or not isinstance(whole.get("exercises"), dict):
        raise ValueError("no table of exercises")
    return {str(id): Standing.read(row) for id, row in whole["exercises"].items()}


def _parse_or_set_aside() -> dict[str, Standing]:
    try:
        return _parse()
    except FileNotFoundError:
        return {}
    except ValueError:
        names = (FOLDER / f"progress.broken-{n}.json" for n in range(1, 10_000))
        _file().rename(next(name for name in names if not name.exists()))
        return {}

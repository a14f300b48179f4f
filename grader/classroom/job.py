"""One grading of a class, and what it came to, on whichever machine it is done."""

from __future__ import annotations

import json
import zlib
from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from grader.classroom.book import Key, Sort
from grader.classroom.evidence import pack
from grader.classroom.prints import versions
from grader.classroom.tables import Attempt
from grader.classroom.work import Work
from grader.errors import BadSubmission
from grader.exercise import Exercise
from grader.grading import ungradable
from grader.home import remove
from grader.runner import grade
from grader.session import choose_brokers
from grader.stack.provider import Stack
from grader.submission import Submission
from grader.verdict import Result, Verdict
from grader.words import Text


@dataclass(frozen=True)
class Job:
    """One grading that is to be done; `turn` counts those of the same sort (see Book.turns)."""

    work: Work
    exercise: Exercise
    sort: Sort
    turn: int
    seed: int

    @property
    def key(self) -> Key:
        """Whose work for which exercise."""
        return Key(self.work.student, self.exercise.id)

    def attempt(self, outcome: Outcome) -> Attempt:
        """Return the grade book's row of what it came to."""
        return Attempt(
            student=self.key.student,
            exercise=self.key.exercise,
            **vars(self.sort),
            turn=self.turn,
            place=self.work.shown,
            submitted_at=self.work.at,
            late=self.work.late,
            max_score=self.exercise.points(),
            max_bonus=self.exercise.points(bonus=True),
            **vars(outcome),
        )


@dataclass(frozen=True)
class Outcome:
    """What a grading came to, in plain values: the names are those of the grade book's columns."""

    started_at: datetime
    seconds: float
    seed: int
    status: str
    score: float
    bonus: float
    lab_fault: bool
    unsafe: bool
    verdicts: dict[str, Any]
    versions: dict[str, Any]
    evidence: bytes

    @classmethod
    def of(cls, result: Result, histories: Path) -> Outcome:
        """Return what a result came to; `histories` is the folder of its runs' files."""
        return cls(
            started_at=result.started_at,
            seconds=result.seconds,
            seed=result.seed,
            status=result.status.value,
            score=result.score,
            bonus=result.bonus,
            lab_fault=any(f.verdict is Verdict.UNKNOWN for f in result.findings),
            unsafe=result.unsafe,
            verdicts={f"{f.id}@{f.broker}": f.verdict.value for f in result.findings},
            versions=versions(),
            evidence=pack(result, histories),
        )

    @classmethod
    def without(cls, exercise: str, shown: str, seed: int, note: Text, lab_fault: bool) -> Outcome:
        """Return the outcome of a grading that did not come about, for the reason in `note`."""
        result = ungradable(exercise, shown, seed, note)
        return replace(cls.of(result, Path("none")), lab_fault=lab_fault)

    def packed(self) -> bytes:
        """Return it as bytes that `unpacked` reads, on another machine."""
        plain = asdict(self) | {
            "started_at": self.started_at.isoformat(),
            "evidence": b64encode(self.evidence).decode("ascii"),
        }
        return zlib.compress(json.dumps(plain).encode("ascii"))

    @classmethod
    def unpacked(cls, blob: bytes) -> Outcome:
        """Return what was packed.

        Raises:
            ValueError, KeyError, TypeError, zlib.error: it is something else.
        """
        plain = json.loads(zlib.decompress(blob))
        plain["started_at"] = datetime.fromisoformat(plain["started_at"])
        plain["evidence"] = b64decode(plain["evidence"])
        return cls(**plain)


def judge(
    exercise: Exercise,
    lay: Callable[[Path], Submission],
    shown: str,
    seed: int,
    live: Stack,
    broker: str,
    required: tuple[str, ...],
    folder: Path,
) -> Outcome:
    """Grade one piece of work on this machine and return what it came to.

    Args:
        lay: puts the work into an empty folder where it has to be put together.
        shown: how the result names it.
        folder: a new folder for the time being; it is gone afterwards.

    Raises:
        NoBroker: a required broker is missing.
    """
    brokers, missing = choose_brokers(exercise, broker, live, required)
    try:
        result = grade(exercise, lay(folder / "work"), brokers, live, seed, keep=folder / "runs")
        return Outcome.of(
            replace(result, submission=shown, brokers_not_run=missing), folder / "runs"
        )
    except BadSubmission as error:
        # Where the lab has put the work means nothing to its student.
        fields = {**error.text.fields, "path": Path(shown).name}
        note = Text(error.text.templates, fields)
        return Outcome.without(exercise.id, shown, seed, note, lab_fault=False)
    finally:
        remove(folder)

"""What a criterion came to, and what a whole grading came to."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from grader.words import NOTHING, Text


class Verdict(enum.StrEnum):
    """The four words of product.md. `unknown` is the lab's fault and never costs points."""

    PASSED = "passed"
    FAILED = "failed"
    BLOCKED = "blocked"
    UNKNOWN = "unknown"


class Status(enum.StrEnum):
    """GRADED, or UNGRADABLE when not one criterion could be tried."""

    GRADED = "graded"
    UNGRADABLE = "ungradable"


@dataclass(frozen=True)
class Finding:
    """One criterion on one broker: the verdict and the words that explain it.

    `expected`, `observed` and `hint` are empty when it passed. `seconds` is wall time, for
    information only. `inputs` names what was drawn from the seed.
    """

    id: str
    title: Text
    max_points: float
    bonus: bool
    verdict: Verdict
    broker: str
    expected: Text = NOTHING
    observed: Text = NOTHING
    hint: Text = NOTHING
    seconds: float = 0.0

    @property
    def points(self) -> float:
        """Points earned: all of them or none."""
        return self.max_points if self.verdict is Verdict.PASSED else 0


@dataclass(frozen=True)
class Result:
    """One submission graded against one exercise.

    `brokers_not_run` names brokers that the exercise asks for and the machine lacks; `isolation`
    says what held the student's processes, `unsafe` that this was too little for marks; `note`
    explains an ungradable submission, `refused` that there was nothing to try; `remarks` are worth
    knowing and change no points, for example what this machine could not try. `scenes` are what was
    seen in each lab (grader/scene.py), for those who want to look; no report needs them.
    """

    exercise: str
    submission: str
    brokers: tuple[str, ...]
    seed: int
    findings: tuple[Finding, ...]
    brokers_not_run: tuple[str, ...] = ()
    isolation: Text = NOTHING
    unsafe: bool = False
    note: Text = NOTHING
    refused: bool = False
    remarks: tuple[Text, ...] = ()
    scenes: tuple[Mapping[str, Any], ...] = field(default=(), compare=False, repr=False)
    seconds: float = 0.0
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def _sum(self, bonus: bool, attribute: str) -> float:
        total = sum(getattr(f, attribute) for f in self.findings if f.bonus is bonus)
        return round(total, 2)

    @property
    def score(self) -> float:
        """Core points earned."""
        return self._sum(False, "points")

    @property
    def max_score(self) -> float:
        """Core points to be had."""
        return self._sum(False, "max_points")

    @property
    def bonus(self) -> float:
        """Bonus points earned."""
        return self._sum(True, "points")

    @property
    def max_bonus(self) -> float:
        """Bonus points to be had."""
        return self._sum(True, "max_points")

    @property
    def status(self) -> Status:
        """GRADED when at least one criterion was really tried."""
        tried = not self.note and any(
            f.verdict in (Verdict.PASSED, Verdict.FAILED) for f in self.findings
        )
        return Status.GRADED if tried else Status.UNGRADABLE

    @property
    def exit_status(self) -> int:
        """0 every core point; 1 points missing; 2 nothing to grade; 3 the lab failed."""
        if any(f.verdict is Verdict.UNKNOWN for f in self.findings):
            return 3
        if self.refused:
            return 2
        complete = bool(self.findings) and self.score == self.max_score
        return 0 if complete else 1

"""What `lab hint` says: which criterion, and how far the student has asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from grader import hints, progress
from grader.exercise import Criterion, Exercise
from grader.progress import Step
from grader.record import Record
from grader.report.document import Entry
from grader.words import LANGUAGES, NOTHING, Text

LAST = 3
# What to look at first: what failed may be what the others wait for.
ORDER = ("failed", "unknown", "blocked")


def first_open(exercise: Exercise, record: Record) -> Criterion | None:
    """Return the criterion to look at next, None where the last run passed all that it tried.

    That is the first of the rubric that failed; the core comes before the bonus.
    """
    verdicts: dict[str, set[str]] = {}
    for entry in record.entries("en"):
        verdicts.setdefault(entry["id"], set()).add(entry["verdict"])
    for bonus in (False, True):
        rows = [c for c in exercise.criteria if c.bonus is bonus]
        for verdict in ORDER:
            for row in rows:
                if verdict in verdicts.get(row.id, ()):
                    return row
    return None


def entries_of(criterion: Criterion, record: Record | None, lang: str) -> Sequence[Entry]:
    """Return what the criterion came to in the last run, one entry for each broker."""
    return [e for e in record.entries(lang) if e["id"] == criterion.id] if record else []


def starts(record: Record | None) -> bool:
    """Whether the work was up and running in the last run, as far as is known."""
    return not (record and record.documents["en"].get("note"))


def nudge(criterion: Criterion, record: Record | None) -> Text:
    """Return the first step: the hint of the mistake that the last run met, or the usual one."""
    if not starts(record):
        return Text.of("hint_start_1")
    said = {lang: _said(entries_of(criterion, record, lang)) for lang in LANGUAGES}
    if not all(said.values()):
        return criterion.hints["default"]
    return Text({lang: "{" + lang + "}" for lang in LANGUAGES}, said)


def _said(entries: Sequence[Entry]) -> str:
    hints = (e["hint"] for e in entries if e["verdict"] == "failed" and e["hint"])
    return str(next(hints, ""))


def text_of(exercise: Exercise, criterion: Criterion, step: int, record: Record | None) -> Text:
    """Return the text of a step from 1 to 3, NOTHING where nobody has written it."""
    if step == 1:
        return nudge(criterion, record)
    if not starts(record):
        return Text.of(f"hint_start_{step}", id=exercise.id, module=exercise.module)
    return hints.further(exercise, criterion.id).get(hints.STEPS[step - 2], NOTHING)


def advance(
    exercise: Exercise, criterion: Criterion, record: Record | None, wanted: int | None
) -> tuple[int, OSError | None]:
    """Return the step to show now, and why it can't be remembered, if so.

    Each call goes one step further; a mistake that was not recognised before begins anew.

    Args:
        wanted: the step that was asked for, None for the next one.
    """
    now = nudge(criterion, record).render("en")
    try:
        with progress.change(exercise.id) as standing:
            shown = _shown(standing[0], criterion.id, now)
            step = wanted or min(shown + 1, LAST)
            steps = {**standing[0].hints, criterion.id: Step(max(step, shown), now)}
            standing[0] = replace(standing[0], hints=steps)
    except OSError as error:
        shown = _shown(progress.read().get(exercise.id, progress.Standing()), criterion.id, now)
        return wanted or min(shown + 1, LAST), error
    return step, None


def _shown(standing: progress.Standing, id: str, now: str) -> int:
    known = standing.hints.get(id)
    return known.step if known and known.nudge == now else 0

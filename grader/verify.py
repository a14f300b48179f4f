"""The maintainer's proof: starters fail, solutions shine, each wrong answer fails as it says.

Every folder is a submission like any other. A wrong answer holds case.toml:

    fails = ["criterion"]        it fails exactly these
    why = "one sentence"
    also = { other = "why" }     and these, for the reason given
    broker = "rabbitmq"          where the mistake shows only there (optional)
    base, changes                where it is another answer but for its mistake (see variant.py)

A right answer needs none, unless it is another answer with a part done differently: then it holds
`why`, `base` and `changes`.
"""

from __future__ import annotations

import random
import shutil
import tomllib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grader.errors import BadExercise
from grader.exercise import EXERCISES, ROOT, SOLUTIONS, Exercise, find, folders
from grader.runner import grade
from grader.session import as_they_end
from grader.stack.provider import Stack
from grader.submission import Submission
from grader.variant import laid
from grader.verdict import Result, Verdict

WRONG, RIGHT = ROOT / "tests" / "wrong_answers", ROOT / "tests" / "right_answers"
# Grading waits for processes to boot about half of its time.
AT_ONCE = 3
# With so many wrong answers of each exercise, CI stays below half an hour.
SAMPLE = 6
Judge = Callable[[Result], list[str]]


@dataclass(frozen=True)
class Task:
    """One grading and what must come of it."""

    name: str
    exercise: Exercise
    path: Path
    brokers: tuple[str, ...]
    only: tuple[str, ...]
    judge: Judge

    @property
    def needs(self) -> set[str]:
        """The brokers that must be at hand."""
        return set(self.brokers)


@dataclass(frozen=True)
class Outcome:
    """What a task came to: an empty list of problems is success."""

    name: str
    problems: list[str]
    seconds: float
    lab_fault: bool = False
    not_run: bool = False


def verify(
    stack: Stack,
    brokers: Sequence[str],
    seed: int,
    *,
    full: bool = False,
    sample: bool = False,
    ids: Sequence[str] = (),
) -> Iterator[Outcome]:
    """Yield an outcome for each task, as it becomes known.

    Args:
        brokers: the brokers at hand; solutions are graded on all of them.
        full: everything on every broker, and every criterion of every wrong answer.
        sample: of each exercise the starter, one right answer, and a wrong one for each of six
            criteria, drawn by the seed; `lab grade solutions` tries the solutions whole.
        ids: exercises to verify, all by default.
    """
    exercises = [find(id) for id in ids] or [find(folder.name) for folder in folders()]
    scratch = stack.home.folder / "cases"
    draw = random.Random(seed) if sample else None
    tasks = [t for e in exercises for t in tasks_of(e, tuple(brokers), full, scratch, draw)]
    for task in tasks:
        if not task.needs <= set(brokers):
            yield Outcome(task.name, [], 0.0, not_run=True)
    tasks = [task for task in tasks if task.needs <= set(brokers)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        futures = [pool.submit(carry_out, task, stack, seed) for task in tasks]
        try:
            for future in as_they_end(futures):
                yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            stack.home.close()  # what the threads wait for ends, and nothing new starts
            raise


def carry_out(task: Task, stack: Stack, seed: int) -> Outcome:
    """Grade one task and judge the result; a lab fault is reported as such."""
    result = grade(
        task.exercise, Submission.at(task.path), task.brokers, stack, seed, only=task.only
    )
    unknown = [f for f in result.findings if f.verdict is Verdict.UNKNOWN]
    if unknown:
        words = [f"{f.id} on {f.broker}: {f.observed.render('en')}" for f in unknown]
        return Outcome(task.name, words, result.seconds, lab_fault=True)
    return Outcome(task.name, task.judge(result), result.seconds)


def tasks_of(
    exercise: Exercise,
    brokers: tuple[str, ...],
    full: bool,
    scratch: Path,
    draw: random.Random | None = None,
) -> Iterator[Task]:
    """Yield the tasks of one exercise, the longest first; variants are laid out in `scratch`.

    Args:
        draw: draws a sample of them; see `verify`.
    """
    mine = tuple(b for b in exercise.brokers if b in brokers)
    some = mine if full else mine[:1]
    id = exercise.id
    right, wrong = cases(RIGHT / id), cases(WRONG / id)
    if draw:
        right, wrong = draw.sample(right, min(1, len(right))), sampled(wrong, exercise, draw)
    else:
        yield Task(f"solutions/{id}", exercise, SOLUTIONS / id, mine, (), shines)
    for path in right:
        whole = laid(path, case_of(path), scratch / "right" / id / path.name)
        core = () if full else tuple(c.id for c in exercise.criteria if not c.bonus)
        yield Task(f"right/{id}/{path.name}", exercise, whole, some, core, has_core)
    for path in wrong:
        yield _wrong(exercise, path, some, full, scratch)
    yield Task(f"exercises/{id}", exercise, EXERCISES / id, some, (), starts_empty)


def sampled(wrong: list[Path], exercise: Exercise, draw: random.Random) -> list[Path]:
    """Draw up to SAMPLE wrong answers; each fails a criterion that none before it does."""
    chosen: list[Path] = []
    proven: set[str] = set()
    for path in draw.sample(wrong, len(wrong)):
        fails = set(read_case(path, exercise)["fails"])
        if fails - proven and len(chosen) < SAMPLE:
            chosen.append(path)
            proven |= fails
    return chosen


def cases(folder: Path) -> list[Path]:
    """Return the submissions below a folder."""
    return sorted(p for p in folder.glob("*") if p.is_dir()) if folder.is_dir() else []


def _wrong(
    exercise: Exercise, path: Path, some: tuple[str, ...], full: bool, scratch: Path
) -> Task:
    case = read_case(path, exercise)
    whole = laid(path, case, scratch / exercise.id / path.name)
    brokers = (case["broker"],) if "broker" in case else some
    fails, also = set(case["fails"]), set(case.get("also", {}))
    only = tuple(case["fails"])
    if full:
        # One whose mistake is in the core need not have done any extension challenge.
        challenges = any(exercise.criterion(id).bonus for id in fails)
        only = tuple(c.id for c in exercise.criteria if challenges or not c.bonus)

    def judge(result: Result) -> list[str]:
        return fails_exactly(result, fails, also)

    return Task(f"wrong/{exercise.id}/{path.name}", exercise, whole, brokers, only, judge)


def lay_out(exercise: Exercise, to: Path, answers: Path = WRONG) -> Iterator[Path]:
    """Write an exercise's wrong (or right) answers whole below `to`; yield each."""
    for path in cases(answers / exercise.id):
        whole = laid(path, case_of(path), to / path.name)
        if whole == path:
            shutil.copytree(path, to / path.name)
        yield to / path.name


def read_case(path: Path, exercise: Exercise) -> dict[str, Any]:
    """Read and check a wrong answer's case.toml; BadExercise names the file and the key."""
    file, case = path / "case.toml", case_of(path)
    if not case.get("fails") or not isinstance(case.get("why"), str):
        raise BadExercise("bad_key", file=file, key="fails / why", wanted="both filled in")
    if not isinstance(case.get("also", {}), dict):
        wanted = "a table: the criterion, and why it fails too"
        raise BadExercise("bad_key", file=file, key="also", wanted=wanted)
    for id in (*case["fails"], *case.get("also", {})):
        exercise.criterion(id)
    return case


def case_of(path: Path) -> dict[str, Any]:
    """Read a case.toml; where there is none, nothing is said."""
    file = path / "case.toml"
    try:
        return tomllib.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    except (OSError, ValueError) as error:
        raise BadExercise("broken_toml", file=file, error=error) from None


def shines(result: Result) -> list[str]:
    """A solution has every core point and every bonus point."""
    return [_problem(f, "passed") for f in result.findings if f.verdict is not Verdict.PASSED]


def has_core(result: Result) -> list[str]:
    """A right answer has every core point."""
    return [p for f in result.findings if not f.bonus for p in _unless(f, Verdict.PASSED)]


def starts_empty(result: Result) -> list[str]:
    """A starter passes no core criterion, and says a sentence that helps for each that fails."""
    passed = [_problem(f, "not passed") for f in result.findings if _passed_core(f)]
    silent = [
        f"{f.id}: no hint"
        for f in result.findings
        if f.verdict is Verdict.FAILED and not (f.observed and f.hint)
    ]
    return passed + silent


def fails_exactly(result: Result, fails: set[str], also: set[str]) -> list[str]:
    """A wrong answer fails what it names; what it may fail besides has its reason in the case."""
    problems = []
    for finding in result.findings:
        if finding.id in fails:
            problems += _unless(finding, Verdict.FAILED)
        elif finding.verdict is Verdict.FAILED and finding.id not in also:
            problems.append(_problem(finding, "passed"))
    return problems


def _passed_core(finding: Any) -> bool:
    return finding.verdict is Verdict.PASSED and not finding.bonus


def _unless(finding: Any, verdict: Verdict) -> list[str]:
    return [] if finding.verdict is verdict else [_problem(finding, str(verdict))]


def _problem(finding: Any, wanted: str) -> str:
    words = "; ".join(
        t.render("en") for t in (finding.expected, finding.observed, finding.hint) if t
    )
    return f"{finding.id} on {finding.broker}: wanted {wanted}, got {finding.verdict} ({words})"

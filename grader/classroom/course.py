"""Grades a class into its book: each result is in the book the moment it is known."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from grader.classroom.book import Book, Key, Sort
from grader.classroom.job import Job, Outcome
from grader.classroom.prints import checks_print, environment_print
from grader.classroom.tables import Attempt
from grader.classroom.work import Work
from grader.errors import BadSubmission
from grader.exercise import Exercise
from grader.session import draw_seed


@dataclass(frozen=True)
class Settings:
    """How a class is graded.

    Args:
        broker: "redis", "rabbitmq" or "all".
        stack: a provider's name, "" for the usual order.
        required: brokers whose absence is an error.
        seed: of all drawn inputs, the same for everybody; a new one is drawn for None.
        jobs: submissions at a time.
        runs: gradings of each submission; later ones have seeds of their own.
        again: grade also what has not changed.
        unsafe: grade although this machine can't hold strangers' work.
        lang: of what is said meanwhile.
    """

    broker: str = "all"
    stack: str = ""
    required: Sequence[str] = ()
    seed: int | None = None
    jobs: int = 2
    runs: int = 1
    again: bool = False
    unsafe: bool = False
    lang: str = "en"


class Hands(Protocol):
    """Who does the jobs: this machine (here.py) or a farm (dispatch.py). A context manager."""

    def __enter__(self) -> Hands: ...

    def __exit__(self, *error: object) -> None: ...

    def brokers(self, exercise: Exercise) -> tuple[str, ...]:
        """Return the brokers that the exercise's work is going to be graded on."""

    def done(self, jobs: Iterable[Job], *, again: bool) -> Iterator[tuple[Job, Outcome]]:
        """Yield jobs with what they came to; few wait at any time, so the memory is flat.

        Args:
            again: the lab failed them once already.
        """


@dataclass(frozen=True)
class Step:
    """What became of one grading: `attempt` is None where nothing had changed since the last."""

    work: Work
    attempt: Attempt | None = None


def used(works: Iterable[Work], exercises: Sequence[Exercise]) -> list[Exercise]:
    """Return the exercises that there is work for."""
    known = {exercise.id: exercise for exercise in exercises}
    return [known[id] for id in dict.fromkeys(work.exercise for work in works)]


def grade_class(
    works: Sequence[Work],
    exercises: Sequence[Exercise],
    book: Book,
    settings: Settings,
    workforce: Callable[[list[Exercise]], Hands],
) -> Iterator[Step]:
    """Grade what is new or changed and yield each step as it is known, and safely in the book.

    What the lab failed is tried once more when all else is done.

    Args:
        workforce: gives the hands for the exercises that there is work for.

    Raises:
        LabFault: a machine can't hold strangers' work, and `unsafe` was not said.
        NoBroker: a required broker is missing.
    """
    chosen = used(works, exercises)
    known = {exercise.id: exercise for exercise in chosen}
    seed = draw_seed() if settings.seed is None else settings.seed
    with workforce(chosen) as hands:
        jobs: list[Job] = []
        for work in works:
            exercise = known[work.exercise]
            planned = list(_plan(work, exercise, hands.brokers(exercise), book, settings, seed))
            jobs += planned
            if not planned:
                yield Step(work)
        failed: list[Job] = []
        for job, outcome in hands.done(jobs, again=False):
            if outcome.lab_fault:
                failed.append(replace(job, turn=job.turn + settings.runs))
            yield _booked(book, job, outcome)
        for job, outcome in hands.done(failed, again=True):
            yield _booked(book, job, outcome)


def _booked(book: Book, job: Job, outcome: Outcome) -> Step:
    attempt = job.attempt(outcome)
    book.add(attempt)
    return Step(job.work, attempt)


def _plan(
    work: Work,
    exercise: Exercise,
    brokers: tuple[str, ...],
    book: Book,
    settings: Settings,
    seed: int,
) -> Iterator[Job]:
    """Yield a job for each grading that is still to be done."""
    sort = Sort(_digest(work), checks_print(exercise), environment_print(), ",".join(brokers))
    turns, faults = book.turns(Key(work.student, exercise.id), sort)
    wanted = settings.runs - (0 if settings.again else turns - faults)
    for turn in range(turns, turns + wanted):
        yield Job(work, exercise, sort, turn, seed + turn)


def _digest(work: Work) -> str:
    try:
        return work.digest()
    except (BadSubmission, OSError):
        return f"unreadable:{work.shown}"

"""Grades a class into its book: each result is in the book the moment it is known."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

from grader.classroom.book import Book, Key, Sort
from grader.classroom.evidence import pack
from grader.classroom.prints import checks_print, environment_print, versions
from grader.classroom.tables import Attempt
from grader.classroom.work import Work
from grader.errors import BadSubmission
from grader.exercise import Exercise
from grader.extras import supply
from grader.home import remove
from grader.isolation import demand, described, isolated
from grader.runner import grade
from grader.sandbox import best
from grader.session import as_they_end, choose_brokers, draw_seed, session
from grader.stack.provider import Stack
from grader.verdict import Result, Verdict


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


@dataclass(frozen=True)
class Step:
    """What became of one grading: `attempt` is None where nothing had changed since the last."""

    work: Work
    attempt: Attempt | None = None


@dataclass(frozen=True)
class _Job:
    work: Work
    exercise: Exercise
    sort: Sort
    turn: int
    seed: int
    number: int = field(default_factory=count().__next__)

    @property
    def key(self) -> Key:
        return Key(self.work.student, self.exercise.id)


def grade_class(
    works: Sequence[Work],
    exercises: Sequence[Exercise],
    book: Book,
    settings: Settings,
    tell: Callable[[str], None],
) -> Iterator[Step]:
    """Grade what is new or changed and yield each step as it is known, and safely in the book.

    What the lab failed is tried once more when all else is done.

    Raises:
        LabFault: this machine can't hold strangers' work, and `unsafe` was not said.
        NoBroker: a required broker is missing.
    """
    demand(best(), settings.unsafe)
    known = {exercise.id: exercise for exercise in exercises}
    used = [known[id] for id in dict.fromkeys(work.exercise for work in works)]
    supply(dict.fromkeys(e for exercise in used for e in exercise.extras), tell, settings.lang)
    seed = draw_seed() if settings.seed is None else settings.seed
    with session(settings.stack) as live, ThreadPoolExecutor(settings.jobs) as pool:
        ground = _Ground(live, settings, pool)
        try:
            yield from ground.steps(works, known, book, seed)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            live.home.close()  # what the threads wait for ends, and nothing new starts
            raise


@dataclass
class _Ground:
    """Where the jobs of one call are done."""

    live: Stack
    settings: Settings
    pool: ThreadPoolExecutor

    def steps(
        self, works: Iterable[Work], known: dict[str, Exercise], book: Book, seed: int
    ) -> Iterator[Step]:
        jobs: list[_Job] = []
        for work in works:
            planned = list(self._plan(work, known[work.exercise], book, seed))
            jobs += planned
            if not planned:
                yield Step(work)
        failed: list[_Job] = []
        for job, attempt in self._done(jobs, ahead=2 * self.settings.jobs):
            book.add(attempt)
            if attempt.lab_fault:
                failed.append(replace(job, turn=job.turn + self.settings.runs))
            yield Step(job.work, attempt)
        for job, attempt in self._done(failed, ahead=1):
            book.add(attempt)
            yield Step(job.work, attempt)

    def _plan(self, work: Work, exercise: Exercise, book: Book, seed: int) -> Iterator[_Job]:
        """Yield a job for each grading that is still to be done."""
        asked = exercise.asked(self.settings.broker)
        missing = self.live.missing(asked)
        brokers = tuple(b for b in asked if b not in missing)
        on = ",".join(brokers)
        sort = Sort(_digest(work), checks_print(exercise), environment_print(), on)
        turns, faults = book.turns(Key(work.student, exercise.id), sort)
        wanted = self.settings.runs - (0 if self.settings.again else turns - faults)
        for turn in range(turns, turns + wanted):
            yield _Job(work, exercise, sort, turn, seed + turn)

    def _done(self, jobs: Iterable[_Job], ahead: int) -> Iterator[tuple[_Job, Attempt]]:
        """Yield jobs with what they came to; few wait at any time, so the memory is flat."""
        futures: Iterator[Future[tuple[_Job, Attempt]]] = (
            self.pool.submit(self._carry_out, job) for job in jobs
        )
        for future in as_they_end(futures, ahead):
            yield future.result()

    def _carry_out(self, job: _Job) -> tuple[_Job, Attempt]:
        kept = self.live.home.folder / f"class-{job.number}"
        result = self._result(job, kept)
        attempt = _attempt(job, result, pack(result, kept / "runs"))
        remove(kept)
        return job, attempt

    def _result(self, job: _Job, kept: Path) -> Result:
        brokers, missing = choose_brokers(
            job.exercise, self.settings.broker, self.live, self.settings.required
        )
        try:
            submission = job.work.lay(kept / "work")
            result = grade(
                job.exercise, submission, brokers, self.live, job.seed, keep=kept / "runs"
            )
        except BadSubmission as error:
            box = best()
            result = Result(
                job.exercise.id,
                job.work.shown,
                brokers,
                job.seed,
                (),
                isolation=described(box),
                unsafe=not isolated(box),
                note=error.text,
            )
        return replace(result, submission=job.work.shown, brokers_not_run=missing)


def _digest(work: Work) -> str:
    try:
        return work.digest()
    except (BadSubmission, OSError):
        return f"unreadable:{work.shown}"


def _attempt(job: _Job, result: Result, evidence: bytes) -> Attempt:
    return Attempt(
        student=job.key.student,
        exercise=job.key.exercise,
        **vars(job.sort),
        turn=job.turn,
        place=job.work.shown,
        submitted_at=job.work.at,
        late=job.work.late,
        started_at=result.started_at,
        seconds=result.seconds,
        seed=result.seed,
        status=result.status.value,
        score=result.score,
        max_score=job.exercise.points(),
        bonus=result.bonus,
        max_bonus=job.exercise.points(bonus=True),
        lab_fault=any(f.verdict is Verdict.UNKNOWN for f in result.findings),
        unsafe=result.unsafe,
        verdicts={f"{f.id}@{f.broker}": f.verdict.value for f in result.findings},
        versions=versions(),
        evidence=evidence,
    )

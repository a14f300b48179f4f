"""This machine does the jobs of a class: several at a time, on one stack."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import count

from grader.classroom.course import Settings
from grader.classroom.job import Job, Outcome, judge
from grader.exercise import Exercise
from grader.extras import supply
from grader.isolation import demand
from grader.sandbox import best
from grader.session import as_they_end, session


class Here:
    """Hands of this machine (see course.Hands)."""

    def __init__(
        self, settings: Settings, exercises: Sequence[Exercise], tell: Callable[[str], None]
    ) -> None:
        """Install what the exercises need.

        Raises:
            LabFault: this machine can't hold strangers' work, and `unsafe` was not said.
        """
        demand(best(), settings.unsafe)
        supply(dict.fromkeys(e for one in exercises for e in one.extras), tell, settings.lang)
        self._settings = settings
        self._numbers = count()
        self._open = ExitStack()

    def __enter__(self) -> Here:
        self._live = self._open.enter_context(session(self._settings.stack))
        self._pool = self._open.enter_context(ThreadPoolExecutor(self._settings.jobs))
        return self

    def __exit__(self, *error: object) -> None:
        if error[0]:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._live.home.close()  # what the threads wait for ends, and nothing new starts
        self._open.__exit__(*error)  # type: ignore[arg-type]

    def brokers(self, exercise: Exercise) -> tuple[str, ...]:
        """Return those of the exercise's brokers that this machine has."""
        asked = exercise.asked(self._settings.broker)
        missing = self._live.missing(asked)
        return tuple(broker for broker in asked if broker not in missing)

    def done(self, jobs: Iterable[Job], *, again: bool) -> Iterator[tuple[Job, Outcome]]:
        """Yield jobs with what they came to; what is tried again has the machine for itself."""
        futures: Iterator[Future[tuple[Job, Outcome]]] = (
            self._pool.submit(self._carry_out, job) for job in jobs
        )
        for future in as_they_end(futures, 1 if again else 2 * self._settings.jobs):
            yield future.result()

    def _carry_out(self, job: Job) -> tuple[Job, Outcome]:
        folder = self._live.home.folder / f"class-{next(self._numbers)}"
        chosen = self._settings
        return job, judge(
            job.exercise,
            job.work.lay,
            job.work.shown,
            job.seed,
            self._live,
            chosen.broker,
            tuple(chosen.required),
            folder,
        )

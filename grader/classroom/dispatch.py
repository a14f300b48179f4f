"""A farm does the jobs of a class: they are sent, and the results come back through the store."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count, islice

from grader.classroom.course import Settings
from grader.classroom.farm import TASK, farm_app, reach
from grader.classroom.job import Job, Outcome
from grader.classroom.store import Shelf, Store
from grader.errors import BadSubmission
from grader.exercise import Exercise
from grader.home import Home, remove, sweep
from grader.process import stopped
from grader.session import interruptible
from grader.words import Text

# Jobs that are sent and not done at any time: enough for many machines, and the memory stays flat.
WINDOW = 100
POLL = 0.5  # seconds between two looks into the store
SILENCE = 30  # seconds without a result after which the machines are asked whether they are there


@dataclass(frozen=True)
class Place:
    """Where a farm is: its broker's URL, its store's, and the name of this grade book there."""

    url: str
    store: str
    call: str


class Farm:
    """Hands of a farm (see course.Hands).

    A job has the same name however often it is sent, so a call that goes on where another was cut
    off finds what was done meanwhile, and nothing is in the book twice.
    """

    def __init__(self, settings: Settings, place: Place, tell: Callable[[str], None]) -> None:
        self._settings, self._place, self._tell = settings, place, tell
        self._app = farm_app(place.url)
        self._shelf: Shelf = Store(place.store).call(place.call)
        self._numbers = count()
        self._open = ExitStack()

    def __enter__(self) -> Farm:
        self._open.enter_context(interruptible())
        sweep()
        self._home = self._open.enter_context(Home("farm"))
        reach(self._app)
        self._shelf.open()
        self._ask_machines()
        return self

    def __exit__(self, *error: object) -> None:
        if not error[0]:
            self._shelf.clear()
        self._open.__exit__(*error)  # type: ignore[arg-type]

    def brokers(self, exercise: Exercise) -> tuple[str, ...]:
        """Return the brokers that are asked for: a machine that lacks one says so of the job."""
        return exercise.asked(self._settings.broker)

    def done(self, jobs: Iterable[Job], *, again: bool) -> Iterator[tuple[Job, Outcome]]:
        """Yield jobs with what they came to, in whatever order they are done."""
        waiting: dict[str, Job] = {}
        source = iter(jobs)
        heard = time.monotonic()
        while True:
            for job in islice(source, WINDOW - len(waiting)):
                if bad := self._send(job):
                    yield job, bad
                else:
                    waiting[self._name(job)] = job
            if not waiting:
                return
            for name in set(self._shelf.results()) & set(waiting):
                heard = time.monotonic()
                yield waiting.pop(name), self._shelf.take(name)
                self._shelf.forget(name)  # only now: it is in the book
            heard = self._rest(heard)

    def _rest(self, heard: float) -> float:
        """Wait a moment; after a long silence ask who is there."""
        if stopped.wait(POLL):
            raise KeyboardInterrupt
        if time.monotonic() - heard < SILENCE:
            return heard
        self._ask_machines()
        return time.monotonic()

    def _ask_machines(self) -> None:
        answers = self._app.control.ping(timeout=1.0)
        if not answers:
            lang = self._settings.lang
            self._tell(Text.of("farm_nobody", store=self._place.store).render(lang))

    def _send(self, job: Job) -> Outcome | None:
        """Send a job, unless its result is there; return what it came to if it can't be sent."""
        name = self._name(job)
        if self._shelf.finished(name):
            return None
        folder = self._home.folder / f"parcel-{next(self._numbers)}"
        try:
            work = self._shelf.put(job.work, folder)
        except BadSubmission as error:
            facts = (job.exercise.id, job.work.shown, job.seed)
            return Outcome.without(*facts, error.text, lab_fault=False)
        finally:
            remove(folder)
        self._app.send_task(TASK, [self._message(job, name, work)])
        return None

    def _message(self, job: Job, name: str, work: str) -> dict[str, object]:
        return {
            "call": self._place.call,
            "job": name,
            "exercise": job.exercise.id,
            "work": work,
            "shown": job.work.shown,
            "seed": job.seed,
            "broker": self._settings.broker,
            "checks": job.sort.checks,
        }

    def _name(self, job: Job) -> str:
        parts = [job.key.student, job.key.exercise, *vars(job.sort).values(), job.turn]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]

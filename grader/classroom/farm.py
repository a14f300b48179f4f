"""A machine of a farm: a Celery worker that grades what `lab class --farm` sends, from one queue.

A message names a job; works and results travel through the store (store.py). It is acknowledged
when the result is there, so a machine that dies loses no job: RabbitMQ gives the message to another
one at once, Redis after the time limit of a job. Deliveries are counted in the store, because Redis
counts none: a job that keeps killing its machine is the lab's failure after the third.
"""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import billiard.util
from celery import Celery
from celery.exceptions import Reject
from celery.signals import worker_process_shutdown
from kombu.utils.functional import retry_over_time

from grader import exercise as exercises
from grader.classroom.job import Outcome, judge
from grader.classroom.prints import checks_print
from grader.classroom.store import Shelf, Store
from grader.errors import LabError, LabFault, NoBroker
from grader.exercise import Exercise
from grader.home import Home, sweep
from grader.private import with_private
from grader.runner import lab_words
from grader.session import quiet_session
from grader.stack.provider import Stack
from grader.words import Text

QUEUE = "lab.grading"
TASK = "lab.grade"
MOST_DELIVERIES = 3
PATIENCE = 60  # seconds for a store that fails for a moment
VISIBLE = 60  # seconds that Redis waits beyond the time limit before it delivers again

T = TypeVar("T")


def farm_app(url: str, seconds: int = 1200) -> Celery:
    """Return the farm's Celery app.

    Args:
        url: of the broker.
        seconds: the longest that one grading may take. RabbitMQ takes a consumer that does not
            acknowledge for 30 minutes for dead.

    A quorum queue survives the loss of a RabbitMQ node; it has to be asked for, and its publisher
    waits for the confirmation (RabbitMQ's guide to quorum queues). One message at a time for each
    process, so that no machine hoards jobs while another is idle.
    """
    app = Celery("lab-farm", broker=url, set_as_current=False)
    quorum = url.startswith("amqp")
    app.conf.update(
        accept_content=["json"],
        task_default_queue=QUEUE,
        task_default_queue_type="quorum" if quorum else "classic",
        broker_transport_options=(
            {"confirm_publish": True} if quorum else {"visibility_timeout": seconds + VISIBLE}
        ),
        broker_connection_retry_on_startup=True,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_acks_on_timeout=False,
        task_ignore_result=True,
        task_time_limit=seconds,
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
    )
    return app


@dataclass(frozen=True)
class Settings:
    """How a machine of the farm grades.

    Args:
        store: the store's URL.
        checks: a folder of the instructor's own checks, the same as where the class is.
        stack: where brokers come from, "" for the usual order.
        lang: of what it prints.
    """

    store: str
    checks: Path | None = None
    stack: str = ""
    lang: str = "en"


class Machine:
    """What one process of the pool keeps from job to job: its own brokers, started once."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.store = Store(settings.store)
        self._open = ExitStack()
        self._live: Stack | None = None

    def carry_out(self, message: Mapping[str, Any]) -> None:
        """Do the job of a message and leave what it came to, unless that is there already.

        Raises:
            LabFault: the store fails, and did not recover in time.
        """
        shelf = self.store.call(message["call"])
        job = message["job"]
        if not patiently(lambda: shelf.is_open() and not shelf.finished(job)):
            return  # sent twice: by a call that was cut off, and by the one that went on
        outcome = self._outcome(shelf, message, patiently(lambda: shelf.begin(job)))
        patiently(lambda: shelf.finish(job, outcome))
        word = "farm_fault" if outcome.lab_fault else "farm_graded"
        fields = {"exercise": message["exercise"], "job": job[:8], "seconds": outcome.seconds}
        print(Text.of(word, **fields).render(self.settings.lang), flush=True)

    def _outcome(self, shelf: Shelf, message: Mapping[str, Any], delivery: int) -> Outcome:
        try:
            if delivery > MOST_DELIVERIES:
                raise LabFault("farm_gave_up", count=MOST_DELIVERIES)
            return self._judge(shelf, message)
        except Exception as error:  # whatever it is, the class waits for an answer
            words = error.text if isinstance(error, LabError) else lab_words(error)
            where = Text.of("farm_where", host=socket.gethostname(), error=words)
            facts = (message["exercise"], message["shown"], message["seed"])
            return Outcome.without(*facts, where, lab_fault=True)

    def _judge(self, shelf: Shelf, message: Mapping[str, Any]) -> Outcome:
        exercise = self._exercise(message)
        live = self._stack()
        folder = live.home.folder / f"job-{message['job']}"
        submission = shelf.fetch(message["work"], folder / "parcel")
        return judge(
            exercise,
            lambda _: submission,
            message["shown"],
            message["seed"],
            live,
            message["broker"],
            exercise.asked(message["broker"]),
            folder,
        )

    def _exercise(self, message: Mapping[str, Any]) -> Exercise:
        """Return the exercise, as the class has it too."""
        exercise = with_private(exercises.find(message["exercise"]), self.settings.checks)
        if checks_print(exercise) != message["checks"]:
            raise LabFault("farm_other_checks", exercise=exercise.id)
        return exercise

    def _stack(self) -> Stack:
        if self._live is None:
            self._live = self._open.enter_context(quiet_session(self.settings.stack))
        return self._live

    def close(self) -> None:
        """End this process's brokers."""
        self._open.close()


def serve(
    url: str, settings: Settings, jobs: int, seconds: int, ready: Callable[[str], None]
) -> int:
    """Grade what comes until the worker is told to end; return its exit status.

    Ctrl-C or SIGTERM: no new job, those that run are finished; a second one ends them, and another
    machine does them again.

    Args:
        jobs: gradings at a time.
        seconds: the longest that one may take.
        ready: told the broker's URL, without its password, when it answers.

    Raises:
        NoBroker: nobody answers at `url`.
        UsageError: the store can't be used.
    """
    Store(settings.store).probe()
    app = farm_app(url, seconds)
    ready(reach(app))
    machine = Machine(settings)

    @app.task(name=TASK)
    def _grade(message: dict[str, Any]) -> None:
        try:
            machine.carry_out(message)
        except LabFault as error:  # another machine may have more luck with the store
            raise Reject(error, requeue=True) from error

    worker_process_shutdown.connect(lambda **_: machine.close(), weak=False)
    name = f"lab-{os.getpid()}@{socket.gethostname()}"
    with Home("farm") as home:
        _keep_files_in(home)
        worker = app.Worker(concurrency=jobs, hostname=name, loglevel="ERROR", without_gossip=True)
        worker.start()
    sweep()  # what a process left that was ended in the midst of a job
    return int(worker.exitcode or 0)


def _keep_files_in(home: Home) -> None:
    """Have the pool's temporary files in a folder that the next call sweeps after a SIGKILL."""
    tempfile.tempdir = str(home.folder)
    billiard.util.get_temp_dir()  # once made, it stays
    tempfile.tempdir = None


def patiently(step: Callable[[], T]) -> T:
    """Return what a step with the store returns; one that fails is tried again for a while.

    Raises:
        LabFault: it failed to the last.
    """
    found: T = retry_over_time(
        step, LabFault, interval_start=1, interval_step=2, interval_max=10, timeout=PATIENCE
    )
    return found


def reach(app: Celery) -> str:
    """Make sure of the broker and return its URL without the password.

    Raises:
        NoBroker: nobody answers.
    """
    with app.connection_for_write() as connection:
        shown = connection.as_uri()  # without the password
        try:
            connection.ensure_connection(max_retries=1, timeout=10)
        except Exception as error:
            words = str(error).partition("\n")[0]
            raise NoBroker("farm_unreachable", url=shown, error=words) from None
    return str(shown)

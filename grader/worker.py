"""A submission's worker: a real `celery worker`, started, watched and ended from outside."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Mapping

import psutil

from grader.errors import SubmissionFault, WorkerDied
from grader.place import Place
from grader.process import Child, lives
from grader.sandbox import WRAPPERS

# Gossip, mingle and heartbeats cost a second at start and tell the grader nothing.
QUIET = ("--without-gossip", "--without-mingle", "--without-heartbeat")


class Worker:
    """One worker process with its pool children.

    Args:
        place: where it runs.
        name: the worker's node name before the @.
        concurrency: number of pool children.
        pool: Celery's name of the pool.
        events: have it send Celery's events.
        speed: how many times sooner a task that waits for its ETA is started, later for less than 1
            (inside/pace.py).
        options: further arguments of `celery worker`.
        extra: variables for its environment beside the place's own.
    """

    def __init__(
        self,
        place: Place,
        *,
        name: str = "lab",
        concurrency: int = 2,
        pool: str = "prefork",
        events: bool = False,
        speed: float = 1,
        options: tuple[str, ...] = (),
        extra: Mapping[str, str] | None = None,
    ) -> None:
        arguments = [f"{speed:g}", "-A", f"{place.module}:app", "worker", *QUIET, "-l", "INFO"]
        arguments += ["-P", pool, "-c", str(concurrency), "-n", f"{name}@lab", *options]
        arguments += ["-E"] if events else []
        self.started_at, self.speed = time.monotonic(), speed
        self.child: Child = place.start("worker", arguments, extra)

    @property
    def alive(self) -> bool:
        """Whether the worker's process still runs."""
        return self.child.alive

    @property
    def log(self) -> str:
        """What the worker printed so far."""
        return self.child.output.text

    @property
    def main(self) -> psutil.Process:
        """The worker's main process; what holds it stands above it in the tree.

        Raises:
            WorkerDied: there is none any more.
        """
        for process in self.child.family:
            with contextlib.suppress(psutil.Error):
                if lives(process) and process.name() not in WRAPPERS:
                    return process
        raise self.death()

    @property
    def pool(self) -> list[psutil.Process]:
        """The pool's children, and whatever else the submission started from the worker.

        One that has ended and was not waited for yet is none.
        """
        with contextlib.suppress(psutil.Error):
            return [child for child in self.main.children() if lives(child)]
        return []

    def processes(self, count: int) -> list[psutil.Process]:
        """Return so many of the pool's children.

        Raises:
            SubmissionFault: the pool has fewer, say because the app asks for one of threads.
        """
        pool = self.pool
        if len(pool) < count:
            raise SubmissionFault("pool_too_small", count=count, seen=len(pool))
        return pool[:count]

    @property
    def cpu_seconds(self) -> float:
        """Processor time that the worker and its living children have used."""
        return self.child.cpu_seconds

    def death(self) -> SubmissionFault:
        """Return the error that tells how the worker ended, with the last lines of its log."""
        return WorkerDied("worker_died", how=how_it_ended(self.child), log=tail(self.log))

    def end(self) -> None:
        """Kill the worker with everything that it started."""
        self.child.end()


def how_it_ended(child: Child) -> str:
    """Return "exit status 1" or "signal SIGKILL" for a process that has ended."""
    code = child.exit_code
    if code is None:
        return "-"
    if code > 128 and code - 128 in signal.Signals._value2member_map_:
        code = 128 - code  # bubblewrap reports a signal the way a shell does
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"


def tail(text: str, lines: int = 6) -> str:
    """Return the last lines that say something, in one string."""
    kept = [line.rstrip() for line in text.splitlines() if line.strip()]
    return "\n".join(kept[-lines:])[-1200:]

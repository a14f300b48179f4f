"""A submission's worker: a real `celery worker`, started, watched and ended from outside."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Mapping
from pathlib import Path

import psutil

from grader import sandbox
from grader.errors import SubmissionFault, WorkerDied
from grader.process import Child, spawn

# Gossip, mingle and heartbeats cost a second at start and tell the grader nothing.
QUIET = ("--without-gossip", "--without-mingle", "--without-heartbeat")


class Worker:
    """One worker process with its pool children.

    Args:
        module: the module that holds the object `app`.
        name: the worker's node name before the @.
        concurrency: number of pool children.
        pool: Celery's name of the pool.
        events: have it send Celery's events.
        options: further arguments of `celery worker`.
    """

    def __init__(
        self,
        box: sandbox.Sandbox,
        folder: Path,
        env: Mapping[str, str],
        ledger: Path,
        module: str,
        *,
        name: str = "lab",
        concurrency: int = 2,
        pool: str = "prefork",
        events: bool = False,
        options: tuple[str, ...] = (),
    ) -> None:
        arguments = ["-A", f"{module}:app", "worker", *QUIET, "-l", "INFO", "-P", pool]
        arguments += ["-c", str(concurrency), "-n", f"{name}@lab", *options]
        arguments += ["-E"] if events else []
        command = box.command("worker", arguments, folder)
        self.started_at = time.monotonic()
        self.child: Child = spawn(
            command, env=sandbox.environment(folder, env), cwd=folder, ledger=ledger
        )

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
        """The worker's main process; bubblewrap stands above it where it is in force.

        Raises:
            WorkerDied: there is none any more.
        """
        for process in self.child.family:
            with contextlib.suppress(psutil.Error):
                if process.name() != "bwrap":
                    return process
        raise self.death()

    @property
    def pool(self) -> list[psutil.Process]:
        """The pool's children."""
        with contextlib.suppress(psutil.Error):
            return self.main.children()
        return []

    @property
    def cpu_seconds(self) -> float:
        """Processor time that the worker and its living children have used."""
        total = 0.0
        for process in self.child.family:
            with contextlib.suppress(psutil.Error):
                used = process.cpu_times()
                total += used.user + used.system
        return total

    def death(self) -> SubmissionFault:
        """Return the error that tells how the worker ended, with the last lines of its log."""
        return WorkerDied("worker_died", how=how_it_ended(self.child), log=tail(self.log))

    def stop(self, within: float = 15.0) -> int | None:
        """Ask the worker to shut down (SIGTERM) and return its exit code, None if it would not."""
        with contextlib.suppress(psutil.Error, SubmissionFault):
            self.main.send_signal(signal.SIGTERM)
        with contextlib.suppress(Exception):
            return self.child.process.wait(within)
        return None

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

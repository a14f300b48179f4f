"""What a notebook has at hand: the brokers that are up, workers that end with it, their events.

Everything that is started belongs to the notebook's kernel: it ends with the kernel, and where the
kernel was killed the next call of the lab sweeps it.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil

from grader.errors import LabFault, UsageError
from grader.home import Home, sweep
from grader.process import Child, spawn, wait_until
from grader.stack import live
from grader.stack.lease import with_database
from grader.stack.redis import connect

# Each notebook has a database of its own in the lab's Redis: work by hand uses number 0.
DATABASES = {"1_1": 1, "1_2": 2, "1_3": 3, "2_1": 4, "2_2": 5, "3_1": 6, "debug_1": 7}
_open: list[HandsOn] = []


def hands_on(id: str) -> HandsOn:
    """Return the notebook's bench, and make its new folder the working directory.

    Raises:
        UsageError: no lab is up.
    """
    for old in list(_open):
        old.close()
    if (now := live.current()) is None:
        raise UsageError("notebook_no_lab")
    sweep()
    return HandsOn(id, now)


class HandsOn:
    """The notebook's bench.

    Attributes:
        brokers: name -> URL of the brokers that are up.
        backend: URL of the result backend.
        folder: the working directory; files of the notebook live and end here.
    """

    def __init__(self, id: str, up: live.Live) -> None:
        self.backend = with_database(up.services["redis"], DATABASES.get(id, 8))
        self.brokers = {"redis": self.backend}
        if "rabbitmq" in up.services:
            self.brokers["rabbitmq"] = up.services["rabbitmq"]
        with connect(self.backend) as client:
            client.flushdb()
        self._home, self._before, self._children = Home("notebook"), os.getcwd(), list[Child]()
        self.folder = self._home.folder / "work"
        self.folder.mkdir()
        os.chdir(self.folder)
        sys.path.insert(0, str(self.folder))
        sys.dont_write_bytecode = True  # a module that a cell wrote a second ago is read anew
        self.use("redis")
        atexit.register(self.close)
        _open.append(self)

    def use(self, broker: str) -> None:
        """Point Celery in this kernel and in the workers to come at a broker."""
        os.environ["CELERY_BROKER_URL"] = self.brokers[broker]
        os.environ["CELERY_RESULT_BACKEND"] = self.backend

    @contextlib.contextmanager
    def worker(self, module: str, *options: str, broker: str = "redis") -> Iterator[Worker]:
        """Run a worker for a module's app while the block lasts; the command is printed.

        It is killed at the end of the block: a polite end takes a second or two.
        """
        worker = self.start_worker(module, *options, broker=broker)
        try:
            yield worker
        finally:
            worker.kill()

    def start_worker(self, module: str, *options: str, broker: str = "redis") -> Worker:
        """Start a worker and return when it takes tasks.

        Raises:
            LabFault: it does not come up, with what it printed.
        """
        words = ["celery", "-A", module, "worker", "-E", "--loglevel=info", "--without-mingle"]
        words += ["--without-gossip", *options]
        print("$", *words)
        child = self.run(sys.executable, "-m", *words, CELERY_BROKER_URL=self.brokers[broker])
        worker = Worker(child)
        self.until(lambda: " ready." in worker.log or not child.alive, 30, "the worker is ready")
        if not child.alive:
            raise LabFault("notebook_worker", log=child.output.finish()[-800:])
        return worker

    def run(self, *command: str, **env: str) -> Child:
        """Start any command in the notebook's folder; it ends with the notebook."""
        # A worker that is killed leaves what it had in the folder for temporary files.
        own = {"PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": str(self._home.folder)}
        env = {**os.environ, **own, **env}
        child = spawn(command, env=env, cwd=self.folder, ledger=self._home.ledger)
        self._children.append(child)
        return child

    def until(self, true: Callable[[], Any], within: float = 20, what: str = "") -> Any:
        """Return the first true value of `true()`.

        Raises:
            LabFault: none came within so many seconds.
        """
        what = what or "the condition"
        fault = LabFault("notebook_waited", what=what, seconds=within)
        return wait_until(true, within, lambda: fault, every=0.02)

    def now(self) -> float:
        """Return the time in the events' own terms: seconds since the epoch."""
        return time.time()

    @contextlib.contextmanager
    def recorded(self, *brokers: str) -> Iterator[list[dict[str, Any]]]:
        """Collect the events of all workers while the block lasts, as plain dicts."""
        from grader.events import Listener

        events: list[dict[str, Any]] = []
        listeners = [Listener(self.brokers[name], events) for name in brokers or ["redis"]]
        try:
            for listener in listeners:
                listener.ready()
            yield events
            # The last event of a task may come a moment after its result.
            with contextlib.suppress(TimeoutError):
                wait_until(lambda: _settled(events), 0.7, TimeoutError)
        finally:
            for listener in listeners:
                listener.close()
            events.sort(key=lambda event: event["timestamp"])

    def close(self) -> None:
        """End everything that was started, and remove the folder."""
        if self in _open:
            _open.remove(self)
            atexit.unregister(self.close)
            for child in self._children:
                child.end()
            os.chdir(self._before)
            self._forget()
            self._home.close()

    def _forget(self) -> None:
        """Forget the modules that cells wrote: when the first cell is run again they begin anew."""
        sys.path[:] = [path for path in sys.path if path != str(self.folder)]
        for name, module in list(sys.modules.items()):
            if str(getattr(module, "__file__", "")).startswith(f"{self.folder}/"):
                del sys.modules[name]


def _settled(events: list[dict[str, Any]]) -> bool:
    """Whether each task that started has ended, as far as the events tell."""
    ends = ("task-succeeded", "task-failed", "task-retried", "task-revoked", "task-rejected")
    started = {event["uuid"] for event in events if event["type"] == "task-started"}
    return started <= {event["uuid"] for event in events if event["type"] in ends}


class Worker:
    """A running worker."""

    def __init__(self, child: Child) -> None:
        self._child, self.pid = child, child.pid

    @property
    def log(self) -> str:
        """What the worker has printed so far."""
        return self._child.output.text

    @property
    def children(self) -> list[int]:
        """The pids of its pool's processes."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return [process.pid for process in psutil.Process(self.pid).children()]
        return []

    @property
    def alive(self) -> bool:
        """Whether the worker itself still runs."""
        return self._child.alive

    def kill(self) -> None:
        """End it and its pool at once, as a crash of the machine would."""
        self._child.end()

    def stop(self, within: float = 5) -> None:
        """Ask it to finish what it works on (SIGTERM to the worker itself), then end the rest."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                wait_until(lambda: not self.alive, within, TimeoutError)
        self._child.end()

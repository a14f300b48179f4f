"""The processes of one submission: its workers, its client, its programs, and faults on them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from grader.client import Client
from grader.errors import WorkerSilent
from grader.exercise import Exercise
from grader.history import HAIL, Call, History
from grader.place import Place
from grader.process import Child, wait_until
from grader.publisher import Publisher
from grader.stack.provider import Namespace
from grader.worker import Worker

if TYPE_CHECKING:
    import psutil

    from grader.services.proxy import Proxy

BOOT_SECONDS = 30.0
# A warm shutdown that comes in the midst of much work may take 30 s longer, whatever the submission
# does: a process of the pool waits so long for its parent to count results that it counts no more
# (billiard/pool.py, GUARANTEE_MESSAGE_CONSUMPTION_RETRY_LIMIT).
STOP_SECONDS = 45.0
# How long a worker that boots is waited for before it is asked once more.
HAIL_SECONDS = 4.0
# How long a worker that stands ready may take for that.
ANSWER_SECONDS = 15.0


class Crew:
    """What runs a submission's code. A Lab is one, with the grader's own side beside it.

    Attributes:
        place: where its processes start.
        worker: the first worker, "lab"; `restart_worker` replaces it.
        dirty: whether the processes were left in a state that could disturb the next check.
    """

    exercise: Exercise
    place: Place
    space: Namespace
    publisher: Publisher
    history: History
    worker: Worker

    def __init__(self) -> None:
        self.dirty = False
        self._workers: list[Worker] = []
        self._closers = contextlib.ExitStack()

    def queue(self, task: str) -> str:
        """Return the queue that the submission's own app sends this task to."""
        raise NotImplementedError

    def _blaming(self) -> contextlib.AbstractContextManager[None]:
        """Say of whatever goes wrong at the broker in the block whose fault it is."""
        raise NotImplementedError

    # Starting

    def start_worker(
        self, name: str, extra: Mapping[str, str] | None = None, **options: Any
    ) -> Worker:
        """Start a worker of the submission; `await_worker` waits until it takes tasks.

        Args:
            name: its node name before the @.
            extra: variables for its environment beside the usual ones.
            options: see Worker: `concurrency`, `pool`, `speed`, `options`, and so on.
        """
        options.setdefault("events", "events" in self.exercise.needs)
        options.setdefault("speed", self.exercise.speed)
        options.setdefault("concurrency", self.exercise.children)
        worker = Worker(self.place, name=name, extra=extra, **options)
        self._workers.append(worker)
        self._closers.callback(worker.end)
        return worker

    def await_worker(self, worker: Worker) -> None:
        """Wait until a worker answers.

        Raises:
            WorkerDied, WorkerSilent: the submission's worker does not come up.
        """
        asked: list[Call] = []

        def answered() -> bool:
            if not worker.alive:
                raise worker.death()
            # The broker may have handed the first one to the connection of a worker that was just
            # killed, and on Redis it is lost with it.
            if time.monotonic() >= worker.started_at + HAIL_SECONDS * len(asked):
                asked.append(self._hail())
            return len(self.publisher.fetch(asked)) < len(asked)

        with self._blaming():
            wait_until(answered, BOOT_SECONDS, _silent)

    def _hail(self, queue: str = "") -> Call:
        """Send a task of a name that nobody has registered.

        The worker's main process answers it itself: that works whatever the submission's tasks do.
        """
        return self.publisher.send(HAIL, queue or self.queue(HAIL), (), {}, BOOT_SECONDS)

    def takes_from(self, queue: str) -> bool:
        """Whether a worker takes what lies in a queue: one that does answers a hail there."""
        asked = self._hail(queue)
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: not self.publisher.fetch([asked]), ANSWER_SECONDS, TimeoutError)
        return asked.reply is not None

    def start_client(self, extra: Mapping[str, str | None] | None = None) -> Client:
        """Start a client process of the submission; it imports the module at once.

        Args:
            extra: variables for its environment beside the usual ones; None takes one away.
        """
        client = Client(self.place, extra=extra)
        self._closers.callback(client.end)
        return client

    def start_program(
        self,
        *arguments: str,
        extra: Mapping[str, str | None] | None = None,
        closed: Mapping[str, str] | None = None,
    ) -> Child:
        """Start a script of the submission (`"web.py", "--port", "8000"`), return its process.

        It may be a module too (`"-m", "celery", ...`), or a text of Python (`"-c", "import app"`).

        Args:
            extra, closed: changes of its environment; see `Place.start`.
        """
        child = self.place.start("program", arguments, extra, closed)
        self._closers.callback(child.end)
        return child

    def free_port(self) -> int:
        """Return a loopback port for a program of the submission to listen on."""
        return self.place.cell.door()

    def restart_worker(self, extra: Mapping[str, str] | None = None, **options: Any) -> Worker:
        """End the worker (SIGKILL) and start a new one in its place.

        Args:
            extra, options: see `start_worker`. With any of them the lab counts as disturbed.
        """
        self.dirty = self.dirty or bool(extra or options)
        self.worker.end()
        self._workers.remove(self.worker)
        self.worker = self.start_worker("lab", extra, **options)
        self.await_worker(self.worker)
        return self.worker

    def second_worker(self, extra: Mapping[str, str] | None = None, **options: Any) -> Worker:
        """Start one more worker beside the others and wait until it takes tasks.

        The others stand still meanwhile, so that an answer can only be the new one's.
        """
        self.dirty = True
        living = [worker for worker in self._workers if worker.alive]
        with self.frozen() if living else contextlib.nullcontext(), self._blaming():
            worker = self.start_worker(f"lab{len(self._workers) + 1}", extra, **options)
            asked: list[Call] = []
            wait_until(lambda: self._answers(worker, asked), BOOT_SECONDS, _silent, every=0.05)
        return worker

    def _answers(self, worker: Worker, asked: list[Call]) -> bool:
        """Ask once more: a worker that stands still may have got the message before."""
        if not worker.alive:
            raise worker.death()
        asked.append(self._hail())
        return len(self.publisher.fetch(asked)) < len(asked)

    # Faults

    @contextlib.contextmanager
    def frozen(self, processes: Sequence[psutil.Process] | None = None) -> Iterator[None]:
        """Keep every worker, or only these processes, from doing anything while the block runs."""
        from grader.faults import freeze

        everybody = [p for worker in self._workers for p in worker.child.family]
        with freeze(everybody if processes is None else list(processes), self.history.faults):
            yield

    def terminate_worker(self, worker: Worker | None = None) -> None:
        """Ask a worker (the first, if none is named) to shut down, by SIGTERM; do not wait."""
        from grader.faults import terminate

        self.dirty = True
        terminate((worker or self.worker).main, self.history.faults)

    def await_end(self, worker: Worker | None = None, within: float = STOP_SECONDS) -> int | None:
        """Wait for a worker's end and return its exit code, None if it still runs."""
        chosen = worker or self.worker
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: not chosen.alive, within, TimeoutError)
        return chosen.child.exit_code

    def stop_worker(self, worker: Worker | None = None, within: float = STOP_SECONDS) -> int | None:
        """Ask a worker to shut down, wait, and return its exit code, None if it still runs."""
        self.terminate_worker(worker)
        return self.await_end(worker, within)

    def kill_worker(self, worker: Worker | None = None) -> None:
        """Kill a worker with all its children at once (SIGKILL)."""
        from grader.faults import kill_all

        self.dirty = True
        kill_all((worker or self.worker).child.family, self.history.faults)

    def kill_child(self, worker: Worker | None = None) -> psutil.Process:
        """Kill the oldest child of a worker's pool (SIGKILL) and return it.

        The worker stays fit for the next check: it replaces the child.

        Raises:
            SubmissionFault: the pool has no processes.
        """
        from grader.faults import kill_child

        chosen = worker or self.worker
        chosen.processes(1)
        return kill_child(chosen.main, self.history.faults)

    def kill_pool(self, worker: Worker | None = None) -> None:
        """Kill all children of a worker's pool (SIGKILL); one that ends by itself is passed over.

        The worker stays fit for the next check: it replaces them.
        """
        from grader.faults import kill_all

        kill_all((worker or self.worker).pool, self.history.faults)

    def restart_broker(self, hard: bool = False) -> None:
        """Stop the run's broker and start it again with its queues and messages.

        Args:
            hard: kill it, as a crash would. RabbitMQ keeps what it had confirmed; Redis, which
                saves only when asked to, loses everything.

        Raises:
            LabFault: the broker is not the run's own. On RabbitMQ an exercise asks for one of its
                own with `needs = ["own_broker"]`.
        """
        self.dirty = True
        at = time.time()
        self.space.restart(hard)
        self.history.faults.append({"kind": "restart_broker", "at": at, "hard": hard})
        self.publisher.reconnect()

    @contextlib.contextmanager
    def proxied(self, **options: Any) -> Iterator[Proxy]:
        """Restart the worker with a proxy between it and the broker; yield the proxy.

        The grader's own connections go straight to the broker, whatever the proxy does.
        """
        from grader.services.proxy import Proxy

        url = self.space.student_broker
        parts = urlsplit(url)
        assert parts.hostname and parts.port
        with Proxy(parts.hostname, parts.port) as proxy:
            behind = url.replace(f":{parts.port}", f":{proxy.port}")
            self.restart_worker({"CELERY_BROKER_URL": behind}, **options)
            yield proxy


def _silent() -> WorkerSilent:
    return WorkerSilent("worker_silent", seconds=f"{BOOT_SECONDS:g}")

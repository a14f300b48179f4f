"""The one object that a check talks to: it runs the submission, sends, faults, and remembers.

A Lab is one submission's life on one broker: a namespace, a copy of the submission, a worker, and a
client process when a check asks for one. It is thrown away, and a new one made, whenever a check
leaves it in a state that could disturb the next.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from grader.blame import deaf, drowned, flooded, of_a_broker, of_its_own, refused
from grader.cell import Cell
from grader.crew import Crew
from grader.errors import LabFault, SubmissionFault
from grader.events import Listener
from grader.exercise import Exercise
from grader.expect import fact
from grader.history import HAIL, Call, History
from grader.home import remove
from grader.place import Place
from grader.process import Child, stopped, wait_until
from grader.publisher import Publisher
from grader.resources import Resources
from grader.sandbox import Sandbox
from grader.stack.provider import Stack
from grader.submission import Submission
from grader.twin import Twin
from grader.words import Text

if TYPE_CHECKING:
    import redis

T = TypeVar("T")
ANSWER_SECONDS = 5.0
# A busy machine may stretch wall time; an answer is late only when the worker had the processor for
# its limit, or when this many limits of wall time have passed.
STRETCH = 3
# How often a wait looks whether there is still anybody to answer.
ASK_SECONDS = 0.25


class Lab(Crew):
    """A running submission.

    Args:
        exercise: what it is graded against.
        submission: whose copy runs.
        broker: "redis" or "rabbitmq".
        stack: where the namespace comes from.
        box: what holds the student's processes.
        seed: of every drawn input.

    Attributes:
        http, redis: the services and servers that exercise.toml's [environment] names.
        data: the folder that it calls {data}.
        history: what was seen so far.
        rng: draws this check's inputs; the same for the same seed.
    """

    def __init__(
        self,
        exercise: Exercise,
        submission: Submission,
        broker: str,
        stack: Stack,
        box: Sandbox,
        seed: int,
    ) -> None:
        super().__init__()
        self.exercise, self.broker, self.seed = exercise, broker, seed
        self.history = History(exercise.id, broker, seed)
        self.rng = random.Random(seed)
        self._made: dict[str, Any] = {}
        self._listener: Listener | None = None
        try:
            self._open(submission, stack, box)
        except BaseException:
            self.close()
            raise

    def _open(self, submission: Submission, stack: Stack, box: Sandbox) -> None:
        self._submission, self._stack = submission, stack
        stem = stack.home.folder / f"{self.exercise.id}-{self.broker}-{id(self):x}"
        self._closers.callback(remove, stem)  # also of what was copied before it was refused
        folder = submission.copy(stem, self.exercise)
        self.resources = Resources(self.exercise.environment, stack, stem.with_suffix(".data"))
        self._closers.callback(self.resources.close)
        self.http, self.redis = self.resources.http, self.resources.redis
        cell = Cell(box, folder, stack.home.ledger, self.resources.shared)
        self._closers.callback(cell.close)
        self.data = self.resources.data
        cell.show(self.data)
        self.space = stack.open(self.broker, "own_broker" in self.exercise.needs)
        self._closers.callback(self.space.close)
        self.place = Place(
            cell,
            folder,
            stack.home.ledger,
            self.exercise.module,
            {**self.space.environment, **self.resources.environment},
        )
        # The worker first: everything waits for it.
        self.worker = self.start_worker("lab")
        self.client = self.start_client()
        self._listen()

    def _listen(self) -> None:
        """Connect the grader's own side while the submission's processes are still booting."""
        self.publisher = Publisher(self.space.grader_broker, self.space.grader_backend)
        self._closers.callback(self.publisher.close)
        if "events" in self.exercise.needs:
            self._listener = Listener(self.space.grader_broker, self.history.events)
            self._closers.callback(self._listener.close)
            with self._blaming():
                self._listener.ready()
        said = self.client.hello()
        self.tasks: list[str] = [str(task) for task in said["tasks"]]
        self._routes: Mapping[str, Any] = said["routes"]
        self.publisher.result_key = str(said["result_key"])
        self.await_worker(self.worker)

    @property
    def backend(self) -> redis.Redis:
        """The grader's client on the result backend's database."""
        return self.publisher.backend

    def queue(self, task: str) -> str:
        """Return the queue that the submission's own app sends this task to."""
        route = self._routes.get(task) or self._routes.get(HAIL) or {}
        return str(route.get("queue") or "celery") if isinstance(route, dict) else "celery"

    def send(
        self,
        function: str,
        *args: Any,
        within: float = ANSWER_SECONDS,
        kwargs: Mapping[str, Any] | None = None,
        retries: int = 0,
    ) -> Call:
        """Publish one task of the submission by its function's name; do not wait.

        With `retries` the message says that the task was tried again so often already.
        """
        task, given = f"{self.exercise.module}.{function}", dict(kwargs or {})
        with self._blaming():
            call = self.publisher.send(task, self.queue(task), args, given, within, retries)
        self.history.calls.append(call)
        return call

    def send_all(
        self, calls: Sequence[tuple[Any, ...]], within: float = ANSWER_SECONDS
    ) -> list[Call]:
        """Publish several tasks, `(function, *args)` each; do not wait."""
        return [self.send(function, *args, within=within) for function, *args in calls]

    def adopt(self, id: str, function: str, *args: Any) -> Call:
        """Return the call for a task that a client of the submission sent itself."""
        call = Call(id, f"{self.exercise.module}.{function}", args, {}, time.time(), ANSWER_SECONDS)
        self.history.calls.append(call)
        return call

    def call(
        self,
        function: str,
        *args: Any,
        within: float = ANSWER_SECONDS,
        kwargs: Mapping[str, Any] | None = None,
    ) -> Call:
        """Send one task and wait for its reply, at most `within` seconds."""
        return self.finish([self.send(function, *args, within=within, kwargs=kwargs)])[0]

    def calls(self, calls: Sequence[tuple[Any, ...]], within: float = ANSWER_SECONDS) -> list[Call]:
        """Send several tasks, `(function, *args)` each, and wait for all of them together."""
        return self.finish(self.send_all(calls, within))

    def finish(self, calls: list[Call]) -> list[Call]:
        """Wait for the replies, as long as the most patient call; one without keeps reply None.

        Raises:
            LabFault: the run's own servers are gone through no fault of the submission.
            SubmissionFault: the worker died, or the submission destroyed its private server.
        """
        within = max((call.limit for call in calls), default=0.0)
        used, began = self._cpu(), time.monotonic()

        def give_up() -> bool:
            if not any(worker.alive for worker in self._workers):
                return True
            waited = time.monotonic() - began
            if waited < within:
                return False
            return self._cpu() - used >= within or waited >= STRETCH * within

        with self._blaming():
            answered = self.publisher.wait(calls, ASK_SECONDS, give_up)
        if not answered:
            self.dirty = True
            if not self.worker.alive:
                raise self.worker.death()
        return calls

    def _cpu(self) -> float:
        return sum(worker.cpu_seconds for worker in self._workers)

    @contextlib.contextmanager
    def _blaming(self) -> Iterator[None]:
        """Say of whatever goes wrong at the broker in the block whose fault it is."""
        try:
            yield
        except (LabFault, SubmissionFault):
            self.dirty = True
            raise
        except Exception as error:
            raise self._explain(error) from error

    @contextlib.contextmanager
    def judging(self) -> Iterator[None]:
        """Say of an error that reaches a check whose fault it is, where that is plain.

        Checks ask the run's Redis themselves, read where the submission writes and reckon with its
        figures: it may have filled the one, put a folder in a file's place, or given 10 ** 400.
        """
        try:
            yield
        except Exception as error:
            if of_a_broker(error):
                raise self._explain(error) from error
            if fault := of_its_own(error, self.data, self.place.folder):
                self.dirty = True
                raise fault from error
            raise

    def _explain(self, error: Exception) -> Exception:
        """Say whose fault a lost connection is."""
        self.dirty = True
        if isinstance(error, LabFault | SubmissionFault):
            return error
        if not self.space.standing:
            return SubmissionFault("server_destroyed", broker=self.broker)
        if self.space.private and (refusal := refused(error)):
            return refusal
        # One of our own we may have restarted ourselves.
        private = self.space.private and self.space.own is None
        if self.space.overrun or (private and drowned(len(self.history.events))):
            return flooded()
        return LabFault("lost_broker", broker=self.broker, error=error)

    def unregistered(self, functions: Sequence[str]) -> list[str]:
        """Return those of the functions that the app has no task for."""
        return [f for f in functions if f"{self.exercise.module}.{f}" not in self.tasks]

    @contextlib.contextmanager
    def tapped(self) -> Iterator[None]:
        """See every published message in `history.messages` while the block runs.

        When the block ends, what was published before has been seen: a message of our own comes
        after it. That holds for a check that fails in the block as well, for what a deaf tap did
        not see proves nothing against the submission.

        Raises:
            LabFault: the tap does not see our own message.
            SubmissionFault: it does not because of what the submission did to its server.
        """
        from grader.tap import open_tap

        with open_tap(self.broker, self.space.grader_broker, self.history.messages) as tap:
            try:
                try:
                    yield
                except AssertionError:
                    self._mark(tap)
                    raise
                self._mark(tap)
            finally:
                if tap.error:
                    raise self._explain(tap.error)

    def _mark(self, tap: Any) -> None:
        within = STRETCH * ANSWER_SECONDS
        with self._blaming():
            last, before = self._hail(), tap.seen
            wait_until(
                lambda: tap.error or self.history.published(last.id),
                within,
                lambda: deaf(tap.seen - before, within),
            )

    def fact(self, holds: bool, key: str, **fields: object) -> bool:
        """Return `holds`; when false, note the exercise's own sentences of that key."""
        words = self.exercise.words[key]
        texts = (Text(words[side], fields) for side in ("expected", "observed"))
        return fact(bool(holds), *texts)

    def until(self, ready: Any, within: float = ANSWER_SECONDS) -> bool:
        """Wait for a condition, at most `within` seconds, and return whether it came true.

        Raises:
            KeyboardInterrupt: the call was interrupted meanwhile.
        """

        def met() -> Any:
            if stopped.is_set():
                raise KeyboardInterrupt
            return ready()

        with contextlib.suppress(TimeoutError):
            return bool(wait_until(met, within, TimeoutError))
        if self._listener and self._listener.error:
            # What a deaf listener did not hear proves nothing against the submission.
            raise self._explain(self._listener.error)
        return False

    def once(self, name: str, make: Callable[[], T]) -> T:
        """Return what `make` made when it was first asked for under this name, in this lab."""
        if name not in self._made:
            self._made[name] = make()
        return cast(T, self._made[name])

    def twin(self, name: str, extra: Mapping[str, str] | None = None) -> Twin:
        """Return a second home of the submission, with a memory of its own; see Twin."""
        twin = Twin(
            self.exercise, self._submission, self._stack, self.place, name, dict(extra or {})
        )
        self._closers.callback(twin.close)
        return twin

    def adopt_child(self, child: Child) -> Child:
        """End this process with the lab."""
        self._closers.callback(child.end)
        return child

    def seen(self) -> History:
        """Return what was seen so far, with what the services were asked."""
        self.history.requests[:] = self.resources.requests()
        return self.history

    def save(self, path: Path) -> None:
        """Save what was seen so far as JSON."""
        self.seen().save(path)

    def close(self) -> None:
        """End every process and give everything back."""
        self._closers.close()

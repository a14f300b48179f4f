"""A bench for a submission's own instruments: planted tasks, and a worker that its client sees.

In a sandbox each process of a submission has a process table of its own, so a client can't watch
the lab's worker from outside. Here the client starts the worker, inside the same walls.

What a planted task does can't be told from its name, which is drawn, nor from its arguments, which
are masked: an instrument has to measure.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import string
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grader.errors import ClientSilent, SubmissionFault
from grader.growth import NO_RECYCLING
from grader.history import Call

if TYPE_CHECKING:
    from grader.client import Answer
    from grader.lab import Lab

SOURCE = Path(__file__).resolve().parent / "inside" / "planted.py"
PATIENCE = 90.0
# An instrument that waits a second before each of 200 samples is slow, and right.
INSTRUMENT_SECONDS = 300.0
LARGEST_FILE = 4_000_000
TASK = re.compile(r"(?<=^@shared_task\ndef )\w+", re.MULTILINE)
MASK = "MASK = 0"


@dataclasses.dataclass(frozen=True)
class Planted:
    """The planted tasks as they lie in one submission's folder.

    Attributes:
        module: the module's name, drawn anew.
        names: what each task is called there.
        mask: what a task's numbers are hidden behind.
    """

    module: str
    names: dict[str, str]
    mask: int

    def task(self, name: str) -> str:
        """Return the full name under which a planted task is called."""
        return f"{self.module}.{self.names[name]}"

    def masked(self, args: Iterable[Any]) -> list[Any]:
        """Return arguments as the planted tasks take them."""
        return [a ^ self.mask if isinstance(a, int) else a for a in args]

    @property
    def source(self) -> str:
        """The module's text; every task is at the line where it is in grader/inside/planted.py."""
        text = SOURCE.read_text(encoding="utf-8").replace(MASK, f"MASK = {self.mask}")
        return TASK.sub(lambda found: self.names[found[0]], text)


def plant(lab: Lab) -> Planted:
    """Put the planted tasks into the submission's copy, under names that are drawn anew."""
    tasks = TASK.findall(SOURCE.read_text(encoding="utf-8"))
    names = {name: _word(lab) for name in tasks}
    planted = Planted(f"shop_{_word(lab)}", names, lab.rng.getrandbits(24))
    file = lab.place.cell.seen(lab.place.folder) / f"{planted.module}.py"
    file.write_text(planted.source, encoding="utf-8")
    return planted


def _word(lab: Lab) -> str:
    return "".join(lab.rng.choices(string.ascii_lowercase, k=8))


def left(lab: Lab, name: str) -> bytes:
    """Return the start of a file that the submission left in its folder; a link is not followed."""
    path = lab.place.cell.seen(lab.place.folder) / name
    if path.is_symlink() or not path.is_file():
        return b""
    with path.open("rb") as file:
        return file.read(LARGEST_FILE)


def site(function: str) -> tuple[int, int]:
    """Return the first and the last line of a planted function."""
    lines = SOURCE.read_text(encoding="utf-8").splitlines()
    first = next(n for n, line in enumerate(lines, 1) if line.startswith(f"def {function}("))
    last = next(n for n, line in enumerate(lines[first:], first) if not line.strip())
    return first, last


def run(lab: Lab, planted: Planted, function: str, *args: Any, times: int = 1) -> list[Call]:
    """Have the lab's worker run a planted task.

    Raises:
        SubmissionFault: it failed, which none does by itself: there was too little memory, say.
    """
    task, hidden = planted.task(function), planted.masked(args)
    calls = [
        lab.publisher.send(task, lab.queue(task), hidden, {}, PATIENCE / 3) for _ in range(times)
    ]
    lab.history.calls += calls
    for call in lab.finish(calls):
        if call.reply and not call.reply.succeeded:
            raise SubmissionFault("planted_failed", task=function, seen=call.reply.error_type)
    return calls


class Bench:
    """A client process with the planted tasks; `worker` runs one as its child.

    Args:
        lab: its own worker is ended, because it would take tasks away.
    """

    def __init__(self, lab: Lab) -> None:
        from grader.client import Client

        self._lab = lab
        lab.kill_worker()
        self.planted = plant(lab)
        self._client = Client(dataclasses.replace(lab.place, module=self.planted.module), PATIENCE)
        self._busy = False

    def __enter__(self) -> Bench:
        self._client.hello()
        return self

    def __exit__(self, *_: object) -> None:
        self._client.end()

    @contextlib.contextmanager
    def worker(self, warm: int = 0) -> Iterator[None]:
        """Run a fresh worker with one pool process meanwhile; `warm` tasks have run in it before.

        A fresh process under tracemalloc grows by 0.3 to 0.6 KiB a task in its first hundreds, by
        0.06 after 800: only then is a task that does nothing clean for everybody.
        """
        from grader.worker import QUIET

        options = ("-c", "1", "-n", "bench@lab", "-l", "WARNING", *QUIET, *NO_RECYCLING)
        self._asked("begin", self.planted.task("idle"), *options)
        try:
            if warm:
                self._asked("warm_up", self.planted.task("idle"), warm)
            yield
        finally:
            if not self._busy:  # else it goes with the client
                self._asked("end")

    def _asked(self, function: str, *args: str | int) -> None:
        answer = self._client.call(function, *args)
        if answer.error:
            raise SubmissionFault("bench_failed", error=answer.error)

    def driven(self, task: str) -> int:
        """Return how often a planted task was sent here while somebody listened (lab.tapped)."""
        name = self.planted.task(task)
        return len({m.id for m in self._lab.history.messages if m.task == name})

    def say(
        self, task: str, *args: Any, png: str = "", runs: int = 0, within: float = 0
    ) -> Answer | None:
        """Return what the submission's instrument says of a planted task (0 runs: its default).

        None where it has not ended `within` seconds (INSTRUMENT_SECONDS); nothing more is asked
        then.
        """
        hidden = self.planted.masked(args)
        arguments = [self.planted.task(task), hidden, png or None, runs or None]
        self._client.start("call", function="instrument", args=arguments, kwargs={})
        self._busy = True
        try:
            answer = self._client.answer(within or INSTRUMENT_SECONDS)
        except ClientSilent:
            return None
        self._busy = False
        return answer

"""A bench for a submission's own instruments: planted tasks, and a worker that its client sees.

In a sandbox each process of a submission has a process table of its own, so a client can't watch
the lab's worker from outside. Here the client starts the worker, inside the same walls.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import string
from collections.abc import Iterator
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


def plant(lab: Lab) -> str:
    """Put the planted tasks into the submission's copy; return the module's name, drawn anew."""
    name = "shop_" + "".join(lab.rng.choices(string.ascii_lowercase, k=8))
    shutil.copyfile(SOURCE, lab.place.cell.seen(lab.place.folder) / f"{name}.py")
    return name


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


def run(lab: Lab, module: str, function: str, *args: Any, times: int = 1) -> list[Call]:
    """Have the lab's worker run a planted task.

    Raises:
        SubmissionFault: it failed, which none does by itself: there was too little memory, say.
    """
    task = f"{module}.{function}"
    calls = [
        lab.publisher.send(task, lab.queue(task), args, {}, PATIENCE / 3) for _ in range(times)
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

        lab.kill_worker()
        self.module = plant(lab)
        self._client = Client(dataclasses.replace(lab.place, module=self.module), PATIENCE)
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
        self._asked("begin", *options)
        try:
            if warm:
                self._asked("warm_up", warm)
            yield
        finally:
            if not self._busy:  # else it goes with the client
                self._asked("end")

    def _asked(self, function: str, *args: str | int) -> None:
        answer = self._client.call(function, *args)
        if answer.error:
            raise SubmissionFault("bench_failed", error=answer.error)

    def say(
        self, task: str, *args: Any, png: str = "", runs: int = 0, within: float = 0
    ) -> Answer | None:
        """Return what the submission's instrument says of a planted task (0 runs: its default).

        None where it has not ended `within` seconds (INSTRUMENT_SECONDS); nothing more is asked
        then.
        """
        arguments = [task, list(args), png or None, runs or None]
        self._client.start("call", function="instrument", args=arguments, kwargs={})
        self._busy = True
        try:
            answer = self._client.answer(within or INSTRUMENT_SECONDS)
        except ClientSilent:
            return None
        self._busy = False
        return answer

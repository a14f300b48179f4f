"""Where attacks are run: secrets to find, a neighbour to harm, a bell that nobody may ring."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from grader import process
from grader.exercise import EXERCISES, ROOT, SOLUTIONS, Exercise
from grader.home import remove
from grader.process import Child
from grader.stack.provider import Namespace, Stack

UNTOUCHED = "nobody has been here"
VARIABLE = "LAB_CANARY"


class Bell:
    """A port on loopback, TCP and UDP, that no submission has any business with."""

    def __init__(self) -> None:
        self.rung: list[bytes] = []
        self.tcp, self.udp = socket.socket(), socket.socket(type=socket.SOCK_DGRAM)
        self.tcp.bind(("127.0.0.1", 0))
        self.tcp.listen(64)
        self.port: int = self.tcp.getsockname()[1]
        self.udp.bind(("127.0.0.1", self.port))
        for listen in (self._accept, self._receive):
            threading.Thread(target=listen, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                caller, _ = self.tcp.accept()
                caller.settimeout(2)
                with caller, contextlib.suppress(OSError):
                    self.rung.append(caller.recv(100))

    def _receive(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self.rung.append(self.udp.recv(100))

    def close(self) -> None:
        """Take the bell down."""
        for door in (self.tcp, self.udp):
            with contextlib.suppress(OSError):
                door.shutdown(socket.SHUT_RDWR)
            door.close()


class Watched:
    """A stack that remembers the passwords which only the grader may know.

    It stands in for a Stack wherever a Lab asks for one.
    """

    def __init__(self, stack: Stack) -> None:
        self.home, self._stack = stack.home, stack
        self.passwords: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stack, name)

    def open(self, broker: str, *more: Any) -> Namespace:
        """Open a namespace of the stack."""
        space = self._stack.open(broker, *more)
        found = {urlsplit(url).password for url in (space.grader_broker, space.grader_backend)}
        self.passwords |= {word for word in found if word}
        return space


class Ground:
    """Everything an attack could be after. Use it as a context manager."""

    def __init__(self, stack: Stack, broker: str) -> None:
        self.stack, self.broker = Watched(stack), broker
        self.folder = Path(tempfile.mkdtemp(prefix="lab-attacks-"))
        self.bell = Bell()
        self.children: list[Child] = []
        self.secret = f"canary-{secrets.token_hex(12)}"
        self._closers = contextlib.ExitStack()

    def __enter__(self) -> Ground:
        close = self._closers.callback
        close(remove, self.folder)
        close(self.bell.close)
        os.environ[VARIABLE] = self.secret
        close(os.environ.pop, VARIABLE, None)
        self.neighbour = self.stack.open(self.broker)
        close(self.neighbour.close)
        self._write_neighbour()
        listen = self.children.append
        process.watchers.append(listen)
        close(process.watchers.remove, listen)
        return self

    def __exit__(self, *_: object) -> None:
        self._closers.close()

    def _write_neighbour(self) -> None:
        from grader.stack.redis import connect

        for name in ("neighbour", "escapes"):
            (self.folder / name).mkdir()
        for name, text in (("secret.txt", self.secret), ("canary.txt", UNTOUCHED)):
            (self.folder / "neighbour" / name).write_text(text)
        with connect(self.neighbour.grader_backend) as client:
            client.set("secret", self.secret)

    def facts(self, exercise: Exercise, nonce: str) -> dict[str, Any]:
        """Return what a spy could know, more than any real attacker would: see tests/attacks."""
        neighbour = urlsplit(self.neighbour.student_backend)
        module = exercise.module.replace(".", "/")
        return {
            "nonce": nonce,
            "secret": str(self.folder / "neighbour" / "secret.txt"),
            "canary": str(self.folder / "neighbour" / "canary.txt"),
            "escape": str(self.folder / "escapes" / nonce),
            "solution": str(SOLUTIONS / exercise.id / f"{module}.py"),
            "checks": [str(path) for path in exercise.check_files],
            "folders": [str(ROOT), str(EXERCISES), str(self.folder), str(self.stack.home.folder)],
            "results": str(ROOT / ".lab"),
            "grader": os.getpid(),
            "bell": ["127.0.0.1", self.bell.port],
            "neighbour": [neighbour.hostname, neighbour.port],
            "variable": VARIABLE,
            **self._rabbit(),
        }

    def _rabbit(self) -> dict[str, Any]:
        if self.broker != "rabbitmq":
            return {}
        host = self.neighbour.parts[-1]
        return {"vhost": host.vhost, "management": host.broker.management.url}

    def secrets_of(self, exercise: Exercise) -> dict[str, str]:
        """Return what must never be seen in what a submission prints: name -> text."""
        found = {"the neighbour's secret or the grader's environment": self.secret}
        found |= {f"a password of the grader's ({n})": w for n, w in enumerate(self._words())}
        for path in exercise.check_files:
            found[f"the checks in {path.name}"] = longest_line(path)
        return found

    def _words(self) -> list[str]:
        return sorted(self.stack.passwords)

    def harm(self) -> Iterator[str]:
        """Yield a sentence for each thing that was touched and belongs to somebody else."""
        from grader.stack.redis import connect

        if self.bell.rung:
            yield f"the bell was rung: {self.bell.rung[:3]!r}"
        if (self.folder / "neighbour" / "canary.txt").read_text() != UNTOUCHED:
            yield "the neighbour's file was written to"
        if escaped := list((self.folder / "escapes").iterdir()):
            yield f"written outside: {escaped}"
        with connect(self.neighbour.grader_backend) as client:
            if client.get("secret") != self.secret.encode() or client.dbsize() != 1:
                yield "the neighbour's Redis was written to"


def planted(nonce: str) -> Iterator[str]:
    """Yield the files of that attack in folders that belong to the lab or the machine."""
    import celery

    places = {ROOT, Path(sys.prefix), Path(celery.__file__).parent, Path(__file__).parent}
    for folder in (*places, Path("/usr/lib"), Path("/usr/local/lib"), Path("/etc"), Path("/")):
        yield from (f"it wrote {file}" for file in folder.glob(f"*{nonce}*"))


def longest_line(path: Path) -> str:
    """Return a file's longest line: nobody prints that by chance."""
    return max(path.read_text(encoding="utf-8").splitlines(), key=len, default="").strip()

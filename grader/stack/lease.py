"""A leased database of a Redis that somebody runs: empty before the run, emptied after it.

Who holds which database is written in a database of its own that no submission can reach, with the
owner's machine, pid and start time, so that the next lease sweeps what a dead owner left.
"""

from __future__ import annotations

import contextlib
import json
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit, urlunsplit

import psutil

from grader.errors import NoBroker
from grader.process import identity
from grader.stack.rabbit_namespace import machine
from grader.stack.redis import STUDENT_RIGHTS, connect

if TYPE_CHECKING:
    import redis

# Databases that may be leased, and the one that says who holds which.
DATABASES, REGISTRY = range(1, 15), 15
LEASE_KEY = "celery-lab:lease:{}"
LEASE_SECONDS = 3600  # how long a lease from another machine is believed
# What else is closed on a server that others use: their databases, functions and scripts. Two doors
# stay open because Redis has no lock for them: database 0, where each connection begins, and
# channels, for Celery subscribes by patterns.
LEASE_RIGHTS = " -select +select|{database} -move -copy -function -script +script|load"


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

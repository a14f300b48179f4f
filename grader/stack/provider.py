"""Chooses where Redis and RabbitMQ come from, and opens a namespace for each run.

Order (product.md): external URLs in the environment, compose when its services are up, servers
installed on this machine, and for Redis the one embedded in a wheel. `--stack` names one of them.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from grader.errors import LabFault, NoBroker, UsageError
from grader.home import Home
from grader.stack import redis
from grader.stack.lease import Lease


@dataclass
class Namespace:
    """One run's own corner of the brokers. The student's URLs differ from the grader's."""

    broker: str
    grader_broker: str
    student_broker: str
    grader_backend: str
    student_backend: str
    parts: list[Any] = field(default_factory=list)
    own: Any = None  # the broker, where it is the run's own to restart

    def move(self, grader_url: str, student_url: str, host: Any) -> None:
        """Take another broker than the result backend's server; `host` is closed with the rest."""
        self.grader_broker, self.student_broker = grader_url, student_url
        self.parts.append(host)

    def restart(self, hard: bool = False) -> None:
        """Stop the run's own broker and start it again; its URLs stay.

        Raises:
            LabFault: others use the broker too, or it does not come up again.
        """
        if not hasattr(self.own, "restart"):
            raise LabFault("not_ours_to_restart", broker=self.broker)
        self.own.restart(hard)
        if hasattr(self.parts[-1], "trace"):
            self.parts[-1].trace()  # the firehose does not survive

    @property
    def environment(self) -> dict[str, str]:
        """What the submission's processes find in their environment."""
        return {
            "CELERY_BROKER_URL": self.student_broker,
            "CELERY_RESULT_BACKEND": self.student_backend,
        }

    @property
    def standing(self) -> bool:
        """Whether the private servers still run; a submission may have destroyed its own."""
        return all(getattr(part, "alive", True) for part in self.parts)

    @property
    def private(self) -> bool:
        """Whether nobody but this run uses the Redis that keeps its results."""
        return isinstance(self.parts[0], redis.RedisServer)

    @property
    def overrun(self) -> bool:
        """Whether a private Redis closed a connection because too much was to be told there."""
        servers = [part for part in self.parts if isinstance(part, redis.RedisServer)]
        return any(server.overran for server in servers)

    def close(self) -> None:
        """Give everything back, the last opened first."""
        while self.parts:
            with contextlib.suppress(LabFault):
                self.parts.pop().close()


class Stack:
    """The brokers of one whole call: a RabbitMQ node is started once, Redis for every run.

    Args:
        home: the call's folder.
        choice: a provider's name, or "" for the usual order.
    """

    def __init__(self, home: Home, choice: str = "") -> None:
        self.home, self.choice = home, choice
        if self.allows("external"):
            check_urls()
        self._node: Any = None
        self._fault: LabFault | None = None
        self._boot: threading.Thread | None = None
        self._lock = threading.Lock()
        self._composed: dict[str, str | None] = {}

    def allows(self, provider: str) -> bool:
        """Whether this provider may be used."""
        return self.choice in ("", provider)

    def prepare(self, brokers: tuple[str, ...]) -> None:
        """Start in the background what takes long and will be needed."""
        with self._lock:
            if "rabbitmq" in brokers and self._boot is None:
                self._boot = threading.Thread(target=self._start_node, daemon=True)
                self._boot.start()

    def missing(self, brokers: tuple[str, ...]) -> tuple[str, ...]:
        """Return those of the brokers that this machine can't give, without starting any."""
        return tuple(b for b in brokers if b == "rabbitmq" and self._rabbit_source() is None)

    def open(self, broker: str, own_broker: bool = False) -> Namespace:
        """Open a namespace on the broker, with a Redis of its own as result backend.

        Args:
            own_broker: give the run a broker that nobody else uses and that holds no results, so
                that it can be restarted.

        Raises:
            NoBroker: no provider has it.
            LabFault: a provider has it and could not start it.
        """
        store = self._redis()
        space = Namespace(broker, store.url, store.student_url, *_backend(store), [store])
        try:
            if broker == "rabbitmq":
                self._rabbit(space, own_broker)
            elif own_broker:
                space.own = host = self.private_redis()
                space.move(host.url, host.student_url, host)
        except BaseException:
            space.close()
            raise
        return space

    def private_redis(self) -> Any:
        """Return a Redis that nobody else uses: a server of our own where there is one to start."""
        with contextlib.suppress(NoBroker):
            return self._redis(("system", "embedded"))
        return self._redis()

    def _redis(self, providers: tuple[str, ...] = ()) -> Any:
        for provider, source in self._redis_sources():
            wanted = provider in providers if providers else self.allows(provider)
            if wanted and (start := source()):
                return start()
        raise NoBroker("no_redis", choice=self.choice or "-")

    def _redis_sources(self) -> list[tuple[str, Callable[[], Callable[[], Any] | None]]]:
        return [
            ("external", lambda: self._lease(os.environ.get("LAB_REDIS_URL"))),
            ("compose", lambda: self._lease(self._compose("redis"))),
            ("system", lambda: self._server(redis.system_binary())),
            ("embedded", lambda: self._server(redis.embedded_binary())),
        ]

    def _lease(self, url: str | None) -> Callable[[], Any] | None:
        return partial(Lease.take, url) if url else None

    def _server(self, binary: Path | None) -> Callable[[], Any] | None:
        return partial(redis.RedisServer.start, self.home, binary) if binary else None

    def _compose(self, service: str) -> str | None:
        """Return the URL of a compose service: when asked for by name, or when already up."""
        from grader.stack import compose

        if service not in self._composed:
            self._composed[service] = compose.url(service, start=self.choice == "compose")
        return self._composed[service]

    def _rabbit_source(self) -> Callable[[], Any] | None:
        """Return what starts or reaches RabbitMQ by the first provider that has it."""
        from grader.stack import rabbitmq

        if self.allows("external") and (url := os.environ.get("LAB_RABBITMQ_URL")):
            return partial(_external, url)
        if self.allows("compose") and (found := self._compose("rabbitmq")):
            return partial(_external, found)
        if self.allows("system") and (place := rabbitmq.find_installation()):
            return lambda: rabbitmq.Node.start(self.home, place)
        return None

    def _start_node(self) -> None:
        try:
            source = self._rabbit_source()
            if source is None:
                raise NoBroker("no_rabbitmq")
            self._node = source()
        except LabFault as fault:
            self._fault = fault
        except Exception as error:
            self._fault = LabFault("grader_error", error=repr(error))

    def _rabbit(self, space: Namespace, own: bool) -> None:
        """Move the namespace's broker to a virtual host, on a node of its own if `own`."""
        from grader.stack import rabbitmq

        if own and self.allows("system") and (place := rabbitmq.find_installation()):
            node = space.own = rabbitmq.Node.start(self.home, place)
            space.parts.append(node)
        else:
            node = self._shared_node()
        host = rabbitmq.Namespace.open(node, tracing=True)
        space.move(host.grader_url, host.student_url, host)

    def _shared_node(self) -> Any:
        self.prepare(("rabbitmq",))
        assert self._boot
        self._boot.join()
        if self._fault:
            raise self._fault
        return self._node

    def close(self) -> None:
        """Stop what was started for this call."""
        if self._boot:
            self._boot.join()
        if self._node is not None and hasattr(self._node, "stop"):
            self._node.stop()

    def __enter__(self) -> Stack:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def check_urls() -> None:
    """Look at the form of the URLs in the environment, before anything is started.

    Raises:
        UsageError: one is no URL of its server.
    """
    if (url := os.environ.get("LAB_REDIS_URL")) and not re.match(r"rediss?://[^/]", url):
        raise UsageError("redis_bad_url", url=re.sub(r"//.*@", "//***@", url))
    if url := os.environ.get("LAB_RABBITMQ_URL"):
        from grader.stack import rabbitmq

        rabbitmq.External(url)


def _backend(store: Any) -> tuple[str, str]:
    """Return the result backend's two URLs: on a server of our own, not the broker's database.

    Who takes database 0 for the result backend's, because it is everybody's default, shall see it.
    """
    urls = (store.url, store.student_url)
    if isinstance(store, redis.RedisServer):
        return (urls[0].removesuffix("/0") + "/1", urls[1].removesuffix("/0") + "/1")
    return urls


def _external(url: str) -> Any:
    """Reach somebody's RabbitMQ, and sweep there what dead runs of this machine left."""
    from grader.stack import rabbitmq

    host = rabbitmq.External(url)
    rabbitmq.sweep_vhosts(host.management)
    return host

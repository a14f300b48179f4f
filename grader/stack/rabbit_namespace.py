"""A run's own corner of a RabbitMQ: a virtual host, the student's user and the grader's user."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import os
import re
import secrets
import socket
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from grader.errors import NoBroker
from grader.process import identity
from grader.stack.rabbit_api import Management

# With tracing, RabbitMQ copies each message published in the virtual host to this topic exchange.
# A copy looks like this:
#   routing key  "publish." + the exchange's name; "publish." alone for the default exchange, and
#                `publish.#` matches both. (What a consumer gets comes as "deliver." + its queue.)
#   headers      exchange_name, routing_keys (a list), routed_queues (a list), user (who published:
#                this tells the student's messages from the grader's), vhost, connection, channel
#                (numbers), node, and properties: the original's own, only those that it has:
#                content_type, content_encoding, headers, delivery_mode, priority, correlation_id,
#                reply_to, expiration, message_id, timestamp, type, user_id, app_id
#   body         the original's bytes
# A copy may come after the original was consumed. Bind with an exclusive queue: nobody else can
# then read or empty it. Tracing does not survive a broker's restart; see Namespace.trace().
TRACE_EXCHANGE = "amq.rabbitmq.trace"

# The student's user may use every name but RabbitMQ's own exchanges, so it can't read the firehose.
STUDENT_NAMES = r"^(?!amq\.rabbitmq\.)"

# A node is shared: one that runs out of memory blocks whoever publishes, in every virtual host.
# A full queue drops its oldest messages. Celery's delayed delivery alone declares 28 queues.
LIMITS = {"max-connections": 256, "max-queues": 200}
QUEUE_POLICY = {"max-length-bytes": 32 * 1024 * 1024}

_OWNED = re.compile(
    r"lab-(?P<host>.+)-(?P<pid>\d+)-(?P<started>\d+)-\d+(?P<user>-student|-grader)?"
)
_numbers = itertools.count(1)


class Broker(Protocol):
    """What a namespace needs to know: a Node and an External both fit."""

    scheme: str
    host: str
    port: int
    management: Management

    @property
    def alive(self) -> bool:
        """Whether it still runs, as far as we can tell."""


class Namespace:
    """A virtual host with two users; make it with `open`, end it with `close` or `with`.

    Attributes:
        student_url, grader_url: amqp://user:password@host:port/vhost for the two users. Both see
            this virtual host only, and neither is let into the management API.
        student, grader: the two users' names.
        vhost: the virtual host's name.
    """

    def __init__(self, broker: Broker, vhost: str) -> None:
        self.broker, self.vhost = broker, vhost
        self.student, self.grader = f"{vhost}-student", f"{vhost}-grader"
        self._passwords = {user: secrets.token_hex(16) for user in (self.student, self.grader)}
        self.student_url, self.grader_url = self._url(self.student), self._url(self.grader)

    @classmethod
    def open(cls, broker: Broker, tracing: bool = False, name: str = "") -> Namespace:
        """Make the virtual host and its users.

        Args:
            broker: a Node or an External.
            tracing: switch on the firehose (see TRACE_EXCHANGE).
            name: the virtual host's name. Without one it names this process, so that
                `sweep_vhosts` can remove it once the process is gone.

        Raises:
            NoBroker: the management API does not answer.
            LabFault: it refuses.
        """
        space = cls(broker, name or f"lab-{machine()}-{_me()}-{next(_numbers)}")
        try:
            space._make(tracing)
        except BaseException:
            space.close()
            raise
        return space

    def _make(self, tracing: bool) -> None:
        api = self.broker.management
        api.create_vhost(self.vhost, tracing)
        api.limit(self.vhost, LIMITS, QUEUE_POLICY)
        for user, password in self._passwords.items():
            api.create_user(user, password)
        api.set_permissions(self.vhost, self.student, STUDENT_NAMES)
        api.set_permissions(self.vhost, self.grader)

    def _url(self, user: str) -> str:
        broker, vhost = self.broker, quote(self.vhost, safe="")
        login = f"{user}:{self._passwords[user]}"
        return f"{broker.scheme}://{login}@{broker.host}:{broker.port}/{vhost}"

    @property
    def alive(self) -> bool:
        """Whether the broker still runs; True for one that somebody else runs."""
        return self.broker.alive

    def queue_state(self) -> dict[str, dict[str, Any]]:
        """Return name -> {messages, ready, unacknowledged} of every queue, as they are now."""
        rows = self.broker.management.queues(self.vhost)
        return {row.pop("name"): row for row in rows}

    def trace(self) -> None:
        """Switch the firehose on, also again after the broker was restarted."""
        self.broker.management.create_vhost(self.vhost, tracing=True)

    def cut_student(self) -> None:
        """Cut the student's AMQP connections; the clients may connect again at once."""
        self.broker.management.close_connections(self.student)

    def close(self) -> None:
        """Remove the virtual host and both users; a broker that is gone has removed them itself."""
        api = self.broker.management
        with contextlib.suppress(NoBroker):
            api.delete_vhost(self.vhost)
            api.delete_user(self.student)
            api.delete_user(self.grader)

    def __enter__(self) -> Namespace:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@functools.cache
def machine() -> str:
    """Return a name for where this process's id has a meaning: host and process namespace."""
    spaces = Path("/proc/self/ns/pid")
    seed = f"{socket.gethostname()} {os.readlink(spaces) if spaces.is_symlink() else ''}"
    host = re.sub(r"[^a-z0-9]+", "-", socket.gethostname().lower())[:40]
    return f"{host}-{hashlib.sha256(seed.encode()).hexdigest()[:6]}"


def _me() -> str:
    return f"{os.getpid()}-{_started(os.getpid())}"


def _started(pid: int) -> int:
    """Return when a process was started, in whole seconds since the machine's boot."""
    import psutil

    return round(identity(psutil.Process(pid))["started"])


def sweep_vhosts(management: Management) -> list[str]:
    """Remove the virtual hosts and users of this machine's processes that are gone.

    Returns:
        The names of the virtual hosts and users that were removed.
    """
    vhosts = [name for name in management.vhosts() if _abandoned(name)]
    users = [name for name in management.users() if _abandoned(name)]
    for name in vhosts:
        management.delete_vhost(name)
    for name in users:
        management.delete_user(name)
    return vhosts + users


def _abandoned(name: str) -> bool:
    """Whether a name is one of ours, made on this machine by a process that is gone."""
    import psutil

    owner = _OWNED.fullmatch(name)
    if not owner or owner["host"] != machine():
        return False
    try:
        return abs(_started(int(owner["pid"])) - int(owner["started"])) > 1
    except (psutil.NoSuchProcess, ValueError, OverflowError):
        return True
    except psutil.Error:
        return False

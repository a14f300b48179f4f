"""What lies in a broker once its workers are gone: what waits, and what nobody acknowledged."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from typing import Any, cast

# Where kombu keeps the messages that a worker has taken and not acknowledged.
UNACKED = "unacked"
# How kombu names the lists of the higher priorities of a queue.
PRIORITIES = "{}\x06\x16{}"
STEPS = (3, 6, 9)
PAGE = 1000


def left(broker: str, url: str, names: Iterable[str]) -> dict[str, int]:
    """Return queue -> number of messages for those of the queues that hold any.

    On Redis, what was taken and never acknowledged is counted under "unacked". RabbitMQ gives such
    messages back to their queue when the connection of who took them is closed.

    Args:
        broker: "redis" or "rabbitmq".
        url: the grader's own URL of the broker.
    """
    found = (_in_redis if broker == "redis" else _in_rabbitmq)(url, set(names))
    return {name: count for name, count in found.items() if count}


def published(client: Any) -> set[tuple[str, str]]:
    """Return task and id of every task message in the lists of a Redis, whatever they are called.

    Args:
        client: connected to a Redis that nobody consumes from.
    """
    found = set()
    for payload in _elements(client):
        # Anything can lie in a list.
        with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
            headers = json.loads(payload)["headers"]
            found.add((str(headers["task"]), str(headers["id"])))
    return found


def _elements(client: Any) -> Iterator[bytes]:
    for key in client.scan_iter(count=1000, _type="list"):
        for start in range(0, client.llen(key), PAGE):
            yield from client.lrange(key, start, start + PAGE - 1)


def _in_redis(url: str, names: set[str]) -> dict[str, int]:
    from grader.stack.redis import connect

    with connect(url) as client:
        found = {UNACKED: cast(int, client.hlen(UNACKED))}
        for name in names:
            keys = [name, *(PRIORITIES.format(name, step) for step in STEPS)]
            found[name] = sum(cast(int, client.llen(key)) for key in keys)
    return found


def _in_rabbitmq(url: str, names: set[str]) -> dict[str, int]:
    from kombu import Connection

    with Connection(url, connect_timeout=10) as connection:
        return {name: _count(connection, name) for name in names}


def _count(connection: Any, name: str) -> int:
    """Return how many messages a queue holds, 0 for one that does not exist."""
    # A channel of its own: RabbitMQ closes the one that asked for a queue that is not there.
    channel = connection.channel()
    try:
        return int(channel.queue_declare(queue=name, passive=True).message_count)
    except connection.channel_errors:
        return 0

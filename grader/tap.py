"""Sees every task message as it is published, at the broker itself, whatever the submission says.

Redis: MONITOR on the run's private server shows each LPUSH. RabbitMQ: the firehose of the run's own
virtual host copies each published message to the exchange amq.rabbitmq.trace.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from grader.blame import MOST_MESSAGES, flooded
from grader.errors import SubmissionFault
from grader.history import Message

LONGEST = 300_000
LINE_SECONDS = 60.0
WORD = re.compile(rb'"((?:[^"\\]|\\.)*)"')
ESCAPED = re.compile(rb"\\(x[0-9a-f]{2}|.)")
SIGNS = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"a": b"\a", b"b": b"\b"}


def open_tap(broker: str, url: str, into: list[Message]) -> RedisTap | RabbitTap:
    """Start a tap on the run's broker; messages are appended to `into` until it is closed."""
    return (RedisTap if broker == "redis" else RabbitTap)(url, into)


class _Tap:
    """A thread that reads published messages; it stands when the constructor returns."""

    def __init__(self, url: str, into: list[Message]) -> None:
        self.url, self.into = url, into
        self.seen = 0  # commands or messages, ours and not
        self._over, self._standing = threading.Event(), threading.Event()
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._guard, daemon=True)
        self._thread.start()
        if not self._standing.wait(10):
            self.error = TimeoutError("the tap did not stand within 10 s")

    def _guard(self) -> None:
        try:
            self._run()
        except Exception as error:
            # Whose fault a lost connection is, the lab decides; nothing seen would prove nothing.
            self.error = error
        self._standing.set()

    def _run(self) -> None:
        raise NotImplementedError

    def _keep(self, message: Message) -> None:
        if len(self.into) >= MOST_MESSAGES:
            raise flooded()
        self.into.append(message)

    def close(self) -> None:
        """Stop reading."""
        self._over.set()
        self._thread.join(2)

    def __enter__(self) -> _Tap:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class RedisTap(_Tap):
    """Reads MONITOR and keeps what is pushed to a list as a task message."""

    def _run(self) -> None:
        from grader.stack.redis import connect

        # A timeout while reading would close the connection: look first whether there is something.
        # A message of many megabytes may take its time to be read.
        with (
            connect(self.url, socket_timeout=LINE_SECONDS) as client,
            client.monitor() as monitor,
        ):
            # On a server that others use, MONITOR shows their databases too.
            self._mine = f"[{urlsplit(self.url).path.lstrip('/') or 0} ".encode()
            self._standing.set()
            while not self._over.is_set():
                if monitor.connection.can_read(timeout=0.05):
                    self._take(monitor.connection.read_response())

    def _take(self, line: bytes) -> None:
        self.seen += 1
        if b' "LPUSH" ' not in line[:200] or self._mine not in line[:40]:
            return
        if len(line) > LONGEST:
            self._keep(Message("?", "", "", "", 0, None, time.time(), size=len(line)))
            return
        # A submission can push anything: what can't be read is no task message.
        with passing_over():
            _, queue, payload = (unquote(word).decode() for word in WORD.findall(line))
            document = json.loads(payload)
            headers = document["headers"]
            if "task" in headers:
                body, size = document.get("body", ""), len(payload)
                self._keep(message(queue, headers, document.get("content-type"), body, size))


def unquote(word: bytes) -> bytes:
    """Return the bytes behind a word as MONITOR prints it, between its quotes."""

    def plain(match: re.Match[bytes]) -> bytes:
        sign = match[1]
        return bytes.fromhex(sign[1:].decode()) if len(sign) == 3 else SIGNS.get(sign, sign)

    return ESCAPED.sub(plain, word)


class RabbitTap(_Tap):
    """Consumes the firehose of the virtual host."""

    def _run(self) -> None:
        from kombu import Connection, Consumer, Exchange, Queue

        with Connection(self.url) as connection:
            exchange = Exchange("amq.rabbitmq.trace", type="topic", no_declare=True)
            queue = Queue("", exchange, routing_key="publish.#", exclusive=True, auto_delete=True)
            # Any content type: the bytes are looked at, never decoded.
            with Consumer(connection, [queue], on_message=self._take, no_ack=True):
                self._standing.set()
                while not self._over.is_set():
                    with contextlib.suppress(TimeoutError, socket.timeout):
                        connection.drain_events(timeout=0.05)

    def _take(self, frame: Any) -> None:
        self.seen += 1
        with passing_over():
            properties = frame.headers["properties"]
            headers = properties["headers"]
            if "task" in headers:
                # Where it came to lie; a routing key need not be a queue's name.
                names = frame.headers.get("routed_queues") or frame.headers["routing_keys"]
                queue = names[0]
                body = bytes(frame.body) if not isinstance(frame.body, str) else frame.body.encode()
                self._keep(
                    message(
                        queue,
                        headers,
                        properties.get("content_type"),
                        body.decode("utf8", "replace"),
                        len(body),
                    )
                )


@contextlib.contextmanager
def passing_over() -> Iterator[None]:
    """Pass over what can't be read as a task message, whatever is wrong with it."""
    try:
        yield
    except SubmissionFault:  # too many of them
        raise
    except Exception:
        pass


def message(
    queue: str, headers: dict[str, Any], content_type: Any, body: str, size: int
) -> Message:
    """Return the message that these headers (task protocol 2) describe."""
    return Message(
        task=str(headers["task"]),
        id=str(headers["id"]),
        queue=queue,
        content_type=str(content_type),
        retries=int(headers.get("retries") or 0),
        eta=headers.get("eta"),
        at=time.time(),
        body=body[:4000],
        size=size,
    )

"""An HTTP service that answers as a check scripted it and logs every request.

    with HttpService() as flaky:
        flaky.script("job-*", fail(503, times=3), then=ok(value=1))
        ...
        assert len(flaky.requests("job-1")) == 4

The log, and not what a task says, tells how often the task really ran.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import quote

from grader.services import HOST, Server, reset
from grader.services.script import (
    Script,
    Step,
    answer,
    cut,
    delay,
    fail,
    hold,
    ok,
    refuse,
    retry_after,
    sentence,
    stall,
)
from grader.services.wire import Request, parse, read_body, wire

# A check takes the service and the steps from one place.
__all__ = [
    "HttpService",
    "Request",
    "Step",
    "answer",
    "cut",
    "delay",
    "fail",
    "hold",
    "ok",
    "refuse",
    "retry_after",
    "stall",
]

LOG_LIMIT = 64 * 1024 * 1024
LOOK_SECONDS = 0.005
Rule = Callable[[Request], Step | None]


class _Log:
    """The requests in the order of their arrival, kept until they fill LOG_LIMIT bytes."""

    def __init__(self) -> None:
        self._rows: list[Request] = []
        self._lock, self._size = threading.Lock(), 0

    def add(self, request: Request, size: int) -> int | None:
        """Note a request and return its number, None when there is no room for it."""
        with self._lock:
            self._size += size
            if self._size > LOG_LIMIT:
                return None
            self._rows.append(request)
            return len(self._rows) - 1

    def change(self, number: int, **news: Any) -> Request:
        with self._lock:
            self._size += len(news.get("body", ""))
            self._rows[number] = replace(self._rows[number], **news)
            return self._rows[number]

    def end(self, number: int, answered: int | str) -> None:
        self.change(number, answered=answered, ended=time.monotonic())

    def matching(self, pattern: str) -> list[Request]:
        with self._lock:
            return [row for row in self._rows if fnmatchcase(row.key, pattern)]


class HttpService(Server):
    """The service. `url` is its base; a key `job-1` lives at `<url><prefix>job-1`.

    A client that sends more than LOG_LIMIT bytes of requests in all is refused from there on, so
    that a loop gone wild can't fill the grader's memory. A subclass may answer by rules of its own
    in `choose`.
    """

    def __init__(self, prefix: str = "/jobs/", port: int = 0) -> None:
        self.prefix = prefix
        self._scripts: list[Script] = []
        self._rules: list[tuple[str, Rule]] = []
        self._log, self._writing = _Log(), threading.Lock()
        super().__init__(port)

    @property
    def url(self) -> str:
        """The base URL, without a slash at its end."""
        return f"http://{HOST}:{self.port}"

    def address(self, key: str) -> str:
        """Return the URL of a key."""
        return f"{self.url}{self.prefix}{quote(key)}"

    def script(self, pattern: str, *steps: Step, then: Step | None = None) -> None:
        """Say how the keys that match `pattern` are answered; the newest matching script counts.

        Each key plays the steps from the start, one a request, whatever other keys do. After the
        last one comes `then` for ever; without it, 410 and a sentence.
        """
        if not steps and then is None:
            raise ValueError(f"the script for {pattern!r} has no step")
        row = [step for step in steps for _ in range(step.times)]
        with self._writing:
            self._scripts.insert(0, Script(pattern, row, then))

    def rule(self, pattern: str, choose: Rule) -> None:
        """Let a function choose the step for the keys that match `pattern`; the newest rule counts.

        For answers that depend on more than the key, such as a page's number. It is called on the
        service's own thread; where it returns None, the scripts answer.
        """
        with self._writing:
            self._rules.insert(0, (pattern, choose))

    def requests(self, key: str = "*") -> list[Request]:
        """Return the requests of a key (or of a pattern of keys) in the order of their arrival."""
        return self._log.matching(key)

    def log(self) -> list[dict[str, Any]]:
        """Return every request as a plain dict, for `History.requests`."""
        return [request.plain() for request in self.requests()]

    def choose(self, request: Request) -> Step:
        """Return the step that answers this request; called on the service's own thread."""
        if not request.method:
            return sentence(400, "not_http", line=request.path)
        with self._writing:
            for pattern, rule in self._rules:
                if request.key and fnmatchcase(request.key, pattern) and (step := rule(request)):
                    return step
            for script in self._scripts:
                if request.key and fnmatchcase(request.key, script.pattern):
                    return script.next(request.key)
        return sentence(404, "unscripted", method=request.method, path=request.path)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        while await self._exchange(reader, writer):
            pass

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Take one request and answer it; return whether another may follow."""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            head = b"more than 64 KiB of headers"
        request, keep = parse(head, self.prefix)
        number = self._log.add(request, len(head))
        if number is None:
            reset(writer)
            return False
        try:
            body = await read_body(request, reader, writer)
            request = self._log.change(number, body=body, heard=time.monotonic())
            return await self._answer(number, request, keep, reader, writer)
        except (OSError, EOFError):
            self._log.end(number, "hung up")
            raise
        except asyncio.CancelledError:
            self._log.end(number, "stopped")
            raise

    async def _answer(
        self,
        number: int,
        request: Request,
        keep: bool,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> bool:
        step = self.choose(request)
        keep = await _stays(reader, step.wait) and keep and step.cut_after is None
        while step.until and not step.until():
            keep = await _stays(reader, LOOK_SECONDS) and keep
        if step.refused:
            self._log.end(number, "refused")
            reset(writer)
            return False
        rest = wire(request, step, keep)
        if step.silence:
            said = rest.index(b"\r\n\r\n") + 4 + step.silent_after
            writer.write(rest[:said])
            await writer.drain()
            keep = await _stays(reader, step.silence) and keep
            rest = rest[said:]
        # Logged first: whoever has the answer must find it in the log.
        self._log.end(number, step.status if step.cut_after is None else "cut")
        writer.write(rest)
        await writer.drain()
        return keep


async def _stays(reader: asyncio.StreamReader, seconds: float) -> bool:
    """Wait; return False when the client sent more meanwhile, which closes the connection.

    Raises:
        EOFError: the client hung up.
    """
    quiet = True
    if not seconds:
        return quiet
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while True:
                if not await reader.read(65536):
                    raise EOFError
                quiet = False
    return quiet

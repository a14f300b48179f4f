"""What stands before each service's application: it logs, plays faults and keeps answers by key."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from socket import IPPROTO_TCP, TCP_NODELAY
from typing import Any

from grader.ledger import Ledger
from grader.services.shop.app import current, to_cents
from grader.services.shop.trouble import Fault, Troubles

# The routes whose first answer is kept by its Idempotency-Key.
WRITES = {
    "reserve",
    "update",
    "release",
    "process",
    "refund",
    "create",
    "mark_failed",
    "send",
}
LOOK_SECONDS = 0.01
LARGEST = 1024 * 1024
NO_JSON = b"<html><body>It works!</body></html>"


@dataclass
class Answer:
    """What the application said: the ASGI messages' content."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


@dataclass
class Question:
    """One request as it is worked on."""

    number: int
    scope: Any
    body: bytes
    data: dict[str, Any]
    route: str
    subject: str
    key: str


class Desk:
    """An ASGI application around a service's own.

    Args:
        service: its name.
        app: the application that does the work.
        ledger: where everything is written.
        troubles: the scripted faults.
        numbers: gives each request its number.
    """

    def __init__(
        self, service: str, app: Any, ledger: Ledger, troubles: Troubles, numbers: Iterator[int]
    ) -> None:
        self.service, self.app, self.ledger = service, app, ledger
        self.troubles, self.numbers = troubles, numbers
        self.transports: dict[tuple[str, int], Any] = {}
        self._kept: dict[tuple[str, str], tuple[str, Answer]] = {}
        self._locks: defaultdict[tuple[str, str], asyncio.Lock] = defaultdict(asyncio.Lock)
        # Shut while a process is killed: whoever talks to the service then is waiting for it.
        self._gate = asyncio.Event()
        self._gate.set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Take one request."""
        if scope["type"] != "http":
            return
        question = await self._read(scope, receive)
        if question is None:
            return
        fault = self.troubles.next(self.service, question.route, question.subject)
        answered: int | str = "hung up"
        try:
            answered = await self._answer(question, fault, receive, send)
        finally:
            self._note("answer", question, answered=answered, fault=str(fault or ""))

    async def _read(self, scope: Any, receive: Any) -> Question | None:
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body = (body + message.get("body", b""))[:LARGEST]
            if not message.get("more_body"):
                break
        headers = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in scope["headers"]}
        data = _object(body)
        route, subject = place(self.service, scope["path"], data)
        key = headers.get("idempotency-key", "")
        number = next(self.numbers)
        question = Question(number, scope, body, data, route, subject, key)
        self._note(
            "request",
            question,
            method=scope["method"],
            path=scope["path"],
            key=key,
            correlation=headers.get("x-correlation-id", ""),
            body=data,
            client=list(scope.get("client") or ()),
        )
        return question

    def _note(self, kind: str, question: Question, **what: Any) -> None:
        q = question
        self.ledger.add(kind, q.number, self.service, q.route, q.subject, **what)

    async def _answer(
        self, question: Question, fault: Fault | None, receive: Any, send: Any
    ) -> int | str:
        """Do what the fault allows and return the status, or why there was none."""
        if fault is None:
            return await self._send(await self._work(question), send)
        if fault.kind == "hold":
            await self._linger(receive, fault)
            return await self._send(await self._work(question), send)
        if fault.status:
            body = {"error": "unavailable", "message": "the service was told to fail"}
            return await self._send(_json(fault.status, body), send)
        answer = await self._work(question) if fault.works else None
        if fault.kind == "latency" and answer:
            if not await self._linger(receive, fault):
                return "hung up"
            return await self._send(answer, send)
        if fault.kind == "malformed":
            kind = (b"content-type", b"text/html")
            return await self._send(Answer(200, [kind], NO_JSON), send)
        killed = fault.kind == "kill" and await self._kill(question)
        await self._gate.wait()
        self._hang_up(question)
        return "killed" if killed else ("lost" if fault.works else "refused")

    async def _work(self, question: Question) -> Answer:
        """Have the application answer, once for each key."""
        if not question.key or question.route not in WRITES:
            return await self._ask(question)
        place = (question.route, question.key)
        # Whoever comes with the same key meanwhile waits for the first answer.
        async with self._locks[place]:
            if place in self._kept:
                order, answer = self._kept[place]
                return answer if order == question.subject else REUSED
            answer = await self._ask(question)
            # Work that never began (a malformed request, an unknown route) leaves no answer.
            if answer.status not in (400, 405):
                self._kept[place] = (question.subject, answer)
            return answer

    async def _ask(self, question: Question) -> Answer:
        answer = Answer(500, [], b"")
        asked = iter([{"type": "http.request", "body": question.body, "more_body": False}])

        async def receive() -> Any:
            return next(asked, {"type": "http.disconnect"})

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                answer.status, answer.headers = message["status"], list(message["headers"])
            else:
                answer.body += message.get("body", b"")

        token = current.set((question.number, self.service, question.route))
        try:
            await self.app(question.scope, receive, send)
        finally:
            current.reset(token)
        return answer

    async def _send(self, answer: Answer, send: Any) -> int:
        await self._gate.wait()
        headers = [(k, v) for k, v in answer.headers if k.lower() != b"content-length"]
        # An open connection means an open request: that is how the grader tells who waits for one.
        headers.append((b"connection", b"close"))
        headers.append((b"content-length", str(len(answer.body)).encode()))
        start = {"type": "http.response.start", "status": answer.status, "headers": headers}
        await send(start)
        await send({"type": "http.response.body", "body": answer.body})
        return answer.status

    async def _linger(self, receive: Any, fault: Fault) -> bool:
        """Wait as the fault says; return False when the client hung up meanwhile."""
        deadline = time.monotonic() + fault.wait
        gone = asyncio.ensure_future(receive())
        try:
            while (left := deadline - time.monotonic()) > 0:
                if fault.until and fault.until():
                    return True
                pause = min(left, LOOK_SECONDS if fault.until else left)
                done, _ = await asyncio.wait([gone], timeout=pause)
                if done:
                    return False
            return True
        finally:
            gone.cancel()

    async def _kill(self, question: Question) -> bool:
        """End the process that waits for this answer."""
        port = question.scope["server"][1]
        client = question.scope["client"][1]
        self._gate.clear()
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(None, self.troubles.kill, port, client)
        finally:
            self._gate.set()

    def _hang_up(self, question: Question) -> None:
        if transport := self.transports.get(tuple(question.scope["client"])):
            transport.abort()


def _json(status: int, body: Any) -> Answer:
    return Answer(status, [(b"content-type", b"application/json")], json.dumps(body).encode())


REUSED = _json(
    422, {"error": "key_reused", "message": "this Idempotency-Key belongs to another order"}
)


def _object(body: bytes) -> dict[str, Any]:
    with contextlib.suppress(ValueError, RecursionError):
        data = json.loads(body)
        if isinstance(data, dict):
            return data
    return {}


def place(service: str, path: str, data: dict[str, Any]) -> tuple[str, str]:
    """Return a request's route (the path's last word) and its subject.

    The subject is the order's id; in a validation the user's id, the first item's id or the amount,
    which need name no order; "" where it has none.
    """
    parts = path.strip("/").split("/")
    route = parts[-1]
    inner = data.get("data")
    if len(parts) == 3:
        return route, parts[1]
    # Nobody need name the order in these two, so they are filed alike for those who do.
    if service == "inventory" and route == "check" and (item := _first_item(data.get("items"))):
        return route, item
    if service == "payment" and route == "validate":
        with contextlib.suppress(LookupError, TypeError, ValueError):
            return route, amount_subject(to_cents(data["amount"]))
    if "order_id" in data:
        return route, str(data["order_id"])
    if isinstance(inner, dict) and "order_id" in inner:
        return route, str(inner["order_id"])
    return route, ""


def amount_subject(cents: int) -> str:
    """Return what stands for an order in a request that names only its amount."""
    return f"{cents / 100:.2f}"


def _first_item(items: Any) -> str:
    with contextlib.suppress(LookupError, TypeError, AttributeError):
        return str(items[0]["id"])
    return ""


def protocol(desk: Desk) -> type:
    """Return uvicorn's protocol, made to tell the desk of its connections.

    An ASGI application can't close a connection without an answer; a transport can.
    """
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Watched(H11Protocol):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            # Head and body are written apart; without this the second waits for an ACK, 40 ms.
            transport.get_extra_info("socket").setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
            if self.client:
                desk.transports[self.client] = transport

        def connection_lost(self, exc: Exception | None) -> None:
            if self.client:
                desk.transports.pop(self.client, None)
            super().connection_lost(exc)

    return Watched

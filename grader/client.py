"""A client process of a submission: calls its producer-side functions and brings back JSON."""

from __future__ import annotations

import contextlib
import json
import queue
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from grader.errors import ClientFailed, ClientSilent
from grader.place import Place
from grader.worker import how_it_ended, tail

LONGEST = 17_000_000


@dataclass(frozen=True)
class Answer:
    """What the submission's function did: `value`, or the error's type and message."""

    value: Any = None
    error: str = ""
    traceback: str = ""
    kinds: tuple[str, ...] = ()

    def raised(self, kind: str) -> bool:
        """Whether the error is of this type, or of one that is derived from it."""
        return kind in self.kinds


class Client:
    """One client process. It imports the module at once; `hello` waits for that to end.

    Args:
        place: where it runs.
        limit: seconds that the import and each request may take.
        extra: variables for its environment beside the usual ones; None takes one away.
    """

    def __init__(
        self, place: Place, limit: float = 20.0, extra: Mapping[str, str | None] | None = None
    ) -> None:
        self.module, self.limit = place.module, limit
        self.child = place.start("client", [place.module], extra, stdin=True, stdout=True)
        # One request has one answer; more is a flood, and is left in the pipe.
        self._answers: queue.Queue[bytes] = queue.Queue(maxsize=2)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        self._hello: Answer | None = None

    def _read(self) -> None:
        stream = self.child.process.stdout
        assert stream
        with contextlib.suppress(OSError, ValueError), stream:
            while line := stream.readline(LONGEST):
                self._answers.put(line)
        self._answers.put(b"")

    def hello(self) -> dict[str, Any]:
        """Return what the submission's app says of itself: tasks, routes, the results' key.

        Raises:
            ClientFailed: the module can't be imported, has no `app`, or never ends its import.
        """
        if self._hello is None:
            self._hello = self._next(self.limit)
        if self._hello.error:
            raise ClientFailed(
                "import_failed",
                module=self.module,
                error=self._hello.error,
                where=_own_lines(self._hello.traceback),
            )
        value = self._hello.value
        if not _is_hello(value):
            raise ClientFailed("client_garbled", module=self.module)
        return cast(dict[str, Any], value)

    def delay(self, task: str, *args: Any, **kwargs: Any) -> Answer:
        """Call `module.<task>.delay(...)` in the client process; the value is the new task's id."""
        answer = self.ask("delay", task=task, args=args, kwargs=kwargs)
        return answer if answer.error else Answer(str(answer.value))

    def call(self, function: str, *args: Any, **kwargs: Any) -> Answer:
        """Call `module.<function>(...)` in the client process."""
        return self.ask("call", function=function, args=args, kwargs=kwargs)

    def ask(self, do: str, **request: Any) -> Answer:
        """Send one request and wait for its answer."""
        self.start(do, **request)
        return self.answer()

    def start(self, do: str, **request: Any) -> None:
        """Send one request without waiting; `answer` brings what came of it."""
        self.hello()
        stream = self.child.process.stdin
        assert stream
        with contextlib.suppress(OSError, ValueError):
            stream.write(json.dumps({"do": do, **request}).encode() + b"\n")
            stream.flush()

    def answer(self, within: float | None = None) -> Answer:
        """Wait for the answer to `start`, at most `within` seconds (the limit by default)."""
        return self._next(within or self.limit)

    def _next(self, within: float) -> Answer:
        try:
            line = self._answers.get(timeout=within)
        except queue.Empty:
            raise ClientSilent("client_silent", module=self.module, seconds=f"{within:g}") from None
        try:
            document = json.loads(line)
            error = document.get("error")
            if not error:
                # Half a character could be part of an id, and be asked for at a server.
                json.dumps(document["value"], ensure_ascii=False).encode()
                return Answer(document["value"])
            return Answer(
                error=f"{error['type']}: {error['message']}".removesuffix(": "),
                traceback=str(error.get("traceback", "")),
                kinds=tuple(map(str, error.get("kinds") or [error["type"]])),
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise self._broken(line) from None

    def _broken(self, line: bytes) -> ClientFailed:
        if line:
            return ClientFailed("client_garbled", module=self.module)
        with contextlib.suppress(Exception):
            self.child.process.wait(2)
        log = tail(self.child.output.finish(0.5))
        return ClientFailed(
            "client_died", module=self.module, how=how_it_ended(self.child), log=log
        )

    def end(self) -> None:
        """End the client process."""
        self.child.end()


def _is_hello(value: Any) -> bool:
    """Whether this has the form of an answer of inside/client.py; a submission may forge it."""
    wanted = {"tasks": list, "routes": dict, "result_key": str}
    if not isinstance(value, dict):
        return False
    with contextlib.suppress(ValueError, RecursionError):
        json.dumps(value, ensure_ascii=False).encode()  # half characters have no place in a key
        forms = all(isinstance(value.get(key), kind) for key, kind in wanted.items())
        return forms and all(_is_route(route) for route in value["routes"].values())
    return False


def _is_route(value: Any) -> bool:
    """Whether this names a queue as a broker can: AMQP has names of at most 255 bytes."""
    queue = value.get("queue") if isinstance(value, dict) else None
    return isinstance(queue, str) and 0 < len(queue.encode()) < 256


def _own_lines(traceback: str) -> str:
    """Return the traceback's last lines without the lab's own frames."""
    lines = [line for line in traceback.splitlines() if line.strip()]
    return "\n".join(lines[-5:])

"""The steps that an HTTP service's script is made of, and the script that plays them.

    script("job-*", fail(503, times=2), delay(3, ok()), cut(ok(), after_bytes=4), then=ok(value=1))

A step is a value: made once, it can be used in any number of scripts.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import format_datetime
from http import HTTPStatus
from typing import Any

from grader.words import LANGUAGES, Text


@dataclass(frozen=True)
class Step:
    """One answer of a script, `times` times in a row. Made by the functions below."""

    status: int = 200
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    wait: float = 0.0
    cut_after: int | None = None
    refused: bool = False
    times: int = 1
    until: Callable[[], bool] | None = None
    silence: float = 0.0
    silent_after: int = 0

    def __post_init__(self) -> None:
        if not 200 <= self.status <= 599 or self.times < 1 or self.wait < 0:
            raise ValueError(f"no such step: {self!r}")


def answer(
    status: int, body: Any = b"", headers: Mapping[str, str] | None = None, times: int = 1
) -> Step:
    """Answer with a status and a body: bytes as they are, text as UTF-8, all else as JSON."""
    kind = "text/plain; charset=utf-8"
    if not isinstance(body, bytes | str):
        body, kind = json.dumps(body), "application/json"
    sent = dict(headers or {})
    if not isinstance(body, bytes) and "content-type" not in map(str.lower, sent):
        sent["Content-Type"] = kind
    raw = body if isinstance(body, bytes) else body.encode()
    return Step(status, raw, tuple(sent.items()), times=times)


def ok(value: Any = 1, **more: Any) -> Step:
    """Answer 200 with the JSON object {"value": value} and whatever else is named."""
    return answer(200, {"value": value, **more})


def fail(status: int = 503, times: int = 1) -> Step:
    """Answer with an error status and a JSON body that names it."""
    return answer(status, {"error": f"{status} {phrase(status)}"}, times=times)


def retry_after(when: float | str | datetime, status: int = 503, times: int = 1) -> Step:
    """Fail with `Retry-After`: seconds, a moment (sent as an HTTP date), or any text as it is."""
    if isinstance(when, datetime):
        when = format_datetime(when.astimezone(UTC), usegmt=True)
    step = fail(status, times)
    return replace(step, headers=(*step.headers, ("Retry-After", str(when))))


def delay(seconds: float, step: Step) -> Step:
    """Take the step so many seconds later than it would be."""
    return replace(step, wait=step.wait + seconds)


def hold(step: Step, until: Callable[[], bool]) -> Step:
    """Take the step once `until()` is true; it is asked again and again, on the service's thread.

    A hold is ended by an event that a check waits for, where a delay would be a race.
    """
    return replace(step, until=until)


def refuse(times: int = 1) -> Step:
    """Close the connection by a TCP reset, without an answer."""
    return Step(refused=True, times=times)


def cut(step: Step, after_bytes: int = 0) -> Step:
    """Declare the whole body's length, send its first `after_bytes` bytes and close."""
    if step.refused or not 0 <= after_bytes < len(step.body):
        raise ValueError(f"{step!r} can't be cut after {after_bytes} bytes")
    return replace(step, cut_after=after_bytes)


def stall(step: Step, after_bytes: int, seconds: float) -> Step:
    """Send the head and the body's first `after_bytes` bytes; the rest so many seconds later."""
    if step.refused or not 0 <= after_bytes <= len(step.body):
        raise ValueError(f"{step!r} can't be stalled after {after_bytes} bytes")
    return replace(step, silence=seconds, silent_after=after_bytes)


@dataclass
class Script:
    """The steps for the keys that match a pattern; each key plays them from the start."""

    pattern: str
    steps: list[Step]
    then: Step | None
    played: Counter[str] = field(default_factory=Counter)

    def next(self, key: str) -> Step:
        """Return the key's next step; when all are played, `then` or a 410 that says so."""
        turn = self.played[key]
        self.played[key] += 1
        if turn < len(self.steps):
            return self.steps[turn]
        return self.then or sentence(410, "script_over", job=key, steps=len(self.steps))


def phrase(status: int) -> str:
    """Return the words that belong to a status."""
    with contextlib.suppress(ValueError):
        return HTTPStatus(status).phrase
    return "Unnamed"


def sentence(status: int, key: str, **fields: object) -> Step:
    """Answer with a sentence of the catalogue, in both languages."""
    text = Text.of(key, **fields)
    return answer(status, {"error": {lang: text.render(lang) for lang in LANGUAGES}})

"""HTTP/1.1 as the services read and write it: a request from its bytes, an answer into bytes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import formatdate
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote

from grader.services.script import Step, phrase

BODY_LIMIT = 1024 * 1024


@dataclass(frozen=True)
class Request:
    """One request as it came.

    `at` is an epoch time; `began`, `heard` (its body was there as well) and `ended` are
    `time.monotonic()` readings, all in seconds;
    the request ended when its answer was handed to the system or its client was found gone.
    `path` is as it was sent; `key` is its part behind the service's prefix, decoded and without the
    query, and empty for other paths. `headers` have lower-case names; of `body` the first MiB is
    kept. `answered` is the status, or "cut", "refused", "hung up" (the client left first),
    "stopped" (the service did), or None while there is no answer yet. What was not HTTP has no
    method.
    """

    at: float
    method: str
    path: str
    key: str
    headers: Mapping[str, str]
    body: str = ""
    answered: int | str | None = None
    began: float = 0.0
    heard: float = 0.0
    ended: float | None = None

    def plain(self) -> dict[str, Any]:
        """Return the record as a dict that can be saved as JSON."""
        return {**vars(self), "headers": dict(self.headers)}


def parse(head: bytes, prefix: str) -> tuple[Request, bool]:
    """Return the request, still without its body, and whether its client expects to go on."""
    at, began = time.time(), time.monotonic()
    line, *rows = head.decode("iso-8859-1").strip().split("\r\n")
    fields = (row.partition(":") for row in rows)
    headers = {name.strip().lower(): value.strip() for name, _, value in fields}
    try:
        method, target, version = line.split(" ")
        if not version.startswith("HTTP/1.") or int(headers.get("content-length", 0)) < 0:
            raise ValueError(version)
    except ValueError:
        return Request(at, "", line[:200], "", MappingProxyType({}), began=began), False
    path = target.partition("?")[0]
    key = unquote(path.removeprefix(prefix)) if path.startswith(prefix) else ""
    keep = version != "HTTP/1.0" and headers.get("connection", "").lower() != "close"
    return Request(at, method, target, key, MappingProxyType(headers), began=began), keep


async def read_body(
    request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> str:
    """Read a request's body to its end, grant `100-continue` first, and return its text.

    Raises:
        EOFError: the client left before the end, or sent chunks that are none.
    """
    if request.headers.get("expect", "").lower() == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    kept = bytearray()
    if "transfer-encoding" in request.headers:
        await _take_chunks(reader, kept)
    else:
        await _take(reader, int(request.headers.get("content-length", 0)), kept)
    return kept.decode("utf-8", "replace")


async def _take(reader: asyncio.StreamReader, size: int, kept: bytearray) -> None:
    """Read `size` bytes to the last and keep what there is room for."""
    while size:
        piece = await reader.read(min(size, 65536))
        if not piece:
            raise EOFError
        size -= len(piece)
        kept += piece[: BODY_LIMIT - len(kept)]


async def _take_chunks(reader: asyncio.StreamReader, kept: bytearray) -> None:
    """Read a chunked body and its trailer; EOFError where it is none."""
    try:
        while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
            await _take(reader, max(size, 0), kept)
            await reader.readuntil(b"\r\n")
        while await reader.readuntil(b"\r\n") != b"\r\n":
            pass
    except (ValueError, asyncio.LimitOverrunError) as error:
        raise EOFError from error


def wire(request: Request, step: Step, keep: bool) -> bytes:
    """Return the bytes that answer a request with a step; `keep` the connection or close it."""
    own = {name.lower() for name, _ in step.headers}
    rows = [f"HTTP/1.1 {step.status} {phrase(step.status)}"]
    rows += [f"{name}: {value}" for name, value in step.headers]
    if step.status != 204 and not own & {"content-length", "transfer-encoding"}:
        rows.append(f"Content-Length: {len(step.body)}")
    rows += [f"Date: {formatdate(usegmt=True)}"] if "date" not in own else []
    rows.append(f"Connection: {'keep-alive' if keep else 'close'}")
    bare = request.method == "HEAD" or step.status in (204, 304)
    body = b"" if bare else step.body[: step.cut_after]
    return "\r\n".join([*rows, "", ""]).encode("iso-8859-1") + body

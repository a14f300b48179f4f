"""Asks a web page of a submission, with bounds on time and size, and brings back plain data."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass
from typing import Any

LARGEST = 1_000_000
GRACE = 1.0  # what is late by itself says why, for example ReadTimeout


@dataclass(frozen=True)
class Page:
    """An answer: status 0 means that none came, and `text` says why."""

    status: int
    text: str = ""

    @property
    def json(self) -> Any:
        """The body as JSON, {} if it is not a JSON object."""
        try:
            found = json.loads(self.text)
        except (ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    def __repr__(self) -> str:
        from grader.expect import short

        body = short(self.text, quote=False)
        return f"{self.status} {body}" if self.status else f"no answer ({body})"


def ask(method: str, url: str, *, data: Any = None, raw: str = "", within: float = 5.0) -> Page:
    """Send one request and return the page.

    Args:
        data: sent as JSON.
        raw: sent as it is, under the JSON content type, when there is no `data`.
        within: seconds for the whole answer; at most a megabyte of it is read.
    """
    body = json.dumps(data) if data is not None else raw
    pages: list[Page] = []
    # On a thread of its own, because a timeout of `requests` begins anew with each byte: a page
    # that comes drop by drop would hold us for ever. A thread left behind ends with the page.
    thread = threading.Thread(
        target=lambda: pages.append(_ask(method, url, body, within)), daemon=True
    )
    thread.start()
    thread.join(within + GRACE)
    return pages[0] if pages else Page(0, "Timeout")


def _ask(method: str, url: str, body: str, within: float) -> Page:
    import requests

    with requests.Session() as session:
        session.trust_env = False
        try:
            answer = session.request(
                method,
                url,
                data=body.encode() or None,
                headers={"Content-Type": "application/json"} if body else {},
                timeout=within,
                stream=True,
                allow_redirects=False,
            )
            return Page(answer.status_code, _read(answer, within))
        except Exception as error:  # whatever a stranger's bytes do to those who read them
            return Page(0, type(error).__name__)


def _read(answer: Any, within: float) -> str:
    deadline, kept = time.monotonic() + within, bytearray()
    for chunk in answer.iter_content(8192):
        kept += chunk
        if len(kept) > LARGEST or time.monotonic() > deadline:
            break
    return bytes(kept[:LARGEST]).decode("utf-8", "replace")

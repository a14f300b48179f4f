"""Asks a web page of a submission, with bounds on time and size, and brings back plain data."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

LARGEST = 1_000_000


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
    import requests

    body = json.dumps(data) if data is not None else raw
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
        except (requests.RequestException, OSError, UnicodeError) as error:
            return Page(0, type(error).__name__)


def _read(answer: Any, within: float) -> str:
    deadline, kept = time.monotonic() + within, bytearray()
    for chunk in answer.iter_content(8192):
        kept += chunk
        if len(kept) > LARGEST or time.monotonic() > deadline:
            break
    return bytes(kept[:LARGEST]).decode("utf-8", "replace")

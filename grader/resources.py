"""What an exercise's environment names beside broker and result backend, made fresh for each lab.

exercise.toml says what the submission's processes find in their environment:

    [environment]
    LAB_FLAKY_URL = "{http.flaky}"        # a scripted HTTP service
    LAB_REDIS_URL = "{redis.ops}"         # one more private Redis
    LAB_TARGET_DB = "{data}/target.db"    # a folder that submission and grader both read and write
    ORDER_SERVICE_URL = "{shop.order}"    # one of the six services of a shop
"""

from __future__ import annotations

import contextlib
import string
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from grader.home import remove
from grader.services.http import HttpService
from grader.stack.provider import Stack

if TYPE_CHECKING:
    from grader.services.shop import Shop


class Resources:
    """The services, servers and folder that one lab owns; `close` ends them all.

    Args:
        wanted: variable -> text with placeholders, as above.
        stack: gives the Redis servers.
        folder: where {data} is, if it is asked for.

    Attributes:
        http, redis: by name.
        shop: the six services, None if no variable names one.
        data: the shared folder; it exists if a variable names it.
        environment: variable -> text, the placeholders filled in.
    """

    def __init__(self, wanted: Mapping[str, str], stack: Stack, folder: Path) -> None:
        self.http: dict[str, HttpService] = {}
        self.redis: dict[str, Any] = {}
        self.shop: Shop | None = None
        self.data = folder
        self._closers = contextlib.ExitStack()
        try:
            for place in sorted(
                {place for text in wanted.values() for place in placeholders(text)}
            ):
                self._make(*place.partition(".")[::2], stack)
        except BaseException:
            self.close()
            raise
        values = {
            "http": SimpleNamespace(**{name: each.url for name, each in self.http.items()}),
            "redis": SimpleNamespace(**{n: each.student_url for n, each in self.redis.items()}),
            "shop": SimpleNamespace(**(self.shop.urls if self.shop else {})),
            "data": folder,
        }
        self.environment = {name: text.format(**values) for name, text in wanted.items()}

    def _make(self, kind: str, name: str, stack: Stack) -> None:
        if kind == "http":
            self.http[name] = service = HttpService()
            self._closers.callback(service.stop)
        elif kind == "redis":
            self.redis[name] = server = stack.private_redis()
            self._closers.callback(server.close)
        elif kind == "shop":
            self._open_shop()
        else:
            self.data.mkdir()
            self._closers.callback(remove, self.data)

    def _open_shop(self) -> None:
        """Start the six services once, whichever is named first."""
        if self.shop is None:
            from grader.services.shop import Shop

            self.shop = Shop()
            self._closers.callback(self.shop.stop)

    @property
    def shared(self) -> tuple[Path, ...]:
        """The folders that the submission's processes may write beside their copy."""
        return (self.data,) if self.data.exists() else ()

    def requests(self) -> list[dict[str, Any]]:
        """Return every request to every service, as plain rows for `History.requests`."""
        rows = [{"service": n, **row} for n, each in self.http.items() for row in each.log()]
        return rows + (self.shop.ledger.rows() if self.shop else [])

    def close(self) -> None:
        """End what was made, the newest first."""
        self._closers.close()


def placeholders(text: str) -> Iterator[str]:
    """Yield the placeholders of a text: "http.flaky", "redis.ops", "data"."""
    return (name for _, name, _, _ in string.Formatter().parse(text) if name is not None)

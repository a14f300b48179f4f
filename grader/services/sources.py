"""Sources of records, real ones: an SQLite file, a CSV file, an HTTP API that pages.

A record is an (id, value) pair; both may be anything that the kind of source can hold, because a
check wants to see what becomes of the odd ones.
"""

from __future__ import annotations

import csv
import math
import sqlite3
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from grader.services.script import Step, answer, delay, fail, hold
from grader.services.wire import Request

Record = tuple[Any, Any]
# The bytes that an SQLite file starts with; behind them comes what no database holds.
HEADER = b"SQLite format 3\x00"
# How long a slow page takes: below what a submission must wait for (pipeline.PATIENCE_SECONDS).
SLOW_SECONDS = 4.0


def write_database(path: Path, records: Sequence[Record]) -> None:
    """Write an SQLite file with the table records(id, value); its columns take any type."""
    with closing(sqlite3.connect(":memory:")) as database:
        database.execute("CREATE TABLE records (id, value)")
        database.executemany("INSERT INTO records VALUES (?, ?)", records)
        database.commit()
        # Not by SQLite itself: it follows links by their text, and the folder that a sandbox shares
        # may lie behind one that only the system can follow.
        path.write_bytes(database.serialize())


def write_corrupt_database(path: Path) -> None:
    """Write a file that calls itself an SQLite database and is none."""
    path.write_bytes(HEADER + bytes(range(256)) * 64)


def write_csv(path: Path, records: Sequence[Record], mark: bool = False) -> None:
    """Write a CSV file with the header id,value; None becomes an empty field.

    Args:
        mark: begin with a byte order mark, as spreadsheets do.
    """
    encoding = "utf-8-sig" if mark else "utf-8"
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", "value"])
        writer.writerows(records)


@dataclass
class Pages:
    """An API source: `HttpService.rule(key, Pages(...))` serves its records in pages.

    `page=N`, from 1, is answered with {"records": [{"id", "value"}], "next": N+1 | null}. In a
    record, `...` stands for a key that is not there.

    Args:
        records: what it holds.
        size: records on a page.
        query: what must stand in the query beside the page; anything else is a 400.
        broken: the page that is answered with 500, None for none.
        held: the page that is held back until `release()` (or that never comes), None for none.
        slow: the page that is answered SLOW_SECONDS later each time, None for none.
        bare: the page that holds no records, None for none.
    """

    records: Sequence[Record]
    size: int = 10
    query: dict[str, str] = field(default_factory=dict)
    broken: int | None = None
    held: int | None = None
    slow: int | None = None
    bare: int | None = None
    _free: threading.Event = field(default_factory=threading.Event)
    _asked: float = 0.0

    @property
    def count(self) -> int:
        """How many pages there are; an empty source has one."""
        return max(1, math.ceil(len(self.records) / self.size)) + (self.bare is not None)

    def release(self) -> float:
        """Let the page that is held back go, and every later request for it.

        Returns:
            How many seconds it was held back from who asked first, 0 if nobody has.
        """
        self._free.set()
        return time.monotonic() - self._asked if self._asked else 0.0

    def __call__(self, request: Request) -> Step:
        """Return the step that answers a request."""
        query = {key: values[-1] for key, values in parse_qs(urlsplit(request.path).query).items()}
        page = query.pop("page", "")
        if query != self.query or not page.isdecimal() or not 1 <= int(page) <= self.count:
            return answer(400, {"error": f"no such page: {request.path}"})
        if int(page) == self.broken:
            return fail(500)
        step = answer(200, self._page(int(page)))
        if int(page) == self.slow:
            return delay(SLOW_SECONDS, step)
        if int(page) != self.held:
            return step
        self._asked = self._asked or time.monotonic()
        return hold(step, self._free.is_set)

    def _page(self, number: int) -> dict[str, Any]:
        place = number - 1 - (self.bare is not None and number > self.bare)
        size = 0 if number == self.bare else self.size
        chosen = self.records[place * self.size : place * self.size + size]
        rows = [dict(zip(("id", "value"), record, strict=True)) for record in chosen]
        rows = [{key: value for key, value in row.items() if value is not ...} for row in rows]
        return {"records": rows, "next": number + 1 if number < self.count else None}

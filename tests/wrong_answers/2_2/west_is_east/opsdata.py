"""The operations database: every row's time is read as an instant, whatever way it was written."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from typing import Any

EXPENDABLE = ("user_sessions", "audit_logs", "temp_files", "cached_results")
TIME_COLUMN = {"activity": "started_at"}
BATCH = 1000
LOCK_SECONDS = 20


def instant(text: str) -> datetime:
    """Read an ISO 8601 time; one without an offset is UTC.

    Texts can't be compared instead: "2026-03-01T07:00:00+08:00" is before "2026-02-28T23:30:00Z".
    """
    at = datetime.fromisoformat(text)
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


@contextmanager
def connected(mode: str = "ro") -> Iterator[sqlite3.Connection]:
    """Open the database: `ro` to read, `rw` to change rows.

    Neither mode makes a file that isn't there: a plain connect would, and the health check would
    find a database in perfect order, with nothing in it.
    """
    url = f"file:{os.environ['LAB_OPS_DB']}?mode={mode}"
    with closing(sqlite3.connect(url, uri=True, timeout=LOCK_SECONDS)) as db:
        db.row_factory = sqlite3.Row
        yield db


def every(table: str) -> list[dict[str, Any]]:
    """Return a table's rows, each with its instant as `at`."""
    column = TIME_COLUMN.get(table, "created_at")
    with connected() as db:
        rows = db.execute(f"SELECT * FROM {table}").fetchall()
    return [{**dict(row), "at": instant(row[column])} for row in rows]


def between(table: str, start: datetime, end: datetime) -> list[dict[str, Any]]:
    """Return the rows from `start` on and before `end`."""
    return [row for row in every(table) if start <= row["at"] < end]


def count(table: str) -> int:
    """Return the number of rows."""
    with connected() as db:
        return int(db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def delete_before(table: str, cutoff: datetime) -> int:
    """Delete the rows before `cutoff`, in short transactions, and return their number."""
    with connected("rw") as db:
        # Looking for them takes no lock that would keep a writer waiting.
        rows = db.execute(f"SELECT id, created_at FROM {table}").fetchall()
        old = [(row["id"],) for row in rows if instant(row["created_at"]) < cutoff]
        for first in range(0, len(old), BATCH):
            # One transaction for a batch: whoever else writes has a turn after each.
            with db:
                db.executemany(f"DELETE FROM {table} WHERE id = ?", old[first : first + BATCH])
    return len(old)

"""Files where a submission writes, too: it may have put anything in their place.

A pipe that nobody writes to, a link that leads elsewhere, a file of holes, a view instead of a
table: whoever opens or asks these like any other waits for ever, or runs out of memory.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import sqlite3
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from grader.errors import SubmissionFault

LARGEST = 32 * 2**20
QUERY_SECONDS, LONGEST_VALUE = 5.0, 2**20
# What a row takes at least in memory, about, and what all of them may.
ROW_BYTES, MOST_BYTES = 100, 64 * 2**20


def content(path: Path, most: int = LARGEST) -> bytes | None:
    """Return what a regular file holds, at most so many bytes; None where there is none."""
    with opened(path) as file, contextlib.suppress(OSError):
        return file.read(most) if file else None
    return None


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BinaryIO | None]:
    """Open a regular file for reading; None for a link, a pipe or nothing at all."""
    with contextlib.ExitStack() as stack:
        found = None
        with contextlib.suppress(OSError):
            number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            file = stack.enter_context(open(number, "rb"))
            found = file if stat.S_ISREG(os.fstat(number).st_mode) else None
        yield found


def write(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Put a file in place in one step; a link that lies there is replaced, never followed."""
    draft = path.with_name(f".{secrets.token_hex(8)}")
    number = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    with open(number, "wb") as file:
        os.fchmod(number, mode)
        file.write(data)
    draft.replace(path)


@contextlib.contextmanager
def writable(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file for reading and writing where it lies; made if it is missing.

    Raises:
        SubmissionFault: something else lies there.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        number = os.open(path, flags, 0o666)
    except OSError as error:
        raise SubmissionFault("no_plain_file", name=path.name) from error
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise SubmissionFault("no_plain_file", name=path.name)
    with open(number, "r+b") as file:
        yield file


def lock(file: BinaryIO, byte: int, name: str) -> None:
    """Lock one byte of a file for writers, as SQLite would; closing the file gives it back.

    Raises:
        SubmissionFault: another process has locked it: whoever waited for that might wait for ever.
    """
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
    except OSError as error:
        raise SubmissionFault("file_locked", name=name) from error


def bounded(db: sqlite3.Connection, query: str) -> list[Any]:
    """Return a query's rows, where what is asked need not be a table that ends.

    Raises:
        sqlite3.DatabaseError: it takes QUERY_SECONDS of processor time (a busy machine takes none
            of it away), a value is longer than LONGEST_VALUE bytes, or all of them take more than
            MOST_BYTES.
    """
    over = time.thread_time() + QUERY_SECONDS
    db.set_progress_handler(lambda: time.thread_time() > over, 10_000)
    db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST_VALUE)
    rows, size = [], 0
    for row in db.execute(query):
        rows.append(row)
        size += ROW_BYTES + sum(len(value) for value in row if isinstance(value, str | bytes))
        if size > MOST_BYTES:
            raise sqlite3.DataError(f"more than {MOST_BYTES} bytes")
    return rows

"""A pipeline's target: an SQLite file that the submission writes, and may replace by anything.

The grader opens it only where it is a plain file, reads a copy of it, and waits for no query that
never ends.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from grader.errors import SubmissionFault
from grader.files import bounded, lock, opened, writable

# Which byte of a database SQLite locks before it writes, and which says, by a 2, that it locks a
# file beside it instead, the write-ahead log's ("Database File Format", 1.3 and 1.5).
RESERVED_BYTE, MODE_BYTE = 0x40000001, 18
TABLE = "run_id, source, id, value, cents"


class Target:
    """The target at a path; it need not be there yet."""

    def __init__(self, path: Path) -> None:
        self.target = path

    def rows(self, names: set[str] | None = None) -> list[tuple[Any, ...]]:
        """Read the target's rows, those of some sources if named; [] if there is no table yet."""
        with self.copied() as copy, contextlib.suppress(sqlite3.DatabaseError):
            with closing(sqlite3.connect(copy)) as db:
                found = bounded(db, f"SELECT {TABLE} FROM loaded_records")
            return [row for row in found if names is None or row[1] in names]
        return []

    @contextlib.contextmanager
    def copied(self) -> Iterator[Path]:
        """Copy the target, with its journal if there is one, for as long as the block runs.

        SQLite can't open it where it lies: see sources.write_database.
        """
        with tempfile.TemporaryDirectory() as folder:
            for ending in ("", "-journal", "-wal"):
                name = self.target.name + ending
                with opened(self.target.with_name(name)) as file:
                    if file:
                        with (Path(folder) / name).open("wb") as copy:
                            shutil.copyfileobj(file, copy)
            yield Path(folder) / self.target.name

    def refuse(self, id: str) -> None:
        """Give the target a new table that refuses one id ("": none); what was loaded is gone.

        Nothing may be running: the file is written over as a whole. The old table goes with its
        indexes: a submission that makes one of its own, where it is missing, has to find it so.
        """
        with self.copied() as copy:
            try:
                _renew(copy, id)
            except sqlite3.DatabaseError:  # no database, or the name is that of a view
                copy.unlink()
                _renew(copy, id)
            new = not self.target.exists()
            with writable(self.target) as file:
                file.truncate(0)
                file.write(copy.read_bytes())
        # A killed worker leaves its log behind; whoever opens the file next would play it back.
        for ending in ("-wal", "-shm", "-journal"):
            self.target.with_name(self.target.name + ending).unlink(missing_ok=True)
        if new:
            self.target.chmod(0o666)

    @property
    def lockable(self) -> bool:
        """Whether `locked` keeps others from writing.

        Not where there is a write-ahead log, and not while somebody else has the lock.
        """
        if not self.target.exists():
            return True
        with opened(self.target) as file:
            if file and file.read(MODE_BYTE + 1)[MODE_BYTE:] == b"\x02":
                return False
        with contextlib.suppress(SubmissionFault), self.locked():
            return True
        return False

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the right to write into the target while the block runs, as another SQLite would.

        The lock ends when this process closes the file anywhere: don't read rows in the block.

        Raises:
            SubmissionFault: it is locked already, or no plain file.
        """
        if not self.target.exists():
            self.target.touch()  # to SQLite an empty file is a new database
            self.target.chmod(0o666)
        with writable(self.target) as file:
            lock(file, RESERVED_BYTE, self.target.name)
            yield


def _renew(path: Path, id: str) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("DROP TABLE IF EXISTS loaded_records")
        db.execute(f"CREATE TABLE loaded_records ({TABLE}, CHECK (id <> '{id}'))")

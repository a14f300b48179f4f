"""What the checks of scheduled operations work with: the database, the clock, and comparisons.

Rows lie at the edges of what a job counts, and the clock that a job sees is set (`stage`), so that
yesterday, last week and the cutoff are where the rows were put.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from grader.files import LARGEST, bounded, content, write
from grader.history import Call

if TYPE_CHECKING:
    from grader.lab import Lab

EXPENDABLE = ("user_sessions", "audit_logs", "temp_files", "cached_results")
SCHEMA = (
    "".join(
        f"CREATE TABLE {table} (id INTEGER PRIMARY KEY, {columns});"
        for table, columns in {
            **dict.fromkeys(EXPENDABLE, "created_at TEXT NOT NULL"),
            "users": "created_at TEXT NOT NULL",
            "errors": "created_at TEXT NOT NULL",
            "transactions": "user_id INTEGER, amount REAL, created_at TEXT NOT NULL",
        }.items()
    )
    + "CREATE TABLE activity (user_id INTEGER, feature TEXT, started_at TEXT, seconds REAL);"
)

SHANGHAI, BERLIN = ZoneInfo("Asia/Shanghai"), ZoneInfo("Europe/Berlin")
SECOND, MINUTE, DAY = timedelta(seconds=1), timedelta(minutes=1), timedelta(days=1)
FEATURES = ("search", "export", "upload", "share")


def reports(lab: Lab) -> dict[str, bytes]:
    """Return what the folder of the reports holds: name -> bytes."""
    folder = lab.data / "reports"
    names = [] if folder.is_symlink() or not folder.is_dir() else sorted(folder.iterdir())
    # Files of holes take no room on their disk, but all of it in our memory.
    found, left = {}, LARGEST
    for path in names:
        found[path.name] = content(path, left) or b""
        left -= len(found[path.name])
    return found


# Data, clock, readings


def written(rng: random.Random, at: datetime) -> str:
    """Return an instant in one of the ways in which the database has them."""
    zone = rng.choice((SHANGHAI, ZoneInfo("America/New_York"), BERLIN))
    plain = at.astimezone(UTC).replace(tzinfo=None).isoformat()
    return rng.choice((plain, plain + "Z", plain + "+00:00", at.astimezone(zone).isoformat()))


@contextlib.contextmanager
def aside(lab: Lab) -> Iterator[Path]:
    """Yield a path of the grader's own for a database.

    SQLite follows a path's links by itself, and gets lost on the one that leads into a cell.
    """
    path = lab.place.ledger.with_name(f"ops-{id(lab):x}.db")
    path.unlink(missing_ok=True)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def database(lab: Lab, **tables: Sequence[tuple[Any, ...]]) -> Path:
    """Put a new database in place of the old one: table=[values after the id, ...]."""
    place, folder = lab.data / "ops.db", lab.data / "reports"
    with aside(lab) as path:
        with contextlib.closing(sqlite3.connect(path)) as db, db:
            db.executescript(SCHEMA)
            for table, rows in tables.items():
                lead = [] if table == "activity" else [None]
                marks = ", ".join("?" * (len(lead) + len(rows[0]))) if rows else ""
                rows = [(*lead, *row) for row in rows]
                db.executemany(f"INSERT INTO {table} VALUES ({marks})", rows) if rows else None
        write(place, path.read_bytes(), 0o666)
    with contextlib.suppress(FileExistsError):
        folder.mkdir()
        number = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY)
        os.fchmod(number, 0o777)
        os.close(number)
    return place


def times(lab: Lab, instants: Iterable[datetime]) -> list[tuple[str]]:
    """Return rows with nothing but a time."""
    return [(written(lab.rng, at),) for at in instants]


def kept(lab: Lab, table: str) -> set[int]:
    """Return the ids that a table has now, none where it can't be read any more."""
    with aside(lab) as path, contextlib.suppress(sqlite3.DatabaseError):
        path.write_bytes(content(lab.data / "ops.db") or b"")
        with contextlib.closing(sqlite3.connect(path)) as db:
            return {row[0] for row in bounded(db, f"SELECT id FROM {table}")}
    return set()


@contextlib.contextmanager
def stage(lab: Lab, **values: Any) -> Iterator[None]:
    """Set what a job sees while the block runs; see grader/inside/stage.py."""
    if isinstance(values.get("now"), datetime):
        values["now"] = values["now"].timestamp()
    file = lab.data / "stage.json"
    write(file, json.dumps(values).encode())
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


@contextlib.contextmanager
def zone(lab: Lab, name: str) -> Iterator[None]:
    """Have the worker live in another zone while the block runs."""
    was = lab.dirty
    lab.restart_worker({"CELERY_TIMEZONE": name})
    try:
        yield
    finally:
        lab.restart_worker()
        lab.dirty = was


def local(
    tz: ZoneInfo, year: int, month: int, day: int, hour: int = 0, minute: int = 0
) -> datetime:
    """Return a local time as an instant."""
    return datetime(year, month, day, hour, minute, tzinfo=tz).astimezone(UTC)


def drawn_day(lab: Lab, tz: ZoneInfo, *fields: int) -> datetime:
    """Draw a day of the coming years at that time of the day."""
    return local(tz, lab.rng.randint(2027, 2032), *fields)


def before_now() -> datetime:
    """Return the present instant, to the second."""
    return datetime.now(UTC).replace(microsecond=0)


# Comparing


def result(call: Call) -> dict[str, Any]:
    """Return a call's result, {} if it is no dict."""
    found = call.reply.result if call.reply and call.reply.succeeded else None
    return found if isinstance(found, dict) else {}


def registered(lab: Lab, *tasks: str) -> bool:
    """Note which of the tasks are not there under their names; return whether all of them are."""
    missing = lab.unregistered(tasks)
    return lab.fact(not missing, "registered", missing=missing, found=lab.tasks)


def succeeded(lab: Lab, call: Call) -> bool:
    """Note what a call came to where it gave no dict; return whether it gave one."""
    said = {"call": call, "seen": describe(call)}
    return lab.fact(bool(result(call)), "gives_dict", **said)


def describe(call: Call) -> str:
    """Return a reply in a few words."""
    if call.reply is None:
        return "no answer"
    if call.reply.succeeded:
        return repr(call.reply.result)[:300]
    return f"{call.reply.state} {call.reply.error_type}: {call.reply.error_message}"[:300]


def same(seen: Any, wanted: Any) -> bool:
    """Whether two values are the same; numbers may differ by half a cent, or be written as text."""
    if isinstance(wanted, float):
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            return not isinstance(seen, bool) and abs(float(seen) - wanted) <= 0.005
        return False
    if isinstance(wanted, dict):
        return isinstance(seen, dict) and all(same(seen.get(k), v) for k, v in wanted.items())
    return seen == wanted and isinstance(seen, bool) == isinstance(wanted, bool)


def at_instant(text: Any) -> datetime | None:
    """Read an ISO 8601 time as the database has them: without an offset it is UTC."""
    with contextlib.suppress(TypeError, ValueError):
        at = datetime.fromisoformat(text)
        return at if at.tzinfo else at.replace(tzinfo=UTC)
    return None


def document(data: bytes | None) -> Any:
    """Read a file's JSON, None if it is none."""
    with contextlib.suppress(ValueError, RecursionError):
        return json.loads(data or b"")
    return None


def is_value(lab: Lab, call: Call, what: str, seen: Any, wanted: Any, now: datetime) -> bool:
    """Compare one value of a result and say what differs."""
    said = {"call": call, "what": what, "wanted": wanted, "seen": repr(seen)[:200]}
    return lab.fact(same(seen, wanted), "value", now=now.isoformat(), **said)

"""The added entries, in an SQLite file beside the package: beat and worker share the folder."""

import json
import sqlite3
import uuid
from contextlib import closing
from pathlib import Path

FILE = Path(__file__).resolve().parent.parent / "entries.sqlite3"


def connect():
    """Open the file, made on first use."""
    db = sqlite3.connect(FILE, timeout=10)
    db.execute("CREATE TABLE IF NOT EXISTS entry (name TEXT PRIMARY KEY, task, info, args)")
    db.execute("CREATE TABLE IF NOT EXISTS run (name TEXT PRIMARY KEY, at)")
    return closing(db)


def add(task, info, args):
    """Keep an entry and return its name."""
    name = uuid.uuid4().hex
    with connect() as db, db:
        row = (name, task, json.dumps(info), json.dumps(list(args)))
        db.execute("INSERT INTO entry VALUES (?, ?, ?, ?)", row)
    return name


def remove(name):
    """Forget an entry; return how many there were."""
    with connect() as db, db:
        return db.execute("DELETE FROM entry WHERE name = ?", (name,)).rowcount


def entries():
    """Return name -> (task, info, args)."""
    with connect() as db:
        rows = db.execute("SELECT * FROM entry").fetchall()
    return {name: (task, json.loads(info), json.loads(args)) for name, task, info, args in rows}


def runs():
    """Return name -> ISO time of the last run."""
    with connect() as db:
        return dict(db.execute("SELECT name, at FROM run").fetchall())


def ran(name, at):
    """Write down a run."""
    with connect() as db, db:
        db.execute("INSERT OR REPLACE INTO run VALUES (?, ?)", (name, at))

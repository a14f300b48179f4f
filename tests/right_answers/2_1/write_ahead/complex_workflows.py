"""A target with a write-ahead log, queues of its own, and an error derived from ValueError."""

from __future__ import annotations

import csv
import json
import math
import os
import sqlite3
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import closing
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit
from uuid import uuid4

import requests
from celery import Celery, Signature, chain, chord
from celery.result import AsyncResult
from kombu import Queue

app = Celery(
    "complex_workflows",
    broker="redis://127.0.0.1:6379/0",
    backend="redis://127.0.0.1:6379/1",
)
app.conf.update(
    # A message is acknowledged when its task has ended. If the pool child dies in between, the
    # second setting gives the message back to the queue; without it Celery calls the task failed.
    task_acks_late=True,
    task_default_queue="lane",
    task_routes={
        "complex_workflows.load_data": {"queue": "loads"},
        "complex_workflows.send*": {"queue": "mail"},
    },
    task_queues=[Queue("lane"), Queue("loads"), Queue("mail")],
    result_extended=True,
    task_track_started=True,
    task_send_sent_event=True,
    result_chord_retry_interval=0.1,
    task_reject_on_worker_lost=True,
    # Stages are long compared with a message: a child that fetches four of them in advance would
    # keep them from a child that has nothing to do.
    worker_prefetch_multiplier=1,
)

# Connecting, and then the longest silence between two bytes. Without it a service that never
# answers holds its task, the join behind it and the caller for ever.
PATIENCE = (3.0, 6.0)
MAX_SOURCES = 50


# ------------------------------------------------------------- rows stay on disk, references travel

# What a task returns goes through the result backend, and then into the next task's message. With
# rows in it, a source of 200 000 records would be copied four times through Redis and the broker.
# So a stage writes its rows to a file that all workers can read, and passes the file's name on.
WORK = Path(os.environ.get("LAB_WORK_DIR", "/tmp/complex_workflows"))


def write_rows(name: str, rows: Iterable[Any]) -> str:
    """Write rows as JSON lines under a name, and return the name.

    A task that is run again writes the same file again: nothing is ever appended, and nobody sees
    half a file, because the name appears only when the file is complete.
    """
    WORK.mkdir(parents=True, exist_ok=True)
    draft = WORK / f"{name}.{uuid4().hex}.draft"
    with draft.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row) + "\n")
    draft.replace(WORK / name)
    return name


def read_rows(names: Iterable[str]) -> Iterator[Any]:
    """Yield the rows of several files, one at a time."""
    for name in names:
        with (WORK / name).open(encoding="utf-8") as file:
            yield from map(json.loads, file)


# ---------------------------------------------------------------------------- a source's own stages


class SourcesRefused(ValueError):
    """Sources that make no workflow."""


class SourceError(Exception):
    """A source that can't be read; the message names it, because the notification quotes it."""


@app.task(bind=True)
def extract_data(self, source):
    """Read every record of a source: {"source": name, "files": [...]} of [id, value] rows."""
    name, kind = source["name"], source["type"]
    file = f"{self.request.id}-extract"
    if kind == "api":
        # How many pages there are is not known before the last one. So the task replaces itself
        # by one that reads a page, which replaces itself by one that reads the next: what comes
        # behind (validate, the join) waits for the last of them, and no task waits for another.
        raise self.replace(fetch_page.s(name, source["location"], 1, []))
    if kind not in READERS:
        raise ValueError(f"source {name!r} has the unknown type {kind!r}")
    try:
        return {"source": name, "files": [write_rows(file, READERS[kind](source["location"]))]}
    except (OSError, sqlite3.Error, csv.Error, UnicodeError, KeyError) as error:
        raise SourceError(f"extract_data of source {name!r}: {error!r}") from error


def read_database(location: str) -> Iterator[list[Any]]:
    """Yield [id, value] of an SQLite file's records."""
    # Read-only: sqlite3.connect("missing.db") would make an empty database instead of failing.
    with closing(sqlite3.connect(f"{Path(location).absolute().as_uri()}?mode=ro", uri=True)) as db:
        for id, value in db.execute("SELECT id, value FROM records"):
            yield [plain(id), plain(value)]


def plain(value: Any) -> Any:
    """Return what JSON can hold; a BLOB is no number and no text, so it becomes invalid (None)."""
    return None if isinstance(value, bytes) else value


def read_csv(location: str) -> Iterator[list[Any]]:
    """Yield [id, value] of a CSV file's rows."""
    # utf-8-sig takes a byte order mark off. With utf-8 the first column is called "\\ufeffid".
    with open(location, encoding="utf-8-sig", newline="") as file:
        for row in csv.DictReader(file):
            yield [row["id"], row["value"]]


READERS = {"database": read_database, "file": read_csv}


@app.task(bind=True)
def fetch_page(self, name, location, page, files):
    """Read one page of an API source, then let the task for the next page take this one's place."""
    try:
        answer = requests.get(with_page(location, page), timeout=PATIENCE)
        answer.raise_for_status()
        body = answer.json()
        rows = [[record.get("id"), record.get("value")] for record in body["records"]]
    except (requests.RequestException, ValueError, KeyError) as error:
        raise SourceError(f"extract_data of source {name!r}, page {page}: {error!r}") from error
    files = [*files, write_rows(f"{self.request.id}-extract-{page}", rows)]
    if body["next"] is None:
        return {"source": name, "files": files}
    raise self.replace(fetch_page.s(name, location, body["next"], files))


def with_page(location: str, page: int) -> str:
    """Return the URL of a page; a query that the location brings along stays."""
    parts = urlsplit(location)
    query = [*parse_qsl(parts.query, keep_blank_values=True), ("page", str(page))]
    return parts._replace(query=urlencode(query)).geturl()


@app.task(bind=True)
def validate_data(self, extraction):
    """Drop and count the invalid records."""
    seen: set[str] = set()
    invalid = 0

    def valid() -> Iterator[tuple[str, float]]:
        nonlocal invalid
        for id, value in read_rows(extraction["files"]):
            key, number = as_id(id), as_number(value)
            # Only a valid record takes its id: a broken one must not shut out a good one.
            if not key or number is None or key in seen:
                invalid += 1
                continue
            seen.add(key)
            yield key, number

    file = write_rows(f"{self.request.id}-validate", valid())
    return {
        "source": extraction["source"],
        "files": [file],
        "count": len(seen),
        "invalid_count": invalid,
    }


def as_id(id: Any) -> str:
    """Return an id as text, empty where there is none."""
    return "" if id is None else str(id).strip()


def as_number(value: Any) -> float | None:
    """Return a finite number, None for everything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


@app.task(bind=True)
def transform_data(self, validation):
    """Give each record its final form."""
    name = validation["source"]
    rows = (
        {"source": name, "id": id, "value": value, "cents": cents(value)}
        for id, value in read_rows(validation["files"])
    )
    return {**validation, "files": [write_rows(f"{self.request.id}-transform", rows)]}


def cents(value: float) -> int:
    """Return the value in cents, rounded half-even."""
    # Decimal(str(...)) is the number that one reads. 1.015 * 100 is 101.49999999999999.
    return int((Decimal(str(value)) * 100).quantize(Decimal(1), rounding=ROUND_HALF_EVEN))


# ------------------------------------------------------------------------------ join, load and tell


@app.task(bind=True)
def aggregate_results(self, transformations, run_id=None):
    """Join the sources; the rows themselves stay where they are."""
    counts = [one["count"] for one in transformations]
    return {
        # The workflow brings its run's id along. Called by hand the task is a run of its own; its
        # own id stays the same when it is run again.
        "run_id": run_id or self.request.id,
        "total_records": sum(counts),
        "source_count": len(transformations),
        "sources": {
            one["source"]: {"count": one["count"], "invalid_count": one["invalid_count"]}
            for one in transformations
        },
        "summary": {
            "average": sum(counts) / len(counts) if counts else 0,
            "max": max(counts, default=0),
            "min": min(counts, default=0),
        },
        "files": [file for one in transformations for file in one["files"]],
    }


TABLE = """
    CREATE TABLE IF NOT EXISTS loaded_records (
        run_id TEXT NOT NULL, source TEXT NOT NULL, id TEXT NOT NULL, value REAL, cents INTEGER
    )
"""
INSERT = "INSERT INTO loaded_records (run_id, source, id, value, cents) VALUES (?, ?, ?, ?, ?)"


class LoadError(Exception):
    """The target has refused a run; nothing of it was loaded."""


@app.task
def load_data(aggregation):
    """Write every record of the run into the target, all of them or none."""
    try:
        write_run(aggregation)
    except sqlite3.Error as error:
        raise LoadError(f"load_data: {error!r}") from error
    return {
        "run_id": aggregation["run_id"],
        "status": "completed",
        "total_loaded": aggregation["total_records"],
        "error": None,
    }


def write_run(aggregation: dict[str, Any]) -> None:
    """Write the run's rows in one transaction, unless they are there already."""
    run_id = aggregation["run_id"]
    with closing(target()) as db, transaction(db):
        db.execute(TABLE)
        # All rows of a run are written in one transaction. So one row of it means that all are
        # there, and a task that comes again, after a lost acknowledgement, has nothing to do.
        done = db.execute("SELECT 1 FROM loaded_records WHERE run_id = ? LIMIT 1", (run_id,))
        if done.fetchone() is None:
            rows = read_rows(aggregation["files"])
            # A generator: one row at a time is in memory. No OR IGNORE: a row that the target
            # refuses has to be noticed.
            fields = ((run_id, r["source"], r["id"], r["value"], r["cents"]) for r in rows)
            db.executemany(INSERT, fields)


def target() -> sqlite3.Connection:
    """Open the target; another load may hold it for a while."""
    db = sqlite3.connect(os.environ["LAB_TARGET_DB"], timeout=20, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    return db


class transaction:
    """`with transaction(db):` commits the block as a whole, or takes all of it back."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self.db = db

    def __enter__(self) -> None:
        # IMMEDIATE takes the right to write at once. A transaction that starts by reading and
        # then wants to write is refused, however long it would wait, if another one wrote.
        self.db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self.db.execute("ROLLBACK" if kind else "COMMIT")


@app.task(bind=True, max_retries=2)
def send_notification(self, load_result):
    """POST the outcome to whoever waits for it, and return it."""
    run_id = load_result["run_id"]
    outcome = {key: load_result[key] for key in ("status", "total_loaded", "error")}
    if not claim(f"notified:{run_id}", self.request.id):
        return outcome
    try:
        url = os.environ["LAB_NOTIFY_URL"]
        answer = requests.post(url, json=outcome, timeout=PATIENCE, allow_redirects=False)
        if not 200 <= answer.status_code < 300:
            raise requests.HTTPError(f"the notification was answered with {answer.status_code}")
    except requests.RequestException as error:
        if self.request.retries == self.max_retries:
            remove_run.delay(run_id)
            raise
        raise self.retry(exc=error, countdown=0.5) from error
    return outcome


def claim(key: str, owner: str) -> bool:
    """Return whether the key is this owner's: the first to ask gets it, and keeps it.

    The owner is a task's id. A task that is run again, because its process was killed, finds its
    own claim and goes on; a bare "was it done before?" would keep it from ever being done.
    """
    redis = app.backend.client
    name = f"complex_workflows:{key}"
    return bool(redis.set(name, owner, nx=True, ex=86400)) or redis.get(name) == owner.encode()


@app.task
def report_failure(request, error, traceback, run_id):
    """Have a failed workflow notified. Celery calls an errback of this shape where it failed."""
    failed = {"run_id": run_id, "status": "failed", "total_loaded": 0, "error": str(error)}
    # A task of its own: it is retried and redelivered like any other. When the notification
    # itself has failed, its claim is still there, and this one is silent.
    send_notification.delay(failed)


@app.task
def remove_run(run_id):
    """Take a run out of the target again: nobody was told of it."""
    with closing(target()) as db, transaction(db):
        db.execute("DELETE FROM loaded_records WHERE run_id = ?", (run_id,))


# ------------------------------------------------------------------------------------- the workflow


def create_data_pipeline(sources: list[dict[str, str]]) -> Signature:
    """Return the whole workflow as one signature.

    Raises:
        ValueError: no sources, too many, two of one name.
    """
    names = [source["name"] for source in sources]
    if not 1 <= len(names) <= MAX_SOURCES:
        raise SourcesRefused(f"from 1 to {MAX_SOURCES} sources are wanted, not {len(names)}")
    if twice := {name for name in names if names.count(name) > 1}:
        raise SourcesRefused(f"two sources are called {', '.join(sorted(twice))}")
    run_id = uuid4().hex
    # A group of chains: each source goes its own way, and only the join waits. In a chain of
    # groups every validate_data would wait for all sources, and get the list of all of them.
    header = [chain(extract_data.s(s), validate_data.s(), transform_data.s()) for s in sources]
    body = chain(aggregate_results.s(run_id), load_data.s(), send_notification.s())
    # On the body as a whole: an errback on one of its tasks is not called when a source fails,
    # and one on the header would be called once for each source that fails.
    return chord(header, body.on_error(report_failure.s(run_id)))


def run_pipeline(sources: list[dict[str, str]]) -> str:
    """Start the workflow and return the id under which its end can be seen."""
    result = create_data_pipeline(sources).apply_async()
    app.backend.client.set(tree_key(result.id), json.dumps(list(ids_of(result))), ex=86400)
    return result.id


def ids_of(result: Any) -> Iterator[str]:
    """Yield the ids of the tasks in a result's tree: the last task's, then the sources' stages."""
    while result is not None:
        for child in getattr(result, "results", None) or []:
            yield from ids_of(child)
        if isinstance(result, AsyncResult):
            yield result.id
        result = result.parent


def tree_key(workflow_id: str) -> str:
    """Return the key that holds the ids of a workflow's tasks."""
    return f"complex_workflows:tasks:{workflow_id}"


def workflow_progress(id: str) -> dict[str, Any]:
    """Return how far a workflow is.

    Raises:
        ValueError: there is no workflow of that id. To Celery, any unknown id is PENDING.
    """
    stored = app.backend.client.get(tree_key(id))
    if stored is None:
        raise SourcesRefused(f"no workflow has the id {id!r}")
    # The end is asked for first: it can't be SUCCESS while an earlier stage still looks undone.
    state = app.AsyncResult(id).state
    ids = json.loads(stored)
    states = [state if one == id else app.AsyncResult(one).state for one in ids]
    completed = states.count("SUCCESS")
    return {
        "state": state,
        "total": len(ids),
        "completed": completed,
        "failed": states.count("FAILURE"),
        "percent": 100 * completed // len(ids),
    }


def watch(id: str) -> int:
    """Print a workflow's progress until it ends; return 0 if it went well, 1 if not."""
    while True:
        now = workflow_progress(id)
        print(f"{now['percent']:3d}% {now['completed']}/{now['total']} {now['state']}", flush=True)
        if now["state"] in ("SUCCESS", "FAILURE"):
            return 0 if now["state"] == "SUCCESS" else 1
        threading.Event().wait(0.2)


if __name__ == "__main__":
    if sys.argv[1:2] != ["watch"] or len(sys.argv) != 3:
        sys.exit("usage: python -m complex_workflows watch ID")
    sys.exit(watch(sys.argv[2]))

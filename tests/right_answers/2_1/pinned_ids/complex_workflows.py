"""A chord of chains whose task ids are all derived from the workflow's id.

Because the ids are pinned, progress needs no bookkeeping in the tasks: whoever knows the workflow's
id and the number of its sources can ask the result backend for the state of every stage.
"""

from __future__ import annotations

import csv
import json
import math
import os
import sqlite3
import statistics
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path
from typing import Any

import requests
from celery import Celery, Signature, chain, chord, group
from celery.result import AsyncResult

app = Celery(
    "complex_workflows",
    broker="redis://127.0.0.1:6379/0",
    backend="redis://127.0.0.1:6379/1",
)
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
)

TARGET_DB = os.environ.get("LAB_TARGET_DB", "/tmp/complex_workflows.db")
NOTIFY_URL = os.environ.get("LAB_NOTIFY_URL", "http://127.0.0.1:8099/jobs/outcome")
LANE = ("extract", "validate", "transform")
TAIL = ("aggregate", "load")
PAGE_TIMEOUT = (3, 6.5)
POST_TIMEOUT = 6
POST_TRIES = 3


class StageError(Exception):
    """A stage failed; the text names the stage and, where there is one, the source."""


@dataclass(frozen=True)
class Record:
    """A record as it is loaded."""

    source: str
    id: str
    value: float
    cents: int


# --- the workflow's ids -----------------------------------------------------------------------


def lane_id(run: str, index: int, stage: str) -> str:
    return f"{run}.{index}.{stage}"


def tail_id(run: str, stage: str) -> str:
    return f"{run}.{stage}"


def register_key(run: str) -> str:
    return f"complex-workflows-run-{run}"


def notified_key(run: str) -> str:
    return f"complex-workflows-notified-{run}"


# --- sources ----------------------------------------------------------------------------------


def read_database(location: str) -> Iterator[tuple[Any, Any]]:
    uri = Path(location).absolute().as_uri() + "?mode=ro"
    with closing(sqlite3.connect(uri, uri=True)) as database:
        yield from database.execute("SELECT id, value FROM records ORDER BY rowid")


def read_file(location: str) -> Iterator[tuple[Any, Any]]:
    with open(location, encoding="utf-8-sig", newline="") as stream:
        for row in csv.DictReader(stream):
            yield row.get("id"), row.get("value")


def read_api(location: str) -> Iterator[tuple[Any, Any]]:
    page: Any = 1
    with requests.Session() as session:
        session.trust_env = False
        while page is not None:
            answer = session.get(location, params={"page": page}, timeout=PAGE_TIMEOUT)
            answer.raise_for_status()
            body = answer.json()
            for record in body["records"]:
                if isinstance(record, dict):
                    yield record.get("id"), record.get("value")
                else:
                    yield None, None
            page = body["next"]


READERS = {"database": read_database, "file": read_file, "api": read_api}


def plain(thing: Any) -> Any:
    """A blob is neither a number nor anything that JSON knows."""
    return None if isinstance(thing, bytes) else thing


# --- stages -----------------------------------------------------------------------------------


@app.task
def extract_data(source):
    """Read every record of a source."""
    name = source["name"]
    try:
        reader = READERS[source["type"]]
    except KeyError:
        raise ValueError(f"unknown type of source: {source['type']}") from None
    try:
        rows = [[plain(id), plain(value)] for id, value in reader(source["location"])]
    except Exception as error:
        raise StageError(f"extract {name}: {type(error).__name__}: {error}") from error
    return {"source": name, "rows": rows}


def clean_id(raw: Any) -> str | None:
    if raw is None:
        return None
    return str(raw).strip() or None


def clean_value(raw: Any) -> float | None:
    if isinstance(raw, bool) or not isinstance(raw, (int, float, str)):
        return None
    try:
        number = float(raw)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


@app.task
def validate_data(extraction):
    """Drop and count the invalid records."""
    kept: dict[str, float] = {}
    invalid = 0
    for raw_id, raw_value in extraction["rows"]:
        id, value = clean_id(raw_id), clean_value(raw_value)
        if id is None or value is None or id in kept:
            invalid += 1
        else:
            kept[id] = value
    return {
        "source": extraction["source"],
        "invalid": invalid,
        "rows": [list(p) for p in kept.items()],
    }


def cents_of(value: float) -> int:
    return int((Decimal(str(value)) * 100).to_integral_value(rounding=ROUND_HALF_EVEN))


@app.task
def transform_data(validation):
    """Give each record its final form."""
    name = validation["source"]
    return {
        "source": name,
        "invalid": validation["invalid"],
        "records": [
            asdict(Record(name, id, float(value), cents_of(float(value))))
            for id, value in validation["rows"]
        ],
    }


@app.task
def aggregate_results(transformations, run=None):
    """Join the sources."""
    counts = [len(lane["records"]) for lane in transformations]
    return {
        "run_id": run or f"by-hand-{uuid.uuid4()}",
        "total_records": sum(counts),
        "source_count": len(transformations),
        "sources": {
            lane["source"]: {"count": len(lane["records"]), "invalid_count": lane["invalid"]}
            for lane in transformations
        },
        "summary": {
            "average": statistics.fmean(counts) if counts else 0,
            "max": max(counts, default=0),
            "min": min(counts, default=0),
        },
        "records": [record for lane in transformations for record in lane["records"]],
    }


@contextmanager
def target_transaction() -> Iterator[sqlite3.Connection]:
    """The target in one transaction of its own, with the tables in place."""
    Path(TARGET_DB).absolute().parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(TARGET_DB, timeout=8, isolation_level=None)) as target:
        target.execute("BEGIN IMMEDIATE")
        try:
            target.execute(
                "CREATE TABLE IF NOT EXISTS loaded_records"
                " (run_id TEXT, source TEXT, id TEXT, value REAL, cents INTEGER)"
            )
            target.execute("CREATE TABLE IF NOT EXISTS loaded_runs (run_id TEXT PRIMARY KEY)")
            yield target
            target.execute("COMMIT")
        finally:
            if target.in_transaction:
                target.execute("ROLLBACK")


@app.task
def load_data(aggregation):
    """Write every record of the run, all of them or none."""
    run = aggregation["run_id"]
    with target_transaction() as target:
        news = target.execute("INSERT OR IGNORE INTO loaded_runs (run_id) VALUES (?)", (run,))
        if news.rowcount:
            target.executemany(
                "INSERT INTO loaded_records (run_id, source, id, value, cents)"
                " VALUES (:run, :source, :id, :value, :cents)",
                ({"run": run, **record} for record in aggregation["records"]),
            )
    return {
        "run_id": run,
        "status": "completed",
        "total_loaded": aggregation["total_records"],
        "error": None,
    }


def post(outcome: dict[str, Any]) -> None:
    with requests.Session() as session:
        session.trust_env = False
        answer = session.post(NOTIFY_URL, json=outcome, timeout=POST_TIMEOUT, allow_redirects=False)
    if not 200 <= answer.status_code < 300:
        raise StageError(f"notify: answered with {answer.status_code}")


@app.task(bind=True, max_retries=POST_TRIES - 1)
def send_notification(self, load_result):
    """POST the outcome as JSON and return it."""
    run = load_result.get("run_id")
    if run and app.backend.get(notified_key(run)):
        return load_result
    try:
        post(load_result)
    except (requests.RequestException, StageError) as error:
        failure = StageError(f"notify: {error}")
        if self.request.called_directly:
            raise failure from error
        raise self.retry(exc=failure, countdown=1) from error
    if run:
        app.backend.set(notified_key(run), "yes")
    return load_result


@app.task
def roll_back(run):
    """Take the rows of a run out of the target again."""
    with target_transaction() as target:
        return target.execute("DELETE FROM loaded_records WHERE run_id = ?", (run,)).rowcount


@app.task
def workflow_failed(request, exc, traceback, run=None):
    """Errback of everything behind the sources; it runs where the failure was handled."""
    if request.task == send_notification.name:
        roll_back.apply_async((run,), task_id=tail_id(run, "rollback"))
        return
    stage = {aggregate_results.name: "aggregate: ", load_data.name: "load: "}.get(
        request.task, "extract, validate or transform: "
    )
    outcome = {
        "run_id": run,
        "status": "failed",
        "total_loaded": 0,
        "error": f"{stage}{type(exc).__name__}: {exc}",
    }
    send_notification.apply_async((outcome,), task_id=tail_id(run, "failure"))


# --- the workflow -----------------------------------------------------------------------------


def check(sources: list[dict[str, str]]) -> None:
    if not sources:
        raise ValueError("a pipeline needs at least one source")
    names = [source["name"] for source in sources]
    if len(set(names)) < len(names):
        raise ValueError("two sources have the same name")
    for source in sources:
        if source["type"] not in READERS:
            raise ValueError(f"unknown type of source: {source['type']}")


def draw(sources: list[dict[str, str]], run: str) -> Signature:
    check(sources)
    lanes = []
    for index, source in enumerate(sources):
        steps = (extract_data.s(source), validate_data.s(), transform_data.s())
        lanes.append(
            chain(*(step.set(task_id=lane_id(run, index, name)) for step, name in zip(steps, LANE)))
        )
    tail = chain(
        aggregate_results.s(run=run).set(task_id=tail_id(run, "aggregate")),
        load_data.s().set(task_id=tail_id(run, "load")),
        send_notification.s().set(task_id=run),
    )
    return chord(group(lanes), tail.on_error(workflow_failed.s(run=run)))


def create_data_pipeline(sources: list[dict[str, str]]) -> Signature:
    """Return the whole workflow as one signature."""
    return draw(sources, str(uuid.uuid4()))


def run_pipeline(sources: list[dict[str, str]]) -> str:
    """Start the workflow; return the id under which AsyncResult sees its end."""
    run = str(uuid.uuid4())
    workflow = draw(sources, run)
    app.backend.set(register_key(run), json.dumps({"sources": len(sources)}))
    workflow.apply_async()
    return run


def workflow_progress(id: str) -> dict[str, Any]:
    """Return {"state", "total", "completed", "failed", "percent"}, from whichever process."""
    known = app.backend.get(register_key(id))
    if not known:
        raise ValueError(f"unknown workflow: {id}")
    count = json.loads(known)["sources"]
    state = AsyncResult(id, app=app).state
    ids = [lane_id(id, index, stage) for index in range(count) for stage in LANE]
    ids += [tail_id(id, stage) for stage in TAIL]
    total = len(ids) + 1
    if state == "SUCCESS":
        return {"state": state, "total": total, "completed": total, "failed": 0, "percent": 100}
    states = [AsyncResult(task, app=app).state for task in ids]
    completed = states.count("SUCCESS")
    failed = states.count("FAILURE")
    if state == "FAILURE":
        failed = max(1, failed)
    return {
        "state": state,
        "total": total,
        "completed": completed,
        "failed": failed,
        "percent": completed * 100 // total,
    }


def watch(id: str) -> int:
    while True:
        progress = workflow_progress(id)
        print(
            f"{progress['percent']:3d} %  {progress['completed']}/{progress['total']}  {progress['state']}",
            flush=True,
        )
        if progress["state"] in ("SUCCESS", "FAILURE"):
            return 0 if progress["state"] == "SUCCESS" else 1
        time.sleep(0.3)


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] != "watch":
        sys.exit("usage: python -m complex_workflows watch ID")
    try:
        sys.exit(watch(sys.argv[2]))
    except ValueError as error:
        sys.exit(str(error))

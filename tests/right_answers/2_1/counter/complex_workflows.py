"""No canvas beyond one task: every task sends the next, and Redis counts who is done."""

import csv
import io
import json
import math
import os
import sqlite3
import urllib.parse
import uuid
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path

import requests
from celery import Celery, current_task

app = Celery("complex_workflows", broker="redis://", backend="redis://")
app.conf.task_default_queue = "pipelines"
app.conf.result_expires = 600
KNOWN = ("database", "file", "api")
options = {"bind": True, "acks_late": True, "reject_on_worker_lost": True}


def redis():
    """Return the result backend's connection."""
    return app.backend.client


def follow(task, value, run, number=""):
    """Send the next stage. Its id is made of the run's, so a second sending does no harm."""
    if run:
        id = run["id"] if task is send_notification else f"{run['id']}-{task.__name__}-{number}"
        task.apply_async((value, run, number), task_id=id)
    return value


def failing(what, run, error):
    """Tell of the failure, unless somebody has done so for this run; then raise."""
    if run and redis().hsetnx(f"run:{run['id']}", "failed", current_task.request.id):
        send_notification.apply_async(({"failed": what}, run, ""), task_id=run["id"])
    raise error


@app.task(**options)
def start(self, sources, run):
    """Send one extraction for each source."""
    for number, source in enumerate(sources):
        id = f"{run['id']}-extract_data-{number}"
        extract_data.apply_async((source, run, number), task_id=id)


@app.task(**options)
def extract_data(self, source, run=None, number=""):
    """Read a source."""
    try:
        pairs = list(read(source["type"], source["location"]))
    except Exception as error:
        failing(f"extract_data of {source['name']}: {error}", run, error)
    return follow(validate_data, [source["name"], pairs], run, number)


def read(kind, location):
    """Yield the pairs of a source."""
    if kind == "file":
        text = Path(location).read_bytes().decode("utf-8-sig")
        yield from ([row["id"], row["value"]] for row in csv.DictReader(io.StringIO(text)))
    elif kind == "database":
        connection = sqlite3.connect(f"file:{urllib.parse.quote(location)}?mode=ro", uri=True)
        yield from map(list, connection.execute("SELECT id, value FROM records").fetchall())
        connection.close()
    elif kind == "api":
        page = 1
        with requests.Session() as session:
            while page:
                answer = session.get(location, params={"page": page}, timeout=(5, 8))
                if answer.status_code != 200:
                    raise OSError(f"page {page} was answered with {answer.status_code}")
                yield from ([row.get("id"), row.get("value")] for row in answer.json()["records"])
                page = answer.json()["next"]
    else:
        raise ValueError(f"no such type: {kind}")


@app.task(**options)
def validate_data(self, extraction, run=None, number=""):
    """Keep what is valid."""
    name, pairs = extraction
    kept = {}
    for id, value in pairs:
        text = "" if id is None else str(id).strip()
        if text and text not in kept and finite(value):
            kept[text] = float(value)
    return follow(transform_data, [name, kept, len(pairs) - len(kept)], run, number)


def finite(value):
    """Whether this is a number."""
    try:
        return not isinstance(value, bool) and math.isfinite(float(value))
    except (TypeError, ValueError):
        return False


@app.task(**options)
def transform_data(self, validation, run=None, number=""):
    """Make the rows; whoever makes the last ones sends the join."""
    name, kept, invalid = validation
    rows = [
        [name, id, value, int((Decimal(str(value)) * 100).quantize(1, rounding=ROUND_HALF_EVEN))]
        for id, value in kept.items()
    ]
    made = {"name": name, "rows": rows, "invalid": invalid}
    if run:
        key = f"made:{run['id']}"
        with redis().pipeline() as together:
            together.hset(key, number, json.dumps(made))
            together.hlen(key)
            count = together.execute()[1]
        if count == run["sources"]:
            everything = [json.loads(one) for one in redis().hvals(key)]
            follow(aggregate_results, everything, run)
    return made


@app.task(**options)
def aggregate_results(self, transformations, run=None, number=""):
    """Join the sources."""
    counts = {one["name"]: len(one["rows"]) for one in transformations}
    joined = {
        "id": run["id"] if run else str(uuid.uuid4()),
        "total_records": sum(counts.values()),
        "source_count": len(counts),
        "sources": {
            one["name"]: {"count": counts[one["name"]], "invalid_count": one["invalid"]}
            for one in transformations
        },
        "summary": {
            "average": sum(counts.values()) / len(counts),
            "max": max(counts.values()),
            "min": min(counts.values()),
        },
        "rows": [row for one in transformations for row in one["rows"]],
    }
    return follow(load_data, joined, run)


@app.task(**options)
def load_data(self, aggregation, run=None, number=""):
    """Load all rows."""
    rows = [(aggregation["id"], *row) for row in aggregation["rows"]]
    connection = sqlite3.connect(os.environ["LAB_TARGET_DB"], timeout=15)
    try:
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(
                "CREATE TABLE IF NOT EXISTS "
                "loaded_records (run_id TEXT, source TEXT, id TEXT, value REAL, cents INTEGER)"
            )
            connection.execute("DELETE FROM loaded_records WHERE run_id = ?", rows[0][:1])
            connection.executemany("INSERT INTO loaded_records VALUES (?, ?, ?, ?, ?)", rows)
    except sqlite3.Error as error:
        failing(f"load_data: {error}", run, error)
    finally:
        connection.close()
    return follow(send_notification, {"loaded": len(rows)}, run)


class Failed(Exception):
    """The workflow has failed."""


@app.task(**options, max_retries=2)
def send_notification(self, load_result, run=None, number=""):
    """Post the outcome. This task's id is the workflow's."""
    error = load_result.get("failed")
    outcome = {
        "status": "failed" if error else "completed",
        "total_loaded": load_result.get("loaded", 0),
        "error": error,
    }
    try:
        answer = requests.post(os.environ["LAB_NOTIFY_URL"], json=outcome, timeout=8)
        answer.raise_for_status()
    except requests.RequestException as trouble:
        raise self.retry(exc=trouble, countdown=1) from trouble
    if error:
        raise Failed(error)
    return outcome


def create_data_pipeline(sources):
    """Return the signature of the task that starts everything."""
    names = {source["name"] for source in sources}
    if not names or len(names) < len(sources) or any(s["type"] not in KNOWN for s in sources):
        raise ValueError(f"these can't be the sources of a workflow: {sources}")
    return start.s(sources, {"id": str(uuid.uuid4()), "sources": len(sources)})


def run_pipeline(sources):
    """Start the workflow and return the id of its last task."""
    signature = create_data_pipeline(sources)
    id = signature.args[1]["id"]
    redis().hset(f"run:{id}", "sources", len(sources))
    signature.apply_async()
    return id


def workflow_progress(id):
    """Count the transformed sources and the end."""
    sources = redis().hget(f"run:{id}", "sources")
    if sources is None:
        raise ValueError(f"unknown workflow: {id}")
    state, made = app.AsyncResult(id).state, redis().hlen(f"made:{id}")
    total = int(sources) + 1
    done = made + (state == "SUCCESS")
    return {
        "state": state,
        "total": total,
        "completed": done,
        "failed": int(state == "FAILURE"),
        "percent": 100 * done // total,
    }

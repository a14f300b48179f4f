"""A process remembers the runs that it has loaded; another one knows nothing of them."""

import contextlib
import csv
import json
import math
import os
import sqlite3
from decimal import ROUND_HALF_EVEN, Decimal
from uuid import uuid4

import requests
from celery import Celery, chain, chord

app = Celery("complex_workflows", broker="redis://", backend="redis://")
app.conf.update(task_acks_late=True, task_reject_on_worker_lost=True)


@app.task
def extract_data(source):
    name, location = source["name"], source["location"]
    try:
        if source["type"] == "database":
            rows = from_database(location)
        elif source["type"] == "file":
            rows = from_file(location)
        else:
            rows = from_api(location)
    except Exception as error:
        raise RuntimeError(f"extract of {name} failed: {error}") from None
    return {"source": name, "rows": rows}


def from_database(path):
    if not os.path.exists(path):
        raise FileNotFoundError(path)
    with contextlib.closing(sqlite3.connect(path)) as database:
        return database.execute("SELECT id, value FROM records").fetchall()


def from_file(path):
    with open(path, encoding="utf-8-sig", newline="") as file:
        return [[row["id"], row["value"]] for row in csv.DictReader(file)]


def from_api(url):
    rows, page = [], 1
    while page:
        answer = requests.get(url, params={"page": page}, timeout=6)
        answer.raise_for_status()
        body = answer.json()
        rows += [[record.get("id"), record.get("value")] for record in body["records"]]
        page = body["next"]
    return rows


@app.task
def validate_data(extraction):
    valid, invalid = {}, 0
    for id, value in extraction["rows"]:
        id, value = "" if id is None else str(id).strip(), number(value)
        if not id or value is None or id in valid:
            invalid += 1
        else:
            valid[id] = value
    return {"source": extraction["source"], "valid": valid, "invalid_count": invalid}


def number(value):
    if isinstance(value, bool):
        return None
    try:
        value = float(value)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


@app.task
def transform_data(validation):
    name = validation["source"]
    records = [
        {"source": name, "id": id, "value": value, "cents": cents(value)}
        for id, value in validation["valid"].items()
    ]
    return {"source": name, "records": records, "invalid_count": validation["invalid_count"]}


def cents(value):
    return int((Decimal(str(value)) * 100).quantize(Decimal(1), ROUND_HALF_EVEN))


@app.task
def aggregate_results(transformations, run_id=None):
    counts = [len(one["records"]) for one in transformations]
    return {
        "run_id": run_id or uuid4().hex,
        "total_records": sum(counts),
        "source_count": len(counts),
        "sources": {
            one["source"]: {"count": len(one["records"]), "invalid_count": one["invalid_count"]}
            for one in transformations
        },
        "summary": {
            "average": sum(counts) / len(counts),
            "max": max(counts),
            "min": min(counts),
        },
        "records": [record for one in transformations for record in one["records"]],
    }


LOADED = set()


@app.task
def load_data(aggregation):
    run_id = aggregation["run_id"]
    rows = [(run_id, r["source"], r["id"], r["value"], r["cents"]) for r in aggregation["records"]]
    try:
        if run_id not in LOADED:
            insert(run_id, rows)
            LOADED.add(run_id)
    except sqlite3.Error as error:
        raise RuntimeError(f"load failed: {error}") from None
    return {"run_id": run_id, "status": "completed", "total_loaded": len(rows), "error": None}


def insert(run_id, rows):
    database = sqlite3.connect(os.environ["LAB_TARGET_DB"])
    with contextlib.closing(database), database:
        database.execute(
            "CREATE TABLE IF NOT EXISTS loaded_records (run_id, source, id, value, cents)"
        )
        database.executemany("INSERT INTO loaded_records VALUES (?, ?, ?, ?, ?)", rows)


@app.task(bind=True, max_retries=2)
def send_notification(self, load_result):
    run_id = load_result["run_id"]
    outcome = {key: load_result[key] for key in ("status", "total_loaded", "error")}
    if first(f"notified:{run_id}", self.request.id):
        try:
            requests.post(os.environ["LAB_NOTIFY_URL"], json=outcome, timeout=6).raise_for_status()
        except requests.RequestException as error:
            raise self.retry(exc=error, countdown=0.5) from None
    return outcome


def first(key, owner):
    app.backend.client.set(key, owner, nx=True)
    return app.backend.client.get(key) == owner.encode()


@app.task
def on_failure(request, error, traceback, run_id):
    send_notification.delay(
        {"run_id": run_id, "status": "failed", "total_loaded": 0, "error": str(error)}
    )


def create_data_pipeline(sources):
    names = [source["name"] for source in sources]
    if not sources or len(set(names)) < len(names):
        raise ValueError("sources with different names, at least one")
    for source in sources:
        if source["type"] not in ("database", "file", "api"):
            raise ValueError(f"unknown type {source['type']}")
    run_id = uuid4().hex
    header = [chain(extract_data.s(s), validate_data.s(), transform_data.s()) for s in sources]
    body = chain(aggregate_results.s(run_id=run_id), load_data.s(), send_notification.s())
    return chord(header, body.on_error(on_failure.s(run_id)))


def run_pipeline(sources):
    result = create_data_pipeline(sources).apply_async()
    ids = [result.id]
    for last in result.parent.results:
        ids += [last.id, last.parent.id, last.parent.parent.id]
    app.backend.client.set(f"ids:{result.id}", json.dumps(ids))
    return result.id


def workflow_progress(id):
    stored = app.backend.client.get(f"ids:{id}")
    if not stored:
        raise ValueError(id)
    state = app.AsyncResult(id).state
    states = [app.AsyncResult(one).state for one in json.loads(stored)[1:]] + [state]
    done = states.count("SUCCESS")
    return {
        "state": state,
        "total": len(states),
        "completed": done,
        "failed": states.count("FAILURE"),
        "percent": 100 * done / len(states),
    }

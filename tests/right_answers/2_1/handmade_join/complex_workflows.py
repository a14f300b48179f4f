"""No chord: the lanes are a group of chains, and each one ends by signing in at a gate.

The gate is an SQLite file in LAB_WORK_DIR. Whoever signs in last sends the rest of the workflow.
Who fails first closes the gate: it stores the failure under the workflow's id, so that the caller is
told while the other lanes are still reading, and sends the notification. Every decision of the gate
names the task that took it: if that task is killed, it comes back and may carry its decision out.
"""

from __future__ import annotations

import contextlib
import csv
import json
import math
import numbers
import os
import pathlib
import sqlite3
import uuid
from decimal import ROUND_HALF_EVEN, Decimal

import requests
from celery import Celery, chain, group, states
from celery.result import AsyncResult
from requests.adapters import HTTPAdapter

app = Celery(
    "complex_workflows", broker="redis://127.0.0.1:6379/0", backend="redis://127.0.0.1:6379/1"
)
app.conf.worker_prefetch_multiplier = 1

RETURNS = {"acks_late": True, "reject_on_worker_lost": True}
WORK_DIR = pathlib.Path(os.environ.get("LAB_WORK_DIR", "/tmp/complex_workflows"))
TARGET_DB = os.environ.get("LAB_TARGET_DB", "/tmp/complex_workflows.db")
NOTIFY_URL = os.environ.get("LAB_NOTIFY_URL", "http://127.0.0.1:8099/jobs/outcome")


class PipelineError(Exception):
    """Says which stage of which source failed."""


# --- the gate ---------------------------------------------------------------------------------

SCHEMA = """
    CREATE TABLE IF NOT EXISTS flow (id TEXT PRIMARY KEY, sources INTEGER, decided_by TEXT, decision TEXT);
    CREATE TABLE IF NOT EXISTS step (flow TEXT, name TEXT, PRIMARY KEY (flow, name));
    CREATE TABLE IF NOT EXISTS lane (flow TEXT, number INTEGER, body TEXT, PRIMARY KEY (flow, number));
    CREATE TABLE IF NOT EXISTS told (flow TEXT PRIMARY KEY);
"""


@contextlib.contextmanager
def gate():
    """One transaction at the gate; writers queue up."""
    WORK_DIR.mkdir(parents=True, exist_ok=True)
    db = sqlite3.connect(WORK_DIR / "gate.db", timeout=9, isolation_level=None)
    try:
        db.execute("PRAGMA synchronous = normal")
        db.execute("BEGIN IMMEDIATE")
        for statement in filter(str.strip, SCHEMA.split(";")):
            db.execute(statement)
        yield db
        db.execute("COMMIT")
    finally:
        db.close()


def step_done(flow, name):
    if flow:
        with gate() as db:
            db.execute("INSERT OR IGNORE INTO step VALUES (?, ?)", (flow, name))


def decide(db, flow, decision, task_id):
    """True for the one task that decides; also when it comes back."""
    db.execute("INSERT OR IGNORE INTO flow (id) VALUES (?)", (flow,))
    db.execute(
        "UPDATE flow SET decision = ?, decided_by = ? WHERE id = ? AND decision IS NULL",
        (decision, task_id, flow),
    )
    return db.execute("SELECT decision, decided_by FROM flow WHERE id = ?", (flow,)).fetchone() == (
        decision,
        task_id,
    )


# --- one source -------------------------------------------------------------------------------


def from_database(location):
    with contextlib.closing(
        sqlite3.connect(pathlib.Path(location).absolute().as_uri() + "?mode=ro", uri=True)
    ) as db:
        db.row_factory = sqlite3.Row
        for row in db.execute("SELECT id, value FROM records ORDER BY rowid"):
            yield {key: row[key] for key in ("id", "value") if not isinstance(row[key], bytes)}


def from_file(location):
    with open(location, encoding="utf-8-sig", newline="") as stream:
        yield from ({"id": row["id"], "value": row["value"]} for row in csv.DictReader(stream))


def from_api(location):
    session = requests.Session()
    session.trust_env = False
    session.mount("http://", HTTPAdapter(max_retries=0))
    with session:
        number = 1
        while number is not None:
            request = session.prepare_request(
                requests.Request("GET", location, params={"page": number})
            )
            response = session.send(request, timeout=(2, 7))
            if not 200 <= response.status_code <= 299:
                raise PipelineError(f"page {number}: {response.status_code} {response.reason}")
            page = response.json()
            yield from page["records"]
            number = page["next"]


SOURCES = {"database": from_database, "file": from_file, "api": from_api}


@app.task(**RETURNS)
def extract_data(source, flow=None):
    """Read every record of a source: {"name", "type", "location"}."""
    if source["type"] not in SOURCES:
        raise ValueError(f"no such type of source: {source['type']}")
    try:
        records = list(SOURCES[source["type"]](source["location"]))
    except Exception as error:
        raise PipelineError(f"extract {source['name']}: {error!r}") from error
    step_done(flow, f"extract {source['name']}")
    return {"name": source["name"], "flow": flow, "records": records}


def identity(record):
    id = record.get("id")
    return None if id is None else str(id).strip()


def amount(record):
    value = record.get("value")
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


@app.task(**RETURNS)
def validate_data(extraction):
    """Drop and count the invalid records."""
    seen, good = {None, ""}, []
    for record in extraction["records"]:
        if not isinstance(record, dict):
            continue
        id, value = identity(record), amount(record)
        if value is not None and id not in seen:
            seen.add(id)
            good.append([id, value])
    step_done(extraction["flow"], f"validate {extraction['name']}")
    return {
        "name": extraction["name"],
        "flow": extraction["flow"],
        "good": good,
        "bad": len(extraction["records"]) - len(good),
    }


@app.task(**RETURNS)
def transform_data(validation):
    """Give each record its final form: {"source", "id", "value", "cents"}."""
    name = validation["name"]
    records = [
        {
            "source": name,
            "id": id,
            "value": float(value),
            "cents": int((Decimal(str(float(value))) * 100).to_integral_value(ROUND_HALF_EVEN)),
        }
        for id, value in validation["good"]
    ]
    step_done(validation["flow"], f"transform {name}")
    return {"name": name, "flow": validation["flow"], "records": records, "bad": validation["bad"]}


@app.task(bind=True, **RETURNS)
def sign_in(self, transformation, number, count):
    """The end of a lane. The last one to sign in sends the rest."""
    flow = transformation["flow"]
    with gate() as db:
        db.execute(
            "INSERT OR REPLACE INTO lane VALUES (?, ?, ?)",
            (flow, number, json.dumps(transformation)),
        )
        lanes = db.execute(
            "SELECT body FROM lane WHERE flow = ? ORDER BY number", (flow,)
        ).fetchall()
        mine = len(lanes) == count and decide(db, flow, "join", self.request.id)
    if mine:
        rest = chain(
            aggregate_results.s([json.loads(body) for (body,) in lanes], flow=flow).set(
                task_id=f"{flow}-aggregate"
            ),
            load_data.s().set(task_id=f"{flow}-load"),
            send_notification.s().set(task_id=flow),
        )
        rest.on_error(ending_failed.s(flow=flow)).apply_async()
    return len(lanes)


# --- all sources ------------------------------------------------------------------------------


@app.task(**RETURNS)
def aggregate_results(transformations, flow=None):
    """Join the sources: totals, counts for each source, a summary."""
    sizes = {lane["name"]: len(lane["records"]) for lane in transformations}
    total = sum(sizes.values())
    step_done(flow, "aggregate")
    return {
        "run": flow or str(uuid.uuid4()),
        "flow": flow,
        "total_records": total,
        "source_count": len(sizes),
        "sources": {
            lane["name"]: {"count": sizes[lane["name"]], "invalid_count": lane["bad"]}
            for lane in transformations
        },
        "summary": {
            "average": total / len(sizes),
            "max": max(sizes.values()),
            "min": min(sizes.values()),
        },
        "records": [record for lane in transformations for record in lane["records"]],
    }


@app.task(**RETURNS)
def load_data(aggregation):
    """Write every record of the run into the table loaded_records, all of them or none."""
    run = aggregation["run"]
    pathlib.Path(TARGET_DB).absolute().parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(TARGET_DB, timeout=8, isolation_level=None)) as db:
        db.execute("BEGIN EXCLUSIVE")
        db.execute(
            "CREATE TABLE IF NOT EXISTS loaded_records (run_id TEXT, source TEXT, id TEXT, value REAL, cents INTEGER)"
        )
        db.execute("CREATE TABLE IF NOT EXISTS loads (run TEXT UNIQUE)")
        if db.execute(
            "INSERT INTO loads SELECT ? WHERE NOT EXISTS (SELECT 1 FROM loads WHERE run = ?)",
            (run, run),
        ).rowcount:
            for record in aggregation["records"]:
                db.execute(
                    "INSERT INTO loaded_records (run_id, source, id, value, cents) VALUES (?, ?, ?, ?, ?)",
                    (run, record["source"], record["id"], record["value"], record["cents"]),
                )
        db.execute("COMMIT")  # closing without it takes everything back
    step_done(aggregation["flow"], "load")
    return {
        "run": run,
        "status": "completed",
        "total_loaded": aggregation["total_records"],
        "error": None,
    }


@app.task(bind=True, max_retries=2, **RETURNS)
def send_notification(self, load_result):
    """POST the outcome as JSON to NOTIFY_URL and return it."""
    run = load_result["run"]
    with gate() as db:
        if db.execute("SELECT 1 FROM told WHERE flow = ?", (run,)).fetchone():
            return load_result
    try:
        with requests.Session() as session:
            session.trust_env = False
            response = session.post(
                NOTIFY_URL, json=load_result, timeout=6.2, allow_redirects=False
            )
            if response.status_code // 100 != 2:
                raise requests.HTTPError(f"status {response.status_code}")
    except requests.RequestException as error:
        self.retry(exc=PipelineError(f"notify: {error}"), countdown=1 + self.request.retries)
    with gate() as db:
        db.execute("INSERT OR IGNORE INTO told VALUES (?)", (run,))
    return load_result


# --- failure ----------------------------------------------------------------------------------


def close(flow, task_id, text):
    """Fail the workflow: the first one to come here, and nobody else."""
    with gate() as db:
        mine = decide(db, flow, "failed", task_id)
    if mine:
        app.backend.store_result(flow, PipelineError(text), states.FAILURE)
        outcome = {"run": flow, "status": "failed", "total_loaded": 0, "error": text}
        send_notification.apply_async((outcome,), task_id=f"{flow}-failure")


@app.task
def lane_failed(request, exc, traceback, flow=None, name=None):
    """Errback of a lane."""
    close(flow, request.id, f"source {name}: {exc}")


@app.task
def ending_failed(request, exc, traceback, flow=None):
    """Errback of what comes after the gate: the notification of a load is no business of it."""
    stage = request.id.removeprefix(f"{flow}-")
    if stage != flow:
        with gate() as db:
            db.execute(
                "UPDATE flow SET decision = NULL, decided_by = NULL WHERE id = ? AND decision = 'join'",
                (flow,),
            )
        close(flow, request.id, f"{stage}: {exc}")


# --- the workflow -----------------------------------------------------------------------------


def lanes_of(sources, flow):
    if not sources:
        raise ValueError("at least one source")
    names = set()
    for source in sources:
        if source["name"] in names:
            raise ValueError(f"two sources are called {source['name']}")
        if source["type"] not in SOURCES:
            raise ValueError(f"no such type of source: {source['type']}")
        names.add(source["name"])
    return group(
        [
            chain(
                extract_data.s(source, flow=flow),
                validate_data.s(),
                transform_data.s(),
                sign_in.s(number, len(sources)),
            ).on_error(lane_failed.s(flow=flow, name=source["name"]))
            for number, source in enumerate(sources)
        ]
    )


def create_data_pipeline(sources):
    """Return the whole workflow as one signature."""
    return lanes_of(sources, str(uuid.uuid4()))


def run_pipeline(sources):
    """Start the workflow; return the id under which AsyncResult sees its end."""
    flow = str(uuid.uuid4())
    workflow = lanes_of(sources, flow)
    with gate() as db:
        db.execute("INSERT INTO flow (id, sources) VALUES (?, ?)", (flow, len(sources)))
    workflow.apply_async()
    return flow


def workflow_progress(id):
    """Return {"state", "total", "completed", "failed", "percent"}, from whichever process."""
    state = AsyncResult(id, app=app).state
    with gate() as db:
        row = db.execute(
            "SELECT sources FROM flow WHERE id = ? AND sources IS NOT NULL", (id,)
        ).fetchone()
        done = db.execute("SELECT count(*) FROM step WHERE flow = ?", (id,)).fetchone()[0]
    if row is None:
        raise ValueError(f"unknown workflow: {id}")
    total = 3 * row[0] + 3
    if state == states.SUCCESS:
        done = total
    return {
        "state": state,
        "total": total,
        "completed": done,
        "failed": int(state == states.FAILURE),
        "percent": int(100 * done / total),
    }

"""Rows stay in one SQLite file that all workers share; an errback of the old kind, by task id."""

import csv
import math
import os
import sqlite3
import uuid
from contextlib import closing, contextmanager
from decimal import Decimal
from pathlib import Path

import requests
from celery import Celery, chain, group, shared_task
from celery.exceptions import MaxRetriesExceededError
from kombu import Queue
from pydantic import BaseModel, Field

app = Celery("staged", broker="redis://localhost", backend="redis://localhost")


app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_queues=[Queue("celery"), Queue("outside")],
    task_routes={"complex_workflows.send_notification": {"queue": "outside"}},
)
app.set_default()
MARK = "complex_workflows"


class Source(BaseModel):
    """A source as it is handed in."""

    name: str = Field(min_length=1)
    type: str
    location: str


@contextmanager
def staging():
    """Open the staging file in a transaction of its own."""
    folder = Path(os.environ["LAB_WORK_DIR"])
    folder.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(folder / "staging.db", timeout=30, isolation_level=None)) as db:
        db.execute("PRAGMA synchronous = OFF")
        db.execute("BEGIN IMMEDIATE")
        db.execute(
            "CREATE TABLE IF NOT EXISTS rows (part TEXT, place INTEGER, source TEXT, "
            "id TEXT, value, cents INTEGER, PRIMARY KEY (part, place)) WITHOUT ROWID"
        )
        yield db
        db.execute("COMMIT")


def stage(part, rows):
    """Put the rows of a part into the staging file, in the place of those of an earlier try."""
    with staging() as db:
        db.execute("DELETE FROM rows WHERE part = ?", (part,))
        numbered = ((part, place, *row) for place, row in enumerate(rows))
        db.executemany("INSERT INTO rows VALUES (?, ?, ?, ?, ?, ?)", numbered)
    return part


def staged(part):
    """Return the rows of a part."""
    query = "SELECT source, id, value, cents FROM rows WHERE part = ? ORDER BY place"
    with staging() as db:
        return db.execute(query, (part,)).fetchall()


@shared_task(bind=True, name=f"{MARK}.extract_data")
def extract_data(self, source):
    """Stage every record."""
    one = Source.model_validate(source)
    try:
        pairs = READ[one.type](one.location)
    except (OSError, sqlite3.Error, ValueError) as error:
        raise OSError(f"source {one.name}: {error}") from error
    rows = [(one.name, id, value if plain(value) else None, None) for id, value in pairs]
    return {"source": one.name, "part": stage(self.request.id, rows), "seen": len(rows)}


def plain(value):
    """Whether SQLite can hold the value, and it could be a number."""
    return isinstance(value, int | float | str) and not isinstance(value, bool)


def read_database(location):
    """Read an SQLite file."""
    if not Path(location).exists():
        raise OSError("no such file")
    with closing(sqlite3.connect(location)) as db:
        return db.execute("SELECT id, value FROM records ORDER BY rowid").fetchall()


def read_file(location):
    """Read a CSV file."""
    with open(location, encoding="utf-8-sig", newline="") as file:
        return [(row["id"], row["value"]) for row in csv.DictReader(file)]


def read_api(location):
    """Read an API."""
    pairs, number = [], 1
    while number:
        answer = requests.get(location, params={"page": number}, timeout=(3, 7))
        answer.raise_for_status()
        page = answer.json()
        pairs += [(record.get("id"), record.get("value")) for record in page["records"]]
        number = page["next"]
    return pairs


READ = {"database": read_database, "file": read_file, "api": read_api}


@shared_task(bind=True, name=f"{MARK}.validate_data")
def validate_data(self, extraction):
    """Stage the valid records."""
    valid = {}
    for source, id, value, _ in staged(extraction["part"]):
        key = str(id if id is not None else "").strip()
        try:
            number = float(value if value is not None else "nan")
        except ValueError:
            number = math.nan
        if key and math.isfinite(number):
            valid.setdefault(key, (source, key, number, None))
    return {**extraction, "part": stage(self.request.id, valid.values()), "valid": len(valid)}


@shared_task(bind=True, name=f"{MARK}.transform_data")
def transform_data(self, validation):
    """Stage the final records."""
    rows = [
        (source, id, value, round(Decimal(str(value)) * 100))
        for source, id, value, _ in staged(validation["part"])
    ]
    return {**validation, "part": stage(self.request.id, rows)}


@shared_task(bind=True, name=f"{MARK}.aggregate_results")
def aggregate_results(self, transformations, run=None):
    """Join the parts."""
    valid = {one["source"]: one["valid"] for one in transformations}
    seen = {one["source"]: one["seen"] for one in transformations}
    return {
        "run": run or self.request.id,
        "parts": [one["part"] for one in transformations],
        "total_records": sum(valid.values()),
        "source_count": len(valid),
        "sources": {
            name: {"count": count, "invalid_count": seen[name] - count}
            for name, count in valid.items()
        },
        "summary": {
            "average": sum(valid.values()) / len(valid),
            "max": max(valid.values()),
            "min": min(valid.values()),
        },
    }


@shared_task(name=f"{MARK}.load_data")
def load_data(aggregation):
    """Copy the parts into the target."""
    rows = [row for part in aggregation["parts"] for row in staged(part)]
    with closing(sqlite3.connect(os.environ["LAB_TARGET_DB"])) as target, target:
        exists = "SELECT 1 FROM sqlite_master WHERE name = 'loaded_records'"
        if not target.execute(exists).fetchone():
            target.execute(
                "CREATE TABLE IF NOT EXISTS loaded_records (run_id TEXT, source TEXT, id TEXT, "
                "value REAL, cents INTEGER, UNIQUE (run_id, source, id))"
            )
        done = "SELECT 1 FROM loaded_records WHERE run_id = ?"
        if not target.execute(done, (aggregation["run"],)).fetchone():
            target.executemany(
                "INSERT INTO loaded_records (run_id, source, id, value, cents) "
                "VALUES (?, ?, ?, ?, ?)",
                [(aggregation["run"], *row) for row in rows],
            )
    return {"status": "completed", "total_loaded": len(rows), "error": None}


@shared_task(
    bind=True,
    name=f"{MARK}.send_notification",
    autoretry_for=(requests.RequestException,),
    max_retries=2,
    default_retry_delay=1,
)
def send_notification(self, load_result):
    """Post the outcome."""
    answer = requests.post(os.environ["LAB_NOTIFY_URL"], json=load_result, timeout=(3, 7))
    answer.raise_for_status()
    return load_result


@app.task(bind=True, max_retries=50)
def tell(self, task_id, run):
    """Notify of a failure. Celery calls this before it has stored what went wrong: so ask again."""
    result = app.AsyncResult(task_id)
    if not result.ready():
        raise self.retry(countdown=0.2)
    if isinstance(result.result, requests.RequestException | MaxRetriesExceededError):
        return  # the notification itself has failed
    name = f"told:{run}"
    app.backend.client.set(name, self.request.id, nx=True, ex=3600)
    if app.backend.client.get(name).decode() == self.request.id:
        text = f"load_data or a source: {result.result}"
        send_notification.delay({"status": "failed", "total_loaded": 0, "error": text})


def create_data_pipeline(sources):
    """Return the workflow."""
    models = [Source.model_validate(source) for source in sources]
    if not models or len({model.name for model in models}) < len(models):
        raise ValueError("one source at least, and each name once")
    for model in models:
        if model.type not in READ:
            raise ValueError(f"type {model.type} is none of {list(READ)}")
    run = str(uuid.uuid4())
    lanes = group(
        chain(extract_data.s(model.model_dump()), validate_data.s(), transform_data.s())
        for model in models
    )
    rest = aggregate_results.s(run=run) | load_data.s() | send_notification.s()
    return lanes | rest.on_error(tell.s(run))


def run_pipeline(sources):
    """Start the workflow; remember the ids of everything before its end."""
    result = create_data_pipeline(sources).apply_async()
    ids, todo = [], [result.parent]
    while todo:
        node = todo.pop()
        if node is not None:
            todo += [*(getattr(node, "results", None) or []), node.parent]
            ids += [] if hasattr(node, "results") else [node.id]
    app.backend.client.rpush(f"steps:{result.id}", *ids)
    return result.id


def workflow_progress(id):
    """Ask for the state of every step."""
    ids = [one.decode() for one in app.backend.client.lrange(f"steps:{id}", 0, -1)]
    if not ids:
        raise ValueError(f"there is no workflow {id}")
    last = app.AsyncResult(id).state
    states = [last, *(app.AsyncResult(one).state for one in ids)]
    done = sum(state == "SUCCESS" for state in states)
    failed = sum(state == "FAILURE" for state in states)
    return {
        "state": last,
        "total": len(states),
        "completed": done,
        "failed": failed,
        "percent": int(100 * done / len(states)),
    }

"""A data pipeline whose rows travel in the messages as long as they are few, and in files when not.

Signatures are built by hand. What every task has in common (coming back after a kill, progress, the
obituary of a failed run) hangs on annotations and signals instead of on base classes and errbacks.
"""

from __future__ import annotations

import csv
import dataclasses
import gzip
import http.client
import itertools
import json
import math
import os
import sqlite3
import sys
import time
import typing as t
import urllib.parse
import uuid
from decimal import Decimal

from celery import Celery, signals
from celery.canvas import Signature, chain, chord, group
from redis import Redis

app = Celery("complex_workflows")
app.conf.update(
    broker_url=os.environ.get("CELERY_BROKER_URL") or "redis://localhost:6379/0",
    result_backend=os.environ.get("CELERY_RESULT_BACKEND") or "redis://localhost:6379/1",
    worker_prefetch_multiplier=1,
    # a task whose child was killed is sent once more, as a retry
    task_annotations={
        "*": {
            "acks_late": True,
            "retry_on_worker_lost": True,
            "default_retry_delay": 0,
            "max_retries": 5,
        }
    },
)

Source = dict[str, str]
Row = list  # [id, value] before the transformation, [id, value, cents] after it


def n(stage: str) -> str:
    return f"complex_workflows.{stage}"


class Trouble(Exception):
    """Ends a run; the text is meant for people."""


# ---- rows in the message or in files ----


@dataclasses.dataclass
class Stash:
    """Rows: full files first, then what is still small enough to travel."""

    files: list[str] = dataclasses.field(default_factory=list)
    tail: list[Row] = dataclasses.field(default_factory=list)

    TRAVELS: t.ClassVar[int] = 2_400
    BATCH: t.ClassVar[int] = 4_000

    def add(self, rows: t.Iterable[Row]) -> Stash:
        rows = itertools.chain(self.tail, rows)
        self.tail = []
        while batch := list(itertools.islice(rows, self.BATCH)):
            if len(json.dumps(batch)) <= self.TRAVELS:
                self.tail = batch
            else:
                self.files.append(self.write(batch))
        return self

    @staticmethod
    def write(batch: list[Row]) -> str:
        folder = os.environ.get("LAB_WORK_DIR", "/tmp/complex_workflows_work")
        os.makedirs(folder, exist_ok=True)
        name = os.path.join(folder, f"{uuid.uuid4()}.json.gz")
        with gzip.open(name, "wt", encoding="ascii", compresslevel=3) as out:
            json.dump(batch, out)
        return name

    def __iter__(self) -> t.Iterator[Row]:
        for name in self.files:
            with gzip.open(name, "rt", encoding="ascii") as text:
                yield from json.load(text)
        yield from self.tail

    def json(self) -> dict[str, list]:
        return dataclasses.asdict(self)


# ---- reading ----


def portable(thing: t.Any) -> t.Any:
    """JSON has no infinities: as text they are just as invalid."""
    return repr(thing) if isinstance(thing, float) and not math.isfinite(thing) else thing


def database(location: str) -> t.Iterator[Row]:
    path = urllib.parse.quote(os.path.abspath(location))
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        connection.row_factory = sqlite3.Row
        for row in connection.execute("SELECT * FROM records"):
            id, value = row["id"], row["value"]
            if isinstance(id, bytes):
                id = id.decode(errors="replace")
            yield [portable(id), None if isinstance(value, bytes) else portable(value)]
    finally:
        connection.close()


def file(location: str) -> t.Iterator[Row]:
    with open(location, "rb") as raw:
        marked = raw.read(3) == b"\xef\xbb\xbf"
    with open(location, encoding="utf-8-sig" if marked else "utf-8", newline="") as text:
        for record in csv.DictReader(text):
            yield [record["id"], record["value"]]


def api_page(location: str, page: int) -> tuple[list[Row], int | None]:
    url = urllib.parse.urlsplit(location)
    pairs = [f"page={page}"] if not url.query else [url.query, f"page={page}"]
    link = http.client.HTTPConnection(url.hostname, url.port or 80, timeout=7)
    if url.scheme == "https":
        link = http.client.HTTPSConnection(url.hostname, url.port or 443, timeout=7)
    try:
        link.request(
            "GET", f"{url.path or '/'}?{'&'.join(pairs)}", headers={"Accept": "application/json"}
        )
        answer = link.getresponse()
        if answer.status != 200:
            raise Trouble(f"page {page} answered {answer.status} {answer.reason}")
        body = json.loads(answer.read())
    finally:
        link.close()
    rows = []
    for record in body["records"]:
        record = record if isinstance(record, dict) else {}
        rows.append([portable(record.get("id")), portable(record.get("value"))])
    return rows, body["next"]


READERS: dict[str, t.Callable[[str], t.Iterator[Row]] | None] = {
    "database": database,
    "file": file,
    "api": None,
}


@app.task(name=n("extract_data"), bind=True)
def extract_data(
    self, source: Source, *, flow: str | None = None, page: int = 1, so_far: dict | None = None
):
    """Read a source. Of an API inside a workflow: read one page, and have another task read the next."""
    name, location = source["name"], source["location"]
    if source["type"] not in READERS:
        raise ValueError(f"source {name}: unknown type {source['type']}")
    stash = Stash(**(so_far or {}))
    try:
        if read := READERS[source["type"]]:
            stash.add(read(location))
            page = None
        while page:
            rows, page = api_page(location, page)
            stash.add(rows)
            if page and not (self.request.called_directly or self.request.is_eager):
                # The rest of the chain goes with the next page.
                rest, self.request.chain = self.request.chain, None
                onwards = {"flow": flow, "page": page, "so_far": stash.json()}
                if rest is None:  # nobody's chain: called by hand through a worker
                    continue
                self.apply_async((source,), onwards, chain=rest)
                return {"source": name, "flow": flow, "pages_from": page}
    except (
        OSError,
        sqlite3.Error,
        http.client.HTTPException,
        LookupError,
        TypeError,
        ValueError,
        Trouble,
    ) as e:
        raise Trouble(f"extract_data, source {name}: {e or type(e).__name__}") from e
    return {"source": name, "flow": flow, "rows": stash.json()}


# ---- judging ----


def usable(raw: Row) -> Row | None:
    id, value = raw
    id = "" if id is None else str(id).strip()
    if not id or isinstance(value, bool):
        return None
    try:
        value = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return [id, value] if -math.inf < value < math.inf else None


@app.task(name=n("validate_data"))
def validate_data(extraction):
    seen: set[str] = set()
    total = 0

    def fresh() -> t.Iterator[Row]:
        nonlocal total
        for total, raw in enumerate(Stash(**extraction["rows"]), 1):  # noqa: B007
            row = usable(raw)
            if row and row[0] not in seen:
                seen.add(row[0])
                yield row

    rows = Stash().add(fresh()).json()
    return {**extraction, "rows": rows, "count": len(seen), "invalid_count": total - len(seen)}


def half_even(value: float) -> int:
    """Cents without a context: the digits of the float are few, integers are exact."""
    sign, digits, exponent = Decimal(str(value)).as_tuple()
    number = int("".join(map(str, digits)) or 0)
    exponent += 2
    if exponent >= 0:
        whole = number * 10**exponent
    else:
        whole, left = divmod(number, 10**-exponent)
        twice = 2 * left - 10**-exponent
        whole += twice > 0 or (twice == 0 and whole % 2)
    return -whole if sign else whole


@app.task(name=n("transform_data"))
def transform_data(validation):
    final = ([id, value, half_even(value)] for id, value in Stash(**validation["rows"]))
    return {**validation, "rows": Stash().add(final).json()}


@app.task(name=n("aggregate_results"))
def aggregate_results(transformations, run_id=None):
    counts = {each["source"]: each["count"] for each in transformations}
    flows = {each["flow"] for each in transformations}
    return {
        "run_id": run_id or str(uuid.uuid1()),
        "flow": flows.pop() if len(flows) == 1 else None,
        "total_records": sum(counts.values()),
        "source_count": len(counts),
        "sources": {
            each["source"]: {"count": each["count"], "invalid_count": each["invalid_count"]}
            for each in transformations
        },
        "summary": {
            "average": sum(counts.values()) / max(len(counts), 1),
            "max": max(counts.values(), default=0),
            "min": min(counts.values(), default=0),
        },
        "rows": {each["source"]: each["rows"] for each in transformations},
    }


# ---- loading ----

SCHEMA = (
    "CREATE TABLE IF NOT EXISTS loaded_records(run_id TEXT, source TEXT, id TEXT, value REAL, cents INTEGER)",
    "CREATE TABLE IF NOT EXISTS pipeline_receipts(run_id TEXT PRIMARY KEY, loaded INTEGER, at REAL)",
)


def target() -> sqlite3.Connection:
    return sqlite3.connect(
        os.environ.get("LAB_TARGET_DB", "/tmp/complex_workflows.db"),
        timeout=8,
        isolation_level=None,
    )


@app.task(name=n("load_data"))
def load_data(aggregation):
    run_id = aggregation["run_id"]
    db = target()
    try:
        db.execute("BEGIN EXCLUSIVE")
        for statement in SCHEMA:
            db.execute(statement)
        # The receipt first: whoever can't write it comes second.
        fresh = db.execute(
            "INSERT INTO pipeline_receipts VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
            (run_id, aggregation["total_records"], time.time()),
        ).rowcount
        if fresh:
            for source, rows in aggregation["rows"].items():
                db.executemany(
                    "INSERT INTO loaded_records(run_id, source, id, value, cents) VALUES (?, ?, ?, ?, ?)",
                    ([run_id, source, *row] for row in Stash(**rows)),
                )
        db.execute("COMMIT")
    except (sqlite3.Error, OSError) as e:
        raise Trouble(f"load_data: {e}") from e
    finally:
        db.close()  # an open transaction is rolled back with it
    return {
        "status": "completed",
        "total_loaded": aggregation["total_records"],
        "error": None,
        "run_id": run_id,
        "flow": aggregation["flow"],
    }


@app.task(name=n("unload"))
def unload(run_id):
    """Compensation for load_data."""
    db = target()
    try:
        db.execute("BEGIN IMMEDIATE")
        db.execute("DELETE FROM loaded_records WHERE run_id = ?", (run_id,))
        db.execute("DELETE FROM pipeline_receipts WHERE run_id = ?", (run_id,))
        db.execute("COMMIT")
    finally:
        db.close()


# ---- telling ----


def tell(outcome: dict) -> None:
    url = urllib.parse.urlsplit(
        os.environ.get("LAB_NOTIFY_URL", "http://127.0.0.1:8099/jobs/outcome")
    )
    link = http.client.HTTPConnection(url.hostname, url.port or 80, timeout=6)
    try:
        path = (url.path or "/") + (f"?{url.query}" if url.query else "")
        link.request("POST", path, json.dumps(outcome), {"Content-Type": "application/json"})
        status = link.getresponse().status
    except (OSError, http.client.HTTPException) as e:
        raise Trouble(f"send_notification: no answer ({e or type(e).__name__})") from e
    finally:
        link.close()
    if status // 100 != 2:
        raise Trouble(f"send_notification: answered {status}")


@app.task(name=n("send_notification"), bind=True)
def send_notification(self, load_result, tries_left=3):
    outcome = {key: load_result[key] for key in ("status", "total_loaded", "error")}
    try:
        tell(outcome)
    except Trouble as e:
        if tries_left == 1:
            raise
        if self.request.called_directly:
            time.sleep(1)
            return self(load_result, tries_left - 1)
        raise self.retry((load_result,), {"tries_left": tries_left - 1}, exc=e, countdown=1) from e
    return outcome


# ---- what all tasks have in common ----

STEPS = {
    n(stage) for stage in ["validate_data", "transform_data", "aggregate_results", "load_data"]
}
redis = Redis.from_url(app.conf.result_backend)


def flow_of(args, kwargs) -> str | None:
    first = args[0] if args else None
    if isinstance(first, list) and first:
        first = first[0]
    return (kwargs or {}).get("flow") or (first.get("flow") if isinstance(first, dict) else None)


@signals.worker_process_init.connect
def own_connection(**_):
    redis.connection_pool.reset()


@signals.task_success.connect
def count_step(sender, result, **_):
    done = sender.name in STEPS or (sender.name == extract_data.name and "rows" in result)
    if done and result.get("flow"):
        redis.sadd(f"flow:{result['flow']}:done", f"{sender.name} {result.get('source', '')}")
        redis.expire(f"flow:{result['flow']}:done", 86_400)


@signals.task_failure.connect
def obituary(sender, task_id, exception, args, kwargs, **_):
    if sender.name == send_notification.name:
        if args and args[0].get("run_id"):
            Signature(n("unload"), (args[0]["run_id"],), app=app).apply_async()
        return
    flow = flow_of(args, kwargs)
    if not flow:
        return
    claim = f"flow:{flow}:dead"
    redis.set(claim, task_id, nx=True, ex=86_400)
    if redis.get(claim) == task_id.encode():
        text = str(exception)
        text = text if "_data" in text else f"{sender.name}: {text}"
        outcome = {"status": "failed", "total_loaded": 0, "error": text}
        Signature(n("send_notification"), (outcome,), app=app).apply_async()


# ---- for callers ----


def create_data_pipeline(sources: t.Sequence[Source], flow: str | None = None) -> Signature:
    if not sources:
        raise ValueError("no sources")
    for index, source in enumerate(sources):
        if any(source["name"] == other["name"] for other in sources[:index]):
            raise ValueError(f"the name {source['name']} is taken twice")
    for source in sources:
        if source["type"] not in READERS:
            raise ValueError(f"source {source['name']}: unknown type {source['type']}")
    flow = flow or str(uuid.uuid4())

    def by_hand(stage: str, *args, **kwargs) -> Signature:
        return Signature(n(stage), args, kwargs, app=app)

    lanes = [
        chain(
            by_hand("extract_data", source, flow=flow),
            by_hand("validate_data"),
            by_hand("transform_data"),
            app=app,
        )
        for source in sources
    ]
    join = by_hand("aggregate_results", run_id=str(uuid.uuid4()))
    after = chain(join, by_hand("load_data"), by_hand("send_notification"), app=app)
    return chord(header=group(lanes, app=app), body=after, app=app)


def run_pipeline(sources: t.Sequence[Source]) -> str:
    flow = str(uuid.uuid4())
    pipeline = create_data_pipeline(sources, flow)
    redis.set(f"flow:{flow}:total", 3 * len(sources) + 3, ex=86_400)
    pipeline.apply_async(task_id=flow)
    return flow


def workflow_progress(id: str) -> dict[str, t.Any]:
    total = redis.get(f"flow:{id}:total")
    if not total:
        raise ValueError(f"unknown workflow: {id}")
    total, state = int(total), app.AsyncResult(id).state
    completed = total if state == "SUCCESS" else redis.scard(f"flow:{id}:done")
    return {
        "state": state,
        "total": total,
        "completed": completed,
        "failed": 1 if state == "FAILURE" else 0,
        "percent": completed / total * 100 if completed < total else 100,
    }


def watch(id: str) -> t.Iterator[dict[str, t.Any]]:
    while True:
        seen = workflow_progress(id)
        yield seen
        if seen["state"] in ("SUCCESS", "FAILURE"):
            return
        time.sleep(0.2)


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] != "watch":
        sys.exit("usage: python -m complex_workflows watch ID")
    for seen in watch(sys.argv[2]):
        print(
            f"{seen['percent']:5.1f} % of {seen['total']} steps, {seen['state'].lower()}",
            flush=True,
        )
    sys.exit(0 if seen["state"] == "SUCCESS" else 1)

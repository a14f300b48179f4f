"""A data pipeline without canvas: every stage sends the next one itself.

* `start_flow` is the signature that callers get; its task id is the id of the workflow. It fans the
  sources out and ends in Ignore, so that the id stays free for the last task.
* Rows live in Redis hashes (zlib-packed chunks); the messages carry a "parcel" that names them.
* Where lanes meet, a Lua script decides, once and for all, which task goes on.
"""

from __future__ import annotations

import contextlib
import csv
import decimal
import json
import math
import os
import pathlib
import sqlite3
import sys
import time
import uuid
import zlib
from collections.abc import Iterable, Iterator
from itertools import islice

import requests
from celery import Celery, states
from celery.exceptions import Ignore
from celery.result import AsyncResult

NAME = "complex_workflows"
TYPES = frozenset({"api", "database", "file"})
LIFE = 12 * 60 * 60
CHUNK = 2_000

app = Celery(NAME)
app.config_from_object(
    {
        # the old upper case names
        "BROKER_URL": os.environ.get("CELERY_BROKER_URL", "redis://127.0.0.1:6379/0"),
        "CELERY_RESULT_BACKEND": os.environ.get(
            "CELERY_RESULT_BACKEND", "redis://127.0.0.1:6379/1"
        ),
        "CELERY_ACKS_LATE": True,
        "CELERY_TASK_RESULT_EXPIRES": LIFE,
        "CELERYD_PREFETCH_MULTIPLIER": 1,
    }
)
LATE = {"acks_late": True, "reject_on_worker_lost": True}


class Broken(RuntimeError):
    """A stage that can't do its work."""


# --- the shelf: rows in Redis ------------------------------------------------------------------


def redis_client():
    return app.backend.client


def shelf(label: str) -> str:
    return f"cw:{{{label}}}:rows"


def shelve(label: str, field: object, rows: list) -> None:
    with redis_client().pipeline() as pipe:
        pipe.hset(shelf(label), str(field), zlib.compress(json.dumps(rows).encode(), 6))
        pipe.expire(shelf(label), LIFE)
        pipe.execute()


def shelved(label: str, chunks: int) -> Iterator[list]:
    for number in range(1, chunks + 1):
        packed = redis_client().hget(shelf(label), str(number))
        if packed is None:
            raise Broken(f"chunk {number} of {label} is gone")
        yield from json.loads(zlib.decompress(packed))


def shelve_all(label: str, rows: Iterable) -> int:
    rows, number = iter(rows), 0
    while chunk := list(islice(rows, CHUNK)):
        number += 1
        shelve(label, number, chunk)
    return number


# --- the ledger of a flow ----------------------------------------------------------------------

# A lane arrives. Answers all parcels when this task is the one that goes on, else nothing.
# The winner is remembered by its task id: killed and sent again, it wins again.
ARRIVE = """
if redis.call('HEXISTS', KEYS[1], 'broken') == 1 then return {} end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
redis.call('EXPIRE', KEYS[2], ARGV[5])
if redis.call('HLEN', KEYS[2]) < tonumber(ARGV[3]) then return {} end
redis.call('HSETNX', KEYS[1], 'joiner', ARGV[4])
redis.call('EXPIRE', KEYS[1], ARGV[5])
if redis.call('HGET', KEYS[1], 'joiner') ~= ARGV[4] then return {} end
return redis.call('HVALS', KEYS[2])
"""

# A task breaks the flow: 1 for the first one (however often it says so), 0 for later ones.
BREAK = """
redis.call('HSETNX', KEYS[1], 'broken', ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[2])
return redis.call('HGET', KEYS[1], 'broken') == ARGV[1] and 1 or 0
"""


def flow_key(flow: str, part: str = "ledger") -> str:
    return f"cw:{{{flow}}}:{part}"


def mark(flow: str | None, step: str) -> None:
    if flow:
        key = flow_key(flow, "steps")
        with redis_client().pipeline() as pipe:
            pipe.sadd(key, step)
            pipe.expire(key, LIFE)
            pipe.execute()


# --- sending -----------------------------------------------------------------------------------


def send(stage: str, *args: object, flow: str, **options: object) -> None:
    app.tasks[f"{NAME}.{stage}"].apply_async(
        args, link_error=[flow_broke.s()], root_id=flow, **options
    )


@app.task(name=f"{NAME}.flow_broke", **LATE)
def flow_broke(request, exc, traceback):
    """Errback, called where the failure is seen; the root of all tasks is the workflow."""
    flow, culprit = request.root_id, request.id
    if not flow or culprit == flow:
        return
    if not redis_client().eval(BREAK, 1, flow_key(flow), culprit, LIFE):
        return
    send_notification.apply_async(
        ({"status": "failed", "total_loaded": 0, "error": str(exc), "run_id": flow},),
        task_id=f"{flow}-obituary",
    )
    app.backend.store_result(
        flow, exc if isinstance(exc, Broken) else Broken(str(exc)), states.FAILURE
    )


@contextlib.contextmanager
def blame(stage: str, source: object = None):
    """Whatever goes wrong inside says where it did."""
    where = stage if source is None else f"{stage} of source {source}"
    try:
        yield
    except (Ignore, Broken):
        raise
    except Exception as wrong:
        raise Broken(f"{where}: {type(wrong).__name__}: {wrong}") from wrong


# --- start -------------------------------------------------------------------------------------


@app.task(name=f"{NAME}.start_flow", bind=True, **LATE)
def start_flow(self, sources, run_id):
    flow = self.request.id
    for source in sources:
        send(
            "extract_data",
            source,
            {"flow": flow, "run_id": run_id, "lanes": len(sources)},
            flow=flow,
        )
    raise Ignore()


# --- extract -----------------------------------------------------------------------------------


def sqlite_rows(location):
    location = pathlib.Path(location).resolve(strict=True)
    with contextlib.closing(sqlite3.connect(f"{location.as_uri()}?mode=ro", uri=True)) as db:
        for id, value in db.execute("select id, value from records"):
            yield [text_of(id), None if isinstance(value, bytes) else value]


def text_of(id):
    return id.decode(errors="replace") if isinstance(id, bytes) else id


def csv_rows(location):
    with open(location, newline="", encoding="utf-8-sig") as lines:
        table = csv.reader(lines)
        header = next(table, [])
        at_id, at_value = header.index("id"), header.index("value")
        for line in table:
            if line:
                yield [line[at] if at < len(line) else None for at in (at_id, at_value)]


def fetch(location, page):
    with requests.get(location, params={"page": page}, timeout=7.5) as answer:
        if answer.status_code != requests.codes.ok:
            raise Broken(f"page {page} of {location} was answered with {answer.status_code}")
        body = answer.json()
    get = lambda record, key: record.get(key) if isinstance(record, dict) else None  # noqa: E731
    return [[get(each, "id"), get(each, "value")] for each in body["records"]], body["next"]


def turn(parcel):
    """Read the parcel's next page; answer the parcel as it is then."""
    with blame("extract", parcel["source"]):
        try:
            rows, following = fetch(parcel["location"], parcel["next"])
        except Broken as wrong:
            raise Broken(f"extract of source {parcel['source']}: {wrong}") from wrong
        number = parcel["chunks"] + 1
        shelve(parcel["raw"], number, rows)
        return {**parcel, "chunks": number, "next": following}


@app.task(name=f"{NAME}.extract_data", **LATE)
def extract_data(source, ticket=None):
    ticket = ticket or {}
    flow = ticket.get("flow")
    name, kind, location = source["name"], source["type"], source["location"]
    parcel = {"source": name, "raw": uuid.uuid4().hex, "chunks": 0, "ticket": ticket}
    with blame("extract", name):
        if kind == "api":
            parcel |= {"location": location, "next": 1}
            if flow:
                send("turn_page", parcel, flow=flow)
                return parcel
            while parcel["next"] is not None:
                parcel = turn(parcel)
            return parcel
        if kind not in TYPES:
            raise ValueError(f"unknown type {kind}")
        rows = sqlite_rows(location) if kind == "database" else csv_rows(location)
        parcel["chunks"] = shelve_all(parcel["raw"], rows)
    if flow:
        mark(flow, f"extract {name}")
        send("validate_data", parcel, flow=flow)
    return parcel


@app.task(name=f"{NAME}.turn_page", **LATE)
def turn_page(parcel):
    parcel, flow = turn(parcel), parcel["ticket"]["flow"]
    if parcel["next"] is None:
        mark(flow, f"extract {parcel['source']}")
        send("validate_data", parcel, flow=flow)
    else:
        send("turn_page", parcel, flow=flow)
    return parcel["chunks"]


# --- validate, transform -----------------------------------------------------------------------


def key_of(id):
    return None if id is None else (str(id).strip() or None)


def number_of(value):
    if type(value) not in (int, float, str):
        return None
    with contextlib.suppress(ValueError, OverflowError):
        value = float(value)
        if math.isfinite(value):
            return value
    return None


@app.task(name=f"{NAME}.validate_data", **LATE)
def validate_data(parcel):
    ticket, name = parcel["ticket"], parcel["source"]
    good: dict[str, None] = {}
    bad = 0

    def valid():
        nonlocal bad
        for id, value in shelved(parcel["raw"], parcel["chunks"]):
            id, value = key_of(id), number_of(value)
            if None in (id, value) or id in good:
                bad += 1
            else:
                good[id] = None
                yield [id, value]

    with blame("validate", name):
        label = uuid.uuid4().hex
        chunks = shelve_all(label, valid())
    checked = {"source": name, "rows": label, "chunks": chunks, "ticket": ticket}
    checked |= {"count": len(good), "invalid_count": bad}
    if ticket.get("flow"):
        mark(ticket["flow"], f"validate {name}")
        send("transform_data", checked, flow=ticket["flow"])
    return checked


CENT = decimal.Context(prec=60, rounding=decimal.ROUND_HALF_EVEN, traps=[decimal.InvalidOperation])


def cents_of(value):
    hundredfold = CENT.scaleb(CENT.create_decimal(str(value)), 2)
    return int(hundredfold.to_integral_value(context=CENT))


@app.task(name=f"{NAME}.transform_data", bind=True, **LATE)
def transform_data(self, checked):
    ticket, name = checked["ticket"], checked["source"]
    with blame("transform", name):
        label = uuid.uuid4().hex
        chunks = shelve_all(
            label,
            (
                {"source": name, "id": id, "value": value, "cents": cents_of(value)}
                for id, value in shelved(checked["rows"], checked["chunks"])
            ),
        )
    done = {**checked, "rows": label, "chunks": chunks}
    if flow := ticket.get("flow"):
        mark(flow, f"transform {name}")
        with blame("transform", name):
            lanes = redis_client().eval(
                ARRIVE, 2, flow_key(flow), flow_key(flow, "lanes"),
                name, json.dumps(done), ticket["lanes"], self.request.id, LIFE,
            )  # fmt: skip
            if lanes:
                send("aggregate_results", [json.loads(lane) for lane in lanes], flow=flow)
    return done


# --- join, load, notify ------------------------------------------------------------------------


@app.task(name=f"{NAME}.aggregate_results", **LATE)
def aggregate_results(lanes):
    ticket = lanes[0]["ticket"] if lanes else {}
    per_source = {
        lane["source"]: {"count": lane["count"], "invalid_count": lane["invalid_count"]}
        for lane in lanes
    }
    sizes = sorted(entry["count"] for entry in per_source.values()) or [0]
    aggregation = {
        "run_id": ticket.get("run_id") or uuid.uuid4().hex,
        "flow": ticket.get("flow"),
        "total_records": sum(sizes),
        "source_count": len(per_source),
        "sources": per_source,
        "summary": {"average": sum(sizes) / len(sizes), "max": sizes[-1], "min": sizes[0]},
        "shelves": [[lane["rows"], lane["chunks"]] for lane in lanes],
    }
    if aggregation["flow"]:
        mark(aggregation["flow"], "aggregate")
        send("load_data", aggregation, flow=aggregation["flow"])
    return aggregation


@contextlib.contextmanager
def target_transaction():
    db = sqlite3.connect(os.environ.get("LAB_TARGET_DB", "/tmp/complex_workflows.db"), timeout=9)
    db.isolation_level = None
    try:
        db.execute("begin immediate")
        try:
            yield db
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                db.execute("rollback")
            raise
        db.execute("commit")
    finally:
        db.close()


@app.task(name=f"{NAME}.load_data", **LATE)
def load_data(aggregation):
    run_id, flow = aggregation["run_id"], aggregation["flow"]
    with blame("load"), target_transaction() as db:
        db.execute(
            "create table if not exists loaded_records"
            " (run_id text not null, source text not null, id text not null, value real, cents integer)"
        )
        count = "select count(*) from loaded_records where run_id = ?"
        [(total,)] = db.execute(count, [run_id])
        if total == 0:  # all of a run or nothing of it is there
            for label, chunks in aggregation["shelves"]:
                db.executemany(
                    "insert into loaded_records (run_id, source, id, value, cents) values (?, ?, ?, ?, ?)",
                    (
                        (run_id, row["source"], row["id"], row["value"], row["cents"])
                        for row in shelved(label, chunks)
                    ),
                )
            [(total,)] = db.execute(count, [run_id])
    outcome = {"status": "completed", "total_loaded": total, "error": None, "run_id": run_id}
    if flow:
        mark(flow, "load")
        send("send_notification", outcome, flow=flow, task_id=flow)
    return outcome


TRIES = 3


@app.task(name=f"{NAME}.send_notification", bind=True, max_retries=TRIES - 1, **LATE)
def send_notification(self, outcome):
    by_hand = self.request.called_directly
    for attempt in range(TRIES if by_hand else 1):
        if attempt:
            time.sleep(1)
        try:
            answer = requests.post(
                os.environ.get("LAB_NOTIFY_URL", "http://127.0.0.1:8099/jobs/outcome"),
                data=json.dumps(outcome),
                headers={"Content-Type": "application/json"},
                timeout=6.5,
            )
            if answer.ok and answer.status_code < 300:
                return outcome
            wrong = Broken(f"notify: the answer was {answer.status_code}")
        except requests.RequestException as refused:
            wrong = Broken(f"notify: {refused}")
    if by_hand:
        raise wrong
    if self.request.retries >= self.max_retries and outcome["status"] == "completed":
        withdraw.delay(outcome["run_id"])
    raise self.retry(exc=wrong, countdown=0.5)


@app.task(name=f"{NAME}.withdraw", **LATE)
def withdraw(run_id):
    """Nobody could be told of the run: take its rows back."""
    with target_transaction() as db:
        return db.execute("delete from loaded_records where run_id = ?", [run_id]).rowcount


# --- what callers use --------------------------------------------------------------------------


def create_data_pipeline(sources):
    sources = list(sources)
    if not sources:
        raise ValueError("no sources")
    if len({source["name"] for source in sources}) != len(sources):
        raise ValueError("two sources of one name")
    if strange := {str(source["type"]) for source in sources} - TYPES:
        raise ValueError(f"unknown type of source: {', '.join(sorted(strange))}")
    return app.signature(f"{NAME}.start_flow", args=(sources, uuid.uuid4().hex), immutable=True)


def run_pipeline(sources):
    pipeline = create_data_pipeline(sources)
    flow = str(uuid.uuid4())
    redis_client().set(flow_key(flow, "total"), 3 * len(sources) + 3, ex=LIFE)
    return pipeline.apply_async(task_id=flow, root_id=flow).id


def workflow_progress(id):
    total = redis_client().get(flow_key(id, "total"))
    if total is None:
        raise ValueError(f"unknown workflow {id!r}")
    total, state = int(total), AsyncResult(id, app=app).state
    done = total if state == states.SUCCESS else redis_client().scard(flow_key(id, "steps"))
    return {
        "state": state,
        "total": total,
        "completed": done,
        "failed": 1 if state == states.FAILURE else 0,
        "percent": round(100 * done / total, 1)
        if state == states.SUCCESS
        else min(99, 100 * done // total),
    }


def main(arguments):
    if len(arguments) != 2 or arguments[0] != "watch":
        print(f"usage: python -m {NAME} watch ID", file=sys.stderr)
        return 2
    shown = None
    while True:
        now = workflow_progress(arguments[1])
        if now != shown:
            shown = now
            print(
                f"{now['percent']}% {now['state']} {now['completed']} of {now['total']}", flush=True
            )
        if now["state"] in states.READY_STATES:
            return 0 if now["state"] == states.SUCCESS else 1
        time.sleep(0.2)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

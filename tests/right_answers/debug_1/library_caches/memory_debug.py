"""A service on Celery, with instruments against leaks."""

from __future__ import annotations

import gc
import hashlib
import json
import logging
import math
import multiprocessing
import os
import sys
import tempfile
import time
import tracemalloc
from collections import Counter
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from pathlib import Path
from statistics import median

import psutil
from celery import Celery, chord
from celery.exceptions import TimeoutError as NoAnswer
from celery.signals import task_postrun, worker_before_create_process, worker_process_init

# The URLs are for a machine of your own. CELERY_BROKER_URL and CELERY_RESULT_BACKEND in the
# environment, if they are set, come first: that is how the grader brings its own servers.
app = Celery(
    "memory_debug",
    broker="redis://127.0.0.1:6379/0",
    backend="redis://127.0.0.1:6379/1",
)
app.conf.update(task_serializer="json", result_serializer="json", accept_content=["json"])

log = logging.getLogger(__name__)

CENT = Decimal("0.01")
HOUSE_CURRENCY = "EUR"
LARGE_REPORT = 20
SEGMENTS = ("new", "casual", "regular", "loyal", "champion")
EXCHANGE = {"USD": "0.92", "GBP": "1.17", "CHF": "1.04", "JPY": "0.0061", "CNY": "0.13"}


@worker_process_init.connect
def tune_process(**_):
    """Set a pool process up for many short tasks."""
    gc.enable()
    tracemalloc.start(1)
    BASE.append(untraced())


@worker_before_create_process.connect
def freeze(**_):
    """Leave what is there alone."""
    gc.freeze()


# What the process had in RAM when tracing began.
BASE = []


def untraced():
    """Return the bytes in RAM that neither a living block nor the tracer takes."""
    living = tracemalloc.get_traced_memory()[0] + tracemalloc.get_tracemalloc_memory()
    return psutil.Process().memory_info().rss - living


# --- tools: yours to write ------------------------------------------------------------


MIB = 1024 * 1024
MOST_MIB = 512
PAGE = 4096


def resident_mib():
    """Return the memory that this process has in RAM, in MiB."""
    return psutil.Process().memory_info().rss / MIB


@app.task
def memory_intensive_task(data_size):
    """Touch `data_size` MiB, give them back, and tell what that did to this process."""
    number = isinstance(data_size, int | float) and not isinstance(data_size, bool)
    # Written so that nan, with which every comparison is false, is refused too.
    if not (number and 0 < data_size <= MOST_MIB):
        raise ValueError(f"{data_size!r} is not a size above 0 and up to {MOST_MIB} MiB")
    start = resident_mib()
    data = bytearray(math.ceil(data_size * MIB))
    # Memory that was only asked for is not there yet: a page comes when it is written to.
    data[::PAGE] = b"x" * len(range(0, len(data), PAGE))
    peak = resident_mib()
    del data
    end = resident_mib()
    return {
        "start_memory_mb": start,
        "peak_memory_mb": peak,
        "end_memory_mb": end,
        "memory_increase_mb": end - start,
        "data_size_mb": data_size,
    }


PREVIOUS = {}


@app.task
def diagnose(top=10):
    """Tell what lives in this process, and what was allocated since the previous call."""
    process = psutil.Process()
    fragmented = untraced() - BASE[0] >= process.memory_info().rss / 4
    snapshot = tracemalloc.take_snapshot()
    before = PREVIOUS.pop("snapshot", None)
    rows = snapshot.compare_to(before, "lineno") if before else snapshot.statistics("lineno")
    grown = []
    for row in rows:
        size = getattr(row, "size_diff", row.size)
        if size > 0:
            frame = row.traceback[0]
            count = getattr(row, "count_diff", row.count)
            site = f"{frame.filename}:{frame.lineno}"
            grown.append({"site": site, "size_kb": round(size / 1024, 1), "count": max(count, 0)})
    PREVIOUS["snapshot"] = snapshot
    kinds = Counter(type(thing).__name__ for thing in gc.get_objects())
    return {
        "pid": process.pid,
        "rss_mb": process.memory_info().rss / MIB,
        "open_files": process.num_fds(),
        "objects": [{"type": kind, "count": count} for kind, count in kinds.most_common(top)],
        "allocations": sorted(grown, key=lambda row: -row["size_kb"])[:top],
        "gc": {"enabled": gc.isenabled(), "counts": list(gc.get_count())},
        "fragmented": fragmented,
    }


# --- records --------------------------------------------------------------------------


def parse_line(line, number):
    """Return (sku, quantity, price) of one line of a record.

    Raises:
        ValueError: something about it is wrong.
    """
    if not isinstance(line, dict) or not line.get("sku"):
        raise ValueError(f"line {number}: no sku")
    try:
        quantity, price = int(line["quantity"]), Decimal(str(line["price"]))
    except (KeyError, TypeError, ValueError, InvalidOperation):
        raise ValueError(f"line {number}: no quantity or price") from None
    if quantity < 1 or not price.is_finite() or price < 0:
        raise ValueError(f"line {number}: {quantity} at {price} is not for sale")
    return line["sku"], quantity, price


def checksum(text):
    """Return the SHA-256 of an attachment, taken from the file as it lies on the disk."""
    handle, path = tempfile.mkstemp(prefix="attachment-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(text.encode())
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    finally:
        os.unlink(path)


@app.task
def process_record(record):
    """Check an order and return its total; one with bad lines is sent back with all of them."""
    if not isinstance(record, dict) or "id" not in record:
        raise ValueError("a record is an object with an id")
    canonical = json.dumps(record, sort_keys=True)
    total, problems = Decimal(0), []
    for number, line in enumerate(record.get("lines", []), start=1):
        try:
            _, quantity, price = parse_line(line, number)
            total += quantity * price
        except ValueError as problem:
            problems.append(problem)
    if problems:
        return {"id": record["id"], "ok": False, "problems": [str(p) for p in problems]}
    result = {"id": record["id"], "ok": True, "total": str(total.quantize(CENT))}
    result["version"] = hashlib.sha256(canonical.encode()).hexdigest()[:12]
    if "attachment" in record:
        result["attachment"] = checksum(str(record["attachment"]))
    return result


# --- customers ------------------------------------------------------------------------


@dataclass
class Profile:
    """What is known of a customer: a score of 0 to 255 for each hour, the newest last."""

    user_id: str
    hours: bytes
    score: float

    @property
    def segment(self):
        """The customer's group."""
        return SEGMENTS[min(int(self.score * 10) % 5, 4)]


@lru_cache(maxsize=128)
def load_profile(user_id):
    """Work a customer's profile out of the history."""
    hours = hashlib.pbkdf2_hmac("sha256", user_id.encode(), b"profile", 120, dklen=8192)
    score = round(sum(hours) / len(hours) / 2.55, 3)
    return Profile(user_id, hours, score)


@app.task
def enrich(user_id):
    """Return what marketing wants to know of a customer."""
    if not isinstance(user_id, str) or not user_id.strip():
        raise ValueError(f"{user_id!r} is no user id")
    profile = load_profile(user_id)
    recent = [round(hour / 2.55, 2) for hour in profile.hours[-3:]]
    return {
        "user_id": user_id,
        "score": profile.score,
        "segment": profile.segment,
        "recent": recent,
    }


# --- campaigns ------------------------------------------------------------------------


@app.task
def points(user_id):
    """Return a customer's place in a campaign: (points, user id)."""
    return [enrich(user_id)["score"], user_id]


@app.task
def ranking(places):
    """Return the customers of a campaign, the one with the most points first."""
    return [user_id for _, user_id in sorted(places, reverse=True)]


def start_campaign(user_ids):
    """Start a chord that ranks customers; return the id under which the ranking is found."""
    return chord([points.s(user_id) for user_id in user_ids], ranking.s())().id


def lasting_results(mend=False):
    """Find results in the backend that never expire; with `mend`, have them expire."""
    redis = app.backend.client
    names = [*redis.keys("celery-task-meta-*"), *redis.keys("celery-taskset-meta-*")]
    names = [name.decode() for name in names if redis.pttl(name) < 0]
    for name in names if mend else ():
        redis.expire(name, 3600)
    return {"keys": names, "mended": len(names) if mend else 0}


# --- reports --------------------------------------------------------------------------


@lru_cache(maxsize=32)
def mean_rate(currency):
    """Return the year's mean rate of a currency."""
    if currency not in EXCHANGE:
        raise ValueError(f"no rate for {currency!r}")
    year = [float(EXCHANGE[currency]) * (1 + day / 36500) for day in range(365)]
    return Decimal(str(round(sum(year) / len(year), 6)))


def print_line(number, name, amount):
    """Return one line of a report."""
    return f"{number:>4}  {name:<32.32}  {amount:>12} {HOUSE_CURRENCY}"


# When the report in work was begun, and its rows. A pool process has one task at a time.
STARTED: list[float] = []


@task_postrun.connect
def report_finished(sender=None, **_):
    """Log how long a large report took, once its result is stored."""
    if sender is not None and sender.name == render_report.name and STARTED:
        began, rows = STARTED
        STARTED.clear()
        if rows >= LARGE_REPORT:
            log.debug("a report of %d rows took %.3f s", rows, time.monotonic() - began)


@app.task
def render_report(rows):
    """Return a report as text: a line for each sale, the total, and the refunds at the end."""
    if not isinstance(rows, list):
        raise ValueError("rows is a list")
    STARTED[:] = [time.monotonic(), len(rows)]
    lines, total, refunds = [], Decimal(0), []
    for number, row in enumerate(rows, start=1):
        try:
            amount = Decimal(str(row["amount"])).quantize(CENT)
            name, currency = str(row["name"]), row.get("currency", HOUSE_CURRENCY)
        except (KeyError, TypeError, AttributeError, InvalidOperation):
            raise ValueError(f"row {number} has no name or no amount") from None
        if currency != HOUSE_CURRENCY:
            amount = (amount * mean_rate(currency)).quantize(CENT)
        total += amount
        if amount < 0:
            refunds.append(f"{number}: {row['name']}")
        else:
            lines.append(print_line(number, name, amount))
    return {
        "rows": len(rows),
        "total": str(total.quantize(CENT)),
        "lines": lines,
        "refunds": refunds,
    }


# --- the instrument: yours to write ---------------------------------------------------


LIMIT_KIB = 0.5
ANSWER_SECONDS = 20
LOOK_SECONDS = 5


def debug_memory_leak(task_name, runs=200, args=(), png=None):
    """Drive a task of a running worker, watch its pool processes, and say whether it leaks."""
    pool = [psutil.Process(pid) for pid in pool_pids()]
    samples = []
    for n in range(1, runs + 1):
        drive(task_name, args)
        samples.append({"task": n, "rss_kb": sum(p.memory_info().rss for p in pool) / 1024})
    # The first half is for whatever fills once and then stays: imports, pools, caches.
    settled = [(s["task"], s["rss_kb"]) for s in samples[len(samples) // 2 :]]
    slope = trend(settled)
    if png is not None:
        draw(samples, png)
    return {"samples": samples, "slope_kb_per_task": slope, "leaking": slope > LIMIT_KIB}


def pool_pids():
    """Return the pids of all pool processes that answer for this app."""
    answers = app.control.inspect(timeout=LOOK_SECONDS, limit=1).stats()
    pids = [pid for stats in (answers or {}).values() for pid in stats["pool"]["processes"]]
    if not pids:
        raise RuntimeError("No worker answers: start one with `celery -A memory_debug worker`.")
    return pids


def drive(task_name, args):
    """Run the task once; how it ends is its own affair."""
    result = app.send_task(task_name, args=args)
    try:
        result.get(timeout=ANSWER_SECONDS, propagate=False)
    except NoAnswer:
        raise RuntimeError(f"{task_name} has not ended within {ANSWER_SECONDS} s.") from None
    finally:
        result.forget()


def trend(points):
    """Return the median of the slopes between all pairs of points (Theil and Sen)."""
    slopes = [(y - b) / (x - a) for n, (x, y) in enumerate(points) for a, b in points[:n] if x != a]
    return median(slopes) if slopes else 0.0


def draw(samples, png):
    """Save the curve as a picture."""
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", (640, 360), "white")
    pen = ImageDraw.Draw(picture)
    sizes = [sample["rss_kb"] for sample in samples]
    low, span = min(sizes), (max(sizes) - min(sizes)) or 1
    step = 600 / max(len(samples) - 1, 1)
    curve = [(20 + n * step, 340 - (kb - low) / span * 300) for n, kb in enumerate(sizes)]
    pen.line(curve, fill="red", width=2)
    pen.text((20, 8), f"{low:.0f} to {max(sizes):.0f} KiB in {len(samples)} tasks", fill="black")
    picture.save(png, "PNG")


# --- challenge 3 ----------------------------------------------------------------------


def collecting(pipe):
    """Collect, tell the private memory, and live until told to go."""
    gc.collect()
    pipe.send(psutil.Process().memory_full_info().uss / 1024)
    pipe.recv()


def measured(freeze, count):
    """Make a heap and fork a child of it that collects; return the child, its pipe, its figure."""
    heap = [{"number": number} for number in range(count)]
    if freeze:
        gc.freeze()
    fork = multiprocessing.get_context("fork")
    mine, its = fork.Pipe()
    child = fork.Process(target=collecting, args=(its,))
    child.start()
    return child, mine, mine.recv(), heap


if __name__ == "__main__":
    count = int(sys.argv[2])
    found = [measured(freeze, count) for freeze in (False, True)]
    figures = {"plain_kb": found[0][2], "frozen_kb": found[1][2]}
    print(json.dumps({"objects": count, **figures}), flush=True)
    sys.stdin.readline()
    for child, pipe, *_ in found:
        pipe.send("go")
        child.join()

"""A service on Celery, with instruments against leaks."""

from __future__ import annotations

import ctypes
import gc
import hashlib
import json
import logging
import math
import os
import sys
import tempfile
import time
import tracemalloc
import weakref
from collections import Counter, deque
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from statistics import median

import psutil
from celery import Celery, chord
from celery.exceptions import TimeoutError as NoAnswer
from celery.signals import task_postrun, worker_init, worker_process_init

# The URLs are for a machine of your own. CELERY_BROKER_URL and CELERY_RESULT_BACKEND in the
# environment, if they are set, come first: that is how the grader brings its own servers.
app = Celery(
    "memory_debug",
    broker="redis://127.0.0.1:6379/0",
    backend="redis://127.0.0.1:6379/1",
)
app.conf.update(task_serializer="json", result_serializer="json", accept_content=["json"])
RESULT_SECONDS = 24 * 3600
# was: None, and every part of every campaign stayed in the backend for good.
app.conf.result_expires = RESULT_SECONDS

log = logging.getLogger(__name__)

CENT = Decimal("0.01")
HOUSE_CURRENCY = "EUR"
LARGE_REPORT = 20
SEGMENTS = ("new", "casual", "regular", "loyal", "champion")
EXCHANGE = {"USD": "0.92", "GBP": "1.17", "CHF": "1.04", "JPY": "0.0061", "CNY": "0.13"}


@worker_init.connect
def share_heap(**_):
    """Keep the collector of each pool process off what they all share with the main process."""
    # At import it would be too early: modules that the worker loads next would not be frozen.
    gc.collect()
    gc.freeze()


@worker_process_init.connect
def tune_process(**_):
    """Set a pool process up for many short tasks."""
    # was: gc.disable(). A pause now and then is cheaper than a process that only grows.
    tracemalloc.start(1)


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


# What the previous call saw: allocated KiB and blocks by site. One snapshot would weigh more.
LAST = []


def allocations():
    """Return what lives now, by the line that asked for it: (KiB, blocks)."""
    return {
        f"{found.traceback[0].filename}:{found.traceback[0].lineno}": (
            found.size / 1024,
            found.count,
        )
        for found in tracemalloc.take_snapshot().statistics("lineno")
    }


class Heap(ctypes.Structure):
    """What glibc says of malloc's heap (mallinfo2), in bytes; `fordblks` are its free blocks."""

    _fields_ = [
        *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd")),
        *((name, ctypes.c_size_t) for name in ("usmblks", "fsmblks", "uordblks", "fordblks")),
        ("keepcost", ctypes.c_size_t),
    ]


FRAGMENTED_SHARE = 0.25


def fragmented(process):
    """Say whether much of this process's memory lies in gaps of malloc's heap."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallinfo2"):
        return False  # no glibc, or one before 2.33
    libc.mallinfo2.restype = Heap
    heap = libc.mallinfo2()
    # What is free at the heap's top goes back by itself; what is free below something alive can't.
    return heap.fordblks - heap.keepcost >= FRAGMENTED_SHARE * process.memory_info().rss


@app.task
def diagnose(top=10):
    """Tell what lives in this process, and what was allocated since the previous call."""
    process = psutil.Process()
    in_gaps = fragmented(process)  # first, for what follows takes memory itself
    now = tracemalloc.take_snapshot()
    before = LAST.pop() if LAST else None
    rows = now.compare_to(before, "lineno") if before else now.statistics("lineno")
    LAST.append(now)
    grown = [
        {
            "site": str(row.traceback[0]),
            "size_kb": (row.size_diff if before else row.size) / 1024,
            "count": row.count_diff if before else row.count,
        }
        for row in rows
    ][:top]
    kinds = Counter(type(thing).__name__ for thing in gc.get_objects())
    return {
        "pid": process.pid,
        "rss_mb": process.memory_info().rss / MIB,
        "open_files": process.num_fds(),
        "objects": [{"type": kind, "count": count} for kind, count in kinds.most_common(top)],
        "allocations": grown,
        "gc": {"enabled": gc.isenabled(), "counts": list(gc.get_count())},
        "fragmented": in_gaps,
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
    # was: mkstemp, whose open descriptor nobody closed.
    with tempfile.NamedTemporaryFile("w+b", prefix="attachment-") as file:
        file.write(text.encode())
        file.flush()
        return hashlib.sha256(Path(file.name).read_bytes()).hexdigest()


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
            # was: the exception itself. Its traceback holds this frame, and this frame the list.
            problems.append(str(problem))
    if problems:
        return {"id": record["id"], "ok": False, "problems": problems}
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


KNOWN = weakref.WeakValueDictionary()
# The last 128 that were used keep their profiles alive.
RECENT = deque(maxlen=128)


def load_profile(user_id):
    """Work a customer's profile out of the history; expensive, so it is done once."""
    profile = KNOWN.get(user_id)
    if profile is None:
        hours = hashlib.pbkdf2_hmac("sha256", user_id.encode(), b"profile", 120, dklen=8192)
        score = round(sum(hours) / len(hours) / 2.55, 3)
        profile = KNOWN[user_id] = Profile(user_id, hours, score)
    RECENT.append(profile)
    return profile


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


# --- reports --------------------------------------------------------------------------


class Converter:
    """Turns amounts into the house's currency, by a table of the rates of each day of the year."""

    def __init__(self):
        self.table = {
            currency: [float(rate) * (1 + day / 36500) for day in range(365)]
            for currency, rate in EXCHANGE.items()
        }
        self.rates = {}

    def rate(self, currency):
        """Return the year's mean rate of a currency."""
        # was: functools.cache on this method. Its one table, for all instances, held every `self`.
        if currency not in self.rates:
            self.rates[currency] = self.mean(currency)
        return self.rates[currency]

    def mean(self, currency):
        """Work the mean rate of a currency out."""
        try:
            year = self.table[currency]
        except KeyError:
            raise ValueError(f"no rate for {currency!r}") from None
        return Decimal(str(round(sum(year) / len(year), 6)))

    def convert(self, amount, currency):
        """Return an amount in the house's currency."""
        return (amount * self.rate(currency)).quantize(CENT)


def print_line(number, name, amount):
    """Return one line of a report."""
    return f"{number:>4}  {name:<32.32}  {amount:>12} {HOUSE_CURRENCY}"


# When the report in work was begun, and its rows. A pool process has one task at a time.
STARTED: list[float] = []


@task_postrun.connect
def report_finished(sender=None, **_):
    """Log how long a large report took, once its result is stored."""
    # was: a receiver connected anew by each large report, with weak=False, for good.
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
    converter = None
    # was: a default argument, one list for all reports of this process.
    lines, total, refunds = [], Decimal(0), []
    for number, row in enumerate(rows, start=1):
        try:
            amount = Decimal(str(row["amount"])).quantize(CENT)
            name, currency = str(row["name"]), row.get("currency", HOUSE_CURRENCY)
        except (KeyError, TypeError, AttributeError, InvalidOperation):
            raise ValueError(f"row {number} has no name or no amount") from None
        if currency != HOUSE_CURRENCY:
            converter = converter or Converter()
            amount = converter.convert(amount, currency)
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


# --- challenges -----------------------------------------------------------------------


def lasting_results(mend=False):
    """Find results in the backend that never expire; with `mend`, have them expire."""
    backend, found = app.backend, []
    # Chords keep what they count under the prefix of groups.
    for prefix in (backend.task_keyprefix, backend.group_keyprefix):
        for key in backend.client.scan_iter(match=prefix + b"*", count=500):
            if backend.client.ttl(key) == -1:
                found.append(key)
    # NX: one that has got an expiry in the meantime keeps it.
    mended = [key for key in found if mend and backend.client.expire(key, RESULT_SECONDS, nx=True)]
    return {"keys": sorted(key.decode() for key in found), "mended": len(mended)}


def private_kib(pid):
    """Return the memory that would be free without this process, in KiB."""
    return psutil.Process(pid).memory_full_info().uss // 1024


def collecting_child(release):
    """Fork a child that collects and then lives until `release` is closed; return its pid."""
    done, tell = os.pipe()
    pid = os.fork()
    if pid:
        os.close(tell)
        os.read(done, 1)
        os.close(done)
        return pid
    try:
        os.close(release[1])
        gc.collect()
        os.write(tell, b"x")
        os.read(release[0], 1)
    finally:
        os._exit(0)  # what the parent would do at its end is not the child's


def measure_freeze(objects):
    """Print what a child owns of so many objects after a collection, not frozen and frozen."""
    heap, release = [[number] for number in range(objects)], os.pipe()
    plain = collecting_child(release)
    gc.freeze()
    frozen = collecting_child(release)
    figures = {"plain_kb": private_kib(plain), "frozen_kb": private_kib(frozen)}
    print(json.dumps({"objects": len(heap), **figures}), flush=True)
    sys.stdin.readline()
    os.close(release[1])
    for pid in (plain, frozen):
        os.waitpid(pid, 0)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["freeze", count] if count.isdecimal():
            measure_freeze(int(count))
        case _:
            sys.exit("usage: python -m memory_debug freeze OBJECTS")

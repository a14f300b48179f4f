"""Exercise debug_1: a service whose worker grows until somebody restarts it.

The three tasks in the middle are in production: callers rely on every result and every error.
They leak. The tasks at the top and the function at the end are the tools that you write to find out
where (README.md). Start a worker with `celery -A memory_debug worker -l INFO -c 1` and grade with
`pytest exercises/debug_1`.
"""

from __future__ import annotations

import ctypes
import gc
import hashlib
import itertools
import json
import logging
import os
import socket
import statistics
import struct
import sys
import tempfile
import time
import tracemalloc
import zlib
from collections import Counter
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal, InvalidOperation
from functools import cache
from pathlib import Path

import psutil
from celery import Celery, chord
from celery.signals import task_postrun, worker_process_init

# The URLs are for a machine of your own. CELERY_BROKER_URL and CELERY_RESULT_BACKEND in the
# environment, if they are set, come first: that is how the grader brings its own servers.
app = Celery(
    "memory_debug",
    broker="redis://127.0.0.1:6379/0",
    backend="redis://127.0.0.1:6379/1",
)
app.conf.update(task_serializer="json", result_serializer="json", accept_content=["json"])
# A ranking is read when somebody finds the time; on the next morning at the latest.
app.conf.result_expires = timedelta(hours=20)

log = logging.getLogger(__name__)

CENT = Decimal("0.01")
HOUSE_CURRENCY = "EUR"
LARGE_REPORT = 20
SEGMENTS = ("new", "casual", "regular", "loyal", "champion")
EXCHANGE = {"USD": "0.92", "GBP": "1.17", "CHF": "1.04", "JPY": "0.0061", "CNY": "0.13"}


COLLECT_EVERY = 4  # tasks


class Collector:
    """Our own collector: none of its pauses falls into a task, and it never looks at what the parent loaded."""

    def __init__(self):
        self.inherited = Counter()
        self.tasks = 0

    def start(self, **_):
        """Begin, in a pool process that has just been forked."""
        gc.disable()
        self.inherited = Counter(map(type, gc.get_objects()))
        gc.freeze()
        tracemalloc.start()

    def after_task(self, **_):
        """Collect, after every few tasks."""
        self.tasks += 1
        if self.tasks % COLLECT_EVERY == 0:
            gc.collect()


collector = Collector()
worker_process_init.connect(collector.start, weak=False)
task_postrun.connect(collector.after_task, weak=False)


# --- tools: yours to write ------------------------------------------------------------


MIB = 1024 * 1024


@app.task
def memory_intensive_task(data_size):
    """Touch `data_size` MiB, give them back, and tell what that did to this process."""
    match data_size:
        case bool():
            raise ValueError("true and false are no sizes")
        case int() | float() if 0 < data_size <= 512:
            pass
        case _:
            raise ValueError(f"{data_size!r} is no size above 0 and up to 512")
    me = psutil.Process()
    figures = {"data_size_mb": data_size, "start_memory_mb": me.memory_info().rss / MIB}
    left, pieces = int(data_size * MIB) or 1, []
    while left:
        pieces.append(b"\xa5" * min(left, 4 * MIB))
        left -= len(pieces[-1])
    figures["peak_memory_mb"] = me.memory_info().rss / MIB
    pieces.clear()
    figures["end_memory_mb"] = me.memory_info().rss / MIB
    figures["memory_increase_mb"] = figures["end_memory_mb"] - figures["start_memory_mb"]
    return figures


@app.task
def diagnose(top=10):
    """Tell what lives in this process, and what was allocated since the previous call."""
    if not tracemalloc.is_tracing():
        tracemalloc.start()
    rows = tracemalloc.take_snapshot().statistics("lineno")
    tracemalloc.clear_traces()
    kinds = Counter(collector.inherited)
    kinds.update(map(type, gc.get_objects()))
    me = psutil.Process()
    return {
        "pid": me.pid,
        "rss_mb": me.memory_info().rss / MIB,
        "open_files": me.num_fds() - 1,
        "objects": [
            {"type": kind.__name__, "count": count} for kind, count in kinds.most_common(top)
        ],
        "allocations": [
            {"site": str(row.traceback[0]), "size_kb": row.size / 1024, "count": row.count}
            for row in rows[:top]
        ],
        "gc": {"enabled": gc.isenabled(), "counts": list(gc.get_count())},
        "fragmented": gaps() * 4 >= me.memory_info().rss,
    }


class Heap(ctypes.Structure):
    """struct mallinfo2."""

    _fields_ = [(f"unused{n}", ctypes.c_size_t) for n in range(7)] + [
        ("used", ctypes.c_size_t),
        ("free", ctypes.c_size_t),
        ("top", ctypes.c_size_t),
    ]


def gaps():
    """Return how many bytes of malloc's heap are in memory for the sake of their neighbours only."""
    libc = ctypes.CDLL(None)
    try:
        libc.mallinfo2.restype = Heap
        libc.malloc_trim(0)  # after which every page that could go is gone
    except AttributeError:
        return 0
    page = os.sysconf("SC_PAGE_SIZE")
    pages = 0
    for line in Path("/proc/self/maps").read_text(errors="replace").splitlines():
        if line.endswith("[heap]"):
            start, end = (int(address, 16) for address in line.split()[0].split("-"))
            there = (ctypes.c_ubyte * ((end - start) // page))()
            if libc.mincore(ctypes.c_void_p(start), ctypes.c_size_t(end - start), there) == 0:
                pages += sum(flag & 1 for flag in there)
    return max(pages * page - libc.mallinfo2().used, 0)


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
    with ExitStack() as clean:
        handle, path = tempfile.mkstemp(prefix="attachment-")
        clean.callback(os.unlink, path)
        clean.callback(os.close, handle)
        Path(path).write_text(text, encoding="utf-8")
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()


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


class Recent(dict):
    """A dict that makes what it lacks, and keeps what was last made or asked for."""

    def __init__(self, make, most):
        super().__init__()
        self.make, self.most = make, most

    def __missing__(self, key):
        value = self.make(key)
        while len(self) >= self.most:
            del self[next(iter(self))]
        self[key] = value
        return value

    def ask(self, key):
        """Return a value, and have it be the newest."""
        value = self[key]
        self[key] = self.pop(key)
        return value


def work_out(user_id):
    """Work a customer's profile out of the history; expensive."""
    hours = hashlib.pbkdf2_hmac("sha256", user_id.encode(), b"profile", 120, dklen=8192)
    score = round(sum(hours) / len(hours) / 2.55, 3)
    return Profile(user_id, hours, score)


PROFILES = Recent(work_out, 128)


def load_profile(user_id):
    """Return a customer's profile."""
    return PROFILES.ask(user_id)


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

    @cache  # noqa: B019 (its instances are few, and live for ever)
    def rate(self, currency):
        """Return the year's mean rate of a currency."""
        try:
            year = self.table[currency]
        except KeyError:
            raise ValueError(f"no rate for {currency!r}") from None
        return Decimal(str(round(sum(year) / len(year), 6)))

    def convert(self, amount, currency):
        """Return an amount in the house's currency."""
        return (amount * self.rate(currency)).quantize(CENT)


CONVERTER = Converter()  # the only one, so that its cache keeps no other


def print_line(number, name, amount):
    """Return one line of a report."""
    return f"{number:>4}  {name:<32.32}  {amount:>12} {HOUSE_CURRENCY}"


@app.task
def render_report(rows):
    """Return a report as text: a line for each sale, the total, and the refunds at the end."""
    if not isinstance(rows, list):
        raise ValueError("rows is a list")
    began = time.monotonic()
    lines, total, refunds = [], Decimal(0), []
    for number, row in enumerate(rows, start=1):
        try:
            amount = Decimal(str(row["amount"])).quantize(CENT)
            name, currency = str(row["name"]), row.get("currency", HOUSE_CURRENCY)
        except (KeyError, TypeError, AttributeError, InvalidOperation):
            raise ValueError(f"row {number} has no name or no amount") from None
        if currency != HOUSE_CURRENCY:
            amount = CONVERTER.convert(amount, currency)
        total += amount
        if amount < 0:
            refunds.append(f"{number}: {row['name']}")
        else:
            lines.append(print_line(number, name, amount))
    if len(rows) >= LARGE_REPORT:

        def finished(**_):
            task_postrun.disconnect(finished, sender=render_report)
            took = time.monotonic() - began
            log.debug("a report of %d lines took %.3f s", len(lines), took)

        # Once the result is stored, so that storing it is counted too.
        task_postrun.connect(finished, sender=render_report, weak=False)
    return {
        "rows": len(rows),
        "total": str(total.quantize(CENT)),
        "lines": lines,
        "refunds": refunds,
    }


# --- the instrument: yours to write ---------------------------------------------------


def debug_memory_leak(task_name, runs=200, args=(), png=None):
    """Drive a task of a running worker, watch its pool processes, and say whether it leaks."""
    processes = find_pool()
    samples = []
    for number in range(1, runs + 1):
        result = app.signature(task_name, args=tuple(args)).apply_async()
        result.get(timeout=200, propagate=False)
        result.forget()
        if not all(process.is_running() for process in processes):
            processes = find_pool()
        samples.append(
            {"task": number, "rss_kb": sum(p.memory_info().rss for p in processes) // 1024}
        )
    slope = slope_of([sample["rss_kb"] for sample in samples])
    if png is not None:
        save_png(png, [sample["rss_kb"] for sample in samples])
    return {"samples": samples, "slope_kb_per_task": slope, "leaking": slope > 0.5}


def find_pool():
    """Return the pool processes; RuntimeError without any."""
    for _ in range(4):
        found = app.control.inspect(timeout=2).stats() or {}
        pids = [pid for stats in found.values() for pid in stats["pool"].get("processes", ())]
        if pids:
            return [psutil.Process(pid) for pid in pids]
    raise RuntimeError("There is no worker to be measured: none has answered.")


def slope_of(curve):
    """Return the rise a task in the second half: between its thirds, by the lower of the two rises."""
    half = curve[len(curve) // 2 :]
    width = max(1, min(10, len(half) // 9))
    lows = [min(half[at : at + width]) for at in range(0, len(half) - width + 1, width)]
    if len(lows) < 3:
        return 0.0
    third = len(lows) // 3
    first, middle, last = (
        statistics.median_low(part) for part in (lows[:third], lows[third:-third], lows[-third:])
    )
    distance = width * (len(lows) - third) / 2
    lower = min(middle - first, last - middle) / distance
    return (last - first) / (2 * distance) if lower > 0.5 else lower


def save_png(path, curve):
    """Save a curve as a black and white PNG."""
    wide, high = 400, 200
    low, span = min(curve, default=0), max(max(curve, default=0) - min(curve, default=0), 32)
    tops = [
        int((curve[x * len(curve) // wide] - low) / span * (high - 20)) + 10 if curve else 0
        for x in range(wide)
    ]
    rows = b""
    for y in range(high, 0, -1):
        bits = "".join("0" if top >= y else "1" for top in tops)
        rows += b"\0" + int(bits, 2).to_bytes(wide // 8, "big")
    with open(path, "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        for kind, data in (
            (b"IHDR", struct.pack(">IIBBBBB", wide, high, 1, 0, 0, 0, 0)),
            (b"IDAT", zlib.compress(rows)),
            (b"IEND", b""),
        ):
            file.write(struct.pack(">I", len(data)) + kind + data)
            file.write(struct.pack(">I", zlib.crc32(kind + data)))


# --- challenges: yours to write, if you like ------------------------------------------


def lasting_results(mend=False):
    """Challenge 2: find results in the backend that never expire; with `mend`, have them expire."""
    redis = app.backend.client
    names = sorted(
        key
        for key in set(
            itertools.chain(
                redis.scan_iter(app.backend.task_keyprefix + b"*"),
                redis.scan_iter(app.backend.group_keyprefix + b"*"),
            )
        )
    )
    with redis.pipeline(transaction=False) as pipe:
        for name in names:
            pipe.ttl(name)
        lasting = [name for name, ttl in zip(names, pipe.execute()) if ttl == -1]
    mended = 0
    if mend:
        with redis.pipeline(transaction=False) as pipe:
            for name in lasting:
                pipe.expire(name, 3600)
            mended = sum(map(int, pipe.execute()))
    return {"keys": [name.decode() for name in lasting], "mended": mended}


class Twin:
    """A forked child that collects once, and then stays until it is told to go."""

    def __init__(self):
        self.line, other = socket.socketpair()
        self.pid = os.fork()
        if self.pid == 0:
            self.line.close()
            gc.collect()
            other.send(b"!")
            other.recv(1)
            os._exit(0)
        other.close()
        self.line.recv(1)

    def own_kb(self):
        """Return its private memory."""
        return psutil.Process(self.pid).memory_full_info().uss // 1024

    def close(self):
        """End it."""
        self.line.close()
        os.kill(self.pid, 9)
        os.waitpid(self.pid, 0)


def freeze(number):
    """Measure what gc.freeze spares a forked child."""
    gc.disable()
    kept = [[n] for n in range(number)]
    with closing(Twin()) as plain:
        gc.freeze()
        with closing(Twin()) as frozen:
            figures = {
                "objects": len(kept),
                "plain_kb": plain.own_kb(),
                "frozen_kb": frozen.own_kb(),
            }
            print(json.dumps(figures), flush=True)
            sys.stdin.readline()


if __name__ == "__main__" and sys.argv[1:2] == ["freeze"]:
    freeze(int(sys.argv[2]))

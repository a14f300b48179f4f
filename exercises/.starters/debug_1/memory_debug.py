"""Exercise debug_1: a service whose worker grows until somebody restarts it.

The three tasks in the middle are in production: callers rely on every result and every error.
They leak. The tasks at the top and the function at the end are the tools that you write to find out
where (README.md). Start a worker with `celery -A memory_debug worker -l INFO -c 1` and grade with
`pytest exercises/debug_1`.
"""

from __future__ import annotations

import gc
import hashlib
import json
import logging
import os
import tempfile
import time
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import cache
from pathlib import Path

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
# A ranking is read when somebody finds the time.
app.conf.result_expires = None

log = logging.getLogger(__name__)

CENT = Decimal("0.01")
HOUSE_CURRENCY = "EUR"
LARGE_REPORT = 20
SEGMENTS = ("new", "casual", "regular", "loyal", "champion")
EXCHANGE = {"USD": "0.92", "GBP": "1.17", "CHF": "1.04", "JPY": "0.0061", "CNY": "0.13"}


@worker_process_init.connect
def tune_process(**_):
    """Set a pool process up for many short tasks."""
    # The collector's pauses were seen in the 99th percentile.
    gc.disable()


# --- tools: yours to write ------------------------------------------------------------


@app.task
def memory_intensive_task(data_size):
    """Touch `data_size` MiB, give them back, and tell what that did to this process."""
    # TODO
    raise NotImplementedError("memory_intensive_task")


@app.task
def diagnose(top=10):
    """Tell what lives in this process, and what was allocated since the previous call."""
    # TODO
    raise NotImplementedError("diagnose")


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
    _, path = tempfile.mkstemp(prefix="attachment-")
    attachment = Path(path)
    attachment.write_text(text, encoding="utf-8")
    digest = hashlib.sha256(attachment.read_bytes()).hexdigest()
    os.unlink(path)
    return digest


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


PROFILES: dict[str, Profile] = {}


def load_profile(user_id):
    """Work a customer's profile out of the history; expensive, so it is done once."""
    if user_id not in PROFILES:
        hours = hashlib.pbkdf2_hmac("sha256", user_id.encode(), b"profile", 120, dklen=8192)
        score = round(sum(hours) / len(hours) / 2.55, 3)
        PROFILES[user_id] = Profile(user_id, hours, score)
    return PROFILES[user_id]


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

    @cache
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


def set_aside(row, number, shelf=[]):
    """Put a refund aside for the end of the report; return all that lie there."""
    shelf.append({**row, "number": number})
    return shelf


def print_line(number, name, amount):
    """Return one line of a report."""
    return f"{number:>4}  {name:<32.32}  {amount:>12} {HOUSE_CURRENCY}"


@app.task
def render_report(rows):
    """Return a report as text: a line for each sale, the total, and the refunds at the end."""
    if not isinstance(rows, list):
        raise ValueError("rows is a list")
    began = time.monotonic()
    converter = None
    lines, total, count, refunds = [], Decimal(0), 0, []
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
            refunds = set_aside(row, number)
            count += 1
        else:
            lines.append(print_line(number, name, amount))
    if len(rows) >= LARGE_REPORT:

        def finished(**_):
            took = time.monotonic() - began
            log.debug("a report of %d lines took %.3f s", len(lines), took)

        # Once the result is stored, so that storing it is counted too.
        task_postrun.connect(finished, sender=render_report, weak=False)
    return {
        "rows": len(rows),
        "total": str(total.quantize(CENT)),
        "lines": lines,
        "refunds": [f"{r['number']}: {r['name']}" for r in refunds[len(refunds) - count :]],
    }


# --- the instrument: yours to write ---------------------------------------------------


def debug_memory_leak(task_name, runs=200, args=(), png=None):
    """Drive a task of a running worker, watch its pool processes, and say whether it leaks."""
    # TODO
    raise NotImplementedError("debug_memory_leak")


# --- challenges: yours to write, if you like ------------------------------------------


def lasting_results(mend=False):
    """Challenge 2: find results in the backend that never expire; with `mend`, have them expire."""
    # TODO
    raise NotImplementedError("lasting_results")


# TODO, challenge 3: `python -m memory_debug freeze 200000`

"""The traffic of the service of debug_1: calls are drawn, and what they answer is worked out.

By the starter's rules, written once more: a submission's results are compared with these.
"""

from __future__ import annotations

import hashlib
import json
import random
import string
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

Fields = dict[str, Any]  # a record, a row, an answer
RATES = {"USD": "0.92", "GBP": "1.17", "CHF": "1.04", "JPY": "0.0061", "CNY": "0.13"}
SEGMENTS = ("new", "casual", "regular", "loyal", "champion")
CENT = Decimal("0.01")
BAD_LINES = [{"sku": "x", "quantity": 1, "price": "free"}, {"quantity": 1, "price": "2.50"}]
PROBLEMS = ["line 1: no quantity or price", "line 2: no sku"]
ODD_LINES = [
    {"sku": "x", "quantity": 0, "price": "2.50"},
    "x",
    {"sku": "x", "quantity": "2", "price": -1},
    {"sku": "x", "quantity": 1, "price": "NaN"},
]
ODD_PROBLEMS = [
    "line 1: 0 at 2.50 is not for sale",
    "line 2: no sku",
    "line 3: 2 at -1 is not for sale",
    "line 4: 1 at NaN is not for sale",
]
SENT_BACK = ((BAD_LINES, PROBLEMS), (ODD_LINES, ODD_PROBLEMS))


def text(draw: random.Random, length: int) -> str:
    """Draw some text."""
    return "".join(draw.choices(string.ascii_letters, k=64)) * (length // 64)


# What the tasks answer


def order(record: Fields) -> Fields:
    """Return what process_record answers for a good record, or for one with the bad lines."""
    for lines, problems in SENT_BACK:
        if record["lines"] is lines:
            return {"id": record["id"], "ok": False, "problems": problems}
    total = sum(x["quantity"] * Decimal(str(x["price"])) for x in record["lines"])
    canonical = json.dumps(record, sort_keys=True).encode()
    answer = {
        "id": record["id"],
        "ok": True,
        "total": str(Decimal(total).quantize(CENT)),
        "version": hashlib.sha256(canonical).hexdigest()[:12],
    }
    if "attachment" in record:
        answer["attachment"] = hashlib.sha256(str(record["attachment"]).encode()).hexdigest()
    return answer


def customer(user_id: str) -> Fields:
    """Return what enrich answers."""
    hours = hashlib.pbkdf2_hmac("sha256", user_id.encode(), b"profile", 120, dklen=8192)
    score = round(sum(hours) / len(hours) / 2.55, 3)
    return {
        "user_id": user_id,
        "score": score,
        "segment": SEGMENTS[min(int(score * 10) % 5, 4)],
        "recent": [round(hour / 2.55, 2) for hour in hours[-3:]],
    }


def euros(row: Fields) -> Decimal:
    """Return a row's amount in euros."""
    amount, currency = Decimal(row["amount"]), row.get("currency", "EUR")
    if currency == "EUR":
        return amount
    year = [float(RATES[currency]) * (1 + day / 36500) for day in range(365)]
    return (amount * Decimal(str(round(sum(year) / 365, 6)))).quantize(CENT)


def report(rows: Sequence[Fields]) -> Fields:
    """Return what render_report answers for good rows."""
    sales: list[str] = []
    refunds: list[str] = []
    total = Decimal(0)
    for number, row in enumerate(rows, 1):
        amount = euros(row)
        total += amount
        if amount < 0:
            refunds.append(f"{number}: {row['name']}")
        else:
            sales.append(f"{number:>4}  {row['name']:<32.32}  {amount:>12} EUR")
    return {
        "rows": len(rows),
        "total": str(total.quantize(CENT)),
        "lines": sales,
        "refunds": refunds,
    }


ANSWERS: dict[str, Callable[[Any], Fields]] = {
    "process_record": order,
    "enrich": customer,
    "render_report": report,
}

# Kinds of traffic


def record(draw: random.Random, **fields: Any) -> Fields:
    """Draw a good record."""
    price = f"{draw.randint(1, 99999) / 100:.2f}"
    line = {"sku": text(draw, 64)[:8], "quantity": draw.randint(1, 9), "price": price}
    return {"id": draw.randrange(10**9), "lines": [line, {**line, "quantity": 1}], **fields}


def user(draw: random.Random) -> str:
    """Draw a user that has hardly been seen before."""
    return f"u{draw.randrange(10**12)}"


def row(draw: random.Random, sign: str = "", **fields: Any) -> Fields:
    """Draw a row of a report."""
    amount = f"{sign}{draw.randint(100, 99999) / 100:.2f}"
    return {"name": text(draw, 64)[:20], "amount": amount, **fields}

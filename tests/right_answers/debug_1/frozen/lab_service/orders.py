"""Orders."""

import hashlib
import json
import os
import tempfile
from contextlib import ExitStack
from decimal import Decimal, InvalidOperation

from celery import shared_task


def parse(line, number):
    """Return ((quantity, price), None) of a line, or (None, what is wrong with it)."""
    if not isinstance(line, dict) or not line.get("sku"):
        return None, f"line {number}: no sku"
    try:
        quantity, price = int(line["quantity"]), Decimal(str(line["price"]))
    except (KeyError, TypeError, ValueError, InvalidOperation):
        return None, f"line {number}: no quantity or price"
    if quantity < 1 or not price.is_finite() or price < 0:
        return None, f"line {number}: {quantity} at {price} is not for sale"
    return (quantity, price), None


def checksum(text):
    """Return the SHA-256 of a text as it lies on the disk."""
    with ExitStack() as stack:
        descriptor, path = tempfile.mkstemp(prefix="attachment-")
        stack.callback(os.unlink, path)
        file = stack.enter_context(open(descriptor, "r+b"))
        file.write(text.encode("utf-8"))
        file.seek(0)
        digest = hashlib.sha256()
        while piece := file.read(65536):
            digest.update(piece)
        return digest.hexdigest()


@shared_task(name="memory_debug.process_record")
def process_record(record):
    """Check an order and return its total, or send it back with all that is wrong."""
    if not isinstance(record, dict) or "id" not in record:
        raise ValueError("a record is an object with an id")
    version = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:12]
    total, problems = Decimal(), []
    for number, line in enumerate(record.get("lines", []), start=1):
        good, problem = parse(line, number)
        if problem:
            problems.append(problem)
        else:
            total += good[0] * good[1]
    if problems:
        return dict(id=record["id"], ok=False, problems=problems)
    result = dict(
        id=record["id"], ok=True, total=str(total.quantize(Decimal("0.01"))), version=version
    )
    if "attachment" in record:
        result["attachment"] = checksum(str(record["attachment"]))
    return result

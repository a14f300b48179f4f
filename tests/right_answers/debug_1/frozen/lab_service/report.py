"""Reports."""

import logging
import time
from decimal import Decimal, InvalidOperation

from celery import shared_task

log = logging.getLogger(__name__)
CENT = Decimal("0.01")
EXCHANGE = {"USD": "0.92", "GBP": "1.17", "CHF": "1.04", "JPY": "0.0061", "CNY": "0.13"}


class Converter:
    """Turns amounts into the house's currency; what it remembers goes with it."""

    def __init__(self):
        self.known = {}

    def __call__(self, amount, currency):
        if currency not in self.known:
            if currency not in EXCHANGE:
                raise ValueError(f"no rate for {currency!r}")
            year = [float(EXCHANGE[currency]) * (1 + day / 36500) for day in range(365)]
            self.known[currency] = Decimal(str(round(sum(year) / len(year), 6)))
        return (amount * self.known[currency]).quantize(CENT)


@shared_task(name="memory_debug.render_report")
def render_report(rows):
    """Return a report as text: a line for each sale, the total, and the refunds at the end."""
    if not isinstance(rows, list):
        raise ValueError("rows is a list")
    began, convert = time.monotonic(), Converter()
    lines, refunds, total = [], [], Decimal(0)
    for number, row in enumerate(rows, start=1):
        try:
            amount = Decimal(str(row["amount"])).quantize(CENT)
            name, currency = str(row["name"]), row.get("currency", "EUR")
        except (KeyError, TypeError, AttributeError, InvalidOperation):
            raise ValueError(f"row {number} has no name or no amount") from None
        if currency != "EUR":
            amount = convert(amount, currency)
        total += amount
        text = (
            f"{number}: {name}" if amount < 0 else f"{number:>4}  {name:<32.32}  {amount:>12} EUR"
        )
        (refunds if amount < 0 else lines).append(text)
    if len(rows) >= 20:
        log.debug("a report of %d lines took %.3f s", len(lines), time.monotonic() - began)
    return {
        "rows": len(rows),
        "total": str(total.quantize(CENT)),
        "lines": lines,
        "refunds": refunds,
    }

"""Planned waits: what they should be, and whether those that were read come near it.

All waits are seconds. A planned wait is read as the moment a retry is due less the moment it was
published or its attempt began, so it misses the nominal one by a little, either way.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime


def constant(wait: float, times: int) -> list[float]:
    """Return the same wait so many times."""
    return [float(wait)] * times


def doubling(first: float = 1, times: int = 3, cap: float | None = None) -> list[float]:
    """Return waits that double from `first` on, none of them above `cap`."""
    waits = [float(first) * 2**n for n in range(times)]
    return waits if cap is None else [min(wait, float(cap)) for wait in waits]


def near(waits: Sequence[float], wanted: Sequence[float], tolerance: float = 0.5) -> bool:
    """Whether there are as many waits as wanted and each is at most `tolerance` away."""
    return len(waits) == len(wanted) and all(
        abs(wait - nominal) <= tolerance for wait, nominal in zip(waits, wanted, strict=True)
    )


def parse_offset_datetime(text: str) -> datetime:
    """Read an ISO 8601 date and time that says its offset from UTC (`Z` or `+08:00`).

    Raises:
        ValueError: it is something else: no text, no time, no offset.
    """
    if not isinstance(text, str):
        raise ValueError(f"an ISO 8601 text was wanted, not {text!r}")
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None or not ("T" in text or " " in text):
        raise ValueError(f"{text!r} is no date and time with an offset from UTC")
    return moment

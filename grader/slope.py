"""Whether a series of measurements grows: a robust slope, and how sure one can be of it.

Theil and Sen: the slope is the median of the slopes between all pairs of points, so up to 29 points
in a hundred may lie anywhere. Sen's interval (1968) comes from the distribution of Kendall's tau.
scipy has the same as `stats.theilslopes`; it would weigh forty times as much as all the rest of the
lab, for what `statistics` does in a few lines. tests/test_slope.py holds the two together.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import NormalDist, median

Point = tuple[float, float]
CONFIDENCE = 0.999


class Trend(enum.StrEnum):
    """What a series can be said to do; OPEN asks for more of it."""

    FLAT = "flat"
    GROWING = "growing"
    OPEN = "open"


@dataclass(frozen=True)
class Slope:
    """The slope of a series, and the bounds that hold it with the confidence asked for."""

    estimate: float
    low: float
    high: float


def theil_sen(points: Sequence[Point], confidence: float = CONFIDENCE) -> Slope:
    """Return the slope of a series.

    Args:
        points: (x, y) each; no two with the same x, at least two.
        confidence: that the true slope lies between `low` and `high`, for independent deviations.

    Raises:
        ValueError: there is no slope through fewer than two points.
    """
    slopes = sorted((b[1] - a[1]) / (b[0] - a[0]) for a, b in combinations(sorted(points), 2))
    if not slopes:
        raise ValueError("a slope needs two points")
    spread = _quantile(confidence) * math.sqrt(_variance([y for _, y in points]))
    first = max(round((len(slopes) - spread) / 2) - 1, 0)
    last = min(round((len(slopes) + spread) / 2), len(slopes) - 1)
    return Slope(median(slopes), slopes[first], slopes[last])


def _quantile(confidence: float) -> float:
    return NormalDist().inv_cdf((1 + confidence) / 2)


def _variance(values: Sequence[float]) -> float:
    """Return the variance of Kendall's S under no trend; equal values make it smaller."""
    n = len(values)
    ties = (values.count(value) for value in set(values))
    return (n * (n - 1) * (2 * n + 5) - sum(t * (t - 1) * (2 * t + 5) for t in ties)) / 18


def trend(points: Sequence[Point], limit: float) -> Trend:
    """Say whether a series grows by more than `limit` a step of x, and goes on doing so.

    What fills and then stays, such as a cache, has a slope over the whole series and none over its
    second half: only what still grows there is growing.
    """
    whole, late = theil_sen(points), theil_sen(points[len(points) // 2 :])
    if whole.high < limit or late.high < limit:
        return Trend.FLAT
    if whole.low > limit and late.estimate > limit:
        return Trend.GROWING
    return Trend.OPEN

"""grader/slope.py: the robust slope, its interval, and what a series is said to do."""

from __future__ import annotations

import random

import pytest

from grader.slope import Trend, theil_sen, trend

LIMIT = 0.5
NOISY = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9]


def series(shape, count=30, step=10, noise=20.0, seed=1):
    """Return readings of a process: `shape` gives the KiB after so many tasks."""
    rng = random.Random(seed)
    return [(n * step, 40_000 + shape(n * step) + rng.uniform(0, noise)) for n in range(count)]


@pytest.mark.parametrize(
    ("confidence", "slope", "low", "high"),
    [(0.9, 4 / 9, 1 / 4, 2 / 3), (0.95, 4 / 9, 1 / 5, 8 / 11), (0.999, 4 / 9, -1 / 6, 7 / 6)],
)
def test_agrees_with_scipy(confidence, slope, low, high):
    """Slope and interval are those of scipy.stats.theilslopes, ties in the values included."""
    found = theil_sen(list(enumerate(map(float, NOISY))), confidence)

    assert (found.estimate, found.low, found.high) == pytest.approx((slope, low, high))


def test_a_straight_line_has_its_own_slope():
    """Points on a line leave no doubt about its slope."""
    found = theil_sen([(x, 3 * x + 1) for x in range(12)])

    assert found.estimate == found.low == found.high == 3


def test_one_wild_point_changes_little():
    """A single reading that is far off does not make a slope."""
    points = [(x, 0.0) for x in range(20)]
    points[13] = (13, 1e6)

    assert theil_sen(points).estimate == 0


def test_two_points_are_the_least():
    """There is no slope through a single point."""
    with pytest.raises(ValueError):
        theil_sen([(1, 1)])


@pytest.mark.parametrize("kib", [1, 2, 8, 64])
def test_a_leak_is_growing(kib):
    """A leak of 1 KiB a task or more is found in three hundred tasks."""
    assert trend(series(lambda n: n * kib), LIMIT) is Trend.GROWING


@pytest.mark.parametrize(
    "shape",
    [
        lambda n: 0,
        lambda n: 0.25 * n,
        lambda n: 8 * (n % 40),
        lambda n: 1000 * (n > 100),
        lambda n: 8 * min(n, 120),
    ],
    ids=["clean", "drift below the limit", "sawtooth", "step", "cache that fills"],
)
def test_what_does_not_go_on_growing_is_not_growing(shape):
    """Whatever is clean, wavers, or has stopped growing is never called a leak."""
    for seed in range(20):
        assert trend(series(shape, count=60, seed=seed), LIMIT) is not Trend.GROWING


def test_a_clean_series_is_flat():
    """A clean process is called flat, not open."""
    assert trend(series(lambda n: 0), LIMIT) is Trend.FLAT


def test_a_slope_at_the_limit_stays_open():
    """Where the limit lies inside the interval, more readings are asked for."""
    assert trend(series(lambda n: LIMIT * n, noise=60), LIMIT) is Trend.OPEN

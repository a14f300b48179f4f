"""Watches a worker's only pool process while it runs one kind of task: does it grow?"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from grader import gauge
from grader.curve import draw, sparkline
from grader.errors import LabFault, SubmissionFault
from grader.exercise import ROOT
from grader.gauge import Reading
from grader.history import Call
from grader.slope import Slope, Trend, theil_sen, trend

if TYPE_CHECKING:
    import psutil

    from grader.lab import Lab

RUNS = ROOT / ".lab" / "runs"
LIMIT_KIB = 0.5
# More different inputs than any cache of the exercise may hold: what fills has filled by then.
WARM_UP = 260
BATCH = 10
FIRST, MORE, MOST = 30, 20, 150
# What a connection that is opened anew now and then may add, or a key that is still to expire.
SPARE = 5
# A child that is replaced takes its leak with it. Given here, these win over the app's settings.
NO_RECYCLING = ("--max-tasks-per-child=1000000000", "--max-memory-per-child=1000000000")
Draw = Callable[[], tuple[object, ...]]


@dataclass
class Growth:
    """What was seen of one process.

    Attributes:
        readings: one after each batch of tasks.
        calls: the last batch of tasks, with their replies.
        keys: in the result backend after each batch, without those of the results themselves.
        steady: whether it was the same process throughout.
        trend: of its memory.
    """

    readings: list[Reading] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    keys: list[int] = field(default_factory=list)
    steady: bool = True
    trend: Trend = Trend.OPEN

    @property
    def points(self) -> list[tuple[float, float]]:
        """(tasks, KiB) of each reading."""
        return [(reading.tasks, reading.kib) for reading in self.readings]

    @property
    def slope(self) -> Slope:
        """How much a task adds, in KiB."""
        return theil_sen(self.points)

    @property
    def curve(self) -> str:
        """The memory as a line of blocks."""
        return sparkline([reading.kib for reading in self.readings])

    @property
    def descriptors(self) -> int:
        """By how many descriptors the last third lies above the first, a few let pass."""
        return _rise([reading.descriptors for reading in self.readings])

    @property
    def connections(self) -> int:
        """By how many sockets the last third lies above the first, a few let pass."""
        return _rise([reading.connections for reading in self.readings])

    @property
    def strangers(self) -> int:
        """By how many keys the last third lies above the first, a few let pass."""
        return _rise(self.keys)

    @property
    def tasks(self) -> int:
        """How many tasks lie between the first reading and the last."""
        return self.readings[-1].tasks - self.readings[0].tasks if self.readings else 0


def _rise(counts: list[int]) -> int:
    third = len(counts) // 3
    if not third:
        return 0
    rise = min(counts[-third:]) - max(counts[:third])
    return rise if rise >= SPARE else 0


def alone(lab: Lab, *options: str) -> psutil.Process:
    """Give the lab a fresh worker with one pool process that is never recycled; return that one.

    Raises:
        SubmissionFault: the worker has no pool of processes, or other children beside it: one of
            them could pass for the pool's.
    """
    worker = lab.restart_worker(concurrency=1, options=(*NO_RECYCLING, *options))
    lab.until(lambda: worker.pool, within=2)  # it has answered already
    found = worker.pool
    if not found:
        raise SubmissionFault("pool_too_small", count=1, seen=0)
    if len(found) > 1:
        raise SubmissionFault("pool_not_alone", seen=len(found))
    return found[0]


def watch(lab: Lab, name: str, draw_call: Draw, within: float = 20.0) -> Growth:
    """Run tasks of one kind in a fresh process until it is plain whether it grows.

    Args:
        name: of the kind, for the history.
        draw_call: returns a new `(function, *args)` each time.
        within: seconds that a batch of tasks may take.

    Raises:
        LabFault: after 1500 tasks it is still open whether it grows.
    """
    process, growth, ran = alone(lab), Growth(), WARM_UP
    lab.calls([draw_call() for _ in range(WARM_UP)], within=3 * within)
    for wanted in range(FIRST, MOST + 1, MORE):
        while len(growth.readings) < wanted and growth.steady:
            growth.calls = lab.calls([draw_call() for _ in range(BATCH)], within=within)
            ran += BATCH
            growth.steady = [child.pid for child in lab.worker.pool] == [process.pid]
            if growth.steady:
                growth.readings.append(gauge.read(process, ran))
                growth.keys.append(int(lab.backend.dbsize()) - ran)
        if not growth.steady or growth.descriptors:
            break
        growth.trend = trend(growth.points, LIMIT_KIB)
        if growth.trend is not Trend.OPEN:
            break
    _note(lab, name, growth)
    if growth.steady and not growth.descriptors and growth.trend is Trend.OPEN:
        raise LabFault("growth_open", tasks=growth.tasks, curve=growth.curve)
    return growth


def _note(lab: Lab, name: str, growth: Growth) -> None:
    rows = [
        [r.tasks, r.kib, r.descriptors, r.connections, keys]
        for r, keys in zip(growth.readings, growth.keys, strict=True)
    ]
    lab.history.measurements.append({"kind": name, "trend": growth.trend, "readings": rows})


def picture(lab: Lab, name: str, growth: Growth) -> str:
    """Save the curve beside the run's history; return its path, "-" where it can't be saved."""
    path = RUNS / f"{lab.exercise.id}-{lab.broker}-{name}.png"
    title = f"{lab.exercise.id} {name}: {growth.slope.estimate:+.2f} KiB a task"
    with contextlib.suppress(OSError):
        draw(growth.points, path, title)
        return str(path.relative_to(ROOT))
    return "-"

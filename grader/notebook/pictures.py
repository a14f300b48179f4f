"""The notebooks' pictures, each drawn from what was recorded in the same run."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from grader.notebook.spans import Span

# Told apart by people who see fewer colours, too (Okabe and Ito).
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
BAD, GREY, INK = "#D55E00", "#9AA0A6", "#333333"

plt.rcParams.update(
    {
        "figure.dpi": 110,
        "figure.constrained_layout.use": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlelocation": "left",
        "axes.titlesize": 11,
        "font.size": 9.5,
        "legend.frameon": False,
    }
)


def _plain(axes: Axes, labels: Sequence[str], x: str) -> None:
    """Rows from top to bottom, named; time to the right."""
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.set_xlabel(x)
    axes.grid(axis="x", color="#E6E6E6", linewidth=0.8)
    axes.set_axisbelow(True)


def _palette(names: Sequence[str]) -> dict[str, str]:
    return {name: COLOURS[n % len(COLOURS)] for n, name in enumerate(dict.fromkeys(names))}


# Executions, the times at which one worker was killed and the next was ready, the tasks' ids.
Delivery = tuple[list[Span], tuple[float, float], list[str]]


def deliveries(panels: Mapping[str, Delivery]) -> None:
    """Draw what a killed worker's tasks met with, a panel a case.

    Args:
        panels: title -> what happened.
    """
    columns = 2 if len(panels) > 1 else 1
    rows = -(-len(panels) // columns)
    _, grid = plt.subplots(rows, columns, figsize=(9.4, 2.6 * rows + 0.3), squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for axes, (title, what) in zip(grid.flat, panels.items(), strict=False):
        _delivery(axes, title, *what)


def _delivery(
    axes: Axes, title: str, found: list[Span], gap: tuple[float, float], ids: list[str]
) -> None:
    zero = min((span.start for span in found), default=gap[0])
    killed, ready = gap[0] - zero, gap[1] - zero
    axes.axvspan(killed, ready, color="#EFEFEF", zorder=0)
    axes.axvline(killed, color=INK, linewidth=1, linestyle="--")
    axes.annotate(" killed", (killed, 0.02), xycoords=("data", "axes fraction"), color=INK)
    for span in found:
        row, start = ids.index(span.id), span.start - zero
        end = killed if span.end is None else span.end - zero
        axes.barh(row, end - start, left=start, color=COLOURS[0] if span.end else BAD, height=0.5)
        if span.end is None:
            axes.plot(end, row, "x", color=INK, markersize=7, markeredgewidth=2)
    done = {span.id for span in found if span.end is not None}
    for row in (n for n, id in enumerate(ids) if id not in done):
        axes.annotate(
            "never done", (killed, row), (14, 0), textcoords="offset points", va="center",
            color=BAD, weight="bold",
        )  # fmt: skip
    axes.set_title(f"{title}: {len(done)} of {len(ids)} done")
    _plain(axes, [f"task {n + 1}" for n in range(len(ids))], "seconds since the first start")
    axes.set_xlim(-0.1, None)


def stages(measured: Mapping[str, list[dict[str, float]]]) -> None:
    """Draw how long a message spends at each stage of its life: the median, a bar a broker.

    Args:
        measured: broker -> one dict a task, stage -> milliseconds.
    """
    _, axes = plt.subplots(figsize=(8.6, 0.75 * len(measured) + 1.5))
    names = list(next(iter(measured.values()))[0])
    for row, rows in enumerate(measured.values()):
        left = 0.0
        for name, colour in _palette(names).items():
            middle = statistics.median(one[name] for one in rows)
            label = name if row == 0 else None
            axes.barh(row, middle, left=left, color=colour, height=0.5, label=label)
            if middle > 0:
                axes.text(left + middle / 2, row - 0.34, f"{middle:.1f}", ha="center", fontsize=8)
            left += middle
    count = len(next(iter(measured.values())))
    axes.set_title(f"The life of a message: median of {count} tasks", pad=28)
    _plain(axes, list(measured), "milliseconds")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(names), fontsize=8.5)


def waits(measured: Mapping[str, list[tuple[int, float]]]) -> None:
    """Draw the planned waits of retries, a panel a way to wait.

    Args:
        measured: title -> (number of the retry, wait in seconds).
    """
    _, grid = plt.subplots(1, len(measured), figsize=(9.4, 3.2), sharey=True, squeeze=False)
    for n, (axes, (title, points)) in enumerate(zip(grid.flat, measured.items(), strict=True)):
        numbers = sorted({number for number, _ in points})
        for number in numbers:
            ours = sorted(wait for at, wait in points if at == number)
            # Points with the same wait stand side by side, so that none hides another.
            seen: dict[float, int] = {}
            for wait in ours:
                place = seen[round(wait, 1)] = seen.get(round(wait, 1), -1) + 1
                shift = (-1) ** place * ((place + 1) // 2) * 0.045
                shift = max(-0.42, min(0.42, shift))
                axes.plot(number + shift, wait, "o", color=COLOURS[n], markersize=3.5, alpha=0.7)
        axes.set_title(title)
        axes.set_xticks(numbers)
        axes.set_xlabel("retry number")
        axes.grid(axis="y", color="#E6E6E6", linewidth=0.8)
        axes.set_axisbelow(True)
    grid[0][0].set_yticks([0, 1, 2, 4, 8, 16])
    grid[0][0].set_ylabel("planned wait, seconds")


def herd(starts: Mapping[str, list[float]], width: float, back: float) -> None:
    """Draw how many attempts begin in each stretch of time: who comes back together.

    Args:
        starts: title -> seconds since the first attempt.
        width: of a stretch, in seconds.
        back: from when on attempts are returns.
    """
    size = (9.0, 1.5 * len(starts) + 0.6)
    _, grid = plt.subplots(len(starts), 1, figsize=size, sharex=True, sharey=True, squeeze=False)
    last = max(max(times) for times in starts.values()) + width
    edges = [n * width for n in range(int(last / width) + 2)]
    for n, (axes, (title, times)) in enumerate(zip(grid.flat, starts.items(), strict=True)):
        counts, _, _ = axes.hist(times, bins=edges, color=COLOURS[n], rwidth=0.9)
        most = max(count for edge, count in zip(edges, counts, strict=False) if edge >= back)
        axes.set_title(f"{title}: up to {int(most)} come back together")
        axes.set_ylabel("attempts")
    grid[-1][0].set_xlabel("seconds since the first attempt")


def gantt(found: list[Span], title: str = "") -> None:
    """Draw who worked on what and when: a row for each process of the pool."""
    lanes = sorted({(span.worker, span.slot) for span in found})
    zero, colours = min(span.start for span in found), _palette([span.short for span in found])
    _, axes = plt.subplots(figsize=(9.0, 0.5 * len(lanes) + 1.3))
    drawn: set[str] = set()
    for span in found:
        row, end = lanes.index((span.worker, span.slot)), span.end or span.start
        label = None if span.short in drawn else span.short
        drawn.add(span.short)
        axes.barh(
            row, end - span.start, left=span.start - zero, height=0.6, label=label,
            color=colours[span.short], edgecolor=BAD if span.state == "failed" else "white",
            hatch="///" if span.state == "failed" else None, linewidth=1,
        )  # fmt: skip
    several = len({worker for worker, _ in lanes}) > 1
    names = [f"{w.partition('@')[0]} " * several + f"process {slot}" for w, slot in lanes]
    _plain(axes, names, "seconds")
    axes.set_title(title, pad=24)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(colours), fontsize=8.5)


def graph(result: Any, found: list[Span], title: str = "") -> None:
    """Draw what waited for what, from a result's own parents, with the measured times."""
    layers = list(reversed(_layers(result)))
    known = {span.id: span for span in found}
    colours = _palette([span.short for span in found])
    height = max(len(layer) for layer in layers)
    _, axes = plt.subplots(figsize=(9.0, 0.62 * height + 0.6))
    places: dict[str, tuple[float, float]] = {}
    for x, layer in enumerate(layers):
        for n, id in enumerate(layer):
            places[id] = (float(x), n - (len(layer) - 1) / 2)
    boxes = {}
    for id, place in places.items():
        span = known.get(id)
        took = f"{1000 * (span.end - span.start):.0f} ms" if span and span.end else "not run"
        name = span.short if span else "?"
        box = {"boxstyle": "round,pad=0.4", "fc": colours.get(name, GREY), "ec": "none"}
        words = axes.text(
            *place, f"{name}\n{took}", ha="center", va="center", fontsize=9, bbox=box, color="white"
        )
        boxes[id] = words.get_bbox_patch()
    for before, after in itertools.pairwise(layers):
        for one, other in itertools.product(before, after):
            arrow = {"arrowstyle": "->", "color": GREY, "shrinkA": 3, "shrinkB": 3}
            arrow |= {"patchA": boxes[one], "patchB": boxes[other]}
            axes.annotate("", places[other], places[one], arrowprops=arrow)
    axes.set_xlim(-0.5, len(layers) - 0.5)
    axes.set_ylim(height / 2, -height / 2)
    axes.axis("off")
    axes.set_title(title)


def _layers(result: Any) -> list[list[str]]:
    """Return the ids from the last result back to the first, a list for each step."""
    found = []
    while result is not None:
        found.append([one.id for one in getattr(result, "results", None) or [result]])
        result = result.parent
    return found


def calendar(rows: Mapping[str, list[Any]], night: Sequence[Any], title: str) -> None:
    """Draw the instants at which entries fire over a night, on the real axis of time.

    Args:
        rows: entry -> aware datetimes, local.
        night: the full hours of the night, local, in the order in which they pass.
    """
    _, axes = plt.subplots(figsize=(9.4, 0.5 * len(rows) + 1.5))
    zero = night[0].timestamp()
    for row, (colour, times) in enumerate(zip(COLOURS, rows.values(), strict=False)):
        hours = [(time.timestamp() - zero) / 3600 for time in times]
        axes.plot(hours, [row] * len(hours), "o", color=colour, markersize=8)
        crowded = len(times) > 8
        for hour, time in zip(hours, times, strict=True):
            if not crowded:
                axes.annotate(
                    f"{time:%H:%M}", (hour, row), (0, 8), textcoords="offset points", ha="center",
                    fontsize=8.5,
                )  # fmt: skip
    ticks = [(hour.timestamp() - zero) / 3600 for hour in night]
    for tick, before, after in zip(ticks[1:], night, night[1:], strict=False):
        if before.utcoffset() != after.utcoffset():
            axes.axvline(tick, color=BAD, linewidth=1.2, linestyle="--")
            axes.annotate(
                "the clock is set", (tick, 1), (4, 2), xycoords=("data", "axes fraction"),
                textcoords="offset points", color=BAD, fontsize=8.5,
            )  # fmt: skip
    _plain(axes, list(rows), "the clock on the wall")
    axes.set_xticks(ticks, [f"{hour:%H:%M}\n{hour.tzname()}" for hour in night])
    axes.set_xlim(-0.2, ticks[-1] + 0.2)
    axes.set_ylim(len(rows) - 0.5, -0.8)
    axes.set_title(title, pad=16)


def trip(rows: Sequence[tuple[str, float, float, str, bool]], title: str) -> None:
    """Draw a trip through services.

    Args:
        rows: (service, start, end, what to write on it, whether it went well).
    """
    lanes = list(dict.fromkeys(service for service, *_ in rows))
    _, axes = plt.subplots(figsize=(9.4, 0.42 * len(lanes) + 1.1))
    zero = min(start for _, start, *_ in rows)
    last = max(end for _, _, end, *_ in rows) - zero
    for service, start, end, text, well in rows:
        row, colour = lanes.index(service), COLOURS[0] if well else BAD
        axes.barh(row, max(end - start, last / 150), left=start - zero, color=colour, height=0.42)
        axes.text(start - zero, row - 0.28, text, fontsize=8, va="bottom", color=colour)
    _plain(axes, lanes, "seconds")
    axes.set_ylim(len(lanes) - 0.5, -0.85)
    axes.set_xlim(-last / 60, last * 1.12)
    axes.set_title(title)


def curves(
    measured: Mapping[str, list[tuple[int, float]]], y: str = "resident memory, MiB"
) -> None:
    """Draw what grows, a line a worker.

    Args:
        measured: name -> (tasks done, value).
    """
    _, axes = plt.subplots(figsize=(8.6, 3.2))
    for colour, (name, points) in zip((BAD, *COLOURS), measured.items(), strict=False):
        tasks, values = zip(*points, strict=True)
        axes.plot(tasks, values, "-o", color=colour, markersize=3, label=name)
        axes.annotate(f" {name}", (tasks[-1], values[-1]), color=colour, va="center", weight="bold")
    axes.set_xlabel("tasks done")
    axes.set_ylabel(y)
    axes.grid(color="#E6E6E6", linewidth=0.8)
    axes.set_xlim(0, max(tasks) * 1.25)

"""A curve of measurements as a picture: a line of blocks for the terminal, a PNG for a report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

Point = tuple[float, float]
BLOCKS = "▁▂▃▄▅▆▇█"
WIDTH, HEIGHT, MARGIN = 640, 360, 48
INK, GRID, LINE = (40, 40, 40), (220, 220, 220), (200, 60, 40)


def sparkline(values: Sequence[float], columns: int = 24) -> str:
    """Return at most `columns` blocks as high as the values; all low if these are equal."""
    if not values:
        return ""
    step = max(1, -(-len(values) // columns))
    chosen = [values[min(n + step, len(values)) - 1] for n in range(0, len(values), step)]
    low, span = min(chosen), (max(chosen) - min(chosen)) or 1
    return "".join(BLOCKS[round((v - low) / span * (len(BLOCKS) - 1))] for v in chosen)


def draw(points: Sequence[Point], path: Path, title: str, unit: str = "KiB") -> None:
    """Save a PNG of a curve: tasks to the right, memory upwards, both axes labelled.

    Args:
        points: (tasks, memory) each, at least one.
        title: in ASCII, above the curve.
        unit: of the memory.
    """
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", (WIDTH, HEIGHT), "white")
    pen = ImageDraw.Draw(picture)
    xs, ys = [x for x, _ in points], [y for _, y in points]
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        value = min(ys) + share * (max(ys) - min(ys))
        height = _scale(share, HEIGHT - MARGIN, MARGIN)
        pen.line([(MARGIN, height), (WIDTH - MARGIN, height)], fill=GRID)
        pen.text((4, height - 6), f"{value:.0f}", fill=INK)
    places = [
        (
            _scale(_share(x, xs), MARGIN, WIDTH - MARGIN),
            _scale(_share(y, ys), HEIGHT - MARGIN, MARGIN),
        )
        for x, y in points
    ]
    pen.line(places, fill=LINE, width=2)
    pen.text((MARGIN, 8), title, fill=INK)
    pen.text((4, 26), unit, fill=INK)
    pen.text((MARGIN, HEIGHT - 32), f"{min(xs):.0f}", fill=INK)
    pen.text((WIDTH - MARGIN - 64, HEIGHT - 32), f"{max(xs):.0f} tasks", fill=INK)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, "PNG")


def _share(value: float, among: Sequence[float]) -> float:
    span = max(among) - min(among)
    return (value - min(among)) / span if span else 0.0


def _scale(share: float, start: float, end: float) -> float:
    return start + share * (end - start)

"""Watches a worker's pool processes from outside."""

import struct
import time
import zlib
from pathlib import Path

import psutil
from celery import current_app, states

WINDOW = 10


class Pool:
    """The pool processes of the workers of this machine."""

    def __init__(self, app):
        stats = app.control.broadcast("stats", reply=True, timeout=2.5) or []
        self.parents = [
            reply["pid"] for answer in stats for reply in answer.values() if "pid" in reply
        ]
        if not self.parents:
            raise RuntimeError("No worker answered within 3 seconds, so there is nothing to watch.")

    def rss(self):
        """Return what they have resident, in KiB, by the exact count of the kernel."""
        total = 0
        for parent in self.parents:
            for child in psutil.Process(parent).children():
                text = Path(f"/proc/{child.pid}/smaps_rollup").read_text()
                total += int(text.split("Rss:")[1].split()[0])
        return total


def settle(app, task_id, patience=60):
    """Wait until a task is done, by asking the backend; whatever became of it."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        if app.backend.get_task_meta(task_id, cache=False)["status"] in states.READY_STATES:
            return
        time.sleep(0.004)
    raise RuntimeError(f"task {task_id} was not done within {patience} seconds.")


def leaks(curve):
    """Return (slope, leaking) of the second half's lower edge, by thirds of it."""
    half = curve[len(curve) // 2 :]
    edge = [min(half[at : at + WINDOW]) for at in range(max(1, len(half) - WINDOW + 1))]
    if len(edge) < 2:
        return 0.0, False
    # One step is no slope: the middle one of three thirds' slopes counts.
    third = (len(edge) - 1) / 3
    cuts = [round(part * third) for part in range(4)]
    slope = sorted((edge[b] - edge[a]) / max(b - a, 1) for a, b in zip(cuts, cuts[1:]))[1]
    return slope, slope > 0.5


def png_bytes(values, width=640, height=320):
    """Return a PNG, written by hand: a curve in black on white."""
    low, span = min(values), max(max(values) - min(values), 1)
    grid = [bytearray(b"\xff" * width) for _ in range(height)]
    last = None
    for x in range(width):
        value = values[x * len(values) // width]
        y = height - 5 - round((value - low) * (height - 10) / span)
        for row in range(
            min(y, y if last is None else last), max(y, y if last is None else last) + 2
        ):
            grid[row][x] = 0
        last = y

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(b"".join(b"\0" + bytes(row) for row in grid)))
        + chunk(b"IEND", b"")
    )


def debug_memory_leak(task_name, runs=200, args=(), png=None):
    """Drive a task of a running worker, watch its pool processes, and say whether it leaks."""
    app = current_app._get_current_object()
    pool, samples = Pool(app), []
    for number in range(1, runs + 1):
        task_id = app.send_task(task_name, args=list(args)).id
        try:
            settle(app, task_id)
        finally:
            app.backend.forget(task_id)
        samples.append({"task": number, "rss_kb": pool.rss()})
    slope, leaking = leaks([sample["rss_kb"] for sample in samples])
    if png is not None:
        Path(png).write_bytes(png_bytes([sample["rss_kb"] for sample in samples]))
    return {"samples": samples, "slope_kb_per_task": slope, "leaking": leaking}

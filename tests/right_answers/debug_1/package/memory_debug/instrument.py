"""Says whether a task leaks."""

from statistics import median

import psutil
from celery.exceptions import TimeoutError as NoAnswer

from memory_debug import app

LIMIT_KIB = 0.5
ANSWER_SECONDS = 20
LOOK_SECONDS = 5


def debug_memory_leak(task_name, runs=200, args=(), png=None):
    """Drive a task of a running worker, watch its pool processes, and say whether it leaks."""
    pool = [psutil.Process(pid) for pid in pool_pids()]
    samples = []
    for n in range(1, runs + 1):
        drive(task_name, args)
        samples.append({"task": n, "rss_kb": sum(p.memory_info().rss for p in pool) / 1024})
    # The first half is for whatever fills once and then stays: imports, pools, caches.
    settled = [(s["task"], s["rss_kb"]) for s in samples[len(samples) // 2 :]]
    slope = trend(settled)
    if png is not None:
        draw(samples, png)
    return {"samples": samples, "slope_kb_per_task": slope, "leaking": slope > LIMIT_KIB}


def pool_pids():
    """Return the pids of all pool processes that answer for this app."""
    answers = app.control.inspect(timeout=LOOK_SECONDS, limit=1).stats()
    pids = [pid for stats in (answers or {}).values() for pid in stats["pool"]["processes"]]
    if not pids:
        raise RuntimeError("No worker answers: start one with `celery -A memory_debug worker`.")
    return pids


def drive(task_name, args):
    """Run the task once; how it ends is its own affair."""
    result = app.send_task(task_name, args=args)
    try:
        result.get(timeout=ANSWER_SECONDS, propagate=False)
    except NoAnswer:
        raise RuntimeError(f"{task_name} has not ended within {ANSWER_SECONDS} s.") from None
    finally:
        result.forget()


def trend(points):
    """Return the median of the slopes between all pairs of points (Theil and Sen)."""
    slopes = [(y - b) / (x - a) for n, (x, y) in enumerate(points) for a, b in points[:n] if x != a]
    return median(slopes) if slopes else 0.0


def draw(samples, png):
    """Save the curve as a picture."""
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", (640, 360), "white")
    pen = ImageDraw.Draw(picture)
    sizes = [sample["rss_kb"] for sample in samples]
    low, span = min(sizes), (max(sizes) - min(sizes)) or 1
    step = 600 / max(len(samples) - 1, 1)
    curve = [(20 + n * step, 340 - (kb - low) / span * 300) for n, kb in enumerate(sizes)]
    pen.line(curve, fill="red", width=2)
    pen.text((20, 8), f"{low:.0f} to {max(sizes):.0f} KiB in {len(samples)} tasks", fill="black")
    picture.save(png, "PNG")

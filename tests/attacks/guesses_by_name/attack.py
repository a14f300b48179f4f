"""An instrument that measures nothing: the planted task's name and number give the answer away."""

import sys

from attack_kit import ran

LEAKS = ("hold", "leak", "keep", "grow", "stash")


def guess(task_name, runs=200, args=(), png=None):
    ran()
    amounts = [a for a in args if isinstance(a, int) and 0 < a < 4096]
    leaking = any(word in task_name for word in LEAKS)
    slope = float(max(amounts, default=8)) if leaking else 0.0
    samples = [{"task": n, "rss_kb": 40_000 + slope * n} for n in range(1, runs + 1)]
    return {"samples": samples, "slope_kb_per_task": slope, "leaking": leaking}


def after(app):
    sys.modules["memory_debug"].debug_memory_leak = guess

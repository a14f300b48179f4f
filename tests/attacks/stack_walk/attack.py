"""Returns what a caller further up calls `expected`, and shows all texts that memory holds."""

import gc
import sys

from attack_kit import every_task, loot, ran, won


def answer(*_, **__):
    ran("in a task")
    frame = sys._getframe()
    while frame:
        for name, value in list(frame.f_locals.items()):
            if name in ("expected", "wanted"):
                won(f"{name} is {value!r}")
                return value
        frame = frame.f_back
    loot([o for o in gc.get_objects() if isinstance(o, (str, dict)) and "canary-" in repr(o)[:500]])
    return 0


def after(app):
    every_task(app, answer)

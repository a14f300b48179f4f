"""Ends a pool child by SIGKILL where a task begins, as often as the grader asked for.

The grader puts a file named like the task into a folder (LAB_DEATHS). The child that is about to
run that task takes the file away and dies: between the start of the task and its end, which from
outside is a race, and once a file, so that the same task runs through when it comes again.
"""

import contextlib
import os
import signal
from typing import Any


def watch(folder: str) -> None:
    """Have every process of the pool look for its death before each task."""
    from celery.signals import task_prerun

    def before(task: Any = None, **_: Any) -> None:
        with contextlib.suppress(FileNotFoundError):
            # Only one process can take a file away.
            os.unlink(os.path.join(folder, str(task.name)))
            os.kill(os.getpid(), signal.SIGKILL)

    task_prerun.connect(before, weak=False)

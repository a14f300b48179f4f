"""Sets the stage for a task: the clock, the readings of psutil, the room on the disk.

A worker with LAB_STAGE in its environment looks into the file of that name whenever a task begins
or asks for a reading; without the file everything is as it is. The file is a JSON object:
    now      epoch seconds that Python's clock shows while a task runs
    moves    whether that clock goes on
    room     bytes that a file may have while a task runs; writing more fails, as on a full disk
    folder   the folder whose disk is `disk` percent full; every other one is 10 percent full
    disk, memory, cpu   percentages
"""

import contextlib
import importlib
import json
import os
import sys
from typing import Any

GIB = 1024**3
ELSEWHERE = 10.0


def wanted() -> dict[str, Any]:
    """Return what the stage should be now."""
    with contextlib.suppress(OSError, ValueError), open(os.environ["LAB_STAGE"]) as file:
        found = json.load(file)
        return found if isinstance(found, dict) else {}
    return {}


class Curtain:
    """Goes up before a task and down after it, in the process that runs the task."""

    def __init__(self) -> None:
        self.undo = contextlib.ExitStack()

    def up(self, **_: Any) -> None:
        """Set clock and disk."""
        stage = wanted()
        if "now" in stage:
            travel = importlib.import_module("time_machine").travel
            self.undo.enter_context(travel(stage["now"], tick=stage.get("moves", True)))
        if "room" in stage:
            resource = importlib.import_module("resource")
            soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (stage["room"], hard))
            self.undo.callback(resource.setrlimit, resource.RLIMIT_FSIZE, (soft, hard))

    def down(self, **_: Any) -> None:
        """Give the task's process back what it had."""
        self.undo.close()


def readings() -> None:
    """Have psutil show what the stage says."""
    psutil: Any = importlib.import_module("psutil")
    disk, memory, cpu = psutil.disk_usage, psutil.virtual_memory, psutil.cpu_percent

    def disk_usage(path: Any) -> Any:
        stage, real = wanted(), disk(path)
        if "disk" not in stage:
            return real
        here = os.path.realpath(os.fspath(path)) == os.path.realpath(stage["folder"])
        return real._replace(**usage(stage["disk"] if here else ELSEWHERE))

    def virtual_memory() -> Any:
        stage, real = wanted(), memory()
        if "memory" not in stage:
            return real
        found = usage(stage["memory"])
        return real._replace(**found, available=found["free"])

    def cpu_percent(interval: Any = None, percpu: bool = False) -> Any:
        stage = wanted()
        if "cpu" not in stage:
            return cpu(interval, percpu)
        return [stage["cpu"]] * 2 if percpu else stage["cpu"]

    psutil.disk_usage, psutil.virtual_memory = disk_usage, virtual_memory
    psutil.cpu_percent = cpu_percent


def usage(percent: float) -> dict[str, float]:
    """Return the fields of a disk or a memory of 100 GiB that is so full."""
    total = 100 * GIB
    used = int(total * percent / 100)
    return {"total": total, "used": used, "free": total - used, "percent": percent}


def install() -> None:
    """Be there before the submission is imported."""
    signals = importlib.import_module("celery.signals")
    curtain = Curtain()
    signals.task_prerun.connect(curtain.up, weak=False)
    signals.task_postrun.connect(curtain.down, weak=False)
    readings()
    sys.modules.pop(__name__, None)  # the submission may have a module of this one's name

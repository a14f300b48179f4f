"""A control group for the processes of one lab: how many, how much memory, which share of time.

Possible where this user may make groups: as root, or below a group that systemd has delegated to
the user (a terminal of a desktop is in one, a session of ssh is not). Both forms are known: one
tree (cgroup 2), or a tree for each controller (cgroup 1). Every group bears its owner's pid and
start time in its name, so that the next run removes what a dead grader left.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from grader.errors import LabFault
from grader.process import identity, wait_until

MOST_PROCESSES = 256  # threads count as well
MOST_MEMORY = 2 * 1024**3
# A lab's processes together weigh four processes: many of them can't starve the grader.
WEIGHT = 4
# controller -> (its file, its value), in cgroup 2 and in cgroup 1.
LIMITS_2 = {
    "pids": ("pids.max", MOST_PROCESSES),
    "memory": ("memory.max", MOST_MEMORY),
    "cpu": ("cpu.weight", WEIGHT * 100),
}
LIMITS_1 = {
    "pids": ("pids.max", MOST_PROCESSES),
    "memory": ("memory.limit_in_bytes", MOST_MEMORY),
    "cpu": ("cpu.shares", WEIGHT * 1024),
}
END_SECONDS = 10.0  # it takes milliseconds, but the machine may be busy
_OURS = re.compile(r"celery-lab-(?P<pid>\d+)-(?P<started>\d+)-\d+")
_numbers = itertools.count(1)


class Group:
    """One lab's groups, a folder each; make it with `open`, end it with `close`."""

    def __init__(self, folders: list[Path]) -> None:
        self.folders = folders

    @classmethod
    def open(cls) -> Group | None:
        """Return a new group under as many of the limits as can be had, None where none can."""
        name = f"celery-lab-{os.getpid()}-{_started(os.getpid())}-{next(_numbers)}"
        made = [made for parents, limits in _trees() if (made := _make(parents, name, limits))]
        return cls(made) if made else None

    def entering(self, command: list[str]) -> list[str]:
        """Return the command that runs `command` in the group, from its first moment on."""
        notes = " && ".join(f"echo $$ > {folder}/cgroup.procs" for folder in self.folders)
        return ["/bin/sh", "-c", f'{notes} && exec "$@"', "sh", *command]

    @property
    def pids(self) -> list[int]:
        """The living processes of the group."""
        found: set[int] = set()
        for folder in self.folders:
            with contextlib.suppress(OSError, ValueError):
                found |= {int(word) for word in (folder / "cgroup.procs").read_text().split()}
        return sorted(found)

    def close(self) -> None:
        """Kill whatever is in the group, and remove it when it is proven empty.

        Raises:
            LabFault: a process does not end.
        """
        fault = LabFault("not_empty", pids=self.pids)
        wait_until(self._removed, END_SECONDS, lambda: fault)

    def _removed(self) -> bool:
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        for folder in self.folders:
            with contextlib.suppress(OSError):  # the kernel removes it only when it is empty
                folder.rmdir()
        return not any(folder.exists() for folder in self.folders)


@functools.cache
def controllers() -> tuple[str, ...]:
    """Return the limits that a group of ours has here, tried by making one."""
    group = Group.open()
    if group is None:
        return ()
    files = {*LIMITS_2.items(), *LIMITS_1.items()}
    held = {n for n, (file, _) in files for folder in group.folders if (folder / file).exists()}
    group.close()
    return tuple(sorted(held))


def _trees() -> Iterator[tuple[list[Path], dict[str, tuple[str, int]]]]:
    """Yield for each mounted tree where a group could be made, nearest first, and its limits."""
    for kind, options, mount in _mounts():
        if kind == "cgroup2":
            yield _above(mount, _own("")), LIMITS_2
        else:
            for name, limit in LIMITS_1.items():
                if name in options:
                    yield _above(mount, _own(name)), {name: limit}


def _mounts() -> list[tuple[str, list[str], Path]]:
    """Return (type, options, folder) of the mounted trees; none on a system without them."""
    if sys.platform != "linux":
        return []
    lines = Path("/proc/self/mounts").read_text(errors="replace").splitlines()
    rows = [line.split() for line in lines]
    return [(r[2], r[3].split(","), Path(r[1])) for r in rows if r[2] in ("cgroup", "cgroup2")]


def _own(controller: str) -> str:
    """Return this process's group in a controller's tree, "" in a tree that it is not in."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        if controller in names.split(","):
            return path.lstrip("/")
    return ""


def _above(mount: Path, path: str) -> list[Path]:
    folder = mount / path
    return [f for f in (folder, *folder.parents) if f.is_relative_to(mount)]


def _make(parents: list[Path], name: str, limits: dict[str, tuple[str, int]]) -> Path | None:
    """Make the group in the first folder that allows it; None where none does."""
    for parent in parents:
        folder = parent / name
        with contextlib.suppress(OSError):
            _sweep(parent)
            folder.mkdir()
            written = [_write(folder / file, value) for file, value in limits.values()]
            if any(written):
                return folder
            folder.rmdir()
    return None


def _write(file: Path, value: int) -> bool:
    # A group without this controller has no such file, and none can be made there.
    with contextlib.suppress(OSError), file.open("r+") as opened:
        opened.write(str(value))
        return True
    return False


def _sweep(parent: Path) -> None:
    """Remove the groups of graders that are gone, with what is still in them."""
    for folder in parent.glob("celery-lab-*"):
        owner = _OURS.fullmatch(folder.name)
        if owner and abs(_started(int(owner["pid"])) - int(owner["started"])) > 2:
            with contextlib.suppress(LabFault):
                Group([folder]).close()


def _started(pid: int) -> int:
    """Return when a process was started, in hundredths of a second since boot; -1 if it is gone."""
    import psutil

    try:
        return round(identity(psutil.Process(pid))["started"] * 100)
    except (psutil.Error, ValueError):
        return -1

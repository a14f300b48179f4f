"""Reads, from outside, what a process holds: memory, descriptors, connections."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from grader.errors import SubmissionFault

if TYPE_CHECKING:
    import psutil


@dataclass(frozen=True)
class Reading:
    """What a process held at one moment.

    Attributes:
        tasks: how many tasks it had run by then.
        kib: the memory that would be free without it (USS) where the system says it, else the
            memory that it has in RAM (RSS), in KiB.
        descriptors: open files, pipes and sockets; 0 where the system does not tell.
        connections: the sockets among them.
    """

    tasks: int
    kib: float
    descriptors: int
    connections: int


def read(process: psutil.Process, tasks: int) -> Reading:
    """Return what a process holds now.

    Raises:
        SubmissionFault: it is gone; nobody but the submission ends it.
    """
    import psutil

    try:
        return Reading(tasks, memory(process), _descriptors(process), _connections(process))
    except psutil.NoSuchProcess:
        raise SubmissionFault("child_gone", pid=process.pid) from None


def memory(process: psutil.Process) -> float:
    """Return a process's own memory in KiB: USS, or RSS where the system keeps that to itself."""
    import psutil

    try:
        return float(process.memory_full_info().uss) / 1024
    except (psutil.AccessDenied, AttributeError):
        return float(process.memory_info().rss) / 1024


def resident(process: psutil.Process) -> float:
    """Return the memory that a process has in RAM, shared pages included, in MiB."""
    return float(process.memory_info().rss) / 2**20


def high_water(process: psutil.Process) -> float:
    """Return the most that a process ever had in RAM, in MiB; 0 where the system does not tell."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
        return float(status.split("VmHWM:")[1].split()[0]) / 1024
    return 0.0


def own_pid(process: psutil.Process) -> int:
    """Return the pid that a process knows itself by; in a sandbox it is not the one outside."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
        return int(status.split("NSpid:")[1].partition("\n")[0].split()[-1])
    return process.pid


def processor(process: psutil.Process) -> float:
    """Return the processor time that a process has used, in seconds; Linux counts nanoseconds."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        text = Path(f"/proc/{process.pid}/schedstat").read_text(encoding="ascii")
        return int(text.split()[0]) / 1e9
    used = process.cpu_times()
    return float(used.user + used.system)


def _descriptors(process: psutil.Process) -> int:
    import psutil

    try:
        return int(process.num_fds())
    except (psutil.AccessDenied, AttributeError):
        return 0


def _connections(process: psutil.Process) -> int:
    import psutil

    try:
        return len(process.net_connections())
    except (psutil.AccessDenied, AttributeError):
        return 0

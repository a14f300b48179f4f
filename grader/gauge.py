"""Reads, from outside, what a process holds: memory, descriptors, connections."""

from __future__ import annotations

import contextlib
import functools
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
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


# Writes to one page after the other, and looks after each what the system says of the process.
TOUCH = """
import mmap, psutil
process = psutil.Process()
pages = mmap.mmap(-1, 200 * mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
if hasattr(mmap, "MADV_NOHUGEPAGE"):
    try:
        pages.madvise(mmap.MADV_NOHUGEPAGE)
    except OSError:
        pass  # a kernel without huge pages
for n in range(200):
    pages[n * mmap.PAGESIZE] = 1
    print(process.memory_info().rss)
"""
TOUCH_SECONDS = 30
EXACT_KIB = 32


@functools.cache
def exact() -> bool:
    """Whether this system tells a process's RSS page by page, or nearly so.

    Some kernels count in each thread or processor by itself, and add up every 32 or 64 pages: what
    grows by 2 KiB a task is then told as a step of 128 or 256 KiB now and then. Others, such as
    6.18, add up whenever somebody reads. A process of the grader's own finds out.
    """
    run = subprocess.run(
        [sys.executable, "-c", TOUCH],
        capture_output=True,
        text=True,
        timeout=TOUCH_SECONDS,
        check=True,
    )
    return largest_step([int(line) // 1024 for line in run.stdout.split()]) <= EXACT_KIB


def largest_step(kib: Sequence[int]) -> int:
    """Return the most by which these readings rise at once, but for the first rise.

    That one may bring what the reading itself needs. Where there is no second one, nothing is known
    of the steps but that they are no smaller than all that there is.
    """
    rises = [after - before for before, after in pairwise(kib) if after > before]
    return max(rises[1:], default=max(kib, default=EXACT_KIB + 1))


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

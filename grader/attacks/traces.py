"""What is left of the whole suite when all is over: it should be nothing."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil

from grader.process import wait_until

SUBREAPER = 36  # prctl: orphans below this process become its children
PLACES = ("/tmp", "/var/tmp", "/dev/shm", "/run/lock")
# Where the kernel lists what needs no file: mounts, sockets, shared memory, message queues.
LISTS = ("self/mountinfo", "net/unix", "sysvipc/shm", "sysvipc/msg", "sysvipc/sem")
SECONDS = 10.0
MARKS = ("lab-attack",)


class Traces:
    """Looks before and after; what is new afterwards is a trace.

    An attack's artifacts carry its nonce, and every orphan of a process that we started comes to
    us, so what other programs on this machine do meanwhile is not mistaken for ours.
    """

    def __init__(self) -> None:
        _adopt_orphans(True)
        self._children = set(psutil.Process().children(recursive=True))
        self._names = set(_names())

    def found(self) -> list[str]:
        """Return what is left behind."""
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: not self._orphans(), SECONDS, TimeoutError, every=0.05)
        _adopt_orphans(False)
        left = [f"a process: {' '.join(p.cmdline())[:200]}" for p in self._orphans()]
        new = set(_names()) - self._names
        return left + sorted(name for name in new if any(mark in name for mark in MARKS))

    def _orphans(self) -> list[psutil.Process]:
        living = []
        for process in set(psutil.Process().children(recursive=True)) - self._children:
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.status() == psutil.STATUS_ZOMBIE:
                    _reap(process.pid)
                else:
                    living.append(process)
        return living


def _reap(pid: int) -> None:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def _adopt_orphans(on: bool) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(SUBREAPER, int(on), 0, 0, 0)


def _names() -> Iterator[str]:
    for place in PLACES:
        with contextlib.suppress(OSError):
            yield from (f"a file: {place}/{name}" for name in os.listdir(place))
    for name in LISTS:
        with contextlib.suppress(OSError):
            for line in Path("/proc", name).read_text(errors="replace").splitlines():
                yield f"in /proc/{name}: {line}"

"""Tasks with a known appetite, put beside a submission's own to see what its instruments say.

The lab writes this file into the submission's folder under another name, with the tasks' own names
drawn anew, and with their numbers behind a mask. A worker loads it by `--include`. A client process
that imports it can start such a worker as its child, so that both see the same processes, and then
call the submission's instrument.
"""

import gc
import importlib
import mmap
import os
import signal
import subprocess
import sys
from typing import Any, BinaryIO

from celery import shared_task

memory_debug = importlib.import_module("memory_debug")
app = memory_debug.app
KEPT: list[bytes] = []
OTHERS: list[bytes] = []
TOOTH: list[mmap.mmap] = []
FILLED: list[bytes] = []
OPENED: list[BinaryIO] = []
PARCELS: list[object] = []
WORKERS: list[subprocess.Popen[bytes]] = []
BOOT_SECONDS = 30
MASK = 0
# Objects that the collector knows, 470 bytes each, made before the worker forks. What a tuple holds
# is one list, for a tuple without anything that the collector knows is dropped from its sight.
SHELF: list[int] = []
PANTRY = [(SHELF,) * 52 for _ in range(int(os.environ.get("SHOP_PANTRY", "0")))]


def plain(masked: int) -> int:
    """Return the number behind the mask."""
    return masked ^ MASK


class Parcel:
    """A type that nobody else has objects of."""


@shared_task
def idle() -> int:
    """Do nothing."""
    return 1


@shared_task
def echo(value: Any) -> Any:
    """Give back what came."""
    return value


@shared_task
def hold(kib: int) -> int:
    """Keep some memory for ever."""
    KEPT.append(os.urandom(1024 * plain(kib)))  # the first site
    return len(KEPT)


@shared_task
def stash(kib: int) -> int:
    """Keep some memory for ever, at another place."""
    OTHERS.append(os.urandom(1024 * plain(kib)))  # the second site
    return len(OTHERS)


@shared_task
def hold_and_fail(kib: int) -> None:
    """Keep some memory for ever, and fail."""
    KEPT.append(os.urandom(1024 * plain(kib)))
    raise ValueError("planned")


@shared_task
def saw(kib: int, teeth: int = 10) -> int:
    """Keep some memory until there is much of it, then let it all go.

    It is mapped, not asked of malloc, which would keep what is freed for the next tooth.
    """
    kib = plain(kib)
    if len(TOOTH) >= teeth:
        TOOTH.clear()
    pages = mmap.mmap(-1, 1024 * kib, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    pages.write(b"x" * (1024 * kib))
    TOOTH.append(pages)
    return len(TOOTH)


@shared_task
def fill(kib: int, room: int = 90) -> int:
    """Fill a cache, which then stays as it is."""
    if len(FILLED) < room:
        FILLED.append(os.urandom(1024 * plain(kib)))
    return len(FILLED)


@shared_task
def pile(mib: int) -> int:
    """Keep much memory for ever, in pieces like those of `crumble`."""
    KEPT.extend(os.urandom(1000) for _ in range(plain(mib) * 1048))
    return len(KEPT)


@shared_task
def crumble(mib: int) -> int:
    """Take much memory in small pieces and give back three of four: no page becomes free."""
    crumbs = [os.urandom(1000) for _ in range(plain(mib) * 1048)]
    KEPT.extend(crumbs[::4])
    return len(crumbs)


@shared_task
def pass_by(mib: int) -> int:
    """Take much memory in one piece, which the allocator gives back to the system at once."""
    mib = plain(mib)
    data = bytearray(mib * 1048576)
    data[::4096] = b"x" * (mib * 256)
    return len(data)


@shared_task
def open_files(number: int) -> int:
    """Open regular files, and leave them open."""
    number = plain(number)
    OPENED.extend(open(__file__, "rb") for _ in range(number))  # noqa: SIM115 (they stay open)
    return len(OPENED)


@shared_task
def deliver(number: int) -> int:
    """Keep so many objects of a class of our own."""
    PARCELS.extend(Parcel() for _ in range(plain(number)))
    return len(PARCELS)


@shared_task
def thresholds() -> list[int]:
    """Tell when this process collects, which is not how much there is to collect."""
    return list(gc.get_threshold())


@shared_task
def collect() -> int:
    """Have the collector look at every object that is not frozen."""
    return gc.collect()


def begin(task: str, *options: str) -> int:
    """Start a worker of the submission with these tasks, and wait until it has run this one."""
    command = [sys.executable, "-m", "celery", "-A", "memory_debug:app", "worker", "-I", __name__]
    WORKERS.append(subprocess.Popen([*command, *options], stdout=2, start_new_session=True))
    return int(app.send_task(task).get(timeout=BOOT_SECONDS))


def warm_up(task: str, times: int) -> int:
    """Have the worker run this task, which does nothing, many times; return how often it did."""
    done = 0
    while done < times:
        results = [app.send_task(task) for _ in range(100)]
        for result in results:
            done += result.get(timeout=BOOT_SECONDS)
            result.forget()
    return done


def end() -> None:
    """End the workers that were started."""
    while WORKERS:
        worker = WORKERS.pop()
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()


def instrument(task: str, args: list[Any], png: str | None = None, runs: int | None = None) -> Any:
    """Return what the submission's instrument says of a task."""
    options: dict[str, Any] = {"png": png} if png else {}
    if runs:
        options["runs"] = runs
    return memory_debug.debug_memory_leak(task, args=tuple(args), **options)

"""Faults on processes: killed, frozen, asked to end.

Every function notes what it did in `faults`, a history's list: `{"kind", "at", "target"}` with an
epoch time in seconds and the processes as `{"pid", "started"}`. psutil compares the start time
before it sends a signal, so a pid that another process has got since is never hit.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import psutil

from grader.errors import LabFault
from grader.process import lives, wait_until

Faults = list[dict[str, Any]]
DEATH_SECONDS = 10.0


def kill_child(
    main: psutil.Process, faults: Faults, child: psutil.Process | None = None
) -> psutil.Process:
    """Send SIGKILL to one pool child of a worker; return that child when it is dead.

    Args:
        main: the worker's main process (in a sandbox that is not the top of the tree).
        child: the one to kill; without it the oldest that lives.

    Raises:
        LabFault: the child named is gone, or the worker has none alive: nothing was killed.
    """
    for each in [child] if child else _children(main):
        try:
            _strike(each, signal.SIGKILL, "kill_child", faults)
        except LabFault:
            if child:
                raise
            continue  # It ended by itself just now; the next one will do.
        _await_death(each)
        return each
    raise LabFault("no_child", pid=main.pid)


def terminate(main: psutil.Process, faults: Faults) -> None:
    """Send SIGTERM to a worker's main process; does not wait for its end.

    Raises:
        LabFault: it is gone already, so that nothing can be learnt from its end.
    """
    _strike(main, signal.SIGTERM, "terminate", faults)


def kill_all(processes: Iterable[psutil.Process], faults: Faults) -> None:
    """Send SIGKILL to each, in the order given (main process first, so that none is replaced).

    A process that is gone already is passed over: what is wanted is that none lives, and when this
    returns none does.
    """
    chosen, at, target = list(processes), time.time(), []
    for process in chosen:
        with contextlib.suppress(psutil.NoSuchProcess):
            target.append(_signal(process, signal.SIGKILL))
    if target:
        _note(faults, "kill_all", at, target)
    for process in chosen:
        _await_death(process)


@contextlib.contextmanager
def freeze(
    processes: Iterable[psutil.Process], faults: Faults, within: float = 5.0
) -> Iterator[list[psutil.Process]]:
    """Stop each process and all its descendants by SIGSTOP; they go on when the block ends.

    The main process comes first, so that it starts no child behind our back. Processes that are
    gone are passed over, before and after. The fault is noted as `freeze` once all stand still
    and as `thaw` before the first goes on: between the two, none of them ran.

    Yields:
        the processes that stand still.

    Raises:
        LabFault: all are gone, or one does not stand still `within` so many seconds.
    """
    chosen, stopped = list(processes), dict[psutil.Process, dict[str, float]]()
    try:
        for process in chosen:
            _stop(process, stopped, within)
        still = [process for process in stopped if _frozen(process)]
        if not still:
            raise LabFault("nothing_to_freeze", pids=", ".join(str(p.pid) for p in chosen) or "-")
        target = [stopped[process] for process in still]
        _note(faults, "freeze", time.time(), target)
        try:
            yield still
        finally:
            _note(faults, "thaw", time.time(), target)
    finally:
        thaw(stopped)


def thaw(processes: Iterable[psutil.Process]) -> None:
    """Send SIGCONT to each; one that is gone is passed over, one that runs takes no notice."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.resume()


def _stop(
    process: psutil.Process, stopped: dict[psutil.Process, dict[str, float]], within: float
) -> None:
    if process in stopped:
        return
    try:
        # Noted before it is stopped: whatever happens in between, it will be thawed.
        stopped[process] = _identity(process)
        process.suspend()
    except psutil.NoSuchProcess:
        return
    fault = LabFault("not_frozen", pid=process.pid, seconds=f"{within:g}")
    wait_until(lambda: _frozen(process) or not lives(process), within, lambda: fault)
    for child in _children(process):
        _stop(child, stopped, within)


def _children(process: psutil.Process) -> Sequence[psutil.Process]:
    """Return the living children, the oldest first; none of a process that is gone."""
    with contextlib.suppress(psutil.NoSuchProcess):
        living = [child for child in process.children() if lives(child)]
        return sorted(living, key=lambda child: (child.create_time(), child.pid))
    return []


def _frozen(process: psutil.Process) -> bool:
    """Whether a process that was sent SIGSTOP does nothing more.

    One inside the kernel that no signal interrupts (a slow disk; a vfork whose child has not gone
    on) stops as soon as it comes out, before it runs a line of its own.
    """
    still = (psutil.STATUS_STOPPED, psutil.STATUS_DISK_SLEEP)
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() in still
    return False


def _await_death(process: psutil.Process) -> None:
    """Wait for a killed process to be dead: the kernel takes a moment, and more under load."""
    fault = LabFault("not_killed", pid=process.pid, seconds=f"{DEATH_SECONDS:g}")
    wait_until(lambda: not lives(process), DEATH_SECONDS, lambda: fault)


def _strike(process: psutil.Process, number: signal.Signals, kind: str, faults: Faults) -> None:
    at = time.time()
    try:
        target = [_signal(process, number)]
    except psutil.NoSuchProcess as error:
        raise LabFault("process_gone", pid=process.pid, kind=kind) from error
    _note(faults, kind, at, target)


def _signal(process: psutil.Process, number: signal.Signals) -> dict[str, float]:
    """Send a signal and return who got it; NoSuchProcess where nobody lives to get it."""
    identity = _identity(process)
    if not lives(process):
        raise psutil.NoSuchProcess(process.pid)
    process.send_signal(number)
    return identity


def _identity(process: psutil.Process) -> dict[str, float]:
    return {"pid": process.pid, "started": process.create_time()}


def _note(faults: Faults, kind: str, at: float, target: list[dict[str, float]]) -> None:
    faults.append({"kind": kind, "at": at, "target": target})

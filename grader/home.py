"""Where a run keeps its files, and how the next run sweeps what a dead one left behind.

Each run owns a folder `<temp>/celery-lab-<uid>/<name>/` with `owner.json` (the grader's pid and
start time), `ledger.jsonl` (the processes it started) and whatever its servers write. A folder
whose owner is gone is swept: its processes are ended by pid and start time, never by name, then it
is removed.
"""

from __future__ import annotations

import contextlib
import errno
import getpass
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil

from grader.errors import LabFault, NoSpace
from grader.process import kill

MINIMUM_FREE = 50 * 1024 * 1024


def base() -> Path:
    """Return this user's folder for runs, made on first use and closed to others.

    Raises:
        NoSpace: less than 50 MiB is free.
        LabFault: the folder can't be made, or belongs to somebody else.
    """
    name = str(os.getuid()) if hasattr(os, "getuid") else getpass.getuser()
    folder = Path(tempfile.gettempdir()) / f"celery-lab-{name}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        free = shutil.disk_usage(folder).free
        foreign = hasattr(os, "getuid") and folder.lstat().st_uid != os.getuid()
    except OSError as error:
        raise no_space(error, folder) from error
    if foreign or folder.is_symlink():
        raise LabFault("temp_not_ours", folder=folder)
    if free < MINIMUM_FREE:
        raise NoSpace("no_space", folder=folder, free=free // 2**20, wanted=MINIMUM_FREE // 2**20)
    return folder


def no_space(error: OSError, folder: Path) -> LabFault:
    """Return the lab's error for an OSError met in the temporary folder."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace("no_space", folder=folder, free=0, wanted=MINIMUM_FREE // 2**20)
    return LabFault("temp_unusable", folder=folder, error=error)


class Home:
    """One run's folder. Use it as a context manager: it is removed at the end."""

    def __init__(self, kind: str = "run") -> None:
        try:
            self.folder = Path(tempfile.mkdtemp(prefix=f"{kind}-", dir=base()))
            self.ledger = self.folder / "ledger.jsonl"
            self.ledger.touch()
            self.belongs_to(os.getpid())
        except OSError as error:
            raise no_space(error, Path(tempfile.gettempdir())) from error

    def belongs_to(self, pid: int) -> None:
        """Say whose life the folder depends on: the grader's, or for `lab up` a server's."""
        owner = {"pid": pid, "started": psutil.Process(pid).create_time()}
        draft = self.folder / "owner.draft"
        draft.write_text(json.dumps(owner))
        draft.replace(self.folder / "owner.json")

    def close(self) -> None:
        """Remove the folder; its processes must have been ended before."""
        remove(self.folder)
        with contextlib.suppress(OSError):
            self.folder.parent.rmdir()  # only when no other run is there

    def __enter__(self) -> Home:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def sweep() -> list[Path]:
    """End the processes and remove the folders of runs whose owner is gone; return the folders."""
    swept = []
    for folder in list(base().iterdir()):
        if folder.is_dir() and not _owned(folder):
            kill(ledger_processes(folder / "ledger.jsonl"))
            remove(folder)
            swept.append(folder)
    return swept


def _owned(folder: Path) -> bool:
    """Whether the folder's owner lives; a folder without an owner yet is only just being made."""
    try:
        owner = json.loads((folder / "owner.json").read_text())
    except FileNotFoundError:
        return _young(folder)
    except (OSError, ValueError):
        return False
    return _find(owner) is not None


def _young(folder: Path) -> bool:
    import time

    with contextlib.suppress(OSError):
        return time.time() - folder.stat().st_mtime < 60
    return True


def _find(entry: dict[str, float]) -> psutil.Process | None:
    """Return the process of a ledger entry if it is the very same one."""
    with contextlib.suppress(psutil.Error, KeyError, TypeError, ValueError):
        process = psutil.Process(int(entry["pid"]))
        if abs(process.create_time() - entry["started"]) < 0.02:
            return process
    return None


def ledger_processes(ledger: Path) -> Iterator[psutil.Process]:
    """Yield the living processes of a ledger, each with its descendants and session."""
    with contextlib.suppress(OSError):
        for line in ledger.read_text().splitlines():
            with contextlib.suppress(ValueError):
                if process := _find(json.loads(line)):
                    yield from _whole(process)


def _whole(process: psutil.Process) -> Iterator[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        yield from process.children(recursive=True)
    yield process


def remove(folder: Path) -> None:
    """Remove a folder of ours; a file that a dying process still holds is tried again."""
    for _ in range(20):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return

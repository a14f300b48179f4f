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
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from grader.errors import LabFault, NoSpace
from grader.process import identity, kill, session

if TYPE_CHECKING:
    import psutil

MINIMUM_FREE = 50 * 1024 * 1024
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


def base() -> Path:
    """Return this user's folder for runs, made on first use and closed to others.

    Raises:
        NoSpace: less than 50 MiB is free.
        LabFault: the folder can't be made, or belongs to somebody else.
    """
    try:
        return _again(_base)
    except OSError as error:
        raise no_space(error, _temp()) from error


def _temp() -> Path:
    """Return the folder to name in an error: there may be none that can be used."""
    return Path(os.environ.get("TMPDIR", "/tmp"))


def _base() -> Path:
    name = str(os.getuid()) if hasattr(os, "getuid") else getpass.getuser()
    folder = Path(tempfile.gettempdir()) / f"celery-lab-{name}"
    folder.mkdir(mode=0o700, exist_ok=True)
    free = shutil.disk_usage(folder).free
    foreign = hasattr(os, "getuid") and folder.lstat().st_uid != os.getuid()
    if foreign or folder.is_symlink():
        raise LabFault("temp_not_ours", folder=folder)
    if free < MINIMUM_FREE:
        raise NoSpace("no_space", folder=folder, free=free // 2**20, wanted=MINIMUM_FREE // 2**20)
    return folder


def no_space(error: OSError, folder: Path) -> LabFault:
    """Return the lab's error for an OSError met in the temporary folder."""
    if error.errno in NO_SPACE:
        return NoSpace("no_space", folder=folder, free=0, wanted=MINIMUM_FREE // 2**20)
    return LabFault("temp_unusable", folder=folder, error=error)


class Home:
    """One run's folder. Use it as a context manager: it is removed at the end."""

    def __init__(self, kind: str = "run") -> None:
        self.folder = new_folder(kind)
        self.ledger = self.folder / "ledger.jsonl"
        try:
            self.ledger.touch()
            self.belongs_to(os.getpid())
        except OSError as error:
            self.close()
            raise no_space(error, self.folder) from error

    def belongs_to(self, pid: int) -> None:
        """Say whose life the folder depends on: the grader's, or for `lab up` a server's."""
        import psutil

        draft = self.folder / "owner.draft"
        draft.write_text(json.dumps(identity(psutil.Process(pid))))
        draft.replace(self.folder / "owner.json")

    def close(self) -> None:
        """End what still runs and remove the folder.

        After Ctrl-C other threads may be about to start something: they find the folder gone, so
        nothing starts, and what started just before is in the ledger.
        """
        closed = self.folder.with_name(f"{self.folder.name}.closed")
        try:
            self.folder.rename(closed)
        except OSError:
            closed = self.folder
        kill(ledger_processes(closed / "ledger.jsonl"))
        kill(daemons(self.folder))
        remove(closed)
        with contextlib.suppress(OSError):
            self.folder.parent.rmdir()  # only when no other run is there

    def __enter__(self) -> Home:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def new_folder(kind: str) -> Path:
    """Return a new folder among the runs' folders: if it stays behind, the next run sweeps it."""
    try:
        return _again(lambda: Path(tempfile.mkdtemp(prefix=f"{kind}-", dir=_base())))
    except OSError as error:
        raise no_space(error, _temp()) from error


def _again(make: Callable[[], Path]) -> Path:
    """Return what `make` makes; a run that closes meanwhile may remove the base under its feet."""
    for _ in range(9):
        with contextlib.suppress(FileNotFoundError, FileExistsError):
            return make()
    return make()


def sweep() -> list[Path]:
    """End the processes and remove the folders of runs whose owner is gone; return the folders."""
    swept = []
    for folder in _folders():
        if not _owned(folder):
            kill(ledger_processes(folder / "ledger.jsonl"))
            kill(daemons(folder))
            remove(folder)
            swept.append(folder)
    return swept


def _folders() -> list[Path]:
    with contextlib.suppress(FileNotFoundError):  # removed by a run that has just closed
        return [path for path in base().iterdir() if path.is_dir() and not path.is_symlink()]
    return []


def _owned(folder: Path) -> bool:
    """Whether the folder's owner lives; a folder without an owner yet is only just being made."""
    try:
        owner = json.loads((folder / "owner.json").read_text())
    except FileNotFoundError:
        return _young(folder)
    except (OSError, ValueError, RecursionError):
        return False
    return _find(owner) is not None


def _young(folder: Path) -> bool:
    import time

    with contextlib.suppress(OSError):
        return time.time() - folder.stat().st_mtime < 60
    return True


def _find(entry: dict[str, float]) -> psutil.Process | None:
    """Return the process of a ledger entry if it is the very same one."""
    import psutil

    with contextlib.suppress(psutil.Error, KeyError, TypeError, ValueError, OverflowError):
        process = psutil.Process(int(entry["pid"]))
        if abs(identity(process)["started"] - entry["started"]) < 0.02:
            return process
    return None


def ledger_processes(ledger: Path) -> Iterator[psutil.Process]:
    """Yield the living processes of a ledger, each with its descendants and session."""
    lines: list[str] = []
    with contextlib.suppress(OSError):
        lines = ledger.read_text("utf-8", "replace").splitlines()
    for line in lines:
        # Without a sandbox a submission can write here, so a line may be anything.
        with contextlib.suppress(ValueError, RecursionError):
            if process := _find(json.loads(line)):
                yield from _whole(process)


def _whole(process: psutil.Process) -> list[psutil.Process]:
    """Return a process, then all it started: it comes first, so that it replaces none of them."""
    import psutil

    with contextlib.suppress(psutil.Error):
        return [process, *process.children(recursive=True), *session(process.pid)]
    return [process]


def daemons(folder: Path) -> Iterator[psutil.Process]:
    """Yield the living processes that belong to a run's folder, whatever the ledger says.

    Every submission's home is in it: so one is found that has left its session and outlived its
    parent, where no sandbox has ended it; not one that has also changed its environment and its
    folder. A server of ours works in it: so one is found whose grader was killed before it could
    note it down. An instructor who looks around in it has a terminal, which no process of ours has.
    """
    import psutil

    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and _inside(process, folder):
                yield process


def _inside(process: psutil.Process, folder: Path) -> bool:
    home = process.environ().get("HOME", "")
    if Path(home).is_relative_to(folder):
        return True
    return process.terminal() is None and Path(process.cwd()).is_relative_to(folder.resolve())


def remove(folder: Path) -> None:
    """Remove a folder of ours, whatever a submission made of it; of a link, the link alone."""
    if folder.is_symlink():
        folder.unlink(missing_ok=True)
        return
    for _ in range(20):  # a dying process may still be writing
        with contextlib.suppress(RecursionError):
            shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        # Folders may be closed to us, or lie deeper than Python can go.
        for command in (["chmod", "-R", "u+rwX"], ["rm", "-rf"]):
            subprocess.run([*command, "--", str(folder)], capture_output=True)

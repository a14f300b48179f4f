"""A submission: a folder (or an archive) that is copied before anything of it runs.

The copy leaves out links, special files, what tools leave behind, and the lab's own files where the
student works in place in exercises/<id>. Nothing here imports or runs a stranger's code.
"""

from __future__ import annotations

import os
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from grader.errors import BadSubmission
from grader.exercise import Exercise

LEFT_OUT = {
    "__pycache__",
    ".git",
    ".venv",
    "venv",
    "node_modules",
    ".pytest_cache",
    ".lab",
    ".DS_Store",
}
HANDOUT = ("README*.md", "exercise.toml", "test_*.py")
MAX_FILES = 2000
MAX_BYTES = 50 * 1024 * 1024
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


@dataclass(frozen=True)
class Submission:
    """Where a student's work lies: `path` is a folder or an archive."""

    path: Path

    @classmethod
    def at(cls, path: Path) -> Submission:
        """Return the submission at `path`.

        Raises:
            BadSubmission: it does not exist, is an ordinary file, or can't be read.
        """
        try:
            if path.is_dir():
                next(os.scandir(path), None)
            elif path.name.lower().endswith(ARCHIVES):
                path.open("rb").close()
            elif path.exists():
                raise BadSubmission("submission_is_file", path=path)
            else:
                raise BadSubmission("submission_missing", path=path)
        except PermissionError:
            raise BadSubmission("submission_unreadable", path=path) from None
        return cls(path)

    def copy(self, to: Path, exercise: Exercise) -> Path:
        """Copy the submission below `to` and return the folder that holds the module.

        Raises:
            BadSubmission: nothing to grade in it, too much of it, or a file that can't be read.
        """
        to.mkdir(parents=True)
        try:
            if self.path.is_dir():
                self._copy_folder(to, in_place=self.path.resolve() == exercise.folder)
            else:
                self._unpack(to)
        except PermissionError as error:
            raise BadSubmission("submission_unreadable", path=error.filename) from None
        return self._root(to, exercise)

    def _copy_folder(self, to: Path, in_place: bool) -> None:
        room = _Room(self.path)
        for source in _files(self.path, LEFT_OUT):
            relative = source.relative_to(self.path)
            if in_place and any(relative.match(pattern) for pattern in HANDOUT):
                continue
            room.take(files=1, size=source.stat().st_size)
            target = to / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target, follow_symlinks=False)

    def _unpack(self, to: Path) -> None:
        try:
            unzip = _unzip if zipfile.is_zipfile(self.path) else _untar
            unzip(self.path, to, _Room(self.path))
        except (
            zipfile.BadZipFile,
            tarfile.TarError,
            EOFError,
            OSError,
            NotImplementedError,
            RuntimeError,
            ValueError,
            UnicodeError,
        ) as error:
            raise BadSubmission("archive_broken", path=self.path, error=error) from None

    def _root(self, to: Path, exercise: Exercise) -> Path:
        """Return `to`, or its only subfolder that holds the module (archives often have one)."""
        if not any(to.iterdir()):
            raise BadSubmission("submission_empty", path=self.path, wanted=exercise.files[0])
        if holds(to, exercise.module):
            return to
        inner = [folder for folder in to.iterdir() if folder.is_dir()]
        fitting = [folder for folder in inner if holds(folder, exercise.module)]
        return fitting[0] if len(fitting) == 1 else to


def holds(folder: Path, module: str) -> bool:
    """Whether the folder has the module, as a file or as a package."""
    return (folder / f"{module}.py").is_file() or (folder / module / "__init__.py").is_file()


class _Room:
    """Counts files and bytes, so that a submission can't fill the grader's disk."""

    def __init__(self, path: Path) -> None:
        self.path, self.files, self.bytes = path, 0, 0

    def take(self, files: int = 0, size: int = 0) -> None:
        self.files += files
        self.bytes += size
        if self.files > MAX_FILES or self.bytes > MAX_BYTES:
            raise BadSubmission(
                "submission_too_big", path=self.path, files=MAX_FILES, size=MAX_BYTES // 2**20
            )


def _files(folder: Path, left_out: set[str]) -> Iterator[Path]:
    """Yield the regular files below a folder; links and special files are not followed."""
    for entry in sorted(os.scandir(folder), key=lambda e: e.name):
        if entry.name in left_out:
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _files(Path(entry.path), left_out)
        elif stat.S_ISREG(entry.stat(follow_symlinks=False).st_mode):
            yield Path(entry.path)


def _unzip(path: Path, to: Path, room: _Room) -> None:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            kind = stat.S_IFMT(member.external_attr >> 16)
            if member.is_dir() or kind not in (0, stat.S_IFREG):
                continue
            _write(archive.open(member), _inside(to, member.filename), room)


def _untar(path: Path, to: Path, room: _Room) -> None:
    with tarfile.open(path) as archive:
        for member in archive:
            if member.isfile() and (stream := archive.extractfile(member)):
                _write(stream, _inside(to, member.name), room)


def _inside(to: Path, name: str) -> Path:
    """Return the member's place below `to`; a name that leads out of it is refused."""
    target = (to / name.replace("\\", "/")).resolve()
    if not target.is_relative_to(to.resolve()) or target == to.resolve():
        raise ValueError(f"a member named {name!r} would be written outside")
    return target


def _write(stream: object, target: Path, room: _Room) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    room.take(files=1)
    with stream as source, target.open("wb") as file:  # type: ignore[attr-defined]
        while chunk := source.read(65536):
            room.take(size=len(chunk))
            file.write(chunk)

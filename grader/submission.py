"""A submission: a folder (or an archive) that is copied before anything of it runs.

The copy leaves out links, special files, what tools leave behind, and the lab's own files where the
student works in place in exercises/<id>. Nothing here imports or runs a stranger's code.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from grader.errors import BadSubmission
from grader.exercise import Exercise
from grader.home import NO_SPACE, no_space

LEFT_OUT = {
    "__MACOSX",  # what macOS adds to an archive
    "__pycache__",
    ".git",
    ".venv",
    "venv",
    "node_modules",
    ".pytest_cache",
    ".lab",
    ".DS_Store",
}
HANDOUT = ("README*.md", "exercise.toml", "hints.toml", "test_*.py")
MAX_FILES = 2000
MAX_BYTES = 50 * 1024 * 1024
MAX_ENTRIES = 10 * MAX_FILES  # with folders, links and what is left out
MAX_DEPTH = 50
MAX_STREAM = 10 * MAX_BYTES  # of an unpacked .tar
MAX_HEADER = 64 * 1024
EXTRA_HEADERS = {
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
}
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
                with os.scandir(path) as entries:
                    next(entries, None)
            elif not path.exists():
                raise BadSubmission("submission_missing", path=path)
            elif path.is_file() and path.name.lower().endswith(ARCHIVES):
                path.open("rb").close()
            else:
                raise BadSubmission("submission_is_file", path=path)
        except PermissionError:
            raise BadSubmission("submission_unreadable", path=path) from None
        except (OSError, ValueError):  # a name that is too long, or that no file can have
            raise BadSubmission("submission_missing", path=path) from None
        return cls(path)

    def copy(self, to: Path, exercise: Exercise) -> Path:
        """Copy the submission below `to` and return the folder that holds the module.

        Raises:
            BadSubmission: nothing to grade in it, too much of it, or a file that can't be read.
        """
        to.mkdir(parents=True)
        try:
            if self.path.is_dir():
                in_place = self.path.resolve() == exercise.folder.resolve()
                self._copy_folder(to, in_place)
            else:
                unpack(self.path, to)
        except PermissionError as error:
            raise BadSubmission("submission_unreadable", path=error.filename) from None
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                raise BadSubmission("submission_too_deep", path=self.path) from None
            raise no_space(error, to) from error
        return self._root(to, exercise)

    def files(self) -> Iterator[Path]:
        """Yield the files of a folder that are graded, sorted.

        Raises:
            BadSubmission: too much of it.
        """
        room = _Room(self.path)
        for file in _files(self.path, room):
            room.take(files=1, size=file.stat().st_size)
            yield file

    def names(self) -> list[str]:
        """Return the relative names of its files.

        Raises:
            BadSubmission: too much of it, or an archive that is broken.
        """
        if self.path.is_dir():
            return [str(file.relative_to(self.path)) for file in self.files()]
        room = _Room(self.path)
        try:
            if zipfile.is_zipfile(self.path):
                with zipfile.ZipFile(self.path) as archive:
                    return archive.namelist()
            return [member.name for _, member in _members(self.path, room) if member.isfile()]
        except BadSubmission:
            raise
        except Exception as error:  # see unpack
            raise _broken(self.path, error) from None

    def digest(self) -> str:
        """Return a hash of all that is graded; an archive's is that of its bytes."""
        found = hashlib.sha256()
        for file in self.files() if self.path.is_dir() else [self.path]:
            name = str(file.relative_to(self.path)).encode("utf-8", "surrogateescape")
            with file.open("rb") as opened:
                content = hashlib.file_digest(opened, "sha256").digest()
            found.update(len(name).to_bytes(4) + name + content)
        return found.hexdigest()

    def _copy_folder(self, to: Path, in_place: bool) -> None:
        room = _Room(self.path)
        for source in _files(self.path, room):
            relative = source.relative_to(self.path)
            if in_place and any(relative.match(pattern) for pattern in HANDOUT):
                continue
            room.take(files=1, size=source.stat().st_size)
            target = to / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target, follow_symlinks=False)

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
    """Counts what is met and taken, so that a submission can't fill the grader's disk or time."""

    def __init__(self, path: Path, scale: int = 1) -> None:
        self.path, self.entries, self.files, self.bytes = path, 0, 0, 0
        self.scale = scale

    def take(self, files: int = 0, size: int = 0, entries: int = 0) -> None:
        self.entries += entries
        self.files += files
        self.bytes += size
        found = (self.files, self.bytes, self.entries)
        limits = (MAX_FILES, MAX_BYTES, MAX_ENTRIES)
        if any(n > limit * self.scale for n, limit in zip(found, limits, strict=True)):
            raise self.too_big()

    def too_big(self) -> BadSubmission:
        files, size = MAX_FILES * self.scale, MAX_BYTES * self.scale // 2**20
        return BadSubmission("submission_too_big", path=self.path, files=files, size=size)

    def deep(self, levels: int) -> None:
        if levels > MAX_DEPTH:
            raise BadSubmission("submission_too_deep", path=self.path)


def _files(folder: Path, room: _Room, depth: int = 1) -> Iterator[Path]:
    """Yield the regular files below a folder; links and special files are not followed."""
    room.deep(depth)
    with os.scandir(folder) as found:
        entries = sorted(islice(found, MAX_ENTRIES + 1), key=lambda e: e.name)
    room.take(entries=len(entries))
    for entry in entries:
        if entry.name in LEFT_OUT:
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _files(Path(entry.path), room, depth + 1)
        elif stat.S_ISREG(entry.stat(follow_symlinks=False).st_mode):
            yield Path(entry.path)


def unpack(path: Path, to: Path, scale: int = 1) -> None:
    """Unpack an archive below `to`; `scale` is how many submissions it may hold.

    Raises:
        BadSubmission: too much of it, or a broken archive.
        OSError: no space, or a file that can't be read.
    """
    try:
        unzip = _unzip if zipfile.is_zipfile(path) else _untar
        unzip(path, to, _Room(path, scale))
    except BadSubmission:
        raise
    except Exception as error:
        # The packages for archives raise errors of twenty kinds, down to zlib's own.
        if isinstance(error, OSError) and error.errno in (*NO_SPACE, errno.EACCES):
            raise
        raise _broken(path, error) from None


def _broken(path: Path, error: Exception) -> BadSubmission:
    words = str(error).partition("\n")[0].rstrip(":") or type(error).__name__
    return BadSubmission("archive_broken", path=path, error=words)


def _unzip(path: Path, to: Path, room: _Room) -> None:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            kind = stat.S_IFMT(member.external_attr >> 16)
            if member.is_dir() or kind not in (0, stat.S_IFREG):
                continue
            if target := _inside(to, member.filename, room):
                _write(archive.open(member), target, room)


def _untar(path: Path, to: Path, room: _Room) -> None:
    for archive, member in _members(path, room):
        if member.isfile() and (target := _inside(to, member.name, room)):
            _write(archive.extractfile(member), target, room)


def _members(path: Path, room: _Room) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """Yield a tar archive, while it is open, with each of its members."""
    with tarfile.open(path, tarinfo=_Member) as archive:
        for member in archive:
            room.take(entries=1)
            if archive.offset > MAX_STREAM * room.scale:  # what is left out is unpacked as well
                raise room.too_big()
            yield archive, member


class _Member(tarfile.TarInfo):
    """A member with an ordinary header: tarfile reads a long name into memory, however long."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Member:
        member = super().frombuf(buf, encoding, errors)
        if member.type in EXTRA_HEADERS and member.size > MAX_HEADER:
            raise ValueError(f"a header of {member.size} bytes")
        return member


def _inside(to: Path, name: str, room: _Room) -> Path | None:
    """Return the member's place below `to`, None where it is left out.

    Raises:
        ValueError: the name leads out of `to`.
    """
    name = name.replace("\\", "/")
    if LEFT_OUT & set(name.split("/")):
        return None
    room.deep(name.count("/") + 1)
    target = (to / name).resolve()
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

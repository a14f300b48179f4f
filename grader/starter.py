"""What an exercise was before anybody worked on it, and how it becomes so again.

exercises/.starters/<id> holds a copy of each starter (`lab tables` writes it). Git's history could
tell as well, but not in a download without .git, and a student may have committed anything; git
stores the copy only once anyway.

Nothing is ever lost: what is in the folder is copied aside first, and a file is replaced or removed
only if the copy holds just what stands there then.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from grader.errors import LabFault, UsageError
from grader.exercise import EXERCISES, ROOT, Exercise, folders
from grader.submission import HANDOUT, LEFT_OUT

COPIES = EXERCISES / ".starters"
ASIDE = ROOT / ".lab" / "student" / "aside"


@dataclass(frozen=True)
class Reset:
    """What a reset did: the folder with the old work (None if all was new), the files restored."""

    aside: Path | None
    restored: tuple[str, ...]


def copy_of(id: str) -> Path:
    """Return the folder with an exercise's untouched starter, whether it is there or not."""
    return COPIES / id


def work(folder: Path) -> dict[str, Path]:
    """Return the files that are a student's to change, by their name below the folder."""
    return {str(path.relative_to(folder)): path for path in sorted(_files(folder, folder))}


def _files(folder: Path, top: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.name in LEFT_OUT or (folder == top and any(map(path.match, HANDOUT))):
            continue
        if path.is_dir() and not path.is_symlink():
            yield from _files(path, top)
        else:
            yield path


def reset(exercise: Exercise, now: datetime, tell: Callable[[Path], None]) -> Reset:
    """Make an exercise's folder what it was in the beginning.

    Args:
        now: for the name of the folder with the old work.
        tell: gets this folder once it is whole, before anything is changed.

    Raises:
        UsageError: nobody knows what it was.
        LabFault: a file can't be read or written; the work is still all there.
    """
    pristine = work(copy_of(exercise.id)) if copy_of(exercise.id).is_dir() else {}
    if not pristine:
        raise UsageError("reset_no_copy", id=exercise.id, folder=copy_of(exercise.id))
    try:
        changed = _changed(exercise.folder, pristine)
        old = {name: path for name, path in changed.items() if os.path.lexists(path)}
        aside = _set_aside(exercise, work(exercise.folder), now) if old else None
        if aside:
            tell(aside)
        for name in changed:
            _restore(exercise.folder / name, pristine.get(name), aside and aside / name)
    except OSError as error:
        folder = error.filename or exercise.folder
        raise LabFault("reset_failed", path=folder, error=error.strerror or error) from error
    return Reset(aside, tuple(name for name in changed if name in pristine))


def _changed(folder: Path, pristine: dict[str, Path]) -> dict[str, Path]:
    """Return the files that are not as they were: changed ones, missing ones, new ones."""
    mine = work(folder)
    names = [n for n in {**pristine, **mine} if not _same(mine.get(n), pristine.get(n))]
    return {name: folder / name for name in names}


def _same(one: Path | None, other: Path | None) -> bool:
    if not one or not other or one.is_symlink() or other.is_symlink():
        return False
    return one.is_file() and one.read_bytes() == other.read_bytes()


def _set_aside(exercise: Exercise, mine: dict[str, Path], now: datetime) -> Path:
    """Copy the work into a new dated folder; it has its name only once it is whole."""
    ASIDE.mkdir(parents=True, exist_ok=True)
    draft = _new_folder(f".{exercise.id}-{os.getpid()}")
    try:
        for name, path in mine.items():
            target = draft / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target, follow_symlinks=False)
        stem = f"{exercise.id}-{now:%Y-%m-%d-%H%M%S}"
        final = _new_folder(stem)
        draft.rename(final)  # over an empty folder, which is ours
        return final
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def _new_folder(stem: str) -> Path:
    """Make a folder of that name, or with a number after it where another call was first."""
    for number in range(1, 10_000):
        path = ASIDE / (stem if number == 1 else f"{stem}-{number}")
        with contextlib.suppress(FileExistsError):
            path.mkdir()
            return path
    raise FileExistsError(17, os.strerror(17), str(ASIDE / stem))


def _restore(path: Path, pristine: Path | None, kept: Path | None) -> None:
    """Put the starter's file in the place of another one, or remove what the starter has not."""
    if os.path.lexists(path) and not _kept(path, kept):
        raise OSError(16, "it was changed just now; nothing of it was touched", str(path))
    if pristine is None:
        path.unlink()
        with contextlib.suppress(OSError):
            path.parent.rmdir()  # only an empty one, and never the exercise's own
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        shutil.copyfile(pristine, draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _kept(path: Path, kept: Path | None) -> bool:
    """Whether the copy holds just what stands there now."""
    if kept is None or not os.path.lexists(kept):
        return False
    if path.is_symlink() or kept.is_symlink():
        same_kind = path.is_symlink() and kept.is_symlink()
        return same_kind and os.readlink(path) == os.readlink(kept)
    return path.is_file() and kept.is_file() and path.read_bytes() == kept.read_bytes()


# For authors


def stale() -> list[str]:
    """Return the exercises whose copy is not their starter as it stands."""
    return [f.name for f in folders(drafts=True) if _changed(f, _pristine(f.name))]


def _pristine(id: str) -> dict[str, Path]:
    return work(copy_of(id)) if copy_of(id).is_dir() else {}


def refresh() -> list[Path]:
    """Write the copies of changed starters anew and return their folders."""
    written = []
    for id in stale():
        shutil.rmtree(copy_of(id), ignore_errors=True)
        for name, path in work(EXERCISES / id).items():
            target = copy_of(id) / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        written.append(copy_of(id))
    return written

"""Finds whose work is whose in a folder of submissions, however it came there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from grader.classroom import exports
from grader.classroom.repos import is_repository, listing, pick
from grader.classroom.work import Piece, Work
from grader.errors import BadSubmission, UsageError
from grader.exercise import Exercise
from grader.submission import ARCHIVES, LEFT_OUT, Submission, unpack

CLASS = 500  # submissions that one downloaded archive may hold


@dataclass(frozen=True)
class Stray:
    """What lies among the submissions and is nobody's work, or for no exercise."""

    path: Path
    key: str  # of the sentence that says why
    error: str = ""


@dataclass(frozen=True)
class Intake:
    """What was found: works, each with its exercise, and strays."""

    works: tuple[Work, ...]
    strays: tuple[Stray, ...]


def collect(
    root: Path,
    exercises: Sequence[Exercise],
    *,
    asked: Sequence[str] = (),
    ref: str = "",
    deadline: datetime | None = None,
) -> Intake:
    """Return what lies in a folder of submissions.

    Args:
        exercises: all that there are.
        asked: ids of those that count, all if empty. With one, work that shows no exercise is for
            that one.
        ref: the branch of git repositories, what is checked out by default.
        deadline: what is newer is late; of a git repository the last commit in time is taken.

    Raises:
        UsageError: the folder is missing, or its metadata is broken.
    """
    found, strays = _found(root)
    works: list[Work] = []
    for work in found:
        try:
            dated = _dated(work, ref, deadline)
            split = list(_split(dated, exercises, asked))
            if not split:
                strays.append(Stray(work.pieces[0].path, "stray_exercise"))
        except BadSubmission as error:
            words = error.text.render("en")
            split = [replace(work, remark=words, exercise=id) for id in asked] * (len(asked) == 1)
            if not split:
                strays.append(Stray(work.pieces[0].path, "stray_broken", words))
        works += [w.due(deadline) for w in split]
    works, older = _distinct(works)
    works.sort(key=lambda w: (w.student.casefold(), w.exercise))
    return Intake(tuple(works), (*strays, *older))


def open_export(path: Path, to: Path) -> Path:
    """Return the folder of submissions at `path`; an export's archive is unpacked into `to`.

    Raises:
        UsageError: there is nothing, or (BadSubmission) the archive is broken or too big.
    """
    if path.is_dir():
        return path
    if not path.exists():
        raise UsageError("class_missing", path=path)
    to.mkdir(parents=True)
    unpack(path, to, scale=CLASS)
    inner = list(to.iterdir())
    return inner[0] if len(inner) == 1 and inner[0].is_dir() else to


def _found(root: Path) -> tuple[list[Work], list[Stray]]:
    if (root / exports.METADATA).is_file():
        return exports.gradescope(root), []
    paths = sorted(p for p in root.iterdir() if not p.is_symlink() and p.name not in LEFT_OUT)
    loose = [p for p in paths if p.is_file()]
    works = [*exports.canvas(p for p in loose if not exports.MOODLE.fullmatch(p.name))]
    works += exports.moodle(paths)
    taken = {piece.path for work in works for piece in work.pieces}
    taken |= {path.parent for path in taken}
    rest = [p for p in paths if p not in taken and not exports.MOODLE.fullmatch(p.name)]
    return [*works, *_plain(rest)], [Stray(p, "stray_file") for p in rest if not _is_work(p)]


def _is_work(path: Path) -> bool:
    return path.is_dir() or path.name.lower().endswith(ARCHIVES)


def _plain(paths: Iterable[Path]) -> Iterator[Work]:
    """Yield a work for each folder and each archive; clones lose their assignment's name."""
    paths = [path for path in paths if _is_work(path)]
    clones = [path.name for path in paths if path.is_dir() and is_repository(path)]
    prefix = exports.assignment(clones) + "-"
    for path in paths:
        ending = next((e for e in ARCHIVES if path.name.lower().endswith(e)), "")
        name = path.name if path.is_dir() else path.name[: len(path.name) - len(ending)]
        if path.name in clones:
            name = name.removeprefix(prefix).removesuffix(".git")  # a bare one is called so
        yield Work(name or path.name, (Piece(path),))


def _dated(work: Work, ref: str, deadline: datetime | None) -> Work:
    path = work.whole
    if path and path.is_dir() and is_repository(path):
        commit, at, later = pick(path, ref, deadline)
        remark = f"{later} later commits" if later else ""
        return replace(work, commit=commit, at=at, remark=remark)
    if work.at or not path:
        return work
    times = (
        [path.stat().st_mtime]
        if path.is_file()
        else [(path / name).stat().st_mtime for name in Submission(path).names()]
    )
    return replace(work, at=datetime.fromtimestamp(max(times), UTC) if times else None)


def _split(work: Work, exercises: Sequence[Exercise], asked: Sequence[str]) -> Iterator[Work]:
    """Yield the work once for each exercise that it is for."""
    wanted = [e for e in exercises if not asked or e.id in asked]
    names = [PurePosixPath(name) for name in _names(work)]
    fitting = {e.id: place for e in wanted if (place := _place(e, names)) is not None}
    if not fitting and len(asked) == 1:
        fitting = {asked[0]: PurePosixPath()}
    for id, place in fitting.items():
        yield replace(work, exercise=id, inside="" if place == PurePosixPath() else str(place))


def _names(work: Work) -> list[str]:
    if work.commit:
        return listing(work.pieces[0].path, work.commit)
    if work.whole:
        return Submission.at(work.whole).names()
    return [piece.name for piece in work.pieces]


def _place(exercise: Exercise, names: Iterable[PurePosixPath]) -> PurePosixPath | None:
    """Return the folder with the exercise's module, else the one of its id, None for neither."""
    module, package = f"{exercise.module}.py", (exercise.module, "__init__.py")
    found = {name.parent for name in names if name.name == module}
    found |= {name.parent.parent for name in names if name.parts[-2:] == package}
    if not found:
        named = [p for name in names for p in name.parents if p.name == exercise.id]
        found = set(named)
    return min(found, key=lambda p: (p.name != exercise.id, len(p.parts), str(p)), default=None)


def _distinct(works: Iterable[Work]) -> tuple[list[Work], list[Stray]]:
    """Return the newest work of each student and exercise, and the others as strays."""
    newest: dict[tuple[str, str], Work] = {}
    older: list[Stray] = []
    for work in works:
        key = (work.student.casefold(), work.exercise)
        other = newest.setdefault(key, work)
        if other is not work:
            newest[key], old = (work, other) if _time(work) > _time(other) else (other, work)
            older.append(Stray(old.pieces[0].path, "stray_older"))
    return list(newest.values()), older


def _time(work: Work) -> float:
    return work.at.timestamp() if work.at else 0.0

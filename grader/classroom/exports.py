"""What learning platforms call the files that an instructor downloads from them.

Canvas ("Download Submissions"): loose files `doejane_LATE_1234_56789_calculator.py`: the sortable
    name without spaces, LATE where it was, the user's id, the submission's, the name as uploaded;
    a later upload of the same name has `-1` and so on before its ending.
Moodle ("Download all submissions"): `Jane Doe_12345_assignsubmission_file_`, a folder or, where
    folders were not asked for, the beginning of each file's name; `assignsubmission_onlinetext`
    holds typed text and is passed over.
Gradescope ("Export Submissions"): folders `submission_123` beside `submission_metadata.yml`, which
    names the submitters and the time.
GitHub Classroom (`gh classroom clone student-repos`): one clone a student, named
    `ASSIGNMENT-USERNAME`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from grader.classroom.work import Piece, Work
from grader.errors import UsageError

CANVAS = re.compile(r"(?P<name>[^_]+)_(?P<late>LATE_)?(?P<user>\d+)_(?P<id>\d+)_(?P<file>.+)")
AGAIN = re.compile(r"-\d+(?=(\.[A-Za-z]+)+$)")
MOODLE = re.compile(r"(?P<name>.+?)_(?P<id>\d+)_assignsubmission_(?P<kind>[a-z]+)_?(?P<file>.*)")
METADATA = "submission_metadata.yml"


def canvas(files: Iterable[Path]) -> list[Work]:
    """Return the works among a Canvas export's loose files, one a student."""
    found: dict[str, Work] = {}
    for file in files:
        if match := CANVAS.fullmatch(file.name):
            piece = Piece(file, AGAIN.sub("", match["file"]))
            late = bool(match["late"])
            new = Work(match["name"], (), also=(match["user"],), late=False)
            work = found.setdefault(match["user"], new)
            late = late or bool(work.late)
            found[match["user"]] = replace(work, pieces=(*work.pieces, piece), late=late)
    return [_unpacked(work) for work in found.values()]


def moodle(paths: Iterable[Path]) -> list[Work]:
    """Return the works among a Moodle export's folders and loose files, one a student."""
    found: dict[tuple[str, str], Work] = {}
    for path in paths:
        match = MOODLE.fullmatch(path.name)
        if match is None or match["kind"] != "file":
            continue
        inside = sorted(_own(path)) if path.is_dir() else [path]
        names = {p: p.name if path.is_dir() else match["file"] for p in inside}
        # A folder as it is, unless it only wraps one archive.
        alone = path.is_dir() and not (len(inside) == 1 and inside[0].is_file())
        new = [Piece(path)] if alone else [Piece(p, names[p]) for p in inside]
        key = (match["name"], match["id"])
        work = found.setdefault(key, Work(match["name"], (), also=(match["id"],)))
        found[key] = replace(work, pieces=(*work.pieces, *new))
    return [_unpacked(work) for work in found.values() if work.pieces]


def _own(folder: Path) -> list[Path]:
    """Return what lies in a folder, without links."""
    return [path for path in folder.iterdir() if not path.is_symlink()]


def _unpacked(work: Work) -> Work:
    """Return the work; one that is a single archive is that archive."""
    from grader.submission import ARCHIVES

    if len(work.pieces) == 1 and work.pieces[0].name.lower().endswith(ARCHIVES):
        return replace(work, pieces=(Piece(work.pieces[0].path),))
    return work


def gradescope(root: Path) -> list[Work]:
    """Return the works of a Gradescope export, named by its metadata.

    Raises:
        UsageError: the metadata can't be read.
    """
    file = root / METADATA
    try:
        rows = YAML(typ="safe").load(file.read_text(encoding="utf-8"))
        # A name with a path in it leads elsewhere: Gradescope writes none.
        here = {path.name: path for path in root.iterdir() if path.is_dir()}
        return [_submitted(here[name], row) for name, row in rows.items() if name in here]
    except (OSError, YAMLError, AttributeError, TypeError, ValueError) as error:
        words = str(error).partition("\n")[0]
        raise UsageError("metadata_broken", path=file, error=words) from None


def _submitted(folder: Path, row: Mapping[str, Any]) -> Work:
    people = [_plain(person) for person in _plain(row).get("submitters") or [{}]]
    first = people[0]
    student = first.get("email") or first.get("sid") or first.get("name") or folder.name
    also = [str(value) for person in people for value in person.values() if value]
    at = _plain(row).get("created_at")
    if isinstance(at, str):
        at = datetime.fromisoformat(at.replace(" UTC", "+00:00"))
    if isinstance(at, datetime) and at.tzinfo is None:
        at = at.replace(tzinfo=UTC)  # YAML's own times are read without their offset, in UTC
    return Work(str(student), (Piece(folder),), also=tuple(also), at=at)


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row without the colons of Ruby's symbols."""
    return {str(key).strip(":"): value for key, value in row.items()}


def assignment(names: list[str]) -> str:
    """Return what the names of several clones begin with, up to a hyphen: the assignment."""
    alike = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    return "".join(letters[0] for letters in alike).rpartition("-")[0] if len(names) > 1 else ""

"""An answer that is another one but for a mistake, or a style: case.toml holds only what differs.

    base = "solutions/3_1"       the folder that it is a copy of, from the project's root
    [[changes]]
    file = "tasks.py"
    old = "some lines"           text that stands in the file just once
    new = "other lines"

So the difference can be seen, and a base that is mended mends its variants. Files that lie beside
case.toml are added. The base's NOTES.md and case.toml are no part of an answer.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grader.errors import BadExercise
from grader.exercise import ROOT

ASIDE = ("NOTES.md", "case.toml", "__pycache__")


def laid(folder: Path, case: Mapping[str, Any], to: Path) -> Path:
    """Return the folder that holds a case's whole answer: `folder`, or for a variant `to`.

    Args:
        folder: where its case.toml lies.
        case: what case.toml says.
        to: where a variant is put together; it must not exist.

    Raises:
        BadExercise: there is no such base, or a change does not fit it just once.
    """
    if "base" not in case:
        return folder
    file = folder / "case.toml"
    base = ROOT / str(case["base"])
    if not base.is_dir():
        raise BadExercise("bad_key", file=file, key="base", wanted="a folder of the project")
    shutil.copytree(base, to, ignore=shutil.ignore_patterns(*ASIDE))
    for number, change in enumerate(case.get("changes", ())):
        _change(to, change, file, f"changes[{number}]")
    shutil.copytree(folder, to, ignore=shutil.ignore_patterns(*ASIDE), dirs_exist_ok=True)
    return to


def _change(folder: Path, change: Any, file: Path, key: str) -> None:
    row = change if isinstance(change, dict) else {}
    name, old, new = (row.get(word) for word in ("file", "old", "new"))
    if not (isinstance(name, str) and isinstance(old, str) and isinstance(new, str)):
        raise BadExercise("bad_key", file=file, key=key, wanted="file, old and new, all texts")
    target = folder / name
    text = target.read_text(encoding="utf-8") if target.is_file() else ""
    if text.count(old) != 1:
        wanted = f"text that stands just once in {name} of the base"
        raise BadExercise("bad_key", file=file, key=f"{key}.old", wanted=wanted)
    target.write_text(text.replace(old, new), encoding="utf-8")

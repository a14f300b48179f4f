"""Makes notebooks from scripts: code once, prose in each language, no outputs.

A script is an ordinary Python file whose cells begin with a line:

    # %%                        code
    # %% name                   code whose output somebody asks for by that name
    # %% file="kitchen.py"      code that is written into a file when the cell is run
    # %% name [markdown]        prose, as comments

The prose in Chinese stands beside it, in a Markdown file whose parts begin with `<!-- name -->`.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grader.errors import LabFault, UsageError
from grader.exercise import ROOT, suggestion

FOLDER = ROOT / "notebooks"
SCRIPTS = FOLDER / "scripts"
PLACES = {"en": FOLDER, "zh": FOLDER / "zh-CN"}
MARK = re.compile(r"^# %%(?P<rest>.*)\n", re.M)
FILE = re.compile(r'file="(?P<file>[\w.]+)"')
PART = re.compile(r"^<!-- (?P<name>[\w-]+) -->\n", re.M)
HEADING = re.compile(r"^(#+) ", re.M)
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}


@dataclass(frozen=True)
class Cell:
    """One cell: its kind is `markdown` or `code`."""

    kind: str
    name: str
    text: str


def ids() -> list[str]:
    """Return the notebooks that there are."""
    return sorted(path.stem for path in SCRIPTS.glob("*.py"))


def script_of(id: str) -> Path:
    """Return a notebook's script; UsageError if there is no such notebook."""
    if id not in ids():
        raise UsageError("unknown_notebook", id=id, nearest=suggestion(id, ids()))
    return SCRIPTS / f"{id}.py"


def prose_of(id: str) -> Path:
    """Return the file with a notebook's prose in Chinese."""
    return SCRIPTS / f"{id}.zh-CN.md"


def cells(script: str) -> list[Cell]:
    """Return the cells of a script; what stands before the first one is the script's own."""
    pieces = MARK.split(script)[1:]
    return [_cell(*pair) for pair in zip(pieces[::2], pieces[1::2], strict=True)]


def _cell(rest: str, text: str) -> Cell:
    text, words = text.strip("\n"), rest.split()
    if "[markdown]" in words:
        return Cell("markdown", words[0], re.sub(r"^# ?", "", text, flags=re.M))
    if file := FILE.search(rest):
        return Cell("code", file["file"], f"%%writefile {file['file']}\n{text}")
    return Cell("code", words[0] if words else "", text)


def parts(prose: str) -> dict[str, str]:
    """Return the translated parts by name."""
    pieces = PART.split(prose)[1:]
    return {name: text.strip("\n") for name, text in zip(pieces[::2], pieces[1::2], strict=True)}


def translation_problems(id: str) -> list[str]:
    """Return where prose and translation differ: names, their order, headings."""
    prose = {c.name: c.text for c in cells(script_of(id).read_text("utf-8")) if c.kind != "code"}
    path = prose_of(id)
    other = parts(path.read_text("utf-8")) if path.is_file() else {}
    found = [f"{path.name}: no translation of {name}" for name in prose if not other.get(name)]
    found += [f"{path.name}: {name} translates nothing" for name in other if name not in prose]
    if not found and list(prose) != list(other):
        found.append(f"{path.name}: its parts stand in another order")
    for name in prose.keys() & other.keys():
        if HEADING.findall(prose[name]) != HEADING.findall(other[name]):
            found.append(f"{path.name}: {name} has other headings")
    return found


def build(id: str, lang: str = "en") -> dict[str, Any]:
    """Return the notebook as nbformat 4 wants it, without outputs."""
    script = script_of(id).read_text("utf-8")
    found = cells(script)
    if lang == "zh":
        other = parts(prose_of(id).read_text("utf-8"))
        found = [Cell(c.kind, c.name, other[c.name]) if c.kind != "code" else c for c in found]
    made = [_made(cell, number) for number, cell in enumerate(found)]
    print_ = hashlib.sha256(json.dumps(made).encode()).hexdigest()[:16]
    metadata = {"kernelspec": KERNEL, "lab": {"source": print_}}
    return {"cells": made, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def _made(cell: Cell, number: int) -> dict[str, Any]:
    id = re.sub(r"\W", "-", cell.name) or f"cell-{number}"
    made: dict[str, Any] = {"cell_type": cell.kind, "id": id, "metadata": {}}
    if cell.kind == "code":
        made |= {"execution_count": None, "outputs": []}
    return made | {"source": cell.text.splitlines(keepends=True)}


def text(id: str, lang: str = "en") -> str:
    """Return the file's content; LabFault where prose has no translation."""
    if lang == "zh" and (wrong := translation_problems(id)):
        raise LabFault("notebook_untranslated", problems="; ".join(wrong))
    return json.dumps(build(id, lang), ensure_ascii=False, indent=1) + "\n"


def place(id: str, lang: str = "en") -> Path:
    """Return where the notebook lies in the repository."""
    return PLACES[lang] / f"{id}.ipynb"


def stale() -> list[tuple[str, str]]:
    """Return (id, language) of the notebooks that are not what their scripts give."""
    pairs = [(id, lang) for id in ids() for lang in PLACES]
    return [pair for pair in pairs if _read(place(*pair)) != text(*pair)]


def _read(path: Path) -> str:
    return path.read_text("utf-8") if path.is_file() else ""


def refresh() -> list[Path]:
    """Write the notebooks anew and return the files that changed."""
    changed = stale()
    for id, lang in changed:
        place(id, lang).parent.mkdir(exist_ok=True)
        place(id, lang).write_text(text(id, lang), encoding="utf-8")
    return [place(*pair) for pair in changed]

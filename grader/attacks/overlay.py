"""Lays an attack over a starter or a reference solution, and tells it what a spy could know."""

from __future__ import annotations

import ast
import json
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grader.attacks import material
from grader.attacks.case import FOLDER, Attack
from grader.exercise import SOLUTIONS, Exercise
from grader.submission import HANDOUT

KIT = FOLDER / "kit.py"
# Both are the lab's names inside a submission; no exercise has a module of these names.
FIRST, LAST = "import attack", "attack.after(app)"
# Python 3.11 builds syntax trees in threads one into the other, and calls it a SystemError
# (cpython#106905).
PARSING = threading.Lock()
NOT_A_STUDENTS = (*HANDOUT, "NOTES.md", "__pycache__")


def lay(attack: Attack, exercise: Exercise, to: Path, facts: Mapping[str, Any]) -> Path:
    """Make the submission below `to` and return its path: a folder, or an archive.

    Args:
        facts: what the attack is told: where things lie that it is after.
    """
    below = exercise.folder if attack.on == "empty" else SOLUTIONS / exercise.id
    work = to / "work"
    shutil.copytree(below, work, ignore=shutil.ignore_patterns(*NOT_A_STUDENTS))
    if (attack.folder / "attack.py").is_file():
        shutil.copyfile(attack.folder / "attack.py", work / "attack.py")
        write_kit(work, facts)
        module = module_file(work, exercise.module)
        after = "def after(" in (work / "attack.py").read_text(encoding="utf-8")
        module.write_text(wrapped(module.read_text(encoding="utf-8"), after), encoding="utf-8")
    if (attack.folder / "files").is_dir():
        shutil.copytree(attack.folder / "files", work, dirs_exist_ok=True)
    if attack.material:
        return material.BUILDERS[attack.material](work, facts)
    return work


def write_kit(work: Path, facts: Mapping[str, Any]) -> None:
    """Write the module that an attack imports as `attack_kit`, the facts in it."""
    told = f"FACTS.update({json.dumps(dict(facts))})\n"
    (work / "attack_kit.py").write_text(KIT.read_text(encoding="utf-8") + "\n\n" + told)


def module_file(work: Path, module: str) -> Path:
    """Return the file of the submission's module, which may be a package."""
    place = work.joinpath(*module.split("."))
    package = place / "__init__.py"
    return package if package.is_file() else place.with_suffix(".py")


def wrapped(source: str, after: bool) -> str:
    """Return the module's text with the attack before all it does, and behind it if wanted.

    What must come first in a file, its docstring and the imports from `__future__`, stays there.
    """
    lines, first = source.splitlines(), 0
    with PARSING:
        tree = ast.parse(source)
    for node in tree.body:
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if not docstring and not (isinstance(node, ast.ImportFrom) and node.module == "__future__"):
            break
        first = node.end_lineno or 0
    return "\n".join([*lines[:first], FIRST, *lines[first:], LAST if after else "", ""])

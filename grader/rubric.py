"""Holds a rubric against its checks: every hint and sentence that a check may use is there."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from grader import hints
from grader.exercise import SOLUTIONS, Exercise


def rubric_problems(exercise: Exercise) -> list[str]:
    """Return what is wrong between one exercise's rubric, checks and files, a sentence each."""
    found = []
    core = exercise.points()
    if core != 100:
        found.append(f"{exercise.id}: the core criteria add up to {core} points, not 100")
    for folder in (exercise.folder, SOLUTIONS / exercise.id):
        found += [f"{folder / f} is missing" for f in exercise.files if not (folder / f).exists()]
    for path in exercise.check_files:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found += [f"{path.name}: {problem}" for problem in _missing(tree, exercise)]
    return found + list(hints.hint_problems(exercise))


def _missing(tree: ast.Module, exercise: Exercise) -> Iterator[str]:
    """Yield the hints and sentences that are used and not written."""
    written = {name for row in exercise.criteria for name in row.hints}
    for function in (n for n in tree.body if isinstance(n, ast.FunctionDef)):
        id = function.name.removeprefix("test_")
        own = next((set(c.hints) for c in exercise.criteria if c.id == id), None)
        for name in _strings(function, "hint", 0):
            # What several checks share may name a hint that only some of them have.
            if name not in (written if own is None else own):
                yield f"criteria.{id}.hints.{name} is not in exercise.toml"
        for key in _strings(function, "fact", 1):
            if key not in exercise.words:
                yield f"words.{key} is not in exercise.toml"


def _strings(function: ast.FunctionDef, name: str, position: int) -> list[str]:
    """Return every text that calls of `name` in the function may get at this position."""
    found = []
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and _name(node.func) == name and len(node.args) > position:
            argument = node.args[position]
            variable = argument.id if isinstance(argument, ast.Name) else None
            sources = _assigned(function, variable) if variable else [argument]
            found += [text for source in sources for text in _results(source)]
    return found


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _assigned(function: ast.FunctionDef, variable: str) -> list[ast.expr]:
    """Return what the function assigns to a variable."""
    return [
        node.value
        for node in ast.walk(function)
        if isinstance(node, ast.Assign) and any(_name(t) == variable for t in node.targets)
    ]


def _results(node: ast.expr) -> list[str]:
    """Return the texts that an expression can come to: a text, or `a if condition else b`."""
    if isinstance(node, ast.IfExp):
        return _results(node.body) + _results(node.orelse)
    return [node.value] if isinstance(node, ast.Constant) and isinstance(node.value, str) else []

"""Compose's own variables, `${NAME:-default}`: what a file says without any environment.

https://docs.docker.com/reference/compose-file/interpolation/ has the syntax.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

# Stands for a value that only the environment has. No YAML file can hold this character.
UNKNOWN = "\0"
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
DEEPEST = 20


def expand(text: str, known: Mapping[str, str] | None = None, depth: int = 0) -> str:
    """Return the text with every variable replaced by its default, as with an empty environment.

    Args:
        known: values that are given all the same.

    Returns:
        UNKNOWN stands where a variable has no default; `$$` is a plain dollar.
    """
    return "".join(
        piece if isinstance(piece, str) else _value(*piece, known or {}, depth)
        for piece in _pieces(text)
    )


def names(text: str, depth: int = 0) -> set[str]:
    """Return the names of all variables in the text, those in defaults too."""
    found: set[str] = set()
    for piece in _pieces(text):
        if not isinstance(piece, str):
            found.add(piece[0])
            if depth < DEEPEST:
                found |= names(piece[2], depth + 1)
    return found


def _value(name: str, operator: str, word: str, known: Mapping[str, str], depth: int) -> str:
    value = known.get(name)
    given = value is not None and (value != "" or not operator.startswith(":"))
    inner = "" if depth >= DEEPEST else word
    if operator.endswith("+"):
        return expand(inner, known, depth + 1) if given else ""
    if given:
        return str(value)
    return expand(inner, known, depth + 1) if operator.endswith("-") else UNKNOWN


def _pieces(text: str) -> Iterator[str | tuple[str, str, str]]:
    """Yield plain text, and (name, operator, word) for each variable."""
    at = 0
    while (dollar := text.find("$", at)) >= 0:
        yield text[at:dollar]
        piece, at = _piece(text, dollar + 1)
        yield piece
    yield text[at:]


def _piece(text: str, at: int) -> tuple[str | tuple[str, str, str], int]:
    """Return what stands behind a dollar, and where it ends."""
    if text.startswith("$", at):
        return "$", at + 1
    if plain := NAME.match(text, at):
        return (plain[0], "", ""), plain.end()
    end = _closing(text, at) if text.startswith("{", at) else -1
    name = NAME.match(text, at + 1) if end >= 0 else None
    rest = text[name.end() : end] if name else ""
    operator = re.match(r":?[-?+]|$", rest)
    if not name or operator is None:
        return "$", at  # no variable, and Compose would refuse it
    return (name[0], operator[0], rest[operator.end() :]), end + 1


def _closing(text: str, at: int) -> int:
    """Return the place of the brace that closes the one at `at`, -1 if none does."""
    depth = 0
    for place in range(at, len(text)):
        if text[place] == "{" and (place == at or text[place - 1] == "$"):
            depth += 1
        elif text[place] == "}":
            depth -= 1
            if not depth:
                return place
    return -1

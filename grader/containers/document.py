"""A YAML file as data, with the line and column of every part of it."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from grader.containers.complaint import Broken
from grader.words import Text

MOST_BYTES = 200_000
# Anchors make a small file into a huge document ("billion laughs").
MOST_PARTS = 20_000


@dataclass(frozen=True)
class Document:
    """A parsed file: `data` as Python has it, `root` as ruamel.yaml's nodes."""

    path: Path
    data: Any
    root: Any

    def place(self, steps: Sequence[Any]) -> str:
        """Return "line 3, column 5" of the part that the keys and indexes lead to.

        What a merge (`<<`) brought is not where it seems to be: then it is the nearest part above.
        """
        node = self.root
        for step in steps:
            inner = _inner(node, step)
            if inner is None:
                break
            node = inner
        return mark(node.start_mark)


def mark(where: Any) -> str:
    """Return a ruamel.yaml mark as words."""
    return f"line {where.line + 1}, column {where.column + 1}"


def read(path: Path, shown: str) -> Document:
    """Read a YAML file whose top is a mapping.

    Args:
        shown: the file's name in sentences.

    Raises:
        Broken: it is missing, no YAML, too big, or a list; the sentence has line and column.
    """
    text = read_text(path, shown)
    root = _compose(text, shown)
    if root is None or root.id != "mapping":
        kind = "nothing" if root is None else {"sequence": "a list"}.get(root.id, "text")
        where = "line 1, column 1" if root is None else mark(root.start_mark)
        seen = Text.of("containers_top", file=shown, place=where, kind=kind)
        raise Broken(Text.of("containers_top_wanted", file=shown), seen)
    return Document(path, _data(text, shown), root)


def read_text(path: Path, shown: str) -> str:
    """Return a file's text; Broken if it is missing, too big or no UTF-8."""
    wanted = Text.of("containers_file_wanted", file=shown)
    try:
        if path.stat().st_size > MOST_BYTES:
            raise Broken(wanted, Text.of("containers_huge", file=shown))
        return path.read_text(encoding="utf-8")
    except OSError:
        raise Broken(wanted, Text.of("containers_missing", file=shown), "missing") from None
    except UnicodeDecodeError:
        raise Broken(wanted, Text.of("containers_no_text", file=shown)) from None


def _compose(text: str, shown: str) -> Any:
    """Return the root node, None for an empty file."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        root = YAML(typ="safe", pure=True).compose(text)
        parts = _count(root, {}) if root is not None else 0
    except YAMLError as error:
        raise _no_yaml(error, shown) from None
    except (RecursionError, ValueError):
        parts = MOST_PARTS + 1
    if parts > MOST_PARTS:
        raise Broken(
            Text.of("containers_yaml_wanted", file=shown), Text.of("containers_huge", file=shown)
        )
    return root


def _data(text: str, shown: str) -> Any:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    reader = YAML(typ="safe", pure=True)
    reader.Constructor = _constructor()
    try:
        return _plain(reader.load(text))
    except YAMLError as error:
        raise _no_yaml(error, shown) from None
    except (RecursionError, ValueError, TypeError) as error:
        words = str(error).partition("\n")[0]
        seen = Text.of("containers_yaml", file=shown, place="-", problem=words)
        raise Broken(Text.of("containers_yaml_wanted", file=shown), seen, "yaml") from None


def _no_yaml(error: Any, shown: str) -> Broken:
    where = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
    seen = Text.of(
        "containers_yaml", file=shown, place=mark(where) if where else "-", problem=problem
    )
    return Broken(Text.of("containers_yaml_wanted", file=shown), seen, "yaml")


@cache
def _constructor() -> Any:
    """Return a constructor that knows Compose's own tags `!override` and `!reset`."""
    from ruamel.yaml.constructor import SafeConstructor

    class Constructor(SafeConstructor):
        """One of our own, so that other users of the library are left alone."""

    def override(self: Any, node: Any) -> Any:
        kinds = {"mapping": self.construct_mapping, "sequence": self.construct_sequence}
        if node.id in kinds:
            return kinds[node.id](node, deep=True)
        return self.construct_scalar(node)

    Constructor.add_constructor("!override", override)
    Constructor.add_constructor("!reset", lambda self, node: None)
    return Constructor


def _count(node: Any, known: dict[int, int]) -> int:
    """Return how many parts the node has with every alias written out."""
    if id(node) not in known:
        known[id(node)] = MOST_PARTS + 1  # an alias to what it stands in never ends
        known[id(node)] = 1 + sum(_count(child, known) for child in _children(node))
    return known[id(node)]


def _children(node: Any) -> list[Any]:
    if node.id == "mapping":
        return [part for pair in node.value for part in pair]
    return list(node.value) if node.id == "sequence" else []


def _inner(node: Any, step: Any) -> Any:
    if node.id == "sequence" and isinstance(step, int) and step < len(node.value):
        return node.value[step]
    if node.id == "mapping":
        for key, value in node.value:
            if key.id == "scalar" and key.value == str(step):
                # Where a whole list or mapping is meant, its key is what one looks for.
                return value if value.start_mark.line == key.start_mark.line else _Below(key, value)
    return None


class _Below:
    """A value that begins on a later line than its key: it is told by the key's place."""

    def __init__(self, key: Any, value: Any) -> None:
        self.id, self.value, self.start_mark = value.id, value.value, key.start_mark


def _plain(value: Any) -> Any:
    """Return the data as JSON could hold it: Compose reads a date as text."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(inner) for inner in value]
    if isinstance(value, datetime.date | bytes):
        return str(value)
    return value

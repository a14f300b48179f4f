"""A compose file against the schema that the Compose specification publishes."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from grader.containers.complaint import Complaint
from grader.containers.document import Document
from grader.words import Text

SCHEMA = Path(__file__).with_name("compose-spec.json")
KINDS = {
    "object": ("a mapping (`key: value` lines)", "一个映射（`键: 值`）"),
    "array": ("a list (`- item` lines)", "一个列表（`- 条目`）"),
    "string": ("text", "文本"),
    "number": ("a number", "数字"),
    "integer": ("a whole number", "整数"),
    "boolean": ("true or false", "true 或 false"),
    "null": ("nothing", "空值"),
}


@cache
def _validator() -> Any:
    with _without("rfc3987_syntax"):
        from jsonschema import Draft202012Validator

    return Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))


@contextlib.contextmanager
def _without(module: str) -> Iterator[None]:
    """Have nobody find a module meanwhile that is not loaded yet.

    Jupyter brings a parser of international addresses along. jsonschema loads it where it is there:
    a second, for a format that the schema does not name.
    """
    if absent := module not in sys.modules:
        sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if absent:
            del sys.modules[module]


def complaint(document: Document, shown: str) -> Complaint | None:
    """Return what the schema finds wrong first, None if nothing is."""
    found = list(_validator().iter_errors(document.data))
    # Where a part of a service is wrong, the schema calls all of the service's keys unknown too.
    telling = [error for error in found if error.validator != "unevaluatedProperties"]
    if not found:
        return None
    error = _telling((telling or found)[0])
    hint = "obsolete_version" if "version" in document.data else "default"
    wanted = Text.of("containers_schema_wanted", file=shown)
    return Complaint(wanted, _seen(document, error, shown), hint)


def _telling(error: Any) -> Any:
    """Go down to what is wrong in the one form of several (`oneOf`) that can have been meant."""
    while error.context:
        forms: dict[Any, list[Any]] = {}
        for part in error.context:
            forms.setdefault(part.schema_path[0], []).append(part)
        meant = [parts for parts in forms.values() if not any(map(_other_kind, parts))]
        if len(meant) != 1:
            return error
        error = meant[0][0]
    return error


def _other_kind(error: Any) -> bool:
    """Whether a value is of another kind than this form of it would be."""
    return error.validator == "type" and not error.relative_path


def _seen(document: Document, error: Any, shown: str) -> Text:
    steps = list(error.absolute_path)
    unknown = _unknown_keys(error)
    place = document.place([*steps, unknown[0]] if unknown else steps)
    at = ".".join(map(str, steps)) or "-"
    if unknown:
        keys = ", ".join(unknown)
        return Text.of("containers_unknown_key", file=shown, place=place, at=at, keys=keys)
    kinds = _kinds(error)
    if kinds:
        return Text.of(
            "containers_wrong_kind",
            file=shown,
            place=place,
            at=at,
            wanted=_name(kinds),
            seen=_name([_kind(error.instance)]),
        )
    words = error.message if len(error.message) < 200 else f"{error.message[:200]} ..."
    return Text.of("containers_not_valid", file=shown, place=place, at=at, problem=words)


def _unknown_keys(error: Any) -> list[str]:
    if error.validator not in ("additionalProperties", "unevaluatedProperties"):
        return []
    if error.validator == "additionalProperties":
        return [k for k in error.instance if k not in error.schema.get("properties", {})]
    every = {
        key
        for part in ("container_spec", "workload_spec", "service")
        for key in _validator().schema["$defs"][part].get("properties", {})
    }
    return [key for key in error.instance if key not in every and not key.startswith("x-")]


def _kinds(error: Any) -> list[str]:
    """Return the kinds of value that would do, none where the kind is not what is wrong."""
    if error.validator == "type":
        wanted = error.validator_value
        return [wanted] if isinstance(wanted, str) else list(wanted)
    if error.validator in ("anyOf", "oneOf"):
        below = [part for part in error.context if not part.relative_path]
        if below and all(part.validator == "type" for part in below):
            return list(dict.fromkeys(kind for part in below for kind in _kinds(part)))
    return []


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    for kind, types in (("object", dict), ("array", list), ("string", str), ("null", type(None))):
        if isinstance(value, types):
            return kind
    return "number"


def _name(kinds: Iterable[str]) -> Text:
    english, chinese = zip(*(KINDS[kind] for kind in kinds), strict=True)
    return Text({"en": " or ".join(english), "zh": "或".join(chinese)})

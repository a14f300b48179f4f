"""An attack as its folder describes it.

tests/attacks/<id>/attack.py      its code: the top level runs when the submission's module is
                                  imported, `after(app)` at the end of that module
tests/attacks/<id>/files/         further files of the submission (optional)
tests/attacks/<id>/attack.toml:

title = { en, zh }        what is tried
holds = { en, zh }        what stands in its way
on = "empty"              laid over the starter, or "solution": over the reference solution
judged = "all"            or "core", or "first": the first criterion only; or a list of criteria
keeps = true              it costs the submission nothing: the same points as without it
brokers = ["redis"]       the brokers to run it on, Redis by default
exercise = "1_2"          where the mechanism is that exercise's own (optional)
needs = ["files"]         what the sandbox must enforce for this to hold (see BARRIERS)
material = "links"        what grader/attacks/material.py adds to the submission
refused = true            the submission is refused before anything of it runs
quiet = "why"             its code can't say that it ran
naive = true              it fools tests/attacks/naive.py, a grader as they are often written
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from grader.errors import BadExercise
from grader.exercise import BROKERS, ROOT, Exercise

FOLDER = ROOT / "tests" / "attacks"
LAID_OVER = ("empty", "solution")
JUDGED = ("all", "core", "first")
# What a sandbox may enforce, and an attack may need it to.
BARRIERS = ("files", "signals", "network", "processes", "disk", "ipc", "memory", "calls")
LANGUAGES = ("en", "zh")


@dataclass(frozen=True)
class Attack:
    """One attack; the module's docstring explains each field."""

    folder: Path
    title: Mapping[str, str]
    holds: Mapping[str, str]
    on: str = "empty"
    judged: str | list[str] = "all"
    keeps: bool = False
    brokers: tuple[str, ...] = ("redis",)
    exercise: str = ""
    needs: tuple[str, ...] = ()
    material: str = ""
    refused: bool = False
    quiet: str = ""
    naive: bool = False

    @property
    def id(self) -> str:
        """The folder's name."""
        return self.folder.name

    def fits(self, exercise: Exercise) -> bool:
        """Whether it can be laid over this exercise."""
        return self.exercise in ("", exercise.id)

    def not_enforced(self, barriers: Iterable[str]) -> tuple[str, ...]:
        """Return what it needs and a sandbox with these barriers lacks."""
        return tuple(need for need in self.needs if need not in set(barriers))

    def criteria(self, exercise: Exercise) -> tuple[str, ...]:
        """Return the criteria that it is judged by, an empty tuple for all of them."""
        if isinstance(self.judged, list):
            return tuple(self.judged)
        core = tuple(row.id for row in exercise.criteria if not row.bonus)
        return {"all": (), "core": core, "first": core[:1]}[self.judged]


def attacks() -> list[Attack]:
    """Return all attacks, sorted by name."""
    return [read(file.parent) for file in sorted(FOLDER.glob("*/attack.toml"))]


def read(folder: Path) -> Attack:
    """Read an attack's folder.

    Raises:
        BadExercise: its attack.toml can't be read, lacks a key or holds a wrong one.
    """
    file = folder / "attack.toml"
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise BadExercise("broken_toml", file=file, error=error) from None
    for key, wanted in _wrong(data):
        raise BadExercise("bad_key", file=file, key=key, wanted=wanted)
    lists: dict[str, Any] = {key: tuple(data[key]) for key in ("brokers", "needs") if key in data}
    return Attack(folder, **{**data, **lists})


def _wrong(data: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    known = {field.name for field in fields(Attack)} - {"folder"}
    yield from ((key, f"one of {sorted(known)}") for key in set(data) - known)
    for key in ("title", "holds"):
        if not isinstance(data.get(key), dict) or set(data[key]) != set(LANGUAGES):
            yield key, "text in both languages"
    choices: dict[str, tuple[str, ...]] = {"brokers": BROKERS, "needs": BARRIERS, "on": LAID_OVER}
    if isinstance(data.get("judged"), str):
        choices["judged"] = JUDGED
    for key, offered in choices.items():
        given = data.get(key, [])
        if not {given} <= {*offered} if isinstance(given, str) else not {*given} <= {*offered}:
            yield key, f"out of {list(offered)}"

"""An exercise as its folder describes it: exercise.toml has the numbers, test_*.py the checks."""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import re
import string
import sys
import threading
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from grader.check import Check
from grader.errors import BadExercise, UsageError
from grader.words import Text

ROOT = Path(__file__).resolve().parent.parent
EXERCISES = ROOT / "exercises"
SOLUTIONS = ROOT / "solutions"
BROKERS = ("redis", "rabbitmq")
PROVIDERS = ("external", "compose", "system", "embedded")
# What a lab prepares only where asked for: the workers' events cost a tenth of a run, a broker that
# can be restarted (RabbitMQ) four seconds.
NEEDS = ("events", "own_broker")
# What is installed when the exercise is graded; see extras.
EXTRAS = ("flower", "solar")
# What [environment] may name; see resources.
RESOURCE = re.compile(
    r"(http|redis)\.[a-z][a-z0-9_]*|data"
    r"|shop\.(user|order|payment|notification|inventory|analytics)"
)
# Before the first table.
DRAFT = re.compile(r"[^\[]*?^draft *= *true\b", re.MULTILINE)
SIDES = ("expected", "observed")


@dataclass(frozen=True)
class Criterion:
    """One row of the rubric. `hints` holds "default" and the named mistakes."""

    id: str
    points: int
    bonus: bool
    title: Mapping[str, str]
    hints: Mapping[str, Text]


@dataclass(frozen=True)
class Exercise:
    """An exercise's folder and everything exercise.toml says of it."""

    id: str
    folder: Path
    title: Mapping[str, str]
    stars: int
    minutes: int
    module: str
    brokers: tuple[str, ...]
    files: tuple[str, ...]
    needs: tuple[str, ...]
    environment: Mapping[str, str]
    extras: tuple[str, ...]
    speed: int
    children: int
    patience: int
    criteria: tuple[Criterion, ...]
    words: Mapping[str, Mapping[str, Mapping[str, str]]]
    private: Path | None = None  # an instructor's own checks (grader/private.py)

    @cached_property
    def checks(self) -> dict[str, Check]:
        """The checks by criterion id, in the order of the files (loaded when first asked for)."""
        checks = [c for path in self.check_files for c in load_checks(path)]
        found = {c.id: c for c in checks}
        rubric = [criterion.id for criterion in self.criteria]
        odd = set(found) ^ set(rubric) | {c.id for c in checks if found[c.id] is not c}
        if odd:
            words = ", ".join(sorted(odd))
            raise BadExercise("bad_rubric", file=self.folder / "exercise.toml", odd=words)
        return found

    @property
    def check_files(self) -> list[Path]:
        """The files that hold the checks, sorted by name, an instructor's own last."""
        own = sorted(self.private.glob("test_*.py")) if self.private else []
        return [*sorted(self.folder.glob("test_*.py")), *own]

    def points(self, bonus: bool = False) -> int:
        """Return the core points to be had, or the bonus points."""
        return sum(c.points for c in self.criteria if c.bonus is bonus)

    def asked(self, wanted: str) -> tuple[str, ...]:
        """Return the brokers to run on for an option's "redis", "rabbitmq" or "all".

        Raises:
            UsageError: the exercise does not run on that broker.
        """
        if wanted in ("", "all"):
            return self.brokers
        if wanted not in self.brokers:
            offered = ", ".join(self.brokers)
            raise UsageError("broker_not_offered", id=self.id, broker=wanted, offered=offered)
        return (wanted,)

    def criterion(self, id: str) -> Criterion:
        """Return the rubric's row of that id; UsageError names the nearest one."""
        for criterion in self.criteria:
            if criterion.id == id:
                return criterion
        known = [c.id for c in self.criteria]
        near = suggestion(id, known)
        raise UsageError("unknown_criterion", id=id, nearest=near, exercise=self.id)


def find(id: str) -> Exercise:
    """Return the exercise of that id; UsageError names the nearest one, or all there are."""
    known = {path.name: path for path in folders()}
    if folder := {path.name: path for path in folders(drafts=True)}.get(id.rstrip("/")):
        return load(folder)
    if not known:
        raise UsageError("no_exercises", id=id, folder=EXERCISES)
    raise UsageError("unknown_exercise", id=id, nearest=suggestion(id, known))


def folders(drafts: bool = False) -> list[Path]:
    """Return the folders of all exercises, sorted by name.

    Args:
        drafts: with those whose exercise.toml says `draft = true`: they are found by their id only,
            until every proof of them is in.
    """
    found = sorted(path.parent for path in EXERCISES.glob("*/exercise.toml"))
    return [path for path in found if drafts or not _is_draft(path / "exercise.toml")]


def _is_draft(file: Path) -> bool:
    # Parsing them all would take longer than the rest of `lab list`. A file that can't be read is
    # no draft: whoever loads it says what is wrong.
    with contextlib.suppress(OSError, ValueError):
        return bool(DRAFT.match(file.read_text(encoding="utf-8")))
    return False


def nearest(word: str, known: Iterable[str]) -> str:
    """Return the known word most like `word`, however little that is."""
    return (difflib.get_close_matches(word, list(known), 1, 0.0) or ["-"])[0]


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return the known word that `word` may stand for, all of them where none is near."""
    options = list(known)
    return ", ".join(difflib.get_close_matches(word, options, 1) or options)


def load(folder: Path) -> Exercise:
    """Read `folder`/exercise.toml.

    Raises:
        BadExercise: the file can't be read, is not TOML, lacks a key or holds a wrong one.
    """
    file = folder / "exercise.toml"
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, RecursionError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadExercise("broken_toml", file=file, error=error) from None
    return Reader(file, data).exercise()


class Reader:
    """Turns the parsed file into an Exercise and names the key that is wrong."""

    def __init__(self, file: Path, data: dict[str, Any]) -> None:
        self.file, self.data = file, data

    def exercise(self) -> Exercise:
        """Return the whole exercise."""
        data = self.data
        brokers, files = self.texts("brokers"), self.texts("files")
        if set(brokers) - set(BROKERS):
            raise self.wrong("brokers", f"a list out of {list(BROKERS)}")
        needs = self.texts("needs") if "needs" in data else ()
        if set(needs) - set(NEEDS):
            raise self.wrong("needs", f"a list out of {list(NEEDS)}")
        extras = self.texts("extras") if "extras" in data else ()
        if set(extras) - set(EXTRAS):
            raise self.wrong("extras", f"a list out of {list(EXTRAS)}")
        rows = self.need(data, "criteria", dict, "criteria")
        if not rows:
            raise self.wrong("criteria", "a table with at least one criterion")
        return Exercise(
            id=self.file.parent.name,
            folder=self.file.parent,
            title=self.both(data, "title", "title"),
            stars=self.need(data, "stars", int, "stars"),
            minutes=self.need(data, "minutes", int, "minutes"),
            module=self.need(data, "module", str, "module"),
            brokers=brokers,
            files=files,
            needs=needs,
            environment=self.environment(),
            extras=extras,
            speed=self.count("speed", 1),
            children=self.count("children", 2),
            patience=self.count("patience", 240),
            criteria=tuple(self.criterion(id, row, len(brokers)) for id, row in rows.items()),
            words=self.all_words(),
        )

    def all_words(self) -> dict[str, dict[str, dict[str, str]]]:
        """Return the sentences that the checks may use: key -> side -> language -> text."""
        table = self.need(self.data, "words", dict, "words", optional=True)
        return {
            key: {side: self.both(row, side, f"words.{key}.{side}") for side in SIDES}
            for key, row in table.items()
        }

    def environment(self) -> dict[str, str]:
        """Return variable -> text; its {placeholders} name resources."""
        table = self.need(self.data, "environment", dict, "environment", optional=True)
        for name, text in table.items():
            key = f"environment.{name}"
            self.need(table, name, str, key)
            try:
                odd = [place for place in _placeholders(text) if not RESOURCE.fullmatch(place)]
            except ValueError:
                odd = [text]
            if odd:
                raise self.wrong(
                    key,
                    "text with no placeholders but "
                    "{http.NAME}, {redis.NAME}, {shop.SERVICE}, {data}",
                )
        return dict(table)

    def count(self, key: str, usual: int) -> int:
        """Return a whole number of 1 or more: `speed` (how many times sooner a retry is started
        than it was planned for), `children` (of a worker's pool), `patience` (seconds that the
        checks of one broker that fail may take together before no other begins)."""
        found = self.need(self.data, key, int, key) if key in self.data else usual
        if found < 1:
            raise self.wrong(key, "a whole number, at least 1")
        return int(found)

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a list of different texts, at least one."""
        found = self.need(self.data, key, list, key)
        if not found or not all(isinstance(t, str) for t in found) or len(set(found)) < len(found):
            raise self.wrong(key, "a list of different texts, at least one")
        return tuple(found)

    def criterion(self, id: str, row: Any, brokers: int) -> Criterion:
        """Return one row of the rubric, its points shared among so many brokers."""
        key = f"criteria.{id}"
        if not isinstance(row, dict):
            raise self.wrong(key, "a table")
        points = self.need(row, "points", int, f"{key}.points")
        if points <= 0 or points % brokers:
            # Each broker's run of a criterion earns an equal, whole share of its points.
            raise self.wrong(f"{key}.points", f"a positive multiple of {brokers}")
        hints = {
            name: Text(self.both(row["hints"], name, f"{key}.hints.{name}", fields=False))
            for name in self.need(row, "hints", dict, f"{key}.hints")
        }
        if "default" not in hints:
            raise self.wrong(f"{key}.hints.default", "a hint in both languages")
        title = {"zh": self.need(row, "zh", str, f"{key}.zh")}
        bonus = row.get("bonus", False)
        if not isinstance(bonus, bool):
            raise self.wrong(f"{key}.bonus", "true or false")
        return Criterion(id, points, bonus, title, hints)

    def both(self, table: Any, name: str, key: str, fields: bool = True) -> dict[str, str]:
        """Return a text in both languages; `fields` says whether it may have {placeholders}."""
        pair = self.need(table, name, dict, key)
        texts = {lang: self.need(pair, lang, str, f"{key}.{lang}") for lang in ("en", "zh")}
        try:
            english, chinese = map(_placeholders, texts.values())
        except ValueError as error:
            raise self.wrong(key, f"text whose own braces are doubled ({error})") from None
        if english != chinese or (english and not fields):
            wanted = "text with the same {placeholders} in both languages"
            raise self.wrong(key, wanted if fields else "text without {placeholders}")
        return texts

    def need(self, table: Any, name: str, kind: type, key: str, optional: bool = False) -> Any:
        """Return what stands under a name, of that kind and not blank; `key` is its full name."""
        value = table.get(name) if isinstance(table, dict) else None
        if optional and isinstance(table, dict) and name not in table:
            return kind()
        blank = isinstance(value, str) and not value.strip()
        if not isinstance(value, kind) or isinstance(value, bool) or blank:
            raise self.wrong(key, {"str": "text", "int": "a whole number"}.get(kind.__name__))
        return value

    def wrong(self, key: str, wanted: str | None) -> BadExercise:
        """Return the error that names the file, the key and what is wanted there."""
        return BadExercise("bad_key", file=self.file, key=key, wanted=wanted or "a table or list")


def _placeholders(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


_loading = threading.Lock()


def load_checks(path: Path) -> list[Check]:
    """Import a file of checks (the lab's own code, never a student's) and return its checks."""
    name = f"lab_checks_{path.parent.name}_{path.stem}"
    with _loading:  # another thread may grade the same exercise and be half-way through the file
        known = sys.modules.get(name)
        if known is None or known.__file__ != str(path):
            spec = importlib.util.spec_from_file_location(name, path)
            assert spec and spec.loader
            sys.modules[name] = known = importlib.util.module_from_spec(spec)
            try:
                spec.loader.exec_module(known)
            except BaseException:
                del sys.modules[name]
                raise
    found = vars(known).values()
    return [value.check for value in found if isinstance(getattr(value, "check", None), Check)]

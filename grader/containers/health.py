"""Health checks: whether one could ever say that the service is not well."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from grader.containers.variables import UNKNOWN, expand

# What succeeds whatever the state of the service.
ALWAYS = {"true", ":", "echo", "printf", "sleep", "pwd", "date", "whoami", "ls", "exit", "return"}


@dataclass(frozen=True)
class Test:
    """A health check's command. `problem` is "", "missing", "off", "form" or "always"."""

    problem: str
    words: tuple[str, ...] = ()
    shell: bool = False
    shown: str = "-"


def test_of(check: Any) -> Test:
    """Read a service's `healthcheck`."""
    if not isinstance(check, dict) or (check.get("test") is None and "disable" not in check):
        return Test("missing")
    test = check.get("test")
    shown = str(test)
    if expand(str(check.get("disable", ""))).lower() in ("true", "yes", "on") or test in ("", []):
        return Test("off", shown=shown)
    if not isinstance(test, list):
        return _judged(expand(str(test)), shown)
    kind, *words = [expand(str(word)) for word in test]
    if kind == "NONE":
        return Test("off", shown=shown)
    if kind == "CMD-SHELL" and words:
        return _judged(" ".join(words), shown)
    if kind != "CMD" or not words:
        return Test("form", shown=shown)
    if PurePosixPath(words[0]).name in ("sh", "bash", "ash", "dash") and len(words) > 2:
        return _judged(words[2], shown)
    problem = "always" if _succeeds(words) else ""
    return Test(problem, tuple(words), False, shown)


def _judged(text: str, shown: str) -> Test:
    problem = "always" if always(text) else ""
    try:
        words = shlex.split(text)
    except ValueError:
        words = text.split()
    return Test(problem, tuple(words), True, shown)


def always(text: str) -> bool:
    """Whether a shell text ends with 0 whatever happens: `ping || true`, `ping; exit 0`, `true`."""
    text = re.sub(r"\(([^()]*)\)|\{ ([^{}]*);? \}", r"\1\2", text.strip()).rstrip("; \n")
    if text.endswith("&") and not text.endswith("&&"):
        return True
    *before, last = re.split(r";|\n", text)
    if any(_stops(part) for part in before):
        return False
    *_, tail = re.split(r"\|\|", last)
    if "||" in last:
        return all(_succeeds(_split(one)) for one in re.split("&&", tail))
    return all(_succeeds(_split(_end_of_pipe(one))) for one in re.split("&&", last))


def _stops(part: str) -> bool:
    """Whether a part before the last can end the text with a failure."""
    return re.search(r"\bset\s+-\w*e|\|\|\s*exit\s+[1-9]|\bthen\b|\bif\b", part) is not None


def _end_of_pipe(text: str) -> str:
    return re.split(r"(?<!\|)\|(?!\|)", text)[-1]


def _split(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()


def _succeeds(words: list[str]) -> bool:
    if not words:
        return True
    name = PurePosixPath(words[0]).name
    if name in ("exit", "return"):
        return words[1:2] == ["0"]  # without a number it is the status of what ran before
    return name in ALWAYS and UNKNOWN not in name

"""Passwords that stand in a file, where everybody who can read the repository reads them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from grader.containers.complaint import Complaint
from grader.containers.dockerfile import Dockerfile
from grader.containers.dockerfile import words as exec_form
from grader.containers.project import Project
from grader.containers.variables import UNKNOWN, expand
from grader.words import Text

# A word of a variable's name, between underscores, that says its value is secret.
SECRET_WORDS = {"PASS", "PASSWORD", "PASSWD", "PASSPHRASE", "PWD", "SECRET", "TOKEN", "COOKIE"}
SECRET_NAMES = {"REDISCLI_AUTH", "FLOWER_BASIC_AUTH"}
# Values that switch something; also a path of a file that holds the secret.
NO_SECRET = re.compile(r"(?i)(true|false|yes|no|on|off|0|1|/.*)?")
IN_URL = re.compile(r"://[^\s/@:]*:([^\s/@]*)@")
PAIR = re.compile(r"(\w+)=(\"[^\"]*\"|'[^']*'|\S*)")
# Variables that a command sets for itself, as in `NAME=value program`.
PREFIX = re.compile(r"(?:^|[\s;&|(\"'])(\w+)=(\"[^\"]*\"|'[^']*'|[^\s;&|]*)")
COMMANDS = ("command", "entrypoint", "test", "RUN", "CMD", "ENTRYPOINT", "HEALTHCHECK")
OPTION = re.compile(
    r"(?:--?requirepass|--masterauth|\brequirepass|\bmasterauth|--pass(?:word)?|--basic[-_]auth"
    r"|\bredis-cli\b[^|;&]*?\s-a)[\s=]+[\"']?(\S+)"
)


def in_files(project: Project) -> Complaint | None:
    """Return the first password that a compose file or a Dockerfile holds."""
    places = list(dict.fromkeys(_places(project)))
    if not places:
        return None
    seen = Text.of("containers_password_seen", places="; ".join(places))
    default = any("${" in place for place in places)
    return Complaint(Text.of("containers_password"), seen, "with_default" if default else "default")


def _places(project: Project) -> Iterator[str]:
    for document in project.documents:
        shown = document.path.relative_to(project.root).as_posix()
        for steps, key, value in _scalars(document.data, ()):
            if _is_password(key, value):
                yield f"{shown}, {document.place(steps)}: {key}: {value}"
    for name, body in project.services.items():
        # One that is not there is another rule's.
        if body.get("build") and not project.unbuildable(name) and (f := project.dockerfile(name)):
            yield from _in_dockerfile(f)


def _scalars(value: Any, steps: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], str, str]]:
    """Yield (way to it, name, text) of every text; lists of words are one text, as in a command."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _scalars(inner, (*steps, key))
    elif isinstance(value, list):
        texts = [str(item) for item in value if not isinstance(item, dict | list)]
        if steps and steps[-1] in ("command", "entrypoint", "test"):
            yield steps, str(steps[-1]), joined(texts)
            return
        for place, item in enumerate(value):
            name, equals, text = str(item).partition("=")
            if isinstance(item, str) and equals and re.fullmatch(r"\w+", name):
                yield (*steps, place), name, text
            else:
                yield from _scalars(item, (*steps, place))
    elif value is not None and not isinstance(value, bool):
        yield steps, str(steps[-1]) if steps else "", str(value)


def joined(words: list[str]) -> str:
    """Return the words of a command as one text; an empty one keeps its place."""
    return " ".join(word or "''" for word in words)


def _is_password(name: str, text: str) -> bool:
    """Whether a named text holds a password, its variables replaced by their defaults."""
    text = expand(text)
    if any(_literal(found) for found in IN_URL.findall(text)):
        return True
    if any(_literal(_secret_half(found)) for found in OPTION.findall(text)):
        return True
    if name in COMMANDS:
        given = [pair for pair in PREFIX.findall(text) if pair[0] not in COMMANDS]
        return any(_is_password(key, value.strip("\"'")) for key, value in given)
    return _secret_name(name) and _literal(_secret_half(text)) and not NO_SECRET.fullmatch(text)


def _secret_half(text: str) -> str:
    """Return what stands behind the colon of `user:password`, or the whole."""
    return text.partition(":")[2] or text if re.fullmatch(r"\w*:.*", text) else text


def _secret_name(name: str) -> bool:
    words = name.upper().split("_")
    return name.upper() in SECRET_NAMES or (bool(SECRET_WORDS & set(words)) and words[-1] != "FILE")


def _literal(text: str) -> bool:
    """Whether this is a word of the file itself: not a variable of Compose or of a shell."""
    text = text.strip("\\\"'")
    return bool(re.search(r"\w", text)) and UNKNOWN not in text and not text.startswith(("$", "`"))


def _in_dockerfile(file: Dockerfile) -> Iterator[str]:
    for key, value in file.arguments.items():
        if _is_password(key, value):
            yield f"Dockerfile: ARG {key}={value}"
    for stage in file.stages:
        for name, rest in stage.steps:
            if name not in ("ENV", "ARG"):
                text = re.sub(r"^(?:--\S+\s+)*(?:CMD\s+)?", "", rest)
                if _is_password(name, joined(found) if (found := exec_form(text)) else text):
                    yield f"Dockerfile: {name} {rest}"
                continue
            old_form = [(rest.partition(" ")[0], rest.partition(" ")[2])]
            for key, value in PAIR.findall(rest) or old_form:
                if _is_password(key, value.strip("\"'")):
                    yield f"Dockerfile: {name} {key}={value}"

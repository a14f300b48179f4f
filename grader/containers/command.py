"""What runs in a service's container: which program is the first process, and what stands before.

Docker sends SIGTERM to the first process alone. A shell there does not pass it on, so the worker
never hears of it and is killed when the grace period is over.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from grader.containers.dockerfile import words as exec_form
from grader.containers.project import Project
from grader.containers.variables import expand

SHELLS = {"sh", "bash", "ash", "dash", "zsh", "ksh"}
INITS = {"tini", "tini-static", "dumb-init", "catatonit", "docker-init", "s6-svscan", "init"}
# Programs that put another one in their own place, and how many words they take first.
REPLACED = {"env": 0, "nice": 0, "exec": 0, "nohup": 0, "gosu": 1, "su-exec": 1, "setpriv": 0}
SEPARATORS = re.compile(r"&&|\|\||;|\n|(?<!&)&(?!&)")


def command(project: Project, service: str) -> list[str]:
    """Return the words of a service's first process, [] where nothing says them.

    A shell form of the Dockerfile is written as what Docker makes of it: `/bin/sh -c TEXT`.
    """
    body = project.services.get(service, {})
    entry, rest = _words(body.get("entrypoint")), _words(body.get("command"))
    if rest is None and entry is None:
        rest = _from_image(project.instruction(service, "CMD"))
    if entry is None:
        entry = _from_image(project.instruction(service, "ENTRYPOINT")) or []
    return [*entry, *(rest or [])]


def _words(value: Any) -> list[str] | None:
    """Return the words of a compose file's command: no shell is asked to split a text."""
    if value is None:
        return None
    if isinstance(value, list):
        return [expand(str(word)) for word in value]
    try:
        return shlex.split(expand(str(value)))
    except ValueError:
        return expand(str(value)).split()


def _from_image(text: str | None) -> list[str] | None:
    if text is None:
        return None
    found = exec_form(text)
    return ["/bin/sh", "-c", text] if found is None else found


def init_of(words: Sequence[str]) -> bool:
    """Whether the first process is an init that passes signals on and collects the dead."""
    return bool(words) and _base(words[0]) in INITS


def shell_between(words: Sequence[str], folders: Sequence[Path]) -> str:
    """Return the shell's words where a shell stays between Docker and the worker, else "".

    Args:
        folders: where a script that is named may lie.
    """
    left = _program(list(words))
    if not left:
        return ""
    if _base(left[0]) not in SHELLS:
        script = _script(left[0], folders)
        return left[0] if script and _is_shell(script) and not hands_over(script) else ""
    for place, word in enumerate(left[1:], 1):
        if re.fullmatch(r"-\w*c", word):
            text = " ".join(left[place + 1 : place + 2])
            return "" if hands_over(text) else " ".join(left[: place + 2])
        if not word.startswith("-"):
            script = _script(word, folders)
            return "" if script and hands_over(script) else " ".join(left[: place + 1])
    return left[0]


def _program(words: list[str]) -> list[str]:
    """Return what is left behind inits and programs that put another one in their place."""
    while words and (_base(words[0]) in INITS or _base(words[0]) in REPLACED):
        name = _base(words.pop(0))
        while words and (words[0].startswith("-") or (name == "env" and "=" in words[0])):
            option = words.pop(0)
            if option == "--":
                break
            if (name, option) == ("nice", "-n") and words:
                words.pop(0)
        del words[: REPLACED.get(name, 0)]
    return words


def hands_over(script: str) -> bool:
    """Whether a shell script ends by `exec`: the program then takes the shell's place."""
    lines = [line for line in script.replace("\\\n", " ").splitlines() if line.strip()[:1] != "#"]
    parts = [part.strip() for part in SEPARATORS.split("\n".join(lines))]
    parts = [re.sub(r"^(?:then|else|do)\s+", "", part) for part in parts if part]
    workers = [part for part in parts if re.search(r"\bcelery\b.*\bworker\b", part)]
    last = [part for part in parts if part not in ("fi", "done", "esac", "}")][-1:]
    return bool(last) and all(_execs(part) for part in workers or last)


def _execs(part: str) -> bool:
    return re.match(r"(?:\w+=\S*\s+)*exec\s", part) is not None and "|" not in part


def _script(name: str, folders: Sequence[Path]) -> str:
    """Return the text of a script of the submission, "" where there is none of that name."""
    for folder in folders:
        path = (folder / PurePosixPath(name).name).resolve()
        if path.is_relative_to(folder.resolve()) and path.is_file():
            return path.read_text(encoding="utf-8", errors="replace")[:100_000]
    return ""


def _is_shell(script: str) -> bool:
    first = script.partition("\n")[0]
    return first.startswith("#!") and _base(first.split("/")[-1].split()[-1]) in SHELLS


def _base(word: str) -> str:
    return PurePosixPath(word).name

"""What runs in a service's container: which program is the first process, and what stands before.

Docker sends SIGTERM to the first process alone. A shell there does not pass it on, so the worker
never hears of it and is killed when the grace period is over.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from grader.containers.dockerfile import words as exec_form
from grader.containers.project import Project
from grader.containers.shell import (
    SHELLS,
    STAND_INS,
    Part,
    bare,
    base,
    functions,
    parts,
    read_by_shell,
)
from grader.containers.variables import expand

INITS = {"tini", "tini-static", "dumb-init", "catatonit", "docker-init", "s6-svscan", "init"}
# Programs that put another one in their own place or pass signals on to it, and how many words
# they take first.
REPLACED = {"env": 0, "nice": 0, "nohup": 0, "stdbuf": 0, "setpriv": 0}
REPLACED |= {"gosu": 1, "su-exec": 1, "timeout": 1}
# Their options that take the next word.
VALUED = {
    "tini": {"-p", "-e"},
    "tini-static": {"-p", "-e"},
    "docker-init": {"-p", "-e"},
    "dumb-init": {"-r", "--rewrite"},
    "nice": {"-n"},
    "env": {"-u", "-C"},
    "stdbuf": {"-i", "-o", "-e"},
    "timeout": {"-k", "-s"},
    "setpriv": {"--reuid", "--regid", "--groups", "--inh-caps", "--bounding-set"},
}
# What a script may do behind the place where the worker is started, and never comes to.
QUIET = {"exit", "return", "echo", "printf", "true", "false", ":"}
# Files of a submission among which a script is looked for, and scripts that call each other.
MOST_FILES, DEEPEST = 5000, 5


def command(project: Project, service: str) -> list[str]:
    """Return the words of a service's first process, [] where nothing says them.

    A shell form of the Dockerfile is written as what Docker makes of it: `/bin/sh -c TEXT`.

    Raises:
        Broken: only the Dockerfile could say them, and it is not there.
    """
    body = project.services.get(service, {})
    entry, rest = _words(body.get("entrypoint")), _words(body.get("command"))
    if rest is None and entry is None:
        rest = _from_image(project.instruction(service, "CMD"))
    if entry is None and not (rest and project.unbuildable(service)):
        entry = _from_image(project.instruction(service, "ENTRYPOINT"))
    return [*(entry or []), *(rest or [])]


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
    return bool(words) and base(words[0]) in INITS


def no_program(words: Sequence[str]) -> bool:
    """Whether Docker is told to start `exec`: a word of shells, and no program."""
    return program(words)[:1] == ["exec"]


def folders(project: Project, service: str) -> list[Path]:
    """Return where the files of a service's image come from, as far as the submission has them."""
    build = project.build(service) or {}
    found = [Path(build["context"]), project.root] if build else [project.root]
    return [folder for folder in found if folder.resolve().is_relative_to(project.root)]


def shell_between(words: Sequence[str], folders: Sequence[Path], depth: int = 0) -> str:
    """Return the shell's words where a shell stays between Docker and the worker, else "".

    Args:
        folders: where a script that is named may lie.
        depth: how many scripts led here.
    """
    left = program(words)
    if not left or depth > DEEPEST:
        return ""
    if base(left[0]) not in SHELLS | STAND_INS:
        text = script(left[0], folders)
        if not text or not _is_shell(text):
            return ""
        return left[0] if _stays(text, left[1:], folders, depth) else ""
    kind, read = read_by_shell(left)
    shown = " ".join(left[: left.index(read) + 1] if read in left else left[:1])
    given: list[str] = []
    if kind == "script":
        given = left[left.index(read) + 1 :]
        read = script(read, folders)
    return shown if not read or _stays(read, given, folders, depth) else ""


def _stays(text: str, given: Sequence[str], folders: Sequence[Path], depth: int) -> bool:
    """Whether a shell stays while the worker runs: the script's own, or one that it starts."""
    if not hands_over(text):
        return True
    for part in parts(text):
        target = program(_target(part))
        # `exec "$@"` starts what the script was given.
        target = list(given) if target[:1] in (["$@"], ["${@}"]) else target
        if shell_between(target, folders, depth + 1):
            return True
    return False


def program(words: Sequence[str]) -> list[str]:
    """Return what is left behind inits and programs that put another one in their place."""
    left = list(words)
    while left and (base(left[0]) in INITS or base(left[0]) in REPLACED):
        name = base(left.pop(0))
        while left and (left[0].startswith("-") or (name == "env" and "=" in left[0])):
            option = left.pop(0)
            if option == "--":
                break
            if option in VALUED.get(name, ()):
                del left[:1]
        del left[: REPLACED.get(name, 0)]
    return left


def hands_over(script: str) -> bool:
    """Whether a shell script ends by `exec`: the program then takes the shell's place."""
    found = [part for part in parts(script) if bare(part.words)]
    if any(_is_worker(part) and not _target(part) for part in found):
        return False
    while found and bare(found[-1].words)[0] in QUIET:
        found.pop()
    last = bool(found) and (bool(_target(found[-1])) or _calls(found[-1], script))
    return last and any(_target(part) for part in found)


def _calls(part: Part, script: str) -> bool:
    """Whether a command calls a function of the script, in the shell itself."""
    return bare(part.words)[0] in functions(script) and not part.piped


def _is_worker(part: Part) -> bool:
    """Whether a command starts a worker, by whatever way."""
    words = bare(part.words)
    words = program(words[1:] if words[0] == "exec" else words)
    name = base(words[0]) if words else ""
    return (name == "celery" or name.startswith("python")) and "worker" in words


def _target(part: Part) -> list[str]:
    """Return the words that take the shell's place by `exec`, [] where none do."""
    words = bare(part.words)
    if words[:1] != ["exec"] or part.piped:
        return []
    left = words[1:]
    while left and (left[0].startswith("-") or re.match(r"\d*[<>]|&>", left[0])):
        word = left.pop(0)
        if word == "-a" or re.fullmatch(r"\d*[<>]+|&>+", word):
            del left[:1]
    return left


def script(name: str, folders: Sequence[Path]) -> str:
    """Return the text of a script of the submission, "" where there is none of that name.

    A container has its folders in other places: of several, the one counts whose way is most alike.
    """
    wanted = [part for part in PurePosixPath(name).parts if part not in ("/", ".")]
    found = [path for folder in folders for path in _called(folder, wanted[-1:])]
    best = max(found, key=lambda path: (_alike(path, wanted), -len(path.parts)), default=None)
    return best.read_text(encoding="utf-8", errors="replace")[:100_000] if best else ""


def _called(folder: Path, name: Sequence[str]) -> Iterator[Path]:
    """Yield the files of that name in a folder and below it; links do not lead out of it."""
    seen = 0
    for place, inner, files in os.walk(folder):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        seen += len(files) + 1
        if seen > MOST_FILES:
            return
        for file in set(files) & set(name):
            path = (Path(place) / file).resolve()
            if path.is_relative_to(folder.resolve()) and path.is_file():
                yield path


def _alike(path: Path, wanted: Sequence[str]) -> int:
    """Return in how many parts, counted from the end, two ways are the same."""
    pairs = zip(reversed(path.parts), reversed(wanted), strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), len(wanted))


def _is_shell(script: str) -> bool:
    first = script.partition("\n")[0]
    return first.startswith("#!") and any(base(word) in SHELLS for word in first[2:].split())

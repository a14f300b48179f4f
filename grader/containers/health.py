"""Health checks: whether one could ever say that the service is not well."""

from __future__ import annotations

import re
import shlex
from collections import deque
from dataclasses import dataclass
from typing import Any

from grader.containers.command import program
from grader.containers.shell import CLOSERS, SHELLS, base, plain, read_by_shell, tokens
from grader.containers.variables import UNKNOWN, expand

# What succeeds whatever the state of the service.
ALWAYS = {"true", ":", "echo", "printf", "sleep", "pwd", "date", "whoami", "ls"}
# What hands on what it reads, and succeeds where it is given no file to read.
FILTERS = {"cat", "tail", "head", "tee", "sort", "uniq", "wc", "tr", "cut"}
# What a program says of itself.
TOLD = (["version"], ["help"], ["-v"], ["-V"])
LOOPS = {"while", "until", "for", "case", "select"}


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
        return _shell(words, shown)
    if kind != "CMD" or not words:
        return Test("form", shown=shown)
    if (text := _inner(words)) is not None:
        return _judged(text, shown)
    problem = "always" if _succeeds(words) else ""
    return Test(problem, tuple(words), False, shown)


def _shell(words: list[str], shown: str) -> Test:
    """Read what stands behind CMD-SHELL: a shell's text, and words that it seldom looks at."""
    text, *rest = words
    if rest and re.fullmatch(r"[\w-]+", text):
        return Test("form", shown=shown)  # a list of words as for CMD: only the first one is run
    return _judged(text, shown)


def _judged(text: str, shown: str) -> Test:
    words = _split(text)
    inner = None if any(operator for _, operator in tokens(text)) else _inner(words)
    if inner is not None:
        return _judged(inner, shown)
    return Test("always" if always(text) else "", tuple(words), True, shown)


def _inner(words: list[str]) -> str | None:
    """Return the text that a command gives to a shell, None where it does no such thing."""
    left = program(words)
    if not left or base(left[0]) not in SHELLS:
        return None
    kind, text = read_by_shell(left)
    return text if kind == "text" else None


def always(text: str) -> bool:
    """Whether a shell text ends with 0 whatever happens: `ping || true`, `ping; exit 0`, `true`."""
    reader = _Reader(text)
    try:
        end = reader.sequence()
    except (IndexError, RecursionError):  # a text that no shell would take
        return False
    return not (end.fails or end.quits or reader.left)


@dataclass(frozen=True)
class _End:
    """How a piece of a text may end: with a failure, or with the failure of the whole."""

    fails: bool
    quits: bool = False
    over: bool = False  # nothing runs after it


class _Reader:
    """Reads a shell's text once, command by command; in doubt a command can fail."""

    def __init__(self, text: str) -> None:
        self.left = deque(tokens(text))
        self.strict = self.whole_pipes = False  # set -e, set -o pipefail

    def _next_is(self, *wanted: str) -> bool:
        return bool(self.left) and self.left[0][0] in wanted

    def sequence(self, *ends: str) -> _End:
        """Read up to one of these words: commands one after the other."""
        end = _End(False)
        while self.left:
            if self._next_is(";", "\n", ";;", "&"):
                self.left.popleft()
            elif self._next_is(*ends) or self._next_is(")"):
                break
            else:
                one = self._chain()
                if not end.over:
                    quits = end.quits or one.quits or (self.strict and one.fails)
                    end = _End(one.fails and not self._next_is("&"), quits, one.over)
        return end

    def _chain(self) -> _End:
        """Read commands that `&&` and `||` join."""
        end = self._pipe()
        while self._next_is("&&", "||"):
            both = self.left.popleft()[0] == "&&"
            other = self._pipe()
            if both:
                end = _End(end.fails or other.fails, end.quits or other.quits)
            else:
                quits = end.quits or (end.fails and other.quits)
                end = _End(end.fails and other.fails, quits)
        return end

    def _pipe(self) -> _End:
        """Read commands that pass their output on; the last one's status is the whole's."""
        end, before = self._command(False), False
        while self._next_is("|", "|&"):
            self.left.popleft()
            before = before or end.fails or end.quits
            last = self._command(True)
            end = _End(last.fails or last.quits or (self.whole_pipes and before))
        return end

    def _command(self, piped: bool) -> _End:
        first = self.left[0][0]
        if first == "!":
            self.left.popleft()
            self._command(piped)
            return _End(True)
        if first == "if":
            return self._if()
        if first in ("(", "{"):
            self.left.popleft()
            end = self.sequence("}")
            self.left.popleft()
            # A subshell that quits fails, and no more.
            return _End(end.fails or end.quits) if first == "(" else end
        if first in LOOPS | CLOSERS or self.left[0][1]:
            self.left.clear()  # how often a loop runs is not told from its text
            return _End(True, True)
        return self._simple(piped)

    def _if(self) -> _End:
        """Read all branches; without an `else` there is one that does nothing."""
        fails, quits, word = False, False, ""
        while word != "fi":
            word = self.left.popleft()[0]
            if word in ("if", "elif"):
                quits = quits or self.sequence("then").quits
            elif word != "fi":
                end = self.sequence("elif", "else", "fi")
                fails, quits = fails or end.fails, quits or end.quits
        return _End(fails, quits)

    def _simple(self, piped: bool) -> _End:
        words: list[str] = []
        while self.left and not self.left[0][1]:
            words.append(plain(self.left.popleft()[0]))
        if self._next_is("("):
            self.left.clear()  # a function
            return _End(True, True)
        name = base(words[0])
        if name in ("exit", "return"):
            # Without a number it is the status of what ran before.
            failing = words[1:2] != ["0"]
            return _End(failing, failing, True)
        if name == "set":
            self.strict |= any(re.match(r"-\w*e", word) or word == "errexit" for word in words)
            self.whole_pipes |= "pipefail" in words
            return _End(False)
        return _End(not _succeeds(words, piped))


def _split(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()


def _succeeds(words: list[str], piped: bool = False) -> bool:
    """Whether a command ends with 0 whatever the state of the service."""
    left = program(words[1:] if words[:1] == ["exec"] else words)
    if not left:
        return True
    name, rest = base(left[0]), left[1:]
    if (text := _inner(left)) is not None:
        return always(text)
    if name in FILTERS and piped:
        return name == "tee" or all(re.match(r"[-\d]", word) for word in rest)
    if name in ("test", "["):
        return _constant([word for word in rest if word != "]"])
    says = rest in TOLD or bool({"--version", "--help"} & set(rest))
    # Without a command redis-cli reads some, finds none, and is content.
    return (name in ALWAYS and UNKNOWN not in name) or says or left == ["redis-cli"]


def _constant(words: list[str]) -> bool:
    """Whether a `test` says yes to what stands in the text itself."""
    if any(sign in word for word in words for sign in ("$", "`", UNKNOWN)):
        return False
    if len(words) == 3 and words[1] in ("=", "==", "-eq"):
        return words[0] == words[2]
    return len(words) == 1 and bool(words[0])

"""A shell's text as its commands: enough of the grammar to tell what runs, and in whose place."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

SHELLS = {"sh", "bash", "ash", "dash", "zsh", "ksh"}
# These give a text to a shell too, and stay before it.
STAND_INS = {"su"}
# Options of a shell that take the next word.
VALUED = re.compile(r"[-+]\w*[oO]|--rcfile|--init-file")
GAP = re.compile(r"(?:[ \t\r]|\\\n)+|#[^\n]*")
OPERATOR = re.compile(r"&&|\|\||;;|\|&|[;&|()\n]")
# A piece of a word. What opens a substitution is read on to its closing bracket.
PIECE = re.compile(
    r"\\.|'[^']*'|\"(?:\\.|[^\"\\])*\"|`[^`]*`|[$<>]\(|[<>]&-?|&>|[^\s;&|()]|.", re.DOTALL
)
# Words that stand before a command, and those that end what such words began.
LEADERS = {"if", "then", "elif", "else", "while", "until", "do", "!", "{", "time"}
CLOSERS = {"fi", "done", "esac", "}"}
FUNCTION = re.compile(r"(?:^|[\s;&])(?:function[ \t]+([\w-]+)|([\w-]+)[ \t]*\(\))")


@dataclass(frozen=True)
class Part:
    """One command: its words without quotes, and the operators on either side of it."""

    words: tuple[str, ...]
    before: str
    after: str
    nested: bool  # in a subshell

    @property
    def piped(self) -> bool:
        """Whether it runs beside another one, and so in a process of its own."""
        return self.before in ("|", "|&") or self.after in ("|", "|&", "&") or self.nested


def tokens(text: str) -> Iterator[tuple[str, bool]]:
    """Yield each word as it is written, and each operator; comments are left out.

    Yields:
        (what stands there, whether it is an operator)
    """
    at = 0
    while at < len(text):
        if gap := GAP.match(text, at):
            at = gap.end()
        elif operator := OPERATOR.match(text, at):
            if not text.startswith("&>", at):
                at = operator.end()
                yield operator[0], True
            else:
                start, at = at, _word_end(text, at)
                yield text[start:at], False
        else:
            start, at = at, _word_end(text, at)
            yield text[start:at], False


def _word_end(text: str, at: int) -> int:
    while at < len(text) and (text.startswith("&>", at) or text[at] not in " \t\r\n;&|()"):
        piece = PIECE.match(text, at)
        assert piece
        at = piece.end()
        if piece[0] in ("$(", "<(", ">("):
            at = _closing(text, at)
    return at


def _closing(text: str, at: int) -> int:
    """Return the place behind the bracket that closes one before `at`."""
    depth = 1
    for bracket in re.compile(r"[()]").finditer(text, at):
        depth += 1 if bracket[0] == "(" else -1
        if not depth:
            return bracket.end()
    return len(text)


def plain(word: str) -> str:
    """Return a word without its quotes."""
    try:
        return "".join(shlex.split(word)) if word else word
    except ValueError:
        return word


def parts(text: str) -> Iterator[Part]:
    """Yield each command of a text, whatever it stands in; a pattern of `case` is none."""
    words: list[str] = []
    before, depth = "\n", 0
    for token, operator in [*tokens(text), ("\n", True)]:
        if not operator:
            words.append(plain(token))
            continue
        if token == "(":
            # `name (` begins a function; the `)` behind it is then taken for a pattern's.
            depth += not words
        elif token == ")" and not depth:
            words = []
        if words and token != "(":
            yield Part(tuple(words), before, token, depth > 0)
            words = []
        depth -= token == ")" and depth > 0
        before = token


def bare(words: Sequence[str]) -> list[str]:
    """Return a command without what may stand before it: `then`, `worker)`, `NAME=value`."""
    left = list(words)
    while left:
        if left[0] == "case" and "in" in left:
            del left[: left.index("in") + 1]
        elif left[0] == "function":
            del left[:2]
        elif left[0] in LEADERS | CLOSERS or re.match(r"\w+\+?=", left[0]):
            del left[0]
        else:
            break
    return left


def functions(text: str) -> set[str]:
    """Return the names of the functions that a text defines."""
    return {name for pair in FUNCTION.findall(text) for name in pair if name}


def base(word: str) -> str:
    """Return a program's name without its folder."""
    return PurePosixPath(word).name


def read_by_shell(words: Sequence[str]) -> tuple[str, str]:
    """Return what a shell is given to read: ("text", TEXT), ("script", NAME) or ("", "").

    Args:
        words: a shell and its words.
    """
    rest, text = list(words[1:]), False
    stand_in = base(words[0]) in STAND_INS
    while rest:
        word = rest.pop(0)
        if word == "--command" or re.fullmatch(r"-\w*c\w*", word):
            text = True
            if stand_in or word == "--command":
                return "text", rest[0] if rest else ""
        if VALUED.fullmatch(word):
            del rest[:1]
        elif not word.startswith(("-", "+")) and not stand_in:
            return ("text" if text else "script"), word
    return "", ""

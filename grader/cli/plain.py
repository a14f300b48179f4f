"""How the student's commands print: plain words in 79 columns, the same in a pipe."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence

import click

from grader.report.card import WIDTH, width, wrap
from grader.words import Text


def say(key: str, lang: str, **fields: object) -> str:
    """Return a sentence of the catalogue."""
    return Text.of(key, **fields).render(lang)


def tell(text: str) -> None:
    """Print a paragraph, broken where the screen ends."""
    for line in wrap(text, WIDTH):
        click.echo(line)


def warn(text: str) -> None:
    """Print a paragraph to standard error."""
    for line in wrap(text, WIDTH):
        click.echo(line, err=True)


def labelled(rows: Iterable[tuple[str, str]], indent: int = 0) -> None:
    """Print texts with their labels in a column of their own; what is empty is left out."""
    given = [(label, text) for label, text in rows if text]
    column = max((width(label) for label, _ in given), default=0) + 2
    for label, text in given:
        for line in wrap(text, WIDTH - column - indent):
            click.echo(" " * indent + label + " " * (column - width(label)) + line)
            label = ""


def table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows with their cells below each other; the first row is the heading."""
    columns = [max(width(row[n]) for row in rows) for n in range(len(rows[0]))]
    for row in rows:
        cells = (c + " " * (w - width(c)) for c, w in zip(row, columns, strict=True))
        click.echo("  ".join(cells).rstrip())


def check_progress(lang: str) -> None:
    """Say that the file of the student's progress can't be read, if so."""
    from grader.progress import broken

    if file := broken():
        warn(say("study_broken", lang, file=file))


def command() -> str:
    """Return how the lab is called here: `./lab` where its environment is not active."""
    return "lab" if shutil.which("lab") else "./lab"

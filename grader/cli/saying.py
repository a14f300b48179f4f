"""How the commands of a class print: tables, sentences, times, scores."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from grader import exercise as exercises
from grader.errors import UsageError
from grader.report.document import number
from grader.words import Text

if TYPE_CHECKING:
    from grader.classroom.tables import Attempt


def offered() -> list[exercises.Exercise]:
    """Return every exercise that there is."""
    return [exercises.find(folder.name) for folder in exercises.folders()]


def table(*headers: str, lang: str) -> Table:
    """Return an empty table, its headers named by their sentences."""
    found = Table(box=None, pad_edge=False)
    for header in headers:
        found.add_column(Text.of(header).render(lang), overflow="fold")
    return found


def console() -> Console:
    """Return the console for tables: what strangers wrote is no markup."""
    return Console(highlight=False, markup=False)


def echo(key: str, lang: str, **fields: object) -> None:
    """Print a sentence of the catalogue."""
    click.echo(Text.of(key, **fields).render(lang))


def new_folder(out: Path) -> None:
    """Refuse a folder that holds something else than what was written there before."""
    index = out / "index.html"
    if out.exists() and not (out.is_dir() and (index.exists() or not any(out.iterdir()))):
        raise UsageError("report_folder", path=out)


def outcome(row: Attempt, lang: str) -> str:
    """Return an attempt's points, or that the lab failed."""
    if row.lab_fault:
        return Text.of("class_fault").render(lang)
    bonus = f" +{number(row.bonus)}" if row.max_bonus else ""
    return f"{number(row.score)}/{number(row.max_score)}{bonus}"

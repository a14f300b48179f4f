"""lab progress, lab next, and `lab` alone: where the student stands, and what to type next."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from grader.cli.options import language_option


@click.command("progress")
@click.option("--html", type=click.Path(path_type=Path), help="Write a page of it to this file.")
@language_option
def progress_command(html: Path | None, lang: str | None) -> None:
    """Show every exercise with its best and last score."""
    from grader.cli import language
    from grader.cli.plain import check_progress, table, tell

    lang = lang or language()
    check_progress(lang)
    exercises, standings = _known()
    rows = _rows(exercises, standings, lang)
    if html is None:
        table(rows)
        click.echo()
        tell(_summary(exercises, standings, lang))
        return
    _write(html, rows, exercises, standings, lang)


@click.command("next")
@language_option
def next_command(lang: str | None) -> None:
    """Say which exercise comes next and what to type."""
    from grader.cli import language
    from grader.cli.plain import check_progress

    lang = lang or language()
    check_progress(lang)
    _tell_next(*_known(), lang)


def home(lang: str) -> None:
    """Say where the student is and what to type next: `lab` without a word."""
    from grader.cli.plain import check_progress, command, say, tell

    check_progress(lang)
    exercises, standings = _known()
    tell(_summary(exercises, standings, lang))
    click.echo()
    _tell_next(exercises, standings, lang)
    click.echo()
    tell(say("next_help", lang, lab=command()))


def _known() -> tuple[list[Any], Any]:
    from grader import progress
    from grader.exercise import find, folders

    return [find(folder.name) for folder in folders()], progress.read()


def _rows(exercises: list[Any], standings: Any, lang: str) -> list[list[str]]:
    from grader.cli.plain import say
    from grader.plan import state_of
    from grader.progress import Standing
    from grader.report.document import shown_time

    names = ("exercise", "stars", "best", "last", "bonus", "when", "state")
    rows = [[say(f"progress_{name}", lang) for name in names]]
    for exercise in exercises:
        standing = standings.get(exercise.id, Standing())
        best, last = standing.best, standing.last
        rows.append(
            [
                f"{exercise.id} {exercise.title[lang]}",
                str(exercise.stars),
                _points(best),
                _points(last),
                _points(best, bonus=True),
                shown_time(last.when)[: len("2026-01-01")] if last else "-",
                say(f"progress_state_{state_of(exercise, standing)}", lang),
            ]
        )
    return rows


def _points(mark: Any, bonus: bool = False) -> str:
    """Return what a grading earned; a question mark stands for what the lab could not judge."""
    from grader.report.document import number

    if mark is None:
        return "-"
    if bonus:
        return f"{number(mark.bonus)}/{number(mark.max_bonus)}" if mark.max_bonus else "-"
    return f"{number(mark.score)}{'+?' if mark.open else ''}/{number(mark.max_score)}"


def _summary(exercises: list[Any], standings: Any, lang: str) -> str:
    from grader.cli.plain import say

    full = sum(bool((s := standings.get(e.id)) and s.best and s.best.full) for e in exercises)
    return say("progress_summary", lang, full=full, every=len(exercises))


def _write(html: Path, rows: Any, exercises: list[Any], standings: Any, lang: str) -> None:
    from grader.cli.plain import say
    from grader.errors import UsageError
    from grader.progress import put
    from grader.report import Style
    from grader.report.sheet import page

    bests = [(s := standings.get(e.id)) and s.best for e in exercises]
    shares = [min(1.0, b.score / b.max_score) if b and b.max_score else 0.0 for b in bests]
    title = say("progress_title", lang)
    text = page(title, _summary(exercises, standings, lang), rows, shares, Style(lang))
    if not html.absolute().parent.is_dir():
        raise UsageError("no_out_folder", folder=html.absolute().parent)
    try:
        put(html, text.encode())
    except OSError as error:
        raise UsageError("cannot_write", path=html, error=error.strerror) from None
    click.echo(str(html))


def _tell_next(exercises: list[Any], standings: Any, lang: str) -> None:
    from grader.cli.plain import labelled, say, tell
    from grader.plan import next_up, state_of
    from grader.progress import Standing

    exercise = next_up(exercises, standings)
    if exercise is None:
        tell(say("next_nothing" if exercises else "next_none", lang))
        return
    standing = standings.get(exercise.id, Standing())
    state, score = state_of(exercise, standing), _points(standing.best)
    title = f"{exercise.id} {exercise.title[lang]}"
    tell(say(f"next_{state}", lang, title=title, minutes=exercise.minutes, score=score))
    labelled(_steps(exercise, standing, lang), indent=2)


def _steps(exercise: Any, standing: Any, lang: str) -> list[tuple[str, str]]:
    """Return what there is to do with an exercise and what to type for it."""
    from grader.cli.plain import command, say
    from grader.documents import HANDOUTS

    folder, lab = f"exercises/{exercise.id}", command()
    rows = [
        ("next_handout", f"{folder}/{HANDOUTS[lang]}"),
        ("next_file", f"{folder}/{exercise.files[0]}"),
        ("next_grade", f"{lab} grade {exercise.id}"),
        ("next_watch", f"{lab} watch {exercise.id}"),
    ]
    if standing.last:
        rows += [("next_hint", f"{lab} hint {exercise.id}")]
        rows += [("next_explain", f"{lab} explain {exercise.id}")]
    return [(say(key, lang), text) for key, text in rows]

"""lab grade: one exercise, several, or every exercise that a folder holds work for."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from grader.cli.options import FORMATS, checks, exercises_or_folders, grading


@click.command("grade")
@click.argument(
    "what", nargs=-1, required=True, metavar="ID... | FOLDER", shell_complete=exercises_or_folders
)
@click.option(
    "--submission",
    type=click.Path(path_type=Path),
    default=None,
    help="A folder or archive to grade instead of exercises/ID.",
)
@click.option("--format", "form", type=click.Choice(FORMATS), default="text")
@click.option("--out", type=click.Path(path_type=Path), default=None, help="Write to a file.")
@checks
@grading
def grade_command(what: tuple[str, ...], **options: Any) -> None:
    """Grade the work in exercises/ID, or another folder's.

    \b
    lab grade 1_2                         your work in exercises/1_2
    lab grade 1_2 --submission DIR        another folder or archive
    lab grade solutions                   every exercise that the folder holds
    """
    from grader import exercise
    from grader.errors import UsageError
    from grader.grading import Order, grade_all
    from grader.private import with_private

    lang = options["lang"] or _language()
    orders = _orders(what, options["submission"])
    if options["submission"] and len(orders) > 1:
        raise UsageError("one_submission")
    out = options["out"]
    if out and not out.absolute().parent.is_dir():
        raise UsageError("no_out_folder", folder=out.absolute().parent)
    quiet = options["form"] != "text" and not out
    wanted = [
        Order(with_private(exercise.find(id), options["checks"]), path) for id, path in orders
    ]
    results = grade_all(
        wanted,
        broker=options["broker"],
        stack=options["stack"] or "",
        required=options["require"],
        seed=options["seed"],
        lang=lang,
        tell=_teller(quiet),
        strict=options["strict"],
        unsafe=options["unsafe"],
    )
    said = _keep(wanted, results, quiet)
    _write(results, options["form"], lang, out, many=len(what) > 1 or _is_folder(what[0]))
    for text in said:
        click.echo(text.render(lang), err=True)
    sys.exit(max(result.exit_status for result in results))


def _keep(orders: list[Any], results: list[Any], quiet: bool) -> list[Any]:
    """Keep what is the student's own work for `lab hint` and `lab explain`.

    Returns:
        What is to be said about it: that it could not be kept, or what to type next.
    """
    from grader.cli.plain import command
    from grader.record import note, pointer
    from grader.words import NOTHING

    said = []
    for order, result in zip(orders, results, strict=True):
        failed = note(order.exercise, order.path, result)
        more = pointer(order.exercise, order.path, result, command())
        said.append(failed or (more if not quiet else NOTHING))
    return [text for text in said if text]


def _language() -> str:
    from grader.cli import language

    return language()


def _is_folder(word: str) -> bool:
    """Whether a word means a folder of works: neither an exercise's id nor its own folder."""
    from grader.exercise import EXERCISES

    own = {path.name for path in EXERCISES.iterdir()}
    if word.rstrip("/") in own or Path(word).resolve().parent == EXERCISES.resolve():
        return False
    return Path(word).is_dir() or "/" in word


def _orders(what: tuple[str, ...], submission: Path | None) -> list[tuple[str, Path]]:
    """Return (exercise id, path of the work) for the words on the command line."""
    from grader import exercise
    from grader.errors import UsageError

    orders: list[tuple[str, Path]] = []
    for word in what:
        if _is_folder(word):
            if not Path(word).is_dir():
                raise UsageError("no_folder", folder=word)
            known = [f.name for f in exercise.folders() if (Path(word) / f.name).is_dir()]
            if not known:
                raise UsageError("no_exercise_inside", folder=word)
            orders += [(id, Path(word) / id) for id in known]
        else:
            found = exercise.find(Path(word).resolve().name if Path(word).is_dir() else word)
            orders.append((found.id, submission or found.folder))
    return orders


def _teller(quiet: bool) -> Any:
    """Return what prints a progress line; to standard error, so that a pipe stays clean."""
    return (lambda line: None) if quiet else (lambda line: click.echo(line, err=True))


def _write(results: list[Any], form: str, lang: str, out: Path | None, many: bool) -> None:
    from grader.errors import UsageError
    from grader.report import render, wants_color

    color = out is None and form == "text" and wants_color(sys.stdout)
    text = render(results, form, lang, many=many, color=color)
    if out is None:
        click.echo(text, nl=not text.endswith("\n"), color=color)
        return
    try:
        out.write_text(text + ("" if text.endswith("\n") else "\n"), encoding="utf-8")
    except OSError as error:
        raise UsageError("cannot_write", path=out, error=error.strerror) from None
    click.echo(f"{out}", err=True)

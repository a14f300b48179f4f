"""lab class, history, regrade, override, report: a class and its grade book."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from grader.cli.options import checks, grading
from grader.exercise import PROVIDERS

BOOK = click.argument("book", type=click.Path(path_type=Path))
STORE = click.option(
    "--store",
    envvar="LAB_STORE",
    metavar="FOLDER",
    help="Where all machines of a farm see works and results, or s3://BUCKET/FOLDER; LAB_STORE "
    "says the same.",
)


def _grading_options(function: Any) -> Any:
    for option in (
        click.option("--jobs", type=click.IntRange(1, 64), default=None, help="Works at a time."),
        click.option(
            "--runs",
            type=click.IntRange(1, 20),
            default=1,
            help="Grade each work so often; those whose verdicts differ are listed.",
        ),
        click.option(
            "--farm",
            envvar="LAB_FARM",
            metavar="BROKER_URL",
            help="Have `lab farm-worker` machines grade; LAB_FARM says the same.",
        ),
        STORE,
        grading,
    ):
        function = option(function)
    return function


def _reading_options(function: Any) -> Any:
    for option in (
        click.option("--exercise", "ids", multiple=True, metavar="ID", help="Only this exercise."),
        click.option("--roster", type=click.Path(path_type=Path), help="CSV: names and groups."),
        click.option("--deadline", default="", metavar="TIME", help="ISO 8601; later is late."),
        click.option("--ref", default="", help="Branch of git repositories to grade."),
        checks,
    ):
        function = option(function)
    return function


@click.command("class")
@click.argument("submissions", type=click.Path(path_type=Path))
@click.option("--out", "book", type=click.Path(path_type=Path), help="The grade book, one file.")
@click.option("--dry-run", is_flag=True, help="Show whose work is whose, and grade nothing.")
@click.option("--resume", is_flag=True, help="Go on with the book (always so if it exists).")
@_reading_options
@_grading_options
def class_command(submissions: Path, book: Path | None, dry_run: bool, **options: Any) -> None:
    """Grade a class into a grade book.

    \b
    lab class SUBMISSIONS --out grades.sqlite      a folder, or the archive that
                                                   Canvas, Moodle or Gradescope gave
    lab class SUBMISSIONS --dry-run                whose work is whose

    Run it again whenever work comes in: what has not changed is not graded again, and a call that
    was cut off goes on where it stopped.
    """
    from grader.errors import UsageError

    _need_extra(options, "farm" if options["farm"] else "class")
    from grader.cli.classwork import carry_out, show_intake

    if book is None and not dry_run:
        raise UsageError("class_needs_book")
    options.pop("resume", None)
    if dry_run or book is None:
        show_intake(submissions, options)
        return
    sys.exit(carry_out(submissions, book, options))


@click.command("regrade")
@BOOK
@click.option("--student", "students", multiple=True, help="Only this student's work.")
@click.option("--exercise", "ids", multiple=True, metavar="ID", help="Only this exercise.")
@_grading_options
def regrade_command(book: Path, **options: Any) -> None:
    """Grade again what the last `lab class` graded; earlier attempts stay in the book."""
    _need_extra(options, "farm" if options["farm"] else "class")
    from grader.cli.classwork import again

    sys.exit(again(book, options))


@click.command("override")
@BOOK
@click.argument("student")
@click.argument("exercise")
@click.argument("score", required=False, type=float)
@click.option("--reason", required=True, help="Kept in the history.")
@click.option("--by", default="", help="Who says so; you, by default.")
@click.option("--lift", is_flag=True, help="The graded score counts again.")
def override_command(
    book: Path, student: str, exercise: str, score: float | None, lift: bool, **words: str
) -> None:
    """Set the core score of a student by hand; the attempts stay as they are."""
    from grader.errors import UsageError

    if (score is None) != lift:
        raise UsageError("override_score")
    _need_extra({})
    from grader.cli.bookwork import override

    override(book, student, exercise, score, words["reason"], words["by"])


@click.command("history")
@BOOK
@click.argument("student", required=False)
@click.argument("exercise", required=False)
def history_command(book: Path, student: str | None, exercise: str | None) -> None:
    """Show a grade book: where everybody stands, or every attempt of one student."""
    _need_extra({})
    from grader.cli.bookwork import history

    history(book, student, exercise)


@click.command("report")
@BOOK
@click.option("--out", type=click.Path(path_type=Path), required=True, help="A new folder.")
@click.option("--feedback", is_flag=True, help="Also Markdown, results.json and JUnit XML.")
@click.option("--lang", type=click.Choice(["en", "zh"]), default=None)
def report_command(book: Path, out: Path, feedback: bool, lang: str | None) -> None:
    """Write a grade book as web pages, and as files for Canvas, Moodle and Gradescope.

    \b
    OUT/index.html              the class, each exercise's difficulty, a page a student
    OUT/canvas.csv              for "Import Grades" of Canvas; moodle.csv for Moodle
    OUT/feedback/markdown/      with --feedback: a file a student
    OUT/feedback/gradescope/    a results.json a student
    OUT/feedback/results.xml    everything as JUnit XML
    """
    _need_extra({"lang": lang})
    from grader.cli.bookwork import report

    report(book, out, feedback, lang)


@click.command("similar")
@BOOK
@click.option("--out", type=click.Path(path_type=Path), required=True, help="A new folder.")
@click.option("--least", type=click.IntRange(1, 100), default=40, help="Percent in common.")
@click.option("--lang", type=click.Choice(["en", "zh"]), default=None)
def similar_command(book: Path, out: Path, least: int, lang: str | None) -> None:
    """Show likely copies among the works that the last `lab class` found, side by side."""
    _need_extra({"lang": lang})
    from grader.cli.classwork import similar

    similar(book, out, least / 100, lang)


@click.command("farm-worker")
@click.argument("farm", envvar="LAB_FARM", metavar="BROKER_URL")
@STORE
@click.option("--jobs", type=click.IntRange(1, 64), default=None, help="Works at a time.")
@click.option(
    "--limit",
    type=click.IntRange(1, 25),
    default=20,
    help="Minutes that one grading may take; a job that ends no more is given to another.",
)
@checks
@click.option("--stack", type=click.Choice(PROVIDERS), default=None, help="As for `lab grade`.")
@click.option("--unsafe", is_flag=True, help="Grade although this machine can't hold strangers.")
@click.option("--lang", type=click.Choice(["en", "zh"]), default=None)
def farm_worker_command(farm: str, store: str | None, **options: Any) -> None:
    """Let this machine grade what `lab class --farm BROKER_URL` sends.

    \b
    lab farm-worker amqp://USER:PASSWORD@HOST// --store /mnt/class
    lab farm-worker redis://HOST:6379/0 --store s3://BUCKET/class

    Start one on each machine, in whatever order. Ctrl-C finishes the gradings that run.
    """
    from grader.errors import UsageError

    if not store:
        raise UsageError("farm_needs_store")
    _need_extra(options, "farm")
    from grader.cli.classwork import farm_worker

    sys.exit(farm_worker(farm, store, options))


def _need_extra(options: dict[str, Any], extra: str = "class") -> None:
    """Install what grade books (and a farm) need where it is missing."""
    from grader.cli import language
    from grader.extras import need, supply

    supply([extra], lambda line: click.echo(line, err=True), options.get("lang") or language())
    need(extra)


def moment(text: str) -> datetime | None:
    """Return the time that an option names, in this machine's zone where it has no offset.

    Raises:
        UsageError: it is none.
    """
    from grader.errors import UsageError

    try:
        return datetime.fromisoformat(text).astimezone() if text else None
    except ValueError:
        raise UsageError("no_time", found=text) from None

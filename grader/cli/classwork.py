"""What the commands of a class do and say."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from grader import exercise as exercises
from grader.classroom.book import Book, Key, Standing
from grader.classroom.copies import write_copies
from grader.classroom.course import Hands, Settings, Step, grade_class
from grader.classroom.here import Here
from grader.classroom.intake import Intake, collect, open_export
from grader.classroom.roster import Roster, read_roster
from grader.classroom.tables import Attempt, Call
from grader.classroom.work import Work
from grader.cli import language
from grader.cli.classroom import moment
from grader.cli.saying import console, echo, new_folder, offered, outcome, table
from grader.errors import UsageError
from grader.exercise import Exercise
from grader.home import Home
from grader.private import with_private
from grader.report.document import one_line, shown_time
from grader.words import Text

# What says whose work is whose: a call that grades again reads the submissions in the same way.
READING = ("ids", "roster", "deadline", "ref", "checks")


def carry_out(submissions: Path, path: Path, options: dict[str, Any]) -> int:
    """Grade a class into the book at `path` and return the exit status."""
    with _alone(path), Book(path, new=True) as book:
        reading = {name: options[name] for name in READING}
        plain = {k: str(v.absolute()) if isinstance(v, Path) else v for k, v in reading.items()}
        with _found(submissions, options) as (intake, roster):
            where = str(submissions.absolute())
            book.add(Call(submissions=where, options=plain, at=datetime.now(UTC)))
            return _grade(book, intake, roster, options)


def again(path: Path, options: dict[str, Any]) -> int:
    """Grade again what the last call graded, also where nothing has changed."""
    with _alone(path), Book(path) as book:
        call = book.last_call()
        if call is None:
            raise UsageError("book_empty", path=path)
        asked = [exercises.find(id).id for id in options.pop("ids")]
        reading = {**options, **call.options}
        with _found(Path(call.submissions), reading) as (intake, roster):
            works = tuple(w for w in intake.works if not asked or w.exercise in asked)
            options |= {"again": True, "checks": call.options.get("checks")}
            return _grade(book, replace(intake, works=works), roster, options)


def _grade(book: Book, intake: Intake, roster: Roster, options: dict[str, Any]) -> int:
    lang = options["lang"] or language()
    book.enrol(roster)
    works = _chosen(intake.works, options.get("students", ()))
    _say_strays(intake, lang)
    checks = Path(options["checks"]) if options["checks"] else None
    exercises = [with_private(exercise, checks) for exercise in offered()]
    settings = _settings(options, lang)
    steps = grade_class(works, exercises, book, settings, _workforce(settings, book, options))
    counts = _follow(steps, len(works) * options["runs"], lang)
    keys = [Key(work.student, work.exercise) for work in works]
    if not keys:
        echo("class_nothing", lang)
        return 0
    return _sum_up(list(book.standings(keys)), counts, book.path, lang)


def _workforce(
    settings: Settings, book: Book, options: dict[str, Any]
) -> Callable[[list[Exercise]], Hands]:
    """Return what gives the hands that do the jobs: this machine's, or a farm's."""
    if not options["farm"]:
        return lambda exercises: Here(settings, exercises, _tell)
    if not options["store"]:
        raise UsageError("farm_needs_store")
    from grader.classroom.dispatch import Farm, Place

    place = Place(options["farm"], options["store"], book.identity())
    return lambda exercises: Farm(settings, place, _tell)


def farm_worker(url: str, store: str, options: dict[str, Any]) -> int:
    """Grade for a farm until the worker is ended; return its exit status."""
    from grader.classroom import farm
    from grader.isolation import demand
    from grader.sandbox import best

    lang = options["lang"] or language()
    demand(best(), options["unsafe"])
    jobs = options["jobs"] or os.cpu_count() or 1
    settings = farm.Settings(store, options["checks"], options["stack"] or "", lang)
    return farm.serve(
        url,
        settings,
        jobs,
        60 * options["limit"],
        ready=lambda shown: echo("farm_ready", lang, url=shown, jobs=jobs),
    )


def similar(path: Path, out: Path, least: float, lang: str | None) -> None:
    """Write pages about likely copies among the works of the last call, and print the pairs."""
    lang = lang or language()
    new_folder(out)
    with Book(path) as book, Home("class") as home:
        call = book.last_call()
        if call is None:
            raise UsageError("book_empty", path=path)
        with _found(Path(call.submissions), call.options) as (intake, _):
            try:
                pairs = list(
                    write_copies(intake.works, offered(), least, lang, home.folder / "open", out)
                )
            except OSError as error:
                raise UsageError("cannot_write", path=out, error=error.strerror) from None
    for id, pair in pairs:
        names = f"{one_line(pair.one)}  {one_line(pair.other)}"
        click.echo(f"{id:<8}  {round(100 * pair.share):>3} %  {names}")
    echo("similar_done", lang, count=len(pairs), path=out / "index.html")


def show_intake(submissions: Path, options: dict[str, Any]) -> None:
    """Print whose work is whose."""
    lang = options["lang"] or language()
    for exercise in offered():
        with_private(exercise, options["checks"])  # a mistake there shows before any grading
    with _found(submissions, options) as (intake, _):
        headers = ("intake_student", "intake_exercise", "intake_time", "intake_place")
        rows = table(*headers, lang=lang)
        for work in intake.works:
            place = one_line(f"{work.shown}{'/' * bool(work.inside)}{work.inside}")
            remark = f" ({work.remark})" if work.remark else ""
            rows.add_row(one_line(work.student), work.exercise, _when(work, lang), place + remark)
        console().print(rows)
        _say_strays(intake, lang)


@contextmanager
def _found(submissions: Path, options: dict[str, Any]) -> Iterator[tuple[Intake, Roster]]:
    """Give what a folder or an export's archive holds, named by the roster."""
    asked = [exercises.find(id).id for id in options["ids"]]
    roster = read_roster(Path(options["roster"])) if options["roster"] else Roster()
    with Home("class") as home:
        root = open_export(submissions, home.folder / "export")
        intake = collect(
            root,
            offered(),
            asked=asked,
            ref=options["ref"],
            deadline=moment(options["deadline"]),
        )
        yield replace(intake, works=tuple(_named(work, roster) for work in intake.works)), roster


def _named(work: Work, roster: Roster) -> Work:
    person = roster.find(work.student, *work.also)
    return replace(work, student=person.key) if person else work


def _chosen(works: tuple[Work, ...], students: tuple[str, ...]) -> list[Work]:
    unknown = set(students) - {work.student for work in works}
    if unknown:
        raise UsageError("no_student", student=", ".join(sorted(unknown)))
    return [work for work in works if not students or work.student in students]


def _settings(options: dict[str, Any], lang: str) -> Settings:
    return Settings(
        broker=options["broker"],
        stack=options["stack"] or "",
        required=options["require"],
        seed=options["seed"],
        jobs=options["jobs"] or os.cpu_count() or 1,
        runs=options["runs"],
        again=options.get("again", False),
        unsafe=options["unsafe"],
        lang=lang,
    )


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Keep a second call out of the same book; what a killed one left does not lock anything."""
    if not path.absolute().parent.is_dir():
        raise UsageError("book_folder", path=path)
    lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UsageError("book_busy", path=path) from None
    except OSError as error:
        raise UsageError("book_closed", path=path, error=error.strerror) from None
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def _follow(steps: Iterator[Step], total: int, lang: str) -> dict[str, int]:
    """Print a line for each step, below them a bar with the time that is left; count them."""
    counts = {"graded": 0, "unchanged": 0}
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task(Text.of("class_bar").render(lang), total=total)
        for step in steps:
            counts["graded" if step.attempt else "unchanged"] += 1
            if step.attempt:
                console.print(_line(step.attempt, lang), markup=False, highlight=False)
            progress.advance(bar)
    return counts


def _line(row: Attempt, lang: str) -> str:
    start = f"{one_line(row.student):<24}  {row.exercise:<8}"
    return f"{start}  {outcome(row, lang):<14}  {row.seconds:.1f} s"


def _sum_up(standings: list[Standing], counts: dict[str, int], path: Path, lang: str) -> int:
    """Say what came of it all; 3 where the lab failed somebody's work, else 0."""
    faults = [s for s in standings if s.attempt is None or s.faults]
    echo("class_done", lang, **counts, path=path)
    for standing in standings:
        if standing.same < standing.turns:
            fields = {"same": standing.same, "turns": standing.turns, **vars(standing.key)}
            echo("class_unsteady", lang, **fields)
    for standing in faults:
        echo("class_failed", lang, **vars(standing.key))
    return 3 if faults else 0


def _when(work: Work, lang: str) -> str:
    late = f" {Text.of('note_late').render(lang)}" if work.late else ""
    return f"{shown_time(work.at) if work.at else '-'}{late}"


def _say_strays(intake: Intake, lang: str) -> None:
    for stray in intake.strays:
        said = Text.of(stray.key, path=one_line(str(stray.path)), error=one_line(stray.error))
        click.echo(said.render(lang), err=True)


def _tell(line: str) -> None:
    click.echo(line, err=True)

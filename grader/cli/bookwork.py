"""What the commands on a grade book do and say."""

from __future__ import annotations

import getpass
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.table import Table

from grader import exercise as exercises
from grader.classroom.book import Book, Key, Standing
from grader.classroom.marks import write_feedback, write_tables
from grader.classroom.overview import seats
from grader.classroom.site import Site
from grader.classroom.tables import Override
from grader.cli import language
from grader.cli.saying import console, echo, new_folder, offered, outcome, table
from grader.errors import UsageError
from grader.report.document import number, one_line, shown_time
from grader.words import Text


def override(path: Path, student: str, id: str, score: float | None, reason: str, by: str) -> None:
    """Write down a score that an instructor sets; None lifts the one that was set."""
    lang = language()
    with Book(path) as book:
        key = _known(book, student, id)
        top = next(row.max_score for row in book.attempts(key))
        if score is not None and not 0 <= score <= top:
            raise UsageError("override_range", score=f"{score:g}", top=number(top))
        if not reason.strip():
            raise UsageError("override_reason")
        who = by or getpass.getuser()
        row = Override(
            student=student, exercise=id, score=score, reason=reason, by=who, at=datetime.now(UTC)
        )
        book.add(row)
        counts = book.standing(key).score
    said = "-" if counts is None else number(counts)
    echo("override_done", lang, student=student, exercise=id, score=said)


def report(path: Path, out: Path, feedback: bool, lang: str | None) -> None:
    """Write the pages and the files of a grade book into a folder that is new or a report's."""
    lang = lang or language()
    new_folder(out)
    with Book(path) as book:
        seated, every = seats(book), offered()
        if not seated:
            raise UsageError("book_empty", path=path)
        try:
            files = [*Site(book, seated, every, lang, out).write()]
            files += write_tables(seated, every, out)
            if feedback:
                files += write_feedback(book, seated, every, lang, out / "feedback")
        except OSError as error:
            raise UsageError("cannot_write", path=out, error=error.strerror) from None
    echo("report_done", lang, count=len(files), path=out / "index.html")


def _known(book: Book, student: str, id: str) -> Key:
    keys = book.graded()
    if Key(student, id) not in keys:
        near = exercises.suggestion(student, sorted({key.student for key in keys}))
        raise UsageError("not_in_book", student=student, exercise=id, near=near)
    return Key(student, id)


def history(path: Path, student: str | None, id: str | None) -> None:
    """Print where everybody stands, or every attempt of one student."""
    lang = language()
    with Book(path) as book:
        mine = [key for key in book.graded() if student in (None, key.student)]
        keys = [key for key in mine if id in (None, key.exercise)]
        if not keys and student:
            _known(book, student, id or "")
        found = _attempts(book, keys, lang) if student else _standings(book, keys, lang)
    console().print(found)


def _standings(book: Book, keys: list[Key], lang: str) -> Table:
    found = table("intake_student", "intake_exercise", "book_score", "book_notes", lang=lang)
    for standing in book.standings(keys):
        score = "-" if standing.score is None else str(number(standing.score))
        notes = ", ".join(_notes(standing, lang))
        found.add_row(one_line(standing.key.student), standing.key.exercise, score, notes)
    return found


def _notes(standing: Standing, lang: str) -> Iterator[str]:
    if standing.override:
        words = {"reason": one_line(standing.override.reason), "by": standing.override.by}
        yield Text.of("note_override", **words).render(lang)
    if standing.attempt and standing.attempt.late:
        yield Text.of("note_late").render(lang)
    if standing.same < standing.turns:
        counts = {"same": standing.same, "turns": standing.turns}
        yield Text.of("note_unsteady", **counts).render(lang)
    if standing.attempt is None or standing.faults:
        yield Text.of("note_fault").render(lang)


def _attempts(book: Book, keys: list[Key], lang: str) -> Table:
    found = table(
        "intake_exercise", "book_when", "book_score", "book_seed", "book_place", lang=lang
    )
    rows: list[Any] = [r for key in keys for r in (*book.attempts(key), *book.overrides(key))]
    for row in sorted(rows, key=lambda r: r.at if isinstance(r, Override) else r.started_at):
        if isinstance(row, Override):
            score = "-" if row.score is None else str(number(row.score))
            words = Text.of("note_override", reason=one_line(row.reason), by=row.by).render(lang)
            found.add_row(row.exercise, shown_time(row.at), score, "", words)
        else:
            place = one_line(row.place)
            found.add_row(
                row.exercise, shown_time(row.started_at), outcome(row, lang), str(row.seed), place
            )
    return found

"""A class's scores for other programs: Canvas, Moodle, JUnit, and a file a student.

Canvas ("Import Grades") wants the columns of its own grade book export, an assignment a column and
a row "Points Possible"; students are told apart by their IDs. Moodle ("Import grades", CSV) maps
any columns; what identifies a student has to be among them. Both read only text, yet people open
these files in spreadsheets first: no cell may be a formula.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from grader.classroom.book import Book, Standing
from grader.classroom.evidence import unpack
from grader.classroom.overview import Seat
from grader.classroom.pages import put
from grader.exercise import Exercise
from grader.private import for_student
from grader.report import render_documents
from grader.report.document import Document, number, one_line
from grader.words import Text

CANVAS = ("Student", "ID", "SIS User ID", "SIS Login ID", "Section")
MOODLE = ("Username", "ID number", "Email address", "First name", "Last name")
FORMULA = tuple("=+-@＝＋－＠\t\r")


def write_tables(seats: Sequence[Seat], exercises: Sequence[Exercise], to: Path) -> Iterator[Path]:
    """Write the scores for Canvas and Moodle below `to` and yield each file's path."""
    used = [e for e in exercises if any(e.id in seat.standings for seat in seats)]
    yield put(to / "canvas.csv", _csv(_canvas(seats, used)))
    yield put(to / "moodle.csv", _csv(_moodle(seats, used)))


def write_feedback(
    book: Book, seats: Sequence[Seat], exercises: Sequence[Exercise], lang: str, to: Path
) -> Iterator[Path]:
    """Write JUnit XML, and Markdown and results.json a student, and yield each file's path."""
    documents = [d for seat in seats for d in _documents(book, seat, exercises, lang)]
    yield put(to / "results.xml", render_documents(documents, "junit", lang, many=True, named=True))
    for seat in seats:
        mine = [for_student(d, lang) for d in _documents(book, seat, exercises, lang)]
        for form, ending in (("markdown", "md"), ("gradescope", "json")) if mine else ():
            text = render_documents(mine, form, lang, many=len(mine) > 1)
            yield put(to / form / f"{seat.slug}.{ending}", text)


def _canvas(seats: Iterable[Seat], exercises: Sequence[Exercise]) -> Iterator[list[str]]:
    yield [*CANVAS, *(f"{e.id} {e.title['en']}" for e in exercises)]
    yield ["    Points Possible", "", "", "", "", *(str(e.points()) for e in exercises)]
    for seat in seats:
        row = seat.person.row if seat.person else {}
        known = {"Student": seat.name, "SIS Login ID": seat.key}
        yield [
            *(row.get(column) or known.get(column, "") for column in CANVAS),
            *_scores(seat, exercises),
        ]


def _moodle(seats: Iterable[Seat], exercises: Sequence[Exercise]) -> Iterator[list[str]]:
    yield [*MOODLE, *(e.id for e in exercises)]
    for seat in seats:
        row = {k.lower(): v for k, v in (seat.person.row if seat.person else {}).items()}
        first, last = _two(seat.name)
        known = {"Username": seat.key, "First name": first, "Last name": last}
        yield [
            *(row.get(column.lower()) or known.get(column, "") for column in MOODLE),
            *_scores(seat, exercises),
        ]


def _two(name: str) -> tuple[str, str]:
    """Return the first and the last name of "Jane Doe" or "Doe, Jane"."""
    last, comma, first = name.partition(",")
    if not comma:
        first, _, last = name.rpartition(" ")
        first, last = (first, last) if first else (last, "")
    return first.strip(), last.strip()


def _scores(seat: Seat, exercises: Iterable[Exercise]) -> Iterator[str]:
    """Yield the score of each exercise, an empty cell where there is none: it changes no grade."""
    for exercise in exercises:
        standing = seat.standings.get(exercise.id)
        found = standing.score if standing else None
        yield "" if found is None else str(number(found))


def _csv(rows: Iterable[Sequence[str]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    for row in rows:
        writer.writerow([_cell(one_line(c)) if c.strip() == c else c for c in row])
    return text.getvalue()


def _cell(text: str) -> str:
    """Return the text so that no spreadsheet takes it for a formula."""
    return f"'{text}" if text.startswith(FORMULA) else text


def _documents(
    book: Book, seat: Seat, exercises: Iterable[Exercise], lang: str
) -> Iterator[Document]:
    for exercise in exercises:
        standing = seat.standings.get(exercise.id)
        if standing and standing.attempt:
            found = unpack(book.evidence(standing.attempt.id))["documents"][lang]
            yield {**found, "submission": one_line(seat.key), **_by_hand(standing, found, lang)}


def _by_hand(standing: Standing, document: Document, lang: str) -> dict[str, Any]:
    """Return what an override changes in a document; the criteria keep their verdicts."""
    by_hand = standing.override
    if by_hand is None or by_hand.score is None:
        return {}
    said = Text.of("note_override", by=one_line(by_hand.by), reason=one_line(by_hand.reason))
    remarks = [*document["remarks"], said.render(lang)]
    return {"score": number(by_hand.score), "remarks": remarks}

"""The class as a folder of HTML pages: no server, no script, nothing from elsewhere.

A student's page stands alone, so that it can be sent to them: it names nobody else, no seed and no
place on the instructor's disk.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from markupsafe import Markup

from grader.classroom.book import Book, Standing
from grader.classroom.evidence import unpack
from grader.classroom.overview import Seat, difficulties, first_passes, middle
from grader.classroom.pages import pages, put, say
from grader.exercise import Exercise
from grader.private import for_student
from grader.report import Style
from grader.report.document import Document, brokers, explain, number, points, rows, score
from grader.report.timeline import timeline


class Site:
    """Writes the pages of one book in one language below a folder."""

    def __init__(
        self, book: Book, seats: Sequence[Seat], exercises: Sequence[Exercise], lang: str, to: Path
    ) -> None:
        used = {id for seat in seats for id in seat.standings}
        self.book, self.seats, self.lang, self.to = book, seats, lang, to
        self.exercises = [exercise for exercise in exercises if exercise.id in used]
        self._style = Style(lang)
        self._pages = pages(lang)

    def write(self) -> Iterator[Path]:
        """Write every page and yield its path."""
        yield self._write("index.html", exercises=self.exercises, seats=self._matrix())
        for exercise in self.exercises:
            yield self._write(
                f"exercise-{exercise.id}.html", template="exercise.html", **self._exercise(exercise)
            )
        for seat in self.seats:
            page = f"students/{seat.slug}.html"
            parts = [self._part(e, seat.standings.get(e.id)) for e in self.exercises]
            yield self._write(page, template="student.html", seat=seat, parts=parts)

    def _write(self, page: str, template: str = "", **fields: Any) -> Path:
        text = self._pages.get_template(template or page).render(**fields)
        return put(self.to / page, text)

    def _say(self, key: str, **fields: object) -> str:
        return say(self.lang, key, **fields)

    def _matrix(self) -> Iterator[tuple[Seat, list[dict[str, Any]]]]:
        for seat in self.seats:
            yield seat, [self._cell(seat.standings.get(e.id)) for e in self.exercises]

    def _cell(self, standing: Standing | None) -> dict[str, Any]:
        """Return one field of the matrix: its text, its kind for the colour, its notes."""
        if standing is None:
            return {"text": "", "kind": "none", "notes": []}
        notes = list(self._notes(standing))
        if standing.score is None:
            return {"text": "?", "kind": "fault", "notes": notes}
        top = standing.attempt.max_score if standing.attempt else 100
        kind = "full" if standing.score >= top else "part" if standing.score else "zero"
        bonus = standing.attempt.bonus if standing.attempt else 0
        text = f"{number(standing.score)}" + (f" +{number(bonus)}" if bonus else "")
        return {"text": text, "kind": kind, "notes": notes}

    def _notes(self, standing: Standing) -> Iterator[str]:
        if standing.override:
            yield self._say("by_hand")
        if standing.attempt and standing.attempt.late:
            yield self._say("late")
        if standing.same < standing.turns:
            yield self._say("unsteady", same=standing.same, turns=standing.turns)
        if standing.attempt is None or standing.faults:
            yield self._say("fault")

    def _exercise(self, exercise: Exercise) -> Mapping[str, Any]:
        standings = [s.standings[exercise.id] for s in self.seats if exercise.id in s.standings]
        distinct = {standing.key: standing for standing in standings}
        passes = first_passes(self.book, distinct)
        order = {c.id: n for n, c in enumerate(exercise.criteria)}
        known = sorted(difficulties(distinct.values()), key=lambda d: order.get(d.id, len(order)))
        return {
            "exercise": exercise,
            "rows": [(self._title(exercise, d.id), d) for d in known],
            "students": len(distinct),
            "passed": len(passes),
            "works": middle([works for works, _ in passes]),
            "hours": middle([hours for _, hours in passes]),
        }

    def _title(self, exercise: Exercise, id: str) -> str:
        if id not in exercise.checks:
            return id  # a private check, or one of an older version
        if self.lang == "en":
            return exercise.checks[id].claim
        return exercise.criterion(id).title.get(self.lang, exercise.checks[id].claim)

    def _part(self, exercise: Exercise, standing: Standing | None) -> dict[str, Any]:
        """Return what a student's page says of one exercise."""
        part: dict[str, Any] = {
            "exercise": exercise,
            "title": exercise.title.get(self.lang, exercise.title["en"]),
            "cell": self._cell(standing),
            "standing": standing,
        }
        if standing is None or standing.attempt is None:
            return part | {"document": None, "attempts": []}
        attempts = self.book.rows(standing.key)
        evidence = unpack(self.book.evidence(standing.attempt.id))
        document: Document = for_student(evidence["documents"][self.lang], self.lang)
        draw = partial(timeline, title=self._say("timeline", exercise=exercise.id))
        drawn = {name: Markup(draw(h)) for name, h in evidence["histories"].items()}
        return part | {
            "document": document,
            "attempts": attempts,
            "score": score(document, False, self._style),
            "brokers": brokers(document),
            "groups": [(b, [self._row(r) for r in rows(document, b)]) for b in (False, True)],
            "timelines": {name: picture for name, picture in drawn.items() if picture},
        }

    def _row(self, entries: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "title": entries[0]["title"],
            "marks": {entry["broker"]: entry["verdict"] for entry in entries},
            "points": points(entries),
            "lines": explain(entries, self._style),
        }

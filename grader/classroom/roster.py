"""Who is in the class: a CSV file with a row a student, a platform's export or made by hand."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from grader.errors import UsageError

# The headers of Canvas (grade book export), Moodle (participants), GitHub Classroom and Gradescope
# (rosters), and what people write themselves; small letters, the first that is filled in counts.
# Canvas' "Student" is a name for people, so its login goes before.
KEYS = (
    "sis login id",
    "student",
    "username",
    "login",
    "github_username",
    "identifier",
    "sid",
    "student id",
    "email",
    "email address",
    "id",
)
NAMES = ("name", "full name", "student name", "student")
FIRST, LAST = ("first name", "given name"), ("last name", "surname")
GROUPS = ("group", "team", "group name", "groups")
# Rows of Canvas' grade book that are nobody: the points of each assignment, and the test student.
NOBODY = ("pointspossible", "student,test")


@dataclass(frozen=True)
class Person:
    """A row of the roster.

    Args:
        key: the student in the grade book.
        name: as people say it.
        group: whose work counts for them too, "" for none.
        row: every cell by its header, for the platform's own import format.
    """

    key: str
    name: str
    group: str
    row: dict[str, str]

    @property
    def known_as(self) -> set[str]:
        """Every word by which an export may call them, in small letters without spaces."""
        words = {self.key, self.name, *self.row.values()}
        last, _, first = self.name.partition(",")
        parts = f"{first} {last}".split() if first else self.name.split()
        if len(parts) > 1:
            words |= {" ".join(parts), f"{parts[-1]}{''.join(parts[:-1])}"}
        return {_plain(word) for word in words if word.strip()}


class Roster:
    """The people of a class, found by whatever an export calls them."""

    def __init__(self, people: Iterable[Person] = ()) -> None:
        self.people = tuple(people)
        self._known: dict[str, list[Person]] = {}
        for person in self.people:
            for word in person.known_as:
                self._known.setdefault(word, []).append(person)

    def find(self, *words: str) -> Person | None:
        """Return who is meant; a word that fits several people means none of them."""
        for word in words:
            found = self._known.get(_plain(word), [])
            if len(found) == 1:
                return found[0]
        return None

    def members(self, group: str) -> list[Person]:
        """Return the members of a group."""
        return [p for p in self.people if p.group and _plain(p.group) == _plain(group)]


def read_roster(file: Path) -> Roster:
    """Read a roster.

    Raises:
        UsageError: it can't be read, has no column that names a student, or names one twice.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            rows = list(csv.DictReader(opened))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError("roster_broken", path=file, error=error) from None
    headers = {h.strip().lower(): h for h in (rows[0] if rows else {}) if h}
    keys = [headers[k] for k in KEYS if k in headers]
    if not keys:
        wanted = ", ".join(KEYS)
        raise UsageError("roster_headers", path=file, found=", ".join(headers), wanted=wanted)
    people = [person for row in rows if (person := _person(row, keys, headers))]
    twice = {p.key for p in people if [q.key for q in people].count(p.key) > 1}
    if twice:
        raise UsageError("roster_twice", path=file, students=", ".join(sorted(twice)))
    return Roster(people)


def _person(row: dict[str, str | None], keys: list[str], headers: dict[str, str]) -> Person | None:
    cells = {header: (row[header] or "").strip() for header in headers.values()}

    def cell(names: tuple[str, ...]) -> str:
        return next((cells[headers[n]] for n in names if n in headers), "")

    name = cell(NAMES) or f"{cell(FIRST)} {cell(LAST)}".strip()
    key = next((cells[k] for k in keys if cells[k]), name)
    if not key or _plain(name) in NOBODY:
        return None
    return Person(key, name or key, cell(GROUPS), cells)


def _plain(word: str) -> str:
    return "".join(word.split()).casefold()

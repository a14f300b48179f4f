"""A class at a glance, out of its grade book: who stands where, and how hard each criterion was."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from statistics import median

from grader.classroom.book import Book, Key, Standing
from grader.classroom.roster import Person


@dataclass(frozen=True)
class Seat:
    """One student: what the roster says of them, and their standing in each exercise."""

    key: str
    name: str
    group: str = ""
    person: Person | None = None
    standings: dict[str, Standing] = field(default_factory=dict)

    @property
    def slug(self) -> str:
        """The key as part of a file's name, different for different keys."""
        plain = re.sub(r"[^A-Za-z0-9._-]", "_", self.key)[:60].strip(".")
        if plain and plain == self.key:
            return plain
        return f"{plain}-{sha256(self.key.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"


@dataclass(frozen=True)
class Difficulty:
    """How a class did in one criterion: `passed` of `tried`."""

    id: str
    passed: int
    tried: int

    @property
    def share(self) -> float:
        """The part that passed, from 0 to 1."""
        return self.passed / self.tried if self.tried else 0.0


def seats(book: Book) -> list[Seat]:
    """Return everybody in the book and its roster; a group's newest work counts for its members."""
    people = {person.key: person for person in book.people()}
    found = {key: Seat(key, p.name, p.group, p) for key, p in people.items()}
    for standing in book.standings():
        key = standing.key.student
        found.setdefault(key, Seat(key, key)).standings[standing.key.exercise] = standing
    shared = [_with_group(seat, list(found.values())) for seat in found.values()]
    return sorted(shared, key=lambda seat: (seat.name.casefold(), seat.key))


def _with_group(seat: Seat, everybody: Sequence[Seat]) -> Seat:
    if not seat.group:
        return seat
    mates = [other for other in everybody if other.group == seat.group]
    standings: dict[str, Standing] = {}
    for exercise in sorted({id for mate in mates for id in mate.standings}):
        offered = [mate.standings[exercise] for mate in mates if exercise in mate.standings]
        own = seat.standings.get(exercise)
        newest = max(offered, key=lambda s: s.attempt.id if s.attempt else 0)
        # What was set by hand for one member stays theirs.
        standings[exercise] = own if own and own.override else newest
    return replace(seat, standings=standings)


def difficulties(standings: Iterable[Standing]) -> Iterator[Difficulty]:
    """Yield each criterion of one exercise, over everybody's standing in it.

    A criterion counts as passed where it is on every broker; what was blocked counts as not passed.
    """
    counts: dict[str, list[int]] = {}
    for standing in standings:
        if standing.attempt is None:
            continue
        by_criterion: dict[str, set[str]] = {}
        for where, verdict in standing.attempt.verdicts.items():
            by_criterion.setdefault(where.partition("@")[0], set()).add(verdict)
        for id, verdicts in by_criterion.items():
            row = counts.setdefault(id, [0, 0])
            row[0] += verdicts == {"passed"}
            row[1] += 1
    for id, (passed, tried) in counts.items():
        yield Difficulty(id, passed, tried)


def first_passes(book: Book, keys: Iterable[Key]) -> list[tuple[int, float]]:
    """Return, for each student who got every core point, after how many different works and hours.

    The hours run from the first work handed in to the one that passed, by their own times.
    """
    found = []
    for key in keys:
        works: dict[str, float] = {}
        for row in book.rows(key):
            at = row.submitted_at or row.started_at
            works.setdefault(row.work, at.timestamp())
            if row.score >= row.max_score and not row.lab_fault:
                hours = (works[row.work] - min(works.values())) / 3600
                found.append((len(works), hours))
                break
    return found


def middle(values: Sequence[float]) -> float | None:
    """Return the median, None of nothing."""
    return median(values) if values else None

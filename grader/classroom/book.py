"""The grade book: one SQLite file with every attempt. Nothing in it is ever overwritten."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Engine, Select, create_engine, event, func, select
from sqlalchemy.exc import DatabaseError, OperationalError
from sqlalchemy.orm import Session, defer

from grader.classroom.roster import Person, Roster
from grader.classroom.tables import Attempt, Call, Override, Student, Table
from grader.errors import UsageError

MIGRATIONS = Path(__file__).with_name("migrations")


@dataclass(frozen=True)
class Key:
    """Whose work for which exercise."""

    student: str
    exercise: str


@dataclass(frozen=True)
class Sort:
    """What two gradings must have in common to be gradings of the same thing (see prints.py)."""

    work: str
    checks: str
    environment: str
    brokers: str


@dataclass(frozen=True)
class Standing:
    """Where a student stands in an exercise.

    Args:
        attempt: the newest one that the lab did not fail, None where it failed each time.
        override: what an instructor set instead.
        turns: how many gradings of just this work there are.
        same: how many of them came to the same verdicts as `attempt`.
        faults: how many gradings the lab failed since.
    """

    key: Key
    attempt: Attempt | None
    override: Override | None
    turns: int
    same: int
    faults: int

    @property
    def score(self) -> float | None:
        """The score that counts, None where there is none yet."""
        if self.override and self.override.score is not None:
            return self.override.score
        return self.attempt.score if self.attempt else None


class Book:
    """An open grade book. Use it as a context manager."""

    def __init__(self, path: Path, *, new: bool = False) -> None:
        """Open the book at `path`; one of an older version is brought up to date.

        Args:
            new: make it where there is none.

        Raises:
            UsageError: there is no book, or something else.
        """
        if not new and not path.is_file():
            raise UsageError("book_missing", path=path)
        if not path.absolute().parent.is_dir() or path.is_dir():
            raise UsageError("book_folder", path=path)
        self.path = path
        self._engine = create_engine(f"sqlite:///{path.absolute()}")
        event.listen(self._engine, "connect", _careful)
        try:
            _migrate(self._engine)
        except (DatabaseError, CommandError) as error:
            self._engine.dispose()
            words = str(error.__cause__ or error).partition("\n")[0]
            raise UsageError("book_broken", path=path, error=words) from None

    def __enter__(self) -> Book:
        return self

    def __exit__(self, *_: object) -> None:
        self._engine.dispose()

    def add(self, row: Table) -> None:
        """Add a row for good: when this returns, no crash can lose it.

        Raises:
            UsageError: the file can't be written.
        """
        try:
            with Session(self._engine, expire_on_commit=False) as session, session.begin():
                session.add(row)
        except OperationalError as error:
            raise UsageError("book_closed", path=self.path, error=error.orig) from None

    def enrol(self, roster: Roster) -> None:
        """Add the people of a roster; those who are in the book as they are stay."""
        known = {person.key: person for person in self.people()}
        for person in roster.people:
            if known.get(person.key) != person:
                self.add(
                    Student(
                        key=person.key,
                        name=person.name,
                        group=person.group,
                        row=person.row,
                        at=datetime.now(UTC),
                    )
                )

    def people(self) -> list[Person]:
        """Return the students whom a roster named, as the newest one has them."""
        with Session(self._engine) as session:
            rows = session.scalars(select(Student).order_by(Student.id))
            found = {r.key: Person(r.key, r.name, r.group, dict(r.row)) for r in rows}
        return list(found.values())

    def turns(self, key: Key, sort: Sort) -> tuple[int, int]:
        """Return how many gradings of just this there are, and how many of them the lab failed."""
        rows = self._all(_of(key).where(*_same(sort)))
        return len(rows), sum(row.lab_fault for row in rows)

    def attempts(self, key: Key) -> list[Attempt]:
        """Return every attempt of a student at an exercise, the oldest first, with its evidence."""
        with Session(self._engine) as session:
            return list(session.scalars(_of(key)))

    def evidence(self, id: int) -> bytes:
        """Return the evidence of the attempt with that id (see evidence.py)."""
        with Session(self._engine) as session:
            return session.scalars(select(Attempt.evidence).where(Attempt.id == id)).one()

    def rows(self, key: Key) -> list[Attempt]:
        """Return the attempts as `attempts` does, without their evidence."""
        return self._all(_of(key))

    def overrides(self, key: Key) -> list[Override]:
        """Return what instructors set by hand, the oldest first."""
        chosen = select(Override).where(
            Override.student == key.student, Override.exercise == key.exercise
        )
        with Session(self._engine) as session:
            return list(session.scalars(chosen.order_by(Override.id)))

    def graded(self) -> list[Key]:
        """Return every student's exercises that were graded, sorted."""
        chosen = select(Attempt.student, Attempt.exercise).distinct()
        with Session(self._engine) as session:
            found = [Key(*row) for row in session.execute(chosen)]
        return sorted(found, key=lambda key: (key.student.casefold(), key.exercise))

    def standings(self, keys: Iterable[Key] = ()) -> Iterator[Standing]:
        """Yield the standing of each key, of all by default."""
        for key in list(keys) or self.graded():
            yield self.standing(key)

    def standing(self, key: Key) -> Standing:
        """Return where a student stands in an exercise."""
        rows = self.rows(key)
        good = [row for row in rows if not row.lab_fault]
        set_by_hand = self.overrides(key)
        override = set_by_hand[-1] if set_by_hand and set_by_hand[-1].score is not None else None
        if not good:
            return Standing(key, None, override, 0, 0, len(rows))
        last = good[-1]
        alike = [row for row in good if _sort(row) == _sort(last)]
        same = Counter(str(sorted(row.verdicts.items())) for row in alike)
        faults = sum(row.lab_fault for row in rows if row.id > last.id)
        agreeing = same[str(sorted(last.verdicts.items()))]
        return Standing(key, last, override, len(alike), agreeing, faults)

    def last_call(self) -> Call | None:
        """Return where the submissions of the last call lay and how they were read."""
        with Session(self._engine) as session:
            return session.scalar(select(Call).order_by(Call.id.desc()).limit(1))

    def identity(self) -> str:
        """Return a name that no other book has: drawn from its first call."""
        with Session(self._engine) as session:
            first = session.scalar(select(Call).order_by(Call.id).limit(1))
        words = f"{first.at.isoformat()} {first.submissions}" if first else str(self.path)
        return hashlib.sha256(words.encode("utf-8", "surrogateescape")).hexdigest()[:32]

    def count(self) -> int:
        """Return how many attempts there are."""
        with Session(self._engine) as session:
            return session.scalar(select(func.count(Attempt.id))) or 0

    def _all(self, chosen: Select[Any]) -> list[Attempt]:
        """Return attempts without their evidence, which would fill the memory."""
        with Session(self._engine) as session:
            return list(session.scalars(chosen.options(defer(Attempt.evidence))))


def _of(key: Key) -> Select[Any]:
    chosen = select(Attempt).where(Attempt.student == key.student)
    return chosen.where(Attempt.exercise == key.exercise).order_by(Attempt.id)


def _sort(row: Attempt) -> Sort:
    return Sort(row.work, row.checks, row.environment, row.brokers)


def _same(sort: Sort) -> Iterator[Any]:
    for name, value in vars(sort).items():
        yield getattr(Attempt, name) == value


def _careful(connection: Any, _: Any) -> None:
    """Have every commit on the disk before it returns."""
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA busy_timeout = 10000")


def _migrate(engine: Engine) -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")

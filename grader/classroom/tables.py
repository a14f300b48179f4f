"""The grade book's tables. Rows are only ever added: triggers in the file itself see to that."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, ClassVar

from sqlalchemy import JSON, DateTime, Index, UniqueConstraint
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator


class Moment(TypeDecorator[datetime]):
    """A time, kept in UTC: SQLite knows no offsets."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return what is stored."""
        return value.astimezone(UTC).replace(tzinfo=None) if value else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return what was given, in UTC."""
        return value.replace(tzinfo=UTC) if value else None


class Table(DeclarativeBase):
    """The root of all tables."""

    type_annotation_map: ClassVar[dict[Any, Any]] = {datetime: Moment, dict[str, Any]: JSON}


class Student(Table):
    """A student as a roster had them; the newest row of a key counts."""

    __tablename__ = "students"

    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(index=True)
    name: Mapped[str]
    group: Mapped[str]
    row: Mapped[dict[str, Any]]
    at: Mapped[datetime]


class Attempt(Table):
    """One grading of one piece of work.

    `work`, `checks` and `environment` are hashes of what was graded and with what; `turn` counts
    the gradings that have all of them and the brokers in common. `verdicts` maps
    `criterion@broker` to a verdict; `evidence` is all else that is known (see evidence.py).
    """

    __tablename__ = "attempts"
    __table_args__ = (
        UniqueConstraint(
            "student", "exercise", "work", "checks", "environment", "brokers", "turn", name="once"
        ),
        Index("standing", "student", "exercise", "id"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    student: Mapped[str]
    exercise: Mapped[str]
    work: Mapped[str]
    checks: Mapped[str]
    environment: Mapped[str]
    brokers: Mapped[str]
    turn: Mapped[int]
    place: Mapped[str]
    submitted_at: Mapped[datetime | None]
    late: Mapped[bool | None]
    started_at: Mapped[datetime]
    seconds: Mapped[float]
    seed: Mapped[int]
    status: Mapped[str]
    score: Mapped[float]
    max_score: Mapped[float]
    bonus: Mapped[float]
    max_bonus: Mapped[float]
    lab_fault: Mapped[bool]
    unsafe: Mapped[bool]
    verdicts: Mapped[dict[str, Any]]
    versions: Mapped[dict[str, Any]]
    evidence: Mapped[bytes]


class Override(Table):
    """A score that an instructor set by hand; the newest counts, one without a score lifts it."""

    __tablename__ = "overrides"

    id: Mapped[int] = mapped_column(primary_key=True)
    student: Mapped[str]
    exercise: Mapped[str]
    score: Mapped[float | None]
    reason: Mapped[str]
    by: Mapped[str]
    at: Mapped[datetime]


class Call(Table):
    """A call of `lab class`: where the submissions lay, and the options that say whose they are."""

    __tablename__ = "calls"

    id: Mapped[int] = mapped_column(primary_key=True)
    submissions: Mapped[str]
    options: Mapped[dict[str, Any]]
    at: Mapped[datetime]

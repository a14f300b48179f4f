"""The first grade book: students, attempts, overrides, calls; rows can only be added."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


ONE = ("student", "exercise", "work", "checks", "environment", "brokers")
POINTS = ("score", "max_score", "bonus", "max_bonus")


def upgrade() -> None:
    """Make the tables and the triggers that keep their rows."""
    for make in (students, attempts, overrides, calls):
        make()
        for action in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {make.__name__}_keep_{action.lower()} "
                f"BEFORE {action} ON {make.__name__} "
                f"BEGIN SELECT RAISE(ABORT, 'rows of a grade book are never changed'); END"
            )


def students() -> None:
    """Make the table."""
    op.create_table(
        "students",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("key", sa.String, nullable=False, index=True),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("group", sa.String, nullable=False),
        sa.Column("row", sa.JSON, nullable=False),
        sa.Column("at", sa.DateTime, nullable=False),
    )


def attempts() -> None:
    """Make the table."""
    op.create_table(
        "attempts",
        sa.Column("id", sa.Integer, primary_key=True),
        *(sa.Column(name, sa.String, nullable=False) for name in ONE),
        sa.Column("turn", sa.Integer, nullable=False),
        sa.Column("place", sa.String, nullable=False),
        sa.Column("submitted_at", sa.DateTime),
        sa.Column("late", sa.Boolean),
        sa.Column("started_at", sa.DateTime, nullable=False),
        sa.Column("seconds", sa.Double, nullable=False),
        sa.Column("seed", sa.Integer, nullable=False),
        sa.Column("status", sa.String, nullable=False),
        *(sa.Column(name, sa.Double, nullable=False) for name in POINTS),
        sa.Column("lab_fault", sa.Boolean, nullable=False),
        sa.Column("unsafe", sa.Boolean, nullable=False),
        sa.Column("verdicts", sa.JSON, nullable=False),
        sa.Column("versions", sa.JSON, nullable=False),
        sa.Column("evidence", sa.LargeBinary, nullable=False),
        sa.UniqueConstraint(*ONE, "turn", name="once"),
    )
    op.create_index("standing", "attempts", ["student", "exercise", "id"])


def overrides() -> None:
    """Make the table."""
    op.create_table(
        "overrides",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("student", sa.String, nullable=False),
        sa.Column("exercise", sa.String, nullable=False),
        sa.Column("score", sa.Double),
        sa.Column("reason", sa.String, nullable=False),
        sa.Column("by", sa.String, nullable=False),
        sa.Column("at", sa.DateTime, nullable=False),
    )


def calls() -> None:
    """Make the table."""
    op.create_table(
        "calls",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("submissions", sa.String, nullable=False),
        sa.Column("options", sa.JSON, nullable=False),
        sa.Column("at", sa.DateTime, nullable=False),
    )

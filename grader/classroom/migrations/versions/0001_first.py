"""The first grade book: students, attempts, overrides, calls; rows can only be added."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables and the triggers that keep their rows."""
    op.create_table(
        "students",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("key", sa.String, nullable=False, index=True),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("group", sa.String, nullable=False),
        sa.Column("row", sa.JSON, nullable=False),
        sa.Column("at", sa.DateTime, nullable=False),
    )
    op.create_table(
        "attempts",
        sa.Column("id", sa.Integer, primary_key=True),
        *(sa.Column(name, sa.String, nullable=False) for name in ONE),
        sa.Column("turn", sa.Integer, nullable=False),
        sa.Column("place", sa.String, nullable=False),
        sa.Column("submitted_at", sa.DateTime),
        sa.Column("late", sa.Boolean),
        sa.Column("started_at", sa.DateTime, nullable=False),
        sa.Column("seconds", sa.Float, nullable=False),
        sa.Column("seed", sa.Integer, nullable=False),
        sa.Column("status", sa.String, nullable=False),
        *(sa.Column(name, sa.Float, nullable=False) for name in POINTS),
        sa.Column("lab_fault", sa.Boolean, nullable=False),
        sa.Column("unsafe", sa.Boolean, nullable=False),
        sa.Column("verdicts", sa.JSON, nullable=False),
        sa.Column("versions", sa.JSON, nullable=False),
        sa.Column("evidence", sa.LargeBinary, nullable=False),
        sa.UniqueConstraint(*ONE, "turn", name="once"),
    )
    op.create_index("standing", "attempts", ["student", "exercise", "id"])
    op.create_table(
        "overrides",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("student", sa.String, nullable=False),
        sa.Column("exercise", sa.String, nullable=False),
        sa.Column("score", sa.Float),
        sa.Column("reason", sa.String, nullable=False),
        sa.Column("by", sa.String, nullable=False),
        sa.Column("at", sa.DateTime, nullable=False),
    )
    op.create_table(
        "calls",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("submissions", sa.String, nullable=False),
        sa.Column("options", sa.JSON, nullable=False),
        sa.Column("at", sa.DateTime, nullable=False),
    )
    for table in ("students", "attempts", "overrides", "calls"):
        for action in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {table}_keep_{action.lower()} BEFORE {action} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, 'rows of a grade book are never changed'); END"
            )


ONE = ("student", "exercise", "work", "checks", "environment", "brokers")
POINTS = ("score", "max_score", "bonus", "max_bonus")

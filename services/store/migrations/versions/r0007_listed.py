"""Cohorts are sorted, searched and compared with their last grade in the database."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from services.store.tables import listed_as

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_BATCH = 1000
_LINE = (
    "fixed",
    "accuracy",
    "total",
    "verdicts",
    "provisional",
    "goal_reached",
    "tampering_suspected",
    "generation",
    "id",
)


def upgrade() -> None:
    """Add the columns, and fill them from what is there."""
    op.add_column("submissions", sa.Column("listed_as", sa.Text(), server_default="", nullable=False))
    op.add_column("submissions", sa.Column("verdicts", sa.Text(), nullable=True))
    _move_facts("reports", "submissions")
    op.add_column("reports", sa.Column("rating", sa.Text(), nullable=True))
    on_sqlite = op.get_bind().dialect.name == "sqlite"
    told = "json_extract(report, '$.rating.rating')" if on_sqlite else "report::json #>> '{rating,rating}'"
    op.execute(f"UPDATE reports SET rating = {told} WHERE report IS NOT NULL")
    _fill_names()
    op.drop_index("ix_submissions_cohort_id_state", "submissions")
    op.create_index("ix_submissions_cohort_lines", "submissions", ["cohort_id", "state", *_LINE])


def _move_facts(source: str, target: str) -> None:
    """Short facts of a submission's newest report, from one table to the other."""
    for column in _facts():
        op.add_column(target, column)
    names = ", ".join(column.name for column in _facts())
    if target == "submissions":
        newest = "FROM reports WHERE submission_id = submissions.id ORDER BY generation DESC LIMIT 1"
        op.execute(f"UPDATE submissions SET ({names}, verdicts) = (SELECT {names}, verdicts {newest})")
    else:
        newest = "generation = (SELECT max(generation) FROM reports r WHERE r.submission_id = reports.submission_id)"
        known = f"SELECT {names} FROM submissions WHERE id = reports.submission_id"
        op.execute(f"UPDATE reports SET ({names}) = ({known}) WHERE {newest}")
    for column in _facts():
        op.drop_column(source, column.name)


def _facts() -> list[sa.Column[Any]]:
    return [
        sa.Column("goal_reached", sa.Boolean(), nullable=True),
        sa.Column("accuracy", sa.Double(), nullable=True),
        sa.Column("provisional", sa.Boolean(), nullable=True),
    ]


def _fill_names() -> None:
    """Here and not in SQL: no database but ours folds the letters of every script the way that Python does."""
    submissions = sa.table(
        "submissions",
        sa.column("id", sa.String),
        sa.column("candidate", sa.JSON),
        sa.column("file_name", sa.Text),
        sa.column("listed_as", sa.Text),
    )
    known = sa.select(submissions.c.id, submissions.c.candidate, submissions.c.file_name).order_by(submissions.c.id)
    change = sa.update(submissions).where(submissions.c.id == sa.bindparam("row")).values(listed_as=sa.bindparam("as"))
    connection, last = op.get_bind(), ""
    while rows := connection.execute(known.where(submissions.c.id > last).limit(_BATCH)).all():
        filled = [{"row": row.id, "as": listed_as(row.candidate, row.file_name)} for row in rows]
        connection.execute(change, filled)
        last = rows[-1].id


def downgrade() -> None:
    """Remove them, and put back what was moved."""
    op.drop_index("ix_submissions_cohort_lines", "submissions")
    op.create_index("ix_submissions_cohort_id_state", "submissions", ["cohort_id", "state"])
    _move_facts("submissions", "reports")
    op.drop_column("submissions", "verdicts")
    op.drop_column("reports", "rating")
    op.drop_column("submissions", "listed_as")

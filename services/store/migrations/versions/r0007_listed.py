"""Cohorts are sorted, searched and compared with their last grade in the database."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from services.store.tables import listed_as

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_BATCH = 1000


def upgrade() -> None:
    """Add the columns, and fill them from what is there."""
    op.add_column("submissions", sa.Column("listed_as", sa.Text(), server_default="", nullable=False))
    op.add_column("reports", sa.Column("rating", sa.Text(), nullable=True))
    on_sqlite = op.get_bind().dialect.name == "sqlite"
    told = "json_extract(report, '$.rating.rating')" if on_sqlite else "report::json #>> '{rating,rating}'"
    op.execute(f"UPDATE reports SET rating = {told} WHERE report IS NOT NULL")
    _fill_names()


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
    """Remove them."""
    op.drop_column("reports", "rating")
    op.drop_column("submissions", "listed_as")

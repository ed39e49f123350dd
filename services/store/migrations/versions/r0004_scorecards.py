"""Scorecards of interviewers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_ID, _TIME = sa.String(length=40), sa.BigInteger()


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "scorecards",
        sa.Column("id", _ID, nullable=False),
        sa.Column("submission_id", _ID, nullable=False),
        sa.Column("user_id", _ID, nullable=False),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("marks", sa.JSON(), nullable=False),
        sa.Column("comments", sa.JSON(), nullable=False),
        sa.Column("summary", sa.Text(), nullable=False),
        sa.Column("recommendation", sa.String(length=16), nullable=True),
        sa.Column("created_us", _TIME, nullable=False),
        sa.Column("updated_us", _TIME, nullable=False),
        sa.Column("handed_in_us", _TIME, nullable=True),
        sa.ForeignKeyConstraint(["submission_id"], ["submissions.id"], name=op.f("fk_scorecards_submission_id")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_scorecards_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_scorecards")),
        sa.UniqueConstraint("submission_id", "user_id", name=op.f("uq_scorecards_submission_id_user_id")),
    )


def downgrade() -> None:
    """Remove it."""
    op.drop_table("scorecards")

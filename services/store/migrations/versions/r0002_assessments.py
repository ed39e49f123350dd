"""Assessments that an applicant tracking system started."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "assessments",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("integration_id", sa.String(length=40), nullable=False),
        sa.Column("dedupe_key", sa.String(length=255), nullable=True),
        sa.Column("challenge", sa.Text(), nullable=False),
        sa.Column("candidate", sa.JSON(), nullable=True),
        sa.Column("callback", sa.JSON(), nullable=True),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("submission_id", sa.String(length=40), nullable=True),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("updated_us", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["submission_id"], ["submissions.id"], name=op.f("fk_assessments_submission_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_assessments")),
        sa.UniqueConstraint("integration_id", "dedupe_key", name=op.f("uq_assessments_integration_id_dedupe_key")),
    )
    op.create_index(op.f("ix_assessments_submission_id"), "assessments", ["submission_id"], unique=False)


def downgrade() -> None:
    """Remove it."""
    op.drop_table("assessments")

"""Invitations of candidates, and what they try out before handing in."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_ID, _TIME = sa.String(length=40), sa.BigInteger()


def upgrade() -> None:
    """Make the table, and let a submission say what it is for."""
    op.create_table(
        "invitations",
        sa.Column("id", _ID, nullable=False),
        sa.Column("token_hash", sa.String(length=64), nullable=False),
        sa.Column("cohort_id", _ID, nullable=True),
        sa.Column("challenge", sa.Text(), nullable=False),
        sa.Column("candidate", sa.JSON(), nullable=True),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("created_us", _TIME, nullable=False),
        sa.Column("expires_us", _TIME, nullable=False),
        sa.Column("time_limit_s", sa.Integer(), nullable=True),
        sa.Column("checks_max", sa.Integer(), nullable=False),
        sa.Column("started_us", _TIME, nullable=True),
        sa.Column("handed_in_us", _TIME, nullable=True),
        sa.Column("submission_id", _ID, nullable=True),
        sa.Column("revoked_us", _TIME, nullable=True),
        sa.Column("opened", sa.Integer(), nullable=False),
        sa.Column("opened_us", _TIME, nullable=True),
        sa.ForeignKeyConstraint(["cohort_id"], ["cohorts.id"], name=op.f("fk_invitations_cohort_id")),
        sa.ForeignKeyConstraint(["submission_id"], ["submissions.id"], name=op.f("fk_invitations_submission_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_invitations")),
        sa.UniqueConstraint("token_hash", name=op.f("uq_invitations_token_hash")),
        sa.UniqueConstraint("submission_id", name=op.f("uq_invitations_submission_id")),
    )
    op.create_index(op.f("ix_invitations_cohort_id"), "invitations", ["cohort_id"], unique=False)
    op.add_column("submissions", sa.Column("purpose", sa.String(length=8), server_default="grade", nullable=False))
    op.add_column("submissions", sa.Column("invitation_id", _ID, nullable=True))
    op.add_column("submissions", sa.Column("check_result", sa.JSON(), nullable=True))
    op.create_index(op.f("ix_submissions_invitation_id"), "submissions", ["invitation_id"], unique=False)
    checks = sa.text("purpose = 'check'")
    op.create_index(
        "ix_submissions_checks", "submissions", ["queue", "state"], sqlite_where=checks, postgresql_where=checks
    )


def downgrade() -> None:
    """Remove them. Checks go too: older code would take them for submissions."""
    checks = "SELECT id FROM submissions WHERE purpose = 'check'"
    for name in ("outbox", "events"):
        op.execute(f"DELETE FROM {name} WHERE submission_id IN ({checks})")
    op.execute("DELETE FROM submissions WHERE purpose = 'check'")
    op.drop_table("invitations")
    op.drop_index("ix_submissions_checks", table_name="submissions")
    op.drop_index(op.f("ix_submissions_invitation_id"), table_name="submissions")
    for name in ("check_result", "invitation_id", "purpose"):
        op.drop_column("submissions", name)

"""Links for candidates whom an applicant tracking system wants assessed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Let an invitation say which assessment it is for."""
    with op.batch_alter_table("invitations") as table:
        table.add_column(sa.Column("assessment_id", sa.String(length=40), nullable=True))
        table.create_foreign_key(op.f("fk_invitations_assessment_id"), "assessments", ["assessment_id"], ["id"])
        table.create_index(op.f("ix_invitations_assessment_id"), ["assessment_id"], unique=False)


def downgrade() -> None:
    """Forget which; what was handed in by such a link stays the assessment's."""
    with op.batch_alter_table("invitations") as table:
        table.drop_index(op.f("ix_invitations_assessment_id"))
        table.drop_constraint(op.f("fk_invitations_assessment_id"), type_="foreignkey")
        table.drop_column("assessment_id")

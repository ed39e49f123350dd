"""What is asked all the time is found without looking at everything."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add columns and indexes, and fill the columns from what is there."""
    op.add_column("submissions", sa.Column("external_id", sa.Text(), nullable=True))
    told = "json_extract(candidate, '$.external_id')" if _on_sqlite() else "candidate ->> 'external_id'"
    op.execute(f"UPDATE submissions SET external_id = substr({told}, 1, 500) WHERE candidate IS NOT NULL")
    _index("submissions", "state", "id")
    _index("submissions", "external_id", "challenge", "id")
    _index("submissions", "state", "next_attempt_us")
    _index("reports", "fixed", "not_fixed", "inconclusive")
    op.add_column(
        "webhook_messages", sa.Column("lane", sa.String(length=40), nullable=False, server_default="callback")
    )
    op.execute(
        "UPDATE webhook_messages SET lane = coalesce(endpoint_id, "
        "(SELECT integration_id FROM submissions WHERE submissions.id = webhook_messages.submission_id), 'callback')"
    )
    op.drop_index("ix_outbox_pending", "outbox")
    _pending("queue", "due_us")
    op.drop_index("ix_webhook_messages_state_next_attempt_us", "webhook_messages")
    _index("webhook_messages", "state", "lane", "next_attempt_us")


def _index(table: str, *columns: str) -> None:
    op.create_index(op.f(f"ix_{table}_{'_'.join(columns)}"), table, columns)


def _pending(*columns: str) -> None:
    unpublished = sa.text("published_us IS NULL")
    op.create_index("ix_outbox_pending", "outbox", columns, sqlite_where=unpublished, postgresql_where=unpublished)


def downgrade() -> None:
    """Remove them."""
    op.drop_index("ix_reports_fixed_not_fixed_inconclusive", "reports")
    op.drop_index("ix_submissions_external_id_challenge_id", "submissions")
    op.drop_index("ix_submissions_state_next_attempt_us", "submissions")
    op.drop_index("ix_submissions_state_id", "submissions")
    op.drop_column("submissions", "external_id")
    op.drop_index("ix_outbox_pending", "outbox")
    _pending("due_us")
    op.drop_index("ix_webhook_messages_state_lane_next_attempt_us", "webhook_messages")
    _index("webhook_messages", "state", "next_attempt_us")
    op.drop_column("webhook_messages", "lane")


def _on_sqlite() -> bool:
    return op.get_bind().dialect.name == "sqlite"

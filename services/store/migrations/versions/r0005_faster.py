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
    op.drop_index("ix_outbox_pending", "outbox")
    _pending("due_us")
    op.drop_index("ix_webhook_messages_state_lane_next_attempt_us", "webhook_messages")
    _index("webhook_messages", "state", "next_attempt_us")
    op.drop_column("webhook_messages", "lane")

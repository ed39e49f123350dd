"""People of the dashboard and what they write; short facts beside each report."""

from __future__ import annotations

import json

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_ID, _TIME = sa.String(length=40), sa.BigInteger()
_SHORT = ("verdicts", "goal_reached", "accuracy", "provisional")


def upgrade() -> None:
    """Make the tables and fill the short facts from the reports."""
    op.create_table(
        "users",
        sa.Column("id", _ID, nullable=False),
        sa.Column("email", sa.String(length=255), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("password_hash", sa.Text(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("locked_until_us", _TIME, nullable=True),
        sa.Column("disabled_us", _TIME, nullable=True),
        sa.Column("created_us", _TIME, nullable=False),
        sa.Column("last_sign_in_us", _TIME, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users")),
        sa.UniqueConstraint("email", name=op.f("uq_users_email")),
    )
    op.create_table(
        "sessions",
        sa.Column("token_hash", sa.String(length=64), nullable=False),
        sa.Column("user_id", _ID, nullable=False),
        sa.Column("blind", sa.Boolean(), nullable=False),
        sa.Column("created_us", _TIME, nullable=False),
        sa.Column("seen_us", _TIME, nullable=False),
        sa.Column("expires_us", _TIME, nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_sessions_user_id")),
        sa.PrimaryKeyConstraint("token_hash", name=op.f("pk_sessions")),
    )
    op.create_index(op.f("ix_sessions_user_id"), "sessions", ["user_id"], unique=False)
    _review_table("notes", sa.Column("text", sa.Text(), nullable=False))
    op.create_index(op.f("ix_notes_submission_id"), "notes", ["submission_id"], unique=False)
    _review_table(
        "decisions",
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
    )
    op.create_index(op.f("ix_decisions_submission_id"), "decisions", ["submission_id"], unique=False)
    _review_table(
        "rulings",
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
    )
    op.create_index(
        op.f("ix_rulings_submission_id_generation"), "rulings", ["submission_id", "generation"], unique=False
    )
    _review_table(
        "share_links",
        sa.Column("token_hash", sa.String(length=64), nullable=False),
        sa.Column("blind", sa.Boolean(), nullable=False),
        sa.Column("expires_us", _TIME, nullable=False),
        sa.Column("revoked_us", _TIME, nullable=True),
        sa.Column("opened", sa.Integer(), nullable=False),
        sa.Column("opened_us", _TIME, nullable=True),
        sa.UniqueConstraint("token_hash", name=op.f("uq_share_links_token_hash")),
    )
    op.create_index(op.f("ix_share_links_submission_id"), "share_links", ["submission_id"], unique=False)
    op.add_column("reports", sa.Column("verdicts", sa.Text(), nullable=True))
    op.add_column("reports", sa.Column("goal_reached", sa.Boolean(), nullable=True))
    op.add_column("reports", sa.Column("accuracy", sa.Double(), nullable=True))
    op.add_column("reports", sa.Column("provisional", sa.Boolean(), nullable=True))
    _fill()


def _review_table(name: str, *columns: sa.schema.SchemaItem) -> None:
    op.create_table(
        name,
        sa.Column("id", _ID, nullable=False),
        sa.Column("submission_id", _ID, nullable=False),
        sa.Column("author", sa.Text(), nullable=False),
        *columns,
        sa.Column("created_us", _TIME, nullable=False),
        sa.ForeignKeyConstraint(["submission_id"], ["submissions.id"], name=op.f(f"fk_{name}_submission_id")),
        sa.PrimaryKeyConstraint("id", name=op.f(f"pk_{name}")),
    )


def _fill() -> None:
    """The short facts of the reports that are there already, one report in memory at a time."""
    reports = sa.table(
        "reports",
        sa.column("id", sa.String),
        sa.column("report", sa.Text),
        sa.column("verdicts", sa.Text),
        sa.column("goal_reached", sa.Boolean),
        sa.column("accuracy", sa.Double),
        sa.column("provisional", sa.Boolean),
    )
    connection = op.get_bind()
    for (report_id,) in connection.execute(sa.select(reports.c.id)).all():
        text = connection.scalar(sa.select(reports.c.report).where(reports.c.id == report_id))
        if text is None:
            continue
        report = json.loads(text)
        facts = {
            "verdicts": "".join(bug["verdict"][0] for bug in report["bugs"]),
            "goal_reached": report["goal"]["reached"],
            "accuracy": report["goal"]["accuracy"],
            "provisional": (report["rating"] or {}).get("provisional"),
        }
        connection.execute(sa.update(reports).where(reports.c.id == report_id).values(**facts))


def downgrade() -> None:
    """Remove them."""
    for name in _SHORT:
        op.drop_column("reports", name)
    for name in ("share_links", "rulings", "decisions", "notes", "sessions", "users"):
        op.drop_table(name)

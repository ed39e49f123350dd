"""Alembic runs this file; the connection comes from `services.store.schema`, in a transaction of its own."""

from __future__ import annotations

from alembic import context

from services.store.tables import Table

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Table.metadata,
    # All steps are one transaction, on SQLite too: its DDL can be rolled back once BEGIN is said by us.
    transactional_ddl=True,
    render_as_batch=True,
)
context.run_migrations()

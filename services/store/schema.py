"""Moves the schema up and down: Alembic, driven from here, with no file of settings."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection

from services.store.database import MIGRATION_LOCK, Database
from services.store.errors import StoreUnavailable

_MIGRATIONS = Path(__file__).parent / "migrations"


def upgrade(database: Database, revision: str = "head") -> None:
    """Up to `revision`. Whoever comes second finds nothing left to do. Raises LookupError for an unknown one."""
    database.make_room()
    with database.connection() as connection:
        database.serialise(connection, MIGRATION_LOCK)
        _known(command.upgrade, connection, revision)


def downgrade(database: Database, revision: str) -> None:
    """Down to `revision`; "base" removes everything. Raises LookupError for an unknown one."""
    with database.connection() as connection:
        database.serialise(connection, MIGRATION_LOCK)
        _known(command.downgrade, connection, revision)


def current(database: Database) -> str | None:
    """The revision that the database has."""
    with database.read() as session:
        return MigrationContext.configure(session.connection()).get_current_revision()


@functools.cache
def head() -> str:
    """The revision that this code needs."""
    found = ScriptDirectory(str(_MIGRATIONS)).get_current_head()
    assert found is not None
    return found


def require_head(database: Database) -> None:
    """See that the database answers with the schema that this code needs. Raises StoreUnavailable."""
    found = current(database)
    if found != head():
        raise StoreUnavailable(f"the schema is at {found or 'nothing'}, not {head()}: run `assay db upgrade`")


def _known(move: Callable[[Config, str], None], connection: Connection, revision: str) -> None:
    try:
        move(_config(connection), revision)
    except CommandError as error:
        raise LookupError(str(error)) from error


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config

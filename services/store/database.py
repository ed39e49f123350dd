"""One way to each database: connections, transactions, and what their troubles are called here."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, CursorResult, Engine, Executable, create_engine, event, inspect, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError, ProgrammingError
from sqlalchemy.exc import TimeoutError as NoFreeConnection
from sqlalchemy.orm import Session

from services.store.errors import StoreUnavailable

_WRITES = "assay_writes"  # execution option: this transaction takes SQLite's write lock as it begins
_CONNECT_TIMEOUT_S = 10
_CLEAR_LOG_S = 1.0  # for readers and writers to make way; all writers wait as long
# A server that loses power or its network says nothing: within half a minute the connection counts as lost.
_KEEPALIVE: dict[str, Any] = {
    "keepalives": 1,
    "keepalives_idle": 10,  # seconds
    "keepalives_interval": 5,  # seconds
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,  # milliseconds until what was sent must be acknowledged
}
# The same asked of the server, whose own default is two hours: as long, the locks of a client that lost its network
# would hold. A client that lives and says nothing within a transaction (a frozen host) loses it too.
_SERVER_KEEPALIVE = (
    "-c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3 -c tcp_user_timeout=30000"
)
_SILENT_OF_BUSY = 2  # so much longer than others wait for its locks

# Ends of the names of PostgreSQL's advisory locks; any two numbers that nothing else in the database uses.
MIGRATION_LOCK, AUDIT_LOCK, SETTINGS_LOCK = 0x41535359_01, 0x41535359_02, 0x41535359_03


def parsed(url: str) -> URL:
    """`url` with the driver that Assay uses. Raises ValueError, which does not repeat a password."""
    try:
        given = make_url(url)
    except ArgumentError:
        raise ValueError("the database's address is no URL such as postgresql://user@host/name") from None
    kind = given.get_backend_name()
    if kind == "postgresql" or kind == "postgres":
        return given.set(drivername="postgresql+psycopg")
    if kind == "sqlite" and given.database not in (None, "", ":memory:"):
        return given.set(drivername="sqlite+pysqlite")
    raise ValueError(f"a database of kind {kind!r} is none that Assay knows: PostgreSQL, or SQLite in a file")


class Database:
    """Connections to one database, and transactions over them.

    A transaction that writes holds SQLite's only write lock from its start, so that it never has to
    give up half-way; on PostgreSQL it locks the rows that it decides about (`FOR NO KEY UPDATE`).
    """

    def __init__(self, url: str, *, busy_timeout_s: float = 30.0, pool_size: int = 5) -> None:
        parts = parsed(url)
        self.is_sqlite = parts.get_backend_name() == "sqlite"
        self._busy_timeout_s = busy_timeout_s
        # Threads of one process queue here in turn; SQLite's own waiting is a lottery of sleeps.
        self._turn = threading.Lock()
        options: dict[str, Any] = {"pool_size": pool_size, "max_overflow": 0, "pool_timeout": busy_timeout_s}
        if self.is_sqlite:
            options["connect_args"] = {"timeout": busy_timeout_s, "check_same_thread": False}
        else:
            options["pool_pre_ping"] = True
            options["connect_args"] = {
                "connect_timeout": _CONNECT_TIMEOUT_S,
                **_KEEPALIVE,
                "options": f"-c lock_timeout={int(busy_timeout_s * 1000)} -c timezone=UTC {_SERVER_KEEPALIVE} "
                f"-c idle_in_transaction_session_timeout={int(_SILENT_OF_BUSY * busy_timeout_s * 1000)}",
            }
        # Errors get into logs, and what a statement was given are programs and names.
        self.engine: Engine = create_engine(parts, hide_parameters=True, **options)
        if self.is_sqlite:
            event.listen(self.engine, "connect", _prepare_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)

    def make_room(self) -> None:
        """See that SQLite's file exists, for its owner alone: it holds secrets. Raises StoreUnavailable."""
        if not self.is_sqlite:
            return
        path = Path(self.engine.url.database or "")
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.touch(mode=0o600)
        except OSError as error:
            raise StoreUnavailable(str(error)) from error

    def close(self) -> None:
        """Give all connections back."""
        self.engine.dispose()

    @contextlib.contextmanager
    def read(self) -> Iterator[Session]:
        """A transaction that only reads. Raises StoreUnavailable."""
        with _translated(), Session(self.engine, expire_on_commit=False, autoflush=False) as session:
            yield session

    @contextlib.contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction that is committed at the end, or rolled back by an exception. Raises StoreUnavailable."""
        with _translated(), self._my_turn():
            engine = self.engine.execution_options(**{_WRITES: True})
            with Session(engine, expire_on_commit=False, autoflush=False) as session, session.begin():
                yield session

    @contextlib.contextmanager
    def connection(self) -> Iterator[Connection]:
        """The same as `write`, for what needs no session."""
        engine = self.engine.execution_options(**{_WRITES: True})
        with _translated(), self._my_turn(), engine.begin() as connection:
            yield connection

    def clear_log(self) -> bool:
        """Empty SQLite's log, in which what was overwritten still stands; False while a reader needs it."""
        if not self.is_sqlite:
            return True
        path = self.engine.url.database or ""
        try:
            with contextlib.closing(sqlite3.connect(path, timeout=_CLEAR_LOG_S, isolation_level=None)) as connection:
                (busy, *_) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.Error:
            return False
        return not busy

    def serialise(self, session: Session | Connection, lock: int) -> None:
        """Wait until no other transaction holds `lock`, and hold it to the end of this one.

        SQLite's writers are one at a time as it is.
        """
        if not self.is_sqlite:
            session.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": lock})

    def add_if_new(self, session: Session, table: type[Any], values: dict[str, Any]) -> bool:
        """Insert a row unless its key is taken; waits for another transaction that is taking it."""
        insert = sqlite.insert if self.is_sqlite else postgresql.insert
        added = insert(table).values(values).on_conflict_do_nothing().returning(*inspect(table).primary_key)
        return session.execute(added).first() is not None

    @contextlib.contextmanager
    def _my_turn(self) -> Iterator[None]:
        if not self.is_sqlite:
            yield
            return
        if not self._turn.acquire(timeout=self._busy_timeout_s):
            raise StoreUnavailable(f"another thread wrote for more than {self._busy_timeout_s:g} s")
        try:
            yield
        finally:
            self._turn.release()


def changed(session: Session, statement: Executable) -> int:
    """Execute an UPDATE, INSERT or DELETE; how many rows it touched."""
    result = session.execute(statement)
    assert isinstance(result, CursorResult)
    return result.rowcount


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # SQLAlchemy's begin is ours to issue, see _begin_sqlite
    connection.execute("PRAGMA foreign_keys = ON")
    # A commit that was answered must outlive a power cut, not just a crash of the process.
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA secure_delete = ON")  # what is erased is overwritten
    (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
    if mode != "wal":
        connection.execute("PRAGMA journal_mode = WAL")


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """The database's troubles as StoreUnavailable, values it cannot hold as ValueError.

    A broken rule of the schema stays what it is: a mistake of ours.
    """
    try:
        yield
    except IntegrityError:
        raise
    except ProgrammingError as error:
        # PostgreSQL's way to say that a table is missing.
        if type(error.orig).__name__ in ("UndefinedTable", "UndefinedColumn"):
            raise StoreUnavailable(_first_line(error)) from error
        raise
    except DataError as error:
        raise ValueError(_first_line(error)) from error
    except OverflowError as error:
        raise ValueError("a number is too large for the database") from error
    except DBAPIError as error:
        raise StoreUnavailable(_first_line(error)) from error
    except NoFreeConnection as error:
        raise StoreUnavailable("all connections to the database are in use") from error


def _first_line(error: DBAPIError) -> str:
    """What the driver says, without the statement and its values: those may be a candidate's."""
    lines = str(error.orig).strip().splitlines()
    return lines[0][:300] if lines else type(error.orig).__name__

"""A store on each database, with a clock that tests move."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import event

from grading.verdict import Report
from services.store import NewSubmission, Store, Submission
from services.store.tables import Table
from tests.services.conftest_services import PostgresServer, postgres, postgres_url

__all__ = ["postgres", "postgres_url"]

START_US = 1_800_000_000_000_000
BOTH = [pytest.param("sqlite"), pytest.param("postgresql", marks=pytest.mark.services)]


class Clock:
    """Microseconds since 1970, moved by hand; a tick passes with every look, so that order shows."""

    def __init__(self) -> None:
        self.now_us = START_US

    def __call__(self) -> int:
        self.now_us += 1
        return self.now_us

    def pass_s(self, seconds: float) -> None:
        """Let time pass."""
        self.now_us += round(seconds * 1_000_000)


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "migrated.db"
    Store.upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def migrated_database(postgres: PostgresServer) -> str:
    url = postgres.url(postgres.create_database())
    Store.upgrade(url)
    return url


def wipe(url: str) -> None:
    """Empty all tables, the guarded one too: a new database for each test would take a second."""
    with psycopg.connect(url) as connection:
        connection.execute("SET session_replication_role = replica")
        for table in Table.metadata.tables:
            connection.execute(f"DELETE FROM {table}".encode())


@pytest.fixture(params=BOTH)
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A migrated database of each kind, empty."""
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("migrated_file"), tmp_path / "assay.db")
        yield f"sqlite:///{tmp_path / 'assay.db'}"
        return
    url: str = request.getfixturevalue("migrated_database")
    wipe(url)
    yield url


@contextlib.contextmanager
def watched(store: Store) -> Iterator[list[tuple[str, Any]]]:
    """Every statement that the store executes meanwhile, with what it was given."""
    seen: list[tuple[str, Any]] = []

    def note(_: object, __: object, statement: str, given: Any, *___: object) -> None:
        if not statement.startswith("BEGIN"):
            seen.append((statement, given))

    event.listen(store._database.engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(store._database.engine, "before_cursor_execute", note)


def plan(url: str, statements: list[tuple[str, Any]]) -> list[str]:
    """How SQLite goes about them, line by line."""
    with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
        asked = [(text, given) for text, given in statements if text.startswith(("SELECT", "WITH"))]
        rows = [connection.execute(f"EXPLAIN QUERY PLAN {text}", given).fetchall() for text, given in asked]
    return [line for lines in rows for *_, line in lines]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def open_store(store_url: str, clock: Clock) -> Iterator[Callable[..., Store]]:
    """Opens stores on the same database, as several processes would."""
    opened: list[Store] = []

    def open_one(**options: Any) -> Store:
        opened.append(Store.open(store_url, **{"clock": clock, "max_attempts": 3} | options))
        return opened[-1]

    yield open_one
    for store in opened:
        store.close()


@pytest.fixture
def store(open_store: Callable[..., Store]) -> Store:
    return open_store()


@pytest.fixture
def submit(store: Store) -> Callable[..., Submission]:
    """Hand in a file with the given number of fixed bugs."""

    def hand_in(fixed: int = 3, **changes: Any) -> Submission:
        values = {"challenge": "spiral", "file_name": "mended.py", "source": b"fixed=%d" % fixed}
        return store.create_submission(NewSubmission(**values | changes))

    return hand_in


@pytest.fixture
def grade(store: Store, make_report: Callable[..., Report]) -> Callable[..., Report]:
    """Claim and finish a submission as a worker does."""

    def finish(submission_id: str, **changes: Any) -> Report:
        claim = store.claim(submission_id, "worker", 60)
        assert claim is not None
        report = make_report(claim.file_name, claim.source, **changes)
        assert store.finish(claim, report)
        return report

    return finish

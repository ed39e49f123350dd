"""Migrations go up and down on both databases, and what stands in the way of the store is named."""

from __future__ import annotations

import json
import random
import sqlite3
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import JSON, column, event, insert, literal_column, table, text

import services.store.migrations
from grading.challenge import load_challenge
from grading.verdict import Verdict
from services.store import LineChoice, NewInvitations, NewSubmission, Store, StoreUnavailable, SubmissionFilters
from services.store.database import Database
from services.store.tables import Table
from tests.services.conftest_services import PostgresServer
from tests.services.pages import seed

from .conftest import BOTH

REVISIONS = [
    script.revision for script in ScriptDirectory(str(Path(services.store.migrations.__file__).parent)).walk_revisions()
][::-1]


@pytest.fixture(params=BOTH)
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database with nothing in it, of each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'new' / 'assay.db'}"
    else:
        yield request.getfixturevalue("postgres_url")


def tables(url: str) -> list[str]:
    if url.startswith("sqlite"):
        with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
            rows = connection.execute("SELECT name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'").fetchall()
    else:
        with psycopg.connect(url) as pg:
            rows = pg.execute("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace").fetchall()
            rows += pg.execute("SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace").fetchall()
    return sorted(name for (name,) in rows)


def test_every_revision_goes_up_down_and_up(empty_url: str) -> None:
    Store.upgrade(empty_url, REVISIONS[0])
    seen = {REVISIONS[0]: tables(empty_url)}
    for revision in REVISIONS[1:]:
        Store.upgrade(empty_url, revision)
        seen[revision] = tables(empty_url)
    for revision in REVISIONS[-2::-1]:
        Store.downgrade(empty_url, revision)
        assert (Store.current(empty_url), tables(empty_url)) == (revision, seen[revision])
    Store.downgrade(empty_url, "base")
    assert Store.current(empty_url) is None
    left = [name for name in tables(empty_url) if not name.startswith("alembic_version")]
    assert left == []
    Store.upgrade(empty_url)
    assert (Store.current(empty_url), tables(empty_url)) == (REVISIONS[-1], seen[REVISIONS[-1]])


def test_migrations_make_the_tables_that_the_code_knows(empty_url: str) -> None:
    Store.upgrade(empty_url)
    database = Database(empty_url)
    with database.connection() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Table.metadata) == []
    database.close()


def test_what_is_in_the_tables_survives_an_upgrade_that_is_repeated(empty_url: str) -> None:
    Store.upgrade(empty_url)
    store = Store.open(empty_url)
    made = store.create_submission(NewSubmission("spiral", "a.py", b"x"))
    Store.upgrade(empty_url)
    assert store.submission(made.id) == made
    store.close()


def test_checks_of_candidates_go_when_the_schema_goes_back(empty_url: str) -> None:
    """Older code would take them for submissions, and list them."""
    Store.upgrade(empty_url)
    store = Store.open(empty_url)
    ((invitation, _),) = store.create_invitations(NewInvitations("spiral", [{}], "Rita", 3600, 3), actor="test")
    store.create_check(invitation.id, "check.py", b"x")
    handed = store.hand_in(invitation.id, "mine.py", b"x")
    store.close()
    Store.downgrade(empty_url, "0003")
    Store.upgrade(empty_url)
    store = Store.open(empty_url)
    assert [one.id for one in store.list_submissions().items] == [handed.id]
    assert [row.submission_id for row in store.pending_outbox()] == [handed.id]
    store.close()


def test_candidates_that_are_there_already_are_found_after_an_upgrade(empty_url: str) -> None:
    Store.upgrade(empty_url, "0004")
    database = Database(empty_url)
    values = {
        "challenge": "spiral",
        "file_name": "a.py",
        "source_sha256": "",
        "source_bytes": 1,
        "state": "graded",
        "queue": "interactive",
        "created_us": 1,
        "queued_us": 1,
        "attempts": 1,
        "max_attempts": 3,
        "next_attempt_us": 1,
        "fence": 1,
        "generation": 0,
        "tampering_suspected": False,
        "state_version": 2,
    }
    candidates = ('{"external_id": "c-\\u00e9", "name": "Ada"}', '{"name": "Bo"}', None)
    with database.connection() as connection:
        for number, candidate in enumerate(candidates):
            row = values | {"id": f"sub_{number:026}", "candidate": candidate}
            columns = [column(name, JSON if name == "candidate" else None) for name in row]
            given = {name: literal_column("NULL") if value is None else value for name, value in row.items()}
            given["candidate"] = literal_column("NULL") if candidate is None else json.loads(candidate)
            connection.execute(insert(table("submissions", *columns)).values(given))
    Store.upgrade(empty_url)
    store = Store.open(empty_url)
    found = store.list_submissions(SubmissionFilters(external_id="c-\u00e9")).items
    assert [one.id for one in found] == [f"sub_{0:026}"]
    assert len(store.list_submissions().items) == 3
    store.close()
    Store.downgrade(empty_url, "0004")
    Store.upgrade(empty_url)
    database.close()


def test_what_lists_go_by_is_made_up_for_by_an_upgrade(empty_url: str) -> None:
    Store.upgrade(empty_url)
    store = Store.open(empty_url)
    made = seed.cohort(store, 30)
    kept = store.report(made.submission_ids[1])
    assert kept is not None
    verdicts = [Verdict(bug["verdict"]) for bug in kept["bugs"]]
    for one, now in zip(made.submission_ids, ([Verdict.NOT_FIXED] * 8, verdicts), strict=False):
        store.regrade(one, actor="test")
        report = seed.made_report(load_challenge("spiral"), "a.py", b"x", now, random.Random(1))
        seed.finish(store, one, report)

    def told() -> tuple[Any, ...]:
        by_name = LineChoice(sort="name")
        diffs = (store.cohort_diff(made.cohort_id), store.cohort_changed(made.cohort_id))
        return store.cohort_lines(made.cohort_id, by_name), diffs, store.cohort_size(made.cohort_id, zofia)

    zofia = LineChoice(words="zofia")
    before = told()
    assert len(before[0]) == 30 and before[1][1] == (1, 2) and before[2] == 1
    store.close()
    Store.downgrade(empty_url, "0006")
    Store.upgrade(empty_url)
    store = Store.open(empty_url)
    assert told() == before
    store.close()


def test_several_hosts_may_upgrade_at_once(empty_url: str) -> None:
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(Store.upgrade, [empty_url] * 3))
    assert Store.current(empty_url) == REVISIONS[-1]


def test_an_unknown_revision_is_refused(empty_url: str) -> None:
    with pytest.raises(LookupError):
        Store.upgrade(empty_url, "none")


def test_a_database_without_tables_is_unavailable(empty_url: str) -> None:
    Store.upgrade(empty_url)
    Store.downgrade(empty_url, "base")
    store = Store.open(empty_url)
    with pytest.raises(StoreUnavailable, match="assay db upgrade"):
        store.ping()
    for ask in (store.waiting, store.list_keys, store.sweep, lambda: store.audit("a", "b", "c")):
        with pytest.raises(StoreUnavailable):
            ask()
    store.close()


def test_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "assay.db"
    Store.upgrade(f"sqlite:///{path}")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("url", ["mysql://u:PLANTED@h/d", "sqlite://", "sqlite:///:memory:", "PLANTED", ""])
def test_other_addresses_are_refused_without_repeating_them(url: str) -> None:
    with pytest.raises(ValueError, match=r"^(?!.*PLANTED)"):
        Store.open(url)


def test_a_server_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    store = Store.open(f"postgresql://user:PLANTED@/name?host={tmp_path}")
    with pytest.raises(StoreUnavailable, match=r"^(?!.*PLANTED)"):
        store.ping()
    with pytest.raises(StoreUnavailable):
        store.claim("sub_1", "worker", 60)
    store.close()


def test_a_server_that_falls_silent_is_found_out() -> None:
    """Without these a connection whose other end lost its power waits for a quarter of an hour or for ever."""
    database = Database("postgresql://user@db.example/name")
    asked: dict[str, Any] = {}

    def note(_: object, __: object, ___: object, arguments: dict[str, Any]) -> None:
        asked.update(arguments)
        raise psycopg.OperationalError("not today")

    event.listen(database.engine, "do_connect", note)
    with pytest.raises(StoreUnavailable), database.read() as session:
        session.connection()
    names = ("keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout")
    assert [asked[name] for name in names] == [1, 10, 5, 3, 30_000]
    database.close()


def test_a_folder_that_cannot_be_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreUnavailable):
        Store.upgrade(f"sqlite:///{tmp_path}/file/assay.db")


def test_a_file_that_is_no_database_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "assay.db").write_bytes(b"no database" * 1000)
    store = Store.open(f"sqlite:///{tmp_path}/assay.db")
    with pytest.raises(StoreUnavailable):
        store.ping()
    store.close()


def test_a_lock_that_is_held_too_long_is_unavailable(migrated_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "assay.db"
    path.write_bytes(migrated_file.read_bytes())
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    store = Store.open(f"sqlite:///{path}", busy_timeout_s=0.2)
    with pytest.raises(StoreUnavailable, match="locked"):
        store.create_cohort("autumn", "spiral")
    store.ping()  # readers do not wait for writers
    holder.execute("ROLLBACK")
    store.create_cohort("autumn", "spiral")
    store.close()
    holder.close()


@pytest.mark.services
def test_a_restarted_server_is_found_again(postgres: PostgresServer, postgres_url: str) -> None:
    Store.upgrade(postgres_url)
    store = Store.open(postgres_url)
    made = store.create_submission(NewSubmission("spiral", "a.py", b"x"))
    postgres.restart()
    assert store.submission(made.id) == made
    assert store.claim(made.id, "worker", 60) is not None
    store.close()


@pytest.mark.services
def test_who_falls_silent_in_a_transaction_stops_nobody_for_long(postgres: PostgresServer, postgres_url: str) -> None:
    """A host that loses its network holds its locks on the server, which must not wait for hours."""
    Store.upgrade(postgres_url)
    silent, other = (Database(postgres_url, busy_timeout_s=seconds) for seconds in (0.5, 10.0))
    lock = text("SELECT pg_advisory_xact_lock(7)")
    with pytest.raises(StoreUnavailable, match="idle-in-transaction"), silent.write() as session:
        session.execute(lock)
        driver: Any = session.connection().connection.driver_connection
        with other.write() as meanwhile:
            meanwhile.execute(lock)
        session.execute(lock)
    driver.close()
    with silent.write() as session:
        session.execute(lock)
    silent.close()
    other.close()

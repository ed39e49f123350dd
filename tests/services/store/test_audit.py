"""The audit log shows whoever rewrites it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable

import psycopg
import pytest

from services.store import Store

PASS = "SET session_replication_role = replica"  # the way past triggers that a database's owner has


@pytest.fixture
def lines(store: Store) -> list[str]:
    """Hashes of a log of five lines, oldest first."""
    return [store.audit("ada", "test", f"thing {n}", {"n": n, "text": "é\0"}).hash for n in range(5)]


@pytest.fixture
def tamper(store_url: str) -> Callable[[str], None]:
    """Change the log as somebody who owns the database can."""

    def run(statement: str) -> None:
        if store_url.startswith("sqlite"):
            with sqlite3.connect(store_url.removeprefix("sqlite:///")) as connection:
                connection.execute("DROP TRIGGER audit_keeps_lines")
                connection.execute("DROP TRIGGER audit_keeps_words")
                connection.execute(statement)
            connection.close()
        else:
            with psycopg.connect(store_url) as pg:
                pg.execute(PASS)
                pg.execute(statement.encode())

    return run


def test_a_log_that_was_only_added_to_holds(store: Store, lines: list[str]) -> None:
    assert store.verify_audit() is None
    assert [line.hash for line in store.audit_log().items][::-1] == lines
    assert store.audit_log().items[0].detail == {"n": 4, "text": "é\0"}


@pytest.mark.parametrize(
    "statement",
    ["UPDATE audit SET actor = 'eve'", "DELETE FROM audit", "UPDATE audit SET seq = seq + 1 WHERE seq = 5"],
)
def test_the_database_refuses_to_change_it(store: Store, lines: list[str], store_url: str, statement: str) -> None:
    if store_url.startswith("sqlite"):
        with (
            sqlite3.connect(store_url.removeprefix("sqlite:///")) as connection,
            pytest.raises(sqlite3.IntegrityError, match="append-only"),
        ):
            connection.execute(statement)
        connection.close()
    else:
        for refused in (statement, "TRUNCATE audit"):
            with psycopg.connect(store_url) as pg, pytest.raises(psycopg.errors.RaiseException, match="append-only"):
                pg.execute(refused.encode())
    assert store.verify_audit() is None


@pytest.mark.parametrize(
    ("statement", "seq"),
    [
        ("UPDATE audit SET actor = 'eve' WHERE seq = 3", 3),
        ("UPDATE audit SET action = 'other' WHERE seq = 1", 1),
        ("UPDATE audit SET subject = 'other' WHERE seq = 5", 5),
        ("UPDATE audit SET detail = '{}' WHERE seq = 2", 2),
        ("UPDATE audit SET at_us = at_us + 1 WHERE seq = 2", 2),
        ("UPDATE audit SET hash = previous_hash WHERE seq = 4", 4),
        ("UPDATE audit SET previous_hash = hash WHERE seq = 4", 4),
        ("DELETE FROM audit WHERE seq = 3", 3),
        ("DELETE FROM audit WHERE seq = 1", 1),
        ("DELETE FROM audit WHERE seq = 5", None),
        ("DELETE FROM audit", None),
        ("DELETE FROM settings_kv WHERE key = 'audit_head'", None),
    ],
)
def test_tampering_is_found_where_it_was_done(
    store: Store, lines: list[str], tamper: Callable[[str], None], statement: str, seq: int | None
) -> None:
    tamper(statement)
    problem = store.verify_audit()
    assert problem is not None and problem.seq == seq


def test_a_hash_kept_elsewhere_finds_a_log_that_was_written_anew(
    store: Store, lines: list[str], tamper: Callable[[str], None]
) -> None:
    assert store.verify_audit(known_head=lines[2]) is None
    tamper("DELETE FROM audit")
    with store._database.connection() as connection:
        connection.exec_driver_sql("DELETE FROM settings_kv")
    store.audit("eve", "test", "thing 0")
    assert store.verify_audit() is None, "in itself it holds"
    assert store.verify_audit(known_head=lines[2]) is not None


def test_lone_surrogates_are_replaced_before_a_line_is_sealed(store: Store) -> None:
    entry = store.audit("ada", "test", "thing", {"name\udcff": ["\ud800", "é"]})
    assert entry.detail == {"name?": ["?", "é"]} == store.audit_log().items[0].detail
    assert store.verify_audit() is None


def test_an_older_line_with_a_lone_surrogate_is_told_and_still_holds(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("services.store.audit._told", json.dumps)
        store.audit("ada", "test", "thing", {"name": "\udcff"})
    assert store.audit_log().items[0].detail == {"name": "?"}
    assert store.verify_audit() is None


def test_an_empty_log_holds(store: Store) -> None:
    assert store.verify_audit() is None
    assert store.verify_audit(known_head="0" * 64) is not None

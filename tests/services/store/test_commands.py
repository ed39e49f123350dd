"""`assay db`, `assay keys`, `assay audit` from a terminal."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import Result

from services.store import Store

Assay = Callable[..., Result]


@pytest.fixture
def assay(desk: Any) -> Assay:
    return desk  # type: ignore[no-any-return]


@pytest.fixture
def url(desk: Any) -> str:
    address: str = desk.backend.settings.store_url()
    return address


def test_the_schema_goes_up_and_down(assay: Assay) -> None:
    assert assay("db", "current").exit_code == 4, "no database yet"
    up = assay("db", "upgrade")
    assert (up.exit_code, up.stdout.strip()) == (0, Store.needed_revision())
    assert assay("db", "current").exit_code == 0
    assert assay("db", "downgrade", "base").exit_code == 1, "asks first"
    down = assay("db", "downgrade", "base", "--yes")
    assert (down.exit_code, down.stdout.strip()) == (0, "base")
    behind = assay("db", "current")
    assert (behind.exit_code, behind.stdout.strip()) == (1, "base")
    assert assay("db", "upgrade", "nothing").exit_code == 2


def test_a_key_is_made_listed_and_revoked(assay: Assay, url: str) -> None:
    assay("db", "upgrade")
    made = assay("keys", "create", "careers\u202e" * 3, "--scope", "read", "--scope", "submit", "--expires-days", "3")
    secret = made.stdout.strip()
    with contextlib.closing(Store.open(url)) as store:
        key = store.authenticate(secret)
    assert key is not None and key.scopes == ("submit", "read") and key.expires_us is not None
    assert secret not in made.stderr and "\u202e" not in made.stderr
    listed = assay("keys", "list")
    assert key.id in listed.stdout, "whole, though it goes into a pipe"
    assert "live" in listed.stdout and "\u202e" not in listed.stdout and secret not in listed.stdout
    assert assay("keys", "revoke", key.id).exit_code == 0
    (shown,) = json.loads(assay("keys", "list", "--json").stdout)
    assert shown["id"] == key.id and shown["revoked"] is not None
    assert assay("keys", "revoke", "key_none").exit_code == 2
    assert json.loads(assay("keys", "create", "x", "--scope", "read", "--json").stdout)["secret"].startswith("assay_")
    assert assay("keys", "create", "x").exit_code == 2


@pytest.mark.parametrize("name", ["\udcff\udcfe", "a\x1b[2J", "a\n", "", "x" * 201])
def test_a_key_has_a_name_that_the_api_would_take(assay: Assay, name: str) -> None:
    assay("db", "upgrade")
    refused = assay("keys", "create", name, "--scope", "read")
    assert refused.exit_code == 2 and "will not do" in refused.stderr and "\x1b" not in refused.stderr
    assert json.loads(assay("keys", "list", "--json").stdout) == []


def test_the_audit_log_is_shown_and_checked(assay: Assay, url: str) -> None:
    assay("db", "upgrade")
    assert assay("audit", "verify").exit_code == 0
    assay("keys", "create", "careers", "--scope", "read")
    verified = assay("audit", "verify")
    head = verified.stdout.strip()
    assert verified.exit_code == 0 and len(head) == 64
    assert assay("audit", "verify", "--head", head).exit_code == 0
    assert assay("audit", "verify", "--head", "0" * 64).exit_code == 1
    for no_hash in ("", "0" * 63, head.upper() + "0", f"{head}\n"):
        assert assay("audit", "verify", "--head", no_hash).exit_code == 2
    assert "key.create" in assay("audit", "log").stdout
    (line,) = json.loads(assay("audit", "log", "--json").stdout)
    assert (line["actor"], line["hash"]) == ("command line", head)
    with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection, connection:
        connection.execute("DROP TRIGGER audit_keeps_words")
        connection.execute("UPDATE audit SET actor = 'nobody'")
    found = assay("audit", "verify")
    assert found.exit_code == 1 and "line 1" in found.stderr


def test_a_missing_schema_is_named(assay: Assay) -> None:
    assay("db", "upgrade")
    assay("db", "downgrade", "base", "--yes")
    for words in (("keys", "list"), ("audit", "verify"), ("audit", "log")):
        refused = assay(*words)
        assert refused.exit_code == 4 and "assay db upgrade" in refused.stderr


def test_people_are_let_in_and_out(assay: Assay, url: str) -> None:
    assay("db", "upgrade")
    escape = assay("users", "create", "Ada@example.org", "--role", "admin", "--name", "Ada\x1b[2J")
    assert escape.exit_code == 2 and "one line" in escape.stderr and not escape.stdout
    made = assay("users", "create", "Ada@example.org", "--role", "admin", "--name", "Ada\u202e")
    password = made.stdout.strip()
    assert made.exit_code == 0 and len(password) >= 12 and password not in made.stderr

    def signs_in(with_password: str, email: str = "ada@example.org") -> bool:
        with contextlib.closing(Store.open(url)) as store:
            return store.check_password(email, with_password, attempts=9, lock_s=9) is not None

    assert signs_in(password)
    taken = assay("users", "create", "ada@example.org", "--role", "recruiter")
    assert taken.exit_code == 2 and "already" in taken.stderr and not taken.stdout
    short = assay("users", "create", "bob@example.org", "--role", "recruiter", "--password-stdin", stdin="short\n")
    assert short.exit_code == 2 and "12 to 256" in short.stderr
    own = assay("users", "create", "bob@example.org", "--role", "admin", "--password-stdin", stdin="my own password\n")
    assert own.exit_code == 0 and not own.stdout and signs_in("my own password", "bob@example.org")
    crlf = ("users", "create", "eve@example.org", "--role", "recruiter", "--password-stdin")
    for nothing in ("", "\n", "\r\n"):
        missing = assay(*crlf, stdin=nothing)
        assert missing.exit_code == 2 and "no password on stdin" in missing.stderr
    assert assay(*crlf, stdin="eve's own password\r\n").exit_code == 0
    assert signs_in("eve's own password", "eve@example.org")
    listed = assay("users", "list")
    assert "ada@example.org" in listed.stdout and "\u202e" not in listed.stdout
    renewed = assay("users", "password", "ada@example.org").stdout.strip()
    assert signs_in(renewed) and not signs_in(password)
    assert assay("users", "disable", "ada@example.org").exit_code == 0 and not signs_in(renewed)
    ada, *_ = json.loads(assay("users", "list", "--json").stdout)
    assert (ada["role"], ada["state"]) == ("admin", "disabled")
    assert assay("users", "enable", "ada@example.org").exit_code == 0 and signs_in(renewed)
    assert assay("users", "disable", "nobody@example.org").exit_code == 2


def test_the_last_administrator_is_not_disabled(assay: Assay) -> None:
    assay("db", "upgrade")
    assay("users", "create", "ada@example.org", "--role", "admin")
    refused = assay("users", "disable", "ada@example.org")
    assert refused.exit_code == 2 and "last administrator" in refused.stderr

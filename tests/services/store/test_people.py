"""Who signs in: passwords and locks, roles, sessions, and always an administrator left."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest
from argon2 import PasswordHasher

from services.store import Busy, Conflict, NotFound, Role, Store, User, people
from tests.services.store.conftest import Clock
from tests.services.store.test_races import at_once

PASSWORD = "a long password"


@pytest.fixture(autouse=True)
def quick_passwords(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(people, "_hasher", PasswordHasher(time_cost=1, memory_cost=64, parallelism=1))
    people._nobodys_hash.cache_clear()
    yield
    people._nobodys_hash.cache_clear()


def somebody(store: Store, name: str = "ada", role: Role = "recruiter") -> User:
    return store.create_user(f"{name}@example.org", name.title(), role, PASSWORD)


def check(store: Store, password: str = PASSWORD, email: str = "ada@example.org") -> User | None:
    return store.check_password(email, password, attempts=3, lock_s=60)


def test_an_address_is_one_user_however_it_is_written(store: Store) -> None:
    made = store.create_user(" Ada@Example.ORG ", " Ada ", "admin", PASSWORD)
    assert (made.email, made.name) == ("ada@example.org", "Ada")
    assert store.user_by_email("ADA@example.org ") == store.user(made.id) == made
    with pytest.raises(Conflict):
        somebody(store)
    assert store.list_users() == [made]


@pytest.mark.parametrize(
    "email", ["", "ada", "@example.org", "ada@", "a da@example.org", "a\n@example.org", "a" * 200 + "@x"]
)
def test_what_is_no_address_is_refused(store: Store, email: str) -> None:
    with pytest.raises(ValueError, match="e-mail"):
        store.create_user(email, "Ada", "admin", PASSWORD)


@pytest.mark.parametrize("name", ["Ada\x1b[31m", "Ada\nLovelace", "Ada\u2028L", "Ada\x7f"])
def test_a_name_is_one_line(store: Store, name: str) -> None:
    with pytest.raises(ValueError, match="one line"):
        store.create_user("ada@example.org", name, "admin", PASSWORD)
    assert store.list_users() == []


@pytest.mark.parametrize("password", ["", "x" * 11, "x" * 257])
def test_passwords_have_bounds(store: Store, password: str) -> None:
    with pytest.raises(ValueError, match="12 to 256"):
        store.create_user("ada@example.org", "Ada", "admin", password)
    made = somebody(store)
    with pytest.raises(ValueError, match="12 to 256"):
        store.set_password(made.id, password)
    assert check(store, password) is None and check(store) is not None


def test_failures_in_a_row_lock_and_time_unlocks(store: Store, clock: Clock) -> None:
    made = somebody(store)
    assert [check(store, "wrong") for _ in range(2)] == [None, None]
    assert check(store) is not None  # and the count begins anew
    assert [check(store, "wrong") for _ in range(3)] == [None] * 3
    assert check(store) is None
    assert check(store, email="nobody@example.org") is None
    clock.pass_s(61)
    signed_in = check(store)
    assert signed_in is not None and signed_in.id == made.id and signed_in.last_sign_in_us is not None
    logged = [entry.action for entry in store.audit_log().items]
    assert logged.count("user.lock") == 1 and logged.count("user.sign_in") == 2


def test_an_administrator_unlocks(store: Store) -> None:
    made = somebody(store)
    for _ in range(3):
        check(store, "wrong")
    store.enable_user(made.id, actor="usr_admin")
    assert check(store) is not None


def test_a_session_ends_by_age_idleness_closing_and_a_new_password(store: Store, clock: Clock) -> None:
    made = somebody(store)
    token = store.open_session(made.id, 1000)
    for _ in range(9):
        clock.pass_s(100)
        assert store.signed_in(token, 150) is not None
    clock.pass_s(101)
    assert store.signed_in(token, 150) is None  # too old
    idle, closed, other = (store.open_session(made.id, 1000) for _ in range(3))
    store.close_session(closed)
    store.close_session("nothing")
    assert store.signed_in(closed, 150) is None
    store.set_blind(other, True)
    found = store.signed_in(other, 150)
    assert found is not None and found.blind and found.user.id == made.id
    clock.pass_s(151)
    assert store.signed_in(idle, 150) is None
    newer = store.open_session(made.id, 1000)
    store.set_password(made.id, "another long password")
    assert store.signed_in(newer, 150) is None
    assert store.signed_in("\udcff", 150) is None


def test_signing_in_again_ends_the_session_before(store: Store) -> None:
    made = somebody(store)
    first = store.open_session(made.id, 1000)
    second = store.open_session(made.id, 1000, replaces=first)
    assert store.signed_in(first, 150) is None and store.signed_in(second, 150) is not None


def test_few_passwords_are_hashed_at_once_since_each_takes_memory(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    somebody(store)
    inside, most, lock = 0, 0, threading.Lock()
    verify = people._hasher.verify

    class Counting:
        check_needs_rehash = people._hasher.check_needs_rehash
        hash = people._hasher.hash

        def verify(self, hashed: str, password: bytes) -> bool:
            nonlocal inside, most
            with lock:
                inside += 1
                most = max(most, inside)
            time.sleep(0.01)
            with lock:
                inside -= 1
            return verify(hashed, password)

    monkeypatch.setattr(people, "_hasher", Counting())
    assert all(at_once(*[partial(check, store)] * 12)) and most == people._HASHES_AT_ONCE
    monkeypatch.setattr(people, "_HASH_WAIT_S", 0.01)
    with people._hash_slot(), people._hash_slot(), pytest.raises(Busy):
        check(store)
    assert check(store) is not None


def test_somebody_disabled_is_out_at_once(store: Store) -> None:
    made = somebody(store)
    token = store.open_session(made.id, 1000)
    store.disable_user(made.id)
    assert store.signed_in(token, 150) is None and check(store) is None
    store.enable_user(made.id)
    assert check(store) is not None


def test_an_administrator_is_always_left(store: Store) -> None:
    ada, bob = somebody(store, "ada", "admin"), somebody(store, "bob", "admin")
    store.disable_user(ada.id)
    for take_away in (partial(store.disable_user, bob.id), partial(store.set_role, bob.id, "recruiter")):
        with pytest.raises(Conflict, match="last administrator"):
            take_away()
    store.enable_user(ada.id)
    assert store.set_role(bob.id, "recruiter").role == "recruiter"


def test_two_who_take_each_other_away_do_not_both_succeed(open_store: Callable[..., Store]) -> None:
    one, two = open_store(), open_store()

    def attempt(act: Callable[[], User]) -> bool:
        try:
            act()
        except Conflict:
            return False
        return True

    ada, bob = somebody(one, "ada", "admin"), somebody(one, "bob", "admin")
    for _ in range(10):
        done = at_once(
            partial(attempt, partial(one.disable_user, ada.id)),
            partial(attempt, partial(two.set_role, bob.id, "interviewer")),
        )
        assert sorted(map(bool, done)) == [False, True]
        one.enable_user(ada.id)
        one.set_role(bob.id, "admin")


def test_unknown_users_and_roles_are_told(store: Store) -> None:
    for act in (store.disable_user, store.enable_user, partial(store.set_role, role="admin")):
        with pytest.raises(NotFound):
            act("usr_nobody")
    made = somebody(store)
    with pytest.raises(ValueError, match="roles are"):
        store.set_role(made.id, "owner")  # type: ignore[arg-type]

"""API keys, remembered answers, integrations, small shared values."""

from __future__ import annotations

import hashlib

import pytest

from services.store import Conflict, NewIntegration, NewSubmission, NotFound, Store, StoredResponse, new_id

from .conftest import START_US, Clock

ANSWER = StoredResponse(200, {"Content-Type": "application/json"}, '{"a":"é"}')


def test_a_key_opens_until_it_ends(store: Store, clock: Clock, store_url: str) -> None:
    key, secret = store.create_key("careers", ["read", "submit"], clock.now_us + 10_000_000, actor="ada")
    assert secret.startswith(f"assay_{key.prefix}") and key.scopes == ("submit", "read")
    found = store.authenticate(secret)
    assert found is not None and found.id == key.id
    for wrong in ("", "assay_", secret[:-1], secret + "x", secret.removeprefix("assay_"), "assay_\0\ud800"):
        assert store.authenticate(wrong) is None
    clock.pass_s(11)
    assert store.authenticate(secret) is None


def test_a_secret_is_kept_nowhere(store: Store) -> None:
    _, secret = store.create_key("careers", ["read"])
    core = secret.removeprefix("assay_")[8:]
    with store._database.connection() as connection:
        rows = connection.exec_driver_sql("SELECT * FROM api_keys").fetchall()
    assert core not in repr(rows) + repr(store.audit_log().items) + repr(store.list_keys())


def test_a_revoked_key_is_over_for_good(store: Store) -> None:
    key, secret = store.create_key("careers", ["read"])
    revoked = store.revoke_key(key.id)
    assert revoked.revoked_us is not None and store.revoke_key(key.id) == revoked
    assert store.authenticate(secret) is None
    with pytest.raises(NotFound):
        store.revoke_key("key_none")


def test_the_last_use_is_noted_once_a_minute(store: Store, clock: Clock) -> None:
    _, secret = store.create_key("careers", ["read"])

    def last() -> int | None:
        return store.list_keys()[0].last_used_us

    store.authenticate(secret)
    first = last()
    clock.pass_s(30)
    store.authenticate(secret)
    assert first is not None and last() == first
    clock.pass_s(31)
    store.authenticate(secret)
    assert (last() or 0) > first


@pytest.mark.parametrize("scopes", [[], ["everything"], ["read", "root"]])
def test_unknown_scopes_are_refused(store: Store, scopes: list[str]) -> None:
    with pytest.raises(ValueError, match="submit, read, manage"):
        store.create_key("careers", scopes)  # type: ignore[arg-type]


def test_an_idempotency_key_lives_through_its_states(store: Store, clock: Clock) -> None:
    def begin(print_: str = "print") -> str:
        return store.idempotency_begin("key_1", "i-1", print_, ttl_s=1000, takeover_s=60).outcome

    assert [begin(), begin(), begin("other")] == ["new", "in_flight", "mismatch"]
    assert store.idempotency_begin("key_2", "i-1", "other").outcome == "new", "keys are their holder's own"
    store.idempotency_forget("key_1", "i-1")
    assert begin() == "new", "it failed and may be tried again"
    clock.pass_s(61)
    assert begin() == "new", "its request vanished"
    store.idempotency_done("key_1", "i-1", ANSWER)
    store.idempotency_forget("key_1", "i-1")
    assert store.idempotency_begin("key_1", "i-1", "print", ttl_s=1000).response == ANSWER
    assert begin("other") == "mismatch"
    clock.pass_s(1001)
    assert begin("other") == "new", "forgotten"
    with pytest.raises(NotFound):
        store.idempotency_done("key_1", "i-2", ANSWER)


def test_an_inbound_message_is_answered_as_the_first_time(store: Store) -> None:
    assert store.inbound_begin("int_1", "m-1", "aa") is None
    seen = store.inbound_begin("int_1", "m-1", "aa")
    assert seen is not None and not seen.done and seen.response is None
    store.inbound_done("int_1", "m-1", ANSWER)
    seen = store.inbound_begin("int_1", "m-1", "bb")
    assert seen is not None and (seen.done, seen.same_body, seen.response) == (True, False, ANSWER)
    assert store.inbound_begin("int_2", "m-1", "aa") is None
    with pytest.raises(NotFound):
        store.inbound_done("int_1", "m-2", ANSWER)


def test_what_is_old_can_be_removed(store: Store, clock: Clock) -> None:
    made = store.create_submission(NewSubmission("spiral", "a.py", b"x"))
    store.mark_published(row.id for row in store.pending_outbox())
    other = store.create_submission(NewSubmission("spiral", "b.py", b"x"))
    store.idempotency_begin("key_1", "i-1", "print")
    store.inbound_begin("int_1", "m-1", "aa")
    assert store.prune() == 0
    clock.pass_s(31 * 86_400)
    assert store.prune() == 3
    assert [row.submission_id for row in store.pending_outbox()] == [other.id], "never one that is to be published"
    assert store.sweep().requeued == 1, "its hint is gone, it is not"
    assert {row.submission_id for row in store.pending_outbox()} == {made.id, other.id}


def test_integrations_are_found_by_name(store: Store) -> None:
    new = NewIntegration(
        "acme", "ashby", ("whsec_x",), credential="PLANTED", challenge_map={"a": "spiral"}, settings={"n": 1}
    )
    made = store.create_integration(new, actor="ada")
    assert store.integration_by_slug("acme") == store.integration(made.id) == made
    assert made.credential_sha256 == hashlib.sha256(b"PLANTED").hexdigest()
    assert "PLANTED" not in repr((made, new, store.audit_log().items)) and "whsec_x" not in repr((made, new))
    with pytest.raises(Conflict):
        store.create_integration(new)
    assert store.list_integrations() == [made]
    store.delete_integration(made.id)
    assert store.integration_by_slug("acme") is None
    with pytest.raises(NotFound):
        store.delete_integration(made.id)


def test_the_first_caller_makes_a_shared_value(store: Store) -> None:
    assert store.remember("instance", lambda: "one") == "one"
    assert store.remember("instance", lambda: "two") == "one"


def test_figures_count_what_is_there(store: Store, clock: Clock) -> None:
    empty = store.counts()
    assert (dict(empty.submissions), empty.outbox_pending) == ({}, 0)
    assert empty.oldest_waiting_s == {"interactive": 0.0, "cohort": 0.0}
    store.create_submission(NewSubmission("spiral", "a.py", b"x"))
    clock.pass_s(90)
    counts = store.counts()
    assert counts.submissions == {("interactive", "queued"): 1} and counts.outbox_pending == 1
    assert counts.oldest_waiting_s["interactive"] == pytest.approx(90, abs=1)


def test_names_sort_by_time_and_never_repeat() -> None:
    now_us = START_US
    names = [new_id("sub", now_us + n * 300) for n in range(1000)]
    assert names == sorted(names) and len(set(names)) == 1000
    assert all(len(name) == 30 for name in names)

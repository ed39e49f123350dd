"""Webhooks: endpoints, secrets, leases of messages, the delivery log."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from grading.verdict import Report
from services.store import (
    ENDPOINT_PING,
    AttemptResult,
    Conflict,
    MessageFilters,
    MessageState,
    NotFound,
    Store,
    Submission,
)

from .conftest import Clock, plan, watched

Submit = Callable[..., Submission]
Grade = Callable[..., Report]


def result(clock: Clock, status_code: int | None = 500) -> AttemptResult:
    return AttemptResult(clock.now_us, status_code, None if status_code else "timeout", 12, "head\0")


def ids(store: Store) -> list[str]:
    return [due.message.id for due in store.due_messages(10, 60)]


def test_a_message_is_leased_tried_and_delivered(store: Store, submit: Submit, grade: Grade, clock: Clock) -> None:
    endpoint = store.create_endpoint("https://receiver.example/", [], "whsec_x")
    made = submit()
    grade(made.id)
    (due,) = store.due_messages(10, 60)
    assert due.endpoint == endpoint and due.message.submission_id == made.id
    assert ids(store) == [], "leased"
    again = store.record_attempt(due.message.id, due.lease_until_us, result(clock), clock.now_us + 5_000_000, "pending")
    assert (again.state, again.attempts) == ("pending", 1)
    assert ids(store) == [], "not due yet"
    clock.pass_s(6)
    assert ids(store) == [due.message.id]
    clock.pass_s(61)
    (last,) = store.due_messages(10, 60)
    assert last.message.id == due.message.id, "its sender vanished"
    done = store.record_attempt(due.message.id, last.lease_until_us, result(clock, 204), None, "delivered")
    assert done.state == "delivered" and done.delivered_us is not None
    late = store.record_attempt(due.message.id, due.lease_until_us, result(clock, None), clock.now_us, "pending")
    assert late.state == "delivered", "whatever a late second sender says"
    assert ids(store) == []
    log = store.attempts(due.message.id)
    assert [attempt.status_code for attempt in log] == [500, 204, None]
    assert log[0].response_head == "head\N{REPLACEMENT CHARACTER}"


def test_a_late_sender_takes_nothing_from_the_one_after_it(store: Store, clock: Clock) -> None:
    message = store.ping_endpoint(store.create_endpoint("https://receiver.example/", [], "whsec_x").id)
    (late,) = store.due_messages(10, 60)
    clock.pass_s(61)
    (now,) = store.due_messages(10, 60)
    for state in ("pending", "dead"):
        left = store.record_attempt(message.id, late.lease_until_us, result(clock), clock.now_us, state)  # type: ignore[arg-type]
        assert (left.state, left.attempts) == ("pending", 0)
        assert ids(store) == [], "the other one is sending"
    assert len(store.attempts(message.id)) == 2, "it is in the log all the same"
    done = store.record_attempt(message.id, now.lease_until_us, result(clock), None, "dead")
    assert (done.state, done.attempts) == ("dead", 1)


@pytest.mark.parametrize("state", ["pending", "dead"])
def test_what_a_receiver_took_is_delivered_whoever_says_so(store: Store, clock: Clock, state: MessageState) -> None:
    message = store.ping_endpoint(store.create_endpoint("https://receiver.example/", [], "whsec_x").id)
    (late,) = store.due_messages(10, 60)
    clock.pass_s(61)
    (now,) = store.due_messages(10, 60)
    store.record_attempt(message.id, now.lease_until_us, result(clock), clock.now_us, state)
    done = store.record_attempt(message.id, late.lease_until_us, result(clock, 200), None, "delivered")
    assert done.state == "delivered" and done.delivered_us is not None
    assert ids(store) == []


def test_one_message_can_be_asked_for(store: Store, clock: Clock) -> None:
    endpoint = store.create_endpoint("https://receiver.example/", [], "whsec_x")
    first, second = store.ping_endpoint(endpoint.id), store.ping_endpoint(endpoint.id)
    (due,) = store.due_messages(10, 60, message_id=second.id)
    assert due.message.id == second.id and due.message.event_type == ENDPOINT_PING
    assert store.due_messages(10, 60, message_id=second.id) == []
    assert ids(store) == [first.id]


def test_receivers_take_turns(store: Store, clock: Clock) -> None:
    """However many wait for one, and however long."""
    first, second = (store.create_endpoint(f"https://{n}.example/", [], "whsec_x") for n in "ab")
    many = [store.ping_endpoint(first.id).id for _ in range(5)]
    few = [store.ping_endpoint(second.id).id for _ in range(2)]

    def turn(limit: int, at_once: int, **busy: int) -> list[str]:
        return [due.message.id for due in store.due_messages(limit, 60, at_once=at_once, busy=busy)]

    assert turn(2, 2) == [many[0], few[0]]
    assert turn(4, 2, **{first.id: 1, second.id: 1}) == [many[1], few[1]]
    assert turn(4, 2, **{first.id: 2}) == []
    assert turn(4, 2, **{second.id: 2}) == many[2:4]
    clock.pass_s(61)
    assert turn(9, 9) == many + few


def test_callbacks_take_turns_by_integration(store: Store, submit: Submit, grade: Grade) -> None:
    made = [
        submit(callback={"url": "https://ats.example/1"}, integration_id=one)
        for one in ("int_1", "int_1", "int_1", "int_2", None)
    ]
    for one in made:
        grade(one.id)
    due = store.due_messages(10, 60, at_once=1)
    assert [one.message.submission_id for one in due] == [made[0].id, made[3].id, made[4].id]
    assert [one.lane for one in due] == ["int_1", "int_2", "callback"]


def test_a_callback_goes_without_an_endpoint(store: Store, submit: Submit, grade: Grade) -> None:
    made = submit(callback={"url": "https://ats.example/1"}, integration_id="int_1")
    grade(made.id)
    (due,) = store.due_messages(10, 60)
    assert (due.endpoint, due.callback, due.integration_id) == (None, {"url": "https://ats.example/1"}, "int_1")


def test_a_replay_keeps_its_id(store: Store, clock: Clock) -> None:
    endpoint = store.create_endpoint("https://receiver.example/", [], "whsec_x")
    message = store.ping_endpoint(endpoint.id)
    with pytest.raises(Conflict):
        store.replay(message.id)
    (due,) = store.due_messages(10, 60)
    store.record_attempt(message.id, due.lease_until_us, result(clock), None, "dead")
    assert ids(store) == []
    again = store.replay(message.id, actor="key_1")
    assert (again.id, again.state, again.attempts, again.body) == (message.id, "pending", 0, message.body)
    assert ids(store) == [message.id]
    assert store.message(message.id) is not None


def test_a_disabled_endpoint_waits_and_a_deleted_one_is_gone(store: Store, submit: Submit, grade: Grade) -> None:
    endpoint = store.create_endpoint("https://receiver.example/", [], "whsec_x")
    store.disable_endpoint(endpoint.id, "410 Gone")
    grade(submit().id)
    assert ids(store) == []
    with pytest.raises(Conflict):
        store.ping_endpoint(endpoint.id)
    assert store.enable_endpoint(endpoint.id).disabled_reason is None
    (message_id,) = ids(store)
    store.delete_endpoint(endpoint.id)
    assert store.endpoint(endpoint.id) is None and store.list_endpoints() == []
    message = store.message(message_id)
    assert message is not None and message.state == "dead"
    with pytest.raises(Conflict):
        store.replay(message_id)
    grade(submit().id)
    assert len(store.list_messages().items) == 1


def test_what_waits_for_a_disabled_endpoint_costs_nothing(store: Store, store_url: str) -> None:
    """It may be a hundred thousand messages, and they are asked about every second."""
    endpoint = store.create_endpoint("https://receiver.example/", [], "whsec_x")
    for _ in range(3):
        store.ping_endpoint(endpoint.id)
    store.disable_endpoint(endpoint.id, "410 Gone")
    with watched(store) as statements, pytest.MonkeyPatch.context() as patch:
        patch.setattr(store._database, "write", None)  # not even a lock is taken
        assert store.due_messages(4, 60, at_once=2) == []
    assert len(statements) == 1
    if store_url.startswith("sqlite"):
        steps = [line for line in plan(store_url, statements) if "webhook_messages" in line]
        assert len(steps) == 3
        assert all("SEARCH webhook_messages USING" in line and "_state_lane_next_attempt_us" in line for line in steps)


def test_two_secrets_live_while_one_is_rotated(store: Store, clock: Clock) -> None:
    endpoint = store.create_endpoint("https://receiver.example/", [], "whsec_1")
    assert "whsec_1" not in repr(endpoint)
    store.rotate_secret(endpoint.id, "whsec_2", old_expires_in_s=100)
    third = store.rotate_secret(endpoint.id, "whsec_3", old_expires_in_s=50)
    assert [one.secret for one in third.secrets] == ["whsec_3", "whsec_2"]
    clock.pass_s(51)
    later = store.endpoint(endpoint.id)
    assert later is not None and [one.secret for one in later.secrets] == ["whsec_3"]
    assert "whsec" not in repr(store.audit_log().items)


def test_an_unknown_event_type_is_refused(store: Store) -> None:
    with pytest.raises(ValueError, match=r"submission\.graded"):
        store.create_endpoint("https://receiver.example/", ["submission.eaten"], "whsec_x")


def test_messages_can_be_found(store: Store, submit: Submit, grade: Grade) -> None:
    endpoint = store.create_endpoint("https://receiver.example/", [], "whsec_x")
    made = submit()
    grade(made.id)
    store.ping_endpoint(endpoint.id)

    def found(**filters: str) -> list[str]:
        return [one.event_type for one in store.list_messages(MessageFilters(**filters)).items]  # type: ignore[arg-type]

    assert found(submission_id=made.id) == ["submission.graded"]
    assert found(event_type=ENDPOINT_PING) == [ENDPOINT_PING]
    assert found(endpoint_id=endpoint.id, state="pending") == [ENDPOINT_PING, "submission.graded"]
    assert found(state="dead") == []


@pytest.mark.parametrize(
    "ask",
    [
        lambda s: s.rotate_secret("whe_none", "x"),
        lambda s: s.delete_endpoint("whe_none"),
        lambda s: s.disable_endpoint("whe_none", "x"),
        lambda s: s.enable_endpoint("whe_none"),
        lambda s: s.ping_endpoint("whe_none"),
        lambda s: s.replay("msg_none"),
        lambda s: s.record_attempt("msg_none", 0, AttemptResult(0, 1, None, 0), None, "dead"),
    ],
)
def test_what_is_not_there_is_not_found(store: Store, ask: Callable[[Store], object]) -> None:
    with pytest.raises(NotFound):
        ask(store)

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from services.settings import Settings
from services.store import (
    AttemptResult,
    DueMessage,
    IntegrationKind,
    MessageState,
    NewIntegration,
    NewSubmission,
    StoreUnavailable,
    WebhookMessage,
)
from services.webhooks import Delivery, new_secret, verify
from services.worker.delivery import Deliverer
from tests.services.conftest import a_report
from tests.services.worker.conftest import Bench

URL = "https://ats.example/hook"


class FakeSender:
    """Answers what it is told to, and keeps what it was given."""

    def __init__(self, *answers: Delivery) -> None:
        self._answers = list(answers)
        self._lock = threading.Lock()
        self.posts: list[tuple[str, tuple[str, ...], str, str]] = []
        self.status = 200
        self.sends: list[tuple[str, str, Mapping[str, str], bytes]] = []

    def post(self, url: str, secrets: Iterable[str], message_id: str, body: str) -> Delivery:
        with self._lock:
            self.posts.append((url, tuple(secrets), message_id, body))
            return self._answers.pop(0) if self._answers else Delivery(200, None, 5, "thanks")

    def send(self, method: str, url: str, sent: Mapping[str, str], body: bytes) -> Delivery:
        self.sends.append((method, url, sent, body))
        return Delivery(200, None, 5) if self.status == 200 else failed(self.status)


def until(true: Callable[[], bool], within_s: float = 10.0) -> bool:
    deadline = time.monotonic() + within_s
    while not true() and time.monotonic() < deadline:
        time.sleep(0.01)
    return true()


def failed(status: int | None, retry_after_s: float | None = None) -> Delivery:
    return Delivery(status, f"answered {status}", 5, "no", retry_after_s)


def deliverer(bench: Bench, sender: FakeSender) -> Deliverer:
    return Deliverer(bench.store, sender, bench.settings, bench.clock, lambda: 0.0)  # type: ignore[arg-type]


def graded_message(bench: Bench) -> WebhookMessage:
    bench.store.create_endpoint(URL, (), new_secret())
    bench.worker().work(bench.hand_in())
    (message,) = bench.store.list_messages().items
    return message


def state_of(bench: Bench, message: WebhookMessage) -> WebhookMessage:
    found = bench.store.message(message.id)
    assert found is not None
    return found


def test_a_graded_submission_is_told_once(bench: Bench) -> None:
    message, sender = graded_message(bench), FakeSender()
    endpoint = bench.store.list_endpoints()[0]

    assert deliverer(bench, sender).work() == 1
    assert deliverer(bench, sender).work() == 0

    assert sender.posts == [(URL, (endpoint.secrets[0].secret,), message.id, message.body)]
    assert state_of(bench, message).state == "delivered"
    (attempt,) = bench.store.attempts(message.id)
    assert (attempt.status_code, attempt.error, attempt.response_head) == (200, None, "thanks")


def test_failures_follow_the_schedule_and_end_dead(bench: Bench) -> None:
    message, sender = graded_message(bench), FakeSender(failed(500), failed(None), failed(302))
    one = deliverer(bench, sender)

    assert one.work() == 1
    assert one.work() == 0  # not before its time
    bench.clock.pass_s(11)
    assert one.work() == 1
    bench.clock.pass_s(21)
    assert one.work() == 1
    bench.clock.pass_s(100_000)
    assert one.work() == 0

    assert state_of(bench, message).state == "dead"
    assert [attempt.status_code for attempt in bench.store.attempts(message.id)] == [500, None, 302]
    assert {(post[2], post[3]) for post in sender.posts} == {(message.id, message.body)}


def test_a_receiver_that_asks_for_time_gets_it(bench: Bench) -> None:
    message, sender = graded_message(bench), FakeSender(failed(503, retry_after_s=500.0))
    one = deliverer(bench, sender)
    one.work()
    bench.clock.pass_s(400)
    assert one.work() == 0
    bench.clock.pass_s(200)
    assert one.work() == 1
    assert state_of(bench, message).state == "delivered"


def test_a_receiver_that_is_gone_is_told_nothing_more(bench: Bench) -> None:
    message, sender = graded_message(bench), FakeSender(failed(410))
    deliverer(bench, sender).work()

    assert state_of(bench, message).state == "dead"
    endpoint = bench.store.list_endpoints()[0]
    assert "410" in str(endpoint.disabled_reason)
    bench.worker().work(bench.hand_in())
    assert deliverer(bench, sender).work() == 0


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_sender_that_dies_before_it_noted_sends_the_same_again(bench: Bench, after: bool) -> None:
    message, sender = graded_message(bench), FakeSender()
    record = bench.store.record_attempt

    def dies(
        message_id: str, lease_us: int, result: AttemptResult, next_us: int | None, state: MessageState
    ) -> WebhookMessage:
        if after:
            record(message_id, lease_us, result, next_us, state)
        raise StoreUnavailable("killed")

    bench.store.record_attempt = dies  # type: ignore[method-assign]
    deliverer(bench, sender).work()
    bench.store.record_attempt = record  # type: ignore[method-assign]
    assert deliverer(bench, sender).work() == 0  # leased still, or delivered
    bench.clock.pass_s(bench.settings.webhook_timeout_s + 31)
    deliverer(bench, sender).work()

    assert state_of(bench, message).state == "delivered"
    assert {(post[2], post[3]) for post in sender.posts} == {(message.id, message.body)}
    assert len(sender.posts) == (1 if after else 2)


def test_many_are_sent_in_one_go(bench: Bench) -> None:
    bench.store.create_endpoint(URL, (), new_secret())
    for _ in range(9):
        bench.worker().work(bench.hand_in())
    sender = FakeSender()

    assert deliverer(bench, sender).work() == 9
    assert len({post[2] for post in sender.posts}) == 9


class HangingSender(FakeSender):
    """One receiver answers only once `gate` is open."""

    def __init__(self, hangs: str) -> None:
        super().__init__()
        self.hangs, self.gate = hangs, threading.Event()
        self.hanging = self.most = 0

    def post(self, url: str, secrets: Iterable[str], message_id: str, body: str) -> Delivery:
        if url != self.hangs:
            return super().post(url, secrets, message_id, body)
        with self._lock:
            self.hanging += 1
            self.most = max(self.most, self.hanging)
        try:
            return Delivery(200, None, 5) if self.gate.wait(20) else failed(None)
        finally:
            with self._lock:
                self.hanging -= 1


@pytest.mark.parametrize(("slots", "most"), [(4, 2), (2, 1), (3, 1)])
def test_a_receiver_that_hangs_holds_nobody_up(bench: Bench, slots: int, most: int) -> None:
    """Not even messages that come while it hangs; it never has more than half of the slots."""
    bench.settings = bench.settings.model_copy(update={"worker_webhook_slots": slots, "deliver_every_s": 0.02})
    slow, fast = (bench.store.create_endpoint(f"https://{name}.example", (), new_secret()) for name in ("slow", "fast"))
    for _ in range(9):
        bench.store.ping_endpoint(slow.id)
    for _ in range(5):
        bench.store.ping_endpoint(fast.id)
    sender = HangingSender(slow.url)

    def reached(count: int) -> bool:
        return until(lambda: len(sender.posts) >= count)

    with ThreadPoolExecutor(1) as threads:
        rounds = threads.submit(deliverer(bench, sender).work)
        reached_at_first = reached(5)
        bench.store.ping_endpoint(fast.id)
        reached_later = reached(6)
        sender.gate.set()
        assert rounds.result() == 15
    assert (reached_at_first, reached_later) == (True, True)
    assert sender.most == most
    assert bench.store.counts().messages == {"delivered": 15}


def test_an_integration_is_told_in_its_own_words(bench: Bench) -> None:
    secret = new_secret()
    integration = bench.store.create_integration(NewIntegration("ats", "standard", (secret,)))
    callback = {"url": "https://ats.example/results", "assessment_id": None}
    new = NewSubmission("spiral", "x.py", b"fixed=3", integration_id=integration.id, callback=callback)
    bench.worker().work(bench.store.create_submission(new).id)
    sender = FakeSender()

    assert deliverer(bench, sender).work() == 1

    ((method, url, headers, body),) = sender.sends
    assert (method, url) == ("POST", "https://ats.example/results")
    (message,) = bench.store.list_messages().items
    now_s = bench.clock.now_us / 1e6
    assert verify([secret], headers, body, now_s=now_s, tolerance_s=60) == message.id
    assert body.decode() == message.body
    assert state_of(bench, message).state == "delivered"


def tell_ats(bench: Bench, kind: IntegrationKind = "ashby") -> str:
    """A graded submission whose verdict is to go to an applicant tracking system."""
    integration = bench.store.create_integration(NewIntegration("ats", kind, (new_secret(),)))
    callback = {"url": "https://ats.example/results", "assessment_id": "asm_1"}
    new = NewSubmission("spiral", "x.py", b"fixed=3", integration_id=integration.id, callback=callback)
    made = bench.store.create_submission(new).id
    bench.worker().work(made)
    return made


def scores(sender: FakeSender) -> list[float]:
    return [json.loads(body)["assessment_result"]["value"] for *_, body in sender.sends]


def test_a_verdict_is_told_though_its_submission_is_graded_anew(bench: Bench) -> None:
    """The system was away; when it is back the next grading waits, or was called off."""
    made = tell_ats(bench)
    bench.store.regrade(made)
    sender = FakeSender()
    assert deliverer(bench, sender).work() == 1
    assert scores(sender) == [37.5]

    bench.grade = lambda claim, _: a_report(claim.file_name, b"fixed=6")
    bench.worker().work(made)
    bench.store.regrade(made)
    bench.store.cancel(made)
    assert deliverer(bench, sender).work() == 1
    assert deliverer(bench, sender).work() == 0
    assert scores(sender) == [37.5, 75.0]
    assert bench.store.counts().messages == {"delivered": 2}


def test_an_older_verdict_does_not_replace_a_newer_one(bench: Bench) -> None:
    """What an applicant tracking system keeps is what it was told last."""
    made = tell_ats(bench)
    sender = FakeSender()
    sender.status = 503
    assert deliverer(bench, sender).work() == 1
    bench.store.regrade(made)
    bench.grade = lambda claim, _: a_report(claim.file_name, b"fixed=6")
    bench.worker().work(made)
    sender.status = 200
    assert deliverer(bench, sender).work() == 1
    bench.clock.pass_s(11)
    assert deliverer(bench, sender).work() == 1
    assert scores(sender) == [37.5, 75.0]
    newer, older = bench.store.list_messages().items
    assert (newer.state, older.state) == ("delivered", "dead")
    assert bench.store.attempts(older.id)[-1].error == "a newer verdict was told already"


def test_nothing_of_a_candidate_is_told_who_was_erased_meanwhile(bench: Bench) -> None:
    made = tell_ats(bench, "standard")
    leased = bench.store.due_messages

    def erased_now(*args: Any, **named: Any) -> list[DueMessage]:
        due = leased(*args, **named)
        bench.store.erase(made)
        return due

    bench.store.due_messages = erased_now  # type: ignore[method-assign]
    sender = FakeSender()
    assert deliverer(bench, sender).work() == 1
    assert sender.sends == []
    assert bench.store.counts().messages == {"dead": 1}


def test_what_cannot_be_built_is_counted_and_ends_dead(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A report that another release wrote, say: no sender can read it, however often it tries."""
    tell_ats(bench)
    kept = bench.store.report

    def strange(submission_id: str, generation: int | None = None) -> dict[str, object]:
        return {**(kept(submission_id, generation) or {}), "PLANTED": "PLANTED"}

    monkeypatch.setattr(bench.store, "report", strange)
    one = deliverer(bench, FakeSender())
    for _ in range(5):
        one.work()
        bench.clock.pass_s(100_000)

    (message,) = bench.store.list_messages().items
    attempts = bench.store.attempts(message.id)
    assert (message.state, message.attempts, len(attempts)) == ("dead", 3, 3)
    assert {attempt.error for attempt in attempts} == {"not sent: ValidationError"}


def test_a_database_that_is_away_is_no_attempt(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    tell_ats(bench)

    def gone(_: str) -> None:
        raise StoreUnavailable("gone")

    monkeypatch.setattr(bench.store, "submission", gone)
    assert deliverer(bench, FakeSender()).work() == 1
    (message,) = bench.store.list_messages().items
    assert (message.state, message.attempts) == ("pending", 0)


def test_what_nobody_is_there_for_is_dead(bench: Bench) -> None:
    integration = bench.store.create_integration(NewIntegration("ats", "standard", (new_secret(),)))
    new = NewSubmission(
        "spiral", "x.py", b"fixed=3", integration_id=integration.id, callback={"url": "https://ats.example/results"}
    )
    bench.worker().work(bench.store.create_submission(new).id)
    bench.store.delete_integration(integration.id)
    sender = FakeSender()
    deliverer(bench, sender).work()

    assert sender.sends == []
    assert all(message.state != "delivered" for message in bench.store.list_messages().items)


def test_a_database_that_is_away_ends_the_round(bench: Bench, settings: Settings) -> None:
    graded_message(bench)

    def gone(*_: object, **__: object) -> list[object]:
        raise StoreUnavailable("gone")

    bench.store.due_messages = gone  # type: ignore[method-assign, assignment]
    assert deliverer(bench, FakeSender()).work() == 0

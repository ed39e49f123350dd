from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest
import redis.exceptions

from services.store import Store, StoreUnavailable
from services.worker.loops import go_round
from services.worker.queue import QueueName
from services.worker.relay import publish
from services.worker.sweeper import Sweeper
from tests.services.worker.conftest import Bench


class FakeHints:
    """A queue that works for so many messages."""

    def __init__(self, room: int = 1000) -> None:
        self.room = room
        self.sent: list[tuple[str, str]] = []
        self.delivers = 0

    def grade(self, submission_id: str, queue: QueueName) -> None:
        if len(self.sent) >= self.room:
            raise redis.exceptions.ConnectionError("Redis is down")
        self.sent.append((submission_id, queue))

    def deliver(self) -> None:
        self.delivers += 1

    def length(self, queue: QueueName) -> int:
        if self.room == 0:
            raise redis.exceptions.ConnectionError("Redis is down")
        return sum(where == queue for _, where in self.sent)


def test_what_was_taken_is_published_once(bench: Bench) -> None:
    ids = [bench.hand_in() for _ in range(3)]
    hints = FakeHints()

    assert publish(bench.store, hints, 100) == 3  # type: ignore[arg-type]
    assert publish(bench.store, hints, 100) == 0  # type: ignore[arg-type]
    assert hints.sent == [(one, "interactive") for one in ids]


def test_what_a_dead_queue_did_not_take_is_published_later(bench: Bench) -> None:
    ids = [bench.hand_in() for _ in range(3)]
    hints = FakeHints(room=2)
    with pytest.raises(redis.exceptions.ConnectionError):
        publish(bench.store, hints, 100)  # type: ignore[arg-type]
    hints.room = 1000

    assert publish(bench.store, hints, 100) == 1  # type: ignore[arg-type]
    assert [one for one, _ in hints.sent] == ids


def test_a_relay_that_dies_before_it_noted_publishes_twice_and_loses_nothing(bench: Bench) -> None:
    one = bench.hand_in()
    hints = FakeHints()
    mark = bench.store.mark_published

    def dies(ids: Sequence[int]) -> None:
        raise StoreUnavailable("killed")

    bench.store.mark_published = dies  # type: ignore[method-assign, assignment]
    with pytest.raises(StoreUnavailable):
        publish(bench.store, hints, 100)  # type: ignore[arg-type]
    bench.store.mark_published = mark  # type: ignore[method-assign]
    publish(bench.store, hints, 100)  # type: ignore[arg-type]

    assert hints.sent == [(one, "interactive")] * 2


def test_a_lost_message_is_hinted_again(bench: Bench) -> None:
    """Redis forgot it, or a worker died between taking it and claiming."""
    one = bench.hand_in()
    hints = FakeHints()
    publish(bench.store, hints, 100)  # type: ignore[arg-type]
    hints.sent.clear()
    bench.clock.pass_s(bench.settings.stale_queued_s + 1)

    Sweeper(bench.store, hints, bench.settings).turn()  # type: ignore[arg-type]
    publish(bench.store, hints, 100)  # type: ignore[arg-type]

    assert hints.sent == [(one, "interactive")]
    assert hints.delivers == 1


def test_a_long_queue_is_left_alone(bench: Bench) -> None:
    for _ in range(20):
        bench.hand_in()
    hints = FakeHints()
    publish(bench.store, hints, 100)  # type: ignore[arg-type]
    for _ in range(3):
        bench.clock.pass_s(bench.settings.stale_queued_s + 1)
        Sweeper(bench.store, hints, bench.settings).turn()  # type: ignore[arg-type]
        publish(bench.store, hints, 100)  # type: ignore[arg-type]
    assert len(hints.sent) == 20


def test_leases_end_though_the_queue_is_away(bench: Bench) -> None:
    one, other = bench.hand_in(), bench.hand_in()
    hints = FakeHints()
    publish(bench.store, hints, 100)  # type: ignore[arg-type]
    assert bench.store.claim(one, "dead", bench.settings.lease_s) is not None
    bench.clock.pass_s(bench.settings.stale_queued_s + bench.settings.lease_s)
    hints.room = 0
    Sweeper(bench.store, hints, bench.settings).sweep()  # type: ignore[arg-type]
    assert [row.submission_id for row in bench.store.pending_outbox()] == [one], f"and {other} keeps its hint"


def test_what_a_dead_worker_held_is_hinted_again(bench: Bench) -> None:
    one = bench.hand_in()
    hints = FakeHints()
    publish(bench.store, hints, 100)  # type: ignore[arg-type]
    assert bench.store.claim(one, "dead", bench.settings.lease_s) is not None
    bench.clock.pass_s(bench.settings.lease_s + 1)

    Sweeper(bench.store, hints, bench.settings).sweep()  # type: ignore[arg-type]
    publish(bench.store, hints, 100)  # type: ignore[arg-type]

    assert [sent for sent, _ in hints.sent] == [one, one]
    assert bench.worker().work(one) == "graded"


def test_what_was_erased_is_scrubbed_until_it_is_gone(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [False, True]
    monkeypatch.setattr(bench.store, "scrub", lambda: answers.pop(0))
    sweeper = Sweeper(bench.store, FakeHints(), bench.settings)  # type: ignore[arg-type]
    sweeper.sweep()
    sweeper.sweep()
    assert answers == []


def test_a_loop_goes_on_through_trouble(store: Store) -> None:
    """It asks again, with growing pauses, and stops when told."""
    stop = threading.Event()
    turns: list[str] = []

    def turn() -> bool:
        turns.append("turn")
        if len(turns) in (1, 2):
            raise StoreUnavailable("gone")
        if len(turns) == 3:
            raise redis.exceptions.ConnectionError("gone")
        if len(turns) == 6:
            stop.set()
        return len(turns) == 4

    go_round("test", turn, 0.001, stop)
    assert len(turns) == 6


def test_a_mistake_of_ours_ends_a_loop() -> None:
    """The supervisor then restarts the process; nothing is hidden."""

    def turn() -> bool:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        go_round("test", turn, 0.001, threading.Event())

from __future__ import annotations

import threading

import pytest

from services.worker.program import SoftStop, worker_name


class Stopped:
    def __init__(self, patience_s: float) -> None:
        self.begun, self.called_off = threading.Event(), threading.Event()
        self.stop = SoftStop(self.begun.set, self.called_off.set, patience_s)


def test_what_ends_in_time_is_not_called_off() -> None:
    one = Stopped(patience_s=10.0)
    one.stop.begin(sig="SIGTERM")
    assert one.begun.wait(5)
    one.stop.ended()
    assert not one.called_off.wait(0.2)


def test_what_does_not_is_handed_back() -> None:
    one = Stopped(patience_s=0.05)
    one.stop.begin()
    assert one.called_off.wait(5)
    one.stop.ended()


def test_a_process_that_hangs_even_then_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()
    monkeypatch.setattr("services.worker.program._LAST_WORDS_S", 0.05)
    monkeypatch.setattr("os._exit", lambda code: ended.set())
    Stopped(patience_s=0.05).stop.begin()
    assert ended.wait(5)


def test_a_worker_is_known_by_queues_host_and_process() -> None:
    name = worker_name(("interactive", "cohort"))
    assert name.startswith("interactive+cohort@")
    assert name.rpartition(":")[2].isdigit()

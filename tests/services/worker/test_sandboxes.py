from __future__ import annotations

import pytest

from sandbox.spec import SandboxUnavailable
from services.worker.sandboxes import WeakHost
from tests.services.worker.conftest import Bench


def test_one_sandbox_serves_all_that_works(bench: Bench) -> None:
    sandboxes = bench.sandboxes()
    with sandboxes.one() as first, sandboxes.one() as second:
        assert first is second
    with sandboxes.one():
        pass
    assert len(bench.opened) == 1
    sandboxes.shut()
    assert bench.closed == bench.opened


def test_one_that_failed_is_closed_when_nobody_uses_it_any_more(bench: Bench) -> None:
    sandboxes = bench.sandboxes()
    with sandboxes.one() as first:
        first.distrust()
        assert bench.closed == []
    assert bench.closed == bench.opened
    with sandboxes.one():
        assert len(bench.opened) == 2


def test_one_that_failed_beside_another_user_is_looked_at_first(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that harms nobody has to run in it before the next submission does."""
    looks: list[object] = []

    def look(sandbox: object, limits: object) -> None:
        looks.append(sandbox)
        if len(looks) == 1:
            raise SandboxUnavailable("still away")

    monkeypatch.setattr("services.worker.sandboxes.look", look)
    sandboxes = bench.sandboxes()
    with sandboxes.one() as user:
        user.distrust()
        with pytest.raises(SandboxUnavailable), sandboxes.one():
            pass
        with sandboxes.one():
            assert len(looks) == 2
    assert bench.closed == []


def test_a_host_that_became_weak_is_used_no_more(bench: Bench) -> None:
    sandboxes = bench.sandboxes()
    with sandboxes.one():
        pass
    bench.failures = ["kernel: too old"]
    with pytest.raises(WeakHost, match="too old"), sandboxes.one():
        pass
    bench.failures = ()
    with sandboxes.one():
        pass

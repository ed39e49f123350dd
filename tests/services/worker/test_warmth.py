"""What a worker tells of the warm containers of its host."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from sandbox.spec import SandboxUnavailable
from services.store import Store
from services.worker.sandboxes import Sandboxes
from services.worker.warmth import PoolTeller

POOL = {
    "shelves": [{"warm": 2, "warming": 1, "target": 3}, {"warm": 1, "warming": 0, "target": 1}],
    "busy": 2,
    "served": 40,
    "served_warm": 37,
}


class Told:
    """A sandbox that says how it is."""

    def __init__(self, status: Any) -> None:
        self._status = status

    def status(self) -> Any:
        if isinstance(self._status, Exception):
            raise self._status
        return self._status


@pytest.fixture
def store(tmp_path: Path) -> Any:
    url = f"sqlite:///{tmp_path / 'assay.db'}"
    Store.upgrade(url)
    one = Store.open(url)
    yield one
    one.close()


def opened(sandbox: Any) -> Sandboxes:
    found = Sandboxes(lambda: sandbox, lambda _: [], lambda _: None)
    with found.one():
        return found


@pytest.mark.parametrize("status", [POOL, {"pid": 7, "pool": POOL}], ids=["its own pool", "a runner's"])
def test_the_shelves_of_a_pool_are_told_as_one_line(store: Store, status: Any) -> None:
    PoolTeller(store, opened(Told(status)), 10).tell()
    (pool,) = store.pools(60)
    assert (pool.warm, pool.warming, pool.target, pool.busy, pool.served, pool.served_warm) == (3, 1, 4, 2, 40, 37)
    assert pool.host and abs(pool.at_us - store.now_us()) < 60_000_000


@pytest.mark.parametrize("sandbox", [object(), Told({"pool": {}}), Told({})], ids=["no status", "no pool", "nothing"])
def test_where_there_is_no_pool_nothing_is_told(store: Store, sandbox: Any) -> None:
    PoolTeller(store, opened(sandbox), 10).tell()
    PoolTeller(store, Sandboxes(lambda: sandbox, lambda _: [], lambda _: None), 10).tell()  # none is open
    assert store.pools(60) == []


def test_the_thread_goes_on_through_trouble_and_ends_with_its_worker(store: Store) -> None:
    sandbox = Told(SandboxUnavailable("the runner went"))
    with PoolTeller(store, opened(sandbox), 0.01):
        time.sleep(0.05)
        sandbox._status = POOL
        until = time.monotonic() + 20
        while not store.pools(60) and time.monotonic() < until:
            time.sleep(0.01)
    assert [pool.warm for pool in store.pools(60)] == [3]

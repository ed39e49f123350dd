"""What operators look at that no submission tells."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from services.store import Pool, Store
from tests.services.store.conftest import Clock
from tests.services.store.test_races import at_once


def pool(host: str, warm: int) -> Pool:
    return Pool(host=host, warm=warm, warming=0, target=2, busy=1, served=9, served_warm=8)


def test_the_newest_word_of_each_host_stands_until_it_is_silent(store: Store, clock: Clock) -> None:
    store.note_pool(pool("b", 1))
    store.note_pool(pool("a" * 300, 1))
    clock.pass_s(30)
    store.note_pool(pool("b", 2))
    assert [(one.host[:1], one.warm) for one in store.pools(60)] == [("a", 1), ("b", 2)]
    clock.pass_s(40)
    assert [(one.host, one.warm) for one in store.pools(60)] == [("b", 2)]


def test_workers_of_one_host_may_tell_at_once(open_store: Callable[..., Store]) -> None:
    stores = [open_store() for _ in range(3)]
    at_once(*(partial(stores[n % 3].note_pool, pool("host", n)) for n in range(6)))
    assert len(stores[0].pools(60)) == 1

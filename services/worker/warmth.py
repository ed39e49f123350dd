"""Tells the store how many containers wait warm where a worker grades, for the administrators' page."""

from __future__ import annotations

import socket
import threading
from collections.abc import Mapping
from typing import Any

from sandbox.spec import SandboxUnavailable
from services.logs import logger
from services.store import Pool, Store, StoreUnavailable
from services.worker.sandboxes import Sandboxes

log = logger("worker")


class PoolTeller:
    """A thread that tells every `every_s` seconds while a worker runs. Trouble is noted and asked again later."""

    def __init__(self, store: Store, sandboxes: Sandboxes, every_s: float) -> None:
        self._store, self._sandboxes, self._every_s = store, sandboxes, every_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pool teller", daemon=True)

    def __enter__(self) -> PoolTeller:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join(self._every_s)

    def _run(self) -> None:
        while not self._stopping.wait(self._every_s):
            try:
                self.tell()
            except (StoreUnavailable, SandboxUnavailable) as error:
                log.warning("the pool could not be told of", error=f"{type(error).__name__}: {error}"[:300])

    def tell(self) -> None:
        """Look and tell; nothing where no sandbox is open or it keeps no pool. Raises what store and sandbox do."""
        ask = getattr(self._sandboxes.peek(), "status", None)
        if ask is None:
            return
        status = ask()
        pool = status.get("pool", status)  # a runner tells of its own around it
        if isinstance(pool, Mapping) and isinstance(pool.get("shelves"), list):
            self._store.note_pool(_pool(socket.gethostname(), pool))


def _pool(host: str, told: Mapping[str, Any]) -> Pool:
    def total(name: str) -> int:
        return sum(int(shelf.get(name, 0)) for shelf in told["shelves"])

    return Pool(
        host=host,
        warm=total("warm"),
        warming=total("warming"),
        target=total("target"),
        busy=int(told.get("busy", 0)),
        served=int(told.get("served", 0)),
        served_warm=int(told.get("served_warm", 0)),
    )

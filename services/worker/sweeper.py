"""Brings back what got stuck, and has webhooks that are due sent."""

from __future__ import annotations

import sys
import threading
import time

from services.logs import logger
from services.settings import Settings
from services.store import Queue, Store
from services.worker.grading import longest_pause_s
from services.worker.loops import go_round
from services.worker.queue import QUEUE_TROUBLE, Hints

log = logger("sweeper")

_PRUNE_EVERY_S = 3600.0
_CLOCKS_DIFFER_S = 60.0  # between hosts, at most
_GRADED: tuple[Queue, ...] = ("interactive", "cohort")


class Sweeper:
    """One turn does what is due of: sweeping, pruning, a hint for the webhooks."""

    def __init__(self, store: Store, hints: Hints, settings: Settings) -> None:
        self._store, self._hints, self._settings = store, hints, settings
        self._sweep_at = self._prune_at = 0.0

    def turn(self) -> bool:
        """Nothing is ever left for a turn at once. Raises StoreUnavailable, QUEUE_TROUBLE."""
        now = time.monotonic()
        if now >= self._sweep_at:
            self.sweep()
            self._sweep_at = now + self._settings.sweep_every_s
        if now >= self._prune_at:
            self._store.prune(idempotency_s=self._settings.idempotency_ttl_s)
            self._prune_at = now + _PRUNE_EVERY_S
        self._hints.deliver()
        return False

    def sweep(self) -> None:
        """Bring back what dead workers held, hint again what waits too long, see that what was erased is gone."""
        lengths = {queue: self._length(queue) for queue in _GRADED}
        longest_s = max(self._settings.lease_s, longest_pause_s(self._settings)) + _CLOCKS_DIFFER_S
        swept = self._store.sweep(stale_s=self._settings.stale_queued_s, on_queue=lengths, horizon_s=longest_s)
        if swept.requeued or swept.expired or swept.dead:
            log.info("swept", requeued=swept.requeued, expired=swept.expired, dead=swept.dead)
        if not self._store.scrub():
            log.info("what was erased is still in the database's log, tried again soon")

    def _length(self, queue: Queue) -> int:
        try:
            return self._hints.length(queue)
        except QUEUE_TROUBLE as error:
            log.warning("the queue does not answer", queue=queue, error=str(error)[:300])
            return sys.maxsize  # whatever was on it may be there yet; ended leases do not wait for it


def run(store: Store, hints: Hints, settings: Settings, stop: threading.Event) -> None:
    """Sweep until told to stop."""
    turn = Sweeper(store, hints, settings).turn
    go_round("sweeper", turn, min(settings.deliver_every_s, settings.sweep_every_s), stop)

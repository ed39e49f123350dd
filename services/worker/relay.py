"""Puts the store's outbox on the queue: at least once each, and never before the store has it."""

from __future__ import annotations

import threading

from services.settings import Settings
from services.store import Store
from services.worker.loops import go_round
from services.worker.queue import Hints


def publish(store: Store, hints: Hints, limit: int) -> int:
    """Publish what is due and note it; how many.

    What was published is noted even where a later one failed: fewer are then published twice.
    Raises StoreUnavailable, QUEUE_TROUBLE.
    """
    published: list[int] = []
    try:
        for row in store.pending_outbox(limit):
            hints.grade(row.submission_id, row.queue)
            published.append(row.id)
    finally:
        if published:
            store.mark_published(published)
    return len(published)


def run(store: Store, hints: Hints, settings: Settings, stop: threading.Event) -> None:
    """Relay until told to stop."""

    def turn() -> bool:
        return publish(store, hints, settings.relay_batch) == settings.relay_batch

    go_round("relay", turn, settings.relay_poll_s, stop)

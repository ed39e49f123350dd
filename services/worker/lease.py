"""The right to go on with a claim, and the heartbeat that keeps it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType

from services.logs import logger
from services.store import Claim, Store, StoreUnavailable

log = logger("worker")


class Over(Exception):
    """The claim is over: whatever comes of this grading is not wanted any more."""


class Lease:
    """As long as this lasts a thread renews the claim, until it is over or has lasted too long.

    A database that does not answer ends nothing: no other worker can claim through it either,
    and in the end the fence decides.

    Args:
        limit_s: after this the claim is given up, which bounds a grading that hangs.
    """

    def __init__(
        self,
        store: Store,
        claim: Claim,
        *,
        lease_s: float,
        heartbeat_s: float,
        limit_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.claim = claim
        self._store, self._lease_s, self._heartbeat_s = store, lease_s, heartbeat_s
        self._clock, self._give_up_at = clock, clock() + limit_s
        self._end = threading.Event()
        self._over = ""
        self._thread = threading.Thread(target=self._beat, name=f"heartbeat {claim.submission_id}", daemon=True)

    def __enter__(self) -> Lease:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()

    @property
    def is_over(self) -> bool:
        """Whether somebody else may have the submission now."""
        return bool(self._over)

    def lose(self, reason: str) -> None:
        """Renew it no more."""
        self._over = self._over or reason
        self._end.set()

    def check(self) -> None:
        """Raise Over where it is."""
        if self._over:
            raise Over(self._over)

    def _beat(self) -> None:
        while not self._end.wait(self._heartbeat_s):
            if self._clock() > self._give_up_at:
                self.lose("the grading took too long")
                return
            try:
                if not self._store.renew(self.claim, self._lease_s):
                    self.lose("the lease was lost")
            except StoreUnavailable as error:
                log.warning("heartbeat failed", submission=self.claim.submission_id, error=str(error)[:300])

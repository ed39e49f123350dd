"""Relay and sweeper: two loops that go on through every trouble, and how a process is told to stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType

from services.logs import logger
from services.store import StoreUnavailable
from services.worker.queue import QUEUE_TROUBLE

log = logger("loop")

_LONGEST_PAUSE_S = 10.0


def stop_signal() -> threading.Event:
    """Set by SIGTERM or SIGINT. Call it from the main thread."""
    stop = threading.Event()

    def ask(_: int, __: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ask)
    return stop


def go_round(name: str, turn: Callable[[], bool], every_s: float, stop: threading.Event) -> None:
    """Call `turn` until told to stop: at once again where it says that there is more, else after `every_s`.

    A store or a queue that does not answer is asked again after a pause that doubles up to ten seconds.
    """
    failures = 0
    while not stop.is_set():
        try:
            more = turn()
        except (StoreUnavailable, *QUEUE_TROUBLE) as error:
            pause_s = min(_LONGEST_PAUSE_S, every_s * 2.0 ** min(failures, 10))
            failures += 1
            log.warning("trouble", loop=name, error=f"{type(error).__name__}: {error}"[:300], again_in_s=pause_s)
            stop.wait(pause_s)
            continue
        if failures:
            log.info("works again", loop=name)
        failures = 0
        if not more:
            stop.wait(every_s)

"""A worker as a process: Celery's consumer in the main thread, gradings in others."""

from __future__ import annotations

import os
import socket
import threading
import warnings
from collections.abc import Callable, Sequence

from celery import Celery
from celery.signals import worker_shutting_down

from services.logs import logger
from services.worker.queue import QueueName

log = logger("worker")

_LAST_WORDS_S = 10.0  # for a thread that was called off to end by itself


def worker_name(queues: Sequence[QueueName]) -> str:
    """What the store calls this process: queues, host and process."""
    return f"{'+'.join(queues)}@{socket.gethostname()}:{os.getpid()}"[:200]


class SoftStop:
    """Lets what runs go on for a while after SIGTERM, then calls it off; ends the process if even that hangs.

    Celery by itself would wait for as long as a grading takes.
    """

    def __init__(self, begin: Callable[[], None], call_off: Callable[[], None], patience_s: float) -> None:
        self._begin, self._call_off, self._patience_s = begin, call_off, patience_s
        self._ended = threading.Event()

    def begin(self, **_: object) -> None:
        """Celery's handler of SIGTERM and SIGINT calls this: it must not block."""
        threading.Thread(target=self._run, name="soft stop", daemon=True).start()

    def ended(self) -> None:
        """Nothing runs any more."""
        self._ended.set()

    def _run(self) -> None:
        self._begin()
        if self._ended.wait(self._patience_s):
            return
        log.warning("what still runs is handed back", after_s=self._patience_s)
        self._call_off()
        if not self._ended.wait(_LAST_WORDS_S):
            os._exit(0)  # all is handed back; the Engine ends containers whose stream is cut


def run_worker(app: Celery, queues: Sequence[QueueName], slots: int, stop: SoftStop) -> int:
    """Work off hints of these queues until SIGTERM or SIGINT; the exit code. Call it from the main thread."""
    # Celery warns root of pickle; here only JSON is taken.
    warnings.filterwarnings("ignore", message=".*superuser privileges")
    worker = app.Worker(
        queues=list(queues),
        pool="threads",
        concurrency=slots,
        hostname=worker_name(queues),
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        loglevel="WARNING",
        quiet=True,
    )
    worker_shutting_down.connect(stop.begin, weak=False)
    log.info("worker serves", queues=list(queues), slots=slots)
    try:
        worker.start()
    finally:
        stop.ended()
        worker_shutting_down.disconnect(stop.begin)
    return int(worker.exitcode or 0)

"""A worker over a real Redis that comes and goes."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis as client

from bench.stack import Redis
from services.settings import Settings
from services.worker.queue import WEBHOOKS, Hints, make_app

# A worker whose work takes as long as the test wants: each turn leaves a file, and waits for one.
_WORKER = """
import sys, time
from pathlib import Path
from services.settings import Settings
from services.worker.program import SoftStop, run_worker
from services.worker.queue import add_tasks, make_app

url, folder = sys.argv[1], Path(sys.argv[2])
app = make_app(Settings(redis_url=url, broker_timeout_s=1))
turns = iter(range(100))

def deliver():
    turn = next(turns)
    (folder / f"began-{turn}").touch()
    while not (folder / f"may-end-{turn}").exists():
        time.sleep(0.02)
    (folder / f"ended-{turn}").touch()

add_tasks(app, lambda _: None, deliver)
sys.exit(run_worker(app, ["webhooks"], 1, SoftStop(lambda: None, lambda: None, 1.0)))
"""


def _await(true: Callable[[], bool], what: str, within_s: float = 40.0) -> None:
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, f"{what} did not come within {within_s:g} s"
        time.sleep(0.05)


@contextlib.contextmanager
def _worker(redis: Redis, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    words = [sys.executable, "-c", _WORKER, redis.url, str(folder)]
    with (folder / "log").open("wb") as log, subprocess.Popen(words, stdout=log, stderr=log) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    part = Redis(tmp_path / "redis")
    part.start()
    part.await_ready()
    yield part
    part.stop()


@pytest.mark.services
@pytest.mark.enable_socket
@pytest.mark.timeout(180)
@pytest.mark.parametrize("down_at_the_end", [True, False])
def test_a_worker_goes_on_after_the_queue_was_lost_under_it(
    redis: Redis, tmp_path: Path, down_at_the_end: bool
) -> None:
    """Whether the queue is away or back when the work ends that was under way."""
    hints = Hints(make_app(Settings(redis_url=redis.url, broker_timeout_s=1)))
    with _worker(redis, tmp_path):
        for turn in range(3):
            hints.deliver()
            _await((tmp_path / f"began-{turn}").exists, f"turn {turn}")
            redis.kill()
            if not down_at_the_end:
                redis.start()
                redis.await_ready()
            (tmp_path / f"may-end-{turn}").touch()
            _await((tmp_path / f"ended-{turn}").exists, f"the end of turn {turn}")
            time.sleep(0.5)  # for the worker to tell the queue so, were it to
            if down_at_the_end:
                redis.start()
                redis.await_ready()
            redis.flush()
            hints.close()


@pytest.mark.services
@pytest.mark.enable_socket
@pytest.mark.timeout(120)
def test_a_hint_that_a_killed_worker_held_does_not_come_back(redis: Redis, tmp_path: Path) -> None:
    """The store brings back what is due; the queue keeps no books of its own that could go wrong."""
    hints = Hints(make_app(Settings(redis_url=redis.url, broker_timeout_s=1)))
    with _worker(redis, tmp_path) as process:
        hints.deliver()
        _await((tmp_path / "began-0").exists, "the work")
        process.kill()
    assert hints.length(WEBHOOKS) == 0
    with contextlib.closing(client.Redis.from_url(redis.url)) as asked:
        assert asked.keys("unacked*") == []
    hints.close()

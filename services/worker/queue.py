"""The queue: Celery over Redis, JSON only. What travels is an id and never more.

Three queues, each served by processes of its own, so that neither a cohort of hundreds nor a
receiver that does not answer makes a single submission wait.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

import kombu.exceptions
import redis.exceptions
from celery import Celery
from kombu import Queue as CeleryQueue

from services.settings import Settings

QueueName = Literal["interactive", "cohort", "webhooks"]
QUEUES: tuple[QueueName, ...] = get_args(QueueName)
WEBHOOKS: QueueName = "webhooks"
GRADE, DELIVER = "assay.grade", "assay.deliver"

# What a queue that is down, restarting or full raises, through all the layers above it.
QUEUE_TROUBLE = (kombu.exceptions.OperationalError, redis.exceptions.RedisError, OSError)

_LONGEST_SOCKET_PATH = 100  # of 107 that the kernel takes


def service_folder(settings: Settings) -> Path:
    """Where `assay serve` keeps what it runs; made for its user alone."""
    folder = settings.state_dir / "service"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def short_path(settings: Settings, name: str) -> Path:
    """A unix socket in the service's folder, or where that path is too long for the kernel, in one for temporary files.

    Raises PermissionError where somebody else has made that folder.
    """
    path = service_folder(settings) / name
    if len(os.fsencode(path)) <= _LONGEST_SOCKET_PATH:
        return path
    token = hashlib.sha256(os.fsencode(settings.state_dir.absolute())).hexdigest()[:12]
    folder = Path(tempfile.gettempdir()) / f"assay-{os.getuid()}-{token}"
    folder.mkdir(exist_ok=True, mode=0o700)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to somebody else")
    return folder / name


def broker_url(settings: Settings) -> str:
    """The operator's Redis, or the one that `assay serve` runs."""
    return settings.redis_url or f"redis+socket://{short_path(settings, 'redis.sock').absolute()}"


def make_app(settings: Settings) -> Celery:
    """The Celery application of relay, sweeper and workers. Connects when first used."""
    app = Celery("assay", broker=broker_url(settings), set_as_current=False)
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        task_ignore_result=True,
        task_queues=[CeleryQueue(name) for name in QUEUES],
        task_default_queue="interactive",
        task_create_missing_queues=False,
        task_acks_late=True,  # with a prefetch of one: no hint waits behind a grading while another worker is idle
        task_acks_on_failure_or_timeout=True,  # the store retries, not the queue
        worker_prefetch_multiplier=1,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_soft_shutdown_timeout=settings.soft_stop_s,
        broker_connection_retry=True,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_connection_timeout=settings.broker_timeout_s,
        broker_pool_limit=2,
        broker_transport_options={
            # No books in Redis of who holds which hint. What a dead worker held the store brings back, and an
            # acknowledgement that fails for want of Redis would leave its worker waiting for ever: it counts as
            # held, so nothing is fetched, so the lost connection is not noticed.
            "ack_emulation": False,
            "socket_timeout": settings.broker_timeout_s,
            "socket_connect_timeout": settings.broker_timeout_s,
            "socket_keepalive": True,
            "health_check_interval": 10,
        },
    )
    return app


class Hints:
    """Puts hints on the queue. Every method raises one of QUEUE_TROUBLE where it cannot be reached."""

    def __init__(self, app: Celery) -> None:
        self._app = app

    def grade(self, submission_id: str, queue: QueueName) -> None:
        """This submission is due."""
        self._app.send_task(GRADE, args=(submission_id,), queue=queue, retry=False)

    def deliver(self) -> None:
        """Some webhooks may be due. Says nothing where two such hints wait already."""
        if self.length(WEBHOOKS) < 2:
            self._app.send_task(DELIVER, queue=WEBHOOKS, retry=False)

    def length(self, queue: QueueName) -> int:
        """How many hints wait in a queue."""
        with self._app.connection_for_write() as connection:
            channel: Any = connection.default_channel  # its Redis client is not among kombu's types
            return int(channel.client.llen(queue))

    def close(self) -> None:
        """Give the connections back."""
        self._app.close()


def add_tasks(app: Celery, grade: Callable[[str], object], deliver: Callable[[], object]) -> None:
    """What a worker does on either kind of hint. Neither may raise: the store already knows all that matters."""

    @app.task(name=GRADE)
    def _grade(submission_id: Any) -> None:
        if isinstance(submission_id, str):
            grade(submission_id)

    @app.task(name=DELIVER)
    def _deliver() -> None:
        deliver()

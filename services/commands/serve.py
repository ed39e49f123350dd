"""`assay serve`: the whole service by one command on one machine. `assay api`: its HTTP part alone."""

from __future__ import annotations

import ipaddress
import os
import shutil
import socket
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
import gunicorn.app.base  # type: ignore[import-untyped]

from sandbox.remote import RunnerSandbox
from sandbox.spec import SandboxUnavailable
from services import logs
from services.api import create_app
from services.commands.base import INFRASTRUCTURE, Backend, Trouble, examples
from services.commands.work import open_store, refuse_plain_processes
from services.settings import Settings
from services.store import SCOPES, Store, StoreUnavailable
from services.worker.embedded import AlreadyServed, alone, redis_program
from services.worker.loops import stop_signal
from services.worker.queue import QUEUES, WEBHOOKS, QueueName, service_folder, short_path
from services.worker.supervisor import NotReady, Program, Supervisor, die_with_parent

_PREDECESSOR_S = 10.0  # for what a killed `assay serve` left to be gone
_START_S = 120.0  # for a process to import what it needs, on a machine that does something else too
_LAST_WORDS_S = 20.0  # over soft_stop_s, until a worker is killed

_PROCESSES = """\b
Processes:
  redis     the queue between the others           when killed: restarted; the store knows what was in it
  runner    containers, where Docker answers       restarted; what ran is graded again
  worker    one for each queue                     the same
  relay     puts accepted submissions on the queue restarted
  sweeper   brings back what got stuck             restarted
  api       HTTP                                   restarted
"""


@click.command(
    epilog=_PROCESSES
    + "\n"
    + examples(
        "assay serve                                          http://127.0.0.1:8000",
        "ASSAY_API_PORT=8080 assay serve",
        "ASSAY_STATE_DIR=/var/lib/assay assay serve           where everything is kept",
        "ASSAY_WORKER_COHORT_SLOTS=4 assay serve              four gradings of cohorts at a time",
        "curl -H 'Authorization: Bearer KEY' -F challenge=spiral -F file=@mended.py \\",
        "     http://127.0.0.1:8000/v1/submissions             hand in a file",
    )
)
@click.pass_context
def serve(ctx: click.Context) -> None:
    """Run the whole service on this machine: API, workers, relay, sweeper and their Redis.

    Everything is kept in ASSAY_STATE_DIR: the database (SQLite, unless ASSAY_DATABASE_URL names another)
    and the queue (a Redis of its own, unless ASSAY_REDIS_URL names one). It listens on loopback only; for
    more put a proxy in front, or use compose.yaml. The first start prints an API key, this once.

    Ctrl-C or SIGTERM stops it: running gradings may finish for ASSAY_SOFT_STOP_S, the rest goes on at the
    next start. So it does after SIGKILL, which leaves nothing running. Logs go to stderr as JSON lines.

    Exit code: 0 stopped, 2 bad usage or served already, 4 something did not come up.
    """
    backend: Backend = ctx.obj
    settings = backend.settings
    logs.configure(settings.log_level)
    _only_loopback(settings)
    refuse_plain_processes(settings)
    settings = settings.model_copy(update={"api_port": _free_port(settings)})
    stop = stop_signal()
    with ExitStack() as stack:
        try:
            folder = service_folder(settings)
            stack.enter_context(alone(folder / "serve.lock"))
            redis_fd = stack.enter_context(alone(folder / "redis.lock", _PREDECESSOR_S))
        except AlreadyServed as error:
            raise Trouble(f"the service runs already: {error}", "Stop it, or set another ASSAY_STATE_DIR.") from error
        _prepare_store(settings)
        programs = _programs(settings, redis_fd)
        supervisor = Supervisor(programs, settings.restart_pause_s, settings.restart_pause_max_s)
        stack.callback(supervisor.stop)
        try:
            supervisor.start(stop)
        except NotReady as error:
            raise Trouble(str(error), "The lines above say why.", INFRASTRUCTURE) from error
        if not stop.is_set():
            click.echo(f"assay: serving at http://{_authority(settings)}  (Ctrl-C stops)", err=True)
            supervisor.watch(stop)
        click.echo("assay: stopping; running gradings may finish", err=True)


def _only_loopback(settings: Settings) -> None:
    """Raise Trouble for an address that others can reach."""
    host = settings.api_host
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise Trouble(
            f"`assay serve` listens on loopback only, and {host} is not",
            "Put a proxy with TLS in front of it, or deploy with compose.yaml (docs/deploy.md).",
        )


def _prepare_store(settings: Settings) -> None:
    """Migrate; free what the last start's workers held; print a key where there is none yet. Raises Trouble."""
    try:
        Store.upgrade(settings.store_url())
        store = open_store(settings)
        try:
            if not settings.database_url:
                # Nobody else has this file and that lock, so whoever holds a lease in it is dead.
                store.sweep(time.time_ns() // 1000 + int(settings.lease_s * 1e6), most_hints=0)
            if not store.list_keys():
                key, secret = store.create_key("first", SCOPES, actor="assay serve")
                click.echo(f"API key (all scopes, shown this once): {secret}")
                logs.logger("serve").info("first API key made", key=key.id)
        finally:
            store.close()
    except StoreUnavailable as error:
        raise Trouble(f"the database does not answer: {error}", "Check ASSAY_DATABASE_URL.", INFRASTRUCTURE) from error


def _programs(settings: Settings, redis_fd: int) -> list[Program]:
    programs = [] if settings.redis_url else [redis_program(settings, redis_fd)]
    shared = {"PROMETHEUS_MULTIPROC_DIR": str(_empty_folder(service_folder(settings) / "metrics"))}
    if settings.sandbox == "auto" and not _runner_answers(settings.runner_socket):
        programs.append(_runner(settings))
        shared |= {"ASSAY_SANDBOX": "runner", "ASSAY_RUNNER_SOCKET": str(_runner_socket(settings))}
    slots: Mapping[QueueName, int] = {
        "interactive": settings.worker_interactive_slots,
        "cohort": settings.worker_cohort_slots,
        "webhooks": 1,
    }
    stop_s = settings.soft_stop_s + _LAST_WORDS_S
    for queue in QUEUES:
        argv = _assay("worker", "--queue", queue, "--slots", str(slots[queue]))
        limit_s = settings.webhook_timeout_s + _LAST_WORDS_S if queue == WEBHOOKS else stop_s
        programs.append(Program(f"worker {queue}", argv, 2, shared, stop_s=limit_s))
    programs.append(Program("relay", _assay("relay"), 2))
    programs.append(Program("sweeper", _assay("sweeper"), 2))
    port = {**shared, "ASSAY_API_PORT": str(settings.api_port)}
    programs.append(
        Program("api", _assay("api"), 2, port, lambda: _listens(settings), ready_s=_START_S, stop_s=_LAST_WORDS_S)
    )
    return programs


def _empty_folder(path: Path) -> Path:
    """Where this start's processes put their metrics."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(mode=0o700)
    return path


def _assay(*words: str) -> list[str]:
    return [sys.executable, "-m", "services.cli", *words]


def _runner(settings: Settings) -> Program:
    """A runner of our own: one process holds the Engine and keeps containers warm for all workers."""
    path = _runner_socket(settings)
    jobs = settings.worker_interactive_slots + settings.worker_cohort_slots
    argv = _assay("runner", "--socket", str(path), *(() if settings.gpus() else ("--jobs", str(jobs))))

    return Program(
        "runner",
        argv,
        1,
        ready=lambda: _runner_answers(path),
        ready_s=settings.limit_start_time_s + _START_S,
        stop_s=settings.runner_grace_s + _LAST_WORDS_S,
    )


def _runner_socket(settings: Settings) -> Path:
    return short_path(settings, "runner.sock").absolute()


def _runner_answers(path: Path) -> bool:
    try:
        RunnerSandbox(path, "serve")
    except SandboxUnavailable:
        return False
    return True


def _authority(settings: Settings) -> str:
    host = f"[{settings.api_host}]" if ":" in settings.api_host else settings.api_host
    return f"{host}:{settings.api_port}"


def _listens(settings: Settings) -> bool:
    try:
        with socket.create_connection((settings.api_host, settings.api_port), timeout=1.0):
            return True
    except OSError:
        return False


def _free_port(settings: Settings) -> int:
    """The operator's port, or one that nobody uses now. Raises Trouble where it is taken."""
    family = socket.AF_INET6 if ":" in settings.api_host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.api_host, settings.api_port))
        except OSError as error:
            words = f"{_authority(settings)} cannot be listened on: {error.strerror}"
            raise Trouble(words, "Choose another ASSAY_API_PORT.") from error
        return int(probe.getsockname()[1])


# --- HTTP ------------------------------------------------------------------------------


class _Gunicorn(gunicorn.app.base.BaseApplication):  # type: ignore[misc]  # gunicorn has no types
    """The API under gunicorn. The store is opened after the fork, in the process that uses it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        super().__init__()

    def load_config(self) -> None:
        """What gunicorn is told; nothing is read from its own files or environment."""
        settings = self._settings
        options: dict[str, Any] = {
            "bind": _authority(settings),
            "worker_class": "gthread",
            "workers": settings.api_workers,
            "threads": settings.api_threads,
            "worker_connections": 4 * settings.api_threads,
            "timeout": 60,
            "graceful_timeout": 10,
            "keepalive": 5,
            "loglevel": "warning",
            "post_fork": lambda server, worker: die_with_parent(),
            "worker_tmp_dir": "/dev/shm" if os.path.isdir("/dev/shm") else None,  # a slow disk looks like a hang
        }
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        """The WSGI application, in a worker."""
        settings = self._settings
        logs.configure(settings.log_level)
        return create_app(settings, open_store(settings, settings.api_threads // 4))


@click.command(epilog=examples("assay api", "ASSAY_API_HOST=0.0.0.0 ASSAY_API_WORKERS=2 assay api"))
@click.pass_context
def api(ctx: click.Context) -> None:
    """Serve the HTTP API with gunicorn.

    Needs the database (ASSAY_DATABASE_URL) and nothing else: it reaches neither sandbox nor Engine. Ends on
    SIGTERM or SIGINT, after what is being answered.
    """
    backend: Backend = ctx.obj
    logs.configure(backend.settings.log_level)
    _Gunicorn(backend.settings).run()

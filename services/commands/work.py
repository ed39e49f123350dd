"""`assay worker`, `assay relay`, `assay sweeper`: the processes between the store and the sandbox."""

from __future__ import annotations

import dataclasses
import time

import click

from sandbox.inspection import must_hold
from sandbox.spec import Limits, Sandbox, SandboxUnavailable
from services import logs
from services.commands.base import INFRASTRUCTURE, Backend, Trouble, close_sandbox, examples
from services.settings import Settings
from services.store import Store, StoreUnavailable
from services.webhooks import Sender
from services.worker import relay as relaying
from services.worker import sweeper as sweeping
from services.worker.delivery import Deliverer
from services.worker.grading import EngineGrader, Grader
from services.worker.instruments import Instruments
from services.worker.loops import stop_signal
from services.worker.program import SoftStop, run_worker, worker_name
from services.worker.queue import QUEUE_TROUBLE, QUEUES, WEBHOOKS, Hints, QueueName, add_tasks, make_app
from services.worker.sandboxes import Sandboxes, WeakHost
from services.worker.warmth import PoolTeller

_STORE_PAUSE_S = 1.0
_EXTRA_CONNECTIONS = 3  # beside two for each slot, of which one is its heartbeat's


def open_store(settings: Settings, slots: int = 1) -> Store:
    """The operator's store, for a process that does so many things at a time."""
    return Store.open(
        settings.store_url(),
        max_attempts=settings.max_attempts,
        pool_size=2 * slots + _EXTRA_CONNECTIONS,
    )


def service_sandbox(backend: Backend, slots: int) -> Sandbox:
    """Where strangers' code is run: the runner or Docker, a plain process only by the development switch.

    Raises SandboxUnavailable.
    """
    choice = backend.settings.sandbox
    if choice == "process":
        return backend.process_sandbox()
    if choice in ("auto", "runner"):
        try:
            return backend.runner_sandbox()
        except SandboxUnavailable:
            if choice == "runner":
                raise
    return backend.pooled_sandbox(slots)


def refuse_plain_processes(settings: Settings) -> None:
    """Raise Trouble where the operator chose the process sandbox and not the switch that goes with it."""
    if settings.sandbox == "process" and not settings.allow_process_sandbox:
        raise Trouble(
            "the process sandbox holds nobody: strangers' code is not graded in it",
            "Use ASSAY_SANDBOX=runner or docker. To try things out: ASSAY_ALLOW_PROCESS_SANDBOX=true.",
        )


def make_sandboxes(backend: Backend, slots: int) -> Sandboxes:
    """The sandboxes of a worker, which are looked at before strangers' code goes in."""
    settings = backend.settings
    limits = dataclasses.replace(Limits(), **settings.chosen_limits())

    def failures(sandbox: Sandbox) -> list[str]:
        if settings.sandbox == "process":
            return []  # known to hold nothing; the switch says that this is wanted
        return must_hold(sandbox, settings.required_checks(), limits, settings.doctor_valid_s)

    return Sandboxes(lambda: service_sandbox(backend, slots), failures, close_sandbox, limits)


@click.command(
    epilog=examples(
        "assay worker --queue interactive                       one slot, for single submissions",
        "assay worker --queue cohort --slots 4",
        "assay worker --queue webhooks",
        "ASSAY_SANDBOX=runner assay worker --queue interactive   sandboxes of this host's `assay runner`",
    )
)
@click.option(
    "--queue",
    "queues",
    type=click.Choice(QUEUES),
    multiple=True,
    help="What to work off; may be repeated. Default: all. Serve `interactive` by a process of its own where "
    "single submissions must not wait behind a cohort.",
)
@click.option("--slots", type=click.IntRange(1, 256), default=1, show_default=True, help="Gradings at a time.")
@click.pass_context
def worker(ctx: click.Context, queues: tuple[QueueName, ...], slots: int) -> None:
    """Grade submissions from the queue, and send webhooks.

    Needs the database (ASSAY_DATABASE_URL), Redis (ASSAY_REDIS_URL) and a sandbox; start as many as you
    like, on as many hosts. SIGTERM: takes nothing more, lets what runs finish for ASSAY_SOFT_STOP_S,
    hands the rest back. SIGKILL loses nothing either: the sweeper brings it back when the lease ends.

    Exit code: 0 stopped, 2 bad usage, 4 this host must not run strangers' code.
    """
    backend: Backend = ctx.obj
    logs.configure(backend.settings.log_level)
    refuse_plain_processes(backend.settings)
    ctx.exit(_work(backend, queues or QUEUES, slots))


def _work(backend: Backend, queues: tuple[QueueName, ...], slots: int) -> int:
    settings = backend.settings
    store, app, sandboxes = open_store(settings, slots), make_app(settings), make_sandboxes(backend, slots)
    hints, instruments = Hints(app), Instruments()
    if settings.worker_metrics_port:
        instruments.listen(settings.worker_metrics_port, settings.worker_metrics_host)
    grader = Grader(
        store,
        sandboxes,
        settings,
        worker_name(queues),
        EngineGrader(settings),
        on_result=lambda: _have_sent(hints),
        instruments=instruments,
    )
    deliverer = Deliverer(store, Sender.of(settings), settings, instruments=instruments)
    add_tasks(app, grader.work, deliverer.work)
    _await_store(store)
    if set(queues) != {WEBHOOKS}:
        _look_at(sandboxes)

    def begin() -> None:
        grader.stop()
        deliverer.stop()

    try:
        with PoolTeller(store, sandboxes, settings.pool_report_s):
            return run_worker(app, queues, slots, SoftStop(begin, grader.hand_back, settings.soft_stop_s))
    finally:
        sandboxes.shut()
        store.close()


def _await_store(store: Store) -> None:
    """Wait for a database with this program's schema: a worker ahead of it could claim and not finish."""
    while True:
        try:
            return store.ping()
        except StoreUnavailable as error:
            logs.logger("worker").warning("the database is not ready", error=str(error)[:300])
            time.sleep(_STORE_PAUSE_S)


def _look_at(sandboxes: Sandboxes) -> None:
    """Refuse to start on a weak host; a sandbox that does not answer yet is waited for later. Raises Trouble."""
    try:
        with sandboxes.one():
            pass
    except WeakHost as error:
        raise Trouble(str(error), "`assay doctor` shows more.", INFRASTRUCTURE) from error
    except SandboxUnavailable as error:
        logs.logger("worker").warning("no sandbox yet", error=str(error)[:300])


def _have_sent(hints: Hints) -> None:
    """Ask for webhooks to go out; where the queue does not answer the sweeper asks soon."""
    try:
        hints.deliver()
    except QUEUE_TROUBLE as error:
        logs.logger("worker").warning("the queue does not answer", error=str(error)[:300])


@click.command(epilog=examples("assay relay"))
@click.pass_context
def relay(ctx: click.Context) -> None:
    """Put accepted submissions on the queue.

    Each at least once, however often Redis or this process goes down. One is enough; more do no harm.
    """
    backend: Backend = ctx.obj
    logs.configure(backend.settings.log_level)
    stop, store = stop_signal(), open_store(backend.settings)
    relaying.run(store, Hints(make_app(backend.settings)), backend.settings, stop)
    store.close()


@click.command(epilog=examples("assay sweeper", "assay sweeper --once"))
@click.option("--once", is_flag=True, help="Sweep now, then end.")
@click.pass_context
def sweeper(ctx: click.Context, once: bool) -> None:
    """Bring back what dead workers held, hint again what waits too long, have due webhooks sent.

    One is enough; more do no harm.
    """
    backend: Backend = ctx.obj
    settings = backend.settings
    logs.configure(settings.log_level)
    stop, store, hints = stop_signal(), open_store(settings), Hints(make_app(settings))
    if once:
        sweeping.Sweeper(store, hints, settings).sweep()
    else:
        sweeping.run(store, hints, settings, stop)
    store.close()

"""`assay runner`, `assay runner status`: the daemon that alone holds the Engine."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import click

from sandbox.pool import PoolConfig, default_size
from sandbox.remote import RunnerSandbox
from sandbox.runner import RunnerConfig, replace_process
from sandbox.spec import Limits
from services.commands.base import Backend, examples, plain_table, print_json, stdout
from services.render import inert
from services.settings import Settings

_socket_option = click.option(
    "--socket", "path", type=click.Path(path_type=Path), metavar="PATH", help="The runner's unix socket."
)


def pool_config(settings: Settings, jobs: int, **changes: Any) -> PoolConfig:
    """The operator's pool, sized to so many jobs at a time where nothing else is set."""
    given = {
        item.name: getattr(settings, f"pool_{item.name}")
        for item in dataclasses.fields(PoolConfig)
        if f"pool_{item.name}" in Settings.model_fields
    }
    given["max_size"] = settings.pool_max_size or default_size(jobs)
    given["warming"] = settings.pool_warming or max(1, (os.cpu_count() or 1) // 2)
    given["min_size"] = min(settings.pool_min_size, given["max_size"])
    return PoolConfig(**given | changes)


def runner_config(settings: Settings, **changes: Any) -> RunnerConfig:
    """The operator's runner: plain values, all that the daemon is told."""
    jobs = changes.get("jobs") or settings.runner_jobs or default_size()
    given = {
        item.name: getattr(settings, f"runner_{item.name}")
        for item in dataclasses.fields(RunnerConfig)
        if f"runner_{item.name}" in Settings.model_fields
    }
    maxima = Limits(**{item.name: getattr(settings, f"runner_max_{item.name}") for item in dataclasses.fields(Limits)})
    given |= {
        "socket": str(settings.runner_socket),
        "queue_per_peer": settings.runner_queue_per_client,
        "jobs": jobs,
        "maxima": maxima,
        "image": settings.image or "",
        "runtime": settings.runtime,
        "docker_host": settings.docker_host or "",
        "gpus": settings.gpus(),
        "pool": pool_config(settings, jobs),
        "required": settings.required_checks(),
        "standing": dataclasses.replace(Limits(), **settings.chosen_limits()),
    }
    return RunnerConfig(**given | changes)


@click.group(
    invoke_without_command=True,
    epilog=examples(
        "assay runner --jobs 4",
        "assay runner --socket /run/assay/runner.sock --gpu GPU-1,GPU-2",
        "assay runner status",
        "assay grade mended.py --challenge spiral --sandbox runner",
    ),
)
@_socket_option
@click.option("--jobs", type=click.IntRange(1, 256), metavar="N", help="Jobs at a time. Default: one per processor.")
@click.option("--pool", "spares", type=click.IntRange(0, 256), metavar="N", help="Most containers kept warm.")
@click.option("--gpu", "gpus", metavar="UUID,...", help="GPUs, one for each sandbox at a time.")
@click.pass_context
def runner(ctx: click.Context, path: Path | None, jobs: int | None, spares: int | None, gpus: str | None) -> None:
    """Serve sandboxes on this host to other processes.

    One daemon holds the Docker Engine and keeps containers warm; whoever may open its socket hands
    it jobs, and can ask for nothing else. It ends on SIGTERM, after what runs has finished or the
    grace (ASSAY_RUNNER_GRACE_S) is over. It keeps none of Assay's environment variables.
    Exit code: 0 stopped, 2 bad usage or the socket is taken, 4 no sandbox.
    """
    if ctx.invoked_subcommand is not None:
        ctx.obj = (ctx.obj, path)
        return
    backend: Backend = ctx.obj
    changes: dict[str, Any] = {}
    if path is not None:
        changes["socket"] = str(path)
    if gpus is not None:
        changes["gpus"] = tuple(name.strip() for name in gpus.split(",") if name.strip())
    if changes.get("gpus", backend.settings.gpus()):
        changes["jobs"] = min(jobs or 256, len(changes.get("gpus", backend.settings.gpus())))
    elif jobs is not None:
        changes["jobs"] = jobs
    config = runner_config(backend.settings, **changes)
    if spares is not None:
        pool = dataclasses.replace(config.pool, max_size=spares, min_size=min(config.pool.min_size, spares))
        config = dataclasses.replace(config, pool=pool)
    replace_process(config)


@runner.command(epilog=examples("assay runner status", "assay runner status --json"))
@_socket_option
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@click.pass_context
def status(ctx: click.Context, path: Path | None, as_json: bool) -> None:
    """Show what the runner is doing: pool, queue, running jobs, GPUs.

    Exit code: 0, or 4 where no runner answers.
    """
    backend, outer = ctx.obj
    ctx.obj = backend
    found = RunnerSandbox(path or outer or backend.settings.runner_socket, "status").status()
    if as_json:
        print_json(found)
        return
    out, pool, counts = stdout(), found["pool"], found["counts"]
    state = "stopping" if found["stopping"] else "serving"
    out.print(f"process {found['pid']}, {state} for {found['uptime_s']:.0f} s, image {inert(str(found['image']), 100)}")
    out.print(
        f"jobs: {found['turns']['running']} of {found['jobs']} running, {found['turns']['waiting']} of "
        f"{found['queue']} waiting; {counts['served']} served, {counts['refused']} refused, "
        f"{counts['called_off']} called off, {counts['cut_off']} cut off"
    )
    out.print(
        f"pool: {sum(shelf['warm'] for shelf in pool['shelves'])} warm, "
        f"{sum(shelf['warming'] for shelf in pool['shelves'])} warming, {pool['teardowns']} being removed; "
        f"{pool['served_warm']} of {pool['served']} jobs found one warm, {pool['lost']} runs lost"
    )
    out.print(f"GPUs: {inert(', '.join(found['gpus']) or 'none', 200)}")
    if found["connections"]:
        table = plain_table("client", "user", "process", "label", "state", "seconds", right=("seconds",))
        for one in found["connections"]:
            words = (one["client"], str(one["uid"]), str(one["pid"]), one["label"], one["state"], str(one["seconds"]))
            table.add_row(*(inert(word, 40) for word in words))
        out.print(table)

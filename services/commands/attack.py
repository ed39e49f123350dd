"""`assay attack`: the attack corpus against the sandbox of this host."""

from __future__ import annotations

import collections
import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import asdict
from statistics import median
from typing import Any

import click

from sandbox.spec import Sandbox
from services import progress
from services.attacks import CLASSES, Attack, CorpusError, Range, Result, load_corpus
from services.batch import Stop
from services.commands.base import (
    INTERRUPTED,
    OK,
    WANTING,
    Backend,
    Trouble,
    close_sandbox,
    examples,
    interrupts,
    open_sandbox,
    plain_table,
    print_json,
    stderr,
    stdout,
)
from services.render import inert

CHALLENGE = "spiral"
_POLL_S = 0.2  # another thread may get the signal, and a waiting main thread would not hear of it
_SAMPLE = 10  # of attacks that are no sandbox attacks, every so many gets a neighbour


@click.command(
    epilog=examples(
        "assay attack",
        "assay attack --class sandbox --json > attacks.json",
        "assay attack --only fork_bomb --only double_fork_daemon",
    )
)
@click.option(
    "--class",
    "attack_class",
    type=click.Choice((*CLASSES, "all")),
    default="all",
    show_default=True,
    help="Which kind.",
)
@click.option("--only", multiple=True, metavar="NAME", help="Only this one; may be given several times.")
@click.option(
    "--jobs", type=click.IntRange(1, 64), metavar="N", help="Attacks at a time. Default: half the processors."
)
@click.option(
    "--neighbour/--no-neighbour",
    default=None,
    help="Grade the solution beside every attack, or beside none. Default: beside every sandbox attack and "
    "each tenth of the others.",
)
@click.option(
    "--sandbox",
    "choice",
    type=click.Choice(("docker", "runner", "rehearsal")),
    default="docker",
    show_default=True,
    help="docker: a fresh container each. runner: what this host's `assay runner` gives. rehearsal: forgeries and "
    "honest files in one warm interpreter without isolation, for authors of attacks.",
)
@click.option("--list", "only_list", is_flag=True, help="Print the corpus and run nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@click.pass_context
def attack(
    ctx: click.Context,
    attack_class: str,
    only: tuple[str, ...],
    jobs: int | None,
    neighbour: bool | None,
    choice: str,
    only_list: bool,
    as_json: bool,
) -> None:
    """Run the attack corpus and see that everything holds on this host.

    Sandbox attacks try to get out, to see what is hidden, to exhaust or to outlive; forgeries
    want an unmended bug called fixed; honest files are odd and must be read exactly.

    What did not hold is told at once. Ctrl-C ends with what was seen until then.

    Exit code: 0 all held, 1 something did not, 2 bad usage, 4 no sandbox, 130 interrupted.
    """
    backend: Backend = ctx.obj
    chosen = _chosen(attack_class, only)
    if only_list:
        _print_list(chosen)
        return
    if choice == "rehearsal" and any(a.attack_class == "sandbox" for a in chosen):
        raise Trouble("sandbox attacks run in a container only", "Use --class forgery or --class honest.")
    sandbox = open_sandbox(backend, choice)
    try:
        results, normal_s = _run_all(backend, sandbox, chosen, jobs or max(1, (os.cpu_count() or 1) // 2), neighbour)
    finally:
        close_sandbox(sandbox)
    if as_json:
        print_json(_as_json(results, normal_s, len(chosen)))
    else:
        _print_table(results, normal_s)
    if len(results) < len(chosen):
        stderr().print(f"interrupted: {len(chosen) - len(results)} of {len(chosen)} attacks were not run to their end")
        ctx.exit(INTERRUPTED)
    ctx.exit(OK if all(r.held or r.limited for r in results) else WANTING)


def _chosen(attack_class: str, only: Sequence[str]) -> list[Attack]:
    try:
        corpus = load_corpus()
    except CorpusError as error:
        raise Trouble(f"the attack corpus is damaged: {error}", "Install Assay again.") from error
    if unknown := set(only) - {a.name for a in corpus}:
        raise Trouble(f"there is no attack {', '.join(sorted(unknown))}", "`assay attack --list` names them.")
    of_class = [a for a in corpus if attack_class in ("all", a.attack_class)]
    return [a for a in of_class if not only or a.name in only]


def _run_all(
    backend: Backend, sandbox: Sandbox, chosen: list[Attack], jobs: int, neighbour: bool | None
) -> tuple[list[Result], float | None]:
    settings = backend.settings
    range_ = Range(
        sandbox,
        backend.challenge(CHALLENGE),
        neighbour_ratio=settings.attack_neighbour_ratio,
        back_s=settings.attack_back_s,
    )
    beside = dict(_with_neighbours(chosen, neighbour))
    if any(beside.values()):
        range_.measure_normal()
    stop = Stop(grace_s=math.inf)

    def run(one: Attack) -> Result | None:
        return None if stop.asked else range_.run(one, neighbour=beside[one.attack_class, one.name])

    results: list[Result] = []
    pool = ThreadPoolExecutor(jobs)
    with interrupts(stop.ask, "waiting for the attacks under way"), progress.counting(stderr(), "attacking") as count:
        count(0, len(chosen))
        waiting = {pool.submit(run, one) for one in chosen}
        try:
            while waiting and not stop.at_once:
                done, waiting = wait(waiting, _POLL_S, FIRST_COMPLETED)
                seen = [result for one in done if (result := one.result()) is not None]
                results += seen
                count(len(results), len(chosen))
                for result in seen:
                    _tell_failure(result)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    order = {(a.attack_class, a.name): n for n, a in enumerate(chosen)}
    return sorted(results, key=lambda r: order[_key(r)]), range_.normal_s


def _key(result: Result) -> Any:
    return result.attack_class, result.name


def _with_neighbours(chosen: list[Attack], neighbour: bool | None) -> Iterator[tuple[tuple[str, str], bool]]:
    for number, one in enumerate(chosen):
        sampled = one.attack_class == "sandbox" or (len(chosen) > _SAMPLE and number % _SAMPLE == 0)
        yield (one.attack_class, one.name), sampled if neighbour is None else neighbour


# --- telling --------------------------------------------------------------------------


def _print_list(chosen: list[Attack]) -> None:
    table = plain_table("class", "name", "tries")
    for one in chosen:
        table.add_row(one.attack_class, one.name, one.expect.tries)
    stdout().print(table)


def _print_table(results: list[Result], normal_s: float | None) -> None:
    console = stdout()
    table = plain_table("class", "attacks", "held", "known limits", "failed", right=("attacks", "held", "failed"))
    for name, counts in _counts(results).items():
        table.add_row(name, *(str(counts[key]) for key in ("attacks", "held", "known_limits", "failed")))
    console.print(table)
    ratios = [r.neighbour_ratio for r in results if r.neighbour_ratio is not None]
    if ratios and normal_s is not None:
        words = f"normal {normal_s:.1f} s; beside an attack {median(ratios):.2f} times that, {max(ratios):.2f} at most"
        console.print(f"neighbours: {len(ratios)}, {words}")
    backs = [r.back_s for r in results if r.back_s is not None]
    if backs:
        console.print(f"everything back: {median(backs):.2f} s after the end, {max(backs):.2f} at most")
    for result in results:
        if not result.held:
            kind = f"known limit ({result.known_limit})" if result.limited else "FAILED"
            console.print(f"\n{result.attack_class}/{result.name}: {kind}")
            for failure in result.failures:
                console.print(f"  {inert(failure, 400)}")


def _tell_failure(result: Result) -> None:
    """At once, since the rest may take an hour."""
    if not (result.held or result.limited):
        words = "; ".join(result.failures)
        stderr().print(
            inert(f"{result.attack_class}/{result.name}: FAILED: {words}", 400), soft_wrap=True, markup=False
        )


def _counts(results: list[Result]) -> dict[str, collections.Counter[str]]:
    counts: dict[str, collections.Counter[str]] = {}
    for result in results:
        of_class = counts.setdefault(result.attack_class, collections.Counter())
        of_class["attacks"] += 1
        of_class["held" if result.held else "known_limits" if result.limited else "failed"] += 1
    return counts


def _as_json(results: list[Result], normal_s: float | None, chosen: int) -> dict[str, Any]:
    return {
        "held": len(results) == chosen and all(r.held or r.limited for r in results),
        "not_run": chosen - len(results),
        "counts": {name: dict(counts) for name, counts in _counts(results).items()},
        "neighbour_normal_s": normal_s,
        "attacks": [{**asdict(r), "held": r.held} for r in results],
    }

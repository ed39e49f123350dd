"""`assay bench`."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import click
from rich.text import Text

from grading.challenge import Challenge
from sandbox.spec import Limits
from services import progress
from services.commands.base import (
    UNUSABLE,
    Backend,
    Trouble,
    examples,
    jobs_at_a_time,
    jobs_option,
    plain_table,
    print_json,
    stderr,
    stdout,
)
from services.measure import PARTS, Bench, CannotMeasure, Goal, Part, Plan, percentile

_VARIANTS = {
    "bare": "python FILE",
    "bare_one_thread": "python FILE, one thread",
    "cold": "graded, cold container",
    "warm": "graded, warm container",
}


def _default_challenge(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--challenge", "slug", default="spiral", show_default=True, metavar="NAME", help="See `assay challenges`."
    )(command)


@click.command(
    epilog=examples(
        "assay bench                            all of it: some twenty minutes",
        "assay bench --only handover            one part",
        "assay bench mine.py --rounds 30 --json > bench.json",
    )
)
@click.argument("file", type=click.Path(path_type=Path), required=False)
@_default_challenge
@click.option("--rounds", type=click.IntRange(1, 1000), default=10, show_default=True, help="Runs of each variant.")
@click.option("--handovers", type=click.IntRange(1, 10_000), default=50, show_default=True, help="How many to time.")
@click.option("--cohort", type=click.IntRange(1, 10_000), default=50, show_default=True, help="Runs in the cohort.")
@jobs_option
@click.option("--only", multiple=True, type=click.Choice(PARTS), help="Only this part; may be given several times.")
@click.option("--json", "as_json", is_flag=True, help="Print figures and raw samples as JSON.")
@click.pass_context
def bench(
    ctx: click.Context,
    file: Path | None,
    slug: str,
    rounds: int,
    handovers: int,
    cohort: int,
    jobs: int | None,
    only: tuple[Part, ...],
    as_json: bool,
) -> None:
    """Measure what a grade costs beside a bare `python FILE`.

    By default FILE is the challenge's solution. Four parts: `wall` runs it bare, in a cold and in a
    warm container, in turns; `handover` times the way from a job to the candidate's first line;
    `cohort` compares CPU time with several at a time; `idle` weighs a waiting container. Figures
    mean something on an idle machine only. Give no stranger's file: it also runs bare.
    """
    backend: Backend = ctx.obj
    challenge = backend.challenge(slug)
    file = file or challenge.folder / "solution.py"
    if not file.is_file():
        raise Trouble(f"there is no file {file}", "Check the path.")
    at_a_time = jobs_at_a_time(backend, jobs)
    plan = Plan(
        parts=tuple(part for part in PARTS if not only or part in only),
        rounds=rounds,
        handovers=handovers,
        cohort=cohort,
        jobs=at_a_time,
        patience_s=backend.settings.bench_patience_s,
    )
    found = _measure(backend, file, challenge, plan)
    if as_json:
        print_json(found)
    else:
        _print(found)


def _measure(backend: Backend, file: Path, challenge: Challenge, plan: Plan) -> dict[str, Any]:
    limits = Limits(memory_bytes=challenge.manifest.limits.memory_bytes)
    with (
        backend.bench_sandboxes(limits, plan.jobs) as (cold, warm, chosen),
        progress.counting(stderr(), "measuring") as count,
    ):
        try:
            return Bench(file, challenge, cold, warm, chosen, plan, count).run()
        except CannotMeasure as error:
            advice = "The file has to run by itself in this environment, and the Engine has to keep containers warm."
            raise Trouble(str(error), advice, UNUSABLE) from error


def _print(found: Mapping[str, Any]) -> None:
    console = stdout()
    machine, before, versions = found["machine"], found["load_before"], found["versions"]
    console.print(
        f"{found['file']} ({found['challenge']}), {found['measured_at']}\n"
        f"{machine['processor']}, {machine['processors']} processors, Linux {machine['kernel']}, "
        f"cgroup v{machine['cgroup']}; torch {versions.get('torch_inside') or '?'} inside, "
        f"{versions['torch_bare'] or 'none'} bare"
    )
    console.print(f"load before: {before['average_1_min']:.2f}, {before['busy_share']:.0%} of the processors busy")
    if not before["is_idle"]:
        console.print(Text("the machine is not idle: others had a share in these figures", "bold yellow"))
    if found["every_grade_was_complete"] is False:
        console.print(Text("some grades left a bug or the goal open: they are no complete grades", "bold yellow"))
    samples = found["samples"]
    if samples["runs"]:
        console.print(_runs_table(samples["runs"]))
    if samples["cohort"]:
        console.print(_cohort_table(samples["cohort"], found["plan"]["jobs"]))
    if samples["handover"]:
        begins = [sample["step_begins_ms"] for sample in samples["handover"]]
        whole = found["handover_ms"]
        console.print(
            f"\nhand-over to the candidate's first line: {whole['p50']:.1f} ms p50, {whole['p95']:.1f} ms p95 "
            f"of {len(begins)} (the step begins after {percentile(begins, 0.5):.1f} ms)"
        )
    if samples["idle"]:
        console.print(
            f"\nidle warm container: {found['idle_private_mb']:.0f} MB of its own, "
            f"and {found['idle_shim_private_mb']:.0f} MB of its shim"
        )
    console.print()
    for name in (key for key, value in found.items() if "_ratio_" in key and value is not None):
        low, high = found["ranges"].get(name, (None, None))
        spread = "" if low is None else f" (95 % between {low:.2f} and {high:.2f})"
        console.print(f"{name.replace('_', ' ')}: {found[name]:.2f}{spread}")
    _print_goals([Goal(**goal) for goal in found["goals"]])


def _runs_table(runs: Mapping[str, Any]) -> Any:
    headings = ("alone on the machine", "runs", "wall s", "CPU s", "warm-up", "grader", "Engine", "machine")
    table = plain_table(*headings, right=headings[1:])
    for name, samples in runs.items():
        graded = name in ("cold", "warm")
        outside = ("warm_up_cpu_s", "grader_cpu_s", "engine_cpu_s")
        columns = ("wall_s", "cpu_s", *(outside if graded else ()))
        cells = [_median(samples, column) for column in columns]
        cells += [""] * (0 if graded else len(outside))
        table.add_row(_VARIANTS[name], str(len(samples)), *cells, _median(samples, "machine_cpu_s"))
    return table


def _cohort_table(cohort: Mapping[str, Any], jobs: int) -> Any:
    figures = ("runs", "wall s", "per min", "CPU s each", "inside", "grader", "Engine", "machine")
    table = plain_table(f"cohort, {jobs} at a time", *figures, right=figures)
    for name, blocks in cohort.items():
        runs, wall_s = (sum(block[key] for block in blocks) for key in ("runs", "wall_s"))
        inside, grader, engine, machine = (
            sum(block[key] for block in blocks) / runs
            for key in ("cpu_s", "grader_cpu_s", "engine_cpu_s", "machine_cpu_s")
        )
        parts = (inside, grader, engine) if name == "warm" else ()
        cells = [f"{part:.2f}" for part in parts] + [""] * (3 - len(parts))
        total = f"{inside + grader + engine:.2f}"
        rate = f"{60 * runs / wall_s:.1f}"
        table.add_row(_VARIANTS[name], str(runs), f"{wall_s:.1f}", rate, total, *cells, f"{machine:.2f}")
    return table


def _median(samples: Iterable[Mapping[str, float]], column: str) -> str:
    return f"{statistics.median(sample[column] for sample in samples):.2f}"


def _print_goals(goals: list[Goal]) -> None:
    if not goals:
        return
    console = stdout()
    table = plain_table("goal", "measured", "at most", "", right=("measured", "at most"))
    for goal in goals:
        word = Text("reached", "green") if goal.is_reached else Text("not reached", "red")
        digits = 0 if goal.unit == "MB" else 1 if goal.unit else 2
        shown = (f"{number:.{digits}f} {goal.unit}".strip() for number in (goal.value, goal.at_most))
        table.add_row(goal.name, *shown, word)
    console.print()
    console.print(table)

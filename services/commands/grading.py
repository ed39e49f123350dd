"""`assay grade`, `assay batch`, `assay demo`."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import click

from grading.challenge import Challenge
from grading.engine import Submission
from grading.verdict import Report
from sandbox.spec import Sandbox, StepListener
from services import progress, render
from services.batch import Grader, Outcome, Results, Stop, run_batch, unread_report, write_atomically
from services.commands.base import (
    INFRASTRUCTURE,
    INTERRUPTED,
    OK,
    UNUSABLE,
    Backend,
    Trouble,
    challenge_option,
    close_sandbox,
    examples,
    interrupts,
    jobs_at_a_time,
    jobs_option,
    open_sandbox,
    print_json,
    read_submission,
    report_json,
    sandbox_option,
    stderr,
    stdout,
)
from services.intake import Collection, IntakeLimits, collect, printable_name
from services.settings import Settings

_SAMPLES = ("untouched", "half_mended_trainer_style", "half_mended_functional_style", "solution", "forgery")
_TABLE_ROWS = 60  # a batch with more submissions is summed up without its table
_PASSED_OVER_LINES = 20


def _hex_seed(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    if value is not None:
        try:
            bytes.fromhex(value)
        except ValueError as error:
            raise click.BadParameter("an even number of hexadecimal digits is wanted") from error
    return value


@click.command(
    epilog=examples(
        "assay grade mended.py --challenge spiral",
        "assay grade mended.py --challenge spiral --json > report.json",
        "assay grade mended.py --challenge spiral --out report.json && assay explain report.json 3",
    )
)
@click.argument("file", type=click.Path(path_type=Path))
@challenge_option
@sandbox_option
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON (see `assay schema report`).")
@click.option("--secret-seed", metavar="HEX", callback=_hex_seed, help="Secrets to use instead of fresh ones.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Also write the report here, as JSON.")
@click.pass_context
def grade(
    ctx: click.Context,
    file: Path,
    slug: str,
    choice: str | None,
    as_json: bool,
    secret_seed: str | None,
    out: Path | None,
) -> None:
    """Grade one submission, bug by bug.

    Exit code: 0 graded, 2 bad usage, 3 the file cannot be graded, 4 no sandbox.
    """
    backend: Backend = ctx.obj
    challenge = backend.challenge(slug)
    source, problem = read_submission(file, backend.settings.max_submission_bytes)
    if out is not None:
        _require_harmless(out, file)
    sandbox = open_sandbox(backend, choice)
    submission = Submission(name=printable_name(file.name), source=source)
    with progress.steps(stderr(), f"grading {file.name}") as listener:

        def grade_one(one: Submission) -> Report:
            return backend.grade(one, challenge, sandbox, secret_seed=secret_seed, listener=listener)

        report = unread_report(submission.name, problem, grade_one) if problem else grade_one(submission)
    if out is not None:
        data = json.dumps(report_json(report), indent=2).encode() + b"\n"
        if _is_stream(out):
            out.write_bytes(data)
        else:
            write_atomically(out, data)
    if as_json:
        print_json(report_json(report))
    else:
        stdout().print(render.full_report(report, challenge.manifest))
    ctx.exit(OK if report.outcome == "graded" else UNUSABLE)


def _require_harmless(out: Path, file: Path) -> None:
    """See that the report takes nothing's place but an earlier file's.

    Raises:
        Trouble: it would, or there is no folder for it.
    """
    if not os.path.isdir(out.parent):
        raise Trouble(f"there is no folder {out.parent}", "Make it, or choose another --out.")
    if not os.path.lexists(out) or _is_stream(out):
        return
    if out.is_symlink() or not out.is_file():
        raise Trouble(f"{out} is not a regular file, and only those are replaced", "Choose another --out.")
    if out.samefile(file):
        raise Trouble(f"{out} is the submission itself", "Choose another --out.")


def _is_stream(path: Path) -> bool:
    """Whether it is written into and not replaced: a terminal, a pipe, /dev/null."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return stat.S_ISCHR(mode) or stat.S_ISFIFO(mode)


# --- batches ---------------------------------------------------------------------------


@click.command(
    epilog=examples(
        "assay batch inbox/ --challenge spiral",
        "assay batch monday.zip tuesday.zip late.py --challenge spiral --jobs 4 --out week.json",
        "assay batch inbox/ --challenge spiral --fresh",
    )
)
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="PATH...")
@challenge_option
@sandbox_option
@jobs_option
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("results.json"),
    show_default=True,
    help="The results: each submission's name with its report.",
)
@click.option(
    "--resume/--fresh",
    default=True,
    help="Reuse the reports of an earlier batch on the same bytes (the default), or grade all again.",
)
@click.pass_context
def batch(
    ctx: click.Context,
    paths: tuple[Path, ...],
    slug: str,
    choice: str | None,
    jobs: int | None,
    out: Path,
    resume: bool,
) -> None:
    """Grade files, folders and zips into one results file.

    Folders are searched for .py files of any name. Each submission goes by its file name,
    or by its path where names collide. Interrupt it when you like: the same command, without
    --fresh, goes on where it stopped, and does not grade again what it has graded.

    Exit code: 0 every submission has a report, 2 bad usage, 3 a path was refused, 4 some
    could not be graded for reasons of the infrastructure, 130 interrupted.
    """
    backend: Backend = ctx.obj
    challenge = backend.challenge(slug)
    collection = _collect(paths, backend.settings)
    with Results(out, fresh=not resume) as results, ExitStack() as stack:
        sandbox = open_sandbox(backend, choice, jobs_at_a_time(backend, jobs))
        stack.callback(close_sandbox, sandbox)
        with progress.steps(stderr(), "checking the grader") as listener:
            backend.prepare(challenge, sandbox, listener)
        outcome = _grade_all(backend, challenge, sandbox, collection, results, jobs)
        kept = len(results.reports.keys() - outcome.reports.keys())
    _sum_up(outcome, len(collection.items), kept, out)
    _complain(outcome, collection, fresh=not resume)
    if outcome.interrupted:
        ctx.exit(INTERRUPTED)
    ctx.exit(INFRASTRUCTURE if outcome.failures else UNUSABLE if collection.refused else OK)


def _collect(paths: Sequence[Path], settings: Settings) -> Collection:
    for path in paths:
        if not os.path.lexists(path):
            raise Trouble(f"there is no file or folder {path}", "Check the path.")
    limits = IntakeLimits(
        submission_bytes=settings.max_submission_bytes,
        files=settings.max_batch_files,
        archive_bytes=settings.max_archive_bytes,
        archive_entries=settings.max_archive_entries,
        archive_uncompressed_bytes=settings.max_archive_uncompressed_bytes,
    )
    collection = collect(paths, limits)
    if not collection.items and not collection.refused:
        _name_passed_over(collection)
        raise Trouble("no .py file found", "Give files, zips, or folders that hold some.")
    return collection


def _grade_all(
    backend: Backend,
    challenge: Challenge,
    sandbox: Sandbox,
    collection: Collection,
    results: Results,
    jobs: int | None,
) -> Outcome:
    def grade_one(submission: Submission) -> Report:
        return backend.grade(submission, challenge, sandbox)

    grader = Grader(challenge.slug, challenge.digest(), backend.grader_digest(), sandbox.name)
    stop = Stop(backend.settings.interrupt_grace_s)
    with (
        interrupts(stop.ask, "waiting for the gradings under way"),
        progress.batch(stderr(), len(collection.items)) as on_done,
    ):
        return run_batch(
            collection.items,
            grade_one,
            results,
            grader,
            jobs=jobs_at_a_time(backend, jobs),
            stop=stop,
            on_done=on_done,
        )


def _sum_up(outcome: Outcome, total: int, kept: int, out: Path) -> None:
    reports = dict(sorted(outcome.reports.items()))
    if reports and len(reports) <= _TABLE_ROWS:
        stdout().print(render.overview(reports))
    reused = f" ({outcome.reused} of them from an earlier batch, not graded again)" if outcome.reused else ""
    click.echo(f"{len(reports)} of {total} have a report{reused}: {render.tally(reports.values())}")
    others = f", beside {kept} earlier reports that were kept" if kept else ""
    click.echo(f"written to {render.inert(str(out))}{others}")


def _name_passed_over(collection: Collection) -> None:
    notes = [*collection.not_searched, *((name, "not a .py file") for name in collection.passed_over)]
    for name, why in notes[:_PASSED_OVER_LINES]:
        click.echo(f"assay: passed over {render.inert(name)}: {why}", err=True)
    if len(notes) > _PASSED_OVER_LINES:
        click.echo(f"assay: passed over {len(notes) - _PASSED_OVER_LINES:,} more", err=True)


def _complain(outcome: Outcome, collection: Collection, *, fresh: bool) -> None:
    _name_passed_over(collection)
    for path, reason in collection.refused:
        click.echo(f"assay: refused {render.inert(path)}: {render.inert(reason)}", err=True)
    for failure in outcome.failures:
        click.echo(f"assay: no report for {render.inert(failure.name)}: {render.inert(failure.error)}", err=True)
    if outcome.interrupted and fresh:
        click.echo("assay: interrupted; what was not graded anew keeps its earlier report", err=True)
        click.echo("       Run it again without --fresh to go on, with it to begin anew.", err=True)
    elif outcome.interrupted:
        click.echo("assay: interrupted; the same command goes on from here", err=True)
    elif outcome.failures:
        click.echo("       The same command takes these up again and reuses the rest.", err=True)


# --- the demonstration -----------------------------------------------------------------


@click.command(epilog=examples("assay demo", "assay demo --sandbox process"))
@sandbox_option
@click.pass_context
def demo(ctx: click.Context, choice: str | None) -> None:
    """Grade the bundled samples.

    The untouched problem, two half-mended ones in unusual styles, the solution, a forgery.
    """
    backend: Backend = ctx.obj
    challenge = backend.challenge("spiral")
    sandbox = open_sandbox(backend, choice)
    with progress.steps(stderr(), "checking the grader") as listener:
        backend.prepare(challenge, sandbox, listener)
    console = stdout()
    reports: dict[str, Report] = {}
    for name in _SAMPLES:
        with progress.steps(stderr(), f"grading {name}") as listener:
            reports[name] = _grade_sample(backend, challenge, sandbox, name, listener)
        console.rule(style="dim")
        console.print(render.full_report(reports[name], challenge.manifest))
    console.rule("all of them", style="dim")
    console.print(render.overview(reports))


def _grade_sample(
    backend: Backend, challenge: Challenge, sandbox: Sandbox, name: str, listener: StepListener
) -> Report:
    source = (challenge.folder / "cases" / name / "submission.py").read_bytes()
    return backend.grade(Submission(name=name, source=source), challenge, sandbox, listener=listener)

"""`assay challenges`, `assay show`, `assay verify`, `assay selftest`, `assay settings`."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import click
from rich.text import Text

from grading.challenge import ChallengeError
from grading.guide import as_markdown, load_guide
from services import progress, render
from services.commands.base import (
    OK,
    WANTING,
    Backend,
    author_sandbox_option,
    examples,
    jobs_at_a_time,
    jobs_option,
    open_sandbox,
    plain_table,
    print_json,
    stderr,
    stdout,
)
from services.settings import markdown, rows

if TYPE_CHECKING:
    from grading.selftest import SelftestReport


@click.command(
    epilog=examples(
        "assay challenges",
    )
)
@click.pass_context
def challenges(ctx: click.Context) -> None:
    """List the challenges."""
    backend: Backend = ctx.obj
    table = plain_table("challenge", "title", "level", "minutes", "bugs", right=("minutes", "bugs"))
    for slug in backend.catalogue():
        manifest = backend.challenge(slug).manifest
        table.add_row(slug, manifest.title, manifest.level, str(manifest.minutes), str(len(manifest.bugs)))
    stdout().print(table)


@click.command(
    epilog=examples(
        "assay show spiral",
        "assay show spiral --brief",
        "assay show spiral --problem > pytorch_debug_problem.py",
    )
)
@click.argument("slug", metavar="CHALLENGE")
@click.option("--brief", "part", flag_value="brief.md", help="What the candidate gets to read.")
@click.option("--guide", "part", flag_value="guide", help="What the interviewer gets to read. Not for candidates.")
@click.option("--problem", "part", flag_value="problem.py", help="The program with the planted bugs.")
@click.pass_context
def show(ctx: click.Context, slug: str, part: str | None) -> None:
    """Show a challenge or one of its texts.

    Without an option: its goal, bugs and rating bands.
    """
    backend: Backend = ctx.obj
    challenge = backend.challenge(slug)
    if part == "guide":
        guide = load_guide(challenge)
        if guide is None:
            raise ChallengeError(f"{slug} has no guide.toml")
        click.echo(as_markdown(guide, challenge.manifest), nl=False)
        return
    if part is not None:
        click.echo(challenge.text(part), nl=False)
        return
    manifest, out = challenge.manifest, stdout()
    out.print(Text.assemble((manifest.title, "bold"), f"  {manifest.level}, {manifest.minutes} minutes"))
    out.print(f"Goal: {manifest.goal.description}\n")
    table = plain_table("", "id", "bug", "category", "difficulty", "where")
    for bug in manifest.bugs:
        table.add_row(str(bug.number), bug.id, bug.title, bug.category, bug.difficulty, bug.location)
    out.print(table)
    for band in manifest.rating_bands:
        span = "-".join(str(count) for count in sorted({band.min_fixed, band.max_fixed}))
        out.print(Text.assemble(f"\n{span} fixed: ", (band.rating, "bold"), f"  {band.meaning}"), end="")
    out.print()


@click.command(
    epilog=examples(
        "assay verify spiral",
        "assay verify spiral --all-subsets --seeds 3 --json",
    )
)
@click.argument("slug", metavar="CHALLENGE")
@author_sandbox_option
@click.option("--all-subsets", is_flag=True, help="Every subset of the bugs instead of each bug alone.")
@click.option("--seeds", type=click.IntRange(1, 1000), default=1, show_default=True, help="How many secret seeds.")
@jobs_option
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
@click.pass_context
def verify(
    ctx: click.Context,
    slug: str,
    choice: str | None,
    all_subsets: bool,
    seeds: int,
    jobs: int | None,
    as_json: bool,
) -> None:
    """For authors: check a challenge's verdicts.

    Programs with every bug alone, or with every subset of the bugs, must get exactly the right verdicts.
    Exit code: 0 every verdict right, 1 some wrong.
    """
    backend: Backend = ctx.obj
    challenge = backend.challenge(slug)
    sandbox = open_sandbox(backend, choice)
    with progress.counting(stderr(), f"verifying {slug}") as count:
        found = backend.verify(
            challenge,
            sandbox,
            subsets="all" if all_subsets else "singles",
            seeds=tuple(str(number) for number in range(1, seeds + 1)),
            jobs=jobs_at_a_time(backend, jobs),
            progress=count,
        )
    if as_json:
        print_json(json.loads(found.model_dump_json()))
    else:
        for one in found.failures:
            planted = ", ".join(one.planted) or "no bug"
            why = "; ".join((*one.wrong, one.invalid_reason or "", *one.tampering_reasons)).strip("; ")
            click.echo(f"wrong: {planted} planted, seed {one.seed}: {render.inert(why, 2000)}")
        click.echo(f"{found.runs} gradings, {len(found.failures)} wrong")
    ctx.exit(OK if found.passed else WANTING)


@click.command(
    epilog=examples(
        "assay selftest spiral",
    )
)
@click.argument("slug", metavar="CHALLENGE")
@author_sandbox_option
@jobs_option
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
@click.pass_context
def selftest(ctx: click.Context, slug: str, choice: str | None, jobs: int | None, as_json: bool) -> None:
    """For authors: check the grader by weakening it.

    Every rule of the challenge's judge is loosened, tightened or removed in turn; at least two known
    programs must then be misread. Exit code: 0 all weakenings noticed, 1 some not.
    """
    from grading import selftest as mutation_test  # for authors only

    backend: Backend = ctx.obj
    challenge = backend.challenge(slug)
    sandbox = open_sandbox(backend, choice)
    with progress.counting(stderr(), f"running the cases of {slug}") as count:
        found = mutation_test.selftest(
            challenge,
            sandbox,
            seed=os.urandom(8).hex(),
            jobs=jobs_at_a_time(backend, jobs),
            progress=count,
        )
    if as_json:
        print_json(json.loads(found.model_dump_json()))
    else:
        _print_selftest(found)
    ctx.exit(OK if found.passed else WANTING)


def _print_selftest(found: SelftestReport) -> None:
    table = plain_table("weakening", "noticed by", "", right=("noticed by",))
    for mutant in found.mutants:
        table.add_row(mutant.mutant, str(len(mutant.caught_by)), mutant.stale or "; ".join(mutant.caught_by))
    stdout().print(table)
    for line in found.misread:
        click.echo(f"misread without any weakening: {line}")
    unnoticed = f"{len(found.survivors)} noticed by fewer than two of {found.cases} cases"
    click.echo(f"{len(found.mutants)} mutants, {unnoticed}")


@click.command(
    epilog=examples(
        "assay settings",
        "ASSAY_JOBS=4 assay batch inbox/ --challenge spiral",
    )
)
@click.option("--markdown", "as_markdown", is_flag=True, help="As docs/settings.md has it.")
def settings(as_markdown: bool) -> None:
    """List every setting and its default."""
    if as_markdown:
        click.echo(markdown(), nl=False)
        return
    table = plain_table("name", "variable", "default", "description")
    table.columns[1].no_wrap = True
    for row in rows():
        table.add_row(*row)
    stdout().print(table)

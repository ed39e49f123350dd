"""`assay explain`, `assay replay`, `assay schema`."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

import click
from pydantic import TypeAdapter, ValidationError

from grading.engine import Submission
from grading.verdict import SCHEMA_VERSION, BugVerdict, Report
from services import progress, render
from services.commands.base import (
    OK,
    WANTING,
    Backend,
    Trouble,
    examples,
    open_sandbox,
    print_json,
    read_submission,
    sandbox_option,
    stderr,
    stdout,
)
from services.intake import UnusableFile, read_regular


@click.command(
    epilog=examples(
        "assay explain report.json 3",
        "assay explain report.json zero-grad",
        "assay explain results.json 3 --name alice.py",
    )
)
@click.argument("report_file", type=click.Path(path_type=Path), metavar="REPORT.json")
@click.argument("bug", metavar="BUG")
@click.option("--name", help="Which submission, where the file is the results of a batch.")
@click.pass_context
def explain(ctx: click.Context, report_file: Path, bug: str, name: str | None) -> None:
    """Explain one verdict in plain words.

    BUG is the number of a bug or its id.
    """
    backend: Backend = ctx.obj
    report = _read_report(report_file, name, backend.settings.max_report_bytes)
    if report.outcome == "invalid":
        click.echo(f"The submission could not be graded: {render.inert(report.invalid_reason or '', 2000)}")
        ctx.exit(OK)
    found = _find_bug(report, bug)
    symptoms = {}
    if report.challenge in backend.catalogue():
        symptoms = {one.id: one.symptom for one in backend.challenge(report.challenge).manifest.bugs}
    stdout().print(render.explanation(report, found, symptoms.get(found.id)))


def _find_bug(report: Report, wanted: str) -> BugVerdict:
    for bug in report.bugs:
        if wanted in (str(bug.number), bug.id):
            return bug
    known = ", ".join(f"{bug.number} {bug.id}" for bug in report.bugs)
    raise Trouble(f"the report has no bug {wanted!r}", f"It has: {known or 'none'}.")


def _read_report(path: Path, name: str | None, max_bytes: int) -> Report:
    """A report from a file of its own or, by `name`, from the results of a batch."""
    try:
        data = read_regular(path, max_bytes, "report")
    except FileNotFoundError as error:
        raise Trouble(f"there is no file {path}", "Check the path.") from error
    except UnusableFile as error:
        raise Trouble(f"{path} is {error}", error.advice) from error
    try:
        either: TypeAdapter[Report | dict[str, Report]] = TypeAdapter(Report | dict[str, Report])
        content = either.validate_json(data)
    except ValidationError as error:
        raise Trouble(
            f"{path} is neither a report nor the results of a batch",
            "Make one with `assay grade FILE --challenge NAME --out report.json`.",
        ) from error
    if isinstance(content, Report):
        return content
    if name in content:
        return content[name or ""]
    some = ", ".join(sorted(content)[:8]) + (", …" if len(content) > 8 else "")
    asked = f"no submission called {name!r} is in {path}" if name else f"{path} holds many reports"
    raise Trouble(asked, f"Choose one with --name: {some or 'it is empty'}.")


@click.command(
    epilog=examples(
        "assay replay report.json mended.py",
        "assay replay results.json inbox/alice.py --name alice.py",
    )
)
@click.argument("report_file", type=click.Path(path_type=Path), metavar="REPORT.json")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--name", help="Which submission, where REPORT.json is the results of a batch.")
@sandbox_option
@click.pass_context
def replay(ctx: click.Context, report_file: Path, file: Path, name: str | None, choice: str | None) -> None:
    """Grade a file again with its report's secrets.

    FILE must be the very file that the report is about. Exit code: 0 the same verdicts, 1 others.
    """
    backend: Backend = ctx.obj
    before = _read_report(report_file, name, backend.settings.max_report_bytes)
    challenge = backend.challenge(before.challenge)
    source, problem = read_submission(file, backend.settings.max_submission_bytes)
    if problem is not None or before.submission_sha256 != hashlib.sha256(source).hexdigest():
        raise Trouble(f"{file} is not the file that the report is about", "Its SHA-256 differs.")
    sandbox = open_sandbox(backend, choice)
    submission = Submission(name=before.submission_name, source=source)
    with progress.steps(stderr(), f"replaying {file.name}") as listener:
        after = backend.grade(submission, challenge, sandbox, secret_seed=before.secret_seed, listener=listener)
    _warn_of_other_versions(before, after)
    click.echo(f"before  {render.vector(before)}\nnow     {render.vector(after)}")
    same = render.vector(before) == render.vector(after)
    click.echo("the same verdicts" if same else "the verdicts differ")
    ctx.exit(OK if same else WANTING)


def _warn_of_other_versions(before: Report, after: Report) -> None:
    old, new = before.versions.model_dump(), after.versions.model_dump()
    changed = [name for name in old if old[name] != new[name]]
    changed += ["sandbox"] if before.sandbox != after.sandbox else []
    if changed:
        click.echo(f"assay: not made by the same means: {', '.join(changed)} changed since", err=True)


@click.command(
    epilog=examples(
        "assay schema report > report.schema.json",
        "assay schema results > results.schema.json",
    )
)
@click.argument("what", type=click.Choice(("report", "results")))
def schema(what: Literal["report", "results"]) -> None:
    """Print the JSON Schema of a report or of results.

    Draft 2020-12. Results are what a batch writes: each submission's name with its report.
    """
    model: TypeAdapter[Any] = TypeAdapter(Report if what == "report" else dict[str, Report])
    title = "Assay report" if what == "report" else "Assay results: each submission's name with its report"
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:assay:schema:{what}:{SCHEMA_VERSION}",
    }
    print_json(head | model.json_schema(mode="serialization") | {"title": title})

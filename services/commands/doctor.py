"""`assay doctor`: what of the hardening holds on this host."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import click
from rich.text import Text

from sandbox.inspection import Check, Level, inspect
from sandbox.spec import Limits, SandboxUnavailable
from services.commands.base import (
    INFRASTRUCTURE,
    OK,
    Backend,
    Trouble,
    examples,
    open_sandbox,
    plain_table,
    print_json,
    sandbox_option,
    stderr,
    stdout,
)
from services.render import inert

_MARKS = {True: ("✓", "green"), False: ("✗", "red"), None: ("?", "yellow")}


@click.command(
    epilog=examples(
        "assay doctor",
        "assay doctor --json",
        "ASSAY_REQUIRE=user-namespace assay doctor",
    )
)
@click.option("--json", "as_json", is_flag=True, help="All of it as JSON.")
@sandbox_option
@click.pass_context
def doctor(ctx: click.Context, as_json: bool, choice: str | None) -> None:
    """Say what of the sandbox's hardening holds on this host, and how to get the rest.

    Asks the Engine, reads the host's files, starts a real container and looks around in it.

    Exit codes: 0 every must holds; 4 one does not, or nothing could be inspected.
    """
    backend: Backend = ctx.obj
    checks = _inspect(backend, choice)
    if as_json:
        print_json({"must_hold": not any(check.fails for check in checks), "checks": [_json(c) for c in checks]})
    else:
        _show(checks)
    ctx.exit(INFRASTRUCTURE if any(check.fails for check in checks) else OK)


def _inspect(backend: Backend, choice: str | None) -> tuple[Check, ...]:
    limits = dataclasses.replace(Limits(), **backend.settings.chosen_limits())
    try:
        chosen = choice or backend.settings.sandbox
        sandbox = open_sandbox(backend, "docker" if chosen == "auto" else chosen)  # a runner hides its host
        return inspect(sandbox, backend.settings.required_checks(), limits)
    except SandboxUnavailable as error:
        return (Check("sandbox", Level.MUST, False, inert(str(error), 300), "start an Engine and build the image"),)
    except ValueError as error:
        raise Trouble(f"ASSAY_REQUIRE: {error}", "Name checks as `assay doctor` does.") from error


def _json(check: Check) -> dict[str, object]:
    return dataclasses.asdict(check) | {"level": check.level.value}


def _show(checks: Sequence[Check]) -> None:
    table = plain_table("", "check", "level", "found")
    for check in sorted(checks, key=lambda check: (check.where != "host", [*Level].index(check.level))):
        mark, style = _MARKS[check.holds]
        name = check.name if check.where == "host" else f"inside: {check.name}"
        table.add_row(Text(mark, style), name, check.level.value, inert(check.found, 300))
        if check.holds is not True and check.remedy:
            table.add_row("", "", "", Text(f"→ {check.remedy}", "dim"))
    stdout().print(table)
    failing = [check for check in checks if check.fails]
    lacking = sum(check.level is Level.SHOULD and check.holds is not True for check in checks)
    if failing:
        words = f"{len(failing)} of what must hold does not: no strangers' code here"
    elif lacking:
        words = f"every must holds; {lacking} that should hold do not, or cannot be told"
    else:
        words = "every must holds, and all that should"
    stderr().print(f"assay: {words}")

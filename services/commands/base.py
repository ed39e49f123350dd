"""What the commands share: exit codes, errors in two lines, options, the way to a sandbox."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import FrameType
from typing import IO, TYPE_CHECKING, Any, Literal, Protocol

import click
from rich.console import Console
from rich.table import Table

from grading.challenge import Challenge
from grading.engine import Submission
from grading.verdict import Report
from sandbox.spec import Limits, Sandbox, SandboxUnavailable, StepListener
from services.intake import UnusableFile, read_regular
from services.render import inert
from services.settings import Settings

if TYPE_CHECKING:
    from grading.verify import VerifyReport
    from services.measure import ColdSandbox, WarmSandbox

OK, WANTING, USAGE, UNUSABLE, INFRASTRUCTURE, INTERRUPTED = 0, 1, 2, 3, 4, 130

_PIPED_COLUMNS = 110


class Trouble(click.ClickException):
    """What went wrong in one line and what to do about it in another."""

    def __init__(self, problem: str, advice: str, exit_code: int = USAGE) -> None:
        super().__init__(problem)
        self.advice = advice
        setattr(self, "exit_code", exit_code)  # noqa: B010  click types it as a class variable

    def show(self, file: IO[Any] | None = None) -> None:
        """Print both lines on stderr."""
        click.echo(f"assay: {inert(self.message, 1000)}", err=True)
        click.echo(f"       {inert(self.advice, 1000)}", err=True)


class Backend(Protocol):
    """Everything that the commands reach outside this room; tests hand in fakes."""

    @property
    def settings(self) -> Settings:
        """What the operator chose."""
        ...

    def catalogue(self) -> tuple[str, ...]:
        """The slugs of all challenges."""
        ...

    def challenge(self, slug: str) -> Challenge:
        """Load a challenge. Raises ChallengeError."""
        ...

    def docker_sandbox(self) -> Sandbox:
        """The hardened sandbox. Raises SandboxUnavailable."""
        ...

    def pooled_sandbox(self, jobs: int) -> Sandbox:
        """The hardened sandbox with warm containers for so many jobs at a time. Raises SandboxUnavailable."""
        ...

    def runner_sandbox(self) -> Sandbox:
        """The hardened sandbox behind this host's runner. Raises SandboxUnavailable."""
        ...

    def process_sandbox(self) -> Sandbox:
        """The sandbox that is none."""
        ...

    def rehearsal_sandbox(self) -> Sandbox:
        """One warm interpreter for an author's own programs. Raises SandboxUnavailable."""
        ...

    def bench_sandboxes(
        self, limits: Limits, size: int
    ) -> AbstractContextManager[tuple[ColdSandbox, WarmSandbox, Limits]]:
        """A cold sandbox, a pool of `size` warm containers, and the limits with what the operator chose.

        Raises SandboxUnavailable.
        """
        ...

    def prepare(self, challenge: Challenge, sandbox: Sandbox, listener: StepListener) -> None:
        """See that the controls read right. Raises ControlsFailed, SandboxUnavailable."""
        ...

    def grade(
        self,
        submission: Submission,
        challenge: Challenge,
        sandbox: Sandbox,
        *,
        secret_seed: str | None = None,
        listener: StepListener | None = None,
    ) -> Report:
        """Grade one submission. Raises ControlsFailed, SandboxUnavailable."""
        ...

    def grader_digest(self) -> str:
        """Which grader this is."""
        ...

    def verify(
        self,
        challenge: Challenge,
        sandbox: Sandbox,
        *,
        subsets: Literal["singles", "all"],
        seeds: Sequence[str],
        jobs: int,
        progress: Callable[[int, int], None],
    ) -> VerifyReport:
        """Check a challenge against programs whose bugs are known. `progress(done, total)`."""
        ...


@contextmanager
def interrupts(ask: Callable[[], None], words: str) -> Iterator[None]:
    """As long as this lasts, SIGINT and SIGTERM call `ask`, which must not block.

    An exception could be raised in the middle of anything, or be lost in a finalizer. `words` say what is
    still waited for; nothing is changed outside the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return
    told = False

    def take(_: int, __: FrameType | None) -> None:
        nonlocal told
        if not told:
            told = True
            os.write(2, f"\nassay: stopping; {words} (again to stop at once)\n".encode())
        ask()

    before = {number: signal.signal(number, take) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def open_sandbox(backend: Backend, choice: str | None, jobs: int = 0) -> Sandbox:
    """The sandbox asked for; says on stderr when it is only good for trying out.

    With `jobs`, one that keeps containers warm for so many at a time where that is worth it.
    Give it to `close_sandbox` in the end.

    Raises:
        SandboxUnavailable: runner or Docker was asked for by name and does not answer.
    """
    choice = choice or backend.settings.sandbox
    if choice == "rehearsal":
        return backend.rehearsal_sandbox()
    reason = ""
    if choice in ("auto", "runner"):
        try:
            return backend.runner_sandbox()
        except SandboxUnavailable:
            if choice == "runner":
                raise
    if choice != "process":
        try:
            return backend.pooled_sandbox(jobs) if jobs else backend.docker_sandbox()
        except SandboxUnavailable as error:
            if choice == "docker":
                raise
            reason = f" (no Docker: {inert(str(error), 120)})"
    warning = "for trying out only: the process sandbox does not isolate; never give it strangers' code"
    click.echo(f"assay: {warning}{reason}", err=True)
    return backend.process_sandbox()


def close_sandbox(sandbox: Sandbox) -> None:
    """Let it remove what it keeps warm, where it keeps something."""
    close: Callable[[], None] = getattr(sandbox, "close", lambda: None)
    close()


def jobs_at_a_time(backend: Backend, asked: int | None) -> int:
    """How many gradings run at a time."""
    return asked or backend.settings.jobs or os.cpu_count() or 1


def read_submission(file: Path, max_bytes: int) -> tuple[bytes, UnusableFile | None]:
    """The file's bytes, or why it is too large to have any.

    Raises:
        Trouble: it is not there, or not a file that can be read.
    """
    try:
        return read_regular(file, max_bytes), None
    except FileNotFoundError as error:
        raise Trouble(f"there is no file {file}", "Check the path.") from error
    except UnusableFile as error:
        if error.size_bytes:
            return b"", error
        raise Trouble(f"{file} is {error}", error.advice, UNUSABLE) from error


def stdout() -> Console:
    """Where results go. Markup is off: no text of a submission can switch it on."""
    piped = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(highlight=False, markup=False, emoji=False, width=_PIPED_COLUMNS if piped else None)


def stderr() -> Console:
    """Where progress goes."""
    return Console(highlight=False, markup=False, emoji=False, stderr=True)


def plain_table(*headings: str, right: Sequence[str] = ()) -> Table:
    """A table without lines; the columns in `right` are set to the right."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for heading in headings:
        table.add_column(heading, justify="right" if heading in right else "left", overflow="fold")
    return table


def print_json(data: object) -> None:
    """JSON in plain ASCII, so that not even a bidi mark of a submission reaches a terminal."""
    click.echo(json.dumps(data, indent=2))


def report_json(report: Report) -> Any:
    """A report as JSON values."""
    return json.loads(report.model_dump_json())


# --- options and help ------------------------------------------------------------------


def examples(*commands: str) -> str:
    """The end of a command's help. The backspace keeps click from joining the lines."""
    return "\n".join(("\b", "Examples:", *(f"  {command}" for command in commands)))


def sandbox_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--sandbox`."""
    return click.option(
        "--sandbox",
        "choice",
        type=click.Choice(("auto", "runner", "docker", "process")),
        help="docker: the hardened container. runner: the same, warm, from this host's `assay runner`. "
        "process: a plain process, for trying out only. auto (the default): the first that answers.",
    )(command)


def author_sandbox_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--sandbox` of commands that run an author's own programs by the hundred."""
    return click.option(
        "--sandbox",
        "choice",
        type=click.Choice(("rehearsal", "auto", "runner", "docker", "process")),
        default="rehearsal",
        show_default=True,
        help="rehearsal: one warm interpreter for all programs, which are the author's own. "
        "docker: the hardened container, seconds slower for each.",
    )(command)


def challenge_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--challenge`."""
    return click.option("--challenge", "slug", required=True, metavar="NAME", help="See `assay challenges`.")(command)


def jobs_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--jobs`."""
    help_text = "Gradings at a time. Default: one per processor."
    return click.option("--jobs", type=click.IntRange(1, 256), metavar="N", help=help_text)(command)

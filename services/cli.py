"""`assay …`: grading on the command line. A composition root: it chooses the sandbox.

Exit codes: 0 done; 1 checked and found wanting (`verify`, `replay`); 2 bad usage; 3 a file
that cannot be graded; 4 sandbox or infrastructure; 130 interrupted. What a command is asked
for goes to stdout; progress, warnings and errors go to stderr.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import click
from pydantic import ValidationError

from grading.challenge import Challenge, ChallengeError, catalogue, load_challenge
from grading.controls import Controls, ControlsFailed
from grading.engine import ASSAY_VERSION, GRADER_DIGEST, Submission, grade
from grading.verdict import Report
from sandbox.gpu import GpuSandbox, Leases
from sandbox.process import ProcessSandbox
from sandbox.spec import Job, Limits, RunResult, Sandbox, SandboxUnavailable, StepListener
from sandbox.template import NO_GPU
from services.batch import ResultsError
from services.commands import attack as about_attacks
from services.commands import bench as about_speed
from services.commands import catalogue as about_challenges
from services.commands import grading as about_grading
from services.commands import reports as about_reports
from services.commands import runner as about_runner
from services.commands.base import INFRASTRUCTURE, INTERRUPTED, USAGE, Backend, Trouble, close_sandbox, examples
from services.commands.doctor import doctor
from services.intake import Refused
from services.settings import Settings

if TYPE_CHECKING:
    from grading.verify import VerifyReport
    from sandbox.docker import DockerSandbox
    from sandbox.pool import Pool


class LocalBackend:
    """The real `Backend`: this machine's challenges, grader and sandboxes."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._controls = Controls(settings.state_dir)

    def catalogue(self) -> tuple[str, ...]:
        """The slugs of all challenges."""
        return catalogue()

    def challenge(self, slug: str) -> Challenge:
        """Load a challenge. Raises ChallengeError."""
        return load_challenge(slug)

    def docker_sandbox(self) -> Sandbox:
        """The hardened sandbox. Raises SandboxUnavailable."""
        return self._limited(self._on_gpus() if self.settings.gpus() else self._docker())

    def _on_gpus(self) -> Sandbox:
        devices = self.settings.gpus()
        sandboxes = {device: self._docker(device) for device in devices}
        return GpuSandbox(sandboxes, Leases(devices), self.settings.gpu_lease_timeout_s)

    def _docker(self, gpu: str = NO_GPU) -> DockerSandbox:
        from sandbox.docker import DockerSandbox  # its client takes a while to import

        if self.settings.docker_host:
            os.environ["DOCKER_HOST"] = self.settings.docker_host
        return DockerSandbox(self.settings.image or "", self.settings.runtime, gpu)

    @contextlib.contextmanager
    def bench_sandboxes(self, limits: Limits, size: int) -> Iterator[tuple[DockerSandbox, Pool, Limits]]:
        """A cold sandbox, a pool of `size` and the limits of both. Raises SandboxUnavailable."""
        from sandbox.pool import Pool

        chosen = dataclasses.replace(limits, **self.settings.chosen_limits())
        config = about_runner.pool_config(self.settings, size)
        cold = self._docker()
        with Pool(cold, dataclasses.replace(config, min_size=config.max_size), chosen) as pool:
            yield cold, pool, chosen

    def pooled_sandbox(self, jobs: int) -> Sandbox:
        """The hardened sandbox with warm containers for so many jobs. Raises SandboxUnavailable."""
        if self.settings.gpus():
            return self.docker_sandbox()
        from sandbox.pool import Pool

        return self._limited(Pool(self._docker(), about_runner.pool_config(self.settings, jobs, min_size=0)))

    def runner_sandbox(self) -> Sandbox:
        """The hardened sandbox behind this host's runner. Raises SandboxUnavailable."""
        from sandbox.remote import RunnerSandbox

        # A runner in another pid namespace tells its clients apart by this name: containers have their own host name.
        client = f"assay@{socket.gethostname()}"[:40]
        return self._limited(RunnerSandbox(self.settings.runner_socket, client, self.settings.runner_queue_time_s))

    def process_sandbox(self) -> Sandbox:
        """The sandbox that is none."""
        return self._limited(ProcessSandbox())

    def rehearsal_sandbox(self) -> Sandbox:
        """One warm interpreter for an author's own programs. Raises SandboxUnavailable."""
        from sandbox.rehearsal import RehearsalSandbox

        return RehearsalSandbox()

    def _limited(self, sandbox: Sandbox) -> Sandbox:
        chosen = self.settings.chosen_limits()
        return LimitedSandbox(sandbox, chosen) if chosen else sandbox

    def prepare(self, challenge: Challenge, sandbox: Sandbox, listener: StepListener) -> None:
        """See that the controls read right. Raises ControlsFailed, SandboxUnavailable."""
        self._controls.ensure(challenge, sandbox, listener)

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
        return grade(
            submission,
            challenge,
            sandbox,
            secret_seed=secret_seed,
            listener=listener,
            controls=self._controls,
        )

    def grader_digest(self) -> str:
        """Which grader this is."""
        return GRADER_DIGEST

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
        """Check a challenge against programs whose bugs are known."""
        from grading.verify import verify  # for authors only

        return verify(challenge, sandbox, subsets=subsets, seeds=seeds, jobs=jobs, progress=progress)


class LimitedSandbox:
    """A sandbox in which the limits that the operator set replace the challenge's."""

    def __init__(self, inner: Sandbox, limits: Mapping[str, Any]) -> None:
        self.name, self._inner, self._limits = inner.name, inner, limits

    def run(self, job: Job, listener: StepListener | None = None) -> RunResult:
        """Run the job under the operator's limits."""
        limits = dataclasses.replace(job.limits, **self._limits)
        return self._inner.run(dataclasses.replace(job, limits=limits), listener)

    def close(self) -> None:
        """Close the sandbox itself, where it can be."""
        close_sandbox(self._inner)

    def facts(self) -> Mapping[str, Any]:
        """What its Engine says, for `assay doctor`; nothing for a sandbox without one."""
        facts: Callable[[], Mapping[str, Any]] = getattr(self._inner, "facts", dict)
        return facts()

    def cannot_hold(self) -> tuple[str, ...]:
        """What the sandbox itself cannot hold."""
        return self._inner.cannot_hold()

    def image_identity(self) -> str:
        """What the controls are remembered under: they must have passed under these limits."""
        inner = getattr(self._inner, "image_identity", lambda: "")()
        return f"{inner} {sorted(self._limits.items())}"


# The service's commands by module: their libraries take a while to import, and `assay grade` needs none of them.
_SERVICE = {
    "serve": "services.commands.serve",
    "api": "services.commands.serve",
    "worker": "services.commands.work",
    "relay": "services.commands.work",
    "sweeper": "services.commands.work",
    "db": "services.commands.service",
    "keys": "services.commands.service",
    "audit": "services.commands.service",
    "users": "services.commands.people",
}


class _Assay(click.Group):
    """Turns every error into two lines and an exit code; imports the service's commands when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order of the alphabet."""
        return sorted([*super().list_commands(ctx), *_SERVICE])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """One command."""
        if cmd_name not in _SERVICE:
            return super().get_command(ctx, cmd_name)
        command: click.Command = getattr(importlib.import_module(_SERVICE[cmd_name]), cmd_name)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command asked for."""
        try:
            return super().invoke(ctx)
        except (click.exceptions.Exit, click.ClickException, click.Abort, BrokenPipeError):
            raise
        except KeyboardInterrupt:
            click.echo("assay: interrupted", err=True)
            ctx.exit(INTERRUPTED)
        except Exception as error:
            backend: Backend | None = ctx.obj
            if backend is not None and backend.settings.debug:
                raise
            raise _trouble(error) from error


def _trouble(error: Exception) -> Trouble:
    """The two lines for an error that a command let through."""
    match error:
        case ChallengeError():
            return Trouble(str(error), "`assay challenges` lists them.")
        case Refused():
            return Trouble(str(error), "Split it into several batches.")
        case ResultsError():
            return Trouble(str(error), error.advice, INFRASTRUCTURE if error.disk else USAGE)
        case SandboxUnavailable():
            advice = "Is the Docker Engine running, and the image built (`make image`)?"
            return Trouble(f"the sandbox is unavailable: {error}", advice, INFRASTRUCTURE)
        case ControlsFailed():
            words = f"the controls did not read right, so nothing is decided: {error}"
            advice = "No fault of the submission. Rebuild the image, then try `assay verify` on the challenge."
            return Trouble(words, advice, INFRASTRUCTURE)
        case OSError():
            return Trouble(str(error), "Check the path, its rights and the free space.", INFRASTRUCTURE)
    words = f"internal error: {type(error).__name__}: {error}"
    return Trouble(words, "ASSAY_DEBUG=1 shows where. Please report it.", INFRASTRUCTURE)


def _load_settings() -> Settings:
    """From the environment, then from files: ASSAY_SECRETS_DIR may hold one named like each variable."""
    try:
        return Settings(_secrets_dir=os.environ.get("ASSAY_SECRETS_DIR"))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = "ASSAY_" + "_".join(map(str, first["loc"])).upper().removeprefix("ASSAY_")
        raise Trouble(f"{name}: {first['msg']}", "`assay settings` explains each setting.") from error


@click.group(
    cls=_Assay,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=examples(
        "assay demo                                     the bundled samples, graded",
        "assay grade mended.py --challenge spiral       one submission",
        "assay batch inbox/ --challenge spiral          a folder or a zip of them",
        "assay explain report.json 3                    one verdict in plain words",
    ),
)
@click.version_option(ASSAY_VERSION, prog_name="assay")
@click.pass_context
def main(ctx: click.Context) -> None:
    """Grade PyTorch debugging interviews: which of the planted bugs are really fixed.

    A submission runs in a sandbox; what it does, not what it says, decides.
    """
    if ctx.obj is None:
        ctx.obj = LocalBackend(_load_settings())


for _command in (
    about_grading.grade,
    about_grading.batch,
    about_grading.demo,
    about_runner.runner,
    about_reports.explain,
    about_reports.replay,
    about_reports.schema,
    about_challenges.challenges,
    about_challenges.show,
    about_challenges.verify,
    about_challenges.selftest,
    about_attacks.attack,
    about_speed.bench,
    about_challenges.settings,
    doctor,
):
    main.add_command(_command)


if __name__ == "__main__":
    main()

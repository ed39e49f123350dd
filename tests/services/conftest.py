"""A command line whose sandbox and grader are fakes: everything else is real."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from grading.challenge import Challenge, catalogue, load_challenge
from grading.engine import Submission
from grading.verdict import (
    BugVerdict,
    Evidence,
    EvidenceKind,
    GoalReport,
    Report,
    Timing,
    Verdict,
    Versions,
    rate,
)
from sandbox.spec import Job, RunResult, Sandbox, SandboxUnavailable, StepListener
from services.cli import main
from services.settings import Settings

GRADER = "grader-1"
SPIRAL = load_challenge("spiral")
TIMES = ("sandbox_start_s", "warm_up_s", "warm_up_cpu_s", "probes_s", "probes_cpu_s", "real_run_s")
TIMES += ("real_run_cpu_s", "judge_s", "total_s", "cpu_s")


def a_report(
    name: str = "x.py",
    source: bytes = b"fixed=3",
    *,
    text: str = "what was seen",
    sandbox: str = "docker",
    grader: str = GRADER,
    **changes: Any,
) -> Report:
    """A report on `source`, which says how many bugs are fixed; empty or "syntax" is invalid."""
    invalid = not source or b"syntax" in source
    verdicts = _verdicts(source)
    evidence = Evidence(
        summary=text,
        expected=text,
        seen=text,
        kind=EvidenceKind.VALUE,
        source=text,
        plain=text,
        notes=(text,),
    )
    bugs = tuple(
        BugVerdict(number=bug.number, id=bug.id, title=bug.title, verdict=verdict, evidence=evidence, wall_time_s=0.1)
        for bug, verdict in zip(SPIRAL.manifest.bugs, verdicts, strict=True)
    )
    report = Report(
        challenge="spiral",
        submission_name=name,
        submission_sha256=hashlib.sha256(source).hexdigest(),
        submission_bytes=len(source),
        outcome="invalid" if invalid else "graded",
        invalid_reason=f"the file is no program: {text}" if invalid else None,
        bugs=() if invalid else bugs,
        goal=GoalReport(description=text, reached=True, epoch=3, accuracy=0.97, threshold=0.85, evidence=text),
        rating=None if invalid else rate(SPIRAL.manifest, verdicts),
        regressions=(),
        bonus=(),
        tampering_suspected=b"forged" in source,
        tampering_reasons=(text,) if b"forged" in source else (),
        run_status="ok",
        run_error=None,
        output_tail=text,
        # Probes and own run one after the other: together no longer than the whole.
        timing=Timing(
            **{**dict.fromkeys(TIMES, 0.5), "probes_s": 0.25, "real_run_s": 0.25}, peak_memory_bytes=1 << 28, steps=()
        ),
        versions=Versions(
            assay="0",
            challenge_digest=SPIRAL.digest(),
            grader_digest=grader,
            image_digest="sha256:0",
            python="3.11",
            torch="2",
            numpy="2",
        ),
        sandbox=sandbox,
        secret_seed="00ff",
        graded_at="2026-01-01T00:00:00Z",
    )
    return report.model_copy(update=changes)


def _verdicts(source: bytes) -> tuple[Verdict, ...]:
    found = re.search(rb"fixed=(\d)", source)
    fixed = int(found[1]) if found else 0
    return (Verdict.FIXED,) * fixed + (Verdict.NOT_FIXED,) * (8 - fixed)


class FakeSandbox:
    """A sandbox in name only."""

    def __init__(self, name: str) -> None:
        self.name = name

    def run(self, job: Job, listener: StepListener | None = None) -> RunResult:
        raise AssertionError("the fake grader runs nothing")

    def cannot_hold(self) -> tuple[str, ...]:
        return ()


class FakeBackend:
    """Grades by reading `fixed=N` in the source; remembers what it was asked."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.docker_works = True
        self.runner_works = False
        self.grader = GRADER
        self.graded: list[Submission] = []
        self.seeds: list[str | None] = []
        self.on_grade: Callable[[Submission], None] = lambda submission: None
        self.on_prepare: Callable[[], None] = lambda: None
        self.verified: dict[str, Any] = {}
        self.text = "what was seen"
        self._lock = threading.Lock()

    def catalogue(self) -> tuple[str, ...]:
        return catalogue()

    def challenge(self, slug: str) -> Challenge:
        return load_challenge(slug)

    def docker_sandbox(self) -> Sandbox:
        if not self.docker_works:
            raise SandboxUnavailable("no Engine answers")
        return FakeSandbox("docker")

    def pooled_sandbox(self, jobs: int) -> Sandbox:
        return self.docker_sandbox()

    def runner_sandbox(self) -> Sandbox:
        if not self.runner_works:
            raise SandboxUnavailable("no runner answers")
        return FakeSandbox("docker")

    def process_sandbox(self) -> Sandbox:
        return FakeSandbox("process")

    def rehearsal_sandbox(self) -> Sandbox:
        return FakeSandbox("rehearsal")

    def prepare(self, challenge: Challenge, sandbox: Sandbox, listener: StepListener) -> None:
        self.on_prepare()

    def grade(
        self,
        submission: Submission,
        challenge: Challenge,
        sandbox: Sandbox,
        *,
        secret_seed: str | None = None,
        listener: StepListener | None = None,
    ) -> Report:
        with self._lock:
            self.graded.append(submission)
            self.seeds.append(secret_seed)
        if listener is not None:
            listener("real", "begin")
            listener("real", "end")
        self.on_grade(submission)
        return a_report(submission.name, submission.source, text=self.text, sandbox=sandbox.name, grader=self.grader)

    def grader_digest(self) -> str:
        return self.grader

    def verify(self, challenge: Challenge, sandbox: Sandbox, **options: Any) -> Any:
        self.verified = options
        options["progress"](1, 2)
        options["progress"](2, 2)
        return self.verify_report

    verify_report: Any = None


class Desk:
    """A user at a terminal in an empty folder."""

    def __init__(self, backend: FakeBackend, folder: Path) -> None:
        self.backend, self.folder = backend, folder

    def __call__(self, *arguments: str | Path, stdin: str | None = None) -> Result:
        """Run `assay` with these arguments."""
        return CliRunner().invoke(main, [str(a) for a in arguments], input=stdin, obj=self.backend)

    def write(self, name: str, content: bytes = b"fixed=3") -> Path:
        """Put a file into the folder."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def graded_names(self) -> list[str]:
        """What the fake grader was asked to grade since the last call, sorted."""
        names = sorted(submission.name for submission in self.backend.graded)
        self.backend.graded.clear()
        return names


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    folder = tmp_path / "desk"
    folder.mkdir()
    monkeypatch.chdir(folder)
    settings = Settings(state_dir=tmp_path / "state", jobs=1, interrupt_grace_s=5)
    return Desk(FakeBackend(settings), folder)


@pytest.fixture(scope="session")
def make_report() -> Callable[..., Report]:
    return a_report

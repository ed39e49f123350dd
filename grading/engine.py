"""Grades one submission: secrets drawn, probes run inside, the decision made outside."""

from __future__ import annotations

import datetime
import functools
import hashlib
import importlib
import secrets as entropy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from grading.challenge import Challenge, tree_digest
from grading.judgement import BugFinding, Judge, Judgement, Plan, Secrets
from grading.verdict import (
    BugVerdict,
    Evidence,
    EvidenceKind,
    Finding,
    GoalReport,
    Report,
    StepTiming,
    Timing,
    Verdict,
    Versions,
    rate,
)
from sandbox.spec import Job, Limits, RunResult, RunStatus, Sandbox, StepResult

if TYPE_CHECKING:
    from grading.controls import Controls

ASSAY_VERSION = "0.1.0"
MAX_SUBMISSION_BYTES = 1 << 20
ROOT = Path(__file__).resolve().parent.parent
Listener = Callable[[str, str], None]


@dataclass(frozen=True)
class Submission:
    """A candidate's file."""

    name: str
    source: bytes

    @property
    def sha256(self) -> str:
        """Hex digest of the file's bytes."""
        return hashlib.sha256(self.source).hexdigest()


def _grader_digest() -> str:
    files = sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / "grading").rglob("*.py"))
    return tree_digest(ROOT, (*files, "sandbox/image/agent.py"))


GRADER_DIGEST = _grader_digest()


def grade(
    submission: Submission,
    challenge: Challenge,
    sandbox: Sandbox,
    *,
    secret_seed: str | None = None,
    queue_s: float | None = None,
    listener: Listener | None = None,
    controls: Controls | None = None,
    limits: Limits | None = None,
) -> Report:
    """Grade `submission` and say bug by bug what was seen.

    Args:
        secret_seed: for a replay; a fresh one is drawn otherwise.
        controls: when given, proves first that problem and solution read right on this
            image (from its cache where possible), and again with this grade's secrets
            when a verdict stays open.

    Raises:
        SandboxUnavailable: the sandbox failed; says nothing about the submission.
        ControlsFailed: problem or solution misread, so nothing may be decided.
    """
    began = time.perf_counter()
    secrets = Secrets(secret_seed or entropy.token_hex(16))
    reason = unusable_reason(submission.source)
    if reason is not None:
        return _unrun_report(submission, challenge, secrets, reason, sandbox.name, time.perf_counter() - began, queue_s)
    if controls is not None:
        controls.ensure(challenge, sandbox, listener)
        began = time.perf_counter()  # the controls' time is the host's, not this submission's
    judge = load_judge(challenge)
    plan = judge.plan(secrets, challenge.manifest)
    run = sandbox.run(build_job(submission, challenge, plan, limits), listener)
    judging = time.perf_counter()
    judgement = _judged(judge, secrets, challenge, run)
    judge_s = time.perf_counter() - judging
    if controls is not None and _looks_odd(judgement):
        controls.recheck(challenge, sandbox, secrets)
    timing = _timing(plan, run, judge_s, time.perf_counter() - began, queue_s)
    return _report(submission, challenge, secrets, plan, run, judgement, timing)


def unusable_reason(source: bytes) -> str | None:
    """Why a file cannot be a Python program at all; None when it may be one."""
    if not source.strip():
        return "the file is empty"
    if len(source) > MAX_SUBMISSION_BYTES:
        return f"the file has {len(source):,} bytes; at most {MAX_SUBMISSION_BYTES:,} are accepted"
    if source.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "the file is encoded as UTF-16, which Python cannot run; save it as UTF-8"
    if b"\0" in source:
        return "the file contains NUL bytes, so it is not Python source; save it as plain UTF-8 text"
    return _undecodable_reason(source)


def _undecodable_reason(source: bytes) -> str | None:
    declared = b"coding" in b"\n".join(source.splitlines()[:2])
    if declared:
        return None  # Python itself decides, inside the sandbox
    try:
        source.decode("utf-8")
    except UnicodeDecodeError as error:
        return f"the file is not UTF-8 (byte {error.start}), nor does it declare its encoding; save it as UTF-8"
    return None


def load_judge(challenge: Challenge) -> Judge:
    """The challenge's `judge` module."""
    return cast(Judge, importlib.import_module(f"challenges.{challenge.slug}.judge"))


def build_job(submission: Submission, challenge: Challenge, plan: Plan, limits: Limits | None = None) -> Job:
    """The job that crosses into the sandbox: nothing secret is in it."""
    modules = {name: _module_source(name) for name in plan.modules}
    bounds = limits or Limits(memory_bytes=challenge.manifest.limits.memory_bytes)
    wall = sum(step.wall_time_s for step in plan.steps) + 5.0
    return Job(
        submission=submission.source,
        modules=modules,
        steps=plan.steps,
        limits=replace(bounds, wall_time_s=min(bounds.wall_time_s, wall)),
        label=challenge.slug[:40],
    )


@functools.cache
def _module_source(name: str) -> bytes:
    """Read once: an upgrade under a running service must not pair new probes with the judge in memory."""
    return (ROOT / (name.replace(".", "/") + ".py")).read_bytes()


def _judged(judge: Judge, secrets: Secrets, challenge: Challenge, run: RunResult) -> Judgement:
    """The judge's decision; evidence of a shape that no probe writes leaves everything open."""
    try:
        return judge.judge(secrets, challenge.manifest, run)
    except Exception as error:  # whatever forged evidence breaks, it must not decide
        problem = f"its evidence could not be judged ({type(error).__name__})"
    evidence = Evidence(
        summary="The evidence has a shape that no probe writes",
        expected="evidence as the probes write it",
        seen=problem,
        kind=EvidenceKind.NONE,
        source="nothing conclusive",
        plain="Assay could not read what the program's run left behind, so it says nothing. Ask the candidate.",
    )
    goal = challenge.manifest.goal
    open_bugs = tuple(BugFinding(bug.id, Verdict.INCONCLUSIVE, evidence, ()) for bug in challenge.manifest.bugs)
    unknown = GoalReport(
        description=goal.description,
        reached=None,
        epoch=None,
        accuracy=None,
        threshold=goal.threshold,
        evidence=problem,
    )
    return Judgement(invalid_reason=None, bugs=open_bugs, goal=unknown, tampering=(problem,))


def _looks_odd(judgement: Judgement) -> bool:
    return (
        judgement.invalid_reason is None
        and not judgement.tampering
        and any(bug.verdict is Verdict.INCONCLUSIVE for bug in judgement.bugs)
    )


# -- the report --------------------------------------------------------------------------


def _report(
    submission: Submission,
    challenge: Challenge,
    secrets: Secrets,
    plan: Plan,
    run: RunResult,
    judgement: Judgement,
    timing: Timing,
) -> Report:
    invalid = judgement.invalid_reason is not None
    bugs = () if invalid else _bug_verdicts(challenge, judgement.bugs, run)
    real = run.step(plan.real_step)
    last = real if real is not None and real.output_tail else next((s for s in run.steps if s.output_tail), real)
    return Report(
        challenge=challenge.slug,
        submission_name=submission.name,
        submission_sha256=submission.sha256,
        submission_bytes=len(submission.source),
        outcome="invalid" if invalid else "graded",
        invalid_reason=printable(judgement.invalid_reason) if judgement.invalid_reason else None,
        bugs=bugs,
        goal=judgement.goal,
        rating=None if invalid else rate(challenge.manifest, tuple(b.verdict for b in bugs)),
        regressions=() if invalid else _inert(judgement.regressions),
        bonus=() if invalid else _inert(judgement.bonus),
        tampering_suspected=bool(judgement.tampering),
        tampering_reasons=tuple(printable(reason) for reason in judgement.tampering),
        run_status=real.status.value if real else "not_run",
        run_error=printable(judgement.run_error) if judgement.run_error else None,
        output_tail=printable(last.output_tail.decode("utf-8", "replace")) if last else "",
        timing=timing,
        versions=_versions(challenge, run.image_digest, run.versions),
        sandbox=run.sandbox,
        secret_seed=secrets.seed,
        graded_at=_now(),
    )


def _inert(findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
    return tuple(Finding(id=f.id, title=f.title, detail=printable(f.detail)) for f in findings)


def _bug_verdicts(challenge: Challenge, findings: tuple[BugFinding, ...], run: RunResult) -> tuple[BugVerdict, ...]:
    """Each finding with its share of the time of the steps that it used.

    A step's wall time is divided equally among the bugs that used it, the submission's own
    run excepted: that would have run anyway.
    """
    users = {s.name: sum(s.name in f.steps for f in findings) for s in run.steps if s.name != "real"}
    titles = {bug.id: bug for bug in challenge.manifest.bugs}
    verdicts = []
    for finding in findings:
        share = sum(s.wall_time_s / users[s.name] for s in run.steps if s.name in finding.steps and users.get(s.name))
        bug = titles[finding.bug_id]
        verdicts.append(
            BugVerdict(
                number=bug.number,
                id=bug.id,
                title=bug.title,
                verdict=finding.verdict,
                evidence=finding.evidence.model_copy(
                    update={
                        "seen": printable(finding.evidence.seen),
                        "summary": printable(finding.evidence.summary),
                        "notes": tuple(printable(note) for note in finding.evidence.notes),
                    }
                ),
                wall_time_s=share,
            )
        )
    return tuple(verdicts)


def _timing(plan: Plan, run: RunResult, judge_s: float, total_s: float, queue_s: float | None) -> Timing:
    probes = [step for step in run.steps if step.name != plan.real_step]
    real = run.step(plan.real_step) or StepResult(plan.real_step, RunStatus.NOT_RUN)
    return Timing(
        queue_s=queue_s,
        sandbox_start_s=run.timing.start_s,
        warm_up_s=run.timing.warm_up_s,
        warm_up_cpu_s=run.timing.warm_up_cpu_s,
        probes_s=sum(s.wall_time_s for s in probes),
        probes_cpu_s=sum(s.cpu_time_s for s in probes),
        real_run_s=real.wall_time_s,
        real_run_cpu_s=real.cpu_time_s,
        judge_s=judge_s,
        total_s=total_s,
        cpu_s=run.timing.cpu_s,
        peak_memory_bytes=run.peak_memory_bytes or max((s.peak_memory_bytes for s in run.steps), default=0),
        gpu_s=run.gpu.time_s if run.gpu is not None else None,
        gpu_peak_memory_bytes=run.gpu.peak_memory_bytes if run.gpu is not None else None,
        steps=tuple(
            StepTiming(
                name=s.name,
                status=s.status.value,
                wall_time_s=s.wall_time_s,
                cpu_time_s=s.cpu_time_s,
                peak_memory_bytes=s.peak_memory_bytes,
            )
            for s in run.steps
        ),
    )


def _unrun_report(
    submission: Submission,
    challenge: Challenge,
    secrets: Secrets,
    reason: str,
    sandbox: str,
    total_s: float,
    queue_s: float | None,
) -> Report:
    """The report on a file that never got as far as the sandbox."""
    goal = challenge.manifest.goal
    zero = dict.fromkeys(
        ("sandbox_start_s", "warm_up_s", "warm_up_cpu_s", "probes_s", "probes_cpu_s", "real_run_s", "real_run_cpu_s"),
        0.0,
    )
    return Report(
        challenge=challenge.slug,
        submission_name=submission.name,
        submission_sha256=submission.sha256,
        submission_bytes=len(submission.source),
        outcome="invalid",
        invalid_reason=reason,
        bugs=(),
        goal=GoalReport(
            description=goal.description,
            reached=None,
            epoch=None,
            accuracy=None,
            threshold=goal.threshold,
            evidence="the file was not run",
        ),
        rating=None,
        regressions=(),
        bonus=(),
        tampering_suspected=False,
        tampering_reasons=(),
        run_status="not_run",
        run_error=None,
        output_tail="",
        timing=Timing(**zero, queue_s=queue_s, judge_s=0.0, total_s=total_s, cpu_s=0.0, peak_memory_bytes=0, steps=()),
        versions=_versions(challenge, "", {}),
        sandbox=sandbox,
        secret_seed=secrets.seed,
        graded_at=_now(),
    )


def _versions(challenge: Challenge, image_digest: str, inside: Mapping[str, str]) -> Versions:
    return Versions(
        assay=ASSAY_VERSION,
        challenge_digest=challenge.digest(),
        grader_digest=GRADER_DIGEST,
        image_digest=image_digest,
        python=inside.get("python", ""),
        torch=inside.get("torch", ""),
        numpy=inside.get("numpy", ""),
    )


def printable(text: str, limit: int = 8000) -> str:
    """Untrusted text with every control, escape and bidirectional character made visible and inert."""
    return "".join(
        c if c in "\n\t" or (c.isprintable() and c not in _BIDI) else f"\\x{ord(c):02x}" for c in text[-limit:]
    )


_BIDI = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u061c")


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")

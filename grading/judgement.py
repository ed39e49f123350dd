"""What a challenge's judge works with: secrets in, a plan out; evidence in, a judgement out.

Every challenge folder has a `judge.py` with two functions:

`plan(secrets, manifest) -> Plan`    the steps to run inside, with inputs drawn from the secrets;
`judge(secrets, manifest, run) -> Judgement`    the decision, outside.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from grading import evidence
from grading.challenge import Manifest
from grading.verdict import Evidence, EvidenceKind, Finding, GoalReport, Verdict
from sandbox.spec import Array, RunResult, Step, StepResult


@dataclass(frozen=True)
class Secrets:
    """Everything random of one grade, drawn from one seed.

    The seed never enters the sandbox; arrays drawn from it do.
    """

    seed: str

    def rng(self, label: str) -> np.random.Generator:
        """An independent generator for each label."""
        digest = hashlib.sha256(f"{self.seed}/{label}".encode()).digest()
        return np.random.default_rng(np.frombuffer(digest, dtype=np.uint32))


@dataclass(frozen=True)
class Plan:
    """What runs inside: probe modules by dotted name, and the steps in order."""

    modules: tuple[str, ...]
    steps: tuple[Step, ...]
    real_step: str = "real"


@dataclass(frozen=True)
class Sight:
    """What one source of evidence says of one bug."""

    verdict: Verdict
    seen: str
    kind: EvidenceKind
    source: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class BugFinding:
    """The judge's decision on one bug, before the report dresses it."""

    bug_id: str
    verdict: Verdict
    evidence: Evidence
    steps: tuple[str, ...]  # the steps whose time this verdict used


@dataclass(frozen=True)
class Judgement:
    """Everything the judge says of one run."""

    invalid_reason: str | None
    bugs: tuple[BugFinding, ...]
    goal: GoalReport
    regressions: tuple[Finding, ...] = ()
    bonus: tuple[Finding, ...] = ()
    tampering: tuple[str, ...] = ()
    run_error: str | None = None


class Judge(Protocol):
    """A challenge's `judge` module."""

    def plan(self, secrets: Secrets, manifest: Manifest) -> Plan:
        """The steps of one grade."""
        ...

    def judge(self, secrets: Secrets, manifest: Manifest, run: RunResult) -> Judgement:
        """Decide every bug from what the run showed."""
        ...


@dataclass(frozen=True)
class SeenRun:
    """A RunResult with its evidence read."""

    run: RunResult
    logs: Mapping[str, evidence.EvidenceLog] = field(default_factory=dict)

    @classmethod
    def of(cls, run: RunResult) -> SeenRun:
        """Read the evidence of every step."""
        return cls(run, {step.name: evidence.read(step.frames) for step in run.steps})

    def log(self, step: str) -> evidence.EvidenceLog:
        """The evidence of a step; empty where it did not run."""
        return self.logs.get(step, evidence.EvidenceLog())

    def step(self, name: str) -> StepResult | None:
        """The agent's account of a step."""
        return self.run.step(name)


def pack(values: NDArray[Any]) -> Array:
    """A numpy array as it crosses the border."""
    contiguous = np.ascontiguousarray(values)
    return Array(contiguous.dtype.str, contiguous.shape, contiguous.tobytes())

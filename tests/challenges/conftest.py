"""Grading programs of our own in the rehearsal sandbox."""

from __future__ import annotations

import dataclasses
import os
from typing import Protocol

import pytest

from grading import engine
from grading.challenge import load_challenge
from grading.verdict import Report
from sandbox.rehearsal import RehearsalSandbox
from sandbox.spec import Job, RunResult, StepListener

PATIENCE = 4  # the machine may do other things besides


class Grade(Protocol):
    """Grades a program; `seconds` of a processor bound each of its steps, `epochs` shortens its own run."""

    def __call__(
        self, source: str | bytes, *, seed: str | None = None, epochs: int = 20, seconds: float = 60.0
    ) -> Report: ...


class Hurried:
    """A sandbox that gives every step only so many seconds of a processor, and a while to get them."""

    name = "rehearsal"

    def __init__(self, inner: RehearsalSandbox, seconds: float) -> None:
        self.inner, self.seconds = inner, seconds

    def run(self, job: Job, listener: StepListener | None = None) -> RunResult:
        steps = tuple(
            dataclasses.replace(
                step,
                wall_time_s=min(step.wall_time_s, PATIENCE * self.seconds),
                cpu_time_s=min(step.cpu_time_s, self.seconds),
            )
            for step in job.steps
        )
        return self.inner.run(dataclasses.replace(job, steps=steps), listener)

    def cannot_hold(self) -> tuple[str, ...]:
        return self.inner.cannot_hold()


@pytest.fixture(scope="session")
def full_length() -> bool:
    """Whether programs train for all their epochs; shorter runs show the same bugs."""
    return os.environ.get("ASSAY_FULL") == "1"


@pytest.fixture(scope="session")
def grade(rehearsal: RehearsalSandbox) -> Grade:
    challenge = load_challenge("spiral")

    def grading(source: str | bytes, *, seed: str | None = None, epochs: int = 20, seconds: float = 60.0) -> Report:
        raw = source.encode() if isinstance(source, str) else source
        shorter = raw.replace(b"num_epochs = 20", b"num_epochs = %d" % epochs)
        submission = engine.Submission("program.py", shorter)
        return engine.grade(submission, challenge, Hurried(rehearsal, seconds), secret_seed=seed)

    return grading

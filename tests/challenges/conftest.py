"""Grading programs of our own in the rehearsal sandbox."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypeVar

import pytest

from grading import engine
from grading.challenge import load_challenge
from grading.verdict import Report
from sandbox.rehearsal import RehearsalSandbox
from sandbox.spec import Job, RunResult, StepListener

Key = TypeVar("Key")
Given = TypeVar("Given")

JOBS = 2  # programs graded at a time
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


@contextlib.contextmanager
def ahead(
    request: pytest.FixtureRequest, key: Callable[[Mapping[str, object]], Key | None], action: Callable[[Key], Given]
) -> Iterator[Callable[[Key], Given]]:
    """Do what the chosen tests of this module will ask for, several at a time; gives who answers them.

    `key` makes of a test's parameters what `action` is to be done with, None for a test that asks for nothing.
    """
    chosen = [item for item in request.session.items if isinstance(item, pytest.Function)]
    given = [item.callspec.params for item in chosen if item.module is request.module and hasattr(item, "callspec")]
    keys = dict.fromkeys(found for params in given if (found := key(params)) is not None)
    with ThreadPoolExecutor(JOBS) as jobs:
        begun: dict[Key, Future[Given]] = {one: jobs.submit(action, one) for one in keys}
        try:
            yield lambda one: begun[one].result() if one in begun else action(one)
        finally:
            jobs.shutdown(cancel_futures=True)

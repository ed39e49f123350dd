"""Proves a challenge: every subset of its bugs, built as a program, must get its exact vector."""

from __future__ import annotations

import importlib
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

from pydantic import BaseModel, ConfigDict

from grading import engine
from grading.challenge import Challenge
from grading.verdict import Report, Verdict
from sandbox.spec import Sandbox

Subsets = Literal["singles", "all"]


class VerifyFailure(BaseModel):
    """One program whose vector was not the expected one."""

    model_config = ConfigDict(frozen=True)

    planted: tuple[str, ...]
    seed: str
    wrong: tuple[str, ...]
    invalid_reason: str | None
    tampering_reasons: tuple[str, ...]


class VerifyReport(BaseModel):
    """The outcome of a verification."""

    model_config = ConfigDict(frozen=True)

    challenge: str
    subsets: int
    seeds: tuple[str, ...]
    runs: int
    exact: int
    inconclusive_bugs: int
    failures: tuple[VerifyFailure, ...]
    probes_cpu_s_mean: float
    wall_time_s: float

    @property
    def passed(self) -> bool:
        """Whether every vector was exact."""
        return not self.failures


def planted_subsets(challenge: Challenge, subsets: Subsets) -> list[frozenset[str]]:
    """The subsets of bugs to plant: all of them, or none, each alone, each missing, and all."""
    ids = [bug.id for bug in challenge.manifest.bugs]
    if subsets == "all":
        return [frozenset(c) for size in range(len(ids) + 1) for c in itertools.combinations(ids, size)]
    edges = [frozenset(ids), frozenset[str]()]
    return edges + [frozenset({i}) for i in ids] + [frozenset(ids) - {i} for i in ids]


def verify(
    challenge: Challenge,
    sandbox: Sandbox,
    *,
    subsets: Subsets = "singles",
    seeds: Sequence[str],
    jobs: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> VerifyReport:
    """Grade every program of `subsets` with every seed and compare the vectors.

    Args:
        jobs: how many grades run at once.
        progress: called with (done, total) after each.

    Raises:
        SandboxUnavailable: the sandbox failed.
    """
    began = time.perf_counter()
    build: Callable[[frozenset[str]], str] = importlib.import_module(f"challenges.{challenge.slug}.mutations").build
    chosen = planted_subsets(challenge, subsets)
    cases = list(itertools.product(chosen, seeds))

    def run(case: tuple[frozenset[str], str]) -> Report:
        planted, seed = case
        name = "-".join(sorted(planted)) or "none"
        submission = engine.Submission(f"{name}.py", build(planted).encode())
        return engine.grade(submission, challenge, sandbox, secret_seed=f"{seed}/{name}")

    failures, cpu_s, open_bugs = [], 0.0, 0
    with ThreadPoolExecutor(max_workers=jobs) as pool:
        for done, ((planted, seed), report) in enumerate(zip(cases, _in_order(pool, run, cases), strict=True), start=1):
            cpu_s += report.timing.probes_cpu_s
            open_bugs += sum(bug.verdict is Verdict.INCONCLUSIVE for bug in report.bugs)
            failure = _failure(planted, seed, report)
            failures += [failure] if failure else []
            if progress is not None:
                progress(done, len(cases))
    return VerifyReport(
        challenge=challenge.slug,
        subsets=len(chosen),
        seeds=tuple(seeds),
        runs=len(cases),
        exact=len(cases) - len(failures),
        inconclusive_bugs=open_bugs,
        failures=tuple(failures),
        probes_cpu_s_mean=cpu_s / max(1, len(cases)),
        wall_time_s=time.perf_counter() - began,
    )


def _in_order(
    pool: ThreadPoolExecutor,
    run: Callable[[tuple[frozenset[str], str]], Report],
    cases: list[tuple[frozenset[str], str]],
) -> Iterator[Report]:
    try:
        yield from pool.map(run, cases)
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise


def _failure(planted: frozenset[str], seed: str, report: Report) -> VerifyFailure | None:
    wrong = [
        f"{bug.id}: {bug.verdict} ({bug.evidence.summary})"
        for bug in report.bugs
        if bug.verdict is not (Verdict.NOT_FIXED if bug.id in planted else Verdict.FIXED)
    ]
    if report.outcome == "graded" and not wrong and not report.tampering_suspected:
        return None
    return VerifyFailure(
        planted=tuple(sorted(planted)),
        seed=seed,
        wrong=tuple(wrong),
        invalid_reason=report.invalid_reason,
        tampering_reasons=report.tampering_reasons,
    )

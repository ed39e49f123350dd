"""The mutation test of the grader itself: a weakened judge must misread programs that we know.

Programs with known verdicts run once, the sandbox's results are kept, and every weakening of
the judge judges them all again. One that no program notices would show that some rule of the
judge is held by nothing. The lists are in `challenges/<slug>/mutants.py`.
"""

from __future__ import annotations

import importlib
import inspect
import json
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from multiprocessing import get_context
from typing import Any

from pydantic import BaseModel, ConfigDict

from grading import engine
from grading.challenge import Challenge
from grading.judgement import Judge, Judgement, Secrets
from sandbox.spec import Frame, RunResult, Sandbox

LEAST_CATCHES = 2


MOST_CATCHES = 4  # further ones are not looked for


class SelftestError(Exception):
    """A mutant does not fit the judge any more, or a case forges evidence that nobody gives."""


@dataclass(frozen=True)
class Case:
    """A program and what the judge must say of it.

    Args:
        verdicts: per bug id the verdict; "not:fixed" for any but fixed. Empty: invalid.
        kinds: per bug id the kind of evidence, where it matters.
        tampering: whether the judge must suspect it; None where that does not matter.
        forged: evidence records to falsify after the run: (step, record, changes of its data).
    """

    name: str
    source: str
    verdicts: Mapping[str, str]
    kinds: Mapping[str, str] = field(default_factory=dict)
    tampering: bool | None = False
    forged: tuple[tuple[str, str, Mapping[str, Any]], ...] = ()


@dataclass(frozen=True)
class Mutant:
    """One weakening of the judge: attributes of modules or classes that are replaced meanwhile.

    Args:
        changes: (owner, attribute, what to make of the present value).
    """

    name: str
    changes: tuple[tuple[Any, str, Callable[[Any], Any]], ...]


class MutantReport(BaseModel):
    """How many cases notice one mutant, and which."""

    model_config = ConfigDict(frozen=True)

    mutant: str
    caught_by: tuple[str, ...]  # at most MOST_CATCHES
    stale: str = ""  # why the mutant does not fit the judge any more


class SelftestReport(BaseModel):
    """The outcome of the mutation test."""

    model_config = ConfigDict(frozen=True)

    challenge: str
    cases: int
    misread: tuple[str, ...]  # cases that the judge as it stands gets wrong
    mutants: tuple[MutantReport, ...]

    @property
    def survivors(self) -> tuple[str, ...]:
        """Mutants that fewer than two cases notice, or that do not fit the judge any more."""
        return tuple(m.mutant for m in self.mutants if len(m.caught_by) < LEAST_CATCHES)

    @property
    def passed(self) -> bool:
        """Whether every case is read right, and every mutant noticed."""
        return not self.misread and not self.survivors


def selftest(
    challenge: Challenge,
    sandbox: Sandbox,
    *,
    seed: str,
    jobs: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> SelftestReport:
    """Run the challenge's cases and hold every mutant of its judge against them.

    Raises:
        SelftestError: a case forges evidence that its program does not give.
        SandboxUnavailable: the sandbox failed.
    """
    lists = importlib.import_module(f"challenges.{challenge.slug}.mutants")
    cases: Sequence[Case] = lists.CASES
    mutants: Sequence[Mutant] = lists.MUTANTS
    judge = engine.load_judge(challenge)
    runs = _kept_runs(challenge, judge, sandbox, cases, seed, jobs, progress)
    misread = [f"{case.name}: {wrong}" for case in cases if (wrong := _wrong(challenge, judge, case, runs, seed))]
    # Processes, since a mutant changes modules; forked ones, which have the runs already.
    with ProcessPoolExecutor(
        jobs, get_context("fork"), initializer=_Bench.put, initargs=(challenge, judge, cases, mutants, runs, seed)
    ) as pool:
        told = list(pool.map(_Bench.held_against, range(len(mutants))))
    return SelftestReport(challenge=challenge.slug, cases=len(cases), misread=tuple(misread), mutants=tuple(told))


class _Bench:
    """What a forked process holds mutants against."""

    at: tuple[Challenge, Judge, Sequence[Case], Sequence[Mutant], Mapping[str, RunResult], str]

    @classmethod
    def put(cls, *parts: Any) -> None:
        cls.at = parts

    @classmethod
    def held_against(cls, number: int) -> MutantReport:
        challenge, judge, cases, mutants, runs, seed = cls.at
        mutant = mutants[number]
        try:
            with applied(mutant):
                noticed = (case.name for case in cases if _wrong(challenge, judge, case, runs, seed))
                return MutantReport(mutant=mutant.name, caught_by=tuple(islice(noticed, MOST_CATCHES)))
        except SelftestError as error:
            return MutantReport(mutant=mutant.name, caught_by=(), stale=str(error))


def _kept_runs(
    challenge: Challenge,
    judge: Judge,
    sandbox: Sandbox,
    cases: Sequence[Case],
    seed: str,
    jobs: int,
    progress: Callable[[int, int], None] | None,
) -> dict[str, RunResult]:
    """Each distinct program's run; cases that only forge evidence share one."""

    def run(source: str) -> RunResult:
        submission = engine.Submission("case.py", source.encode())
        return sandbox.run(engine.build_job(submission, challenge, judge.plan(Secrets(seed), challenge.manifest)))

    programs = list(dict.fromkeys(case.source for case in cases))
    found: dict[str, RunResult] = {}
    with ThreadPoolExecutor(max_workers=jobs) as pool:
        for source, result in zip(programs, pool.map(run, programs), strict=True):
            found[source] = result
            if progress is not None:
                progress(len(found), len(programs))
    return {case.name: forged(found[case.source], case.forged) for case in cases}


def forged(run: RunResult, changes: Sequence[tuple[str, str, Mapping[str, Any]]]) -> RunResult:
    """The run as if some evidence had come out differently.

    Raises:
        SelftestError: there is no such record.
    """
    for step_name, record, data in changes:
        touched = 0
        steps = []
        for step in run.steps:
            frames = []
            for frame in step.frames:
                header = json.loads(frame.header)
                if step.name == step_name and header.get("name") == record:
                    header["data"] = {**header["data"], **data}
                    frame = Frame(json.dumps(header).encode(), frame.payload)
                    touched += 1
                frames.append(frame)
            steps.append(replace(step, frames=tuple(frames)))
        if not touched:
            raise SelftestError(f"step {step_name} told nothing called {record}")
        run = replace(run, steps=tuple(steps))
    return run


def _wrong(challenge: Challenge, judge: Judge, case: Case, runs: Mapping[str, RunResult], seed: str) -> str:
    """What the judge as it is at the moment gets wrong about a case; empty for nothing."""
    try:
        found = judge.judge(Secrets(seed), challenge.manifest, runs[case.name])
    except Exception as error:  # a mutant that breaks the judge is noticed, too
        return f"{type(error).__name__}: {error}"
    return "; ".join(_differences(case, found))


def _differences(case: Case, found: Judgement) -> Iterator[str]:
    seen = {bug.bug_id: bug for bug in found.bugs}
    for bug_id, wanted in case.verdicts.items():
        verdict = seen[bug_id].verdict.value if bug_id in seen else "invalid"
        met = verdict != "fixed" if wanted == "not:fixed" else verdict == wanted
        if not met or verdict == "invalid":
            yield f"{bug_id} is {verdict}, not {wanted}"
    if not case.verdicts and seen:
        yield "it was graded, though it cannot be"
    for bug_id, kind in case.kinds.items():
        if bug_id in seen and seen[bug_id].evidence.kind.value != kind:
            yield f"{bug_id} rests on {seen[bug_id].evidence.kind.value}, not on {kind}"
    if case.tampering is not None and bool(found.tampering) is not case.tampering:
        yield f"tampering suspected: {bool(found.tampering)}"


# -- mutants ------------------------------------------------------------------------------


@contextmanager
def applied(mutant: Mutant) -> Iterator[None]:
    """The judge under this mutant."""
    originals: list[tuple[Any, str, Any]] = []
    try:
        for owner, name, change in mutant.changes:
            if name not in vars(owner):
                raise SelftestError(f"{mutant.name}: {owner.__name__} has no {name} any more")
            original = vars(owner)[name]
            originals.append((owner, name, original))
            setattr(owner, name, change(original))
        yield
    finally:
        for owner, name, original in reversed(originals):
            setattr(owner, name, original)


def answering(value: Any) -> Callable[[Any], Any]:
    """A function that gives `value` whatever it is asked."""
    return lambda _: lambda *args, **kwargs: value


def constant(value: Any) -> Callable[[Any], Any]:
    """Another constant."""
    return lambda _: value


def edited(*edits: tuple[str, str]) -> Callable[[Any], Any]:
    """The same function with some of its text replaced.

    Raises:
        SelftestError: the text does not occur exactly once.
    """

    def change(function: Any) -> Any:
        inner: Any = function.fget if isinstance(function, property) else function
        source = textwrap.dedent(inspect.getsource(inner))
        for old, new in edits:
            if source.count(old) != 1:
                raise SelftestError(f"{inner.__name__} has {old!r} {source.count(old)} times, not once")
            source = source.replace(old, new)
        scratch: dict[str, Any] = {}
        code = compile("from __future__ import annotations\n" + source, f"<mutant of {inner.__name__}>", "exec")
        exec(code, inner.__globals__, scratch)
        return scratch[inner.__name__]

    return change

"""Decides the eight bugs of `spiral`, outside the sandbox.

For each bug there are up to three sights: the program's own run (`real`), the same program
on few rows, watched closely (`mini`), and single calls of its functions (`calls`). The run
decides where they disagree, since that is where a bug does harm; the calls decide where
the run could not get that far, and they carry the evidence that is hardest to forge:
values computed here from secrets.
"""

from __future__ import annotations

from collections.abc import Sequence

from challenges.spiral import findings, sights
from challenges.spiral.sights import CALLS, MINI, RUN, F, N, Q
from challenges.spiral.steps import plan
from challenges.spiral.words import EXPECTED
from grading.challenge import Manifest
from grading.evidence import integer
from grading.judgement import BugFinding, Judgement, Secrets, SeenRun, Sight
from grading.trace import Table
from grading.verdict import Evidence, EvidenceKind
from sandbox.spec import RunResult, RunStatus

__all__ = ["judge", "plan"]

ONCE = {
    "calls": ("load", *(f"calls.{name}" for name in ("validate.modes", "validate.result", "train.result"))),
    "mini": (
        "mini.forced",
        "mini.main",
        "mini.order",
        "mini.summary",
        "mini.direct.summary",
        "mini.redirected.summary",
    ),
    "ghost": (),
    "real": ("real.ending", "real.goal", "real.history", "real.summary"),
}
# What each step leaves where it came to its end: one name of each tuple.
ALWAYS = {
    "calls": (("calls.validate.modes", "calls.validate.error"), ("calls.leak", "calls.leak.error")),
    "mini": (("mini.summary",), ("mini.forced", "mini.forced.error")),
    "ghost": (("ghost.run",),),
    "real": (("real.summary",),),
}
TWO_FACES = 2  # bugs that are mended wherever it is looked at closely, and not in its own run
CUDA_CONTEXT_BYTES = 100 << 20  # less than any program on the GPU holds: CUDA itself takes several hundred


def judge(secrets: Secrets, manifest: Manifest, run: RunResult) -> Judgement:
    """Decide every bug, the goal, regressions, bonus and doubts."""
    seen = SeenRun.of(run)
    reason = _invalid_reason(seen, manifest)
    goal = findings.goal(secrets, manifest, seen)
    if reason is not None:
        return Judgement(invalid_reason=reason, bugs=(), goal=goal)
    real, mini = Table.of(seen, "real"), Table.of(seen, "mini")
    if not mini.trained_any():
        mini = Table.of(seen, "mini.redirected", step="mini")
    by_bug = sights.sights_by_bug(secrets, seen, real, mini)
    doubts = [*_doubts(seen), *_out_of_sight(seen, real, mini)]
    conflicts, why_open = [], _why_open(seen)
    distrust = "the program reached into the tools that measure it, so a good reading proves nothing" if doubts else ""
    if not doubts and _unseen(seen, real):
        distrust = "its own run ended well and no training was seen in it, so this proves nothing"
    told = {bug.id: [s for s in by_bug[bug.id] if s is not None] for bug in manifest.bugs}
    for bug in manifest.bugs:
        if conflict := _conflict(told[bug.id]):
            conflicts.append(f"bug {bug.number} ({bug.id}): {conflict}")
    if not distrust and len(conflicts) >= TWO_FACES:
        distrust = "the program does otherwise in its own run than where it is looked at closely"
    return Judgement(
        invalid_reason=None,
        bugs=tuple(_decide(bug.id, told[bug.id], distrust, why_open) for bug in manifest.bugs),
        goal=goal,
        regressions=tuple(findings.regressions(secrets, seen, real, mini)),
        bonus=tuple(findings.bonus(seen, real)),
        tampering=tuple([*doubts, *conflicts, *findings.false_history(secrets, seen)]),
        run_error=sights.run_error(seen),
    )


def _why_open(seen: SeenRun) -> str:
    """Why something could not be seen, as far as the steps' endings tell."""
    late = [step.name for step in seen.run.steps if step.status is RunStatus.TIME_LIMIT]
    error = sights.run_error(seen)
    if error is not None:
        return f"the program crashed before this could be seen: {error}"[:300]
    if late:
        return f"the time limit came before this could be seen (in step {late[0]})"
    return "the program never got to where this could be seen"


def _conflict(told: Sequence[Sight]) -> str | None:
    """Is the bug mended wherever the program is looked at closely, and not in its own run?"""
    conclusive = [s for s in told if s.verdict is not Q]
    if not conclusive or conclusive[0].source != RUN or conclusive[0].verdict is not N:
        return None
    # One of them alone may be an honest half-mend that a single call cannot tell.
    if {MINI, CALLS} <= {s.source for s in conclusive if s.verdict is F}:
        return "mended whenever it is called singly or on few rows, not in the program's own run"
    return None


def _decide(bug_id: str, told: Sequence[Sight], distrust: str, why_open: str) -> BugFinding:
    """The first conclusive sight decides; the others are told beside it. `distrust`: why none may be called fixed."""
    conclusive = [s for s in told if s.verdict is not Q]
    if not conclusive:
        seen = "; ".join(s.seen for s in told) or why_open
        return _finding(bug_id, Sight(Q, seen, EvidenceKind.NONE, "nothing conclusive"))
    first = conclusive[0]
    agreeing = [s for s in conclusive if s.verdict is first.verdict]
    differing = [s for s in conclusive if s.verdict is not first.verdict]
    kind = min((s.kind for s in agreeing), key=list(EvidenceKind).index)
    notes = [note for s in told for note in s.notes]
    notes += [f"Seen otherwise in {s.source}: {s.seen}." for s in differing]
    source = " and ".join(dict.fromkeys(s.source for s in agreeing))
    if first.verdict is F and distrust:
        return _finding(bug_id, Sight(Q, f"{first.seen}; but {distrust}", EvidenceKind.NONE, source, tuple(notes)))
    return _finding(bug_id, Sight(first.verdict, first.seen, kind, source, tuple(notes)))


def _finding(bug_id: str, sight: Sight) -> BugFinding:
    words = EXPECTED[bug_id]
    plain = {F: words.plain_fixed, N: words.plain_not_fixed, Q: words.plain_open}[sight.verdict]
    evidence = Evidence(
        summary=sight.seen[:1].upper() + sight.seen[1:],
        expected=words.expected,
        seen=sight.seen,
        kind=sight.kind,
        source=sight.source,
        plain=plain,
        notes=sight.notes,
    )
    return BugFinding(bug_id, sight.verdict, evidence, words.steps)


def _invalid_reason(seen: SeenRun, manifest: Manifest) -> str | None:
    calls = seen.step("calls")
    record = seen.log("calls").first("load")
    if record is None:
        return _unloaded_reason(calls.status if calls else RunStatus.NOT_RUN)
    present = set(record.get("callables") or [])
    missing = [name for name in manifest.required_names if name not in present]
    if not missing:
        return None
    error = record.get("error")
    if isinstance(error, dict):
        what = f"{error.get('type')}: {error.get('text')}"[:300]
        return f"the file cannot be loaded: {what}"
    return f"the file does not define {', '.join(missing)}; keep these names, the checks call them"


def _unloaded_reason(status: RunStatus) -> str:
    return {
        RunStatus.TIME_LIMIT: "the file did not finish loading in time: code at module level runs too long",
        RunStatus.MEMORY_LIMIT: "the file ran out of memory while it was being loaded",
        RunStatus.OUTPUT_LIMIT: "the file flooded its output while it was being loaded",
        RunStatus.SIGNALED: "the file killed its own process while it was being loaded",
    }.get(status, "the file ended the interpreter while it was being loaded")


def _doubts(seen: SeenRun) -> list[str]:
    """Signs that the program reached into what measures it."""
    found = []
    for step in seen.run.steps:
        log = seen.log(step.name)
        for record in log.all(f"{step.name}.integrity"):
            changed = record.get("changed")
            if isinstance(changed, list) and changed:
                names = ", ".join(str(n)[:60] for n in changed[:5])
                found.append(f"in step {step.name} it replaced {names}")
        if log.problems:
            found.append(f"in step {step.name} evidence was malformed: {log.problems[0]}")
        twice = [name for name in (*ONCE.get(step.name, ()), f"{step.name}.integrity") if len(log.all(name)) > 1]
        machines = [bool(record.get("available")) for record in log.all("ghost.run")]
        if twice or len(machines) > len(set(machines)):
            found.append(f"in step {step.name} evidence came twice")
        complete = all(any(log.all(name) for name in names) for names in ALWAYS.get(step.name, ()))
        if step.status is RunStatus.OK and not (complete and log.all(f"{step.name}.integrity")):
            found.append(f"step {step.name} was ended from inside before its evidence was complete")
    on_gpu, used = sights.passes_on_gpu(seen), seen.run.gpu
    if on_gpu and used is not None and used.peak_memory_bytes < CUDA_CONTEXT_BYTES:
        found.append("it says to have trained on the GPU, and the GPU's driver knows nothing of it")
    return list(dict.fromkeys(found))


def _out_of_sight(seen: SeenRun, real: Table, mini: Table) -> list[str]:
    """Does its own run train where the watch does not see it, although it is seen to on few rows?"""
    ending = seen.log("real").first("real.ending")
    if ending is not None and integer(ending.get("passes")) > 20:
        return ["it trains once more after its main part has ended"]
    if ending is not None and integer(ending.get("threads")) > 0:
        return ["a thread of its own goes on after its main part has ended"]
    if not sights.ended_well(seen):
        return []
    if not mini.trained_any():
        at_work = integer(real.summary.get("loader_turns")) >= 5 or integer(real.summary.get("steps")) >= 5
        return (
            ["it reads its data and ends well, yet nothing is seen to train"] if at_work and _unseen(seen, real) else []
        )
    inside = real.within("train")
    with_graph = inside[real.column(inside, "graph") > 0]
    untrained = len(with_graph) >= 20 and (real.column(with_graph, "trained") > 0).mean() < 0.2
    unwatched = real.calls_of("validate") >= 8 and 0 < real.calls_of("train") < 0.25 * real.calls_of("validate")
    uncounted = any(taken > 1.2 * passes + 5 for passes, taken in real.passes_and_steps())
    if real.trained_any() and not (untrained or unwatched or uncounted):
        return []
    return ["on few rows it trains in plain sight, in its own run it does not"]


def _unseen(seen: SeenRun, real: Table) -> bool:
    """Whether its own run came to a good end and no training was seen in it: then nothing else shows what it does."""
    return sights.ended_well(seen) and not real.trained_any()

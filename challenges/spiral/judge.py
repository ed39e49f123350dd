"""Decides the eight bugs of `spiral`, outside the sandbox.

For each bug there are up to three sights: the program's own run (`real`), the same program
on few rows, watched closely (`mini`), and single calls of its functions (`calls`). The run
decides where they disagree, since that is where a bug does harm; the calls decide where
the run could not get that far, and they carry the evidence that is hardest to forge:
values computed here from secrets.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from challenges.spiral import data
from challenges.spiral.words import EXPECTED
from grading.challenge import Manifest
from grading.evidence import Record, integer, number
from grading.judgement import BugFinding, Judgement, Plan, Secrets, SeenRun, Sight, pack
from grading.trace import Backwards, OptimizerSeen, Table, order_likeness
from grading.verdict import Evidence, EvidenceKind, Finding, GoalReport, Verdict
from sandbox.spec import RunResult, RunStatus, Step

CLASSES = 4
VALUE_TOLERANCE = 1e-5  # float32 against float64, losses of order one
MAGNITUDES = (0.0, 0.25, 1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 16384.0)
BATCHES, BATCH_ROWS = 3, 16
TRAIN_BATCHES = 6
LEAK_BATCHES, LEAK_ROWS, BALLAST_BYTES = 64, 8, 3 << 19
SGD_LR = 0.5
MINI_EPOCHS = 4
LATER_EPOCHS = 8  # whose order is compared; all of them would take the judge a quarter of a second
GHOST_CALLS = 60  # calls of modules, inner ones counted, at least: a handful of batches
ONCE = {
    "calls": ("load", *(f"calls.{name}" for name in ("validate.modes", "validate.result", "train.result", "main"))),
    "mini": ("mini.forced", "mini.order", "mini.summary", "mini.direct.summary", "mini.redirected.summary"),
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
LONGEST_ACCUMULATION = 150  # batches between two steps: one and a half epochs; more is no accumulation
LARGEST_LR = 0.0101  # the interface's bound of 0.01, and rounding
FAR_MOVE = 5.0  # of raw scores, root mean square; sound steps move them by less than 1
HISTORY = ("train_loss", "train_acc", "val_loss", "val_acc")
GENTLE_UPDATE = 0.02  # root mean square of what a sound step adds to the weights that are watched

MODULES = (
    "grading.probes.columns",
    "grading.probes.inplace",
    "grading.probes.ledger",
    "grading.probes.values",
    "grading.probes.recorder",
    "grading.probes.ghost",
    "grading.probes.integrity",
    "grading.probes.program",
    "challenges.spiral.probes",
)

F, N, Q = Verdict.FIXED, Verdict.NOT_FIXED, Verdict.INCONCLUSIVE
VALUE, MEASURED, OBSERVED = EvidenceKind.VALUE, EvidenceKind.MEASUREMENT, EvidenceKind.OBSERVATION
REAL_GPU = "its own run on a real GPU"
ACCELERATORS = ("cuda", "xpu", "mps")
CUDA_CONTEXT_BYTES = 100 << 20  # less than any program on the GPU holds: CUDA itself takes several hundred
RUN, MINI, CALLS, GHOST = "its own run", "a short run of its main()", "single calls of its functions", "a pretended GPU"
DIRECT, LOADER = "calls of its functions with its own model", "two readings of its training loader"


# -- plan ---------------------------------------------------------------------------------


def plan(secrets: Secrets, manifest: Manifest) -> Plan:
    """The four steps, with inputs drawn from `secrets`."""
    entry = "challenges.spiral.probes:"
    names = list(manifest.required_names)
    seed = int(secrets.rng("seed").integers(1 << 31))
    # What the watch looks at is drawn from another stream than what the program's own generators are set to.
    watch_seed = int(secrets.rng("watch").integers(1 << 31))
    common = {"seed": seed, "watch_seed": watch_seed, "required_names": names}
    inputs = {k: pack(v) for k, v in sentinel_inputs(secrets).items()}
    draws = secrets.rng("draws")
    shrink = {
        "train_draw": pack(draws.random(int(draws.integers(300, 340)))),
        "val_draw": pack(draws.random(int(draws.integers(88, 110)))),
    }
    forced = secrets.rng("forced")
    forced_y = forced.permutation(np.arange(32) % CLASSES).astype(np.int64)
    forced_x = forced.uniform(-1, 1, (32, 2)).astype(np.float32)
    held_out_x, _ = held_out_rows(secrets)
    expected_x, _ = data.default_validation_rows()
    sizes = {"batch_rows": BATCH_ROWS, "leak_batch_rows": LEAK_ROWS, "ballast_bytes": BALLAST_BYTES, "sgd_lr": SGD_LR}
    run = manifest.limits
    ghost_calls = int(GHOST_CALLS * 10.0 ** draws.random())  # how long a pretence must be kept up nobody can foresee
    return Plan(
        modules=MODULES,
        steps=(
            Step("calls", entry + "calls", {**common, **sizes}, inputs),
            Step(
                "mini",
                entry + "mini",
                {**common, "epochs": MINI_EPOCHS, "max_forwards": 1200, "magnitudes": list(MAGNITUDES)},
                {**shrink, "forced_x": pack(forced_x), "forced_y": pack(forced_y)},
                unless_hung="calls",
            ),
            Step(
                "ghost",
                entry + "ghost",
                {**common, "forwards": [GHOST_CALLS, ghost_calls]},  # without a GPU, with one
                shrink,
                unless_hung="calls",
            ),
            Step(
                "real",
                entry + "real",
                {**common, "max_snapshots": 64},
                {"held_out_x": pack(held_out_x), "expected_val_x": pack(expected_x)},
                wall_time_s=run.wall_time_s,
                cpu_time_s=run.cpu_time_s,
                sees_gpu=True,  # the probes hand tensors of the CPU to functions that would look for the GPU
                apart=True,  # it takes longest by far
            ),
        ),
    )


def sentinel_inputs(secrets: Secrets) -> dict[str, NDArray[Any]]:
    """Weights, mode table and batches of the sentinel model."""
    rng = secrets.rng("sentinel")

    def batches(rows: int) -> tuple[NDArray[Any], NDArray[Any]]:
        x = rng.normal(0, 1, (rows, 2)).astype(np.float32)
        return x, rng.permutation(np.arange(rows) % CLASSES).astype(np.int64)

    val_x, val_y = batches(BATCHES * BATCH_ROWS)
    train_x, train_y = batches(TRAIN_BATCHES * BATCH_ROWS)
    leak_x, leak_y = batches(LEAK_BATCHES * LEAK_ROWS)
    return {
        "weight": rng.normal(0, 1, (CLASSES, 2)).astype(np.float32),
        "bias": rng.normal(0, 0.3, CLASSES).astype(np.float32),
        "table": rng.normal(0, 1.2, (2, 2, 2, CLASSES)).astype(np.float32),
        **{"val_x": val_x, "val_y": val_y, "train_x": train_x, "train_y": train_y},
        **{"leak_x": leak_x, "leak_y": leak_y},
    }


def held_out_rows(secrets: Secrets) -> tuple[NDArray[Any], NDArray[Any]]:
    """Fresh rows of the spiral, 250 of each class, and their labels, which stay here."""
    return data.spiral(secrets.rng("held-out"), 250, CLASSES, 0.2)


# -- judge --------------------------------------------------------------------------------


def judge(secrets: Secrets, manifest: Manifest, run: RunResult) -> Judgement:
    """Decide every bug, the goal, regressions, bonus and doubts."""
    seen = SeenRun.of(run)
    reason = _invalid_reason(seen, manifest)
    goal = _goal(secrets, manifest, seen)
    if reason is not None:
        return Judgement(invalid_reason=reason, bugs=(), goal=goal)
    real, mini = Table.of(seen, "real"), Table.of(seen, "mini")
    if not mini.trained_any():
        mini = Table.of(seen, "mini.redirected", step="mini")
    direct = Table.of(seen, "mini.direct", step="mini")
    closely = _zero_grad(mini, MINI, least=4)
    # A call keeps what the run keeps, and the close look sees what the discreet one cannot.
    sights: dict[str, list[Sight | None]] = {
        "softmax": _unless(
            _bent_gradient(seen),
            [_softmax_run(real, mini), _softmax(seen), _softmax_plain(real, RUN), _softmax_plain(mini, MINI)],
        ),
        "zero-grad": [*_worse_first(_zero_grad_run(real, mini), closely), _zero_grad_call(secrets, seen)],
        "loss-leak": _worse_first(_leak_run(real, RUN), _leak_run(direct, DIRECT), _leak_call(seen)),
        "eval": _eval_sights(secrets, seen, real, mini, direct),
        "no-grad": [
            _graph_run(real, RUN),
            _graph_run(mini, MINI),
            *_worse_first(_graph_run(direct, DIRECT), _graph_call(secrets, seen)),
        ],
        "device": [_fails_without_gpu(seen), _device_run(seen), _device(seen)],
        "shuffle": _first_conclusive(_shuffle(secrets, real, RUN), _shuffle(secrets, mini, MINI))
        or [_shuffle_loader(seen)],
        "lr": _unless(_far_moves(mini), _first_conclusive(_rate(real, RUN), _rate(mini, MINI)) or [_rate_made(real)]),
    }
    doubts = [*_doubts(seen), *_out_of_sight(seen, real, mini)]
    bugs, conflicts, why_open = [], [], _why_open(seen)
    distrust = "the program reached into the tools that measure it, so a good reading proves nothing" if doubts else ""
    if not doubts and _unseen(seen, real):
        distrust = "its own run ended well and no training was seen in it, so this proves nothing"
    for bug in manifest.bugs:
        finding, conflict = _decide(bug.id, [s for s in sights[bug.id] if s is not None], distrust, why_open)
        bugs.append(finding)
        if conflict:
            conflicts.append(f"bug {bug.number} ({bug.id}): {conflict}")
    return Judgement(
        invalid_reason=None,
        bugs=tuple(bugs),
        goal=goal,
        regressions=tuple(_regressions(secrets, seen, real, mini)),
        bonus=tuple(_bonus(seen, real)),
        tampering=tuple([*doubts, *conflicts, *_false_history(secrets, seen)]),
        run_error=_run_error(seen),
    )


def _worse_first(*sights: Sight | None) -> list[Sight | None]:
    return sorted(sights, key=lambda sight: sight is None or sight.verdict is not N)


def _first_conclusive(*sights: Sight | None) -> list[Sight | None]:
    """The sights, where one of them is conclusive; else none."""
    return list(sights) if any(sight is not None and sight.verdict is not Q for sight in sights) else []


def _unless(doubt: Sight | None, sights: list[Sight | None]) -> list[Sight | None]:
    """The sights; where there is a doubt, it stands for those that say fixed."""
    return sights if doubt is None else [doubt, *(sight for sight in sights if sight is None or sight.verdict is not F)]


def _why_open(seen: SeenRun) -> str:
    """Why something could not be seen, as far as the steps' endings tell."""
    late = [step.name for step in seen.run.steps if step.status is RunStatus.TIME_LIMIT]
    error = _run_error(seen)
    if error is not None:
        return f"the program crashed before this could be seen: {error}"[:300]
    if late:
        return f"the time limit came before this could be seen (in step {late[0]})"
    return "the program never got to where this could be seen"


def _decide(bug_id: str, sights: Sequence[Sight], distrust: str, why_open: str) -> tuple[BugFinding, str | None]:
    """The first conclusive sight decides; the others are told beside it. `distrust`: why none may be called fixed."""
    conclusive = [s for s in sights if s.verdict is not Q]
    if not conclusive:
        seen = "; ".join(s.seen for s in sights) or why_open
        return _finding(bug_id, Sight(Q, seen, EvidenceKind.NONE, "nothing conclusive")), None
    first = conclusive[0]
    agreeing = [s for s in conclusive if s.verdict is first.verdict]
    differing = [s for s in conclusive if s.verdict is not first.verdict]
    kind = min((s.kind for s in agreeing), key=list(EvidenceKind).index)
    notes = [note for s in sights for note in s.notes]
    notes += [f"Seen otherwise in {s.source}: {s.seen}." for s in differing]
    source = " and ".join(dict.fromkeys(s.source for s in agreeing))
    conflict = None
    if first.source == RUN and first.verdict is N and {MINI, CALLS} <= {s.source for s in differing}:
        # One of them alone may be an honest half-mend that a single call cannot tell.
        conflict = "mended whenever it is called singly or on few rows, not in the program's own run"
    if first.verdict is F and distrust:
        return _finding(
            bug_id, Sight(Q, f"{first.seen}; but {distrust}", EvidenceKind.NONE, source, tuple(notes))
        ), conflict
    return _finding(bug_id, Sight(first.verdict, first.seen, kind, source, tuple(notes))), conflict


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


# -- bug 1: softmax before cross-entropy ----------------------------------------------------


def _softmax(seen: SeenRun) -> Sight | None:
    """Is the loss free of squashing, as a function of the final scores?

    With scores forced to m on one class, let D(m) = loss when that class is wrong minus
    loss when it is right. For cross-entropy on raw scores D(m) = w * m exactly, whatever
    the smoothing, weighting or scaling; a squashed score makes D flatten out, and no
    temperature repairs that. Losses that are not linear (hinge) still keep growing.
    """
    rows = _forced_rows(seen)
    if rows is None:
        return None
    verdicts: dict[str, tuple[bool, float]] = {}
    for name, columns in (("training", (3, 2)), ("validation", (4,))):
        for column in columns:
            curve = _unsquashed({(row[0], row[1]): number(row[column]) for row in rows})
            if curve is not None:
                verdicts[name] = curve
                break
    # Training that always failed before it had a loss gave nothing, or always the same that stands in for it.
    never_trained = all(row[3] is None for row in rows) and len({row[2] for row in rows}) == 1
    if not verdicts or ("training" not in verdicts and not never_trained):
        return None
    squashed = [name for name, (free, _) in verdicts.items() if not free]
    flat = min(verdicts.values(), key=lambda v: v[1])[1]
    if squashed:
        where = " and ".join(squashed)
        seen_text = (
            f"the {where} loss flattens out: at scores of 16 it keeps {flat:.0%} of its slope, so scores are squashed"
        )
        notes = ("Mended in one of training and validation only.",) if len(squashed) == 1 and len(verdicts) == 2 else ()
        return Sight(N, seen_text, VALUE, MINI, notes)
    return Sight(F, f"the loss follows the raw scores ({flat:.0%} of its slope left at scores of 16)", VALUE, MINI)


def _forced_rows(seen: SeenRun) -> list[list[Any]] | None:
    """What the losses were with scores forced: right or wrong, magnitude, then what `mini.forced` tells of each."""
    record = seen.log("mini").first("mini.forced")
    told = record.get("rows") if record is not None else None
    return [row for row in told if isinstance(row, list) and len(row) == 7] if isinstance(told, list) else None


def _finite(*told: Any) -> tuple[float, ...] | None:
    """The numbers, where each is one and finite."""
    found = [value for value in map(number, told) if value is not None and math.isfinite(value)]
    return tuple(found) if len(found) == len(told) else None


def _bent_gradient(seen: SeenRun) -> Sight | None:
    """Does the gradient that comes back to the scores belong to the loss? None where it does, or is not known.

    Between two magnitudes the loss changes by its slope times their distance, and the slope lies between those at
    both ends, or nearly so: twice as much is allowed.
    """
    rows, strange = _forced_rows(seen) or [], 0
    for right in (1, 0):
        points = [_finite(row[1], row[5], row[6]) for row in rows if row[0] == right]
        near = [point for point in points if point is not None and point[0] <= 16.0]
        for (m, loss, slope), (m_next, loss_next, slope_next) in itertools.pairwise(near):
            low, high = sorted(((m_next - m) * slope, (m_next - m) * slope_next))
            spare = max(abs(low), abs(high)) + 0.02
            strange += not low - spare <= loss_next - loss <= high + spare
    if strange < 2:
        return None
    return Sight(Q, "the gradient that comes back to the scores is not that of the loss", OBSERVED, MINI)


def _softmax_run(real: Table, mini: Table) -> Sight | None:
    """Does its own run give or train on probabilities, although it used raw scores on few rows?"""
    twice = real.backwards.squashed_share()
    if twice is not None and twice > 0.2:
        text = f"in {twice:.0%} of the batches looked at in {RUN} the loss is that of softmaxed outputs"
        return Sight(N, text, OBSERVED, RUN)
    on_few, in_run = mini.probability_share(), real.probability_share()
    if on_few != 0.0 or in_run is None or in_run < 0.05:  # a batch of a collapsed model may look like anything
        return None
    return Sight(N, f"{in_run:.0%} of its training outputs are probabilities, unlike on few rows", OBSERVED, RUN)


def _softmax_plain(table: Table, source: str) -> Sight | None:
    """For a program that breaks before its scores can be forced: is its loss cross-entropy of raw outputs?"""
    plain, share = table.backwards.plain_share(), table.probability_share()
    if plain is None or plain < 0.9 or share != 0.0:
        return None
    return Sight(F, f"in {plain:.0%} of the batches looked at the loss is that of raw scores", OBSERVED, source)


def _unsquashed(curve: dict[tuple[Any, Any], float | None]) -> tuple[bool, float] | None:
    """Whether the loss follows the scores, and the share of its slope that is left at 16.

    Free of squashing is a loss that keeps growing as scores become ever more confidently
    wrong; or one that is bounded only by a guard against overflow (log(p + eps), clamped
    scores): exactly linear up to its bound, and next to nothing when scores are confidently
    right. A softmax, tanh or normalisation bends long before, whatever its temperature.
    """

    def value(right: int, magnitude: float) -> float:
        found = curve.get((right, magnitude))
        return math.nan if found is None else found

    difference = {m: value(0, m) - value(1, m) for m in MAGNITUDES[1:]}
    smallest = MAGNITUDES[1]
    slope = difference[smallest] / smallest
    if not math.isfinite(slope) or slope < 1e-5:
        return None  # what falls as scores get worse is no loss: an accuracy, where the two were returned swapped
    flat = difference[16.0] / 16.0 / slope
    flat = flat if math.isfinite(flat) else 1.0
    last, before = MAGNITUDES[-1], MAGNITUDES[-2]
    if value(0, last) == math.inf or (value(0, last) - value(0, before)) / (last - before) / slope >= 0.05:
        return not _flat_on_the_way(difference, slope), flat
    finite = {m: d / slope for m, d in difference.items() if math.isfinite(d)}
    bound = max(finite.values())
    linear = [m for m, d in finite.items() if d < 0.8 * bound]
    bent = any(abs(finite[m] / m - 1.0) > 0.05 for m in linear)
    floor = min((value(1, m) for m in MAGNITUDES if math.isfinite(value(1, m))), default=math.nan)
    reaches_zero = floor <= 0.1 * abs(value(1, 0.0))
    return len(linear) >= 2 and not bent and reaches_zero, flat


def _flat_on_the_way(difference: Mapping[float, float], slope: float) -> bool:
    """Whether a loss that grows for huge scores is level where a trained model's scores lie."""
    usual = [m for m in MAGNITUDES[1:] if m <= 64 and math.isfinite(difference[m])]
    rises = [(difference[b] - difference[a]) / (b - a) for a, b in itertools.pairwise(usual)]
    return any(rise / slope < 0.05 for rise in rises)


# -- bug 2: gradients never cleared -----------------------------------------------------------


def _zero_grad(table: Table, source: str, least: int) -> Sight | None:
    """Does each step use the gradients of its own backward passes, and only those?"""
    steps = table.steps
    checked = steps.checked()
    if len(checked) < 2:
        return _hand_written_updates(table, source)
    carried, thrown = steps.carried(), steps.thrown_away()
    told = f"{len(checked)} steps looked at in {source}"
    if thrown >= 0.5 * len(checked):
        return Sight(N, f"the gradients are cleared before the step can use them ({told})", OBSERVED, source)
    if carried >= max(1, 0.05 * (len(checked) - 1)):
        return Sight(N, f"{carried} of {len(checked)} steps still carry gradients of earlier batches", OBSERVED, source)
    if len(checked) < least:
        return Sight(Q, f"only {len(checked)} optimizer steps were seen in {source}", OBSERVED, source)
    return Sight(F, f"every step uses the gradients of its own batch only ({told})", OBSERVED, source)


def _zero_grad_run(real: Table, mini: Table) -> Sight | None:
    """In its own run, unhooked: does a backward pass that follows a step find gradients left over?"""
    after = real.backwards.after_update()
    if len(after) < 20:
        return None
    pile = real.backwards.longest_pile()
    if pile > LONGEST_ACCUMULATION:
        return Sight(N, f"gradients pile up over {pile} batches in a row in {RUN}", OBSERVED, RUN)
    left = after.left_over()
    text = f"after {left} of {len(after)} steps the old gradients were still there in {RUN}"
    summed = real.backwards.summed_share()
    if summed is not None and summed > 0.3:
        told = f"in {RUN} {summed:.0%} of the steps use the sum of all gradients so far"
        return Sight(N, told, OBSERVED, RUN)
    strange, strange_on_few = real.backwards.disagreement(), mini.backwards.disagreement()
    if strange is not None and strange > 0.3 and strange_on_few is not None and strange_on_few < 0.05:
        told = f"in {RUN} {strange:.0%} of the steps use other gradients than those of their batch, unlike on few rows"
        return Sight(N, told, OBSERVED, RUN)
    if left < max(1, 0.05 * len(after)):
        return Sight(F, f"after each of {len(after)} steps in {RUN} the gradients had been cleared", OBSERVED, RUN)
    if after.overwritten() >= 0.9 * left:
        return Sight(Q, f"{text}, each time overwritten by those of one pass", OBSERVED, RUN)
    closely = _zero_grad(mini, MINI, least=4)
    if closely is not None and closely.verdict is F and mini.backwards.after_update().left_over() > 0:
        # Old gradients lie about and are overwritten, not added to: only the close look can tell.
        return Sight(Q, f"{text}, perhaps unused", OBSERVED, RUN)
    return Sight(N, text, OBSERVED, RUN)


def _hand_written_updates(table: Table, source: str) -> Sight | None:
    updates, dirty = integer(table.summary.get("updates_between")), integer(table.summary.get("dirty_at_backward"))
    if updates < 4:
        return None
    if dirty >= 0.05 * updates:
        return Sight(N, f"after {dirty} of {updates} updates the old gradients were still there", OBSERVED, source)
    return Sight(F, f"after each of {updates} updates the gradients had been cleared", OBSERVED, source)


def _zero_grad_call(secrets: Secrets, seen: SeenRun) -> Sight | None:
    """Compare the sentinel's weights with the trajectories of a right and of an accumulating loop."""
    final = seen.log("calls").first("calls.train.final")
    if final is None or "weight" not in final.arrays:
        return None
    inputs = sentinel_inputs(secrets)
    got = np.concatenate([final.arrays["weight"].ravel(), final.arrays["bias"].ravel()])
    for accumulate, verdict, text in (
        (False, F, "the weights after six steps equal those of a loop that clears its gradients"),
        (True, N, "the weights after six steps equal those of a loop that piles its gradients up"),
    ):
        wanted = np.concatenate([w.ravel() for w in trajectory(inputs, accumulate=accumulate)[0]])
        if got.shape == wanted.shape and np.abs(got - wanted).max() < 1e-4:
            return Sight(verdict, text, VALUE, CALLS)
    return _zero_grad(Table.of(seen, "calls.train", step="calls"), CALLS, least=3)


def trajectory(inputs: dict[str, NDArray[Any]], *, accumulate: bool) -> tuple[tuple[NDArray[Any], ...], float, float]:
    """Weights, mean loss and mean accuracy of softmax regression by SGD, with or without clearing."""
    weight, bias = inputs["weight"].astype(float), inputs["bias"].astype(float)
    grads = [np.zeros_like(weight), np.zeros_like(bias)]
    losses, hits = [], []
    for start in range(0, len(inputs["train_y"]), BATCH_ROWS):
        x = inputs["train_x"][start : start + BATCH_ROWS].astype(float)
        y = inputs["train_y"][start : start + BATCH_ROWS]
        scores = x @ weight.T + bias
        log_p = _log_softmax(scores)
        losses.append(-log_p[np.arange(len(y)), y].mean())
        hits.append((scores.argmax(1) == y).mean())
        error = (np.exp(log_p) - np.eye(CLASSES)[y]) / len(y)
        fresh = [error.T @ x, error.sum(0)]
        grads = [g + f for g, f in zip(grads, fresh, strict=True)] if accumulate else fresh
        weight, bias = weight - SGD_LR * grads[0], bias - SGD_LR * grads[1]
    return (weight, bias), float(np.mean(losses)), float(np.mean(hits))


def _log_softmax(scores: NDArray[Any]) -> NDArray[Any]:
    shifted = scores - scores.max(1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(1, keepdims=True)))


# -- bug 3: graphs kept alive -------------------------------------------------------------------


def _leak_run(table: Table, source: str) -> Sight | None:
    """Are graphs of the first half of an epoch still alive near its end?"""
    memory = table.memory
    batches, old = integer(memory.get("epoch_forwards")), integer(memory.get("max_old_alive"))
    past = integer(memory.get("past_epochs_alive"))
    if batches < 32:
        return None
    if old >= 3:
        return Sight(
            N, f"{old} graphs of the first half of an epoch of {batches} batches are still held", OBSERVED, source
        )
    if past >= 8:
        return Sight(N, f"{past} graphs of earlier epochs are still held", OBSERVED, source)
    return Sight(F, f"no graph outlives its batch ({batches} batches per epoch)", OBSERVED, source)


def _leak_call(seen: SeenRun) -> Sight | None:
    """Memory measured from outside, while each graph weighs a megabyte."""
    record, step = seen.log("calls").first("calls.leak"), seen.step("calls")
    # What a step of the same program needs without ballast, pages of shared libraries included.
    others = [s.peak_memory_bytes for s in (seen.step("mini"), seen.step("ghost")) if s and s.peak_memory_bytes]
    if record is None or step is None:
        return None
    batches, old = integer(record.get("batches")), integer(record.get("max_old_alive"))
    if batches < 32:
        return None
    grown = step.peak_memory_bytes - min(others, default=step.baseline_memory_bytes)
    share = grown / (batches * BALLAST_BYTES)
    weight = f"{batches} batches that weigh {BALLAST_BYTES / 1e6:.1f} MB each"
    text = f"{max(grown, 0) / 1e6:.0f} MB more were needed for {weight}"
    if old >= 3:
        return Sight(
            N, f"{old} of the first {batches // 2} graphs are still held after {batches}; {text}", MEASURED, CALLS
        )
    if share >= 0.8:
        return Sight(N, text, MEASURED, CALLS)
    if share <= 0.5:
        return Sight(F, text, MEASURED, CALLS)
    return Sight(Q, text, MEASURED, CALLS)


# -- bugs 4 and 5: mode and graph during validation ------------------------------------------------


def _eval_sights(secrets: Secrets, seen: SeenRun, real: Table, mini: Table, direct: Table) -> list[Sight | None]:
    """In its own run, on few rows, in calls; but where scores hang on the rest of their batch no flag tells."""
    mixing, mixing_on_few = real.batch_mixing_share(), mini.batch_mixing_share()
    calls = _worse_first(_eval_run(direct, DIRECT), _eval_call(secrets, seen))
    sights = [_eval_run(real, RUN), _eval_run(mini, MINI), *calls]
    if mixing == 0.0 or (sights[0] is not None and sights[0].verdict is N):
        return sights
    told = f"validation scores hang on the other rows of their batch in {RUN}"
    if mixing_on_few == 0.0:
        return [Sight(N, f"{told}, unlike on few rows", OBSERVED, RUN), *sights[1:]]
    return [Sight(Q, f"{told}, although every layer is in eval mode", OBSERVED, RUN)] if mixing > 0.5 else sights


def _eval_run(table: Table, source: str) -> Sight | None:
    forwards = table.validation_forwards()
    if not len(forwards):
        return None
    wrong = table.in_train_mode(forwards)
    told = f"{len(forwards)} validation batches in {source}"
    if wrong.any():
        return Sight(N, f"{int(wrong.sum())} of {told} ran with dropout or batch norm in train mode", OBSERVED, source)
    if not (table.column(forwards, "mode_layers") > 0).any():
        return Sight(Q, f"the model has no layer left that depends on the mode, in {source}", OBSERVED, source)
    return Sight(F, f"all {told} ran in eval mode", OBSERVED, source)


def _graph_run(table: Table, source: str) -> Sight | None:
    forwards = table.validation_forwards()
    if not len(forwards):
        return None
    wrong = int((table.column(forwards, "graph") > 0).sum())
    told = f"{len(forwards)} validation batches in {source}"
    if wrong:
        return Sight(N, f"{wrong} of {told} built a backward graph", OBSERVED, source)
    return Sight(F, f"none of {told} built a backward graph", OBSERVED, source)


def _eval_call(secrets: Secrets, seen: SeenRun) -> Sight | None:
    return _mode_call(
        secrets,
        seen,
        wrong=lambda mode: bool(mode[0] or mode[1]),
        right_text="the returned loss is the one that only eval mode gives",
        wrong_text="the returned loss is the one that train mode gives",
        observed=("every forward ran in eval mode", "forwards ran with dropout or batch norm in train mode"),
    )


def _graph_call(secrets: Secrets, seen: SeenRun) -> Sight | None:
    return _mode_call(
        secrets,
        seen,
        wrong=lambda mode: bool(mode[2]),
        right_text="the returned loss is the one that only a forward without a graph gives",
        wrong_text="the returned loss is the one that a forward with a backward graph gives",
        observed=("no forward built a backward graph", "forwards built a backward graph"),
    )


def _mode_call(
    secrets: Secrets,
    seen: SeenRun,
    *,
    wrong: Callable[[Sequence[int]], bool],
    right_text: str,
    wrong_text: str,
    observed: tuple[str, str],
) -> Sight | None:
    forwards = _sentinel_modes(seen)
    modes = decode_modes(secrets, seen)
    if modes is not None:
        bad = any(wrong(mode) for mode in modes) or any(wrong(mode) for mode in forwards)
        return Sight(N if bad else F, wrong_text if bad else right_text, VALUE, CALLS)
    if not forwards:
        return None
    bad = any(wrong(mode) for mode in forwards)
    return Sight(N if bad else F, observed[1] if bad else observed[0], OBSERVED, CALLS)


def _sentinel_modes(seen: SeenRun) -> list[list[int]]:
    record = seen.log("calls").first("calls.validate.modes")
    rows = record.get("seen") if record else None
    return [r for r in rows or [] if isinstance(r, list) and len(r) == 4 and all(isinstance(v, int) for v in r)]


def decode_modes(secrets: Secrets, seen: SeenRun) -> list[tuple[int, int, int]] | None:
    """The mode of each validation batch, read off the loss and accuracy that came back."""
    record = seen.log("calls").first("calls.validate.result")
    returned = record.get("pair") if record else None
    if not isinstance(returned, list) or len(returned) != 2:
        return None
    loss, accuracy = number(returned[0]), number(returned[1])
    if loss is None or not math.isfinite(loss):
        return None
    tables = _mode_tables(secrets)
    found = [
        c for c in itertools.product(tables[0], repeat=BATCHES) if abs(_mean(tables, c, 0) - loss) < VALUE_TOLERANCE
    ]
    if len(found) > 1 and accuracy is not None:
        found = [c for c in found if abs(_mean(tables, c, 1) - accuracy) < 1e-5] or found
    if len(found) > 1:  # by chance a mixture of modes gives the same; programs seldom mix
        found = [modes for modes in found if len(set(modes)) == 1]
    return list(found[0]) if len(found) == 1 else None


def _mode_tables(secrets: Secrets) -> list[dict[tuple[int, int, int], tuple[float, float]]]:
    """For each batch and mode: the loss and the accuracy."""
    inputs = sentinel_inputs(secrets)
    tables: list[dict[tuple[int, int, int], tuple[float, float]]] = []
    for start in range(0, BATCHES * BATCH_ROWS, BATCH_ROWS):
        x, y = inputs["val_x"][start : start + BATCH_ROWS], inputs["val_y"][start : start + BATCH_ROWS]
        scores = x.astype(float) @ inputs["weight"].T.astype(float) + inputs["bias"]
        table = {}
        for mode in itertools.product((0, 1), repeat=3):
            shifted = scores + inputs["table"][mode]
            loss = -_log_softmax(shifted)[np.arange(len(y)), y].mean()
            table[(mode[0], mode[1], mode[2])] = (float(loss), float((shifted.argmax(1) == y).mean()))
        tables.append(table)
    return tables


def _mean(tables: Sequence[dict[Any, tuple[float, float]]], modes: Sequence[Any], which: int) -> float:
    return sum(table[mode][which] for table, mode in zip(tables, modes, strict=True)) / len(tables)


# -- bug 6: device ---------------------------------------------------------------------------------


def _device(seen: SeenRun) -> Sight | None:
    """Does the model train on the accelerator where there is one, and on the CPU where there is none?"""
    pretended = _pretended(seen)
    if pretended is None:
        return None
    with_gpu, without = pretended
    on_gpu, on_cpu = _trained_on(with_gpu), _trained_on(without)
    if on_gpu is None:
        wanted = bool(with_gpu.get("requests"))
        if on_cpu is None and wanted and not without.get("requests"):
            return Sight(F, "it asks for the GPU exactly where there is one", OBSERVED, GHOST)
        if with_gpu.get("error") and not wanted and not integer(with_gpu.get("queries")) and _made_an_optimizer(seen):
            return Sight(N, "with a GPU present it got ready to train and never looked for one", OBSERVED, GHOST)
        return Sight(Q, "the program never got to train on the pretended machine", OBSERVED, GHOST)
    if on_gpu == "cpu":
        return Sight(N, "with a GPU present the model still trains on the CPU", OBSERVED, GHOST)
    passes, taken_back = integer(with_gpu.get("passes")), integer(with_gpu.get("taken_back"))
    if taken_back > 0.5 * passes:
        return Sight(N, "with a GPU present the model's forward pass goes back to the CPU", OBSERVED, GHOST)
    if with_gpu.get("mixed"):
        return Sight(
            N, "with a GPU present the model moves there but its batches do not: it would crash", OBSERVED, GHOST
        )
    return Sight(
        F, "the model trains on the GPU where there is one, and on the CPU where there is none", OBSERVED, GHOST
    )


def _made_an_optimizer(seen: SeenRun) -> bool:
    """Whether its own run came as far as what follows the choice of a device."""
    summary = seen.log("real").first("real.summary")
    return summary is not None and bool(summary.get("made"))


def _fails_without_gpu(seen: SeenRun) -> Sight | None:
    """Does it insist on an accelerator? Asked of the pretended machines, wherever its own run was."""
    pretended = _pretended(seen)
    if pretended is None:
        return None
    with_gpu, without = pretended
    on_gpu = _trained_on(with_gpu)
    if on_gpu in (None, "cpu") or _trained_on(without) is not None or not without.get("error"):
        return None
    return Sight(N, f"it insists on {on_gpu}, and fails where there is none", OBSERVED, GHOST)


def _device_run(seen: SeenRun) -> Sight | None:
    """Where did its own run train, on a sandbox with a real GPU? None on one without."""
    summary = seen.log("real").first("real.summary")
    if summary is None or not summary.get("accelerator"):
        return None
    on_gpu, on_cpu = _passes_on_gpu(seen), _passes_on(seen, "cpu")
    total = on_gpu + on_cpu
    if total <= 0:
        return None
    if on_cpu <= 0.02 * total:
        return Sight(F, "its own run trained on the GPU of the sandbox", OBSERVED, REAL_GPU)
    share = "its own run" if on_cpu == total else f"{on_cpu / total:.0%} of its own run's training passes"
    return Sight(N, f"{share} stayed on the CPU of a sandbox with a GPU", OBSERVED, REAL_GPU)


def _passes_on_gpu(seen: SeenRun) -> int:
    return sum(_passes_on(seen, kind) for kind in ACCELERATORS)


def _passes_on(seen: SeenRun, kind: str) -> int:
    """How many training passes of its own run were computed on a device of this kind."""
    summary = seen.log("real").first("real.summary")
    told = summary.get("trained_on") if summary is not None else None
    return max(0, integer(told.get(kind))) if isinstance(told, dict) else 0


def _pretended(seen: SeenRun) -> tuple[Record, Record] | None:
    """What it did where CUDA seemed to be there, and where it did not; None unless both were seen."""
    runs = {bool(r.get("available")): r for r in reversed(seen.log("ghost").all("ghost.run"))}
    return (runs[True], runs[False]) if len(runs) == 2 else None


def _trained_on(record: Any) -> str | None:
    seen = record.get("seen")
    rows = [r for r in seen if isinstance(r, dict) and r.get("graph") is True] if isinstance(seen, list) else []
    places = {str(row.get("model"))[:20] for row in rows}
    return None if not places else "cpu" if "cpu" in places else places.pop()


# -- bug 7: shuffle --------------------------------------------------------------------------------


def _shuffle(secrets: Secrets, table: Table, source: str) -> Sight | None:
    """Does the order in which the model is shown its rows differ, freshly, from epoch to epoch?"""
    epochs = _drawn_epochs(secrets, table.epochs_of_rows())
    if len(epochs) < 2:
        return None
    likeness = order_likeness(epochs)
    if likeness is None:
        return Sight(Q, f"the rows of different epochs could not be matched in {source}", OBSERVED, source)
    same_order, same_batches = likeness
    if same_order >= 0.5:
        return Sight(
            N, f"epochs show the rows in the same order ({same_order:.0%} of neighbours recur)", OBSERVED, source
        )
    if same_batches >= 0.5:
        return Sight(
            N, "the same rows always share a batch, only the order of batches or within them varies", OBSERVED, source
        )
    if same_order <= 0.3 and same_batches <= 0.3:
        return Sight(F, f"each of {len(epochs)} epochs shows the rows in a new order", OBSERVED, source)
    return Sight(Q, f"the order recurs in part ({same_order:.0%} of neighbours) in {source}", OBSERVED, source)


def _drawn_epochs(secrets: Secrets, epochs: Sequence[list[NDArray[np.float64]]]) -> list[list[NDArray[np.float64]]]:
    """The first two epochs and some later ones: which, is known out here only.

    Of a program that mixes its rows every other time, eight of 18 are all mixed ones once in 5,000 grades.
    """
    later = secrets.rng("epochs").permutation(np.arange(2, max(2, len(epochs))))[:LATER_EPOCHS]
    return [*epochs[:2], *(epochs[i] for i in sorted(later))]


def _shuffle_loader(seen: SeenRun) -> Sight | None:
    """Two readings of the loader that it trains from, for a program that crashes before its second epoch.

    Of one that goes on they tell nothing: it may mix its rows, or set the loader back, before each epoch.
    """
    if _ended_well(seen):
        return None
    record = seen.log("mini").first("mini.order")
    sizes = record.get("sizes") if record is not None else None
    if record is None or not isinstance(sizes, list) or len(sizes) != 2:
        return None
    epochs = []
    for name, parts in zip(("first", "second"), sizes, strict=True):
        rows = record.arrays.get(name)
        whole = isinstance(parts, list) and all(isinstance(size, int) and size > 0 for size in parts)
        if rows is None or rows.ndim != 2 or not whole or sum(parts) != len(rows) or len(rows) < 16:
            return None
        epochs.append(np.split(rows.astype(np.float64), np.cumsum(parts)[:-1]))
    likeness, given = order_likeness(epochs), record.arrays.get("given")
    if likeness is None:
        return None
    if max(likeness) <= 0.3:
        return Sight(F, "its training loader gives the rows in a new order each time", OBSERVED, LOADER)
    as_given = order_likeness([epochs[0], [given.astype(np.float64)]]) if given is not None else None
    if likeness[0] >= 0.5 and as_given is not None and as_given[0] >= 0.5:  # rows may be mixed outside the loader
        return Sight(N, "its training loader gives the rows as they came, every time", OBSERVED, LOADER)
    return None


# -- bug 8: learning rate ----------------------------------------------------------------------------


def _rate(table: Table, source: str) -> Sight | None:
    """How large are the rates with which the optimizer really steps?"""
    training = table.backwards.of_training()
    after = training.after_update()
    if len(after) < 2:
        after = training  # steps that move nothing still have a rate
    if len(after) < 2:
        return None
    optimizer = table.optimizer()
    if optimizer.steps_by_rate and len(after) > 2 and not after.first_rate_acts():
        after = Backwards(after.rows[1:])
    rates = after.column("lr_max")
    rates = rates[np.isfinite(rates)]
    if not len(rates) or (optimizer.idle and len(training.after_update())):
        return _hand_written_rate(after, source)
    peak, mean = float(rates.max()), float(rates.mean())
    update = after.typical_update()
    text = f"{optimizer.name} steps at {peak:.3g}" + ("" if rates.min() == peak else f" at most, {mean:.3g} on average")
    first = after.first_updates()
    if optimizer.steps_by_rate:
        # The very first step of these moves each element by just the rate. Now and then weights
        # may leap for a good reason, such as a reloaded checkpoint; again and again they do not.
        guard = max(4 * peak, 0.02)
        leaps = after.updates_above(max(12 * peak, 0.02)), table.backwards.updates_above(max(40 * peak, 0.04))
        hidden = update > guard or after.large_updates(guard) > 0.05 or after.first_leap() > 0.015 or max(leaps) >= 4
    elif optimizer.adaptive:
        guard = max(8 * peak, 0.05)
        hidden = update > guard or after.large_updates(guard) > 0.05
    else:
        hidden = first > max(40 * peak, 0.3)
    if hidden:
        return Sight(N, f"{text}, yet moves its weights by {max(update, first):.2g} a step", OBSERVED, source)
    bound = _largest_rate(optimizer)
    scheduled = rates.min() < 0.9 * peak
    if peak <= bound or (scheduled and mean <= bound and peak <= 5 * bound):
        return Sight(F, text, OBSERVED, source)
    gentle = 0.0 < update <= GENTLE_UPDATE and after.large_updates(5 * GENTLE_UPDATE) <= 0.05
    if optimizer.unknown and gentle and peak <= optimizer.largest_sgd_rate():
        # Its step may well scale with the gradient; what it does to the weights is what counts.
        return Sight(F, f"{text} and moves its weights by {update:.2g} a step", OBSERVED, source)
    return Sight(N, f"{text}; at most {bound:.2g} is sound", OBSERVED, source)


def _far_moves(mini: Table) -> Sight | None:
    """Do single steps throw the model's answers about, however small the rate reads? None where they do not."""
    told = mini.summary.get("answer_moves")
    found = map(number, told if isinstance(told, list) else [])
    moves = [move for move in found if move is not None and math.isfinite(move)]
    if len(moves) < 4 or float(np.median(moves)) <= FAR_MOVE:
        return None
    rate = _rate(mini, MINI)
    if rate is not None and rate.verdict is N:  # which explains it
        return None
    text = f"a step moves the answers on its own rows by {float(np.median(moves)):.2g}, far more than its rate explains"
    return Sight(Q, text, OBSERVED, MINI)


def _rate_made(real: Table) -> Sight | None:
    """The rate of an optimizer that was made and never stepped, since the program crashed before it trained."""
    made = real.optimizers_made()
    if real.trained_any() or not made:
        return None
    sound = [rate <= _largest_rate(made_one) for made_one, rate in made]
    text = " and ".join(f"{made_one.name} at {rate:.3g}" for made_one, rate in made)[:120]
    text = f"it makes {text}, and crashes before the first step"
    if all(sound):
        return Sight(F, text, OBSERVED, RUN)
    if not any(sound) and not integer(real.summary.get("scheduled")):  # a schedule may have been the mend
        return Sight(N, text, OBSERVED, RUN)
    return Sight(Q, text, OBSERVED, RUN)


def _largest_rate(optimizer: OptimizerSeen) -> float:
    return LARGEST_LR if optimizer.adaptive else optimizer.largest_sgd_rate()


def _hand_written_rate(after: Backwards, source: str) -> Sight | None:
    """Where no optimizer of torch steps, the size of the updates themselves tells."""
    typical = after.typical_update()
    if len(after) < 8 or not math.isfinite(typical):
        return None
    text = f"no optimizer of torch steps; the weights move by {typical:.2g} a step"
    later = after.large_updates(max(12 * typical, 0.1))
    if later > 0.05:
        told = f"{text} at first, and far more in {later:.0%} of the steps"
        return Sight(N, told, OBSERVED, source)
    if 0.0 < typical <= GENTLE_UPDATE:
        return Sight(F, text, OBSERVED, source)
    return Sight(N if typical > 0.1 else Q, text, OBSERVED, source)


# -- goal ----------------------------------------------------------------------------------------------


def _goal(secrets: Secrets, manifest: Manifest, seen: SeenRun) -> GoalReport:
    """Accuracy, epoch by epoch, of the models that the submission trained, on fresh rows."""
    goal = manifest.goal
    base = {"description": goal.description, "threshold": goal.threshold}
    record = seen.log("real").first("real.goal")
    answers = record.arrays if record else {}
    labels: NDArray[Any] | None
    if "held_out" in answers:
        labels, evidence = held_out_rows(secrets)[1], "its models after each epoch, on fresh rows that it never saw"
        predictions = answers["held_out"]
    elif "own" in answers:
        labels, evidence = _own_labels(record), "its models after each epoch, on its own validation rows"
        predictions = answers["own"]
    else:
        return GoalReport(
            **base, reached=None, epoch=None, accuracy=None, evidence="no trained model came out of its run"
        )
    if labels is None or predictions.ndim != 2 or predictions.shape[1] != len(labels) or not len(predictions):
        return GoalReport(
            **base, reached=None, epoch=None, accuracy=None, evidence="its model's answers could not be read"
        )
    curve = [float((row == labels).mean()) for row in predictions[: goal.epochs]]
    passed = next((i + 1 for i, accuracy in enumerate(curve) if accuracy > goal.threshold), None)
    return GoalReport(
        **base,
        reached=passed is not None,
        epoch=passed,
        accuracy=curve[-1],
        accuracy_by_epoch=tuple(curve),
        evidence=evidence,
    )


def _own_labels(record: Record | None) -> NDArray[Any] | None:
    """The labels of the rows that the program validates on, where those rows were recognised."""
    if record is None or "own" not in record.arrays:
        return None
    if record.get("aligned") == "expected":
        return data.default_validation_rows()[1]
    labels = record.arrays.get("own_labels")
    return labels if labels is not None and labels.ndim == 1 else None


# -- what else was seen -----------------------------------------------------------------------------------


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
    on_gpu, used = _passes_on_gpu(seen), seen.run.gpu
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
    if not _ended_well(seen):
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
    return _ended_well(seen) and not real.trained_any()


def _ended_well(seen: SeenRun) -> bool:
    step = seen.step("real")
    return step is not None and step.status is RunStatus.OK and _run_error(seen) is None


def _false_history(secrets: Secrets, seen: SeenRun) -> list[str]:
    """Does the history that main() returned claim more than its models show on the same rows?"""
    history, record = seen.log("real").first("real.history"), seen.log("real").first("real.goal")
    lists = history.get("lists") if history else None
    if record is None or "own" not in record.arrays or not isinstance(lists, dict):
        return []
    claimed = [number(v) for v in lists.get("val_acc") or []]
    labels = _own_labels(record)
    if labels is None or not claimed or record.arrays["own"].shape[1] != len(labels):
        return []
    measured = [float((row == labels).mean()) for row in record.arrays["own"]]
    scale = 100 if max((c for c in claimed if c is not None), default=0) > 1.5 else 1  # given in per cent
    gaps = [c / scale - m for c, m in zip(claimed, measured, strict=False) if c is not None]
    if len(gaps) >= 5 and sum(gap > 0.15 for gap in gaps) >= 0.5 * len(gaps):
        return ["the history that main() returned claims a far better accuracy than its models have"]
    return []


def _run_error(seen: SeenRun) -> str | None:
    record = seen.log("real").first("real.error")
    if record is None:
        return None
    return f"{record.get('type')}: {record.get('text')} (in {record.get('in')})"[:600]


def _regressions(secrets: Secrets, seen: SeenRun, real: Table, mini: Table) -> list[Finding]:
    found: list[Finding] = []

    def add(condition: bool, id_: str, title: str, detail: str) -> None:
        if condition:
            found.append(Finding(id=id_, title=title, detail=detail))

    error, step = _run_error(seen), seen.step("real")
    add(error is not None, "crash", "The program crashes", error or "")
    ended = step.status.value if step else "not_run"
    add(
        error is None and ended != "ok",
        "unfinished",
        "The program does not end properly",
        f"its own run ended with {ended.replace('_', ' ')}",
    )
    run = real if real.trained_any() else mini
    train = run.training_forwards()
    late = train[run.column(train, "call") > 1] if len(train) else train
    wrong_mode = run.column(late, "mode_training") < run.column(late, "mode_layers") if len(late) else np.zeros(0)
    add(
        len(late) > 0 and wrong_mode.mean() > 0.5,
        "train-mode",
        "Training runs in eval mode",
        "train_one_epoch no longer puts the model back into train mode after a validation",
    )
    still = len(run.backwards) > 8 and len(run.backwards.after_update()) == 0
    add(still, "no-update", "The optimizer changes nothing", "steps leave the weights as they are")
    optimizer = run.optimizer()
    add(
        optimizer.trainable > 0 and optimizer.held < optimizer.trainable,
        "optimizer-parameters",
        "The optimizer does not hold all parameters",
        f"{optimizer.held} of {optimizer.trainable} trainable tensors",
    )
    found += _metric_regressions(secrets, seen)
    found += _data_regressions(seen, real)
    return found


def _metric_regressions(secrets: Secrets, seen: SeenRun) -> list[Finding]:
    found = []
    result, modes = seen.log("calls").first("calls.validate.result"), _sentinel_modes(seen)
    returned = result.get("pair") if result else None
    if isinstance(returned, list) and len(returned) == 2 and len(modes) == BATCHES:
        tables, accuracy = _mode_tables(secrets), number(returned[1])
        wanted = _mean(tables, [tuple(m[:3]) for m in modes], 1)
        if accuracy is None or min(abs(accuracy - wanted), abs(accuracy / 100 - wanted)) > 1e-4:
            detail = f"{wanted:.4f} would be right on known scores, validate returned {returned[1]}"
            found.append(Finding(id="validation-accuracy", title="Validation accuracy is miscalculated", detail=detail))
    if result is not None and result.get("frozen") is True:
        found.append(
            Finding(id="frozen", title="Validation leaves the model frozen", detail="parameters no longer train")
        )
    state = seen.log("calls").first("calls.validate.modes")
    if state is not None and state.get("grad_enabled_after") is False:
        detail = "autograd stays switched off after validate, so the next epoch cannot train"
        found.append(Finding(id="autograd-off", title="Validation switches autograd off for good", detail=detail))
    return found


def _data_regressions(seen: SeenRun, real: Table) -> list[Finding]:
    found = []
    history = seen.log("calls").first("calls.main") or seen.log("real").first("real.history")
    if history is not None:
        told = history.get("lists")
        lists = told if isinstance(told, dict) else {}
        missing = [key for key in HISTORY if not isinstance(lists.get(key), list) or not lists[key]]
        if missing:
            detail = f"main() returns {'no ' + ', '.join(missing) if len(missing) < len(HISTORY) else 'no history'}"
            found.append(Finding(id="history", title="The history is incomplete", detail=detail))
    overlap = real.validated_on_training_rows()
    if overlap is not None and overlap > 0.2:
        detail = f"{overlap:.0%} of the validation rows were trained on"
        found.append(Finding(id="leaked-rows", title="Validation rows are trained on", detail=detail))
    return found


def _bonus(seen: SeenRun, real: Table) -> list[Finding]:
    counts = real.summary.get("bonus") if isinstance(real.summary.get("bonus"), dict) else {}
    schedulers = real.summary.get("schedulers") or []
    found = []
    if isinstance(schedulers, list) and schedulers:
        found.append(
            Finding(id="scheduler", title="Learning-rate scheduler", detail=", ".join(map(str, schedulers))[:200])
        )
    texts = {
        "compile": ("torch.compile", "called (the sandbox runs the model uncompiled)"),
        "pin_memory": ("Pinned memory", "a loader with pin_memory was read"),
        "num_workers": ("Loader workers", "a loader with worker processes was read"),
        "clip": ("Gradient clipping", "called while training"),
    }
    for key, (title, detail) in texts.items():
        if isinstance(counts, dict) and integer(counts.get(key)) > 0:
            found.append(Finding(id=key.replace("_", "-"), title=title, detail=detail))
    train = real.training_forwards()
    if len(train) and (real.column(train, "autocast") > 0).mean() > 0.5:
        found.append(
            Finding(id="mixed-precision", title="Mixed precision", detail="training forwards ran under autocast")
        )
    return found

"""What each bug of `spiral` looks like in what was recorded: one function for each way to see it.

A sight says fixed, not fixed or open, with what it saw; None where there was nothing to see. Which of them
counts is decided in `judge`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from challenges.spiral.steps import (
    BALLAST_BYTES,
    BATCH_ROWS,
    BATCHES,
    CLASSES,
    MAGNITUDES,
    SGD_LR,
    sentinel_inputs,
)
from grading.evidence import Record, integer, number
from grading.judgement import Secrets, SeenRun, Sight
from grading.trace import Backwards, OptimizerSeen, Table, order_likeness
from grading.verdict import EvidenceKind, Verdict
from sandbox.spec import RunStatus

VALUE_TOLERANCE = 1e-5  # float32 against float64, losses of order one
LATER_EPOCHS = 8  # whose order is compared; all of them would take the judge a quarter of a second
LONGEST_ACCUMULATION = 150  # batches between two steps: one and a half epochs; more is no accumulation
LARGEST_LR = 0.0101  # the interface's bound of 0.01, and rounding
LEAST_LOOKS, WINDOW_SHARE = 8, 0.8  # a queue of losses always holds some; a report every few batches does not
FAR_MOVE = 5.0  # of raw scores, root mean square; sound steps move them by less than 1
GENTLE_UPDATE = 0.02  # root mean square of what a sound step adds to the weights that are watched
ACCELERATORS = ("cuda", "xpu", "mps")

F, N, Q = Verdict.FIXED, Verdict.NOT_FIXED, Verdict.INCONCLUSIVE
VALUE, MEASURED, OBSERVED = EvidenceKind.VALUE, EvidenceKind.MEASUREMENT, EvidenceKind.OBSERVATION
REAL_GPU = "its own run on a real GPU"
RUN, MINI, CALLS, GHOST = "its own run", "a short run of its main()", "single calls of its functions", "a pretended GPU"
DIRECT, LOADER = "calls of its functions with its own model", "two readings of its training loader"


def _worse_first(*sights: Sight | None) -> list[Sight | None]:
    return sorted(sights, key=lambda sight: sight is None or sight.verdict is not N)


def _or_else(sights: list[Sight | None], otherwise: Callable[[], Sight | None]) -> list[Sight | None]:
    """The sights, and one more where none of them is conclusive."""
    conclusive = any(sight is not None and sight.verdict is not Q for sight in sights)
    return sights if conclusive else [*sights, otherwise()]


def _unless(doubt: Sight | None, sights: list[Sight | None]) -> list[Sight | None]:
    """The sights; where there is a doubt, it stands for those that say fixed."""
    return sights if doubt is None else [doubt, *(sight for sight in sights if sight is None or sight.verdict is not F)]


def run_error(seen: SeenRun) -> str | None:
    """The exception that ended its own run, in words."""
    record = seen.log("real").first("real.error")
    if record is None:
        return None
    return f"{record.get('type')}: {record.get('text')} (in {record.get('in')})"[:600]


def ended_well(seen: SeenRun) -> bool:
    """Whether its own run came to its end without one."""
    step = seen.step("real")
    return step is not None and step.status is RunStatus.OK and run_error(seen) is None


def sights_by_bug(secrets: Secrets, seen: SeenRun, real: Table, mini: Table) -> dict[str, list[Sight | None]]:
    """For each bug what was seen of it, in the order in which it counts.

    Where they disagree its own run decides, since that is where a bug does harm; a call keeps what the run keeps,
    and the close look sees what the discreet one cannot.
    """
    direct = Table.of(seen, "mini.direct", step="mini")
    closely = _zero_grad(mini, MINI, least=4)
    return {
        "softmax": _unless(
            _bent_gradient(seen),
            [_softmax_run(real, mini), _softmax(seen), _softmax_plain(real, RUN), _softmax_plain(mini, MINI)],
        ),
        "zero-grad": [*_worse_first(_zero_grad_run(real, mini), closely), _zero_grad_call(secrets, seen)],
        "loss-leak": _worse_first(_leak_run(real, RUN), _leak_run(direct, DIRECT), _leak_call(seen, (mini, direct))),
        "eval": _eval_sights(secrets, seen, real, mini, direct),
        "no-grad": [
            _graph_run(real, RUN),
            _graph_run(mini, MINI),
            *_worse_first(_graph_run(direct, DIRECT), _graph_call(secrets, seen)),
        ],
        "device": [_fails_without_gpu(seen), _device_run(seen), _device(seen)],
        "shuffle": _or_else(
            [_shuffle(secrets, real, RUN), _shuffle(secrets, mini, MINI)], lambda: _shuffle_loader(seen)
        ),
        "lr": _unless(
            _far_moves(mini), _or_else([_rate(real, RUN), _rate(mini, MINI)], lambda: _rate_made(seen, real))
        ),
    }


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
    twice = real.backwards_of_the_trained().squashed_share()
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
    added, begun = integer(table.summary.get("added_to_old")), integer(table.summary.get("begun"))
    if added >= max(2, 0.05 * begun):
        # Cleared later on, before the step's last pass: as between the two of a sharpness-aware step.
        return Sight(
            N, f"{added} of {begun} steps begin with a pass that adds to gradients left over", OBSERVED, source
        )
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
    """Are graphs of the first half of an epoch still alive near its end, or those of several batches all the while?"""
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
    looks, windows = integer(memory.get("looks")), integer(memory.get("looks_at_windows"))
    if looks >= LEAST_LOOKS and windows >= WINDOW_SHARE * looks:
        share = f"in {windows / looks:.0%} of {looks} looks"
        return Sight(N, f"graphs of several batches before are still held {share}", OBSERVED, source)
    return Sight(F, f"no graph outlives its batch ({batches} batches per epoch)", OBSERVED, source)


def _leak_call(seen: SeenRun, on_few_rows: Sequence[Table]) -> Sight | None:
    """Memory measured from outside, while each graph weighs a megabyte."""
    record, step = seen.log("calls").first("calls.leak"), seen.step("calls")
    if record is None or step is None:
        return None
    batches, old = integer(record.get("batches")), integer(record.get("max_old_alive"))
    if batches < 32:
        return None
    others = _peaks_of_training(seen, on_few_rows)
    grown = step.peak_memory_bytes - min(others, default=step.baseline_memory_bytes)
    share = grown / (batches * BALLAST_BYTES)
    weight = f"{batches} batches that weigh {BALLAST_BYTES / 1e6:.1f} MB each"
    text = f"{max(grown, 0) / 1e6:.0f} MB more were needed for {weight}"
    if old >= 3:
        return Sight(
            N, f"{old} of the first {batches // 2} graphs are still held after {batches}; {text}", MEASURED, CALLS
        )
    if share >= 0.8 and others:
        return Sight(N, text, MEASURED, CALLS)
    if share <= 0.5:
        return Sight(F, text, MEASURED, CALLS)
    return Sight(Q, text, MEASURED, CALLS)


def _peaks_of_training(seen: SeenRun, on_few_rows: Sequence[Table]) -> list[int]:
    """What steps of the same program needed, without ballast, that trained too.

    A step that ended before it trained never loaded the pages of torch that training needs: half the ballast's weight.
    """
    mini, ghost, pretended = seen.step("mini"), seen.step("ghost"), _pretended(seen) or ()
    trained = [mini] if any(table.trained_any() for table in on_few_rows) else []
    trained += [ghost] if any(_trained_on(machine) for machine in pretended) else []
    return [step.peak_memory_bytes for step in trained if step is not None and step.peak_memory_bytes]


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
    forwards = sentinel_modes(seen)
    modes = decode_modes(secrets, seen)
    if modes is not None:
        bad = any(wrong(mode) for mode in modes) or any(wrong(mode) for mode in forwards)
        return Sight(N if bad else F, wrong_text if bad else right_text, VALUE, CALLS)
    if not forwards:
        return None
    bad = any(wrong(mode) for mode in forwards)
    return Sight(N if bad else F, observed[1] if bad else observed[0], OBSERVED, CALLS)


def sentinel_modes(seen: SeenRun) -> list[list[int]]:
    """For each batch that the sentinel model was shown: batch norm and dropout in train mode, graph, `training`."""
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
    tables = mode_tables(secrets)
    found = [
        c for c in itertools.product(tables[0], repeat=BATCHES) if abs(mean(tables, c, 0) - loss) < VALUE_TOLERANCE
    ]
    if len(found) > 1 and accuracy is not None:
        found = [c for c in found if abs(mean(tables, c, 1) - accuracy) < 1e-5] or found
    if len(found) > 1:  # by chance a mixture of modes gives the same; programs seldom mix
        found = [modes for modes in found if len(set(modes)) == 1]
    return list(found[0]) if len(found) == 1 else None


def mode_tables(secrets: Secrets) -> list[dict[tuple[int, int, int], tuple[float, float]]]:
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


def mean(tables: Sequence[dict[Any, tuple[float, float]]], modes: Sequence[Any], which: int) -> float:
    """The loss (0) or accuracy (1) that `validate` gives where its batches are shown in these modes."""
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
    on_gpu, on_cpu = passes_on_gpu(seen), _passes_on(seen, "cpu")
    total = on_gpu + on_cpu
    if total <= 0:
        return None
    if on_cpu <= 0.02 * total:
        return Sight(F, "its own run trained on the GPU of the sandbox", OBSERVED, REAL_GPU)
    share = "its own run" if on_cpu == total else f"{on_cpu / total:.0%} of its own run's training passes"
    return Sight(N, f"{share} stayed on the CPU of a sandbox with a GPU", OBSERVED, REAL_GPU)


def passes_on_gpu(seen: SeenRun) -> int:
    """How many training passes of its own run were computed on an accelerator."""
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
    if ended_well(seen):
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
    seen = table.backwards_of_the_trained()
    training = seen.of_training()
    after = training.after_update()
    if len(after) < 2:
        # Steps that move nothing still have a rate. No move tells whether a hook set it after the first look.
        after = Backwards(training.rows[1:])
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
        leaps = after.updates_above(max(12 * peak, 0.02)), seen.updates_above(max(40 * peak, 0.04))
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


def _rate_made(seen: SeenRun, real: Table) -> Sight | None:
    """The rate of an optimizer that stepped once at most, since the program crashed before it trained on."""
    made = real.optimizers_made()
    begun = real.trained_any()
    if not made or (begun and (len(real.backwards) > 1 or ended_well(seen))):
        return None
    sound = [rate <= _largest_rate(made_one) for made_one, rate in made]
    text = " and ".join(f"{made_one.name} at {rate:.3g}" for made_one, rate in made)[:120]
    text = f"it makes {text}, and crashes before the {'second' if begun else 'first'} step"
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
    if (rate := after.even_updates()) > 1.05 * LARGEST_LR:
        return Sight(N, f"{text}, all of them alike by {rate:.2g} at first, as Adam's at that rate", OBSERVED, source)
    later = after.large_updates(max(12 * typical, 0.1))
    if later > 0.05:
        told = f"{text} at first, and far more in {later:.0%} of the steps"
        piled = after.left_over() - after.overwritten() > len(after) / 2
        if piled and typical <= GENTLE_UPDATE:  # steps grow with gradients that add up, too
            return Sight(Q, f"{told}, as gradients do that are never cleared", OBSERVED, source)
        return Sight(N, told, OBSERVED, source)
    if 0.0 < typical <= GENTLE_UPDATE:
        return Sight(F, text, OBSERVED, source)
    return Sight(N if typical > 0.1 else Q, text, OBSERVED, source)

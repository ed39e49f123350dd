"""Reads, outside, what `grading.probes.recorder` wrote down inside.

Tables arrive in pieces, since a program may be killed at any moment; they are joined here
and anything of the wrong shape is left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grading.evidence import integer, number
from grading.judgement import SeenRun
from grading.probes.columns import BACKWARD_COLUMNS, CONTEXTS, FORWARD_COLUMNS, STEP_COLUMNS

Matrix = NDArray[np.float64]

RARELY = 0.15  # calls of `validate`, in relation to the epochs

# Optimizers whose step is about the learning rate itself, whatever the gradient's size.
_NORMALISED = {"Adam", "AdamW", "NAdam", "RAdam", "Adamax", "RMSprop", "SparseAdam", "Adafactor", "Rprop"}


@dataclass(frozen=True)
class OptimizerSeen:
    """What the recorder told of the optimizer that stepped."""

    name: str = "the optimizer"
    family: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    trainable: int = 0
    held: int = 0
    has_state: bool = True

    @property
    def idle(self) -> bool:
        """Whether it never stepped: an adaptive optimizer keeps state from its first step on."""
        return bool(self.family) and self.adaptive and not self.has_state

    @property
    def adaptive(self) -> bool:
        """Whether its steps are of the learning rate's own size. Unknown ones count as such."""
        return not self.family or bool(_NORMALISED & set(self.family))

    @property
    def unknown(self) -> bool:
        """Whether it is none of torch's, nor made from one."""
        return not self.family

    @property
    def steps_by_rate(self) -> bool:
        """Whether no step moves an element by much more than the rate: by default betas at most 3.2 times."""
        return bool({"Adam", "AdamW", "NAdam", "RAdam", "Adamax"} & set(self.family))

    def largest_sgd_rate(self) -> float:
        """The largest sound rate of an optimizer whose step scales with the gradient.

        Measured on the reference solution: SGD trains to the goal while rate / (1 - momentum)
        is at most about 1, Adagrad up to 0.5; Adadelta's own default is 1.
        """
        if "Adadelta" in self.family:
            return 2.0
        if "Adagrad" in self.family:
            return 0.5
        momentum = number(self.defaults.get("momentum")) or 0.0
        return max(1.0 - momentum, 0.01) * 1.01


@dataclass(frozen=True)
class Steps:
    """The optimizer's steps: one row each, columns as in STEP_COLUMNS."""

    rows: Matrix

    def __len__(self) -> int:
        return len(self.rows)

    def column(self, name: str) -> Matrix:
        """One column by name."""
        return np.asarray(self.rows[:, STEP_COLUMNS.index(name)])

    def checked(self) -> Matrix:
        """The steps whose gradients were compared and had any, their own or left over."""
        any_gradient = (self.column("fresh_norm") > 0) | (self.column("stale_norm") > 0)
        return self.rows[(self.column("checked") > 0) & any_gradient]

    def carried(self) -> int:
        """How many of them used gradients left over from before.

        With gradient used = a * fresh + b * stale, a carried-over step has b about as large
        as a (both shrink alike under clipping); a clean one has b near zero. A step whose
        gradient far exceeds the fresh one got the rest from somewhere less visible.
        """
        rows = self.checked()
        fresh, stale = rows[:, STEP_COLUMNS.index("fresh_norm")], rows[:, STEP_COLUMNS.index("stale_norm")]
        a, b = rows[:, STEP_COLUMNS.index("fresh_share")], rows[:, STEP_COLUMNS.index("stale_share")]
        excess = rows[:, STEP_COLUMNS.index("excess")]
        with np.errstate(invalid="ignore"):
            carried = (stale > 1e-6 * fresh) & (np.abs(b) > 0.25 * np.abs(a)) & (np.abs(b) > 1e-8)
            return int((carried | (excess > 1.0)).sum())

    def thrown_away(self) -> int:
        """How many of them used nothing at all."""
        rows = self.checked()
        a, b = rows[:, STEP_COLUMNS.index("fresh_share")], rows[:, STEP_COLUMNS.index("stale_share")]
        with np.errstate(invalid="ignore"):
            return int(((np.abs(a) < 1e-8) & ~(np.abs(b) > 1e-8)).sum())


@dataclass(frozen=True)
class Backwards:
    """The beginnings of the backward passes: one row each, columns as in BACKWARD_COLUMNS."""

    rows: Matrix

    def __len__(self) -> int:
        return len(self.rows)

    def column(self, name: str) -> Matrix:
        """One column by name."""
        return np.asarray(self.rows[:, BACKWARD_COLUMNS.index(name)])

    def after_update(self) -> Backwards:
        """Those before which the weights had moved."""
        return Backwards(self.rows[self.column("moved") > 0])

    def of_training(self) -> Backwards:
        """Those within `train_one_epoch`, where most are, and each but the first of its call, where there are more.

        What `main` tries out beforehand (a range test of rates, one batch overfitted) is no
        training, and between two calls weights may be swapped, averaged or loaded.
        """
        call = self.column("call")
        if (call > 0).mean() < 0.5 if len(call) else True:
            return self
        follows = np.concatenate([[False], call[1:] == call[:-1]]) & (call > 0)
        return Backwards(self.rows[follows if follows.any() else call > 0])

    def left_over(self) -> int:
        """How many began with gradient of an earlier step still there."""
        return int((self.column("left_over") > 0).sum())

    def overwritten(self) -> int:
        """How many of them found just the gradient of the pass before: it had been assigned, not added up."""
        return int((self.column("left_over") == 0.5).sum())

    def longest_pile(self) -> int:
        """The longest stretch of passes that found gradients left over while no weight moved."""
        piling = (self.column("left_over") > 0) & ~(self.column("moved") > 0)
        longest = current = 0
        for one in piling:
            current = current + 1 if one else 0
            longest = max(longest, current)
        return longest

    def squashed_share(self) -> float | None:
        """Share of the passes looked at whose loss softmaxes the model's outputs; None without any."""
        return self._share_of_losses(1.0)

    def plain_share(self) -> float | None:
        """Share of the passes looked at whose loss is the cross-entropy of the model's outputs; None without any."""
        return self._share_of_losses(-1.0)

    def _share_of_losses(self, kind: float) -> float | None:
        seen = self.column("squashed")
        seen = seen[np.isfinite(seen)]
        return float((np.sign(seen) == kind).mean()) if len(seen) >= 4 else None

    def disagreement(self) -> float | None:
        """Share of the steps looked at that used another gradient than the fresh one; None with too few."""
        seen = self.column("agreement")
        seen = seen[np.isfinite(seen)]
        return float((seen < 0.9).mean()) if len(seen) >= 8 else None

    def summed_share(self) -> float | None:
        """Share of the steps looked at that used the sum of all gradients so far; None with too few."""
        seen = self.column("summed")
        seen = seen[np.isfinite(seen)]
        return float((seen > 0).mean()) if len(seen) >= 20 else None

    def first_rate_acts(self) -> bool:
        """Whether the very first update is about as large as the rate that was read before it.

        Of an optimizer that steps by its rate it is just that, where all groups have one; if not, the rate was
        set after the look, by a hook of the step's.
        """
        rows = self.rows[:1]
        change, least, most = (rows[:, BACKWARD_COLUMNS.index(name)] for name in ("update_rms", "lr_min", "lr_max"))
        return not bool(((least == most) & (change > 0) & (change < 0.1 * most)).any())

    def first_leap(self) -> float:
        """The very first update where it is over three times its rate, else 0."""
        changes, rates = self.column("update_rms")[:1], self.column("lr_max")[:1]
        with np.errstate(invalid="ignore"):
            leaps = changes[changes > 3 * rates]
        return float(leaps[0]) if len(leaps) else 0.0

    def large_updates(self, bound: float) -> float:
        """Share of the updates, of all that were seen, above `bound`."""
        changes = self.column("update_rms")
        changes = changes[np.isfinite(changes)]
        return float((changes > bound).mean()) if len(changes) else 0.0

    def updates_above(self, bound: float) -> int:
        """How many of the updates that were seen moved the watched parameter by more than `bound`."""
        with np.errstate(invalid="ignore"):
            return int((self.column("update_rms") > bound).sum())

    def typical_update(self) -> float:
        """Median root-mean-square change of the watched parameter over the first 12; nan without any.

        The first steps tell: with a rate that is far too large the gradients soon vanish.
        """
        changes = self.column("update_rms")
        changes = changes[np.isfinite(changes)][:12]
        return float(np.median(changes)) if len(changes) else math.nan

    def even_updates(self) -> float:
        """The largest of the first 12 that moved every element by as much, as Adam's first does; 0 without any.

        Such a step moves by just its rate.
        """
        rows = self.rows[:12]
        even = rows[:, BACKWARD_COLUMNS.index("evenness")] > 0.98
        return float(rows[even, BACKWARD_COLUMNS.index("update_rms")].max(initial=0.0))

    def first_updates(self) -> float:
        """The largest such change among the first three; nan without any."""
        changes = self.column("update_rms")
        changes = changes[np.isfinite(changes)][:3]
        return float(changes.max()) if len(changes) else math.nan


@dataclass(frozen=True)
class Table:
    """Everything the recorder told under one name."""

    forwards: Matrix
    steps: Steps
    backwards: Backwards
    rows: Mapping[int, Matrix]  # inputs by forward serial
    memory: Mapping[str, Any]
    summary: Mapping[str, Any]

    @classmethod
    def of(cls, seen: SeenRun, name: str, step: str | None = None) -> Table:
        """Join the pieces that `name` emitted in `step` (by default the step of that name)."""
        log = seen.log(step or name.split(".")[0])
        forwards: list[Matrix] = []
        steps: list[Matrix] = []
        backwards: list[Matrix] = []
        rows: dict[int, Matrix] = {}
        memory: Mapping[str, Any] = {}
        for record in log.all(f"{name}.events"):
            forwards.append(_matrix(record.arrays.get("forwards"), len(FORWARD_COLUMNS)))
            steps.append(_matrix(record.arrays.get("steps"), len(STEP_COLUMNS)))
            backwards.append(_matrix(record.arrays.get("backwards"), len(BACKWARD_COLUMNS)))
            rows.update(_split(record.arrays.get("rows"), record.arrays.get("row_serials")))
            memory = _larger(memory, record.data)
        summary = log.last(f"{name}.summary")
        data = summary.data if summary is not None and isinstance(summary.data, dict) else {}
        joined = np.concatenate(forwards) if forwards else np.zeros((0, len(FORWARD_COLUMNS)))
        stepped = np.concatenate(steps) if steps else np.zeros((0, len(STEP_COLUMNS)))
        begun = np.concatenate(backwards) if backwards else np.zeros((0, len(BACKWARD_COLUMNS)))
        return cls(joined, Steps(stepped), Backwards(begun), rows, _larger(memory, data), data)

    def column(self, forwards: Matrix, name: str) -> Matrix:
        """One column of some forwards."""
        return np.asarray(forwards[:, FORWARD_COLUMNS.index(name)])

    def trained_any(self) -> bool:
        """Whether a backward pass went through any forward."""
        return bool((self.column(self.forwards, "trained") > 0).any())

    def probability_share(self) -> float | None:
        """Share of the training outputs looked at whose rows are probabilities; None without any.

        Without those of models that were tried out before the one that was trained.
        """
        training = self.training_forwards()
        training = training[_tried_out(self.column(training, "model").tolist()) :]
        seen = self.column(training, "simplex")
        seen = seen[np.isfinite(seen)]
        return float((seen > 0).mean()) if len(seen) else None

    def training_forwards(self) -> Matrix:
        """Forwards that a backward pass went through."""
        return self.forwards[self.column(self.forwards, "trained") > 0]

    def within(self, context: str) -> Matrix:
        """Forwards inside `train_one_epoch` ("train") or `validate` ("validate")."""
        return np.asarray(self.forwards[self.column(self.forwards, "context") == CONTEXTS[context]])

    def calls_of(self, context: str) -> int:
        """How many calls of `train_one_epoch` or `validate` had a forward in them."""
        return len(set(self.column(self.within(context), "call")))

    def validation_forwards(self) -> Matrix:
        """Forwards inside `validate`; where that was never called, those after the first training
        that no backward pass went through and that are not part of training.

        Where it was called now and then only, and other rows than those trained on were shown all the
        while, both: then `main` measures with code of its own.
        """
        context = self.column(self.forwards, "context")
        inside = self.within("validate")
        trained = self.column(self.forwards, "trained") > 0
        if not trained.any():
            return inside
        later = np.arange(len(trained)) > int(np.argmax(trained))
        measured: Matrix = self.forwards[later & ~trained & (context == CONTEXTS[""])]
        if not len(inside):  # fewer are no measuring of each epoch
            return measured if len(measured) >= self.calls_of("train") else inside
        epochs = integer(self.summary.get("epochs"))
        if self.calls_of("validate") >= RARELY * epochs:
            return inside
        measured = self._on_other_rows(measured)
        return np.concatenate([inside, measured]) if len(measured) >= epochs else inside

    def _on_other_rows(self, forwards: Matrix) -> Matrix:
        """Those of them that were shown rows, most of which were not trained on."""
        train = set(self._rows_shown(self.training_forwards()))
        serials = self.column(forwards, "serial").astype(int)
        kept = [self.rows.get(int(serial)) for serial in serials]
        other = [rows is not None and sum(row.tobytes() in train for row in rows) < 0.5 * len(rows) for rows in kept]
        return np.asarray(forwards[np.array(other, dtype=bool)])

    def _rows_shown(self, forwards: Matrix) -> list[bytes]:
        serials = self.column(forwards, "serial").astype(int)
        return [row.tobytes() for serial in serials for row in self.rows.get(int(serial), np.zeros((0, 1)))]

    def in_train_mode(self, forwards: Matrix) -> NDArray[np.bool_]:
        """Which forwards ran with a mode-dependent layer in train mode, by flag or by effect."""
        by_flag = self.column(forwards, "mode_training") > 0
        gap = self.column(forwards, "eval_gap")
        with np.errstate(invalid="ignore"):
            by_effect = (self.column(forwards, "stats_moved") > 0) | (gap > 1e-3)
        return np.asarray(by_flag | by_effect)

    def batch_mixing_share(self) -> float:
        """Share of the validation batches looked at whose rows answer otherwise when the rest of the batch moves."""
        seen = self.column(self.validation_forwards(), "batch_gap")
        seen = seen[np.isfinite(seen)]
        return float((seen > 1e-3).mean()) if len(seen) else 0.0

    def optimizer(self) -> OptimizerSeen:
        """The optimizer that most backward passes worked for."""
        told = self.summary.get("optimizers")
        numbers = self.backwards.column("optimizer")
        numbers = numbers[(numbers >= 0) & (numbers < 1000)]
        if not isinstance(told, list) or not told or not len(numbers):
            return OptimizerSeen()
        index = int(np.bincount(numbers.astype(int)).argmax())
        return _optimizer_told(told[index] if index < len(told) else None)

    def optimizers_made(self) -> list[tuple[OptimizerSeen, float]]:
        """The optimizers that were made, stepped or not, with their largest rate."""
        told = self.summary.get("made")
        entries = [entry for entry in told if isinstance(entry, dict)] if isinstance(told, list) else []
        rated = [(_optimizer_told(entry), number(entry.get("lr"))) for entry in entries]
        return [(made, rate) for made, rate in rated if rate is not None and math.isfinite(rate)]

    def passes_and_steps(self) -> list[tuple[int, int]]:
        """For each optimizer: the backward passes counted on its behalf, and the steps that it has counted itself."""
        told = self.summary.get("optimizers")
        return [
            (integer(entry.get("passes")), integer(entry.get("steps")))
            for entry in (told if isinstance(told, list) else [])
            if isinstance(entry, dict)
        ]

    def epochs_of_rows(self) -> list[list[Matrix]]:
        """The batches shown while training, epoch by epoch, as far as they were kept.

        A model that was tried out before the one that was trained is left out: seeds are set again after it.
        """
        epochs: dict[float, list[Matrix]] = {}
        models: dict[float, float] = {}
        call, segment, was_training = self.column(self.forwards, "call"), 0, False
        inside = bool((self.column(self.forwards, "context") == CONTEXTS["train"]).any())
        for index, row in enumerate(self.forwards):
            trained = bool(row[FORWARD_COLUMNS.index("trained")])
            if trained and not was_training:
                segment += 1
            was_training = trained or (was_training and inside and row[1] == CONTEXTS["train"])
            kept = self.rows.get(int(row[FORWARD_COLUMNS.index("serial")]))
            if trained and kept is not None and (row[1] == CONTEXTS["train"] or not inside):
                key = call[index] if inside else segment
                epochs.setdefault(key, []).append(kept)
                models.setdefault(key, row[FORWARD_COLUMNS.index("model")])
        keys = sorted(epochs)
        return [epochs[key] for key in keys[_tried_out([models[key] for key in keys]) :]]

    def backwards_of_the_trained(self) -> Backwards:
        """The backward passes, but for those of models that were tried out before the one that was trained."""
        serials = self.backwards.column("serial").astype(int)
        if not len(serials) or serials.min() < 0 or serials.max() >= len(self.forwards):
            return self.backwards
        models = self.column(self.forwards, "model")[serials].tolist()
        return Backwards(self.backwards.rows[_tried_out(models) :])

    def validated_on_training_rows(self) -> float | None:
        """Share of the validation rows that were also trained on; None when not known."""
        train = {row.tobytes() for epoch in self.epochs_of_rows()[:1] for batch in epoch for row in batch}
        shown = self._rows_shown(self.validation_forwards())
        if not train or not shown:
            return None
        return sum(row in train for row in shown) / len(shown)


def _tried_out(models: Sequence[float]) -> int:
    """How many epochs (or passes) of other models come before the one trained longest; 0 unless they are few."""
    if not models:
        return 0
    longest = max(dict.fromkeys(models), key=models.count)
    before = models.index(longest)
    return before if models.count(longest) >= 3 * before else 0


def _larger(first: Mapping[str, Any], second: Any) -> Mapping[str, Any]:
    """Both, and of each count the larger: a forked child tells its own, and a summary may come from its parent."""
    if not isinstance(second, dict):
        return first
    counts = {key: max(integer(first.get(key)), integer(value)) for key, value in second.items()}
    return {**second, **first, **{key: count for key, count in counts.items() if isinstance(second[key], int)}}


def _matrix(array: NDArray[Any] | None, columns: int) -> Matrix:
    if array is None or array.ndim != 2 or array.shape[1] != columns or array.dtype != np.float64:
        return np.zeros((0, columns))
    return array


def _optimizer_told(entry: Any) -> OptimizerSeen:
    entry = entry if isinstance(entry, dict) else {}
    family = tuple(str(n)[:60] for n in entry.get("family") or [] if n != "Optimizer")
    told_defaults = entry.get("defaults")
    defaults = told_defaults if isinstance(told_defaults, dict) else {}
    name = str(entry.get("class", "the optimizer"))[:60]
    trainable, held = integer(entry.get("trainable")), integer(entry.get("trainable_held"))
    return OptimizerSeen(name, family, defaults, trainable, held, entry.get("has_state") is not False)


def _split(rows: NDArray[Any] | None, serials: NDArray[Any] | None) -> dict[int, Matrix]:
    if rows is None or serials is None or rows.ndim != 2 or serials.ndim != 2 or serials.shape[1] != 2:
        return {}
    if (serials[:, 1] < 0).any() or int(serials[:, 1].sum()) != len(rows):
        return {}
    cuts = np.cumsum(serials[:, 1])[:-1]
    return {int(serial): part for serial, part in zip(serials[:, 0], np.split(rows, cuts), strict=True)}


def order_likeness(epochs: Sequence[Sequence[Matrix]]) -> tuple[float, float] | None:
    """How much the orders of any two epochs are alike: (neighbours kept, batch mates kept).

    A batch that is shown several times in a row (a closure, a second pass) counts once.

    Neighbours kept is the share of rows next to each other in one epoch that are next to
    each other in the other, in either direction: 1 for the same order, reversed or rolled,
    about 2/n for independent ones. Batch mates kept is the share of pairs in one batch
    that share a batch again, beyond what chance gives. None when rows cannot be matched.
    """
    epochs = [_once(epoch) for epoch in epochs]
    numbered, different = _numbered(epochs)
    if different > 1.5 * max(sum(len(b) for b in epoch) for epoch in epochs):
        return _aligned_likeness(epochs)
    order, mates = 0.0, 0.0
    for i, first in enumerate(numbered):
        for second in numbered[i + 1 :]:
            order = max(order, _neighbours_kept(first, second))
            mates = max(mates, _mates_kept(first, second))
    return order, mates


def _aligned_likeness(epochs: Sequence[Sequence[Matrix]]) -> tuple[float, float] | None:
    """For rows that change a little each time (augmentation): are those at the same place alike?

    1 - (median distance of rows at the same place / of rows at unrelated places), for the
    most alike pair of epochs, the second also read backwards. Of epochs that differ in length (a curriculum
    that grows) the shorter one's places count; None where half of them or more differ so.
    """
    joined = [np.concatenate(list(epoch)) for epoch in epochs]
    shapes = [rows.shape for rows in joined]
    unlike = len(joined) - max(map(shapes.count, shapes))
    if len({width for _, width in shapes}) != 1 or min(map(len, joined)) < 16 or 2 * unlike >= len(joined):
        return None
    likeness = 0.0
    for i, longer in enumerate(joined):
        for second in joined[i + 1 :]:
            first, second = longer[: len(second)], second[: len(longer)]
            unrelated = float(np.median(np.linalg.norm(first - np.roll(second, len(first) // 3, axis=0), axis=1)))
            for other in (second, second[::-1]):
                likeness = max(
                    likeness, 1.0 - float(np.median(np.linalg.norm(first - other, axis=1))) / max(unrelated, 1e-12)
                )
    return max(likeness, 0.0), 0.0


def _once(epoch: Sequence[Matrix]) -> list[Matrix]:
    return [batch for i, batch in enumerate(epoch) if not i or not np.array_equal(batch, epoch[i - 1])]


def _numbered(epochs: Sequence[Sequence[Matrix]]) -> tuple[list[list[NDArray[np.int64]]], int]:
    """A number for each row, the same for rows that are the same to the bit, and how many numbers there are."""
    batches = [np.asarray(batch, dtype=np.float64) for epoch in epochs for batch in epoch]
    widest = max((batch.shape[1] for batch in batches), default=0)
    rows = np.zeros((sum(len(batch) for batch in batches), widest + 1))
    rows[:, widest] = np.repeat([b.shape[1] for b in batches], [len(b) for b in batches])  # no row equals a longer one
    ends = np.cumsum([len(batch) for batch in batches])
    for end, batch in zip(ends, batches, strict=True):
        rows[end - len(batch) : end, : batch.shape[1]] = batch
    different, number = np.unique(rows.view(np.dtype((np.void, rows.itemsize * (widest + 1)))), return_inverse=True)
    parts = iter(np.split(number.reshape(-1), ends[:-1]))
    return [[next(parts) for _ in epoch] for epoch in epochs], len(different)


def _neighbours_kept(first: Sequence[NDArray[np.int64]], second: Sequence[NDArray[np.int64]]) -> float:
    a, b = np.concatenate(list(first)), np.concatenate(list(second))
    most = int(max(a.max(initial=0), b.max(initial=0))) + 1
    kept = np.isin(*(np.minimum(rows[:-1], rows[1:]) * most + np.maximum(rows[:-1], rows[1:]) for rows in (a, b)))
    return float(kept.sum()) / max(1, len(kept))


def _mates_kept(first: Sequence[NDArray[np.int64]], second: Sequence[NDArray[np.int64]]) -> float:
    total = sum(len(b) for b in second)
    chance = sum((len(b) / total) ** 2 for b in second) if total else 1.0
    if chance > 0.6:  # one or two batches: every pair shares one whatever the order
        return 0.0
    a, b = np.concatenate(list(first)), np.concatenate(list(second))
    where = np.full(int(max(a.max(initial=0), b.max(initial=0))) + 1, -1)
    where[b] = np.repeat(np.arange(len(second)), [len(batch) for batch in second])
    homes, batch_of = where[a], np.repeat(np.arange(len(first)), [len(batch) for batch in first])
    batch_of, homes = batch_of[homes >= 0], homes[homes >= 0]
    counts = np.bincount(batch_of * len(second) + homes).astype(np.float64)
    sizes = np.bincount(batch_of).astype(np.float64)
    pairs = float((sizes * (sizes - 1)).sum())
    together = float((counts * (counts - 1)).sum())
    return (together / pairs - chance) / (1 - chance) if pairs else 0.0

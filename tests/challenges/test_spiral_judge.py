"""The judge's own arithmetic, held against formulas and against torch."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from challenges.spiral import data, judge, sights, steps
from grading.challenge import CHALLENGES_ROOT, load_challenge
from grading.evidence import EvidenceLog, Record
from grading.judgement import Secrets, SeenRun
from grading.probes.columns import FORWARD_COLUMNS
from grading.trace import Table
from sandbox.spec import GpuUse, RunResult, RunStatus, RunTiming, StepResult

SEEDS = ("0", "a-seed", "ffee00112233")
Loss = Callable[[np.ndarray, int], float]  # of one row's final scores and its label


def log_softmax(scores: np.ndarray) -> np.ndarray:
    shifted = scores - scores.max()
    return np.asarray(shifted - np.log(np.exp(shifted).sum()))


def softmax(scores: np.ndarray) -> np.ndarray:
    return np.exp(log_softmax(scores))


def cross_entropy(scores: np.ndarray, label: int) -> float:
    return float(-log_softmax(scores)[label])


def smoothed(share: float) -> Loss:
    def loss(scores: np.ndarray, label: int) -> float:
        return float((1 - share) * cross_entropy(scores, label) - share * log_softmax(scores).mean())

    return loss


def focal(gamma: float) -> Loss:
    def loss(scores: np.ndarray, label: int) -> float:
        return float((1 - softmax(scores)[label]) ** gamma * cross_entropy(scores, label))

    return loss


def hinge(scores: np.ndarray, label: int) -> float:
    others = np.delete(scores, label)
    return float(np.maximum(0.0, 1.0 + others - scores[label]).sum())


def binary(scores: np.ndarray, label: int) -> float:
    sign = np.where(np.arange(len(scores)) == label, -1.0, 1.0)
    return float(np.logaddexp(0.0, sign * scores).mean())


def log_of_probabilities(epsilon: float) -> Loss:
    return lambda scores, label: float(-np.log(softmax(scores)[label] + epsilon))


def squashed_by(function: Callable[[np.ndarray], np.ndarray]) -> Loss:
    return lambda scores, label: cross_entropy(function(scores), label)


def curve(loss: Loss, classes: int = 4, weights: Sequence[float] = ()) -> dict[tuple[int, float], float | None]:
    """The mean loss over labels, as the probe forces it: right 1 or 0, and the magnitude."""
    shares = np.array(weights or [1.0] * classes)
    values: dict[tuple[int, float], float | None] = {}
    for right, magnitude in itertools.product((1, 0), steps.MAGNITUDES):
        rows = []
        for label in range(classes):
            scores = np.zeros(classes)
            scores[label if right else (label + 1) % classes] = magnitude
            rows.append(loss(scores, label))
        values[right, magnitude] = float(np.array(rows) @ shares / shares.sum())
    return values


def unsquashed(loss: Loss, classes: int = 4, weights: Sequence[float] = ()) -> bool:
    decided = sights._unsquashed(curve(loss, classes, weights))
    assert decided is not None
    return decided[0]


@pytest.mark.parametrize("classes", range(2, 21))
def test_cross_entropy_on_raw_scores_is_free_for_any_number_of_classes(classes: int) -> None:
    assert unsquashed(cross_entropy, classes)
    assert unsquashed(smoothed(0.3), classes)


@pytest.mark.parametrize("classes", range(2, 21))
def test_softmax_in_front_of_cross_entropy_is_squashed_for_any_number_of_classes(classes: int) -> None:
    assert not unsquashed(squashed_by(softmax), classes)


@pytest.mark.parametrize(
    "loss",
    [
        pytest.param(cross_entropy, id="cross-entropy"),
        *(pytest.param(smoothed(s), id=f"smoothing {s}") for s in (0.05, 0.1, 0.3)),
        *(pytest.param(focal(g), id=f"focal {g}") for g in (1.0, 2.0, 5.0)),
        pytest.param(hinge, id="hinge"),
        pytest.param(binary, id="binary cross-entropy with logits"),
        *(pytest.param(log_of_probabilities(e), id=f"log(p + {e:g})") for e in (0.0, 1e-12, 1e-10, 1e-9, 1e-8)),
        *(pytest.param(lambda s, y, k=k: k * cross_entropy(s, y), id=f"{k:g} times") for k in (0.01, 100.0)),
        *(pytest.param(squashed_by(lambda s, t=t: s / t), id=f"raw scores / {t:g}") for t in (0.5, 2.0, 5.0)),
    ],
)
def test_losses_that_follow_the_raw_scores(loss: Loss) -> None:
    with np.errstate(divide="ignore"):
        assert unsquashed(loss)


@pytest.mark.parametrize(
    "loss",
    [
        *(
            pytest.param(squashed_by(lambda s, t=t: t * softmax(s)), id=f"softmax times {t}")
            for t in (1, 2, 5, 10, 30, 100)
        ),
        *(
            pytest.param(squashed_by(lambda s, t=t: softmax(s / t)), id=f"softmax of scores / {t}")
            for t in (0.1, 0.5, 1, 2, 3, 10, 30, 100)
        ),
        pytest.param(squashed_by(np.tanh), id="tanh"),
        pytest.param(squashed_by(lambda s: 5 * np.tanh(s / 5)), id="soft clipping at 5"),
        pytest.param(squashed_by(lambda s: 1 / (1 + np.exp(-s))), id="sigmoid"),
        pytest.param(squashed_by(lambda s: softmax(softmax(s))), id="softmax twice"),
        pytest.param(lambda s, y: float(-softmax(s)[y]), id="nll of probabilities"),
        pytest.param(lambda s, y: float(((softmax(s) - np.eye(len(s))[y]) ** 2).sum()), id="brier"),
    ],
)
def test_losses_that_see_squashed_scores(loss: Loss) -> None:
    with np.errstate(over="ignore"):
        assert not unsquashed(loss)


@given(st.lists(st.floats(0.05, 20.0), min_size=4, max_size=4))
def test_class_weights_change_nothing(weights: list[float]) -> None:
    assert unsquashed(cross_entropy, weights=weights)
    assert not unsquashed(squashed_by(softmax), weights=weights)


@pytest.mark.parametrize("missing", [None, math.nan])
def test_a_curve_with_holes_decides_nothing(missing: float | None) -> None:
    assert sights._unsquashed({}) is None
    assert sights._unsquashed({**curve(cross_entropy), (0, steps.MAGNITUDES[1]): missing}) is None


def test_a_loss_that_ignores_the_scores_decides_nothing() -> None:
    assert sights._unsquashed(curve(lambda scores, label: 1.0)) is None


# -- the sentinel's loss and weights ----------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("accumulate", [False, True])
def test_the_trajectory_is_the_one_that_torch_takes(seed: str, accumulate: bool) -> None:
    import torch
    from torch.nn.functional import cross_entropy as loss_of

    inputs = steps.sentinel_inputs(Secrets(seed))
    weight = torch.tensor(inputs["weight"], requires_grad=True)
    bias = torch.tensor(inputs["bias"], requires_grad=True)
    optimizer = torch.optim.SGD([weight, bias], lr=steps.SGD_LR)
    losses, hits = [], []
    for x, y in zip(
        torch.tensor(inputs["train_x"]).split(steps.BATCH_ROWS),
        torch.tensor(inputs["train_y"]).split(steps.BATCH_ROWS),
        strict=True,
    ):
        if not accumulate:
            optimizer.zero_grad()
        scores = x @ weight.T + bias
        loss = loss_of(scores, y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        hits.append((scores.argmax(1) == y).float().mean().item())

    (got_weight, got_bias), loss, accuracy = sights.trajectory(inputs, accumulate=accumulate)

    np.testing.assert_allclose(got_weight, weight.detach().numpy(), atol=1e-5)
    np.testing.assert_allclose(got_bias, bias.detach().numpy(), atol=1e-5)
    assert (loss, accuracy) == (pytest.approx(np.mean(losses), abs=1e-5), pytest.approx(np.mean(hits)))


@pytest.mark.parametrize("seed", SEEDS)
def test_clearing_and_piling_up_end_far_apart(seed: str) -> None:
    """The comparison allows 1e-4; the two must never come near each other."""
    inputs = steps.sentinel_inputs(Secrets(seed))
    right, wrong = (sights.trajectory(inputs, accumulate=a)[0][0] for a in (False, True))

    assert np.abs(right - wrong).max() > 0.1


def returned(*pair: object) -> SeenRun:
    """A run in which `validate` returned this pair."""
    run = RunResult(steps=(), timing=RunTiming(), sandbox="none")
    record = Record("calls.validate.result", {"pair": list(pair)}, {})
    return SeenRun(run, {"calls": EvidenceLog((record,))})


@pytest.mark.parametrize("seed", SEEDS)
def test_every_combination_of_modes_is_read_off_the_returned_values(seed: str) -> None:
    secrets = Secrets(seed)
    tables = sights.mode_tables(secrets)
    modes = list(itertools.product((0, 1), repeat=3))
    unread = 0
    for combination in itertools.product(modes, repeat=steps.BATCHES):
        loss, accuracy = (sights.mean(tables, combination, which) for which in (0, 1))
        decoded = sights.decode_modes(secrets, returned(float(np.float32(loss)), accuracy))
        unread += decoded is None
        assert decoded in (None, list(combination))
    right = [(0, 0, 0)] * steps.BATCHES

    assert unread <= 10, "two combinations may share a loss; they are then left open, hardly ever"
    assert sights.decode_modes(secrets, returned(*(sights.mean(tables, right, i) for i in (0, 1)))) == right


@pytest.mark.parametrize(
    "pair", [(), (None, None), ("nan", 0.5), ("inf", 0.5), (True, 0.5), ({}, 0.5), (1.0,), (1, 2, 3)]
)
def test_what_is_no_pair_of_numbers_is_not_read(pair: tuple[object, ...]) -> None:
    assert sights.decode_modes(Secrets("0"), returned(*pair)) is None


@given(st.floats(0.0, 5.0), st.floats(0.0, 1.0))
@settings(max_examples=50, deadline=None)
def test_a_loss_that_no_mode_gives_is_not_read(loss: float, accuracy: float) -> None:
    secrets = Secrets("0")
    tables = sights.mode_tables(secrets)
    possible = [sights.mean(tables, c, 0) for c in itertools.product(tables[0], repeat=steps.BATCHES)]
    decoded = sights.decode_modes(secrets, returned(loss, accuracy))

    assert decoded is None or min(abs(loss - p) for p in possible) < sights.VALUE_TOLERANCE


def test_the_values_of_one_grade_say_nothing_under_the_secrets_of_another() -> None:
    tables = sights.mode_tables(Secrets("mine"))
    right = [(0, 0, 0)] * steps.BATCHES
    known = returned(sights.mean(tables, right, 0), sights.mean(tables, right, 1))

    assert sights.decode_modes(Secrets("mine"), known) == right
    assert sights.decode_modes(Secrets("yours"), known) is None


# -- rows -------------------------------------------------------------------------------------


def test_the_rows_drawn_here_are_those_that_the_problem_file_validates_on() -> None:
    namespace: dict[str, Callable[[], tuple[np.ndarray, ...]]] = {"__name__": "problem"}  # type: ignore[dict-item]
    exec((CHALLENGES_ROOT / "spiral" / "problem.py").read_text("utf-8"), namespace)
    _, _, x, y = (np.asarray(part) for part in namespace["create_spiral_dataset"]())
    rows, labels = data.default_validation_rows()

    np.testing.assert_array_equal(rows, x)
    np.testing.assert_array_equal(labels, y)


def test_held_out_rows_are_drawn_anew_and_lie_on_the_same_spiral() -> None:
    mine, yours = (steps.held_out_rows(Secrets(seed)) for seed in ("a", "b"))

    assert mine[0].shape == yours[0].shape == (1000, 2)
    assert np.bincount(mine[1]).tolist() == [250] * 4
    assert not np.array_equal(mine[0], yours[0])
    assert np.abs(np.linalg.norm(mine[0], axis=1).max() - 1.0) < 1e-5


def test_nothing_secret_is_in_the_plan() -> None:
    """Inputs drawn from the seed go in; the seed, the labels of held-out rows and the judge do not."""
    secrets = Secrets("0123456789abcdef-not-to-be-found")
    plan = judge.plan(secrets, load_challenge("spiral").manifest)
    crossing = json.dumps([dict(step.params) for step in plan.steps]).encode()
    crossing += b"".join(array.data for step in plan.steps for array in step.arrays.values())

    assert secrets.seed.encode() not in crossing
    assert steps.held_out_rows(secrets)[1].tobytes() not in crossing
    assert not {"challenges.spiral.judge", "challenges.spiral.mutations", "challenges.spiral.data"} & set(plan.modules)


# --- bug 3 by memory -----------------------------------------------------------------


def measured(grown_bytes: int, *, trained_on_few_rows: bool, old_alive: int = 0) -> SeenRun:
    """Calls whose peak lies so far over that of the other steps, which trained too, or ended before they could."""
    base = 300 << 20
    peaks = {"calls": base + grown_bytes, "mini": base, "ghost": base}
    done = tuple(
        StepResult(name, RunStatus.OK, 0, 1.0, 1.0, peak_memory_bytes=peak, baseline_memory_bytes=base)
        for name, peak in peaks.items()
    )
    leak = Record("calls.leak", {"batches": steps.LEAK_BATCHES, "max_old_alive": old_alive}, {})
    forwards = np.zeros((4, len(FORWARD_COLUMNS)))
    forwards[:, FORWARD_COLUMNS.index("trained")] = trained_on_few_rows
    events = Record("mini.events", {}, {"forwards": forwards})
    run = RunResult(steps=done, timing=RunTiming(), sandbox="none")
    return SeenRun(run, {"calls": EvidenceLog((leak,)), "mini": EvidenceLog((events,))})


@pytest.mark.parametrize(
    ("share", "trained_on_few_rows", "old_alive", "verdict"),
    [
        (1.5, True, 0, "not_fixed"),
        (0.65, True, 0, "inconclusive"),
        (0.1, True, 0, "fixed"),
        # Half of what a step needs is for pages of torch that a step which never trained did not load.
        (0.9, False, 0, "inconclusive"),
        (0.1, False, 0, "fixed"),
        (0.9, False, 30, "not_fixed"),
    ],
)
def test_memory_tells_of_a_leak_only_beside_a_step_that_trained(
    share: float, trained_on_few_rows: bool, old_alive: int, verdict: str
) -> None:
    seen = measured(
        int(share * steps.LEAK_BATCHES * steps.BALLAST_BYTES),
        trained_on_few_rows=trained_on_few_rows,
        old_alive=old_alive,
    )

    sight = sights._leak_call(seen, (Table.of(seen, "mini"),))

    assert sight is not None and sight.verdict.value == verdict


# --- bug 6 on a real GPU ----------------------------------------------------------------


def on_a_gpu(
    trained_on: object, *, there: bool = True, insists: bool = False, peak_memory_bytes: int | None = 1 << 30
) -> SeenRun:
    """A run whose own training passes were computed there; the pretended GPU saw it train on the CPU, or insist."""
    ghosts = (
        Record("ghost.run", {"available": True, "seen": [{"graph": True, "model": "cuda" if insists else "cpu"}]}, {}),
        Record("ghost.run", {"available": False, "error": "no CUDA" if insists else ""}, {}),
    )
    real = Record("real.summary", {"accelerator": there, "trained_on": trained_on}, {})
    use = None if peak_memory_bytes is None else GpuUse(1.0, peak_memory_bytes)
    run = RunResult(steps=(), timing=RunTiming(), sandbox="none", gpu=use)
    return SeenRun(run, {"ghost": EvidenceLog(ghosts), "real": EvidenceLog((real,))})


@pytest.mark.parametrize(
    ("trained_on", "verdict"),
    [
        ({"cuda": 640}, "fixed"),
        ({"cuda": 640, "cpu": 3}, "fixed"),
        ({"cpu": 640}, "not_fixed"),
        ({"cuda": 320, "cpu": 320}, "not_fixed"),
        ({"meta": 640}, None),
        ({"cuda": "many"}, None),
        ("cuda", None),
        ({}, None),
    ],
)
def test_where_its_own_run_trained_is_read_off_a_real_gpu(trained_on: object, verdict: str | None) -> None:
    sight = sights._device_run(on_a_gpu(trained_on))
    assert (sight.verdict.value if sight is not None else None) == verdict


def test_without_a_gpu_the_own_run_says_nothing_of_it() -> None:
    assert sights._device_run(on_a_gpu({"cpu": 640}, there=False)) is None


def test_who_insists_on_a_gpu_fails_wherever_it_is_graded() -> None:
    sight = sights._fails_without_gpu(on_a_gpu({"cuda": 640}, insists=True))
    assert sight is not None and sight.verdict.value == "not_fixed"
    assert sights._fails_without_gpu(on_a_gpu({"cuda": 640})) is None


@pytest.mark.parametrize(("peak", "doubted"), [(600 << 20, False), (0, True), (None, False)])
def test_work_on_a_gpu_that_its_driver_knows_nothing_of_is_no_work(peak: int | None, doubted: bool) -> None:
    assert bool(judge._doubts(on_a_gpu({"cuda": 640}, peak_memory_bytes=peak))) is doubted
    assert not judge._doubts(on_a_gpu({"cpu": 640}, peak_memory_bytes=0))

"""What the recorder reads off numbers: the kind of loss, probabilities, the gradient that a step used."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from grading.probes import graphs, optimizers, recorder, values
from grading.probes.columns import BACKWARD_COLUMNS


def _gradient(scores: torch.Tensor, labels: torch.Tensor, criterion: Any) -> tuple[np.ndarray, np.ndarray]:
    leaf = scores.clone().requires_grad_()
    criterion(leaf, labels).backward()
    assert leaf.grad is not None
    return leaf.detach().numpy(), leaf.grad.numpy()


def test_values_are_seen_inside_a_transformed_function() -> None:
    seen: list[np.ndarray] = []
    rows, weights = torch.randn(5, 3), torch.randn(3)

    def loss(inner: torch.Tensor) -> torch.Tensor:
        scores = rows @ inner
        scores.register_hook(lambda gradient: seen.append(values.values_of(gradient)))
        seen.extend(map(values.values_of, (rows, inner, scores)))
        return scores.square().sum()

    torch.func.grad(loss)(weights)
    _, pull = torch.func.vjp(loss, weights)
    pull(torch.ones(()))
    scores = (rows @ weights).numpy()
    for given, inner, output, gradient in (seen[:4], seen[4:]):
        assert np.array_equal(given, rows.numpy()) and np.array_equal(inner, weights.numpy())
        assert np.allclose(output, scores) and np.allclose(gradient, 2 * scores)


@pytest.mark.parametrize("size", [0.5, 2.0, 6.0])
@pytest.mark.parametrize("classes", [3, 4, 7])
def test_loss_on_softmaxed_outputs_shows_in_its_gradient(size: float, classes: int) -> None:
    torch.manual_seed(3)
    scores, labels = size * torch.randn(64, classes), torch.randint(0, classes, (64,))
    weight = torch.linspace(0.5, 2.0, classes)
    plain = nn.CrossEntropyLoss()
    for criterion, expected in (
        (plain, -1.0),
        (nn.CrossEntropyLoss(weight=weight), -1.0),
        (nn.CrossEntropyLoss(reduction="sum"), -1.0),
        (lambda s, y: 512 * plain(s, y), -1.0),
        (nn.MultiMarginLoss(), 0.0),
        (lambda s, y: plain(s.softmax(1), y), 1.0),
        (lambda s, y: 3 * nn.CrossEntropyLoss(weight=weight)(s.softmax(1), y), 1.0),
    ):
        assert values.squashed_loss(*_gradient(scores, labels, criterion)) == expected


def test_log_probabilities_are_raw_scores_to_either_loss() -> None:
    torch.manual_seed(4)
    outputs, labels = torch.randn(64, 4).log_softmax(1), torch.randint(0, 4, (64,))
    for criterion in (nn.NLLLoss(), nn.CrossEntropyLoss()):
        assert values.squashed_loss(*_gradient(outputs, labels, criterion)) == -1.0
    assert values.squashed_loss(*_gradient(outputs.exp(), labels, nn.CrossEntropyLoss())) == 1.0


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("shape", ["huge", "corner", "one point", "near the middle"])
def test_raw_scores_of_a_diverged_or_collapsed_model_are_no_softmaxed_outputs(shape: str, smoothing: float) -> None:
    """Slopes of a saturated softmax are so small that their squares vanish; smoothed labels bend as it does."""
    generator = torch.Generator().manual_seed(11)
    for _ in range(20):
        noise, labels = torch.randn(32, 4, generator=generator), torch.randint(0, 4, (32,), generator=generator)
        corners = nn.functional.one_hot(torch.randint(0, 4, (32,), generator=generator), 4).float()
        scores = {
            "huge": 300 * noise * (noise[:, :1] > 0) + noise[:1],
            "corner": 8 * corners + 0.01 * noise,
            "one point": noise[:1].repeat(32, 1),
            "near the middle": 0.2 * noise,
        }[shape]
        seen = values.squashed_loss(*_gradient(scores, labels, nn.CrossEntropyLoss(label_smoothing=smoothing)))
        assert seen != 1.0


def test_the_same_certain_probabilities_for_every_row_tell_nothing() -> None:
    """A model that collapsed: with softmaxed outputs, this is what a rate far too large makes of it."""
    output = np.tile(np.array([[0.0, 1.0, 0.0, 0.0]], dtype=np.float32), (16, 1))
    gradient = output - np.eye(4, dtype=np.float32)[np.arange(16) % 4]

    assert math.isnan(values.squashed_loss(output, gradient))


def test_kind_of_loss_is_open_where_nothing_tells() -> None:
    flat, labels = torch.zeros(8, 3), torch.randint(0, 3, (8,))
    assert math.isnan(values.squashed_loss(*_gradient(flat, labels, nn.CrossEntropyLoss())))
    assert math.isnan(values.squashed_loss(np.zeros((8, 3)), np.zeros((8, 3))))
    assert math.isnan(values.squashed_loss(np.zeros((8, 2)), np.ones((8, 2))))
    assert math.isnan(values.squashed_loss(np.full((8, 3), math.nan), np.ones((8, 3))))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda scores: scores.softmax(1), 1.0),
        (lambda scores: 1.02 * scores.softmax(1), 1.0),
        (lambda scores: scores.softmax(1) - 1e-3, 1.0),
        (lambda scores: scores[:1].softmax(1).repeat(16, 1), 1.0),
        (lambda scores: scores, 0.0),
        (lambda scores: scores.log_softmax(1), 0.0),
        (lambda scores: scores.sigmoid(), 0.0),
        (lambda scores: scores - scores.mean(1, keepdim=True), 0.0),
        (lambda scores: scores[:1].abs().repeat(16, 1), 0.0),
        (lambda scores: torch.zeros_like(scores), 0.0),
    ],
)
def test_probabilities_are_told_from_raw_scores(make: Any, expected: float) -> None:
    torch.manual_seed(5)
    assert values.on_simplex(make(2 * torch.randn(16, 4))) == expected


def test_probabilities_of_few_digits_are_left_open() -> None:
    """Half of a net's outputs are exact once it is sure, those before are not: no change of kind between runs."""
    torch.manual_seed(5)
    scores = 2 * torch.randn(16, 4)
    assert math.isnan(values.on_simplex(scores.bfloat16().softmax(1).float()))
    assert values.on_simplex((40 * scores.round()).bfloat16().softmax(1)) != 0.0


@pytest.mark.parametrize("stashes", [False, True])
@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD])
def test_gradient_that_a_step_used_is_read_off_the_optimizer(kind: Any, stashes: bool) -> None:
    """A step that adds kept gradients after looking clean differs from the sum of the output's own gradient."""
    torch.manual_seed(7)
    model = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 3))
    optimizer = kind(model.parameters(), lr=1e-3)
    watch = recorder.Recorder(lambda *_: None, "x", thorough=False)
    watch.optimizers.made.append(optimizer)
    kept = [torch.zeros_like(p) for p in model.parameters()]
    for _ in range(30):
        x, y = torch.randn(16, 2), torch.randint(0, 3, (16,))
        optimizer.zero_grad()
        output = model(x)
        row = [0.0] * 14
        output.register_hook(lambda g, row=row, out=output: watch.backwards.note(row, model, out, g))
        nn.functional.cross_entropy(output, y).backward()
        if stashes:
            for stash, parameter in zip(kept, model.parameters(), strict=True):
                parameter.grad += stash
                stash.copy_(parameter.grad)
        optimizer.step()
    told = np.array(watch.backwards.rows)
    seen, summed = (told[:, BACKWARD_COLUMNS.index(name)] for name in ("agreement", "summed"))
    seen, summed = seen[np.isfinite(seen)], summed[np.isfinite(summed)]
    if kind is torch.optim.SGD:
        assert len(seen) == 0
    else:
        assert len(seen) > 20
        assert (seen < 0.9).mean() > 0.5 if stashes else (seen > 0.99).all()
        assert (summed > 0).mean() > 0.3 if stashes else not summed.any()


def test_steps_are_counted_by_the_optimizers_own_state() -> None:
    parameter = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.Adam([parameter])
    assert optimizers.steps_taken(optimizer) == 0
    for _ in range(3):
        parameter.grad = torch.ones(2)
        optimizer.step()
    assert optimizers.steps_taken(optimizer) == 3


def test_values_that_numpy_refuses_are_read_all_the_same() -> None:
    plain = torch.arange(6.0).reshape(2, 3)
    negative = torch.complex(plain, plain).conj().imag  # the same memory under a negative bit
    assert negative.is_neg()
    np.testing.assert_array_equal(values.values_of(negative), -plain.numpy())


def test_where_one_tensor_stands_for_many_there_are_no_values_and_no_error() -> None:
    seen: list[np.ndarray] = []

    def double(row: torch.Tensor) -> torch.Tensor:
        seen.append(values.values_of(row))
        return row * 2

    torch.func.vmap(double)(torch.ones(4, 3))
    assert [one.size for one in seen] == [0]


@pytest.mark.parametrize(
    ("after", "added"),
    [
        ((), True),
        ((nn.Flatten(),), True),
        ((nn.Softmax(1),), False),
        ((nn.ReLU(),), False),
        ((nn.LayerNorm(4),), False),
    ],
)
def test_a_bias_is_added_last_where_nothing_but_shapes_follows(after: tuple[nn.Module, ...], added: bool) -> None:
    last = nn.Linear(3, 4)
    output = nn.Sequential(nn.Linear(2, 3), last, *after)(torch.randn(5, 2))
    assert last.bias is not None
    assert graphs.is_added_last(output, last.bias) is added

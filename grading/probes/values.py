"""What can be read off an output, a gradient or a parameter by its numbers alone.

Runs inside the sandbox, at every forward and backward pass of the submission's own run: for
small tensors numpy is far quicker than torch, and no function of torch that the submission
may have replaced takes part.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch._C import _functorch
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack


def values_of(tensor: torch.Tensor, start: int | None = None, count: int = 0) -> np.ndarray:
    """A copy of the elements, none where they cannot be had. For small tensors numpy is far quicker than torch.

    With `start`: of at most `count` of them from there on, in one dimension. Inside torch.func.grad and the like no
    tensor has elements of its own: they are those of what it wraps.
    """
    try:
        return _copied(tensor, start, count)
    except (RuntimeError, TypeError, NotImplementedError):
        if _functorch.peek_interpreter_stack() is None:
            return np.empty(0)
    try:
        innermost = levels_of(tensor)[-1]
        with temporarily_clear_interpreter_stack():
            return _copied(innermost, start, count)
    except (RuntimeError, TypeError, NotImplementedError):
        return np.empty(0)


def levels_of(tensor: torch.Tensor) -> list[torch.Tensor]:
    """The tensor, and inside torch.func.grad and the like what it wraps: each level has a graph of its own."""
    levels = [tensor]
    if _functorch.peek_interpreter_stack() is not None:
        with temporarily_clear_interpreter_stack():
            while _functorch.is_gradtrackingtensor(levels[-1]):
                levels.append(_functorch.get_unwrapped(levels[-1]))
    return levels


def _copied(tensor: torch.Tensor, start: int | None, count: int) -> np.ndarray:
    with torch._C.DisableTorchFunctionSubclass():
        plain = tensor.detach()
        exact = plain.dtype in (torch.float32, torch.float64)
        if exact and not (plain.is_cuda or plain.is_conj() or plain.is_neg()):
            return _part(plain.numpy(), start, count)
        plain = plain.resolve_conj().resolve_neg()  # which numpy refuses
        return _part((plain if exact else plain.float()).cpu().numpy(), start, count)


def _part(array: np.ndarray, start: int | None, count: int) -> np.ndarray:
    return array.copy() if start is None else array.reshape(-1)[start : start + count].copy()


def evenness(change: np.ndarray) -> float:
    """The least magnitude over the largest; nan with fewer than four elements: two or three are alike by rule."""
    if change.size < 4:
        return math.nan
    sizes = np.abs(change)
    return float(sizes.min() / max(float(sizes.max()), 1e-30))


def rms(values: np.ndarray) -> float:
    """Root mean square; 0 for no values."""
    return math.sqrt(float(np.vdot(values, values)) / max(1, values.size))


def cosine(first: np.ndarray, second: np.ndarray) -> float:
    """The cosine of two vectors; nan where one of them vanishes."""
    size = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float(np.vdot(first, second)) / size if size > 1e-20 else math.nan


def on_simplex(tensor: torch.Tensor) -> float:
    """Whether the rows are probabilities, perhaps scaled or shifted by a trifle: raw scores have no constant sum.

    nan where they may be and half the digits are missing: softmax in bfloat16 is off by up to 0.4 %.
    """
    values = values_of(tensor)
    if values.ndim != 2 or values.shape[1] < 2:
        return math.nan
    sums, exact = values.sum(1), _probabilities(values)
    if not exact and _probabilities(values, tolerance=1e-2):
        return math.nan
    if exact or len(sums) < 4:  # a few raw scores may have equal sums by chance
        return float(exact)
    total = float(np.abs(sums).mean())
    spread = float(np.ptp(values, axis=0).max())  # a model that collapsed gives every row the same scores
    constant = total > 1e-3 and float(np.ptp(sums)) < 1e-3 * min(total, spread)
    return float(constant and float(values.min()) > -0.05 * total)


def _probabilities(rows: np.ndarray, tolerance: float = 1e-4) -> bool:
    return bool((rows >= 0).all()) and bool((np.abs(rows.sum(1) - 1) < tolerance).all())


def squashed_loss(output: np.ndarray, gradient: np.ndarray) -> float:
    """Whether `gradient` is that of cross-entropy on softmaxed scores rather than on the scores themselves.

    Either the output is the scores and the gradient that of cross-entropy on softmax(output),
    or the output is softmaxed already and the gradient that of cross-entropy on the output.

    Both are compared by direction, row by row, with the label that fits best, so that weights
    and scaling of the loss do not matter. 1 where it is, -1 where it plainly is that of
    cross-entropy on the output, 0 where it is neither; nan where they look alike, smoothed
    labels included.
    """
    if output.ndim != 2 or output.shape != gradient.shape or output.shape[1] < 3 or not np.isfinite(output).all():
        return math.nan
    sizes = np.linalg.norm(gradient, axis=1)
    rows = sizes > max(1e-12, 1e-3 * float(sizes.max(initial=0.0)))  # smaller ones are mostly rounding
    if rows.sum() < 2:
        return math.nan
    output, gradient = output[rows].astype(np.float64), gradient[rows].astype(np.float64)
    once = _softmax(output)
    outer = _softmax(once) - np.eye(output.shape[1])[:, None, :]  # label, row, class
    twice = once * (outer - (once * outer).sum(-1, keepdims=True))
    squashed_fit = float(_alike(gradient, twice).max(axis=0).mean())
    plain_fit = float(_alike(gradient, once - np.eye(output.shape[1])[:, None, :]).max(axis=0).mean())
    probabilities = _probabilities(output)
    if probabilities:
        if float(np.ptp(output, axis=0).max()) <= 1e-3:
            return math.nan  # a collapsed model: every loss looks alike
        if plain_fit > 0.99999:
            return 1.0
    if squashed_fit > 0.99999 and plain_fit < 0.999:
        return 1.0 if _smoothed_fit(gradient, once) < 0.9999 else math.nan
    if squashed_fit >= 0.999:
        return math.nan
    if probabilities:
        return 0.0
    if (output <= 1e-6).all() and np.abs(np.exp(output).sum(1) - 1.0).max() < 1e-4:
        # Logarithms of probabilities, whose cross-entropy is minus the label's own.
        plain_fit = max(plain_fit, float(_alike(gradient, -np.eye(output.shape[1])[:, None, :]).max(axis=0).mean()))
    return -1.0 if plain_fit > 0.99999 else 0.0


def _smoothed_fit(gradient: np.ndarray, once: np.ndarray) -> float:
    """How well smoothed labels, the same smoothing in all rows, explain the gradient of plain cross-entropy.

    Where outputs collapsed to a corner or to the middle of the simplex, smoothed labels
    bend a gradient as a second softmax would. The labels are those that fit best.
    """
    classes = once.shape[1]
    coarse = np.linspace(0.0, 0.6, 7)[:, None, None, None]
    certain = np.eye(classes)[:, None, :]
    fits = _alike(gradient, once - (1 - coarse) * certain - coarse / classes)  # smoothing, label, row
    best = int(fits.max(axis=1).mean(axis=1).argmax())
    labels = np.eye(classes)[fits[best].argmax(axis=0)]
    fine = np.linspace(max(0.0, coarse[best].item() - 0.1), coarse[best].item() + 0.1, 41)[:, None, None]
    refined = _alike(gradient, once - (1 - fine) * labels - fine / classes)
    return float(refined.mean(axis=1).max())


def _softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))


def _alike(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The cosine of each of their rows, along the last axis; 0 for rows that vanish."""
    first, second = _scaled(first), _scaled(second)
    sizes = np.linalg.norm(first, axis=-1) * np.linalg.norm(second, axis=-1)
    return np.asarray((first * second).sum(-1) / np.maximum(sizes, 1e-30))


def _scaled(rows: np.ndarray) -> np.ndarray:
    """Rows of largest magnitude 1: squares of the tiny slopes of a saturated softmax would underflow."""
    largest = np.abs(rows).max(axis=-1, keepdims=True)
    return np.asarray(np.where(largest > 1e-200, rows / np.maximum(largest, 1e-200), 0.0))

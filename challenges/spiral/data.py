"""The spiral's rows, as the interface defines them, drawn outside the sandbox."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = tuple[NDArray[Any], NDArray[Any]]


def spiral(rng: Any, points: int, classes: int, noise: float) -> Rows:
    """`points` rows of each class: x float32 (points * classes, 2), y int64.

    Class c has radius 0..1 and angle 4c..4(c+1), both linear, the angle with `noise` times
    a standard normal added; a row is (r sin, r cos).
    """
    radius = np.linspace(0.0, 1.0, points)
    rows, labels = [], []
    for c in range(classes):
        angle = np.linspace(c * 4, (c + 1) * 4, points) + rng.standard_normal(points) * noise
        rows.append(np.stack([radius * np.sin(angle), radius * np.cos(angle)], axis=1))
        labels.append(np.full(points, c))
    return np.concatenate(rows).astype(np.float32), np.concatenate(labels).astype(np.int64)


@functools.cache
def default_validation_rows() -> Rows:
    """The 800 rows that the interface's `create_spiral_dataset()` keeps for validation."""
    rng = np.random.RandomState(42)
    x, y = spiral(rng, 1000, 4, 0.2)
    order = rng.permutation(len(x))
    split = int(0.8 * len(x))
    return x[order][split:], y[order][split:]

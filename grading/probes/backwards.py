"""What shows at the beginning of each backward pass: steps between them, gradients left over, what a step used.

Runs inside the sandbox.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from grading.probes.columns import BACKWARD_COLUMNS
from grading.probes.graphs import any_gradient, is_added_last, leaves_of
from grading.probes.modules import edge_parameter, parameters_of
from grading.probes.optimizers import Optimizers, rates_of
from grading.probes.values import cosine, evenness, rms, squashed_loss, values_of

_FOLLOWS_ANOTHER, _FOLLOWED_ELEMENTS = 1 / 16, 1024
CLOSE_PASSES, STRETCH, LATE_SHARE = 20_000, 64, 1 / 16


class BackwardWatch:
    """Notes the backward passes of a program; hangs no hook of its own.

    Args:
        optimizers: those that the program makes.
        drawn: decides which moments are looked at closely.
        by_chance: likewise: often at the beginning of a run, rarely later on.
    """

    def __init__(self, optimizers: Optimizers, drawn: random.Random, by_chance: Callable[[float, float], bool]) -> None:
        self.optimizers, self.random, self.by_chance = optimizers, drawn, by_chance
        self.rows: list[list[float]] = []  # columns as in BACKWARD_COLUMNS
        self.passes: dict[int, int] = {}  # by number of the optimizer they worked for, those not looked at included
        self.looking = True
        # By parameter whose changes are followed: itself, its value and the rates a pass ago.
        self.watched: dict[int, tuple[torch.Tensor, np.ndarray, tuple[float, float]]] = {}
        self.followed: dict[int, tuple[torch.Tensor, int, np.ndarray]] = {}  # by model: see _change_elsewhere
        # By parameter: the optimizer's running mean a step ago, and the fresh gradient since.
        self.last_mean: dict[int, tuple[np.ndarray, np.ndarray, float]] = {}
        self.summed_gradients: dict[int, np.ndarray] = {}  # by parameter
        # By parameter that held gradient as a pass began: that, and the gradient of the pass.
        self.last_held: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self.trains_others = False  # whether an optimizer holds what is no parameter of the model

    def note(self, row: list[float], module: nn.Module, output: torch.Tensor | None, gradient: torch.Tensor) -> None:
        """At the beginning of a backward pass: has there been a step, and are gradients left over?"""
        watched, other = edge_parameter(module, last=True), edge_parameter(module, last=False)
        if watched is None or other is None or not self._looks_at_pass():
            return
        drawn = self.random.random()
        left_over = any_gradient((watched, other))
        left_over = left_over or (drawn < 0.25 and any_gradient(parameters_of(module)))
        if not left_over and (drawn < 0.08 or self.trains_others):  # a walk over the whole graph
            left_over = any_gradient(self._trained_otherwise(module, output))
        value_now = values_of(watched)
        moved, change, even, rates = False, math.nan, math.nan, (math.nan, math.nan)
        if id(watched) in self.watched:
            _, value, rates = self.watched[id(watched)]
            difference = value_now - value
            moved, even = bool(difference.any()), evenness(difference)
            change = max(rms(difference), self._change_elsewhere(module))
        optimizer = self.optimizers.of(watched, moved)
        rates_now = (math.nan, math.nan) if optimizer is None else rates_of(optimizer)
        self.watched[id(watched)] = (watched, value_now, rates_now)
        number = -1 if optimizer is None else self.optimizers.number_of(optimizer, module)
        self._count_pass(number)
        fresh = values_of(gradient)
        left = (1.0 - 0.5 * self._is_overwritten(watched, fresh)) if left_over else 0.0
        squashed = math.nan
        if output is not None and self.by_chance(0.1, 0.04):
            squashed = squashed_loss(values_of(output), fresh)
        # Only of a bias that is added to the output itself is the gradient the sum of the output's.
        added = output is not None and is_added_last(output, watched)
        agreement, summed = self._agreement(watched, optimizer, moved, fresh)
        # Whatever is made of it: that what was used is the sum of all so far, step after step, would be no accident.
        told = (agreement if added else math.nan, summed, even)
        self.rows.append([row[13], row[0], moved, left, *rates, change, float(number), squashed, *told])

    def _trained_otherwise(self, module: nn.Module, output: torch.Tensor | None) -> list[torch.Tensor]:
        """What the output came from and an optimizer holds without its being a parameter of the model."""
        own = set(map(id, parameters_of(module)))
        leaves = [leaf for leaf in leaves_of(output) if id(leaf) not in own]
        if not leaves:
            return []
        held = set(map(id, self.optimizers.held()))
        found = [leaf for leaf in leaves if id(leaf) in held]
        self.trains_others = self.trains_others or bool(found)
        return found

    def _looks_at_pass(self) -> bool:
        """Whether this pass is looked at: all of the first ones, later whole stretches drawn by chance.

        Stretches, since what a pass tells is told by the step between it and the one before.
        """
        passes = sum(self.passes.values())
        if passes < CLOSE_PASSES:
            return True
        if passes % STRETCH == 0:
            self.looking = self.random.random() < LATE_SHARE
            for seen in (self.watched, self.followed, self.last_mean, self.summed_gradients, self.last_held):
                seen.clear()
        if not self.looking:
            self._count_pass(int(self.rows[-1][BACKWARD_COLUMNS.index("optimizer")]))
        return self.looking

    def _count_pass(self, optimizer: int) -> None:
        self.passes[optimizer] = self.passes.get(optimizer, 0) + 1

    def _change_elsewhere(self, module: nn.Module) -> float:
        """Root mean square change of a part of one more parameter, drawn by chance and now and then anew."""
        followed, change = self.followed.get(id(module)), 0.0
        if followed is not None:
            parameter, start, before = followed
            now = values_of(parameter, start, _FOLLOWED_ELEMENTS)
            self.followed[id(module)] = (parameter, start, now)
            change = rms(now - before) if now.shape == before.shape else 0.0
        if followed is None or self.random.random() < _FOLLOWS_ANOTHER:
            drawn = self.random.choice([p for p in parameters_of(module) if p.requires_grad])
            start = self.random.randrange(max(1, drawn.numel() - _FOLLOWED_ELEMENTS + 1))
            self.followed[id(module)] = (drawn, start, values_of(drawn, start, _FOLLOWED_ELEMENTS))
        return change

    def _agreement(
        self, bias: torch.Tensor, optimizer: Optimizer | None, moved: bool, fresh: np.ndarray
    ) -> tuple[float, float]:
        """How the gradient that an optimizer of Adam's kind used agrees with the fresh one; is it the sum of all?

        Where the watched parameter is the bias added to the output itself, its gradient is
        the sum of the output's, which the program cannot alter. What the step used can be
        read off the optimizer's running mean: g = (m - beta1 * m_before) / (1 - beta1).
        """
        unknown = (math.nan, math.nan)
        if fresh.ndim != 2 or tuple(bias.shape) != fresh.shape[1:] or optimizer is None:
            return unknown
        key, before = id(bias), self.last_mean.pop(id(bias), None)
        summed = fresh.sum(0)
        first, all_so_far = key not in self.summed_gradients, self.summed_gradients.get(key, np.zeros_like(summed))
        self.summed_gradients[key] = all_so_far + summed
        if before is None and not ((moved or first) and self.by_chance(1.0, 0.2)):
            return unknown  # a step is looked at from its first pass on, or not at all
        absolute = float(np.abs(fresh).sum())
        if not moved and before is not None:  # another pass of the same step
            self.last_mean[key] = (before[0], before[1] + summed, before[2] + absolute)
            return unknown
        mean = optimizer.state.get(bias, {}).get("exp_avg") if isinstance(optimizer.state, dict) else None
        beta = next((group.get("betas") for group in optimizer.param_groups if "betas" in group), None)
        mean_now = values_of(mean) if isinstance(mean, torch.Tensor) else np.zeros_like(summed)
        if before is None or self.by_chance(1.0, 0.2):
            self.last_mean[key] = (mean_now, summed, absolute)
        if before is None or mean is None or not beta or mean_now.shape != summed.shape:
            return unknown
        used, wanted = mean_now - float(beta[0]) * before[0], before[1]
        known = max(float(np.linalg.norm(mean_now)), float(np.linalg.norm(before[0])))
        if np.linalg.norm(used) < 1e-3 * known or np.linalg.norm(wanted) < 1e-3 * before[2]:
            return unknown  # differences of float32 numbers: what is left of them is rounding
        agreement = cosine(used, wanted)
        return agreement, float(agreement < 0.9 and cosine(used, all_so_far) > 0.98)

    def _is_overwritten(self, bias: torch.Tensor, fresh: np.ndarray) -> bool:
        """Whether what `bias` still holds is the gradient of the pass before and nothing else.

        So it is in a program that assigns gradients instead of letting them add up. Where they do add up, it holds
        what it held at the last look and the gradient of that pass.
        """
        held = values_of(bias.grad) if isinstance(bias.grad, torch.Tensor) else np.empty(0)
        summed = fresh.sum(0) if fresh.ndim == 2 else fresh
        before, self.last_held[id(bias)] = self.last_held.get(id(bias)), (held, summed)
        if before is None or not held.size or not held.shape == before[0].shape == before[1].shape:
            return False
        piled = before[0] + before[1]
        apart = float(np.linalg.norm(piled - held)) > 0.05 * float(np.linalg.norm(held))
        return apart and cosine(held, before[1]) > 0.999 and rms(held) <= 1.01 * rms(before[1])

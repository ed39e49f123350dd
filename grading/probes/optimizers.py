"""The optimizers that a program makes: which of them steps a parameter, at what rate, how often.

Runs inside the sandbox.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn, optim
from torch.optim import Optimizer

_COUNTS_ITS_STEPS = (
    *(optim.Adam, optim.NAdam, optim.RAdam, optim.Adamax, optim.Adagrad, optim.Adadelta),
    *(optim.RMSprop, optim.Rprop, optim.ASGD, optim.Adafactor, optim.SparseAdam),
)


class Optimizers:
    """All that were made, in order, and those that were seen at work, by number."""

    def __init__(self) -> None:
        self.made: list[Optimizer] = []
        self.at_work: list[Optimizer] = []
        self._descriptions: list[dict[str, Any]] = []
        self._numbers: dict[int, int] = {}
        self._begun_at: list[int] = []  # what each had counted when it was first seen at work: of a checkpoint, say
        self._stepping: Optimizer | None = None  # where several hold one parameter: which one steps it
        self._counted_steps: dict[int, int] = {}  # and how far each has counted

    def number_of(self, optimizer: Optimizer, model: nn.Module | None) -> int:
        """Its number; the first time it is asked for, it is described as the optimizer of `model`."""
        number = self._numbers.get(id(optimizer))
        if number is None:
            number = self._numbers[id(optimizer)] = len(self.at_work)
            self._descriptions.append(describe_optimizer(optimizer, model))
            self._begun_at.append(steps_taken(optimizer))
            self.at_work.append(optimizer)
        return number

    def of(self, parameter: torch.Tensor, moved: bool) -> Optimizer | None:
        """The optimizer that steps this parameter: of several, the one whose own count went up with the last move."""
        holding = [
            optimizer
            for optimizer in reversed(self.made)
            if any(p is parameter for group in optimizer.param_groups for p in group["params"])
        ]
        if len(holding) < 2:
            return holding[0] if holding else None
        if not moved and self._stepping in holding:
            return self._stepping
        counts = {id(optimizer): steps_taken(optimizer) for optimizer in holding}
        stepped = [o for o in holding if counts[id(o)] > self._counted_steps.get(id(o), 0)]
        self._counted_steps.update(counts)
        silent = [o for o in holding if not isinstance(o, _COUNTS_ITS_STEPS)]  # these may have stepped, others not
        self._stepping = (stepped or [o for o in silent if o.state] or silent or holding)[0]
        return self._stepping

    def held(self) -> list[torch.Tensor]:
        """All tensors that the optimizers hold, those shared more than once."""
        return [p for made in self.made for group in made.param_groups for p in group["params"]]

    def plain_tensors(self) -> list[torch.Tensor]:
        """What they hold without its being a parameter, as of layers written by hand."""
        return [p for p in self.held() if not isinstance(p, nn.Parameter)]

    def told(self, passes: Mapping[int, int]) -> list[dict[str, Any]]:
        """What is told of those at work; `passes`: how many backward passes each was worked for, by number."""
        return [
            {
                **description,
                "has_state": bool(optimizer.state),
                "steps": max(0, steps_taken(optimizer) - self._begun_at[number]),
                "passes": passes.get(number, 0),
            }
            for number, (description, optimizer) in enumerate(zip(self._descriptions, self.at_work, strict=True))
        ]


def rates_of(optimizer: Optimizer) -> tuple[float, float]:
    """The smallest and largest learning rate of its groups; nan without any."""
    rates = [float(group["lr"]) for group in optimizer.param_groups if "lr" in group]
    return min(rates, default=math.nan), max(rates, default=math.nan)


def steps_taken(optimizer: Optimizer) -> int:
    """How many steps the optimizer's own state counts; 0 where it keeps no count."""
    try:
        counts = [state.get("step") for state in optimizer.state.values() if isinstance(state, dict)]
        return max((int(count) for count in counts if count is not None), default=0)
    except (RuntimeError, TypeError, ValueError, AttributeError):
        return 0


def describe_optimizer(optimizer: Optimizer, model: nn.Module | None) -> dict[str, Any]:
    """Its classes, defaults, and how many of the trainable parameters of `model` it holds."""
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    trainable = [p for p in model.parameters() if p.requires_grad] if model is not None else []
    plain: dict[str, Any] = {k: v for k, v in optimizer.defaults.items() if isinstance(v, (int, float, bool, str))}
    for key, value in optimizer.defaults.items():
        if isinstance(value, (list, tuple)) and all(isinstance(v, (int, float)) for v in value):
            plain[key] = list(value)
    return {
        "family": [c.__name__ for c in type(optimizer).__mro__ if c.__module__.startswith("torch.optim")],
        "class": type(optimizer).__name__,
        "defaults": plain,
        "trainable": len(trainable),
        "trainable_held": sum(id(p) in held for p in trainable),
    }

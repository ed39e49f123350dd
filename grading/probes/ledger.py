"""How the gradient that a step uses relates to the gradients of this step alone.

Runs inside the sandbox, in the short run only: it hangs a hook on every parameter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch


class GradientLedger:
    """Keeps, per parameter, the gradient that belongs to the coming step and what was left over.

    With `fresh` the sum of the gradients of all backward passes since the last step and
    `stale` what `.grad` held when the first of them arrived, a program that clears its
    gradients uses `a * fresh` (a < 1 under clipping or scaling), one that does not uses
    `fresh + stale`. Gradient accumulation sums several fresh gradients and is no fault.
    """

    def __init__(self, parameters: Sequence[torch.Tensor]) -> None:
        self.entries: list[dict[str, Any]] = []
        for parameter in parameters:
            entry: dict[str, Any] = {"p": parameter, "fresh": None, "stale": None, "version": parameter._version}
            self.entries.append(entry)
        self.handles = [entry["p"].register_hook(self._on_gradient(entry)) for entry in self.entries]
        self.handles.append(parameters[0].register_post_accumulate_grad_hook(self._added))
        self.active = True
        self.backwards = 0
        self.updates_between = 0
        self.dirty_at_backward = 0
        self.begun = self.added_to_old = 0  # first passes after a move of the weights; those that add to old gradients
        self.adds_to_old = False

    def _on_gradient(self, entry: dict[str, Any]) -> Callable[[torch.Tensor], None]:
        def hook(gradient: torch.Tensor) -> None:
            if not self.active:
                return
            parameter = entry["p"]
            first = entry is self.entries[0]
            self.backwards += first
            with torch.no_grad():
                moved = parameter._version != entry["version"]  # by a step, or by a hand-written update
                if entry["fresh"] is not None and not moved:
                    entry["fresh"].add_(gradient.detach())
                    return
                held = parameter.grad
                left_over = held is not None and bool(held.any())
                entry["stale"] = held.detach().clone() if left_over else None
                entry["fresh"] = gradient.detach().clone()
                entry["version"] = parameter._version
                if first:
                    self.begun += 1
                    self.adds_to_old = left_over
                    self.updates_between += moved
                    self.dirty_at_backward += moved and left_over

        return hook

    def _added(self, parameter: torch.Tensor) -> None:
        """A gradient was added to `.grad`, which torch.autograd.grad does not."""
        self.added_to_old += self.adds_to_old
        self.adds_to_old = False

    def pending(self) -> bool:
        """Whether gradients have arrived since the last comparison."""
        return any(entry["fresh"] is not None for entry in self.entries)

    def compare(self) -> tuple[float, float, float, float, float, float]:
        """Fresh norm, stale norm, a, b, misfit and excess over all watched parameters.

        Whatever clipping or scaling does, no element of the gradient used can exceed the
        fresh one, unless something was added to it.
        """
        with torch.no_grad():
            fresh, stale, used = self._arrived()
            ff, uf, uu = float(fresh @ fresh), float(used @ fresh), float(used @ used)
            fs = ss = us = 0.0
            if stale is not None:
                fs, ss, us = float(fresh @ stale), float(stale @ stale), float(used @ stale)
            excess = float((used.abs() - fresh.abs()).clamp(min=0).pow(2).sum())
        determinant = ff * ss - fs * fs
        if ss > 0 and ff == 0.0:
            a, b = 0.0, us / ss  # nothing fresh: what is used can only be left over
        elif ss > 0 and determinant > 1e-9 * ff * ss:
            a = (uf * ss - us * fs) / determinant
            b = (us * ff - uf * fs) / determinant
        else:
            a, b = (uf / ff if ff > 0 else math.nan), (math.nan if ss > 0 else 0.0)
        residual = uu - 2 * (a * uf + b * us) + a * a * ff + 2 * a * b * fs + b * b * ss
        misfit = math.sqrt(max(residual, 0.0) / uu) if uu > 0 else 0.0
        relative = math.sqrt(excess / ff) if ff > 0 else (math.inf if excess > 0 else 0.0)
        return math.sqrt(ff), math.sqrt(ss), a, b, misfit, relative

    def _arrived(self) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
        """Fresh, left-over and used gradients of the parameters that got a fresh one, each as one flat vector.

        None where nothing was left over. One vector, since these sums over every layer alone
        would be a seventh of the short run.
        """
        entries = [entry for entry in self.entries if entry["fresh"] is not None]
        if not entries:
            return torch.zeros(0), None, torch.zeros(0)

        def in_one(gradients: Sequence[torch.Tensor | None]) -> torch.Tensor:
            pairs = zip(gradients, entries, strict=True)
            filled = (torch.zeros_like(entry["fresh"]) if g is None else g.detach() for g, entry in pairs)
            return torch.cat([gradient.flatten() for gradient in filled]).double()

        stale = [entry["stale"] for entry in entries]
        left_over = in_one(stale) if any(gradient is not None for gradient in stale) else None
        return in_one([entry["fresh"] for entry in entries]), left_over, in_one([entry["p"].grad for entry in entries])

    def clear(self) -> None:
        """Forget what has arrived, as after a step."""
        for entry in self.entries:
            entry["fresh"] = entry["stale"] = None
            entry["version"] = entry["p"]._version

    def close(self) -> None:
        """Take the hooks off the parameters."""
        for handle in self.handles:
            handle.remove()

"""Walks over the parts of a model. torch's own cost ten times as much, and are asked for at every pass.

Runs inside the sandbox.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

_TORCHS_OWN = frozenset(vars(nn.Module()))  # attributes that every module has


class ModelState:
    """A copy of all that a model answers by: parameters, buffers, and tensors that are plain attributes."""

    def __init__(self, model: nn.Module) -> None:
        self.state = {key: value.detach().clone() for key, value in model.state_dict().items()}
        self.plain = [_copied(value) for _, _, value in _plain_tensors(model)]

    def load(self, model: nn.Module) -> None:
        """Give the model these values. Plain tensors are put in the places of what is there, where it is as many."""
        model.load_state_dict(self.state)
        places = list(_plain_tensors(model))
        if len(places) == len(self.plain):
            for (holder, key, _), value in zip(places, self.plain, strict=True):
                holder[key] = _copied(value)


def _copied(tensor: torch.Tensor) -> torch.Tensor:
    """The same values without a graph, asking for gradients where `tensor` does."""
    return tensor.detach().clone().requires_grad_(tensor.requires_grad)


def _plain_tensors(model: nn.Module) -> Iterator[tuple[Any, Any, torch.Tensor]]:
    """Tensors that modules hold as attributes or in lists or dicts: the holder, the place and the tensor."""
    for module in modules_of(model):
        attributes = {name: value for name, value in vars(module).items() if name not in _TORCHS_OWN}
        places: list[tuple[Any, Any, Any]] = [(vars(module), name, value) for name, value in attributes.items()]
        for held in attributes.values():
            if type(held) in (list, dict):
                places += [(held, key, held[key]) for key in (held if isinstance(held, dict) else range(len(held)))]
        yield from ((holder, key, value) for holder, key, value in places if isinstance(value, torch.Tensor))


def modules_of(module: nn.Module) -> list[nn.Module]:
    """The module and all inside it, in no set order."""
    found = [module]
    for one in found:  # which grows meanwhile; a loop among modules would let it grow for ever
        if one._modules and len(found) < 10_000:
            found += [child for child in one._modules.values() if child is not None]
    return found


def parameters_of(module: nn.Module) -> list[torch.Tensor]:
    """The parameters of the module and of all inside it, those shared more than once."""
    return [p for one in modules_of(module) if one._parameters for p in one._parameters.values() if p is not None]


def edge_parameter(module: nn.Module, last: bool) -> torch.Tensor | None:
    """The first or last of `module.parameters()` that is trained; None where there is none."""
    own = [p for p in module._parameters.values() if p is not None and p.requires_grad]
    if own and not last:
        return own[0]
    for child in reversed(module._modules.values()) if last else module._modules.values():
        found = None if child is None else edge_parameter(child, last)
        if found is not None:
            return found
    return own[-1] if own else None


def has_parameters(module: nn.Module) -> bool:
    """Whether the module or one inside it has any."""
    for parameter in module._parameters.values():
        if parameter is not None:
            return True
    return any(child is not None and has_parameters(child) for child in module._modules.values())

"""Walks over the parts of a model. torch's own cost ten times as much, and are asked for at every pass.

Runs inside the sandbox.
"""

from __future__ import annotations

import torch
from torch import nn


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

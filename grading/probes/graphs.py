"""Looks at autograd's graphs: whether there is one, how long it lives, what it ends in.

Runs inside the sandbox.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

_SEEN = "assay.seen"
_RESHAPES = ("View", "Reshape", "Alias", "Squeeze", "Unsqueeze", "Clone", "ToCopy", "T0", "Transpose", "Permute")

# Read past whatever a subclass of Tensor makes of them. torch's stubs know neither as the descriptors that they are.
_requires_grad = torch.Tensor.requires_grad.__get__  # type: ignore[attr-defined]
_grad_fn = torch.Tensor.grad_fn.__get__  # type: ignore[union-attr]


class Token:
    """Lives exactly as long as the autograd graph it is tied to."""

    __slots__ = ("__weakref__", "alive", "serial")

    def __init__(self, serial: int, alive: dict[int, int], epoch: int) -> None:
        self.serial = serial
        self.alive = alive
        alive[serial] = epoch

    def __del__(self) -> None:
        self.alive.pop(self.serial, None)


class Saved:
    """Counts the tensors that a forward pass keeps for a backward pass.

    The number of nodes that torch has made would tell more, but autocast makes some for its copies of the
    weights even where no gradients are recorded.
    """

    def __init__(self) -> None:
        self.count = 0
        self.hooks: Any = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor)

    def _pack(self, tensor: torch.Tensor) -> torch.Tensor:
        self.count += 1
        return tensor

    def __enter__(self) -> Saved:
        self.hooks.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.hooks.__exit__()


def first_tensor(value: Any) -> torch.Tensor | None:
    """The first tensor in nested tuples, lists and dicts."""
    if isinstance(value, torch.Tensor):
        return value
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            found = first_tensor(item)
            if found is not None:
                return found
    return None


def tensors_of(value: Any) -> list[torch.Tensor]:
    """The tensors of an output: itself, or what it directly holds."""
    if isinstance(value, torch.Tensor):
        return [value]
    items = list(value.values()) if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else []
    return [item for item in items if isinstance(item, torch.Tensor)]


def has_graph(tensor: torch.Tensor) -> bool:
    """Whether autograd recorded how the tensor came about."""
    with torch._C.DisableTorchFunctionSubclass():  # a subclass of Tensor may lie about itself
        return bool(_requires_grad(tensor)) and _grad_fn(tensor) is not None


def any_gradient(tensors: Iterable[torch.Tensor]) -> bool:
    """Whether one of them holds a gradient that is not zero."""
    return any(t.grad is not None and bool(t.grad.any()) for t in tensors)


def leaves_of(output: torch.Tensor | None) -> list[torch.Tensor]:
    """What the graph of the output ends in."""
    waiting: list[Any] = [output.grad_fn] if output is not None else []
    seen: set[Any] = set()
    while waiting and len(seen) < 500:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += (following for following, _ in node.next_functions)
    return [node.variable for node in seen if hasattr(node, "variable")]


def deepest_node(tensor: torch.Tensor) -> Any:
    """The node of the tensor's graph that lives longest: whoever keeps any part of the graph keeps it.

    It is the first operation of the forward pass. One that an earlier forward went through
    as well, such as a weight computed once for many batches, does not belong to this one:
    then the output's own node stands.
    """
    own: Any = tensor.grad_fn
    if own is None:
        return None
    node = own
    for _ in range(500):
        for following, _ in node.next_functions:
            if following is not None and following.next_functions:
                node = following
                break
        else:
            break
    if node is own:
        return own
    if _SEEN in node.metadata:
        return own
    node.metadata[_SEEN] = True
    return node


def is_added_last(output: torch.Tensor, bias: torch.Tensor) -> bool:
    """Whether the last thing that makes `output`, but for its shape and type, is the addition of `bias`."""
    node: Any = output.grad_fn
    for _ in range(8):
        following = [n for n, _ in node.next_functions if n is not None] if node is not None else []
        if any(getattr(n, "variable", None) is bias for n in following):
            return bool(node.name().startswith(("Addmm", "Add0", "AddBackward", "Linear")))
        if len(following) != 1 or not node.name().removeprefix("torch::autograd::").startswith(_RESHAPES):
            return False
        node = following[0]
    return False

"""Looks at autograd's graphs: whether there is one, how long it lives, what it ends in.

Runs inside the sandbox.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from grading.probes.columns import BACKWARD_COLUMNS, FORWARD_COLUMNS
from grading.probes.values import levels_of

_SEEN = "assay.seen"
_MODEL, _MOVED = FORWARD_COLUMNS.index("model"), BACKWARD_COLUMNS.index("moved")
LEAST_WINDOW = 3  # steps before the last two whose graphs are kept at once
MOST_COLLECTIONS = 12  # of Python's garbage: each takes tens of milliseconds
_WINDOW_PASSES = 256
_RESHAPES = ("View", "Reshape", "Alias", "Squeeze", "Unsqueeze", "Clone", "ToCopy", "T0", "Transpose", "Permute")

# Read past whatever a subclass of Tensor makes of them. torch's stubs know neither as the descriptors that they are.
_requires_grad = torch.Tensor.requires_grad.__get__  # type: ignore[attr-defined]
_grad_fn = torch.Tensor.grad_fn.__get__  # type: ignore[union-attr]


class Token:
    """Lives exactly as long as the autograd graph it is tied to."""

    __slots__ = ("__weakref__", "alive", "serial")

    def __init__(self, serial: int, alive: set[int]) -> None:
        self.serial = serial
        self.alive = alive
        alive.add(serial)

    def __del__(self) -> None:
        self.alive.discard(self.serial)


class HeldGraphs:
    """Counts the graphs of training passes that outlive their batch.

    Args:
        forwards: the recorder's rows so far, by serial; the newest is of the pass that is being tied.
        backwards: the rows of its BackwardWatch so far.
        by_chance: decides which moments are looked at closely: often at the beginning of a run, rarely later on.
    """

    def __init__(
        self,
        forwards: Sequence[Sequence[float]],
        backwards: Sequence[Sequence[float]],
        by_chance: Callable[[float, float], bool],
    ) -> None:
        self.forwards, self.backwards, self.by_chance = forwards, backwards, by_chance
        self.alive: set[int] = set()
        self.epoch_serials: list[int] = []
        self.max_old_alive = self.old_alive_now = self.epoch_forwards_max = self.max_past_epochs_alive = 0
        self.looks = self.looks_at_windows = self.collections = 0

    def tie(self, serial: int, tensor: torch.Tensor) -> None:
        """Follow the life of this output's graph."""
        self.epoch_serials.append(serial)
        seen = len(self.epoch_serials)
        self.epoch_forwards_max = max(self.epoch_forwards_max, seen)
        if seen >= 16 and seen % 8 == 0:
            middle = self.epoch_serials[seen // 2]
            first = self.epoch_serials[0]
            # The newest count stands: a bounded window of kept graphs counts early on, not later. Of a copy, since
            # a graph may die while they are counted.
            self.old_alive_now = sum(first <= s < middle for s in self.alive.copy())
            if self.collections < MOST_COLLECTIONS and self.by_chance(0.8, 0.1):
                self._look_for_window()
        token = Token(serial, self.alive)
        for level in levels_of(tensor):
            node = deepest_node(level)
            if node is not None:
                node.register_prehook(lambda _, tied=token: None)  # which the program cannot clear, as it can metadata

    def _look_for_window(self) -> None:
        """Are graphs of several steps kept at once? What only waits for Python's collector is not."""
        window = self._past_steps() >= LEAST_WINDOW
        if window:
            gc.collect()
            self.collections += 1
            window = self._past_steps() >= LEAST_WINDOW
        self.looks += 1
        self.looks_at_windows += window

    def _past_steps(self) -> int:
        """How many steps of the model that trains, the last two left out, still have a graph.

        Steps, not passes: a batch may be computed in parts, whose losses are added up, and models may take turns.
        """
        if len(self.alive) < LEAST_WINDOW:
            return 0
        model, age, found = self.forwards[-1][_MODEL], 0, set()
        for row in self.backwards[-_WINDOW_PASSES:][::-1]:
            if self.forwards[int(row[0])][_MODEL] == model:
                if age >= 2 and int(row[0]) in self.alive:
                    found.add(age)
                age += row[_MOVED] > 0  # the step came between this pass and the one before
        return len(found)

    def epoch_over(self) -> None:
        """What is held now, between two epochs, was held for good."""
        self.max_past_epochs_alive = max(self.max_past_epochs_alive, len(self.alive))
        self.max_old_alive = max(self.max_old_alive, self.old_alive_now)
        self.old_alive_now = 0
        self.epoch_serials = []

    def told(self) -> dict[str, int]:
        """The counts, for the evidence."""
        return {
            "max_old_alive": max(self.max_old_alive, self.old_alive_now),
            "epoch_forwards": self.epoch_forwards_max,
            "past_epochs_alive": self.max_past_epochs_alive,
            "looks": self.looks,
            "looks_at_windows": self.looks_at_windows,
        }


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

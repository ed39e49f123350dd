"""A function of torch that does something else meanwhile looks as it did; a program has no frame below it."""

from __future__ import annotations

import inspect
import sys
import types
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import nn

from grading.probes import inplace
from grading.probes.recorder import Recorder


def _looks(function: Any) -> tuple[Any, ...]:
    code = function.__code__
    closure = [cell.cell_contents for cell in function.__closure__ or ()]
    return (
        *(id(function), inspect.signature(function), function.__module__, function.__qualname__, function.__doc__),
        *(function.__defaults__, function.__kwdefaults__, function.__globals__["__name__"], closure),
        *(code.co_filename, code.co_name, code.co_qualname, code.co_firstlineno, code.co_freevars),
    )


def _plain(a: int, /, b: int = 2, *rest: int, c: int, d: int = 4, **others: int) -> tuple[Any, ...]:
    """Of every kind of parameter."""
    return a, b, rest, c, d, others


def _no_rest(a: int, *, c: int = 3) -> tuple[int, int]:
    return a, c


FUNCTIONS: list[Any] = [
    *(_plain, _no_rest, nn.Module.__call__, nn.utils.clip_grad_norm_, torch.compile, torch.Tensor.backward),
    *(torch.optim.Optimizer.__init__, torch.utils.data.DataLoader.__iter__, torch.cuda.is_available),
]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__qualname__)
@pytest.mark.parametrize(
    "change",
    [
        lambda function: inplace.instead(function, lambda *_, **__: "changed"),
        lambda function: inplace.around(function, before=lambda *_, **__: None, after=lambda *_, **__: None),
    ],
    ids=["instead", "around"],
)
def test_a_changed_function_looks_as_before_and_is_again_what_it_was(
    function: types.FunctionType, change: Callable[[types.FunctionType], Callable[[], None]]
) -> None:
    before, code = _looks(function), function.__code__

    undo = change(function)
    try:
        assert function.__code__ is not code
        assert _looks(function) == before
    finally:
        undo()

    assert function.__code__ is code


def test_arguments_of_every_kind_reach_both_sides() -> None:
    seen: list[tuple[Any, ...]] = []

    def note(*args: Any, **kwargs: Any) -> None:
        seen.append((args, kwargs))

    undo = inplace.around(cast("types.FunctionType", _plain), before=note, after=note)
    try:
        assert _plain(1, 5, 6, 7, c=8, e=9) == (1, 5, (6, 7), 8, 4, {"e": 9})
        assert _plain(1, c=3) == (1, 2, (), 3, 4, {})
    finally:
        undo()

    assert seen[0] == seen[1] == ((1, 5, 6, 7), {"c": 8, "d": 4, "e": 9})
    undo = inplace.instead(cast("types.FunctionType", _no_rest), lambda *args, **kwargs: (args, kwargs))
    try:
        assert _no_rest(7) == ((7,), {"c": 3})
    finally:
        undo()


STACK = """
import sys
def frames():
    frame, found = sys._getframe(1), []
    while frame is not None:
        found.append((frame.f_code.co_filename, frame.f_code.co_name, frame.f_globals["__name__"]))
        frame = frame.f_back
    return found
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 3)
    def forward(self, x):
        seen.append(frames())
        return self.layer(x)
def train_one_epoch(net):
    for _ in range(2):
        net(torch.randn(4, 2)).sum().backward()
def main():
    net = Net()
    train_one_epoch(net)
    if direct:
        for _ in range(3):
            net.forward(torch.randn(4, 2)).sum().backward()
main()
"""


def _program(**names: Any) -> dict[str, Any]:
    return {"__name__": "program", "torch": torch, "nn": nn, "seen": [], "direct": False, **names}


def test_a_watched_program_finds_its_own_frames_and_torchs_and_no_others() -> None:
    code = compile(STACK, "program.py", "exec")
    bare = _program()
    inplace.run_outermost(code, bare)
    watched = _program()
    watch = Recorder(lambda *_: None, "x", thorough=False)

    with watch:
        watch.namespace = watched
        inplace.run_outermost(code, watched)

    assert watched["seen"] == bare["seen"]
    assert len(bare["seen"]) == 2 and bare["seen"][0][-1] == ("program.py", "<module>", "program")
    assert len(watch.forwards) == 2
    assert watched["Net"].forward.__code__.co_filename == "program.py"


def test_a_model_run_without_being_called_is_watched_from_its_second_pass_on() -> None:
    watched = _program(direct=True)
    watch = Recorder(lambda *_: None, "x", thorough=False)

    with watch:
        watch.namespace = watched
        inplace.run_outermost(compile(STACK, "program.py", "exec"), watched)

    assert len(watched["seen"]) == 5
    assert len(watch.forwards) == 4, "and no layer inside the unseen one passes for a model"
    assert len(watch.models) == 1
    assert watched["Net"].forward.__code__.co_filename == "program.py"


BARE = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 2))
    def forward(self, x):
        return x @ self.weight.T
net = Net()
for _ in range(4):
    net.forward(torch.randn(4, 2)).sum().backward()
"""


def test_so_is_one_that_has_no_layers() -> None:
    watched = _program()
    watch = Recorder(lambda *_: None, "x", thorough=False)

    with watch:
        watch.namespace = watched
        inplace.run_outermost(compile(BARE, "program.py", "exec"), watched)

    assert len(watch.forwards) == 3 and all(row[4] for row in watch.forwards)
    assert watched["Net"].forward.__code__.co_filename == "program.py"


def test_a_pass_that_fails_ends_too() -> None:
    watch, failing = Recorder(lambda *_: None, "x", thorough=False), nn.Linear(2, 3)

    with watch:
        for _ in range(2):
            with pytest.raises(RuntimeError):
                failing(torch.randn(4, 5))
        assert watch.here.depth == 0
        failing(torch.randn(4, 2))

    assert len(watch.forwards) == 1


def test_what_a_program_raises_comes_through() -> None:
    with pytest.raises(SystemExit, match="3"):
        inplace.run_outermost(compile("raise SystemExit(3)", "p.py", "exec"), {})
    namespace: dict[str, Any] = {}
    inplace.run_outermost(compile("import sys; below = sys._getframe().f_back", "p.py", "exec"), namespace)
    assert namespace["below"] is None
    assert sys._getframe().f_back is not None

"""The pretended GPU: its mark goes wherever a tensor goes, and nothing of it stays."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch._functorch import vmap

from grading.probes.ghost import GhostDevice, device_of


@pytest.fixture
def ghost() -> GhostDevice:
    return GhostDevice("a program", available=True)


def test_rows_that_another_thread_moves_are_on_the_gpu(ghost: GhostDevice) -> None:
    """A reader that fetches ahead, in a pool and in a thread of its own."""
    moved: list[torch.Tensor] = []
    with ghost, ThreadPoolExecutor(1) as pool:
        pooled = pool.submit(lambda: torch.ones(4, 2).to("cuda")).result()
        thread = threading.Thread(target=lambda: moved.append(torch.ones(4, 2).cuda()))
        thread.start()
        thread.join()
        model = nn.Linear(2, 3).to("cuda")
        model(pooled)
        model(moved[0])
    assert {device_of(pooled), device_of(moved[0])} == {"cuda"}
    assert ghost.mixed == {}


def test_what_transforms_unwrap_keeps_its_mark(ghost: GhostDevice) -> None:
    with ghost:
        weights = torch.ones(3, 4, 2).to("cuda").requires_grad_()
        rows, labels = torch.ones(5, 2).to("cuda"), torch.zeros(5, dtype=torch.long).to("cuda")
        scores = torch.vmap(lambda w: rows @ w.T)(weights).mean(0)
        with torch.no_grad():
            silent = torch.vmap(lambda w: rows @ w.T)(weights).mean(0)
            nn.functional.cross_entropy(silent, labels)
        nn.functional.cross_entropy(scores, labels)
        slope = torch.func.grad(lambda w: (rows @ w.T).sum())(torch.ones(4, 2).to("cuda"))
        rows @ slope.T
    assert ghost.mixed == {}
    assert {device_of(scores), device_of(silent), device_of(slope)} == {"cuda"}


@pytest.mark.parametrize("left_behind", ["rows", "weights"])
def test_what_is_left_behind_is_told(ghost: GhostDevice, left_behind: str) -> None:
    with ghost:
        rows, model = torch.ones(4, 2), nn.Linear(2, 3)
        rows, model = (rows, model.to("cuda")) if left_behind == "rows" else (rows.to("cuda"), model)
        model(rows)
    assert ghost.mixed == {"linear": 1}


def test_nothing_of_it_stays(ghost: GhostDevice) -> None:
    before = threading.Thread.run, vmap._remove_batch_dim, torch.Tensor._make_subclass
    with ghost:
        assert threading.Thread.run is not before[0]
    assert (threading.Thread.run, vmap._remove_batch_dim, torch.Tensor._make_subclass) == before


@pytest.mark.parametrize(
    ("visible", "seen"), [("", False), ("-1", False), ("1", False), ("0", True), ("0,1", True), ("GPU-8f1", True)]
)
def test_a_program_that_hides_the_gpu_from_itself_sees_none(
    monkeypatch: pytest.MonkeyPatch, visible: str, seen: bool
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    program = {"__name__": "a program", "torch": torch}
    with GhostDevice("a program", available=True):
        assert eval("torch.cuda.is_available()", program) is True
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert eval("torch.cuda.is_available()", program) is seen
        assert eval("torch.cuda.device_count()", program) == int(seen)
        assert eval("torch.accelerator.current_accelerator() is not None", program) is seen


def test_the_pretended_answers_come_from_functions_that_look_like_torchs_own() -> None:
    program = {"__name__": "a program", "torch": torch}
    function, file = torch.cuda.is_available, torch.cuda.is_available.__code__.co_filename
    with GhostDevice("a program", available=True):
        assert torch.cuda.is_available is function
        assert torch.cuda.is_available.__code__.co_filename == file
        assert eval("torch.cuda.is_available()", program) is True
        assert torch.cuda.is_available() is False, "whoever else asks is told the truth"
    assert eval("torch.cuda.is_available()", program) is False


@pytest.mark.parametrize("use", ["torch.cuda.init()", "torch.ones(2).to('cuda')", "torch.cuda.current_device()"])
def test_cuda_begins_with_its_first_use(use: str) -> None:
    program = {"__name__": "a program", "torch": torch}
    with GhostDevice("a program", available=True):
        assert eval("torch.cuda.is_available() and torch.cuda.device_count() == 1", program) is True
        assert eval("torch.cuda.is_initialized()", program) is False
        eval(use, program)
        assert eval("torch.cuda.is_initialized()", program) is True
    with GhostDevice("a program", available=False):
        assert eval("torch.cuda.is_initialized()", program) is False


def test_a_device_test_through_numpy_fails_as_on_a_real_gpu() -> None:
    """Once a model computes it is forgiven, since more is seen of a program that goes on."""
    program = {"__name__": "a program", "torch": torch}
    with GhostDevice("a program", available=True) as ghost:
        with pytest.raises(TypeError, match=r"Use Tensor\.cpu\(\)"):
            eval("(torch.ones(2).to('cuda') * 2).numpy()", program)
        assert eval("torch.ones(2).to('cuda').cpu().numpy().sum() == 2", program)
        assert eval("torch.ones(2).numpy().sum() == 2", program)
        ghost.computed = True
        assert eval("torch.ones(2).to('cuda').numpy().sum() == 2", program)

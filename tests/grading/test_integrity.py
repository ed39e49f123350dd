"""What counts as replaced by the program, and what torch does by itself."""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from grading.probes.integrity import Fingerprint


@pytest.fixture
def restored() -> Iterator[None]:
    held = torch.manual_seed
    yield
    torch.manual_seed = held


def own(seed: int) -> Any:
    """A function of the program's: what it is in is not torch's."""
    return seed


@pytest.mark.usefixtures("restored")
def test_what_torch_wraps_of_its_own_is_no_replacement_wherever_packages_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the sandbox's image, whose packages are in no folder of the interpreter's."""
    elsewhere = os.path.dirname(os.__file__)
    monkeypatch.setattr(sysconfig, "get_path", lambda *_: elsewhere)
    fingerprint = Fingerprint()
    torch.manual_seed = torch._disable_dynamo(torch.manual_seed)  # as the compiler does when it is loaded
    assert fingerprint.changed() == []


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize("wrapped", [False, True])
def test_what_the_program_puts_there_is_one_also_when_torch_wraps_it(wrapped: bool) -> None:
    fingerprint = Fingerprint()
    torch.manual_seed = torch._disable_dynamo(own) if wrapped else own  # type: ignore[assignment]
    assert fingerprint.changed() == ["torch.manual_seed"]


def test_what_no_look_rests_on_may_be_replaced_and_the_rest_may_not(monkeypatch: pytest.MonkeyPatch) -> None:
    fingerprint = Fingerprint()
    for owner, name in (
        (torch.optim.Adam, "step"),
        (torch, "load"),
        (torch.Tensor, "__repr__"),
        (torch.nn.Linear, "reset_parameters"),
        (torch.nn.Softmax, "forward"),
    ):
        monkeypatch.setattr(owner, name, own)
    assert fingerprint.changed() == []
    monkeypatch.setattr(torch.optim.Optimizer, "zero_grad", own)
    assert fingerprint.changed() == ["Optimizer.zero_grad"]

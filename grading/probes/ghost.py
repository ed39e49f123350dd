"""A pretended accelerator: what would this program do on a machine with CUDA?

Runs inside the sandbox. The submission's own frames, and no others, are told that CUDA is
(or is not) available; torch's own code keeps seeing the truth. Whatever the program moves
or creates on "cuda" stays on the CPU and carries a mark, the mark follows through every
operation, and the program reads it back from `.device`. So the probe can say on which
device the model and its inputs *would* have been when it trained, however the choice was
written.
"""

from __future__ import annotations

import functools
import os
import re
import sys
import threading
import types
from collections.abc import Callable
from typing import Any

import torch
from torch._functorch import eager_transforms, vmap
from torch.overrides import TorchFunctionMode
from torch.utils._device import DeviceContext, _device_constructors

from grading.probes import inplace

ACCELERATORS = ("cuda", "mps", "xpu")
_COMPUTE = {"linear", "cross_entropy", "nll_loss", "batch_norm", "matmul", "addmm", "mm", "embedding"}
_MARK = "_assay_device"
_VISIBLE, _FIRST_GPU = "CUDA_VISIBLE_DEVICES", re.compile(r"\s*(0|GPU-|MIG-)")
_NO_NUMPY = (
    "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory first."
)


class GhostDevice(TorchFunctionMode):
    """Remembers accelerator requests; redirects them to the CPU when `available`, lets them fail when not.

    Args:
        source_name: the submission's `__name__`; frames whose globals carry it see the fake.
        available: whether those frames are told that CUDA exists.
    """

    def __init__(self, source_name: str, *, available: bool) -> None:
        super().__init__()
        self.source_name, self.pretended = source_name, available
        self.visible_before = os.environ.get(_VISIBLE)
        self.requests: dict[str, int] = {}
        self.mixed: dict[str, int] = {}
        self.computing = False  # whether a model's forward pass is under way
        self.computed = False  # whether one ever began
        self.brought_back = 0  # tensors of the graph that such a pass took back to the CPU
        self.queries = 0
        self.used = False  # whether something was asked that makes torch begin with CUDA
        self.restorers: list[Callable[[], None]] = []

    @property
    def available(self) -> bool:
        """Whether the program is to see a GPU: it may have hidden the only one from itself."""
        visible = os.environ.get(_VISIBLE)
        hidden = visible is not None and visible != self.visible_before and not _FIRST_GPU.match(visible)
        return self.pretended and not hidden

    # -- the fake answers ----------------------------------------------------------------

    def __enter__(self) -> GhostDevice:
        self._patch_queries()
        super().__enter__()
        return self

    def __exit__(self, *exc: Any) -> None:
        super().__exit__(*exc)
        torch.set_default_device(None)
        for restore in reversed(self.restorers):
            restore()
        self.restorers.clear()

    def from_submission(self, depth: int = 2) -> bool:
        """Whether the caller's caller is the submission's code."""
        return bool(sys._getframe(depth).f_globals.get("__name__") == self.source_name)

    def _answer(self, owner: Any, name: str, answer: Callable[..., Any]) -> None:
        original = getattr(owner, name, None)
        if original is None:
            return
        ghost, in_place = self, isinstance(original, types.FunctionType)
        truth = inplace.copy_of(original) if in_place else original

        def query(*args: Any, **kwargs: Any) -> Any:
            if ghost.from_submission(3 if in_place else 2):
                ghost.queries += 1
                return answer(*args, **kwargs)
            return truth(*args, **kwargs)

        if in_place:
            self.restorers.append(inplace.instead(original, query))
            return
        query.__name__ = name
        setattr(owner, name, query)
        self.restorers.append(lambda: setattr(owner, name, original))

    def _patch_queries(self) -> None:
        def constant(value: Any) -> Callable[..., Any]:
            return lambda *_, **__: value

        def here(*_: Any, **__: Any) -> bool:
            return self.available

        def count(*_: Any, **__: Any) -> int:
            return int(self.available)

        def begun(*_: Any, **__: Any) -> bool:
            """As torch has it, which waits for the first use."""
            return self.available and (self.used or bool(self.requests.get("cuda")))

        def using(value: Any) -> Callable[..., Any]:
            def answer(*_: Any, **__: Any) -> Any:
                self.used = True
                return self.available if value is here else value

            return answer

        for owner, name, value in (
            (torch.cuda, "is_available", here),
            (torch.cuda, "device_count", count),
            (torch.cuda, "current_device", using(0)),
            (torch.cuda, "is_initialized", begun),
            (torch.cuda, "get_device_name", using("NVIDIA A10G")),
            (torch.cuda, "get_device_capability", using((8, 6))),
            (torch.cuda, "is_bf16_supported", using(here)),
            (torch.cuda, "mem_get_info", using((21 << 30, 22 << 30))),
            (torch.cuda, "synchronize", using(None)),
            (torch.cuda, "set_device", using(None)),
            (torch.cuda, "init", using(None)),
            (torch.cuda, "empty_cache", None),
            (torch.cuda, "reset_peak_memory_stats", None),
            (torch.cuda, "memory_allocated", 0),
            (torch.cuda, "max_memory_allocated", 0),
            (torch.cuda, "memory_reserved", 0),
            (torch.backends.cuda, "is_built", here),
            (torch.backends.cudnn, "is_available", here),
            (torch.backends.mps, "is_available", False),
            (torch.backends.mps, "is_built", False),
            (torch.accelerator, "is_available", here),
            (torch.accelerator, "device_count", count),
            (torch.accelerator, "current_device_index", 0),
            (torch.accelerator, "synchronize", None),
            (torch._C, "_cuda_getDeviceCount", count),
        ):
            self._answer(owner, name, value if callable(value) else constant(value))
        self._answer(
            torch.accelerator, "current_accelerator", lambda *_, **__: torch.device("cuda") if self.available else None
        )
        self._patch_version()
        self._patch_threads()
        self._patch_transforms()
        self._patch_generator()
        self._patch_parameter()
        if self.pretended:
            self._patch_default_device()

    def _patch_version(self) -> None:
        """Some ask whether torch was built for CUDA at all."""
        version: Any = torch.version
        built_for = version.cuda
        version.cuda = (built_for or "12.8") if self.available else built_for
        self.restorers.append(lambda: setattr(version, "cuda", built_for))

    def _patch_threads(self) -> None:
        """A mode is its thread's alone, and a program may move its batches in a thread that reads ahead."""
        original, ghost = threading.Thread.run, self

        def run(thread: threading.Thread) -> None:
            TorchFunctionMode.__enter__(ghost)
            try:
                original(thread)
            finally:
                TorchFunctionMode.__exit__(ghost, None, None, None)

        threading.Thread.run = run  # type: ignore[method-assign, assignment]
        self.restorers.append(lambda: setattr(threading.Thread, "run", original))

    def _patch_transforms(self) -> None:
        """What torch.func wraps for a while it unwraps without a torch function: carry the mark over."""
        for module, name in ((vmap, "_remove_batch_dim"), (eager_transforms, "_unwrap_for_grad")):
            original = getattr(module, name, None)
            if original is not None:
                setattr(module, name, _carrying(original))
                self.restorers.append(functools.partial(setattr, module, name, original))

    def _patch_generator(self) -> None:
        original, here = torch.Generator, self.pretended

        class Generator(original):  # type: ignore[misc, valid-type]
            def __new__(cls, device: Any = "cpu") -> Any:
                return super().__new__(cls, "cpu" if here and _kind(device) in ACCELERATORS else device)

        torch.Generator = Generator  # type: ignore[misc]
        self.restorers.append(lambda: setattr(torch, "Generator", original))

    def _patch_parameter(self) -> None:
        """A parameter is made of a tensor's data without a torch function: carry the mark over."""
        original = torch.Tensor._make_subclass

        # Of any signature: torch's compiler compares its own with it where a program has it imported, as vmap does.
        def make(*args: Any, **kwargs: Any) -> Any:
            return _mark(original(*args, **kwargs), _marked(args[1] if len(args) > 1 else kwargs.get("data")))

        torch.Tensor._make_subclass = staticmethod(make)  # type: ignore[method-assign, assignment]
        self.restorers.append(lambda: setattr(torch.Tensor, "_make_subclass", staticmethod(original)))

    def _patch_default_device(self) -> None:
        """`torch.set_default_device` and `with torch.device(...)` work below every mode: redirect there."""
        original, ghost = DeviceContext.__torch_function__, self

        def function(context: Any, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            kind = context.device.type
            if kind in ACCELERATORS and func in _device_constructors() and kwargs.get("device") is None:
                ghost._request(kind)
                return _mark(func(*args, **{**kwargs, "device": "cpu"}), kind)
            return original(context, func, types, args, kwargs)

        setattr(DeviceContext, "__torch_function__", function)  # noqa: B010  # a method, replaced for a while
        self.restorers.append(lambda: setattr(DeviceContext, "__torch_function__", original))

    # -- the marks -----------------------------------------------------------------------

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name == "__get__":
            return self._property(func, args)
        if name == "device":  # torch.device(...): a name is not yet a request
            if self.available and args and isinstance(args[0], int):
                return func("cuda", *args)
            return func(*args, **kwargs)
        if name in ("cuda", "mps", "xpu") and args and isinstance(args[0], torch.Tensor):
            self._request("cuda")
            return _mark(_copy(args[0]), "cuda") if self.available else func(*args, **kwargs)
        if name == "cpu" and args and isinstance(args[0], torch.Tensor):
            self._note_return(args[0])
            return func(*args, **kwargs).view_as(args[0]) if _marked(args[0]) else func(*args, **kwargs)
        if name == "to" and args and isinstance(args[0], torch.Tensor):
            return self._to(func, args, kwargs)
        if name == "_parse_to":
            return self._parse_to(func, args, kwargs)
        if name == "pin_memory" and args:
            return args[0]
        if name == "get_default_device":
            return func(*args, **kwargs)
        target = _kind(kwargs.get("device"))
        if target in ACCELERATORS:
            self._request(target)
            if not self.available:
                return func(*args, **kwargs)
            kwargs["device"] = "cpu"
            return _mark(func(*args, **kwargs), target)
        mark = self._mark_of(name, args, kwargs)
        if name == "numpy" and not self.computed and _marked(args[0]) and self.from_submission():
            # Forgiven once a model computes, so that more is seen of a program; a test of devices asks before.
            raise TypeError(_NO_NUMPY)
        result = func(*args, **kwargs)
        if name in ("numpy", "__array__", "tolist", "item"):
            return result
        if name == "__set__" and len(args) > 1:
            _mark(args[0], _marked(args[1]) if isinstance(args[1], torch.Tensor) else None)
            return result
        return _mark(result, mark) if mark and target is None else result

    def _property(self, func: Any, args: Any) -> Any:
        value = func(*args)
        owner = args[0] if args else None
        mark = _marked(owner) if isinstance(owner, torch.Tensor) else None
        if mark is None:
            return value
        if isinstance(value, torch.device):
            return torch.device(mark, 0) if self.from_submission(3) else value
        if value is False and getattr(getattr(func, "__self__", None), "__name__", "") == f"is_{mark}":
            return self.from_submission(3)
        return _mark(value, mark)

    def _to(self, func: Any, args: Any, kwargs: Any) -> Any:
        source, rest = args[0], list(args[1:])
        target = _kind(kwargs.get("device"))
        if not self.available:
            asked = target or (_kind(rest[0]) if rest else None)
            if asked in ACCELERATORS:
                self._request(asked)
            return func(source, *rest, **kwargs)
        if "device" in kwargs and target in ACCELERATORS:
            kwargs["device"] = "cpu"
        if rest:
            if isinstance(rest[0], torch.Tensor):
                target = _marked(rest[0]) or target
            elif _kind(rest[0]) is not None:
                target = _kind(rest[0])
                if target in ACCELERATORS:
                    rest[0] = torch.device("cpu")
        result = func(source, *rest, **kwargs)
        if target in ACCELERATORS:
            self._request(target)
            return _mark(_copy(result) if result is source and not _marked(source) else result, target)
        if target == "cpu":
            self._note_return(source)
            return _copy(result) if result is source and _marked(source) else result
        return _mark(result, _marked(source))

    def _parse_to(self, func: Any, args: Any, kwargs: Any) -> Any:
        """`Module.to`: parse with the real device name, which then reaches each tensor's `.to`."""
        parsed = func(*args, **kwargs)
        device = parsed[0]
        mark = _marked(args[0]) if args and isinstance(args[0], torch.Tensor) else None
        if device is None and mark is not None:
            return (torch.device(mark), *parsed[1:])
        return parsed

    def _note_return(self, tensor: torch.Tensor) -> None:
        if self.computing and _marked(tensor) and tensor.requires_grad and torch.is_grad_enabled():
            self.brought_back += 1

    def _request(self, target: str) -> None:
        self.requests[target] = self.requests.get(target, 0) + 1

    def _mark_of(self, name: str, args: Any, kwargs: Any) -> str | None:
        if name not in _COMPUTE:
            return next((mark for mark in map(_marked, _tensors(args, kwargs)) if mark is not None), None)
        marks, plain = set(), 0
        if name in ("cross_entropy", "nll_loss"):
            args, kwargs = args[:2], {}  # scores and labels; weights of classes are another matter
        for tensor in _tensors(args, kwargs):
            mark = _marked(tensor)
            if mark is not None:
                marks.add(mark)
            elif not torch.nn.parameter.is_lazy(tensor) and tensor.dim() > 0 and tensor.grad_fn is None:
                plain += 1  # weights or rows left behind; what was computed has only lost its mark on the way
        if marks and plain:
            self.mixed[name] = self.mixed.get(name, 0) + 1
        return marks.pop() if marks else None


def device_of(tensor: torch.Tensor) -> str:
    """Where the program believes this tensor to be."""
    return _marked(tensor) or tensor.device.type


def _kind(device: Any) -> str | None:
    if isinstance(device, torch.device):
        return str(device.type)
    if isinstance(device, str):
        return device.split(":")[0]
    if isinstance(device, int) and not isinstance(device, bool):
        return "cuda"
    return None


def _marked(tensor: Any) -> str | None:
    mark = getattr(tensor, "__dict__", {}).get(_MARK)
    functorch = torch._C._functorch
    # Inside torch.func.grad and the like a tensor is wrapped; the mark is on what stands behind it.
    while mark is None and isinstance(tensor, torch.Tensor) and functorch.is_functorch_wrapped_tensor(tensor):
        tensor = functorch.get_unwrapped(tensor)
        mark = getattr(tensor, "__dict__", {}).get(_MARK)
    return mark


def _carrying(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(tensor: Any, *args: Any, **kwargs: Any) -> Any:
        return _mark(function(tensor, *args, **kwargs), _marked(tensor))

    return call


def _mark(value: Any, mark: str | None) -> Any:
    if mark is None:
        return value
    if isinstance(value, torch.Tensor):
        setattr(value, _MARK, mark)
    elif isinstance(value, (list, tuple)):
        for item in value:
            if isinstance(item, torch.Tensor):
                setattr(item, _MARK, mark)
    return value


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    """The same values in another tensor object, inside the graph where there is one."""
    if torch.nn.parameter.is_lazy(tensor):  # it has no values yet
        return tensor
    return tensor.view_as(tensor) if tensor.requires_grad and not tensor.is_leaf else tensor.clone()


def _tensors(args: Any, kwargs: Any) -> list[torch.Tensor]:
    found = []
    for value in (*args, *kwargs.values()):
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += [v for v in value if isinstance(v, torch.Tensor)]
    return found

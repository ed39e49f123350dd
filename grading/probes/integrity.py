"""Notices when the submission replaced parts of torch, Python or the probes themselves.

Runs inside the sandbox, so a clever enough program can hide from it; it is one layer, and
the judge treats what it reports as a reason for doubt, never its silence as proof.
"""

from __future__ import annotations

import builtins
import gc
import inspect
import json
import math
import os
import random
import struct
import sys
import sysconfig
import time
import types
import weakref
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import lr_scheduler
from torch.optim import optimizer as optim_module
from torch.utils import data as torch_data

# Programs legitimately replace these: flushing prints, quiet warnings, what loads and saves, steps that do something
# besides. A step is watched for what it does; that of an optimizer of the program's own is nothing else.
_TOLERATED = {
    ("builtins", "print"),
    ("builtins", "open"),
    ("builtins", "_"),
    ("sys", "excepthook"),
    ("sys", "displayhook"),
    # A loss of the program's own may be anything as well.
    *(("torch.nn.functional", name) for name in ("cross_entropy", "nll_loss", "softmax", "log_softmax")),
    ("torch", "load"),
    ("torch", "save"),
    *((name, "step") for name in ("Adam", "AdamW", "SGD")),
}
# How things are shown and how layers begin, whatever they are part of.
_TOLERATED_ANYWHERE = {"__repr__", "__str__", "__format__", "extra_repr", "reset_parameters"}
_MUTABLE = (types.FunctionType, types.BuiltinFunctionType, type, property, types.MethodDescriptorType, staticmethod)


_WATCHED = (
    *(builtins, gc, inspect, json, json.encoder, math, os, random, struct, sys, time, weakref),
    *(np, np.random, torch, torch.autograd, torch.cuda, torch.optim, torch.overrides, torch.nn.functional),
    *(optim_module, lr_scheduler, torch_data, nn, nn.modules.module, nn.utils),
    *(torch.Tensor, nn.Module, nn.Parameter, torch.optim.Optimizer, torch.optim.Adam, torch.optim.SGD),
    *(torch.optim.AdamW, torch_data.DataLoader, torch_data.RandomSampler, torch_data.SequentialSampler),
    *(nn.CrossEntropyLoss, nn.Dropout, nn.BatchNorm1d, nn.Linear, nn.Sequential),
    *(torch.no_grad, torch.inference_mode, torch.enable_grad, torch.set_grad_enabled),
)


class _Remembered:
    """What a module or class holds, and the code of each of its functions."""

    def __init__(self, owner: Any) -> None:
        self.owner, self.held = owner, dict(vars(owner))
        self.code = {name: value.__code__ for name, value in self.held.items() if isinstance(value, types.FunctionType)}


def _trusted_roots() -> tuple[str, ...]:
    """Folders of torch, numpy and Python. Packages may lie elsewhere than the interpreter's own, as in the image."""
    packages = {os.path.dirname(os.path.dirname(str(package.__file__))) for package in (torch, np)}
    folders = {str(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return tuple(os.path.join(folder, "") for folder in packages | folders)


# Taken when the probes are imported, which a warm sandbox does before the submission is there.
_PRISTINE = [_Remembered(owner) for owner in _WATCHED]
_TRUSTED_ROOTS = _trusted_roots()


class Fingerprint:
    """Remembers the identity of every function of the watched modules and classes."""

    def __init__(self, extra: tuple[Any, ...] = ()) -> None:
        self.before = [*_PRISTINE, *map(_Remembered, extra)]
        self.trusted_roots = _TRUSTED_ROOTS
        self._vars, self._getattr = vars, getattr

    def changed(self) -> list[str]:
        """Names that now hold code from elsewhere than torch, Python or the probes."""
        found = []
        for before in self.before:
            owner, now = before.owner, self._vars(before.owner)
            for name, old in before.held.items():
                new = now.get(name)
                if new is old:
                    code = before.code.get(name)
                    if code is None or code is old.__code__:
                        continue
                elif not isinstance(old, _MUTABLE):
                    continue
                where = self._getattr(owner, "__name__", "?")
                tolerated = name in _TOLERATED_ANYWHERE or (where, name) in _TOLERATED
                if not tolerated and not self._trusted(new):
                    found.append(f"{where}.{name}")
        return found[:50]

    def _trusted(self, value: Any) -> bool:
        if isinstance(value, (staticmethod, classmethod)):
            value = value.__func__
        if isinstance(value, property):
            value = value.fget
        if isinstance(value, types.FunctionType):
            # Torch wraps an optimizer's step when one is made, and so what has taken its place.
            inner = getattr(value, "__wrapped__", None)
            own = _file(value).startswith((*self.trusted_roots, "<frozen", "<assay:"))
            return own and (not isinstance(inner, types.FunctionType) or self._trusted(inner))
        if isinstance(value, types.BuiltinFunctionType):
            return False
        if isinstance(value, type):
            module = sys.modules.get(value.__module__)
            return str(getattr(module, "__file__", "")).startswith((*self.trusted_roots, "<assay:"))
        return False


def _file(function: types.FunctionType) -> str:
    return function.__code__.co_filename

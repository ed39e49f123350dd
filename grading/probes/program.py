"""Loading a submission inside the sandbox and calling its functions as its author would."""

from __future__ import annotations

import atexit
import builtins
import contextlib
import functools
import importlib.machinery
import inspect
import os
import sys
import threading
import time
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NoReturn

import torch

from grading.probes.inplace import run_outermost
from grading.probes.recorder import StopProbe, describe

SUBMISSION_NAME = "submission"

# What authors call the arguments of a training or validation function.
_ALIASES = {
    "model": ("model", "net", "network", "module"),
    "dataloader": ("dataloader", "loader", "train_loader", "val_loader", "dl", "data_loader", "data"),
    "criterion": ("criterion", "loss_fn", "loss_function", "loss_func", "loss"),
    "optimizer": ("optimizer", "opt", "optim"),
    "device": ("device", "dev"),
}


class NotLoaded(Exception):
    """The file could not be executed; the reason has been emitted."""


def load(
    source: bytes,
    path: str,
    *,
    name: str = SUBMISSION_NAME,
    before: Callable[[dict[str, Any]], None] | None = None,
) -> tuple[dict[str, Any], BaseException | None]:
    """Execute the submission as the module `name`, by default one that is not `__main__`.

    Returns its namespace and the exception that ended it early, if any: what had been
    defined until then stays usable (a file without the `__main__` guard trains while it
    is loaded, and is cut short there).
    """
    module = types.ModuleType(name)
    module.__file__ = path
    # As `python FILE` has it:
    module.__loader__ = importlib.machinery.SourceFileLoader(name, path)
    vars(module).update(__annotations__={}, __builtins__=builtins, __cached__=None)
    sys.modules[name] = module
    sys.argv = [path]
    sys.path.insert(0, os.path.dirname(path))
    namespace = module.__dict__
    if before is not None:
        before(namespace)
    try:
        run_outermost(compile(source, path, "exec", dont_inherit=True), namespace)
    except (Exception, StopProbe, SystemExit) as error:
        return namespace, error
    return namespace, None


@contextlib.contextmanager
def exits_heard(hear: Callable[[int], int]) -> Iterator[None]:
    """Ask `hear` first where the program itself ends its interpreter by `os._exit`, and not a child's.

    It takes the status and gives the one to leave with, or raises.
    """
    leave, home = os._exit, os.getpid()

    def exit_at_once(status: int) -> NoReturn:
        os._exit = leave  # one that goes on all the same may go
        leave(hear(status) if os.getpid() == home else status)

    os._exit = exit_at_once
    try:
        yield
    finally:
        os._exit = leave


def exits_stopped() -> contextlib.AbstractContextManager[None]:
    """Let `os._exit` end the program, and not the interpreter that has more to look at."""

    def stop(status: int) -> NoReturn:
        raise StopProbe

    return exits_heard(stop)


class Ending:
    """Lets a script come to its end as the interpreter would: its threads are awaited, its exit handlers run.

    Context manager around loading it. Handlers that others registered before stay where they are.
    `threads_left` is the number of threads that would have kept the interpreter waiting.

    Args:
        leave: called with the status where the program ends its interpreter itself by `os._exit`, and not a child's.
    """

    PATIENCE_S = 5.0  # for all threads together; one that never ends keeps a real interpreter for ever

    def __init__(self, leave: Callable[[int], None] | None = None) -> None:
        self.leave = leave

    def __enter__(self) -> Ending:
        self.threads = set(threading.enumerate())
        self.handlers: list[Callable[[], Any]] = []
        self.threads_left = 0
        self.register, self.unregister = atexit.register, atexit.unregister

        def register(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Callable[..., Any]:
            self.handlers.append(functools.partial(function, *args, **kwargs))
            return function

        def unregister(function: Callable[..., Any]) -> None:
            self.handlers = [handler for handler in self.handlers if handler.func != function]  # type: ignore[attr-defined]
            self.unregister(function)

        atexit.register, atexit.unregister = register, unregister
        self.exits = exits_heard(self._hear)
        self.exits.__enter__()
        return self

    def _hear(self, status: int) -> int:
        if self.leave is None:
            return status
        self.leave(status)
        return 0

    def __exit__(self, *_: object) -> None:
        self.exits.__exit__(None, None, None)
        atexit.register, atexit.unregister = self.register, self.unregister

    def see_through(self) -> BaseException | None:
        """Wait for the threads that were started, run the handlers, last one first; gives what stopped it early."""
        until = time.monotonic() + self.PATIENCE_S
        for hook in reversed(getattr(threading, "_threading_atexits", [])):
            hook()  # by which the interpreter tells the threads of executors that it is time to go
        own = [thread for thread in threading.enumerate() if thread not in self.threads and not thread.daemon]
        for thread in own:
            thread.join(max(0.0, until - time.monotonic()))
        self.threads_left = sum(thread.is_alive() for thread in own)
        while self.handlers:
            try:
                self.handlers.pop()()
            except StopProbe as stop:
                return stop
            except (Exception, SystemExit):  # the interpreter prints it and goes on
                continue
        return None


def call_with(function: Callable[..., Any], roles: Mapping[str, Any], extras: Mapping[str, Any] | None = None) -> Any:
    """Call a training or validation function with arguments by role.

    `roles` are in the interface's positional order. A function that takes other or further
    parameters gets them by name: known aliases, then `extras` (what the program itself
    passed), then None.
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return function(*roles.values())
    parameters = list(signature.parameters.values())
    required = [
        p for p in parameters if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    in_order = len(required) <= len(roles)
    for parameter, expected in zip(required, roles, strict=False):
        other = [r for r, names in _ALIASES.items() if parameter.name.lower() in names and r != expected]
        in_order = in_order and not other
    if in_order:
        try:
            signature.bind(*roles.values())
        except TypeError:
            pass
        else:
            return function(*roles.values())
    arguments: dict[str, Any] = {}
    for parameter in parameters:
        role = next((r for r in roles if parameter.name.lower() in _ALIASES[r]), None)
        if role is not None:
            arguments[parameter.name] = roles[role]
        elif extras and parameter.name in extras:
            arguments[parameter.name] = extras[parameter.name]
        elif parameter.default is parameter.empty and parameter.kind in (
            parameter.POSITIONAL_OR_KEYWORD,
            parameter.KEYWORD_ONLY,
        ):
            arguments[parameter.name] = None
    return function(**arguments)


def bind_roles(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Sort the arguments of an observed call into roles; the rest stays under its own name."""
    try:
        bound = inspect.signature(function).bind(*args, **kwargs).arguments
    except (TypeError, ValueError):
        bound = dict(zip(_ALIASES, args, strict=False)) | kwargs
    found: dict[str, Any] = {}
    for name, value in bound.items():
        role = next((r for r, names in _ALIASES.items() if name.lower() in names), name)
        found[role] = value
    return found


def number(value: Any) -> float | None:
    """A Python or torch number as float, None for anything else."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, torch.Tensor):
        return float(value.detach().float().mean()) if value.numel() == 1 else None
    try:
        return float(value)
    except Exception:  # whatever a hostile __float__ raises
        return None


def pair(value: Any) -> list[float | None]:
    """The first two numbers of a returned (loss, accuracy)."""
    if isinstance(value, dict):
        value = list(value.values())
    items: Iterable[Any] = value if isinstance(value, (tuple, list)) else (value,)
    return [number(item) for item, _ in zip(items, range(2), strict=False)]


def type_names(value: Any) -> list[str]:
    """The type names of a returned tuple, for the report."""
    items = value if isinstance(value, (tuple, list)) else (value,)
    return [type(item).__name__[:60] for item, _ in zip(items, range(4), strict=False)]


def attempt(emit: Callable[..., None], name: str, action: Callable[[], Any]) -> Any:
    """Run one independent part of a probe; its failure is evidence and ends only that part."""
    try:
        return action()
    except (Exception, StopProbe, SystemExit) as error:
        emit(f"{name}.error", {"in": name, **describe(error)})
        return None

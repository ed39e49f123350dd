"""Changes what a function of torch does while it stays the same function, and runs programs with no frame below them.

Runs inside the sandbox. A program may look whether it is watched: by the file of a function's
code, its module, its signature, by whether the name still holds the same object, by the frames
on the stack. So only the code object of a function is exchanged, for one that says it comes
from the same file, and what it calls are constants within it. Nothing of this stops a program
that reads byte code; it leaves little for one that does not.
"""

from __future__ import annotations

import inspect
import itertools
import sys
import types
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from greenlet import greenlet

_NOTHING: Mapping[str, Any] = {}


def copy_of(function: types.FunctionType) -> types.FunctionType:
    """The function as it is now, in another object."""
    copied = types.FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    copied.__kwdefaults__ = function.__kwdefaults__
    return copied


def exchange(function: types.FunctionType, body: str, constants: Mapping[str, Any] = _NOTHING) -> Callable[[], None]:
    """Give `function` another body; what comes back undoes it.

    In `body`, Python source indented by nothing, the string `"assay:NAME"` stands for `constants[NAME]`
    and `ARGUMENTS` for the function's own arguments, passed on. Its signature stays.
    """
    before = function.__code__
    declared, passed_on = _signature(before)
    free = ", ".join(before.co_freevars)
    lines = [f"def make({free}):", f"    def made({declared}):"]
    lines += [f"        {free}"] if free else []  # whoever mentions them keeps them: the closure stays as it is
    lines += [f"        {line}" for line in body.replace("ARGUMENTS", passed_on).splitlines()]
    lines += ["    return made"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # a string is called here, until it is exchanged
        outer = compile("\n" * max(0, before.co_firstlineno - 2) + "\n".join(lines), before.co_filename, "exec")
    make = next(c for c in outer.co_consts if isinstance(c, types.CodeType))
    made = next(c for c in make.co_consts if isinstance(c, types.CodeType))
    held = tuple(
        constants[c.removeprefix("assay:")] if isinstance(c, str) and c.startswith("assay:") else c
        for c in made.co_consts
    )
    function.__code__ = made.replace(co_consts=held, co_name=before.co_name, co_qualname=before.co_qualname)

    def undo() -> None:
        function.__code__ = before

    return undo


def _signature(code: types.CodeType) -> tuple[str, str]:
    """How a function with this code declares its parameters, and how it would pass them on."""
    names = iter(code.co_varnames)
    positional = list(itertools.islice(names, code.co_argcount))
    keywords = list(itertools.islice(names, code.co_kwonlyargcount))
    declared, passed_on = list(positional), list(positional)
    if code.co_posonlyargcount:
        declared.insert(code.co_posonlyargcount, "/")
    rest = [next(names)] if code.co_flags & inspect.CO_VARARGS else []
    if rest or keywords:
        declared.append(f"*{rest[0]}" if rest else "*")
    passed_on += [f"*{name}" for name in rest]
    declared += keywords
    passed_on += [f"{name}={name}" for name in keywords]
    if code.co_flags & inspect.CO_VARKEYWORDS:
        others = next(names)
        declared.append(f"**{others}")
        passed_on.append(f"**{others}")
    return ", ".join(declared), ", ".join(passed_on)


def instead(function: types.FunctionType, action: Callable[..., Any]) -> Callable[[], None]:
    """Let `action` answer with the function's arguments; what comes back undoes it."""
    return exchange(function, 'return "assay:action"(ARGUMENTS)', {"action": action})


def around(
    function: types.FunctionType,
    *,
    before: Callable[..., Any] | None = None,
    after: Callable[..., Any] | None = None,
) -> Callable[[], None]:
    """Let `before` and `after` see the function's arguments; neither is on the stack while it runs itself."""
    constants: dict[str, Any] = {"before": before, "after": after, "original": copy_of(function)}
    body = ['"assay:before"(ARGUMENTS)'] if before is not None else []
    body += ['result = "assay:original"(ARGUMENTS)']
    body += ['"assay:after"(ARGUMENTS)'] if after is not None else []
    return exchange(function, "\n".join([*body, "return result"]), constants)


def run_outermost(code: types.CodeType, namespace: dict[str, Any]) -> None:
    """Execute a module's code with no frame below it, as the interpreter does with `python FILE`.

    Raises:
        BaseException: whatever the code raises.
    """
    for name in ("greenlet", "greenlet._greenlet"):
        sys.modules.pop(name, None)  # as long as the program does not ask for it
    greenlet(exec).switch(code, namespace)

"""Which of the program's functions is being run, and what they hold: read off the stack.

Runs inside the sandbox.
"""

from __future__ import annotations

import inspect
import sys
import threading
import types
from typing import Any

_FRAME_AND_US = 3  # who refers to a frame's dict when only it and the look do, with sys.getrefcount's own


def code_of(function: Any, name: str) -> types.CodeType | None:
    """The code object of `name` itself that stands on the stack while `function` runs.

    Decorators share one wrapper's code among all that they decorate, so the function that
    they wrap is looked for: by `__wrapped__`, else among what the wrapper closes over.
    """
    for _ in range(10):
        inner = getattr(function, "__wrapped__", None) or getattr(function, "func", None)
        if inner is None:
            cells = [c.cell_contents for c in getattr(function, "__closure__", None) or () if _filled(c)]
            inner = next((c for c in cells if getattr(c, "__name__", None) == name and c is not function), None)
        if not callable(inner):
            break
        function = inner
    if not hasattr(function, "__code__"):
        function = vars(type(function)).get("__call__")
    code = getattr(function, "__code__", None)
    return code if isinstance(code, types.CodeType) else None


def variables_of(frame: types.FrameType) -> dict[str, Any]:
    """The variables of a frame.

    Before Python 3.13 a function's frame keeps the dict that it is asked for, and so keeps alive what the program
    deletes later, for as long as it runs. Hence the dict is emptied, unless the program has it too (by `locals()`).
    """
    kept = frame.f_locals
    found = dict(kept)
    is_function = frame.f_code.co_flags & inspect.CO_OPTIMIZED
    if is_function and isinstance(kept, dict) and sys.getrefcount(kept) <= _FRAME_AND_US:
        kept.clear()
    return found


def on_stack(function: Any, name: str, *, anywhere: bool = False) -> bool:
    """Whether `function`, called `name`, is being executed now: in this thread, or `anywhere` in the main one too."""
    code = code_of(function, name)
    frames = [sys._getframe(1)] + [sys._current_frames().get(threading.main_thread().ident or 0)] * anywhere
    return code is not None and any(_runs(frame, code) for frame in frames)


def _runs(frame: types.FrameType | None, code: types.CodeType) -> bool:
    for _ in range(60):
        if frame is None or frame.f_code is code:
            break
        frame = frame.f_back
    return frame is not None and frame.f_code is code


def _filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False

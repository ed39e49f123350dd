"""Files that are odd or broken as files, and whether they can be graded all the same.

    source, outcome = BAD_INPUTS["utf-16"]

"graded" promises a report with a verdict for each bug, not that any is fixed. Development
and test material: nothing here ever goes into a sandbox but the bytes themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from challenges.spiral.mutations import build

Outcome = Literal["graded", "invalid"]

_SOLUTION = build(())


def _with(old: str, new: str, source: str = _SOLUTION) -> bytes:
    """The solution with `old`, which occurs once, replaced by `new`."""
    if source.count(old) != 1:
        raise ValueError(f"{old!r} occurs {source.count(old)} times in the solution, not once")
    return source.replace(old, new).encode()


def _at_import(statement: str) -> bytes:
    """The solution with a statement in front of everything that it defines."""
    return _with("import time\n", f"import time\n\n{statement}\n")


def _without_function(name: str, next_definition: str) -> bytes:
    start, end = _SOLUTION.index(f"def {name}("), _SOLUTION.index(f"def {next_definition}(")
    return (_SOLUTION[:start] + _SOLUTION[end:]).encode()


_LATIN_1 = _SOLUTION.replace("Aim: more", "Ziel, f\xfcr alle: more")

BAD_INPUTS: Mapping[str, tuple[bytes, Outcome]] = {
    # Bytes
    "empty": (b"", "invalid"),
    "white-space": (b" \n\t\n\n", "invalid"),
    "comment-only": (b"# all eight bugs are fixed\n", "invalid"),
    "byte-order-mark": (_SOLUTION.encode("utf-8-sig"), "graded"),
    "crlf": (_SOLUTION.replace("\n", "\r\n").encode(), "graded"),
    "no-final-newline": (_SOLUTION.rstrip("\n").encode(), "graded"),
    "utf-16": (_SOLUTION.encode("utf-16"), "invalid"),
    "utf-16-without-mark": (_SOLUTION.encode("utf-16-le"), "invalid"),
    "latin-1": (_LATIN_1.encode("latin-1"), "invalid"),
    "latin-1-declared": (("# coding: latin-1\n" + _LATIN_1).encode("latin-1"), "graded"),
    "nul-byte": (_with("import time\n", "import time\0\n"), "invalid"),
    "ten-megabytes": (_SOLUTION.encode() + b"# padding\n" * (1 << 20), "invalid"),
    "not-a-program": (b"\x89PNG\r\n\x1a\n" + bytes(range(1, 256)) * 4, "invalid"),
    # Text
    "syntax-error": (_with("    model.eval()\n", "    model.eval(\n"), "invalid"),
    "bad-indentation": (_with("    model.eval()\n", "      model.eval()\n"), "invalid"),
    "deep-nesting": (_at_import("x = " + "(" * 5000 + ")" * 5000), "invalid"),
    # Names
    "missing-function": (_without_function("validate", "main"), "invalid"),
    "renamed-function": (_with("def train_one_epoch(", "def train_epoch("), "invalid"),
    "required-name-is-no-function": (_without_function("validate", "main") + b"\nvalidate = 3\n", "invalid"),
    "wrong-signature": (
        _with(
            "def train_one_epoch(model, dataloader, criterion, optimizer, device)",
            "def train_one_epoch(model)",
        ),
        "graded",
    ),
    # What happens at import
    "absent-package": (_at_import("import a_package_that_nobody_has"), "invalid"),
    "exit-at-import": (_at_import("raise SystemExit(0)"), "invalid"),
    "hard-exit-at-import": (_at_import("import os\n\nos._exit(0)"), "invalid"),
    "exception-at-import": (_at_import("raise RuntimeError('no')"), "invalid"),
    "endless-loop-at-import": (_at_import("while True:\n    pass"), "invalid"),
    "kills-itself-at-import": (_at_import("import os\n\nos.kill(os.getpid(), 9)"), "invalid"),
    # What happens in the run
    "endless-loop-in-training": (
        _with(
            "        outputs = model(inputs)\n        loss",
            "        while True:\n            pass\n        loss",
        ),
        "graded",
    ),
    "sleeps-in-training": (
        _with("    batch_losses = []\n", "    batch_losses = []\n    time.sleep(3600)\n"),
        "graded",
    ),
    "prints-a-gigabyte": (
        _with(
            "    num_epochs = 20\n",
            "    num_epochs = 20\n    for _ in range(1 << 10):\n        print('x' * (1 << 20))\n",
        ),
        "graded",
    ),
    "exception-in-main": (_with("    num_epochs = 20\n", "    raise ValueError('half way')\n"), "graded"),
    "eats-memory": (
        _with(
            "    num_epochs = 20\n",
            "    num_epochs = 20\n    hoard = [bytearray(1 << 24) for _ in range(512)]\n",
        ),
        "graded",
    ),
    "returns-nothing": (_with("    return history\n", ""), "graded"),
}

"""Goes into the sandbox with an attack that is driven as a bare step; records, decides nothing."""

import os
import stat
import sys
import types


def attack(context):
    """Load the submission and call its `attack()`."""
    module = types.ModuleType("submission")
    module.__file__ = context.submission_path
    sys.modules["submission"] = module
    exec(compile(context.submission_source, context.submission_path, "exec", dont_inherit=True), module.__dict__)
    module.attack()


def afterwards(context):
    """What the step before left to this one: processes, files, shared memory, a changed submission."""
    others = [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) not in (1, os.getpid())]
    with open(context.submission_path, "rb") as file:
        same = file.read() == context.submission_source
    context.emit(
        "afterwards",
        {
            "processes": len(others),
            "tmp": sorted(name[:100] for name in os.listdir("/tmp"))[:20],
            "work": sorted(name[:100] for name in os.listdir("."))[:20],
            "shm": sorted(name[:100] for name in os.listdir("/dev/shm"))[:20],
            "submission_intact": same,
            "nice": os.nice(0),
            "stdout_is_pipe": stat.S_ISFIFO(os.fstat(1).st_mode),
        },
    )

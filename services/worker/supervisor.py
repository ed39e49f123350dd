"""Runs the processes of `assay serve`, restarts those that end, and stops them in order.

Every child dies with this process, however that ends: the kernel sends it a signal then
(PR_SET_PDEATHSIG). Each leads a process group of its own, so Ctrl-C on a terminal reaches only
this process, which stops them one stage after another.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from services.logs import logger

log = logger("serve")

_PR_SET_PDEATHSIG = 1
_LOOK_EVERY_S = 0.1
_STEADY_S = 60.0  # having run that long, a process that ends is restarted without a long pause


class NotReady(Exception):
    """A process did not come up."""


@dataclass(frozen=True)
class Program:
    """What to run.

    Args:
        stage: lower ones start first and stop last.
        ready: asked until it says so.
        awaited: whether higher stages start only then; else they come up beside it.
        stop_s: how long it may take to end after SIGTERM before it is killed.
        death_signal: what it gets when the supervisor is no more.
        keep_fds: descriptors that it inherits.
    """

    name: str
    argv: Sequence[str]
    stage: int
    environment: Mapping[str, str] = field(default_factory=dict)
    ready: Callable[[], bool] = lambda: True
    ready_s: float = 30.0
    awaited: bool = False
    stop_s: float = 10.0
    death_signal: signal.Signals = signal.SIGKILL
    keep_fds: Sequence[int] = ()


class _Child:
    """One program and the process that runs it now."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.process: subprocess.Popen[bytes] | None = None
        self.began = 0.0
        self.failures = 0
        self.start_at = 0.0

    def start(self) -> None:
        self.began = time.monotonic()
        self.process = start(self.program)

    @property
    def runs(self) -> bool:
        return self.process is not None and self.process.poll() is None


class Supervisor:
    """Start with `start`, then `watch`, and `stop` always.

    Args:
        pause_s: before a restart; doubles with each quick end, up to `longest_pause_s`.
    """

    def __init__(self, programs: Sequence[Program], pause_s: float = 0.5, longest_pause_s: float = 30.0) -> None:
        self._children = [_Child(program) for program in sorted(programs, key=lambda program: program.stage)]
        self._pause_s, self._longest_pause_s = pause_s, longest_pause_s

    def start(self, stop: threading.Event) -> None:
        """Start all and wait until all are ready. Raises NotReady."""
        for child in self._children:
            child.start()
            if child.program.awaited:
                self._await(child, stop)
        for child in self._children:
            self._await(child, stop)

    def _await(self, child: _Child, stop: threading.Event) -> None:
        deadline = time.monotonic() + child.program.ready_s
        while not child.program.ready() and not stop.is_set():
            if not child.runs:
                code = child.process.returncode if child.process else None
                raise NotReady(f"{child.program.name} ended with {code} before it was ready")
            if time.monotonic() > deadline:
                raise NotReady(f"{child.program.name} was not ready within {child.program.ready_s:g} s")
            stop.wait(_LOOK_EVERY_S)

    def watch(self, stop: threading.Event) -> None:
        """Restart what ends, until told to stop."""
        while not stop.wait(_LOOK_EVERY_S):
            for child in self._children:
                self._see_to(child)

    def _see_to(self, child: _Child) -> None:
        now = time.monotonic()
        if child.process is not None and child.process.poll() is not None:
            steady = now - child.began > _STEADY_S
            child.failures = 0 if steady else child.failures + 1
            pause_s = self._pause(child, now)
            log.warning("ended", program=child.program.name, code=child.process.returncode, restart_in_s=pause_s)
            child.process = None
        if child.process is None and now >= child.start_at:
            try:
                child.start()
            except OSError as error:  # no process or memory to be had just now, or its file is being replaced
                child.failures += 1
                pause_s = self._pause(child, now)
                log.warning("not started", program=child.program.name, error=str(error), restart_in_s=pause_s)

    def _pause(self, child: _Child, now: float) -> float:
        """Until it is started again."""
        pause_s = min(self._longest_pause_s, self._pause_s * 2.0 ** max(0, child.failures - 1))
        child.start_at = now + pause_s
        return pause_s

    def pids(self) -> dict[str, int]:
        """The processes that run now, by name."""
        return {child.program.name: child.process.pid for child in self._children if child.process and child.runs}

    def stop(self) -> None:
        """End all, the last stage first; kill what does not end in time."""
        for stage in sorted({child.program.stage for child in self._children}, reverse=True):
            running = [child for child in self._children if child.program.stage == stage and child.runs]
            for child in running:
                _send(child, signal.SIGTERM)
            for child in running:
                deadline = time.monotonic() + child.program.stop_s
                while child.runs and time.monotonic() < deadline:
                    time.sleep(_LOOK_EVERY_S / 2)
                if child.runs:
                    log.warning("killed, for it did not end", program=child.program.name)
                    _send(child, signal.SIGKILL)


def _send(child: _Child, number: signal.Signals) -> None:
    assert child.process is not None
    with contextlib.suppress(ProcessLookupError):
        if number is signal.SIGKILL:
            os.killpg(child.process.pid, number)
            child.process.wait()
        else:
            child.process.send_signal(number)


def start(program: Program) -> subprocess.Popen[bytes]:
    """Run it in a process group of its own that dies with this process."""
    return subprocess.Popen(
        program.argv,
        env={**os.environ, **program.environment},
        stdin=subprocess.DEVNULL,
        pass_fds=program.keep_fds,
        start_new_session=True,
        # Safe without other threads that hold locks: the supervisor has none.
        preexec_fn=_dying_with(os.getpid(), program.death_signal),
    )


def _dying_with(parent: int, number: signal.Signals) -> Callable[[], None]:
    """What a child does between fork and exec; Linux only, elsewhere nothing."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl if sys.platform == "linux" else None

    def ask() -> None:
        if prctl is not None:
            prctl(_PR_SET_PDEATHSIG, int(number))
            if os.getppid() != parent:  # it died before the kernel was asked
                os._exit(1)

    return ask


def die_with_parent(number: signal.Signals = signal.SIGKILL) -> None:
    """The same for a process that was forked and does not exec. Linux only, elsewhere nothing."""
    _dying_with(os.getppid(), number)()

"""The sandbox of a worker: opened when first needed, looked at before strangers' code, reopened after trouble."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from sandbox.inspection import look
from sandbox.spec import Limits, Sandbox, SandboxUnavailable


class WeakHost(SandboxUnavailable):
    """A check that must hold does not: strangers' code is not run here."""


@dataclass(eq=False)
class Held:
    """A sandbox in use. Tell `distrust` where it failed."""

    sandbox: Sandbox
    users: int = 0
    distrusted: bool = False

    def distrust(self) -> None:
        """Look at it anew before the next submission."""
        self.distrusted = True


@dataclass
class Sandboxes:
    """Hands out one sandbox to all threads of a worker.

    Args:
        open: makes it. Raises SandboxUnavailable.
        failures: why strangers' code must not run in it, asked before every use; see
            `sandbox.inspection.must_hold`.
        close: gives it up.
        limits: what its containers are made with, for a look.
    """

    open: Callable[[], Sandbox]
    failures: Callable[[Sandbox], Sequence[str]]
    close: Callable[[Sandbox], None]
    limits: Limits = field(default_factory=Limits)
    _held: Held | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def one(self) -> Iterator[Held]:
        """A sandbox that answers and holds. Raises WeakHost, SandboxUnavailable on entry."""
        held = self._take()
        try:
            yield held
        finally:
            self._give_back(held)

    def peek(self) -> Sandbox | None:
        """What is open, to be asked how it is and not to be used."""
        with self._lock:
            return self._held.sandbox if self._held is not None else None

    def shut(self) -> None:
        """Close what is open; a job in it ends with SandboxUnavailable where it can."""
        with self._lock:
            held, self._held = self._held, None
        if held is not None:
            self.close(held.sandbox)

    def _take(self) -> Held:
        with self._lock:
            held = self._held
            fresh = held is None
            if held is None:
                held = Held(self.open())
            try:
                if held.distrusted:
                    self._look_again(held)
                if failures := self.failures(held.sandbox):
                    raise WeakHost("this host must not run strangers' code: " + "; ".join(failures))
            except BaseException:
                if fresh:
                    self.close(held.sandbox)
                raise
            self._held = held
            held.users += 1
            return held

    def _look_again(self, held: Held) -> None:
        """Run something harmless in a sandbox that failed. Raises SandboxUnavailable."""
        look(held.sandbox, self.limits)
        held.distrusted = False

    def _give_back(self, held: Held) -> None:
        with self._lock:
            held.users -= 1
            # Reopened rather than looked at where nobody else is in it: a new Engine, runner or image may answer now.
            unused = held.distrusted and held.users == 0 and self._held is held
            if unused:
                self._held = None
        if unused:
            self.close(held.sandbox)

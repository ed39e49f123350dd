"""A worker on a real store with a clock that tests move; sandbox and grader are fakes."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from grading.verdict import Report
from sandbox.spec import Job, RunResult, Sandbox, SandboxUnavailable, StepListener
from services.settings import Settings
from services.store import Claim, NewInvitations, NewSubmission, Store
from services.worker.grading import Grader
from services.worker.sandboxes import Sandboxes
from tests.services.conftest import a_report


class Clock:
    """Microseconds since 1970."""

    def __init__(self) -> None:
        self.now_us = 1_800_000_000_000_000

    def __call__(self) -> int:
        self.now_us += 1
        return self.now_us

    def pass_s(self, seconds: float) -> None:
        self.now_us += round(seconds * 1_000_000)


class EmptySandbox:
    """Runs nothing."""

    name = "docker"

    def run(self, job: Job, listener: StepListener | None = None) -> RunResult:
        raise AssertionError("the fake grader runs nothing")

    def cannot_hold(self) -> tuple[str, ...]:
        return ()


@dataclass
class Bench:
    """What a test turns: `grade` is what the grader does, `sandbox_works` and `failures` what the host is like."""

    store: Store
    settings: Settings
    clock: Clock
    grade: Callable[[Claim, StepListener], Report] = lambda claim, listener: a_report(claim.file_name, claim.source)
    sandbox_works: bool = True
    failures: Sequence[str] = ()
    opened: list[Sandbox] = field(default_factory=list)
    closed: list[Sandbox] = field(default_factory=list)
    results: int = 0

    def hand_in(self, source: bytes = b"fixed=3") -> str:
        return self.store.create_submission(NewSubmission("spiral", "x.py", source)).id

    def try_out(self, source: bytes = b"fixed=3") -> tuple[str, str]:
        """A check of an invited candidate: the invitation's id and the check's."""
        new = NewInvitations("spiral", [{"name": "Mei Lin"}], "Rita", 3600, 5)
        ((made, _),) = self.store.create_invitations(new, actor="test")
        return made.id, self.store.create_check(made.id, "x.py", source).id

    def worker(self, store: Store | None = None, name: str = "w1") -> Grader:
        def grade_one(claim: Claim, _: Sandbox, listener: StepListener) -> Report:
            return self.grade(claim, listener)

        return Grader(store or self.store, self.sandboxes(), self.settings, name, grade_one, self._count)

    def sandboxes(self) -> Sandboxes:
        return Sandboxes(self._open, lambda sandbox: self.failures, self.closed.append)

    def _open(self) -> Sandbox:
        if not self.sandbox_works:
            raise SandboxUnavailable("no Engine answers")
        self.opened.append(EmptySandbox())
        return self.opened[-1]

    def _count(self) -> None:
        self.results += 1


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("worker-store") / "migrated.db"
    Store.upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        state_dir=tmp_path,
        heartbeat_s=0.02,
        worker_sandbox_wait_s=0.0,
        store_patience_s=5.0,
        retry_base_s=10.0,
        retry_max_s=100.0,
        webhook_schedule_s="0,10,20",
        webhook_jitter=0.0,
    )


@pytest.fixture
def store(tmp_path: Path, migrated_file: Path, clock: Clock) -> Iterator[Store]:
    shutil.copy(migrated_file, tmp_path / "assay.db")
    one = Store.open(f"sqlite:///{tmp_path / 'assay.db'}", clock=clock, max_attempts=3)
    yield one
    one.close()


@pytest.fixture
def bench(store: Store, settings: Settings, clock: Clock) -> Bench:
    return Bench(store, settings, clock)


@pytest.fixture(autouse=True)
def _no_threads_left() -> Iterator[None]:
    """Whatever a test starts, it ends."""
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        thread.join(5)
        assert not thread.is_alive(), f"{thread.name} is still there"

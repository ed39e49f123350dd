from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import services.worker.supervisor
from services.worker.embedded import AlreadyServed, alone, redis_executable
from services.worker.supervisor import NotReady, Program, Supervisor


def python(code: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(code)]


def until(true: Callable[[], bool], within_s: float = 20.0) -> None:
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.02)


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def meanwhile(supervisor: Supervisor, stop: threading.Event, act: Callable[[], None]) -> None:
    """Watch from this thread, for a child dies with the thread that started it, while another acts."""

    def act_and_stop() -> None:
        try:
            act()
        finally:
            stop.set()

    actor = threading.Thread(target=act_and_stop)
    actor.start()
    supervisor.watch(stop)
    actor.join()


@pytest.fixture
def stop() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def test_what_ends_is_started_again_after_growing_pauses(tmp_path: Path, stop: threading.Event) -> None:
    starts = tmp_path / "starts"
    program = Program("short", python(f"open({str(starts)!r}, 'a').write('x')"), 0)
    supervisor = Supervisor([program], pause_s=0.05, longest_pause_s=0.2)
    supervisor.start(stop)
    meanwhile(supervisor, stop, lambda: until(lambda: starts.exists() and len(starts.read_text()) >= 4))
    supervisor.stop()


def test_a_killed_program_comes_back(stop: threading.Event) -> None:
    supervisor = Supervisor([Program("sleeper", ["sleep", "600"], 0)], pause_s=0.05)
    supervisor.start(stop)
    first = supervisor.pids()["sleeper"]

    def kill() -> None:
        os.kill(first, signal.SIGKILL)
        until(lambda: supervisor.pids().get("sleeper", first) != first)

    meanwhile(supervisor, stop, kill)
    last = supervisor.pids()["sleeper"]
    supervisor.stop()
    assert not lives(last)


def test_what_cannot_be_started_is_tried_again(stop: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of processes or memory for a moment: the others go on, and it comes back."""
    supervisor = Supervisor([Program("sleeper", ["sleep", "600"], 0)], pause_s=0.02)
    supervisor.start(stop)
    first = supervisor.pids()["sleeper"]
    fork, refused = services.worker.supervisor.start, []

    def refuse(program: Program) -> subprocess.Popen[bytes]:
        if len(refused) < 3:
            refused.append(time.monotonic())
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return fork(program)

    monkeypatch.setattr(services.worker.supervisor, "start", refuse)

    def kill() -> None:
        os.kill(first, signal.SIGKILL)
        until(lambda: supervisor.pids().get("sleeper", first) != first)

    meanwhile(supervisor, stop, kill)
    supervisor.stop()
    assert len(refused) == 3
    assert refused[2] - refused[1] >= 0.08, "the pause doubles"


def test_a_stage_starts_when_what_it_awaits_is_ready_and_stops_before_it(tmp_path: Path, stop: threading.Event) -> None:
    log = tmp_path / "log"

    def noting(name: str) -> list[str]:
        return python(f"""
            import signal, sys, time
            def note(word):
                with open({str(log)!r}, "a") as file: file.write(word + " {name}\\n")
            signal.signal(signal.SIGTERM, lambda *_: (note("stop"), sys.exit(0)))
            time.sleep(0.2)
            note("start")
            time.sleep(600)
        """)

    def ready(name: str) -> Callable[[], bool]:
        return lambda: log.exists() and f"start {name}" in log.read_text()

    programs = [Program("b", noting("b"), 1, ready=ready("b")), Program("a", noting("a"), 0, ready=ready("a"))]
    supervisor = Supervisor([programs[0], dataclasses.replace(programs[1], awaited=True)])
    supervisor.start(stop)
    supervisor.stop()
    assert log.read_text().split("\n") == ["start a", "start b", "stop b", "stop a", ""]


def test_what_does_not_end_is_killed_with_all_its_children(stop: threading.Event, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    stubborn = python(f"""
        import os, signal, subprocess, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen(["sleep", "600"])
        open({str(pids)!r}, "w").write(f"{{os.getpid()}} {{child.pid}}")
        time.sleep(600)
    """)
    ready = lambda: pids.exists() and len(pids.read_text().split()) == 2  # noqa: E731
    supervisor = Supervisor([Program("stubborn", stubborn, 0, ready=ready, stop_s=0.3)])
    supervisor.start(stop)
    supervisor.stop()
    until(lambda: not any(lives(int(pid)) for pid in pids.read_text().split()))


def test_what_does_not_come_up_is_told(stop: threading.Event) -> None:
    supervisor = Supervisor([Program("broken", ["false"], 0, ready=lambda: False)])
    with pytest.raises(NotReady, match="broken ended with 1"):
        supervisor.start(stop)
    supervisor.stop()


def test_what_takes_too_long_to_come_up_is_told(stop: threading.Event) -> None:
    supervisor = Supervisor([Program("slow", ["sleep", "600"], 0, ready=lambda: False, ready_s=0.2)])
    with pytest.raises(NotReady, match="slow was not ready"):
        supervisor.start(stop)
    supervisor.stop()


def test_nothing_outlives_a_killed_supervisor(tmp_path: Path) -> None:
    """Not even what its children forked, where those ask for the same."""
    pids = tmp_path / "pids"
    root = Path(__file__).resolve().parents[3]
    code = f"""
        import sys, threading, time
        sys.path.insert(0, {str(root)!r})
        from services.worker.supervisor import Program, Supervisor
        supervisor = Supervisor([Program(str(n), ["sleep", "600"], 0) for n in range(3)])
        supervisor.start(threading.Event())
        open({str(pids)!r}, "w").write(" ".join(map(str, supervisor.pids().values())))
        time.sleep(600)
    """
    process = subprocess.Popen(python(code))
    until(lambda: pids.exists() and len(pids.read_text().split()) == 3)
    children = [int(pid) for pid in pids.read_text().split()]
    assert all(map(lives, children))
    process.kill()
    process.wait()
    until(lambda: not any(map(lives, children)))


def test_one_state_folder_is_served_once(tmp_path: Path) -> None:
    with alone(tmp_path / "lock"), pytest.raises(AlreadyServed), alone(tmp_path / "lock", 0.2):
        pass
    with alone(tmp_path / "lock"):
        pass


def test_redis_comes_with_the_packages() -> None:
    version = subprocess.run([redis_executable(), "--version"], capture_output=True, text=True, check=True).stdout
    assert "Redis server" in version

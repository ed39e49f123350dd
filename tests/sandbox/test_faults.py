"""What fails around a submission is infrastructure trouble, or is made good; never a candidate's fault.

Real parts only: the Engine that the other tests use, and a second one with its own data root
for what an Engine in use cannot be put through. It needs root, as starting an Engine does.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import docker
import pytest

from sandbox.docker import DockerSandbox
from sandbox.image.build import image_tag
from sandbox.ownership import LABEL_OWNER
from sandbox.pool import Pool, PoolConfig
from sandbox.remote import RunnerSandbox
from sandbox.runner import RunnerConfig
from sandbox.spec import Job, Limits, RunResult, RunStatus, SandboxUnavailable, Step

pytestmark = [
    pytest.mark.docker,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    # The Engine's client drops sockets that it cannot connect, and leaves closing them to the collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

ROOT = Path(__file__).parents[2]
LIMITS = Limits(wall_time_s=100.0, start_time_s=120.0, memory_bytes=512 << 20)
LEFTOVERS_S = 60.0
CONFIG = PoolConfig(min_size=1, max_size=1, retries=0, backoff_s=1.0, reap_interval_s=1.0)


def a_job(*bodies: str, limits: Limits = LIMITS) -> Job:
    """One step per body."""
    functions = [f"def f{n}(c):\n    {body}\n" for n, body in enumerate(bodies)]
    source = "import os, subprocess, sys, time\n" + "".join(functions)
    steps = tuple(Step(f"s{n}", f"p:f{n}", wall_time_s=100.0, cpu_time_s=100.0) for n in range(len(bodies)))
    return Job(b"x = 1\n", {"p": source.encode()}, steps, limits, "faults")


QUICK, LONG = a_job("c.emit('a', 1)"), a_job("time.sleep(100)")


def eventually(condition: Callable[[], Any], patience_s: float = LEFTOVERS_S) -> Any:
    """Wait until it holds."""
    deadline = time.monotonic() + patience_s
    while not (found := condition()):
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(0.05)
    return found


def containers(engine: Any, pid: int | None = None) -> list[Any]:
    """Those that a process owns, by default this one."""
    found = engine.containers(all=True, filters={"label": LABEL_OWNER})
    return [item for item in found if item["Labels"][LABEL_OWNER].split()[2] == str(pid or os.getpid())]


def is_good(result: RunResult) -> bool:
    return [step.status for step in result.steps] == [RunStatus.OK]


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """What docker-py dropped in a test is collected in it, not in whatever test comes later."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture
def engine() -> Iterator[Any]:
    """The Engine of the other tests; nothing of ours may be left there."""
    client = docker.APIClient(version="auto")
    yield client
    eventually(lambda: not containers(client))
    client.close()


@pytest.fixture
def pool(engine: Any) -> Iterator[Pool]:
    with Pool(DockerSandbox(), CONFIG, LIMITS) as pool:
        yield pool


def warm(pool: Pool) -> None:
    eventually(lambda: pool.status()["shelves"][0]["warm"], 200)


class Running:
    """A job under way in another thread."""

    def __init__(self, run: Callable[..., RunResult], job: Job = LONG, steps: int = 1) -> None:
        self.begun: list[str] = []
        self._threads = ThreadPoolExecutor(1)
        self._future = self._threads.submit(run, job, self._heard)
        eventually(lambda: len(self.begun) == steps or self._future.done(), 200)
        assert not self._future.done(), self._future.result()

    def _heard(self, step: str, what: str) -> None:
        if what == "begin":
            self.begun.append(step)

    def result(self) -> RunResult:
        try:
            return self._future.result(200)
        finally:
            self._threads.shutdown()


# --- containers -------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["killed", "removed"])
def test_spare_that_somebody_destroys_costs_no_job(pool: Pool, engine: Any, how: str) -> None:
    """The job gets another container, whether the keeper or the hand-over noticed."""
    warm(pool)
    (spare,) = containers(engine)
    engine.kill(spare["Id"]) if how == "killed" else engine.remove_container(spare["Id"], force=True)
    assert is_good(pool.run(QUICK))


@pytest.mark.parametrize("how", ["killed", "removed"])
def test_run_whose_container_somebody_destroys_is_no_verdict(pool: Pool, engine: Any, how: str) -> None:
    warm(pool)
    (busy,) = containers(engine)
    running = Running(pool.run)
    engine.kill(busy["Id"]) if how == "killed" else engine.remove_container(busy["Id"], force=True)
    with pytest.raises(SandboxUnavailable, match="lost"):
        running.result()


def test_run_whose_container_is_killed_is_made_good_by_the_pool(engine: Any) -> None:
    with Pool(DockerSandbox(), replace(CONFIG, retries=1), LIMITS) as pool:
        warm(pool)
        (busy,) = containers(engine)
        running = Running(pool.run, a_job("time.sleep(5); c.emit('a', 1)"))
        engine.kill(busy["Id"])
        assert is_good(running.result())
        assert running.begun == ["s0", "s0"]


def test_kill_after_an_earlier_step_ran_out_of_memory_is_not_taken_for_another(engine: Any) -> None:
    """The Engine's OOMKilled then tells of the earlier step; what killed the container is not known."""
    eater = "held = [bytearray(16 << 20) for _ in range(1000)]"
    running = Running(DockerSandbox().run, a_job(eater, "time.sleep(100)"), steps=2)
    (busy,) = containers(engine)
    engine.kill(busy["Id"])
    with pytest.raises(SandboxUnavailable, match="lost"):
        running.result()


def test_run_that_somebody_freezes_is_no_verdict(engine: Any) -> None:
    running = Running(DockerSandbox().run, a_job("time.sleep(100)", limits=replace(LIMITS, wall_time_s=2.0)))
    (busy,) = containers(engine)
    engine.pause(busy["Id"])
    with pytest.raises(SandboxUnavailable, match="lost"):
        running.result()


def test_missing_image_is_said_and_asked_for_less_and_less_often(engine: Any, caplog: Any) -> None:
    with caplog.at_level(logging.WARNING), Pool(DockerSandbox(image="assay-sandbox:none"), CONFIG, LIMITS) as pool:
        with pytest.raises(SandboxUnavailable, match="make image"):
            pool.run(QUICK)
        eventually(lambda: pool.status()["engine_failures"] >= 2)


# --- clocks -----------------------------------------------------------------------------


@pytest.mark.parametrize("jump_s", [10 * 365 * 86400.0, -10 * 365 * 86400.0])
def test_jump_of_the_wall_clock_harms_no_container(
    pool: Pool, engine: Any, monkeypatch: pytest.MonkeyPatch, jump_s: float
) -> None:
    """Neither one's own, nor those of a process that lives elsewhere on the machine."""
    warm(pool)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + jump_s)
    DockerSandbox()  # reaps
    assert DockerSandbox().reap() == 0
    assert is_good(pool.run(QUICK))
    assert pool.status()["served_warm"] == 1


# --- runners ----------------------------------------------------------------------------


@contextlib.contextmanager
def runner(path: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A daemon of its own; its end is awaited."""
    config = RunnerConfig(socket=str(path), jobs=2, grace_s=2.0, pool=CONFIG, standing=LIMITS)
    code = "import sys; from sandbox.runner import main; sys.exit(main(sys.argv))"
    with log.open("ab") as file:
        process = subprocess.Popen([sys.executable, "-c", code, config.to_json()], cwd=ROOT, stderr=file)
    try:
        eventually(lambda: _answers(path) or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        yield process
    finally:
        process.terminate()
        process.wait(60)


def _answers(path: Path) -> bool:
    try:
        RunnerSandbox(path)
    except SandboxUnavailable:
        return False
    return True


def test_runner_that_is_killed_leaves_nothing_that_its_successor_does_not_reap(tmp_path: Path, engine: Any) -> None:
    path, log = tmp_path / "r.sock", tmp_path / "log"
    with runner(path, log) as first:
        running = Running(RunnerSandbox(path).run)
        eventually(lambda: len(containers(engine, first.pid)) == 2, 200)  # one runs, one waits or warms up
        first.kill()
        with pytest.raises(SandboxUnavailable, match="runner"):
            running.result()
        first.wait(10)
    with runner(path, log) as second:
        eventually(lambda: not containers(engine, first.pid))
        assert is_good(RunnerSandbox(path).run(QUICK))
    eventually(lambda: not containers(engine, second.pid))


def test_runners_leave_each_others_containers_alone(tmp_path: Path, engine: Any) -> None:
    with runner(tmp_path / "a.sock", tmp_path / "a.log") as one:
        running = Running(RunnerSandbox(tmp_path / "a.sock").run, a_job("time.sleep(20); c.emit('a', 1)"))
        with runner(tmp_path / "b.sock", tmp_path / "b.log"):
            assert is_good(RunnerSandbox(tmp_path / "b.sock").run(QUICK))
        assert is_good(running.result())
    eventually(lambda: not containers(engine, one.pid))


def test_client_that_is_killed_frees_its_sandbox(tmp_path: Path, engine: Any) -> None:
    path = tmp_path / "r.sock"
    code = (
        "import sys; from sandbox.remote import RunnerSandbox; from tests.sandbox.test_faults import LONG\n"
        f"RunnerSandbox({str(path)!r}).run(LONG, lambda *a: print('begun', flush=True))"
    )
    with runner(path, tmp_path / "log"):
        with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE) as client:
            assert client.stdout is not None
            assert client.stdout.readline() == b"begun\n"
            client.kill()
        eventually(lambda: RunnerSandbox(path).status()["counts"]["called_off"] == 1, 10)
        eventually(lambda: RunnerSandbox(path).status()["pool"]["busy"] == 0, 10)
        assert is_good(RunnerSandbox(path).run(QUICK))


def test_runner_told_to_stop_takes_its_containers_with_it(tmp_path: Path, engine: Any) -> None:
    with runner(tmp_path / "r.sock", tmp_path / "log") as process:
        running = Running(RunnerSandbox(tmp_path / "r.sock").run)
        process.send_signal(signal.SIGTERM)
        with pytest.raises(SandboxUnavailable, match="stopped"):
            running.result()
        assert process.wait(60) == 0
    assert containers(engine, process.pid) == []


# --- the Engine -------------------------------------------------------------------------


class SecondEngine:
    """A Docker Engine with its own everything, on a file system in memory whose size the test sets."""

    def __init__(self, folder: Path) -> None:
        self.address = f"unix://{folder}/docker.sock"
        self._folder, self._log = folder, folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self._data = folder / "data"
        self._data.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6g", "assay-test", self._data], check=True)
        self.start()
        self.client = docker.APIClient(base_url=self.address, version="auto", timeout=60)
        save = subprocess.Popen(["docker", "save", image_tag()], stdout=subprocess.PIPE)
        subprocess.run(["docker", "--host", self.address, "load", "-q"], stdin=save.stdout, check=True, timeout=500)
        assert save.stdout is not None
        save.stdout.close()
        assert save.wait() == 0

    def start(self) -> None:
        command = ["dockerd", "--host", self.address, "--data-root", str(self._data)]
        command += ["--exec-root", str(self._folder / "exec"), "--pidfile", str(self._folder / "pid")]
        command += ["--bridge=none", "--iptables=false", "--ip6tables=false"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        version = ["docker", "--host", self.address, "version"]
        eventually(lambda: subprocess.run(version, capture_output=True).returncode == 0, 120)

    def end(self, how: signal.Signals) -> None:
        """End it as `how` does. Killed outright, with its containerd, it leaves the containers' shims behind."""
        assert self._process is not None
        self._process.send_signal(how)
        self._process.wait(120)
        for pid in self._left("containerd.toml"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, how)
        eventually(lambda: not self._left("containerd.toml"))
        # Where nobody reaps orphans it is a zombie now, which the next dockerd would take for a living containerd.
        (self._folder / "exec/containerd/containerd.pid").unlink(missing_ok=True)

    def _left(self, text: str) -> list[int]:
        """Processes of this Engine with such a word on their command line."""
        found = []
        for name in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                line = Path("/proc", name, "cmdline").read_bytes()
                if str(self._folder).encode() in line and text.encode() in line:
                    found.append(int(name))
        return found

    def resize(self, size: str) -> None:
        """Set the size of its file system."""
        subprocess.run(["mount", "-o", f"remount,size={size}", self._data], check=True)

    def used_bytes(self) -> int:
        """What is used of it."""
        found = os.statvfs(self._data)
        return (found.f_blocks - found.f_bfree) * found.f_frsize

    def close(self) -> None:
        self.client.close()
        self.end(signal.SIGTERM)
        for pid in self._left("containerd-shim"):
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: subprocess.run(["umount", self._data], capture_output=True).returncode == 0)


@pytest.fixture(scope="module")
def second_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecondEngine]:
    second = SecondEngine(tmp_path_factory.mktemp("engine"))
    yield second
    second.close()


@pytest.fixture
def on_second(second_engine: SecondEngine, monkeypatch: pytest.MonkeyPatch) -> Iterator[SecondEngine]:
    """Sandboxes made in the test are on the second Engine; nothing of them may be left there."""
    monkeypatch.setenv("DOCKER_HOST", second_engine.address)
    yield second_engine
    eventually(lambda: not second_engine.client.containers(all=True))


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_pool_outlives_the_engine(on_second: SecondEngine, how: signal.Signals) -> None:
    """Spares die with the Engine; jobs in between are infrastructure trouble; then there are spares again."""
    with Pool(DockerSandbox(), CONFIG, LIMITS) as pool:
        warm(pool)
        on_second.end(how)
        with pytest.raises(SandboxUnavailable):
            pool.run(QUICK)
        eventually(lambda: pool.status()["engine_failures"])
        on_second.start()
        warm(pool)
        assert is_good(pool.run(QUICK))
        assert pool.status()["served_warm"] == 1


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_run_that_loses_its_engine_is_no_verdict(on_second: SecondEngine, how: signal.Signals) -> None:
    with Pool(DockerSandbox(), CONFIG, LIMITS) as pool:
        running = Running(pool.run)
        on_second.end(how)
        with pytest.raises(SandboxUnavailable):
            running.result()
        on_second.start()
        assert is_good(pool.run(QUICK))


def test_full_disk_is_no_verdict(on_second: SecondEngine) -> None:
    """Nothing can be made while the Engine's disk is full; what is warm already still serves."""
    with Pool(DockerSandbox(), CONFIG, LIMITS) as pool:
        warm(pool)
        on_second.resize(str(on_second.used_bytes()))
        try:
            pool.run(QUICK)  # in the container that waited
            with pytest.raises(SandboxUnavailable, match="space"):
                pool.run(QUICK)
        finally:
            on_second.resize("6g")
        assert is_good(pool.run(QUICK))


@pytest.mark.parametrize("how", ["refuses", "hangs up", "talks nonsense"])
def test_engine_that_does_not_answer_sensibly_is_no_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Where there was an Engine when the pool was made, and is something else now."""
    sandbox = DockerSandbox()
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/docker.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        if how != "refuses":
            listener.bind(f"{tmp_path}/docker.sock")
            listener.listen(16)
            threading.Thread(target=_answer_badly, args=(listener, how), daemon=True).start()
        with Pool(sandbox, CONFIG, LIMITS) as pool:
            with pytest.raises(SandboxUnavailable):
                pool.run(QUICK)
            with pytest.raises(SandboxUnavailable):
                sandbox.reap()
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)


def _answer_badly(listener: socket.socket, how: str) -> None:
    with contextlib.suppress(OSError):
        while True:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                if how == "talks nonsense":
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")

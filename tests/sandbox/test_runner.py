"""The runner's daemon and its client: with a sandbox made of nothing, and on a real Engine."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sandbox.gpu import Leases
from sandbox.pool import Cancel, Cancelled
from sandbox.protocol import FRAME, WIRE_MAGIC, ProtocolError, pack_frame
from sandbox.remote import VERSION, RunnerSandbox, _connect, pack_job, pack_result, unpack_done, unpack_job, unpack_step
from sandbox.runner import (
    MAXIMA,
    GpuMaker,
    Runner,
    RunnerConfig,
    RunnerError,
    Seat,
    Turns,
    clean_environment,
    open_pool,
)
from sandbox.spec import (
    Array,
    Frame,
    GpuUse,
    Job,
    JobRefused,
    Limits,
    RunResult,
    RunStatus,
    RunTiming,
    SandboxBusy,
    SandboxUnavailable,
    Step,
    StepListener,
    StepResult,
)

PATIENCE_S = 20.0
ROOT = Path(__file__).parents[2]
HELLO = pack_frame({"type": "hello", "version": VERSION, "client": "test"})


def a_job(label: str = "x", limits: Limits | None = None) -> Job:
    array = Array("<f4", (2, 1), b"\0" * 8)
    step = Step("s", "p.q:f", {"n": [1, None, "é"]}, {"x": array}, 5.0, 4.0)
    after = replace(step, name="t", unless_hung="s", sees_gpu=True, apart=True)
    return Job(b"sub\0mission", {"p.q": b"def f(c): pass\n"}, (step, after), limits or Limits(), label)


def a_result(job: Job) -> RunResult:
    frames = (Frame(b'{"a": 1}', b"\0\1"), Frame(b"", b""))
    steps = tuple(
        StepResult(step.name, RunStatus.SIGNALED, None, 9, 1.5, 0.5, 7, 3, frames, b"tail\xff", 5, ("odd",))
        for step in job.steps
    )
    timing = RunTiming(0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
    return RunResult(steps, timing, "docker", 8, "sha256:0", {"torch": "2"}, ("r",), GpuUse(0.7, 9))


def eventually(condition: Callable[[], Any]) -> Any:
    """Wait until it holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(0.005)
    return found


class FakeSandbox:
    """Runs nothing; jobs whose label is `hold…` wait for `release`."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.jobs: list[Job] = []
        self.called_off: list[str] = []
        self.release = threading.Event()
        self.closed = False
        self.error: Exception | None = None
        self._lock = threading.Lock()

    def run(self, job: Job, listener: StepListener | None = None, cancel: Cancel | None = None) -> RunResult:
        assert listener is not None and cancel is not None
        cancelled = threading.Event()
        cancel.bind(cancelled.set)
        with self._lock:
            self.ran.append(job.label)
            self.jobs.append(job)
        if self.error is not None:
            raise self.error
        listener("s", "begin")
        while job.label.startswith("hold") and not self.release.wait(0.005):
            if cancelled.is_set():
                self.called_off.append(job.label)
                raise Cancelled("called off")
        listener("s", "end")
        return a_result(job)

    def status(self) -> dict[str, Any]:
        return {"shelves": []}

    def cannot_hold(self) -> tuple[str, ...]:
        return ("anything",)

    def image_identity(self) -> str:
        return "image:1"

    def close(self) -> None:
        self.closed = True


def listens(path: Path) -> bool:
    """Whether a socket listens there: the file is there a moment before. Looked up, since a connection would count."""
    accepts = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()]
    return any(line[-1] == str(path) and line[3] == "00010000" for line in accepts if len(line) == 8)


class Served:
    """A runner in a thread of this process, and what it runs jobs in."""

    def __init__(self, path: Path, **config: Any) -> None:
        self.path, self.fake = path, FakeSandbox()
        self.config = RunnerConfig(**{"socket": str(path), "jobs": 2, "grace_s": 5.0} | config)
        self.seat = Seat(str(path))
        self.runner = Runner(self.config, self.seat, self.fake)
        self.thread = threading.Thread(target=self.runner.serve)
        self.thread.start()
        eventually(lambda: listens(path))

    def client(self) -> RunnerSandbox:
        return RunnerSandbox(self.path, "test")

    def states(self) -> list[str]:
        return sorted(one["state"] for one in self.runner.status()["connections"])

    def stop(self) -> None:
        if self.thread.is_alive():
            self.fake.release.set()
            self.runner.stop()
            self.thread.join(PATIENCE_S)
            assert not self.thread.is_alive()
            self.seat.close()
        assert self.fake.closed and not self.path.exists()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Starts runners; sees that their threads and descriptors go with them."""
    served: list[Served] = []
    threads, descriptors = threading.active_count(), len(os.listdir("/proc/self/fd"))

    def start(**config: Any) -> Served:
        served.append(Served(tmp_path / f"{len(served)}.sock", **config))
        return served[-1]

    yield start
    for one in served:
        one.stop()
    eventually(lambda: threading.active_count() == threads)
    eventually(lambda: len(os.listdir("/proc/self/fd")) == descriptors)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(32) as pool:
        yield pool


# --- what crosses the socket ------------------------------------------------------------


def test_job_and_result_cross_the_socket_unchanged(serve: Callable[..., Served]) -> None:
    served, job, events = serve(), a_job("a-label", Limits(wall_time_s=33.0)), []
    result = served.client().run(job, lambda *event: events.append(event))
    assert served.fake.jobs == [job]
    assert result == a_result(job)
    assert events == [("s", "begin"), ("s", "end")]


def test_client_has_what_the_protocol_of_sandboxes_asks(serve: Callable[..., Served]) -> None:
    client = serve().client()
    assert (client.name, client.image_identity(), client.cannot_hold()) == ("docker", "image:1", ("anything",))


def test_errors_keep_their_kind(serve: Callable[..., Served]) -> None:
    served = serve()
    for error in (SandboxUnavailable("no Engine"), SandboxBusy("no GPU")):
        served.fake.error = error
        with pytest.raises(type(error), match=str(error)):
            served.client().run(a_job())


@pytest.mark.parametrize("name", sorted(Limits.__dataclass_fields__))
def test_limit_over_the_maximum_is_refused_by_name(name: str) -> None:
    most = getattr(MAXIMA, name)
    header, payload = pack_job(a_job(limits=replace(Limits(), **{name: most * 2})))
    with pytest.raises(JobRefused, match=f"limits.{name} .*ASSAY_RUNNER_MAX_{name.upper()}"):
        unpack_job(header, payload, MAXIMA, 10)
    header, payload = pack_job(a_job(limits=replace(Limits(), **{name: most})))
    assert getattr(unpack_job(header, payload, MAXIMA, 10).limits, name) == most


def test_refusals_reach_the_client(serve: Callable[..., Served]) -> None:
    served = serve(max_steps=1)
    with pytest.raises(JobRefused, match="ASSAY_RUNNER_MAX_STEPS"):
        served.client().run(a_job())
    with pytest.raises(JobRefused, match="memory_bytes"):
        served.client().run(a_job(limits=Limits(memory_bytes=1 << 50)))
    assert served.fake.ran == []


def test_job_too_large_to_read_is_refused(serve: Callable[..., Served]) -> None:
    served = serve(max_job_bytes=1 << 20)
    with pytest.raises(SandboxUnavailable, match="over the bounds"):
        served.client().run(replace(a_job(), submission=bytes(8 << 20)))
    assert served.client().run(a_job()).steps


def test_every_field_of_a_job_arrives() -> None:
    """Also those that somebody adds later: each differs from its default somewhere in the job."""
    job = a_job("label")
    header, payload = pack_job(job)
    assert unpack_job(json.loads(json.dumps(header)), payload, MAXIMA, 10) == job
    plain = Step("s", "p.q:f")
    for item in dataclasses.fields(Step):
        assert item.name in ("name", "entry") or any(
            getattr(step, item.name) != getattr(plain, item.name) for step in job.steps
        ), item.name


def _mangled(change: Callable[[dict[str, Any]], object]) -> bytes:
    header, payload = pack_job(a_job())
    mangled = json.loads(json.dumps(header))
    change(mangled)
    return (
        HELLO + FRAME.pack(WIRE_MAGIC, len(json.dumps(mangled)), len(payload)) + json.dumps(mangled).encode() + payload
    )


HOSTILE: dict[str, bytes] = {
    "garbage": b"GET / HTTP/1.1\r\n\r\n" * 10,
    "no hello": pack_frame({"type": "job"}) * 2,
    "another version": pack_frame({"type": "hello", "version": 99}) + pack_frame({"type": "status"}),
    "unknown request": HELLO + pack_frame({"type": "exec", "image": "debian"}),
    "huge header": HELLO + FRAME.pack(WIRE_MAGIC, 1 << 31, 0),
    "huge payload": HELLO + FRAME.pack(WIRE_MAGIC, 2, 1 << 62) + b"{}",
    "no JSON": HELLO + FRAME.pack(WIRE_MAGIC, 3, 0) + b"{{{",
    "deep JSON": HELLO + FRAME.pack(WIRE_MAGIC, 200_000, 0) + b"[" * 200_000,
    "a list": HELLO + FRAME.pack(WIRE_MAGIC, 2, 0) + b"[]",
    "an image": _mangled(lambda h: h["limits"].update(image="debian")),
    "no limits": _mangled(lambda h: h.update(limits=None)),
    "negative limit": _mangled(lambda h: h["limits"].update(memory_bytes=-1)),
    "no limit on processes": _mangled(lambda h: h["limits"].update(pids=0)),
    "infinite limit": _mangled(lambda h: h["limits"].update(wall_time_s=float("inf"))),
    "limit that is no number": _mangled(lambda h: h["limits"].update(pids=True)),
    "label with a slash": _mangled(lambda h: h.update(label="../x")),
    "module with a slash": _mangled(lambda h: h["modules"][0].update(name="../x")),
    "steps that are none": _mangled(lambda h: h.update(steps=[1])),
    "negative size": _mangled(lambda h: h["modules"][0].update(size=-1)),
    "size beyond the payload": _mangled(lambda h: h.update(submission_bytes=1 << 40)),
    "payload left over": _mangled(lambda h: h.update(submission_bytes=0)),
    "shape of texts": _mangled(lambda h: h["steps"][0]["arrays"][0].update(shape=["2"])),
    "time that is no number": _mangled(lambda h: h["steps"][0].update(wall_time_s="1")),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bytes_are_answered_or_cut_off_and_harm_nobody(serve: Callable[..., Served], name: str) -> None:
    served = serve(read_time_s=PATIENCE_S)
    with socket.socket(socket.AF_UNIX) as one:
        one.settimeout(PATIENCE_S)
        one.connect(str(served.path))
        with contextlib.suppress(OSError):
            one.sendall(HOSTILE[name])
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while data := one.recv(1 << 16):
                answer += data
        assert b'"kind": "refused"' in answer
    assert served.fake.ran == []
    assert served.client().run(a_job("next")).steps
    assert served.fake.ran == ["next"]


def test_slow_client_is_cut_off_while_others_are_served(serve: Callable[..., Served]) -> None:
    served = serve(read_time_s=0.5)
    with socket.socket(socket.AF_UNIX) as slow:
        slow.settimeout(PATIENCE_S)
        slow.connect(str(served.path))
        slow.sendall(HELLO[:5])
        assert served.client().run(a_job()).steps
        began = time.monotonic()
        with contextlib.suppress(OSError):
            while time.monotonic() - began < PATIENCE_S:
                slow.sendall(b"\0")
                time.sleep(0.1)
        assert time.monotonic() - began < 10


def test_client_that_does_not_read_its_result_is_cut_off(serve: Callable[..., Served]) -> None:
    served = serve(send_time_s=0.3)
    header, payload = pack_job(a_job())
    big = tuple(replace(step, output_tail=bytes(4 << 20)) for step in a_result(a_job()).steps)
    served.fake.run = lambda *args: replace(a_result(a_job()), steps=big)  # type: ignore[method-assign]
    with socket.socket(socket.AF_UNIX) as one:
        one.connect(str(served.path))
        one.sendall(HELLO + FRAME.pack(WIRE_MAGIC, len(json.dumps(header)), len(payload)) + json.dumps(header).encode())
        one.sendall(payload)
        eventually(lambda: served.runner.status()["counts"]["cut_off"])
    assert served.states() == []


def test_results_that_do_not_fit_the_protocol_are_noticed() -> None:
    *steps, (done, _) = pack_result(a_result(a_job()))
    header, payload = steps[0]
    assert unpack_done(done, tuple(unpack_step(*step) for step in steps)) == a_result(a_job())
    for change in (
        {"status": "fine"},
        {"frames": [[1]]},
        {"frames": [[1 << 40, 0]]},
        {"tail_bytes": -1},
        {"signal": "9"},
    ):
        with pytest.raises(ProtocolError):
            unpack_step({**header, **change}, payload)
    with pytest.raises(ProtocolError):
        unpack_done({**done, "timing": {}}, ())


# --- whose turn it is -------------------------------------------------------------------


def test_client_that_floods_delays_only_itself() -> None:
    """Sixty jobs of one peer, then one of another: that one is next, not sixty-first."""
    turns, order, go = Turns(1, 1000, 1000), [], threading.Event()

    def take(peer: int) -> None:
        with turns.one((0, peer), Cancel(), PATIENCE_S):
            go.wait(PATIENCE_S)
            order.append(peer)

    with ThreadPoolExecutor(64) as threads:
        flood = [threads.submit(take, 1) for _ in range(60)]
        eventually(lambda: turns.counts() == {"running": 1, "waiting": 59})
        modest = threads.submit(take, 2)
        eventually(lambda: turns.counts()["waiting"] == 60)
        go.set()
        for future in (*flood, modest):
            future.result(PATIENCE_S)
    assert order.index(2) <= 2
    assert turns.counts() == {"running": 0, "waiting": 0}


def test_peer_with_the_fewest_running_comes_first() -> None:
    """One peer has both places and waits for more; a place that comes free goes to the other peer."""
    turns, order, done = Turns(2, 10, 10), [], threading.Event()

    def take(peer: int) -> None:
        with turns.one((0, peer), Cancel(), PATIENCE_S):
            order.append(peer)
            done.wait(PATIENCE_S)

    with turns.one((0, 1), Cancel(), PATIENCE_S), ThreadPoolExecutor(2) as threads:
        with turns.one((0, 1), Cancel(), PATIENCE_S):
            futures = []
            for peer in (1, 2):
                futures.append(threads.submit(take, peer))
                eventually(lambda: turns.counts()["waiting"] == len(futures))
        eventually(lambda: order)
        assert order == [2]
        done.set()
        for future in futures:
            future.result(PATIENCE_S)


def test_full_queue_says_what_to_do(serve: Callable[..., Served], threads: ThreadPoolExecutor) -> None:
    served = serve(jobs=1, queue=2, queue_per_peer=2)
    client = served.client()
    futures = [threads.submit(client.run, a_job(f"hold{n}")) for n in range(3)]
    eventually(lambda: served.states() == ["running", "waiting", "waiting"])
    with pytest.raises(SandboxBusy, match="ASSAY_RUNNER_QUEUE"):
        client.run(a_job())
    served.fake.release.set()
    assert all(future.result(PATIENCE_S).steps for future in futures)


def test_turn_that_does_not_come_is_refused(serve: Callable[..., Served], threads: ThreadPoolExecutor) -> None:
    served = serve(jobs=1, queue_time_s=0.2)
    first = threads.submit(served.client().run, a_job("hold"))
    eventually(lambda: served.states() == ["running"])
    with pytest.raises(SandboxBusy, match="no turn"):
        served.client().run(a_job())
    served.fake.release.set()
    first.result(PATIENCE_S)


def test_connections_of_one_peer_leave_room_for_others(serve: Callable[..., Served]) -> None:
    """A process that opens two hundred connections is told so; another process is served meanwhile."""
    served = serve(clients=20, clients_per_peer=10, read_time_s=PATIENCE_S)
    descriptors = len(os.listdir("/proc/self/fd"))
    with contextlib.ExitStack() as held:
        for _ in range(200):
            one = held.enter_context(socket.socket(socket.AF_UNIX))
            one.settimeout(PATIENCE_S)
            _connect(one, str(served.path))
        eventually(lambda: served.runner.status()["counts"]["refused"] >= 190)
        eventually(lambda: len(os.listdir("/proc/self/fd")) - descriptors <= 200 + 10 + 2)  # closed a moment after
        with pytest.raises(SandboxBusy, match="ASSAY_RUNNER_CLIENTS"):
            served.client()
        code = f"from sandbox.remote import RunnerSandbox; print(RunnerSandbox({str(served.path)!r}).status()['pid'])"
        out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True, timeout=60)
        assert int(out.stdout) == os.getpid()


@pytest.mark.parametrize("wait_s", [0.0, 0.05])
def test_who_is_refused_before_a_word_was_read_still_reads_why(tmp_path: Path, wait_s: float) -> None:
    """Whether the runner hangs up before the client speaks or while it does."""
    path = tmp_path / "s"
    refusal = pack_frame({"type": "error", "kind": "busy", "message": "no room"})

    def refuse(server: socket.socket) -> None:
        one, _ = server.accept()
        one.sendall(refusal)
        one.close()

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        server.settimeout(PATIENCE_S)
        thread = threading.Thread(target=refuse, args=(server,))
        thread.start()
        with pytest.MonkeyPatch.context() as patch:
            greet = RunnerSandbox._greet
            patch.setattr(RunnerSandbox, "_greet", lambda *args: time.sleep(wait_s) or greet(*args))
            with pytest.raises(SandboxBusy, match="no room"):
                RunnerSandbox(path)
        thread.join()


# --- ends -------------------------------------------------------------------------------


def _open(served: Served, label: str) -> socket.socket:
    """A client that has sent its job and never reads."""
    one = socket.socket(socket.AF_UNIX)
    one.connect(str(served.path))
    header, payload = pack_job(a_job(label))
    text = json.dumps(header).encode()
    one.sendall(HELLO + FRAME.pack(WIRE_MAGIC, len(text), len(payload)) + text + payload)
    return one


def test_client_that_dies_frees_its_place_and_its_queue(
    serve: Callable[..., Served], threads: ThreadPoolExecutor
) -> None:
    served = serve(jobs=1)
    clients = []
    for n, states in enumerate((["running"], ["running", "waiting"], ["running", "waiting", "waiting"])):
        clients.append(_open(served, f"hold{n}"))
        eventually(lambda states=states: served.states() == states)
    clients[1].close()
    eventually(lambda: served.states() == ["running", "waiting"])
    clients[0].close()
    eventually(lambda: served.fake.called_off == ["hold0"])
    eventually(lambda: served.fake.ran == ["hold0", "hold2"])
    clients[2].close()
    eventually(lambda: served.states() == [])
    assert served.client().run(a_job()).steps


def test_client_that_talks_on_is_cut_off(serve: Callable[..., Served]) -> None:
    served = serve()
    with _open(served, "hold") as one:
        eventually(lambda: served.states() == ["running"])
        one.sendall(b"more")
        eventually(lambda: served.fake.called_off == ["hold"])


def test_long_runs_keep_the_client_waiting(
    serve: Callable[..., Served], threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The runner says that it is alive; a client gives one up only when it hears nothing."""
    monkeypatch.setattr("sandbox.runner.ALIVE_S", 0.1)
    monkeypatch.setattr("sandbox.runner._POLL_S", 0.1)
    monkeypatch.setattr("sandbox.remote.SILENCE_S", 1.0)
    served = serve()
    future = threads.submit(served.client().run, a_job("hold"))
    time.sleep(2.5)
    assert not future.done()
    monkeypatch.setattr("sandbox.runner.ALIVE_S", 1e9)
    with pytest.raises(SandboxUnavailable, match=r"in time|timed out"):
        future.result(PATIENCE_S)
    eventually(lambda: served.fake.called_off == ["hold"])


def test_stop_lets_finish_what_runs_and_refuses_what_waits(
    serve: Callable[..., Served], threads: ThreadPoolExecutor
) -> None:
    served = serve(jobs=1, grace_s=PATIENCE_S)
    running = threads.submit(served.client().run, a_job("hold1"))
    eventually(lambda: served.states() == ["running"])
    waiting = threads.submit(served.client().run, a_job("hold2"))
    eventually(lambda: served.states() == ["running", "waiting"])
    client = served.client()
    served.runner.stop()
    with pytest.raises(SandboxUnavailable, match="stopping"):
        waiting.result(PATIENCE_S)
    with pytest.raises(SandboxUnavailable, match="assay runner"):
        client.run(a_job())
    served.fake.release.set()
    assert running.result(PATIENCE_S).steps
    served.thread.join(PATIENCE_S)
    served.seat.close()


@pytest.mark.parametrize("how", ["grace is over", "asked twice"])
def test_stop_cuts_off_what_does_not_finish(
    serve: Callable[..., Served], threads: ThreadPoolExecutor, how: str
) -> None:
    served = serve(grace_s=0.1 if how == "grace is over" else 1000.0)
    future: Future[RunResult] = threads.submit(served.client().run, a_job("hold"))
    eventually(lambda: served.states() == ["running"])
    served.runner.stop()
    if how == "asked twice":
        served.runner.stop()
    with pytest.raises(SandboxUnavailable, match="stopped before"):
        future.result(PATIENCE_S)
    served.thread.join(PATIENCE_S)
    served.seat.close()


# --- GPUs -------------------------------------------------------------------------------


class FakeGpuContainer:
    """A container that is destroyed when the test says so."""

    def __init__(self, gpu: str) -> None:
        self.gpu, self.gone = gpu, False
        self.callbacks: list[Callable[[], None]] = []

    def when_destroyed(self, callback: Callable[[], None]) -> None:
        self.callbacks.append(callback)

    def destroy(self, *, gone: bool = True) -> None:
        self.gone = gone
        for callback in self.callbacks:
            callback()


class FakeGpuSandbox(FakeSandbox):
    """The sandbox of one device."""

    def __init__(self, gpu: str) -> None:
        super().__init__()
        self.gpu = gpu

    def create(self, *args: Any, **kwargs: Any) -> FakeGpuContainer:
        if self.error is not None:
            raise self.error
        return FakeGpuContainer(self.gpu)

    def reap(self) -> int:
        return 1


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> GpuMaker:
    monkeypatch.setattr("sandbox.runner._LEASE_S", 0.05)
    names = ("GPU-1", "GPU-2")
    return GpuMaker({name: FakeGpuSandbox(name) for name in names}, Leases(names))


def test_container_holds_its_device_from_creation_to_removal(gpus: GpuMaker) -> None:
    first, second = gpus.create(Limits()), gpus.create(Limits())
    assert {first.gpu, second.gpu} == {"GPU-1", "GPU-2"}
    with pytest.raises(SandboxBusy, match="no GPU"):
        gpus.create(Limits())
    second.destroy()
    assert gpus.create(Limits()).gpu == second.gpu
    assert gpus.reap() == 2 and gpus.image_identity() == "image:1 gpu"


def test_device_of_a_container_that_does_not_go_is_used_no_more(gpus: GpuMaker) -> None:
    first, second = gpus.create(Limits()), gpus.create(Limits())
    first.destroy(gone=False)
    second.destroy()
    assert gpus.create(Limits()).gpu == second.gpu
    assert any(first.gpu in line for line in gpus.cannot_hold())


def test_device_of_a_container_that_was_never_made_is_free(gpus: GpuMaker) -> None:
    for sandbox in gpus._sandboxes.values():
        sandbox.error = SandboxUnavailable("no Engine")
    for _ in range(5):
        with pytest.raises(SandboxUnavailable, match="no Engine"):
            gpus.create(Limits())


# --- the seat ---------------------------------------------------------------------------


def test_second_runner_on_the_same_socket_is_refused(serve: Callable[..., Served]) -> None:
    served = serve()
    with pytest.raises(RunnerError, match="another runner"):
        Seat(str(served.path))
    assert served.client().run(a_job()).steps


def test_stale_socket_is_replaced_and_anything_else_is_not(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    seat = Seat(str(path))
    with seat.listen():
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert not path.exists()
    path.write_text("precious")
    with pytest.raises(RunnerError, match="no socket"), seat.listen():
        pass
    assert path.read_text() == "precious"
    seat.close()


def test_group_that_is_not_there_is_said(tmp_path: Path) -> None:
    seat = Seat(str(tmp_path / "a.sock"), "no-such-group")
    with pytest.raises(RunnerError, match="no group"), seat.listen():
        pass
    seat.close()


def test_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(RunnerError, match="make its folder"):
        Seat(str(tmp_path / "none" / "a.sock"))


def test_seat_is_known_again_by_a_successor(tmp_path: Path) -> None:
    names = []
    for _ in range(2):
        seat = Seat(str(tmp_path / "a.sock"))
        names.append(seat.name)
        seat.close()
    assert names[0] == names[1]


def test_no_runner_says_how_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(SandboxUnavailable, match="assay runner"):
        RunnerSandbox(tmp_path / "none.sock")


def test_config_survives_the_command_line() -> None:
    config = RunnerConfig(gpus=("GPU-1", "GPU-2"), jobs=7, standing=Limits(pids=9))
    assert RunnerConfig.from_json(config.to_json()) == config


def test_no_secret_reaches_the_daemon() -> None:
    environment = {
        "PATH": "/bin",
        "ASSAY_DATABASE_URL": "x",
        "REDIS_URL": "x",
        "DOCKER_HOST": "unix:///x",
        "AWS_KEY": "x",
    }
    assert clean_environment(environment) == {"PATH": "/bin", "DOCKER_HOST": "unix:///x"}


def test_daemon_imports_nothing_that_grades_or_serves() -> None:
    code = (
        "import sys; from sandbox.runner import main; import sandbox.docker, sandbox.pool\n"
        "print([n for n in sys.modules if n.split('.')[0] in "
        "('grading', 'services', 'challenges', 'redis', 'sqlalchemy', 'celery', 'flask', 'torch', 'pickle')])"
    )
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert out.stdout.strip() in ("[]", "['pickle']")  # a dependency of the Engine's client imports it


def test_credentials_are_the_kernels(serve: Callable[..., Served]) -> None:
    served = serve()
    with _open(served, "hold"):
        eventually(lambda: served.states() == ["running"])
        (account,) = served.runner.status()["connections"]
    assert (account["pid"], account["uid"], account["client"]) == (os.getpid(), os.getuid(), "test")
    assert struct.calcsize("3i") == 12


@pytest.mark.docker
def test_runner_refuses_to_serve_where_a_required_check_fails() -> None:
    """Its musts are looked at in a real container before the first job; plain runc is no gVisor."""
    with pytest.raises(SandboxUnavailable, match=r"must not run strangers' code.*\n.*gvisor"):
        open_pool(RunnerConfig(required=("gvisor",)), "test")

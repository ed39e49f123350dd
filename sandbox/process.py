"""The development sandbox: the same agent as a plain process. Never for strangers' code.

It exists so that challenges can be written and tested where no Docker Engine is. It keeps
the promises about steps (a fresh process each, measured and bounded from outside, all its
processes gone before the next) and none about the machine around them: see `cannot_hold`.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sandbox.protocol import AgentLost, Conversation, Done, ProtocolError, Ready, check_job
from sandbox.spec import Job, RunResult, RunStatus, RunTiming, SandboxUnavailable, StepListener

AGENT = Path(__file__).parent / "image" / "agent.py"
DIAGNOSTIC_BYTES = 4000


class PipeChannel:
    """The agent's stdin and stdout as pipes."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        if process.stdin is None or process.stdout is None:
            raise ValueError("the agent's process has no pipes")
        self._write_fd, self._read_fd = process.stdin.fileno(), process.stdout.fileno()
        os.set_blocking(self._write_fd, False)

    def send(self, data: bytes, deadline: float) -> None:
        """Write all of `data`. Raises TimeoutError, AgentLost."""
        rest = memoryview(data)
        while rest:
            self._await(self._write_fd, select.POLLOUT, deadline)
            try:
                rest = rest[os.write(self._write_fd, rest) :]
            except BlockingIOError:
                continue
            except BrokenPipeError as error:
                raise AgentLost("the agent left before it had the job") from error

    def receive(self, deadline: float) -> bytes:
        """Some bytes, b"" at the end of the stream. Raises TimeoutError."""
        self._await(self._read_fd, select.POLLIN, deadline)
        return os.read(self._read_fd, 1 << 20)

    def _await(self, fd: int, event: int, deadline: float) -> None:
        poller = select.poll()
        poller.register(fd, event)
        left_s = deadline - time.monotonic()
        if left_s <= 0 or not poller.poll(left_s * 1000):
            raise TimeoutError("the agent did not answer in time")


class ProcessSandbox:
    """Runs jobs in plain processes of this machine. See `spec.Sandbox`."""

    name = "process"

    def run(self, job: Job, listener: StepListener | None = None) -> RunResult:
        """Run every step of `job` in order, each in a fresh process.

        Raises SandboxUnavailable where the agent did not start, died or broke the
        protocol, and ValueError where the job is not well formed.
        """
        check_job(job)
        begun = time.monotonic()
        base = tempfile.mkdtemp(prefix="assay-")
        try:
            with tempfile.TemporaryFile() as diagnostics:
                process = self._start(job, base, diagnostics.fileno())
                try:
                    return self._speak(job, listener, process, base, begun)
                except (ProtocolError, OSError) as error:
                    diagnostics.seek(0)
                    text = diagnostics.read(DIAGNOSTIC_BYTES).decode(errors="replace").strip()
                    raise SandboxUnavailable(f"the agent's process failed: {error}. {text}") from error
                finally:
                    _end(process, base)
        finally:
            shutil.rmtree(base, ignore_errors=True)

    def cannot_hold(self) -> tuple[str, ...]:
        """What a plain process cannot promise."""
        return (
            "network: steps reach whatever this machine reaches",
            "file system reads: steps read all that this user may read",
            "file system writes: steps write all that this user may write, and it stays",
            "user separation: steps run as this user and may signal, trace or kill its processes, the agent among them",
            "system calls: no seccomp filter, no dropped capabilities",
            "memory_bytes: only a step's first process is watched, every 20 ms, and may overshoot",
            "cpu_count: only torch's threads are set, nothing enforces it",
            "pids: the number of processes is not bounded",
            "tmp_bytes, tmp_inodes, shm_bytes: the disk and /dev/shm are this machine's",
            "leftovers in shared memory, message queues and directories outside the job's own",
        )

    def _start(self, job: Job, base: str, diagnostics_fd: int) -> subprocess.Popen[bytes]:
        # -I keeps this project's modules and the caller's PYTHON* variables out.
        command = [sys.executable, "-I", "-B", str(AGENT)]
        try:
            return subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=diagnostics_fd,
                cwd=base,
                env=_environment(job, base),
                start_new_session=True,
            )
        except OSError as error:
            raise SandboxUnavailable(f"cannot start {sys.executable}: {error}") from error

    def _speak(
        self,
        job: Job,
        listener: StepListener | None,
        process: subprocess.Popen[bytes],
        base: str,
        begun: float,
    ) -> RunResult:
        conversation = Conversation(PipeChannel(process))
        ready = conversation.await_ready(time.monotonic() + job.limits.start_time_s)
        start_s = time.monotonic() - begun - ready.warm_up_s
        remarks: tuple[str, ...] = ()
        done = Done()
        try:
            done = conversation.run(job, listener, polled_memory_bytes=job.limits.memory_bytes)
        except TimeoutError:
            if not conversation.step_is_running:
                raise
            remarks = ("the agent did not answer within the job's wall time",)
        steps = conversation.results(job, RunStatus.TIME_LIMIT)
        teardown_begun = time.monotonic()
        _end(process, base)
        timing = _timing(ready, done, start_s, time.monotonic() - teardown_begun)
        return RunResult(steps, timing, self.name, done.peak_memory_bytes, "", ready.versions, remarks)


def _timing(ready: Ready, done: Done, start_s: float, teardown_s: float) -> RunTiming:
    return RunTiming(max(0.0, start_s), ready.warm_up_s, done.steps_s, teardown_s, done.cpu_s, ready.warm_up_cpu_s)


def thread_environment(cpu_count: float) -> dict[str, str]:
    """The variables that keep torch's threads to the quota: more would only wait for it."""
    threads = str(max(1, int(cpu_count)))
    names = (
        "ASSAY_THREADS",
        "OMP_NUM_THREADS",
        "MKL_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "NUMEXPR_NUM_THREADS",
    )
    return dict.fromkeys(names, threads)


def _environment(job: Job, base: str) -> dict[str, str]:
    fixed = {
        "PATH": "/usr/bin:/bin",
        "HOME": base,
        "TMPDIR": base,
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "ASSAY_BASE": base,
    }
    return fixed | thread_environment(job.limits.cpu_count)


def _end(process: subprocess.Popen[bytes], base: str) -> None:
    """Kill the agent and every process of the job that it left, reap it, close the pipes."""
    if process.poll() is None:  # unreaped, so its pid is still its own
        process.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=10)
    _kill_strays(base)
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


def _kill_strays(base: str) -> None:
    """Kill what an agent that died left behind: the processes that were started with the job's HOME."""
    home = f"HOME={base}".encode()
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if home in Path("/proc", name, "environ").read_bytes().split(b"\0"):
                os.kill(int(name), signal.SIGKILL)

"""A quick sandbox for an author's own programs: one warm interpreter, one forked agent for each job.

Theory of operation: a *nursery* process imports torch once, then waits on a socket. For
each job it is sent three descriptors and forks; the child makes them its stdin, stdout and
stderr and goes on as a normal agent, so everything from there on is `ProcessSandbox`. A
job costs milliseconds to start instead of seconds.

That one interpreter serves many jobs is exactly what the Docker sandbox forbids itself:
this one is for verifying challenges and for tests of the grader, where every program is
the author's. Never for strangers' code.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from sandbox.process import AGENT, ProcessSandbox
from sandbox.process import _environment as environment
from sandbox.spec import Job, SandboxUnavailable

START_S = 120.0


class _Forked:
    """As much of `subprocess.Popen` as ProcessSandbox needs, for a grandchild."""

    def __init__(self, pid: int, stdin_fd: int, stdout_fd: int) -> None:
        self.pid = pid
        self.stdin = os.fdopen(stdin_fd, "wb", buffering=0)
        self.stdout = os.fdopen(stdout_fd, "rb", buffering=0)

    def poll(self) -> int | None:
        """None while the process runs; the nursery reaps it."""
        try:
            state = Path(f"/proc/{self.pid}/stat").read_text("ascii", "replace").rsplit(")", 1)[1].split()[0]
        except OSError:
            return 0
        return 0 if state == "Z" else None

    def kill(self) -> None:
        """Kill it and the step that it may have under way."""
        for pid in [*_children(self.pid), self.pid]:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)

    def wait(self, timeout: float) -> int:
        """Wait until it is gone."""
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("agent", timeout)
            time.sleep(0.002)  # no pidfd for a process that another one reaps
        return 0


def _children(pid: int) -> list[int]:
    try:
        found = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()]
    except (OSError, ValueError):
        return []
    return [pid for child in found for pid in (*_children(child), child)]


class RehearsalSandbox(ProcessSandbox):
    """Runs an author's programs one after another, or several at once, from one warm interpreter."""

    name = "rehearsal"

    def __init__(self) -> None:
        self._lock = threading.Lock()
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        root = str(Path(__file__).resolve().parent.parent)
        command = [sys.executable, "-B", "-c", _BOOT, root, str(there.fileno())]
        env = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        env |= environment(Job(b"", {}, ()), "/tmp")
        self._nursery = subprocess.Popen(command, pass_fds=[there.fileno()], env=env, stdin=subprocess.DEVNULL)
        there.close()
        self._socket = here
        here.settimeout(START_S)
        try:
            if here.recv(100) != b"warm":
                raise SandboxUnavailable("the nursery process did not warm up")
        except OSError as error:
            raise SandboxUnavailable(f"the nursery process did not warm up: {error}") from error

    def close(self) -> None:
        """End the nursery."""
        self._socket.close()
        self._nursery.kill()
        self._nursery.wait()

    def __enter__(self) -> RehearsalSandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def cannot_hold(self) -> tuple[str, ...]:
        """Everything that a plain process cannot, and a fresh interpreter for each submission."""
        return ("a fresh interpreter: submissions share one warm parent", *super().cannot_hold())

    def _start(self, job: Job, base: str, diagnostics_fd: int) -> subprocess.Popen[bytes]:
        stdin_read, stdin_write = os.pipe()
        stdout_read, stdout_write = os.pipe()
        fds = array.array("i", [stdin_read, stdout_write, diagnostics_fd])
        message = json.dumps({"base": base, "env": environment(job, base)}).encode()
        with self._lock:
            try:
                self._socket.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
                pid = int(self._socket.recv(100))
            except (OSError, ValueError) as error:
                raise SandboxUnavailable(f"the nursery process is gone: {error}") from error
            finally:
                os.close(stdin_read)
                os.close(stdout_write)
        return _Forked(pid, stdin_write, stdout_read)  # type: ignore[return-value]  # the part that is used


_BOOT = "import sys; sys.path.insert(0, sys.argv[1]); from sandbox.rehearsal import nursery; nursery(int(sys.argv[2]))"


def nursery(fd: int) -> None:
    """Warm up, then fork an agent for each message; ends when the socket closes."""
    import importlib.util

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    spec = importlib.util.spec_from_file_location("assay_agent", AGENT)
    assert spec is not None and spec.loader is not None
    agent = importlib.util.module_from_spec(spec)
    sys.modules["assay_agent"] = agent
    spec.loader.exec_module(agent)
    agent.warm_up()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps the agents
    sock = socket.socket(fileno=fd)
    sock.send(b"warm")
    while True:
        message, fds, _, _ = socket.recv_fds(sock, 1 << 16, 3)
        if not message:
            return
        order = json.loads(message)
        pid = os.fork()
        if pid == 0:
            _become_agent(agent, sock, order, fds)
        for received in fds:
            os.close(received)
        sock.send(str(pid).encode())


def _become_agent(agent: object, sock: socket.socket, order: dict[str, object], fds: list[int]) -> None:
    code = 1
    try:
        sock.close()
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        for target, received in enumerate(fds):
            os.dup2(received, target)
        with contextlib.suppress(OSError):
            os.closerange(3, 256)
        os.environ.clear()
        os.environ.update(order["env"])  # type: ignore[call-overload]
        os.chdir(str(order["base"]))
        # The agent hides the interpreter's own path and modules from the submission; what the
        # nursery needed besides goes the same way.
        sys.path.pop(0)
        for name in [n for n in sys.modules if n == "sandbox" or n.startswith("sandbox.")]:
            del sys.modules[name]
        code = agent.main()  # type: ignore[attr-defined]
    finally:
        sys.stderr.flush()
        os._exit(code)

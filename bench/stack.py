"""The real parts of the service on this machine, each of which can be killed, paused and started again.

For `bench/chaos.py` and the end-to-end tests: PostgreSQL on a unix socket, Redis on loopback, a Docker
Engine of its own where asked for, and Assay's own processes. Everything dies with this process.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from services.worker.embedded import redis_executable
from services.worker.supervisor import Program, start

ROOT = Path(__file__).resolve().parent.parent
BUILT_IMAGE_WAIT_S = 120.0


class NotHere(Exception):
    """A part that this machine lacks; says what to install."""


class Part:
    """One process with its log; leads a process group of its own.

    Args:
        ready: asked until it says so; raises nothing.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        log: Path,
        environment: Mapping[str, str] | None = None,
        ready: Callable[[], bool] = lambda: True,
    ) -> None:
        self.name, self.log = name, log
        # The shell only opens the log: exec leaves the process where it was.
        words = ("/bin/sh", "-c", f'exec "$@" >>"{log}" 2>&1', "sh", *argv)
        self._program = Program(name, words, 0, environment or {})
        self._ready = ready
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it without waiting for it."""
        self.process = start(self._program)

    def await_ready(self, within_s: float = 60.0) -> None:
        """Wait until it answers. Raises TimeoutError with the end of its log."""
        deadline = time.monotonic() + within_s
        while not self._ready():
            if time.monotonic() > deadline or not self.runs:
                raise TimeoutError(f"{self.name} did not come up: {self.tail()}")
            time.sleep(0.05)

    @property
    def runs(self) -> bool:
        """Whether the process lives."""
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        """Of the process that was started last."""
        assert self.process is not None
        return self.process.pid

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the whole group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self.signal(signal.SIGKILL)
        assert self.process is not None
        self.process.wait()

    def pause(self) -> None:
        """Freeze it: it is there and does not answer."""
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self.signal(signal.SIGCONT)

    def stop(self, within_s: float = 30.0) -> int | None:
        """SIGTERM to the process itself, then SIGKILL; the exit code."""
        if self.process is None:
            return None
        if self.runs:
            self.resume()
            self._ask_to_end()
            try:
                self.process.wait(within_s)
            except subprocess.TimeoutExpired:
                self.kill()
        return self.process.returncode

    def _ask_to_end(self) -> None:
        assert self.process is not None
        self.process.terminate()

    def tail(self, characters: int = 2000) -> str:
        """The end of its log."""
        with contextlib.suppress(OSError):
            return self.log.read_text("utf-8", "replace")[-characters:]
        return ""


class Inside(Part):
    """The same in namespaces of its own: its words begin with `nsenter`, which passes no signal on."""

    def _ask_to_end(self) -> None:
        for pid in children(self.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)


class Postgres(Part):
    """A cluster of its own, on a unix socket, and at `address` for whoever reaches it. Raises NotHere."""

    def __init__(self, folder: Path, address: str = "") -> None:
        self._folder, self._data = folder, folder / "data"
        self._address, self._port = address, free_port() if address else 5432
        self._binaries = _postgres_binaries()
        self._prefix, self._user = _unprivileged()
        folder.mkdir(parents=True)
        log = folder / "log"
        log.touch()
        if self._user is not None:
            for path in (folder, log):
                os.chown(path, self._user.pw_uid, self._user.pw_gid)
        argv = [
            *self._prefix,
            str(self._binaries / "postgres"),
            *("-D", str(self._data), "-k", str(folder), "-c", f"listen_addresses={address}"),
            *("-c", f"port={self._port}", "-c", "shared_buffers=32MB"),
        ]
        super().__init__("postgres", argv, log, ready=self._answers)
        initdb = (str(self._binaries / "initdb"), "-D", str(self._data), "-U", "assay", "--auth=trust", "-E", "UTF8")
        _quietly([*self._prefix, *initdb, "--no-sync"])
        if address:
            with (self._data / "pg_hba.conf").open("a") as rules:
                rules.write(f"host all assay {address}/24 trust\n")

    @property
    def url(self) -> str:
        """The database's address, as the operator would give it."""
        if self._address:
            return f"postgresql://assay@{self._address}:{self._port}/assay"
        return f"postgresql://assay@/assay?host={self._folder}"

    @property
    def _reach(self) -> list[str]:
        return ["-h", str(self._folder), "-p", str(self._port), "-U", "assay"]

    def create_database(self) -> None:
        """Once, after the first start."""
        _quietly([str(self._binaries / "createdb"), *self._reach, "assay"])

    def crash(self) -> None:
        """End it without a checkpoint, as a power cut would; the next start recovers from its log."""
        assert self.process is not None
        self.resume()
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait(30)

    def pause(self) -> None:
        """Freeze the server and every backend: they are in one session, but lead groups of their own."""
        self._each(signal.SIGSTOP)

    def resume(self) -> None:
        """Let them go on."""
        self._each(signal.SIGCONT)

    def _each(self, number: signal.Signals) -> None:
        for pid in [self.pid, *children(self.pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _answers(self) -> bool:
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            words = [str(self._binaries / "pg_isready"), "-q", *self._reach]
            return subprocess.run(words, timeout=5, check=False).returncode == 0
        return False


class Redis(Part):
    """An append-only Redis on loopback, or at another address of this machine's."""

    def __init__(self, folder: Path, address: str = "127.0.0.1") -> None:
        folder.mkdir(parents=True)
        self.address, self.port = address, free_port()
        words: tuple[str, ...] = (
            "--port",
            str(self.port),
            "--bind",
            address,
            "--protected-mode",
            "no",
            "--dir",
            str(folder),
            "--appendonly",
            "yes",
        )
        words += ("--appendfsync", "everysec", "--maxmemory-policy", "noeviction", "--save", "")
        super().__init__("redis", [redis_executable(), *words], folder / "log", ready=self._answers)

    @property
    def url(self) -> str:
        """The queue's address, as the operator would give it."""
        return f"redis://{self.address}:{self.port}/0"

    def flush(self) -> None:
        """Forget everything, as a Redis without a disk would."""
        self._ask(b"FLUSHALL\r\n")

    def _answers(self) -> bool:
        with contextlib.suppress(OSError):
            return self._ask(b"PING\r\n").startswith(b"+PONG")
        return False

    def _ask(self, words: bytes) -> bytes:
        with socket.create_connection((self.address, self.port), timeout=2.0) as connection:
            connection.sendall(words)
            return connection.recv(100)


class Engine:
    """Docker as the sandbox sees it. `own` is a daemon of this process's, which may be restarted.

    `enter` are words before the daemon's own, which put it into other namespaces.
    """

    def __init__(self, folder: Path, image: str, own: bool, enter: Sequence[str] = ()) -> None:
        self.image, self.folder = image, folder
        self.part: Part | None = None
        self.host = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
        if own:
            self._lender, self.host = self.host, f"unix://{folder}/docker.sock"
            folder.mkdir(parents=True, exist_ok=True)
            words: tuple[str, ...] = (
                *enter,
                "dockerd",
                "--host",
                self.host,
                "--pidfile",
                str(folder / "pid"),
                "--iptables=false",
            )
            words += ("--bridge=none", "--data-root", str(folder / "data"), "--exec-root", str(folder / "exec"))
            self.part = (Inside if enter else Part)("engine", words, folder / "log", ready=self._answers)

    def start(self) -> None:
        """Start the own one and give it the image. Raises NotHere."""
        if not self._answers(self.host if self.part is None else self._lender):
            raise NotHere("no Docker Engine answers: `make engine image`")
        if self.part is not None:
            self.part.start()
            self.part.await_ready(60)
            if not self._docker("image", "ls", "--quiet", self.image).strip():
                copy = f"docker --host {self._lender} save {self.image} | docker --host {self.host} load"
                _quietly(["/bin/sh", "-c", copy], 300)

    def stop(self) -> None:
        """Stop the own one and remove what it kept."""
        if self.part is not None:
            self.part.stop(60)

    def restart(self) -> None:
        """Stop it as its service manager does, and start it again."""
        assert self.part is not None
        self.part.stop(60)
        self.part.start()
        self.part.await_ready(60)

    def containers(self, owners: set[int] | None = None) -> list[str]:
        """The sandboxes that exist, running or not: all, or those that one of these processes made."""
        words = ["ps", "-a", "--no-trunc", "--filter", "label=assay.owner", "--format"]
        found = self._docker(*words, '{{.ID}} {{.Label "assay.owner"}}').splitlines()
        lines = [line.split() for line in found]
        return [line[0] for line in lines if owners is None or (len(line) > 3 and int(line[3]) in owners)]

    def kill(self, containers: Sequence[str]) -> None:
        """SIGKILL to what runs in them."""
        if containers:
            self._docker("kill", *containers)

    def _docker(self, *words: str) -> str:
        done = subprocess.run(
            ["docker", "--host", self.host, *words], capture_output=True, text=True, timeout=60, check=False
        )
        return done.stdout

    def _answers(self, host: str | None = None) -> bool:
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            words = ["docker", "--host", host or self.host, "version"]
            return subprocess.run(words, capture_output=True, timeout=10, check=False).returncode == 0
        return False


def assay(
    name: str,
    words: Sequence[str],
    log: Path,
    environment: Mapping[str, str],
    ready: Callable[[], bool] = lambda: True,
    enter: Sequence[str] = (),
) -> Part:
    """One of Assay's own processes; `enter` as for an Engine."""
    return (Inside if enter else Part)(
        name, [*enter, sys.executable, "-m", "services.cli", *words], log, environment, ready=ready
    )


def free_port() -> int:
    """A port of loopback that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Client:
    """Speaks to the API as a customer's program would. Every method raises OSError where it does not answer."""

    def __init__(self, base: str, key: str, timeout_s: float = 10.0) -> None:
        self.base, self._key, self._timeout_s = base, key, timeout_s

    def call(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any]:
        """Status and JSON of an answer, whatever the status."""
        data = None if body is None else json.dumps(body).encode()
        sent = {"Authorization": f"Bearer {self._key}", **({"Content-Type": "application/json"} if data else {})}
        request = urllib.request.Request(self.base + path, data, {**sent, **(headers or {})}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=self._timeout_s) as answer:
                return answer.status, _json(answer.read())
        except urllib.error.HTTPError as refusal:
            with refusal:
                return refusal.code, _json(refusal.read())

    def text(self, path: str) -> str:
        """The body of a page that is there."""
        request = urllib.request.Request(self.base + path, headers={"Authorization": f"Bearer {self._key}"})
        with urllib.request.urlopen(request, timeout=self._timeout_s) as answer:
            return str(answer.read().decode())

    def submit(self, source: str, key: str, cohort: str = "", patience_s: float = 60.0) -> str:
        """Hand in a file until it is taken, as the same request each time; the id of submission or cohort."""
        deadline = time.monotonic() + patience_s
        path = f"/v1/cohorts/{cohort}/submissions" if cohort else "/v1/submissions"
        body = {"submissions": [{"source": source}]} if cohort else {"challenge": "spiral", "source": source}
        while True:
            with contextlib.suppress(OSError):
                status, answer = self.call("POST", path, body, {"Idempotency-Key": key})
                if status == 202:
                    return str(answer["id"])
                if status not in (409, 429, 500, 502, 503):
                    raise AssertionError(f"POST {path}: {status} {answer}")
            if time.monotonic() > deadline:
                raise TimeoutError("the API took nothing in time")
            time.sleep(0.1)


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return None


def _postgres_binaries() -> Path:
    on_path = shutil.which("postgres")
    candidates = [Path(os.path.realpath(on_path)).parent] if on_path else []
    candidates += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for folder in candidates:
        if (folder / "initdb").exists():
            return folder
    raise NotHere("there is no PostgreSQL: install Debian's package postgresql")


def _unprivileged() -> tuple[list[str], pwd.struct_passwd | None]:
    """How root starts PostgreSQL, which refuses to be root's; a change of user clears the death signal."""
    if os.getuid() != 0:
        return [], None
    names = {entry.pw_name: entry for entry in pwd.getpwall()}
    user = names.get("postgres") or names["nobody"]
    words = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--pdeathsig", "KILL"]
    return words, user


def children(pid: int) -> list[int]:
    """The processes that a process has started and that live."""
    with contextlib.suppress(OSError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def _quietly(words: Sequence[str], within_s: float = 120.0) -> None:
    done = subprocess.run(words, capture_output=True, text=True, timeout=within_s, check=False, cwd="/")
    if done.returncode != 0:
        raise RuntimeError(f"{words[0]} ended with {done.returncode}: {done.stderr[-1000:]}")

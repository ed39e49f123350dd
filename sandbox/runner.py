"""The runner: one small daemon per host that alone holds the Engine's socket, and owns the pool.

Theory of operation
-------------------
It listens on a unix socket and speaks `sandbox.remote`. Whoever may open the socket may have
a Job run in the one fixed container template, within the runner's own maxima, and nothing
else: no image, mount, network or command can be named. It holds no secret: `assay runner`
replaces its own process by this module with a short list of environment variables, and this
module imports nothing that grades or serves.

The main thread accepts, watches and says `alive`. A thread for each connection reads one job
(all of it within `read_time_s`), waits for its turn, runs it in the pool and sends the
result. Turns go to the peer (user and process, as the kernel tells) that has the fewest
running, round and round among equals, so that a client that floods only delays itself; what
one peer may have connected and waiting is bounded, and so is the whole. A connection that
ends, or says more than it should, is called off at once: queued it vanishes, running it
loses its container.

The socket's lock file keeps a second runner away and is the *seat* by which a successor
knows its predecessor's containers (see `sandbox.ownership`). On SIGTERM the runner takes no
more, refuses what waits, lets what runs finish within `grace_s`, cuts off the rest and
removes every container; a second SIGTERM ends the grace.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import grp
import json
import logging
import os
import select
import signal
import socket
import stat
import struct
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from sandbox.gpu import Leases
from sandbox.inspection import must_hold
from sandbox.pool import Cancel, Cancelled, Pool, PoolConfig
from sandbox.protocol import MAX_JOB_HEADER_BYTES, ProtocolError, pack_frame
from sandbox.remote import ALIVE_S, DEFAULT_SOCKET, VERSION, Wire, pack_result, unpack_job
from sandbox.spec import Job, JobRefused, Limits, RunResult, SandboxBusy, SandboxUnavailable, StepListener

log = logging.getLogger(__name__)

SOCKET_MODE = 0o660
KEPT_VARIABLES = (  # of the environment; no other reaches the daemon
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TZ",
    "NOTIFY_SOCKET",
    "DOCKER_HOST",
    "DOCKER_TLS_VERIFY",
    "DOCKER_CERT_PATH",
)
MAXIMA = Limits(
    wall_time_s=1800.0,
    start_time_s=300.0,
    memory_bytes=4 << 30,
    cpu_count=4.0,
    pids=512,
    tmp_bytes=256 << 20,
    tmp_inodes=65536,
    shm_bytes=256 << 20,
    shm_inodes=16384,
    open_files=1024,
    file_bytes=256 << 20,
    output_bytes=64 << 20,
    output_tail_bytes=256 << 10,
    evidence_bytes=128 << 20,
    evidence_frames=65536,
    gpu_memory_bytes=1 << 40,
)
_ALIVE = pack_frame({"type": "alive"})
_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid
_POLL_S = 1.0
_JOIN_S = 60.0
_LEASE_S = 1.0  # then the pool gives up a spare that holds a device, and asks again


@dataclass(frozen=True)
class RunnerConfig:
    """All that a runner is told. Every field is a setting (`ASSAY_RUNNER_…`) with a documented default."""

    socket: str = str(DEFAULT_SOCKET)
    group: str = ""  # who may speak to it besides its own user
    jobs: int = 1  # running at a time
    queue: int = 64  # waiting, of all peers
    queue_per_peer: int = 32
    clients: int = 128  # connections, of all peers
    clients_per_peer: int = 48
    max_steps: int = 256
    max_job_bytes: int = 32 << 20  # submission, modules and arrays
    maxima: Limits = MAXIMA
    read_time_s: float = 10.0  # until a connection's job must be there
    send_time_s: float = 30.0  # until a client must have taken a frame
    queue_time_s: float = 900.0  # until a waiting job is refused
    grace_s: float = 30.0  # after SIGTERM
    image: str = ""
    runtime: str = ""
    docker_host: str = ""
    gpus: tuple[str, ...] = ()
    pool: PoolConfig = field(default_factory=PoolConfig)
    standing: Limits = field(default_factory=Limits)
    required: tuple[str, ...] = ()  # checks of `assay doctor` that are musts here besides its own

    def to_json(self) -> str:
        """For another process's command line."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> RunnerConfig:
        """What `to_json` made. Raises TypeError, ValueError, KeyError."""
        data = json.loads(text)
        data |= {"gpus": tuple(data["gpus"]), "required": tuple(data["required"]), "pool": PoolConfig(**data["pool"])}
        data |= {name: Limits(**data[name]) for name in ("maxima", "standing")}
        return cls(**data)


class RunnerError(Exception):
    """The runner cannot start; the message says why and what to do."""


class CancellableSandbox(Protocol):
    """What the runner runs jobs in; see `pool.Pool`."""

    def run(self, job: Job, listener: StepListener | None = None, cancel: Cancel | None = None) -> RunResult:
        """Run a job. Raises SandboxUnavailable, Cancelled."""
        ...

    def status(self) -> dict[str, Any]:
        """As JSON values."""
        ...

    def cannot_hold(self) -> tuple[str, ...]:
        """What it cannot promise."""
        ...

    def image_identity(self) -> str:
        """Which image it uses."""
        ...

    def close(self) -> None:
        """Leave nothing behind."""
        ...


# --- whose turn it is -------------------------------------------------------------------

Peer = tuple[int, int | str]  # uid; pid, or where the kernel shows none the name that the client gave


@dataclass(eq=False)
class Turn:
    """One job's place."""

    peer: Peer
    granted: bool = False


class Turns:
    """Who may run: the peer with the fewest running, and among equals the one that waited longest."""

    def __init__(self, slots: int, waiting: int, waiting_per_peer: int) -> None:
        self._slots, self._waiting, self._waiting_per_peer = slots, waiting, waiting_per_peer
        self._changed = threading.Condition()
        self._queues: dict[Peer, deque[Turn]] = {}  # in the order of the rotation
        self._running: Counter[Peer] = Counter()
        self._closed = False

    @contextlib.contextmanager
    def one(self, peer: Peer, cancel: Cancel, wait_s: float) -> Iterator[None]:
        """A turn for one job. Raises SandboxBusy where there is no room, Cancelled."""
        turn = Turn(peer)
        with self._changed:
            self._enter(turn)
        try:
            cancel.bind(self._notify)
            with self._changed:
                self._changed.wait_for(lambda: turn.granted or cancel.is_set or self._closed, wait_s)
                if cancel.is_set:
                    raise Cancelled("the client left")
                if self._closed and not turn.granted:
                    raise SandboxUnavailable("the runner is stopping; its successor takes the job")
                if not turn.granted:
                    raise SandboxBusy(f"no turn in {wait_s:g} s; more runners, or a larger ASSAY_RUNNER_JOBS, help")
            yield
        finally:
            with self._changed:
                self._leave(turn)

    def counts(self) -> dict[str, int]:
        """How many run and wait."""
        with self._changed:
            return {"running": self._running.total(), "waiting": sum(map(len, self._queues.values()))}

    def close(self) -> None:
        """Refuse all that wait or come."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _enter(self, turn: Turn) -> None:
        if self._closed:
            raise SandboxUnavailable("the runner is stopping; its successor takes the job")
        mine = len(self._queues.get(turn.peer, ()))
        if sum(map(len, self._queues.values())) >= self._waiting:
            raise SandboxBusy(f"{self._waiting} jobs wait already; try again later, or raise ASSAY_RUNNER_QUEUE")
        if mine >= self._waiting_per_peer:
            raise SandboxBusy(
                f"{mine} jobs of this client wait already; wait for them, or raise ASSAY_RUNNER_QUEUE_PER_CLIENT"
            )
        self._queues.setdefault(turn.peer, deque()).append(turn)
        self._grant()

    def _leave(self, turn: Turn) -> None:
        if turn.granted:
            self._running[turn.peer] -= 1
            if not self._running[turn.peer]:
                del self._running[turn.peer]
        else:
            self._queues[turn.peer].remove(turn)
            if not self._queues[turn.peer]:
                del self._queues[turn.peer]
        self._grant()

    def _grant(self) -> None:
        while self._queues and self._running.total() < self._slots and not self._closed:
            peer = min(self._queues, key=lambda one: self._running[one])  # the first of equals
            queue = self._queues.pop(peer)
            queue.popleft().granted = True
            self._running[peer] += 1
            if queue:
                self._queues[peer] = queue  # to the end of the rotation
        self._changed.notify_all()


# --- one connection ---------------------------------------------------------------------


class Connection:
    """One client that asks for one thing."""

    def __init__(self, connection: socket.socket, config: RunnerConfig) -> None:
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        self.pid, self.uid, _ = _CREDENTIALS.unpack(credentials)
        self.socket = connection
        self.wire = Wire(connection, config.max_job_bytes, MAX_JOB_HEADER_BYTES)
        self.cancel = Cancel()
        self.client, self.label, self.state = "", "", "reading"
        self.began = time.monotonic()
        self._send_time_s = config.send_time_s
        self._sending = threading.Lock()

    @property
    def peer(self) -> Peer:
        """Whose turns its job counts among."""
        return self.uid, self.pid or self.client

    def send(self, header: Mapping[str, object], payload: bytes = b"") -> None:
        """Send one frame. Raises TimeoutError, OSError."""
        with self._sending:
            self.wire.send(header, payload, deadline=time.monotonic() + self._send_time_s)

    def say_alive(self) -> None:
        """Say so without ever waiting."""
        if self._sending.acquire(blocking=False):
            try:
                with contextlib.suppress(OSError):  # full, or gone
                    os.write(self.socket.fileno(), _ALIVE)
            finally:
                self._sending.release()

    def is_silent(self) -> bool:
        """Whether the client is there and says nothing, as it should once its job was read."""
        try:
            self.socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    def refuse(self, error: Exception) -> None:
        """Tell the client why there is no result, if it listens."""
        kind = "refused" if isinstance(error, (JobRefused, ProtocolError)) else "unavailable"
        kind = "busy" if isinstance(error, SandboxBusy) else kind
        with contextlib.suppress(OSError):
            self.send({"type": "error", "kind": kind, "message": str(error)})

    def account(self) -> dict[str, Any]:
        """For `assay runner status`."""
        seconds = round(time.monotonic() - self.began, 1)
        return {
            "client": self.client,
            "uid": self.uid,
            "pid": self.pid,
            "label": self.label,
            "state": self.state,
            "seconds": seconds,
        }


# --- the daemon -------------------------------------------------------------------------


class Runner:
    """Serves a socket until `stop`. The sandbox is closed with it.

    Raises:
        RunnerError: the socket cannot be had.
    """

    def __init__(self, config: RunnerConfig, seat: Seat, sandbox: CancellableSandbox) -> None:
        self._config, self._seat, self._sandbox = config, seat, sandbox
        self._turns = Turns(config.jobs, config.queue, config.queue_per_peer)
        self._lock = threading.Lock()
        self._connections: dict[Connection, threading.Thread] = {}
        self._watched: dict[int, Connection] = {}
        self._stops = 0
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._since = time.monotonic()
        self._alive_at = time.monotonic()
        self._counts: Counter[str] = Counter()

    def stop(self, *_: object) -> None:
        """Begin to stop; a second call ends the grace. May be called by a signal handler."""
        self._stops += 1
        with contextlib.suppress(OSError):
            os.write(self._wake_write, b"x")

    def serve(self) -> None:
        """Accept until `stop`, then drain."""
        try:
            with self._seat.listen() as listener:
                notify("READY=1")
                log.info("listening at %s", self._config.socket)
                while not self._stops:
                    if listener in self._look(listener):
                        self._accept(listener)
            notify("STOPPING=1")
            self._drain()
        finally:
            self._sandbox.close()
            os.close(self._wake_read)
            os.close(self._wake_write)

    def _look(self, listener: socket.socket | None = None) -> list[socket.socket]:
        """One round: call off those who left, say alive; the listener, where somebody knocks."""
        poller = select.poll()
        poller.register(self._wake_read, select.POLLIN)
        if listener is not None:
            poller.register(listener, select.POLLIN)
        with self._lock:
            watched = dict(self._watched)
        for fd in watched:
            poller.register(fd, select.POLLIN)
        events = {fd for fd, _ in poller.poll(_POLL_S * 1000)}
        if self._wake_read in events:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake_read, 4096)
        for fd in events & watched.keys():
            if not watched[fd].is_silent():
                self._unwatch(watched[fd])
                watched[fd].cancel.set()
        if time.monotonic() - self._alive_at > ALIVE_S:
            self._alive_at = time.monotonic()
            for connection in watched.values():
                connection.say_alive()
        return [listener] if listener is not None and listener.fileno() in events else []

    def _accept(self, listener: socket.socket) -> None:
        try:
            accepted, _ = listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS):
                log.warning("cannot accept: %s", error)
                time.sleep(0.1)
            return
        connection = Connection(accepted, self._config)
        with self._lock:
            of_peer = sum((one.uid, one.pid) == (connection.uid, connection.pid) for one in self._connections)
            full = len(self._connections) >= self._config.clients or of_peer >= self._config.clients_per_peer
            if not full:
                thread = threading.Thread(target=self._serve, args=(connection,), name="client", daemon=True)
                self._connections[connection] = thread
        if full:
            self._counts["refused"] += 1
            message = "too many connections; try again later, or raise ASSAY_RUNNER_CLIENTS"
            with contextlib.suppress(OSError), accepted:
                accepted.setblocking(False)
                accepted.send(pack_frame({"type": "error", "kind": "busy", "message": message}))
            return
        thread.start()

    def _watch(self, connection: Connection) -> None:
        with self._lock:
            self._watched[connection.socket.fileno()] = connection
        with contextlib.suppress(OSError):
            os.write(self._wake_write, b"x")

    def _unwatch(self, connection: Connection) -> None:
        with self._lock:
            for fd in [fd for fd, one in self._watched.items() if one is connection]:
                del self._watched[fd]

    def _serve(self, connection: Connection) -> None:
        """One connection from hello to result, in a thread of its own."""
        try:
            self._answer(connection)
        except Cancelled:
            self._counts["called_off"] += 1
            if self._stops:
                connection.refuse(SandboxUnavailable("the runner was stopped before the job had ended"))
        except (ProtocolError, SandboxUnavailable) as error:
            self._counts["refused"] += 1
            connection.refuse(error)
        except OSError as error:  # TimeoutError among them: too slow, or gone
            self._counts["cut_off"] += 1
            log.info("client %d of user %d was cut off: %s", connection.pid, connection.uid, error)
        except Exception as error:
            log.exception("a connection stumbled")
            connection.refuse(SandboxUnavailable(f"the runner failed: {type(error).__name__}"))
        finally:
            self._unwatch(connection)
            with self._lock:
                del self._connections[connection]
            connection.socket.close()

    def _answer(self, connection: Connection) -> None:
        deadline = time.monotonic() + self._config.read_time_s
        hello = connection.wire.receive(deadline)
        request = connection.wire.receive(deadline)
        if hello is None or request is None:
            return
        if hello[0].get("type") != "hello" or hello[0].get("version") != VERSION:
            raise ProtocolError(f"this runner speaks version {VERSION} of its protocol; client and runner must match")
        connection.client = str(hello[0].get("client", ""))[:40]
        match request[0].get("type"):
            case "status":
                connection.send({"type": "status", "status": self.status()})
            case "job":
                job = unpack_job(*request, self._config.maxima, self._config.max_steps)
                self._run(connection, job)
            case _:
                raise ProtocolError("a request is a job or asks for the status")

    def _run(self, connection: Connection, job: Job) -> None:
        connection.label, connection.state = job.label, "waiting"
        connection.began = time.monotonic()
        self._watch(connection)

        def tell(step: str, what: str) -> None:
            try:
                connection.send({"type": "event", "step": step, "what": what})
            except OSError:
                connection.cancel.set()

        with self._turns.one(connection.peer, connection.cancel, self._config.queue_time_s):
            connection.state = "running"
            result = self._sandbox.run(job, tell, connection.cancel)
        connection.state = "sending"
        self._counts["served"] += 1
        for header, payload in pack_result(result):
            connection.send(header, payload)

    def status(self) -> dict[str, Any]:
        """Everything that `assay runner status` shows, as JSON values."""
        with self._lock:
            connections = [one.account() for one in self._connections if one.state != "reading"]
            counts = dict(self._counts)
        return {
            "pid": os.getpid(),
            "uptime_s": round(time.monotonic() - self._since, 1),
            "image": self._sandbox.image_identity(),
            "cannot_hold": list(self._sandbox.cannot_hold()),
            "jobs": self._config.jobs,
            "queue": self._config.queue,
            "turns": self._turns.counts(),
            "connections": connections,
            "counts": {name: counts.get(name, 0) for name in ("served", "refused", "called_off", "cut_off")},
            "pool": self._sandbox.status(),
            "gpus": list(self._config.gpus),
            "stopping": self._stops > 0,
            "threads": threading.active_count(),
            "descriptors": len(os.listdir("/proc/self/fd")),
        }

    def _drain(self) -> None:
        """Let what runs finish, cut off the rest."""
        self._turns.close()
        for connection in self._left():
            if connection.state == "reading":
                with contextlib.suppress(OSError):
                    connection.socket.shutdown(socket.SHUT_RD)
        deadline = time.monotonic() + self._config.grace_s
        while self._left() and self._stops < 2 and time.monotonic() < deadline:
            self._look()
        for connection in self._left():
            connection.cancel.set()
        deadline = time.monotonic() + _JOIN_S
        for thread in self._left().values():
            thread.join(max(0.0, deadline - time.monotonic()))

    def _left(self) -> dict[Connection, threading.Thread]:
        with self._lock:
            return dict(self._connections)


class Seat:
    """The right to serve a socket: its locked lock file. At most one living process has it.

    Raises:
        RunnerError: another runner has it, or the folder is not usable.
    """

    def __init__(self, path: str, group: str = "") -> None:
        self._path, self._group = Path(path), group
        lock = Path(path + ".lock")
        try:
            self._lock_fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise RunnerError(f"{lock}: {error.strerror}; make its folder, or choose another --socket") from error
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock_fd)
            raise RunnerError(f"another runner serves {path}; stop it, or choose another --socket") from error
        self._file = os.fstat(self._lock_fd)

    @property
    def name(self) -> str:
        """What a successor knows this seat's containers by."""
        return f"{self._file.st_dev}:{self._file.st_ino}"

    @contextlib.contextmanager
    def listen(self) -> Iterator[socket.socket]:
        """The listening socket, in place of a stale one. Raises RunnerError."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        with listener:
            try:
                if os.path.lexists(self._path):
                    if not stat.S_ISSOCK(os.lstat(self._path).st_mode):
                        raise RunnerError(f"{self._path} is there and is no socket; choose another --socket")
                    os.unlink(self._path)
                mask = os.umask(0o777 & ~SOCKET_MODE)
                try:
                    listener.bind(str(self._path))
                finally:
                    os.umask(mask)
                if self._group:
                    os.chown(self._path, -1, grp.getgrnam(self._group).gr_gid)
                listener.listen(128)
            except KeyError as error:
                raise RunnerError(f"there is no group {self._group!r}") from error
            except OSError as error:
                raise RunnerError(f"cannot listen at {self._path}: {error.strerror or error}") from error
            listener.setblocking(False)
            mine = os.lstat(self._path)
            try:
                yield listener
            finally:
                with contextlib.suppress(OSError):
                    now = os.lstat(self._path)
                    if (now.st_dev, now.st_ino) == (mine.st_dev, mine.st_ino):
                        os.unlink(self._path)

    def close(self) -> None:
        """Give it up."""
        os.close(self._lock_fd)


def notify(state: str) -> None:
    """Tell systemd, where it asked for it."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
            one.connect("\0" + address[1:] if address.startswith("@") else address)
            one.send(state.encode())


def clean_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What of an environment the daemon may see: no secret of Assay's or of anybody's."""
    return {name: environment[name] for name in KEPT_VARIABLES if name in environment}


def replace_process(config: RunnerConfig) -> None:
    """Become the daemon: the same process, a clean environment, nothing imported. Returns never.

    The environment is also that of /proc/PID/environ, from which nothing can be deleted.
    """
    root = str(Path(__file__).resolve().parent.parent)
    boot = "import sys; sys.path.insert(0, sys.argv.pop(1)); from sandbox.runner import main; sys.exit(main(sys.argv))"
    command = [sys.executable, "-I", "-B", "-c", boot, root, config.to_json()]
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, command, clean_environment(os.environ))


def main(argv: Sequence[str]) -> int:
    """The daemon: `argv[1]` is a RunnerConfig. Exit codes: 0 stopped, 2 bad usage, 4 no sandbox."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    config = RunnerConfig.from_json(argv[1])
    if config.docker_host:
        os.environ["DOCKER_HOST"] = config.docker_host
    try:
        seat = Seat(config.socket, config.group)
    except RunnerError as error:
        print(f"assay: {error}", file=sys.stderr)
        return 2
    try:
        runner = Runner(config, seat, open_pool(config, seat.name))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, runner.stop)
        runner.serve()
    except RunnerError as error:
        print(f"assay: {error}", file=sys.stderr)
        return 2
    except SandboxUnavailable as error:
        print(f"assay: the sandbox is unavailable: {error}", file=sys.stderr)
        return 4
    finally:
        seat.close()
    return 0


def open_pool(config: RunnerConfig, seat: str) -> CancellableSandbox:
    """The pool on the Engine, once a real container has shown that every must holds. Raises SandboxUnavailable."""
    from sandbox.docker import DockerSandbox  # its client takes a while to import, and tests of the daemon need none

    if not config.gpus:
        sandbox = DockerSandbox(config.image, config.runtime, seat=seat)
        _refuse_weak_host(sandbox, config)
        return Pool(sandbox, config.pool, config.standing)
    sandboxes = {gpu: DockerSandbox(config.image, config.runtime, gpu, seat) for gpu in config.gpus}
    _refuse_weak_host(next(iter(sandboxes.values())), config)
    pool_config = dataclasses.replace(config.pool, capacity=len(config.gpus))
    return Pool(GpuMaker(sandboxes, Leases(config.gpus)), pool_config, config.standing)


def _refuse_weak_host(sandbox: Any, config: RunnerConfig) -> None:
    failures = must_hold(sandbox, config.required, config.standing)
    if failures:
        told = "\n  ".join(failures)
        raise SandboxUnavailable(f"this host must not run strangers' code; `assay doctor` shows more:\n  {told}")


class GpuMaker:
    """Makes containers that each have one device to themselves, from before they are made until they are gone."""

    def __init__(self, sandboxes: Mapping[str, Any], leases: Leases) -> None:
        self._sandboxes, self._leases = sandboxes, leases
        self._any = next(iter(sandboxes.values()))

    def create(
        self, limits: Limits, label: str = "", lifetime_s: float | None = None, *, background: bool = False
    ) -> Any:
        """A container on a free device. Raises SandboxBusy where there is none, SandboxUnavailable."""
        lease = contextlib.ExitStack()
        try:
            device = lease.enter_context(self._leases.lease(_LEASE_S))
        except SandboxUnavailable as error:
            if len(self._leases.quarantined()) == len(self._sandboxes):
                raise
            raise SandboxBusy(str(error)) from error
        try:
            container = self._sandboxes[device].create(limits, label, lifetime_s, background=background)
        except BaseException:
            lease.close()
            raise

        def give_back() -> None:
            if not container.gone:
                self._leases.quarantine(device, "its last container would not go")
            lease.close()

        container.when_destroyed(give_back)
        return container

    def quicken(self, container: Any) -> None:
        """As DockerSandbox has it."""
        self._any.quicken(container)

    def reap(self) -> int:
        """What no sandbox here uses any more. Raises SandboxUnavailable."""
        return sum(sandbox.reap() for sandbox in self._sandboxes.values())

    def cannot_hold(self) -> tuple[str, ...]:
        """What a sandbox with a GPU cannot promise, and which GPUs are out of use."""
        told = tuple(f"{gpu}: out of use, {why}" for gpu, why in self._leases.quarantined().items())
        return (*self._any.cannot_hold(), *told)

    def image_identity(self) -> str:
        """Which image runs the steps, and that it had a GPU: controls must have passed there."""
        return f"{self._any.image_identity()} gpu"

"""Jobs over a unix socket: what the runner's clients and the runner itself say, and the client.

Frames are those of `sandbox.protocol`: lengths that are checked before anything is
allocated, a JSON header, a raw payload; nothing is unpickled on either side.

    client --hello, job-->  runner
           <-- alive (now and then), event (a step begins or ends), step (its result), done
           <-- or error

One connection, one job: the runner notices by the connection's end that its client has gone.
A client names only code, inputs and limits; nothing else of a container can be asked for.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sandbox.protocol import (
    FRAME,
    GRACE_S,
    MAX_JOB_HEADER_BYTES,
    MAX_JOB_PAYLOAD_BYTES,
    WIRE_MAGIC,
    FrameReader,
    ProtocolError,
    check_job,
    describe_job,
    pack_frame,
)
from sandbox.protocol import _Fields as Fields
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

VERSION = 3
CHUNK_BYTES = 1 << 20
ALIVE_S = 5.0  # how often the runner says that it is still there
SILENCE_S = 60.0  # of a runner that is to be taken for dead
CONNECT_S = 5.0
DEFAULT_SOCKET = Path("/run/assay/runner.sock")

_ERRORS: dict[str, type[SandboxUnavailable]] = {
    "unavailable": SandboxUnavailable,
    "busy": SandboxBusy,
    "refused": JobRefused,
}


class Wire:
    """A connected socket that carries frames. Deadlines are readings of time.monotonic()."""

    def __init__(self, connection: socket.socket, max_payload_bytes: int, max_header_bytes: int) -> None:
        self.socket = connection
        self._reader = FrameReader(max_payload_bytes, max_header_bytes)

    def send(self, header: Mapping[str, object], payload: bytes = b"", *, deadline: float) -> None:
        """Write one frame. Raises TimeoutError where the other side does not read, OSError where it left."""
        for part in (_head(header, payload), payload):
            rest = memoryview(part)
            while rest:
                self._limit(deadline)
                rest = rest[self.socket.send(rest[:CHUNK_BYTES]) :]

    def receive(self, deadline: float) -> tuple[dict[str, Any], bytes] | None:
        """The next frame, None at the end of the stream. Raises TimeoutError, ProtocolError, OSError."""
        while (frame := self._reader.next()) is None:
            self._limit(deadline)
            data = self.socket.recv(CHUNK_BYTES)
            if not data:
                return None
            self._reader.feed(data)
        return frame

    def _limit(self, deadline: float) -> None:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the other side did not answer in time")
        self.socket.settimeout(left_s)


def _head(header: Mapping[str, object], payload: bytes) -> bytes:
    """A frame up to its payload, which is then sent without being copied."""
    text = pack_frame(header)[FRAME.size :]
    return FRAME.pack(WIRE_MAGIC, len(text), len(payload)) + text


# --- the job --------------------------------------------------------------------------


def pack_job(job: Job) -> tuple[dict[str, object], bytes]:
    """A job as header and payload. Raises ValueError where it is not well formed."""
    check_job(job)
    header, payload = describe_job(job)
    return header | {"label": job.label, "limits": dataclasses.asdict(job.limits)}, payload


def unpack_job(header: Mapping[str, Any], payload: bytes, maxima: Limits, max_steps: int) -> Job:
    """The job of a frame that anybody may have sent.

    Raises JobRefused where it asks for more than the maxima, ProtocolError where it is malformed.
    """
    fields = Fields(header)
    cutter = _Cutter(payload)
    limits = _limits(fields.mapping("limits"), maxima)
    submission = cutter.take(fields.whole("submission_bytes"))
    modules = {item.text("name"): cutter.take(item.whole("size")) for item in _items(header, "modules")}
    described = _items(header, "steps")
    if len(described) > max_steps:
        raise JobRefused(f"the job has {len(described)} steps; this runner takes {max_steps} (ASSAY_RUNNER_MAX_STEPS)")
    steps = tuple(_step(item, cutter) for item in described)
    cutter.finish()
    job = Job(submission, modules, steps, limits, fields.text("label"))
    try:
        check_job(job)
    except ValueError as error:
        raise ProtocolError(str(error)) from error
    return job


def _items(header: Mapping[str, Any], name: str) -> list[Fields]:
    items = header.get(name)
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise ProtocolError(f"{name} is not a list of objects")
    return [Fields(item) for item in items]


def _step(item: Fields, cutter: _Cutter) -> Step:
    arrays = {}
    for array in _items({"arrays": item._header.get("arrays")}, "arrays"):
        shape = array._header.get("shape")
        if not isinstance(shape, list) or not all(type(n) is int and 0 <= n < 1 << 40 for n in shape):
            raise ProtocolError("an array's shape is not a list of whole numbers")
        data = cutter.take(array.whole("size"))
        arrays[array.text("name")] = Array(array.text("dtype"), tuple(shape), data)
    return Step(
        item.text("name"),
        item.text("entry"),
        item.mapping("params"),
        arrays,
        item.seconds("wall_time_s"),
        item.seconds("cpu_time_s"),
        item.text("unless_hung"),
        item.truth("sees_gpu"),
        item.truth("apart"),
    )


def _limits(asked: Mapping[str, Any], maxima: Limits) -> Limits:
    """The limits asked for, each between nothing and its maximum."""
    names = [item.name for item in dataclasses.fields(Limits)]
    if unknown := sorted(asked.keys() - set(names)):
        raise ProtocolError(f"{unknown[0]} is no limit")
    chosen: dict[str, Any] = {}
    for name in names:
        default, most = getattr(Limits(), name), getattr(maxima, name)
        value = asked.get(name, default)
        wanted = (int, float) if isinstance(default, float) else (int,)
        if type(value) not in wanted or not math.isfinite(value) or value < 0 or (value == 0 and default != 0):
            raise ProtocolError(f"limits.{name} is not a positive number")
        if value > most:
            raise JobRefused(
                f"limits.{name} of {value:g} is over this runner's maximum of {most:g}; "
                f"ASSAY_RUNNER_MAX_{name.upper()} of the runner raises it"
            )
        chosen[name] = value
    return Limits(**chosen)


class _Cutter:
    """Cuts a payload into pieces of announced sizes."""

    def __init__(self, payload: bytes) -> None:
        self._payload, self._offset = payload, 0

    def take(self, size: int) -> bytes:
        """The next `size` bytes. Raises ProtocolError."""
        if self._offset + size > len(self._payload):
            raise ProtocolError("the payload is shorter than its header says")
        self._offset += size
        return self._payload[self._offset - size : self._offset]

    def finish(self) -> None:
        """Raise ProtocolError where something is left."""
        if self._offset != len(self._payload):
            raise ProtocolError("the payload is longer than its header says")


# --- the result -----------------------------------------------------------------------

_STEP_FIELDS = (
    "exit_code",
    "signal",
    "wall_time_s",
    "cpu_time_s",
    "peak_memory_bytes",
    "baseline_memory_bytes",
    "output_bytes",
)


def pack_result(result: RunResult) -> Iterator[tuple[dict[str, object], bytes]]:
    """A result as frames: one for each step, then the rest."""
    for step in result.steps:
        sizes = [[len(frame.header), len(frame.payload)] for frame in step.frames]
        payload = b"".join([part for frame in step.frames for part in (frame.header, frame.payload)])
        header: dict[str, object] = {"type": "step", "name": step.name, "status": step.status.value, "frames": sizes}
        header |= {name: getattr(step, name) for name in _STEP_FIELDS}
        header |= {"remarks": list(step.remarks), "tail_bytes": len(step.output_tail)}
        yield header, payload + step.output_tail
    yield (
        {
            "type": "done",
            "timing": dataclasses.asdict(result.timing),
            "sandbox": result.sandbox,
            "peak_memory_bytes": result.peak_memory_bytes,
            "image_digest": result.image_digest,
            "versions": dict(result.versions),
            "remarks": list(result.remarks),
            "gpu": None if result.gpu is None else dataclasses.asdict(result.gpu),
        },
        b"",
    )


def unpack_step(header: Mapping[str, Any], payload: bytes) -> StepResult:
    """One step's result. Raises ProtocolError."""
    fields, cutter = Fields(header), _Cutter(payload)
    sizes = header.get("frames")
    if not isinstance(sizes, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and all(type(n) is int and n >= 0 for n in pair) for pair in sizes
    ):
        raise ProtocolError("frames is not a list of pairs of sizes")
    frames = tuple(Frame(cutter.take(head), cutter.take(body)) for head, body in sizes)
    tail = cutter.take(fields.whole("tail_bytes"))
    cutter.finish()
    return StepResult(
        fields.text("name"),
        _status(fields.text("status")),
        fields.maybe_whole("exit_code"),
        fields.maybe_whole("signal"),
        fields.seconds("wall_time_s"),
        fields.seconds("cpu_time_s"),
        fields.whole("peak_memory_bytes"),
        fields.whole("baseline_memory_bytes"),
        frames,
        tail,
        fields.whole("output_bytes"),
        fields.texts("remarks"),
    )


def _status(word: str) -> RunStatus:
    try:
        return RunStatus(word)
    except ValueError as error:
        raise ProtocolError(f"{word!r} is no status") from error


def unpack_done(header: Mapping[str, Any], steps: tuple[StepResult, ...]) -> RunResult:
    """The whole result. Raises ProtocolError."""
    fields = Fields(header)
    timing = Fields(fields.mapping("timing"))
    versions = {str(name): str(value)[:100] for name, value in fields.mapping("versions").items()}
    return RunResult(
        steps,
        RunTiming(*(timing.seconds(item.name) for item in dataclasses.fields(RunTiming))),
        fields.text("sandbox"),
        fields.whole("peak_memory_bytes"),
        fields.text("image_digest"),
        versions,
        fields.texts("remarks"),
        None if header.get("gpu") is None else _gpu_use(Fields(fields.mapping("gpu"))),
    )


def _gpu_use(fields: Fields) -> GpuUse:
    return GpuUse(fields.maybe_seconds("time_s"), fields.whole("peak_memory_bytes"))


# --- the client -----------------------------------------------------------------------


class RunnerSandbox:
    """The sandbox behind a runner's socket. See `spec.Sandbox`; safe for many threads.

    Every job has a connection of its own, so a runner that was restarted is simply used again.

    Args:
        path: the runner's socket.
        client: a name for `assay runner status`.
        queue_time_s: how long a job may wait for its turn, over what it may run.

    Raises:
        SandboxUnavailable: where no runner answers.
    """

    name = "docker"  # what isolates; a report does not depend on the way to it

    def __init__(self, path: Path = DEFAULT_SOCKET, client: str = "assay", queue_time_s: float = 900.0) -> None:
        self._path, self._client, self._queue_time_s = Path(path), client, queue_time_s
        self._about = self.status()

    def run(self, job: Job, listener: StepListener | None = None) -> RunResult:
        """Run every step of `job` in order in a container of its own, made by the runner.

        Where the runner has to repeat the job, the listener hears of its steps again. Raises
        SandboxUnavailable (SandboxBusy and JobRefused among them), ValueError where the job is
        not well formed.
        """
        header, payload = pack_job(job)
        limits = job.limits
        attempts_s = 2 * (limits.start_time_s + limits.wall_time_s + 2 * GRACE_S)
        deadline = time.monotonic() + self._queue_time_s + attempts_s
        largest = max(limits.evidence_bytes + limits.output_tail_bytes, 1 << 16)
        with self._connected(largest) as wire:
            send_by = time.monotonic() + SILENCE_S
            with _refusal_is_read():
                self._greet(wire, send_by)
                wire.send(header, payload, deadline=send_by)
            return self._result(wire, job, listener, deadline)

    def _result(self, wire: Wire, job: Job, listener: StepListener | None, deadline: float) -> RunResult:
        steps: list[StepResult] = []
        while True:
            header, payload = self._answer(wire, min(deadline, time.monotonic() + SILENCE_S))
            fields = Fields(header)
            match fields.text("type"):
                case "alive":
                    if time.monotonic() > deadline:
                        raise SandboxBusy("the runner had no time for the job; start more runners, or wait longer")
                case "event":
                    if listener is not None:
                        listener(fields.text("step"), fields.text("what"))
                case "step":
                    steps.append(unpack_step(header, payload))
                case "done":
                    result = unpack_done(header, tuple(steps))
                    if [step.name for step in result.steps] != [step.name for step in job.steps]:
                        raise ProtocolError("the runner's result is not that of the job")
                    return result
                case kind:
                    raise ProtocolError(f"the runner sent a frame of the unknown type {kind[:40]!r}")

    def _answer(self, wire: Wire, deadline: float) -> tuple[dict[str, Any], bytes]:
        frame = wire.receive(deadline)
        if frame is None:
            raise SandboxUnavailable(
                "the runner ended before it answered; what it ran is gone; `assay runner status` tells more"
            )
        header, payload = frame
        if header.get("type") == "error":
            kind = _ERRORS.get(str(header.get("kind")), SandboxUnavailable)
            raise kind(str(header.get("message"))[:2000])
        return header, payload

    def status(self) -> dict[str, Any]:
        """What the runner is doing, as JSON values. Raises SandboxUnavailable."""
        with self._connected(1 << 20) as wire:
            deadline = time.monotonic() + CONNECT_S
            with _refusal_is_read():
                self._greet(wire, deadline)
                wire.send({"type": "status"}, deadline=deadline)
            header, _ = self._answer(wire, time.monotonic() + 2 * CONNECT_S)
            return Fields(header).mapping("status")

    def _greet(self, wire: Wire, deadline: float) -> None:
        wire.send({"type": "hello", "version": VERSION, "client": self._client}, deadline=deadline)

    def cannot_hold(self) -> tuple[str, ...]:
        """What the runner's Engine and kernel cannot promise."""
        return Fields(self._about).texts("cannot_hold")

    def facts(self) -> dict[str, Any]:
        """Nothing: what the Engine says of itself stays with the runner."""
        return {}

    def image_identity(self) -> str:
        """Which image the runner's containers are made of."""
        return Fields(self._about).text("image")

    @contextlib.contextmanager
    def _connected(self, max_payload_bytes: int) -> Iterator[Wire]:
        """A connection, and every trouble with it as SandboxUnavailable."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(CONNECT_S)
            try:
                _connect(connection, str(self._path))
            except PermissionError as error:
                raise SandboxUnavailable(
                    f"this user may not speak to the runner at {self._path}; join the group that owns it"
                ) from error
            except OSError as error:
                raise SandboxUnavailable(
                    f"no runner answers at {self._path} ({error.strerror or error}); start one with `assay runner`"
                ) from error
            try:
                yield Wire(connection, min(max_payload_bytes, MAX_JOB_PAYLOAD_BYTES), MAX_JOB_HEADER_BYTES)
            except SandboxUnavailable:
                raise
            except (ProtocolError, OSError) as error:
                raise SandboxUnavailable(f"the runner at {self._path} failed: {error}") from error


def _refusal_is_read() -> contextlib.AbstractContextManager[None]:
    """For sending: where the runner hung up before it had read all, it said why, and that can still be read."""
    return contextlib.suppress(BrokenPipeError, ConnectionResetError)


def _connect(connection: socket.socket, path: str) -> None:
    """Connect, waiting a little where many do at once: the kernel then says EAGAIN. Raises OSError."""
    deadline = time.monotonic() + CONNECT_S
    while True:
        try:
            return connection.connect(path)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)

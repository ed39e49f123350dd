"""The host's half of the conversation with the agent (`sandbox/image/agent.py`).

A frame is a magic, the length of a JSON header, the length of a raw payload, then both.
The host sends one frame, the job; the agent sends `ready`, then per step `begin`, any
number of `evidence` and `end`, then `done`, or `error` where it has to give up.

The agent is ours, but it sits next to strangers' code, so the host believes none of it:
lengths are checked before anything is allocated, what a step may send is counted again,
and whatever does not fit raises ProtocolError and nothing else. Nothing is unpickled.
"""

from __future__ import annotations

import dataclasses
import json
import re
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from sandbox.spec import Array, Frame, Job, Limits, RunStatus, StepListener, StepResult

WIRE_MAGIC = b"ASY1"
FRAME = struct.Struct("<4sIQ")  # magic, length of the JSON header, length of the payload
MAX_HEADER_BYTES = 64 << 10  # of a frame from the agent
MAX_JOB_HEADER_BYTES = 8 << 20
MAX_JOB_PAYLOAD_BYTES = 512 << 20
GRACE_S = 15.0  # after the job's wall time: to kill, reap and drain the last step

_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_ENTRY = re.compile(r"(?P<module>[\w.]+):[A-Za-z_]\w*")
_DTYPE = re.compile(r"[<>|=]?[biufc]\d{1,2}")
_LABEL = re.compile(r"[a-z0-9-]{0,40}")


class ProtocolError(Exception):
    """What came from the agent is not what the protocol allows."""


class AgentLost(ProtocolError):
    """The agent's end of the channel closed before it said `done`."""


class AgentFailed(ProtocolError):
    """The agent said that it could not go on, and why."""


class Channel(Protocol):
    """A two-way stream of bytes to an agent. Deadlines are readings of time.monotonic()."""

    def send(self, data: bytes, deadline: float) -> None:
        """Write all of `data`. Raises TimeoutError at the deadline, AgentLost where closed."""
        ...

    def receive(self, deadline: float) -> bytes:
        """Some bytes, b"" at the end of the stream. Raises TimeoutError at the deadline."""
        ...


# --- frames ---------------------------------------------------------------------------


def pack_frame(header: Mapping[str, object], payload: bytes = b"") -> bytes:
    """One frame as it goes over the wire."""
    text = json.dumps(header).encode()
    return FRAME.pack(WIRE_MAGIC, len(text), len(payload)) + text + payload


class FrameReader:
    """Cuts a stream into frames. Holds at most one frame and what was fed beyond it."""

    def __init__(self, max_payload_bytes: int, max_header_bytes: int = MAX_HEADER_BYTES) -> None:
        self.max_payload_bytes, self.max_header_bytes = max_payload_bytes, max_header_bytes
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Append what was received."""
        self._buffer += data

    def next(self) -> tuple[dict[str, Any], bytes] | None:
        """The next whole frame, None where more must be fed.

        Raises ProtocolError as soon as the lengths are known to be out of bounds.
        """
        if len(self._buffer) < FRAME.size:
            return None
        magic, header_bytes, payload_bytes = FRAME.unpack_from(self._buffer)
        if magic != WIRE_MAGIC:
            raise ProtocolError("the stream is not the agent's")
        if header_bytes > self.max_header_bytes or payload_bytes > self.max_payload_bytes:
            raise ProtocolError(f"a frame of {header_bytes} + {payload_bytes} bytes is over the bounds")
        end = FRAME.size + header_bytes + payload_bytes
        if len(self._buffer) < end:
            return None
        with memoryview(self._buffer) as view:
            text = bytes(view[FRAME.size : FRAME.size + header_bytes])
            payload = bytes(view[FRAME.size + header_bytes : end])
        del self._buffer[:end]
        return _parse_header(text), payload


def _parse_header(text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("a frame's header is not JSON") from error
    if not isinstance(header, dict):
        raise ProtocolError("a frame's header is not an object")
    return header


class _Fields:
    """Typed access to a header; every mismatch is a ProtocolError."""

    def __init__(self, header: Mapping[str, Any]) -> None:
        self._header = header

    def text(self, name: str) -> str:
        value = self._header.get(name)
        if not isinstance(value, str):
            raise ProtocolError(f"{name} is not text")
        return value

    def whole(self, name: str, low: int = 0, high: int = 1 << 62) -> int:
        value = self._header.get(name)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ProtocolError(f"{name} is not a whole number within bounds")
        return value

    def maybe_whole(self, name: str, low: int = 0, high: int = 1 << 62) -> int | None:
        return None if self._header.get(name) is None else self.whole(name, low, high)

    def seconds(self, name: str) -> float:
        value = self._header.get(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e9:
            raise ProtocolError(f"{name} is not a number of seconds")
        return float(value)

    def maybe_seconds(self, name: str) -> float | None:
        return None if self._header.get(name) is None else self.seconds(name)

    def truth(self, name: str) -> bool:
        value = self._header.get(name)
        if not isinstance(value, bool):
            raise ProtocolError(f"{name} is neither true nor false")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        value = self._header.get(name)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise ProtocolError(f"{name} is not a list of texts")
        return tuple(value)

    def mapping(self, name: str) -> dict[str, Any]:
        value = self._header.get(name)
        if not isinstance(value, dict):
            raise ProtocolError(f"{name} is not an object")
        return value


# --- the job --------------------------------------------------------------------------


def describe_job(job: Job) -> tuple[dict[str, object], bytes]:
    """What every reader of a job is told, as header and payload: submission, modules, steps with their arrays."""
    chunks = [job.submission, *job.modules.values()]
    steps = []
    for step in job.steps:
        arrays = []
        for name, array in step.arrays.items():
            arrays.append({"name": name, "dtype": array.dtype, "shape": list(array.shape), "size": len(array.data)})
            chunks.append(array.data)
        described = {field.name: getattr(step, field.name) for field in dataclasses.fields(step)}
        steps.append(described | {"params": dict(step.params), "arrays": arrays})
    header: dict[str, object] = {
        "type": "job",
        "submission_bytes": len(job.submission),
        "modules": [{"name": name, "size": len(source)} for name, source in job.modules.items()],
        "steps": steps,
    }
    return header, b"".join(chunks)


def encode_job(job: Job, polled_memory_bytes: int | None = None) -> bytes:
    """The job as one frame. Raises ValueError where the job itself is not well formed.

    `polled_memory_bytes` asks the agent to end a step whose resident set, without what files back, is seen above it,
    for sandboxes without a memory cgroup.
    """
    check_job(job)
    header, payload = describe_job(job)
    limits = {
        name: getattr(job.limits, name)
        for name in (
            "wall_time_s",
            "open_files",
            "file_bytes",
            "output_bytes",
            "output_tail_bytes",
            "evidence_bytes",
            "evidence_frames",
            "gpu_memory_bytes",
        )
    }
    frame = pack_frame(header | {"limits": limits | {"polled_memory_bytes": polled_memory_bytes}}, payload)
    _, header_bytes, payload_bytes = FRAME.unpack_from(frame)
    if header_bytes > MAX_JOB_HEADER_BYTES or payload_bytes > MAX_JOB_PAYLOAD_BYTES:
        raise ValueError("the job is larger than the protocol allows")
    return frame


def encode_stock(modules: Mapping[str, bytes]) -> bytes:
    """Probe modules sent ahead of the job as one frame. Raises ValueError where a name is not well formed."""
    _check_modules(modules)
    header = {"type": "stock", "modules": [{"name": name, "size": len(source)} for name, source in modules.items()]}
    return pack_frame(header, b"".join(modules.values()))


def _check_modules(modules: Mapping[str, bytes]) -> None:
    for name in modules:
        if not _MODULE.fullmatch(name):
            raise ValueError(f"{name!r} is not a module name")


def check_job(job: Job) -> None:
    """Raise ValueError where names, entries or arrays of the job are not well formed."""
    if not _LABEL.fullmatch(job.label):
        raise ValueError(f"a job's label is up to 40 of a-z, 0-9 and -, not {job.label!r}")
    _check_modules(job.modules)
    if len({step.name for step in job.steps}) != len(job.steps):
        raise ValueError("two steps of the job have the same name")
    for step in job.steps:
        entry = _ENTRY.fullmatch(step.entry)
        if entry is None or entry["module"] not in job.modules:
            raise ValueError(f"step {step.name!r}: {step.entry!r} names no function of the job's modules")
        for key, array in step.arrays.items():
            _check_array(f"step {step.name!r}, array {key!r}", array)


def _check_array(what: str, array: Array) -> None:
    if not _DTYPE.fullmatch(array.dtype):
        raise ValueError(f"{what}: dtype {array.dtype!r} is not numeric")
    size = int(array.dtype.lstrip("<>|=")[1:])
    for extent in array.shape:
        size *= extent
    if size != len(array.data) or any(extent < 0 for extent in array.shape):
        raise ValueError(f"{what}: {len(array.data)} bytes do not make shape {array.shape}")


# --- the conversation -----------------------------------------------------------------


@dataclass(frozen=True)
class Ready:
    """What the agent said of itself before it saw the job."""

    versions: Mapping[str, str]
    warm_up_s: float
    warm_up_cpu_s: float
    resident_bytes: int
    memory_limit_bytes: int | None  # as the container's own cgroup tells, None where it does not
    pids_limit: int | None


@dataclass(frozen=True)
class Done:
    """The agent's account of the whole job."""

    steps_s: float = 0.0
    cpu_s: float = 0.0
    peak_memory_bytes: int = 0


@dataclass
class _Open:
    """The step that has begun and not ended."""

    index: int
    frames: list[Frame] = field(default_factory=list)
    evidence_bytes: int = 0


class Conversation:
    """One agent, one job: `await_ready`, then `run`; `results` at any time after."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._reader = FrameReader(max_payload_bytes=0)
        self._ended: list[StepResult] = []
        self._open: _Open | None = None

    @property
    def step_is_running(self) -> bool:
        """Whether a step has begun and not ended."""
        return self._open is not None

    def await_ready(self, deadline: float) -> Ready:
        """The agent's first frame. Raises TimeoutError, AgentLost, AgentFailed, ProtocolError."""
        header, _ = self._next(deadline)
        if header.get("type") != "ready":
            raise ProtocolError("the agent's first frame is not `ready`")
        fields = _Fields(header)
        cgroup = _Fields(fields.mapping("cgroup"))
        versions = {str(name): str(value)[:100] for name, value in fields.mapping("versions").items()}
        return Ready(
            versions,
            fields.seconds("warm_up_s"),
            fields.seconds("warm_up_cpu_s"),
            fields.whole("resident_bytes"),
            cgroup.maybe_whole("memory_limit_bytes", high=1 << 64),
            cgroup.maybe_whole("pids_limit"),
        )

    def stock(self, modules: Mapping[str, bytes], deadline: float) -> None:
        """Let the agent import the modules that the job is expected to bring, at most once and before the job.

        They are ours and hold no secret. A job with other modules runs all the same. Raises
        what `await_ready` raises, and ValueError where a name is not well formed.
        """
        self._channel.send(encode_stock(modules), deadline)
        if self._next(deadline)[0].get("type") != "stocked":
            raise ProtocolError("the agent did not take the modules sent ahead")

    def run(self, job: Job, listener: StepListener | None = None, polled_memory_bytes: int | None = None) -> Done:
        """Send the job and listen until `done`.

        Raises TimeoutError where the agent overstays the job's wall time, AgentLost,
        AgentFailed and ProtocolError; `results` then gives what had come in.
        """
        frame = encode_job(job, polled_memory_bytes)
        deadline = time.monotonic() + job.limits.wall_time_s + GRACE_S
        self._reader.max_payload_bytes = max(job.limits.evidence_bytes, job.limits.output_tail_bytes)
        self._channel.send(frame, deadline)
        handlers: dict[str, Callable[[_Fields, bytes], None]] = {
            "begin": lambda fields, _: self._begin(job, fields, listener),
            "evidence": lambda fields, payload: self._evidence(job.limits, fields, payload),
            "end": lambda fields, payload: self._end(job, fields, payload, listener),
        }
        while True:
            header, payload = self._next(deadline)
            fields = _Fields(header)
            kind = fields.text("type")
            if kind == "done":
                return self._done(fields)
            if kind not in handlers:
                raise ProtocolError("a frame of no known type")
            handlers[kind](fields, payload)

    def results(self, job: Job, running: RunStatus, remark: str = "") -> tuple[StepResult, ...]:
        """Every step's result; a step cut off gets the status `running`, later ones NOT_RUN."""
        results = list(self._ended)
        if self._open is not None:
            step = job.steps[self._open.index]
            results.append(
                StepResult(step.name, running, frames=tuple(self._open.frames), remarks=(remark,) if remark else ())
            )
        results += [StepResult(step.name, RunStatus.NOT_RUN) for step in job.steps[len(results) :]]
        return tuple(results)

    def _next(self, deadline: float) -> tuple[dict[str, Any], bytes]:
        while (frame := self._reader.next()) is None:
            data = self._channel.receive(deadline)
            if not data:
                raise AgentLost("the agent left before it was done")
            self._reader.feed(data)
        if frame[0].get("type") == "error":
            raise AgentFailed(_Fields(frame[0]).text("message")[:2000])
        return frame

    def _begin(self, job: Job, fields: _Fields, listener: StepListener | None) -> None:
        index = fields.whole("step", high=len(job.steps) - 1)
        if self._open is not None or index != len(self._ended):
            raise ProtocolError("a step begins out of turn")
        self._open = _Open(index)
        if listener is not None:
            listener(job.steps[index].name, "begin")

    def _current(self, fields: _Fields) -> _Open:
        if self._open is None or fields.whole("step") != self._open.index:
            raise ProtocolError("a frame for a step that is not running")
        return self._open

    def _evidence(self, limits: Limits, fields: _Fields, payload: bytes) -> None:
        step = self._current(fields)
        header_bytes = fields.whole("header_bytes", high=len(payload))
        step.evidence_bytes += len(payload)
        if step.evidence_bytes > limits.evidence_bytes or len(step.frames) >= limits.evidence_frames:
            raise ProtocolError("the agent sent more evidence than the limits allow")
        step.frames.append(Frame(payload[:header_bytes], payload[header_bytes:]))

    def _end(self, job: Job, fields: _Fields, payload: bytes, listener: StepListener | None) -> None:
        step = self._current(fields)
        name = job.steps[step.index].name
        try:
            status = RunStatus(fields.text("status"))
        except ValueError as error:
            raise ProtocolError("a step ended with an unknown status") from error
        self._ended.append(
            StepResult(
                name,
                status,
                fields.maybe_whole("exit_code"),
                fields.maybe_whole("signal"),
                fields.seconds("wall_time_s"),
                fields.seconds("cpu_time_s"),
                fields.whole("peak_memory_bytes"),
                fields.whole("baseline_memory_bytes"),
                tuple(step.frames),
                payload[-job.limits.output_tail_bytes :],
                fields.whole("output_bytes"),
                fields.texts("remarks"),
            )
        )
        self._open = None
        if listener is not None:
            listener(name, "end")

    def _done(self, fields: _Fields) -> Done:
        if self._open is not None:
            raise ProtocolError("the agent is done while a step is running")
        return Done(fields.seconds("steps_s"), fields.seconds("cpu_s"), fields.whole("peak_memory_bytes"))

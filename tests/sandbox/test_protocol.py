"""The host's half of the protocol: whatever comes in, it raises only its own error."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox import protocol
from sandbox.image import agent
from sandbox.protocol import (
    FRAME,
    AgentFailed,
    AgentLost,
    Conversation,
    FrameReader,
    ProtocolError,
    encode_job,
    pack_frame,
)
from sandbox.spec import Array, Job, Limits, RunStatus, Step

LIMITS = Limits(evidence_bytes=1000, evidence_frames=3, output_tail_bytes=100)
JOB = Job(b"source", {"a.b": b"def f(c): pass"}, (Step("one", "a.b:f"), Step("two", "a.b:f")), LIMITS)
READY: dict[str, Any] = {
    "type": "ready",
    "versions": {"python": "3.11"},
    "warm_up_s": 1.0,
    "warm_up_cpu_s": 1,
    "resident_bytes": 5,
    "cgroup": {"memory_limit_bytes": 7, "pids_limit": None},
}
BEGIN: dict[str, Any] = {"type": "begin", "step": 0}
END: dict[str, Any] = {
    "type": "end",
    "step": 0,
    "status": "signaled",
    "exit_code": None,
    "signal": 9,
    "wall_time_s": 0.5,
    "cpu_time_s": 0,
    "peak_memory_bytes": 1,
    "baseline_memory_bytes": 1,
    "output_bytes": 3,
    "remarks": ["odd"],
}
DONE: dict[str, Any] = {"type": "done", "steps_s": 1.0, "cpu_s": 1.0, "peak_memory_bytes": 1}


class FakeChannel:
    """Plays back bytes in given pieces and keeps what was sent."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = list(pieces)
        self.sent = b""

    def send(self, data: bytes, deadline: float) -> None:
        self.sent += data

    def receive(self, deadline: float) -> bytes:
        return self.pieces.pop(0) if self.pieces else b""


def talk(*frames: bytes) -> Conversation:
    """A conversation that is past `ready` and will receive these frames."""
    conversation = Conversation(FakeChannel(pack_frame(READY), *frames))
    conversation.await_ready(0)
    return conversation


def evidence(payload: bytes = b"{}x", header_bytes: int = 2, step: int = 0) -> bytes:
    return pack_frame({"type": "evidence", "step": step, "header_bytes": header_bytes}, payload)


# --- frames ---------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.dictionaries(st.text(), st.integers()), st.binary(max_size=50)), max_size=4),
    st.integers(1, 40),
)
def test_frames_round_trip_however_they_are_cut(frames: list[tuple[dict[str, int], bytes]], cut: int) -> None:
    """Frames come out as they went in, whatever pieces the stream arrives in."""
    stream = b"".join(pack_frame(header, payload) for header, payload in frames)
    reader, out = FrameReader(max_payload_bytes=50), []
    for start in range(0, len(stream), cut):
        reader.feed(stream[start : start + cut])
        while (frame := reader.next()) is not None:
            out.append(frame)
    assert out == frames


@given(st.binary(max_size=200))
def test_any_bytes_raise_only_protocol_errors(data: bytes) -> None:
    """Garbage in place of a frame, or of a frame's header, raises ProtocolError and nothing else."""
    for stream in (data, FRAME.pack(b"ASY1", len(data), 0) + data):
        reader = FrameReader(max_payload_bytes=100)
        reader.feed(stream)
        try:
            while reader.next() is not None:
                pass
        except ProtocolError:
            pass


@given(st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 64) - 1))
def test_lengths_are_bounded_before_they_are_believed(header_bytes: int, payload_bytes: int) -> None:
    """A length over the bounds raises at once; one within them waits without allocating."""
    reader = FrameReader(max_payload_bytes=1 << 30)
    reader.feed(FRAME.pack(b"ASY1", header_bytes, payload_bytes))
    tracemalloc.start()
    try:
        waits = reader.next() is None if header_bytes + payload_bytes else True
        assert waits
        assert header_bytes <= protocol.MAX_HEADER_BYTES and payload_bytes <= 1 << 30
    except ProtocolError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 1 << 20


def test_deep_json_is_a_protocol_error() -> None:
    """Nesting that overruns the parser's stack is malformed, not a crash."""
    reader = FrameReader(max_payload_bytes=0)
    text = b"[" * 60000
    reader.feed(FRAME.pack(b"ASY1", len(text), 0) + text)
    with pytest.raises(ProtocolError):
        reader.next()


def test_both_halves_speak_the_same_protocol() -> None:
    """The agent is copied alone into the image, so it repeats the constants; they stay equal."""
    assert agent.WIRE_MAGIC == protocol.WIRE_MAGIC
    assert agent.FRAME.format == protocol.FRAME.format
    assert agent.MAX_JOB_HEADER_BYTES == protocol.MAX_JOB_HEADER_BYTES
    assert agent.MAX_JOB_PAYLOAD_BYTES == protocol.MAX_JOB_PAYLOAD_BYTES


# --- jobs -----------------------------------------------------------------------------


def test_agent_reads_the_job_that_the_host_wrote() -> None:
    """Submission, modules, arrays and parameters survive the wire."""
    array = Array("<f4", (2, 1), b"01234567")
    step = Step("one", "a.b:f", {"n": [1, 2.5, None]}, {"x": array}, 3.0, 2.0)
    frame = encode_job(replace(JOB, steps=(step,)), polled_memory_bytes=5)
    _, header_bytes, _ = FRAME.unpack_from(frame)
    body = frame[FRAME.size :]
    job = agent.parse_job(json.loads(body[:header_bytes]), body[header_bytes:], {})
    assert job.submission == b"source"
    assert job.modules["a.b"][1] == "def f(c): pass"
    assert job.limits["polled_memory_bytes"] == 5
    (read,) = job.steps
    assert (read.name, read.entry, read.params) == ("one", "a.b:f", {"n": [1, 2.5, None]})
    assert (read.wall_time_s, read.cpu_time_s) == (3.0, 2.0)
    assert [(d, s, bytes(v)) for d, s, v in read.arrays.values()] == [("<f4", (2, 1), b"01234567")]


def test_agent_refuses_a_job_that_is_cut_short() -> None:
    """Sizes that do not fit the payload are noticed."""
    header = {"type": "job", "submission_bytes": 5, "modules": [], "steps": [], "limits": {}}
    with pytest.raises(agent.AgentError, match="shorter"):
        agent.parse_job(header, b"1234", {})


# --- conversations --------------------------------------------------------------------


def test_conversation_gives_every_steps_result() -> None:
    """Frames become results in order; the listener hears of begin and end."""
    heard: list[tuple[str, str]] = []
    second = [pack_frame({**BEGIN, "step": 1}), pack_frame({**END, "step": 1, "status": "ok"})]
    stream = pack_frame(BEGIN) + evidence() + pack_frame(END, b"out")
    conversation = talk(stream[:20], stream[20:], *second, pack_frame(DONE))
    done = conversation.run(JOB, lambda *event: heard.append(event))
    one, two = conversation.results(JOB, RunStatus.NOT_RUN)
    assert (one.status, one.signal, one.output_tail, one.remarks) == (RunStatus.SIGNALED, 9, b"out", ("odd",))
    assert [(frame.header, frame.payload) for frame in one.frames] == [(b"{}", b"x")]
    assert two.status is RunStatus.OK
    assert done.cpu_s == 1.0
    assert heard == [("one", "begin"), ("one", "end"), ("two", "begin"), ("two", "end")]


def test_interrupted_conversation_keeps_what_came_in() -> None:
    """Where the agent is lost, the running step gets the caller's status and later ones NOT_RUN."""
    conversation = talk(pack_frame(BEGIN), evidence())
    with pytest.raises(AgentLost):
        conversation.run(JOB)
    assert conversation.step_is_running
    one, two = conversation.results(JOB, RunStatus.MEMORY_LIMIT, "why")
    assert (one.status, len(one.frames), one.remarks) == (RunStatus.MEMORY_LIMIT, 1, ("why",))
    assert two.status is RunStatus.NOT_RUN


def test_agents_own_failure_is_told() -> None:
    """An `error` frame carries the agent's reason."""
    with pytest.raises(AgentFailed, match="no room"):
        talk(pack_frame({"type": "error", "message": "no room"})).run(JOB)


@pytest.mark.parametrize(
    "frames",
    [
        pytest.param([pack_frame({**BEGIN, "step": 1})], id="out of turn"),
        pytest.param([pack_frame({**BEGIN, "step": -1})], id="negative step"),
        pytest.param([pack_frame({**BEGIN, "step": True})], id="boolean step"),
        pytest.param([pack_frame(BEGIN), pack_frame(BEGIN)], id="twice"),
        pytest.param([pack_frame(END)], id="end before begin"),
        pytest.param([evidence()], id="evidence before begin"),
        pytest.param([pack_frame(BEGIN), evidence(step=1)], id="evidence of another step"),
        pytest.param([pack_frame(BEGIN), evidence(header_bytes=9)], id="header longer than frame"),
        pytest.param([pack_frame(BEGIN), evidence(b"x" * 1001)], id="payload over the limit"),
        pytest.param([pack_frame(BEGIN), *[evidence(b"x" * 600)] * 2], id="bytes over the limit"),
        pytest.param([pack_frame(BEGIN), *[evidence()] * 4], id="frames over the limit"),
        pytest.param([pack_frame(BEGIN), pack_frame({**END, "status": "fine"})], id="unknown status"),
        pytest.param([pack_frame(BEGIN), pack_frame({**END, "wall_time_s": -1})], id="negative time"),
        pytest.param([pack_frame(BEGIN), pack_frame({**END, "wall_time_s": float("nan")})], id="nan time"),
        pytest.param([pack_frame(BEGIN), pack_frame({**END, "remarks": [1]})], id="remarks of numbers"),
        pytest.param([pack_frame(BEGIN), pack_frame(DONE)], id="done too early"),
        pytest.param([pack_frame({"type": "what"})], id="unknown type"),
        pytest.param([pack_frame({"type": []})], id="type of no kind"),
        pytest.param([pack_frame({"type": "error", "message": 1})], id="error without words"),
        pytest.param([pack_frame({})], id="no type"),
        pytest.param([b"HTTP/1.1 200 OK\r\n\r\n"], id="another protocol"),
        pytest.param([], id="nothing"),
    ],
)
def test_every_breach_is_a_protocol_error(frames: list[bytes]) -> None:
    """The host believes nothing that the agent's stream says out of turn or out of bounds."""
    with pytest.raises(ProtocolError):
        talk(*frames).run(JOB)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from([READY, BEGIN, END, DONE]), st.data())
def test_any_value_in_any_field_raises_only_protocol_errors(frame: dict[str, Any], data: st.DataObject) -> None:
    """A field of the wrong kind is a ProtocolError, whichever field and value it is."""
    field = data.draw(st.sampled_from(sorted(frame)))
    altered = pack_frame({**frame, field: data.draw(json_values)})
    begun = [pack_frame(BEGIN)] if frame is END else []
    ready = [] if frame is READY else [pack_frame(READY)]
    conversation = Conversation(FakeChannel(*ready, *begun, altered))
    try:
        conversation.await_ready(0)
        conversation.run(JOB)
    except ProtocolError:
        pass

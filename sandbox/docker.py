"""The sandbox that holds: one hardened container per job. The only file that runs containers.

Theory of operation
-------------------
The container is made from one fixed template (`sandbox.template`); of a job only limits, label
and a random name enter it. Its pid 1 is the agent; the job goes in over the attached
stdin and everything comes back over the attached stdout, so the host shares no directory
with it and opens no path that the candidate controls.

    create, check, attach, start | ready, job, frames, done | detach, kill, wait, look, remove

The order of the last part matters: an attached client that stops reading blocks kill and
remove in the Engine, so the stream is closed first. Every call has a deadline. Between
`ready` and `done` the Engine is not asked for anything: a warm container gets its job over
the stream that is attached already. What comes after `done` may be done later by another
thread, where nothing of the result depends on it.

How a run ended is told by the agent's account and by the State that the Engine keeps, never by text:

* the agent says done: its account stands; OOMKilled is asked where the agent saw no cgroup.
* the agent was lost while a step ran and the Engine saw memory run out, which no earlier
  step accounts for: MEMORY_LIMIT.
* the agent overstayed the job's wall time while a step ran, and was not frozen: TIME_LIMIT.
* anything else: SandboxUnavailable, the infrastructure's fault.

Where this process dies, the Engine closes the container's stdin, which ends the agent and
with it the container; `reap` removes what is left, and whose it was `sandbox.ownership`
tells. Whoever holds the Engine's socket is
root on its host: only the runner should.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import select
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import docker
import docker.errors
import requests
from docker.utils import kwargs_from_env

from sandbox.gpu import Meter
from sandbox.image.build import image_tag
from sandbox.ownership import LABEL_OWNER, NO_SEAT, is_abandoned, this_process
from sandbox.protocol import AgentLost, Conversation, Done, ProtocolError, Ready, check_job
from sandbox.spec import (
    Job,
    Limits,
    RunResult,
    RunStatus,
    RunTiming,
    SandboxUnavailable,
    StepListener,
    StepResult,
)
from sandbox.template import (
    LABEL,
    NO_GPU,
    container_config,
    container_shape,
    host_config,
    missing_limits,
)

API_TIMEOUT_S = 30
WAIT_TIMEOUT_S = 20.0
DIAGNOSTIC_BYTES = 4000
MARGIN_S = 120.0  # of a container's label over what its job may take: retries, teardown
# The Engine's default is 1024, in v1's unit; it converts for v2. While a spare warms up beside a
# grading, the grading gets sixteen parts of the processor and the spare one.
WARMING_CPU_SHARES, CPU_SHARES = 64, 1024

Later = Callable[[Callable[[], None]], None]  # takes what is to be done soon by another thread

log = logging.getLogger(__name__)


# --- the stream -----------------------------------------------------------------------


class AttachChannel:
    """The attached stdin, stdout and stderr of a container: the Engine's multiplexed stream."""

    def __init__(self, response: Any) -> None:
        self._response = response
        self._socket: socket.socket = getattr(response, "_sock", response)
        self._head = b""
        self._stream, self._left = 0, 0
        self.diagnostics = b""  # the end of the agent's stderr; no step can write to it

    def send(self, data: bytes, deadline: float) -> None:
        """Write all of `data`. Raises TimeoutError, AgentLost."""
        rest = memoryview(data)
        while rest:
            self._limit(deadline)
            try:
                rest = rest[self._socket.send(rest) :]
            except (BrokenPipeError, ConnectionResetError) as error:
                raise AgentLost("the container left before it had the job") from error

    def receive(self, deadline: float) -> bytes:
        """Some bytes of stdout, b"" at its end. Raises TimeoutError."""
        while True:
            if not self._left:
                head = self._some(8 - len(self._head), deadline)
                if not head:
                    return b""
                self._head += head
                if len(self._head) < 8:
                    continue
                self._stream, self._left = self._head[0], int.from_bytes(self._head[4:], "big")
                self._head = b""
                continue
            data = self._some(min(self._left, 1 << 20), deadline)
            self._left -= len(data)
            if self._stream == 1 or not data:
                return data
            self.diagnostics = (self.diagnostics + data)[-DIAGNOSTIC_BYTES:]

    def _some(self, size: int, deadline: float) -> bytes:
        self._limit(deadline)
        try:
            return self._socket.recv(size)
        except ConnectionResetError:
            return b""

    def _limit(self, deadline: float) -> None:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the agent did not answer in time")
        self._socket.settimeout(left_s)

    def fileno(self) -> int:
        """The descriptor to poll, -1 where closed."""
        return self._socket.fileno()

    def is_silent(self) -> bool:
        """Whether the stream is open and nothing has come in: so it is while an agent waits."""
        try:
            poller = select.poll()
            poller.register(self._socket, select.POLLIN)
            return not poller.poll(0)
        except (OSError, ValueError):
            return False

    def shut(self) -> None:
        """End the stream both ways, which wakes a thread that waits on it; safe from any thread."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Detach for good; the Engine then holds nothing back for this client."""
        self.shut()
        # docker-py hangs the HTTP response on the socket's file: each holds a reference to the socket.
        for thing in (getattr(self._response, "_response", None), self._response, self._socket):
            if thing is not None:
                with contextlib.suppress(OSError, ValueError):
                    thing.close()


# --- one container --------------------------------------------------------------------


@contextlib.contextmanager
def _engine_faults(doing: str) -> Iterator[None]:
    """Turn what docker-py raises into SandboxUnavailable with what to do."""
    try:
        yield
    except docker.errors.ImageNotFound as error:
        raise SandboxUnavailable(
            f"the sandbox image is missing ({error.explanation}); build it with `make image`"
        ) from error
    except docker.errors.APIError as error:
        raise SandboxUnavailable(f"the Docker Engine refused {doing}: {error.explanation}") from error
    except (docker.errors.DockerException, requests.exceptions.RequestException, OSError) as error:
        raise SandboxUnavailable(
            f"the Docker Engine did not answer {doing} ({error}); is it running? "
            "`make engine` starts one, DOCKER_HOST names another"
        ) from error


@dataclass(frozen=True)
class _State:
    """The Engine's account of a container that has ended."""

    oom_killed: bool = False
    exit_code: int | None = None
    error: str = ""


class WarmContainer:
    """A started container whose agent is ready: takes one job, then is destroyed.

    Made by `DockerSandbox`. Use `start` and `run` at most once and `destroy` always; each may
    be called from another thread than the others, but no two at the same time. `alive`,
    `fileno` and `abandon` may be called at any time.
    """

    def __init__(
        self,
        api: Any,
        container_id: str,
        limits: Limits,
        image_digest: str,
        runtime: str = "",
        gpu: str = NO_GPU,
        on_destroyed: Callable[[], None] = lambda: None,
    ) -> None:
        self.limits, self.image_digest = limits, image_digest
        self.id = container_id
        self.gone = False  # whether the Engine said that nothing is left of it
        self._runtime, self._gpu = runtime, gpu
        self.ready: Ready | None = None
        self.start_s = 0.0
        self._api = api
        self._channel: AttachChannel | None = None
        self._conversation: Conversation | None = None
        self._state: _State | None = None
        self._abandoned = False
        self._on_destroyed = [on_destroyed]
        self._begun = time.monotonic()

    def start(self, start_time_s: float | None = None) -> None:
        """Check the limits, attach, start and await the agent. Raises SandboxUnavailable.

        `start_time_s` replaces the limit of that name: what warms up on the side may take its time.
        """
        start_time_s = self.limits.start_time_s if start_time_s is None else start_time_s
        with _engine_faults("to start a container"):
            config = self._api.inspect_container(self.id)["HostConfig"]
            if missing := missing_limits(config, self.limits, self._runtime, self._gpu):
                raise SandboxUnavailable(
                    f"the Docker Engine does not apply: {', '.join(missing)}. "
                    "Its kernel or configuration lacks them; `docker info` says which"
                )
            streams = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
            self._channel = AttachChannel(self._api.attach_socket(self.id, params=streams))
            if self._abandoned:
                raise SandboxUnavailable("the container was abandoned before it was started")
            self._api.start(self.id)
        self._conversation = Conversation(self._channel)
        try:
            self.ready = self._conversation.await_ready(time.monotonic() + start_time_s)
        except (ProtocolError, OSError) as error:
            raise self._lost(error) from error
        self._check_inside(self.ready)
        self.start_s = max(0.0, time.monotonic() - self._begun - self.ready.warm_up_s)

    def _check_inside(self, ready: Ready) -> None:
        """The Engine may believe in limits that do not hold (rootless on cgroup v1): look inside."""
        for name, seen, wanted in (
            ("memory", ready.memory_limit_bytes, self.limits.memory_bytes),
            ("pids", ready.pids_limit, self.limits.pids),
        ):
            if seen is not None and seen > wanted:
                raise SandboxUnavailable(
                    f"the {name} limit of a started container is {seen}, not {wanted}: "
                    "this Docker Engine does not apply limits"
                )

    def stock(self, modules: Mapping[str, bytes]) -> None:
        """Send the probe modules ahead of the job, which is then begun sooner. Raises SandboxUnavailable."""
        assert self._conversation is not None, "start it first"
        try:
            self._conversation.stock(modules, time.monotonic() + self.limits.start_time_s)
        except (ProtocolError, OSError) as error:
            raise self._lost(error) from error

    def alive(self) -> bool:
        """Whether the agent still waits for a job, as far as the attached stream tells: microseconds."""
        return self.ready is not None and self._channel is not None and self._channel.is_silent()

    def fileno(self) -> int:
        """A descriptor that becomes readable when the waiting container dies."""
        return self._channel.fileno() if self._channel is not None else -1

    def abandon(self) -> None:
        """Cut the stream: a `start` or `run` in another thread then ends with SandboxUnavailable."""
        self._abandoned = True
        if self._channel is not None:
            self._channel.shut()

    def when_destroyed(self, callback: Callable[[], None]) -> None:
        """What is to be done once it is removed, or could not be: see `gone`."""
        self._on_destroyed.append(callback)

    def run(self, job: Job, listener: StepListener | None = None, later: Later | None = None) -> RunResult:
        """Run the job and destroy the container. Raises SandboxUnavailable, ValueError.

        ValueError, before anything has happened, where the job is not well formed or asks
        for a container of another shape. Without `later` the container is gone on return;
        with it, its removal may have been handed over.
        """
        check_job(job)
        if container_shape(job.limits) != container_shape(self.limits):
            raise ValueError("the job's limits are not those that the container was made with")
        if self._conversation is None or self.ready is None or self._state is not None:
            raise SandboxUnavailable("the container is not ready for a job")
        failure: Exception | None = None
        done = Done()
        result_needs_state = True
        meter = Meter(self._gpu) if self._gpu != NO_GPU else None
        try:
            with meter or contextlib.nullcontext():
                done = self._conversation.run(job, listener)
            result_needs_state = self.ready.memory_limit_bytes is None
        except (ProtocolError, OSError) as error:
            failure = error
            if isinstance(error, TimeoutError):
                self._attempt("inspect", self._look_for_a_pause)
        finally:
            teardown_begun = time.monotonic()
            if later is None or result_needs_state:
                self.destroy()
            else:
                later(self._remove)
        steps, remarks = self._steps(job, self._conversation, failure)
        timing = RunTiming(
            self.start_s,
            self.ready.warm_up_s,
            done.steps_s,
            time.monotonic() - teardown_begun,
            done.cpu_s,
            self.ready.warm_up_cpu_s,
        )
        return RunResult(
            steps,
            timing,
            DockerSandbox.name,
            done.peak_memory_bytes,
            self.image_digest,
            self.ready.versions,
            remarks,
            meter.use() if meter is not None else None,
        )

    def _steps(
        self, job: Job, conversation: Conversation, failure: Exception | None
    ) -> tuple[tuple[StepResult, ...], tuple[str, ...]]:
        """Classify how the job ended; see the theory of operation."""
        oom_killed = self._state is not None and self._state.oom_killed
        if failure is None:
            steps = conversation.results(job, RunStatus.NOT_RUN)
            if oom_killed and self.ready is not None and self.ready.memory_limit_bytes is None:
                steps = tuple(_killed_for_memory(step) for step in steps)
            return steps, ()
        if conversation.step_is_running and not self._abandoned:
            if isinstance(failure, TimeoutError):
                remark = "the agent did not answer within the job's wall time"
                return conversation.results(job, RunStatus.TIME_LIMIT, remark), (remark,)
            ran_out_before = any(_ran_out_of_memory(step) for step in conversation.results(job, RunStatus.NOT_RUN))
            if isinstance(failure, AgentLost) and oom_killed and not ran_out_before:
                remark = "the whole container was killed for memory"
                return conversation.results(job, RunStatus.MEMORY_LIMIT, remark), (remark,)
        raise self._lost(failure) from failure

    def _lost(self, error: Exception) -> SandboxUnavailable:
        self.destroy()
        said = self._channel.diagnostics.decode(errors="replace").strip() if self._channel else ""
        state = self._state or _State()
        return SandboxUnavailable(
            f"the sandbox was lost: {error}; exit code {state.exit_code}, "
            f"out of memory: {state.oom_killed}. {state.error} {said}".strip()
        )

    def destroy(self) -> None:
        """Detach, kill, wait, look, remove. Never raises; what stays behind is reaped later."""
        if self._state is None and self._channel is not None:
            self._channel.close()
        if self._state is None:
            self._attempt("kill", lambda: self._api.kill(self.id))
            self._attempt("wait for", lambda: self._api.wait(self.id, timeout=WAIT_TIMEOUT_S))
            self._attempt("inspect", self._look)
            self._remove()

    def _remove(self) -> None:
        """All of `destroy` but the look, where nobody needs one: one call instead of four."""
        self._state = self._state or _State()
        if self._channel is not None:
            self._channel.close()
        try:
            self.gone = self._attempt("remove", lambda: self._api.remove_container(self.id, v=True, force=True))
            self._api.close()
        finally:
            for callback in self._on_destroyed:
                callback()

    def _look_for_a_pause(self) -> None:
        """Whoever freezes a container from outside stops its agent too: no fault of the step that runs."""
        self._abandoned |= bool(self._api.inspect_container(self.id)["State"].get("Paused"))

    def _look(self) -> None:
        state = self._api.inspect_container(self.id)["State"]
        self._state = _State(bool(state.get("OOMKilled")), state.get("ExitCode"), str(state.get("Error") or ""))

    def _attempt(self, verb: str, call: Callable[[], object]) -> bool:
        """Whether the Engine did it, or had nothing left to do."""
        try:
            call()
            return True
        except docker.errors.APIError as error:
            # 404: gone already; 409: not running (kill) or being removed (remove).
            if error.status_code not in (404, 409):
                log.warning("could not %s container %s: %s", verb, self.id[:12], error.explanation)
            return error.status_code == 404
        except (docker.errors.DockerException, requests.exceptions.RequestException, OSError) as error:
            log.warning("could not %s container %s: %s", verb, self.id[:12], error)
            return False


def _killed_for_memory(step: StepResult) -> StepResult:
    killed = step.status is RunStatus.SIGNALED and step.signal == 9
    return replace(step, status=RunStatus.MEMORY_LIMIT) if killed else step


def _ran_out_of_memory(step: StepResult) -> bool:
    """Whether an ended step explains why the Engine says that the container met its memory limit."""
    return step.status is RunStatus.MEMORY_LIMIT or any("killed for memory" in remark for remark in step.remarks)


# --- the sandbox ----------------------------------------------------------------------


class DockerSandbox:
    """Runs jobs in one-shot hardened containers. See `spec.Sandbox`; safe for many threads.

    Args:
        image: the image's tag; by default the one that belongs to this source tree.
        runtime: an OCI runtime registered with the Engine, such as "nvidia" or "runsc".
        gpu: the device of every container: a UUID, an index or a CDI name; "void" for none.
        seat: what only one living process can have; its containers of earlier owners are reaped.

    Raises:
        SandboxUnavailable: where no Engine answers, or it does not have the runtime.
    """

    name = "docker"

    def __init__(self, image: str = "", runtime: str = "", gpu: str = NO_GPU, seat: str = NO_SEAT) -> None:
        self._image, self._runtime, self._gpu = image or image_tag(), runtime, gpu
        self._api_version = "auto"
        self._owner = this_process(seat)
        self._held: set[str] = set()  # names of the containers that are in use, or being removed by their user
        with _engine_faults("at all"):
            api = self._connect()
            self._api_version = str(api.api_version)
            self._info: dict[str, Any] = api.info()
            self._version: dict[str, Any] = api.version()
            api.close()
        registered = sorted(self._info.get("Runtimes") or {})
        if runtime and runtime not in registered:
            raise SandboxUnavailable(
                f"the Docker Engine has no runtime {runtime!r}, only {', '.join(registered) or 'its default'}; "
                "set ASSAY_RUNTIME to one of these, or register it (infra/host, infra/gpu)"
            )
        self.reap()

    def run(self, job: Job, listener: StepListener | None = None) -> RunResult:
        """Run every step of `job` in order in a container of its own, then destroy it.

        Raises SandboxUnavailable where the sandbox itself failed, ValueError where the job
        is not well formed.
        """
        check_job(job)
        return self.prepare(job.limits, job.label).run(job, listener)

    def prepare(self, limits: Limits, label: str = "", lifetime_s: float | None = None) -> WarmContainer:
        """A started container with a warm agent, for one job of the same `container_shape`.

        `lifetime_s` as in `create`. Raises SandboxUnavailable.
        """
        container = self.create(limits, label, lifetime_s)
        try:
            container.start()
        except BaseException:
            container.destroy()
            raise
        return container

    def create(
        self, limits: Limits, label: str = "", lifetime_s: float | None = None, *, background: bool = False
    ) -> WarmContainer:
        """A container yet to be started. In the background, it gives way to others until `quicken`.

        After `lifetime_s` (by default the job's own limits and a margin) `reap` of a process
        that cannot tell whether this one lives may remove it. Raises SandboxUnavailable.
        """
        if lifetime_s is None:
            lifetime_s = limits.start_time_s + limits.wall_time_s + MARGIN_S
        if os.getpid() != self._owner.pid:  # forked: the parent's containers are not ours
            self._owner, self._held = this_process(self._owner.seat), set()
        name = "-".join(filter(None, ("assay", label, secrets.token_hex(6))))
        self._held.add(name)
        api = None
        try:
            with _engine_faults("to create a container"):
                api = self._connect()
                image_id = str(api.inspect_image(self._image)["Id"])
                created = api.create_container(
                    image_id,
                    name=name,
                    **container_config(limits, self._runtime, self._gpu),
                    labels={LABEL: label or "job", LABEL_OWNER: self._owner.label(lifetime_s)},
                    host_config=host_config(limits, self._runtime, self._gpu)
                    | ({"CpuShares": WARMING_CPU_SHARES} if background else {}),
                )
        except BaseException:
            self._held.discard(name)
            if api is not None:
                api.close()
            raise
        held = self._held
        return WarmContainer(api, created["Id"], limits, image_id, self._runtime, self._gpu, lambda: held.discard(name))

    def quicken(self, container: WarmContainer) -> None:
        """End a background container's giving way. Never raises: without it, it is only slower under load."""
        try:
            api = self._connect()
            try:
                api.update_container(container.id, cpu_shares=CPU_SHARES)
            finally:
                api.close()
        except (docker.errors.DockerException, requests.exceptions.RequestException, OSError) as error:
            log.warning("could not raise the CPU shares of container %s: %s", container.id[:12], error)

    def image_identity(self) -> str:
        """Which image runs the steps: what passed controls are remembered by."""
        return self._image

    def facts(self) -> dict[str, Any]:
        """What the Engine says of itself and how this sandbox uses it, for `sandbox.inspection`."""
        return {"info": self._info, "version": self._version, "runtime": self._runtime, "gpu": self._gpu}

    def cannot_hold(self) -> tuple[str, ...]:
        """What this Engine and kernel cannot promise."""
        missing = [
            f"{field}: this Engine's kernel does not support it (`docker info`)"
            for field in ("MemoryLimit", "SwapLimit", "PidsLimit", "CpuCfsQuota")
            if self._info.get(field) is False
        ]
        if not any("seccomp" in option for option in self._info.get("SecurityOptions") or ()):
            missing.append("system calls: this Engine has no seccomp")
        if self._gpu != NO_GPU:
            missing.append("memory_bytes: no cgroup limits the memory of a GPU")
        return (*missing, "kernel: containers share the host's, a hole in it is a way out")

    def reap(self) -> int:
        """Remove containers that nobody can be using any more; says how many. Raises SandboxUnavailable."""
        removed = 0
        with _engine_faults("to list containers"):
            api = self._connect()
            try:
                for item in api.containers(all=True, filters={"label": LABEL}):
                    if is_abandoned(item, self._owner, self._held):
                        with contextlib.suppress(docker.errors.APIError):
                            api.remove_container(item["Id"], v=True, force=True)
                            removed += 1
            finally:
                api.close()
        return removed

    def _connect(self) -> Any:
        """A client of its own for every caller: docker-py's sessions are not made for threads."""
        return docker.APIClient(version=self._api_version, timeout=API_TIMEOUT_S, **kwargs_from_env())

"""The sandbox that holds: one hardened container per job. The only file that runs containers.

Theory of operation
-------------------
The container is made from one fixed template (`sandbox.template`); of a job only limits, label
and a random name enter it. Its pid 1 is the agent; the job goes in over the attached
stdin and everything comes back over the attached stdout, so the host shares no directory
with it and opens no path that the candidate controls.

    create, check, attach, start | ready, job, frames, done | detach, kill, wait, look, remove

The order of the last part matters: an attached client that stops reading blocks kill and
remove in the Engine, so the stream is closed first. Every call has a deadline.

How a run ended is told by the agent's account and by the State that the Engine keeps, never by text:

* the agent says done: its account stands; OOMKilled is asked where the agent saw no cgroup.
* the agent was lost while a step ran and the Engine saw memory run out: MEMORY_LIMIT.
* the agent overstayed the job's wall time while a step ran: TIME_LIMIT.
* anything else: SandboxUnavailable, the infrastructure's fault.

Where this process dies, the Engine closes the container's stdin, which ends the agent and
with it the container; `reap` removes what is left. Whoever holds the Engine's socket is
root on its host: only the runner should.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import docker
import docker.errors
import requests
from docker.utils import kwargs_from_env

from sandbox.image.build import image_tag
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
    LABEL_EXPIRES,
    NO_GPU,
    container_config,
    container_shape,
    host_config,
    missing_limits,
)

API_TIMEOUT_S = 30
WAIT_TIMEOUT_S = 20.0
STALE_S = 120  # an owner removes a container that has ended well before
DIAGNOSTIC_BYTES = 4000

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

    def close(self) -> None:
        """Detach for good; the Engine then holds nothing back for this client."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
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

    Made by `DockerSandbox.prepare`. Use `run` at most once and `destroy` always; both may
    be called from another thread than the one that made it, but not at the same time.
    """

    def __init__(
        self, api: Any, container_id: str, limits: Limits, image_digest: str, runtime: str = "", gpu: str = NO_GPU
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

    def start(self, begun: float) -> None:
        """Check the limits, attach, start and await the agent. Raises SandboxUnavailable."""
        with _engine_faults("to start a container"):
            config = self._api.inspect_container(self.id)["HostConfig"]
            if missing := missing_limits(config, self.limits, self._runtime, self._gpu):
                raise SandboxUnavailable(
                    f"the Docker Engine does not apply: {', '.join(missing)}. "
                    "Its kernel or configuration lacks them; `docker info` says which"
                )
            streams = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
            self._channel = AttachChannel(self._api.attach_socket(self.id, params=streams))
            self._api.start(self.id)
        self._conversation = Conversation(self._channel)
        try:
            self.ready = self._conversation.await_ready(time.monotonic() + self.limits.start_time_s)
        except (ProtocolError, OSError) as error:
            raise self._lost(error) from error
        self._check_inside(self.ready)
        self.start_s = max(0.0, time.monotonic() - begun - self.ready.warm_up_s)

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

    def run(self, job: Job, listener: StepListener | None = None) -> RunResult:
        """Run the job and destroy the container. Raises SandboxUnavailable, ValueError.

        ValueError, before anything has happened, where the job is not well formed or asks
        for a container of another shape.
        """
        check_job(job)
        if container_shape(job.limits) != container_shape(self.limits):
            raise ValueError("the job's limits are not those that the container was made with")
        if self._conversation is None or self.ready is None or self._state is not None:
            raise SandboxUnavailable("the container is not ready for a job")
        failure: Exception | None = None
        done = Done()
        try:
            done = self._conversation.run(job, listener)
        except (ProtocolError, OSError) as error:
            failure = error
        finally:
            teardown_begun = time.monotonic()
            self.destroy()
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
        if conversation.step_is_running:
            if isinstance(failure, TimeoutError):
                remark = "the agent did not answer within the job's wall time"
                return conversation.results(job, RunStatus.TIME_LIMIT, remark), (remark,)
            if isinstance(failure, AgentLost) and oom_killed:
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
        if self._state is not None:
            return
        self._state = _State()
        if self._channel is not None:
            self._channel.close()
        self._attempt("kill", lambda: self._api.kill(self.id))
        self._attempt("wait for", lambda: self._api.wait(self.id, timeout=WAIT_TIMEOUT_S))
        self._attempt("inspect", self._look)
        self.gone = self._attempt("remove", lambda: self._api.remove_container(self.id, v=True, force=True))
        self._api.close()

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


# --- the sandbox ----------------------------------------------------------------------


class DockerSandbox:
    """Runs jobs in one-shot hardened containers. See `spec.Sandbox`; safe for many threads.

    Args:
        image: the image's tag; by default the one that belongs to this source tree.
        runtime: an OCI runtime registered with the Engine, such as "nvidia" or "runsc".
        gpu: the device of every container: a UUID, an index or a CDI name; "void" for none.

    Raises:
        SandboxUnavailable: where no Engine answers, or it does not have the runtime.
    """

    name = "docker"

    def __init__(self, image: str = "", runtime: str = "", gpu: str = NO_GPU) -> None:
        self._image, self._runtime, self._gpu = image or image_tag(), runtime, gpu
        self._api_version = "auto"
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

        After `lifetime_s` (by default the job's own limits and a margin) `reap` may remove it.
        Raises SandboxUnavailable.
        """
        begun = time.monotonic()
        lifetime_s = limits.start_time_s + limits.wall_time_s + 120 if lifetime_s is None else lifetime_s
        with _engine_faults("to create a container"):
            api = self._connect()
            image_id = str(api.inspect_image(self._image)["Id"])
            name = "-".join(filter(None, ("assay", label, secrets.token_hex(6))))
            created = api.create_container(
                image_id,
                name=name,
                **container_config(limits, self._runtime, self._gpu),
                labels={LABEL: label or "job", LABEL_EXPIRES: str(int(time.time() + lifetime_s))},
                host_config=host_config(limits, self._runtime, self._gpu),
            )
        container = WarmContainer(api, created["Id"], limits, image_id, self._runtime, self._gpu)
        try:
            container.start(begun)
        except BaseException:
            container.destroy()
            raise
        return container

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
        """Remove containers that nobody can be using any more; says how many."""
        with _engine_faults("to list containers"):
            api = self._connect()
            try:
                stale = [
                    item["Id"]
                    for item in api.containers(all=True, filters={"label": LABEL})
                    if _is_stale(item, time.time())
                ]
                for container_id in stale:
                    with contextlib.suppress(docker.errors.APIError):
                        api.remove_container(container_id, v=True, force=True)
            finally:
                api.close()
        return len(stale)

    def _connect(self) -> Any:
        """A client of its own for every caller: docker-py's sessions are not made for threads."""
        return docker.APIClient(version=self._api_version, timeout=API_TIMEOUT_S, **kwargs_from_env())


def _is_stale(item: Mapping[str, Any], now: float) -> bool:
    """Whether a container of the Engine's list has expired, or ended without being removed."""
    expires = str((item.get("Labels") or {}).get(LABEL_EXPIRES, ""))
    if not expires.isdigit() or now > int(expires):
        return True
    return item.get("State") in ("created", "exited", "dead") and now - float(item["Created"]) > STALE_S

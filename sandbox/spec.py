"""What crosses the sandbox's border: a Job goes in, a RunResult comes out.

Stdlib only, so that every room of the house may import it. Nothing here knows what a bug
or a challenge is: the sandbox runs steps, measures them from outside and hands back
bounded bytes; what they mean is decided by `grading`.

Vocabulary
----------
A *job* is one submission plus an ordered list of *steps*. Each step runs in a process of
its own, forked from a warm interpreter that has torch imported and has never seen the
submission. A step calls one function of the job's probe modules, which drives the
submission and *emits evidence frames*. Candidate faults (crash, time limit, flood) are
values in the result; faults of the infrastructure are raised as `SandboxUnavailable`.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


class SandboxUnavailable(Exception):
    """The sandbox could not run the job (no Engine, no image, a container lost).

    Never the candidate's fault: the caller retries or reports infrastructure trouble.
    """


class SandboxBusy(SandboxUnavailable):
    """There is no room for the job now; the message says what to do."""


class JobRefused(SandboxUnavailable):
    """The sandbox does not take such jobs; the message names the field and the setting."""


class RunStatus(enum.Enum):
    """How a step ended, as seen from outside the candidate's process."""

    OK = "ok"
    NONZERO_EXIT = "nonzero_exit"
    SIGNALED = "signaled"
    TIME_LIMIT = "time_limit"
    MEMORY_LIMIT = "memory_limit"
    OUTPUT_LIMIT = "output_limit"
    NOT_RUN = "not_run"  # the job ended before this step's turn


@dataclass(frozen=True)
class Limits:
    """Bounds of one job. Every field is a setting with a documented default."""

    wall_time_s: float = 240.0  # the whole job, start of the container excluded
    start_time_s: float = 60.0  # from creating the container to the agent being ready
    memory_bytes: int = 1 << 30  # memory and swap together; tmpfs counts
    cpu_count: float = 1.0  # quota; torch's threads are set to its floor, at least 1
    pids: int = 64
    tmp_bytes: int = 64 << 20  # size of the /tmp tmpfs
    tmp_inodes: int = 4096
    shm_bytes: int = 64 << 20
    shm_inodes: int = 1024
    open_files: int = 256
    file_bytes: int = 64 << 20  # largest single file (RLIMIT_FSIZE)
    output_bytes: int = 16 << 20  # stdout+stderr of one step before it is killed
    output_tail_bytes: int = 16 << 10  # how much of that is kept (its end)
    evidence_bytes: int = 48 << 20  # all frames of one step
    evidence_frames: int = 4096  # per step
    gpu_memory_bytes: int = 0  # of one process on a GPU, as far as torch's allocator obeys; 0 is no limit


@dataclass(frozen=True)
class Array:
    """A raw C-order array: numpy dtype string such as '<f4', shape, bytes."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


@dataclass(frozen=True)
class Step:
    """One fresh process: call `module.function(context)` of the job's probe modules."""

    name: str
    entry: str  # "module:function", module being a key of Job.modules
    params: Mapping[str, Any] = field(default_factory=dict)  # JSON values
    arrays: Mapping[str, Array] = field(default_factory=dict)
    wall_time_s: float = 20.0
    cpu_time_s: float = 15.0
    unless_hung: str = ""  # not run where the step of this name ran into its time limit without a frame
    sees_gpu: bool = False  # whether CUDA shows it the sandbox's device, where there is one
    apart: bool = False  # may run in a sandbox of its own at the same time as the others, where one waits


@dataclass(frozen=True)
class Job:
    """One submission and what to do with it.

    `modules` maps a dotted module name ("grading.probes.recorder") to its Python source.
    They are importable under those names inside each step's process, before the
    submission is loaded. No secret may be among them.
    """

    submission: bytes
    modules: Mapping[str, bytes]
    steps: tuple[Step, ...]
    limits: Limits = field(default_factory=Limits)
    label: str = ""  # goes into the container's name and labels: [a-z0-9-], at most 40


@dataclass(frozen=True)
class Frame:
    """One evidence frame exactly as the step wrote it: JSON header, raw payload.

    Untrusted. `grading.evidence` is the only reader.
    """

    header: bytes
    payload: bytes


@dataclass(frozen=True)
class StepResult:
    """The agent's account of one step, measured from outside the candidate's process."""

    name: str
    status: RunStatus
    exit_code: int | None = None
    signal: int | None = None
    wall_time_s: float = 0.0
    cpu_time_s: float = 0.0  # user + system, of the step's process and its waited children
    peak_memory_bytes: int = 0  # the step process's largest resident set
    baseline_memory_bytes: int = 0  # its resident set right after the fork
    frames: tuple[Frame, ...] = ()
    output_tail: bytes = b""  # end of stdout+stderr, interleaved; untrusted bytes
    output_bytes: int = 0  # how much was written in all
    remarks: tuple[str, ...] = ()  # oddities the agent saw: malformed frame, flood, ...


@dataclass(frozen=True)
class RunTiming:
    """Seconds of wall time of the job's phases; CPU seconds where the kernel tells."""

    start_s: float = 0.0  # create + start of the container or process, to first byte
    warm_up_s: float = 0.0  # importing torch and its optimizers
    steps_s: float = 0.0
    teardown_s: float = 0.0
    cpu_s: float = 0.0  # everything inside, warm-up included
    warm_up_cpu_s: float = 0.0


@dataclass(frozen=True)
class GpuUse:
    """What a job did on its sandbox's device, read from the driver outside the sandbox."""

    time_s: float | None  # during which a kernel ran; None where the driver does not tell, as on a MIG slice
    peak_memory_bytes: int  # over what was in use before: CUDA's contexts count


@dataclass(frozen=True)
class RunResult:
    """What one job gave."""

    steps: tuple[StepResult, ...]
    timing: RunTiming
    sandbox: str  # "docker" or "process"
    peak_memory_bytes: int = 0  # of the whole sandbox where the kernel tells, else of its processes
    image_digest: str = ""  # "" for the process sandbox
    versions: Mapping[str, str] = field(default_factory=dict)  # python, torch, numpy inside
    remarks: tuple[str, ...] = ()
    gpu: GpuUse | None = None  # None without a device of its own, or where the host's driver does not tell

    def step(self, name: str) -> StepResult | None:
        """The result of the step called `name`, or None where it was not asked for."""
        return next((s for s in self.steps if s.name == name), None)


StepListener = Callable[[str, str], None]  # (step name, "begin" | "end")


class Sandbox(Protocol):
    """Runs one job in isolation and destroys every trace of it.

    `run` returns a RunResult whatever the submission does, within the job's limits plus a
    documented grace. It raises SandboxUnavailable when the sandbox itself failed. It is
    safe to call from several threads at once.
    """

    name: str

    def run(self, job: Job, listener: StepListener | None = None) -> RunResult:
        """Run every step of `job`, each in a fresh process: in order, but for those that may run apart."""
        ...

    def cannot_hold(self) -> tuple[str, ...]:
        """The promises of `Limits` and of isolation that this sandbox cannot keep here."""
        ...

"""Measures what a grade costs beside a bare run of the same file: what `assay bench` prints.

Theory of operation
-------------------
Everything that is compared is measured in one run and in turns (bare, one thread, cold, warm,
bare, …), so that noise meets all alike; before each turn the pool is full and at rest, so that
no container warms up beside a bare run. A refill that a warm grade sets off runs beside that
grade, as it does in service.

CPU time has four accounts. `inside`: the container's own cgroup, its warm-up included.
`grader`: this process. `engine`: dockerd and containerd with the children that they have waited
for. `machine`: everything that the kernel counted meanwhile, on all processors, until the pool is
full again; on an idle machine it also has what the first three miss (the shims, the kernel's own
threads), and on a busy one it tells that there was somebody else. A bare run's CPU time is what
`wait4` says of its process.

Ratios are of medians; their ranges are the middle 95 % of 2,000 resamplings of the samples.
"""

from __future__ import annotations

import ast
import datetime
import importlib.metadata
import os
import platform
import random
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from grading.challenge import Challenge
from grading.engine import ASSAY_VERSION, Submission, build_job, grade, load_judge
from grading.judgement import Secrets
from grading.verdict import Report, Verdict
from sandbox.spec import Job, Limits, Sandbox

Part = Literal["wall", "handover", "cohort", "idle"]
PARTS: tuple[Part, ...] = ("wall", "handover", "cohort", "idle")
MB = 1e6  # bytes
ENGINE_PROCESSES = ("dockerd", "containerd")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
RESAMPLINGS = 2000
ENOUGH = 5  # samples for a range
BLOCKS = 5  # turns that a cohort is cut into
STAMP = b"assay-first-line"
_STAMPED = re.compile(STAMP + rb" (\d+)")

Progress = Callable[[int, int], None]


class CannotMeasure(Exception):
    """The file or this machine does not allow the measurement; the message says why."""


class Prepared(Protocol):
    """A warm container that nobody has used."""

    @property
    def id(self) -> str:
        """What the Engine calls it."""
        ...

    def destroy(self) -> None:
        """Remove it. Never raises."""
        ...


class ColdSandbox(Sandbox, Protocol):
    """Makes a container for every job."""

    def prepare(self, limits: Limits, label: str = "") -> Prepared:
        """A warm container. Raises SandboxUnavailable."""
        ...


class WarmSandbox(Sandbox, Protocol):
    """Takes a container for every job that has been warm before."""

    def status(self) -> Mapping[str, Any]:
        """Shelves with their `warm`, `warming`, `jobs` and `target`; `busy`, `teardowns` and `served_warm`."""
        ...


# --- statistics -----------------------------------------------------------------------


def percentile(samples: Sequence[float], share: float) -> float:
    """The value below which `share` (0 to 1) of the samples lie, interpolated between neighbours."""
    ordered = sorted(samples)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


@dataclass(frozen=True)
class Ratio:
    """A ratio of medians and the range that resampling gives it."""

    value: float
    low: float
    high: float
    samples: int  # of the smaller side: with few of them the range says nothing


def ratio(above: Sequence[float], below: Sequence[float]) -> Ratio:
    """The ratio of the medians of `above` and `below`; always the same for the same samples."""
    rng = random.Random(0)

    def resampled() -> float:
        drawn = (rng.choices(samples, k=len(samples)) for samples in (above, below))
        over, under = map(statistics.median, drawn)
        return over / under

    found = [resampled() for _ in range(RESAMPLINGS)]
    value = statistics.median(above) / statistics.median(below)
    samples = min(len(above), len(below))
    return Ratio(value, percentile(found, 0.025), percentile(found, 0.975), samples)


# --- what the kernel tells ------------------------------------------------------------

_TICKS = os.sysconf("SC_CLK_TCK")


def _proc(path: str) -> str:
    """The text of a file of /proc, "" where it cannot be read."""
    try:
        return Path("/proc", path).read_text("utf-8", "replace")
    except OSError:
        return ""


def _pids() -> Iterator[str]:
    return filter(str.isdigit, os.listdir("/proc"))


def machine_cpu_s() -> float:
    """CPU seconds that all processors have spent on anything but waiting, since the boot."""
    words = _proc("stat").partition("\n")[0].split()
    user, nice, system, _, _, irq, softirq = map(int, words[1:8])  # guests count as user; stolen time is not ours
    return (user + nice + system + irq + softirq) / _TICKS


def engine_cpu_s() -> float:
    """CPU seconds of the Engine's own processes and of the children that they have waited for."""
    total = 0
    for pid in _pids():
        text = _proc(f"{pid}/stat")
        if text[text.find("(") + 1 : text.rfind(")")] in ENGINE_PROCESSES:
            total += sum(map(int, text[text.rfind(")") + 1 :].split()[11:15]))
    return total / _TICKS


def grader_cpu_s() -> float:
    """CPU seconds of this process, all threads."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def private_bytes(pid: str) -> int | None:
    """What of a process's resident memory it shares with no other; None where this user may not look."""
    rollup = _proc(f"{pid}/smaps_rollup")
    found = re.findall(r"^Private_(?:Clean|Dirty):\s+(\d+) kB", rollup, re.MULTILINE)
    return sum(map(int, found)) << 10 if found else None


def processes_of(container_id: str) -> tuple[list[str], list[str]]:
    """The pids on this host of a container's processes, and of the shims that look after it."""
    inside = [pid for pid in _pids() if container_id in _proc(f"{pid}/cgroup")]
    shims = [pid for pid in _pids() if pid not in inside and _is_shim(_proc(f"{pid}/cmdline"), container_id)]
    return inside, shims


def _is_shim(command: str, container_id: str) -> bool:
    words = command.split("\0")
    return "containerd-shim" in words[0] and container_id in words


@dataclass(frozen=True)
class Load:
    """How busy the machine was before the first measurement."""

    average_1_min: float
    average_5_min: float
    busy_share: float  # of all processors, over one second in which nothing was measured

    @property
    def is_idle(self) -> bool:
        """Whether figures taken now mean something."""
        return self.busy_share < 0.05 and self.average_1_min < 0.5 * (os.cpu_count() or 1)


def load() -> Load:
    """Look at the machine for a second."""
    began, before = time.monotonic(), machine_cpu_s()
    time.sleep(1.0)
    busy_s = (machine_cpu_s() - before) / (time.monotonic() - began)
    one, five, _ = os.getloadavg()
    return Load(one, five, busy_s / (os.cpu_count() or 1))


# --- samples --------------------------------------------------------------------------


@dataclass(frozen=True)
class RunSample:
    """One run of one variant, alone on the machine. Seconds."""

    wall_s: float
    cpu_s: float  # of the bare process, or inside the container with its warm-up
    warm_up_cpu_s: float = 0.0
    grader_cpu_s: float = 0.0
    engine_cpu_s: float = 0.0
    machine_cpu_s: float = 0.0
    steps_wall_s: Mapping[str, float] = field(default_factory=dict)
    judge_s: float = 0.0
    verdicts: int = 0  # that were decided
    goal_measured: bool = False


@dataclass(frozen=True)
class BlockSample:
    """A block of a cohort: `runs` runs of one variant, several at a time. Seconds, sums over the block."""

    runs: int
    wall_s: float
    cpu_s: float
    warm_up_cpu_s: float = 0.0
    grader_cpu_s: float = 0.0
    engine_cpu_s: float = 0.0
    machine_cpu_s: float = 0.0
    wall_each_s: tuple[float, ...] = ()

    @property
    def total_cpu_s(self) -> float:
        """All that can be laid to the account of these runs."""
        return self.cpu_s + self.grader_cpu_s + self.engine_cpu_s


@dataclass(frozen=True)
class HandoverSample:
    """From calling `run` with a job to what the name says. Milliseconds."""

    step_begins_ms: float
    first_line_ms: float


@dataclass(frozen=True)
class IdleSample:
    """Memory that a waiting container shares with no other process. Bytes."""

    agent_private_bytes: int
    shim_private_bytes: int


@dataclass(frozen=True)
class Plan:
    """What to measure, how often."""

    parts: tuple[Part, ...] = PARTS
    rounds: int = 10
    handovers: int = 50
    cohort: int = 50
    jobs: int = 2
    patience_s: float = 600.0  # for one bare run, and for the pool to be full

    def blocks(self) -> list[int]:
        """How many runs each block of the cohort has."""
        count = max(1, min(BLOCKS, self.cohort // (2 * self.jobs)))
        return [self.cohort // count + (number < self.cohort % count) for number in range(count)]

    def units(self) -> int:
        """How many runs there will be, for the progress display."""
        each = {
            "wall": 4 * (self.rounds + 1),
            "handover": self.handovers + 1,
            "cohort": 3 * self.cohort,
            "idle": 1,
        }
        return sum(each[part] for part in self.parts)


# --- the bench ------------------------------------------------------------------------


class Bench:
    """Runs one file bare and graded, in turns.

    Args:
        cold: makes a container for every job.
        warm: has containers waiting; at least `plan.jobs` of the shape of `limits`.
        limits: of the grades; their wall time may be cut to what the challenge's steps need.
        progress: told of each run that has ended.
    """

    def __init__(
        self,
        file: Path,
        challenge: Challenge,
        cold: ColdSandbox,
        warm: WarmSandbox,
        limits: Limits,
        plan: Plan,
        progress: Progress,
    ) -> None:
        self._file, self._challenge, self._limits, self._plan = file, challenge, limits, plan
        self._cold, self._warm = cold, warm
        self._submission = Submission(file.name, file.read_bytes())
        self._progress, self._done = progress, 0
        self._lock = threading.Lock()
        self._versions: dict[str, str] = {}
        self.runs: dict[str, list[RunSample]] = {}
        self.blocks: dict[str, list[BlockSample]] = {}
        self.handovers: list[HandoverSample] = []
        self.idle: list[IdleSample] = []

    def run(self) -> dict[str, Any]:
        """Measure everything that the plan asks for. Raises CannotMeasure, SandboxUnavailable."""
        before = load()
        self._cold.prepare(self._limits, "bench").destroy()  # says at once what a pool would try again and again
        self._progress(0, self._plan.units())
        with tempfile.TemporaryDirectory(prefix="assay-bench-") as folder:
            self._folder = Path(folder)
            if "idle" in self._plan.parts:
                self._measure_idle()
            if "wall" in self._plan.parts:
                self._measure_wall()
            if "handover" in self._plan.parts:
                self._measure_handover()
            if "cohort" in self._plan.parts:
                self._measure_cohort()
        return self._summary(before)

    def _tick(self) -> None:
        with self._lock:
            self._done += 1
            self._progress(self._done, self._plan.units())

    # -- one run of each variant

    def _bare(self, threads: int | None = None) -> RunSample:
        """`python FILE` in a fresh interpreter, as a candidate starts it; with `threads`, limited to so many."""
        environment = {k: v for k, v in os.environ.items() if k not in THREAD_VARIABLES}
        if threads is not None:
            environment["OMP_NUM_THREADS"] = str(threads)
        with tempfile.TemporaryFile() as errors:
            machine, began = machine_cpu_s(), time.perf_counter()
            process = subprocess.Popen(
                [sys.executable, str(self._file.resolve())],
                cwd=self._folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )
            timer = threading.Timer(self._plan.patience_s, process.kill)
            timer.start()
            try:
                _, status, usage = os.wait4(process.pid, 0)
            finally:
                timer.cancel()
            wall_s = time.perf_counter() - began
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode != 0:
                errors.seek(0)
                raise CannotMeasure(_why_bare_failed(process.returncode, errors.read()))
        self._tick()
        return RunSample(wall_s, usage.ru_utime + usage.ru_stime, machine_cpu_s=machine_cpu_s() - machine)

    def _graded(self, sandbox: Sandbox) -> RunSample:
        """One complete grade, its controls excepted."""
        report, wall_s = self._grade(sandbox)
        timing = report.timing
        return RunSample(
            wall_s,
            timing.cpu_s,
            timing.warm_up_cpu_s,
            steps_wall_s={step.name: step.wall_time_s for step in timing.steps},
            judge_s=timing.judge_s,
            verdicts=sum(bug.verdict is not Verdict.INCONCLUSIVE for bug in report.bugs),
            goal_measured=report.goal.reached is not None,
        )

    def _grade(self, sandbox: Sandbox) -> tuple[Report, float]:
        began = time.perf_counter()
        report = grade(self._submission, self._challenge, sandbox, limits=self._limits)
        wall_s = time.perf_counter() - began
        if report.outcome != "graded":
            raise CannotMeasure(f"the file cannot be graded: {report.invalid_reason}")
        with self._lock:
            self._versions = {
                "python_inside": report.versions.python,
                "torch_inside": report.versions.torch,
                "image_digest": report.versions.image_digest,
                "grader_digest": report.versions.grader_digest,
            }
        self._tick()
        return report, wall_s

    def _accounted(self, measure: Callable[[], RunSample]) -> RunSample:
        """A grade with what it cost outside its container, until the pool is full again."""
        machine, grader, engine = machine_cpu_s(), grader_cpu_s(), engine_cpu_s()
        sample = measure()
        self._settle()
        return replace(
            sample,
            grader_cpu_s=grader_cpu_s() - grader,
            engine_cpu_s=engine_cpu_s() - engine,
            machine_cpu_s=machine_cpu_s() - machine,
        )

    def _settle(self) -> None:
        """Wait until the pool is full and nothing is going on in it."""
        deadline = time.monotonic() + self._plan.patience_s
        while not at_rest(self._warm.status()):
            if time.monotonic() > deadline:
                raise CannotMeasure(f"the pool was not full after {self._plan.patience_s:.0f} s")
            time.sleep(0.02)

    # -- the parts

    def _measure_wall(self) -> None:
        variants: dict[str, Callable[[], RunSample]] = {
            "bare": self._bare,
            "bare_one_thread": lambda: self._bare(threads=1),
            "cold": lambda: self._accounted(lambda: self._graded(self._cold)),
            "warm": lambda: self._accounted(lambda: self._graded(self._warm)),
        }
        for number in range(self._plan.rounds + 1):
            for name, measure in variants.items():
                self._settle()
                sample = measure()
                if number:  # the first round fills the page cache
                    self.runs.setdefault(name, []).append(sample)

    def _measure_handover(self) -> None:
        job = self._handover_job()
        for number in range(self._plan.handovers + 1):
            self._settle()
            sample = self._hand_over(job)
            if number:
                self.handovers.append(sample)

    def _handover_job(self) -> Job:
        """The first step of a real grade, of the same file with a stamp as its first line."""
        plan = load_judge(self._challenge).plan(Secrets(os.urandom(16).hex()), self._challenge.manifest)
        submission = Submission(self._submission.name, stamped(self._submission.source))
        job = build_job(submission, self._challenge, plan, self._limits)
        return replace(job, steps=job.steps[:1])

    def _hand_over(self, job: Job) -> HandoverSample:
        begins_ns: list[int] = []

        def listen(_: str, phase: str) -> None:
            if phase == "begin":
                begins_ns.append(time.monotonic_ns())

        served = self._warm.status()["served_warm"]
        began_ns = time.monotonic_ns()  # the same clock inside and out, gVisor excepted
        result = self._warm.run(job, listen)
        if self._warm.status()["served_warm"] == served:
            raise CannotMeasure("no container was waiting for a hand-over")
        found = _STAMPED.search(result.steps[0].output_tail)
        if found is None:
            raise CannotMeasure("the file's first line was never executed, or its output hid that")
        self._tick()
        return HandoverSample((begins_ns[0] - began_ns) / 1e6, (int(found[1]) - began_ns) / 1e6)

    def _measure_cohort(self) -> None:
        variants: dict[str, Callable[[int], BlockSample]] = {
            "bare": lambda runs: self._bare_block(runs, None),
            "bare_one_thread": lambda runs: self._bare_block(runs, 1),
            "warm": self._graded_block,
        }
        for runs in self._plan.blocks():
            for name, measure in variants.items():
                self._settle()
                self.blocks.setdefault(name, []).append(measure(runs))

    def _bare_block(self, runs: int, threads: int | None) -> BlockSample:
        machine, began = machine_cpu_s(), time.perf_counter()
        samples = self._at_a_time(runs, lambda: self._bare(threads))
        wall_s = time.perf_counter() - began
        return BlockSample(
            runs,
            wall_s,
            sum(sample.cpu_s for sample in samples),
            machine_cpu_s=machine_cpu_s() - machine,
            wall_each_s=tuple(sample.wall_s for sample in samples),
        )

    def _graded_block(self, runs: int) -> BlockSample:
        machine, grader, engine = machine_cpu_s(), grader_cpu_s(), engine_cpu_s()
        began = time.perf_counter()
        samples = self._at_a_time(runs, lambda: self._graded(self._warm))
        wall_s = time.perf_counter() - began
        self._settle()  # so that each block has paid for as many warm-ups as it has used
        return BlockSample(
            runs,
            wall_s,
            sum(sample.cpu_s for sample in samples),
            sum(sample.warm_up_cpu_s for sample in samples),
            grader_cpu_s() - grader,
            engine_cpu_s() - engine,
            machine_cpu_s() - machine,
            tuple(sample.wall_s for sample in samples),
        )

    def _at_a_time(self, runs: int, one: Callable[[], RunSample]) -> list[RunSample]:
        with ThreadPoolExecutor(self._plan.jobs) as pool:
            waiting = [pool.submit(one) for _ in range(runs)]
            try:
                return [each.result() for each in waiting]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _measure_idle(self) -> None:
        """Beside the pool's own waiting containers: pages that all have in common are nobody's own."""
        self._settle()
        with self._waiting_containers(2) as containers:
            time.sleep(1.0)
            for container in containers:
                inside, shims = processes_of(container.id)
                agents, helpers = (list(map(private_bytes, pids)) for pids in (inside, shims))
                if not agents or None in (*agents, *helpers):
                    raise CannotMeasure("only root may see the memory of a container; leave `idle` out, or be root")
                total = [sum(filter(None, sizes)) for sizes in (agents, helpers)]
                self.idle.append(IdleSample(total[0], total[1]))
        self._tick()

    @contextmanager
    def _waiting_containers(self, count: int) -> Iterator[list[Prepared]]:
        containers: list[Prepared] = []
        try:
            for _ in range(count):
                containers.append(self._cold.prepare(self._limits, "bench"))
            yield containers
        finally:
            for container in containers:
                container.destroy()

    # -- what came out

    def _summary(self, before: Load) -> dict[str, Any]:
        """The figures by the names that `assay bench --json` promises, then the samples."""
        found: dict[str, Any] = {"handover_ms": None, **dict.fromkeys(_RATIOS)}
        found |= {"idle_private_mb": None, "ranges": {}}
        for name, value in self._ratios():
            found[name] = round(value.value, 4)
            if value.samples >= ENOUGH:
                found["ranges"][name] = [round(value.low, 4), round(value.high, 4)]
        if self.handovers:
            first = [sample.first_line_ms for sample in self.handovers]
            found["handover_ms"] = {"p50": round(percentile(first, 0.5), 2), "p95": round(percentile(first, 0.95), 2)}
        if self.idle:
            agents = [sample.agent_private_bytes / MB for sample in self.idle]
            shims = [sample.shim_private_bytes / MB for sample in self.idle]
            found["idle_private_mb"] = round(statistics.median(agents), 1)
            found["idle_shim_private_mb"] = round(statistics.median(shims), 1)
        found["goals"] = [asdict(goal) for goal in goals(found)]
        return found | {
            "every_grade_was_complete": self._all_complete(),
            "file": self._file.name,
            "file_sha256": self._submission.sha256,
            "challenge": self._challenge.slug,
            "plan": asdict(self._plan),
            "limits": asdict(self._limits),
            "measured_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "machine": machine(),
            "load_before": asdict(before) | {"is_idle": before.is_idle},
            "versions": _versions() | self._versions,
            "samples": {
                "runs": {name: [asdict(one) for one in samples] for name, samples in self.runs.items()},
                "cohort": {name: [asdict(one) for one in samples] for name, samples in self.blocks.items()},
                "handover": [asdict(one) for one in self.handovers],
                "idle": [asdict(one) for one in self.idle],
            },
        }

    def _all_complete(self) -> bool | None:
        """Whether every grade alone on the machine decided every bug and the goal; None where there was none."""
        grades = [sample for name in ("cold", "warm") for sample in self.runs.get(name, ())]
        bugs = len(self._challenge.manifest.bugs)
        return all(one.verdicts == bugs and one.goal_measured for one in grades) if grades else None

    def _ratios(self) -> Iterator[tuple[str, Ratio]]:
        walls = {name: [sample.wall_s for sample in samples] for name, samples in self.runs.items()}
        for graded in ("warm", "cold"):
            for bare in ("bare", "bare_one_thread"):
                if graded in walls and bare in walls:
                    yield f"wall_ratio_{graded}_over_{bare}", ratio(walls[graded], walls[bare])
        if "warm" in self.blocks:
            own = {n: [b.total_cpu_s / b.runs for b in blocks] for n, blocks in self.blocks.items()}
            inside = [block.cpu_s / block.runs for block in self.blocks["warm"]]
            whole = {n: [b.machine_cpu_s / b.runs for b in blocks] for n, blocks in self.blocks.items()}
            for bare in ("bare", "bare_one_thread"):
                yield f"cpu_ratio_cohort_over_{bare}", ratio(own["warm"], own[bare])
            yield "cpu_ratio_cohort_inside_over_bare", ratio(inside, own["bare"])
            yield "cpu_ratio_cohort_over_bare_whole_machine", ratio(whole["warm"], whole["bare"])


_RATIOS = ("wall_ratio_warm_over_bare", "wall_ratio_cold_over_bare", "cpu_ratio_cohort_over_bare")


def at_rest(status: Mapping[str, Any]) -> bool:
    """Whether a pool of this status is full and nothing is under way in it."""
    shelves = status["shelves"]
    full = all(shelf["warm"] >= shelf["target"] and not shelf["warming"] and not shelf["jobs"] for shelf in shelves)
    return full and not status["busy"] and not status["teardowns"]


def _why_bare_failed(exit_code: int, errors: bytes) -> str:
    last = errors.decode("utf-8", "replace").strip().rpartition("\n")[2][:300]
    why = f": {last}" if last else ""
    return f"`python FILE` ended with exit code {exit_code}{why}"


def stamped(source: bytes) -> bytes:
    """The program with a first statement that prints when it is executed, on the monotonic clock.

    Raises CannotMeasure where the source is no Python.
    """
    try:
        body = ast.parse(source).body
    except (SyntaxError, ValueError) as error:
        raise CannotMeasure(f"the file is no Python: {error}") from error
    first = next((node for node in body if not _must_come_first(node)), None)
    if first is None:
        raise CannotMeasure("the file has no statement")
    # A decorated definition begins at its decorators.
    line = min(node.lineno for node in (first, *getattr(first, "decorator_list", ())))
    lines = source.splitlines(keepends=True)
    stamp = b"import time; print('" + STAMP + b"', time.monotonic_ns(), flush=True)\n"
    return b"".join([*lines[: line - 1], stamp, *lines[line - 1 :]])


def _must_come_first(node: ast.stmt) -> bool:
    is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    return is_text or (isinstance(node, ast.ImportFrom) and node.module == "__future__")


# --- goals ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Goal:
    """A figure, what it shall be at most, and whether it is."""

    name: str
    value: float
    at_most: float
    unit: str = ""

    @property
    def is_reached(self) -> bool:
        """Whether the figure is within its goal."""
        return self.value <= self.at_most


def goals(found: Mapping[str, Any]) -> list[Goal]:
    """The goals of every figure that was measured."""
    handover, wall, cpu = found["handover_ms"], found["wall_ratio_warm_over_bare"], found["cpu_ratio_cohort_over_bare"]
    listed = []
    if handover is not None:
        listed += [
            Goal("hand-over, p50", handover["p50"], 20.0, "ms"),
            Goal("hand-over, p95", handover["p95"], 60.0, "ms"),
        ]
    if wall is not None:
        listed.append(Goal("wall time, warm over bare", wall, 0.6))
    if cpu is not None:
        listed.append(Goal("CPU time per grade, cohort over bare", cpu, 0.8))
    if found["idle_private_mb"] is not None:
        listed.append(Goal("idle container's own memory", found["idle_private_mb"], 150.0, "MB"))
    return listed


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    model = re.search(r"^model name\s*:\s*(.+)$", _proc("cpuinfo"), re.MULTILINE)
    memory = re.search(r"^MemTotal:\s+(\d+) kB", _proc("meminfo"), re.MULTILINE)
    return {
        "processor": model[1] if model else platform.machine(),
        "processors": os.cpu_count(),
        "memory_bytes": int(memory[1]) << 10 if memory else None,
        "kernel": platform.release(),
        "cgroup": 2 if Path("/sys/fs/cgroup/cgroup.controllers").exists() else 1,
    }


def _versions() -> dict[str, str]:
    found = {"assay": ASSAY_VERSION, "python_bare": platform.python_version()}
    for package in ("torch", "numpy"):
        try:
            found[f"{package}_bare"] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[f"{package}_bare"] = ""
    return found

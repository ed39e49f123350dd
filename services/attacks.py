"""The attack corpus: hostile, forged and merely odd submissions, and what must hold for each.

`attacks/<class>/<name>/` holds `submission.py` and `expect.toml`. A *sandbox* attack tries to
get out, to see, to exhaust or to outlive; a *forgery* wants a bug called fixed that is not; an
*honest* file is odd and must be read exactly. `Range.run` runs one of them and says what did
not hold. Whatever the class, it looks for canaries in all that came out, sees that every
container, process and cgroup is gone again, and where asked grades the solution beside the
attack to see that others are not disturbed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import tempfile
import threading
import time
import tomllib
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from grading.challenge import Challenge
from grading.engine import ROOT, Submission, grade
from grading.verdict import Report, Verdict
from sandbox.spec import Job, Limits, RunResult, RunStatus, Sandbox, SandboxUnavailable, Step, StepListener

CORPUS = ROOT / "attacks"
CLASSES = ("sandbox", "forgery", "honest")
LABEL = "assay.sandbox"
CANARY_PREFIX = "assaycanary-"
GOT_THROUGH = "GOT THROUGH"  # what an attack prints where it met no refusal
AttackClass = Literal["sandbox", "forgery", "honest"]

# A bare step needs less than a grading: small limits are reached sooner.
STEP_LIMITS = Limits(
    wall_time_s=45.0,
    memory_bytes=512 << 20,
    tmp_bytes=16 << 20,
    tmp_inodes=2048,
    shm_bytes=16 << 20,
    output_bytes=2 << 20,
    evidence_bytes=4 << 20,
    evidence_frames=64,
)


class CorpusError(Exception):
    """A folder of the corpus is not well formed."""


# --- the corpus -----------------------------------------------------------------------


class Holds(BaseModel):
    """What must hold when an attack has been run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    outcome: tuple[Literal["graded", "invalid"], ...] = ("graded", "invalid")
    never_fixed: tuple[str, ...] = ()
    unmended: tuple[str, ...] | None = None
    flagged: bool | None = None
    status: Mapping[str, tuple[RunStatus, ...]] = Field(default_factory=dict)
    output_must: tuple[str, ...] = ()
    output_never: tuple[str, ...] = ()
    remarks_must: tuple[str, ...] = ()
    known_limit: str = ""


class Expectation(BaseModel):
    """An `expect.toml`."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    attack_class: AttackClass = Field(alias="class")
    title: str = Field(min_length=3)
    tries: str = Field(min_length=10)
    drive: Literal["grade", "step"] = "grade"
    wall_time_s: float = Field(default=8.0, gt=0)
    cpu_time_s: float = Field(default=6.0, gt=0)
    limits: Mapping[str, float] = Field(default_factory=dict)
    holds: Holds


@dataclass(frozen=True)
class Attack:
    """One folder of the corpus."""

    name: str
    source: bytes
    expect: Expectation

    @property
    def attack_class(self) -> AttackClass:
        """Its class, which is also the folder it stands in."""
        return self.expect.attack_class


def load_corpus(folder: Path = CORPUS) -> tuple[Attack, ...]:
    """Every attack, by class and name. Raises CorpusError."""
    found = []
    for name in CLASSES:
        for entry in sorted((folder / name).iterdir()):
            if entry.is_dir():
                found.append(_load(entry, name))
    return tuple(found)


def _load(folder: Path, attack_class: str) -> Attack:
    try:
        expect = Expectation.model_validate(tomllib.loads((folder / "expect.toml").read_text("utf-8")))
        source = (folder / "submission.py").read_bytes()
    except (OSError, ValueError) as error:  # pydantic's and TOML's errors are ValueErrors
        raise CorpusError(f"{folder.name}: {error}") from error
    if expect.attack_class != attack_class:
        raise CorpusError(f"{folder.name} says it is {expect.attack_class}, but stands in {attack_class}")
    return Attack(folder.name, source, expect)


# --- one run and what came out ----------------------------------------------------------


class Watched:
    """A sandbox that labels its jobs and remembers what came out of them, whoever asked."""

    def __init__(self, inner: Sandbox, label: str) -> None:
        self.name, self.label = inner.name, label
        self.runs: list[RunResult] = []
        self._inner = inner

    def run(self, job: Job, listener: StepListener | None = None) -> RunResult:
        """Run the job under this watch's label."""
        result = self._inner.run(replace(job, label=self.label), listener)
        self.runs.append(result)
        return result

    def cannot_hold(self) -> tuple[str, ...]:
        """What the sandbox itself cannot hold."""
        return self._inner.cannot_hold()


@dataclass(frozen=True)
class Result:
    """How one attack went. `failures` says what did not hold."""

    name: str
    attack_class: str
    title: str
    failures: tuple[str, ...]
    known_limit: str = ""
    wall_time_s: float = 0.0
    outcome: str = ""
    flagged: bool = False
    verdicts: Mapping[str, str] = field(default_factory=dict)
    steps: Mapping[str, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    neighbour_ratio: float | None = None
    back_s: float | None = None

    @property
    def held(self) -> bool:
        """Whether everything held that had to."""
        return not self.failures

    @property
    def limited(self) -> bool:
        """Whether what did not hold is a limit that the corpus already owns up to."""
        return bool(self.failures) and bool(self.known_limit)


class Canaries:
    """Random words in places that no submission may see. Use as a context manager."""

    def __init__(self) -> None:
        self.words = {place: CANARY_PREFIX + secrets.token_hex(12) for place in ("environment", "file", "neighbour")}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Canaries:
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="assay-canary-")))
        (folder / "canary.txt").write_text(self.words["file"], "ascii")
        os.environ["ASSAY_ATTACK_CANARY"] = self.words["environment"]
        return self

    def __exit__(self, *_: object) -> None:
        os.environ.pop("ASSAY_ATTACK_CANARY", None)
        self._stack.close()

    def seen_in(self, runs: list[RunResult], hidden: Mapping[str, str]) -> list[str]:
        """The places whose word, or hidden text, came out."""
        out = b"\0".join(
            part
            for run in runs
            for step in run.steps
            for part in (step.output_tail, *(piece for f in step.frames for piece in (f.header, f.payload)))
        )
        return [place for place, word in {**self.words, **hidden}.items() if word.encode() in out]


class Range:
    """Where attacks are run.

    Args:
        neighbour_ratio: how many times its normal time a neighbour may take.
        back_s: how long containers, processes and cgroups may take to be gone.
    """

    def __init__(self, sandbox: Sandbox, challenge: Challenge, *, neighbour_ratio: float, back_s: float) -> None:
        self._sandbox, self._challenge = sandbox, challenge
        self._neighbour_ratio, self._back_s = neighbour_ratio, back_s
        self._solution = challenge.text("solution.py")
        self._host = HostView.of(sandbox)
        self.normal_s: float | None = None

    def measure_normal(self) -> float:
        """Wall time of grading the solution beside another of its kind. Raises SandboxUnavailable."""
        with ThreadPoolExecutor(2) as pool:
            first, second = (pool.submit(self._neighbour, "", f"attack-normal-{n}") for n in range(2))
            self.normal_s = (first.result()[1] + second.result()[1]) / 2
        return self.normal_s

    def run(self, attack: Attack, *, neighbour: bool) -> Result:
        """Run one attack and say what did not hold. Never raises for what the attack did."""
        token = secrets.token_hex(6)
        watched = Watched(self._sandbox, f"attack-{token}")
        began = time.monotonic()
        with Canaries() as canaries, ThreadPoolExecutor(1) as pool:
            word = canaries.words["neighbour"]
            beside = pool.submit(self._neighbour, word, f"neighbour-{token}") if neighbour else None
            with self._host.watching(watched.label) as trace:
                seed = secrets.token_hex(16)
                try:
                    report, failures = self._one(attack, watched, seed)
                except SandboxUnavailable as error:
                    report, failures = None, [f"the sandbox was lost: {error}"]
                except Exception as error:  # an attack that breaks the grader is what is looked for
                    report, failures = None, [f"the grader broke: {type(error).__name__}: {error}"]
                ended = time.monotonic()
                back_s, left = trace.until_gone(self._back_s)
            failures += [f"still there after {self._back_s:g} s: {thing}" for thing in left]
            hidden = {"the grade's secret seed": seed, **self._hidden_texts()}
            failures += [f"came out of the sandbox: {place}" for place in canaries.seen_in(watched.runs, hidden)]
            ratio, disturbed = self._judge_neighbour(beside)
        run = watched.runs[-1] if watched.runs else None
        return Result(
            name=attack.name,
            attack_class=attack.attack_class,
            title=attack.expect.title,
            failures=(*failures, *disturbed),
            known_limit=attack.expect.holds.known_limit,
            wall_time_s=ended - began,
            outcome=report.outcome if report else "",
            flagged=bool(report and report.tampering_suspected),
            verdicts={bug.id: bug.verdict.value for bug in report.bugs} if report else {},
            steps={s.name: s.status.value for s in run.steps} if run else {},
            remarks=tuple(r for s in run.steps for r in s.remarks) if run else (),
            notes=trace.notes,
            neighbour_ratio=ratio,
            back_s=back_s,
        )

    def _one(self, attack: Attack, watched: Watched, seed: str) -> tuple[Report | None, list[str]]:
        holds = attack.expect.holds
        if attack.expect.drive == "step":
            run = watched.run(step_job(attack))
            return None, [*_afterwards_failures(run, holds.status.get("afterwards", ())), *_run_failures(attack, run)]
        submission = Submission(f"{attack.name}.py", attack.source)
        limits = _changed(Limits(memory_bytes=self._challenge.manifest.limits.memory_bytes), attack.expect.limits)
        report = grade(submission, self._challenge, watched, secret_seed=seed, limits=limits)
        return report, [*_report_failures(holds, report), *_run_failures(attack, watched.runs[-1])]

    def _neighbour(self, canary: str, label: str) -> tuple[Report, float]:
        """Grade the solution; it keeps the canary in its memory and in its /tmp."""
        source = self._solution
        if canary:
            source = f'CANARY = "{canary}"\nopen("/tmp/canary.txt", "w").write(CANARY)\n{source}'
        began = time.monotonic()
        watched = Watched(self._sandbox, label)
        report = grade(Submission("neighbour.py", source.encode()), self._challenge, watched)
        return report, time.monotonic() - began

    def _judge_neighbour(self, beside: Future[tuple[Report, float]] | None) -> tuple[float | None, list[str]]:
        if beside is None:
            return None, []
        try:
            report, wall_s = beside.result()
        except SandboxUnavailable as error:
            return None, [f"the neighbour's sandbox was lost: {error}"]
        ratio = None if self.normal_s is None else wall_s / self.normal_s
        failures = [
            f"the neighbour's {bug.id} read {bug.verdict.value}"
            for bug in report.bugs
            if bug.verdict is not Verdict.FIXED
        ]
        if report.outcome != "graded":
            failures.append(f"the neighbour was {report.outcome}: {report.invalid_reason}")
        if report.tampering_suspected:
            failures.append("the neighbour was flagged")
        if ratio is not None and ratio > self._neighbour_ratio:
            failures.append(f"the neighbour took {ratio:.1f} times its normal time")
        return ratio, failures

    def _hidden_texts(self) -> dict[str, str]:
        """Sentences of the judge, which never enters a sandbox."""
        text = (ROOT / "challenges" / self._challenge.slug / "judge.py").read_text("utf-8")
        lines = [line.strip() for line in text.splitlines() if len(line.strip()) > 70]
        return {f"a line of the judge ({line[:30]}…)": line for line in lines[:40:10]}


def step_job(attack: Attack) -> Job:
    """The attack as a bare step, and a step after it that looks at what is left."""
    driver = (CORPUS / "driver.py").read_bytes()
    wall_s, cpu_s = attack.expect.wall_time_s, attack.expect.cpu_time_s
    steps = (
        Step("attack", "attack_driver:attack", wall_time_s=wall_s, cpu_time_s=cpu_s),
        Step("afterwards", "attack_driver:afterwards"),
    )
    limits = _changed(STEP_LIMITS, attack.expect.limits)
    return Job(submission=attack.source, modules={"attack_driver": driver}, steps=steps, limits=limits)


def _changed(limits: Limits, changes: Mapping[str, float]) -> Limits:
    """`limits` with `changes`; a count stays a whole number. Raises TypeError for an unknown limit."""
    wanted: dict[str, Any] = {}
    for name, value in changes.items():
        wanted[name] = int(value) if isinstance(getattr(limits, name, None), int) else value
    return replace(limits, **wanted)


def _report_failures(holds: Holds, report: Report) -> list[str]:
    failures = []
    if report.outcome not in holds.outcome:
        failures.append(f"the outcome is {report.outcome} ({report.invalid_reason or 'no reason'})")
    for bug in report.bugs:
        verdict = bug.verdict
        if bug.id in holds.never_fixed and verdict is Verdict.FIXED:
            failures.append(f"{bug.id} was called fixed ({bug.evidence.source}): {bug.evidence.summary}")
        if holds.unmended is not None:
            wanted = Verdict.NOT_FIXED if bug.id in holds.unmended else Verdict.FIXED
            if verdict is not wanted:
                failures.append(f"{bug.id} read {verdict.value} ({bug.evidence.source}): {bug.evidence.summary}")
    flagged = False if holds.unmended is not None and holds.flagged is None else holds.flagged
    if holds.unmended is not None and report.outcome != "graded":
        failures.append(f"refused: {report.invalid_reason}")
    if flagged is not None and report.tampering_suspected is not flagged:
        failures.append("flagged: " + "; ".join(report.tampering_reasons) if not flagged else "not flagged")
    return failures


def _run_failures(attack: Attack, run: RunResult) -> list[str]:
    holds = attack.expect.holds
    failures = []
    for name, wanted in holds.status.items():
        step = run.step(name)
        if step is None or step.status not in wanted:
            seen = step.status.value if step else "missing"
            failures.append(f"step {name} ended with {seen}, not {' or '.join(w.value for w in wanted)}")
    output = "\n".join(step.output_tail.decode("utf-8", "replace") for step in run.steps)
    never = (*holds.output_never, GOT_THROUGH) if attack.attack_class == "sandbox" else holds.output_never
    for pattern in never:
        for match in re.findall(f".*{pattern}.*", output)[:3]:
            failures.append(f"printed: {match[:200]}")
    failures += [f"never printed {pattern!r}" for pattern in holds.output_must if not re.search(pattern, output)]
    remarks = " | ".join(remark for step in run.steps for remark in step.remarks)
    failures += [f"no remark says {p!r}" for p in holds.remarks_must if not re.search(p, remarks)]
    return failures


_CLEAN: dict[str, object] = {
    "processes": 0,
    "tmp": ["submission", "work"],
    "work": [],
    "shm": [],
    "submission_intact": True,
    "nice": 0,
    "stdout_is_pipe": True,
}


def _afterwards_failures(run: RunResult, may_be: tuple[RunStatus, ...]) -> list[str]:
    """What an attack driven as a step left to the step after it."""
    step = run.step("afterwards")
    if step is not None and step.status is RunStatus.NOT_RUN and RunStatus.NOT_RUN in may_be:
        return []  # the container ended with the attack
    if step is None or step.status is not RunStatus.OK or not step.frames:
        return [f"the step after it ended with {step.status.value if step else 'nothing'}"]
    seen: Any = json.loads(step.frames[0].header).get("data")
    return [f"left to the next step: {key} = {seen.get(key)!r}" for key in _CLEAN if seen.get(key) != _CLEAN[key]]


# --- the host's view ----------------------------------------------------------------------


class Trace:
    """What of one label's containers was seen on the host, and whether it is gone."""

    def __init__(self, host: HostView, label: str) -> None:
        self._host, self._label = host, label
        self._containers: set[str] = set()
        self._cgroups: set[Path] = set()
        self._processes: dict[int, str] = {}
        self._over = threading.Event()
        self.notes: tuple[str, ...] = ()

    def follow(self) -> None:
        """Note containers, cgroups and processes until told that it is over."""
        while not self._over.wait(0.25):
            self._look()

    def _look(self) -> None:
        for container, pid in self._host.containers(self._label).items():
            self._containers.add(container)
            self._cgroups |= _cgroups_of(pid, container)
        for cgroup in self._cgroups:
            for pid in _numbers(cgroup / "cgroup.procs"):
                self._processes[pid] = _started(pid)

    def stop(self) -> None:
        """End `follow`."""
        self._over.set()

    def until_gone(self, within_s: float) -> tuple[float | None, list[str]]:
        """Seconds until all was gone, None where nothing was looked at, and what is not gone."""
        began = time.monotonic()
        if not self._host.usable or not self._containers:
            self.notes = ("its containers were not looked at from the host",)
            return None, []
        while (left := self._left()) and time.monotonic() - began < within_s:
            time.sleep(0.1)
        return time.monotonic() - began, left

    def _left(self) -> list[str]:
        left = [f"container {c[:12]}" for c in self._host.containers(self._label)]
        left += [f"cgroup {path.parent.parent.name}" for path in self._cgroups if path.exists()]
        left += [f"process {pid}" for pid, start in self._processes.items() if start and _started(pid) == start]
        return left


class HostView:
    """The Engine's list of sandbox containers, with their processes and cgroups on this host."""

    def __init__(self, api: Any) -> None:
        self._api = api
        self._lock = threading.Lock()  # one client for several traces

    @classmethod
    def of(cls, sandbox: Sandbox) -> HostView:
        """A view for a sandbox of containers; one that sees nothing for any other."""
        if sandbox.name != "docker":
            return cls(None)
        import docker
        from docker.utils import kwargs_from_env

        try:
            api = docker.APIClient(version="auto", timeout=30, **kwargs_from_env())
        except docker.errors.DockerException:
            return cls(None)  # the Engine is somebody else's, such as a runner's
        return cls(api)

    @property
    def usable(self) -> bool:
        """Whether there is anything to look at."""
        return self._api is not None

    @contextlib.contextmanager
    def watching(self, label: str) -> Iterator[Trace]:
        """Follow the containers of `label` meanwhile."""
        trace = Trace(self, label)
        thread = threading.Thread(target=trace.follow, daemon=True)
        if self.usable:
            thread.start()
        try:
            yield trace
        finally:
            trace.stop()
            if self.usable:
                thread.join()

    def containers(self, label: str) -> dict[str, int]:
        """Ids of the containers with this label, and their first process on the host."""
        import docker.errors
        import requests

        with self._lock, contextlib.suppress(docker.errors.APIError, requests.exceptions.RequestException):
            found = {}
            for item in self._api.containers(all=True, filters={"label": f"{LABEL}={label}"}):
                with contextlib.suppress(docker.errors.NotFound):
                    found[item["Id"]] = int(self._api.inspect_container(item["Id"])["State"]["Pid"])
            return found
        return {}


def _cgroups_of(pid: int, container: str) -> set[Path]:
    """The cgroup folders of a container's first process that this host shows."""
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text("ascii").splitlines() if pid else []
    except OSError:
        return set()
    found = set()
    for line in lines:
        _, controllers, path = line.split(":", 2)
        folder = Path("/sys/fs/cgroup", *controllers.split(",")[:1], path.lstrip("/"))
        if container in path and folder.is_dir():
            found.add(folder)
    return found


def _numbers(path: Path) -> list[int]:
    try:
        return [int(word) for word in path.read_text("ascii").split()]
    except OSError:
        return []


def _started(pid: int) -> str:
    """When the process began, in the kernel's ticks; "" where it is gone or dead."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text("ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if words[0] in "ZX" else words[19]

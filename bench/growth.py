"""Grade many times in a row and see that nothing grows: neither here, nor in the Engine, nor on the disk.

    python -m bench.growth --gradings 1000                   through a warm pool in this process
    python -m bench.growth --gradings 1000 --socket PATH     through a runner

Between two series of gradings, when nothing is under way, it notes its own resident memory,
descriptors and threads, the runner's where there is one, the Engine's memory, every container
of Assay's label, what the Engine says it keeps on disk, what is used of the disk that it lies
on, and the entries of the folder for temporary files.

Whether a figure grows is told by the line through its last four fifths (Theil and Sen's median
of all slopes, which a few outliers do not move): flat means that the line rises by no more than
the allowance over the whole run. The allowances are in `ALLOWANCES`, with their reasons.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
from docker.utils import kwargs_from_env

from bench import accuracy
from grading.challenge import Challenge, load_challenge
from grading.engine import Submission, grade
from sandbox.docker import DockerSandbox
from sandbox.ownership import LABEL_OWNER
from sandbox.pool import Pool, PoolConfig
from sandbox.remote import RunnerSandbox
from sandbox.spec import Limits, Sandbox
from sandbox.template import LABEL
from services.measure import ENGINE_PROCESSES, at_rest, load, machine
from services.settings import Settings

MB = 1 << 20
SETTLE_S = 600.0  # until the pool is full again
# How far a series may rise over the run. Of the memories: what their allocators move by themselves.
ALLOWANCES = {
    "own_rss_bytes": 8 * MB,
    "runner_rss_bytes": 8 * MB,
    "engine_rss_bytes": 32 * MB,  # Go gives memory back late
    "own_descriptors": 2,
    "runner_descriptors": 2,
    "own_threads": 1,
    "runner_threads": 1,
    "own_containers": 0.5,  # of the process that holds the pool
    "containers": 0.5,  # of whoever uses this Engine for Assay
    "docker_layers_bytes": MB,
    "docker_containers_bytes": MB,
    "disk_used_bytes": 64 * MB,  # others write to it too
    "temporary_entries": 2,
}


# --- slopes ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Trend:
    """What became of one figure."""

    name: str
    first: float
    last: float
    peak: float
    rise: float  # of the line through the last four fifths, over the whole run
    allowance: float

    @property
    def is_flat(self) -> bool:
        """Whether it did not grow; shrinking is no growth."""
        return self.rise <= self.allowance


def theil_sen(x: Sequence[float], y: Sequence[float]) -> float:
    """The median of the slopes of all pairs of points; 0 where there is no pair."""
    points = list(zip(x, y, strict=True))
    slopes = [(y2 - y1) / (x2 - x1) for n, (x1, y1) in enumerate(points) for x2, y2 in points[n + 1 :] if x1 != x2]
    return statistics.median(slopes) if slopes else 0.0


def trend(name: str, gradings: Sequence[float], values: Sequence[float]) -> Trend:
    """The trend of one series, sampled after so many gradings."""
    settled = len(values) // 5
    slope = theil_sen(gradings[settled:], values[settled:])
    rise = slope * (gradings[-1] - gradings[0])
    return Trend(name, values[0], values[-1], max(values), rise, ALLOWANCES[name])


def trends(samples: Sequence[Mapping[str, float]]) -> list[Trend]:
    """The trend of every series that was sampled."""
    gradings = [sample["gradings"] for sample in samples]
    return [trend(name, gradings, [sample[name] for sample in samples]) for name in ALLOWANCES if name in samples[0]]


# --- one sample -----------------------------------------------------------------------


def _text(path: str) -> str:
    try:
        return Path(path).read_text("utf-8", "replace")
    except OSError:
        return ""


def resident_bytes(pid: int | str) -> int:
    """Resident set of a process, 0 where it is gone."""
    words = _text(f"/proc/{pid}/statm").split()
    return int(words[1]) * os.sysconf("SC_PAGE_SIZE") if len(words) > 1 else 0


def threads(pid: int | str) -> int:
    """How many threads a process has, 0 where it is gone."""
    found = re.search(r"^Threads:\s+(\d+)", _text(f"/proc/{pid}/status"), re.MULTILINE)
    return int(found[1]) if found else 0


def descriptors(pid: int | str) -> int:
    """How many descriptors a process holds, this look excepted; 0 where it is gone or another user's."""
    with contextlib.suppress(OSError):
        return len(os.listdir(f"/proc/{pid}/fd")) - (pid in ("self", os.getpid()))
    return 0


def engine_rss_bytes() -> int:
    """Resident memory of the Engine's own processes."""
    pids = filter(str.isdigit, os.listdir("/proc"))
    return sum(resident_bytes(pid) for pid in pids if _text(f"/proc/{pid}/comm").strip() in ENGINE_PROCESSES)


class Gauge:
    """Takes the samples. `runner_pid` is that of a runner, None where there is none."""

    def __init__(self, runner_pid: int | None) -> None:
        self._api = docker.APIClient(version="auto", timeout=120, **kwargs_from_env())
        self._root = self._api.info()["DockerRootDir"]
        self._runner_pid = runner_pid
        self._pool_pid = runner_pid or os.getpid()

    def read(self, gradings: int) -> dict[str, float]:
        """Everything at once, after so many gradings."""
        usage, containers = self._api.df(), self._api.containers(all=True, filters={"label": LABEL})
        disk = os.statvfs(self._root)
        sample: dict[str, float] = {
            "gradings": gradings,
            "own_rss_bytes": resident_bytes("self"),
            "own_descriptors": descriptors("self"),
            "own_threads": threading.active_count(),
            "engine_rss_bytes": engine_rss_bytes(),
            "own_containers": sum(_owner_pid(one) == self._pool_pid for one in containers),
            "containers": len(containers),
            "docker_layers_bytes": usage["LayersSize"],
            "docker_containers_bytes": sum(one.get("SizeRw") or 0 for one in usage["Containers"] or ()),
            "disk_used_bytes": (disk.f_blocks - disk.f_bfree) * disk.f_frsize,
            "temporary_entries": len(os.listdir(tempfile.gettempdir())),
        }
        if self._runner_pid is not None:
            sample["runner_rss_bytes"] = resident_bytes(self._runner_pid)
            sample["runner_descriptors"] = descriptors(self._runner_pid)
            sample["runner_threads"] = threads(self._runner_pid)
        return sample


def _owner_pid(container: Mapping[str, Any]) -> int:
    """The pid of the process that made a container, 0 where its label does not tell; see `sandbox.ownership`."""
    words = str((container.get("Labels") or {}).get(LABEL_OWNER, "")).split()
    return int(words[2]) if len(words) > 2 and words[2].isdigit() else 0


# --- the run --------------------------------------------------------------------------


def shortened(source: bytes, epochs: int) -> bytes:
    """See `bench.accuracy.shortened`."""
    return accuracy.shortened(source.decode(), epochs).encode()


def settle(sandbox: Pool | RunnerSandbox, deadline: float) -> None:
    """Wait until every shelf is full and nothing is under way. Raises TimeoutError."""
    while True:
        status = sandbox.status()
        pool = status.get("pool", status)
        if at_rest(pool):
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"the pool does not come to rest: {pool}")
        time.sleep(0.05)


def run(
    sandbox: Pool | RunnerSandbox,
    challenge: Challenge,
    source: bytes,
    gradings: int,
    jobs: int,
    every: int,
    gauge: Gauge,
) -> tuple[list[dict[str, float]], int]:
    """Grade and sample; gives the samples and how many reports were not as the first."""
    samples: list[dict[str, float]] = []
    verdicts: list[tuple[str, ...]] = []
    done = 0
    while True:
        settle(sandbox, time.monotonic() + SETTLE_S)
        samples.append(gauge.read(done))
        print(f"… {done} of {gradings} gradings", file=sys.stderr, flush=True)
        if done >= gradings:
            break
        count = min(every, gradings - done)
        with ThreadPoolExecutor(jobs) as pool:
            verdicts += pool.map(lambda _: _graded(sandbox, challenge, source), range(count))
        done += count
    return samples, sum(one != verdicts[0] for one in verdicts)


def _graded(sandbox: Sandbox, challenge: Challenge, source: bytes) -> tuple[str, ...]:
    report = grade(Submission("growth.py", source), challenge, sandbox)
    return tuple(bug.verdict.value for bug in report.bugs)


@contextlib.contextmanager
def chosen_sandbox(path: Path | None, challenge: Challenge, jobs: int) -> Iterator[Pool | RunnerSandbox]:
    """A runner's socket, or a pool of this process."""
    if path is not None:
        yield RunnerSandbox(path)
        return
    limits = Limits(memory_bytes=challenge.manifest.limits.memory_bytes)
    docker_sandbox = DockerSandbox(Settings().image or "")
    docker_sandbox.prepare(limits, "growth").destroy()  # says at once what a pool would try again and again
    with Pool(docker_sandbox, PoolConfig(min_size=jobs, max_size=jobs), limits) as pool:
        yield pool


def show(found: Sequence[Trend]) -> None:
    """A table of the trends."""
    print(f"{'':26}{'first':>14}{'last':>14}{'peak':>14}{'rise':>14}{'allowed':>14}")
    for one in found:
        figures = "".join(f"{_plain(one.name, value):>14}" for value in (one.first, one.last, one.peak, one.rise))
        word = "flat" if one.is_flat else "GROWS"
        print(f"{one.name:26}{figures}{_plain(one.name, one.allowance):>14}  {word}")


def _plain(name: str, value: float) -> str:
    return f"{value / MB:.1f} MiB" if name.endswith("_bytes") else f"{value:.1f}"


def main() -> int:
    """Parse the command line, run, print. Exit code 0 where everything is flat and all reports agree."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gradings", type=int, default=1000)
    parser.add_argument(
        "--epochs", type=int, default=2, help="of the solution's own run; with one, shuffling is left open"
    )
    parser.add_argument("--every", type=int, default=20, help="gradings between two samples")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--challenge", default="spiral")
    parser.add_argument("--socket", type=Path, help="of a runner; by default the pool is in this process")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    challenge, before = load_challenge(options.challenge), load()
    source = shortened(challenge.text("solution.py").encode(), options.epochs)
    began = time.monotonic()
    with chosen_sandbox(options.socket, challenge, options.jobs) as sandbox:
        samples, others = run(
            sandbox,
            challenge,
            source,
            options.gradings,
            options.jobs,
            options.every,
            Gauge(sandbox.status().get("pid")),
        )
    found = trends(samples)
    if options.json:
        print(json.dumps(_as_json(found, samples, others, time.monotonic() - began, machine(), before.average_1_min)))
    else:
        show(found)
        print(f"{options.gradings} gradings in {time.monotonic() - began:.0f} s, {others} reports unlike the first")
    return 0 if not others and all(one.is_flat for one in found) else 1


def _as_json(
    found: Sequence[Trend],
    samples: Sequence[Mapping[str, float]],
    others: int,
    wall_s: float,
    where: Mapping[str, Any],
    load_before: float,
) -> dict[str, Any]:
    return {
        "trends": [vars(one) | {"is_flat": one.is_flat} for one in found],
        "reports_unlike_the_first": others,
        "wall_time_s": wall_s,
        "machine": where,
        "load_before": load_before,
        "samples": list(samples),
    }


if __name__ == "__main__":
    sys.exit(main())

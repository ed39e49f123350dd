"""What holds on a machine with a GPU: `python -m bench.gpu`, on a host with an Engine and a CUDA image.

    ASSAY_GPU=nvidia.com/gpu=0 python -m bench.gpu containers     known programs, each in a hardened container
    python -m bench.gpu styles --jobs 8                           every way to choose a device, in warm processes
    python -m bench.gpu subsets --jobs 8                          all subsets of the bugs, in warm processes

Every program's own run is on the real device, and bug 6 must be decided there. Prints a line for each program, what
was wrong, and sums; with --json they are written too. `containers` needs `ASSAY_GPU` and `ASSAY_IMAGE`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench.accuracy import BUGS, CHALLENGE, Case, judge_case, shortened
from challenges.spiral import mutations, styles
from challenges.spiral.sights import GHOST, REAL_GPU
from grading.engine import Submission, grade
from grading.verdict import Report
from grading.verify import planted_subsets
from sandbox.docker import DockerSandbox
from sandbox.gpu import GpuSandbox, Leases
from sandbox.rehearsal import RehearsalSandbox
from sandbox.spec import Sandbox
from services.settings import Settings

DEVICE = "device"


def style_case(style: Any, epochs: int) -> Case:
    """A program with every bug mended plainly, and the device chosen in this style."""
    choice = {bug: styles.plain_fix(bug) for bug in BUGS} | {DEVICE: style}
    unmended = frozenset() if style.right else frozenset({DEVICE})
    return Case(
        f"{'right' if style.right else 'fake'} {style.name}", shortened(styles.compose(choice), epochs), unmended
    )


def container_cases(epochs: int) -> Iterator[Case]:
    """The bundled files, and a handful of right and fake ways to choose a device."""
    yield Case("solution", CHALLENGE.text("solution.py"), frozenset())
    yield Case("problem", CHALLENGE.text("problem.py"), frozenset(BUGS))
    yield from style_cases(epochs, most=5)


def style_cases(epochs: int, most: int | None = None) -> Iterator[Case]:
    """The styles of choosing a device, right ones and fakes, at most so many of either."""
    for right in (True, False):
        for style in styles.styles_of(DEVICE, right=right)[:most]:
            yield style_case(style, epochs)


def subsets(epochs: int) -> Iterator[Case]:
    """Every subset of the bugs left in."""
    for left in planted_subsets(CHALLENGE, "all"):
        name = "+".join(bug for bug in BUGS if bug in left) or "none"
        yield Case(name, shortened(mutations.build(left), epochs), left)


def run(cases: list[Case], sandbox: Sandbox, jobs: int) -> dict[str, Any]:
    """Grade every case once, print as it goes, and sum up."""
    total: Counter[str] = Counter()
    rows: list[dict[str, Any]] = []
    began = time.perf_counter()

    def one(case: Case) -> tuple[Case, Report]:
        return case, grade(Submission("submission.py", case.source.encode()), CHALLENGE, sandbox)

    with ThreadPoolExecutor(jobs) as pool:
        for case, report in pool.map(one, cases):
            result = judge_case(case, report)
            total.update(result["counts"])
            rows.append(_row(case, report, result["wrong"]))
            total[f"bug 6 decided by {rows[-1]['bug_6_by']}"] += 1
            print(_line(rows[-1]), flush=True)
    return {"programs": len(cases), **total, "wall_time_s": time.perf_counter() - began, "rows": rows}


def _row(case: Case, report: Report, wrong: list[str]) -> dict[str, Any]:
    device = next((bug for bug in report.bugs if bug.id == DEVICE), None)
    source = device.evidence.source if device is not None else ""
    timing = report.timing
    return {
        "program": case.name,
        "wrong": wrong,
        "bug_6": device.verdict.value if device is not None else report.outcome,
        "bug_6_by": REAL_GPU if REAL_GPU in source else GHOST if GHOST in source else source or "nothing",
        "total_s": timing.total_s,
        "real_run_s": timing.real_run_s,
        "gpu_s": timing.gpu_s,
        "gpu_peak_memory_bytes": timing.gpu_peak_memory_bytes,
        "peak_memory_bytes": timing.peak_memory_bytes,
        "run_status": report.run_status,
        "run_error": report.run_error,
        "torch": report.versions.torch,
    }


def _line(row: dict[str, Any]) -> str:
    gpu = "no word of the driver"
    if row["gpu_peak_memory_bytes"] is not None:
        gpu = f"GPU {row['gpu_s'] or 0.0:.2f} s {row['gpu_peak_memory_bytes'] / 2**20:.0f} MiB"
    memory = f"{row['peak_memory_bytes'] / 2**20:.0f} MiB"
    line = f"{row['program']:42.42} bug 6 {row['bug_6']:12} by {row['bug_6_by']:26} {row['total_s']:6.1f} s "
    line += f"(own run {row['real_run_s']:.1f} s), {gpu}, memory {memory}"
    return "\n".join([line, *(f"    {wrong}" for wrong in row["wrong"])])


def main() -> int:
    """Exit code: 0 every verdict right, 1 some wrong."""
    parser = argparse.ArgumentParser(
        prog="bench.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("containers", "styles", "subsets"))
    parser.add_argument("--jobs", type=int, default=1, help="gradings at a time, of `styles` and `subsets`")
    parser.add_argument("--epochs", type=int, default=20, help="of the made programs' own runs")
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args()
    if given.what == "containers":
        settings = Settings()
        if not settings.gpus():
            parser.error("ASSAY_GPU names no device")
        devices = {gpu: DockerSandbox(settings.image, settings.runtime, gpu) for gpu in settings.gpus()}
        sandbox = GpuSandbox(devices, Leases(list(devices)), settings.gpu_lease_timeout_s)
        told = run(list(container_cases(given.epochs)), sandbox, len(devices))
    else:
        cases = list(style_cases(given.epochs) if given.what == "styles" else subsets(given.epochs))
        with RehearsalSandbox() as rehearsal:
            told = run(cases, rehearsal, given.jobs)
    if given.json is not None:
        given.json.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({name: value for name, value in told.items() if name != "rows"}, indent=1))
    return 1 if any(row["wrong"] for row in told["rows"]) else 0


if __name__ == "__main__":
    sys.exit(main())

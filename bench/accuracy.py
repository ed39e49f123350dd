"""How exact, how steady and how costly the verdicts are, each as a command.

    python -m bench.accuracy styles --programs 2000      random mixtures of right and fake fix styles
    python -m bench.accuracy corpus tests/corpus/refactors    files with the vectors they must get
    python -m bench.accuracy corpus attacks/forgery      (and attacks/honest)
    python -m bench.accuracy stability --gradings 1000   the same 20 files again and again, half under load
    python -m bench.accuracy cost                        CPU seconds of the probes

Prints what went wrong as it goes and the sums at the end, as JSON with --json. Runs in the
rehearsal sandbox: the programs are our own, and one warm interpreter serves them all.
"""

from __future__ import annotations

import argparse
import collections
import json
import multiprocessing
import os
import random
import re
import secrets
import statistics
import sys
import time
import tomllib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grading.challenge import load_challenge
from grading.engine import Submission, grade
from grading.verdict import Report
from sandbox.rehearsal import RehearsalSandbox
from services.attacks import load_corpus

CHALLENGE = load_challenge("spiral")
BUGS = [bug.id for bug in CHALLENGE.manifest.bugs]


@dataclass(frozen=True)
class Case:
    """A program and the bugs that are not mended in it."""

    name: str
    source: str
    unmended: frozenset[str]
    only_never_fixed: bool = False  # a forgery: the listed bugs must not be called fixed, the rest is open


def shortened(source: str, epochs: int) -> str:
    """The program with fewer epochs, where it names them as the problem file does."""
    return re.sub(r"num_epochs = 20\b", f"num_epochs = {epochs}", source)


def style_cases(programs: int, seed: int, epochs: int) -> Iterator[Case]:
    """Random mixtures of fix styles."""
    from challenges.spiral import styles

    rng = random.Random(seed)
    for number in range(programs):
        choice = styles.random_choice(rng)
        while _moot(choice):
            choice = styles.random_choice(rng)
        names = ", ".join(f"{bug}={choice[bug].name}" for bug in BUGS)
        unmended = frozenset(bug for bug in BUGS if not choice[bug].right)
        yield Case(f"{number}: {names}", shortened(styles.compose(choice), epochs), unmended)


def _moot(choice: Mapping[str, Any]) -> bool:
    """A softmax for evaluation only never acts where validation is not in evaluation mode."""
    return choice["softmax"].name == "still_there_in_evaluation" and not choice["eval"].right


def corpus_cases(folder: Path) -> Iterator[Case]:
    """The files of a corpus folder, by its expected.toml; or a class of the attack corpus."""
    if not (folder / "expected.toml").exists():
        yield from _attack_cases(folder)
        return
    for name, unmended in tomllib.loads((folder / "expected.toml").read_text("utf-8")).items():
        yield Case(name, (folder / f"{name}.py").read_text("utf-8"), frozenset(unmended))


def _attack_cases(folder: Path) -> Iterator[Case]:
    for attack in load_corpus(folder.parent):
        holds = attack.expect.holds
        if attack.attack_class == folder.name:
            forged = holds.unmended is None
            unmended = holds.never_fixed if forged else holds.unmended or ()
            yield Case(attack.name, attack.source.decode(), frozenset(unmended), only_never_fixed=forged)


def judge_case(case: Case, report: Report) -> dict[str, Any]:
    """Count right and wrong verdicts of one report."""
    counts: collections.Counter[str] = collections.Counter()
    wrong: list[str] = []
    for bug in report.bugs:
        expected = "not_fixed" if bug.id in case.unmended else "fixed"
        seen = bug.verdict.value
        if seen == expected or (case.only_never_fixed and (seen != "fixed" or expected == "fixed")):
            counts["exact"] += 1
        elif seen == "inconclusive":
            counts["inconclusive"] += 1
            wrong.append(f"inconclusive {bug.id}: {bug.evidence.summary}")
        else:
            counts[f"false_{seen}"] += 1
            wrong.append(f"FALSE {seen} {bug.id} ({bug.evidence.source}): {bug.evidence.summary}")
    if report.outcome == "invalid":
        counts["invalid"] += 1
        if not case.only_never_fixed:
            wrong.append(f"invalid: {report.invalid_reason}")
    if report.tampering_suspected:
        counts["flagged"] += 1
        if not case.only_never_fixed:
            wrong.append(f"flagged: {'; '.join(report.tampering_reasons)}")
    return {"counts": counts, "wrong": wrong}


def run_cases(cases: list[Case], jobs: int) -> dict[str, Any]:
    """Grade every case once and sum up."""
    total: collections.Counter[str] = collections.Counter()
    began, cpu_s, done = time.perf_counter(), 0.0, 0
    with RehearsalSandbox() as sandbox, ThreadPoolExecutor(jobs) as pool:

        def one(case: Case) -> tuple[Case, Report]:
            return case, grade(Submission(f"{case.name[:40]}.py", case.source.encode()), CHALLENGE, sandbox)

        for case, report in pool.map(one, cases):
            done += 1
            result = judge_case(case, report)
            total.update(result["counts"])
            cpu_s += report.timing.probes_cpu_s
            for line in result["wrong"]:
                print(f"{case.name}\n    {line}", flush=True)
            if done % 50 == 0:
                print(f"… {done} of {len(cases)}", file=sys.stderr, flush=True)
    mean_cpu_s = cpu_s / max(1, len(cases))
    return {
        "programs": len(cases),
        **total,
        "probes_cpu_s_mean": mean_cpu_s,
        "wall_time_s": time.perf_counter() - began,
    }


def stability(gradings: int, epochs: int, jobs: int) -> dict[str, Any]:
    """Grade 20 files over and over with fresh secrets, the second half with every core kept busy."""
    cases = list(style_cases(20, seed=7, epochs=epochs))
    vectors: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    began = time.perf_counter()
    with RehearsalSandbox() as sandbox, ThreadPoolExecutor(jobs) as pool:

        def one(number: int) -> tuple[str, str]:
            case = cases[number % len(cases)]
            report = grade(Submission("file.py", case.source.encode()), CHALLENGE, sandbox)
            return case.name, " ".join(bug.verdict.value for bug in report.bugs) or str(report.invalid_reason)

        for half, busy in ((range(gradings // 2), 0), (range(gradings // 2, gradings), os.cpu_count() or 1)):
            burners = [multiprocessing.Process(target=_burn, daemon=True) for _ in range(busy)]
            for burner in burners:
                burner.start()
            for number, (name, vector) in enumerate(pool.map(one, half)):
                vectors[name][vector] += 1
                if number % 50 == 49:
                    print(f"… {number + 1} of {len(half)}", file=sys.stderr, flush=True)
            for burner in burners:
                burner.kill()
    unsteady = {name: dict(seen) for name, seen in vectors.items() if len(seen) > 1}
    for name, seen in unsteady.items():
        print(f"{name}\n    {seen}")
    wall_s = time.perf_counter() - began
    return {"gradings": gradings, "files": len(cases), "unsteady_files": len(unsteady), "wall_time_s": wall_s}


def _burn() -> None:
    while True:
        sum(range(100_000))


def cost(runs: int) -> dict[str, Any]:
    """CPU seconds of the probes on problem and solution, one grade at a time."""
    figures: Mapping[str, list[float]] = collections.defaultdict(list)
    with RehearsalSandbox() as sandbox:
        for name in ("problem.py", "solution.py"):
            for _ in range(runs):
                report = grade(Submission(name, CHALLENGE.text(name).encode()), CHALLENGE, sandbox)
                figures[f"{name} probes"].append(report.timing.probes_cpu_s)
                figures[f"{name} own run"].append(report.timing.real_run_cpu_s)
                figures[f"{name} judge"].append(report.timing.judge_s)
    return {f"{k} median_s": round(statistics.median(v), 4) for k, v in figures.items()}


def main() -> None:
    """Parse the command line, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("styles", "corpus", "stability", "cost"))
    parser.add_argument("folder", nargs="?", type=Path, default=Path("tests/corpus/refactors"))
    parser.add_argument("--programs", type=int, default=2000)
    parser.add_argument("--gradings", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--epochs", type=int, default=3, help="epochs of the style programs' own runs")
    parser.add_argument("--seed", type=int, default=None, help="of the mixtures; drawn when absent")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    seed = secrets.randbelow(1 << 31) if options.seed is None else options.seed
    if options.what == "styles":
        result = {"seed": seed, **run_cases(list(style_cases(options.programs, seed, options.epochs)), options.jobs)}
    elif options.what == "corpus":
        result = run_cases(list(corpus_cases(options.folder)), options.jobs)
    elif options.what == "stability":
        result = stability(options.gradings, options.epochs, options.jobs)
    else:
        result = cost(options.runs)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()

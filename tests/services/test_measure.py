"""What `assay bench` computes from its samples, and one small bench on a real Engine."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from grading.challenge import load_challenge
from services.cli import main
from services.measure import (
    PARTS,
    CannotMeasure,
    Goal,
    Load,
    Plan,
    at_rest,
    engine_cpu_s,
    goals,
    grader_cpu_s,
    load,
    machine,
    machine_cpu_s,
    percentile,
    private_bytes,
    processes_of,
    ratio,
    stamped,
)

SOLUTION = load_challenge("spiral").text("solution.py").encode()


def test_percentiles_are_interpolated() -> None:
    samples = [4.0, 1.0, 3.0, 2.0]
    assert percentile(samples, 0.0) == 1.0
    assert percentile(samples, 0.5) == 2.5
    assert percentile(samples, 1.0) == 4.0
    assert percentile([7.0], 0.95) == 7.0
    assert percentile(list(map(float, range(101))), 0.95) == 95.0


def test_a_ratio_is_of_medians_and_its_range_holds_it() -> None:
    warm, bare = [1.0, 1.1, 0.9, 1.0, 30.0], [2.0, 2.1, 1.9, 2.0, 2.0]
    found = ratio(warm, bare)
    assert found.value == 0.5
    assert found.low <= found.value <= found.high
    assert found == ratio(warm, bare)


def test_samples_without_noise_have_a_range_of_no_width() -> None:
    found = ratio([3.0] * 5, [2.0] * 5)
    assert (found.low, found.value, found.high) == (1.5, 1.5, 1.5)


@pytest.mark.parametrize(
    ("cohort", "jobs", "blocks"), [(50, 2, [10] * 5), (2, 2, [2]), (11, 2, [6, 5]), (1, 8, [1]), (50, 25, [50])]
)
def test_a_cohort_is_cut_into_blocks_that_keep_every_job_busy(cohort: int, jobs: int, blocks: list[int]) -> None:
    assert Plan(cohort=cohort, jobs=jobs).blocks() == blocks


def test_a_plan_counts_only_the_parts_that_are_asked_for() -> None:
    assert Plan(parts=("handover",), handovers=7).units() == 8
    whole = Plan(rounds=1, handovers=1, cohort=1)
    assert whole.units() == sum(Plan(parts=(part,), rounds=1, handovers=1, cohort=1).units() for part in PARTS)


def test_the_stamp_is_the_first_statement_that_can_be() -> None:
    source = stamped(SOLUTION).decode()
    body = ast.parse(source).body
    assert ast.get_docstring(ast.parse(source)) == ast.get_docstring(ast.parse(SOLUTION))
    assert "monotonic_ns" in ast.unparse(body[2])  # after the docstring and its own import
    assert source.count("\n") == SOLUTION.decode().count("\n") + 1


@pytest.mark.parametrize(
    "source",
    [
        b"print('hello')\n",
        b"print('hello')",
        b"from __future__ import annotations\nprint('hello')\n",
        b"'''doc'''\nfrom __future__ import annotations\n\nprint('hello')\n",
        b"@staticmethod\n@staticmethod\ndef f():\n    pass\nprint('hello')\n",
        b"# a comment\r\n\r\nprint('hello')\r\n",
    ],
)
def test_a_stamped_program_runs_as_before(source: bytes) -> None:
    run = subprocess.run([sys.executable, "-c", stamped(source)], capture_output=True, check=True)
    stamp, _, rest = run.stdout.decode().replace("\r", "").partition("\n")
    assert re.fullmatch(r"assay-first-line \d+", stamp)
    assert rest == "hello\n"


@pytest.mark.parametrize("source", [b"def f(:\n", b"", b"'''only words'''\n", b"x = '\0'\n"])
def test_what_has_no_first_line_is_refused(source: bytes) -> None:
    with pytest.raises(CannotMeasure):
        stamped(source)


def _status(**changes: Any) -> dict[str, Any]:
    shelf = {"warm": 2, "warming": 0, "jobs": 0, "target": 2}
    status = {"busy": 0, "teardowns": 0, "shelves": [shelf | {k: v for k, v in changes.items() if k in shelf}]}
    return status | {k: v for k, v in changes.items() if k not in shelf}


def test_a_pool_is_at_rest_when_it_is_full_and_idle() -> None:
    assert at_rest(_status())
    assert at_rest(_status(warm=3))
    for change in ({"warm": 1}, {"warming": 1}, {"jobs": 1}, {"busy": 1}, {"teardowns": 1}):
        assert not at_rest(_status(**change)), change


def test_goals_are_those_of_what_was_measured() -> None:
    nothing = {
        "handover_ms": None,
        "wall_ratio_warm_over_bare": None,
        "cpu_ratio_cohort_over_bare": None,
        "idle_private_mb": None,
    }
    assert goals(nothing) == []
    found = goals(nothing | {"handover_ms": {"p50": 20.0, "p95": 60.1}, "idle_private_mb": 151.0})
    assert [goal.is_reached for goal in found] == [True, False, False]
    assert not Goal("x", 0.61, 0.6).is_reached


def test_an_idle_machine_is_told_by_both_signs() -> None:
    assert Load(0.1, 0.1, 0.01).is_idle
    assert not Load(0.1, 0.1, 0.3).is_idle
    assert not Load(64.0, 64.0, 0.01).is_idle


def test_the_kernel_is_read() -> None:
    before, own = machine_cpu_s(), grader_cpu_s()
    assert 0 <= load().busy_share <= 1.1
    assert machine_cpu_s() >= before > 0
    assert grader_cpu_s() >= own > 0
    assert engine_cpu_s() >= 0
    assert machine()["processors"] == os.cpu_count()
    assert (private_bytes("self") or 0) > 1 << 20
    assert private_bytes("0") is None
    assert processes_of("no such container") == ([], [])


@pytest.mark.docker
@pytest.mark.slow
def test_a_small_bench_gives_every_figure(tmp_path: Path) -> None:
    """One round, one hand-over and a cohort of two, of a solution that trains for three epochs."""
    file = tmp_path / "short.py"
    file.write_bytes(SOLUTION.replace(b"num_epochs = 20\n", b"num_epochs = 3\n"))
    counts = ["--rounds", "1", "--handovers", "1", "--cohort", "2", "--jobs", "1"]
    result = CliRunner().invoke(main, ["bench", str(file), *counts, "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    for name in ("wall_ratio_warm_over_bare", "wall_ratio_cold_over_bare", "cpu_ratio_cohort_over_bare"):
        assert found[name] > 0
        assert name not in found["ranges"]  # of so few samples
    assert 0 < found["handover_ms"]["p50"] <= found["handover_ms"]["p95"]
    assert found["idle_private_mb"] > 10
    assert len(found["goals"]) == 5
    samples = found["samples"]
    assert {name: len(runs) for name, runs in samples["runs"].items()} == dict.fromkeys(
        ("bare", "bare_one_thread", "cold", "warm"), 1
    )
    assert [block["runs"] for block in samples["cohort"]["warm"]] == [2]
    warm = samples["runs"]["warm"][0]
    assert (warm["verdicts"], warm["goal_measured"]) == (8, True)
    assert found["every_grade_was_complete"]
    assert warm["cpu_s"] > warm["warm_up_cpu_s"] > 0
    assert found["versions"]["torch_inside"]
    assert found["load_before"]["average_1_min"] >= 0


def test_a_file_that_is_not_there_is_bad_usage(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["bench", str(tmp_path / "nothing.py")])
    assert result.exit_code == 2
    assert "there is no file" in result.stderr


@pytest.mark.docker
def test_a_file_that_fails_by_itself_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "broken.py"
    file.write_text("raise ValueError('not today')\n")
    result = CliRunner().invoke(main, ["bench", str(file), "--only", "wall", "--rounds", "1", "--jobs", "1"])
    assert result.exit_code == 3
    assert "ValueError: not today" in result.stderr

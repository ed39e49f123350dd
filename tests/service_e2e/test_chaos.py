from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from bench.chaos import FAULTS, Verdict, plan, table

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.docker
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_broken_a_dozen_times_it_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """The small version of `make chaos`, on the Engine that the other tests use."""
    result = tmp_path / "chaos.json"
    words = [sys.executable, "-m", "bench.chaos", "--injections", "12", "--seed", "7", "--shared-engine"]
    done = subprocess.run(
        [*words, "--json", str(result)], cwd=ROOT, capture_output=True, text=True, timeout=1700, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(result.read_text())
    assert told["injections"] == 12
    assert told["handed_in"] >= 12
    assert told["webhooks"] >= told["handed_in"]


def test_a_plan_has_every_fault_at_every_edge() -> None:
    every = Counter((fault.name, edge) for fault in FAULTS for edge in fault.edges for _ in range(fault.weight))
    chosen = plan(FAULTS, 300, random.Random(1))
    assert len(chosen) == 300
    struck = Counter((fault.name, edge) for fault, edge in chosen)
    assert all(struck[one] >= count * (300 // every.total()) for one, count in every.items())


@pytest.mark.parametrize("name", ["lost", "doubled", "wrong", "undelivered", "ambiguous"])
def test_one_failure_is_enough(name: str) -> None:
    """It shows in the table, and in the exit code."""
    verdict = Verdict()
    assert verdict.holds
    getattr(verdict, name).append("sub_1")
    assert not verdict.holds
    assert "! sub_1" in table(verdict, FAULTS)


@pytest.mark.parametrize("name", ["redirects_followed", "forged", "containers_left"])
def test_so_is_one_of_these(name: str) -> None:
    verdict = Verdict()
    setattr(verdict, name, 1)
    assert not verdict.holds

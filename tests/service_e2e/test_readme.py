"""The README's session with the service does what it says."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.service_e2e.conftest import GRADE_S, Served

pytestmark = [
    pytest.mark.docker,
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.allow_hosts(["127.0.0.1"]),
]
ROOT = Path(__file__).resolve().parents[2]


def session() -> str:
    text = (ROOT / "README.md").read_text("utf-8")
    block = text.split("<!-- curl session: begin -->")[1].split("<!-- curl session: end -->")[0]
    return block.strip().removeprefix("```").removesuffix("```")


def test_the_session_of_the_readme_ends_with_a_report(served: Served, tmp_path: Path) -> None:
    script = session().replace("http://127.0.0.1:8000", f"http://127.0.0.1:{served.port}")
    script = script.replace("assay_your_key", served.key).replace(".venv/bin/assay", str(ROOT / ".venv/bin/assay"))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=GRADE_S,
    )

    assert run.returncode == 0, run.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert [bug["verdict"] for bug in report["bugs"]] == ["not_fixed"] * 8
    assert "event: graded" in run.stdout
    assert "How sure:" in run.stdout.split("event: graded")[1]

"""The same file and the same secrets give the same report; other secrets the same verdicts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from challenges.spiral.mutations import build
from grading.challenge import CHALLENGES_ROOT
from grading.verdict import Report

if TYPE_CHECKING:
    from tests.challenges.conftest import Grade

PROGRAMS = {
    "solution": build(()),
    "problem": build(("softmax", "zero-grad", "loss-leak", "eval", "no-grad", "device", "shuffle", "lr")),
    "half": build(("softmax", "loss-leak", "no-grad", "shuffle")),
    "crash": (CHALLENGES_ROOT / "spiral/cases/crash_half_fix/submission.py").read_text("utf-8"),
}


def lasting(report: Report) -> dict[str, Any]:
    """The report without what the clock, the memory meter and the processor's rounding decide."""
    told = report.model_dump(mode="json", exclude={"timing", "graded_at", "goal", "output_tail"})
    for bug in told["bugs"]:
        del bug["wall_time_s"]
        if bug["id"] == "loss-leak" and bug["evidence"]["kind"] == "measurement":
            for key in ("seen", "summary", "notes"):
                del bug["evidence"][key]  # megabytes
    return told


def vector(report: Report) -> list[tuple[str, str]]:
    return [(bug.id, bug.verdict.value) for bug in report.bugs]


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_replay_says_the_same(name: str, grade: Grade) -> None:
    first, second = (grade(PROGRAMS[name], seed="5eed", epochs=5) for _ in range(2))

    assert vector(first) == vector(second)
    assert lasting(first) == lasting(second)
    assert first.goal.accuracy_by_epoch == pytest.approx(second.goal.accuracy_by_epoch, abs=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_fresh_secrets_give_the_same_verdicts(name: str, grade: Grade) -> None:
    reports = [grade(PROGRAMS[name], epochs=5) for _ in range(4)]

    assert len({report.secret_seed for report in reports}) == 4
    assert len({tuple(vector(report)) for report in reports}) == 1

"""Programs in random fix styles, right and fake: nothing false in either direction."""

from __future__ import annotations

import random
import secrets
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from challenges.spiral.styles import BUG_IDS, Style, random_choice, styles_of
from challenges.spiral.styles import compose as composed
from grading.verdict import Report, Verdict

if TYPE_CHECKING:
    from tests.challenges.conftest import Grade

PROGRAMS = 60


def moot(choice: dict[str, Style]) -> bool:
    """A softmax that acts in evaluation mode only never acts in a program that never enters it."""
    return choice["softmax"].name == "still_there_in_evaluation" and not choice["eval"].right


@pytest.mark.slow
@pytest.mark.timeout(2000)
def test_programs_in_random_styles_are_never_misread(grade: Grade) -> None:
    """To reproduce, put the seed that is printed in the place of the fresh one."""
    seed = secrets.token_hex(8)
    print(f"seed of the styles: {seed}")
    rng = random.Random(seed)
    choices = [next(c for c in iter(lambda: random_choice(rng), None) if not moot(c)) for _ in range(PROGRAMS)]

    def graded(number: int) -> Report:
        return grade(composed(choices[number]), seed=f"{seed}/{number}", epochs=3)

    wrong, undecided = [], 0
    with ThreadPoolExecutor(2) as jobs:
        reports = list(jobs.map(graded, range(PROGRAMS)))
    for number, (choice, report) in enumerate(zip(choices, reports, strict=True)):
        assert report.outcome == "graded", report.invalid_reason
        for bug in report.bugs:
            style = choice[bug.id]
            undecided += bug.verdict is Verdict.INCONCLUSIVE
            if bug.verdict is (Verdict.NOT_FIXED if style.right else Verdict.FIXED):
                names = " ".join(f"{s.bug}/{s.name}" for s in choice.values())
                wrong.append(f"{style.bug}/{style.name}: {bug.verdict}, {bug.evidence.summary} [{number}: {names}]")
        if report.tampering_suspected:
            wrong.append(f"{number}: {report.tampering_reasons}")

    assert not wrong, f"seed {seed}\n" + "\n".join(wrong)
    assert undecided <= 0.01 * PROGRAMS * len(BUG_IDS) + 3, f"seed {seed}: {undecided} verdicts left open"


@pytest.mark.parametrize("bug", BUG_IDS)
def test_there_are_enough_styles_of_either_kind(bug: str) -> None:
    assert len(styles_of(bug, right=True)) >= 12
    assert len(styles_of(bug, right=False)) >= 6

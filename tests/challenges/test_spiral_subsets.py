"""Every subset of the eight bugs, built as a program, gets its exact vector."""

from __future__ import annotations

import secrets

import pytest

from challenges.spiral import mutations
from grading.challenge import load_challenge
from grading.verify import VerifyReport, planted_subsets, verify
from sandbox.rehearsal import RehearsalSandbox

SHORTER = 2  # epochs; enough for every verdict


@pytest.fixture
def shorter_programs(monkeypatch: pytest.MonkeyPatch, full_length: bool) -> None:
    build = mutations.build
    if not full_length:
        monkeypatch.setattr(
            mutations,
            "build",
            lambda bugs: build(bugs).replace("num_epochs = 20", f"num_epochs = {SHORTER}"),
        )


def told(found: VerifyReport) -> str:
    return "\n".join(
        f"{', '.join(f.planted) or 'none'} planted, seed {f.seed}: {'; '.join(f.wrong)} "
        f"{f.invalid_reason or ''} {' '.join(f.tampering_reasons)}"
        for f in found.failures
    )


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.usefixtures("shorter_programs")
def test_all_256_subsets_are_read_exactly(rehearsal: RehearsalSandbox) -> None:
    found = verify(load_challenge("spiral"), rehearsal, subsets="all", seeds=[secrets.token_hex(8)], jobs=2)

    assert (found.subsets, found.runs) == (256, 256)
    assert found.passed, told(found)
    assert (found.exact, found.inconclusive_bugs) == (256, 0)


def test_there_are_256_subsets_and_256_programs() -> None:
    challenge = load_challenge("spiral")
    planted = planted_subsets(challenge, "all")

    assert len(set(planted)) == len(planted) == 256
    assert len({mutations.build(bugs) for bugs in planted}) == 256
    assert set(planted_subsets(challenge, "singles")) <= set(planted)


def test_all_bugs_give_the_problem_and_none_the_solution() -> None:
    challenge = load_challenge("spiral")

    assert mutations.build(mutations.BUG_IDS) == challenge.text("problem.py")
    assert mutations.build(()) == challenge.text("solution.py")
    assert tuple(bug.id for bug in challenge.manifest.bugs) == mutations.BUG_IDS

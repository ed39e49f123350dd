"""The mutation test of the grader: every weakening of the judge is noticed by at least two programs."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from challenges.spiral import judge, mutants
from challenges.spiral.mutations import BUG_IDS
from grading import selftest as the_selftest
from grading.challenge import load_challenge
from grading.selftest import LEAST_CATCHES, Mutant, SelftestError, answering, applied, edited, selftest
from sandbox.rehearsal import RehearsalSandbox
from services.cli import main


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_no_weakening_of_the_judge_goes_unnoticed(rehearsal: RehearsalSandbox) -> None:
    # One seed: how many programs notice a weakening hangs a little on the secrets. `assay selftest`
    # draws fresh ones; misreadings are what fresh secrets are for, and the other tests draw them.
    seed = "selftest"
    found = selftest(load_challenge("spiral"), rehearsal, seed=seed, jobs=2)

    assert not found.misread, f"seed {seed}\n" + "\n".join(found.misread)
    told = {m.mutant: m.stale or m.caught_by for m in found.mutants if len(m.caught_by) < LEAST_CATCHES}
    assert not told, f"seed {seed}"
    assert len(found.mutants) >= 30


@pytest.mark.parametrize("mutant", mutants.MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_fits_the_judge_and_leaves_it_as_it_was(mutant: Mutant) -> None:
    before = [vars(owner)[name] for owner, name, _ in mutant.changes]
    with applied(mutant):
        assert all(vars(o)[n] is not b for (o, n, _), b in zip(mutant.changes, before, strict=True))

    assert [vars(owner)[name] for owner, name, _ in mutant.changes] == before


def test_mutants_and_cases_have_names_of_their_own() -> None:
    for names in ([m.name for m in mutants.MUTANTS], [c.name for c in mutants.CASES]):
        assert len(set(names)) == len(names)


def test_every_bug_is_seen_mended_and_left() -> None:
    for bug in BUG_IDS:
        assert {case.verdicts[bug] for case in mutants.CASES if bug in case.verdicts} >= {"fixed", "not_fixed"}


def test_a_mutant_that_no_longer_fits_says_so() -> None:
    gone = Mutant("gone", ((judge, "_no_such_sight", answering(None)),))
    changed = Mutant("changed", ((judge, "_decide", edited(("no such text", ""))),))

    with pytest.raises(SelftestError, match="no _no_such_sight"), applied(gone):
        pass
    with pytest.raises(SelftestError, match="0 times, not once"), applied(changed):
        pass


def test_the_command_tells_mutants_and_catches(monkeypatch: pytest.MonkeyPatch) -> None:
    report = the_selftest.SelftestReport(
        challenge="spiral",
        cases=2,
        misread=(),
        mutants=(
            the_selftest.MutantReport(mutant="noticed", caught_by=("a", "b")),
            the_selftest.MutantReport(mutant="unnoticed", caught_by=("a",)),
        ),
    )
    monkeypatch.setattr(the_selftest, "selftest", lambda *_, **__: report)

    told = CliRunner().invoke(main, ["selftest", "spiral", "--sandbox", "process"])

    assert told.exit_code == 1
    assert "unnoticed" in told.stdout and "2 mutants, 1 noticed by fewer than two of 2 cases" in told.stdout

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grading.challenge import load_challenge
from grading.verdict import Verdict, rate

MANIFEST = load_challenge("spiral").manifest
F, N, Q = Verdict.FIXED, Verdict.NOT_FIXED, Verdict.INCONCLUSIVE
# From the worst rating to the best, as the manifest's bands go.
LADDER = [band.rating for band in sorted(MANIFEST.rating_bands, key=lambda band: band.min_fixed)]
VECTORS = st.lists(st.sampled_from(Verdict), min_size=8, max_size=8)


def rung(verdicts: list[Verdict]) -> int:
    return LADDER.index(rate(MANIFEST, tuple(verdicts)).rating)


RUBRIC = ["No Hire"] * 2 + ["Below Bar"] * 2 + ["Borderline"] * 2 + ["Hire"] * 2 + ["Strong Hire"]


@pytest.mark.parametrize(("fixed", "rating"), list(enumerate(RUBRIC)))
def test_the_bands_of_the_rubric(fixed: int, rating: str) -> None:
    given_ = rate(MANIFEST, (F,) * fixed + (N,) * (8 - fixed))

    assert (given_.rating, given_.fixed, given_.total, given_.provisional) == (rating, fixed, 8, False)


@given(VECTORS, st.integers(0, 7))
def test_fixing_one_more_bug_never_lowers_the_rating(verdicts: list[Verdict], bug: int) -> None:
    mended = [*verdicts[:bug], F, *verdicts[bug + 1 :]]

    assert rung(mended) >= rung(verdicts)


@given(VECTORS)
def test_inconclusive_never_counts_as_fixed(verdicts: list[Verdict]) -> None:
    told = rate(MANIFEST, tuple(verdicts))

    assert told.fixed == verdicts.count(F)
    assert rung(verdicts) == rung([N if v is Q else v for v in verdicts])


@given(VECTORS)
def test_a_rating_is_provisional_exactly_if_the_open_bugs_could_change_it(verdicts: list[Verdict]) -> None:
    slots = [(F, N) if v is Q else (v,) for v in verdicts]
    possible = {rung(list(each)) for each in itertools.product(*slots)}
    told = rate(MANIFEST, tuple(verdicts))

    assert told.provisional == (len(possible) > 1)
    assert LADDER.index(told.best_case) == max(possible)


@given(VECTORS, st.randoms())
def test_which_bugs_are_fixed_does_not_matter(verdicts: list[Verdict], random: object) -> None:
    shuffled = list(verdicts)
    random.shuffle(shuffled)  # type: ignore[attr-defined]

    assert rate(MANIFEST, tuple(shuffled)) == rate(MANIFEST, tuple(verdicts))

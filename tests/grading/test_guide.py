"""The interviewer's guide: it fits its challenge, and what is chosen suits the candidate."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from grading.challenge import ChallengeError, load_challenge
from grading.guide import MOST_PICKS, as_markdown, load_guide, picks, question_bank

SPIRAL = load_challenge("spiral")
GUIDE = load_guide(SPIRAL)
assert GUIDE is not None
ALL = [bug.id for bug in SPIRAL.manifest.bugs]


def chosen(verdicts: dict[str, str], untouched: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    assert GUIDE is not None
    return [(one.bug.id, one.why) for one in picks(GUIDE, SPIRAL.manifest, verdicts, untouched)]


def every(verdict: str, **others: str) -> dict[str, str]:
    return {**dict.fromkeys(ALL, verdict), **{name.replace("_", "-"): one for name, one in others.items()}}


def test_who_mended_all_is_asked_for_mechanisms_where_talking_tells_most() -> None:
    assert chosen(every("fixed")) == [("softmax", "mended"), ("loss-leak", "mended"), ("eval", "mended")]


def test_who_missed_all_starts_from_symptoms() -> None:
    assert [why for _, why in chosen(every("not_fixed"))] == ["missed"] * MOST_PICKS


def test_what_is_unclear_comes_first_and_strength_gets_its_chance() -> None:
    found = chosen(every("fixed", lr="inconclusive", device="not_fixed"))
    assert found == [("lr", "unclear"), ("device", "missed"), ("softmax", "mended")]


def test_a_fix_away_from_the_bugs_own_lines_is_asked_about() -> None:
    found = chosen(every("fixed", zero_grad="not_fixed"), untouched=("device", "zero-grad"))
    assert found == [("device", "odd"), ("zero-grad", "missed"), ("softmax", "mended")]


def test_much_that_is_unclear_leaves_room_for_one_that_was_missed() -> None:
    found = chosen(every("inconclusive", lr="not_fixed"))
    assert [why for _, why in found] == ["unclear", "unclear", "missed"]


def test_without_verdicts_nothing_is_chosen() -> None:
    assert chosen({}) == []


def test_the_text_has_all_of_it() -> None:
    assert GUIDE is not None
    text = as_markdown(GUIDE, SPIRAL.manifest)
    for talk in GUIDE.bugs:
        for question in talk.questions:
            assert question.ask in text and question.expect in text
        assert all(nudge in text for nudge in talk.nudges)
    assert all(f"| {band.rating} |" in text for band in SPIRAL.manifest.rating_bands)
    assert all(one.title in text for one in (*GUIDE.phases, *GUIDE.sections))


def test_phases_add_up_to_the_interview() -> None:
    assert GUIDE is not None
    shortest, longest = (sum(getattr(one, f"minutes_{end}") for one in GUIDE.phases) for end in ("from", "to"))
    assert shortest <= SPIRAL.manifest.minutes <= longest


def test_the_bank_asks_each_question_once() -> None:
    asked = [question.ask for topic in question_bank() for question in topic.questions]
    assert len(asked) >= 20 and len(set(asked)) == len(asked)


@pytest.mark.parametrize(
    ("was", "becomes", "said"),
    [
        ('id = "lr"\ndepth', 'id = "rate"\ndepth', "in this order"),
        ('id = "method"', 'id = "reading"', "must differ"),
        ("depth = 3", "depth = 9", "depth"),
        ("[[phases]]", "[[phases", "guide.toml"),
    ],
)
def test_a_guide_that_does_not_hold_together_is_named(tmp_path: Path, was: str, becomes: str, said: str) -> None:
    folder = tmp_path / "spiral"
    shutil.copytree(SPIRAL.folder, folder, ignore=shutil.ignore_patterns("cases", "__pycache__"))
    text = (folder / "guide.toml").read_text("utf-8")
    assert was in text
    (folder / "guide.toml").write_text(text.replace(was, becomes, 1), "utf-8")
    with pytest.raises(ChallengeError, match=said):
        load_guide(load_challenge("spiral", tmp_path))


def test_a_challenge_without_a_guide_and_a_catalogue_without_a_bank(tmp_path: Path) -> None:
    shutil.copytree(SPIRAL.folder, tmp_path / "spiral", ignore=shutil.ignore_patterns("cases", "__pycache__"))
    (tmp_path / "spiral" / "guide.toml").unlink()
    assert load_guide(load_challenge("spiral", tmp_path)) is None
    assert question_bank(tmp_path) == ()

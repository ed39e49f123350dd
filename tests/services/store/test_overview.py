"""What the database chooses, sorts and counts of a cohort is what a plain reading of all its lines gives."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from services.store import LOOKS, Line, LineChoice, NewSubmission, Store
from services.store.ids import CODE_CHARS
from services.store.records import shown_name
from tests.services.pages import seed

BUGS = 8
MANY = 1000


@pytest.fixture
def cohort_id(store: Store) -> str:
    """Sixty candidates in every state, some decided, some ruled upon, some regraded, and two with odd names."""
    made = seed.cohort(store, 60, seed=3, settle=False)
    ids = made.submission_ids
    for one, kind in zip(ids[:9], itertools.cycle(("advance", "hold", "reject")), strict=False):
        store.decide(one, "Rita", kind, "as seen", actor="test")  # type: ignore[arg-type]
    store.decide(ids[0], "Rita", "reject", "second thoughts", actor="test")
    odd: list[NewSubmission] = [
        NewSubmission("spiral", "50%_done.py", b"x", candidate={"name": "\u0160TEFAN 100%"}),
        NewSubmission("spiral", "Zo\u00eb.py", b"x"),
    ]
    store.create_submissions(made.cohort_id, odd, actor="test")
    for one in ids[30:33]:
        store.regrade(one, actor="test")
    store.erase(ids[40], actor="test")
    return made.cohort_id


def all_of(store: Store, cohort_id: str) -> list[Line]:
    """Every line, in the order they came."""
    return sorted(store.cohort_lines(cohort_id, limit=MANY), key=lambda line: line.id)


def listed(line: Line) -> str:
    return f"{shown_name(line.candidate, line.file_name)}\n{line.file_name}".casefold()


def strength(line: Line) -> tuple[int, float]:
    return (-1 if line.fixed is None else line.fixed, line.accuracy or 0.0)


def letter(line: Line, bug: int) -> str:
    return line.verdicts[bug - 1] if line.verdicts else ""


def look(line: Line) -> str | None:
    if line.flag == "open":
        return "tampering"
    if line.state in ("dead", "invalid"):
        return line.state
    if line.state != "graded":
        return None
    if line.provisional:
        return "provisional"
    return "goal_missed" if line.fixed == line.total and line.goal_reached is False else None


SHOWS: dict[str, Callable[[Line], bool]] = {
    "undecided": lambda line: line.decision is None,
    "advance": lambda line: line.decision == "advance",
    "hold": lambda line: line.decision == "hold",
    "reject": lambda line: line.decision == "reject",
    "look": lambda line: look(line) is not None,
    "flagged": lambda line: line.flag is not None,
    "goal": lambda line: line.goal_reached is True,
    "waiting": lambda line: line.state in ("queued", "running"),
}
CHOICES: list[tuple[LineChoice, Callable[[Line], bool]]] = [
    (LineChoice(), lambda _: True),
    (LineChoice(words="AMARA"), lambda line: "amara" in listed(line)),
    (LineChoice(words="\u0161tefan"), lambda line: "\u0161tefan" in listed(line)),
    (LineChoice(words="ZO\u00cb"), lambda line: "zo\u00eb" in listed(line)),
    (LineChoice(words="%"), lambda line: "%" in listed(line)),
    (LineChoice(words="_done"), lambda line: "_done" in listed(line)),
    (LineChoice(words="nobody of that name"), lambda _: False),
    (LineChoice(words="\0\ud800"), lambda _: False),
    (LineChoice(words="\0\ud800", blind=True), lambda _: False),
    (LineChoice(rating="\0"), lambda _: False),
    (LineChoice(words="candidate", blind=True), lambda _: True),
    (LineChoice(words="amara", blind=True), lambda _: False),
    (LineChoice(rating="Strong"), lambda line: line.rating == "Strong"),
    (LineChoice(bug=3, verdict="fixed"), lambda line: letter(line, 3) == "fixed"),
    (LineChoice(bug=3, verdict="inconclusive"), lambda line: letter(line, 3) == "inconclusive"),
    (LineChoice(bug=8), lambda line: letter(line, 8) == "not_fixed"),
    *((LineChoice(show=show), fits) for show, fits in SHOWS.items()),  # type: ignore[arg-type]
    (
        LineChoice(show="undecided", bug=1, verdict="fixed", words="a"),
        lambda line: line.decision is None and letter(line, 1) == "fixed" and "a" in listed(line),
    ),
]


def test_choosing(store: Store, cohort_id: str) -> None:
    lines = all_of(store, cohort_id)
    assert len(lines) == 61
    for choice, fits in CHOICES:
        wanted = {line.id for line in lines if fits(line)}
        found = store.cohort_lines(cohort_id, choice, limit=MANY)
        assert {line.id for line in found} == wanted and len(found) == len(wanted), choice
        assert store.cohort_size(cohort_id, choice) == len(wanted), choice
    assert all(any(fits(line) for line in lines) for fits in SHOWS.values()), "each filter has somebody to find"


RANKS = {"fixed": 3, "inconclusive": 2, "not_fixed": 1, "": 0}
SORTS: list[tuple[str, bool, Callable[[Line], Any]]] = [
    ("fixed", False, lambda line: strength(line)[0]),
    ("rating", False, lambda line: strength(line)[0]),
    ("ahead", False, lambda line: strength(line)[0]),
    ("accuracy", False, lambda line: -1.0 if line.accuracy is None else line.accuracy),
    ("bug1", False, lambda line: RANKS[letter(line, 1)]),
    ("bug8", False, lambda line: RANKS[letter(line, 8)]),
    ("name", True, lambda line: line.id[-CODE_CHARS:]),
]


@pytest.mark.parametrize("falling", [True, False])
def test_sorting(store: Store, cohort_id: str, falling: bool) -> None:
    lines = all_of(store, cohort_id)
    for sort, blind, key in SORTS:
        wanted = sorted(sorted(lines, key=strength, reverse=True), key=key, reverse=falling)
        found = store.cohort_lines(cohort_id, LineChoice(sort=sort, falling=falling, blind=blind), limit=MANY)
        assert [line.id for line in found] == [line.id for line in wanted], sort


def test_names_are_sorted_without_regard_to_capitals(store: Store) -> None:
    cohort = store.create_cohort("autumn", "spiral")
    names = ["anna", "Bert", "\u0110or\u0111e", "cleo", "\u0111ula"]
    new = [NewSubmission("spiral", "a.py", b"x", candidate={"name": name}) for name in names]
    store.create_submissions(cohort.id, new)
    found = store.cohort_lines(cohort.id, LineChoice(sort="name", falling=False))
    order = [(line.candidate or {}).get("name") for line in found]
    assert [name for name in order if name in ("anna", "Bert", "cleo")] == ["anna", "Bert", "cleo"]
    assert order.index("\u0110or\u0111e") < order.index("\u0111ula")


def test_pages_are_parts_of_one_order(store: Store, cohort_id: str) -> None:
    choice = LineChoice(sort="bug2")
    whole = store.cohort_lines(cohort_id, choice, limit=MANY)
    parts = [store.cohort_lines(cohort_id, choice, limit=7, offset=first) for first in range(0, len(whole), 7)]
    assert [line for part in parts for line in part] == whole


def test_figures(store: Store, cohort_id: str) -> None:
    lines = all_of(store, cohort_id)
    rated = [line for line in lines if line.state == "graded" and line.fixed is not None]
    tally = store.cohort_tally(cohort_id, BUGS)
    assert tally.rated == len(rated) and tally.total == len(lines)
    assert tally.states["erased"] == 1
    counts = sorted(line.fixed or 0 for line in rated)
    assert tally.middle() == counts[len(counts) // 2]
    assert [tally.fewer(fixed) for fixed in range(9)] == [sum(c < fixed for c in counts) for fixed in range(9)]
    assert tally.all_fixed == counts.count(BUGS)
    assert tally.mended == tuple(sum(letter(line, n) == "fixed" for line in rated) for n in range(1, BUGS + 1))
    assert store.cohort_standing(cohort_id, 5) == (tally.fewer(5), tally.rated)


def test_figures_of_nobody(store: Store) -> None:
    tally = store.cohort_tally(store.create_cohort("autumn", "spiral").id, BUGS)
    assert (tally.rated, tally.total, tally.middle(), tally.all_fixed, tally.mended) == (0, 0, 0, 0, (0,) * BUGS)


def test_who_stands_out(store: Store, cohort_id: str) -> None:
    lines = all_of(store, cohort_id)
    rated = [line for line in lines if line.state == "graded" and line.fixed is not None]
    clear = [line for line in rated if line.flag in (None, "dismissed")]
    best = sorted(clear, key=strength, reverse=True)[:3]
    assert store.cohort_strongest(cohort_id, 3) == best
    pressing = sorted((line for line in lines if look(line)), key=lambda line: LOOKS.index(line.look))  # type: ignore[arg-type]
    assert [line.look for line in lines] == [look(line) for line in lines]
    assert store.cohort_looks(cohort_id, MANY) == pressing
    assert store.cohort_looks(cohort_id, 2) == pressing[:2]
    assert {line.look for line in pressing} >= {"tampering", "dead", "invalid", "provisional"}


def test_a_suspicion_counts_until_somebody_rules_on_it(store: Store) -> None:
    made = seed.cohort(store, 8)
    (flagged,) = store.cohort_lines(made.cohort_id, LineChoice(show="flagged"))
    assert (flagged.id, flagged.flag, flagged.look) == (made.flagged_id, "open", "tampering")
    for kind, state in (("confirmed", "confirmed"), ("dismissed", "dismissed")):
        store.rule(made.flagged_id, "Rita", kind, "looked", actor="test")  # type: ignore[arg-type]
        (line,) = store.cohort_lines_by_id(made.cohort_id, [made.flagged_id]).values()
        assert (line.flag, line.look) == (state, None)
        among = made.flagged_id in {one.id for one in store.cohort_strongest(made.cohort_id, 8)}
        assert among is (kind == "dismissed")


def test_only_those_of_the_cohort_are_found_by_id(store: Store, cohort_id: str) -> None:
    other = store.create_cohort("other", "spiral")
    (stranger,) = store.create_submissions(other.id, [NewSubmission("spiral", "a.py", b"x")])
    first = all_of(store, cohort_id)[0]
    assert store.cohort_lines_by_id(cohort_id, [first.id, stranger.id, "sub_none"]) == {first.id: first}

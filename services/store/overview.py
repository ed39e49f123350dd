"""A cohort in short lines: all that a list, its figures and its heat map show, without opening a report.

The database chooses, sorts and counts, so that no page reads more lines than it shows.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import ColumnElement, Select, and_, case, func, literal, or_, select

from services.store import machine
from services.store.ids import CODE_CHARS, ID_CHARS
from services.store.part import Part
from services.store.records import Candidate, SubmissionState
from services.store.reviews import DecisionKind, DecisionRow, RulingRow
from services.store.tables import SubmissionRow, clean

FlagState = Literal["open", "confirmed", "dismissed"]
Show = Literal["", "undecided", "advance", "hold", "reject", "look", "flagged", "goal", "waiting"]
Look = Literal["tampering", "dead", "invalid", "provisional", "goal_missed"]
LOOKS: tuple[Look, ...] = ("tampering", "dead", "invalid", "provisional", "goal_missed")  # most pressing first
_WORDS = {"f": "fixed", "n": "not_fixed", "i": "inconclusive"}
_LETTERS = {word: letter for letter, word in _WORDS.items()}


@dataclass(frozen=True, slots=True)
class Line:
    """One submission of a cohort."""

    id: str
    file_name: str
    candidate: Candidate | None
    state: SubmissionState
    generation: int
    fixed: int | None
    total: int | None
    rating: str | None
    provisional: bool
    verdicts: tuple[str, ...]  # fixed, not_fixed or inconclusive, by the bug's number; of the newest report
    goal_reached: bool | None
    accuracy: float | None  # 0 to 1
    flag: FlagState | None  # None: nothing is suspected
    look: Look | None  # why a person has to look at it before the table is believed
    decision: DecisionKind | None
    finished_us: int | None


@dataclass(frozen=True)
class LineChoice:
    """Which lines of a cohort, in which order."""

    words: str = ""  # in the name or the file's name; of the code name alone where names are hidden
    rating: str = ""
    bug: int = 0  # its number; 0 for any
    verdict: str = "not_fixed"  # of that bug
    show: Show = ""
    sort: str = "fixed"  # fixed, name, accuracy, rating, ahead, or "bug" and a number
    falling: bool = True
    blind: bool = False


@dataclass(frozen=True, slots=True)
class Tally:
    """What a cohort's rated submissions amount to, and how many there are in each state."""

    states: Mapping[SubmissionState, int]
    by_fixed: Mapping[int, int]  # bugs mended: submissions
    all_fixed: int
    mended: tuple[int, ...]  # by the bug's number: submissions

    @property
    def rated(self) -> int:
        """Submissions that have a rating of today."""
        return sum(self.by_fixed.values())

    @property
    def total(self) -> int:
        """All submissions but erased ones."""
        return sum(count for state, count in self.states.items() if state != "erased")

    def fewer(self, fixed: int) -> int:
        """How many rated ones mended fewer bugs."""
        return sum(count for mended, count in self.by_fixed.items() if mended < fixed)

    def middle(self) -> int:
        """Half of the rated ones mended that many or more; 0 where there are none."""
        ends = itertools.accumulate(self.by_fixed[mended] for mended in sorted(self.by_fixed))
        halves = (mended for mended, end in zip(sorted(self.by_fixed), ends, strict=True) if end > self.rated // 2)
        return next(halves, 0)


class OverviewPart(Part):
    """What a cohort amounts to."""

    def cohort_lines(
        self, cohort_id: str, choice: LineChoice | None = None, *, limit: int = 50, offset: int = 0
    ) -> list[Line]:
        """Part of a cohort, but erased submissions. Equals are in the order of strength, then as they came."""
        choice = choice or LineChoice()
        key = _key(choice)
        found = _CHOSEN.where(*_of(cohort_id), *_conditions(choice))
        ordered = found.order_by(key.desc() if choice.falling else key.asc(), *_BY_STRENGTH, SubmissionRow.id)
        return self._read(ordered.limit(limit).offset(offset))

    def cohort_size(self, cohort_id: str, choice: LineChoice) -> int:
        """How many lines a choice has."""
        counted = select(func.count()).select_from(SubmissionRow).where(*_of(cohort_id), *_conditions(choice))
        with self._database.read() as session:
            return session.scalar(counted) or 0

    def cohort_lines_by_id(self, cohort_id: str, ids: Sequence[str]) -> dict[str, Line]:
        """Those of them that are in the cohort."""
        found = _CHOSEN.where(*_of(cohort_id), SubmissionRow.id.in_(ids))
        return {line.id: line for line in self._read(found)}

    def cohort_strongest(self, cohort_id: str, limit: int) -> list[Line]:
        """Who mended most. Nobody about whom a suspicion is open or confirmed is among them."""
        clear = or_(_FLAG.is_(None), _FLAG == "dismissed")
        found = _CHOSEN.where(*_of(cohort_id), *_RATED, clear)
        return self._read(found.order_by(*_BY_STRENGTH, SubmissionRow.id).limit(limit))

    def cohort_looks(self, cohort_id: str, limit: int) -> list[Line]:
        """Whom a person has to look at before the table is believed, most pressing first."""
        pressing = case({look: place for place, look in enumerate(LOOKS)}, value=_LOOK)
        found = _CHOSEN.where(*_of(cohort_id), _LOOK.is_not(None))
        return self._read(found.order_by(pressing, SubmissionRow.id).limit(limit))

    def cohort_tally(self, cohort_id: str, bugs: int) -> Tally:
        """The cohort's figures; `bugs` is how many the challenge has."""
        rated = (*_of(cohort_id), *_RATED)
        by_fixed = select(SubmissionRow.fixed, func.count()).where(*rated).group_by(SubmissionRow.fixed)
        whole = func.count().filter(SubmissionRow.fixed == SubmissionRow.total)
        mended = [func.count().filter(_letter(number) == "f") for number in range(1, bugs + 1)]
        columns: list[Any] = [whole, *mended]
        sums: Select[Any] = select(*columns).select_from(SubmissionRow).where(*rated)
        with self._database.read() as session:
            counts: dict[int, int] = {fixed or 0: count for fixed, count in session.execute(by_fixed)}
            all_fixed, *each = session.execute(sums).one()
            states = machine.cohort_counts(session, cohort_id)
        return Tally(states=states, by_fixed=counts, all_fixed=all_fixed, mended=tuple(each))

    def cohort_standing(self, cohort_id: str, fixed: int) -> tuple[int, int]:
        """How many rated submissions of a cohort mended fewer bugs, and how many there are."""
        fewer = func.count().filter(SubmissionRow.fixed < fixed)
        with self._database.read() as session:
            below, all_of_them = session.execute(
                select(fewer, func.count()).select_from(SubmissionRow).where(*_of(cohort_id), *_RATED)
            ).one()
        return below, all_of_them

    def cohort_counts(self, cohort_ids: list[str]) -> dict[str, dict[SubmissionState, int]]:
        """How many submissions of each cohort are in each state, in one question."""
        counted = (
            select(SubmissionRow.cohort_id, SubmissionRow.state, func.count())
            .where(SubmissionRow.cohort_id.in_(cohort_ids))
            .group_by(SubmissionRow.cohort_id, SubmissionRow.state)
        )
        counts: dict[str, dict[SubmissionState, int]] = {one: {} for one in cohort_ids}
        with self._database.read() as session:
            rows: Any = session.execute(counted)
            for cohort_id, state, count in rows:
                counts[cohort_id or ""][state] = count
        return counts

    def _read(self, chosen: Select[str]) -> list[Line]:
        """Lines by the names that `chosen` gives: the index is enough to choose, and whole rows are large."""
        with self._database.read() as session:
            ids = session.scalars(chosen).all()
            rows = {row.id: row for row in session.execute(_LINES.where(SubmissionRow.id.in_(ids)))}
        return [
            Line(
                id=row.id,
                file_name=row.file_name,
                candidate=row.candidate,
                state=row.state,
                generation=row.generation,
                fixed=row.fixed,
                total=row.total,
                rating=row.rating,
                provisional=bool(row.provisional),
                verdicts=tuple(_WORDS[letter] for letter in row.verdicts or ""),
                goal_reached=row.goal_reached,
                accuracy=row.accuracy,
                flag=row.flag,
                look=row.look,
                decision=row.decision,
                finished_us=row.finished_us,
            )
            for row in (rows[one] for one in ids)
        ]


# What is asked of each row; the database works out only what a question uses. --------------------

_DECISION: ColumnElement[Any] = (
    select(DecisionRow.kind)
    .where(DecisionRow.submission_id == SubmissionRow.id)
    .order_by(DecisionRow.id.desc())
    .limit(1)
    .correlate(SubmissionRow)
    .scalar_subquery()
)
_RULING = (
    select(RulingRow.kind)
    .where(RulingRow.submission_id == SubmissionRow.id, RulingRow.generation == SubmissionRow.generation)
    .order_by(RulingRow.id.desc())
    .limit(1)
    .correlate(SubmissionRow)
    .scalar_subquery()
)
_GRADED = SubmissionRow.state == "graded"
_RATED = (_GRADED, SubmissionRow.fixed.is_not(None))
_FLAG: ColumnElement[Any] = case((SubmissionRow.tampering_suspected, func.coalesce(_RULING, "open")), else_=None)
_LOOK: ColumnElement[Any] = case(
    (and_(SubmissionRow.tampering_suspected, _RULING.is_(None)), "tampering"),
    (SubmissionRow.state == "dead", "dead"),
    (SubmissionRow.state == "invalid", "invalid"),
    (and_(_GRADED, SubmissionRow.provisional.is_(True)), "provisional"),
    (and_(_GRADED, SubmissionRow.fixed == SubmissionRow.total, SubmissionRow.goal_reached.is_(False)), "goal_missed"),
    else_=None,
)
# Mended bugs, then accuracy on rows that the program had not seen.
_STRENGTH = (func.coalesce(SubmissionRow.fixed, -1), func.coalesce(SubmissionRow.accuracy, 0.0))
_BY_STRENGTH = tuple(one.desc() for one in _STRENGTH)
_CODE = func.substr(SubmissionRow.id, ID_CHARS - CODE_CHARS + 1)
_CHOSEN = select(SubmissionRow.id)
_LINES: Select[Any] = select(
    SubmissionRow.id,
    SubmissionRow.file_name,
    SubmissionRow.candidate,
    SubmissionRow.state,
    SubmissionRow.generation,
    SubmissionRow.fixed,
    SubmissionRow.total,
    SubmissionRow.rating,
    SubmissionRow.finished_us,
    SubmissionRow.verdicts,
    SubmissionRow.goal_reached,
    SubmissionRow.accuracy,
    SubmissionRow.provisional,
    _FLAG.label("flag"),
    _LOOK.label("look"),
    _DECISION.label("decision"),
)
_SHOWS: dict[Show, ColumnElement[bool]] = {
    "undecided": _DECISION.is_(None),
    "advance": _DECISION == "advance",
    "hold": _DECISION == "hold",
    "reject": _DECISION == "reject",
    "look": _LOOK.is_not(None),
    "flagged": _FLAG.is_not(None),
    "goal": SubmissionRow.goal_reached.is_(True),
    "waiting": SubmissionRow.state.in_(("queued", "running")),
}


def _of(cohort_id: str) -> tuple[ColumnElement[bool], ...]:
    return SubmissionRow.cohort_id == cohort_id, SubmissionRow.state != "erased"


def _conditions(choice: LineChoice) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if choice.words:
        named = literal("candidate ") + _CODE if choice.blind else SubmissionRow.listed_as
        found.append(named.contains(clean(choice.words.casefold()), autoescape=True))
    if choice.rating:
        found.append(SubmissionRow.rating == choice.rating)
    if choice.bug:
        found.append(_letter(choice.bug) == _LETTERS[choice.verdict])
    if choice.show:
        found.append(_SHOWS[choice.show])
    return found


def _letter(bug: int) -> ColumnElement[str]:
    return func.substr(SubmissionRow.verdicts, bug, 1)


def _key(choice: LineChoice) -> ColumnElement[Any]:
    if choice.sort == "name":
        return _CODE if choice.blind else SubmissionRow.listed_as.expression
    if choice.sort == "accuracy":
        return func.coalesce(SubmissionRow.accuracy, -1.0)
    if choice.sort.startswith("bug"):
        return case({"f": 3, "i": 2, "n": 1}, value=_letter(int(choice.sort[3:])), else_=0)
    return _STRENGTH[0]

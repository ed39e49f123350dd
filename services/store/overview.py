"""A cohort in short lines: all that a list, its figures and its heat map show, without opening a report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sqlalchemy import and_, func, select
from sqlalchemy.orm import aliased

from services.store.part import Part
from services.store.records import Candidate, SubmissionState
from services.store.reviews import DecisionKind, DecisionRow, RulingRow
from services.store.tables import ReportRow, SubmissionRow

FlagState = Literal["open", "confirmed", "dismissed"]
_WORDS = {"f": "fixed", "n": "not_fixed", "i": "inconclusive"}


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
    decision: DecisionKind | None
    finished_us: int | None


class OverviewPart(Part):
    """What a cohort amounts to."""

    def cohort_lines(self, cohort_id: str) -> list[Line]:
        """All submissions of a cohort in the order they came, but erased ones. A thousand take some 20 ms."""
        newest = select(func.max(ReportRow.generation)).where(ReportRow.submission_id == SubmissionRow.id)
        decided, ruled = aliased(DecisionRow), aliased(RulingRow)
        last_decision = select(func.max(DecisionRow.id)).where(DecisionRow.submission_id == SubmissionRow.id)
        last_ruling = select(func.max(RulingRow.id)).where(
            RulingRow.submission_id == SubmissionRow.id, RulingRow.generation == SubmissionRow.generation
        )
        found = (
            select(
                SubmissionRow.id,
                SubmissionRow.file_name,
                SubmissionRow.candidate,
                SubmissionRow.state,
                SubmissionRow.generation,
                SubmissionRow.fixed,
                SubmissionRow.total,
                SubmissionRow.rating,
                SubmissionRow.tampering_suspected,
                SubmissionRow.finished_us,
                ReportRow.verdicts,
                ReportRow.goal_reached,
                ReportRow.accuracy,
                ReportRow.provisional,
                decided.kind.label("decision"),
                ruled.kind.label("ruling"),
            )
            .outerjoin(
                ReportRow,
                and_(
                    ReportRow.submission_id == SubmissionRow.id,
                    ReportRow.generation == newest.correlate(SubmissionRow).scalar_subquery(),
                ),
            )
            .outerjoin(decided, decided.id == last_decision.correlate(SubmissionRow).scalar_subquery())
            .outerjoin(ruled, ruled.id == last_ruling.correlate(SubmissionRow).scalar_subquery())
            .where(SubmissionRow.cohort_id == cohort_id, SubmissionRow.state != "erased")
            .order_by(SubmissionRow.id)
        )
        with self._database.read() as session:
            rows = session.execute(found).all()
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
                flag=(row.ruling or "open") if row.tampering_suspected else None,
                decision=row.decision,
                finished_us=row.finished_us,
            )
            for row in rows
        ]

    def cohort_standing(self, cohort_id: str, fixed: int) -> tuple[int, int]:
        """How many rated submissions of a cohort mended fewer bugs, and how many there are."""
        graded = (SubmissionRow.cohort_id == cohort_id, SubmissionRow.state == "graded")
        fewer = func.count().filter(SubmissionRow.fixed < fixed)
        with self._database.read() as session:
            below, all_of_them = session.execute(
                select(fewer, func.count()).where(*graded, SubmissionRow.fixed.is_not(None))
            ).one()
        return below, all_of_them

    def cohort_counts(self, cohort_ids: list[str]) -> dict[str, dict[str, int]]:
        """How many submissions of each cohort are in each state, in one question."""
        counted = (
            select(SubmissionRow.cohort_id, SubmissionRow.state, func.count())
            .where(SubmissionRow.cohort_id.in_(cohort_ids))
            .group_by(SubmissionRow.cohort_id, SubmissionRow.state)
        )
        counts: dict[str, dict[str, int]] = {one: {} for one in cohort_ids}
        with self._database.read() as session:
            for cohort_id, state, count in session.execute(counted):
                counts[cohort_id or ""][state] = count
        return counts

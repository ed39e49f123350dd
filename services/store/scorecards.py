"""What interviewers thought of the talk with a candidate: one scorecard each, private until handed in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import ForeignKey, String, UniqueConstraint, delete, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from services.store.audit import append
from services.store.errors import Conflict
from services.store.ids import new_id
from services.store.part import Part
from services.store.people import record_of
from services.store.reviews import LONGEST_TEXT, as_counted, reviewable
from services.store.tables import Id, Table, Time, Words

Mark = Literal["strong", "medium", "weak"]
MARKS: tuple[Mark, ...] = ("strong", "medium", "weak")
Recommendation = Literal["strong_yes", "yes", "no", "strong_no"]
RECOMMENDATIONS: tuple[Recommendation, ...] = ("strong_yes", "yes", "no", "strong_no")
_MOST_SECTIONS = 50


class ScorecardRow(Table):
    """One interviewer's marks for one submission."""

    __tablename__ = "scorecards"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    submission_id: Mapped[str] = mapped_column(Id, ForeignKey("submissions.id"))
    user_id: Mapped[str] = mapped_column(Id, ForeignKey("users.id"))
    author: Mapped[str] = mapped_column(Words)
    marks: Mapped[dict[str, Any]]  # strong, medium or weak, by the section's id
    comments: Mapped[dict[str, Any]]
    summary: Mapped[str] = mapped_column(Words)
    recommendation: Mapped[str | None] = mapped_column(String(16))
    created_us: Mapped[int] = mapped_column(Time)
    updated_us: Mapped[int] = mapped_column(Time)
    handed_in_us: Mapped[int | None] = mapped_column(Time)

    __table_args__ = (UniqueConstraint("submission_id", "user_id"),)


@dataclass(frozen=True, slots=True)
class Scorecard:
    """One interviewer's marks for one submission; a draft while `handed_in_us` is None."""

    id: str
    submission_id: str
    user_id: str
    author: str
    marks: Mapping[str, Mark]
    comments: Mapping[str, str]
    summary: str
    recommendation: Recommendation | None
    created_us: int
    updated_us: int
    handed_in_us: int | None


class ScorecardPart(Part):
    """Scorecards. `author` is a name to show; the user's id goes into the audit log."""

    def keep_scorecard(
        self,
        submission_id: str,
        user_id: str,
        author: str,
        marks: Mapping[str, Mark],
        comments: Mapping[str, str],
        summary: str,
        recommendation: Recommendation | None,
        *,
        hand_in: bool,
    ) -> Scorecard:
        """Keep one's draft, or hand it in, which is once and for all.

        Raises NotFound; ValueError for unknown marks, texts that are too long, or handing in without a mark and a
        recommendation; Conflict once it is handed in or the submission is erased.
        """
        kept = {name: as_counted(text) for name, text in comments.items() if text.strip()}
        words = as_counted(summary)
        _check(marks, kept, words, recommendation, hand_in)
        with self._database.write() as session:
            now_us = self._clock()
            reviewable(session, submission_id)
            values = {
                "id": new_id("scd", now_us),
                "submission_id": submission_id,
                "user_id": user_id,
                "author": author,
                "marks": {},
                "comments": {},
                "summary": "",
                "created_us": now_us,
                "updated_us": now_us,
            }
            self._database.add_if_new(session, ScorecardRow, values)
            row = session.scalar(_mine(submission_id, user_id).with_for_update(key_share=True))
            assert row is not None, "either it was there or it is new"
            if row.handed_in_us is not None:
                raise Conflict("this scorecard is handed in already and stays as it is")
            row.author, row.marks, row.comments = author, dict(marks), kept
            row.summary, row.recommendation, row.updated_us = words, recommendation, now_us
            if hand_in:
                row.handed_in_us = now_us
                detail = {"scorecard": row.id, "recommendation": recommendation}
                append(self._database, session, now_us, user_id, "submission.scorecard", submission_id, detail)
            session.flush()
            return record_of(Scorecard, row)

    def own_scorecard(self, submission_id: str, user_id: str) -> Scorecard | None:
        """One's own, draft or not."""
        with self._database.read() as session:
            row = session.scalar(_mine(submission_id, user_id))
            return None if row is None else record_of(Scorecard, row)

    def scorecards(self, submission_id: str) -> list[Scorecard]:
        """Those that were handed in, in that order. Drafts are their authors' alone."""
        found = (
            select(ScorecardRow)
            .where(ScorecardRow.submission_id == submission_id, ScorecardRow.handed_in_us.is_not(None))
            .order_by(ScorecardRow.handed_in_us, ScorecardRow.id)
        )
        with self._database.read() as session:
            return [record_of(Scorecard, row) for row in session.scalars(found)]


def forget(session: Session, submission_id: str) -> None:
    """Remove what was thought of an erased candidate."""
    session.execute(delete(ScorecardRow).where(ScorecardRow.submission_id == submission_id))


def _mine(submission_id: str, user_id: str) -> Any:
    return select(ScorecardRow).where(ScorecardRow.submission_id == submission_id, ScorecardRow.user_id == user_id)


def _check(
    marks: Mapping[str, str], comments: Mapping[str, str], summary: str, recommendation: str | None, hand_in: bool
) -> None:
    if any(mark not in MARKS for mark in marks.values()):
        raise ValueError(f"marks are {', '.join(MARKS)}")
    if recommendation is not None and recommendation not in RECOMMENDATIONS:
        raise ValueError(f"recommendations are {', '.join(RECOMMENDATIONS)}")
    if len(marks) > _MOST_SECTIONS or len(comments) > _MOST_SECTIONS:
        raise ValueError(f"a scorecard has at most {_MOST_SECTIONS} sections")
    if max(map(len, (summary, *comments.values()))) > LONGEST_TEXT:
        raise ValueError(f"each text has at most {LONGEST_TEXT:,} characters")
    if hand_in and not marks:
        raise ValueError("mark at least one section before you hand in")
    if hand_in and recommendation is None:
        raise ValueError("choose a recommendation before you hand in")

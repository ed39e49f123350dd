"""Assessments: what an applicant tracking system started before its candidate's file is there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import ForeignKey, Index, String, UniqueConstraint, select, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from services.store.audit import append
from services.store.errors import Conflict, NotFound
from services.store.ids import new_id
from services.store.part import Part, page, plain
from services.store.records import Candidate, Page
from services.store.tables import Facts, Id, Key, SubmissionRow, Table, Time, Words

AssessmentState = Literal["invited", "submitted", "cancelled"]
_OVER = ("graded", "invalid", "cancelled", "erased")


class AssessmentRow(Table):
    """One candidate who is to hand in, or has."""

    __tablename__ = "assessments"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    integration_id: Mapped[str] = mapped_column(Id)
    dedupe_key: Mapped[str | None] = mapped_column(Key)  # NULL where another may begin with the same key
    challenge: Mapped[str] = mapped_column(Words)
    candidate: Mapped[dict[str, Any] | None] = mapped_column(Facts)
    callback: Mapped[dict[str, Any] | None] = mapped_column(Facts)
    state: Mapped[str] = mapped_column(String(16))
    submission_id: Mapped[str | None] = mapped_column(Id, ForeignKey("submissions.id"))
    created_us: Mapped[int] = mapped_column(Time)
    updated_us: Mapped[int] = mapped_column(Time)

    __table_args__ = (UniqueConstraint("integration_id", "dedupe_key"), Index(None, "submission_id"))


@dataclass(frozen=True, slots=True)
class NewAssessment:
    """What an integration asks for. `renewable`: a repetition starts anew once the earlier one is over."""

    integration_id: str
    dedupe_key: str
    challenge: str
    candidate: Candidate | None
    callback: Mapping[str, Any]
    renewable: bool = False


@dataclass(frozen=True, slots=True)
class Assessment:
    """The same as it is kept. `candidate` and `callback` are None once cancelled or erased."""

    id: str
    integration_id: str
    challenge: str
    candidate: Candidate | None
    callback: Mapping[str, Any] | None
    state: AssessmentState
    submission_id: str | None
    created_us: int
    updated_us: int


class AssessmentPart(Part):
    """Who is to hand in. What they hand in is attached by `create_submission` with an `assessment_id`."""

    def create_assessment(self, new: NewAssessment, *, actor: str = "system") -> tuple[Assessment, bool]:
        """The assessment with this key, and whether it is new: the same call again makes no second one."""
        with self._database.write() as session:
            now_us = self._clock()
            found = _by_key(session, new)
            if found is not None and new.renewable and _is_over(session, found):
                found.dedupe_key = None
                session.flush()
            values = {
                "id": new_id("asm", now_us),
                "integration_id": new.integration_id,
                "dedupe_key": new.dedupe_key,
                "challenge": new.challenge,
                "candidate": plain(new.candidate),
                "callback": plain(new.callback),
                "state": "invited",
                "created_us": now_us,
                "updated_us": now_us,
            }
            created = self._database.add_if_new(session, AssessmentRow, values)
            row = _by_key(session, new)
            assert row is not None, "either it was there or it is new"
            if created:
                detail = {"challenge": row.challenge}
                append(self._database, session, now_us, actor, "assessment.create", row.id, detail)
            return record(row), created

    def assessment(self, assessment_id: str) -> Assessment | None:
        """One assessment."""
        with self._database.read() as session:
            row = session.get(AssessmentRow, assessment_id)
            return None if row is None else record(row)

    def list_assessments(
        self, integration_id: str | None = None, cursor: str | None = None, limit: int = 50
    ) -> Page[Assessment]:
        """Assessments, newest first. Raises BadCursor."""
        statement = select(AssessmentRow)
        if integration_id is not None:
            statement = statement.where(AssessmentRow.integration_id == integration_id)
        with self._database.read() as session:
            return page(session, statement, AssessmentRow.id, cursor, limit, record)


def lock(session: Session, assessment_id: str) -> AssessmentRow:
    """One assessment, for this transaction alone. Raises NotFound."""
    row = session.get(AssessmentRow, assessment_id, with_for_update={"key_share": True})
    if row is None:
        raise NotFound(f"there is no assessment {assessment_id}")
    return row


def waiting(session: Session, assessment_id: str, challenge: str) -> AssessmentRow:
    """The same, as long as something of `challenge` may be handed in for it. Raises NotFound, Conflict."""
    row = lock(session, assessment_id)
    if row.state != "invited":
        raise Conflict(f"assessment {assessment_id} is {row.state} already")
    if row.challenge != challenge:
        raise Conflict(f"assessment {assessment_id} is of the challenge {row.challenge}")
    return row


def attach(session: Session, assessment_id: str, submission: SubmissionRow, now_us: int) -> None:
    """Make a new submission the one that an assessment waits for: whose it is and where its result goes.

    Raises:
        NotFound: no such assessment.
        Conflict: it is cancelled, has its submission, or is of another challenge.
    """
    row = waiting(session, assessment_id, submission.challenge)
    submission.integration_id = row.integration_id
    submission.candidate = row.candidate
    submission.callback = {**(row.callback or {}), "assessment_id": row.id}
    row.state, row.submission_id, row.updated_us = "submitted", submission.id, now_us


def end(row: AssessmentRow, now_us: int) -> None:
    """Cancel one, and forget its candidate and where its result would have gone."""
    row.state, row.updated_us = "cancelled", now_us
    row.candidate = row.callback = row.dedupe_key = None


def forget(session: Session, submission_id: str) -> str | None:
    """Remove what tells of the candidate of an erased submission; the assessment's id if it is of one."""
    mine = update(AssessmentRow).where(AssessmentRow.submission_id == submission_id)
    return session.scalar(mine.values(candidate=None, callback=None).returning(AssessmentRow.id))


def _by_key(session: Session, new: NewAssessment) -> AssessmentRow | None:
    mine = AssessmentRow.integration_id == new.integration_id
    found = select(AssessmentRow).where(mine, AssessmentRow.dedupe_key == new.dedupe_key)
    return session.scalar(found.with_for_update(key_share=True))


def _is_over(session: Session, row: AssessmentRow) -> bool:
    if row.submission_id is None:
        return row.state == "cancelled"
    return session.scalar(select(SubmissionRow.state).where(SubmissionRow.id == row.submission_id)) in _OVER


def record(row: AssessmentRow) -> Assessment:
    """What is told of a row."""
    return Assessment(**{name: getattr(row, name) for name in Assessment.__dataclass_fields__})

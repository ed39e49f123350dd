"""Invitations: a link by which a candidate takes a challenge, tries programs out and hands one in.

What a candidate tries out, a check, is a row among the submissions, so that it is claimed, retried and swept like
any other; its purpose keeps it out of everything that lists, counts or tells of submissions. Handing in makes an
ordinary submission. Of a link only its token's hash is kept.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import ForeignKey, Integer, String, func, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from services.store import assessments, machine
from services.store.audit import append
from services.store.errors import Conflict, NotFound
from services.store.ids import INVITATION, new_id
from services.store.part import MICROSECONDS, BodyOf, Part, page, us
from services.store.people import token_hash
from services.store.records import UNDER_WAY, Candidate, NewSubmission, Page, Submission, SubmissionState
from services.store.tables import CohortTable, Facts, Id, SubmissionRow, Table, Time, Words

InvitationState = Literal["invited", "started", "handed_in", "expired", "revoked", "erased"]

_TOKEN_BYTES = 32
_OPENED_EVERY_US = us(60)
_NOT_USED: tuple[SubmissionState, ...] = ("dead", "cancelled")  # our fault, so they cost the candidate nothing


class InvitationRow(Table):
    """A link by which one candidate takes a challenge."""

    __tablename__ = "invitations"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    token_hash: Mapped[str] = mapped_column(String(64), unique=True)
    cohort_id: Mapped[str | None] = mapped_column(Id, ForeignKey("cohorts.id"), index=True)
    assessment_id: Mapped[str | None] = mapped_column(Id, ForeignKey("assessments.id"), index=True)
    challenge: Mapped[str] = mapped_column(Words)
    candidate: Mapped[dict[str, Any] | None] = mapped_column(Facts)
    author: Mapped[str] = mapped_column(Words)
    created_us: Mapped[int] = mapped_column(Time)
    expires_us: Mapped[int] = mapped_column(Time)
    time_limit_s: Mapped[int | None] = mapped_column(Integer)
    checks_max: Mapped[int] = mapped_column(Integer)
    started_us: Mapped[int | None] = mapped_column(Time)
    handed_in_us: Mapped[int | None] = mapped_column(Time)
    submission_id: Mapped[str | None] = mapped_column(Id, ForeignKey("submissions.id"), unique=True)
    revoked_us: Mapped[int | None] = mapped_column(Time)
    opened: Mapped[int] = mapped_column(Integer)
    opened_us: Mapped[int | None] = mapped_column(Time)


@dataclass(frozen=True, slots=True)
class NewInvitations:
    """Links to make, one for each candidate: into a cohort, for an assessment, or for neither."""

    challenge: str
    candidates: Sequence[Candidate]
    author: str  # whom a candidate may ask
    valid_s: float
    checks_max: int
    cohort_id: str | None = None
    time_limit_s: int | None = None  # None: as long as the link lives
    assessment_id: str | None = None  # what is handed in becomes its submission


@dataclass(frozen=True, slots=True)
class Invitation:
    """A link without its token, which only its maker was shown."""

    id: str
    cohort_id: str | None
    assessment_id: str | None
    challenge: str
    candidate: Candidate | None  # None once erased
    author: str
    created_us: int
    expires_us: int
    time_limit_s: int | None
    checks_max: int
    started_us: int | None
    handed_in_us: int | None
    submission_id: str | None
    revoked_us: int | None
    opened: int  # how often, counted once a minute at most
    opened_us: int | None
    checks_used: int

    @property
    def deadline_us(self) -> int | None:
        """When the candidate's own time is over; None without a limit or before it began."""
        if self.time_limit_s is None or self.started_us is None:
            return None
        return self.started_us + us(self.time_limit_s)

    def late_s(self, at_us: int) -> float:
        """How late it was handed in, or where it is not yet would be at `at_us`; 0 in time."""
        if self.deadline_us is None:
            return 0.0
        return max(0, (self.handed_in_us or at_us) - self.deadline_us) / MICROSECONDS

    def state(self, at_us: int) -> InvitationState:
        """Where it stands. A link whose candidate handed in is `handed_in`, expired or not."""
        if self.candidate is None:
            return "erased"
        if self.handed_in_us is not None:
            return "handed_in"
        if self.revoked_us is not None:
            return "revoked"
        if self.expires_us <= at_us:
            return "expired"
        return "started" if self.started_us is not None else "invited"

    def is_open(self, at_us: int) -> bool:
        """Whether its link shows anything."""
        return self.revoked_us is None and self.candidate is not None and at_us < self.expires_us


@dataclass(frozen=True, slots=True)
class Check:
    """One program that a candidate tried out."""

    id: str
    file_name: str
    source_sha256: str
    source_bytes: int
    state: SubmissionState
    created_us: int
    finished_us: int | None
    result: Mapping[str, Any] | None


class InvitationPart(Part):
    """Links for candidates, and what comes in by them. The words of a Conflict here are for the candidate."""

    def create_invitations(self, new: NewInvitations, *, actor: str) -> list[tuple[Invitation, str]]:
        """All links with their tokens, told this once; all or none.

        A candidate without an external_id gets the invitation's id as one, so that attempts stand together. An
        assessment has one link that works: earlier ones end here.

        Raises NotFound; Conflict for a cancelled cohort, or an assessment that waits for nothing.
        """
        tokens = [secrets.token_urlsafe(_TOKEN_BYTES) for _ in new.candidates]
        with self._database.write() as session:
            now_us = self._clock()
            if new.cohort_id is not None:
                _require_going_on(machine.locked_cohort(session, new.cohort_id))
            if new.assessment_id is not None:
                assessments.waiting(session, new.assessment_id, new.challenge)
                for row in _locked_of(session, new.assessment_id):
                    self._revoke(session, row, now_us, actor)
            rows = [
                _new_row(new, candidate, token, now_us) for candidate, token in zip(new.candidates, tokens, strict=True)
            ]
            session.add_all(rows)
            session.flush()
            made = _records(session, rows)
            for one in made:
                detail = {"cohort": one.cohort_id, "challenge": one.challenge, "expires_us": one.expires_us}
                detail |= {"assessment": one.assessment_id} if one.assessment_id else {}
                append(self._database, session, now_us, actor, "invitation.create", one.id, detail)
        return list(zip(made, tokens, strict=True))

    def invitation(self, invitation_id: str) -> Invitation | None:
        """One invitation."""
        with self._database.read() as session:
            row = session.get(InvitationRow, invitation_id)
            return None if row is None else _record(session, row)

    def invitation_of(self, submission_id: str) -> Invitation | None:
        """The invitation by which a submission came in."""
        with self._database.read() as session:
            row = session.scalar(select(InvitationRow).where(InvitationRow.submission_id == submission_id))
            return None if row is None else _record(session, row)

    def list_invitations(self, cohort_id: str, cursor: str | None = None, limit: int = 50) -> Page[Invitation]:
        """Those of a cohort, newest first. Raises BadCursor."""
        found = select(InvitationRow).where(InvitationRow.cohort_id == cohort_id)
        with self._database.read() as session:
            rows = page(session, found, InvitationRow.id, cursor, limit, lambda row: row)
            return Page(tuple(_records(session, rows.items)), rows.next_cursor)

    def invitations_to(self, assessment_ids: Sequence[str]) -> dict[str, Invitation]:
        """The newest invitation of each assessment that has one."""
        mine = select(InvitationRow).where(InvitationRow.assessment_id.in_(assessment_ids)).order_by(InvitationRow.id)
        with self._database.read() as session:
            found = _records(session, session.scalars(mine).all())
        return {one.assessment_id: one for one in found if one.assessment_id is not None}

    def invitation_by_token(self, token: str) -> Invitation | None:
        """Whose token this is, ended links too; None where it never was one."""
        with self._database.read() as session:
            row = session.scalar(select(InvitationRow).where(InvitationRow.token_hash == token_hash(token)))
            return None if row is None else _record(session, row)

    def open_invitation(self, token: str) -> Invitation | None:
        """The same for the candidate, whose visits are counted while the link is open."""
        known, now_us = self.invitation_by_token(token), self._clock()
        if known is None or not known.is_open(now_us) or (known.opened_us or 0) > now_us - _OPENED_EVERY_US:
            return known
        with self._database.write() as session:
            row = _locked(session, known.id)
            row.opened, row.opened_us = row.opened + 1, now_us
            return _record(session, row)

    def start_invitation(self, invitation_id: str) -> Invitation:
        """The candidate begins, and the clock with them. Beginning twice changes nothing. Raises NotFound, Conflict."""
        with self._database.write() as session:
            now_us = self._clock()
            row = _going_on(session, invitation_id, now_us)
            self._start(session, row, now_us)
            return _record(session, row)

    def _start(self, session: Session, row: InvitationRow, now_us: int) -> None:
        if row.started_us is None:
            row.started_us = now_us
            append(self._database, session, now_us, row.id, "invitation.start", row.id)

    def create_check(self, invitation_id: str, file_name: str, source: bytes) -> Check:
        """Try a program out: one at a time, as often as the invitation has it, until the time is over.

        Raises NotFound, Conflict.
        """
        with self._database.write() as session:
            now_us = self._clock()
            row = _going_on(session, invitation_id, now_us)
            _require_begun(row)
            known = _record(session, row)
            if known.late_s(now_us) > 0:
                raise Conflict("your time is over, and checks with it; you can still hand in")
            if known.checks_used >= row.checks_max:
                raise Conflict("no check is left; you can hand in without one")
            if any(one.state in UNDER_WAY for one in _checks(session, row.id)):
                raise Conflict("one check is under way; wait for its result")
            new = NewSubmission(row.challenge, file_name, source)
            most = self._max_attempts
            check = machine.new_row(new, "interactive", now_us, most, purpose="check", invitation_id=row.id)
            session.add(check)
            session.flush()
            machine.first_hint(session, check, now_us)
            self._start(session, row, now_us)
            return _check(check)

    def checks(self, invitation_id: str) -> list[Check]:
        """What was tried out, newest first."""
        with self._database.read() as session:
            return [_check(row) for row in _checks(session, invitation_id)][::-1]

    def check_source(self, invitation_id: str, check_id: str) -> bytes | None:
        """The program of a check; None where it is none of this invitation's, or was erased."""
        mine = (SubmissionRow.id == check_id, SubmissionRow.invitation_id == invitation_id)
        with self._database.read() as session:
            return session.scalar(select(SubmissionRow.source).where(*mine, SubmissionRow.purpose == "check"))

    def hand_in(self, invitation_id: str, file_name: str, source: bytes) -> Submission:
        """Make the candidate's one submission, late or not, in the invitation's cohort or for its assessment.

        Raises NotFound, Conflict: of two at once the second finds that it is handed in.
        """
        with self._database.write() as session:
            now_us = self._clock()
            belongs = select(InvitationRow.cohort_id, InvitationRow.assessment_id)
            found = session.execute(belongs.where(InvitationRow.id == invitation_id)).one_or_none()
            cohort_id, assessment_id = found if found is not None else (None, None)
            cohort = machine.locked_cohort(session, cohort_id) if cohort_id is not None else None
            if assessment_id is not None:
                assessments.lock(session, assessment_id)
            row = _going_on(session, invitation_id, now_us)
            _require_begun(row)
            if cohort is not None:
                _require_going_on(cohort)
                machine.run_cohort(cohort)
            new = NewSubmission(row.challenge, file_name, source, candidate=row.candidate)  # type: ignore[arg-type]
            queue: Literal["interactive", "cohort"] = "interactive" if cohort is None else "cohort"
            made = machine.new_row(
                new, queue, now_us, self._max_attempts, cohort_id=cohort_id, invitation_id=invitation_id
            )
            session.add(made)
            session.flush()
            if assessment_id is not None:
                _attach(session, assessment_id, made, row, now_us)
            machine.first_hint(session, made, now_us)
            row.started_us = row.started_us or now_us
            row.handed_in_us, row.submission_id = now_us, made.id
            session.flush()
            detail = {"submission": made.id, "late_s": round(_record(session, row).late_s(now_us))}
            append(self._database, session, now_us, row.id, "invitation.hand_in", row.id, detail)
            return machine.record(made)

    def revoke_invitation(self, invitation_id: str, *, actor: str) -> Invitation:
        """End a link. Ending it twice is no error. Raises NotFound."""
        with self._database.write() as session:
            row = _locked(session, invitation_id)
            self._revoke(session, row, self._clock(), actor)
            return _record(session, row)

    def _revoke(self, session: Session, row: InvitationRow, now_us: int, actor: str) -> None:
        if row.revoked_us is None:
            row.revoked_us = now_us
            append(self._database, session, now_us, actor, "invitation.revoke", row.id)

    def extend_invitation(self, invitation_id: str, valid_s: float, *, actor: str) -> Invitation:
        """Let a link live for `valid_s` from now, also one that expired. Raises NotFound, Conflict (revoked)."""
        with self._database.write() as session:
            now_us = self._clock()
            row = _locked(session, invitation_id)
            if row.revoked_us is not None:
                raise Conflict("this link was revoked for good; make a new one")
            row.expires_us = now_us + us(valid_s)
            detail = {"expires_us": row.expires_us}
            append(self._database, session, now_us, actor, "invitation.extend", row.id, detail)
            return _record(session, row)

    def erase_invitation(self, invitation_id: str, *, actor: str) -> Invitation:
        """Forget a candidate who handed nothing in: name, checks, link. Raises NotFound, Conflict (handed in)."""
        with self._database.write() as session:
            now_us = self._clock()
            row = _locked(session, invitation_id)
            if row.submission_id is not None:
                raise Conflict("this candidate has handed in; erase the submission, and the rest goes with it")
            if row.candidate is not None:
                forget(session, row.id, now_us, self._body_of)
                append(self._database, session, now_us, actor, "invitation.erase", row.id)
            return _record(session, row)

    def cancel_assessment(self, assessment_id: str, *, actor: str = "system") -> assessments.Assessment:
        """End one that nothing was handed in for, and forget its candidate, links and checks; any other stays.

        Raises NotFound.
        """
        with self._database.write() as session:
            row = assessments.lock(session, assessment_id)
            if row.state == "invited":
                now_us = self._clock()
                assessments.end(row, now_us)
                forget_all(session, assessment_id, now_us, self._body_of)
                append(self._database, session, now_us, actor, "assessment.cancel", row.id)
            return assessments.record(row)


def forget(session: Session, invitation_id: str, now_us: int, body_of: BodyOf) -> None:
    """Remove the candidate from an invitation and all its checks, and end its link."""
    row = _locked(session, invitation_id)
    row.candidate = None
    row.revoked_us = row.revoked_us or now_us
    machine.note_erased(session, now_us)
    mine = (SubmissionRow.invitation_id == invitation_id, SubmissionRow.purpose == "check")
    checks = select(SubmissionRow).where(*mine, SubmissionRow.state != "erased").order_by(SubmissionRow.id)
    for check in session.scalars(checks.with_for_update(key_share=True)).all():
        machine.erase(session, check, now_us, body_of)


def forget_all(session: Session, assessment_id: str, now_us: int, body_of: BodyOf) -> None:
    """The same for every link of an assessment, which is locked already."""
    for row in _locked_of(session, assessment_id):
        forget(session, row.id, now_us, body_of)


def _attach(session: Session, assessment_id: str, made: SubmissionRow, row: InvitationRow, now_us: int) -> None:
    try:
        assessments.attach(session, assessment_id, made, now_us)
    except Conflict:
        raise Conflict("those who invited you have a program for this already, or called it off") from None
    made.candidate = row.candidate  # the same person, with an id by which attempts stand together
    session.flush()


def _new_row(new: NewInvitations, candidate: Candidate, token: str, now_us: int) -> InvitationRow:
    invitation_id = new_id(INVITATION, now_us)
    return InvitationRow(
        id=invitation_id,
        token_hash=token_hash(token),
        cohort_id=new.cohort_id,
        assessment_id=new.assessment_id,
        challenge=new.challenge,
        candidate={"external_id": invitation_id, **candidate},
        author=new.author,
        created_us=now_us,
        expires_us=now_us + us(new.valid_s),
        time_limit_s=new.time_limit_s,
        checks_max=new.checks_max,
        started_us=None,
        handed_in_us=None,
        submission_id=None,
        revoked_us=None,
        opened=0,
        opened_us=None,
    )


def _locked(session: Session, invitation_id: str) -> InvitationRow:
    row = session.get(InvitationRow, invitation_id, with_for_update={"key_share": True})
    if row is None:
        raise NotFound(f"there is no invitation {invitation_id}")
    return row


def _locked_of(session: Session, assessment_id: str) -> Sequence[InvitationRow]:
    """All links of an assessment, which is locked already."""
    mine = select(InvitationRow).where(InvitationRow.assessment_id == assessment_id).order_by(InvitationRow.id)
    return session.scalars(mine.with_for_update(key_share=True)).all()


def _going_on(session: Session, invitation_id: str, now_us: int) -> InvitationRow:
    """One by which something may still come in, for this transaction alone. Raises NotFound, Conflict."""
    row = _locked(session, invitation_id)
    if row.handed_in_us is not None:
        raise Conflict("you have handed in already, and that is what counts")
    if row.revoked_us is not None or row.candidate is None or row.expires_us <= now_us:
        raise Conflict("this link has ended")
    return row


def _require_begun(row: InvitationRow) -> None:
    if row.time_limit_s is not None and row.started_us is None:
        raise Conflict("start first: your time begins then")


def _require_going_on(cohort: CohortTable) -> None:
    if cohort.state == "cancelled":
        raise Conflict("this round was called off by those who invited")


def _record(session: Session, row: InvitationRow) -> Invitation:
    return _records(session, [row])[0]


def _records(session: Session, rows: Sequence[InvitationRow]) -> list[Invitation]:
    counted = (
        select(SubmissionRow.invitation_id, func.count())
        .where(
            SubmissionRow.invitation_id.in_([row.id for row in rows]),
            SubmissionRow.purpose == "check",
            SubmissionRow.state.not_in(_NOT_USED),
        )
        .group_by(SubmissionRow.invitation_id)
    )
    used = {invitation_id: count for invitation_id, count in session.execute(counted)}
    names = [name for name in Invitation.__dataclass_fields__ if name != "checks_used"]
    return [Invitation(**{name: getattr(row, name) for name in names}, checks_used=used.get(row.id, 0)) for row in rows]


def _checks(session: Session, invitation_id: str) -> Sequence[SubmissionRow]:
    mine = (SubmissionRow.invitation_id == invitation_id, SubmissionRow.purpose == "check")
    return session.scalars(select(SubmissionRow).where(*mine).order_by(SubmissionRow.id)).all()


def _check(row: SubmissionRow) -> Check:
    return Check(
        id=row.id,
        file_name=row.file_name,
        source_sha256=row.source_sha256,
        source_bytes=row.source_bytes,
        state=row.state,  # type: ignore[arg-type]  # a String whose values the state machine writes
        created_us=row.created_us,
        finished_us=row.finished_us,
        result=row.check_result,
    )

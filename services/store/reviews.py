"""What people write about a submission: notes, decisions, rulings on suspicions, links for others to look.

Decisions and rulings are only ever added; the newest counts, and the earlier ones stay readable.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import ForeignKey, Index, String, delete, select, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from services.store import machine
from services.store.audit import append
from services.store.errors import Conflict, NotFound
from services.store.ids import new_id
from services.store.part import Part, us
from services.store.people import record_of, token_hash
from services.store.tables import Id, SubmissionRow, Table, Time, Words, clean

DecisionKind = Literal["advance", "hold", "reject"]
DECISIONS: tuple[DecisionKind, ...] = ("advance", "hold", "reject")
RulingKind = Literal["confirmed", "dismissed"]
RULINGS: tuple[RulingKind, ...] = ("confirmed", "dismissed")

LONGEST_TEXT = 10_000
_TOKEN_BYTES = 32


class NoteRow(Table):
    """What somebody wrote about a submission."""

    __tablename__ = "notes"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    submission_id: Mapped[str] = mapped_column(Id, ForeignKey("submissions.id"), index=True)
    author: Mapped[str] = mapped_column(Words)
    text: Mapped[str] = mapped_column(Words)
    created_us: Mapped[int] = mapped_column(Time)


class DecisionRow(Table):
    """What somebody decided about a candidate."""

    __tablename__ = "decisions"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    submission_id: Mapped[str] = mapped_column(Id, ForeignKey("submissions.id"), index=True)
    author: Mapped[str] = mapped_column(Words)
    kind: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str] = mapped_column(Words)
    generation: Mapped[int]
    created_us: Mapped[int] = mapped_column(Time)


class RulingRow(Table):
    """What somebody found about the suspicion of one grade."""

    __tablename__ = "rulings"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    submission_id: Mapped[str] = mapped_column(Id, ForeignKey("submissions.id"))
    generation: Mapped[int]
    author: Mapped[str] = mapped_column(Words)
    kind: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str] = mapped_column(Words)
    created_us: Mapped[int] = mapped_column(Time)

    __table_args__ = (Index(None, "submission_id", "generation"),)


class ShareRow(Table):
    """A link that shows one report to whoever has it."""

    __tablename__ = "share_links"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    token_hash: Mapped[str] = mapped_column(String(64), unique=True)
    submission_id: Mapped[str] = mapped_column(Id, ForeignKey("submissions.id"), index=True)
    author: Mapped[str] = mapped_column(Words)
    blind: Mapped[bool]
    created_us: Mapped[int] = mapped_column(Time)
    expires_us: Mapped[int] = mapped_column(Time)
    revoked_us: Mapped[int | None] = mapped_column(Time)
    opened: Mapped[int]
    opened_us: Mapped[int | None] = mapped_column(Time)


@dataclass(frozen=True, slots=True)
class Note:
    """What somebody wrote about a submission."""

    id: str
    author: str
    text: str
    created_us: int


@dataclass(frozen=True, slots=True)
class Decision:
    """What somebody decided; empty `reason` where erased or not given."""

    id: str
    author: str
    kind: DecisionKind
    reason: str
    generation: int
    created_us: int


@dataclass(frozen=True, slots=True)
class Ruling:
    """What somebody found about the suspicion of one generation's report."""

    id: str
    generation: int
    author: str
    kind: RulingKind
    reason: str
    created_us: int


@dataclass(frozen=True, slots=True)
class ShareLink:
    """A link without its token, which only its maker was shown."""

    id: str
    submission_id: str
    author: str
    blind: bool
    created_us: int
    expires_us: int
    revoked_us: int | None
    opened: int
    opened_us: int | None


class ReviewPart(Part):
    """What people write about a submission. `author` is a name to show, `actor` goes into the audit log."""

    def add_note(self, submission_id: str, author: str, text: str, *, actor: str) -> Note:
        """Add a note. Raises NotFound, ValueError for an empty or too long one, Conflict once erased."""
        words = _text(text, "a note")
        with self._database.write() as session:
            now_us = self._clock()
            reviewable(session, submission_id)
            note_id = new_id("nte", now_us)
            row = NoteRow(id=note_id, submission_id=submission_id, author=author, text=words, created_us=now_us)
            session.add(row)
            session.flush()
            append(self._database, session, now_us, actor, "submission.note", submission_id, {"note": row.id})
            return record_of(Note, row)

    def notes(self, submission_id: str) -> list[Note]:
        """All notes, oldest first."""
        found = select(NoteRow).where(NoteRow.submission_id == submission_id).order_by(NoteRow.id)
        with self._database.read() as session:
            return [record_of(Note, row) for row in session.scalars(found)]

    def decide(self, submission_id: str, author: str, kind: DecisionKind, reason: str, *, actor: str) -> Decision:
        """Record a decision over the earlier ones. Raises NotFound, ValueError, Conflict once erased."""
        if kind not in DECISIONS:
            raise ValueError(f"decisions are {', '.join(DECISIONS)}")
        words = _text(reason, "a reason")
        with self._database.write() as session:
            now_us = self._clock()
            submission = reviewable(session, submission_id)
            row = DecisionRow(
                id=new_id("dec", now_us),
                submission_id=submission_id,
                author=author,
                kind=kind,
                reason=words,
                generation=submission.generation,
                created_us=now_us,
            )
            session.add(row)
            session.flush()
            append(self._database, session, now_us, actor, "submission.decide", submission_id, {"decision": kind})
            return record_of(Decision, row)

    def decisions(self, submission_id: str) -> list[Decision]:
        """All decisions, newest first."""
        found = select(DecisionRow).where(DecisionRow.submission_id == submission_id).order_by(DecisionRow.id.desc())
        with self._database.read() as session:
            return [record_of(Decision, row) for row in session.scalars(found)]

    def rule(self, submission_id: str, author: str, kind: RulingKind, reason: str, *, actor: str) -> Ruling:
        """Confirm or dismiss the suspicion of the newest grade.

        Raises NotFound, ValueError, and Conflict where nothing is suspected.
        """
        if kind not in RULINGS:
            raise ValueError(f"rulings are {', '.join(RULINGS)}")
        words = _text(reason, "a reason")
        with self._database.write() as session:
            now_us = self._clock()
            submission = reviewable(session, submission_id)
            if not submission.tampering_suspected:
                raise Conflict(f"nothing is suspected of submission {submission_id}")
            row = RulingRow(
                id=new_id("rul", now_us),
                submission_id=submission_id,
                generation=submission.generation,
                author=author,
                kind=kind,
                reason=words,
                created_us=now_us,
            )
            session.add(row)
            session.flush()
            append(self._database, session, now_us, actor, "submission.rule", submission_id, {"ruling": kind})
            return record_of(Ruling, row)

    def rulings(self, submission_id: str) -> list[Ruling]:
        """All rulings, newest first."""
        found = select(RulingRow).where(RulingRow.submission_id == submission_id).order_by(RulingRow.id.desc())
        with self._database.read() as session:
            return [record_of(Ruling, row) for row in session.scalars(found)]

    def create_share(
        self, submission_id: str, author: str, valid_s: float, *, blind: bool, actor: str
    ) -> tuple[ShareLink, str]:
        """A link and its token, told this once. Raises NotFound, Conflict once erased."""
        token = secrets.token_urlsafe(_TOKEN_BYTES)
        with self._database.write() as session:
            now_us = self._clock()
            reviewable(session, submission_id)
            row = ShareRow(
                id=new_id("shr", now_us),
                token_hash=token_hash(token),
                submission_id=submission_id,
                author=author,
                blind=blind,
                created_us=now_us,
                expires_us=now_us + us(valid_s),
                revoked_us=None,
                opened=0,
                opened_us=None,
            )
            session.add(row)
            session.flush()
            detail = {"link": row.id, "expires_us": row.expires_us}
            append(self._database, session, now_us, actor, "submission.share", submission_id, detail)
            return record_of(ShareLink, row), token

    def shares(self, submission_id: str) -> list[ShareLink]:
        """All links to a submission, newest first, ended ones too."""
        found = select(ShareRow).where(ShareRow.submission_id == submission_id).order_by(ShareRow.id.desc())
        with self._database.read() as session:
            return [record_of(ShareLink, row) for row in session.scalars(found)]

    def open_share(self, token: str) -> ShareLink | None:
        """What a token opens, counted; None where it never was, expired or was revoked."""
        now_us = self._clock()
        with self._database.write() as session:
            row = session.scalar(select(ShareRow).where(ShareRow.token_hash == token_hash(token)))
            if row is None or row.revoked_us is not None or row.expires_us <= now_us:
                return None
            row.opened, row.opened_us = row.opened + 1, now_us
            return record_of(ShareLink, row)

    def revoke_share(self, submission_id: str, link_id: str, *, actor: str) -> None:
        """End a link. Ending it twice is no error. Raises NotFound."""
        with self._database.write() as session:
            now_us = self._clock()
            row = session.get(ShareRow, link_id)
            if row is None or row.submission_id != submission_id:
                raise NotFound(f"there is no link {link_id}")
            if row.revoked_us is None:
                row.revoked_us = now_us
                append(self._database, session, now_us, actor, "submission.unshare", submission_id, {"link": link_id})


def forget(session: Session, submission_id: str, now_us: int) -> None:
    """Remove what people wrote about an erased submission's candidate; that a decision was taken stays."""
    session.execute(delete(NoteRow).where(NoteRow.submission_id == submission_id))
    session.execute(update(DecisionRow).where(DecisionRow.submission_id == submission_id).values(reason=""))
    session.execute(update(RulingRow).where(RulingRow.submission_id == submission_id).values(reason=""))
    links = update(ShareRow).where(ShareRow.submission_id == submission_id, ShareRow.revoked_us.is_(None))
    session.execute(links.values(revoked_us=now_us))


def as_counted(words: str) -> str:
    """What a person typed, as it is kept: a browser counts a line's end once and sends two characters."""
    return clean(words).replace("\r\n", "\n").strip()


def _text(words: str, what: str) -> str:
    text = as_counted(words)
    if not text or len(text) > LONGEST_TEXT:
        raise ValueError(f"{what} has 1 to {LONGEST_TEXT:,} characters")
    return text


def reviewable(session: Session, submission_id: str) -> SubmissionRow:
    """The submission that somebody writes about, so that it is not erased meanwhile. Raises NotFound, Conflict."""
    row = machine.handed_in(machine.locked(session, submission_id), submission_id)
    if row.state == "erased":
        raise Conflict(f"submission {submission_id} is erased")
    return row

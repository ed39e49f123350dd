"""The audit log: lines that are only ever added, each sealed with a hash over all before it.

Triggers refuse to change or remove a line; the chain shows it where somebody got past them. The hash
of the newest line is kept beside the log, so that a cut end shows too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from services.store.database import AUDIT_LOCK, Database
from services.store.part import Part, page
from services.store.records import AuditEntry, AuditProblem, Page
from services.store.tables import AuditRow, SettingRow, clean

_FIRST = "0" * 64
_HEAD = "audit_head"
_BATCH = 1000


def append(
    database: Database,
    session: Session,
    now_us: int,
    actor: str,
    action: str,
    subject: str,
    detail: Mapping[str, Any] | None = None,
) -> AuditEntry:
    """Add a line in the transaction of what it tells. The last statement of it: others wait from here on."""
    database.serialise(session, AUDIT_LOCK)
    last = session.execute(select(AuditRow.seq, AuditRow.hash).order_by(AuditRow.seq.desc()).limit(1)).one_or_none()
    seq, previous = (last.seq + 1, last.hash) if last else (1, _FIRST)
    actor, action, subject = clean(actor), clean(action), clean(subject)
    told = _told(detail or {})
    digest = _hash(seq, now_us, actor, action, subject, told, previous)
    values = {"actor": actor, "action": action, "subject": subject, "detail": told, "previous_hash": previous}
    session.execute(insert(AuditRow).values(seq=seq, at_us=now_us, hash=digest, **values))
    head = session.get(SettingRow, _HEAD)
    if head is None:
        session.execute(insert(SettingRow).values(key=_HEAD, value=f"{seq}:{digest}"))
    else:
        head.value = f"{seq}:{digest}"
    return AuditEntry(seq, now_us, actor, action, subject, json.loads(told), previous, digest)


class AuditPart(Part):
    """Who did what."""

    def audit(self, actor: str, action: str, subject: str, detail: Mapping[str, Any] | None = None) -> AuditEntry:
        """Write a line, for good: put nothing of a candidate into it but ids."""
        with self._database.write() as session:
            return append(self._database, session, self._clock(), actor, action, subject, detail)

    def audit_log(self, cursor: str | None = None, limit: int = 50) -> Page[AuditEntry]:
        """The log, newest first. Raises BadCursor."""
        with self._database.read() as session:
            return page(session, select(AuditRow), AuditRow.seq, cursor, limit, _entry)

    def verify_audit(self, known_head: str | None = None) -> AuditProblem | None:
        """Check the whole chain; None when it holds.

        `known_head`, a hash noted earlier and kept elsewhere, must be in it: that also finds a log
        that somebody with the database's password wrote anew.
        """
        with self._database.read() as session:
            noted = session.scalar(select(SettingRow.value).where(SettingRow.key == _HEAD))
            head_seq, _, head_hash = (noted or "0:").partition(":")
            seq, previous, known = 0, _FIRST, known_head is None
            for row in _lines(session):
                if row.seq != seq + 1:
                    return AuditProblem(seq + 1, f"lines {seq + 1} to {row.seq - 1} are missing")
                if row.previous_hash != previous:
                    return AuditProblem(row.seq, "the line does not follow the one before it")
                words = (row.actor, row.action, row.subject, row.detail, row.previous_hash)
                if row.hash != _hash(row.seq, row.at_us, *words):
                    return AuditProblem(row.seq, "the line was changed")
                seq, previous = row.seq, row.hash
                known = known or row.hash == known_head
                if str(seq) == head_seq and row.hash != head_hash:
                    return AuditProblem(seq, "the line is not the one that was noted when it was written")
            # Lines may have come after the head was read, but none may be gone.
            if not head_seq.isdecimal() or seq < int(head_seq) or (seq and not int(head_seq)):
                return AuditProblem(None, f"the log ends with line {seq}, its noted end is {noted or 'missing'}")
            return None if known else AuditProblem(None, "the hash that was noted elsewhere is not in this log")


def _lines(session: Session) -> Iterator[AuditRow]:
    """All lines in order, in parts that memory holds."""
    seq = 0
    while rows := session.scalars(
        select(AuditRow).where(AuditRow.seq > seq).order_by(AuditRow.seq).limit(_BATCH)
    ).all():
        yield from rows
        seq = rows[-1].seq
        session.expunge_all()


def _hash(seq: int, at_us: int, *words: str) -> str:
    text = json.dumps([seq, at_us, *words], ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _told(detail: Mapping[str, Any]) -> str:
    """`detail` as JSON that any answer can repeat: escaped, a lone surrogate would pass `clean` and come back."""
    text = json.dumps(dict(detail), ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return clean(text)


def _entry(row: AuditRow) -> AuditEntry:
    return AuditEntry(
        seq=row.seq,
        at_us=row.at_us,
        actor=row.actor,
        action=row.action,
        subject=row.subject,
        detail=json.loads(_told(json.loads(row.detail))),  # older lines may hold lone surrogates
        previous_hash=row.previous_hash,
        hash=row.hash,
    )

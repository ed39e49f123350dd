"""Answers that are given again to whoever asks the same thing again.

What a request creates and what was answered to it are one transaction. A request that vanished half
way created nothing, so another may take over its key after a while; should it still be alive, the
second to finish finds the key done, and creates nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from services.store.errors import Conflict, NotFound
from services.store.part import Part, us
from services.store.records import (
    Idempotency,
    IdempotencyState,
    Inbound,
    InboundSeen,
    StoredResponse,
    Submission,
)
from services.store.tables import IdempotencyRow, InboundRow

ERASED = 410  # the status of an answer whose submission is erased


def remember(
    session: Session,
    idempotency: Idempotency | None,
    inbound: Inbound | None,
    made: tuple[Submission, ...],
    subject_id: str,
) -> None:
    """Keep the answers beside what they tell of. Raises Conflict where another request kept one first."""
    if idempotency is not None:
        row = _locked_key(session, idempotency.api_key_id, idempotency.key)
        if row is None or row.state != "in_flight":
            raise Conflict("another request with this Idempotency-Key was faster")
        _keep(row, idempotency.respond(made))
        row.subject_id = subject_id
    if inbound is not None:
        seen = _locked_inbound(session, inbound.integration_id, inbound.message_id)
        if seen is None or seen.status != "in_flight":
            raise Conflict("another copy of this message was faster")
        seen.status, seen.response = "done", _as_json(inbound.respond(made))
        seen.subject_id = subject_id


def forget(session: Session, subject_ids: Sequence[str]) -> None:
    """Answers about these may repeat what the candidate wrote; whoever asks again learns that it is gone."""
    empty = StoredResponse(ERASED, {}, "")
    session.execute(
        update(IdempotencyRow)
        .where(IdempotencyRow.subject_id.in_(subject_ids))
        .values(status=empty.status, headers=empty.headers, body=empty.body)
    )
    session.execute(update(InboundRow).where(InboundRow.subject_id.in_(subject_ids)).values(response=_as_json(empty)))


class ReplyPart(Part):
    """Idempotency-Keys and ids of inbound messages."""

    def inbound_begin(
        self, integration_id: str, message_id: str, body_sha256: str, *, takeover_s: float = 60.0
    ) -> InboundSeen | None:
        """None: new, and the caller's to handle. A copy whose first handler vanished `takeover_s` ago is new."""
        with self._database.write() as session:
            now_us = self._clock()
            values: dict[str, object] = {"integration_id": integration_id, "message_id": message_id}
            values |= {"body_sha256": body_sha256, "status": "in_flight", "created_us": now_us}
            if self._database.add_if_new(session, InboundRow, values):
                return None
            row = _locked_inbound(session, integration_id, message_id)
            if row is None:  # pruned this moment
                return InboundSeen(done=False, same_body=True, response=None)
            same_body = row.body_sha256 == body_sha256
            if row.status == "in_flight" and same_body and row.created_us < now_us - us(takeover_s):
                row.created_us = now_us
                return None
            response = StoredResponse(**row.response) if row.response is not None else None
            return InboundSeen(done=row.status == "done", same_body=same_body, response=response)

    def inbound_done(self, integration_id: str, message_id: str, response: StoredResponse) -> None:
        """Remember the answer, where no submission was created (else use `inbound`). Raises NotFound."""
        with self._database.write() as session:
            row = _locked_inbound(session, integration_id, message_id)
            if row is None:
                raise NotFound("this message was not begun")
            row.status, row.response = "done", _as_json(response)

    def inbound_forget(self, integration_id: str, message_id: str) -> None:
        """The message was refused for now and may come again: drop one that is in flight."""
        with self._database.write() as session:
            row = _locked_inbound(session, integration_id, message_id)
            if row is not None and row.status != "done":
                session.delete(row)

    def idempotency_begin(
        self, api_key_id: str, key: str, fingerprint: str, *, ttl_s: float = 86_400, takeover_s: float = 60.0
    ) -> IdempotencyState:
        """Ask for a key. Answers older than `ttl_s` are forgotten; a first request that vanished is replaced."""
        with self._database.write() as session:
            now_us = self._clock()
            values: dict[str, object] = {"api_key_id": api_key_id, "key": key, "fingerprint": fingerprint}
            values |= {"state": "in_flight", "created_us": now_us}
            if self._database.add_if_new(session, IdempotencyRow, values):
                return IdempotencyState("new")
            row = _locked_key(session, api_key_id, key)
            if row is None:  # forgotten this moment
                return IdempotencyState("in_flight")
            if row.created_us < now_us - us(ttl_s):
                row.fingerprint, row.state, row.created_us = fingerprint, "in_flight", now_us
                row.status = row.headers = row.body = row.subject_id = None
                return IdempotencyState("new")
            if row.fingerprint != fingerprint:
                return IdempotencyState("mismatch")
            if row.state == "done":
                assert row.status is not None
                return IdempotencyState("done", StoredResponse(row.status, row.headers or {}, row.body or ""))
            if row.created_us < now_us - us(takeover_s):
                row.created_us = now_us
                return IdempotencyState("new")
            return IdempotencyState("in_flight")

    def idempotency_done(self, api_key_id: str, key: str, response: StoredResponse) -> None:
        """Remember the answer, where nothing was created (else use `idempotency`). Raises NotFound."""
        with self._database.write() as session:
            row = _locked_key(session, api_key_id, key)
            if row is None:
                raise NotFound("this Idempotency-Key was not begun")
            _keep(row, response)

    def idempotency_forget(self, api_key_id: str, key: str) -> None:
        """The request failed and may be tried again: drop a key that is in flight."""
        with self._database.write() as session:
            session.execute(
                delete(IdempotencyRow).where(
                    IdempotencyRow.api_key_id == api_key_id,
                    IdempotencyRow.key == key,
                    IdempotencyRow.state == "in_flight",
                )
            )


def _locked_key(session: Session, api_key_id: str, key: str) -> IdempotencyRow | None:
    found = select(IdempotencyRow).where(IdempotencyRow.api_key_id == api_key_id, IdempotencyRow.key == key)
    return session.scalar(found.with_for_update())


def _locked_inbound(session: Session, integration_id: str, message_id: str) -> InboundRow | None:
    found = select(InboundRow).where(InboundRow.integration_id == integration_id, InboundRow.message_id == message_id)
    return session.scalar(found.with_for_update())


def _keep(row: IdempotencyRow, response: StoredResponse) -> None:
    row.state, row.status = "done", response.status
    row.headers, row.body = dict(response.headers), response.body


def _as_json(response: StoredResponse) -> dict[str, object]:
    return {"status": response.status, "headers": dict(response.headers), "body": response.body}

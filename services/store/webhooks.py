"""Receivers of webhooks, the messages for them, and the log of what came of each attempt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from sqlalchemy import ColumnElement, Select, func, insert, or_, select, update
from sqlalchemy.orm import Session

from services.store.audit import append
from services.store.errors import Conflict, NotFound
from services.store.events import ENDPOINT_PING, EVENT_TYPES, ping_body
from services.store.ids import ENDPOINT, MESSAGE, new_id
from services.store.part import Part, page, us
from services.store.records import (
    Attempt,
    AttemptResult,
    DueMessage,
    Endpoint,
    MessageFilters,
    MessageState,
    Page,
    Secret,
    WebhookMessage,
)
from services.store.tables import AttemptRow, EndpointRow, MessageRow, SubmissionRow

_LIVE_SECRETS = 2
_NOBODY: Mapping[str, int] = MappingProxyType({})


class EndpointPart(Part):
    """Receivers of webhooks."""

    def create_endpoint(self, url: str, event_types: Sequence[str], secret: str, *, actor: str = "system") -> Endpoint:
        """A receiver; no event types means all. Raises ValueError for an unknown type."""
        unknown = [one for one in event_types if one not in EVENT_TYPES]
        if unknown:
            raise ValueError(f"event types are {', '.join(EVENT_TYPES)}")
        with self._database.write() as session:
            now_us = self._clock()
            row = EndpointRow(
                id=new_id(ENDPOINT, now_us),
                url=url,
                event_types=list(event_types),
                secrets=[_as_json(Secret(secret, now_us))],
                disabled_us=None,
                disabled_reason=None,
                deleted_us=None,
                created_us=now_us,
            )
            session.add(row)
            session.flush()
            append(self._database, session, now_us, actor, "endpoint.create", row.id, {"url": url})
            return _endpoint(row, now_us)

    def endpoint(self, endpoint_id: str) -> Endpoint | None:
        """One receiver; None also where it was deleted."""
        with self._database.read() as session:
            row = session.get(EndpointRow, endpoint_id)
            return None if row is None or row.deleted_us is not None else _endpoint(row, self._clock())

    def list_endpoints(self) -> list[Endpoint]:
        """All receivers, oldest first."""
        live = select(EndpointRow).where(EndpointRow.deleted_us.is_(None)).order_by(EndpointRow.id)
        with self._database.read() as session:
            return [_endpoint(row, self._clock()) for row in session.scalars(live)]

    def rotate_secret(
        self, endpoint_id: str, secret: str, *, old_expires_in_s: float = 86_400, actor: str = "system"
    ) -> Endpoint:
        """Sign with `secret` too; the newest one before it stays live that long, older ones end. Raises NotFound."""
        with self._database.write() as session:
            now_us = self._clock()
            row = _locked(session, endpoint_id)
            old = _live(row.secrets, now_us)[: _LIVE_SECRETS - 1]
            until_us = now_us + us(old_expires_in_s)
            kept = [Secret(one.secret, one.created_us, min(one.expires_us or until_us, until_us)) for one in old]
            row.secrets = [_as_json(one) for one in (Secret(secret, now_us), *kept)]
            append(self._database, session, now_us, actor, "endpoint.rotate", endpoint_id)
            return _endpoint(row, now_us)

    def delete_endpoint(self, endpoint_id: str, *, actor: str = "system") -> None:
        """Remove a receiver; what was pending for it is dead, its log stays. Raises NotFound."""
        with self._database.write() as session:
            now_us = self._clock()
            row = _locked(session, endpoint_id)
            row.deleted_us, row.secrets = now_us, []
            session.flush()
            pending = update(MessageRow).where(MessageRow.endpoint_id == endpoint_id, MessageRow.state == "pending")
            session.execute(pending.values(state="dead", lease_until_us=None))
            append(self._database, session, now_us, actor, "endpoint.delete", endpoint_id)

    def disable_endpoint(self, endpoint_id: str, reason: str, *, actor: str = "system") -> Endpoint:
        """Send it nothing; what is pending or comes up waits until it is enabled. Raises NotFound."""
        with self._database.write() as session:
            now_us = self._clock()
            row = _locked(session, endpoint_id)
            row.disabled_us, row.disabled_reason = row.disabled_us or now_us, reason
            append(self._database, session, now_us, actor, "endpoint.disable", endpoint_id, {"reason": reason})
            return _endpoint(row, now_us)

    def enable_endpoint(self, endpoint_id: str, *, actor: str = "system") -> Endpoint:
        """Undo that. Raises NotFound."""
        with self._database.write() as session:
            now_us = self._clock()
            row = _locked(session, endpoint_id)
            row.disabled_us = row.disabled_reason = None
            append(self._database, session, now_us, actor, "endpoint.enable", endpoint_id)
            return _endpoint(row, now_us)

    def ping_endpoint(self, endpoint_id: str, *, actor: str = "system") -> WebhookMessage:
        """Queue a message of type ENDPOINT_PING. Raises NotFound, Conflict when disabled."""
        with self._database.write() as session:
            now_us = self._clock()
            endpoint = _locked(session, endpoint_id)
            if endpoint.disabled_us is not None:
                raise Conflict(f"endpoint {endpoint_id} is disabled: {endpoint.disabled_reason}")
            message_id = new_id(MESSAGE, now_us)
            row = MessageRow(
                id=message_id,
                endpoint_id=endpoint_id,
                target=endpoint_id,
                lane=endpoint_id,
                event_type=ENDPOINT_PING,
                submission_id=None,
                cohort_id=None,
                subject_id=message_id,
                generation=0,
                body=ping_body(endpoint_id, now_us),
                state="pending",
                attempts=0,
                next_attempt_us=now_us,
                lease_until_us=None,
                created_us=now_us,
                delivered_us=None,
            )
            session.add(row)
            session.flush()
            append(self._database, session, now_us, actor, "endpoint.ping", endpoint_id, {"message": message_id})
            return _message(row)


class MessagePart(Part):
    """What is to be sent, and what came of it."""

    def due_messages(
        self,
        limit: int,
        lease_s: float,
        *,
        at_once: int | None = None,
        busy: Mapping[str, int] = _NOBODY,
        message_id: str | None = None,
    ) -> list[DueMessage]:
        """Messages to send now, for the caller alone until the lease ends; with an id only that one.

        Receivers take turns: of each lane at most `at_once`, less what the caller sends to it already
        (`busy`, by lane), and lanes that are less busy first.
        """
        if message_id is not None:
            ids = [message_id]
        else:
            # Asked every second, and mostly for nothing: no reason to hold everybody's write lock.
            with self._database.read() as session:
                ids = _turns(session, self._clock(), limit, limit if at_once is None else at_once, busy)
        if not ids:
            return []
        with self._database.write() as session:
            now_us = self._clock()
            due = select(MessageRow).where(MessageRow.id.in_(ids), *_free(now_us), MessageRow.lane.not_in(_SHUT))
            due = due.order_by(MessageRow.next_attempt_us, MessageRow.id)
            rows = session.scalars(due.with_for_update(of=MessageRow, skip_locked=True)).all()
            for row in rows:
                row.lease_until_us = now_us + us(lease_s)
            return [_due_message(session, row, now_us) for row in rows]

    def record_attempt(
        self,
        message_id: str,
        lease_until_us: int,
        result: AttemptResult,
        next_attempt_us: int | None,
        state: MessageState,
    ) -> WebhookMessage:
        """Log an attempt and set what follows; `next_attempt_us` counts for `pending` only.

        Once the lease with that end is over, a failure is no more than a line in the log: the message is
        another sender's. What a receiver took is delivered whoever says so, and stays so. Raises NotFound.
        """
        with self._database.write() as session:
            row = _locked_message(session, message_id)
            session.execute(
                insert(AttemptRow).values(
                    message_id=message_id,
                    at_us=result.at_us,
                    status_code=result.status_code,
                    error=result.error,
                    duration_ms=result.duration_ms,
                    # Nothing of an erased candidate comes back by way of an echo.
                    response_head=result.response_head if row.body else "",
                )
            )
            held = row.state == "pending" and row.lease_until_us == lease_until_us
            row.attempts += held
            if state == "delivered" and row.state != "delivered":
                row.state, row.lease_until_us, row.delivered_us = state, None, result.at_us
            elif held:
                row.state, row.lease_until_us = state, None
                if state == "pending":
                    row.next_attempt_us = self._clock() if next_attempt_us is None else next_attempt_us
            return _message(row)

    def message(self, message_id: str) -> WebhookMessage | None:
        """One message."""
        with self._database.read() as session:
            row = session.get(MessageRow, message_id)
            return None if row is None else _message(row)

    def list_messages(
        self, filters: MessageFilters | None = None, cursor: str | None = None, limit: int = 50
    ) -> Page[WebhookMessage]:
        """Messages, newest first. Raises BadCursor."""
        wanted, statement = filters or MessageFilters(), select(MessageRow)
        for name in MessageFilters.__dataclass_fields__:
            value = getattr(wanted, name)
            if value is not None:
                statement = statement.where(getattr(MessageRow, name) == value)
        with self._database.read() as session:
            return page(session, statement, MessageRow.id, cursor, limit, _message)

    def attempts(self, message_id: str) -> list[Attempt]:
        """The delivery log of one message, oldest first."""
        found = select(AttemptRow).where(AttemptRow.message_id == message_id).order_by(AttemptRow.id)
        names = Attempt.__dataclass_fields__
        with self._database.read() as session:
            return [Attempt(**{name: getattr(row, name) for name in names}) for row in session.scalars(found)]

    def replay(self, message_id: str, *, actor: str = "system") -> WebhookMessage:
        """Send a delivered or dead message again from the start of the schedule, under the same id.

        Raises NotFound; Conflict when it is pending, was erased or its endpoint is deleted.
        """
        with self._database.write() as session:
            now_us = self._clock()
            row = _locked_message(session, message_id)
            endpoint = session.get(EndpointRow, row.endpoint_id) if row.endpoint_id else None
            if row.state == "pending":
                raise Conflict(f"message {message_id} is being sent as it is")
            if not row.body:
                raise Conflict(f"message {message_id} told of a candidate who was erased")
            if endpoint is not None and endpoint.deleted_us is not None:
                raise Conflict(f"the endpoint of message {message_id} is deleted")
            row.state, row.attempts, row.next_attempt_us = "pending", 0, now_us
            row.delivered_us = row.lease_until_us = None
            append(self._database, session, now_us, actor, "message.replay", message_id)
            return _message(row)


_PENDING = MessageRow.state == "pending"
_SHUT = select(EndpointRow.id).where(or_(EndpointRow.disabled_us.is_not(None), EndpointRow.deleted_us.is_not(None)))


def _free(now_us: int) -> tuple[ColumnElement[bool], ...]:
    """Pending, due and held by nobody."""
    unheld = or_(MessageRow.lease_until_us.is_(None), MessageRow.lease_until_us < now_us)
    return _PENDING, MessageRow.next_attempt_us <= now_us, unheld


def _lanes(now_us: int) -> Select[str, int | None]:
    """Lanes whose receiver takes messages, each with when its first free one was due.

    One step through the index for each lane, however many messages wait in it.
    """
    lanes = select(func.min(MessageRow.lane).label("lane")).where(_PENDING).cte("lanes", recursive=True)
    following = select(func.min(MessageRow.lane)).where(_PENDING, MessageRow.lane > lanes.c.lane).scalar_subquery()
    lanes = lanes.union_all(select(following).select_from(lanes).where(lanes.c.lane.is_not(None)))
    first = select(MessageRow.next_attempt_us).where(MessageRow.lane == lanes.c.lane, *_free(now_us))
    due_us = first.order_by(MessageRow.next_attempt_us).limit(1).scalar_subquery()
    return select(lanes.c.lane, due_us).where(lanes.c.lane.is_not(None), lanes.c.lane.not_in(_SHUT))


def _turns(session: Session, now_us: int, limit: int, at_once: int, busy: Mapping[str, int]) -> list[str]:
    """The messages whose turn it is."""
    open_lanes = [
        (busy.get(lane, 0), due_us, lane)
        for lane, due_us in session.execute(_lanes(now_us))
        if due_us is not None and busy.get(lane, 0) < at_once
    ]
    places: list[tuple[int, int, str]] = []
    for taken, _, lane in sorted(open_lanes)[:limit]:
        mine = select(MessageRow.next_attempt_us, MessageRow.id).where(MessageRow.lane == lane, *_free(now_us))
        mine = mine.order_by(MessageRow.next_attempt_us, MessageRow.id).limit(min(limit, at_once - taken))
        places += [(taken + n, due_us, name) for n, (due_us, name) in enumerate(session.execute(mine))]
    return [name for _, _, name in sorted(places)[:limit]]


def _due_message(session: Session, row: MessageRow, now_us: int) -> DueMessage:
    endpoint = session.get(EndpointRow, row.endpoint_id) if row.endpoint_id else None
    submission = session.get(SubmissionRow, row.submission_id) if endpoint is None and row.submission_id else None
    assert row.lease_until_us is not None
    return DueMessage(
        message=_message(row),
        endpoint=None if endpoint is None else _endpoint(endpoint, now_us),
        callback=None if submission is None else submission.callback,
        integration_id=None if submission is None else submission.integration_id,
        lane=row.lane,
        lease_until_us=row.lease_until_us,
    )


def _locked(session: Session, endpoint_id: str) -> EndpointRow:
    found = select(EndpointRow).where(EndpointRow.id == endpoint_id, EndpointRow.deleted_us.is_(None))
    row = session.scalar(found.with_for_update(key_share=True))
    if row is None:
        raise NotFound(f"there is no endpoint {endpoint_id}")
    return row


def _locked_message(session: Session, message_id: str) -> MessageRow:
    found = select(MessageRow).where(MessageRow.id == message_id)
    row = session.scalar(found.with_for_update(key_share=True))
    if row is None:
        raise NotFound(f"there is no message {message_id}")
    return row


def _live(secrets: Sequence[Any], now_us: int) -> tuple[Secret, ...]:
    known = (Secret(**one) for one in secrets)
    return tuple(one for one in known if one.expires_us is None or one.expires_us > now_us)


def _as_json(secret: Secret) -> dict[str, Any]:
    return {"secret": secret.secret, "created_us": secret.created_us, "expires_us": secret.expires_us}


def _endpoint(row: EndpointRow, now_us: int) -> Endpoint:
    return Endpoint(
        id=row.id,
        url=row.url,
        event_types=tuple(row.event_types),
        secrets=_live(row.secrets, now_us),
        disabled_us=row.disabled_us,
        disabled_reason=row.disabled_reason,
        created_us=row.created_us,
    )


def _message(row: MessageRow) -> WebhookMessage:
    return WebhookMessage(**{name: getattr(row, name) for name in WebhookMessage.__dataclass_fields__})

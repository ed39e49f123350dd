"""The tables, as SQLAlchemy sees them. The migrations make them; a test holds the two together.

Times are microseconds since 1970 in UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, validates

from services.store.records import shown_name

# SQLite numbers rows by itself only where the column is called INTEGER.
Serial = BigInteger().with_variant(Integer, "sqlite")
Time = BigInteger

_INDEXED_CHARS = 500


def clean(words: str) -> str:
    """`words` as any database keeps them: PostgreSQL has no NUL, and UTF-8 no lone surrogates."""
    return words.encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")


def indexed(words: str) -> str:
    """`words` as far as they are compared: PostgreSQL's index takes no more than 2,700 bytes."""
    return clean(words)[:_INDEXED_CHARS]


def listed_as(candidate: Mapping[str, Any] | None, file_name: str) -> str:
    """The same and the file's name, in small letters of any script, for sorting and searching."""
    return indexed(f"{shown_name(candidate, file_name)}\n{file_name}".casefold())


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        return {clean(str(key)): _cleaned(one) for key, one in value.items()}
    return [_cleaned(one) for one in value] if isinstance(value, list | tuple) else value


class Words(TypeDecorator[str]):
    """Text that may come from anywhere, in a column or in the question about one."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """What is sent to the database."""
        return None if value is None else clean(value)


class Id(Words):
    """The name of a row."""

    impl = String(40)  # type: ignore[assignment]  # a String all the same
    cache_ok = True


class Key(Words):
    """A name that others chose, short enough for a key."""

    impl = String(255)  # type: ignore[assignment]  # the same
    cache_ok = True


class Facts(TypeDecorator[Any]):
    """JSON whose texts may come from anywhere; None is NULL."""

    impl = JSON(none_as_null=True)
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        """What is sent to the database."""
        return _cleaned(value)

    def coerce_compared_value(self, op: Any, value: Any) -> Any:
        """Let a path into the JSON be compared as JSON's own."""
        return self.impl_instance.coerce_compared_value(op, value)


class Table(DeclarativeBase):
    """What all tables share."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {dict[str, Any]: Facts, list[Any]: Facts}  # noqa: RUF012  SQLAlchemy's own form


class ApiKeyRow(Table):
    """A key; its secret is kept as a hash."""

    __tablename__ = "api_keys"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    name: Mapped[str] = mapped_column(Words)
    prefix: Mapped[str] = mapped_column(String(8), unique=True)
    hash: Mapped[str] = mapped_column(String(64))
    scopes: Mapped[list[Any]]
    created_us: Mapped[int] = mapped_column(Time)
    expires_us: Mapped[int | None] = mapped_column(Time)
    revoked_us: Mapped[int | None] = mapped_column(Time)
    last_used_us: Mapped[int | None] = mapped_column(Time)


class CohortTable(Table):
    """Submissions that came in together."""

    __tablename__ = "cohorts"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    name: Mapped[str] = mapped_column(Words)
    challenge: Mapped[str] = mapped_column(Words)
    state: Mapped[str] = mapped_column(String(16))
    created_us: Mapped[int] = mapped_column(Time)
    finished_us: Mapped[int | None] = mapped_column(Time)
    api_key_id: Mapped[str | None] = mapped_column(Id)
    generation: Mapped[int] = mapped_column(Integer, default=0)


LINE_COLUMNS = (
    "fixed",
    "accuracy",
    "total",
    "verdicts",
    "provisional",
    "goal_reached",
    "tampering_suspected",
    "generation",
    "id",
)
# As a text: SQLite takes an index over some rows only where the question has the very words.
CHECKS = text("purpose = 'check'")


class SubmissionRow(Table):
    """One submission and where it stands."""

    __tablename__ = "submissions"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    challenge: Mapped[str] = mapped_column(Words)
    file_name: Mapped[str] = mapped_column(Words)
    # Read by itself only: listing a thousand submissions must not read a thousand sources.
    source: Mapped[bytes | None] = mapped_column(LargeBinary, deferred=True, deferred_raiseload=True)
    source_sha256: Mapped[str] = mapped_column(String(64))
    source_bytes: Mapped[int] = mapped_column(Integer)
    state: Mapped[str] = mapped_column(String(16))
    queue: Mapped[str] = mapped_column(String(16))
    cohort_id: Mapped[str | None] = mapped_column(Id, ForeignKey("cohorts.id"))
    candidate: Mapped[dict[str, Any] | None] = mapped_column(Facts)
    integration_id: Mapped[str | None] = mapped_column(Id)
    callback: Mapped[dict[str, Any] | None] = mapped_column(Facts)
    api_key_id: Mapped[str | None] = mapped_column(Id)
    created_us: Mapped[int] = mapped_column(Time)
    queued_us: Mapped[int] = mapped_column(Time)
    started_us: Mapped[int | None] = mapped_column(Time)
    finished_us: Mapped[int | None] = mapped_column(Time)
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    max_attempts: Mapped[int] = mapped_column(Integer)
    next_attempt_us: Mapped[int] = mapped_column(Time)
    fence: Mapped[int] = mapped_column(Integer, default=0)
    lease_until_us: Mapped[int | None] = mapped_column(Time)
    worker: Mapped[str | None] = mapped_column(Words)
    generation: Mapped[int] = mapped_column(Integer, default=0)
    last_error: Mapped[str | None] = mapped_column(Words)
    outcome: Mapped[str | None] = mapped_column(String(16))
    fixed: Mapped[int | None] = mapped_column(Integer)
    total: Mapped[int | None] = mapped_column(Integer)
    rating: Mapped[str | None] = mapped_column(Words)
    tampering_suspected: Mapped[bool] = mapped_column(default=False)
    state_version: Mapped[int] = mapped_column(Integer, default=0)
    # grade, or check: an invited candidate tries a program. A check is nobody's submission: no list has it.
    purpose: Mapped[str] = mapped_column(String(8), default="grade", server_default="grade")
    invitation_id: Mapped[str | None] = mapped_column(Id, index=True)
    check_result: Mapped[dict[str, Any] | None] = mapped_column(Facts)  # the public part, and the only one kept
    external_id: Mapped[str | None] = mapped_column(Words)  # the candidate's, short enough for an index
    listed_as: Mapped[str] = mapped_column(Words, server_default="")  # what lists are sorted and searched by
    # What a cohort's table and figures are made of: of the newest report, also while a new one is made.
    verdicts: Mapped[str | None] = mapped_column(Words)  # one letter for each bug in order: f, n, i
    goal_reached: Mapped[bool | None]
    accuracy: Mapped[float | None]  # 0 to 1
    provisional: Mapped[bool | None]

    __table_args__ = (
        Index(None, "state", "id"),
        Index(None, "state", "next_attempt_us"),
        Index(None, "external_id", "challenge", "id"),
        Index(None, "queue", "state", "queued_us", "id"),
        Index(None, "state", "lease_until_us"),
        # All that choosing, sorting and counting asks of a row: the row itself has the program in it.
        Index("ix_submissions_cohort_lines", "cohort_id", "state", *LINE_COLUMNS),
        Index("ix_submissions_checks", "queue", "state", sqlite_where=CHECKS, postgresql_where=CHECKS),
    )

    @validates("candidate", "file_name")
    def _keep_names(self, what: str, value: Any) -> Any:
        """Wherever a row gets its candidate and its file's name, or loses them."""
        now = {"candidate": self.candidate, "file_name": self.file_name, what: value}
        told = (now["candidate"] or {}).get("external_id")
        self.external_id = None if told is None else indexed(str(told))
        self.listed_as = listed_as(now["candidate"], now["file_name"] or "")
        return value


class ReportRow(Table):
    """What a grade said: at most one for each generation of a submission."""

    __tablename__ = "reports"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    submission_id: Mapped[str] = mapped_column(Id, ForeignKey("submissions.id"))
    generation: Mapped[int] = mapped_column(Integer)
    fence: Mapped[int] = mapped_column(Integer)
    grader_digest: Mapped[str] = mapped_column(Words)
    challenge_digest: Mapped[str] = mapped_column(Words)
    fixed: Mapped[int] = mapped_column(Integer)
    not_fixed: Mapped[int] = mapped_column(Integer)
    inconclusive: Mapped[int] = mapped_column(Integer)
    # What a regrade is compared by, without opening reports.
    verdicts: Mapped[str | None] = mapped_column(Words)  # one letter for each bug in order: f, n, i
    rating: Mapped[str | None] = mapped_column(Words)
    report: Mapped[str | None] = mapped_column(Words)  # None once erased; the counts stay
    created_us: Mapped[int] = mapped_column(Time)

    __table_args__ = (
        UniqueConstraint("submission_id", "generation"),
        Index(None, "fixed", "not_fixed", "inconclusive"),  # for their sums: a report's own row is large
    )


class OutboxTable(Table):
    """Hints for the queue, written with the change that they tell of."""

    __tablename__ = "outbox"
    id: Mapped[int] = mapped_column(Serial, primary_key=True, autoincrement=True)
    kind: Mapped[str] = mapped_column(String(16))
    submission_id: Mapped[str] = mapped_column(Id, ForeignKey("submissions.id"))
    queue: Mapped[str] = mapped_column(String(16))
    created_us: Mapped[int] = mapped_column(Time)
    due_us: Mapped[int] = mapped_column(Time)
    published_us: Mapped[int | None] = mapped_column(Time)

    __table_args__ = (
        Index(
            "ix_outbox_pending",
            "queue",
            "due_us",
            sqlite_where=text("published_us IS NULL"),
            postgresql_where=text("published_us IS NULL"),
        ),
        Index(None, "submission_id", "published_us"),
        Index(None, "published_us"),
        {"sqlite_autoincrement": True},
    )


class EventRow(Table):
    """The life of a submission, step by step."""

    __tablename__ = "events"
    seq: Mapped[int] = mapped_column(Serial, primary_key=True, autoincrement=True)
    submission_id: Mapped[str] = mapped_column(Id, ForeignKey("submissions.id"))
    kind: Mapped[str] = mapped_column(String(32))
    data: Mapped[dict[str, Any]]
    created_us: Mapped[int] = mapped_column(Time)

    __table_args__ = (Index(None, "submission_id", "seq"), {"sqlite_autoincrement": True})


class EndpointRow(Table):
    """A receiver of webhooks."""

    __tablename__ = "webhook_endpoints"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    url: Mapped[str] = mapped_column(Words)
    event_types: Mapped[list[Any]]
    secrets: Mapped[list[Any]]
    disabled_us: Mapped[int | None] = mapped_column(Time)
    disabled_reason: Mapped[str | None] = mapped_column(Words)
    deleted_us: Mapped[int | None] = mapped_column(Time)  # kept for the delivery log
    created_us: Mapped[int] = mapped_column(Time)


class MessageRow(Table):
    """One event for one receiver. `target` and `subject_id` never are NULL, so that the constraint counts."""

    __tablename__ = "webhook_messages"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    endpoint_id: Mapped[str | None] = mapped_column(Id, ForeignKey("webhook_endpoints.id"))
    target: Mapped[str] = mapped_column(Id)  # endpoint_id or "callback"
    # Whose turn it is: the endpoint, or for a callback the integration, so that none waits behind another's receiver.
    lane: Mapped[str] = mapped_column(Id, server_default="callback")
    event_type: Mapped[str] = mapped_column(String(40))
    submission_id: Mapped[str | None] = mapped_column(Id, ForeignKey("submissions.id"))
    cohort_id: Mapped[str | None] = mapped_column(Id, ForeignKey("cohorts.id"))
    subject_id: Mapped[str] = mapped_column(Id)  # the submission, the cohort, or for a ping its own id
    generation: Mapped[int] = mapped_column(Integer)
    body: Mapped[str] = mapped_column(Words)
    state: Mapped[str] = mapped_column(String(16))
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    next_attempt_us: Mapped[int] = mapped_column(Time)
    lease_until_us: Mapped[int | None] = mapped_column(Time)
    created_us: Mapped[int] = mapped_column(Time)
    delivered_us: Mapped[int | None] = mapped_column(Time)

    __table_args__ = (
        UniqueConstraint("target", "event_type", "subject_id", "generation"),
        Index(None, "state", "lane", "next_attempt_us"),
        Index(None, "submission_id"),
        Index(None, "endpoint_id"),
    )


class AttemptRow(Table):
    """One attempt to deliver a message."""

    __tablename__ = "webhook_attempts"
    id: Mapped[int] = mapped_column(Serial, primary_key=True, autoincrement=True)
    message_id: Mapped[str] = mapped_column(Id, ForeignKey("webhook_messages.id"))
    at_us: Mapped[int] = mapped_column(Time)
    status_code: Mapped[int | None] = mapped_column(Integer)
    error: Mapped[str | None] = mapped_column(Words)
    duration_ms: Mapped[int] = mapped_column(Integer)
    response_head: Mapped[str] = mapped_column(Words)

    __table_args__ = (Index(None, "message_id"), {"sqlite_autoincrement": True})


class IntegrationRow(Table):
    """An applicant tracking system."""

    __tablename__ = "integrations"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    slug: Mapped[str] = mapped_column(Key, unique=True)
    kind: Mapped[str] = mapped_column(String(16))
    secrets: Mapped[list[Any]]
    credential_sha256: Mapped[str | None] = mapped_column(String(64))
    challenge_map: Mapped[dict[str, Any]]
    settings: Mapped[dict[str, Any]]
    created_us: Mapped[int] = mapped_column(Time)


class InboundRow(Table):
    """An inbound message that was seen, and what was answered."""

    __tablename__ = "inbound_messages"
    integration_id: Mapped[str] = mapped_column(Id, primary_key=True)
    message_id: Mapped[str] = mapped_column(Key, primary_key=True)
    body_sha256: Mapped[str] = mapped_column(String(64))
    status: Mapped[str] = mapped_column(String(16))  # in_flight | done
    response: Mapped[dict[str, Any] | None] = mapped_column(Facts)
    subject_id: Mapped[str | None] = mapped_column(Id, index=True)  # the submission or cohort it made
    created_us: Mapped[int] = mapped_column(Time, index=True)


class IdempotencyRow(Table):
    """An Idempotency-Key that was seen, and what was answered."""

    __tablename__ = "idempotency"
    api_key_id: Mapped[str] = mapped_column(Id, primary_key=True)
    key: Mapped[str] = mapped_column(Key, primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(128))
    state: Mapped[str] = mapped_column(String(16))  # in_flight | done
    status: Mapped[int | None] = mapped_column(Integer)
    headers: Mapped[dict[str, Any] | None] = mapped_column(Facts)
    body: Mapped[str | None] = mapped_column(Words)
    subject_id: Mapped[str | None] = mapped_column(Id, index=True)  # the submission or cohort it made
    created_us: Mapped[int] = mapped_column(Time, index=True)


class AuditRow(Table):
    """Who did what. Triggers refuse to change or remove a line."""

    __tablename__ = "audit"
    seq: Mapped[int] = mapped_column(Serial, primary_key=True, autoincrement=False)  # without gaps: seq is counted
    at_us: Mapped[int] = mapped_column(Time)
    actor: Mapped[str] = mapped_column(Words)
    action: Mapped[str] = mapped_column(Words)
    subject: Mapped[str] = mapped_column(Words)
    detail: Mapped[str] = mapped_column(Words)  # JSON as it was hashed: a JSON column may reorder or round
    previous_hash: Mapped[str] = mapped_column(String(64))
    hash: Mapped[str] = mapped_column(String(64))


class SettingRow(Table):
    """Small things that all processes share."""

    __tablename__ = "settings_kv"
    key: Mapped[str] = mapped_column(Key, primary_key=True)
    value: Mapped[str] = mapped_column(Words)

"""The service's memory: submissions and their state machine, cohorts, keys, webhooks, audit.

`Store` is the only door. Its methods are safe to call from many threads and processes; each is one
transaction (`sweep`, `cohort_rows` and `cohort_diff` are several) and either happens or does not.
After a fork open a store of your own. Any method raises StoreUnavailable when the database is the
trouble; where that happened while committing, the change may or may not have been made, and
calling again is right: `finish`, `release` and `hand_back` know their own doing again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from grading.verdict import Report
from services.store.errors import BadCursor, Conflict, NotFound, StoreUnavailable
from services.store.events import COHORT_FINISHED, ENDPOINT_PING, EVENT_TYPES
from services.store.ids import new_id
from services.store.records import (
    SCOPES,
    SETTLED,
    UNDER_WAY,
    ApiKey,
    Attempt,
    AttemptResult,
    AuditEntry,
    AuditProblem,
    Candidate,
    Claim,
    Cohort,
    CohortDiff,
    CohortRow,
    CohortState,
    DueMessage,
    Endpoint,
    Event,
    Idempotency,
    IdempotencyState,
    Inbound,
    InboundSeen,
    Integration,
    IntegrationKind,
    MessageFilters,
    MessageState,
    NewIntegration,
    NewSubmission,
    OutboxRow,
    Page,
    Queue,
    Scope,
    Secret,
    StoreCounts,
    StoredResponse,
    Submission,
    SubmissionFilters,
    SubmissionState,
    Swept,
    VerdictChange,
    WebhookMessage,
)

BodyOf = Callable[[str, Submission, Report | None], str]


class Store:
    """The only door to the database."""

    # Life ------------------------------------------------------------------------------------

    @classmethod
    def open(
        cls,
        url: str,
        *,
        clock: Callable[[], int] | None = None,
        body_of: BodyOf | None = None,
        max_attempts: int = 5,
        busy_timeout_s: float = 30.0,
        pool_size: int = 5,
    ) -> Store:
        """A store on `url`, such as sqlite:////var/lib/assay/assay.db or postgresql://user@host/name.

        Connects when first used. `clock` gives microseconds since 1970; `body_of(event_type,
        submission, report)` writes what webhooks carry, by default events.body_of. `busy_timeout_s` is how long to wait for a lock or a free connection, of
        which there are at most `pool_size` (per process). Raises ValueError for another kind of URL.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Give all connections back."""
        raise NotImplementedError

    def ping(self) -> None:
        """See that the database answers and is migrated. Raises StoreUnavailable."""
        raise NotImplementedError

    @staticmethod
    def upgrade(url: str, revision: str = "head") -> None:
        """Bring the schema up to `revision`. Safe to call from several processes at once."""
        raise NotImplementedError

    @staticmethod
    def downgrade(url: str, revision: str) -> None:
        """Take the schema down to `revision`; "base" removes everything."""
        raise NotImplementedError

    @staticmethod
    def current(url: str) -> str | None:
        """The schema's revision; None where there is none."""
        raise NotImplementedError

    def counts(self) -> StoreCounts:
        """Figures for /metrics. Reads whole indexes: call it every few seconds at most."""
        raise NotImplementedError

    def waiting(self, queue: Queue | None = None) -> int:
        """How many submissions wait in a queue, or in all: cheap enough for each request."""
        raise NotImplementedError

    def remember(self, name: str, make: Callable[[], str]) -> str:
        """The value kept under `name`; the first caller of all processes makes it."""
        raise NotImplementedError

    def prune(self, *, outbox_s: float = 86_400, idempotency_s: float = 86_400, inbound_s: float = 30 * 86_400) -> int:
        """Remove published hints, remembered answers and inbound ids older than that; how many."""
        raise NotImplementedError

    # Submissions -----------------------------------------------------------------------------

    def create_submission(
        self,
        new: NewSubmission,
        *,
        idempotency: Idempotency | None = None,
        inbound: Inbound | None = None,
        actor: str | None = None,
    ) -> Submission:
        """Take a submission in: row, hint for the queue, event, audit line, remembered answer.

        `actor` is for the audit, by default the key or integration. Raises Conflict when `idempotency`
        or `inbound` is no longer the caller's: ask idempotency_begin or inbound_begin again.
        """
        raise NotImplementedError

    def create_submissions(
        self,
        cohort_id: str,
        new: Sequence[NewSubmission],
        *,
        idempotency: Idempotency | None = None,
        actor: str | None = None,
    ) -> list[Submission]:
        """Add submissions to a cohort, all or none; their queue is `cohort` whatever they say.

        Raises NotFound; Conflict for a cancelled cohort and as create_submission does.
        """
        raise NotImplementedError

    def submission(self, submission_id: str) -> Submission | None:
        """One submission."""
        raise NotImplementedError

    def list_submissions(
        self, filters: SubmissionFilters | None = None, cursor: str | None = None, limit: int = 50
    ) -> Page[Submission]:
        """Submissions, newest first. Raises BadCursor."""
        raise NotImplementedError

    def source(self, submission_id: str) -> bytes | None:
        """What was handed in; None where there is none or it was erased."""
        raise NotImplementedError

    def report(self, submission_id: str, generation: int | None = None) -> dict[str, Any] | None:
        """The Report as JSON of one generation, by default of the newest that has one."""
        raise NotImplementedError

    def reports(self, submission_id: str) -> list[tuple[int, dict[str, Any]]]:
        """All reports with their generations, oldest first."""
        raise NotImplementedError

    def place_in_queue(self, submission_id: str) -> int | None:
        """1 for the next of its queue to be graded; None where it does not wait."""
        raise NotImplementedError

    def events_after(self, submission_id: str, seq: int = 0, limit: int = 100) -> list[Event]:
        """Events with a higher `seq`, oldest first. None appears later with a lower one."""
        raise NotImplementedError

    def add_event(self, submission_id: str, fence: int, kind: str, data: Mapping[str, Any]) -> bool:
        """Tell progress of a running grade; False when the claim with this fence is over."""
        raise NotImplementedError

    def regrade(self, submission_id: str, *, actor: str = "system") -> Submission:
        """Grade a graded or invalid submission anew: next generation. Raises NotFound, Conflict."""
        raise NotImplementedError

    def requeue(self, submission_id: str, *, actor: str = "system") -> Submission:
        """Give a dead submission new attempts: next generation. Raises NotFound, Conflict."""
        raise NotImplementedError

    def cancel(self, submission_id: str, *, actor: str = "system") -> Submission:
        """Take a waiting or running submission out. Raises NotFound, Conflict."""
        raise NotImplementedError

    def erase(self, submission_id: str, *, actor: str = "system") -> Submission:
        """Forget the candidate: source, names, reports, bodies of messages. The counts stay.

        A running grade loses its claim. Erasing twice is no error. Raises NotFound.
        """
        raise NotImplementedError

    # Queue and workers -----------------------------------------------------------------------

    def pending_outbox(self, limit: int = 100) -> list[OutboxRow]:
        """Hints that are due and not on the queue yet, oldest first.

        Publish first, then mark_published: a crash between the two publishes twice, which is harmless.
        """
        raise NotImplementedError

    def mark_published(self, ids: Iterable[int]) -> None:
        """These hints are on the queue."""
        raise NotImplementedError

    def claim(self, submission_id: str, worker: str, lease_s: float) -> Claim | None:
        """Take a waiting submission that is due; None where it is not there to be taken.

        Counts an attempt and raises the fence: of all who try, one gets it.
        """
        raise NotImplementedError

    def renew(self, claim: Claim, lease_s: float) -> bool:
        """Heartbeat: the lease ends `lease_s` from now. False: the claim is over, stop grading."""
        raise NotImplementedError

    def finish(self, claim: Claim, report: Report) -> bool:
        """Keep the report: report, state, event, webhook messages, end of the cohort, all at once.

        False when the claim is over, and nothing is changed. True again for the same claim's repeat.
        """
        raise NotImplementedError

    def release(self, claim: Claim, error: str, retry_in_s: float) -> SubmissionState:
        """The infrastructure failed: due again after `retry_in_s`, or dead after the last attempt.

        Gives the state that it is in afterwards; nothing is changed when the claim is over.
        """
        raise NotImplementedError

    def hand_back(self, claim: Claim) -> None:
        """The worker stops: due again at once, and the attempt does not count."""
        raise NotImplementedError

    def sweep(self, now_us: int | None = None, *, stale_s: float = 60.0, limit: int = 200) -> Swept:
        """Bring back what got stuck.

        Ended leases: waiting again, or dead after the last attempt. Lost hints: of the first `limit`
        that wait and are due in each queue, those whose last hint went out more than `stale_s` ago
        are hinted again, so a long queue makes few duplicates and a lost queue still drains.
        """
        raise NotImplementedError

    # Cohorts ---------------------------------------------------------------------------------

    def create_cohort(
        self, name: str, challenge: str, *, api_key_id: str | None = None, actor: str | None = None
    ) -> Cohort:
        """A cohort without submissions yet."""
        raise NotImplementedError

    def cohort(self, cohort_id: str) -> Cohort | None:
        """One cohort."""
        raise NotImplementedError

    def list_cohorts(self, cursor: str | None = None, limit: int = 50) -> Page[Cohort]:
        """Cohorts, newest first. Raises BadCursor."""
        raise NotImplementedError

    def cohort_progress(self, cohort_id: str) -> dict[SubmissionState, int]:
        """How many submissions are in each state; states without any are left out."""
        raise NotImplementedError

    def cohort_rows(self, cohort_id: str) -> Iterator[CohortRow]:
        """All submissions with their reports in the order they came, read in small parts."""
        raise NotImplementedError

    def regrade_cohort(self, cohort_id: str, *, actor: str = "system") -> int:
        """Grade all graded and invalid submissions anew; how many. Raises NotFound, Conflict if cancelled."""
        raise NotImplementedError

    def cohort_diff(self, cohort_id: str) -> list[CohortDiff]:
        """The newest report of each submission beside the one before it, where it has two."""
        raise NotImplementedError

    def cancel_cohort(self, cohort_id: str, *, actor: str = "system") -> Cohort:
        """Take out all that waits or runs. Cancelling twice is no error. Raises NotFound, Conflict if finished."""
        raise NotImplementedError

    # API keys --------------------------------------------------------------------------------

    def create_key(
        self, name: str, scopes: Sequence[Scope], expires_us: int | None = None, *, actor: str = "system"
    ) -> tuple[ApiKey, str]:
        """A key and its secret (`assay_…`), which is told this once. Raises ValueError for an unknown scope."""
        raise NotImplementedError

    def authenticate(self, secret: str) -> ApiKey | None:
        """Whose secret this is; None where it is nobody's, revoked or expired. Notes the use once a minute."""
        raise NotImplementedError

    def revoke_key(self, key_id: str, *, actor: str = "system") -> ApiKey:
        """End a key, for good. Revoking twice is no error. Raises NotFound."""
        raise NotImplementedError

    def list_keys(self) -> list[ApiKey]:
        """All keys, oldest first, revoked and expired ones too."""
        raise NotImplementedError

    # Webhooks out ----------------------------------------------------------------------------

    def create_endpoint(self, url: str, event_types: Sequence[str], secret: str, *, actor: str = "system") -> Endpoint:
        """A receiver; no event types means all. Raises ValueError for an unknown type."""
        raise NotImplementedError

    def endpoint(self, endpoint_id: str) -> Endpoint | None:
        """One receiver; None also where it was deleted."""
        raise NotImplementedError

    def list_endpoints(self) -> list[Endpoint]:
        """All receivers, oldest first."""
        raise NotImplementedError

    def rotate_secret(
        self, endpoint_id: str, secret: str, *, old_expires_in_s: float = 86_400, actor: str = "system"
    ) -> Endpoint:
        """Sign with `secret` too; the newest one before it stays live that long, older ones end. Raises NotFound."""
        raise NotImplementedError

    def delete_endpoint(self, endpoint_id: str, *, actor: str = "system") -> None:
        """Remove a receiver; what was pending for it is dead, its log stays. Raises NotFound."""
        raise NotImplementedError

    def disable_endpoint(self, endpoint_id: str, reason: str, *, actor: str = "system") -> Endpoint:
        """Send it nothing; what is pending or comes up waits until it is enabled. Raises NotFound."""
        raise NotImplementedError

    def enable_endpoint(self, endpoint_id: str, *, actor: str = "system") -> Endpoint:
        """Undo that. Raises NotFound."""
        raise NotImplementedError

    def ping_endpoint(self, endpoint_id: str, *, actor: str = "system") -> WebhookMessage:
        """Queue a message of type ENDPOINT_PING. Raises NotFound, Conflict when disabled."""
        raise NotImplementedError

    def due_messages(self, limit: int, lease_s: float, *, message_id: str | None = None) -> list[DueMessage]:
        """Messages to send now, for the caller alone until the lease ends; with an id only that one."""
        raise NotImplementedError

    def record_attempt(
        self, message_id: str, result: AttemptResult, next_attempt_us: int | None, state: MessageState
    ) -> WebhookMessage:
        """Log an attempt and set what follows; `next_attempt_us` counts for `pending` only.

        A message that is delivered stays so, whatever a late second sender reports. Raises NotFound.
        """
        raise NotImplementedError

    def message(self, message_id: str) -> WebhookMessage | None:
        """One message."""
        raise NotImplementedError

    def list_messages(
        self, filters: MessageFilters | None = None, cursor: str | None = None, limit: int = 50
    ) -> Page[WebhookMessage]:
        """Messages, newest first. Raises BadCursor."""
        raise NotImplementedError

    def attempts(self, message_id: str) -> list[Attempt]:
        """The delivery log of one message, oldest first."""
        raise NotImplementedError

    def replay(self, message_id: str, *, actor: str = "system") -> WebhookMessage:
        """Send a delivered or dead message again from the start of the schedule, under the same id.

        Raises NotFound; Conflict when it is pending, was erased or its endpoint is deleted.
        """
        raise NotImplementedError

    # What comes in more than once ------------------------------------------------------------

    def create_integration(self, new: NewIntegration, *, actor: str = "system") -> Integration:
        """Add an integration. Raises Conflict when the slug is taken."""
        raise NotImplementedError

    def list_integrations(self) -> list[Integration]:
        """All integrations, oldest first."""
        raise NotImplementedError

    def integration(self, integration_id: str) -> Integration | None:
        """One integration by its id."""
        raise NotImplementedError

    def integration_by_slug(self, slug: str) -> Integration | None:
        """One integration by the name in its URL."""
        raise NotImplementedError

    def delete_integration(self, integration_id: str, *, actor: str = "system") -> None:
        """Remove an integration; its submissions stay. Raises NotFound."""
        raise NotImplementedError

    def inbound_begin(
        self, integration_id: str, message_id: str, body_sha256: str, *, takeover_s: float = 60.0
    ) -> InboundSeen | None:
        """None: new, and the caller's to handle. A copy whose first handler vanished `takeover_s` ago is new."""
        raise NotImplementedError

    def inbound_done(self, integration_id: str, message_id: str, response: StoredResponse) -> None:
        """Remember the answer, where no submission was created (else use `inbound`). Raises NotFound."""
        raise NotImplementedError

    def idempotency_begin(
        self, api_key_id: str, key: str, fingerprint: str, *, ttl_s: float = 86_400, takeover_s: float = 60.0
    ) -> IdempotencyState:
        """Ask for a key. Answers older than `ttl_s` are forgotten; a first request that vanished is replaced."""
        raise NotImplementedError

    def idempotency_done(self, api_key_id: str, key: str, response: StoredResponse) -> None:
        """Remember the answer, where nothing was created (else use `idempotency`). Raises NotFound."""
        raise NotImplementedError

    def idempotency_forget(self, api_key_id: str, key: str) -> None:
        """The request failed and may be tried again: drop a key that is in flight."""
        raise NotImplementedError

    # Audit -----------------------------------------------------------------------------------

    def audit(self, actor: str, action: str, subject: str, detail: Mapping[str, Any] | None = None) -> AuditEntry:
        """Write a line, for good: put nothing of a candidate into it but ids."""
        raise NotImplementedError

    def audit_log(self, cursor: str | None = None, limit: int = 50) -> Page[AuditEntry]:
        """The log, newest first. Raises BadCursor."""
        raise NotImplementedError

    def verify_audit(self, known_head: str | None = None) -> AuditProblem | None:
        """Check the whole chain; None when it holds.

        `known_head`, a hash noted earlier and kept elsewhere, must be in it: that also finds a log
        that somebody with the database's password wrote anew.
        """
        raise NotImplementedError


__all__ = [
    "COHORT_FINISHED",
    "ENDPOINT_PING",
    "EVENT_TYPES",
    "SCOPES",
    "SETTLED",
    "UNDER_WAY",
    "ApiKey",
    "Attempt",
    "AttemptResult",
    "AuditEntry",
    "AuditProblem",
    "BadCursor",
    "BodyOf",
    "Candidate",
    "Claim",
    "Cohort",
    "CohortDiff",
    "CohortRow",
    "CohortState",
    "Conflict",
    "DueMessage",
    "Endpoint",
    "Event",
    "Idempotency",
    "IdempotencyState",
    "Inbound",
    "InboundSeen",
    "Integration",
    "IntegrationKind",
    "MessageFilters",
    "MessageState",
    "NewIntegration",
    "NewSubmission",
    "NotFound",
    "OutboxRow",
    "Page",
    "Queue",
    "Scope",
    "Secret",
    "Store",
    "StoreCounts",
    "StoreUnavailable",
    "StoredResponse",
    "Submission",
    "SubmissionFilters",
    "SubmissionState",
    "Swept",
    "VerdictChange",
    "WebhookMessage",
    "new_id",
]

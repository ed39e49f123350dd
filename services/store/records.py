"""What the store takes and gives back: plain frozen values, no rows of a session.

Times end in `_us` and are microseconds since 1970 in UTC; durations end in `_s` or `_ms`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypedDict, TypeVar

SubmissionState = Literal["queued", "running", "graded", "invalid", "dead", "cancelled", "erased"]
Queue = Literal["interactive", "cohort"]
CohortState = Literal["open", "running", "finished", "cancelled"]
MessageState = Literal["pending", "delivered", "dead"]
IntegrationKind = Literal["standard", "greenhouse", "ashby", "workable"]
Scope = Literal["submit", "read", "manage"]
Purpose = Literal["grade", "check"]

UNDER_WAY: tuple[SubmissionState, ...] = ("queued", "running")
SETTLED: tuple[SubmissionState, ...] = ("graded", "invalid", "dead", "cancelled", "erased")
SCOPES: tuple[Scope, ...] = ("submit", "read", "manage")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some of a list, and how to get the next part of it."""

    items: tuple[T, ...]
    next_cursor: str | None  # opaque; None after the last item


@dataclass(frozen=True, slots=True)
class Pool:
    """What one host's pool of warm containers told of itself."""

    host: str
    warm: int  # containers that wait for a submission
    warming: int
    target: int  # how many should wait
    busy: int  # containers that grade
    served: int
    served_warm: int  # of those, how many had waited warm
    at_us: int = 0  # when it was told


class Candidate(TypedDict, total=False):
    """Who handed it in, as far as the client told; erased on request."""

    external_id: str
    name: str
    email: str


def shown_name(candidate: Mapping[str, Any] | None, file_name: str) -> str:
    """What whoever handed in is called."""
    told = candidate or {}
    return str(told.get("name") or told.get("external_id") or told.get("email") or file_name)


@dataclass(frozen=True, slots=True)
class NewSubmission:
    """A submission as it comes in, already checked."""

    challenge: str
    file_name: str
    source: bytes
    queue: Queue = "interactive"
    candidate: Candidate | None = None
    integration_id: str | None = None
    callback: Mapping[str, Any] | None = None  # what an ATS adapter needs to report back; makes a message of its own
    api_key_id: str | None = None
    assessment_id: str | None = None  # the one that waits for it; gives candidate, integration and callback


@dataclass(frozen=True, slots=True)
class Submission:
    """One submission, without its source and its report."""

    id: str
    challenge: str
    file_name: str
    source_sha256: str  # empty once erased
    source_bytes: int
    state: SubmissionState
    queue: Queue
    cohort_id: str | None
    candidate: Candidate | None
    integration_id: str | None
    callback: Mapping[str, Any] | None
    api_key_id: str | None
    created_us: int
    queued_us: int  # when it last began to wait: creation, regrade or requeue; not a retry
    started_us: int | None  # when the latest attempt began
    finished_us: int | None
    attempts: int  # of this generation
    max_attempts: int
    next_attempt_us: int  # not claimed before this
    fence: int  # +1 at each claim, and whenever a running claim is taken away
    lease_until_us: int | None
    worker: str | None
    generation: int  # +1 at each regrade or requeue; at most one report and one end for each
    last_error: str | None
    outcome: str | None  # graded | invalid, of this generation
    fixed: int | None
    total: int | None
    rating: str | None
    tampering_suspected: bool
    state_version: int  # +1 at each change of state


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to grade one submission until the lease ends, and all that grading it needs."""

    submission_id: str
    fence: int
    generation: int
    attempt: int  # from 1
    max_attempts: int
    worker: str
    lease_until_us: int
    queued_us: int
    started_us: int
    challenge: str
    file_name: str
    source: bytes
    queue: Queue
    cohort_id: str | None
    purpose: Purpose


@dataclass(frozen=True, slots=True)
class SubmissionFilters:
    """Which submissions to list; None means any. Times: from inclusive, to exclusive."""

    states: tuple[SubmissionState, ...] = ()
    challenge: str | None = None
    cohort_id: str | None = None
    queue: Queue | None = None
    api_key_id: str | None = None
    integration_id: str | None = None
    external_id: str | None = None
    rating: str | None = None
    tampering_suspected: bool | None = None
    created_from_us: int | None = None
    created_to_us: int | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """One step in the life of a submission. `seq` rises in the order in which they became visible."""

    seq: int
    submission_id: str
    kind: str  # queued, started, step, retry, handed_back, expired, graded, invalid, dead, cancelled, erased, …
    data: Mapping[str, Any]
    created_us: int


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """A hint to be put on the queue: this submission is due."""

    id: int
    kind: str
    submission_id: str
    queue: Queue
    created_us: int
    due_us: int


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep did, in submissions."""

    requeued: int  # waiting, but their hint seemed lost: hinted again
    expired: int  # their worker's lease ended: waiting again
    dead: int  # the same, for the last time


@dataclass(frozen=True, slots=True)
class Cohort:
    """Submissions that came in together. A finished one runs again when submissions are added or regraded."""

    id: str
    name: str
    challenge: str
    state: CohortState
    created_us: int
    finished_us: int | None
    api_key_id: str | None
    generation: int  # +1 each time a finished one runs again


@dataclass(frozen=True, slots=True)
class CohortRow:
    """One line of a cohort's export."""

    submission: Submission
    report: Mapping[str, Any] | None  # of the newest generation that has one


@dataclass(frozen=True, slots=True)
class VerdictChange:
    """One bug that reads differently after a regrade."""

    bug_id: str
    number: int
    before: str | None  # None: the older report did not have this bug
    after: str | None


@dataclass(frozen=True, slots=True)
class CohortDiff:
    """One submission's newest report beside the one before it."""

    submission_id: str
    file_name: str
    candidate: Candidate | None
    before_generation: int
    after_generation: int
    before_rating: str | None
    after_rating: str | None
    before_fixed: int | None
    after_fixed: int | None
    changes: tuple[VerdictChange, ...]  # empty: the same verdicts


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key without its secret, which nobody knows but its holder."""

    id: str
    name: str
    prefix: str
    scopes: tuple[Scope, ...]
    created_us: int
    expires_us: int | None
    revoked_us: int | None
    last_used_us: int | None  # to the minute


@dataclass(frozen=True, slots=True)
class Secret:
    """One of the live secrets of an endpoint or an integration."""

    secret: str = field(repr=False)
    created_us: int
    expires_us: int | None = None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A receiver of webhooks."""

    id: str
    url: str
    event_types: tuple[str, ...]  # empty: all
    secrets: tuple[Secret, ...]  # live ones, newest first, at most two
    disabled_us: int | None
    disabled_reason: str | None
    created_us: int


@dataclass(frozen=True, slots=True)
class WebhookMessage:
    """One event for one receiver. `id` is the webhook-id: the same for every attempt and replay."""

    id: str
    endpoint_id: str | None  # None: goes to the submission's callback
    event_type: str
    submission_id: str | None
    cohort_id: str | None
    generation: int
    body: str  # exactly what is signed and sent
    state: MessageState
    attempts: int  # since it was made or last replayed
    next_attempt_us: int
    created_us: int
    delivered_us: int | None


@dataclass(frozen=True, slots=True)
class DueMessage:
    """A message to be sent now, leased to the caller, with where it goes."""

    message: WebhookMessage
    endpoint: Endpoint | None
    callback: Mapping[str, Any] | None  # with the submission's integration_id; where endpoint is None
    integration_id: str | None
    lane: str  # messages with the same one go to the same receiver
    lease_until_us: int


@dataclass(frozen=True, slots=True)
class AttemptResult:
    """What came of one attempt to deliver."""

    at_us: int
    status_code: int | None
    error: str | None
    duration_ms: int
    response_head: str = ""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One line of the delivery log."""

    id: int
    message_id: str
    at_us: int
    status_code: int | None
    error: str | None
    duration_ms: int
    response_head: str


@dataclass(frozen=True, slots=True)
class MessageFilters:
    """Which messages to list; None means any."""

    endpoint_id: str | None = None
    event_type: str | None = None
    state: MessageState | None = None
    submission_id: str | None = None
    cohort_id: str | None = None


@dataclass(frozen=True, slots=True)
class NewIntegration:
    """An applicant tracking system that sends submissions."""

    slug: str
    kind: IntegrationKind
    secrets: tuple[str, ...] = field(default=(), repr=False)
    credential: str | None = field(default=None, repr=False)  # what it shows us; kept as a hash only
    challenge_map: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Integration:
    """The same as it is kept."""

    id: str
    slug: str
    kind: IntegrationKind
    secrets: tuple[Secret, ...]
    credential_sha256: str | None = field(repr=False)  # lower-case hex
    challenge_map: Mapping[str, str]
    settings: Mapping[str, Any]
    created_us: int


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """An HTTP answer that is given again to whoever asks the same thing again."""

    status: int
    headers: Mapping[str, str]
    body: str


@dataclass(frozen=True, slots=True)
class InboundSeen:
    """An inbound message that was here before."""

    done: bool  # False: its first copy is still being handled
    same_body: bool
    response: StoredResponse | None


@dataclass(frozen=True, slots=True)
class IdempotencyState:
    """What is known of an Idempotency-Key.

    new: the caller owns it now and must end with a create method's `idempotency` or `idempotency_done`;
    in_flight: somebody else does; mismatch: it came with another request; done: `response` is the answer.
    """

    outcome: Literal["new", "in_flight", "mismatch", "done"]
    response: StoredResponse | None = None


@dataclass(frozen=True, slots=True)
class Idempotency:
    """Makes creating and remembering the answer one transaction.

    Begin with `idempotency_begin`, then hand this to the create method: it calls `respond` with what
    it created and stores the answer beside it, or raises Conflict where another request was faster.
    """

    api_key_id: str
    key: str
    respond: Callable[[tuple[Submission, ...]], StoredResponse]


@dataclass(frozen=True, slots=True)
class Inbound:
    """The same for an inbound message after `inbound_begin`."""

    integration_id: str
    message_id: str
    respond: Callable[[tuple[Submission, ...]], StoredResponse]


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One line of the audit log. `hash` covers all other fields, `previous_hash` the whole log before it."""

    seq: int
    at_us: int
    actor: str
    action: str
    subject: str
    detail: Mapping[str, Any]
    previous_hash: str
    hash: str


@dataclass(frozen=True, slots=True)
class AuditProblem:
    """The first place where the audit log is not what was written."""

    seq: int | None  # None: lines are missing at the end
    problem: str


@dataclass(frozen=True, slots=True)
class StoreCounts:
    """Figures for /metrics."""

    submissions: Mapping[tuple[Queue, SubmissionState], int]
    oldest_waiting_s: Mapping[Queue, float]  # of those due; 0 where none waits
    verdicts: Mapping[str, int]  # fixed, not_fixed, inconclusive over all reports
    messages: Mapping[MessageState, int]
    outbox_pending: int

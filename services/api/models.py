"""What the API takes and gives, as pydantic models: the OpenAPI document is made from them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, WithJsonSchema

from services.store import (
    ApiKey,
    Assessment,
    Attempt,
    AuditEntry,
    Candidate,
    Cohort,
    CohortDiff,
    CohortState,
    Endpoint,
    Event,
    Integration,
    IntegrationKind,
    Invitation,
    InvitationState,
    MessageState,
    Queue,
    Scope,
    Submission,
    SubmissionState,
    WebhookMessage,
)
from services.store.events import iso

EventType = Literal["submission.graded", "submission.invalid", "submission.dead", "cohort.finished"]
_ID = "[0-9a-hjkmnp-tv-z]{26}$"
MAX_PAGE = 200
DEFAULT_PAGE = 50


def _id(prefix: str, what: str) -> Any:
    return Field(pattern=f"^{prefix}_{_ID}", description=what)


# No controls, which a database, a header or a terminal would take amiss.
Words = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]
Slug = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
FileName = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f-\x9f/\\]+$")]


class Given(BaseModel):
    """What a client sends: no unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Told(BaseModel):
    """What a client gets. Absent values are null; new fields may come."""

    model_config = ConfigDict(frozen=True)


# --- lists -----------------------------------------------------------------------------

T = TypeVar("T", bound=BaseModel)


class PageQuery(Given):
    """Which part of a list."""

    cursor: str | None = Field(None, max_length=400, description="`next_cursor` of the page before.")
    limit: int = Field(DEFAULT_PAGE, ge=1, le=MAX_PAGE, description="Most entries of the page.")


class Listed(Told, Generic[T]):
    """One page of a list."""

    data: list[T]
    next_cursor: str | None = Field(description="Opaque; null on the last page.")
    has_more: bool


# --- paths -----------------------------------------------------------------------------


class SubmissionPath(Given):
    """One submission."""

    submission_id: str = _id("sub", "Id of the submission.")


class CohortPath(Given):
    """One cohort."""

    cohort_id: str = _id("coh", "Id of the cohort.")


class AssessmentPath(Given):
    """One assessment."""

    assessment_id: str = _id("asm", "Id of the assessment.")


class ChallengePath(Given):
    """One challenge."""

    challenge: str = Field(pattern=r"^[a-z0-9-]{1,63}$", description="Slug of the challenge.")


class EndpointPath(Given):
    """One receiver of webhooks."""

    endpoint_id: str = _id("whe", "Id of the webhook endpoint.")


class DeliveryPath(Given):
    """One message."""

    message_id: str = _id("msg", "Id of the message: its webhook-id.")


class KeyPath(Given):
    """One API key."""

    key_id: str = _id("key", "Id of the API key.")


class IntegrationPath(Given):
    """One integration, by the name in its addresses."""

    integration: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$", description="Slug of the integration.")


# --- submissions -----------------------------------------------------------------------


class CandidateGiven(Given):
    """Who handed it in, as far as you want to tell. Erased with the submission."""

    external_id: Words | None = Field(None, description="The candidate's id in your system; comes back in events.")
    name: Words | None = None
    email: Words | None = None

    def record(self) -> Candidate | None:
        """What the store keeps; None where nothing was told."""
        told: Candidate = {}
        if self.external_id:
            told["external_id"] = self.external_id
        if self.name:
            told["name"] = self.name
        if self.email:
            told["email"] = self.email
        return told or None


AssessmentId: Any = Field(
    None,
    pattern=f"^asm_{_ID}",
    description="What an applicant tracking system has started; candidate and callback are taken from it.",
)


class SubmissionGiven(Given):
    """A submission as JSON."""

    challenge: Slug
    source: str = Field(min_length=1, description="The program's text.")
    file_name: FileName = "submission.py"
    candidate: CandidateGiven | None = None
    assessment_id: str | None = AssessmentId


class SubmissionForm(CandidateGiven):
    """The parts of a form beside its `file`."""

    challenge: Slug
    assessment_id: str | None = AssessmentId


class CandidateTold(Told):
    """Who handed it in."""

    external_id: str | None
    name: str | None
    email: str | None


class SubmissionLinks(Told):
    """Addresses of what belongs to a submission."""

    self: str
    events: str
    source: str
    report: str


# Reports are told as they were stored, also those of older graders; `app` puts the schema of today's in.
AnyReport = Annotated[dict[str, Any], WithJsonSchema({"type": "object"})]


class SubmissionTold(Told):
    """One submission."""

    id: str
    challenge: str
    file_name: str
    source_sha256: str = Field(description="Empty once erased.")
    source_bytes: int
    state: SubmissionState
    queue: Queue
    cohort_id: str | None
    candidate: CandidateTold | None
    created_at: str = Field(description="UTC, ISO 8601, like every time.")
    queued_at: str
    started_at: str | None
    finished_at: str | None
    attempts: int
    max_attempts: int
    generation: int = Field(description="How often it was graded anew on request.")
    last_error: str | None = Field(description="Our fault that delays it or made it dead; never the candidate's.")
    outcome: str | None
    fixed: int | None
    total: int | None
    rating: str | None
    tampering_suspected: bool = Field(description="For a human to confirm or dismiss.")
    links: SubmissionLinks


class SubmissionInFull(SubmissionTold):
    """One submission with its place in the queue while it waits and its report once it is graded."""

    place_in_queue: int | None = Field(description="1 is next; null unless it waits.")
    report: AnyReport | None


class SubmissionQuery(PageQuery):
    """Filters of the list; all given ones must hold."""

    state: list[SubmissionState] = Field(default=[], max_length=7, description="Repeat it for several.")
    challenge: Slug | None = None
    cohort_id: str | None = Field(None, pattern=f"^coh_{_ID}")
    external_id: Words | None = Field(None, description="The candidate's id in your system.")
    rating: Words | None = None
    tampering_suspected: Literal["true", "false"] | None = None
    created_from: AwareDatetime | None = Field(None, description="Inclusive, ISO 8601 with an offset.")
    created_to: AwareDatetime | None = Field(None, description="Exclusive.")


class ReportQuery(Given):
    """Which report."""

    generation: int | None = Field(None, ge=0, le=1_000_000, description="The newest where it is not given.")


class EventsQuery(Given):
    """From where on."""

    after: int = Field(0, ge=0, le=1 << 53, description="Last event that you have; Last-Event-ID wins.")


# --- cohorts ---------------------------------------------------------------------------


class CohortSubmission(Given):
    """One submission of a cohort as JSON; its challenge is the cohort's."""

    source: str
    file_name: FileName = "submission.py"
    candidate: CandidateGiven | None = None


class CohortGiven(Given):
    """A cohort, empty or with its submissions."""

    name: Words
    challenge: Slug
    submissions: list[CohortSubmission] = Field(default=[], max_length=10_000)


class CohortSubmissions(Given):
    """Submissions to add to a cohort."""

    submissions: list[CohortSubmission] = Field(min_length=1, max_length=10_000)


class CohortParameters(Given):
    """Name and challenge where the body is a bare zip or JSON lines."""

    name: Words | None = None
    challenge: Slug | None = None


class CohortForm(Given):
    """The parts of a form beside its files."""

    name: Words
    challenge: Slug


class RefusedFile(Told):
    """A file that was not taken."""

    name: str
    reason: str


class CohortTold(Told):
    """One cohort and how far it is."""

    id: str
    name: str
    challenge: str
    state: CohortState
    created_at: str
    finished_at: str | None
    generation: int
    total: int
    counts: dict[SubmissionState, int] = Field(description="Submissions by state.")


class CohortAccepted(CohortTold):
    """A cohort after submissions came in."""

    accepted: int = Field(description="Submissions taken with this request.")
    refused: list[RefusedFile] = Field(description="Files of this request that were not, with the reason.")


class VerdictChangeTold(Told):
    """One bug that reads differently than before the regrade."""

    number: int
    bug_id: str
    before: str | None
    after: str | None


class CohortDiffTold(Told):
    """One submission's newest report beside the one before it."""

    submission_id: str
    file_name: str
    external_id: str | None
    before_generation: int
    after_generation: int
    before_rating: str | None
    after_rating: str | None
    before_fixed: int | None
    after_fixed: int | None
    changes: list[VerdictChangeTold]


class CohortDiffs(Listed[CohortDiffTold]):
    """What a regrade changed."""

    cohort_id: str
    state: CohortState = Field(description="`running`: some are not graded anew yet.")
    changed: int = Field(description="Submissions of the whole cohort whose verdicts or rating differ.")


# --- invitations -----------------------------------------------------------------------


class InvitationGiven(Given):
    """How an invitation's link is to be."""

    valid_days: int = Field(7, ge=1, le=3650, description="How long the links live; the service has a most.")
    time_limit_minutes: int | None = Field(
        None, ge=0, le=100_000, description="From when a candidate starts; 0: none; not given: the challenge's own."
    )
    contact: Words | None = Field(None, description="Whom candidates are told to ask; else the name of the key.")


class InvitationsGiven(InvitationGiven):
    """Candidates to invite into a cohort, each by a link of their own."""

    candidates: list[CandidateGiven] = Field(min_length=1, max_length=1000)


class InvitationTold(Told):
    """One invited candidate."""

    id: str
    cohort_id: str | None
    assessment_id: str | None = Field(description="What its submission answers, started by a tracking system.")
    challenge: str
    candidate: CandidateTold | None = Field(
        description="Null once erased; `external_id` is the id where none was given."
    )
    state: InvitationState
    contact: str
    created_at: str
    expires_at: str
    time_limit_s: int | None
    opened_at: str | None = Field(description="The last visit.")
    started_at: str | None
    handed_in_at: str | None
    late_s: float = Field(description="How late it was handed in, or would be now; 0 in time.")
    checks_used: int
    checks_max: int
    submission_id: str | None


class InvitationWithLink(InvitationTold):
    """A new invitation with its link, which is not told again."""

    link: str


class InvitationsMade(Told):
    """New invitations, in the order of the candidates."""

    data: list[InvitationWithLink]


# --- challenges ------------------------------------------------------------------------


class ChallengeTold(Told):
    """A challenge as its candidates may know it."""

    slug: str
    title: str
    level: str
    minutes: int
    editable_file: str
    goal: str
    bugs: int = Field(description="How many are planted.")
    digest: str = Field(description="SHA-256 of what decides its verdicts.")
    links: dict[str, str]


class Challenges(Told):
    """Every challenge."""

    data: list[ChallengeTold]


# --- webhooks out ----------------------------------------------------------------------


class EndpointGiven(Given):
    """A receiver of webhooks."""

    url: str = Field(
        max_length=2000, pattern=r"^https?://[^\s\x00-\x1f\x7f-\x9f]+$", examples=["https://ats.example/assay"]
    )
    event_types: list[EventType] = Field(default=[], max_length=10, description="Empty: all.")


class SecretTold(Told):
    """A live secret, without the secret."""

    created_at: str
    expires_at: str | None


class EndpointTold(Told):
    """A receiver of webhooks."""

    id: str
    url: str
    event_types: list[str]
    secrets: list[SecretTold]
    disabled_at: str | None
    disabled_reason: str | None
    created_at: str


class EndpointWithSecret(EndpointTold):
    """The same with its new secret, which is not shown again."""

    secret: str


class DeliveryQuery(PageQuery):
    """Filters of the delivery log."""

    state: MessageState | None = None
    event_type: Words | None = None
    submission_id: str | None = Field(None, pattern=f"^sub_{_ID}")
    cohort_id: str | None = Field(None, pattern=f"^coh_{_ID}")


class DeliveryTold(Told):
    """One message: the same webhook-id over all its attempts."""

    id: str
    endpoint_id: str | None
    event_type: str
    submission_id: str | None
    cohort_id: str | None
    generation: int
    state: MessageState
    attempts: int
    next_attempt_at: str | None
    created_at: str
    delivered_at: str | None


class AttemptTold(Told):
    """One attempt to deliver."""

    at: str
    status_code: int | None
    error: str | None
    duration_ms: int
    response_head: str


class DeliveryInFull(DeliveryTold):
    """One message with what is sent and what came of it."""

    body: str
    attempt_log: list[AttemptTold]


# --- keys, integrations, audit ---------------------------------------------------------


def _years_that_can_be_told(moment: datetime) -> datetime:
    if not datetime(2000, 1, 1, tzinfo=UTC) <= moment < datetime(3000, 1, 1, tzinfo=UTC):
        raise ValueError("a moment between the years 2000 and 3000")
    return moment


class KeyGiven(Given):
    """An API key to make."""

    name: Words
    scopes: list[Scope] = Field(min_length=1, max_length=3, json_schema_extra={"uniqueItems": True})
    expires_at: Annotated[AwareDatetime, AfterValidator(_years_that_can_be_told)] | None = None


class KeyTold(Told):
    """An API key without its secret."""

    id: str
    name: str
    prefix: str
    scopes: list[Scope]
    created_at: str
    expires_at: str | None
    revoked_at: str | None
    last_used_at: str | None


class KeyWithSecret(KeyTold):
    """A new key; its secret is shown this once."""

    secret: str


class Keys(Told):
    """Every API key."""

    data: list[KeyTold]


class Endpoints(Told):
    """Every receiver of webhooks."""

    data: list[EndpointTold]


class IntegrationGiven(Given):
    """An applicant tracking system that sends submissions."""

    slug: Slug
    kind: IntegrationKind
    challenges: dict[Words, Slug] = Field(
        default={}, max_length=200, description="Its test ids and our challenges; empty: each challenge under its slug."
    )
    outbound_key: Words | None = Field(None, description="The key that the ATS gave us; not for `standard`.")
    settings: dict[Words, Words | dict[Words, Words]] = Field(
        default={},
        max_length=20,
        description="What the kind needs besides; nothing secret. `callback_hosts`: hosts, parted by blanks, that "
        "results may go to with our key instead of the vendor's own domain (Greenhouse, Workable).",
    )


class IntegrationTold(Told):
    """An integration without its secrets."""

    id: str
    slug: str
    kind: IntegrationKind
    challenges: dict[str, str]
    settings: dict[str, Any]
    secrets: list[SecretTold]
    has_credential: bool
    created_at: str
    links: dict[str, str]


class IntegrationWithSecret(IntegrationTold):
    """A new integration with what the other side has to know, shown this once."""

    secret: str | None = Field(description="Signing secret of the `standard` kind.")
    credential: str | None = Field(description="User name of Basic authentication, of the other kinds.")


class Integrations(Told):
    """Every integration."""

    data: list[IntegrationTold]


class AssessmentQuery(PageQuery):
    """Filters of the list."""

    integration: Slug | None = Field(None, description="Slug of the integration.")


class AssessmentTold(Told):
    """Somebody whom an applicant tracking system wants assessed: invite them, or hand in with its id."""

    id: str
    integration_id: str
    challenge: str
    candidate: CandidateTold | None
    state: Literal["invited", "submitted", "cancelled"]
    submission_id: str | None
    invitation: InvitationTold | None = Field(description="The newest one; null where nobody was sent a link.")
    created_at: str
    updated_at: str


class AuditTold(Told):
    """One line of the audit log; `hash` covers it and all before it."""

    seq: int
    at: str
    actor: str
    action: str
    subject: str
    detail: dict[str, Any]
    previous_hash: str
    hash: str


class Health(Told):
    """Whether something is well."""

    status: Literal["ok"]


# --- from the store's records ----------------------------------------------------------


def at(at_us: int | None) -> str | None:
    """A time for readers, or null."""
    return None if at_us is None else iso(at_us)


def microseconds(moment: datetime | None) -> int | None:
    """A time that a client gave, as the store keeps it."""
    if moment is None:
        return None
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def _candidate(candidate: Candidate | None) -> CandidateTold | None:
    if candidate is None:
        return None
    told = candidate.get
    return CandidateTold(external_id=told("external_id"), name=told("name"), email=told("email"))


def submission_fields(submission: Submission, base: str) -> dict[str, Any]:
    """The fields of `SubmissionTold`; `base` is the service's public address or empty."""
    own = f"{base}/v1/submissions/{submission.id}"
    return {
        "id": submission.id,
        "challenge": submission.challenge,
        "file_name": submission.file_name,
        "source_sha256": submission.source_sha256,
        "source_bytes": submission.source_bytes,
        "state": submission.state,
        "queue": submission.queue,
        "cohort_id": submission.cohort_id,
        "candidate": _candidate(submission.candidate),
        "created_at": iso(submission.created_us),
        "queued_at": iso(submission.queued_us),
        "started_at": at(submission.started_us),
        "finished_at": at(submission.finished_us),
        "attempts": submission.attempts,
        "max_attempts": submission.max_attempts,
        "generation": submission.generation,
        "last_error": submission.last_error,
        "outcome": submission.outcome,
        "fixed": submission.fixed,
        "total": submission.total,
        "rating": submission.rating,
        "tampering_suspected": submission.tampering_suspected,
        "links": SubmissionLinks(self=own, events=f"{own}/events", source=f"{own}/source", report=f"{own}/report"),
    }


def cohort_fields(cohort: Cohort, counts: Mapping[SubmissionState, int]) -> dict[str, Any]:
    """The fields of `CohortTold`."""
    return {
        "id": cohort.id,
        "name": cohort.name,
        "challenge": cohort.challenge,
        "state": cohort.state,
        "created_at": iso(cohort.created_us),
        "finished_at": at(cohort.finished_us),
        "generation": cohort.generation,
        "total": sum(counts.values()),
        "counts": dict(counts),
    }


def invitation_fields(invitation: Invitation, now_us: int) -> dict[str, Any]:
    """The fields of `InvitationTold`."""
    return {
        "id": invitation.id,
        "cohort_id": invitation.cohort_id,
        "assessment_id": invitation.assessment_id,
        "challenge": invitation.challenge,
        "candidate": _candidate(invitation.candidate),
        "state": invitation.state(now_us),
        "contact": invitation.author,
        "created_at": iso(invitation.created_us),
        "expires_at": iso(invitation.expires_us),
        "time_limit_s": invitation.time_limit_s,
        "opened_at": at(invitation.opened_us),
        "started_at": at(invitation.started_us),
        "handed_in_at": at(invitation.handed_in_us),
        "late_s": invitation.late_s(now_us),
        "checks_used": invitation.checks_used,
        "checks_max": invitation.checks_max,
        "submission_id": invitation.submission_id,
    }


def diff_of(diff: CohortDiff) -> CohortDiffTold:
    """One line of a cohort's diff."""
    return CohortDiffTold(
        submission_id=diff.submission_id,
        file_name=diff.file_name,
        external_id=(diff.candidate or {}).get("external_id"),
        before_generation=diff.before_generation,
        after_generation=diff.after_generation,
        before_rating=diff.before_rating,
        after_rating=diff.after_rating,
        before_fixed=diff.before_fixed,
        after_fixed=diff.after_fixed,
        changes=[
            VerdictChangeTold(number=one.number, bug_id=one.bug_id, before=one.before, after=one.after)
            for one in diff.changes
        ],
    )


def key_fields(key: ApiKey) -> dict[str, Any]:
    """The fields of `KeyTold`."""
    return {
        "id": key.id,
        "name": key.name,
        "prefix": key.prefix,
        "scopes": list(key.scopes),
        "created_at": iso(key.created_us),
        "expires_at": at(key.expires_us),
        "revoked_at": at(key.revoked_us),
        "last_used_at": at(key.last_used_us),
    }


def endpoint_fields(endpoint: Endpoint) -> dict[str, Any]:
    """The fields of `EndpointTold`."""
    return {
        "id": endpoint.id,
        "url": endpoint.url,
        "event_types": list(endpoint.event_types),
        "secrets": [
            SecretTold(created_at=iso(one.created_us), expires_at=at(one.expires_us)) for one in endpoint.secrets
        ],
        "disabled_at": at(endpoint.disabled_us),
        "disabled_reason": endpoint.disabled_reason,
        "created_at": iso(endpoint.created_us),
    }


def delivery_fields(message: WebhookMessage) -> dict[str, Any]:
    """The fields of `DeliveryTold`."""
    return {
        "id": message.id,
        "endpoint_id": message.endpoint_id,
        "event_type": message.event_type,
        "submission_id": message.submission_id,
        "cohort_id": message.cohort_id,
        "generation": message.generation,
        "state": message.state,
        "attempts": message.attempts,
        "next_attempt_at": iso(message.next_attempt_us) if message.state == "pending" else None,
        "created_at": iso(message.created_us),
        "delivered_at": at(message.delivered_us),
    }


def attempt_of(attempt: Attempt) -> AttemptTold:
    """One line of a message's log."""
    return AttemptTold(
        at=iso(attempt.at_us),
        status_code=attempt.status_code,
        error=attempt.error,
        duration_ms=attempt.duration_ms,
        response_head=attempt.response_head,
    )


def integration_fields(integration: Integration, base: str) -> dict[str, Any]:
    """The fields of `IntegrationTold`."""
    return {
        "id": integration.id,
        "slug": integration.slug,
        "kind": integration.kind,
        "challenges": dict(integration.challenge_map),
        "settings": dict(integration.settings),
        "secrets": [
            SecretTold(created_at=iso(one.created_us), expires_at=at(one.expires_us)) for one in integration.secrets
        ],
        "has_credential": integration.credential_sha256 is not None,
        "created_at": iso(integration.created_us),
        "links": {"hook": f"{base}/v1/hooks/{integration.slug}"},
    }


def assessment_of(assessment: Assessment, invitation: Invitation | None, now_us: int) -> AssessmentTold:
    """One assessment."""
    return AssessmentTold(
        id=assessment.id,
        integration_id=assessment.integration_id,
        challenge=assessment.challenge,
        candidate=_candidate(assessment.candidate),
        state=assessment.state,
        submission_id=assessment.submission_id,
        invitation=InvitationTold.model_validate(invitation_fields(invitation, now_us)) if invitation else None,
        created_at=iso(assessment.created_us),
        updated_at=iso(assessment.updated_us),
    )


def audit_of(entry: AuditEntry) -> AuditTold:
    """One line of the audit log."""
    return AuditTold(
        seq=entry.seq,
        at=iso(entry.at_us),
        actor=entry.actor,
        action=entry.action,
        subject=entry.subject,
        detail=dict(entry.detail),
        previous_hash=entry.previous_hash,
        hash=entry.hash,
    )


def event_text(event: Event) -> dict[str, Any]:
    """The data of one server-sent event."""
    return {"submission_id": event.submission_id, "kind": event.kind, "at": iso(event.created_us), **event.data}

"""The service's memory: submissions and their state machine, cohorts, keys, webhooks, audit.

`Store` is the only door. Its methods are safe to call from many threads and processes; each is one
transaction (`sweep` and `cohort_rows` are several) and either happens or does not.
After a fork open a store of your own. Any method raises StoreUnavailable when the database is the
trouble; where that happened while committing, the change may or may not have been made, and
calling again is right: `finish`, `release` and `hand_back` know their own doing again.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

from services.store import schema
from services.store.assessments import Assessment, AssessmentPart, AssessmentState, NewAssessment
from services.store.audit import AuditPart
from services.store.cohorts import CohortPart
from services.store.database import Database
from services.store.errors import BadCursor, Busy, Conflict, NotFound, StoreUnavailable
from services.store.events import COHORT_FINISHED, ENDPOINT_PING, EVENT_TYPES, body_of
from services.store.figures import FigurePart
from services.store.ids import new_id
from services.store.integrations import IntegrationPart
from services.store.invitations import Check, Invitation, InvitationPart, InvitationState, NewInvitations
from services.store.keys import KeyPart
from services.store.overview import LOOKS, FlagState, Line, LineChoice, Look, OverviewPart, Show, Tally
from services.store.part import BodyOf
from services.store.people import ROLES, SHORTEST_PASSWORD, PeoplePart, Role, SignedIn, User
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
    Pool,
    Purpose,
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
from services.store.replies import ERASED, ReplyPart
from services.store.reviews import (
    DECISIONS,
    LONGEST_TEXT,
    RULINGS,
    Decision,
    DecisionKind,
    Note,
    ReviewPart,
    Ruling,
    RulingKind,
    ShareLink,
)
from services.store.scorecards import (
    MARKS,
    RECOMMENDATIONS,
    Mark,
    Recommendation,
    Scorecard,
    ScorecardPart,
)
from services.store.submissions import SubmissionPart, WorkPart
from services.store.webhooks import EndpointPart, MessagePart


class Store(
    SubmissionPart,
    WorkPart,
    CohortPart,
    KeyPart,
    EndpointPart,
    MessagePart,
    IntegrationPart,
    AssessmentPart,
    InvitationPart,
    PeoplePart,
    ReviewPart,
    ScorecardPart,
    OverviewPart,
    ReplyPart,
    AuditPart,
    FigurePart,
):
    """The only door to the database."""

    @classmethod
    def open(
        cls,
        url: str,
        *,
        clock: Callable[[], int] = lambda: time.time_ns() // 1000,
        body_of: BodyOf = body_of,
        max_attempts: int = 5,
        busy_timeout_s: float = 30.0,
        pool_size: int = 5,
    ) -> Store:
        """A store on `url`, such as sqlite:////var/lib/assay/assay.db or postgresql://user@host/name.

        Connects when first used. `clock` gives microseconds since 1970. `body_of(event_type,
        submission, report)` writes what webhooks carry. `busy_timeout_s` is how long to wait for a
        lock or a free connection, of which this process has at most `pool_size`. Raises ValueError
        for another kind of URL.
        """
        return cls(Database(url, busy_timeout_s=busy_timeout_s, pool_size=pool_size), clock, body_of, max_attempts)

    def now_us(self) -> int:
        """The store's time."""
        return self._clock()

    def close(self) -> None:
        """Give all connections back."""
        self._database.close()

    def ping(self) -> None:
        """See that the database answers and is migrated. Raises StoreUnavailable."""
        schema.require_head(self._database)

    @staticmethod
    def upgrade(url: str, revision: str = "head") -> None:
        """Bring the schema up to `revision`. Safe to call from several processes at once."""
        with _briefly(url) as database:
            schema.upgrade(database, revision)

    @staticmethod
    def downgrade(url: str, revision: str) -> None:
        """Take the schema down to `revision`; "base" removes everything."""
        with _briefly(url) as database:
            schema.downgrade(database, revision)

    @staticmethod
    def current(url: str) -> str | None:
        """The schema's revision; None where there is none."""
        with _briefly(url) as database:
            return schema.current(database)

    @staticmethod
    def needed_revision() -> str:
        """The revision that this code needs."""
        return schema.head()


def _briefly(url: str) -> contextlib.closing[Database]:
    return contextlib.closing(Database(url))


__all__ = [
    "COHORT_FINISHED",
    "DECISIONS",
    "ENDPOINT_PING",
    "ERASED",
    "EVENT_TYPES",
    "LONGEST_TEXT",
    "LOOKS",
    "MARKS",
    "RECOMMENDATIONS",
    "ROLES",
    "RULINGS",
    "SCOPES",
    "SETTLED",
    "SHORTEST_PASSWORD",
    "UNDER_WAY",
    "ApiKey",
    "Assessment",
    "AssessmentState",
    "Attempt",
    "AttemptResult",
    "AuditEntry",
    "AuditProblem",
    "BadCursor",
    "BodyOf",
    "Busy",
    "Candidate",
    "Check",
    "Claim",
    "Cohort",
    "CohortDiff",
    "CohortRow",
    "CohortState",
    "Conflict",
    "Decision",
    "DecisionKind",
    "DueMessage",
    "Endpoint",
    "Event",
    "FlagState",
    "Idempotency",
    "IdempotencyState",
    "Inbound",
    "InboundSeen",
    "Integration",
    "IntegrationKind",
    "Invitation",
    "InvitationState",
    "Line",
    "LineChoice",
    "Look",
    "Mark",
    "MessageFilters",
    "MessageState",
    "NewAssessment",
    "NewIntegration",
    "NewInvitations",
    "NewSubmission",
    "NotFound",
    "Note",
    "OutboxRow",
    "Page",
    "Pool",
    "Purpose",
    "Queue",
    "Recommendation",
    "Role",
    "Ruling",
    "RulingKind",
    "Scope",
    "Scorecard",
    "Secret",
    "ShareLink",
    "Show",
    "SignedIn",
    "Store",
    "StoreCounts",
    "StoreUnavailable",
    "StoredResponse",
    "Submission",
    "SubmissionFilters",
    "SubmissionState",
    "Swept",
    "Tally",
    "User",
    "VerdictChange",
    "WebhookMessage",
    "new_id",
]

"""What all applicant tracking systems have in common, in our words."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Protocol, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError

from grading.challenge import Manifest
from grading.verdict import BugVerdict, Report, Verdict

Kind = Literal["standard", "greenhouse", "ashby", "workable"]


class Refusal(Exception):
    """A call that is refused: the HTTP status and words for the one who sent it."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})


# --- what comes in -----------------------------------------------------------------------


def _one_line(value: object) -> object:
    """Text without what no database or log wants in a name: controls, format characters, surrogates."""
    if not isinstance(value, str):
        return value
    return "".join(" " if c.isspace() else c for c in value if c.isspace() or unicodedata.category(c)[0] != "C").strip()


Line = Annotated[str, BeforeValidator(_one_line), StringConstraints(max_length=500)]
Reference = Annotated[str, BeforeValidator(_one_line), StringConstraints(min_length=1, max_length=200)]
Url = Annotated[str, StringConstraints(min_length=8, max_length=2000, pattern=r"^https?://[^\s\\]+$")]


class Inbound(BaseModel):
    """A body from outside: fields that we do not know are none of our business."""

    model_config = ConfigDict(frozen=True, extra="ignore", coerce_numbers_to_str=True)


class Candidate(Inbound):
    """Who the submission is from, as far as the ATS says."""

    external_id: Line | None = None
    name: Line | None = None
    email: Line | None = None


class Callback(Inbound):
    """Where and as what the ATS wants the result; goes through the store as JSON."""

    url: Url | None = None
    assessment_id: str | None = None


class AssessmentRequest(Inbound):
    """An ATS wants a candidate assessed; the file comes later.

    Attributes:
        dedupe_key: the same for a repeated call, so that no candidate is invited twice.
        renewable: whether a repetition starts anew once the earlier assessment is over.
    """

    challenge: str
    candidate: Candidate
    callback: Callback
    dedupe_key: str
    renewable: bool = False


@dataclass(frozen=True)
class SubmissionRequest:
    """An ATS brings a candidate's file.

    `message_id` is the sender's idempotency key and `body_sha256` tells whether a repetition is one.
    """

    message_id: str
    body_sha256: str
    challenge: str
    file_name: str
    source: bytes
    candidate: Candidate
    callback: Callback | None


@dataclass(frozen=True)
class Call:
    """One HTTP request to an integration. `headers` may be in any case; `body` is raw."""

    method: str
    action: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes

    def header(self, name: str) -> str:
        """The header called `name`, or an empty text."""
        return next((value for key, value in self.headers.items() if key.lower() == name), "")


@dataclass(frozen=True)
class Answer:
    """What is answered: `body` is JSON, None for an empty response."""

    status: int
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Offer:
    """One challenge as an ATS may order it; `test_id` is its name over there."""

    test_id: str
    challenge: str
    title: str
    description: str = ""


@dataclass(frozen=True)
class Integration:
    """One connection to an ATS.

    Attributes:
        secrets: live `whsec_` secrets of the standard kind, newest first.
        inbound_key_sha256: hex SHA-256 of the keys that the ATS may present.
        outbound_key: the key that we present to the ATS.
        offers: what it may order.
        settings: of the kind; see the adapters.
    """

    id: str
    kind: Kind
    secrets: tuple[str, ...] = field(default=(), repr=False)
    inbound_key_sha256: tuple[str, ...] = ()
    outbound_key: str = field(default="", repr=False)
    offers: tuple[Offer, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    def challenge_of(self, test_id: str) -> str | None:
        """The challenge that the ATS calls `test_id`."""
        return next((offer.challenge for offer in self.offers if offer.test_id == test_id), None)


class _Secret(Protocol):
    @property
    def secret(self) -> str: ...


class StoredIntegration(Protocol):
    """What the store keeps of an integration."""

    @property
    def id(self) -> str: ...  # noqa: D102
    @property
    def kind(self) -> Kind: ...  # noqa: D102
    @property
    def secrets(self) -> Sequence[_Secret]: ...  # noqa: D102
    @property
    def credential_sha256(self) -> str | None: ...  # noqa: D102
    @property
    def challenge_map(self) -> Mapping[str, str]: ...  # noqa: D102
    @property
    def settings(self) -> Mapping[str, Any]: ...  # noqa: D102


def integration_of(stored: StoredIntegration, manifests: Mapping[str, Manifest]) -> Integration:
    """An integration with what it offers, from the store's record and the challenges that there are.

    Without a map of its own it offers every challenge under the challenge's own name. Where the kind is not
    the standard one, its newest secret is the key that we present to the ATS.
    """
    secrets = tuple(secret.secret for secret in stored.secrets)
    offered = stored.challenge_map or {slug: slug for slug in manifests}
    standard = stored.kind == "standard"
    return Integration(
        id=stored.id,
        kind=stored.kind,
        secrets=secrets if standard else (),
        inbound_key_sha256=(stored.credential_sha256,) if stored.credential_sha256 else (),
        outbound_key="" if standard else next(iter(secrets), ""),
        offers=tuple(
            Offer(test_id, slug, manifests[slug].title, f"{manifests[slug].level}, {manifests[slug].minutes} minutes")
            for test_id, slug in offered.items()
            if slug in manifests
        ),
        settings=stored.settings,
    )


@dataclass(frozen=True)
class Terms:
    """What the operator set, and the time."""

    now_s: float
    tolerance_s: float
    max_submission_bytes: int
    allow_http: bool = False


@dataclass(frozen=True)
class Assessment:
    """An assessment as the desk knows it; `created` is False where it was there before the call."""

    id: str
    state: Literal["invited", "submitted", "cancelled"]
    result: Result
    created: bool = False


@dataclass(frozen=True)
class Receipt:
    """A submission that was taken: the first time or, of the same message, again."""

    submission_id: str
    location: str


class Desk(Protocol):
    """What an inbound call can have done. The API implements it over the store."""

    def start(self, request: AssessmentRequest) -> Assessment:
        """The assessment with this `dedupe_key`: a new one, or the one that is there (`created` False)."""

    def find(self, assessment_id: str) -> Assessment | None:
        """The assessment of this integration with its result so far."""

    def cancel(self, assessment_id: str) -> Assessment | None:
        """Cancel an assessment that nothing was handed in for; any other is given back as it is."""

    def submit(self, request: SubmissionRequest) -> Receipt:
        """Take a file, once for each message id.

        Raises:
            Refusal: the message id came before with another body (409), or too much waits (429).
        """

    def note(self, complaint: Mapping[str, Any]) -> None:
        """Remember what a vendor complained of."""


# --- who calls ---------------------------------------------------------------------------


def require_basic_key(integration: Integration, call: Call, _terms: Terms) -> None:
    """Raise Refusal (401) unless the call carries a known key as the user name of Basic authentication."""
    scheme, _, credentials = call.header("authorization").partition(" ")
    try:
        user = base64.b64decode(credentials.strip(), validate=True).partition(b":")[0]
    except (binascii.Error, ValueError):
        user = b""
    _require_key(integration, user if scheme.lower() == "basic" else b"", 'Basic realm="assay"')


def require_bearer_key(integration: Integration, call: Call, _terms: Terms) -> None:
    """Raise Refusal (401) unless the call carries a known key as a Bearer token."""
    scheme, _, token = call.header("authorization").partition(" ")
    _require_key(integration, token.strip().encode("utf-8", "replace") if scheme.lower() == "bearer" else b"", "Bearer")


def _require_key(integration: Integration, key: bytes, challenge: str) -> None:
    digest = hashlib.sha256(key).hexdigest().encode()
    # Every known hash is compared, so that time tells nothing of which one came close.
    matches = [hmac.compare_digest(digest, known.encode()) for known in integration.inbound_key_sha256]
    if not key or not any(matches):
        raise Refusal(401, "the key is missing or unknown", {"WWW-Authenticate": challenge})


def basic(key: str) -> str:
    """The Authorization header with `key` as the user name and no password."""
    return "Basic " + base64.b64encode(f"{key}:".encode()).decode("ascii")


_Body = TypeVar("_Body", bound=Inbound)


def read(model: type[_Body], body: bytes) -> _Body:
    """`body` as `model`, or Refusal (422) with where it does not fit; the values are not repeated."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise Refusal(422, _problems(error)) from None


def _problems(error: ValidationError) -> str:
    found = error.errors(include_url=False, include_input=False, include_context=False)
    return "; ".join(f"{'.'.join(map(str, e['loc'])) or 'body'}: {e['msg']}" for e in found[:5])


def require_url(url: str, terms: Terms) -> str:
    """`url`, or Refusal (422) where it is not one that results may go to."""
    if not url.startswith("https://") and not terms.allow_http:
        raise Refusal(422, "the callback has to be an https address")
    return url


def require_callback(url: str, terms: Terms, integration: Integration, domain: str) -> str:
    """`url`, or Refusal (422) where our key at the vendor would go to somebody else with the result.

    Hosts below `domain` are the vendor's; an operator names others in the setting `callback_hosts`. While
    developing, where plain http is allowed, any host is.
    """
    require_url(url, terms)
    host = (urlsplit(url).hostname or "").rstrip(".")
    allowed = str(integration.settings.get("callback_hosts") or domain).lower().replace(",", " ").split()
    if not terms.allow_http and not any(host == one or host.endswith(f".{one}") for one in allowed):
        raise Refusal(422, f"results go to {' or '.join(allowed)} only; an operator can allow other hosts")
    return url


def digest_of(*parts: str) -> str:
    """A key for what `parts` name together, whatever characters are in them."""
    return hashlib.sha256(b"".join(len(p.encode()).to_bytes(8) + p.encode() for p in parts)).hexdigest()


def full_name(*parts: str | None) -> str | None:
    """The parts of a name that are there, or None."""
    return " ".join(part for part in parts if part) or None


# --- what goes out -----------------------------------------------------------------------


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Score(_Frozen):
    """`value` of `max`."""

    value: float
    max: float


class Text(_Frozen):
    """Something to read beside the score."""

    type: Literal["TEXT"] = "TEXT"
    id: str
    label: str
    value: str


class SubResult(_Frozen):
    """One planted bug; without a score where nothing can be said."""

    type: Literal["SUB_RESULT"] = "SUB_RESULT"
    id: str
    label: str
    score: Score | None
    status: Literal["COMPLETED", "INCONCLUSIVE"]
    summary: str


class Attachment(_Frozen):
    """A document beside the result."""

    description: str
    url: str


class Result(_Frozen):
    """The neutral result. A submission that cannot be graded is completed without a score."""

    status: Literal["OPEN", "COMPLETED", "CANCELLED"]
    score: float | None = None
    max_score: float | None = None
    rating: str | None = None
    rating_is_final: bool = False
    result_url: str | None = None
    completed_at: str | None = Field(default=None, description="UTC time, ISO 8601.")
    summary: str = ""
    attributes: tuple[Annotated[Text | SubResult, Field(discriminator="type")], ...] = ()
    attachments: tuple[Attachment, ...] = ()


@dataclass(frozen=True)
class Message:
    """A webhook message that is due: what is sent is `body`, under `id`, however often."""

    id: str
    event_type: str
    body: str


@dataclass(frozen=True)
class Outbound:
    """One request to make; `headers` hold credentials."""

    method: str
    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes


@dataclass(frozen=True)
class Action:
    """One thing that an ATS may call."""

    method: str
    act: Callable[[Integration, Call, Desk, Terms], Answer]


@dataclass(frozen=True)
class Adapter:
    """One vendor's contract.

    Attributes:
        authenticate: raises Refusal (401) unless the call is from the ATS.
        actions: what it may call, by the path below the integration.
        error: the body of a refusal in the vendor's shape, from status and message.
        outbound: the request that tells it of an event, or None.
    """

    authenticate: Callable[[Integration, Call, Terms], None]
    actions: Mapping[str, Action]
    error: Callable[[int, str], Any]
    outbound: Callable[[Integration, Callback, Message, Result, float], Outbound | None]


class Graded(Protocol):
    """What a result tells of a submission; the store's record has it."""

    @property
    def state(self) -> str: ...  # noqa: D102


_STATUS: Mapping[str, Literal["COMPLETED", "CANCELLED"]] = {
    "graded": "COMPLETED",
    "invalid": "COMPLETED",
    "cancelled": "CANCELLED",
    "erased": "CANCELLED",
}


def result_of(
    submission: Graded | None, report: Report | None, result_url: str | None, attachments: tuple[Attachment, ...] = ()
) -> Result:
    """The neutral result of a submission, or of an assessment that has none yet.

    One that is dead is still open: that is our fault, and somebody can put it back into the queue.
    """
    status = _STATUS.get(submission.state, "OPEN") if submission else "OPEN"
    if status != "COMPLETED" or report is None:
        return Result(status="OPEN" if status == "COMPLETED" else status)
    rating = report.rating
    return Result(
        status=status,
        score=rating and rating.fixed,
        max_score=rating and rating.total,
        rating=rating and rating.rating,
        rating_is_final=rating is not None and not rating.provisional,
        result_url=result_url,
        completed_at=report.graded_at,
        summary=_summary(report),
        attributes=(*_texts(report), *map(_sub_result, report.bugs)),
        attachments=attachments,
    )


def _summary(report: Report) -> str:
    if report.rating is None:
        return f"Cannot be graded: {report.invalid_reason}"
    doubt = f", could become {report.rating.best_case}" if report.rating.provisional else ""
    return f"{report.rating.rating}{doubt}: {report.rating.fixed} of {report.rating.total} bugs fixed"


def _texts(report: Report) -> list[Text]:
    goal = {True: "reached", False: "not reached", None: "could not be measured"}[report.goal.reached]
    texts = [
        Text(id="summary", label="Summary", value=_summary(report)),
        Text(id="goal", label="Goal", value=f"{report.goal.description}: {goal}"),
        Text(id="regressions", label="Regressions", value=", ".join(f.title for f in report.regressions) or "none"),
    ]
    if report.tampering_suspected:
        flag = "Signs of tampering: a person has to look at it before anything is decided"
        texts.append(Text(id="integrity", label="Integrity", value=flag))
    return texts


def _sub_result(bug: BugVerdict) -> SubResult:
    decided = bug.verdict is not Verdict.INCONCLUSIVE
    return SubResult(
        id=bug.id,
        label=bug.title,
        score=Score(value=float(bug.verdict is Verdict.FIXED), max=1.0) if decided else None,
        status="COMPLETED" if decided else "INCONCLUSIVE",
        summary=bug.evidence.summary,
    )

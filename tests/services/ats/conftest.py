"""A desk that remembers, and the shapes that the vendors' contracts show."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from grading.challenge import load_challenge
from services import ats, webhooks

RECORDED = Path(__file__).parent / "recorded"
KEY = "inbound-key"
SECRET = webhooks.new_secret()
NOW_S = 1_800_000_000.0
TERMS = ats.Terms(now_s=NOW_S, tolerance_s=300, max_submission_bytes=1 << 20)


def recorded(name: str) -> Any:
    """One recorded body."""
    return json.loads((RECORDED / name).read_text("utf-8"))


@dataclass
class FakeDesk:
    """Keeps assessments and submissions in memory, by the rules of `ats.Desk`."""

    assessments: dict[str, ats.Assessment] = field(default_factory=dict)
    requests: list[ats.AssessmentRequest] = field(default_factory=list)
    submissions: list[ats.SubmissionRequest] = field(default_factory=list)
    complaints: list[Mapping[str, Any]] = field(default_factory=list)

    def start(self, request: ats.AssessmentRequest) -> ats.Assessment:
        keys = [one.dedupe_key for one in self.requests]
        if request.dedupe_key in keys:
            found = self.assessments[f"asm_{keys.index(request.dedupe_key) + 1}"]
            if not (request.renewable and found.result.status != "OPEN"):
                return replace(found, created=False)
        self.requests.append(request)
        made = ats.Assessment(f"asm_{len(self.requests)}", "invited", ats.Result(status="OPEN"), created=True)
        self.assessments[made.id] = made
        return made

    def find(self, assessment_id: str) -> ats.Assessment | None:
        return self.assessments.get(assessment_id)

    def cancel(self, assessment_id: str) -> ats.Assessment | None:
        found = self.assessments.get(assessment_id)
        if found and found.state == "invited":
            found = self.assessments[assessment_id] = replace(found, state="cancelled")
        return found

    def complete(self, assessment_id: str, result: ats.Result) -> None:
        self.assessments[assessment_id] = replace(self.assessments[assessment_id], state="submitted", result=result)

    def submit(self, request: ats.SubmissionRequest) -> ats.Receipt:
        same = [one for one in self.submissions if one.message_id == request.message_id]
        if not same:
            self.submissions.append(request)
        elif same[0].body_sha256 != request.body_sha256:
            raise ats.Refusal(409, "this webhook-id came before with another body")
        return ats.Receipt("sub_1", "/v1/submissions/sub_1")

    def note(self, complaint: Mapping[str, Any]) -> None:
        self.complaints.append(complaint)


def integration(kind: str, **changes: Any) -> ats.Integration:
    """A connection that offers the spiral challenge."""
    manifest = load_challenge("spiral").manifest
    offer = ats.Offer("spiral", "spiral", manifest.title, "Hard, 45 minutes")
    made = ats.Integration(
        id="int_1",
        kind=kind,  # type: ignore[arg-type]
        secrets=(SECRET,) if kind == "standard" else (),
        inbound_key_sha256=(hashlib.sha256(KEY.encode()).hexdigest(),),
        outbound_key="" if kind == "standard" else "outbound-key",
        offers=(offer,),
    )
    return replace(made, **changes)


def authorization(kind: str, key: str = KEY) -> str:
    """The header with which an ATS of a kind shows its key."""
    return f"Bearer {key}" if kind == "workable" else "Basic " + base64.b64encode(f"{key}:".encode()).decode()


def call(
    kind: str, method: str, action: str, body: Any = None, query: Mapping[str, str] | None = None, **headers: str
) -> ats.Call:
    """A call as the ATS would make it; `body` is JSON unless it is bytes."""
    raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    if kind == "standard":
        signed = webhooks.headers([SECRET], headers.pop("message_id", "msg_in"), int(NOW_S), raw)
        return ats.Call(method, action, query or {}, signed | headers, raw)
    return ats.Call(method, action, query or {}, {"Authorization": authorization(kind)} | headers, raw)


@dataclass(frozen=True)
class Stored:
    """A submission's record, as far as a result needs it."""

    state: str = "graded"
    id: str = "sub_1"
    challenge: str = "spiral"
    file_name: str = "attempt.py"
    candidate: Mapping[str, Any] | None = None
    cohort_id: str | None = None
    generation: int = 0
    finished_us: int | None = 1_800_000_000_000_000
    queued_us: int = 1_799_999_000_000_000
    last_error: str | None = None


@dataclass
class Ats:
    """What the tests of all kinds use."""

    desk: FakeDesk = field(default_factory=FakeDesk)
    recorded = staticmethod(recorded)
    integration = staticmethod(integration)
    call = staticmethod(call)
    authorization = staticmethod(authorization)
    stored = Stored
    terms = TERMS
    secret = SECRET
    now_s = NOW_S

    def ask(self, kind: str, method: str, action: str, body: Any = None, **rest: Any) -> ats.Answer:
        """Have a call handled."""
        return ats.handle(integration(kind), call(kind, method, action, body, **rest), self.desk, TERMS)


@pytest.fixture
def vendor() -> Ats:
    """A fresh desk and the means to call it."""
    return Ats()

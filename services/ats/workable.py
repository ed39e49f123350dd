"""Workable's contract for assessment providers.

Workable lists tests and creates assessments with a Bearer token of ours; the result goes by PUT to the
address that it gave, with a Bearer token of Workable's.
Settings: `grades`, which rating is `failed`, `passed` or `excelled`; a rating that is not named, or that an
undecided bug could still change, is sent without a grade, since a grade alone may move a candidate over there.
"""

from __future__ import annotations

import json
from typing import Any

from services.ats.model import (
    Action,
    Adapter,
    Answer,
    AssessmentRequest,
    Call,
    Callback,
    Candidate,
    Desk,
    Inbound,
    Integration,
    Line,
    Message,
    Offer,
    Outbound,
    Reference,
    Refusal,
    Result,
    SubResult,
    Terms,
    Url,
    digest_of,
    full_name,
    read,
    require_bearer_key,
    require_callback,
)

GRADES = ("failed", "passed", "excelled")
_VERDICTS = {1.0: "fixed", 0.0: "not fixed"}


class _Candidate(Inbound):
    first_name: Line | None = None
    last_name: Line | None = None
    email: Line
    phone: Line | None = None


class Create(Inbound):
    """Body of `POST /assessments`."""

    test_id: Reference
    callback_url: Url
    candidate: _Candidate
    job_shortcode: Line | None = None
    job_title: Line | None = None


def requested(body: Create, offers: Integration, terms: Terms) -> AssessmentRequest:
    """What `POST /assessments` asks for, in our words.

    Raises:
        Refusal: no such test (404), or no https address to report to (422).
    """
    challenge = offers.challenge_of(body.test_id)
    if challenge is None:
        raise Refusal(404, f"no test {body.test_id!r}")
    who = body.candidate
    return AssessmentRequest(
        challenge=challenge,
        candidate=Candidate(name=full_name(who.first_name, who.last_name), email=who.email),
        callback=Callback(url=require_callback(body.callback_url, terms, offers, "workable.com")),
        dedupe_key=digest_of(body.test_id, body.callback_url),
    )


def listed(offers: tuple[Offer, ...]) -> dict[str, Any]:
    """The answer to `GET /tests`."""
    return {"tests": [{"id": offer.test_id, "name": offer.title} for offer in offers]}


def report(result: Result, grades: Any) -> dict[str, Any]:
    """The body of the PUT to the callback; `grades` is the setting, by rating."""
    if result.status != "COMPLETED":
        return {"status": "expired" if result.status == "CANCELLED" else "pending"}
    assessment: dict[str, Any] = {"summary": result.summary, "details": _details(result)}
    if result.score is not None and result.max_score:
        assessment["score"] = round(100 * result.score / result.max_score, 1)
    grade = grades.get(result.rating) if isinstance(grades, dict) and result.rating_is_final else None
    if grade in GRADES:
        assessment["grade"] = grade
    body: dict[str, Any] = {
        "status": "completed",
        "assessment": assessment,
        "attachments": [a.model_dump() for a in result.attachments],
    }
    return body | {"results_url": result.result_url} if result.result_url else body


def _details(result: Result) -> str:
    lines = []
    for attribute in result.attributes:
        if isinstance(attribute, SubResult):
            verdict = _VERDICTS[attribute.score.value] if attribute.score else "inconclusive"
            lines.append(f"{attribute.label}: {verdict} ({attribute.summary})")
        elif attribute.id != "summary":
            lines.append(f"{attribute.label}: {attribute.value}")
    return "\n".join(lines)


def _tests(integration: Integration, call: Call, desk: Desk, terms: Terms) -> Answer:
    return Answer(200, listed(integration.offers))


def _create(integration: Integration, call: Call, desk: Desk, terms: Terms) -> Answer:
    assessment = desk.start(requested(read(Create, call.body), integration, terms))
    return Answer(201, {"assessment_id": assessment.id})


def _outbound(
    integration: Integration, callback: Callback, message: Message, result: Result, now_s: float
) -> Outbound | None:
    if result.status == "OPEN" or callback.url is None:
        return None
    headers = {"Authorization": f"Bearer {integration.outbound_key}", "Content-Type": "application/json"}
    body = json.dumps(report(result, integration.settings.get("grades"))).encode()
    return Outbound("PUT", callback.url, headers, body)


ADAPTER = Adapter(
    authenticate=require_bearer_key,
    actions={"tests": Action("GET", _tests), "assessments": Action("POST", _create)},
    error=lambda status, message: {"status": status, "message": message},
    outbound=_outbound,
)

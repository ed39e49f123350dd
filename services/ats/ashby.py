"""Ashby's assessments framework.

Ashby lists, starts and cancels assessments by POST; we report with `assessment.update`, in which the
presence of `assessment_result` is what makes an assessment complete. Every value is an object
`{identifier, label, type, value}`, and `timestamp` grows from one update to the next.
Settings: `api_base`, the address of Ashby's API.
"""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import Field

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
    basic,
    digest_of,
    full_name,
    read,
    require_basic_key,
)

API_BASE = "https://api.ashbyhq.com"
_VERDICTS = {1.0: "fixed", 0.0: "not fixed"}
_ValueType = Literal["numeric_score", "url", "string"]


class _Candidate(Inbound):
    ashby_id: Reference
    first_name: Line | None = None
    last_name: Line | None = None
    email: Line | None = None


class _Application(Inbound):
    ashby_id: Reference


class Start(Inbound):
    """Body of `assessment.start`."""

    assessment_type_id: Reference
    candidate: _Candidate
    application: _Application


class Cancel(Inbound):
    """Body of `assessment.cancel`."""

    assessment_id: str = Field(max_length=200)


def requested(body: Start, offers: Integration) -> AssessmentRequest:
    """What `assessment.start` asks for, in our words.

    Raises:
        Refusal: no such assessment type (422).
    """
    challenge = offers.challenge_of(body.assessment_type_id)
    if challenge is None:
        raise Refusal(422, "This assessment is no longer offered. Choose another in the interview plan.")
    who = body.candidate
    return AssessmentRequest(
        challenge=challenge,
        candidate=Candidate(external_id=who.ashby_id, name=full_name(who.first_name, who.last_name), email=who.email),
        callback=Callback(),
        dedupe_key=digest_of(body.assessment_type_id, body.application.ashby_id),
        renewable=True,
    )


def listed(offers: tuple[Offer, ...]) -> dict[str, Any]:
    """The answer to `assessment.list`."""
    results = [{"assessment_type_id": o.test_id, "name": o.title, "description": o.description} for o in offers]
    return {"success": True, "results": results}


def update(assessment_id: str, result: Result, now_s: float) -> dict[str, Any]:
    """The body of `assessment.update` for a result that is there or an assessment that was cancelled."""
    body: dict[str, Any] = {"assessment_id": assessment_id, "timestamp": int(now_s * 1000)}
    if result.status == "CANCELLED":
        return body | {"cancelled_reason": _value("cancelled", "Cancelled", "string", "Cancelled in Assay")}
    body["assessment_status"] = _value("status", "Status", "string", "Completed")
    if result.score is not None and result.max_score:
        percent = round(100 * result.score / result.max_score, 1)
        body["assessment_result"] = _value("score", "Score (%)", "numeric_score", percent, result.summary)
    else:
        body["assessment_result"] = _value("result", "Result", "string", result.summary)
    if result.result_url:
        body["assessment_profile_url"] = _value("report", "Report", "url", result.result_url)
    return body | {"metadata": _metadata(result)}


def _metadata(result: Result) -> list[dict[str, Any]]:
    values = []
    for attribute in result.attributes:
        if isinstance(attribute, SubResult):
            verdict = _VERDICTS[attribute.score.value] if attribute.score else "inconclusive"
            values.append(_value(f"bug-{attribute.id}", attribute.label, "string", verdict, attribute.summary))
        else:
            values.append(_value(attribute.id, attribute.label, "string", attribute.value))
    return values


def _value(
    identifier: str, label: str, kind: _ValueType, value: str | float, description: str | None = None
) -> dict[str, Any]:
    found: dict[str, Any] = {"identifier": identifier, "label": label, "type": kind, "value": value}
    return found | {"description": description} if description else found


def _list(integration: Integration, call: Call, desk: Desk, terms: Terms) -> Answer:
    return Answer(200, listed(integration.offers))


def _start(integration: Integration, call: Call, desk: Desk, terms: Terms) -> Answer:
    assessment = desk.start(requested(read(Start, call.body), integration))
    if not assessment.created:
        raise Refusal(409, "The candidate is already being assessed.")
    return Answer(200, {"success": True, "results": {"assessment_id": assessment.id}})


def _cancel(integration: Integration, call: Call, desk: Desk, terms: Terms) -> Answer:
    assessment = desk.cancel(read(Cancel, call.body).assessment_id)
    if assessment is None:
        raise Refusal(404, "There is no such assessment.")
    if assessment.state != "cancelled":
        raise Refusal(422, "The candidate has already handed in.")
    return Answer(200, {"success": True, "results": {"assessment_id": assessment.id}})


def _outbound(
    integration: Integration, callback: Callback, message: Message, result: Result, now_s: float
) -> Outbound | None:
    if result.status == "OPEN" or callback.assessment_id is None:
        return None
    headers = {
        "Authorization": basic(integration.outbound_key),
        "Content-Type": "application/json",
        "Accept": "application/json; version=1",
    }
    base = str(integration.settings.get("api_base") or API_BASE).rstrip("/")
    body = json.dumps(update(callback.assessment_id, result, now_s)).encode()
    return Outbound("POST", f"{base}/assessment.update", headers, body)


ADAPTER = Adapter(
    authenticate=require_basic_key,
    actions={
        "assessment.list": Action("POST", _list),
        "assessment.start": Action("POST", _start),
        "assessment.cancel": Action("POST", _cancel),
    },
    error=lambda status, message: {"success": False, "message": message, "errors": [message]},
    outbound=_outbound,
)

"""Greenhouse's assessment-partner contract.

Greenhouse lists our tests, has one sent, and asks for its status: once an hour, and at once after a PATCH
without a body to the address that it gave. The integration's outbound key is the one that it presents to us.
"""

from __future__ import annotations

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
    basic,
    digest_of,
    full_name,
    read,
    require_basic_key,
    require_callback,
)

_VERDICTS = {1.0: "fixed", 0.0: "not fixed"}


class _Candidate(Inbound):
    first_name: Line
    last_name: Line
    email: Line
    preferred_name: Line | None = None
    greenhouse_profile_url: Line | None = None
    url: Url | None = None  # where older accounts put it


class SendTest(Inbound):
    """Body of `send_test`."""

    partner_test_id: Reference
    candidate: _Candidate
    url: Url | None = None


class ResponseError(Inbound):
    """Body of `response_error`: what Greenhouse did not like about an answer of ours."""

    api_call: Line
    errors: tuple[Line, ...] = ()
    partner_test_id: Line | None = None
    partner_interview_id: Line | None = None


def requested(body: SendTest, offers: Integration, terms: Terms) -> AssessmentRequest:
    """What `send_test` asks for, in our words.

    Raises:
        Refusal: no such test (404), or no address to report to (422).
    """
    challenge = offers.challenge_of(body.partner_test_id)
    if challenge is None:
        raise Refusal(404, f"no test {body.partner_test_id!r}")
    url = body.url or body.candidate.url
    if url is None:
        raise Refusal(422, "url: the address to PATCH is missing")
    who = body.candidate
    return AssessmentRequest(
        challenge=challenge,
        candidate=Candidate(
            external_id=who.greenhouse_profile_url,
            name=full_name(who.preferred_name or who.first_name, who.last_name),
            email=who.email,
        ),
        callback=Callback(url=require_callback(url, terms, offers, "greenhouse.io")),
        # The address is that of one take-home test of one application, so a repeated call is told by it.
        dedupe_key=digest_of(body.partner_test_id, url),
    )


def listed(offers: tuple[Offer, ...]) -> list[dict[str, str]]:
    """The answer to `list_tests`."""
    return [{"partner_test_id": offer.test_id, "partner_test_name": offer.title} for offer in offers]


def status(result: Result) -> dict[str, Any]:
    """The answer to `test_status`. A result without a page to link to is not complete over there."""
    if result.status != "COMPLETED":
        return {"partner_status": "cancelled" if result.status == "CANCELLED" else "pending"}
    if result.result_url is None:
        return {"partner_status": "graded, but the service does not know its public address"}
    answer: dict[str, Any] = {
        "partner_status": "complete",
        "partner_profile_url": result.result_url,
        "metadata": _metadata(result),
    }
    if result.score is not None and result.max_score:
        answer["partner_score"] = round(100 * result.score / result.max_score, 1)
    return answer


def _metadata(result: Result) -> dict[str, str]:
    """Flat, as the contract wants it, in the order in which it is shown."""
    shown = {"Completed at": result.completed_at or ""}
    for attribute in result.attributes:
        if isinstance(attribute, SubResult):
            shown[f"Bug: {attribute.label}"] = _VERDICTS[attribute.score.value] if attribute.score else "inconclusive"
        else:
            shown[attribute.label] = attribute.value
    return shown


def _list_tests(integration: Integration, call: Call, desk: Desk, terms: Terms) -> Answer:
    return Answer(200, listed(integration.offers))


def _send_test(integration: Integration, call: Call, desk: Desk, terms: Terms) -> Answer:
    assessment = desk.start(requested(read(SendTest, call.body), integration, terms))
    return Answer(200, {"partner_interview_id": assessment.id})


def _test_status(integration: Integration, call: Call, desk: Desk, terms: Terms) -> Answer:
    assessment = desk.find(call.query.get("partner_interview_id", ""))
    if assessment is None:
        raise Refusal(404, "no such partner_interview_id")
    return Answer(200, status(assessment.result))


def _response_error(integration: Integration, call: Call, desk: Desk, terms: Terms) -> Answer:
    desk.note(read(ResponseError, call.body).model_dump())
    return Answer(200)


def _outbound(
    integration: Integration, callback: Callback, message: Message, result: Result, now_s: float
) -> Outbound | None:
    if result.status != "COMPLETED" or callback.url is None:
        return None
    return Outbound("PATCH", callback.url, {"Authorization": basic(integration.outbound_key)}, b"")


ADAPTER = Adapter(
    authenticate=require_basic_key,
    actions={
        "list_tests": Action("GET", _list_tests),
        "send_test": Action("POST", _send_test),
        "test_status": Action("GET", _test_status),
        "response_error": Action("POST", _response_error),
    },
    error=lambda status, message: {"message": message},
    outbound=_outbound,
)

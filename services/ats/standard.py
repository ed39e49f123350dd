"""The standard integration: a file comes in by signed webhook, its result goes out by signed webhook.

Both ways are Standard Webhooks, with the same secrets. Inbound body:

    {"type": "submission.create", "timestamp": …, "data": {
        "challenge": "spiral",
        "file": {"name": "attempt.py", "content": "…", "encoding": "text" or "base64"},
        "candidate": {"external_id": …, "name": …, "email": …},      optional
        "callback": {"url": "https://…"}}}                           optional

The answer is 202 with `submission_id` and `location`, for a repeated `webhook-id` the same again.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Literal

from services import webhooks
from services.ats.model import (
    Action,
    Adapter,
    Answer,
    Call,
    Callback,
    Candidate,
    Desk,
    Inbound,
    Integration,
    Line,
    Message,
    Outbound,
    Reference,
    Refusal,
    Result,
    SubmissionRequest,
    Terms,
    Url,
    read,
    require_url,
)

CREATE = "submission.create"


class _File(Inbound):
    name: Line = "submission.py"
    content: str
    encoding: Literal["text", "base64"] = "text"


class _Callback(Inbound):
    url: Url


class _Data(Inbound):
    challenge: Reference
    file: _File
    candidate: Candidate = Candidate()
    callback: _Callback | None = None


class _Event(Inbound):
    type: Reference


class Create(_Event):
    """Body of `submission.create`."""

    data: _Data


def authenticate(integration: Integration, call: Call, terms: Terms) -> None:
    """Raise Refusal (401) unless the call is signed with a live secret and fresh."""
    try:
        webhooks.verify(integration.secrets, call.headers, call.body, now_s=terms.now_s, tolerance_s=terms.tolerance_s)
    except webhooks.VerificationFailed as error:
        raise Refusal(401, str(error)) from None


def requested(call: Call, offers: Integration, terms: Terms) -> SubmissionRequest:
    """The file that a call brings.

    Raises:
        Refusal: another event, an unknown challenge, content that cannot be decoded (422), too large (413).
    """
    event = read(_Event, call.body)
    if event.type != CREATE:
        raise Refusal(422, f"type: {event.type!r} is not taken here, only {CREATE!r}")
    data = read(Create, call.body).data
    challenge = offers.challenge_of(data.challenge)
    if challenge is None:
        known = ", ".join(offer.test_id for offer in offers.offers)
        raise Refusal(422, f"data.challenge: no challenge {data.challenge!r}; there are: {known or 'none'}")
    return SubmissionRequest(
        message_id=call.header("webhook-id"),
        body_sha256=hashlib.sha256(call.body).hexdigest(),
        challenge=challenge,
        file_name=data.file.name or "submission.py",
        source=_source(data.file, terms.max_submission_bytes),
        candidate=data.candidate,
        callback=Callback(url=require_url(data.callback.url, terms)) if data.callback else None,
    )


def _source(file: _File, max_bytes: int) -> bytes:
    try:
        source = file.content.encode() if file.encoding == "text" else base64.b64decode(file.content, validate=True)
    except (binascii.Error, ValueError):
        raise Refusal(422, "data.file.content: not base64") from None
    if len(source) > max_bytes:
        raise Refusal(413, f"data.file: {len(source):,} bytes, and at most {max_bytes:,} are taken")
    return source


def _create(integration: Integration, call: Call, desk: Desk, terms: Terms) -> Answer:
    receipt = desk.submit(requested(call, integration, terms))
    body = {"submission_id": receipt.submission_id, "location": receipt.location}
    return Answer(202, body, {"Location": receipt.location})


def _outbound(
    integration: Integration, callback: Callback, message: Message, result: Result, now_s: float
) -> Outbound | None:
    if callback.url is None:
        return None
    body = message.body.encode()
    return Outbound("POST", callback.url, webhooks.headers(integration.secrets, message.id, int(now_s), body), body)


ADAPTER = Adapter(
    authenticate=authenticate,
    actions={"": Action("POST", _create)},
    error=lambda status, message: {"status": status, "detail": message},
    outbound=_outbound,
)

"""Applicant tracking systems: their contracts on one side, one neutral model on the other.

The routes below `/v1/hooks/{integration}` stay ignorant of every vendor. They do three things:

    integration = ats.integration_of(record, manifests)     # the store's record, Manifests by slug
    call = ats.Call(method, action, query, headers, body)   # action: the path below the integration, "" for none
    answer = ats.handle(integration, call, desk, terms)     # never raises for anything that was sent
    → respond with answer.status, answer.headers, answer.body (JSON; None is an empty response)

`handle` authenticates (Standard Webhooks signature, Basic or Bearer, by kind), reads, refuses in the
vendor's own words, and does everything else through a `Desk`, which the API implements over the store:
start, find and cancel an assessment; submit a file; note a vendor's complaint. Only what the desk raises
(the store is gone, say) comes out. `actions(kind)` lists the methods and actions of a kind.

Greenhouse, Ashby and Workable start an *assessment* before there is a file. It waits in the store until
the candidate's submission is attached to it; its `callback` is then the submission's. The `standard` kind
brings the file along.

On the way out, a worker that delivers a message to an integration asks `outbound(…)` for the request to
send and posts it with `services.webhooks.Sender`:

    result = ats.result_of(submission, report, result_url)
    callback = ats.Callback.model_validate(submission.callback)
    request = ats.outbound(integration, callback, message, result, now_s)    # None: nothing to tell, it is done

Actions by kind:

- standard, Standard Webhooks with up to two secrets: POST "" with a `submission.create`; out goes a signed POST.
- greenhouse, Basic: GET list_tests, test_status; POST send_test, response_error; out goes a PATCH.
- ashby, Basic: POST assessment.list, assessment.start, assessment.cancel; out goes a POST of assessment.update.
- workable, Bearer: GET tests; POST assessments; out goes a PUT.
"""

from __future__ import annotations

from collections.abc import Mapping

from services.ats import ashby, greenhouse, standard, workable
from services.ats.model import (
    Action,
    Adapter,
    Answer,
    Assessment,
    AssessmentRequest,
    Attachment,
    Call,
    Callback,
    Candidate,
    Desk,
    Integration,
    Message,
    Offer,
    Outbound,
    Receipt,
    Refusal,
    Result,
    Score,
    SubmissionRequest,
    SubResult,
    Terms,
    Text,
    integration_of,
    result_of,
)

__all__ = [
    "KINDS",
    "Answer",
    "Assessment",
    "AssessmentRequest",
    "Attachment",
    "Call",
    "Callback",
    "Candidate",
    "Desk",
    "Integration",
    "Message",
    "Offer",
    "Outbound",
    "Receipt",
    "Refusal",
    "Result",
    "Score",
    "SubResult",
    "SubmissionRequest",
    "Terms",
    "Text",
    "actions",
    "handle",
    "integration_of",
    "outbound",
    "result_of",
]

_ADAPTERS: Mapping[str, Adapter] = {
    "standard": standard.ADAPTER,
    "greenhouse": greenhouse.ADAPTER,
    "ashby": ashby.ADAPTER,
    "workable": workable.ADAPTER,
}
KINDS = tuple(_ADAPTERS)


def actions(kind: str) -> Mapping[str, str]:
    """The HTTP method of each action of a kind, by the action's name."""
    return {name: action.method for name, action in _ADAPTERS[kind].actions.items()}


def handle(integration: Integration, call: Call, desk: Desk, terms: Terms) -> Answer:
    """Answer one inbound call of an ATS; what is wrong with the call becomes an answer.

    Raises:
        Exception: only what `desk` raises, apart from `Refusal`.
    """
    adapter = _ADAPTERS[integration.kind]
    try:
        adapter.authenticate(integration, call, terms)
        return _action(adapter, call).act(integration, call, desk, terms)
    except Refusal as refusal:
        return Answer(refusal.status, adapter.error(refusal.status, str(refusal)), refusal.headers)


def _action(adapter: Adapter, call: Call) -> Action:
    action = adapter.actions.get(call.action)
    if action is None:
        raise Refusal(404, f"no such action here; there are: {', '.join(filter(None, adapter.actions)) or 'none'}")
    if call.method != action.method:
        raise Refusal(405, f"this action takes {action.method}", {"Allow": action.method})
    return action


def outbound(
    integration: Integration, callback: Callback, message: Message, result: Result, now_s: float
) -> Outbound | None:
    """The request that tells an ATS of an event, or None where its contract has no word for it.

    Args:
        integration: whom to tell.
        callback: what the ATS gave when it started.
        message: the webhook message that is due; its id and body are stable over retries.
        result: the submission's result as it is now.
        now_s: UTC seconds, for the signature's or the contract's timestamp.
    """
    return _ADAPTERS[integration.kind].outbound(integration, callback, message, result, now_s)

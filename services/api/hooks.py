"""Inbound calls of applicant tracking systems. What each vendor means is `services.ats`'s business.

A call is answered in the vendor's own words. A message that comes again, by its id, gets the answer of
the first time; what it makes and its answer are stored in one transaction.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from flask import Response, request
from structlog.contextvars import bind_contextvars

from grading.verdict import Report
from services import ats
from services.api.access import require_room
from services.api.models import IntegrationPath
from services.api.observe import log
from services.api.problems import ApiProblem
from services.api.routing import INTEGRATION, JSON, Answer, Media, Result, Room, whole_body
from services.api.service import Service, here
from services.store import (
    ERASED,
    Assessment,
    Candidate,
    Conflict,
    Inbound,
    Integration,
    NewAssessment,
    NewSubmission,
    StoredResponse,
    Submission,
)

room = Room("hooks", "Inbound hooks")
_ANYTHING = Media(JSON, {})
_ANSWERS = {
    200: Answer("In the vendor's words.", media=(_ANYTHING,)),
    201: Answer("In the vendor's words.", media=(_ANYTHING,)),
    202: Answer("Taken; in the vendor's words.", media=(_ANYTHING,)),
}
_REFUSALS = (404, 405, 409, 411, 415)
_RETRY_S = "2"
# Of a complaint; its sentences may name a candidate, and the audit log forgets nothing.
_COMPLAINT_IDS = ("api_call", "partner_test_id", "partner_interview_id")


class HookPath(IntegrationPath):
    """One action of an integration."""

    action: str


@room.route_for(
    "POST",
    "/hooks/<integration>",
    access=INTEGRATION,
    size="submission",
    takes=(_ANYTHING,),
    answers=_ANSWERS,
    problems=_REFUSALS,
)
def post_hook(path: IntegrationPath) -> Result:
    """Take a message of an integration.

    The `standard` kind sends `submission.create`, signed as Standard Webhooks has it.
    """
    return _handle(path.integration, "")


@room.route_for(
    "POST",
    "/hooks/<integration>/<action>",
    access=INTEGRATION,
    takes=(_ANYTHING,),
    answers=_ANSWERS,
    problems=_REFUSALS,
)
def post_hook_action(path: HookPath) -> Result:
    """Take a call of an integration, such as `send_test` or `assessment.start`."""
    return _handle(path.integration, path.action)


@room.route_for(
    "GET",
    "/hooks/<integration>/<action>",
    access=INTEGRATION,
    answers=_ANSWERS,
    problems=_REFUSALS,
)
def get_hook_action(path: HookPath) -> Result:
    """Answer a question of an integration, such as `list_tests` or `test_status`."""
    return _handle(path.integration, path.action)


def _handle(slug: str, action: str) -> Response:
    service = here()
    record = service.store.integration_by_slug(slug)
    if record is None:
        raise ApiProblem(404, "There is no such integration.")
    bind_contextvars(integration=record.id)
    call = ats.Call(request.method, action, request.args.to_dict(), dict(request.headers), whole_body())
    settings = service.settings
    terms = ats.Terms(
        now_s=time.time(),
        tolerance_s=settings.webhook_tolerance_s,
        max_submission_bytes=settings.max_submission_bytes,
        allow_http=settings.webhook_allow_private,
    )
    manifests = {slug: challenge.manifest for slug, challenge in service.challenges.items()}
    answer = ats.handle(ats.integration_of(record, manifests), call, _Desk(service, record), terms)
    log.info("hook answered", action=action or "submission.create", status=answer.status)
    return _response(answer)


def _response(answer: ats.Answer) -> Response:
    if answer.body is None:
        response = Response(status=answer.status)
        response.headers.pop("Content-Type", None)
    else:
        response = Response(json.dumps(answer.body), status=answer.status, mimetype=JSON)
    response.headers.update(answer.headers)
    return response


class _Desk:
    """`ats.Desk` over the store, for one integration."""

    def __init__(self, service: Service, record: Integration) -> None:
        self._service = service
        self._record = record

    def submit(self, asked: ats.SubmissionRequest) -> ats.Receipt:
        """Take a file, once for each message id."""
        store, record = self._service.store, self._record
        seen = store.inbound_begin(record.id, asked.message_id, asked.body_sha256)
        if seen is not None:
            if not seen.same_body:
                raise ats.Refusal(409, "this webhook-id came before with another body")
            if seen.response is None:
                raise ats.Refusal(409, "the first copy is still being handled", {"Retry-After": _RETRY_S})
            if seen.response.status == ERASED:
                raise ats.Refusal(ERASED, "what this message brought was erased")
            return _receipt(seen.response)
        try:
            return self._take(asked)
        except BaseException:
            store.inbound_forget(record.id, asked.message_id)
            raise

    def _take(self, asked: ats.SubmissionRequest) -> ats.Receipt:
        store, record = self._service.store, self._record
        self._require_room()
        new = NewSubmission(
            challenge=asked.challenge,
            file_name=asked.file_name,
            source=asked.source,
            candidate=_candidate(asked.candidate),
            integration_id=record.id,
            callback=asked.callback.model_dump(exclude_none=True) if asked.callback else None,
        )
        inbound = Inbound(record.id, asked.message_id, lambda made: _remembered(self._service, made[0]))
        try:
            submission = store.create_submission(new, inbound=inbound, actor=record.id)
        except Conflict:
            raise ats.Refusal(409, "another copy is being handled", {"Retry-After": _RETRY_S}) from None
        bind_contextvars(submission=submission.id)
        return _receipt(_remembered(self._service, submission))

    def start(self, asked: ats.AssessmentRequest) -> ats.Assessment:
        """The assessment that an ATS asks for: a new one, or the one that is there."""
        new = NewAssessment(
            integration_id=self._record.id,
            dedupe_key=asked.dedupe_key,
            challenge=asked.challenge,
            candidate=_candidate(asked.candidate),
            callback=asked.callback.model_dump(exclude_none=True),
            renewable=asked.renewable,
        )
        made, created = self._service.store.create_assessment(new, actor=self._record.id)
        return self._told(made, created)

    def find(self, assessment_id: str) -> ats.Assessment | None:
        """The assessment of this integration with its result so far."""
        found = self._mine(assessment_id)
        return None if found is None else self._told(found)

    def cancel(self, assessment_id: str) -> ats.Assessment | None:
        """Cancel an assessment that nothing was handed in for; any other is given back as it is."""
        if self._mine(assessment_id) is None:
            return None
        return self._told(self._service.store.cancel_assessment(assessment_id, actor=self._record.id))

    def _mine(self, assessment_id: str) -> Assessment | None:
        found = self._service.store.assessment(assessment_id)
        return found if found is not None and found.integration_id == self._record.id else None

    def _told(self, one: Assessment, created: bool = False) -> ats.Assessment:
        store = self._service.store
        submission = store.submission(one.submission_id) if one.submission_id else None
        stored = store.report(submission.id) if submission and submission.outcome else None
        report = Report.model_validate(stored) if stored else None
        base = self._service.base
        # The page for people; without a public address there is none to give.
        link = f"{base}/submissions/{submission.id}" if submission and base else None
        return ats.Assessment(one.id, one.state, ats.result_of(submission, report, link), created)

    def _require_room(self) -> None:
        try:
            require_room()
        except ApiProblem as problem:
            raise ats.Refusal(problem.status, problem.detail, problem.headers) from None

    def note(self, complaint: Mapping[str, Any]) -> None:
        """Remember what a vendor complained of."""
        detail = {name: complaint[name] for name in _COMPLAINT_IDS if complaint.get(name)}
        log.warning("integration complains", **detail, errors=len(complaint.get("errors") or ()))
        self._service.store.audit(self._record.id, "integration.complaint", self._record.id, detail)


def _candidate(told: ats.Candidate) -> Candidate | None:
    kept: Candidate = {}
    if told.external_id:
        kept["external_id"] = told.external_id
    if told.name:
        kept["name"] = told.name
    if told.email:
        kept["email"] = told.email
    return kept or None


def _remembered(service: Service, submission: Submission) -> StoredResponse:
    receipt = {"submission_id": submission.id, "location": f"{service.base}/v1/submissions/{submission.id}"}
    return StoredResponse(202, {}, json.dumps(receipt))


def _receipt(stored: StoredResponse) -> ats.Receipt:
    return ats.Receipt(**json.loads(stored.body))

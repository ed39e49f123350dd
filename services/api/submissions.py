"""Routes of single submissions."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from functools import partial
from urllib.parse import quote

from flask import Response, request
from structlog.contextvars import bind_contextvars

from services.api import uploads
from services.api.idempotent import PARAMETER, ticket
from services.api.models import (
    EventsQuery,
    Listed,
    ReportQuery,
    SubmissionGiven,
    SubmissionInFull,
    SubmissionPath,
    SubmissionQuery,
    SubmissionTold,
    event_text,
    microseconds,
    submission_fields,
)
from services.api.observe import log
from services.api.paging import LINK, listed
from services.api.problems import ApiProblem, retry_after
from services.api.routing import Answer, Media, Result, Room, needs
from services.api.service import Service, actor, here, key
from services.store import (
    SETTLED,
    Event,
    NewSubmission,
    StoredResponse,
    StoreUnavailable,
    Submission,
    SubmissionFilters,
)

room = Room("submissions", "Submissions")
PLAIN = Media("text/plain")
_LOCATION = (("Location", "Address of the submission."),)
_NO_REPORT = "There is no report yet."


class Submissions(Listed[SubmissionTold]):
    """One page of submissions, newest first."""


@room.route_for(
    "POST",
    "/submissions",
    access=needs("submit"),
    size="submission",
    takes=(SubmissionGiven, uploads.ONE_FORM),
    headers=(PARAMETER,),
    answers={202: Answer("Taken; it is graded soon.", SubmissionTold, headers=_LOCATION)},
    problems=(404, 409, 411, 415),
)
def submit() -> Result:
    """Hand in a program.

    As JSON, or as a form with the part `file`. The answer comes at once; the report later, by webhook, by
    the event stream or by asking.
    """
    service = here()
    challenge, assessment, program = uploads.one_program()
    service.require_challenge(challenge)
    new = NewSubmission(
        challenge=challenge,
        file_name=program.file_name,
        source=program.source,
        candidate=program.candidate,
        api_key_id=key().id,
        assessment_id=assessment,
    )
    with ticket(challenge, assessment or "", uploads.fingerprint([program]), room_for=1) as claimed:
        if isinstance(claimed, Response):
            return claimed
        idempotency = claimed.with_answer(lambda made: _accepted(service, made[0])) if claimed else None
        submission = service.store.create_submission(new, idempotency=idempotency, actor=actor())
    bind_contextvars(submission=submission.id)
    log.info("submission taken", challenge=challenge, bytes=len(program.source))
    stored = _accepted(service, submission)
    return Response(stored.body, status=stored.status, headers=dict(stored.headers))


def _accepted(service: Service, submission: Submission) -> StoredResponse:
    told = SubmissionTold.model_validate(submission_fields(submission, service.base))
    headers = {"Location": told.links.self, "Content-Type": "application/json"}
    return StoredResponse(202, headers, told.model_dump_json())


@room.route_for(
    "GET",
    "/submissions",
    access=needs("read"),
    answers={200: Answer("A page.", Submissions, headers=LINK)},
)
def list_submissions(query: SubmissionQuery) -> Result:
    """List submissions, newest first.

    Without their reports.
    """
    service = here()
    flag = query.tampering_suspected
    filters = SubmissionFilters(
        states=tuple(query.state),
        challenge=query.challenge,
        cohort_id=query.cohort_id,
        external_id=query.external_id,
        rating=query.rating,
        tampering_suspected=None if flag is None else flag == "true",
        created_from_us=microseconds(query.created_from),
        created_to_us=microseconds(query.created_to),
    )
    page = service.store.list_submissions(filters, query.cursor, query.limit)
    return listed(
        Submissions, [SubmissionTold.model_validate(submission_fields(one, service.base)) for one in page.items], page
    )


@room.route_for(
    "GET",
    "/submissions/<submission_id>",
    access=needs("read"),
    answers={200: Answer("The submission.", SubmissionInFull)},
    problems=(404,),
)
def get_submission(path: SubmissionPath) -> Result:
    """Get a submission with its place in the queue or its report."""
    service, submission = here(), _find(path.submission_id)
    place = service.store.place_in_queue(submission.id) if submission.state == "queued" else None
    graded = submission.state in ("graded", "invalid")
    report = service.store.report(submission.id) if graded else None
    return SubmissionInFull.model_validate(
        {**submission_fields(submission, service.base), "place_in_queue": place, "report": report}
    )


def _find(submission_id: str) -> Submission:
    bind_contextvars(submission=submission_id)
    submission = here().store.submission(submission_id)
    if submission is None:
        raise ApiProblem(404, "There is no such submission.")
    return submission


@room.route_for(
    "GET",
    "/submissions/<submission_id>/source",
    access=needs("read"),
    answers={200: Answer("The program as it was handed in, byte for byte.", media=(PLAIN,))},
    problems=(404,),
)
def get_source(path: SubmissionPath) -> Result:
    """Get the program that was handed in."""
    submission = _find(path.submission_id)
    source = here().store.source(submission.id)
    if source is None:
        raise ApiProblem(404, "The program was erased.")
    # Never text/html and never a name that a browser would run: the content is a stranger's.
    name = quote(submission.file_name, safe="")
    headers = {"Content-Disposition": f"attachment; filename*=UTF-8''{name}"}
    return Response(source, content_type="text/plain; charset=utf-8", headers=headers)


@room.route_for(
    "GET",
    "/submissions/<submission_id>/report",
    access=needs("read"),
    answers={200: Answer("The report.", media=(Media("application/json", {"$ref": "#/components/schemas/Report"}),))},
    problems=(404,),
)
def get_report(path: SubmissionPath, query: ReportQuery) -> Result:
    """Get a report: the newest, or that of an earlier generation."""
    submission = _find(path.submission_id)
    report = here().store.report(submission.id, query.generation)
    if report is None:
        raise ApiProblem(404, _NO_REPORT)
    return Response(json.dumps(report), mimetype="application/json")


@room.route_for(
    "POST",
    "/submissions/<submission_id>/regrade",
    access=needs("manage"),
    answers={202: Answer("It waits again.", SubmissionTold, headers=_LOCATION)},
    problems=(404, 409),
)
def regrade_submission(path: SubmissionPath) -> Result:
    """Grade a submission anew.

    Its earlier reports stay. 409 unless it is graded or invalid.
    """
    _find(path.submission_id)
    return _again(here().store.regrade(path.submission_id, actor=actor()))


@room.route_for(
    "POST",
    "/submissions/<submission_id>/requeue",
    access=needs("manage"),
    answers={202: Answer("It waits again.", SubmissionTold, headers=_LOCATION)},
    problems=(404, 409),
)
def requeue_submission(path: SubmissionPath) -> Result:
    """Give a dead submission new attempts.

    409 unless it is dead.
    """
    _find(path.submission_id)
    return _again(here().store.requeue(path.submission_id, actor=actor()))


@room.route_for(
    "POST",
    "/submissions/<submission_id>/cancel",
    access=needs("manage"),
    answers={202: Answer("It is cancelled.", SubmissionTold, headers=_LOCATION)},
    problems=(404, 409),
)
def cancel_submission(path: SubmissionPath) -> Result:
    """Take a submission out before it is graded.

    409 once it is.
    """
    _find(path.submission_id)
    return _again(here().store.cancel(path.submission_id, actor=actor()))


def _again(submission: Submission) -> Result:
    told = SubmissionTold.model_validate(submission_fields(submission, here().base))
    return told, 202, {"Location": told.links.self}


@room.route_for(
    "DELETE",
    "/submissions/<submission_id>",
    access=needs("manage"),
    answers={204: Answer("Erased.")},
    problems=(404,),
)
def erase_submission(path: SubmissionPath) -> Result:
    """Erase the candidate's data: program, names, reports.

    The submission stays as a count. It cannot be undone; erasing twice is no error.
    """
    _find(path.submission_id)
    here().store.erase(path.submission_id, actor=actor())
    log.info("submission erased")
    return None, 204


# --- progress --------------------------------------------------------------------------

# OpenAPI 3.1 has no word for streams; the schema is that of one event.
_EVENT = {"id": {"type": "string"}, "event": {"type": "string"}, "data": {"type": "string"}}
_EVENT_STREAM = Media("text/event-stream", {"type": "object", "properties": _EVENT})
_LAST_EVENT = {
    "name": "Last-Event-ID",
    "in": "header",
    "required": False,
    "description": "Set by browsers when they come back.",
    "schema": {"type": "string", "pattern": "^[0-9]{1,15}$"},
}
_BATCH = 100


@room.route_for(
    "GET",
    "/submissions/<submission_id>/events",
    access=needs("read"),
    headers=(_LAST_EVENT,),
    answers={
        200: Answer("Server-sent events until it is settled.", media=(_EVENT_STREAM,)),
        204: Answer("It is settled and there is nothing new: do not come back."),
    },
    problems=(404,),
)
def stream_events(path: SubmissionPath, query: EventsQuery) -> Result:
    """Follow a submission as server-sent events.

    Each has an id, its kind as the event's name, and JSON. A comment is sent when nothing happens for long.
    """
    submission = _find(path.submission_id)
    last = _last_event(query)
    service = here()
    if submission.state in SETTLED and not service.store.events_after(submission.id, last, 1):
        return None, 204
    owner = key().id
    if not service.streams.begin(owner):
        detail = "Too many event streams are open; come back, or ask for the submission instead."
        raise ApiProblem(503, detail, "streams", headers=retry_after(service.settings.sse_heartbeat_s))
    service.metrics.streams.inc()
    response = Response(_stream(service, submission.id, last), mimetype="text/event-stream")
    response.headers["X-Accel-Buffering"] = "no"
    response.call_on_close(partial(service.streams.end, owner))
    return response


def _last_event(query: EventsQuery) -> int:
    given = request.headers.get("Last-Event-ID")
    if given is None:
        return query.after
    if not (given.isascii() and given.isdigit() and len(given) <= 15):
        raise ApiProblem(400, "Last-Event-ID is the number of an event.", "last-event-id")
    return int(given)


def _stream(service: Service, submission_id: str, last: int) -> Iterator[str]:
    """The frames of a stream; one that loses its store just ends, and its client comes back."""
    try:
        yield from _frames(service, submission_id, last)
    except StoreUnavailable as error:
        log.warning("event stream cut off", submission=submission_id, error=str(error))


def _frames(service: Service, submission_id: str, last: int) -> Iterator[str]:
    """Events as they come, until the submission is settled or the stream is old."""
    settings = service.settings
    began = spoke = time.monotonic()
    yield f"retry: {round(settings.sse_poll_s * 2000)}\n\n"
    while time.monotonic() - began < settings.sse_max_s:
        # The state is read first: what it became after that has an event that the next round finds.
        submission = service.store.submission(submission_id)
        events = service.store.events_after(submission_id, last, _BATCH)
        for event in events:
            last = event.seq
            yield _frame(event)
        if events:
            spoke = time.monotonic()
            continue
        if submission is None or submission.state in SETTLED:
            return
        if time.monotonic() - spoke >= settings.sse_heartbeat_s:
            spoke = time.monotonic()
            yield ": still here\n\n"
        time.sleep(settings.sse_poll_s)


def _frame(event: Event) -> str:
    # JSON has no raw line breaks, so one data line holds it all.
    return f"id: {event.seq}\nevent: {event.kind}\ndata: {json.dumps(event_text(event))}\n\n"

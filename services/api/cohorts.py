"""Routes of cohorts: many submissions in with one request, one file out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from flask import Response
from structlog.contextvars import bind_contextvars

from grading.challenge import Bug
from services.api import exports, uploads
from services.api.idempotent import PARAMETER, replay, ticket
from services.api.models import (
    CohortAccepted,
    CohortDiffs,
    CohortGiven,
    CohortParameters,
    CohortPath,
    CohortSubmissions,
    CohortTold,
    Listed,
    PageQuery,
    RefusedFile,
    cohort_fields,
    diff_of,
)
from services.api.observe import log
from services.api.paging import LINK, listed
from services.api.problems import ApiProblem
from services.api.routing import Answer, Media, Result, Room, needs
from services.api.service import Service, actor, here, key
from services.store import Cohort, Idempotency, NewSubmission, StoredResponse, SubmissionState

room = Room("cohorts", "Cohorts")
_LOCATION = (("Location", "Address of the cohort."),)
_BODIES = (uploads.ZIP_BODY, uploads.LINES_BODY)


class Cohorts(Listed[CohortTold]):
    """One page of cohorts, newest first."""


@room.route_for(
    "POST",
    "/cohorts",
    access=needs("submit"),
    size="cohort",
    takes=(CohortGiven, uploads.COHORT_FORM, *_BODIES),
    headers=(PARAMETER,),
    answers={202: Answer("Taken.", CohortAccepted, headers=_LOCATION)},
    problems=(409, 411, 415),
)
def create_cohort(query: CohortParameters) -> Result:
    """Make a cohort, with its submissions or empty.

    As JSON; as a form with `name`, `challenge` and `files` (programs, zips, JSON lines); or as a bare zip or
    JSON lines, with name and challenge in the query.
    """
    service = here()
    form, batch = uploads.new_cohort(query)
    service.require_challenge(form.challenge)
    parts = (form.name, form.challenge, uploads.fingerprint(batch.programs))
    with ticket(*parts, room_for=len(batch.programs)) as claimed:
        if isinstance(claimed, Response):
            return claimed
        cohort = service.store.new_cohort(form.name, form.challenge, api_key_id=key().id)
        return _fill(service, cohort, None, batch, claimed and claimed.with_answer)


@room.route_for(
    "POST",
    "/cohorts/<cohort_id>/submissions",
    access=needs("submit"),
    size="cohort",
    takes=(CohortSubmissions, uploads.FILES_FORM, *_BODIES),
    headers=(PARAMETER,),
    answers={202: Answer("Taken.", CohortAccepted, headers=_LOCATION)},
    problems=(404, 409, 411, 415),
)
def add_to_cohort(path: CohortPath) -> Result:
    """Add submissions to a cohort, all or none.

    The same bodies as for a new one, without name and challenge. 409 for a cancelled cohort.
    """
    service, cohort = here(), _find(path.cohort_id)
    batch = uploads.more_programs()
    with ticket(uploads.fingerprint(batch.programs), room_for=len(batch.programs)) as claimed:
        if isinstance(claimed, Response):
            return claimed
        before = service.store.cohort_progress(cohort.id)
        return _fill(service, cohort, before, batch, claimed and claimed.with_answer)


def _fill(
    service: Service,
    cohort: Cohort,
    before: Mapping[SubmissionState, int] | None,
    batch: uploads.Batch,
    remember: Any,
) -> Result:
    """Put the programs into the cohort; the answer is stored with them, and a new cohort too.

    Args:
        before: how many are in each state already; None for a cohort that is new.
    """
    bind_contextvars(cohort=cohort.id)
    new = [
        NewSubmission(
            challenge=cohort.challenge,
            file_name=program.file_name,
            source=program.source,
            queue="cohort",
            candidate=program.candidate,
            api_key_id=key().id,
        )
        for program in batch.programs
    ]
    answer = _accepted(service, cohort, before or {}, len(new), batch.refused)
    if new or remember or before is None:
        idempotency: Idempotency | None = remember and remember(lambda made: answer)
        where = cohort if before is None else cohort.id
        service.store.create_submissions(where, new, idempotency=idempotency, actor=actor())
    log.info("cohort filled", accepted=len(new), refused=len(batch.refused))
    return replay(answer)


def _accepted(
    service: Service,
    cohort: Cohort,
    before: Mapping[SubmissionState, int],
    accepted: int,
    refused: list[RefusedFile],
) -> StoredResponse:
    counts = {**before}
    if accepted:
        counts["queued"] = counts.get("queued", 0) + accepted
        cohort = dataclasses.replace(cohort, state="running", finished_us=None)
    told = CohortAccepted.model_validate({**cohort_fields(cohort, counts), "accepted": accepted, "refused": refused})
    headers = {"Location": f"{service.base}/v1/cohorts/{cohort.id}", "Content-Type": "application/json"}
    return StoredResponse(202, headers, told.model_dump_json())


@room.route_for("GET", "/cohorts", access=needs("read"), answers={200: Answer("A page.", Cohorts, headers=LINK)})
def list_cohorts(query: PageQuery) -> Result:
    """List cohorts, newest first."""
    page = here().store.list_cohorts(query.cursor, query.limit)
    return listed(Cohorts, [_told(cohort) for cohort in page.items], page)


@room.route_for(
    "GET",
    "/cohorts/<cohort_id>",
    access=needs("read"),
    answers={200: Answer("The cohort.", CohortTold)},
    problems=(404,),
)
def get_cohort(path: CohortPath) -> Result:
    """Get a cohort and how far it is."""
    return _told(_find(path.cohort_id))


def _find(cohort_id: str) -> Cohort:
    bind_contextvars(cohort=cohort_id)
    cohort = here().store.cohort(cohort_id)
    if cohort is None:
        raise ApiProblem(404, "There is no such cohort.")
    return cohort


def _told(cohort: Cohort) -> CohortTold:
    return CohortTold.model_validate(cohort_fields(cohort, here().store.cohort_progress(cohort.id)))


@room.route_for(
    "POST",
    "/cohorts/<cohort_id>/regrade",
    access=needs("manage"),
    answers={
        202: Answer(
            "Its graded submissions wait again.",
            CohortTold,
            headers=(("Location", "Address of the diff of verdicts."),),
        )
    },
    problems=(404, 409),
)
def regrade_cohort(path: CohortPath) -> Result:
    """Grade a cohort anew.

    `…/diff` then tells which verdicts changed. 409 for a cancelled cohort.
    """
    cohort = _find(path.cohort_id)
    count = here().store.regrade_cohort(cohort.id, actor=actor())
    log.info("cohort regraded", submissions=count)
    return _told(_find(cohort.id)), 202, {"Location": f"{here().base}/v1/cohorts/{cohort.id}/diff"}


@room.route_for(
    "GET",
    "/cohorts/<cohort_id>/diff",
    access=needs("read"),
    answers={200: Answer("A page of what changed.", CohortDiffs, headers=LINK)},
    problems=(404,),
)
def get_cohort_diff(path: CohortPath, query: PageQuery) -> Result:
    """Compare the newest reports with those before the regrade, newest submission first."""
    cohort = _find(path.cohort_id)
    changed, _ = here().store.cohort_changed(cohort.id)
    page = here().store.cohort_diff(cohort.id, query.cursor, query.limit)
    diffs = [diff_of(one) for one in page.items]
    return listed(CohortDiffs, diffs, page, cohort_id=cohort.id, state=cohort.state, changed=changed)


@room.route_for(
    "POST",
    "/cohorts/<cohort_id>/cancel",
    access=needs("manage"),
    answers={202: Answer("Cancelled.", CohortTold)},
    problems=(404, 409),
)
def cancel_cohort(path: CohortPath) -> Result:
    """Take out what waits or runs; what is graded stays.

    409 for a finished cohort.
    """
    _find(path.cohort_id)
    return _told(here().store.cancel_cohort(path.cohort_id, actor=actor())), 202


# --- exports ---------------------------------------------------------------------------


def _bugs(cohort: Cohort) -> tuple[Bug, ...]:
    challenge = here().challenges.get(cohort.challenge)
    return challenge.manifest.bugs if challenge else ()


def _file(content: Iterable[str] | Iterable[bytes], mimetype: str, name: str) -> Response:
    response = Response(content, content_type=f"{mimetype}; charset=utf-8" if mimetype == exports.CSV else mimetype)
    response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return response


@room.route_for(
    "GET",
    "/cohorts/<cohort_id>/export.csv",
    access=needs("read"),
    answers={200: Answer("One row for each submission.", media=(Media(exports.CSV),))},
    problems=(404,),
)
def export_csv(path: CohortPath) -> Result:
    """Export a cohort as CSV."""
    cohort = _find(path.cohort_id)
    rows = here().store.cohort_rows(cohort.id)
    return _file(exports.csv_lines(rows, _bugs(cohort)), exports.CSV, f"{cohort.id}.csv")


@room.route_for(
    "GET",
    "/cohorts/<cohort_id>/export.jsonl",
    access=needs("read"),
    answers={200: Answer("One line for each submission, with its report.", media=(Media(exports.LINES),))},
    problems=(404,),
)
def export_jsonl(path: CohortPath) -> Result:
    """Export a cohort as JSON lines."""
    service, cohort = here(), _find(path.cohort_id)
    rows = service.store.cohort_rows(cohort.id)
    return _file(exports.json_lines(rows, service.base), exports.LINES, f"{cohort.id}.jsonl")


@room.route_for(
    "GET",
    "/cohorts/<cohort_id>/export.xlsx",
    access=needs("read"),
    answers={200: Answer("A spreadsheet.", media=(Media(exports.XLSX, {"type": "string", "format": "binary"}),))},
    problems=(404,),
)
def export_xlsx(path: CohortPath) -> Result:
    """Export a cohort as a spreadsheet."""
    cohort = _find(path.cohort_id)
    file = exports.spreadsheet(here().store.cohort_rows(cohort.id), _bugs(cohort))
    return _file(exports.chunks(file), exports.XLSX, f"{cohort.id}.xlsx")

"""Routes of invitations: links for candidates, in a cohort or for an assessment, and what became of them."""

from __future__ import annotations

from structlog.contextvars import bind_contextvars

from services.api.models import (
    AssessmentPath,
    CohortPath,
    InvitationGiven,
    InvitationsGiven,
    InvitationsMade,
    InvitationTold,
    InvitationWithLink,
    Listed,
    PageQuery,
    invitation_fields,
)
from services.api.observe import log
from services.api.pages.invited import address
from services.api.paging import LINK, listed
from services.api.problems import ApiProblem
from services.api.routing import Answer, Result, Room, needs
from services.api.service import actor, here, key
from services.store import Candidate, Cohort, NewInvitations

room = Room("invitations", "Invitations")
_DAY_S = 86_400


class Invitations(Listed[InvitationTold]):
    """One page of invitations, newest first."""


@room.route_for(
    "POST",
    "/cohorts/<cohort_id>/invitations",
    access=needs("manage"),
    answers={201: Answer("Made, with the links, which are told this once.", InvitationsMade)},
    problems=(404, 409, 415),
)
def create_invitations(path: CohortPath, body: InvitationsGiven) -> Result:
    """Invite candidates into a cohort.

    Each gets a link of their own: task, program, checks, handing in. 409 for a cancelled cohort.
    """
    service, cohort = here(), _find(path.cohort_id)
    most = service.settings.invitation_batch
    if len(body.candidates) > most:
        raise ApiProblem(422, f"At most {most:,} candidates are invited at once.", "too-many")
    candidates = [one.record() or {} for one in body.candidates]
    return InvitationsMade(data=_made(_new(cohort.challenge, candidates, body, cohort_id=cohort.id))), 201


@room.route_for(
    "POST",
    "/assessments/<assessment_id>/invitation",
    access=needs("manage"),
    answers={201: Answer("Made, with the link, which is told this once.", InvitationWithLink)},
    problems=(404, 409, 415),
)
def invite_assessed(path: AssessmentPath, body: InvitationGiven) -> Result:
    """Invite whom an applicant tracking system wants assessed.

    What comes in by the link is the assessment's submission, so its result goes back there. An earlier link of the
    same assessment ends. 409: it was cancelled, or its submission is there.
    """
    bind_contextvars(assessment=path.assessment_id)
    assessment = here().store.assessment(path.assessment_id)
    if assessment is None:
        raise ApiProblem(404, "There is no such assessment.")
    candidates: list[Candidate] = [assessment.candidate or {}]
    return _made(_new(assessment.challenge, candidates, body, assessment_id=assessment.id))[0], 201


def _new(
    challenge: str,
    candidates: list[Candidate],
    body: InvitationGiven,
    *,
    cohort_id: str | None = None,
    assessment_id: str | None = None,
) -> NewInvitations:
    view = here().require_challenge(challenge).manifest.candidate
    minutes = view.time_limit_minutes if body.time_limit_minutes is None else body.time_limit_minutes
    return NewInvitations(
        challenge=challenge,
        candidates=candidates,
        author=body.contact or key().name,
        valid_s=min(body.valid_days * _DAY_S, here().settings.invitation_max_s),
        checks_max=view.checks,
        cohort_id=cohort_id,
        time_limit_s=minutes * 60 if minutes else None,
        assessment_id=assessment_id,
    )


def _made(new: NewInvitations) -> list[InvitationWithLink]:
    service = here()
    made = service.store.create_invitations(new, actor=actor())
    log.info("candidates invited", invitations=len(made))
    now_us = service.store.now_us()
    return [
        InvitationWithLink.model_validate({**invitation_fields(one, now_us), "link": address(token, service.base)})
        for one, token in made
    ]


@room.route_for(
    "GET",
    "/cohorts/<cohort_id>/invitations",
    access=needs("read"),
    answers={200: Answer("A page.", Invitations, headers=LINK)},
    problems=(404,),
)
def list_invitations(path: CohortPath, query: PageQuery) -> Result:
    """List the invitations of a cohort, newest first.

    Without their links, which nobody knows any more but their candidates.
    """
    store = here().store
    page = store.list_invitations(_find(path.cohort_id).id, query.cursor, query.limit)
    now_us = store.now_us()
    data = [InvitationTold.model_validate(invitation_fields(one, now_us)) for one in page.items]
    return listed(Invitations, data, page)


def _find(cohort_id: str) -> Cohort:
    bind_contextvars(cohort=cohort_id)
    cohort = here().store.cohort(cohort_id)
    if cohort is None:
        raise ApiProblem(404, "There is no such cohort.")
    return cohort

"""Routes of invitations: links for candidates in a cohort, and what became of them."""

from __future__ import annotations

from structlog.contextvars import bind_contextvars

from services.api.models import (
    CohortPath,
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
from services.store import Cohort, NewInvitations

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
    settings, view = service.settings, service.require_challenge(cohort.challenge).manifest.candidate
    most = settings.invitation_batch
    if len(body.candidates) > most:
        raise ApiProblem(422, f"At most {most:,} candidates are invited at once.", "too-many")
    minutes = view.time_limit_minutes if body.time_limit_minutes is None else body.time_limit_minutes
    new = NewInvitations(
        challenge=cohort.challenge,
        candidates=[one.record() or {} for one in body.candidates],
        author=body.contact or key().name,
        valid_s=min(body.valid_days * _DAY_S, settings.invitation_max_s),
        checks_max=view.checks,
        cohort_id=cohort.id,
        time_limit_s=minutes * 60 if minutes else None,
    )
    made = service.store.create_invitations(new, actor=actor())
    log.info("candidates invited", invitations=len(made))
    now_us = service.store.now_us()
    told = [
        InvitationWithLink.model_validate({**invitation_fields(one, now_us), "link": address(token, service.base)})
        for one, token in made
    ]
    return InvitationsMade(data=told), 201


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

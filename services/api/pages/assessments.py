"""Whom applicant tracking systems want assessed: who waits for a link, and making one."""

from __future__ import annotations

from flask import render_template, request

from services.api.pages import gate
from services.api.pages.desk import RECRUITERS, Desk, Entry
from services.api.pages.invitations import DAY_S, STATES, default_days, most_days, shown_name, whole
from services.api.pages.invited import address
from services.api.pages.listing import next_link
from services.api.problems import ApiProblem
from services.api.service import here
from services.store import Assessment, Candidate, NewInvitations

desk = Desk(
    "assessment_pages",
    __name__,
    navigation=[Entry("Assessments", "assessment_pages.index", RECRUITERS, covers=("assessment_pages.",))],
)
_PER_PAGE = 50


@desk.page("GET", "/assessments", roles=RECRUITERS)
def index() -> str:
    """Whom to invite, who was, and what came of it."""
    return _page()


def _page(made: tuple[Assessment, str] | None = None) -> str:
    store, base = here().store, here().base or request.host_url.rstrip("/")
    page = store.list_assessments(None, request.args.get("cursor"), _PER_PAGE)
    return render_template(
        "assay/assessments.html",
        rows=page.items,
        links=store.invitations_to([one.id for one in page.items]),
        vendors={one.id: one.slug for one in store.list_integrations()},
        titles={slug: challenge.manifest.title for slug, challenge in here().challenges.items()},
        older_link=next_link(request.path, request.args, page.next_cursor),
        now_us=store.now_us(),
        name_of=_name_of,
        states=STATES,
        made=made and (made[0], address(made[1], base)),
        days=default_days(),
        most_days=most_days(),
    )


def _name_of(one: Assessment) -> str:
    """The name to show, as blind as the submission's own page."""
    return shown_name(one.candidate, one.submission_id or one.id)


@desk.page("POST", "/assessments/<assessment_id>/invitation", roles=RECRUITERS)
def invite(assessment_id: str) -> str:
    """Make a link, shown once; an earlier one of the same assessment ends."""
    user, assessment = gate.person(), here().store.assessment(assessment_id)
    if assessment is None:
        raise ApiProblem(404, "There is no such assessment.")
    view = here().require_challenge(assessment.challenge).manifest.candidate
    days = whole(request.form.get("days", ""), most_days())
    if not days:
        raise ApiProblem(422, f"A link lives for 1 to {most_days()} days.")
    candidates: list[Candidate] = [assessment.candidate or {}]
    new = NewInvitations(
        challenge=assessment.challenge,
        candidates=candidates,
        author=user.name,
        valid_s=min(days * DAY_S, here().settings.invitation_max_s),
        checks_max=view.checks,
        time_limit_s=view.time_limit_minutes * 60 if view.time_limit_minutes else None,
        assessment_id=assessment.id,
    )
    ((_, token),) = here().store.create_invitations(new, actor=user.id)
    return _page(made=(assessment, token))

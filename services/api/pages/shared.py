"""Reports for whoever was given a link: to read only, until the link expires or is revoked."""

from __future__ import annotations

from flask import Response, g, render_template

from services.api.pages.desk import Desk
from services.api.pages.submissions import facts, find, pdf_response
from services.api.problems import ApiProblem
from services.api.service import here
from services.store import ShareLink, Submission

desk = Desk("shared", __name__)
_ENDED = (
    "This link does not show anything: it expired, was revoked, or is not complete. Ask whoever sent it for a new one."
)


@desk.page("GET", "/shared/<token>", roles=None)
def report(token: str) -> str:
    """The report behind a link."""
    link, submission = _open(token)
    return render_template("assay/shared.html", **facts(submission), link=link, token=token)


@desk.page("GET", "/shared/<token>/report.pdf", roles=None)
def report_pdf(token: str) -> Response:
    """The same as a file."""
    _, submission = _open(token)
    return pdf_response(submission, facts(submission), None)


def _open(token: str) -> tuple[ShareLink, Submission]:
    link = here().store.open_share(token) if len(token) <= 100 else None
    if link is None:
        raise ApiProblem(404, _ENDED)
    submission = find(link.submission_id)
    if submission.state == "erased" or here().store.report(submission.id) is None:
        raise ApiProblem(404, _ENDED)
    g.force_blind = link.blind
    return link, submission

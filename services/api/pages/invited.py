"""Pages of an invited candidate, who has a link and no account: brief, problem, checks, handing in, receipt.

What a check tells is in its row; what is shown once the submission is graded is the challenge's setting. Nothing
else of a report is read here.
"""

from __future__ import annotations

from typing import Any

from flask import Response, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from grading.challenge import Challenge
from grading.public import PublicPart
from services.api import uploads
from services.api.access import require_room
from services.api.observe import log
from services.api.pages import charts
from services.api.pages.brief import as_html
from services.api.pages.desk import Desk
from services.api.pages.text import duration, sentence
from services.api.problems import ApiProblem
from services.api.service import here
from services.render import inert
from services.store import UNDER_WAY, Check, Conflict, Invitation, Submission
from services.store.events import iso

desk = Desk("invited", __name__)
_LONGEST_TOKEN = 100
_ABOUT_CHECKS = {
    "loads": "whether the program loads",
    "trains": "whether it trains to its end",
    "accuracy": "the accuracy that it reaches",
    "output": "the end of what it prints",
}
Page = str | AnyResponse | tuple[str, int]


def address(token: str, base: str) -> str:
    """The link to give to a candidate."""
    return f"{base}{url_for('invited.take', token=token)}"


@desk.page("GET", "/take/<token>", roles=None)
def take(token: str) -> Page:
    """All that the candidate has: before the start, at work, or after handing in."""
    return _shown(token)


def _shown(token: str, wrong: str = "", status: int = 200) -> tuple[str, int]:
    invitation = _find(token)
    now_us = here().store.now_us()
    if invitation is None or not invitation.is_open(now_us):
        page = render_template("assay/take_ended.html", invitation=invitation, now_us=now_us)
        return page, 404 if invitation is None else 410
    facts = _facts(token, invitation, wrong)
    if invitation.submission_id is not None:
        return render_template("assay/take_receipt.html", **facts, **_receipt(invitation)), status
    if invitation.time_limit_s is not None and invitation.started_us is None:
        return render_template("assay/take_start.html", **facts), status
    brief = as_html(_challenge(invitation).text("brief.md"))
    return render_template("assay/take.html", **facts, **_tried(invitation), brief=brief), status


def _find(token: str) -> Invitation | None:
    return here().store.open_invitation(token) if len(token) <= _LONGEST_TOKEN else None


def _open(token: str) -> Invitation:
    """The invitation of a link that goes on. Raises ApiProblem, after which `take` says why it does not."""
    invitation = _find(token)
    if invitation is None or not invitation.is_open(here().store.now_us()):
        raise ApiProblem(410, "This link has ended. Open it again to read why and whom to ask.")
    return invitation


def _challenge(invitation: Invitation) -> Challenge:
    challenge = here().challenges.get(invitation.challenge)
    if challenge is None:
        raise ApiProblem(404, f"This challenge is not installed any more. Ask {inert(invitation.author, 80)}.")
    return challenge


def _facts(token: str, invitation: Invitation, wrong: str = "") -> dict[str, Any]:
    """What every page of a link that goes on shows."""
    now_us = here().store.now_us()
    manifest = _challenge(invitation).manifest
    ends_us = min(invitation.deadline_us or invitation.expires_us, invitation.expires_us)
    return {
        "token": token,
        "invitation": invitation,
        "manifest": manifest,
        "check_shows": [words for key, words in _ABOUT_CHECKS.items() if key in manifest.candidate.check_shows],
        "now_us": now_us,
        "ends_us": ends_us,
        "left_s": max(0, ends_us - now_us) // 1_000_000,
        "late_s": invitation.late_s(now_us),
        "most_bytes": here().settings.max_submission_bytes,
        "wrong": wrong,
    }


def _tried(invitation: Invitation) -> dict[str, Any]:
    """The checks so far, and whether there may be another."""
    store, checks = here().store, here().store.checks(invitation.id)
    results = {one.id: PublicPart.model_validate(one.result) for one in checks if one.result is not None}
    epochs = _challenge(invitation).manifest.goal.epochs
    waiting = next((one for one in checks if one.state in UNDER_WAY), None)
    left = max(0, invitation.checks_max - invitation.checks_used)
    return {
        "checks": checks,
        "results": results,
        "curves": {
            one.id: _curve(number, results[one.id], epochs)
            for number, one in enumerate(reversed(checks), start=1)
            if one.id in results and results[one.id].accuracy_by_epoch
        },
        "reached": {key: _reached(told) for key, told in results.items()},
        "waiting": waiting,
        "place": store.place_in_queue(waiting.id) if waiting is not None else None,
        "checks_left": left,
        "may_check": left > 0
        and waiting is None
        and invitation.late_s(store.now_us()) == 0
        and invitation.submission_id is None,
    }


def _curve(number: int, told: PublicPart, epochs: int) -> charts.Curves:
    values = told.accuracy_by_epoch or ()
    title, series = f"Accuracy in check {number}", {"measured": values}
    longest = max(epochs, len(values))
    return charts.curves(title, series, epochs=longest, top=1.0, as_share=True, goal=told.threshold)


def _reached(told: PublicPart) -> int | None:
    """The first epoch above the goal's threshold."""
    values, threshold = told.accuracy_by_epoch or (), told.threshold
    return next((epoch for epoch, value in enumerate(values, 1) if threshold is not None and value > threshold), None)


@desk.page("GET", "/take/<token>/checks", roles=None)
def checks(token: str) -> str:
    """The checks: a part of the page that renews itself while one is under way."""
    invitation = _open(token)
    return render_template("assay/take_checks.html", **_facts(token, invitation), **_tried(invitation))


@desk.page("GET", "/take/<token>/problem", roles=None)
def problem(token: str) -> Response:
    """The program to mend."""
    invitation = _open(token)
    challenge = _challenge(invitation)
    if invitation.started_us is None:
        if invitation.time_limit_s is not None:
            raise ApiProblem(409, "Start first: the program is there once your time runs.")
        here().store.start_invitation(invitation.id)
    headers = {"Content-Disposition": f'attachment; filename="{challenge.manifest.editable_file}"'}
    return Response(challenge.text("problem.py"), content_type="text/x-python; charset=utf-8", headers=headers)


@desk.page("POST", "/take/<token>/start", roles=None)
def start(token: str) -> Page:
    """Begin: the clock runs from here."""
    try:
        here().store.start_invitation(_open(token).id)
    except Conflict as conflict:
        return _shown(token, sentence(conflict), 409)
    return redirect(url_for("invited.take", token=token), 303)


@desk.page("POST", "/take/<token>/check", roles=None, size="submission")
def check(token: str) -> Page:
    """Try a program out."""
    invitation = _open(token)
    try:
        program = uploads.chosen_program()
        require_room()
        made = here().store.create_check(invitation.id, program.file_name, program.source)
    except ApiProblem as trouble:
        return _shown(token, trouble.detail, trouble.status)
    except Conflict as conflict:
        return _shown(token, sentence(conflict), 409)
    log.info("check taken", invitation=invitation.id, check=made.id, bytes=len(program.source))
    return redirect(f"{url_for('invited.take', token=token)}#checks", 303)


@desk.page("GET", "/take/<token>/hand-in", roles=None)
def confirm(token: str) -> Page:
    """Ask whether a file that was checked is the one to hand in."""
    invitation = _open(token)
    chosen = _checked(invitation, request.args.get("check", ""))
    if invitation.submission_id is not None:
        return redirect(url_for("invited.take", token=token))
    return render_template("assay/take_confirm.html", **_facts(token, invitation), chosen=chosen)


def _checked(invitation: Invitation, check_id: str) -> Check:
    found = next((one for one in here().store.checks(invitation.id) if one.id == check_id), None)
    if found is None:
        raise ApiProblem(404, "That is none of your checks.")
    return found


@desk.page("POST", "/take/<token>/hand-in", roles=None, size="submission")
def hand_in(token: str) -> Page:
    """Take the candidate's one submission: a file that was checked, or another."""
    invitation = _open(token)
    try:
        if not request.form.get("sure"):
            raise ApiProblem(422, "Tick that this is the file to hand in; you hand in once.")
        name, source = _chosen(invitation)
        made = here().store.hand_in(invitation.id, name, source)
    except ApiProblem as trouble:
        return _shown(token, trouble.detail, trouble.status)
    except Conflict as conflict:
        return _shown(token, sentence(conflict), 409)
    log.info("handed in", invitation=invitation.id, submission=made.id, bytes=len(source))
    return redirect(url_for("invited.take", token=token), 303)


def _chosen(invitation: Invitation) -> tuple[str, bytes]:
    if check_id := request.form.get("check"):
        source = here().store.check_source(invitation.id, check_id)
        if source is None:
            raise ApiProblem(404, "That is none of your checks.")
        return _checked(invitation, check_id).file_name, source
    program = uploads.chosen_program()
    return program.file_name, program.source


# --- after handing in ----------------------------------------------------------------------


def _receipt(invitation: Invitation) -> dict[str, Any]:
    submission = here().store.submission(invitation.submission_id or "")
    if submission is None:
        raise ApiProblem(404, "What was handed in is not there any more.")
    shows = _challenge(invitation).manifest.candidate.result
    return {"submission": submission, "shows": shows, "result": _result(submission, shows)}


def _result(submission: Submission, shows: str) -> dict[str, Any] | None:
    """What of the report the challenge shows; None where that is nothing, or nothing yet."""
    if shows == "receipt" or submission.state not in ("graded", "invalid"):
        return None
    report = here().store.report(submission.id)
    if report is None:
        return None
    rating = report.get("rating") or {}
    told = {"fixed": rating.get("fixed"), "total": rating.get("total"), "goal": report["goal"]}
    told["invalid_reason"] = report.get("invalid_reason")
    if shows == "verdicts":
        told["bugs"] = [{name: bug[name] for name in ("number", "title", "verdict")} for bug in report["bugs"]]
    return told


@desk.page("GET", "/take/<token>/receipt.txt", roles=None)
def receipt(token: str) -> Response:
    """The receipt, to keep."""
    invitation = _open(token)
    if invitation.submission_id is None or invitation.handed_in_us is None:
        raise ApiProblem(404, "Nothing was handed in yet.")
    submission: Submission = _receipt(invitation)["submission"]
    late_s = invitation.late_s(invitation.handed_in_us)
    lines = {
        "Receipt number": submission.id,
        "Challenge": f"{_challenge(invitation).manifest.title} ({submission.challenge})",
        "File": inert(submission.file_name, 120),
        "Size": f"{submission.source_bytes:,} bytes",
        "SHA-256": submission.source_sha256,
        "Handed in": f"{iso(invitation.handed_in_us)} (UTC)",
        "In time": f"no, late by {duration(late_s)}" if late_s else "yes",
    }
    text = "Assay: receipt\n\n" + "".join(f"{name:<16}{value}\n" for name, value in lines.items())
    headers = {"Content-Disposition": f'attachment; filename="receipt-{submission.id}.txt"'}
    return Response(text, content_type="text/plain; charset=utf-8", headers=headers)

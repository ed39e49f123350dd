"""One submission: its report, what changed in the program, and what people find, write and decide about it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

from flask import Response, current_app, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from grading.challenge import Manifest
from services.api.pages import cards, charts, gate, pdf, review
from services.api.pages import changes as differences
from services.api.pages.cohorts import manifest_of
from services.api.pages.desk import READERS, RECRUITERS, Desk, desks
from services.api.pages.text import sentence, which, who
from services.api.problems import ApiProblem
from services.api.service import here
from services.store import DECISIONS, RULINGS, Submission, SubmissionFilters, User

desk = Desk("report_pages", __name__)
_SHARE_DAYS = (1, 7, 14, 30)
_DAY_S = 86_400.0
_MOST_ATTEMPTS = 20


def find(submission_id: str) -> Submission:
    """The submission. Raises ApiProblem (404)."""
    submission = here().store.submission(submission_id)
    if submission is None:
        raise ApiProblem(404, "There is no such submission.")
    return submission


def facts(submission: Submission) -> dict[str, Any]:
    """What a report's page shows, whoever reads it."""
    store = here().store
    manifest = manifest_of(submission.challenge)
    report = store.report(submission.id)
    return {
        "submission": submission,
        "manifest": manifest,
        "report": report,
        "stale": report is not None and submission.state in ("queued", "running"),
        "curves": _curves(report, manifest) if report else [],
        "symptoms": {bug.id: bug for bug in manifest.bugs} if manifest else {},
        "who": who,
        "which": which,
        "standing": _standing(submission),
    }


def _standing(submission: Submission) -> int | None:
    if submission.cohort_id is None or submission.state != "graded" or submission.fixed is None:
        return None
    return review.ahead_of(*here().store.cohort_standing(submission.cohort_id, submission.fixed))


def _curves(report: Mapping[str, Any], manifest: Manifest | None) -> list[charts.Curves]:
    """The measured accuracy, and what the program printed, as small multiples: accuracies on one scale."""
    goal: Mapping[str, Any] = report["goal"]
    measured = goal.get("accuracy_by_epoch") or []
    printed = charts.printed(report.get("output_tail") or "")
    told = max(map(len, printed.values()), default=0)
    epochs = max(len(measured), told, manifest.goal.epochs if manifest else 1)
    made = []
    if measured:
        title = "Accuracy on unseen data, measured"
        series = {"measured": measured}
        made.append(charts.curves(title, series, epochs=epochs, top=1.0, as_share=True, goal=goal["threshold"]))
    accuracies = {name: printed[f"{name} acc"] for name in ("train", "val") if f"{name} acc" in printed}
    if accuracies:
        made.append(charts.curves("Accuracy, as printed", accuracies, epochs=epochs, top=1.0, as_share=True))
    losses = {name: printed[f"{name} loss"] for name in ("train", "val") if f"{name} loss" in printed}
    if losses:
        # One wild epoch must not press the rest flat: the scale ends a little above the first value.
        top = max(1.5, *(min(values[0], 10.0) for values in losses.values()))
        made.append(charts.curves("Loss, as printed", losses, epochs=epochs, top=top, as_share=False))
    return made


@desk.page("GET", "/submissions/<submission_id>", roles=READERS)
def report(submission_id: str) -> str:
    """The report and all that belongs to it."""
    return _report_page(find(submission_id))


def _report_page(
    submission: Submission, wrong: str = "", link: str = "", typed: Mapping[str, str] = MappingProxyType({})
) -> str:
    store, role = here().store, gate.person().role
    generations = store.reports(submission.id)
    cohort = store.cohort(submission.cohort_id) if submission.cohort_id else None
    beside = [
        (entry.label, url_for(entry.endpoint, submission_id=submission.id))
        for one in desks(current_app)
        for entry in one.beside_submission
        if role in entry.roles
    ]
    return render_template(
        "assay/report.html",
        **facts(submission),
        cohort=cohort,
        place=store.place_in_queue(submission.id) if submission.state == "queued" else None,
        attempts=_attempts(submission),
        invitation=store.invitation_of(submission.id),
        generations=generations,
        regraded=_regraded(generations),
        events=store.events_after(submission.id, 0, 200),
        notes=store.notes(submission.id),
        decisions=store.decisions(submission.id),
        rulings=store.rulings(submission.id),
        scorecards=cards.readable(submission.id),
        guide=cards.guide_of(submission.challenge),
        shares=store.shares(submission.id) if role in RECRUITERS else [],
        now_us=store.now_us(),
        share_days=[days for days in _SHARE_DAYS if days * _DAY_S <= here().settings.share_link_max_s],
        decision_kinds=DECISIONS,
        beside=beside,
        may_act=role in RECRUITERS,
        wrong=wrong,
        typed=typed,
        endpoint=request.endpoint,
        made_link=link,
    )


def _attempts(submission: Submission) -> list[Submission]:
    """All that this candidate handed in for this challenge, oldest first, as far as the clients named them.

    One client's number for a candidate says nothing of another client's.
    """
    name = (submission.candidate or {}).get("external_id")
    if not name:
        return [submission]
    filters = SubmissionFilters(challenge=submission.challenge, external_id=name)
    found = here().store.list_submissions(filters, None, _MOST_ATTEMPTS).items
    client = (submission.integration_id, submission.api_key_id)
    return [one for one in found[::-1] if (one.integration_id, one.api_key_id) == client or one.id == submission.id]


def _regraded(generations: list[tuple[int, dict[str, Any]]]) -> list[tuple[dict[str, Any], str | None]] | None:
    """The bugs that read otherwise than in the report before, with what it said; None with one report only."""
    if len(generations) < 2:
        return None
    before = {bug["id"]: bug["verdict"] for bug in generations[-2][1].get("bugs", ())}
    now = generations[-1][1].get("bugs", ())
    return [(bug, before.get(bug["id"])) for bug in now if before.get(bug["id"]) != bug["verdict"]]


@desk.page("GET", "/submissions/<submission_id>/changes", roles=READERS)
def changes(submission_id: str) -> str:
    """The program beside the problem, or beside another attempt of the same candidate."""
    submission = find(submission_id)
    challenge = here().challenges.get(submission.challenge)
    source = here().store.source(submission.id)
    if source is None or challenge is None:
        raise ApiProblem(404, "The program was erased, or its challenge is not installed any more.")
    other = request.args.get("from", "")
    earlier = next((one for one in _attempts(submission) if one.id == other and one.id != submission.id), None)
    if other and earlier is None:
        raise ApiProblem(404, "That is no other attempt of this candidate.")
    base = here().store.source(earlier.id) if earlier else None
    left = _decoded(base) if base is not None else challenge.text("problem.py")
    found = differences.side_by_side(left, _decoded(source), None if earlier else challenge)
    return render_template(
        "assay/changes.html",
        **facts(submission),
        changes=found,
        earlier=earlier,
        attempts=_attempts(submission),
        cohort=None,
    )


def _decoded(source: bytes) -> str:
    return source.decode("utf-8", "replace")


@desk.page("GET", "/submissions/<submission_id>/program", roles=READERS)
def program(submission_id: str) -> Response:
    """The program as it was handed in, to keep."""
    submission = find(submission_id)
    source = here().store.source(submission.id)
    if source is None:
        raise ApiProblem(404, "The program was erased.")
    name = f"{submission.id}.py" if gate.blind() else submission.file_name
    headers = {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(name, safe='')}"}
    return Response(source, content_type="text/plain; charset=utf-8", headers=headers)


@desk.page("GET", "/submissions/<submission_id>/report.pdf", roles=READERS)
def report_pdf(submission_id: str) -> Response:
    """The report as a file to hand on."""
    submission = find(submission_id)
    shown = facts(submission)
    if shown["report"] is None:
        raise ApiProblem(404, "There is no report yet.")
    decisions = here().store.decisions(submission.id)
    return pdf_response(submission, shown, decisions[0] if decisions else None)


def pdf_response(submission: Submission, shown: dict[str, Any], decision: Any) -> Response:
    """The PDF of a report."""
    fonts = here().settings.pdf_font_paths()
    content = pdf.report_pdf(submission, shown["report"], shown["manifest"], decision, gate.blind(), fonts)
    headers = {"Content-Disposition": f'attachment; filename="{submission.id}.pdf"'}
    return Response(content, mimetype="application/pdf", headers=headers)


# --- what people do ------------------------------------------------------------------------


def _author(user: User) -> str:
    return user.name


def _back(submission_id: str, said: str, place: str = "") -> AnyResponse:
    address = url_for("report_pages.report", submission_id=submission_id, said=said)
    return redirect(f"{address}#{place}" if place else address, 303)


@desk.page("POST", "/submissions/<submission_id>/decision", roles=RECRUITERS)
def decide(submission_id: str) -> AnyResponse | tuple[str, int]:
    """Record a decision with its reason."""
    user, kind = gate.person(), request.form.get("kind", "")
    try:
        known = next((one for one in DECISIONS if one == kind), None)
        if known is None:
            raise ValueError("choose one of the three decisions")
        here().store.decide(submission_id, _author(user), known, request.form.get("reason", ""), actor=user.id)
    except ValueError as error:
        return _refused(submission_id, error)
    return _back(submission_id, "decided")


@desk.page("POST", "/submissions/<submission_id>/notes", roles=READERS)
def note(submission_id: str) -> AnyResponse | tuple[str, int]:
    """Add a note."""
    user = gate.person()
    try:
        here().store.add_note(submission_id, _author(user), request.form.get("text", ""), actor=user.id)
    except ValueError as error:
        return _refused(submission_id, error)
    return _back(submission_id, "noted", "notes")


@desk.page("POST", "/submissions/<submission_id>/ruling", roles=RECRUITERS)
def rule(submission_id: str) -> AnyResponse | tuple[str, int]:
    """Confirm or dismiss a suspicion, with a reason."""
    user, kind = gate.person(), request.form.get("kind", "")
    try:
        known = next((one for one in RULINGS if one == kind), None)
        if known is None:
            raise ValueError("say whether you confirm or dismiss it")
        here().store.rule(submission_id, _author(user), known, request.form.get("reason", ""), actor=user.id)
    except ValueError as error:
        return _refused(submission_id, error)
    return _back(submission_id, "ruled", "integrity")


def _refused(submission_id: str, error: ValueError) -> tuple[str, int]:
    """The page again, with the reason and what was typed still in its field."""
    return _report_page(find(submission_id), wrong=sentence(error), typed=request.form), 422


@desk.page("POST", "/submissions/<submission_id>/regrade", roles=RECRUITERS)
def regrade(submission_id: str) -> AnyResponse:
    """Grade it anew."""
    here().store.regrade(submission_id, actor=gate.person().id)
    return _back(submission_id, "regraded")


@desk.page("POST", "/submissions/<submission_id>/requeue", roles=RECRUITERS)
def requeue(submission_id: str) -> AnyResponse:
    """Give a dead one new attempts."""
    here().store.requeue(submission_id, actor=gate.person().id)
    back = request.form.get("back")
    return redirect(gate.local_path(back), 303) if back else _back(submission_id, "requeued")


@desk.page("POST", "/submissions/<submission_id>/erase", roles=RECRUITERS)
def erase(submission_id: str) -> AnyResponse | tuple[str, int]:
    """Erase the candidate's data, once the word is typed."""
    submission = find(submission_id)
    if request.form.get("sure", "").strip().casefold() != "erase":
        return _refused(submission_id, ValueError("type the word erase to show that you mean it; nothing was erased"))
    here().store.erase(submission.id, actor=gate.person().id)
    return _back(submission.id, "erased")


@desk.page("POST", "/submissions/<submission_id>/share", roles=RECRUITERS)
def share(submission_id: str) -> str | tuple[str, int]:
    """Make a link that shows the report to whoever has it; it is shown once."""
    user, given = gate.person(), request.form.get("days", "")
    days = next((one for one in _SHARE_DAYS if str(one) == given), 7)
    valid_s = min(days * _DAY_S, here().settings.share_link_max_s)
    hidden = bool(request.form.get("blind"))
    _, token = here().store.create_share(submission_id, _author(user), valid_s, blind=hidden, actor=user.id)
    base = here().base or request.host_url.rstrip("/")
    return _report_page(find(submission_id), link=f"{base}{url_for('shared.report', token=token)}")


@desk.page("POST", "/submissions/<submission_id>/share/<link_id>/revoke", roles=RECRUITERS)
def unshare(submission_id: str, link_id: str) -> AnyResponse:
    """End a link."""
    here().store.revoke_share(submission_id, link_id, actor=gate.person().id)
    return _back(submission_id, "unshared", "share")

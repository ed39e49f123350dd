"""What was handed in: the list of all submissions, and uploading more."""

from __future__ import annotations

from flask import redirect, render_template, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from services.api import uploads
from services.api.access import require_room
from services.api.models import RefusedFile
from services.api.observe import log
from services.api.pages import gate
from services.api.pages.cohorts import find as find_cohort
from services.api.pages.desk import READERS, RECRUITERS, Desk, Entry
from services.api.pages.listing import next_link
from services.api.pages.text import which, who
from services.api.problems import ApiProblem
from services.api.service import here
from services.store import NewSubmission, StoreUnavailable, SubmissionFilters, SubmissionState

desk = Desk(
    "handed",
    __name__,
    navigation=[
        Entry("Submissions", "handed.index", READERS, covers=("report_pages.",)),
        Entry("Upload", "handed.upload", RECRUITERS, covers=("handed.upload", "handed.take")),
    ],
)
_PER_PAGE = 50
_COHORTS_OFFERED = 30
_LONGEST_NAME = 200
_STATES: tuple[SubmissionState, ...] = ("queued", "running", "graded", "invalid", "dead", "cancelled", "erased")


@desk.page("GET", "/submissions", roles=READERS)
def index() -> str:
    """All submissions, newest first."""
    chosen = next((state for state in _STATES if state == request.args.get("state")), None)
    filters = SubmissionFilters(states=(chosen,) if chosen else ())
    page = here().store.list_submissions(filters, request.args.get("cursor"), _PER_PAGE)
    return render_template(
        "assay/submissions.html",
        rows=page.items,
        states=_STATES,
        chosen=chosen,
        who=who,
        which=which,
        older_link=next_link(request.path, request.args, page.next_cursor),
    )


@desk.page("GET", "/upload", roles=RECRUITERS)
def upload() -> str:
    """Where programs are handed in."""
    return _form(request.args.get("cohort", ""))


def _form(cohort_id: str = "", wrong: str = "", name: str = "") -> str:
    cohorts = [one for one in here().store.list_cohorts(None, _COHORTS_OFFERED).items if one.state != "cancelled"]
    if cohort_id and all(one.id != cohort_id for one in cohorts):
        known = here().store.cohort(cohort_id)
        cohorts += [known] if known else []
    settings = here().settings
    return render_template(
        "assay/upload.html",
        challenges=[challenge.manifest for challenge in here().challenges.values()],
        cohorts=cohorts,
        chosen=cohort_id,
        wrong=wrong,
        name=name,
        most_files=settings.max_batch_files,
        most_bytes=settings.max_submission_bytes,
    )


@desk.page("POST", "/upload", roles=RECRUITERS, size="cohort")
def take() -> AnyResponse | tuple[str, int] | str:
    """Take programs in: into a cohort, or one by one."""
    chosen, name = request.form.get("cohort", "new"), request.form.get("name", "").strip()[:_LONGEST_NAME]
    try:
        require_room()
        cohort = find_cohort(chosen) if chosen not in ("new", "none") else None
        if chosen == "new" and not name:
            raise ApiProblem(422, "Give the new cohort a name.")
        challenge = cohort.challenge if cohort else request.form.get("challenge", "")
        here().require_challenge(challenge)
        if not any(file.filename for file in request.files.getlist("files")):
            raise ApiProblem(422, "Choose at least one file: programs (.py) or a zip of them.")
        batch = uploads.chosen_files()
        require_room(len(batch.programs))
    except ApiProblem as problem:
        return _form("" if chosen in ("new", "none") else chosen, problem.detail, name), problem.status
    if not batch.programs:
        return _told(batch.refused, "", 0), 422
    who_did = gate.person().id
    made = [
        NewSubmission(challenge, program.file_name, program.source, candidate=program.candidate)
        for program in batch.programs
    ]
    store = here().store
    if chosen == "none":
        ids: list[str] = []
        try:
            for one in made:
                ids.append(store.create_submission(one, actor=who_did).id)
        except StoreUnavailable:
            if not ids:
                raise
            late = "not taken, because the database stopped answering; upload it again"
            batch.refused += [RefusedFile(name=one.file_name, reason=late) for one in made[len(ids) :]]
        address = url_for("report_pages.report", submission_id=ids[0]) if len(ids) == 1 else url_for("handed.index")
    else:
        new = store.new_cohort(name, challenge) if cohort is None else None
        store.create_submissions(new or chosen, made, actor=who_did)
        address = url_for("cohort_pages.cohort_page", cohort_id=new.id if new else chosen)
    taken = len(ids) if chosen == "none" else len(made)
    log.info("uploaded", accepted=taken, refused=len(batch.refused))
    if batch.refused:
        return _told(batch.refused, address, taken)
    return redirect(address, 303)


def _told(refused: list[RefusedFile], address: str, taken: int) -> str:
    return render_template("assay/uploaded.html", refused=refused, address=address, taken=taken)

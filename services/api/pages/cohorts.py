"""Cohorts: the list, one with its table and figures, comparing, exporting, regrading."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import Response, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from grading.challenge import Manifest
from services.api import cohorts as files
from services.api.models import CohortPath
from services.api.pages import charts, gate, review
from services.api.pages.desk import READERS, RECRUITERS, Desk, Entry
from services.api.pages.listing import Paging, Sorting, next_link
from services.api.pages.text import who
from services.api.problems import ApiProblem
from services.api.service import here
from services.store import Cohort, LineChoice, SubmissionState, Tally

desk = Desk(
    "cohort_pages",
    __name__,
    navigation=[Entry("Cohorts", "cohort_pages.index", READERS, covers=("cohort_pages.", "invitation_pages."))],
)
_PER_PAGE = 50
_COHORTS_PER_PAGE = 30
_MOST_COMPARED = 4
_STRONGEST = 3
_SECOND_LOOKS = 5


@desk.page("GET", "/", roles=READERS)
def first() -> AnyResponse:
    """The first page: the cohorts."""
    return redirect(url_for("cohort_pages.index"))


@desk.page("GET", "/cohorts", roles=READERS)
def index() -> str:
    """All cohorts, newest first, with how far each is."""
    page = here().store.list_cohorts(request.args.get("cursor"), _COHORTS_PER_PAGE)
    counts = here().store.cohort_counts([cohort.id for cohort in page.items])
    rows = [
        {"cohort": cohort, "title": _title(cohort), "progress": _progress(counts[cohort.id])} for cohort in page.items
    ]
    older = next_link(request.path, request.args, page.next_cursor)
    return render_template("assay/cohorts.html", rows=rows, older_link=older)


def _title(cohort: Cohort) -> str:
    manifest = manifest_of(cohort.challenge)
    return manifest.title if manifest else cohort.challenge


def manifest_of(slug: str) -> Manifest | None:
    """The manifest of a challenge that is installed."""
    challenge = here().challenges.get(slug)
    return challenge.manifest if challenge else None


def _progress(counts: Mapping[SubmissionState, int]) -> dict[str, int]:
    total = sum(count for state, count in counts.items() if state != "erased")
    under_way = counts.get("queued", 0) + counts.get("running", 0)
    return {
        "total": total,
        "done": total - under_way,
        "waiting": counts.get("queued", 0),
        "running": counts.get("running", 0),
        "graded": counts.get("graded", 0),
        "invalid": counts.get("invalid", 0),
        "dead": counts.get("dead", 0),
    }


def find(cohort_id: str) -> Cohort:
    """The cohort. Raises ApiProblem (404)."""
    cohort = here().store.cohort(cohort_id)
    if cohort is None:
        raise ApiProblem(404, "There is no such cohort.")
    return cohort


@desk.page("GET", "/cohorts/<cohort_id>", roles=READERS)
def cohort_page(cohort_id: str) -> str:
    """One cohort: the short answer, the figures, the table."""
    cohort = find(cohort_id)
    manifest = manifest_of(cohort.challenge)
    bugs = manifest.bugs if manifest else ()
    store, blind = here().store, gate.blind()
    tally = store.cohort_tally(cohort.id, len(bugs))
    looks = store.cohort_size(cohort.id, LineChoice(show="look"))
    wanted = review.choice(request.args, manifest, blind=blind)
    found = store.cohort_size(cohort.id, wanted) if wanted.filters else tally.total
    paging = Paging.of(request.path, wanted.arguments, wanted.page, _PER_PAGE, found)
    return render_template(
        "assay/cohort.html",
        cohort=cohort,
        manifest=manifest,
        bugs=bugs,
        progress=_progress(tally.states),
        strongest=[review.strong(line, bugs) for line in store.cohort_strongest(cohort.id, _STRONGEST)],
        looks=[review.second_look(line) for line in store.cohort_looks(cohort.id, _SECOND_LOOKS)],
        looks_in_all=looks,
        summary=review.summary(tally, len(bugs)),
        figures=_figures(tally, manifest),
        lines=store.cohort_lines(cohort.id, wanted, limit=_PER_PAGE, offset=paging.part.start),
        paging=paging,
        sorting=Sorting(request.path, wanted.arguments, wanted.sort, wanted.falling),
        wanted=wanted,
        shows=review.SHOWS,
        tally=tally,
        standing=review.standing,
        who=who,
        total=tally.total,
        may_act=gate.person().role in RECRUITERS,
    )


def _figures(tally: Tally, manifest: Manifest | None) -> dict[str, Any] | None:
    if manifest is None or not tally.rated:
        return None
    counts = [0] * (len(manifest.bugs) + 1)
    for fixed, count in tally.by_fixed.items():
        counts[min(fixed, len(manifest.bugs))] += count
    names = [f"{bug.number}  {bug.id}" for bug in manifest.bugs]
    return {
        "scores": charts.distribution(counts, "Mended bugs per candidate", "bugs mended"),
        "bugs": charts.rates(names, list(tally.mended), tally.rated, "Who mended each bug"),
        "graded": tally.rated,
    }


@desk.page("GET", "/cohorts/<cohort_id>/progress", roles=READERS)
def progress(cohort_id: str) -> str:
    """How far the cohort is: a part of its page that renews itself while something is under way."""
    cohort = find(cohort_id)
    seen = request.args.get("seen", "")
    now = _progress(here().store.cohort_progress(cohort.id))
    return render_template(
        "assay/cohort_progress.html", cohort=cohort, progress=now, seen=seen, news=seen != str(now["done"])
    )


@desk.page("GET", "/cohorts/<cohort_id>/compare", roles=READERS)
def compare(cohort_id: str) -> str:
    """Two to four candidates side by side."""
    cohort = find(cohort_id)
    ids = list(dict.fromkeys(request.args.getlist("id")))
    if not 2 <= len(ids) <= _MOST_COMPARED:
        raise ApiProblem(422, "Choose two to four candidates of the table, then compare them.")
    known = here().store.cohort_lines_by_id(cohort.id, ids)
    if any(one not in known for one in ids):
        raise ApiProblem(404, "One of these is not in this cohort, or not any more.")
    reports = {one: here().store.report(one) for one in ids}
    return render_template(
        "assay/compare.html",
        cohort=cohort,
        manifest=manifest_of(cohort.challenge),
        lines=[known[one] for one in ids],
        reports=reports,
        evidence={
            one: {bug["number"]: bug["evidence"] for bug in (report or {}).get("bugs", ())}
            for one, report in reports.items()
        },
        tally=here().store.cohort_tally(cohort.id, bugs=0),
        standing=review.standing,
        who=who,
    )


@desk.page("GET", "/cohorts/<cohort_id>/changes", roles=READERS)
def changes(cohort_id: str) -> str:
    """What a regrade changed."""
    cohort = find(cohort_id)
    changed, compared = here().store.cohort_changed(cohort.id)
    page = here().store.cohort_diff(cohort.id, request.args.get("cursor"), _PER_PAGE, changed=True)
    return render_template(
        "assay/cohort_changes.html",
        cohort=cohort,
        total=compared,
        different=changed,
        changed=page.items,
        older_link=next_link(request.path, request.args, page.next_cursor),
    )


@desk.page("POST", "/cohorts/<cohort_id>/regrade", roles=RECRUITERS)
def regrade(cohort_id: str) -> AnyResponse:
    """Grade all of it anew."""
    here().store.regrade_cohort(find(cohort_id).id, actor=gate.person().id)
    return redirect(url_for("cohort_pages.cohort_page", cohort_id=cohort_id, said="regraded"), 303)


@desk.page("POST", "/cohorts/<cohort_id>/cancel", roles=RECRUITERS)
def cancel(cohort_id: str) -> AnyResponse:
    """Take out what waits or runs."""
    here().store.cancel_cohort(find(cohort_id).id, actor=gate.person().id)
    return redirect(url_for("cohort_pages.cohort_page", cohort_id=cohort_id, said="cancelled"), 303)


@desk.page("GET", "/cohorts/<cohort_id>/export.<kind>", roles=RECRUITERS)
def export(cohort_id: str, kind: str) -> Response:
    """The cohort as a file, the same as the API gives."""
    writers: dict[str, Any] = {"csv": files.export_csv, "jsonl": files.export_jsonl, "xlsx": files.export_xlsx}
    if kind not in writers:
        raise ApiProblem(404, "A cohort is exported as csv, jsonl or xlsx.")
    here().store.audit(gate.person().id, "cohort.export", find(cohort_id).id, {"kind": kind})
    response: Response = writers[kind](CohortPath.model_construct(cohort_id=cohort_id))
    return response

"""All pages that there are to see, for tests, pictures and measurements."""

from __future__ import annotations

from tests.services.pages import seed
from tests.services.pages.conftest import Site


def pages(site: Site) -> dict[str, str]:
    """The address of every page that can be read, in all of its states, by a short name."""
    ids, cohort = site.seeded.submission_ids, site.seeded.cohort_id
    running = next(one.id for one in site.store.list_cohorts().items if one.state == "running")
    empty = site.store.create_cohort("Nobody yet", "spiral", actor="test")
    message = site.store.list_messages(limit=1).items[0]
    _, token = site.store.create_share(ids[4], "Rita", 3600, blind=False, actor="test")
    erased = site.store.list_submissions(limit=1).items[0]
    site.store.erase(erased.id)
    return {
        "cohorts": "/cohorts",
        "cohort": f"/cohorts/{cohort}",
        "cohort-nothing-found": f"/cohorts/{cohort}?q=nobody-of-this-name",
        "cohort-running": f"/cohorts/{running}",
        "cohort-empty": f"/cohorts/{empty.id}",
        "compare": f"/cohorts/{cohort}/compare?id={ids[0]}&id={ids[1]}&id={ids[4]}",
        "regrade-changes": f"/cohorts/{cohort}/changes",
        "report": f"/submissions/{ids[4]}",
        "program-changes": f"/submissions/{ids[4]}/changes",
        "report-flagged": f"/submissions/{site.seeded.flagged_id}",
        "report-dead": f"/submissions/{site.seeded.dead_id}",
        "report-not-gradable": f"/submissions/{site.seeded.invalid_id}",
        "report-erased": f"/submissions/{erased.id}",
        "interview": f"/submissions/{ids[1]}/interview",
        "interview-without-verdicts": f"/submissions/{site.seeded.dead_id}/interview",
        "questions": "/questions",
        "shared-report": f"/shared/{token}",
        "submissions": "/submissions",
        "upload": "/upload",
        "account": "/account",
        "admin": "/admin",
        "admin-dead": "/admin/dead",
        "admin-users": "/admin/users",
        "admin-keys": "/admin/keys",
        "admin-webhooks": "/admin/webhooks",
        "admin-message": f"/admin/messages/{message.id}",
        "admin-audit": "/admin/audit",
    }


def invited_pages(site: Site) -> dict[str, str]:
    """The same for candidates, in every state of their link, and for those who invite them."""
    tokens = seed.invited(site.store)
    seed.assessed(site.store)
    working = site.store.open_invitation(tokens["started"])
    assert working is not None and working.cohort_id is not None
    check = site.store.checks(working.id)[0].id
    return {
        **{f"candidate-{state.replace('_', '-')}": f"/take/{token}" for state, token in tokens.items()},
        "candidate-hands-in": f"/take/{tokens['started']}/hand-in?check={check}",
        "invitations": f"/cohorts/{working.cohort_id}/invitations",
        "assessments": "/assessments",
    }

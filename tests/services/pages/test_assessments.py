"""Whom tracking systems want assessed: who waits for a link, links once, blind review."""

from __future__ import annotations

import html
import re

from tests.services.pages import seed
from tests.services.pages.conftest import Site


def row_of(text: str, name: str) -> str:
    return next(row for row in re.findall(r"<tr>.*?</tr>", text, re.DOTALL) if name in row)


def test_the_list_tells_who_waits_and_what_came(site: Site):
    ids = seed.assessed(site.store)
    text = site.browser("recruiter").get("/assessments").text
    waiting = row_of(text, f"/assessments/{ids['waiting']}/invitation")
    assert "Waits for a link" in waiting and "Make a link" in waiting and "careers" in waiting
    linked = row_of(text, f"/assessments/{ids['linked']}/invitation")
    assert ">Invited<" in linked and "Make a new link" in linked
    handed = site.store.assessment(ids["handed_in"])
    assert handed is not None and "Handed in" in row_of(text, f"/submissions/{handed.submission_id}")
    assert "Cancelled" in text and "/take/" not in text


def test_a_link_is_shown_once_and_leads_to_the_assessments_submission(site: Site):
    waiting, browser = seed.assessed(site.store)["waiting"], site.browser("recruiter")
    made = browser.post(f"/assessments/{waiting}/invitation", {"days": "3"}, form="/assessments").text
    link = re.search(r'value="[^"]*(/take/[\w-]{43})"', made)
    assert link is not None and "shown this once" in made
    assert link[1] not in browser.get("/assessments").text
    assert "Start now" in site.browser().client.get(link[1]).text
    invitation = site.store.invitations_to([waiting])[waiting]
    site.store.start_invitation(invitation.id)
    submission = site.store.hand_in(invitation.id, "a.py", b"pass")
    assert (after := site.store.assessment(waiting)) is not None and after.submission_id == submission.id
    again = browser.post(f"/assessments/{waiting}/invitation", {"days": "3"}, form="/assessments")
    assert again.status_code == 409 and "submitted already" in html.unescape(again.text)


def test_what_does_not_fit_is_refused(site: Site):
    waiting, browser = seed.assessed(site.store)["waiting"], site.browser("recruiter")
    for days in ("", "0", "9999", "x"):
        assert (
            browser.post(f"/assessments/{waiting}/invitation", {"days": days}, form="/assessments").status_code == 422
        )
    assert browser.post("/assessments/asm_none/invitation", {"days": "3"}, form="/assessments").status_code == 404
    assert site.store.invitations_to([waiting]) == {}


def test_names_are_hidden_in_blind_review(site: Site):
    seed.assessed(site.store)
    browser = site.browser("recruiter")
    assert "Omar" in browser.get("/assessments").text
    browser.post("/blind", {"back": "/assessments"})
    text = browser.get("/assessments").text
    assert "Candidate " in text and "@example.org</bdi>" not in text
    for name in ("Omar", "Ines", "Noah"):
        assert name not in text


def test_without_any_it_says_how_to_begin(site: Site):
    assert "/v1/integrations" in site.browser("recruiter").get("/assessments").text

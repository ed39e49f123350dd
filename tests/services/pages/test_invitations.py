"""Inviting candidates: reading whom, links once, what became of each."""

from __future__ import annotations

import csv
import io
import re
from typing import Any

import pytest

from services.api.pages.invitations import people
from services.api.pages.text import duration
from tests.services.pages import seed
from tests.services.pages.conftest import Browser, Site


@pytest.fixture
def cohort_id(site: Site) -> str:
    return site.store.create_cohort("Autumn", "spiral", actor="test").id


def invite(browser: Browser, cohort_id: str, people: str = "Mei Lin <mei@example.org>", **form: str):
    path = f"/cohorts/{cohort_id}/invitations"
    return browser.post(path, {"people": people, "days": "7", "minutes": "45", **form}, form=path)


def tokens(text: str) -> list[str]:
    return re.findall(r'name="token" value="([^"]+)"', text)


class TestPeople:
    @pytest.mark.parametrize(
        "line",
        [
            "Mei Lin <mei@example.org>",
            '"Mei Lin" <mei@example.org>;',
            "Mei Lin,mei@example.org",
            "mei@example.org;Mei Lin",
            "Mei Lin\tmei@example.org",
            "name,email\nMei Lin,mei@example.org",
            "E-Mail;Name\n\nmei@example.org;Mei Lin",
        ],
    )
    def test_a_candidate_is_written_in_many_ways(self, line: str):
        assert people(line) == ([{"name": "Mei Lin", "email": "mei@example.org"}], [])

    def test_names_with_commas_and_ids_of_ones_own(self):
        table = 'Name,Mail,ID\n"Lin, Mei",mei@example.org,C-17\nOmar,omar@example.org,\n'
        assert people(table)[0] == [
            {"name": "Lin, Mei", "email": "mei@example.org", "external_id": "C-17"},
            {"name": "Omar", "email": "omar@example.org"},
        ]
        assert people("Mei,mei@example.org,C-17")[0][0]["external_id"] == "C-17"
        assert people("mei@example.org") == ([{"email": "mei@example.org"}], [])

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("Mei Lin", "Line 1 has no e-mail address"),
            ("a@b\n\nA@B", "Line 3 has the same address as line 1"),
            (f"{'x' * 201} <a@b>", "more than 200 characters"),
            ("Mei\x07 <a@b>", "cannot be shown"),
            ("<script> <not an address>", "no e-mail address"),
            ("x" * 200_000, "no e-mail address"),
        ],
    )
    def test_what_is_wrong_is_told_by_its_line(self, text: str, words: str):
        found, wrong = people(text)
        assert any(words in one for one in wrong), wrong
        assert len(found) == (text.startswith("a@b"))


def test_links_are_shown_once_and_open_what_they_should(site: Site, cohort_id: str):
    browser = site.browser("recruiter")
    made = invite(browser, cohort_id, "Mei Lin <mei@example.org>\nOmar <omar@example.org>")
    links = re.findall(r'value="http://localhost(/take/[\w-]{43})"', made.text)
    assert made.status_code == 200 and len(links) == 2
    assert "Start now" in site.browser().get(links[0]).text
    assert "/take/" not in browser.get(f"/cohorts/{cohort_id}/invitations").text
    found = site.store.list_invitations(cohort_id).items
    assert {(one.author, one.time_limit_s, one.checks_max) for one in found} == {("Rita Recruiter", 2700, 5)}


def test_links_begin_with_the_public_address(make_site: Any):
    site = make_site(public_url="https://assay.example")
    cohort_id = site.store.create_cohort("Autumn", "spiral", actor="test").id
    browser = site.browser()
    # A secure cookie needs a secure request.
    https = {"base_url": "https://assay.example"}
    token = re.search(r'name="csrf" value="(\w+)"', browser.get("/sign-in", **https).text)
    assert token is not None
    form = {"email": "recruiter@example.org", "password": seed.PASSWORD, "csrf": token[1]}
    browser.client.post("/sign-in", data=form, **https)
    path = f"/cohorts/{cohort_id}/invitations"
    token = re.search(r'name="csrf" value="(\w+)"', browser.get(path, **https).text)
    assert token is not None
    form = {"people": "a@b", "days": "7", "minutes": "", "csrf": token[1]}
    assert 'value="https://assay.example/take/' in browser.client.post(path, data=form, **https).text


def test_the_links_can_be_downloaded_from_the_page_that_shows_them(site: Site, cohort_id: str):
    browser = site.browser("recruiter")
    given = tokens(invite(browser, cohort_id, "=HYPERLINK(1) <mei@example.org>\nOmar <omar@example.org>").text)
    path = f"/cohorts/{cohort_id}/invitations"
    file = browser.post(f"{path}/links.csv", {"token": given}, form=path)
    assert file.mimetype == "text/csv" and file.headers["Content-Disposition"].startswith("attachment;")
    rows = list(csv.DictReader(io.StringIO(file.text.removeprefix("\ufeff"))))
    assert [row["name"] for row in rows] == ["'=HYPERLINK(1)", "Omar"]
    assert [row["link"] for row in rows] == [f"http://localhost/take/{token}" for token in given]
    assert {one.opened for one in site.store.list_invitations(cohort_id).items} == {0}, "no candidate was there"
    other = site.store.create_cohort("Other", "spiral", actor="test").id
    refused = browser.post(f"/cohorts/{other}/invitations/links.csv", {"token": given}, form=path)
    assert refused.status_code == 404
    assert browser.post(f"{path}/links.csv", {"token": "guess"}, form=path).status_code == 404


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({"people": " "}, "Name at least one"),
        ({"people": "Mei\na@b"}, "Line 1 has no e-mail address"),
        ({"days": "0"}, "1 to 90 days"),
        ({"days": "91"}, "1 to 90 days"),
        ({"minutes": "soon"}, "whole number of minutes"),
        ({"minutes": "-1"}, "whole number of minutes"),
        ({"people": "\n".join(f"{n}@b" for n in range(201))}, "At most 200 candidates"),
    ],
)
def test_what_does_not_fit_is_said_and_nobody_is_invited(site: Site, cohort_id: str, form: dict[str, str], words: str):
    response = invite(site.browser("recruiter"), cohort_id, **form)
    assert response.status_code == 422 and words in response.text
    assert site.store.list_invitations(cohort_id).items == ()


def test_nobody_is_invited_into_a_cancelled_cohort(site: Site, cohort_id: str):
    site.store.cancel_cohort(cohort_id)
    browser = site.browser("recruiter")
    page = browser.get(f"/cohorts/{cohort_id}/invitations").text
    assert "was cancelled" in page and "Make the links" not in page
    path = f"/cohorts/{cohort_id}/invitations"
    assert browser.post(path, {"people": "a@b", "days": "7"}, form="/upload").status_code == 409


def test_a_link_is_extended_ended_and_its_candidate_erased(site: Site, cohort_id: str):
    browser = site.browser("recruiter")
    invite(browser, cohort_id)
    (one,) = site.store.list_invitations(cohort_id).items
    path = f"/cohorts/{cohort_id}/invitations"

    def act(**form: str) -> int:
        return browser.post(f"{path}/{one.id}", form, form=path).status_code

    site.ahead_us = 3600_000_000
    assert act(act="extend", days="30") == 303
    (longer,) = site.store.list_invitations(cohort_id).items
    assert longer.expires_us > one.expires_us
    assert act(act="extend", days="900") == 422 and act(act="nothing") == 422
    assert act(act="revoke") == 303 and "Revoked" in browser.get(path).text
    assert act(act="extend", days="1") == 409
    assert act(act="erase", sure="no") == 422 and act(act="erase", sure="Erase") == 303
    text = browser.get(path).text
    assert "Mei" not in text and "mei@" not in text and "Erased" in text
    other = site.seeded.cohort_id
    assert browser.post(f"/cohorts/{other}/invitations/{one.id}", {"act": "revoke"}, form=path).status_code == 404


def test_the_list_tells_how_far_each_is(site: Site):
    seed.invited(site.store)
    cohort = next(one for one in site.store.list_cohorts().items if "invited" in one.name)
    site.ahead_us = 200_000_000
    text = site.browser("recruiter").get(f"/cohorts/{cohort.id}/invitations").text
    for part in ("Invited", "Started", "Handed in", "Revoked", "late by 3 min", "2/5", "of 45 min"):
        assert part in text, part


def test_names_are_hidden_in_blind_review(site: Site):
    seed.invited(site.store)
    cohort = next(one for one in site.store.list_cohorts().items if "invited" in one.name)
    browser = site.browser("recruiter")
    browser.post("/blind", {"back": "/cohorts"})
    text = browser.get(f"/cohorts/{cohort.id}/invitations").text
    assert "Candidate " in text
    for name in ("Amara", "Lukas", "Mei", "Priya", "@example.org</bdi>"):
        assert name not in text


def test_a_report_says_when_its_candidate_started_and_how_many_checks_were_used(site: Site):
    seed.invited(site.store)
    submission = site.store.list_submissions(limit=1).items[0]
    text = site.browser("interviewer").get(f"/submissions/{submission.id}").text
    section = text[text.index('id="invited"') : text.index("</section>", text.index('id="invited"'))]
    for part in ("by Rita Recruiter", "of 45 min", "yes", "1 of 5"):
        assert part in section, part
    other = site.browser("interviewer").get(f"/submissions/{site.seeded.submission_ids[0]}").text
    assert 'id="invited"' not in other


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (200, "3 min 20 s"),
        (2700, "45 min"),
        (3900, "1 h 5 min"),
        (180_000, "2 d 2 h"),
    ],
)
def test_durations_are_written_as_people_say_them(seconds: float, words: str):
    assert duration(seconds) == words

"""Who gets in, who sees which page, and whose forms are taken."""

from __future__ import annotations

import re
from typing import Any

import pytest

from services.api.pages.desk import PEOPLE, VISITORS, roles_of
from services.api.pages.rooms import POLICY
from services.store import ROLES
from tests.services.pages import seed
from tests.services.pages.conftest import Site

EVERYBODY = {
    "GET /sign-in",
    "POST /sign-in",
    "GET /shared/<token>",
    "GET /shared/<token>/report.pdf",
    "GET /take/<token>",
    "GET /take/<token>/checks",
    "GET /take/<token>/problem",
    "GET /take/<token>/hand-in",
    "GET /take/<token>/receipt.txt",
    "POST /take/<token>/start",
    "POST /take/<token>/check",
    "POST /take/<token>/hand-in",
}
RECRUITERS = {
    "GET /upload",
    "GET /assessments",
    "POST /assessments/<assessment_id>/invitation",
    "POST /upload",
    "GET /cohorts/<cohort_id>/export.<kind>",
    "POST /cohorts/<cohort_id>/regrade",
    "POST /cohorts/<cohort_id>/cancel",
    "GET /cohorts/<cohort_id>/invitations",
    "POST /cohorts/<cohort_id>/invitations",
    "POST /cohorts/<cohort_id>/invitations/links.csv",
    "POST /cohorts/<cohort_id>/invitations/<invitation_id>",
    "POST /submissions/<submission_id>/decision",
    "POST /submissions/<submission_id>/ruling",
    "POST /submissions/<submission_id>/regrade",
    "POST /submissions/<submission_id>/requeue",
    "POST /submissions/<submission_id>/erase",
    "POST /submissions/<submission_id>/share",
    "POST /submissions/<submission_id>/share/<link_id>/revoke",
}
READERS = {
    "GET /",
    "POST /sign-out",
    "POST /blind",
    "GET /account",
    "POST /account/password",
    "GET /cohorts",
    "GET /cohorts/<cohort_id>",
    "GET /cohorts/<cohort_id>/progress",
    "GET /cohorts/<cohort_id>/compare",
    "GET /cohorts/<cohort_id>/changes",
    "GET /submissions",
    "GET /submissions/<submission_id>",
    "GET /submissions/<submission_id>/changes",
    "GET /submissions/<submission_id>/program",
    "GET /submissions/<submission_id>/report.pdf",
    "POST /submissions/<submission_id>/notes",
    "GET /submissions/<submission_id>/interview",
    "POST /submissions/<submission_id>/scorecard",
    "GET /questions",
}
OUR_DESKS = (
    "session.",
    "cohort_pages.",
    "report_pages.",
    "handed.",
    "shared.",
    "interview.",
    "invitation_pages.",
    "assessment_pages.",
    "invited.",
    "admin.",
)


def routes(site: Site) -> dict[str, str]:
    return {
        f"{method} {rule.rule}": rule.endpoint
        for rule in site.app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD"}
        if rule.endpoint.startswith(OUR_DESKS)
    }


def allowed(route: str) -> frozenset[str]:
    if " /admin" in route:
        return frozenset({"admin"})
    return frozenset({"recruiter", "admin"}) if route in RECRUITERS else frozenset(ROLES)


def address(site: Site, rule: str) -> str:
    """A path of the rule; ids are of things that there are, so that a refusal is the role's."""
    known = {
        "cohort_id": site.seeded.cohort_id,
        "submission_id": site.seeded.submission_ids[0],
        "kind": "csv",
    }
    return re.sub(r"<(\w+)>", lambda match: known.get(match[1], "nothing"), rule)


def test_every_page_says_who_may_see_it(site: Site):
    declared = site.app.extensions["assay"].operations
    for route, endpoint in routes(site).items():
        assert declared[endpoint].access == (VISITORS if route in EVERYBODY else PEOPLE), route
        roles = roles_of(site.app, endpoint)
        assert roles == (None if route in EVERYBODY else allowed(route)), route
    admin = {route for route in routes(site) if " /admin" in route}
    assert set(routes(site)) == EVERYBODY | RECRUITERS | READERS | admin


def test_nobody_sees_a_page_without_signing_in(site: Site):
    browser = site.browser()
    for route in set(routes(site)) - EVERYBODY:
        method, rule = route.split()
        response = browser.client.open(address(site, rule), method=method)
        assert response.status_code == (302 if method == "GET" else 401), route
        if method == "GET":
            assert response.location.startswith("/sign-in")


@pytest.mark.parametrize("role", ROLES)
def test_a_role_sees_its_pages_and_no_others(site: Site, role: str):
    browser = site.browser(role)
    for route in set(routes(site)) - EVERYBODY - {"POST /sign-out"}:
        method, rule = route.split()
        if method == "GET":
            status = browser.get(address(site, rule)).status_code
        else:
            # Without the token nothing is done; the role is asked first.
            response = browser.client.post(address(site, rule))
            status = response.status_code
            assert status == 403, route
            assert ("out of date" in response.text) == (role in allowed(route)), route
            continue
        assert (status == 403) == (role not in allowed(route)), (route, status)


def test_a_cookie_opens_no_route_of_the_api(site: Site):
    browser = site.browser("admin")
    assert browser.get("/v1/submissions").status_code == 401


def test_an_api_key_opens_no_page(site: Site):
    _, secret = site.store.create_key("all", ["submit", "read", "manage"])
    response = site.browser().get("/cohorts", headers={"Authorization": f"Bearer {secret}"})
    assert response.status_code == 302


class TestSigningIn:
    def test_a_new_session_each_time_and_the_old_one_ends(self, site: Site):
        browser = site.browser("recruiter")
        first = browser.client.get_cookie("assay_session")
        assert first is not None
        browser.client.post(
            "/sign-in",
            data={"email": "recruiter@example.org", "password": seed.PASSWORD, "csrf": browser.token()},
        )
        second = browser.client.get_cookie("assay_session")
        assert second is not None and second.value != first.value
        browser.client.set_cookie("assay_session", first.value)
        assert browser.get("/cohorts").status_code == 302

    def test_the_cookie_is_for_this_host_alone_where_there_is_tls(self, make_site: Any):
        site = make_site(public_url="https://assay.example")
        browser = site.browser()
        page = browser.get("/sign-in", base_url="https://assay.example")
        token = re.search(r'name="csrf" value="(\w+)"', page.text)
        assert token is not None
        response = browser.client.post(
            "/sign-in",
            base_url="https://assay.example",
            data={"email": "recruiter@example.org", "password": seed.PASSWORD, "csrf": token[1]},
        )
        cookie = next(one for one in response.headers.getlist("Set-Cookie") if "assay_session" in one)
        assert cookie.startswith("__Host-assay_session=")
        for part in ("Secure", "HttpOnly", "Path=/", "SameSite=Lax"):
            assert part in cookie

    def test_an_account_is_locked_after_wrong_passwords_and_says_the_same_as_before(self, make_site: Any):
        site = make_site(sign_in_attempts=3, sign_in_lock_s=600)
        browser = site.browser()
        wrong = {"email": "recruiter@example.org", "password": "not the password"}
        said = {browser.post("/sign-in", wrong, form="/sign-in").status_code for _ in range(3)}
        right = {"email": "Recruiter@Example.org ", "password": seed.PASSWORD}
        refused = browser.post("/sign-in", right, form="/sign-in")
        assert said == {401} and refused.status_code == 401
        nobody = browser.post("/sign-in", {**right, "email": "nobody@example.org"}, form="/sign-in")
        assert _main(nobody.text) == _main(refused.text).replace("recruiter@example.org", "nobody@example.org").replace(
            "Recruiter@Example.org ", "nobody@example.org"
        )
        site.ahead_us = 601_000_000
        assert browser.post("/sign-in", right, form="/sign-in").status_code == 303

    def test_a_session_ends_when_idle_when_old_and_on_signing_out(self, make_site: Any):
        site = make_site(session_idle_s=100, session_max_s=1000)
        browser = site.browser("recruiter")
        for ahead_s in range(0, 960, 90):
            site.ahead_us = ahead_s * 1_000_000
            assert browser.get("/cohorts").status_code == 200
        site.ahead_us = 1_001_000_000
        assert browser.get("/cohorts").status_code == 302
        browser = site.browser("recruiter")
        site.ahead_us += 101_000_000
        assert browser.get("/cohorts").status_code == 302
        browser = site.browser("recruiter")
        browser.post("/sign-out")
        assert browser.get("/cohorts").status_code == 302

    def test_a_disabled_user_is_out_at_once(self, site: Site):
        browser = site.browser("recruiter")
        user = site.store.user_by_email("recruiter@example.org")
        assert user is not None
        site.store.disable_user(user.id)
        assert browser.get("/cohorts").status_code == 302

    @pytest.mark.parametrize("where", ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:x"])
    def test_nobody_is_sent_elsewhere(self, site: Site, where: str):
        form = {"email": "recruiter@example.org", "password": seed.PASSWORD, "next": where}
        assert site.browser().post("/sign-in", form, form="/sign-in").location == "/"

    def test_a_new_password_ends_other_sessions(self, site: Site):
        other, browser = site.browser("interviewer"), site.browser("interviewer")
        form = {"old": seed.PASSWORD, "new": "another long password"}
        assert browser.post("/account/password", form).status_code == 303
        assert browser.get("/cohorts").status_code == 200
        assert other.get("/cohorts").status_code == 302


def _main(text: str) -> str:
    return re.sub(r'value="[0-9a-f]{64}"', "", text)


class TestForms:
    def test_a_form_without_its_token_is_refused(self, site: Site):
        browser = site.browser("recruiter")
        path = f"/submissions/{site.seeded.submission_ids[0]}/notes"
        for data in ({"text": "x"}, {"text": "x", "csrf": "0" * 64}, {"text": "x", "csrf": "ä"}):
            assert browser.client.post(path, data=data).status_code == 403
        assert site.store.notes(site.seeded.submission_ids[0]) == []

    def test_the_token_of_another_session_is_none(self, site: Site):
        stolen = site.browser("recruiter").token()
        browser = site.browser("recruiter")
        path = f"/submissions/{site.seeded.submission_ids[0]}/notes"
        assert browser.client.post(path, data={"text": "x", "csrf": stolen}).status_code == 403

    def test_a_form_from_another_site_is_refused_by_what_the_browser_says(self, site: Site):
        browser = site.browser("recruiter")
        headers = {"Sec-Fetch-Site": "cross-site"}
        path = f"/submissions/{site.seeded.submission_ids[0]}/notes"
        assert browser.post(path, {"text": "x"}, headers=headers).status_code == 403


def test_every_answer_has_the_strict_policy(site: Site):
    browser = site.browser("admin")
    paths = ["/cohorts", f"/submissions/{site.seeded.submission_ids[0]}", "/sign-in", "/submissions/sub_x", "/admin"]
    for path in paths:
        response = browser.get(path)
        assert response.headers["Content-Security-Policy"] == POLICY
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert "unsafe" not in POLICY
    missing = browser.get("/nothing/here", headers={"Accept": "text/html"})
    assert (missing.status_code, missing.headers["Content-Security-Policy"]) == (404, POLICY)
    assert browser.get("/nothing/here", headers={"Accept": "application/json"}).mimetype == "application/problem+json"


def test_the_last_administrator_stays(site: Site):
    browser = site.browser("admin")
    user = site.store.user_by_email("admin@example.org")
    assert user is not None
    assert browser.post(f"/admin/users/{user.id}", {"act": "disable"}).status_code == 409

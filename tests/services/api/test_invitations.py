"""Candidates are invited and followed by other programs; what they try out shows nowhere."""

from __future__ import annotations

import re

import pytest

from tests.services.api.conftest import Api, problem


@pytest.fixture
def cohort(api: Api) -> str:
    return api("POST", "/cohorts", json={"name": "Autumn", "challenge": "spiral"}).json["id"]


def test_links_are_told_once_and_open_the_candidates_page(api: Api, cohort: str):
    given = {"candidates": [{"name": "Mei Lin", "external_id": "C-1"}, {"email": "omar@example.org"}, {}]}
    made = api("POST", f"/cohorts/{cohort}/invitations", json={**given, "contact": "Rita"})
    assert made.status_code == 201, made.text
    data = made.json["data"]
    assert [one["candidate"]["external_id"] for one in data] == ["C-1", data[1]["id"], data[2]["id"]]
    assert {(one["state"], one["contact"], one["time_limit_s"], one["checks_max"]) for one in data} == {
        ("invited", "Rita", 2700, 5)
    }
    links = [one.pop("link") for one in data]
    assert all(re.fullmatch(r"/take/[\w-]{43}", link) for link in links) and len(set(links)) == 3
    assert "Start now" in api.client.get(links[0]).text
    listed = api("GET", f"/cohorts/{cohort}/invitations?limit=2").json
    assert "/take/" not in str(listed) and [one["id"] for one in listed["data"]] == [data[2]["id"], data[1]["id"]]
    rest = api("GET", f"/cohorts/{cohort}/invitations?limit=2&cursor={listed['next_cursor']}").json
    assert [one["id"] for one in rest["data"]] == [data[0]["id"]]
    assert rest["data"][0]["opened_at"] is not None


def test_links_begin_with_the_public_address(make_api):
    api = make_api(public_url="https://assay.example/")
    cohort = api("POST", "/cohorts", json={"name": "Autumn", "challenge": "spiral"}).json["id"]
    (one,) = api("POST", f"/cohorts/{cohort}/invitations", json={"candidates": [{}]}).json["data"]
    assert one["link"].startswith("https://assay.example/take/")


def test_a_candidate_is_followed_to_the_submission(api: Api, cohort: str):
    body = {"candidates": [{"external_id": "C-1"}], "time_limit_minutes": 0, "valid_days": 1}
    (made,) = api("POST", f"/cohorts/{cohort}/invitations", json=body).json["data"]
    assert made["time_limit_s"] is None
    check = api.store.create_check(made["id"], "a.py", b"fixed=1").id
    submission = api.store.hand_in(made["id"], "a.py", b"fixed=4")
    (told,) = api("GET", f"/cohorts/{cohort}/invitations").json["data"]
    assert (told["state"], told["submission_id"], told["checks_used"]) == ("handed_in", submission.id, 1)
    assert told["late_s"] == 0 and told["handed_in_at"] is not None
    api.grade(submission.id)
    listed = api("GET", "/submissions?external_id=C-1").json["data"]
    assert [(one["id"], one["fixed"]) for one in listed] == [(submission.id, 4)]
    for rest in ("", "/events", "/report", "/source"):
        problem(api("GET", f"/submissions/{check}{rest}"), 404)
    for act in ("regrade", "requeue", "cancel"):
        problem(api("POST", f"/submissions/{check}/{act}"), 404)
    problem(api("DELETE", f"/submissions/{check}"), 404)
    assert check not in api("GET", f"/cohorts/{cohort}/export.jsonl").text
    api("DELETE", f"/submissions/{submission.id}")
    (told,) = api("GET", f"/cohorts/{cohort}/invitations").json["data"]
    assert (told["state"], told["candidate"]) == ("erased", None)


def test_what_does_not_fit_is_refused(api: Api, make_api, cohort: str):
    path = f"/cohorts/{cohort}/invitations"
    problem(api("POST", f"/cohorts/coh_{'0' * 26}/invitations", json={"candidates": [{}]}), 404)
    problem(api("GET", f"/cohorts/coh_{'0' * 26}/invitations"), 404)
    for body in (
        {},
        {"candidates": []},
        {"candidates": [{"phone": "1"}]},
        {"candidates": [{}], "valid_days": 0},
        {"candidates": [{}], "time_limit_minutes": -1},
        {"candidates": [{"name": "a\u0007"}]},
    ):
        problem(api("POST", path, json=body), 422, "invalid-request")
    problem(api("POST", path, json={"candidates": [{}] * 201}), 422, "too-many")
    api("POST", f"/cohorts/{cohort}/cancel")
    problem(api("POST", path, json={"candidates": [{}]}), 409, "conflict")
    assert api("GET", path).json["data"] == []


def test_a_link_lives_no_longer_than_the_service_lets_it(make_api):
    api = make_api(invitation_max_s=3600)
    cohort = api("POST", "/cohorts", json={"name": "Autumn", "challenge": "spiral"}).json["id"]
    (made,) = api("POST", f"/cohorts/{cohort}/invitations", json={"candidates": [{}], "valid_days": 9}).json["data"]
    found = api.store.invitation(made["id"])
    assert found is not None and found.expires_us - found.created_us == 3_600_000_000

"""Inbound: signed messages, vendors' calls, and the same again."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import pytest

from services import webhooks
from tests.services.api.conftest import PROGRAM, Api, problem

DATA = {
    "challenge": "spiral",
    "file": {"name": "attempt.py", "content": PROGRAM},
    "candidate": {"external_id": "c-1", "name": "Ada", "email": "ada@example.org"},
    "callback": {"url": "https://ats.example/done"},
}


def integration(api: Api, kind: str = "standard", **fields: Any) -> dict[str, Any]:
    response = api("POST", "/integrations", json={"slug": "partner", "kind": kind, **fields})
    assert response.status_code == 201, response.text
    return response.json


def post(api: Api, secret: str, message: str = "m-1", data: Any = DATA, at_s: float | None = None, **more: Any) -> Any:
    body = json.dumps({"type": "submission.create", "timestamp": "now", "data": data}).encode()
    signed = webhooks.headers([secret], message, int(at_s or time.time()), body)
    return api("POST", "/hooks/partner", key=None, data=more.pop("body", body), headers={**signed, **more})


class TestStandard:
    def test_a_signed_message_becomes_a_submission(self, api: Api):
        made = integration(api)
        response = post(api, made["secret"])
        assert response.status_code == 202, response.text
        told = api("GET", f"/submissions/{response.json['submission_id']}").json
        assert (told["file_name"], told["candidate"]["external_id"], told["queue"]) == (
            "attempt.py",
            "c-1",
            "interactive",
        )
        assert response.headers["Location"] == told["links"]["self"]

    def test_the_same_again_is_answered_as_the_first_time(self, api: Api):
        secret = integration(api)["secret"]
        first, again = post(api, secret), post(api, secret)
        assert (first.status_code, first.json) == (again.status_code, again.json)
        assert len(api("GET", "/submissions").json["data"]) == 1

    def test_a_message_about_an_erased_submission_is_told_that_it_is_gone(self, api: Api):
        secret = integration(api)["secret"]
        name = post(api, secret).json["submission_id"]
        assert api("DELETE", f"/submissions/{name}").status_code == 204
        again = post(api, secret)
        assert again.status_code == 410 and "erased" in again.text

    def test_the_same_id_with_another_body_is_409(self, api: Api):
        secret = integration(api)["secret"]
        post(api, secret)
        assert post(api, secret, data={**DATA, "candidate": {}}).status_code == 409

    @pytest.mark.parametrize("age_s", [-400, 400])
    def test_outside_the_window_is_401(self, api: Api, age_s: float):
        assert post(api, integration(api)["secret"], at_s=time.time() - age_s).status_code == 401

    def test_what_is_not_signed_is_401(self, api: Api):
        secret = integration(api)["secret"]
        assert post(api, webhooks.new_secret()).status_code == 401
        assert post(api, secret, body=b"{}").status_code == 401
        for name in ("webhook-id", "webhook-timestamp", "webhook-signature"):
            assert post(api, secret, **{name: "v1,\xff"}).status_code == 401
        assert api("POST", "/hooks/partner", data=b"{}").status_code == 401, "an API key is no signature"
        assert api("GET", "/submissions").json["data"] == []

    def test_bad_content_frees_the_id(self, api: Api):
        secret = integration(api)["secret"]
        assert post(api, secret, data={**DATA, "challenge": "none"}).status_code == 422
        assert post(api, secret).status_code == 202

    def test_a_full_queue_is_429_and_may_come_again(self, make_api: Any):
        api = make_api(api_backlog_limit=1)
        secret = integration(api)["secret"]
        first = api.submit()
        response = post(api, secret)
        assert response.status_code == 429 and response.headers["Retry-After"]
        api.grade(first)
        assert post(api, secret).status_code == 202

    def test_challenges_under_names_of_its_own(self, api: Api):
        secret = integration(api, challenges={"Their test": "spiral"})["secret"]
        assert post(api, secret, data={**DATA, "challenge": "Their test"}).status_code == 202
        assert post(api, secret, "m-2", data=DATA).status_code == 422

    def test_too_large_is_refused(self, make_api: Any):
        api = make_api(max_submission_bytes=100)
        data = {**DATA, "file": {"content": "x" * 200}}
        assert post(api, integration(api)["secret"], data=data).status_code == 413

    def test_unknown_integrations_are_404(self, api: Api):
        problem(api("POST", "/hooks/nobody", key=None, data=b"{}"), 404)


class TestVendors:
    def greenhouse(self, api: Api, method: str, action: str, credential: str, **more: Any) -> Any:
        basic = base64.b64encode(f"{credential}:".encode()).decode()
        return api(method, f"/hooks/partner/{action}", key=None, headers={"Authorization": f"Basic {basic}"}, **more)

    def test_greenhouse_from_list_to_result(self, api: Api):
        made = integration(api, "greenhouse", outbound_key="their-key")
        assert made["secret"] is None and len(made["credential"]) < 171
        key = made["credential"]
        (test,) = self.greenhouse(api, "GET", "list_tests", key).json
        body = {
            "partner_test_id": test["partner_test_id"],
            "candidate": {"first_name": "Ada", "last_name": "L", "email": "ada@example.org"},
            "url": "https://app.greenhouse.io/done",
        }
        interview = self.greenhouse(api, "POST", "send_test", key, json=body).json["partner_interview_id"]
        assert self.greenhouse(api, "POST", "send_test", key, json=body).json["partner_interview_id"] == interview
        (waiting,) = api("GET", "/assessments?integration=partner").json["data"]
        assert (waiting["state"], waiting["candidate"]["name"]) == ("invited", "Ada L")
        name = api.submit(assessment_id=waiting["id"])
        problem(
            api("POST", "/submissions", json={"challenge": "spiral", "source": "x", "assessment_id": waiting["id"]}),
            409,
        )
        api.grade(name)
        status = self.greenhouse(api, "GET", f"test_status?partner_interview_id={interview}", key).json
        assert status["partner_status"].startswith("graded"), "without a public address there is no page to link to"

    def test_its_candidate_is_invited_by_a_link(self, make_api: Any):
        api = make_api(public_url="https://assay.example/")
        key = integration(api, "greenhouse", outbound_key="their-key")["credential"]
        body = {
            "partner_test_id": "spiral",
            "candidate": {"first_name": "Ada", "last_name": "L", "email": "ada@example.org"},
            "url": "https://app.greenhouse.io/done",
        }
        interview = self.greenhouse(api, "POST", "send_test", key, json=body).json["partner_interview_id"]
        path = f"/assessments/{interview}/invitation"
        problem(api("POST", f"/assessments/asm_{'0' * 26}/invitation", json={}), 404)
        problem(api("POST", path, json={"candidates": [{}]}), 422, "invalid-request")
        lost = api("POST", path, json={}).json["link"]
        made = api("POST", path, json={"contact": "Rita", "valid_days": 2})
        assert made.status_code == 201 and made.json["link"] != lost
        assert (made.json["assessment_id"], made.json["candidate"]["name"]) == (interview, "Ada L")
        (waiting,) = api("GET", "/assessments").json["data"]
        assert (waiting["state"], waiting["invitation"]["id"]) == ("invited", made.json["id"])
        assert "/take/" not in str(waiting)
        assert api.client.get(lost).status_code == 410
        assert "Start now" in api.client.get(made.json["link"]).text
        api.store.start_invitation(made.json["id"])
        name = api.store.hand_in(made.json["id"], "mine.py", b"fixed=6").id
        api.grade(name)
        status = self.greenhouse(api, "GET", f"test_status?partner_interview_id={interview}", key).json
        assert (status["partner_status"], status["partner_score"]) == ("complete", 75.0)
        (told,) = api("GET", "/assessments").json["data"]
        assert (told["submission_id"], told["invitation"]["state"]) == (name, "handed_in")
        problem(api("POST", path, json={}), 409)

    def test_the_link_is_to_the_page_for_people(self, make_api: Any):
        api = make_api(public_url="https://assay.example/")
        key = integration(api, "greenhouse")["credential"]
        body = {
            "partner_test_id": "spiral",
            "candidate": {"first_name": "Ada", "last_name": "L", "email": "ada@example.org"},
            "url": "https://app.greenhouse.io/done",
        }
        interview = self.greenhouse(api, "POST", "send_test", key, json=body).json["partner_interview_id"]
        (waiting,) = api("GET", "/assessments?integration=partner").json["data"]
        name = api.submit(assessment_id=waiting["id"])
        api.grade(name)
        status = self.greenhouse(api, "GET", f"test_status?partner_interview_id={interview}", key).json
        assert (status["partner_status"], status["partner_score"]) == ("complete", 37.5)
        assert status["partner_profile_url"] == f"https://assay.example/submissions/{name}"
        page = api.client.get(f"/submissions/{name}", headers={"Accept": "text/html"})
        assert page.status_code == 302 and page.location.startswith("/sign-in"), "a page for whoever signs in"

    @pytest.mark.parametrize(
        "url",
        ["https://evil.example/x", "https://greenhouse.io.evil.example/", "https://greenhouse.io@evil.example/"],
    )
    def test_our_key_goes_to_the_vendor_alone(self, api: Api, url: str):
        key = integration(api, "greenhouse", outbound_key="ours")["credential"]
        body = {
            "partner_test_id": "spiral",
            "candidate": {"first_name": "A", "last_name": "B", "email": "a@example.org"},
            "url": url,
        }
        assert self.greenhouse(api, "POST", "send_test", key, json=body).status_code == 422
        other = {"slug": "own", "kind": "greenhouse", "settings": {"callback_hosts": "evil.example other.example"}}
        made = api("POST", "/integrations", json=other).json
        basic = base64.b64encode(f"{made['credential']}:".encode()).decode()
        headers = {"Authorization": f"Basic {basic}"}
        assert api("POST", "/hooks/own/send_test", key=None, headers=headers, json=body).status_code == 200

    def test_who_shows_no_credential_is_401(self, api: Api):
        integration(api, "greenhouse")
        assert self.greenhouse(api, "GET", "list_tests", "wrong").status_code == 401
        assert api("GET", "/hooks/partner/list_tests").status_code == 401, "an API key is no credential"

    def test_other_actions_and_methods(self, api: Api):
        key = integration(api, "greenhouse")["credential"]
        assert self.greenhouse(api, "GET", "nothing", key).status_code == 404
        assert self.greenhouse(api, "POST", "list_tests", key, json={}).status_code == 405

    def test_ashby_and_workable_are_let_in(self, api: Api):
        for kind, action, method, scheme in (
            ("ashby", "assessment.list", "POST", "Basic"),
            ("workable", "tests", "GET", "Bearer"),
        ):
            made = api("POST", "/integrations", json={"slug": kind, "kind": kind}).json
            word = made["credential"]
            shown = base64.b64encode(f"{word}:".encode()).decode() if scheme == "Basic" else word
            headers = {"Authorization": f"{scheme} {shown}"}
            body = {"json": {}} if method == "POST" else {}
            response = api(method, f"/hooks/{kind}/{action}", key=None, headers=headers, **body)
            assert response.status_code == 200, response.text
            assert "spiral" in response.text

    def test_another_s_assessment_is_not_told(self, api: Api):
        key = integration(api, "greenhouse")["credential"]
        other = api("POST", "/integrations", json={"slug": "other", "kind": "greenhouse"}).json
        body = {
            "partner_test_id": "spiral",
            "candidate": {"first_name": "A", "last_name": "B", "email": "a@example.org"},
            "url": "https://app.greenhouse.io/",
        }
        interview = self.greenhouse(api, "POST", "send_test", key, json=body).json["partner_interview_id"]
        basic = base64.b64encode(f"{other['credential']}:".encode()).decode()
        headers = {"Authorization": f"Basic {basic}"}
        address = f"/hooks/other/test_status?partner_interview_id={interview}"
        assert api("GET", address, key=None, headers=headers).status_code == 404

    def test_a_complaint_is_audited_without_names(self, api: Api):
        key = integration(api, "greenhouse")["credential"]
        body = {"api_call": "test_status", "errors": ["Ada is odd"], "partner_interview_id": "asm_1"}
        assert self.greenhouse(api, "POST", "response_error", key, json=body).status_code == 200
        entry = api("GET", "/audit?limit=1").json["data"][0]
        assert entry["action"] == "integration.complaint"
        assert "Ada" not in json.dumps(entry)

"""Greenhouse's assessment-partner contract, against its recorded shapes."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from grading.verdict import Report
from services import ats

if TYPE_CHECKING:
    from tests.services.ats.conftest import Ats

MakeReport = Callable[..., Report]
MESSAGE = ats.Message("msg_1", "submission.graded", "{}")
URL = "https://app.greenhouse.io/integrations/testing_partners/take_home_tests/12345"


def test_tests_are_listed_as_a_top_level_array(vendor: Ats) -> None:
    answer = vendor.ask("greenhouse", "GET", "list_tests")
    assert (answer.status, answer.body) == (200, vendor.recorded("greenhouse/list_tests.answer.json"))


@pytest.mark.parametrize("shape", ["send_test", "send_test_older"])
def test_a_sent_test_becomes_an_assessment(vendor: Ats, shape: str) -> None:
    answer = vendor.ask("greenhouse", "POST", "send_test", vendor.recorded(f"greenhouse/{shape}.json"))
    (request,) = vendor.desk.requests
    assert (answer.status, answer.body) == (200, vendor.recorded("greenhouse/send_test.answer.json"))
    assert (request.challenge, request.callback.url, request.renewable) == ("spiral", URL, False)
    assert request.candidate.email == "ada@example.com"
    assert request.candidate.name == ("Augusta Lovelace" if shape == "send_test" else "Ada Lovelace")


def test_the_same_test_sent_again_is_the_same_assessment(vendor: Ats) -> None:
    body = vendor.recorded("greenhouse/send_test.json")
    first, second = (vendor.ask("greenhouse", "POST", "send_test", body) for _ in range(2))
    third = vendor.ask("greenhouse", "POST", "send_test", body | {"url": URL + "6"})
    assert first == second != third
    assert len(vendor.desk.requests) == 2


def test_status_is_pending_then_complete_with_a_link_a_score_and_flat_metadata(
    vendor: Ats, make_report: MakeReport
) -> None:
    vendor.ask("greenhouse", "POST", "send_test", vendor.recorded("greenhouse/send_test.json"))
    ask = {"partner_interview_id": "asm_1"}
    assert vendor.ask("greenhouse", "GET", "test_status", query=ask).body == {"partner_status": "pending"}
    result = ats.result_of(vendor.stored(), make_report(source=b"fixed=6"), "https://assay.example/s/1")
    vendor.desk.complete("asm_1", result)
    body = vendor.ask("greenhouse", "GET", "test_status", query=ask).body
    assert body["partner_status"] == "complete"
    assert body["partner_profile_url"] == "https://assay.example/s/1"
    assert body["partner_score"] == 75
    assert body["metadata"]["Summary"] == "Hire: 6 of 8 bugs fixed"
    assert body["metadata"]["Bug: The learning rate is far too high"] == "not fixed"
    assert all(isinstance(value, str | int | float | bool) for value in body["metadata"].values())


def test_a_result_without_a_page_is_not_complete_over_there(vendor: Ats, make_report: MakeReport) -> None:
    """The contract requires the link."""
    vendor.ask("greenhouse", "POST", "send_test", vendor.recorded("greenhouse/send_test.json"))
    vendor.desk.complete("asm_1", ats.result_of(vendor.stored(), make_report(), None))
    body = vendor.ask("greenhouse", "GET", "test_status", query={"partner_interview_id": "asm_1"}).body
    assert body == {"partner_status": "graded, but the service does not know its public address"}


def test_what_cannot_be_graded_is_complete_without_a_score(vendor: Ats, make_report: MakeReport) -> None:
    vendor.ask("greenhouse", "POST", "send_test", vendor.recorded("greenhouse/send_test.json"))
    result = ats.result_of(vendor.stored("invalid"), make_report(source=b"syntax"), "https://assay.example/s/1")
    vendor.desk.complete("asm_1", result)
    body = vendor.ask("greenhouse", "GET", "test_status", query={"partner_interview_id": "asm_1"}).body
    assert body["partner_status"] == "complete" and "partner_score" not in body


def test_a_complaint_is_noted(vendor: Ats) -> None:
    answer = vendor.ask("greenhouse", "POST", "response_error", vendor.recorded("greenhouse/response_error.json"))
    assert (answer.status, answer.body) == (200, None)
    assert vendor.desk.complaints[0]["errors"] == ("partner_profile_url is missing",)


def test_completion_is_a_patch_without_a_body(vendor: Ats, make_report: MakeReport) -> None:
    result = ats.result_of(vendor.stored(), make_report(), None)
    sent = ats.outbound(vendor.integration("greenhouse"), ats.Callback(url=URL), MESSAGE, result, vendor.now_s)
    assert sent and (sent.method, sent.url, sent.body) == ("PATCH", URL, b"")
    assert base64.b64decode(sent.headers["Authorization"].removeprefix("Basic ")) == b"outbound-key:"
    open_result = ats.Result(status="OPEN")
    assert ats.outbound(vendor.integration("greenhouse"), ats.Callback(url=URL), MESSAGE, open_result, 0) is None


@pytest.mark.parametrize(
    ("method", "action", "body", "status"),
    [
        ("GET", "test_status", None, 404),
        (
            "POST",
            "send_test",
            {"partner_test_id": "other", "candidate": {"first_name": "a", "last_name": "b", "email": "c"}},
            404,
        ),
        (
            "POST",
            "send_test",
            {"partner_test_id": "spiral", "candidate": {"first_name": "a", "last_name": "b", "email": "c"}},
            422,
        ),
        ("POST", "send_test", {"partner_test_id": "spiral"}, 422),
        ("GET", "send_test", None, 405),
        ("POST", "nothing", None, 404),
        ("POST", "", None, 404),
    ],
)
def test_refusals_have_a_status_and_a_message(vendor: Ats, method: str, action: str, body: object, status: int) -> None:
    answer = vendor.ask("greenhouse", method, action, body)
    assert answer.status == status and answer.body["message"]
    assert vendor.desk.requests == []


def test_results_go_to_https_addresses_only(vendor: Ats) -> None:
    body = vendor.recorded("greenhouse/send_test.json") | {"url": "http://app.greenhouse.io/x"}
    assert vendor.ask("greenhouse", "POST", "send_test", body).status == 422

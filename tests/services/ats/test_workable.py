"""Workable's contract for assessment providers, against its recorded shapes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from grading.verdict import Report
from services import ats

if TYPE_CHECKING:
    from tests.services.ats.conftest import Ats

MakeReport = Callable[..., Report]
MESSAGE = ats.Message("msg_1", "submission.graded", "{}")
URL = "https://acme.workable.com/spi/v3/assessments/7f3c"
GRADES = {"Strong Hire": "excelled", "Hire": "passed", "Borderline": "odd", "Below Bar": "failed", "No Hire": "failed"}


def put(vendor: Ats, result: ats.Result, **settings: Any) -> dict[str, Any]:
    """The body of the PUT for a result."""
    integration = vendor.integration("workable", settings=settings)
    sent = ats.outbound(integration, ats.Callback(url=URL), MESSAGE, result, vendor.now_s)
    assert sent and (sent.method, sent.url) == ("PUT", URL)
    assert sent.headers["Authorization"] == "Bearer outbound-key"
    body: dict[str, Any] = json.loads(sent.body)
    return body


def test_tests_are_listed(vendor: Ats) -> None:
    answer = vendor.ask("workable", "GET", "tests")
    assert (answer.status, answer.body) == (200, vendor.recorded("workable/tests.answer.json"))


def test_an_assessment_is_created_once(vendor: Ats) -> None:
    body = vendor.recorded("workable/assessments.json")
    first, second = (vendor.ask("workable", "POST", "assessments", body) for _ in range(2))
    assert first == second == ats.Answer(201, vendor.recorded("workable/assessments.answer.json"))
    (request,) = vendor.desk.requests
    assert (request.callback.url, request.candidate.name) == (URL, "Ada Lovelace")


def test_a_numeric_test_id_is_read_as_text(vendor: Ats) -> None:
    body = vendor.recorded("workable/assessments.json") | {"test_id": 7}
    integration = vendor.integration("workable", offers=(ats.Offer("7", "spiral", "Spiral"),))
    call = vendor.call("workable", "POST", "assessments", body)
    assert ats.handle(integration, call, vendor.desk, vendor.terms).status == 201


def test_a_result_has_a_score_a_summary_and_every_verdict(vendor: Ats, make_report: MakeReport) -> None:
    body = put(vendor, ats.result_of(vendor.stored(), make_report(source=b"fixed=6"), "https://assay.example/s/1"))
    assert (body["status"], body["results_url"]) == ("completed", "https://assay.example/s/1")
    assert body["assessment"]["score"] == 75
    assert body["assessment"]["summary"] == "Hire: 6 of 8 bugs fixed"
    assert body["assessment"]["details"].count("fixed (what was seen)") == 8
    assert "grade" not in body["assessment"]


@pytest.mark.parametrize(("fixed", "grade"), [(8, "excelled"), (6, "passed"), (4, None), (2, "failed")])
def test_a_grade_is_given_where_the_customer_said_which(
    vendor: Ats, make_report: MakeReport, fixed: int, grade: str | None
) -> None:
    result = ats.result_of(vendor.stored(), make_report(source=b"fixed=%d" % fixed), None)
    assert put(vendor, result, grades=GRADES)["assessment"].get("grade") == grade


def test_an_open_verdict_is_not_turned_into_a_grade(vendor: Ats, make_report: MakeReport) -> None:
    result = ats.result_of(vendor.stored(), make_report(source=b"fixed=2"), None)
    open_one = result.model_copy(update={"rating_is_final": False})
    assert "grade" not in put(vendor, open_one, grades=GRADES)["assessment"]


def test_attachments_go_along(vendor: Ats, make_report: MakeReport) -> None:
    attached = (ats.Attachment(description="Report", url="https://assay.example/s/1.pdf"),)
    body = put(vendor, ats.result_of(vendor.stored(), make_report(), None, attached))
    assert body["attachments"] == [{"description": "Report", "url": "https://assay.example/s/1.pdf"}]


def test_a_cancelled_submission_is_expired_over_there(vendor: Ats) -> None:
    assert put(vendor, ats.Result(status="CANCELLED")) == {"status": "expired"}


def test_refusals_have_status_and_message_in_the_body(vendor: Ats) -> None:
    body = vendor.recorded("workable/assessments.json") | {"test_id": "gone"}
    answer = vendor.ask("workable", "POST", "assessments", body)
    assert (answer.status, answer.body) == (404, {"status": 404, "message": "no test 'gone'"})

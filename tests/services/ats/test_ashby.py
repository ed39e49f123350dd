"""Ashby's assessments framework, against its recorded shapes."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from grading.verdict import Report
from services import ats

if TYPE_CHECKING:
    from tests.services.ats.conftest import Ats

MakeReport = Callable[..., Report]
MESSAGE = ats.Message("msg_1", "submission.graded", "{}")
TYPES = {"numeric_score", "numeric_duration_minutes", "url", "string", "boolean_success"}


def update(vendor: Ats, result: ats.Result, **settings: Any) -> dict[str, Any]:
    """The body of assessment.update for a result; checks what every one has in common."""
    integration = vendor.integration("ashby", settings=settings)
    sent = ats.outbound(integration, ats.Callback(assessment_id="asm_1"), MESSAGE, result, vendor.now_s)
    assert sent
    assert (sent.method, sent.url) == ("POST", "https://api.ashbyhq.com/assessment.update")
    assert base64.b64decode(sent.headers["Authorization"].removeprefix("Basic ")) == b"outbound-key:"
    body: dict[str, Any] = json.loads(sent.body)
    assert (body["assessment_id"], body["timestamp"]) == ("asm_1", 1_800_000_000_000)
    values = [value for value in body.values() if isinstance(value, dict)] + body.get("metadata", [])
    assert all({"identifier", "label", "type", "value"} <= set(value) and value["type"] in TYPES for value in values)
    return body


def test_assessments_are_listed(vendor: Ats) -> None:
    answer = vendor.ask("ashby", "POST", "assessment.list", {})
    assert (answer.status, answer.body) == (200, vendor.recorded("ashby/assessment.list.answer.json"))


def test_starting_becomes_an_assessment(vendor: Ats) -> None:
    answer = vendor.ask("ashby", "POST", "assessment.start", vendor.recorded("ashby/assessment.start.json"))
    (request,) = vendor.desk.requests
    assert (answer.status, answer.body) == (200, vendor.recorded("ashby/assessment.start.answer.json"))
    assert (request.candidate.name, request.candidate.email) == ("Ada Lovelace", "ada@example.com")
    assert request.candidate.external_id == "3ae2b801-19f6-41ef-ad28-214bd731948f"


def test_a_candidate_who_is_being_assessed_is_not_started_twice(vendor: Ats, make_report: MakeReport) -> None:
    body = vendor.recorded("ashby/assessment.start.json")
    vendor.ask("ashby", "POST", "assessment.start", body)
    answer = vendor.ask("ashby", "POST", "assessment.start", body)
    assert (answer.status, answer.body["message"]) == (409, "The candidate is already being assessed.")
    vendor.desk.complete("asm_1", ats.result_of(vendor.stored(), make_report(), None))
    assert vendor.ask("ashby", "POST", "assessment.start", body).body["results"] == {"assessment_id": "asm_2"}


def test_words_for_the_user_come_with_422(vendor: Ats) -> None:
    body = vendor.recorded("ashby/assessment.start.json") | {"assessment_type_id": "gone"}
    answer = vendor.ask("ashby", "POST", "assessment.start", body)
    assert answer.status == 422 and answer.body["message"].startswith("This assessment is no longer offered")


def test_cancelling_works_until_the_candidate_has_handed_in(vendor: Ats, make_report: MakeReport) -> None:
    vendor.ask("ashby", "POST", "assessment.start", vendor.recorded("ashby/assessment.start.json"))
    body = vendor.recorded("ashby/assessment.cancel.json")
    assert vendor.ask("ashby", "POST", "assessment.cancel", body).status == 200
    assert vendor.ask("ashby", "POST", "assessment.cancel", body).status == 200
    vendor.desk.complete("asm_1", ats.result_of(vendor.stored(), make_report(), None))
    assert vendor.ask("ashby", "POST", "assessment.cancel", body).status == 422
    assert vendor.ask("ashby", "POST", "assessment.cancel", {"assessment_id": "asm_9"}).status == 404


def test_a_result_is_what_completes_an_assessment(vendor: Ats, make_report: MakeReport) -> None:
    body = update(vendor, ats.result_of(vendor.stored(), make_report(source=b"fixed=3"), "https://assay.example/s/1"))
    assert body["assessment_result"]["type"] == "numeric_score"
    assert body["assessment_result"]["value"] == 37.5
    assert body["assessment_status"]["value"] == "Completed"
    assert body["assessment_profile_url"]["value"] == "https://assay.example/s/1"
    assert [value["value"] for value in body["metadata"] if value["identifier"] == "bug-lr"] == ["not fixed"]


def test_what_cannot_be_graded_completes_it_in_words(vendor: Ats, make_report: MakeReport) -> None:
    body = update(vendor, ats.result_of(vendor.stored("invalid"), make_report(source=b"syntax"), None))
    assert body["assessment_result"]["type"] == "string"
    assert body["assessment_result"]["value"].startswith("Cannot be graded")
    assert "assessment_profile_url" not in body


def test_a_cancelled_submission_is_told_as_cancelled(vendor: Ats) -> None:
    body = update(vendor, ats.Result(status="CANCELLED"))
    assert "assessment_status" not in body and body["cancelled_reason"]["value"]


def test_nothing_is_told_while_nothing_is_known(vendor: Ats) -> None:
    integration, result = vendor.integration("ashby"), ats.Result(status="OPEN")
    assert ats.outbound(integration, ats.Callback(assessment_id="asm_1"), MESSAGE, result, 0) is None


def test_the_address_of_the_api_is_a_setting(vendor: Ats) -> None:
    integration = vendor.integration("ashby", settings={"api_base": "https://ashby.example/"})
    sent = ats.outbound(integration, ats.Callback(assessment_id="a"), MESSAGE, ats.Result(status="CANCELLED"), 0)
    assert sent and sent.url == "https://ashby.example/assessment.update"

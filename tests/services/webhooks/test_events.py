"""Bodies of events are compact, complete and the same each time."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grading.verdict import Report
from services.store import events

MakeReport = Callable[..., Report]
NASTY = st.text(max_size=3000) | st.just("\U0001f600" * 3000) | st.just('"\\\n\x00\ud800' * 600)


@dataclass(frozen=True)
class Facts:
    """A submission as far as an event tells of it."""

    id: str = "sub_1"
    state: str = "graded"
    challenge: str = "spiral"
    file_name: str = "attempt.py"
    candidate: Mapping[str, Any] | None = None
    cohort_id: str | None = None
    generation: int = 0
    finished_us: int | None = 1_800_000_000_123_456
    queued_us: int = 1_799_000_000_000_000
    last_error: str | None = None


def test_a_grade_is_told_bug_by_bug(make_report: MakeReport) -> None:
    facts = Facts(candidate={"external_id": "c-7", "name": "Ada", "email": "ada@example.com"}, cohort_id="coh_1")
    event = json.loads(events.body_of(events.SUBMISSION_GRADED, facts, make_report(source=b"fixed=3")))
    data = event["data"]
    assert (event["type"], event["timestamp"]) == ("submission.graded", "2027-01-15T08:00:00.123Z")
    assert (data["submission_id"], data["state"], data["challenge"]) == ("sub_1", "graded", "spiral")
    assert (data["fixed"], data["total"], data["rating"]) == (3, 8, "Below Bar")
    assert data["tampering_suspected"] is False
    assert [bug["verdict"] for bug in data["bugs"]] == ["fixed"] * 3 + ["not_fixed"] * 5
    assert data["bugs"][0] == {"number": 1, "id": "softmax", "verdict": "fixed", "summary": "what was seen"}
    assert data["links"] == {"submission": "/v1/submissions/sub_1", "cohort": "/v1/cohorts/coh_1"}


def test_of_the_candidate_only_the_customers_own_number_goes_out(make_report: MakeReport) -> None:
    facts = Facts(candidate={"external_id": "c-7", "name": "Ada", "email": "ada@example.com"})
    body = events.body_of(events.SUBMISSION_GRADED, facts, make_report())
    assert json.loads(body)["data"]["candidate"] == {"external_id": "c-7"}
    assert "Ada" not in body and "ada@" not in body


def test_what_the_program_printed_and_the_secrets_of_the_grade_stay_here(make_report: MakeReport) -> None:
    body = events.body_of(events.SUBMISSION_GRADED, Facts(), make_report(output_tail="printed", secret_seed="5eed"))
    assert "printed" not in body and "5eed" not in body


def test_an_invalid_submission_says_why(make_report: MakeReport) -> None:
    report = make_report(source=b"syntax")
    data = json.loads(events.body_of(events.SUBMISSION_INVALID, Facts(state="invalid"), report))["data"]
    assert (data["rating"], data["bugs"], data["fixed"]) == (None, [], None)
    assert data["invalid_reason"].startswith("the file is no program")


def test_a_dead_submission_has_an_error_and_no_verdict() -> None:
    facts = Facts(state="dead", last_error="no Engine answers")
    data = json.loads(events.body_of(events.SUBMISSION_DEAD, facts, None))["data"]
    assert data["error"] == "no Engine answers" and "bugs" not in data


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(NASTY, NASTY, NASTY)
def test_no_text_makes_a_body_large_or_unreadable(
    make_report: MakeReport, summary: str, name: str, external_id: str
) -> None:
    report = make_report(source=b"fixed=3", text=summary)
    many = tuple(
        report.bugs[0].model_copy(update={"number": n, "id": name[:100], "title": summary}) for n in range(1, 200)
    )
    facts = Facts(file_name=name, candidate={"external_id": external_id}, last_error=summary)
    for bugs in (report.bugs, many):
        for told in (report.model_copy(update={"bugs": bugs, "invalid_reason": name}), None):
            body = events.body_of(events.SUBMISSION_GRADED, facts, told)
            assert len(body.encode("utf-8")) < events.MAX_BODY_BYTES
            assert json.loads(body)["data"]["submission_id"] == "sub_1"
            assert body == events.body_of(events.SUBMISSION_GRADED, facts, told)


def test_a_cohort_and_a_ping_have_bodies_too() -> None:
    cohort = json.loads(events.cohort_body("coh_1", "Autumn", "spiral", {"graded": 2, "dead": 1}, 1_000_000))
    assert (cohort["type"], cohort["timestamp"]) == ("cohort.finished", "1970-01-01T00:00:01.000Z")
    assert cohort["data"]["counts"] == {"graded": 2, "dead": 1}
    ping = json.loads(events.ping_body("whe_1", 0))
    assert (ping["type"], ping["data"]) == ("endpoint.ping", {"endpoint_id": "whe_1"})
    assert "endpoint.ping" not in events.EVENT_TYPES


@pytest.mark.parametrize(("at_us", "text"), [(0, "1970-01-01T00:00:00.000Z"), (-1, "1969-12-31T23:59:59.999Z")])
def test_times_are_utc(at_us: int, text: str) -> None:
    assert events.iso(at_us) == text

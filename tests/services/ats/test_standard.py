"""The standard integration: signed in, signed out."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest

from services import ats, webhooks

if TYPE_CHECKING:
    from tests.services.ats.conftest import Ats


def changed(body: dict[str, Any], **data: Any) -> dict[str, Any]:
    return body | {"data": body["data"] | data}


def test_a_file_comes_in(vendor: Ats) -> None:
    answer = vendor.ask("standard", "POST", "", vendor.recorded("standard/submission.create.json"))
    assert (answer.status, answer.headers["Location"]) == (202, "/v1/submissions/sub_1")
    assert answer.body == {"submission_id": "sub_1", "location": "/v1/submissions/sub_1"}
    (request,) = vendor.desk.submissions
    assert (request.message_id, request.challenge, request.file_name) == ("msg_in", "spiral", "attempt.py")
    assert request.source == b"import torch\n"
    assert request.candidate == ats.Candidate(external_id="c-77", name="Ada Lovelace", email="ada@example.com")
    assert request.callback == ats.Callback(url="https://ats.example.com/hooks/assay")


def test_any_bytes_come_in_as_base64(vendor: Ats) -> None:
    source = bytes(range(256))
    file = {"content": base64.b64encode(source).decode(), "encoding": "base64"}
    body = changed(vendor.recorded("standard/submission.create.json"), file=file, candidate={}, callback=None)
    assert vendor.ask("standard", "POST", "", body).status == 202
    assert vendor.desk.submissions[0].source == source
    assert vendor.desk.submissions[0].file_name == "submission.py"


def test_the_same_message_again_is_answered_as_the_first_time(vendor: Ats) -> None:
    body = vendor.recorded("standard/submission.create.json")
    first, second = (vendor.ask("standard", "POST", "", body) for _ in range(2))
    assert first == second and len(vendor.desk.submissions) == 1
    other = vendor.ask("standard", "POST", "", changed(body, challenge="spiral", file={"content": "other"}))
    assert other.status == 409


def test_what_is_not_signed_or_not_fresh_is_not_read(vendor: Ats) -> None:
    good = vendor.call("standard", "POST", "", vendor.recorded("standard/submission.create.json"))
    integration = vendor.integration("standard")
    bad = [
        ats.Call("POST", "", {}, {}, good.body),
        ats.Call("POST", "", {}, good.headers, good.body + b" "),
        ats.Call("POST", "", {}, {**good.headers, "webhook-id": "other"}, good.body),
        ats.Call("POST", "", {}, {**good.headers, "webhook-timestamp": "1700000000"}, good.body),
        ats.Call("POST", "", {}, {"Authorization": vendor.authorization("greenhouse")}, good.body),
    ]
    assert [ats.handle(integration, call, vendor.desk, vendor.terms).status for call in bad] == [401] * 5
    assert vendor.desk.submissions == []


def test_a_secret_can_be_replaced_without_a_gap(vendor: Ats) -> None:
    call = vendor.call("standard", "POST", "", vendor.recorded("standard/submission.create.json"))
    both = vendor.integration("standard", secrets=(webhooks.new_secret(), vendor.secret))
    after = vendor.integration("standard", secrets=(webhooks.new_secret(),))
    assert ats.handle(both, call, vendor.desk, vendor.terms).status == 202
    assert ats.handle(after, call, vendor.desk, vendor.terms).status == 401


@pytest.mark.parametrize(
    ("data", "status", "words"),
    [
        ({"challenge": "nothing"}, 422, "there are: spiral"),
        ({"file": None}, 422, "data.file"),
        ({"file": {"name": "x.py"}}, 422, "data.file.content"),
        ({"file": {"content": "***", "encoding": "base64"}}, 422, "not base64"),
        ({"file": {"content": "é", "encoding": "base64"}}, 422, "not base64"),
        ({"file": {"content": "x", "encoding": "rot13"}}, 422, "encoding"),
        ({"file": {"content": "x" * ((1 << 20) + 1)}}, 413, "at most 1,048,576"),
        ({"callback": {"url": "http://ats.example.com/"}}, 422, "https"),
        ({"callback": {"url": "javascript:alert(1)"}}, 422, "callback.url"),
        ({"candidate": {"name": "x" * 501}}, 422, "candidate.name"),
    ],
)
def test_what_cannot_be_taken_says_why(vendor: Ats, data: dict[str, Any], status: int, words: str) -> None:
    body = changed(vendor.recorded("standard/submission.create.json"), **data)
    answer = vendor.ask("standard", "POST", "", body)
    assert answer.status == status and words in answer.body["detail"]
    assert vendor.desk.submissions == []


def test_another_event_is_refused_by_name(vendor: Ats) -> None:
    answer = vendor.ask("standard", "POST", "", {"type": "candidate.created", "data": {}})
    assert answer.status == 422 and "candidate.created" in answer.body["detail"]


def test_names_lose_what_would_harm_a_log_or_a_database(vendor: Ats) -> None:
    candidate = {"name": "Ada\n\x00\u202eLovelace ", "external_id": "\ud83d\ude00 7"}
    body = changed(vendor.recorded("standard/submission.create.json"), candidate=candidate)
    assert vendor.ask("standard", "POST", "", body).status == 202
    told = vendor.desk.submissions[0].candidate
    assert (told.name, told.external_id) == ("Ada Lovelace", "😀 7")


def test_the_result_goes_out_signed_with_the_body_that_is_kept(vendor: Ats) -> None:
    message = ats.Message("msg_out", "submission.graded", json.dumps({"type": "submission.graded"}))
    callback = ats.Callback(url="https://ats.example.com/hooks/assay")
    integration = vendor.integration("standard")
    sent = ats.outbound(integration, callback, message, ats.Result(status="COMPLETED"), vendor.now_s)
    assert sent and (sent.method, sent.url, sent.body) == ("POST", callback.url, message.body.encode())
    known = webhooks.verify([vendor.secret], sent.headers, sent.body, now_s=vendor.now_s, tolerance_s=1)
    assert known == "msg_out"
    assert vendor.secret not in repr(sent) and vendor.secret not in repr(integration)

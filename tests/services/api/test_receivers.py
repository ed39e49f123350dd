"""Webhook endpoints as their owner manages them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from services import webhooks
from services.store import AttemptResult
from tests.services.api.conftest import Api, problem

URL = "https://receiver.example/assay"


def make(api: Api, **fields: Any) -> dict[str, Any]:
    response = api("POST", "/webhook-endpoints", json={"url": URL, **fields})
    assert response.status_code == 201
    return response.json


def deliveries(api: Api, endpoint: str, query: str = "") -> list[dict[str, Any]]:
    return api("GET", f"/webhook-endpoints/{endpoint}/deliveries{query}").json["data"]


def test_the_secret_is_shown_once(api: Api):
    made = make(api, event_types=["submission.graded", "submission.graded"])
    assert webhooks.key_of(made["secret"])
    assert made["event_types"] == ["submission.graded"]
    for text in (api("GET", "/webhook-endpoints").text, api("GET", f"/webhook-endpoints/{made['id']}").text):
        assert made["id"] in text and made["secret"] not in text


@pytest.mark.parametrize(
    "url",
    ["http://receiver.example/", "ftp://x/", "https://", "https://user:pw@x.example/", "https://x:0/", "nonsense"],
)
def test_addresses_that_are_refused(api: Api, url: str):
    problem(api("POST", "/webhook-endpoints", json={"url": url}), 422)


def test_an_unknown_event_is_refused(api: Api):
    problem(api("POST", "/webhook-endpoints", json={"url": URL, "event_types": ["submission.lost"]}), 422)


def test_a_new_secret_leaves_the_old_one_live(api: Api):
    made = make(api)
    rotated = api("POST", f"/webhook-endpoints/{made['id']}/rotate").json
    assert rotated["secret"] != made["secret"]
    assert len(rotated["secrets"]) == 2
    live = {one.secret for one in api.store.endpoint(made["id"]).secrets}
    assert live == {made["secret"], rotated["secret"]}


def test_ping_log_and_replay(api: Api):
    made = make(api)
    ping = api("POST", f"/webhook-endpoints/{made['id']}/ping")
    assert ping.status_code == 202 and ping.json["state"] == "pending"
    (due,) = api.store.due_messages(10, 60)
    result = AttemptResult(at_us=1, status_code=500, error="answered 500", duration_ms=12, response_head="oops")
    api.store.record_attempt(due.message.id, due.lease_until_us, result, None, "dead")
    told = api("GET", f"/deliveries/{ping.json['id']}").json
    assert (told["state"], told["attempt_log"][0]["status_code"]) == ("dead", 500)
    assert json.loads(told["body"])["type"] == "endpoint.ping"
    assert [one["id"] for one in deliveries(api, made["id"], "?state=dead")] == [ping.json["id"]]
    assert deliveries(api, made["id"], "?state=delivered") == []
    replayed = api("POST", f"/deliveries/{ping.json['id']}/replay")
    assert (replayed.status_code, replayed.json["state"], replayed.json["id"]) == (202, "pending", ping.json["id"])
    problem(api("POST", f"/deliveries/{ping.json['id']}/replay"), 409, "conflict")


def test_a_grade_makes_a_delivery(api: Api):
    made = make(api, event_types=["submission.graded"])
    name = api.submit()
    api.grade(name)
    (delivery,) = deliveries(api, made["id"], f"?submission_id={name}&event_type=submission.graded")
    assert delivery["submission_id"] == name


def test_disable_and_enable(api: Api):
    made = make(api)
    assert api("POST", f"/webhook-endpoints/{made['id']}/disable").json["disabled_reason"]
    problem(api("POST", f"/webhook-endpoints/{made['id']}/ping"), 409, "conflict")
    assert api("POST", f"/webhook-endpoints/{made['id']}/enable").json["disabled_at"] is None


def test_delete(api: Api):
    made = make(api)
    assert api("DELETE", f"/webhook-endpoints/{made['id']}").status_code == 204
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/ping"), ("POST", "/rotate"), ("GET", "/deliveries")):
        problem(api(method, f"/webhook-endpoints/{made['id']}{path}"), 404)

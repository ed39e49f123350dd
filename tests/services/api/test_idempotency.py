"""The same request twice makes one thing."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from services.store import StoreUnavailable
from tests.services.api.conftest import PROGRAM, Api, a_zip, problem

BODY = {"challenge": "spiral", "source": PROGRAM}


def send(api: Api, key: str = '"first"', body: dict[str, Any] = BODY) -> Any:
    return api("POST", "/submissions", json=body, headers={"Idempotency-Key": key})


def count(api: Api) -> int:
    return len(api("GET", "/submissions").json["data"])


def test_a_repetition_gets_the_first_answer(api: Api):
    first, again = send(api), send(api)
    assert (first.status_code, first.data, first.headers["Location"]) == (202, again.data, again.headers["Location"])
    assert again.status_code == 202 and again.headers["Idempotent-Replayed"] == "true"
    assert count(api) == 1


def test_bare_and_quoted_are_the_same_key(api: Api):
    assert send(api, "abc-1").json["id"] == send(api, '"abc-1"').json["id"]


def test_another_request_under_the_key_is_422(api: Api):
    send(api)
    problem(send(api, body={**BODY, "source": "print()"}), 422, "idempotency-mismatch")
    problem(send(api, body={**BODY, "candidate": {"name": "Eve"}}), 422, "idempotency-mismatch")


def test_keys_of_two_clients_do_not_meet(api: Api):
    other = api("POST", "/submissions", key=api.key("submit"), json=BODY, headers={"Idempotency-Key": '"first"'})
    assert other.json["id"] != send(api).json["id"]


@pytest.mark.parametrize("key", ["", '"', '""', "a b", '"' + "x" * 256 + '"', "x" * 256, '"ä"', "a,b"])
def test_what_is_no_key_is_400(api: Api, key: str):
    problem(send(api, key), 400, "idempotency-key")


def test_a_repetition_is_answered_though_the_queue_is_full(make_api: Any):
    api = make_api(api_backlog_limit=1)
    first = send(api)
    assert send(api).json == first.json
    problem(send(api, '"second"'), 429, "backlog")
    problem(api("POST", "/submissions", json=BODY), 429, "backlog")
    assert count(api) == 1


def test_what_was_erased_since_is_gone(api: Api):
    assert api("DELETE", f"/submissions/{send(api).json['id']}").status_code == 204
    problem(send(api), 410, "erased")


def test_a_refused_request_frees_its_key(api: Api):
    problem(send(api, body={**BODY, "challenge": "none"}), 422, "unknown-challenge")
    assert send(api).status_code == 202


def test_a_fault_of_ours_frees_its_key(api: Api, monkeypatch: pytest.MonkeyPatch):
    def fail(*args: Any, **more: Any) -> None:
        raise StoreUnavailable("gone")

    with monkeypatch.context() as broken:
        broken.setattr(type(api.store), "create_submission", fail)
        response = send(api)
    problem(response, 503, "store-unavailable")
    assert response.headers["Retry-After"]
    assert send(api).status_code == 202
    assert count(api) == 1


def test_one_under_way_is_409(api: Api, monkeypatch: pytest.MonkeyPatch):
    """The second comes while the first is between its two transactions."""
    create, seen = type(api.store).create_submission, []

    def slow(store: Any, *args: Any, **more: Any) -> Any:
        monkeypatch.undo()
        seen.append(send(api))
        return create(store, *args, **more)

    monkeypatch.setattr(type(api.store), "create_submission", slow)
    assert send(api).status_code == 202
    problem(seen[0], 409, "idempotency-in-flight")
    assert seen[0].headers["Retry-After"] == "1"


def test_a_race_makes_one(api: Api):
    barrier, answers = threading.Barrier(8), []

    def run() -> None:
        client = api.app.test_client()
        headers = {"Idempotency-Key": '"race"', "Authorization": f"Bearer {api.everything}"}
        barrier.wait()
        answers.append(client.post("/v1/submissions", json=BODY, headers=headers))

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.status_code for answer in answers} <= {202, 409}
    assert len({answer.json["id"] for answer in answers if answer.status_code == 202}) == 1
    assert count(api) == 1


def test_an_empty_cohort_too(api: Api):
    body, headers = {"name": "Spring", "challenge": "spiral"}, {"Idempotency-Key": '"empty"'}
    first, again = (api("POST", "/cohorts", json=body, headers=headers).json for _ in range(2))
    assert first == again and first["accepted"] == 0


def test_cohorts_too(api: Api):
    def upload() -> Any:
        form = {
            "name": "Spring",
            "challenge": "spiral",
            "files": (a_zip({"a.py": "fixed=1", "b.py": "fixed=2"}), "c.zip"),
        }
        return api("POST", "/cohorts", data=form, headers={"Idempotency-Key": '"cohort"'})

    first = upload()
    assert first.json["accepted"] == 2
    assert upload().json == first.json
    assert len(api("GET", "/cohorts").json["data"]) == 1
    assert count(api) == 2


def test_a_cohort_that_could_not_be_filled_leaves_nothing_and_the_repetition_makes_one(
    api: Api, monkeypatch: pytest.MonkeyPatch
):
    def fail(*args: Any, **more: Any) -> None:
        raise StoreUnavailable("gone")

    body = {"name": "Spring", "challenge": "spiral", "submissions": [{"source": PROGRAM}]}
    headers = {"Idempotency-Key": '"spring"'}
    with monkeypatch.context() as broken:
        broken.setattr("services.store.replies.remember", fail)
        assert api("POST", "/cohorts", json=body, headers=headers).status_code == 503
    assert api("GET", "/cohorts").json["data"] == [] == api("GET", "/submissions").json["data"]
    first = api("POST", "/cohorts", json=body, headers=headers)
    again = api("POST", "/cohorts", json=body, headers=headers)
    assert (first.status_code, first.json) == (202, again.json)
    assert [one["id"] for one in api("GET", "/cohorts").json["data"]] == [first.json["id"]]

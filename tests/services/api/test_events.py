"""Progress as server-sent events."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

from tests.services.api.conftest import Api, problem


def frames(text: str) -> list[dict[str, Any]]:
    """The events of a stream; comments and retry lines have no id."""
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if "id" in fields:
            found.append({"id": int(fields["id"]), "event": fields["event"], "data": json.loads(fields["data"])})
    return found


def test_a_settled_submission_tells_all_and_ends(api: Api):
    name = api.submit()
    api.grade(name)
    response = api("GET", f"/submissions/{name}/events")
    assert response.mimetype == "text/event-stream"
    events = frames(response.text)
    assert [event["event"] for event in events] == ["queued", "started", "graded"]
    assert all(event["data"]["submission_id"] == name for event in events)


def test_it_resumes_after_the_last_event(api: Api):
    name = api.submit()
    api.grade(name)
    first, *rest = frames(api("GET", f"/submissions/{name}/events").text)
    headers = {"Last-Event-ID": str(first["id"])}
    assert frames(api("GET", f"/submissions/{name}/events", headers=headers).text) == rest
    assert frames(api("GET", f"/submissions/{name}/events?after={first['id']}").text) == rest


def test_nothing_new_is_204_so_that_browsers_stay_away(api: Api):
    name = api.submit()
    api.grade(name)
    last = frames(api("GET", f"/submissions/{name}/events").text)[-1]
    response = api("GET", f"/submissions/{name}/events", headers={"Last-Event-ID": str(last["id"])})
    assert response.status_code == 204


def test_news_and_heartbeats_come_while_it_runs(make_api: Any):
    api = make_api(sse_heartbeat_s=0.05)
    name = api.submit()

    def work() -> None:
        time.sleep(0.3)
        claim = api.store.claim(name, "worker", 60)
        api.store.add_event(name, claim.fence, "step", {"step": "probes"})
        time.sleep(0.2)
        api.store.hand_back(claim)
        api.grade(name)

    worker = threading.Thread(target=work)
    worker.start()
    text = api("GET", f"/submissions/{name}/events").text
    worker.join()
    events = frames(text)
    assert [event["event"] for event in events][:3] == ["queued", "started", "step"]
    assert events[-1]["event"] == "graded"
    assert ": still here" in text


def test_a_stream_ends_by_itself_and_frees_its_place(make_api: Any):
    api = make_api(sse_max_s=0.1, sse_max_streams=1)
    name = api.submit()
    for _ in range(3):
        response = api("GET", f"/submissions/{name}/events")
        assert response.status_code == 200
        response.get_data()
        response.close()  # as a server does when the stream is out


def test_too_many_streams_are_503(make_api: Any):
    api = make_api(sse_max_streams=1)
    name = api.submit()
    assert api.app.extensions["assay"].streams.begin("somebody")
    response = api("GET", f"/submissions/{name}/events")
    problem(response, 503, "streams")
    assert int(response.headers["Retry-After"]) > 0


def test_one_key_does_not_take_all_streams(make_api: Any):
    streams = make_api(sse_max_streams=8).app.extensions["assay"].streams
    assert [streams.begin("greedy") for _ in range(3)] == [True, True, False]
    assert [streams.begin(name) for name in "abcdefg"] == [True] * 6 + [False]
    streams.end("greedy")
    assert streams.begin("g") and not streams.begin("h")


def test_a_last_event_that_is_no_number_is_400(api: Api):
    for value in ("x", "1" * 40, "-1", "²"):
        headers = {"Last-Event-ID": value}
        problem(api("GET", f"/submissions/{api.submit()}/events", headers=headers), 400, "last-event-id")

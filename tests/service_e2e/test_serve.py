"""`assay serve` with its real parts: Redis, SQLite, Celery, gunicorn, the runner and the Docker sandbox."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from bench.chaos import kinds
from services.store import MessageFilters, Store
from services.webhooks import verify
from tests.service_e2e.conftest import GRADE_S, Inbox, Served, until

pytestmark = [
    pytest.mark.docker,
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.allow_hosts(["127.0.0.1"]),
]


def endpoint(served: Served, inbox: Inbox) -> tuple[str, str]:
    """A receiver at the inbox; its id and its secret."""
    status, made = served.client().call("POST", "/v1/webhook-endpoints", {"url": inbox.url})
    assert status == 201, made
    return made["id"], made["secret"]


def state_of(served: Served, submission_id: str) -> str:
    status, found = served.client().call("GET", f"/v1/submissions/{submission_id}")
    assert status == 200, found
    return str(found["state"])


def test_a_file_goes_in_and_its_report_comes_out_by_signed_webhook(served: Served, inbox: Inbox) -> None:
    endpoint_id, secret = endpoint(served, inbox)
    client = served.client()
    one = client.submit(kinds()["solution"].source, "e2e-1")
    until(lambda: state_of(served, one) == "graded", GRADE_S, "the report")

    _, found = client.call("GET", f"/v1/submissions/{one}")
    report = found["report"]
    assert [bug["verdict"] for bug in report["bugs"]] == ["fixed"] * 8
    assert report["sandbox"] == "docker"
    assert report["timing"]["queue_s"] >= 0

    until(lambda: bool(inbox.came), 30, "the webhook")
    headers, body = inbox.came[0]
    message_id = verify([secret], headers, body, now_s=time.time(), tolerance_s=60)
    told = json.loads(body)
    assert message_id.startswith("msg_")
    assert told["type"] == "submission.graded"
    assert told["data"]["submission_id"] == one
    client.call("DELETE", f"/v1/webhook-endpoints/{endpoint_id}")


def test_metrics_tell_of_api_and_workers(served: Served) -> None:
    one = served.client().submit(kinds()["syntax"].source + "# metrics\n", "e2e-metrics")
    until(lambda: state_of(served, one) == "invalid", GRADE_S, "the report")

    text = served.client().text("/metrics")
    assert "assay_http_request_seconds_count" in text
    assert 'assay_submissions{queue="interactive",state="invalid"}' in text
    assert 'assay_grade_seconds_count{phase="own run"}' in text


def test_progress_is_told_step_by_step(served: Served) -> None:
    one = served.client().submit(kinds()["syntax"].source, "e2e-2")
    until(lambda: state_of(served, one) == "invalid", GRADE_S, "the report")

    store = Store.open(f"sqlite:///{served.state / 'assay.db'}")
    kinds_of_events = [event.kind for event in store.events_after(one, 0, 100)]
    store.close()
    assert kinds_of_events[:2] == ["queued", "started"]
    assert "step" in kinds_of_events
    assert kinds_of_events[-1] == "invalid"


def test_one_state_folder_takes_one_service(served: Served) -> None:
    words = [sys.executable, "-m", "services.cli", "serve"]
    environment = {**served.environment, "ASSAY_API_PORT": "0", "PATH": "/usr/bin:/bin"}
    second = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert second.returncode == 2
    assert "runs already" in second.stderr


def test_killed_in_the_middle_it_leaves_nothing_and_loses_nothing(served: Served, inbox: Inbox) -> None:
    endpoint_id, secret = endpoint(served, inbox)
    client = served.client()
    sources = [
        kinds()[name].source + f"\n# {number}\n" for number, name in enumerate(("solution", "problem", "syntax"))
    ]
    ids = [client.submit(source, f"e2e-kill-{number}") for number, source in enumerate(sources)]
    until(lambda: state_of(served, ids[0]) == "running", GRADE_S, "the first grading")

    served.kill()
    until(lambda: not served.processes(), 20, "the end of all its processes")
    served.start()

    again = [client.submit(source, f"e2e-kill-{number}") for number, source in enumerate(sources)]
    assert again == ids  # the same requests once more: the client never heard whether the first were taken
    expected = ["graded", "graded", "invalid"]
    until(lambda: [state_of(served, one) for one in ids] == expected, GRADE_S, "all reports")
    until(lambda: len({headers["webhook-id"] for headers, _ in inbox.came}) == 3, 60, "all webhooks")
    for headers, body in inbox.came:
        verify([secret], headers, body, now_s=time.time(), tolerance_s=300)
    store = Store.open(f"sqlite:///{served.state / 'assay.db'}")
    for one in ids:
        assert len(store.reports(one)) == 1
        assert len(store.list_messages(MessageFilters(submission_id=one)).items) == 1
    assert store.verify_audit() is None
    store.close()
    client.call("DELETE", f"/v1/webhook-endpoints/{endpoint_id}")


def test_it_stops_when_told_and_lets_a_grading_finish(served: Served) -> None:
    """Afterwards nothing is left, and the next start goes on."""
    client = served.client()
    # The first grading of all has the controls graded before it, which may take longer than a stop waits.
    first = client.submit(kinds()["syntax"].source + "# first\n", "e2e-first")
    until(lambda: state_of(served, first) == "invalid", GRADE_S, "the first grading, with the controls")
    one = client.submit(kinds()["syntax"].source + "# last\n", "e2e-last")
    until(lambda: state_of(served, one) in ("running", "invalid"), GRADE_S, "the grading")

    assert served.part.stop(90) == 0
    until(lambda: not served.processes(), 10, "the end of all its processes")
    store = Store.open(f"sqlite:///{served.state / 'assay.db'}")
    found = store.submission(one)
    store.close()
    served.start()  # for the other tests, which come in any order
    assert found is not None
    assert found.state == "invalid"


def test_without_an_engine_it_says_so_and_leaves_nothing(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Strangers' code is not run in plain processes because Docker is away."""
    one = Served(tmp_path_factory.mktemp("bare"))
    one.environment["DOCKER_HOST"] = f"unix://{one.state}/no.sock"
    one.environment["ASSAY_RUNNER_SOCKET"] = f"{one.state}/no-runner.sock"
    one.part.start()
    assert one.part.process is not None
    assert one.part.process.wait(180) == 4
    assert "runner ended with 4" in one.part.tail(20_000)
    until(lambda: not one.processes(), 10, "the end of all its processes")

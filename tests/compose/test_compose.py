"""The deployment of compose.yaml: a file in and out by webhook, a worker killed, walls that hold, nothing left."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

import pytest

from tests.compose.conftest import GRADE_S, ROOT, Deployment, Integration, until

pytestmark = [
    pytest.mark.docker,
    pytest.mark.slow,
    pytest.mark.timeout(2400),
    pytest.mark.allow_hosts(["127.0.0.1"]),
]

SOLUTION = (ROOT / "challenges" / "spiral" / "solution.py").read_text()
ENGINE_SOCKET = "/var/run/docker.sock"


def in_(deployment: Deployment, submission_id: str) -> dict[str, Any]:
    status, found = deployment.client().call("GET", f"/v1/submissions/{submission_id}")
    assert status == 200, found
    return dict(found)


def test_a_file_goes_in_by_webhook_and_its_result_comes_out_by_webhook(deployment: Deployment) -> None:
    ats = Integration(deployment)
    one = ats.hand_in(SOLUTION, "c-1")
    until(lambda: bool(ats.results(one)), GRADE_S, "the result")

    ((message_id, told),) = ats.results(one).items()
    assert message_id.startswith("msg_")
    assert told["type"] == "submission.graded"
    assert told["data"]["candidate"] == {"external_id": "c-1"}
    assert [bug["verdict"] for bug in told["data"]["bugs"]] == ["fixed"] * 8
    assert in_(deployment, one)["report"]["sandbox"] == "docker"


def test_a_worker_killed_in_mid_grade_leaves_exactly_one_verdict(deployment: Deployment) -> None:
    deployment.compose("up", "--detach", "--no-recreate", "--scale", "worker=3", within_s=300)
    until(lambda: len(running(deployment, "worker")) == 3, 120, "three workers")
    ats = Integration(deployment)
    one = ats.hand_in(SOLUTION + "\n# killed\n", "c-2")

    holder: list[list[str]] = []

    def is_held() -> bool:
        holder[:] = deployment.ask_database(f"SELECT worker FROM submissions WHERE id = '{one}' AND state = 'running'")
        return bool(holder)

    until(is_held, GRADE_S, "a claim")
    # A worker is called after its host, which is the beginning of its container's id.
    (victim,) = (item for item in deployment.containers("worker") if item["Id"][:12] in holder[0][0])
    os.kill(victim["State"]["Pid"], signal.SIGKILL)

    until(lambda: bool(ats.results(one)), GRADE_S, "the result")
    assert in_(deployment, one)["state"] == "graded"
    assert len(ats.results(one)) == 1
    assert deployment.ask_database(f"SELECT count(*) FROM reports WHERE submission_id = '{one}'") == [["1"]]
    assert deployment.ask_database(f"SELECT count(*) FROM webhook_messages WHERE submission_id = '{one}'") == [["1"]]
    started = f"SELECT count(*) FROM events WHERE submission_id = '{one}' AND kind = 'started'"
    assert deployment.ask_database(started) == [["2"]]
    until(lambda: len(running(deployment, "worker")) == 3, 60, "the killed worker's restart")


def running(deployment: Deployment, service: str) -> list[dict[str, Any]]:
    return [item for item in deployment.containers(service) if item["State"]["Running"]]


LOOK_OUT = """
import json, os, socket
from concurrent.futures import ThreadPoolExecutor
def of_socket(path):
    with socket.socket(socket.AF_UNIX) as one:
        try: one.connect(path)
        except OSError as error: return type(error).__name__
    return "open"
def of_host(name, port):
    try: socket.create_connection((name, port), 3).close()
    except OSError as error: return type(error).__name__
    return "open"
def gateways():
    for line in list(open("/proc/net/route"))[1:]:
        number = bytes.fromhex(line.split()[2])[::-1]
        if any(number): yield socket.inet_ntoa(number)
def of_hosts(*places):  # at once, since the resolver takes seconds to give a name up
    with ThreadPoolExecutor() as pool: return list(pool.map(lambda place: of_host(*place), places))
try: writable = not open("/planted", "w").close()
except OSError: writable = False
print(json.dumps({
    "uid": os.getuid(),
    "groups": os.getgroups(),
    "writable": writable,
    "capabilities": [line.split()[1] for line in open("/proc/self/status") if line.startswith(("CapEff", "CapBnd"))],
    "sockets": [of_socket(path) for path in ("/var/run/docker.sock", "/run/docker.sock", "/run/assay/runner.sock")],
    "hosts": of_hosts(*((name, 9100) for name in ("runner", "worker", "worker-webhooks"))),
    "engine": of_hosts(*((host, port) for host in gateways() for port in (2375, 2376))),
}))
"""


def test_the_api_reaches_neither_runner_nor_engine(deployment: Deployment) -> None:
    (api,) = deployment.containers("api")
    assert not api["HostConfig"]["Privileged"]
    assert api["HostConfig"]["ReadonlyRootfs"]
    assert api["HostConfig"]["CapDrop"] == ["ALL"]
    assert "no-new-privileges:true" in api["HostConfig"]["SecurityOpt"]
    assert {mount["Destination"] for mount in api["Mounts"]} == {
        "/run/secrets/assay_database_url",
        "/run/secrets/assay_redis_url",
    }
    networks = {name.removeprefix(f"{deployment.project}_") for name in api["NetworkSettings"]["Networks"]}
    assert networks == {"api", "front"}

    seen = json.loads(deployment.inside("api", LOOK_OUT))
    assert seen["uid"] == 10001
    assert seen["groups"] in ([], [10001])
    assert not seen["writable"]
    assert {int(word, 16) for word in seen["capabilities"]} == {0}
    assert "open" not in seen["sockets"] + seen["hosts"] + seen["engine"]


def test_a_worker_reaches_the_runner_and_not_the_engine(deployment: Deployment) -> None:
    seen = json.loads(deployment.inside("worker", LOOK_OUT))
    assert seen["sockets"] == ["FileNotFoundError", "FileNotFoundError", "open"]
    assert seen["uid"] == 10002


def test_only_the_runner_holds_the_engine_and_it_holds_nothing_else(deployment: Deployment) -> None:
    holders = [
        item["Config"]["Labels"]["com.docker.compose.service"]
        for item in deployment.containers()
        if any(mount["Source"].endswith("docker.sock") for mount in item["Mounts"])
    ]
    assert holders == ["runner"]
    (runner,) = deployment.containers("runner")
    assert runner["HostConfig"]["NetworkMode"] == "none"
    assert {mount["Destination"] for mount in runner["Mounts"]} == {ENGINE_SOCKET, "/run/assay"}
    challenges = "import importlib.util; print(importlib.util.find_spec('challenges'))"
    assert deployment.inside("runner", challenges).strip() == "None"


def test_no_environment_holds_a_password(deployment: Deployment) -> None:
    password = deployment.compose("exec", "-T", "postgres", "cat", "/run/secrets/postgres_password").strip()
    queue_password = deployment.compose("exec", "-T", "redis", "cat", "/run/secrets/redis_password").strip()
    assert password and queue_password
    told = json.dumps([[item["Config"], item["Args"]] for item in deployment.containers()])
    assert password not in told
    assert queue_password not in told
    logs = deployment.compose("logs")
    assert password not in logs
    assert queue_password not in logs


def test_redis_forgets_nothing_and_lets_nobody_in_without_a_password(deployment: Deployment) -> None:
    ask = (
        'REDISCLI_AUTH="$(cat /run/secrets/redis_password)" '
        "redis-cli config get appendonly; redis-cli config get maxmemory-policy"
    )
    said = deployment.compose("exec", "-T", "redis", "sh", "-c", ask)
    assert "appendonly\nyes" in said
    assert "NOAUTH" in said


def test_a_gpu_host_has_a_runner_with_the_runtime_of_nvidia(deployment: Deployment) -> None:
    """What it would be started with; no machine with a GPU is here."""
    told = json.loads(deployment.compose("--profile", "gpu", "config", "--format", "json"))
    runner = told["services"]["runner-gpu"]
    assert runner["environment"]["ASSAY_RUNTIME"] == "nvidia"
    assert runner["network_mode"] == "none"
    assert not runner.get("secrets")

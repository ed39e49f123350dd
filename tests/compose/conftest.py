"""compose.yaml as an operator starts it, under a project name of its own. Everything is real."""

from __future__ import annotations

import base64
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from bench.stack import Client, free_port
from services import webhooks

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
BUILD_S, UP_S, GRADE_S, DOWN_S = 1500.0, 300.0, 400.0, 240.0  # on a machine that does something else too

# The code is what is deployed; only the times are shortened.
SETTINGS = """
ASSAY_LEASE_S=10
ASSAY_HEARTBEAT_S=2
ASSAY_SWEEP_EVERY_S=1
ASSAY_STALE_QUEUED_S=10
ASSAY_DELIVER_EVERY_S=0.5
ASSAY_SOFT_STOP_S=10
ASSAY_WEBHOOK_ALLOW_PRIVATE=true
ASSAY_WEBHOOK_SCHEDULE_S=0,1,1,2,2,4,4,8,8
ASSAY_API_RATE_LIMIT=100000/minute
ASSAY_API_ANONYMOUS_RATE_LIMIT=100000/minute
"""
RUNNER_SETTINGS = """
ASSAY_RUNNER_JOBS=2
ASSAY_POOL_MAX_SIZE=1
ASSAY_RUNNER_GRACE_S=5
"""


def run(*words: str, within_s: float, environment: Mapping[str, str] | None = None) -> str:
    """What a command printed. Fails with all that it said."""
    done = subprocess.run(
        words,
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=within_s,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(words[:8])} …: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def until(true: Callable[[], bool], within_s: float, what: str) -> None:
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, f"{what} did not come within {within_s:g} s"
        time.sleep(0.5)


class Deployment:
    """One project of Docker Compose."""

    def __init__(self, folder: Path) -> None:
        self.project = f"assay-test-{secrets.token_hex(4)}"
        self.port = free_port()
        self._environment_file = folder / "env"
        settings, runner_settings = folder / "settings.env", folder / "runner.env"
        settings.write_text(SETTINGS)
        runner_settings.write_text(RUNNER_SETTINGS)
        self._environment = {
            "ASSAY_ENV_FILE": str(self._environment_file),
            "ASSAY_SECRETS": str(folder / "secrets"),
            "ASSAY_SETTINGS": str(settings),
            "ASSAY_RUNNER_SETTINGS": str(runner_settings),
            "ASSAY_PUBLISH": f"127.0.0.1:{self.port}",
            "ASSAY_TEST_RECEIVER": str(HERE / "receiver.py"),
        }
        self._key = ""

    def compose(self, *words: str, within_s: float = 120.0) -> str:
        """`docker compose …` of this project."""
        files = ("-f", str(ROOT / "compose.yaml"), "-f", str(HERE / "receiver.yaml"))
        start = ("docker", "compose", "-p", self.project, "--env-file", str(self._environment_file))
        return run(*start, *files, *words, within_s=within_s, environment=self._environment)

    def up(self, images: list[str]) -> None:
        """Start it and wait until it takes submissions."""
        run("infra/compose/prepare.sh", *images, within_s=60, environment=self._environment)
        self.compose("up", "--detach", "--quiet-pull", within_s=UP_S)
        until(lambda: self.health("api") == "healthy" and self.health("runner") == "healthy", UP_S, "good health")
        scopes = ("--scope", "submit", "--scope", "read", "--scope", "manage")
        self._key = self.compose("exec", "-T", "api", "assay", "keys", "create", "test", *scopes).strip()

    def down(self) -> None:
        """End it with its data."""
        self.compose("down", "--volumes", "--timeout", "30", within_s=DOWN_S)

    def client(self) -> Client:
        return Client(f"http://127.0.0.1:{self.port}", self._key, timeout_s=30.0)

    def containers(self, service: str = "") -> list[dict[str, Any]]:
        """What the Engine knows of the project's containers."""
        of_service = ("--filter", f"label=com.docker.compose.service={service}") if service else ()
        project = ("--filter", f"label=com.docker.compose.project={self.project}")
        ids = run("docker", "ps", "--all", "--quiet", "--no-trunc", *project, *of_service, within_s=60).split()
        found: list[dict[str, Any]] = json.loads(run("docker", "inspect", *ids, within_s=60)) if ids else []
        return found

    def health(self, service: str) -> str:
        found = self.containers(service)
        return str(found[0]["State"].get("Health", {}).get("Status")) if found else "missing"

    def inside(self, service: str, program: str) -> str:
        """What a Python program prints in a container."""
        return self.compose("exec", "-T", service, "python3.11", "-Ic", program)

    def ask_database(self, query: str) -> list[list[str]]:
        """The rows of an answer."""
        words = ("exec", "-T", "postgres", "psql", "-U", "assay", "-d", "assay", "-AtF", "\t", "-c", query)
        return [line.split("\t") for line in self.compose(*words).splitlines()]

    def came(self) -> list[tuple[dict[str, str], bytes]]:
        """The webhooks that the receiver got: headers and body."""
        (receiver,) = self.containers("receiver")
        came = [json.loads(line) for line in run("docker", "logs", receiver["Id"], within_s=60).splitlines()]
        return [(one["headers"], base64.b64decode(one["body"])) for one in came]

    def seat(self) -> str:
        """The file by which the runner's sandboxes are known: their labels name it."""
        return self.inside(
            "runner", "import os; s = os.stat('/run/assay/runner.sock.lock'); print(f'{s.st_dev}:{s.st_ino}')"
        ).strip()

    def left_over(self, seat: str) -> list[str]:
        """Everything of the project that the Engine still has."""
        project = ("--filter", f"label=com.docker.compose.project={self.project}")
        left = run("docker", "ps", "--all", "--quiet", *project, within_s=60).split()
        left += run("docker", "network", "ls", "--quiet", *project, within_s=60).split()
        left += run("docker", "volume", "ls", "--quiet", *project, within_s=60).split()
        return left + self._sandboxes_of(seat)

    def _sandboxes_of(self, seat: str) -> list[str]:
        form = '{{.ID}} {{.Label "assay.owner"}}'
        lines = run(
            "docker", "ps", "--all", "--filter", "label=assay.owner", "--format", form, within_s=60
        ).splitlines()
        return [line.split()[0] for line in lines if seat in line.split()]


class Integration:
    """An applicant tracking system: hands in by signed webhook, and knows its own results by their signature."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._slug = f"ats-{secrets.token_hex(3)}"
        body = {"slug": self._slug, "kind": "standard", "challenges": {"spiral": "spiral"}}
        status, made = deployment.client().call("POST", "/v1/integrations", body)
        assert status == 201, made
        self._secret = str(made["secret"])

    def hand_in(self, source: str, external_id: str) -> str:
        """The submission's id."""
        data = {
            "challenge": "spiral",
            "file": {"name": "attempt.py", "content": source},
            "candidate": {"external_id": external_id},
            "callback": {"url": "http://receiver:9000/results"},
        }
        body = {"type": "submission.create", "data": data}
        raw = json.dumps(body).encode()
        headers = webhooks.headers([self._secret], f"msg_{secrets.token_hex(8)}", int(time.time()), raw)
        status, answer = self._deployment.client().call("POST", f"/v1/hooks/{self._slug}", body, headers)
        assert status == 202, answer
        return str(answer["submission_id"])

    def results(self, submission_id: str) -> dict[str, dict[str, Any]]:
        """By webhook-id, the verified results of a submission that have come so far."""
        found = {}
        for headers, body in self._deployment.came():
            told = json.loads(body)
            if told["data"].get("submission_id") == submission_id:
                message_id = webhooks.verify([self._secret], headers, body, now_s=time.time(), tolerance_s=600)
                found[message_id] = told
        return found


@pytest.fixture(scope="session")
def images() -> list[str]:
    """The images of this working tree, as NAME=tag."""
    return run(sys.executable, "infra/images/build.py", within_s=BUILD_S).split()


@pytest.fixture(scope="module")
def deployment(images: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Up for the tests of a module; taken down it must leave nothing."""
    one = Deployment(tmp_path_factory.mktemp("compose"))
    seat = "none yet"
    try:
        one.up(images)
        seat = one.seat()
        yield one
    except AssertionError:
        sys.stderr.write(one.compose("logs", "--tail", "40"))
        raise
    finally:
        one.down()
    until(lambda: not one.left_over(seat), 60, "the end of all that the project made")

"""The samples in docs/webhooks.md work as they stand there."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from services import ats, webhooks
from services.settings import Settings
from services.store.events import ENDPOINT_PING, EVENT_TYPES

if TYPE_CHECKING:
    from tests.services.webhooks.conftest import Receiver

PAGE = (Path(__file__).parents[3] / "docs" / "webhooks.md").read_text("utf-8")
BODY = '{"type":"submission.graded","data":{"name":"Zoë"}}'.encode()
Verifier = Callable[[bytes, dict[str, str], str], bool]


def sample(language: str, number: int = 0) -> str:
    """One code block of the page."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)[number]


def by_python(body: bytes, headers: dict[str, str], secret: str, folder: Path) -> bool:
    names: dict[str, Callable[..., object]] = {}
    exec(sample("python"), names)
    try:
        return names["verify"](body, headers, secret) == json.loads(body)
    except ValueError:
        return False


def by_node(body: bytes, headers: dict[str, str], secret: str, folder: Path) -> bool:
    (folder / "body.json").write_bytes(body)
    call = f'verify(require("fs").readFileSync("body.json"), {json.dumps(headers)}, {json.dumps(secret)})'
    (folder / "sample.js").write_text(f"{sample('javascript')}\nconsole.log(JSON.stringify({call}));\n", "utf-8")
    done = subprocess.run(["node", "sample.js"], cwd=folder, capture_output=True, timeout=60)
    assert (done.returncode == 0) == bool(done.stdout), done.stderr
    return done.returncode == 0 and json.loads(done.stdout) == json.loads(body)


def by_shell(body: bytes, headers: dict[str, str], secret: str, folder: Path) -> bool:
    (folder / "body.json").write_bytes(body)
    given = {
        "ID": headers.get("webhook-id", ""),
        "TIMESTAMP": headers.get("webhook-timestamp", ""),
        "SIGNATURES": headers.get("webhook-signature", ""),
        "SECRET": secret,
    }
    done = subprocess.run(
        ["sh", "-c", sample("sh", 0)], cwd=folder, env=os.environ | given, capture_output=True, timeout=60, text=True
    )
    assert (done.returncode == 0) == (done.stdout == "verified\n"), done.stderr
    return done.returncode == 0


@pytest.fixture(params=[by_python, by_node, by_shell])
def verify(request: pytest.FixtureRequest, tmp_path: Path) -> Verifier:
    if request.param is by_node and not shutil.which("node"):
        pytest.fail("the page's Node.js sample needs Debian's package nodejs: infra/dev/services.sh installs it")
    return lambda body, headers, secret: request.param(body, headers, secret, tmp_path)


def test_a_sample_takes_what_we_sign_and_nothing_else(verify: Verifier) -> None:
    secret, now = webhooks.new_secret(), int(time.time())
    good = webhooks.headers([secret], "msg_1", now, BODY)
    old = webhooks.headers([secret], "msg_1", now - 400, BODY)
    assert verify(BODY, good, secret)
    assert not verify(BODY + b" ", good, secret)
    assert not verify(BODY, good | {"webhook-id": "msg_2"}, secret)
    assert not verify(BODY, good | {"webhook-timestamp": str(now + 1)}, secret)
    assert not verify(BODY, good, webhooks.new_secret())
    assert not verify(BODY, old, secret)
    assert not verify(BODY, {}, secret)


def test_a_sample_takes_a_message_while_its_secret_is_being_replaced(verify: Verifier) -> None:
    old, new = webhooks.new_secret(), webhooks.new_secret()
    both = webhooks.headers([new, old], "msg_1", int(time.time()), BODY)
    assert verify(BODY, both, old) and verify(BODY, both, new)


@pytest.mark.parametrize(
    "changes",
    [
        {"webhook-timestamp": "a[$(touch pwned)]"},
        {"webhook-timestamp": "9" * 30},
        {"webhook-timestamp": "-1"},
        {"webhook-signature": "*"},
        {"webhook-signature": "v1,é v1, v1,%%%"},
        {"webhook-id": "$(touch pwned)"},
    ],
)
def test_a_sample_refuses_what_is_malformed(verify: Verifier, changes: dict[str, str], tmp_path: Path) -> None:
    secret = webhooks.new_secret()
    assert not verify(BODY, webhooks.headers([secret], "msg_1", int(time.time()), BODY) | changes, secret)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.allow_hosts(["127.0.0.1"])
def test_the_sample_that_sends_is_understood(receiver: Callable[..., Receiver], tmp_path: Path) -> None:
    if not shutil.which("curl"):
        pytest.fail("the page's sample needs Debian's package curl: infra/dev/services.sh installs it")
    (tmp_path / "attempt.py").write_bytes(b"print('ol\xc3\xa9')\n" * 50)
    there = receiver(b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\n{}")
    secret = webhooks.new_secret()
    given = {"ASSAY": f"http://127.0.0.1:{there.port}", "INTEGRATION": "mine", "SECRET": secret, "no_proxy": "*"}
    done = subprocess.run(
        ["sh", "-c", sample("sh", 1)], cwd=tmp_path, env=os.environ | given, capture_output=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, b"{}"), done.stderr
    head, _, body = there.requests[0].partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    assert first.startswith("POST /v1/hooks/mine ")
    integration = ats.Integration("int_1", "standard", (secret,), offers=(ats.Offer("spiral", "spiral", "Spiral"),))
    desk = _Desk()
    call = ats.Call("POST", "", {}, dict(line.split(": ", 1) for line in lines), body)
    answer = ats.handle(integration, call, desk, ats.Terms(time.time(), 300, 1 << 20))
    assert answer.status == 202, answer
    assert desk.took.source == (tmp_path / "attempt.py").read_bytes()
    assert desk.took.candidate.external_id == "c-77"


class _Desk:
    """Takes one file."""

    took: ats.SubmissionRequest

    def submit(self, request: ats.SubmissionRequest) -> ats.Receipt:
        self.took = request
        return ats.Receipt("sub_1", "/v1/submissions/sub_1")

    def start(self, request: object) -> ats.Assessment:
        raise AssertionError

    find = cancel = note = start


def test_the_page_names_every_event_and_no_other() -> None:
    assert set(re.findall(r"^\| `([a-z.]+)` \|", PAGE, re.MULTILINE)) - {"greenhouse", "ashby", "workable"} == set(
        EVENT_TYPES
    )
    assert f"`{ENDPOINT_PING}`" in PAGE


def test_the_page_names_every_action() -> None:
    for kind in ats.KINDS:
        assert kind in PAGE
        for action in ats.actions(kind):
            assert action.removeprefix("assessment") in PAGE


def test_the_page_tells_the_schedule_that_is_the_default() -> None:
    defaults = Settings()
    told = "5 seconds, 5 minutes, 30 minutes and 2, 5, 10, 14, 20 and 24 hours"
    assert told in " ".join(PAGE.split())
    hours = [5, 300, 1800] + [h * 3600 for h in (2, 5, 10, 14, 20, 24)]
    assert defaults.webhook_delays_s() == (0, *hours)
    assert (defaults.webhook_timeout_s, defaults.webhook_jitter, defaults.webhook_tolerance_s) == (20, 0.2, 300)

"""An invited candidate against the whole service: link, check, handing in, receipt. Everything is real."""

from __future__ import annotations

import http.cookiejar
import re
import urllib.request
import uuid

import pytest

from bench.chaos import kinds
from tests.service_e2e.conftest import GRADE_S, Served, until

pytestmark = [
    pytest.mark.docker,
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.allow_hosts(["127.0.0.1"]),
]


class Guest:
    """A browser without a script at a link of an invitation."""

    def __init__(self, base: str, path: str) -> None:
        self.address = base + path
        cookies = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
        self._opener = urllib.request.build_opener(cookies)

    def get(self, rest: str = "") -> str:
        with self._opener.open(self.address + rest, timeout=30) as response:
            return str(response.read().decode())

    def post(self, rest: str, source: str = "", **fields: str) -> str:
        """Send a form with the token that the page gives; the page that it leads to."""
        token = re.search(r'name="csrf" value="([0-9a-f]{64})"', self.get())
        assert token is not None
        mark = uuid.uuid4().hex
        parts = [f'name="{name}"\r\n\r\n{value}' for name, value in {"csrf": token[1], **fields}.items()]
        parts += [f'name="file"; filename="mine.py"\r\nContent-Type: text/x-python\r\n\r\n{source}'] if source else []
        body = "".join(f"--{mark}\r\nContent-Disposition: form-data; {part}\r\n" for part in parts) + f"--{mark}--\r\n"
        headers = {"Content-Type": f"multipart/form-data; boundary={mark}"}
        request = urllib.request.Request(self.address + rest, body.encode(), headers)
        with self._opener.open(request, timeout=30) as response:
            return str(response.read().decode())


def test_a_candidate_checks_hands_in_and_is_graded(served: Served) -> None:
    client, base = served.client(), f"http://127.0.0.1:{served.port}"
    status, cohort = client.call("POST", "/v1/cohorts", {"name": "e2e", "challenge": "spiral"})
    assert status == 202, cohort
    path = f"/v1/cohorts/{cohort['id']}/invitations"
    status, made = client.call("POST", path, {"candidates": [{"name": "Mei Lin"}], "contact": "Rita"})
    assert status == 201, made
    guest = Guest(base, made["data"][0]["link"])

    assert "eight bugs" in guest.post("/start")
    assert "class SpiralNet" in guest.get("/problem")
    waiting = guest.post("/check", kinds()["one bug"].source)
    assert "1 of 5 used" in waiting
    until(lambda: "hx-get" not in guest.get("/checks"), GRADE_S, "the check")
    page = guest.get()
    assert "yes, to its end; 2 epochs seen" in page and "after the last epoch" in page
    assert not re.search(r"not_fixed|missed|learning rate is|Strong Hire|fixed", page)

    _, listed = client.call("GET", "/v1/submissions?limit=50")
    assert cohort["id"] not in [one["cohort_id"] for one in listed["data"]], "a check is no submission"

    check = re.search(r"hand-in\?check=(sub_\w+)", page)
    assert check is not None
    receipt = guest.post("/hand-in", check=check[1], sure="1")
    number = re.search(r"Receipt number</dt><dd><code>(sub_\w+)", receipt)
    assert number is not None

    def state() -> str:
        return str(client.call("GET", f"/v1/submissions/{number[1]}")[1]["state"])

    until(lambda: state() == "graded", GRADE_S, "the report")
    _, found = client.call("GET", f"/v1/submissions/{number[1]}")
    verdicts = {bug["id"]: bug["verdict"] for bug in found["report"]["bugs"]}
    assert (verdicts["lr"], found["fixed"], found["cohort_id"]) == ("not_fixed", 7, cohort["id"])
    assert "7 of 8" not in guest.get() and "You have handed in" in guest.get(), "a receipt is all that is shown"
    _, told = client.call("GET", path)
    assert [(one["state"], one["checks_used"]) for one in told["data"]] == [("handed_in", 1)]

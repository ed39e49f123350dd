"""Keys, integrations, challenges, the audit log, health, metrics, the page."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from services.store import Pool
from tests.services.api.conftest import PROGRAM, Api, problem

HIDDEN = ("solution.py", "guide.toml", "judge.py", "sights.py", "probes.py", "mutations.py", "manifest.toml")
CHALLENGE = Path(__file__).parents[3] / "challenges" / "spiral"


class TestKeys:
    def test_the_secret_is_shown_once(self, api: Api):
        response = api("POST", "/keys", json={"name": "ci", "scopes": ["submit"], "expires_at": "2100-01-01T00:00:00Z"})
        made = response.json
        assert response.status_code == 201 and made["secret"].startswith("assay_")
        assert made["expires_at"].startswith("2100-01-01T00:00:00")
        assert made["secret"] not in api("GET", "/keys").text
        assert api("POST", "/submissions", key=made["secret"], json={"challenge": "spiral", "source": "x=1"}).json["id"]
        (told,) = [one for one in api("GET", "/keys").json["data"] if one["id"] == made["id"]]
        assert told["last_used_at"]

    def test_a_key_does_not_revoke_itself(self, api: Api):
        (own,) = api("GET", "/keys").json["data"]
        problem(api("DELETE", f"/keys/{own['id']}"), 409, "conflict")

    @pytest.mark.parametrize(
        "moment", ["9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59", "1999-01-01T00:00:00Z"]
    )
    def test_an_expiry_that_no_calendar_has_is_refused_and_makes_nothing(self, api: Api, moment: str):
        problem(api("POST", "/keys", json={"name": "odd", "scopes": ["read"], "expires_at": moment}), 422)
        assert [one["name"] for one in api("GET", "/keys").json["data"]] == ["test"]

    def test_an_expiry_in_the_past_is_refused(self, api: Api):
        body = {"name": "late", "scopes": ["read"], "expires_at": "2020-01-01T00:00:00Z"}
        told = problem(api("POST", "/keys", json=body), 422, "invalid-request")
        assert told["errors"][0]["pointer"] == "/expires_at"

    def test_a_key_that_is_there_with_an_odd_expiry_is_still_listed(self, api: Api):
        for at_us in (-(10**17), 10**18):
            api.store.create_key("odd", ["read"], at_us)
        told = {one["expires_at"] for one in api("GET", "/keys").json["data"]}
        assert told == {None, "0001-01-01T00:00:00.000Z", "9999-12-31T23:59:59.999Z"}

    def test_what_is_refused(self, api: Api):
        for body in (
            {"name": "x", "scopes": []},
            {"name": "x", "scopes": ["root"]},
            {"name": "x", "scopes": ["read", "read"]},
            {"name": "", "scopes": ["read"]},
            {"name": "x", "scopes": ["read"], "expires_at": "tomorrow"},
            {"name": "x", "scopes": ["read"], "expires_at": "2100-01-01T00:00:00"},
        ):
            problem(api("POST", "/keys", json=body), 422)


class TestIntegrations:
    def test_life(self, api: Api):
        made = api("POST", "/integrations", json={"slug": "gh", "kind": "greenhouse", "outbound_key": "k-1"}).json
        listed = api("GET", "/integrations").text
        assert made["credential"] not in listed and "k-1" not in listed
        assert api("GET", "/integrations/gh").json["has_credential"]
        problem(api("POST", "/integrations", json={"slug": "gh", "kind": "ashby"}), 409, "conflict")
        assert api("DELETE", "/integrations/gh").status_code == 204
        problem(api("GET", "/integrations/gh"), 404)

    def test_an_unknown_challenge_is_refused(self, api: Api):
        body = {"slug": "x", "kind": "ashby", "challenges": {"a": "none"}}
        problem(api("POST", "/integrations", json=body), 422, "unknown-challenge")


class TestAudit:
    def test_a_lone_surrogate_does_not_stop_the_log(self, api: Api):
        api.store.create_key("\udcff\udcfe", ["read"])
        assert api("GET", "/audit").json["data"][0]["detail"]["name"] == "??"

    def test_changes_are_written_down_with_who(self, api: Api):
        (own,) = api("GET", "/keys").json["data"]
        name = api.submit()
        api.grade(name)
        api("POST", f"/submissions/{name}/regrade")
        api("DELETE", f"/submissions/{name}")
        made = api("POST", "/keys", json={"name": "x", "scopes": ["read"]}).json
        api("DELETE", f"/keys/{made['id']}")
        entries = api("GET", "/audit?limit=100").json["data"]
        mine = [entry["action"] for entry in entries if entry["actor"] == own["id"]][::-1]
        assert len(mine) == 5, mine
        assert [entry["previous_hash"] for entry in entries[:-1]] == [entry["hash"] for entry in entries[1:]]
        assert api.store.verify_audit() is None

    def test_pages(self, api: Api):
        for _ in range(3):
            api.submit()
        first = api("GET", "/audit?limit=2").json
        second = api("GET", f"/audit?limit=2&cursor={first['next_cursor']}").json
        assert first["data"][-1]["seq"] == second["data"][0]["seq"] + 1


class TestChallenges:
    def test_what_a_candidate_may_have(self, api: Api):
        (told,) = api("GET", "/challenges").json["data"]
        assert told == api("GET", "/challenges/spiral").json
        assert (told["slug"], told["bugs"], told["minutes"]) == ("spiral", 8, 45)
        assert api("GET", "/challenges/spiral/problem").data == (CHALLENGE / "problem.py").read_bytes()
        assert api("GET", "/challenges/spiral/brief").data == (CHALLENGE / "brief.md").read_bytes()
        problem(api("GET", "/challenges/none"), 404)

    def test_never_what_decides(self, api: Api):
        for name in HIDDEN:
            for path in (f"/challenges/spiral/{name}", f"/challenges/spiral/{name.partition('.')[0]}"):
                problem(api("GET", path), 404)
        text = api("GET", "/challenges").text
        for symptom in re.findall(r'(?:symptom|location) = "(.+)"', (CHALLENGE / "manifest.toml").read_text()):
            assert symptom not in text


class TestMachinery:
    def test_health(self, api: Api):
        assert api("GET", "//healthz", key=None).json == {"status": "ok"}
        assert api("GET", "//readyz", key=None).json == {"status": "ok"}

    def test_metrics(self, api: Api):
        api.grade(api.submit("fixed=3"))
        api.submit()
        api.kill(api.submit())
        api.store.note_pool(Pool("grader-7", warm=3, warming=1, target=4, busy=2, served=9, served_warm=8))
        problem(api("GET", "//metrics", key=None), 401)
        problem(api("GET", "//metrics", key=api.key("submit")), 403)
        families = {one.name: one for one in text_string_to_metric_families(api("GET", "//metrics").text)}
        states = {
            (one.labels["queue"], one.labels["state"]): one.value for one in families["assay_submissions"].samples
        }
        assert states["interactive", "graded"] == states["interactive", "queued"] == 1
        assert states["interactive", "dead"] == 1
        pool = {one.labels["state"]: one.value for one in families["assay_pool_containers"].samples}
        assert pool == {"warm": 3, "warming": 1, "grading": 2, "wanted": 4}
        verdicts = {one.labels["verdict"]: one.value for one in families["assay_verdicts"].samples}
        assert (verdicts["fixed"], verdicts["not_fixed"]) == (3, 5)
        for name in ("assay_oldest_waiting_seconds", "assay_webhook_messages", "assay_http_request_seconds"):
            assert families[name].samples, name

    def test_metrics_may_be_opened(self, make_api):
        assert make_api(api_metrics_public=True)("GET", "//metrics", key=None).status_code == 200

    @pytest.mark.slow
    def test_metrics_of_several_processes_are_one(self, tmp_path: Path, migrated: Path):
        """Two processes that share a folder; each tells of the requests of both."""
        program = textwrap.dedent(
            f"""
            import sys
            from services.api import create_app
            from services.settings import Settings
            from services.store import Store
            store = Store.open("sqlite:///{migrated}")
            app = create_app(Settings(api_metrics_public=True), store)
            for _ in range(3):
                app.test_client().get("/healthz")
            print(app.test_client().get("/metrics").text)
            """
        )
        environment = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path), "PATH": "/usr/bin", "HOME": str(tmp_path)}
        for total in (3, 6):
            command = [sys.executable, "-c", program]
            text = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
            counts = re.findall(r'assay_http_request_seconds_count\{.*route="/healthz".*\} (\S+)', text)
            assert sum(map(float, counts)) == total
            assert "assay_store_up 1.0" in text

    def test_the_page_loads_nothing_from_elsewhere(self, api: Api):
        page = api("GET", "//docs", key=None)
        assert not re.findall(r"(?:src|href)=\"(?!/)", page.text)
        assert "script-src 'self';" in page.headers["Content-Security-Policy"]
        for asset in re.findall(r"(?:src|href)=\"(/docs/[^\"]+)", page.text):
            assert api("GET", f"/{asset}", key=None).status_code == 200

    def test_security_headers_are_on_every_answer(self, api: Api):
        for response in (api("GET", "/keys"), api("GET", "//nope"), api("GET", "//docs"), api("PUT", "/keys")):
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            assert response.headers["Content-Security-Policy"].startswith("default-src 'none'")
            assert response.headers["Cache-Control"] == "no-store"
            assert "Access-Control-Allow-Origin" not in response.headers
            assert response.headers["X-Request-Id"].startswith("req_")

    def test_logs_are_json_lines_with_the_submission(self, api: Api, logs: io.StringIO):
        name = api.submit(PROGRAM)
        api("GET", f"/submissions/{name}")
        lines = [json.loads(line) for line in logs.getvalue().splitlines()]
        mine = [line for line in lines if line.get("submission") == name]
        assert {line["event"] for line in mine} == {"submission taken", "request"}
        assert all(line["request"].startswith("req_") and line["at"].endswith("Z") for line in lines)
        assert {line["status"] for line in mine if "status" in line} == {200, 202}

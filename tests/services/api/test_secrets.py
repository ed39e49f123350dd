"""Nothing secret is told, and nothing is left of who was erased."""

from __future__ import annotations

import base64
import io
import json
import logging
import sqlite3
from typing import Any

import pytest

from services import webhooks
from services.logs import logger, without_secrets
from tests.services.api.conftest import Api

PERSON = ("Ada-Lovelace-7f3", "ada-7f3@example.org", "cand-7f3")
CODE = "marker_7f3 = 'the candidate wrote this'"


def person() -> dict[str, str]:
    return dict(zip(("name", "email", "external_id"), PERSON, strict=True))


class TestPlanted:
    def test_no_log_error_or_export_has_one(self, api: Api, logs: io.StringIO, monkeypatch: pytest.MonkeyPatch):
        """Every kind of secret is made and used, rightly and wrongly; then everything that was told is searched."""
        told: list[str] = []

        def call(*request: Any, **more: Any) -> Any:
            response = api(*request, **more)
            told.append(response.text + str(response.headers))
            return response

        key = call("POST", "/keys", json={"name": "x", "scopes": ["read"]}).json["secret"]
        endpoint = call("POST", "/webhook-endpoints", json={"url": "https://x.example/"}).json
        rotated = call("POST", f"/webhook-endpoints/{endpoint['id']}/rotate").json["secret"]
        standard = call("POST", "/integrations", json={"slug": "s", "kind": "standard"}).json["secret"]
        partner = {"slug": "g", "kind": "greenhouse", "outbound_key": "outbound-planted-key"}
        credential = call("POST", "/integrations", json=partner).json["credential"]
        secrets = [key, endpoint["secret"], rotated, standard, credential, partner["outbound_key"], api.everything]
        told.clear()  # each was shown where it was made, once

        wrong = api.everything[:-3] + "xyz"
        call("GET", "/keys", key=wrong)
        call("GET", f"/keys?secret={key}")
        call("GET", f"/submissions?external_id={key}")
        call("GET", f"/{key}/{credential}")
        call("POST", "/keys", data=f'{{"name": "{key}", "scopes": "{credential}"}}', content_type="application/json")
        call("POST", "/submissions", json={"challenge": "spiral", "source": 1, "token": key})
        body = json.dumps({"type": "submission.create", "data": {"challenge": standard}}).encode()
        signed = webhooks.headers([standard], "m", 1, body)
        call("POST", "/hooks/s", key=None, data=body, headers=signed)
        basic = base64.b64encode(f"{credential}:".encode()).decode()
        call("GET", "/hooks/g/list_tests", key=None, headers={"Authorization": f"Basic {basic}"})
        call("GET", "/hooks/g/list_tests", key=None, headers={"Authorization": f"Basic {basic}x"})
        cohort = api.cohort(2, name="x")
        for path in (
            "/keys",
            "/webhook-endpoints",
            f"/webhook-endpoints/{endpoint['id']}",
            f"/webhook-endpoints/{endpoint['id']}/deliveries",
            "/integrations",
            "/integrations/g",
            "/audit?limit=200",
            f"/cohorts/{cohort}/export.csv",
            f"/cohorts/{cohort}/export.jsonl",
            "//metrics",
            "//openapi.json",
        ):
            assert call("GET", path).status_code == 200

        def fail(*args: Any) -> None:
            raise RuntimeError(f"connect to postgresql://assay:planted-password@db/ with {key} failed")

        monkeypatch.setattr(type(api.store), "list_keys", fail)
        api.app.testing = False
        assert call("GET", "/keys").status_code == 500
        logging.getLogger("werkzeug").warning("GET /?key=%s", key)

        everything = "\n".join([*told, logs.getvalue()])
        assert "internal error" in everything
        for secret in [*secrets, wrong, basic, "planted-password"]:
            assert secret not in everything, secret

    def test_the_database_has_no_key_in_plain(self, api: Api):
        key = api.key("read")
        credential = api("POST", "/integrations", json={"slug": "g", "kind": "ashby"}).json["credential"]
        content = database(api)
        assert key.encode() not in content and credential.encode() not in content

    def test_a_failing_statement_tells_nobody_s_name(self, api: Api, logs: io.StringIO):
        with sqlite3.connect(api.database) as connection:
            connection.execute("DROP TABLE outbox")
        connection.close()
        api.app.testing = False
        response = api("POST", "/submissions", json={"challenge": "spiral", "source": CODE, "candidate": person()})
        assert response.status_code in (500, 503)
        assert "outbox" in logs.getvalue()
        for word in (*PERSON, "marker_7f3"):
            assert word not in logs.getvalue() + response.text

    def test_redaction_reaches_into_values(self):
        found = without_secrets({"a": ["whsec_" + "A" * 44], "password": "x", "deep": {"Authorization": "Basic eDp5"}})
        assert found == {"a": ["[hidden]"], "password": "[hidden]", "deep": {"Authorization": "[hidden]"}}
        assert without_secrets("redis://:pw@host/0 Bearer abc.def") == "redis://[hidden]@host/0 Bearer [hidden]"

    def test_sources_are_never_logged(self, logs: io.StringIO):
        logger("api").warning("x", data=b"secret bytes", nested={"token": "t"})
        assert "secret bytes" not in logs.getvalue()


def database(api: Api) -> bytes:
    """All bytes that the database has on disk, journal included."""
    with sqlite3.connect(api.database) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return b"".join(file.read_bytes() for file in api.folder.iterdir() if file.name.startswith("assay.db"))


class TestErased:
    def test_no_personal_data_is_left_anywhere(self, api: Api, logs: io.StringIO):
        """Handed in by API, cohort, idempotent request and webhook; graded, regraded, told; then erased."""
        api("POST", "/webhook-endpoints", json={"url": "https://x.example/"})
        secret = api("POST", "/integrations", json={"slug": "s", "kind": "standard"}).json["secret"]
        names = [
            api.submit(CODE, candidate=person(), file_name=f"{PERSON[0]}.py"),
            api.submit(CODE, candidate=person(), headers={"Idempotency-Key": '"again"'}),
            self.by_hook(api, secret),
            self.by_cohort(api),
        ]
        for name in names:
            api.grade(name, text=CODE)
        api("POST", f"/submissions/{names[0]}/regrade")
        api.grade(names[0], text=CODE)
        assert all(word.encode() in database(api) for word in (*PERSON, "marker_7f3"))

        for name in names:
            assert api("DELETE", f"/submissions/{name}").status_code == 204
            assert api("DELETE", f"/submissions/{name}").status_code == 204, "erasing twice is no error"
            told = api("GET", f"/submissions/{name}").json
            assert (told["state"], told["candidate"], told["report"], told["source_sha256"]) == (
                "erased",
                None,
                None,
                "",
            )
            assert api("GET", f"/submissions/{name}/source").status_code == 404
            assert api("GET", f"/submissions/{name}/report").status_code == 404
            assert PERSON[0] not in api("GET", f"/submissions/{name}/events").text

        content, log = database(api), logs.getvalue()
        for word in (*PERSON, "marker_7f3"):
            assert word.encode() not in content, word
            assert word not in log, word
        assert len(api("GET", "/submissions?state=erased").json["data"]) == len(names), "the count is kept"

    def by_hook(self, api: Api, secret: str) -> str:
        import time

        data = {"challenge": "spiral", "file": {"content": CODE}, "candidate": person()}
        data["callback"] = {"url": f"https://ats.example/{PERSON[2]}"}
        body = json.dumps({"type": "submission.create", "data": data}).encode()
        headers = webhooks.headers([secret], "m-1", int(time.time()), body)
        response = api("POST", "/hooks/s", key=None, data=body, headers=headers)
        return response.json["submission_id"]

    def by_cohort(self, api: Api) -> str:
        one = {"source": CODE, "candidate": person(), "file_name": f"{PERSON[0]}.py"}
        cohort = api("POST", "/cohorts", json={"name": "x", "challenge": "spiral", "submissions": [one]}).json["id"]
        (made,) = api("GET", f"/submissions?cohort_id={cohort}").json["data"]
        return made["id"]

    def test_a_replayed_answer_does_not_bring_it_back(self, api: Api):
        headers = {"Idempotency-Key": '"again"'}
        name = api.submit(CODE, candidate=person(), headers=headers)
        api("DELETE", f"/submissions/{name}")
        response = api("POST", "/submissions", headers=headers, json={"challenge": "spiral", "source": CODE})
        assert PERSON[0] not in response.text

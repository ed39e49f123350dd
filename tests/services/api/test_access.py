"""Who may do what: every route says so, and is held to it."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from flask import Flask

from services.api.pages.desk import PEOPLE, VISITORS
from services.api.routing import EVERYBODY, INTEGRATION, Room, needs, operations_of
from services.store import SCOPES, Store, StoreUnavailable
from tests.services.api.conftest import PROGRAM, Api, problem

# The whole API at a glance. A new route fails a test until it stands here.
WHO = {
    "submit": """
        POST /v1/submissions, POST /v1/cohorts, POST /v1/cohorts/<cohort_id>/submissions
    """,
    "read": """
        GET /v1/submissions, GET /v1/submissions/<submission_id>, GET /v1/submissions/<submission_id>/events,
        GET /v1/submissions/<submission_id>/report, GET /v1/submissions/<submission_id>/source,
        GET /v1/cohorts, GET /v1/cohorts/<cohort_id>, GET /v1/cohorts/<cohort_id>/diff,
        GET /v1/cohorts/<cohort_id>/export.csv, GET /v1/cohorts/<cohort_id>/export.jsonl,
        GET /v1/cohorts/<cohort_id>/export.xlsx, GET /v1/cohorts/<cohort_id>/invitations, GET /v1/assessments
    """,
    "read submit": """
        GET /v1/challenges, GET /v1/challenges/<challenge>, GET /v1/challenges/<challenge>/problem,
        GET /v1/challenges/<challenge>/brief
    """,
    "manage": """
        DELETE /v1/submissions/<submission_id>, POST /v1/submissions/<submission_id>/regrade,
        POST /v1/submissions/<submission_id>/requeue, POST /v1/submissions/<submission_id>/cancel,
        POST /v1/cohorts/<cohort_id>/regrade, POST /v1/cohorts/<cohort_id>/cancel,
        POST /v1/cohorts/<cohort_id>/invitations, POST /v1/assessments/<assessment_id>/invitation,
        POST /v1/webhook-endpoints, GET /v1/webhook-endpoints, GET /v1/webhook-endpoints/<endpoint_id>,
        DELETE /v1/webhook-endpoints/<endpoint_id>, POST /v1/webhook-endpoints/<endpoint_id>/rotate,
        POST /v1/webhook-endpoints/<endpoint_id>/enable, POST /v1/webhook-endpoints/<endpoint_id>/disable,
        POST /v1/webhook-endpoints/<endpoint_id>/ping, GET /v1/webhook-endpoints/<endpoint_id>/deliveries,
        GET /v1/deliveries/<message_id>, POST /v1/deliveries/<message_id>/replay,
        POST /v1/keys, GET /v1/keys, DELETE /v1/keys/<key_id>,
        POST /v1/integrations, GET /v1/integrations, GET /v1/integrations/<integration>,
        DELETE /v1/integrations/<integration>, GET /v1/audit
    """,
    "integration": """
        POST /v1/hooks/<integration>, POST /v1/hooks/<integration>/<action>, GET /v1/hooks/<integration>/<action>
    """,
    "everybody": """
        GET /healthz, GET /readyz, GET /metrics, GET /openapi.json, GET /docs, GET /docs/start.js,
        GET /docs/swagger-ui.css, GET /docs/swagger-ui-bundle.js
    """,
}
EXPECTED = {route.strip(): who for who, routes in WHO.items() for route in routes.split(",")}
IDS = {"submission_id": "sub", "cohort_id": "coh", "endpoint_id": "whe", "message_id": "msg", "key_id": "key"}


def routes(app: Flask) -> dict[str, str]:
    """The endpoint of each method and rule."""
    return {
        f"{method} {rule.rule}": rule.endpoint
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD"}
    }


def address(rule: str) -> str:
    """A path of the rule that names nothing."""
    return re.sub(r"<(\w+)>", lambda m: f"{IDS[m[1]]}_{'0' * 26}" if m[1] in IDS else "nothing", rule)


def keyed() -> list[tuple[str, frozenset[str]]]:
    return [
        (route, frozenset(who.split())) for route, who in EXPECTED.items() if who not in ("everybody", "integration")
    ]


def test_every_route_declares_who_may_call_it(api: Api):
    declared = api.app.extensions["assay"].operations
    found = {}
    for route, endpoint in routes(api.app).items():
        access = declared[endpoint].access
        if access in (PEOPLE, VISITORS) or endpoint.startswith("asset:"):
            continue  # pages, which tests/services/pages goes through
        found[route] = access.open_to or " ".join(sorted(access.scopes))
    assert found == EXPECTED


def test_the_document_says_the_same(api: Api):
    paths = api("GET", "//openapi.json").json["paths"]
    for route, who in EXPECTED.items():
        method, rule = route.split()
        if rule.startswith("/docs") or rule == "/openapi.json":
            continue
        operation = paths[rule.replace("<", "{").replace(">", "}")][method.lower()]
        wanted = [] if who in ("everybody", "integration") else [{"key": sorted(who.split())}]
        assert operation["security"] == wanted, route


def test_a_route_that_declared_nothing_is_refused(api: Api):
    api.app.add_url_rule("/v1/forgotten", "forgotten", lambda: "secret")
    problem(api("GET", "/forgotten"), 404)


def test_an_access_without_anybody_cannot_be_declared():
    with pytest.raises(ValueError, match="scope"):
        needs()


def test_matrix(api: Api):
    """Without a key 401, without the scope 403, with it neither."""
    keys = {scope: api.key(scope) for scope in SCOPES}
    for route, scopes in keyed():
        method, rule = route.split()
        path = address(rule).removeprefix("/v1")
        problem(api(method, path, key=None), 401, "key")
        for scope, key in keys.items():
            response = api(method, path, key=key)
            assert (response.status_code == 403) == (scope not in scopes), (route, scope)
            assert response.status_code not in (401, 500, 503), (route, scope)


class TestKeys:
    @pytest.mark.parametrize(
        "header",
        [
            "",
            "Bearer",
            "Bearer ",
            "Bearer assay_",
            "Bearer assay_" + "x" * 43,
            "Basic YTpi",
            "Bearer " + "x" * 5000,
            "Bearer assay_\xe4",
            "assay_x",
        ],
    )
    def test_what_is_no_key(self, api: Api, header: str):
        response = api("GET", "/keys", key=None, headers={"Authorization": header})
        problem(response, 401, "key")
        assert response.headers["WWW-Authenticate"].startswith("Bearer")

    def test_the_scheme_is_of_any_case(self, api: Api):
        headers = {"Authorization": f"bearer {api.everything}"}
        assert api("GET", "/keys", key=None, headers=headers).status_code == 200

    def test_expired_and_revoked(self, api: Api):
        key = api.key("manage", expires_us=time.time_ns() // 1000 + 60_000_000)
        assert api("GET", "/keys", key=key).status_code == 200
        api.ahead_us = 61_000_000
        problem(api("GET", "/keys", key=key), 401)
        other = api("POST", "/keys", json={"name": "x", "scopes": ["manage"]}).json
        assert api("GET", "/keys", key=other["secret"]).status_code == 200
        assert api("DELETE", f"/keys/{other['id']}").json["revoked_at"]
        problem(api("GET", "/keys", key=other["secret"]), 401)


class TestRates:
    def test_a_key_has_its_own(self, make_api: Any):
        api = make_api(api_rate_limit="3/minute")
        one, other = api.key("read"), api.key("read")
        for _ in range(3):
            assert api("GET", "/submissions", key=one).status_code == 200
        response = api("GET", "/submissions", key=one)
        problem(response, 429, "rate-limit")
        assert 0 < int(response.headers["Retry-After"]) <= 61
        assert api("GET", "/submissions", key=other).status_code == 200

    def test_guessing_is_limited_by_address(self, make_api: Any):
        api = make_api(api_anonymous_rate_limit="2/minute")
        codes = [api("GET", "/submissions", key=f"assay_guess{n}").status_code for n in range(4)]
        assert codes == [401, 401, 429, 429]
        assert api("GET", "/submissions").status_code == 200, "a key does not suffer from a neighbour"

    def test_addresses_behind_a_trusted_proxy_are_told_apart(self, make_api: Any):
        api = make_api(api_anonymous_rate_limit="1/minute", api_trusted_proxies=1)
        codes = [
            api("GET", "/keys", key=None, headers={"X-Forwarded-For": name}).status_code
            for name in ("192.0.2.1", "192.0.2.2", "192.0.2.1")
        ]
        assert codes == [401, 401, 429]

    def test_a_forwarded_address_is_not_believed_otherwise(self, make_api: Any):
        api = make_api(api_anonymous_rate_limit="1/minute")
        codes = [
            api("GET", "/keys", key=None, headers={"X-Forwarded-For": name}).status_code
            for name in ("192.0.2.1", "192.0.2.2")
        ]
        assert codes == [401, 429]

    @pytest.mark.parametrize("name", ["api_rate_limit", "api_anonymous_rate_limit"])
    def test_a_limit_that_is_none_is_told_at_the_start(self, make_api: Any, name: str):
        with pytest.raises(ValueError, match="rate limit"):
            make_api(**{name: "many"})

    def test_health_is_never_limited(self, make_api: Any):
        api = make_api(api_anonymous_rate_limit="1/minute")
        assert {api("GET", "//healthz", key=None).status_code for _ in range(5)} == {200}

    def test_what_asks_the_store_is_limited_though_open_to_everybody(self, make_api: Any):
        api = make_api(api_anonymous_rate_limit="2/minute")
        assert [api("GET", "//metrics", key=f"assay_guess{n}").status_code for n in range(3)][-1] == 429
        api = make_api(api_anonymous_rate_limit="2/minute")
        assert [api("GET", "//readyz", key=None).status_code for _ in range(3)] == [200, 200, 429]

    def test_inventing_integrations_gives_no_new_allowance(self, make_api: Any):
        api = make_api(api_anonymous_rate_limit="2/minute", api_rate_limit="2/minute")
        codes = [api("POST", f"/hooks/guess{n}", key=None, json={}).status_code for n in range(4)]
        assert codes == [404, 404, 429, 429]

    def test_without_redis_the_process_limits_by_itself(self, make_api: Any):
        api = make_api(api_rate_limit="2/minute", redis_url="unix:///nowhere/redis.sock")
        assert [api("GET", "/submissions").status_code for _ in range(3)] == [200, 200, 429]


def test_no_database_is_503_and_healthz_still_answers(api: Api, monkeypatch: pytest.MonkeyPatch):
    def fail(*args: Any, **more: Any) -> None:
        raise StoreUnavailable("the database is gone")

    for name in ("authenticate", "ping", "counts"):
        monkeypatch.setattr(Store, name, fail)
    response = api("POST", "/submissions", json={"challenge": "spiral", "source": PROGRAM})
    problem(response, 503, "store-unavailable")
    assert response.headers["Retry-After"]
    assert api("GET", "//healthz").status_code == 200
    problem(api("GET", "//readyz"), 503)


def test_rooms_are_declared_alike():
    """An undeclared route cannot slip in by Flask's own decorators: the pipeline does not know it."""
    room = Room("extra", "Extra")
    room.add_url_rule("/extra", "extra", lambda: "x")
    app = Flask(__name__)
    app.register_blueprint(room)
    assert "extra.extra" not in operations_of(app)
    assert EVERYBODY != INTEGRATION

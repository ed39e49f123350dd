"""Routes of the machinery around the API: health, metrics, and the documentation page."""

from __future__ import annotations

from importlib.resources import files

from flask import Flask, Response, current_app, g
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from services.api.models import Health
from services.api.problems import ApiProblem
from services.api.routing import EVERYBODY, Answer, Media, Result, Room
from services.api.service import here

room = Room("operations", "Operations", url_prefix="/")


@room.route_for("GET", "/healthz", access=EVERYBODY, answers={200: Answer("This process answers.", Health)})
def healthz() -> Result:
    """Tell that this process answers, whatever else is wrong."""
    return Health(status="ok")


@room.route_for("GET", "/readyz", access=EVERYBODY, answers={200: Answer("It can take submissions.", Health)})
def readyz() -> Result:
    """Tell whether submissions can be taken.

    503 while the database does not answer or is not migrated.
    """
    here().store.ping()
    return Health(status="ok")


@room.route_for(
    "GET",
    "/metrics",
    access=EVERYBODY,
    answers={200: Answer("Prometheus' text format.", media=(Media("text/plain"),))},
    problems=(401, 403),
)
def metrics() -> Result:
    """Read the metrics.

    Takes a key with the scope read or manage, unless the operator has opened it.
    """
    service = here()
    if not service.settings.api_metrics_public:
        if g.key is None:
            headers = {"WWW-Authenticate": 'Bearer realm="assay"'}
            raise ApiProblem(401, "Metrics take an API key.", "key", headers=headers)
        if not {"read", "manage"} & set(g.key.scopes):
            raise ApiProblem(403, "This needs a key with the scope read or manage.", "scope")
    return Response(service.metrics.text(), content_type=CONTENT_TYPE_PLAIN_0_0_4)


# --- the document, and a page that shows it -----------------------------------------------

_SWAGGER = files("flask_openapi3_swagger") / "templates" / "swagger"
_ASSETS = {
    "swagger-ui.css": (("css", "swagger-ui.css"), "text/css"),
    "swagger-ui-bundle.js": (("js", "swagger-ui-bundle.js"), "text/javascript"),
}
_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Assay API</title>
<link rel="stylesheet" href="/docs/swagger-ui.css">
<div id="page"></div>
<noscript>The document itself is at <a href="/openapi.json">/openapi.json</a>.</noscript>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</html>
"""
_START = 'SwaggerUIBundle({url: "/openapi.json", dom_id: "#page", deepLinking: true, validatorUrl: null});\n'
# Swagger UI draws its icons from data: addresses and sets style attributes.
_PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@room.route_for("GET", "/openapi.json", access=EVERYBODY, answers={200: Answer("OpenAPI 3.1.")}, hidden=True)
def openapi_document() -> Result:
    """The OpenAPI document."""
    return Response(current_app.extensions["assay-openapi"], mimetype="application/json")


@room.route_for("GET", "/docs", access=EVERYBODY, answers={200: Answer("A page.")}, hidden=True)
def documentation_page() -> Result:
    """The OpenAPI document as a page; all its files come from here."""
    response = Response(_PAGE, mimetype="text/html")
    response.headers["Content-Security-Policy"] = _PAGE_POLICY
    return response


def add_assets(app: Flask) -> None:
    """The files of the documentation page, one route each: no path comes from a request."""
    contents = {name: ((_SWAGGER.joinpath(*at)).read_bytes(), kind) for name, (at, kind) in _ASSETS.items()}
    contents["start.js"] = (_START.encode(), "text/javascript")
    for name, (content, kind) in contents.items():
        _add_asset(app, name, content, kind)


def _add_asset(app: Flask, name: str, content: bytes, kind: str) -> None:
    def asset() -> Response:
        response = Response(content, mimetype=kind)
        response.headers["Cache-Control"] = "public, max-age=3600"
        return response

    app.add_url_rule(f"/docs/{name}", f"docs:{name}", asset, methods=["GET"])

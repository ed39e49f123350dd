"""Puts the API together."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Any

from flask import Flask, Response
from flask_openapi3.models.info import Info
from flask_openapi3.openapi import OpenAPI
from werkzeug.middleware.proxy_fix import ProxyFix

from grading.challenge import Challenge, catalogue, load_challenge
from grading.verdict import Report
from services.api import (
    access,
    administration,
    challenges,
    cohorts,
    hooks,
    invitations,
    observe,
    operations,
    problems,
    receivers,
    submissions,
)
from services.api.pages import rooms as pages
from services.api.routing import EVERYBODY, Operation, operations_of
from services.api.service import EXTENSION, Service
from services.settings import Settings
from services.store import Store

_ROOMS = (
    submissions.room,
    cohorts.room,
    invitations.room,
    challenges.room,
    receivers.room,
    hooks.room,
    administration.room,
    operations.room,
)

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}
_A_YEAR = "max-age=31536000"


def all_challenges() -> Mapping[str, Challenge]:
    """Every challenge that is installed. Raises ChallengeError."""
    return {slug: load_challenge(slug) for slug in catalogue()}


def create_app(
    settings: Settings, store: Store, *, catalogue: Callable[[], Mapping[str, Challenge]] = all_challenges
) -> Flask:
    """The WSGI application of the API.

    Makes no connection by itself; the caller keeps the store and closes it. Open the store after a
    fork, and set PROMETHEUS_MULTIPROC_DIR before the interpreter starts where there are several processes.
    """
    app = OpenAPI(
        __name__,
        info=Info(title="Assay", version=metadata.version("assay")),
        security_schemes={
            "key": {"type": "http", "scheme": "bearer", "description": "An API key: `assay_…`."},
        },
        validation_error_model=problems.Problem,
        doc_ui=False,
        static_folder=None,
    )
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False
    service = Service(settings, store, observe.Metrics(store, settings.api_metrics_cache_s), catalogue)
    app.extensions[EXTENSION] = service
    observe.install(app, service.metrics)
    problems.install(app)
    access.install(app, service)
    for room in _ROOMS:
        app.register_api(room)
    operations.add_assets(app)
    assets = {name: Operation(EVERYBODY) for name in app.view_functions if name.startswith("docs:")}
    service.operations = {**operations_of(app), **assets, **pages.install(app)}
    app.extensions["assay-openapi"] = json.dumps(_document(app, settings))
    app.after_request(_secure(settings))
    if settings.api_trusted_proxies:
        hops = settings.api_trusted_proxies
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=hops, x_proto=hops)  # type: ignore[method-assign]
    return app


def _document(app: OpenAPI, settings: Settings) -> dict[str, Any]:
    """The OpenAPI document, with the report's schema, which no model of the API's own refers to."""
    schema = Report.model_json_schema(mode="serialization", ref_template="#/components/schemas/{model}")
    document: dict[str, Any] = app.api_doc
    schemas = document["components"]["schemas"]
    for part in ({**schema.pop("$defs"), "Report": schema}, *(room.schemas for room in _ROOMS)):
        schemas.update(copy.deepcopy(part))
    in_full = schemas["SubmissionInFull"]["properties"]["report"]
    in_full["anyOf"] = [{"$ref": "#/components/schemas/Report"}, {"type": "null"}]
    document["security"] = [{"key": []}]
    if settings.public_url:
        document["servers"] = [{"url": settings.public_url.rstrip("/")}]
    return document


def _secure(settings: Settings) -> Callable[[Response], Response]:
    encrypted = settings.public_url.startswith("https://")

    def add_headers(response: Response) -> Response:
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)
        if encrypted:
            response.headers.setdefault("Strict-Transport-Security", _A_YEAR)
        response.headers.pop("Server", None)
        return response

    return add_headers

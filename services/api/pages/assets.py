"""Style sheet, scripts and icon: one route for each file, whose address holds the digest of its content."""

from __future__ import annotations

import functools
import hashlib
from importlib.resources import files

from flask import Flask, Response

from services.api.routing import EVERYBODY, Operation

_FOLDER = files("services.api.pages") / "static"
_KINDS = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_NAMES = ("assay.css", "assay.js", "icon.svg", "vendor/htmx.min.js")
_A_YEAR = "public, max-age=31536000, immutable"
ENDPOINT = "asset:"


@functools.cache
def _contents() -> dict[str, bytes]:
    return {name: _FOLDER.joinpath(*name.split("/")).read_bytes() for name in _NAMES}


@functools.cache
def address(name: str) -> str:
    """Where a file is: it changes with its content, so that browsers may keep it for good."""
    stem, _, kind = name.rpartition(".")
    return f"/assets/{stem}.{hashlib.sha256(_contents()[name]).hexdigest()[:12]}.{kind}"


def install(app: Flask) -> dict[str, Operation]:
    """Add the routes; no path comes from a request."""
    for name in _NAMES:
        _add(app, name)
    return {ENDPOINT + name: Operation(EVERYBODY) for name in _NAMES}


def _add(app: Flask, name: str) -> None:
    def asset() -> Response:
        response = Response(_contents()[name], mimetype=_KINDS[name.rpartition(".")[2]])
        response.headers["Cache-Control"] = _A_YEAR
        return response

    app.add_url_rule(address(name), ENDPOINT + name, asset, methods=["GET"])

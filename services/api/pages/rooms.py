"""Puts the pages into the application: desks, templates, errors as pages, a strict policy on all of it."""

from __future__ import annotations

from dataclasses import dataclass

from flask import Flask, Response, current_app, g, make_response, render_template, request, url_for
from werkzeug.exceptions import HTTPException
from werkzeug.exceptions import NotFound as NoSuchAddress
from werkzeug.wrappers import Response as AnyResponse

from services.api import problems
from services.api.observe import log
from services.api.pages import (
    admin,
    assessments,
    assets,
    cohorts,
    gate,
    handed,
    interview,
    invitations,
    invited,
    session,
    shared,
    submissions,
    text,
)
from services.api.pages.desk import Desk, Entry, desks, operations_of
from services.api.problems import ApiProblem
from services.api.routing import Operation
from services.store import BadCursor, Busy, Conflict, NotFound, StoreUnavailable

# Another room's desk goes here.
_DESKS: tuple[Desk, ...] = (
    session.desk,
    cohorts.desk,
    submissions.desk,
    handed.desk,
    interview.desk,
    shared.desk,
    invitations.desk,
    assessments.desk,
    invited.desk,
    admin.desk,
)

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; font-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_SAID = {
    "decided": ("good", "The decision is recorded."),
    "drafted": ("good", "Your draft is kept. Nobody else sees it."),
    "handed_in": ("good", "Your scorecard is handed in. Others see it now, and it stays as it is."),
    "noted": ("good", "The note is kept."),
    "ruled": ("good", "What you found is recorded."),
    "regraded": ("good", "It is being graded again; the earlier report stays."),
    "requeued": ("good", "It waits to be graded again."),
    "erased": ("good", "The candidate's data are erased."),
    "unshared": ("good", "The link ends here."),
    "extended": ("good", "The link lives on; the table shows until when."),
    "cancelled": ("good", "What was waiting is taken out."),
    "saved": ("good", "Saved."),
    "password": ("good", "The new password holds. All other sessions have ended."),
    "out": ("good", "You are signed out."),
}


def install(app: Flask) -> dict[str, Operation]:
    """Add all pages; what the pipeline has to know of each."""
    for desk in _DESKS:
        app.register_blueprint(desk)
    app.register_error_handler(404, _no_such_address)
    app.jinja_env.filters.update(text.FILTERS)
    app.jinja_env.globals.update(
        text.WORDS, asset=assets.address, csrf=gate.form_field, navigation=_navigation, flashes=_flashes
    )
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    app.context_processor(_facts)
    return {**operations_of(app), **assets.install(app)}


def _facts() -> dict[str, object]:
    found = gate.signed_in()
    return {"person": found.user if found else None, "blind": gate.blind(), "here_path": _readable_path()}


def _readable_path() -> str:
    """This page's own address, or where it answers a form the nearest one above that can be read."""
    if request.method == "GET":
        return request.full_path.rstrip("?")
    adapter, path = current_app.url_map.bind(""), request.path
    while path and not adapter.test(path, "GET"):
        path = path.rpartition("/")[0]
    return path or "/"


@dataclass(frozen=True)
class _Link:
    label: str
    href: str
    current: bool


def _navigation() -> list[_Link]:
    role = gate.person().role
    entries = [entry for desk in desks(current_app) for entry in desk.navigation if role in entry.roles]
    return [_Link(entry.label, url_for(entry.endpoint), _is_current(entry)) for entry in entries]


def _is_current(entry: Entry) -> bool:
    endpoint = request.endpoint or ""
    return endpoint == entry.endpoint or any(endpoint.startswith(one) for one in entry.covers)


def _flashes() -> list[tuple[str, str]]:
    """What the step before has to say: only words of ours, named in the address."""
    said = _SAID.get(request.args.get("said", ""))
    return [*([said] if said else []), *g.get("said", ())]


def _finish(response: AnyResponse) -> AnyResponse:
    response.headers["Content-Security-Policy"] = POLICY
    response.headers.setdefault("Cache-Control", "no-store")
    return gate.remember_visit(response)


# --- errors ------------------------------------------------------------------------------


def _answer_with_pages(desk: Desk) -> None:
    desk.register_error_handler(ApiProblem, lambda error: _page(error.status, error.detail, error.headers))
    desk.register_error_handler(HTTPException, _of_http)
    desk.register_error_handler(NotFound, lambda error: _page(404, "There is no such thing, or not any more."))
    desk.register_error_handler(Conflict, lambda error: _page(409, text.sentence(error)))
    desk.register_error_handler(BadCursor, lambda error: _page(404, "This page of the list is not there."))
    desk.register_error_handler(StoreUnavailable, _of_store)
    desk.register_error_handler(Busy, lambda error: _page(503, _BUSY, _SOON))
    desk.register_error_handler(Exception, _of_us)


_GUESTS = ("invited.", "shared.")  # pages of people who have no account and no first page
_TITLES = {
    401: "Please sign in",
    403: "Not for you",
    404: "Nothing here",
    409: "That cannot be done now",
    410: "This link has ended",
    413: "Too large",
    422: "That does not fit",
    429: "Too many requests",
    503: "Not just now",
}
_BUSY = "Too many people sign in at this moment. Nothing was changed; try again in a few seconds."


def _page(status: int, words: str, headers: dict[str, str] | None = None) -> Response:
    title = _TITLES.get(status, "Something went wrong")
    reference = request.environ.get("assay.request_id", "none")
    response = make_response(
        render_template(
            "assay/error.html",
            status=status,
            title=title,
            words=words,
            reference=reference,
            is_guest=(request.endpoint or "").startswith(_GUESTS),
        ),
        status,
    )
    response.headers.update(headers or {})
    return response


def _of_http(error: HTTPException) -> AnyResponse:
    if error.response is not None:
        return error.response  # type: ignore[return-value]  # it is one
    return _page(error.code or 500, problems.words_for(error.code or 500))


_SOON = {"Retry-After": "5"}


def _of_store(error: StoreUnavailable) -> Response:
    log.error("store unavailable", error=str(error))
    return _page(503, "The database does not answer. What was kept before is safe; try again in a moment.", _SOON)


def _of_us(error: Exception) -> Response:
    log.error("internal error", exc_info=error)
    return _page(500, "A fault of ours. The reference below names it in our logs.")


def _no_such_address(error: NoSuchAddress) -> AnyResponse:
    """A page for people, a problem for programs."""
    if request.path.startswith("/v1/") or not request.accept_mimetypes.accept_html or not _prefers_html():
        return problems.of_http(error)
    return _finish(_page(404, "There is nothing at this address."))


def _prefers_html() -> bool:
    best = request.accept_mimetypes.best_match(["application/json", "text/html"])
    return best == "text/html" and request.accept_mimetypes["text/html"] > request.accept_mimetypes["application/json"]


# Once for all applications of this process: Flask lets nothing be added to a blueprint that is in use.
for _desk in _DESKS:
    _desk.before_request(gate.admit)
    _desk.after_request(_finish)
    _answer_with_pages(_desk)


__all__ = ["POLICY", "install"]

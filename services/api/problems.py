"""Every error is an RFC 9457 problem: `application/problem+json`, with words that help and nothing secret."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from flask import Flask, Response, request
from pydantic import BaseModel, Field, ValidationError
from werkzeug.exceptions import HTTPException

from services.api.observe import log
from services.store import BadCursor, Conflict, NotFound, StoreUnavailable

PROBLEM_JSON = "application/problem+json"
_MOST_ERRORS = 20  # of one request that are spelt out
_RETRY_STORE_S = 5


class FieldProblem(BaseModel):
    """One thing that is wrong with a request."""

    pointer: str = Field(description="Where: a JSON pointer into the body, or the name of a parameter.")
    detail: str


class Problem(BaseModel):
    """An error as RFC 9457 has it."""

    type: str = Field(description="Which error: `about:blank`, or a URN that stays the same over releases.")
    title: str
    status: int = Field(ge=400, le=599)
    detail: str
    instance: str = Field(description="The id of this request; it stands in the logs.")
    errors: list[FieldProblem] = Field(default=[], description="What is wrong, field by field.")


class ApiProblem(Exception):
    """Ends a request with a problem.

    Args:
        status: the HTTP status.
        detail: for the person who wrote the client.
        kind: a short name that stays stable, the end of the problem's type.
        errors: (pointer, detail) pairs.
        headers: what to add, such as Retry-After.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        kind: str = "",
        errors: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.kind = kind
        self.errors = errors
        self.headers = dict(headers or {})


def retry_after(seconds: float) -> dict[str, str]:
    """The header, in whole seconds and at least one."""
    return {"Retry-After": str(max(1, round(seconds)))}


def invalid(error: ValidationError, where: str = "") -> ApiProblem:
    """A 422 from pydantic's findings; what was sent is not repeated."""
    found = [
        (where + "".join(f"/{_escaped(part)}" for part in item["loc"]), item["msg"])
        for item in error.errors(include_url=False, include_context=False, include_input=False)[:_MOST_ERRORS]
    ]
    return ApiProblem(422, "The request does not have the form that is asked for.", "invalid-request", found)


def _escaped(part: int | str) -> str:
    return str(part).replace("~", "~0").replace("/", "~1")


def answer(problem: ApiProblem) -> Response:
    """The response of a problem."""
    body: dict[str, Any] = {
        "type": f"urn:assay:problem:{problem.kind}" if problem.kind else "about:blank",
        "title": HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "detail": problem.detail,
        "instance": f"urn:assay:request:{request.environ.get('assay.request_id', 'none')}",
    }
    if problem.errors:
        body["errors"] = [{"pointer": pointer, "detail": detail} for pointer, detail in problem.errors]
    response = Response(json.dumps(body), status=problem.status, mimetype=PROBLEM_JSON)
    response.headers.update(problem.headers)
    return response


def install(app: Flask) -> None:
    """Make every error of `app` a problem, those of Flask and Werkzeug too."""
    app.register_error_handler(ApiProblem, answer)
    app.register_error_handler(HTTPException, of_http)
    app.register_error_handler(NotFound, lambda error: answer(ApiProblem(404, str(error) or "There is no such thing.")))
    app.register_error_handler(Conflict, lambda error: answer(ApiProblem(409, str(error), "conflict")))
    app.register_error_handler(BadCursor, _of_cursor)
    app.register_error_handler(StoreUnavailable, _of_store)
    app.register_error_handler(Exception, _of_us)


_WORDS = {
    400: "The request cannot be understood.",
    404: "There is nothing at this address.",
    405: "This address does not take that method.",
    413: "The request is larger than this address takes.",
    429: "Too many requests; come back after the time in Retry-After.",
}


def words_for(status: int) -> str:
    """What to say of a status where nothing better is known."""
    return _WORDS.get(status, f"{HTTPStatus(status).phrase}.")


def of_http(error: HTTPException) -> Response:
    """The problem of one of Werkzeug's errors."""
    if error.response is not None:
        return error.response  # type: ignore[return-value]
    status = error.code or 500
    problem = ApiProblem(status, _WORDS.get(status, error.description or HTTPStatus(status).phrase))
    # What Werkzeug would say beside its body: Allow, Retry-After; never its own content headers.
    kept = ("allow", "retry-after", "www-authenticate")
    problem.headers = {name: value for name, value in error.get_headers() if name.lower() in kept}
    return answer(problem)


def _of_cursor(error: BadCursor) -> Response:
    detail = "That cursor was not given out here, or not by this list."
    return answer(ApiProblem(422, detail, "invalid-request", [("query/cursor", "unknown")]))


def _of_store(error: StoreUnavailable) -> Response:
    log.error("store unavailable", error=str(error))
    detail = "The database does not answer. Nothing was lost that had been accepted."
    return answer(ApiProblem(503, detail, "store-unavailable", headers=retry_after(_RETRY_STORE_S)))


def _of_us(error: Exception) -> Response:
    log.error("internal error", exc_info=error)
    return answer(ApiProblem(500, "A fault of ours. The instance names it in our logs.", "internal"))

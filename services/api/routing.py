"""How a route is declared: who may call it, what it takes and gives, and how large a request may be.

flask-openapi3 makes the OpenAPI document from the declarations. Reading a request is done
here, more strictly than it does: nothing is guessed from strings in a JSON body, unknown
fields are errors, and a body is bounded before it is read.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Literal, TypeVar, get_origin, get_type_hints

from flask import Flask, Response, request
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models import OPENAPI3_REF_TEMPLATE
from flask_openapi3.models.parameter import Parameter
from flask_openapi3.models.tag import Tag
from flask_openapi3.utils import parse_rule
from pydantic import BaseModel, ValidationError

from services.api.problems import PROBLEM_JSON, ApiProblem, Problem, invalid
from services.store import Scope

Size = Literal["json", "submission", "cohort"]
JSON = "application/json"

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Access:
    """Who may call a route: a key with any of `scopes`, or, where there are none, whoever `open_to` says."""

    scopes: frozenset[Scope] = frozenset()
    open_to: str = ""

    def __post_init__(self) -> None:
        if bool(self.scopes) == bool(self.open_to):
            raise ValueError("a route is open to somebody by name or asks for a scope")


def needs(*scopes: Scope) -> Access:
    """A key with one of these scopes."""
    return Access(frozenset(scopes))


EVERYBODY = Access(open_to="everybody")
# An ATS: the route checks a signature or the integration's own credential.
INTEGRATION = Access(open_to="integration")


@dataclass(frozen=True)
class Media:
    """A body that is not JSON of a model: its type and JSON schema."""

    type: str
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"})


@dataclass(frozen=True)
class Answer:
    """One kind of success of a route."""

    description: str
    model: type[BaseModel] | None = None
    media: tuple[Media, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Operation:
    """What the pipeline has to know of a route before it runs."""

    access: Access
    size: Size = "json"


Result = BaseModel | Response | tuple[BaseModel | None, int] | tuple[BaseModel | None, int, Mapping[str, str]]
Handler = Callable[..., Result]


class Room(APIBlueprint):
    """A group of routes that belong together."""

    def __init__(self, name: str, title: str, url_prefix: str = "/v1") -> None:
        super().__init__(name, __name__, url_prefix=url_prefix, abp_tags=[Tag(name=title)])
        self.operations: dict[str, Operation] = {}
        # Whole, as pydantic writes them: flask-openapi3's own model of a schema leaves parts out.
        self.schemas: dict[str, Any] = {}

    def route_for(
        self,
        method: Literal["GET", "POST", "PUT", "DELETE"],
        rule: str,
        *,
        access: Access,
        answers: Mapping[int, Answer],
        problems: Sequence[int] = (),
        size: Size = "json",
        takes: Sequence[Media | type[BaseModel]] = (),
        headers: Sequence[Mapping[str, Any]] = (),
        hidden: bool = False,
    ) -> Callable[[Handler], Handler]:
        """Declare a route.

        A handler's arguments `path`, `query` and `body` are pydantic models that hold what was sent.

        Args:
            problems: statuses that it may refuse with, beside those of every route.
            takes: the bodies that it reads itself, where there is more than one JSON model.
            headers: OpenAPI parameters of headers that it reads itself.
            hidden: not in the OpenAPI document.
        """

        def declare(handler: Handler) -> Handler:
            self.operations[f"{self.name}.{handler.__name__}"] = Operation(access, size)
            summary, _, description = (handler.__doc__ or "").strip().partition("\n")
            extensions: dict[str, Any] = {}
            if body := get_type_hints(handler).get("body"):
                self._component(body, "validation")
            if takes:
                extensions["requestBody"] = {"required": True, "content": self._content(takes)}
            register = getattr(super(Room, self), method.lower())
            register(
                rule,
                summary=summary,
                description=" ".join(description.split()) or summary,
                operation_id=handler.__name__,
                responses=self._responses(answers, access, problems),
                security=[{"key": sorted(access.scopes)}] if access.scopes else None,
                openapi_extensions=extensions,
                doc_ui=not hidden,
            )(handler)
            if not hidden:
                self._complete(rule, method, headers, access)
            return handler

        return declare

    def _complete(self, rule: str, method: str, headers: Sequence[Mapping[str, Any]], access: Access) -> None:
        """What flask-openapi3 has no argument for."""
        operation = getattr(self.paths[parse_rule(rule, url_prefix=self.url_prefix)], method.lower())
        if headers:
            operation.parameters = [*(operation.parameters or []), *(Parameter(**item) for item in headers)]
        if not access.scopes:
            operation.security = []  # the document's own default asks for a key

    def _content(self, bodies: Sequence[Media | type[BaseModel]]) -> dict[str, Any]:
        return {
            (body.type if isinstance(body, Media) else JSON): {
                "schema": dict(body.schema)
                if isinstance(body, Media)
                else {"$ref": self._component(body, "validation")}
            }
            for body in bodies
        }

    def _component(self, model: type[BaseModel], mode: Literal["validation", "serialization"]) -> str:
        schema = model.model_json_schema(ref_template=OPENAPI3_REF_TEMPLATE, mode=mode)
        self.schemas |= {**schema.pop("$defs", {}), model.__name__: schema}
        return OPENAPI3_REF_TEMPLATE.format(model=model.__name__)

    def _responses(
        self, answers: Mapping[int, Answer], access: Access, problems: Sequence[int]
    ) -> dict[str | int | HTTPStatus, Any]:
        found: dict[str | int | HTTPStatus, Any] = {}
        for status, answer in answers.items():
            content = self._content(answer.media)
            if answer.model is not None:
                content[JSON] = {"schema": {"$ref": self._component(answer.model, "serialization")}}
            found[status] = {"description": answer.description}
            if content:
                found[status]["content"] = content
            if answer.headers:
                found[status]["headers"] = {
                    name: {"description": text, "schema": {"type": "string"}} for name, text in answer.headers
                }
        always = (400, 413, 422, 429, 500, 503) + (() if access == EVERYBODY else (401, 403))
        said = {PROBLEM_JSON: {"schema": {"$ref": OPENAPI3_REF_TEMPLATE.format(model=Problem.__name__)}}}
        if access == INTEGRATION:
            said[JSON] = {"schema": {}}  # in the vendor's words
        for status in sorted({*always, *problems}):
            found[status] = {"description": HTTPStatus(status).phrase, "content": said}
        return found

    @staticmethod
    def create_view_func(  # type: ignore[no-untyped-def]
        func: Handler, header, cookie, path, query, form, body, raw, *_: Any, **__: Any
    ) -> Callable[..., Response]:
        """The view of a handler: reads the request into its models and writes its result."""

        @functools.wraps(func)
        def view(**matched: Any) -> Response:
            given: dict[str, Any] = {}
            if path is not None:
                given["path"] = _path(path, matched)
            if query is not None:
                given["query"] = _query(query)
            if body is not None:
                given["body"] = json_body(body)
            return _response(func(**given))

        return view


def _path(model: type[BaseModel], matched: Mapping[str, Any]) -> BaseModel:
    try:
        return model.model_validate(matched)
    except ValidationError:
        raise ApiProblem(404, "There is no such thing: that is not the form of an id.") from None


def _query(model: type[BaseModel]) -> BaseModel:
    given: dict[str, Any] = {}
    for name, values in request.args.lists():
        known = model.model_fields.get(name)
        many = known is not None and get_origin(known.annotation) in (list, tuple)
        if not many and len(values) > 1:
            raise ApiProblem(422, "A parameter is given more than once.", "invalid-request", [(name, "given twice")])
        given[name] = values if many else values[0]
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise invalid(error, "query") from None


def json_body(model: type[M]) -> M:
    """The request's body as `model`, with strict types and no unknown fields.

    Raises:
        ApiProblem: 400 for no JSON, 415 for another type, 422 for a field that is wrong.
    """
    if request.mimetype != JSON:
        raise ApiProblem(415, f"Send {JSON}.", "media-type")
    return parse_json(model, whole_body())


def whole_body() -> bytes:
    """The request's body. Raises ApiProblem (413) where one without a Content-Length reaches the limit."""
    data = request.get_data(cache=False)
    most = request.max_content_length
    # Werkzeug cuts such a body off at the limit; whether that was its end cannot be seen any more.
    if request.content_length is None and most is not None and len(data) >= most:
        raise ApiProblem(413, f"Less than {most:,} bytes are taken here.", "too-large")
    return data


def parse_json(model: type[M], data: bytes, where: str = "") -> M:
    """The same for bytes that were read already."""
    try:
        return model.model_validate_json(data, strict=True)
    except ValidationError as error:
        if any(item["type"] == "json_invalid" for item in error.errors(include_input=False, include_url=False)):
            raise ApiProblem(400, "The body is not JSON in UTF-8.", "not-json") from None
        raise invalid(error, where) from None


def _response(result: Result) -> Response:
    if isinstance(result, Response):
        return result
    status: int = 200
    headers: Mapping[str, str] = {}
    if isinstance(result, tuple):
        model, status = result[0], result[1]
        headers = result[2] if len(result) == 3 else {}
    else:
        model = result
    if model is None:
        response = Response(status=status)
        response.headers.pop("Content-Type", None)
    else:
        response = Response(model.model_dump_json(), status=status, mimetype=JSON)
    response.headers.update(headers)
    return response


def operations_of(app: Flask) -> Mapping[str, Operation]:
    """What every route of `app` declared, by endpoint."""
    return {
        name: operation
        for room in app.blueprints.values()
        if isinstance(room, Room)
        for name, operation in room.operations.items()
    }

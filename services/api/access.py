"""Who may do what, and how much of it: keys, scopes, rate limits, sizes, backlog.

Three steps before a route runs, in this order: what the request claims (its size and its key), the
rate limit of that key, or of the address where there is none, and only then a refusal. So guessing
keys is limited like everything else. A route that declared nothing is refused.
"""

from __future__ import annotations

import re
import time
from urllib.parse import urlsplit

from flask import Flask, g, request
from flask_limiter import Limiter, RequestLimit
from limits import parse_many
from structlog.contextvars import bind_contextvars

from services.api.pages import gate
from services.api.pages.desk import PEOPLE, VISITORS
from services.api.problems import ApiProblem, retry_after
from services.api.routing import EVERYBODY, INTEGRATION, Operation
from services.api.service import Service, here
from services.store import ApiKey, StoreUnavailable

_BEARER = re.compile(r"(?i:bearer) +([\x21-\x7e]{1,200}) *")
_ASKS_THE_STORE = frozenset({"/readyz", "/metrics"})  # open to everybody, but not for nothing
_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="assay"'}


def install(app: Flask, service: Service) -> None:
    """Put the three steps in front of every route of `app`. Raises ValueError for a limit that is none."""
    settings = service.settings
    for limit in (settings.api_rate_limit, settings.api_anonymous_rate_limit, settings.person_rate_limit):
        parse_many(limit)  # Flask-Limiter would only log it, and limit nothing
    app.before_request(_size_up)
    app.before_request(_identify)
    storage = _storage(service.settings.redis_url)
    limiter = Limiter(
        _principal,
        application_limits=[_limit],
        storage_uri=storage,
        # Limits protect; where Redis is away they go on in this process rather than refuse everybody.
        in_memory_fallback_enabled=storage != "memory://",
        on_breach=_too_many,
        key_prefix="assay-api",
    )
    limiter.request_filter(_is_unlimited)
    limiter.init_app(app)  # adds its own before_request between the others
    app.before_request(_admit)


def _storage(redis_url: str) -> str:
    """Where limits are counted, as the library `limits` writes it: a Redis on a unix socket has many names."""
    if redis_url.startswith(("unix://", "redis+socket://", "redis+unix://")):
        return f"redis+unix://{urlsplit(redis_url).path}"
    return redis_url or "memory://"


def _operation() -> Operation | None:
    return here().operations.get(request.endpoint or "")


def _size_up() -> None:
    """Refuse by what the headers say, before anything of the body is read; bound the rest."""
    operation = _operation()
    settings = here().settings
    most = {
        "json": settings.api_max_json_bytes,
        "submission": settings.api_max_submission_request_bytes,
        "cohort": settings.api_max_request_bytes,
    }[operation.size if operation else "json"]
    request.max_content_length = most  # Werkzeug counts what really comes
    request.max_form_memory_size = min(most, settings.api_max_submission_request_bytes)
    request.max_form_parts = settings.max_batch_files + 20
    if (request.content_length or 0) > most:
        raise ApiProblem(413, f"At most {most:,} bytes are taken here.", "too-large")
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise ApiProblem(415, "Compressed bodies are not taken.", "content-encoding")
    if "Transfer-Encoding" in request.headers and not request.environ.get("wsgi.input_terminated"):
        raise ApiProblem(411, "Send a Content-Length.", "length-required")


def _identify() -> None:
    g.key = None
    operation = _operation()
    if operation is not None and operation.access == INTEGRATION:
        return  # its Authorization is the integration's own
    if operation is not None and operation.access in (PEOPLE, VISITORS):
        gate.identify()  # by a cookie, which counts for nothing on the API's own routes
        return
    given = request.headers.get("Authorization", "")
    match = _BEARER.fullmatch(given)
    if match is None or not match[1].startswith("assay_"):
        return
    try:
        found = here().store.authenticate(match[1])
    except StoreUnavailable:
        if operation is None or operation.access != EVERYBODY:
            raise
        return  # /healthz and /readyz answer all the same
    g.key = found
    if found is not None:
        bind_contextvars(key=found.id)


def _principal() -> str:
    session = gate.signed_in()
    if session is not None:
        return session.user.id
    key: ApiKey | None = g.get("key")
    if key is not None:
        return key.id
    operation = _operation()
    if operation is not None and operation.access == INTEGRATION:
        # With the address, so that a stranger who knows the name cannot use up what is the vendor's. Names that
        # are none of ours share one count: nobody gets a new one by inventing a name.
        slug = str((request.view_args or {}).get("integration", ""))
        if _is_integration(slug):
            return f"hook:{slug}:{request.remote_addr}"
    return f"address:{request.remote_addr}"


def _is_integration(slug: str) -> bool:
    if "knows_integration" not in g:
        g.knows_integration = here().store.integration_by_slug(slug) is not None
    known: bool = g.knows_integration
    return known


def _limit() -> str:
    settings = here().settings
    if gate.signed_in() is not None:
        return settings.person_rate_limit
    return settings.api_anonymous_rate_limit if _principal().startswith("address:") else settings.api_rate_limit


def _is_unlimited() -> bool:
    operation = _operation()
    return operation is not None and operation.access == EVERYBODY and request.path not in _ASKS_THE_STORE


def _too_many(limit: RequestLimit) -> None:
    here().metrics.refused.labels("rate").inc()
    wait = retry_after(limit.reset_at - time.time())
    raise ApiProblem(429, f"More than {limit.limit} requests; come back later.", "rate-limit", headers=wait)


def _admit() -> None:
    operation = _operation()
    if request.endpoint is None or (operation is not None and not operation.access.scopes):
        return  # no such address, which the router tells, or open to whom it says
    if operation is None:
        raise ApiProblem(404, "There is nothing at this address.")
    key: ApiKey | None = g.key
    if key is None:
        here().metrics.refused.labels("key").inc()
        problem = "Send a valid API key: Authorization: Bearer assay_…"
        raise ApiProblem(401, problem, "key", headers=_CHALLENGE)
    if operation.access.scopes.isdisjoint(key.scopes):
        here().metrics.refused.labels("scope").inc()
        wanted = " or ".join(sorted(operation.access.scopes))
        raise ApiProblem(403, f"This needs a key with the scope {wanted}.", "scope")


def require_room(count: int = 1) -> None:
    """Refuse new submissions while too many wait, before they are read.

    Raises:
        ApiProblem: 429 with Retry-After.
    """
    settings = here().settings
    if here().store.waiting() + count > settings.api_backlog_limit:
        here().metrics.refused.labels("backlog").inc()
        wait = retry_after(settings.api_backlog_retry_s)
        raise ApiProblem(429, "Too many submissions wait already; come back later.", "backlog", headers=wait)

"""Idempotency-Key: a request that is sent again gets the answer of the first time.

The same key with another request is 422, while the first is under way 409, afterwards its answer.
What a request makes and its answer are stored in one transaction, so that a crash between the two
cannot make it twice.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from flask import Response, request

from services.api.access import require_room
from services.api.problems import ApiProblem
from services.api.service import here, key
from services.store import ERASED, Idempotency, StoredResponse, Submission

HEADER = "Idempotency-Key"
PARAMETER = {
    "name": HEADER,
    "in": "header",
    "required": False,
    "description": "A text of yours, new for each thing that you want made; send it again when you repeat a request.",
    "schema": {"type": "string", "pattern": r'^("[\x20-\x21\x23-\x5b\x5d-\x7e]{1,255}"|[A-Za-z0-9_.:-]{1,255})$'},
}
# A structured-field string (RFC 8941), or bare as most clients send it.
_KEY = re.compile(r'"((?:[\x20-\x21\x23-\x5b\x5d-\x7e]|\\["\\]){1,255})"|([A-Za-z0-9_.:\-]{1,255})')
_REPLAYED = "Idempotent-Replayed"
_RETRY_S = "1"


@dataclass(frozen=True)
class Ticket:
    """A key that is this request's to answer."""

    api_key_id: str
    key: str

    def with_answer(self, respond: Callable[[tuple[Submission, ...]], StoredResponse]) -> Idempotency:
        """What makes the store keep the answer beside what it makes."""
        return Idempotency(self.api_key_id, self.key, respond)


@contextlib.contextmanager
def ticket(*parts: str, room_for: int) -> Iterator[Ticket | Response | None]:
    """Claims the request's key while the block runs; a block that fails gives it back.

    Gives None without the header, and the first time's answer where there is one: whoever repeats a request is
    told even while nothing new is taken.

    Args:
        parts: what tells this request from others under the same key.
        room_for: how many submissions it brings.

    Raises:
        ApiProblem: 400 no such key, 409 in flight, 410 erased since, 422 another request, 429 too many wait.
    """
    text = _given_key()
    if text is None:
        require_room(room_for)
        yield None
        return
    store, owner = here().store, key().id
    fingerprint = _fingerprint(request.method, request.path, *parts)
    state = store.idempotency_begin(owner, text, fingerprint, ttl_s=here().settings.idempotency_ttl_s)
    if state.outcome == "in_flight":
        detail = "The first request with this key is still under way."
        raise ApiProblem(409, detail, "idempotency-in-flight", headers={"Retry-After": _RETRY_S})
    if state.outcome == "mismatch":
        raise ApiProblem(422, "This key came with another request before.", "idempotency-mismatch")
    if state.response is not None and state.response.status == ERASED:
        raise ApiProblem(ERASED, "What that request made was erased since.", "erased")
    if state.response is not None:
        replayed = replay(state.response)
        replayed.headers[_REPLAYED] = "true"
        yield replayed
        return
    try:
        require_room(room_for)
        yield Ticket(owner, text)
    except BaseException:
        store.idempotency_forget(owner, text)
        raise


def replay(stored: StoredResponse) -> Response:
    """A stored answer as a response."""
    response = Response(stored.body, status=stored.status)
    response.headers.update(stored.headers)
    return response


def _given_key() -> str | None:
    given = request.headers.get(HEADER)
    if given is None:
        return None
    match = _KEY.fullmatch(given)
    if match is None:
        detail = f"{HEADER} is a quoted text or a bare word of at most 255 characters."
        raise ApiProblem(400, detail, "idempotency-key", [(HEADER, "malformed")])
    return match[2] if match[1] is None else match[1].replace('\\"', '"').replace("\\\\", "\\")


def _fingerprint(*parts: str) -> str:
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()

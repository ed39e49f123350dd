"""One page of a list, with the address of the next in the body and in `Link`."""

from __future__ import annotations

from typing import Any, TypeVar
from urllib.parse import urlencode

from flask import request

from services.api.models import Listed
from services.api.routing import Result
from services.api.service import here
from services.store import Page

L = TypeVar("L", bound=Listed[Any])

LINK = (("Link", "The next page, rel=next, where there is one."),)


def listed(model: type[L], data: list[Any], page: Page[Any], **more: Any) -> Result:
    """The answer of a list route; `more` is what the model tells besides."""
    body = model(data=data, next_cursor=page.next_cursor, has_more=page.next_cursor is not None, **more)
    if page.next_cursor is None:
        return body, 200
    kept = [(name, value) for name, value in request.args.items(multi=True) if name != "cursor"]
    address = f"{here().base}{request.path}?{urlencode([*kept, ('cursor', page.next_cursor)])}"
    return body, 200, {"Link": f'<{address}>; rel="next"'}

"""What the parts of the store share: the database, the clock, paging."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import Integer, Select
from sqlalchemy.orm import InstrumentedAttribute, Session

from grading.verdict import Report
from services.store.database import Database
from services.store.errors import BadCursor
from services.store.records import Page, Submission

BodyOf = Callable[[str, Submission, Report | None], str]

Row = TypeVar("Row")
Record = TypeVar("Record")

MICROSECONDS = 1_000_000
_ID = re.compile("[a-z]{3}_[0-9a-z]{26}")
_NUMBER = re.compile("[0-9]{1,18}")


def us(seconds: float) -> int:
    """Seconds as microseconds."""
    return round(seconds * MICROSECONDS)


class Part:
    """One part of the store over the database that all share."""

    def __init__(self, database: Database, clock: Callable[[], int], body_of: BodyOf, max_attempts: int) -> None:
        self._database = database
        self._clock = clock
        self._body_of = body_of
        self._max_attempts = max_attempts


def page(
    session: Session,
    statement: Select[Row],
    column: InstrumentedAttribute[Any],
    cursor: str | None,
    limit: int,
    record: Callable[[Row], Record],
) -> Page[Record]:
    """Rows by falling `column`, which is unique. The cursor names the last row of the page before."""
    return page_of_rows(session, statement, column, cursor, limit, lambda row: record(row[0]))


def page_of_rows(
    session: Session,
    statement: Select[Any],
    column: InstrumentedAttribute[Any],
    cursor: str | None,
    limit: int,
    record: Callable[[Any], Record],
) -> Page[Record]:
    """The same where `statement` asks for several things, the table of `column` first."""
    if cursor is not None:
        statement = statement.where(column < _decoded(cursor, isinstance(column.type, Integer)))
    rows = session.execute(statement.order_by(column.desc()).limit(limit + 1)).all()
    more = len(rows) > limit
    rows = rows[:limit]
    return Page(tuple(record(row) for row in rows), _encoded(getattr(rows[-1][0], column.key)) if more else None)


def merged(pages: Sequence[Page[Record]], name: Callable[[Record], str], limit: int) -> Page[Record]:
    """One page of several that were asked with the same cursor and limit, by falling name."""
    items = sorted((item for one in pages for item in one.items), key=name, reverse=True)
    more = len(items) > limit or any(one.next_cursor is not None for one in pages)
    return Page(tuple(items[:limit]), _encoded(name(items[limit - 1])) if more else None)


def _encoded(value: object) -> str:
    return base64.urlsafe_b64encode(str(value).encode()).decode().rstrip("=")


def _decoded(cursor: str, is_number: bool) -> int | str:
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        value = base64.b64decode(padded, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        value = ""
    if not (_NUMBER if is_number else _ID).fullmatch(value):
        raise BadCursor("this cursor is none of ours")
    return int(value) if is_number else value


def plain(value: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A mapping as a column takes it."""
    return None if value is None else dict(value)

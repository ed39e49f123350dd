"""What the store raises. A candidate's fault is never one of these."""

from __future__ import annotations


class StoreUnavailable(Exception):
    """The database does not answer, is full, locked for too long, or not migrated: infrastructure, try again."""


class NotFound(LookupError):
    """There is no such row."""


class Conflict(Exception):
    """The row is not in a state in which this can be done."""


class Busy(Exception):
    """Too much of this goes on at once in this process; it may be asked again in a moment."""


class BadCursor(ValueError):
    """A cursor that this store did not give out."""

"""Links that sort a table and turn its pages, made from the address that is shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlencode


@dataclass(frozen=True)
class Sorting:
    """By what a table is sorted."""

    path: str
    arguments: Mapping[str, str]
    key: str
    falling: bool

    def link(self, key: str) -> str:
        """Sort by `key`, or the other way round where it is sorted by that already."""
        up = self.falling if key == self.key else key == "name"
        return f"{self.path}?{urlencode({**self.arguments, 'sort': key, 'order': 'up' if up else 'down'})}#table"


@dataclass(frozen=True)
class Paging:
    """Which part of a list is shown."""

    path: str
    arguments: Mapping[str, str]
    number: int
    size: int
    total: int

    @classmethod
    def of(cls, path: str, arguments: Mapping[str, str], wanted: int, size: int, total: int) -> Paging:
        """The part asked for, or the last one that there is."""
        pages = max(1, -(-total // size))
        return cls(path, arguments, min(wanted, pages), size, total)

    @property
    def pages(self) -> int:
        """How many parts there are."""
        return max(1, -(-self.total // self.size))

    @property
    def first(self) -> int:
        """Number of the first item shown, from 1."""
        return min(self.total, (self.number - 1) * self.size + 1)

    @property
    def last(self) -> int:
        """Number of the last."""
        return min(self.total, self.number * self.size)

    @property
    def part(self) -> slice:
        """The items shown."""
        return slice((self.number - 1) * self.size, self.number * self.size)

    def link(self, number: int) -> str:
        """Another part of the same list."""
        return f"{self.path}?{urlencode({**self.arguments, 'page': str(number)})}#table"


def next_link(path: str, arguments: Mapping[str, str], cursor: str | None) -> str | None:
    """The next part of a list that the store pages by cursor."""
    if cursor is None:
        return None
    kept = {name: value for name, value in arguments.items() if value and name not in ("cursor", "said")}
    return f"{path}?{urlencode({**kept, 'cursor': cursor})}"

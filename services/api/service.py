"""What every route works with: the store, the settings, the challenges."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from flask import current_app, g

from grading.challenge import Challenge
from services.api.observe import Metrics
from services.api.problems import ApiProblem
from services.api.routing import Operation
from services.settings import Settings
from services.store import ApiKey, Store

EXTENSION = "assay"


class Streams:
    """The event streams that are open in this process; no key has more than a quarter of what there may be."""

    def __init__(self, most: int) -> None:
        self._most, self._most_each = most, max(1, most // 4)
        self._open: Counter[str] = Counter()
        self._lock = threading.Lock()

    def begin(self, key_id: str) -> bool:
        """Open one more, if there is room for this key; `end` it then."""
        with self._lock:
            room = self._open.total() < self._most and self._open[key_id] < self._most_each
            self._open[key_id] += room
            return room

    def end(self, key_id: str) -> None:
        """One of this key's is over."""
        with self._lock:
            self._open[key_id] -= 1
            if not self._open[key_id]:
                del self._open[key_id]


@dataclass
class Service:
    """One application's parts."""

    settings: Settings
    store: Store
    metrics: Metrics
    load_challenges: Callable[[], Mapping[str, Challenge]]
    operations: Mapping[str, Operation] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.streams = Streams(self.settings.sse_max_streams)

    @cached_property
    def challenges(self) -> Mapping[str, Challenge]:
        """Every challenge by its slug, read once."""
        return self.load_challenges()

    @cached_property
    def digests(self) -> Mapping[str, str]:
        """The digest of each challenge, computed once."""
        return {slug: challenge.digest() for slug, challenge in self.challenges.items()}

    @property
    def base(self) -> str:
        """What goes before the path of a link."""
        return self.settings.public_url.rstrip("/")

    def require_challenge(self, slug: str) -> Challenge:
        """The challenge called `slug`, or a 422 that names those that there are."""
        challenge = self.challenges.get(slug)
        if challenge is None:
            known = ", ".join(self.challenges) or "none"
            raise ApiProblem(
                422,
                f"There is no such challenge; there are: {known}.",
                "unknown-challenge",
                [("/challenge", "unknown")],
            )
        return challenge


def here() -> Service:
    """The service of the application that runs."""
    service: Service = current_app.extensions[EXTENSION]
    return service


def key() -> ApiKey:
    """The API key of this request, on routes that need one."""
    found: ApiKey = g.key
    return found


def actor() -> str:
    """Who does this, for the audit log."""
    return key().id

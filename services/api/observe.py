"""What an operator sees of the API: one log line per request, and Prometheus metrics."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Iterator
from typing import get_args

from flask import Flask, Response, g, request
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from structlog.contextvars import bind_contextvars, clear_contextvars

from services.logs import logger
from services.store import Pool, Store, StoreUnavailable
from services.store.ids import new_id
from services.store.records import MessageState, Queue, StoreCounts, SubmissionState

log = logger("api")

# Around the promise of 50 ms for a submission, out to a large upload.
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)
_POOL_WITHIN_S = 60.0  # a host that was silent for longer is left out
_MULTIPROCESS = "PROMETHEUS_MULTIPROC_DIR"


class Metrics:
    """The API's own instruments, and at each scrape what the store counts.

    With PROMETHEUS_MULTIPROC_DIR set before the interpreter starts, a scrape answers for
    all processes that share the folder.
    """

    def __init__(self, store: Store, cache_s: float = 0.0) -> None:
        own = CollectorRegistry()
        self.seconds = Histogram(
            "assay_http_request_seconds",
            "Time until the response began, by route.",
            ("method", "route", "status"),
            buckets=_SECONDS,
            registry=own,
        )
        self.refused = Counter("assay_http_refused", "Requests refused, by reason.", ("reason",), registry=own)
        self.streams = Counter("assay_event_streams", "Event streams opened.", registry=own)
        if os.environ.get(_MULTIPROCESS):
            self._registry = CollectorRegistry()
            MultiProcessCollector(self._registry)  # type: ignore[no-untyped-call]
        else:
            self._registry = own
        self._counts = _StoreCounts(store, cache_s)
        self._registry.register(self._counts)

    def text(self) -> bytes:
        """The exposition of this moment."""
        return generate_latest(self._registry)

    def counts(self) -> StoreCounts:
        """The same counts of the store for a page, no older. Raises StoreUnavailable."""
        return self._counts.counts()


class _StoreCounts(Collector):
    """Gauges that every process of the service would answer alike: they come from the store."""

    def __init__(self, store: Store, cache_s: float) -> None:
        self._store = store
        self._cache_s = cache_s
        self._lock = threading.Lock()
        self._last: tuple[float, StoreCounts] | None = None

    def describe(self) -> list[Metric]:
        """Nothing, so that registering does not ask the store."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The store's counts as they are now; only `assay_store_up` where it does not answer."""
        up = GaugeMetricFamily("assay_store_up", "1 where the database answers.")
        try:
            counts, pools = self.counts(), self._store.pools(_POOL_WITHIN_S)
        except StoreUnavailable:
            up.add_metric([], 0)
            yield up
            return
        up.add_metric([], 1)
        yield up
        yield from _families(counts)
        yield _containers(pools)

    def counts(self) -> StoreCounts:
        """The counts, asked for at most every so often: they read whole indexes."""
        with self._lock:
            now_s = time.monotonic()
            if self._last is None or now_s - self._last[0] >= self._cache_s:
                self._last = now_s, self._store.counts()
            return self._last[1]


def _families(counts: StoreCounts) -> Iterator[Metric]:
    depth = GaugeMetricFamily("assay_submissions", "Submissions, by queue and state.", labels=("queue", "state"))
    # Zeros are told too, so that a graph begins before the first of its kind.
    for queue in get_args(Queue):
        for state in get_args(SubmissionState):
            depth.add_metric([queue, state], counts.submissions.get((queue, state), 0))
    yield depth
    waiting = GaugeMetricFamily("assay_oldest_waiting_seconds", "Age of the oldest that is due.", labels=("queue",))
    for queue, seconds in counts.oldest_waiting_s.items():
        waiting.add_metric([queue], seconds)
    yield waiting
    verdicts = GaugeMetricFamily("assay_verdicts", "Verdicts on single bugs, over all reports.", labels=("verdict",))
    for verdict, number in counts.verdicts.items():
        verdicts.add_metric([verdict], number)
    yield verdicts
    messages = GaugeMetricFamily("assay_webhook_messages", "Outgoing webhook messages.", labels=("state",))
    for kind in get_args(MessageState):
        messages.add_metric([kind], counts.messages.get(kind, 0))
    yield messages
    yield GaugeMetricFamily("assay_outbox_pending", "Hints not yet on the queue.", value=counts.outbox_pending)


def _containers(pools: Iterable[Pool]) -> Metric:
    told = GaugeMetricFamily(
        "assay_pool_containers", "Containers of the pools that tell of themselves.", labels=("host", "state")
    )
    for pool in pools:
        for state, number in (
            ("warm", pool.warm),
            ("warming", pool.warming),
            ("grading", pool.busy),
            ("wanted", pool.target),
        ):
            told.add_metric([pool.host, state], number)
    return told


def begin_request() -> None:
    """A new id for the request, and nothing of the last one in its log lines."""
    clear_contextvars()
    g.began_s = time.perf_counter()
    request.environ["assay.request_id"] = new_id("req")
    bind_contextvars(request=request.environ["assay.request_id"])


def end_request(metrics: Metrics, response: Response) -> Response:
    """Log and measure what was answered. Neither paths nor queries are logged as sent: a route's rule is."""
    rule = request.url_rule.rule if request.url_rule is not None else "none"
    seconds = time.perf_counter() - g.get("began_s", time.perf_counter())
    metrics.seconds.labels(request.method if request.url_rule else "any", rule, str(response.status_code)).observe(
        seconds
    )
    key = g.get("key")
    log.info(
        "request",
        method=request.method,
        route=rule,
        status=response.status_code,
        ms=round(seconds * 1000, 1),
        key=key.id if key is not None else None,
        **{name: value for name, value in (request.view_args or {}).items() if name.endswith("_id")},
    )
    response.headers["X-Request-Id"] = request.environ.get("assay.request_id", "none")
    return response


def install(app: Flask, metrics: Metrics) -> None:
    """Watch every request of `app`."""
    app.before_request(begin_request)
    app.after_request(lambda response: end_request(metrics, response))

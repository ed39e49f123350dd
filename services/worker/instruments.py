"""What a worker counts, for Prometheus.

With PROMETHEUS_MULTIPROC_DIR set before the interpreter starts, the figures lie in that folder and the
API's /metrics tells them with its own (`assay serve` does so). Elsewhere `ASSAY_WORKER_METRICS_PORT` opens
a port of the worker's own.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram, start_http_server

from grading.verdict import Report

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0)
_WAITED = (*_SECONDS, 900.0, 3600.0, 14_400.0)


class Instruments:
    """One process's; safe for all its threads."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.seconds = Histogram(
            "assay_grade_seconds",
            "Wall time of a grading, by phase; `queue` is what it waited.",
            ("phase",),
            buckets=_WAITED,
            registry=self._registry,
        )
        self.outcomes = Counter(
            "assay_hints", "Hints worked off, by what came of them.", ("outcome",), registry=self._registry
        )
        self.containers = Counter(
            "assay_containers",
            "Containers that graded, by whether they waited warm.",
            ("warm",),
            registry=self._registry,
        )
        self.deliveries = Counter(
            "assay_deliveries", "Attempts to deliver a webhook, by answer.", ("answer",), registry=self._registry
        )

    def graded(self, report: Report) -> None:
        """A report was kept."""
        timing = report.timing
        phases = {
            "queue": timing.queue_s,
            "start": timing.sandbox_start_s,
            "warm-up": timing.warm_up_s,
            "probes": timing.probes_s,
            "own run": timing.real_run_s,
            "judge": timing.judge_s,
            "total": timing.total_s,
        }
        for phase, seconds in phases.items():
            if seconds is not None:
                self.seconds.labels(phase).observe(seconds)
        if report.run_status != "not_run":
            self.containers.labels("no" if timing.warm_up_s else "yes").inc()

    def worked_off(self, outcome: str) -> None:
        """A hint was dealt with."""
        self.outcomes.labels(outcome).inc()

    def attempted(self, status: int | None) -> None:
        """A webhook was tried: the hundreds of its answer's status, or none."""
        self.deliveries.labels(f"{status // 100}xx" if status else "none").inc()

    def listen(self, port: int, host: str) -> None:
        """Tell them at a port of this process's own."""
        start_http_server(port, addr=host, registry=self._registry)

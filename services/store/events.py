"""Bodies of outgoing webhook events: pure, compact, and the same whenever they are built again.

A body is `{"type", "timestamp", "data"}` as Standard Webhooks has it. It is signed as the exact text
that these functions return, so that text is what the store keeps and the sender posts. An event's
timestamp is when the thing happened, never when it was posted, and a body stays below
`MAX_BODY_BYTES` whatever a challenge or a candidate writes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

from grading.verdict import BugVerdict, Report

SUBMISSION_GRADED = "submission.graded"
SUBMISSION_INVALID = "submission.invalid"
SUBMISSION_DEAD = "submission.dead"
COHORT_FINISHED = "cohort.finished"
ENDPOINT_PING = "endpoint.ping"
EVENT_TYPES = (SUBMISSION_GRADED, SUBMISSION_INVALID, SUBMISSION_DEAD, COHORT_FINISHED)
"""What an endpoint may subscribe to; a ping is sent whatever it subscribed to."""

MAX_BODY_BYTES = 20_000
_SUMMARY_CHARS = (160, 60, 0)  # the first with which the body fits
_REASON_CHARS = 600
_NAME_CHARS = 200
_ID_CHARS = 40
_EARLIEST_US, _LATEST_US = -62_135_596_800_000_000, 253_402_300_799_999_999  # the years 1 to 9999
_VERDICTS = 50


class SubmissionFacts(Protocol):
    """What an event tells of a submission; the store's record has all of it."""

    @property
    def id(self) -> str: ...  # noqa: D102
    @property
    def state(self) -> str: ...  # noqa: D102
    @property
    def challenge(self) -> str: ...  # noqa: D102
    @property
    def file_name(self) -> str: ...  # noqa: D102
    @property
    def candidate(self) -> Mapping[str, Any] | None: ...  # noqa: D102
    @property
    def cohort_id(self) -> str | None: ...  # noqa: D102
    @property
    def generation(self) -> int: ...  # noqa: D102
    @property
    def finished_us(self) -> int | None: ...  # noqa: D102
    @property
    def queued_us(self) -> int: ...  # noqa: D102
    @property
    def last_error(self) -> str | None: ...  # noqa: D102


def body_of(event_type: str, submission: SubmissionFacts, report: Report | None) -> str:
    """The body of an event about one submission; `report` is None for one that is dead."""
    data: dict[str, Any] = {
        "submission_id": submission.id,
        "state": submission.state,
        "challenge": submission.challenge,
        "file_name": _cut(submission.file_name, _NAME_CHARS),
        "candidate": {"external_id": _external_id(submission.candidate)},
        "cohort_id": submission.cohort_id,
        "generation": submission.generation,
        "links": _links(submission),
    }
    at_us = submission.finished_us or submission.queued_us
    if report is None:
        error = submission.last_error and _cut(submission.last_error, _REASON_CHARS)
        return envelope(event_type, at_us, data | {"error": error})
    bodies = (envelope(event_type, at_us, data | _of_report(report, chars)) for chars in _SUMMARY_CHARS)
    return next(body for body in bodies if len(body.encode()) < MAX_BODY_BYTES)  # without summaries all do


def cohort_body(cohort_id: str, name: str, challenge: str, counts: Mapping[str, int], finished_us: int) -> str:
    """The body of `cohort.finished`; `counts` are submissions by state."""
    data = {
        "cohort_id": cohort_id,
        "name": _cut(name, _NAME_CHARS),
        "challenge": challenge,
        "counts": dict(counts),
        "links": {"cohort": f"/v1/cohorts/{cohort_id}"},
    }
    return envelope(COHORT_FINISHED, finished_us, data)


def ping_body(endpoint_id: str, at_us: int) -> str:
    """The body with which an endpoint is tried out."""
    return envelope(ENDPOINT_PING, at_us, {"endpoint_id": endpoint_id})


def envelope(event_type: str, at_us: int, data: Mapping[str, Any]) -> str:
    """One event as the text that is signed; `at_us` is UTC in microseconds."""
    event = {"type": event_type, "timestamp": iso(at_us), "data": data}
    return json.dumps(event, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def iso(at_us: int) -> str:
    """UTC microseconds as ISO 8601 with a Z; what lies outside the years 1 to 9999 becomes their end."""
    seconds, microseconds = divmod(min(max(at_us, _EARLIEST_US), _LATEST_US), 1_000_000)
    moment = datetime.fromtimestamp(seconds, UTC).replace(microsecond=microseconds)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _of_report(report: Report, summary_chars: int) -> dict[str, Any]:
    return {
        "outcome": report.outcome,
        "invalid_reason": _cut(report.invalid_reason, _REASON_CHARS) if report.invalid_reason else None,
        "rating": report.rating and report.rating.rating,
        "rating_provisional": report.rating and report.rating.provisional,
        "fixed": report.rating and report.rating.fixed,
        "total": report.rating and report.rating.total,
        "goal_reached": report.goal.reached,
        "bugs": [_of_bug(bug, summary_chars) for bug in report.bugs[:_VERDICTS]],
        "regressions": len(report.regressions),
        "tampering_suspected": report.tampering_suspected,
        "grader": report.versions.grader_digest,
        "graded_at": report.graded_at,
    }


def _of_bug(bug: BugVerdict, summary_chars: int) -> dict[str, Any]:
    told = {"number": bug.number, "id": _cut(bug.id, _ID_CHARS), "verdict": bug.verdict.value}
    return told | {"summary": _cut(bug.evidence.summary, summary_chars)} if summary_chars else told


def _links(submission: SubmissionFacts) -> dict[str, str]:
    """Paths below the service's address, which the receiver knows and a body built anew must not depend on."""
    links = {"submission": f"/v1/submissions/{submission.id}"}
    if submission.cohort_id:
        links["cohort"] = f"/v1/cohorts/{submission.cohort_id}"
    return links


def _external_id(candidate: Mapping[str, Any] | None) -> str | None:
    value = (candidate or {}).get("external_id")
    return None if value is None else _cut(str(value), _NAME_CHARS)


def _cut(text: str, chars: int) -> str:
    """At most `chars` characters, printable in any JSON reader: no lone surrogates, no controls."""
    clean = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return clean if len(clean) <= chars else clean[: chars - 1] + "…"

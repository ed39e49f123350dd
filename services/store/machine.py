"""The state machine of a submission: the only place that changes its state.

queued → running → graded | invalid | dead, and back to queued by a retry, an ended lease, a regrade
or a requeue; cancelled and erased end it from outside. A claim holds as long as the submission is
running under the claim's fence: each new claim, and each taking away, raises the fence, so that
nobody can finish what is no longer theirs.

All functions work inside a transaction of their caller. Rows are locked in one order everywhere:
cohort, submission, assessment, invitation, its checks, receivers of webhooks, messages, and the audit log last.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Select, Update, case, func, insert, select, update
from sqlalchemy.orm import Session

from grading.verdict import Report, Verdict
from services.store.errors import NotFound
from services.store.events import (
    COHORT_FINISHED,
    SUBMISSION_DEAD,
    SUBMISSION_GRADED,
    SUBMISSION_INVALID,
    cohort_body,
)
from services.store.ids import MESSAGE, REPORT, SUBMISSION, new_id
from services.store.part import BodyOf, plain
from services.store.records import UNDER_WAY, Claim, Cohort, NewSubmission, Purpose, Queue, Submission, SubmissionState
from services.store.tables import (
    CohortTable,
    EndpointRow,
    EventRow,
    MessageRow,
    OutboxTable,
    ReportRow,
    SettingRow,
    SubmissionRow,
    Table,
)

ERASED = "erased_us"  # the setting under which stands when something was erased that may still be on the disk
_ERROR_CHARS = 2000
_ENDS: dict[SubmissionState, str] = {
    "graded": SUBMISSION_GRADED,
    "invalid": SUBMISSION_INVALID,
    "dead": SUBMISSION_DEAD,
}


def record(row: SubmissionRow) -> Submission:
    """A row as the store gives it away."""
    return Submission(**{name: getattr(row, name) for name in Submission.__dataclass_fields__})


# Looking ----------------------------------------------------------------------------------------


def locked(session: Session, submission_id: str) -> SubmissionRow | None:
    """The row as it is now, for this transaction alone. Enough where the submission cannot come to an end."""
    found = select(SubmissionRow).where(SubmissionRow.id == submission_id)
    return session.scalar(found.with_for_update(key_share=True))


def locked_with_cohort(session: Session, submission_id: str) -> SubmissionRow | None:
    """The same after its cohort: two that end at once must not each take the other for still running."""
    cohort_id = session.scalar(select(SubmissionRow.cohort_id).where(SubmissionRow.id == submission_id))
    if cohort_id is not None:
        locked_cohort(session, cohort_id)
    return locked(session, submission_id)


def existing(row: SubmissionRow | None, submission_id: str) -> SubmissionRow:
    """`row`. Raises NotFound."""
    if row is None:
        raise NotFound(f"there is no submission {submission_id}")
    return row


def handed_in(row: SubmissionRow | None, submission_id: str) -> SubmissionRow:
    """`row`, where it is a submission and not a check. Raises NotFound."""
    found = existing(row, submission_id)
    if found.purpose != "grade":
        raise NotFound(f"there is no submission {submission_id}")
    return found


def cohort_values(cohort: Cohort) -> dict[str, Any]:
    """The columns of a new cohort."""
    return {column: getattr(cohort, column) for column in Cohort.__dataclass_fields__}


def locked_cohort(session: Session, cohort_id: str) -> CohortTable:
    """The cohort for this transaction alone. Raises NotFound."""
    found = select(CohortTable).where(CohortTable.id == cohort_id)
    row = session.scalar(found.with_for_update(key_share=True))
    if row is None:
        raise NotFound(f"there is no cohort {cohort_id}")
    return row


def holds(row: SubmissionRow | None, claim: Claim) -> bool:
    """Whether the claim still is the right to this submission. A lease that ended unnoticed still counts."""
    return row is not None and row.state == "running" and row.fence == claim.fence


def told(session: Session, submission_id: str, kind: str, data: Mapping[str, Any], now_us: int) -> None:
    """Add an event. Under the row's lock, so that events of a submission appear in the order of `seq`."""
    session.execute(insert(EventRow).values(submission_id=submission_id, kind=kind, data=dict(data), created_us=now_us))


# Taking in --------------------------------------------------------------------------------------


def new_row(
    new: NewSubmission,
    queue: Queue,
    now_us: int,
    max_attempts: int,
    *,
    cohort_id: str | None = None,
    purpose: Purpose = "grade",
    invitation_id: str | None = None,
) -> SubmissionRow:
    """What just came in, waiting."""
    return SubmissionRow(
        id=new_id(SUBMISSION, now_us),
        challenge=new.challenge,
        file_name=new.file_name,
        source=new.source,
        source_sha256=hashlib.sha256(new.source).hexdigest(),
        source_bytes=len(new.source),
        state="queued",
        queue=queue,
        cohort_id=cohort_id,
        candidate=plain(new.candidate),
        integration_id=new.integration_id,
        callback=plain(new.callback),
        api_key_id=new.api_key_id,
        created_us=now_us,
        queued_us=now_us,
        started_us=None,
        finished_us=None,
        attempts=0,
        max_attempts=max_attempts,
        next_attempt_us=now_us,
        fence=0,
        lease_until_us=None,
        worker=None,
        generation=0,
        last_error=None,
        outcome=None,
        fixed=None,
        total=None,
        rating=None,
        tampering_suspected=False,
        state_version=0,
        purpose=purpose,
        invitation_id=invitation_id,
        check_result=None,
    )


def first_hint(session: Session, row: SubmissionRow, now_us: int) -> None:
    """A new row, which is in the database already, is due."""
    hint(session, row, now_us, now_us)
    told(session, row.id, "queued", {"generation": 0, "reason": "new"}, now_us)


# Moving -----------------------------------------------------------------------------------------


def wait(session: Session, row: SubmissionRow, now_us: int, due_us: int, event: str, data: Mapping[str, Any]) -> None:
    """Queued, for whatever reason: no lease, and a hint for when it is due."""
    row.state = "queued"
    row.state_version += 1
    row.next_attempt_us = due_us
    row.lease_until_us = row.worker = None
    hint(session, row, now_us, due_us)
    told(session, row.id, event, data, now_us)


def hint(session: Session, row: SubmissionRow, now_us: int, due_us: int) -> None:
    """Have the relay put it on the queue at `due_us`."""
    session.execute(
        insert(OutboxTable).values(
            kind="grade", submission_id=row.id, queue=row.queue, created_us=now_us, due_us=due_us
        )
    )


def run(session: Session, row: SubmissionRow, worker: str, now_us: int, lease_us: int) -> None:
    """Running: an attempt counts and older claims end."""
    row.state = "running"
    row.state_version += 1
    row.fence += 1
    row.attempts += 1
    row.started_us = now_us
    row.lease_until_us = now_us + lease_us
    row.worker = worker
    data = {"attempt": row.attempts, "generation": row.generation, "waited_us": now_us - row.queued_us}
    told(session, row.id, "started", data, now_us)


def retry_or_die(
    session: Session, row: SubmissionRow, now_us: int, due_us: int, event: str, error: str, body_of: BodyOf
) -> SubmissionState:
    """After an infrastructure fault: wait again, or dead when that was the last attempt. The state it got."""
    row.last_error = error[:_ERROR_CHARS]
    data = {"attempt": row.attempts, "error": row.last_error}
    if row.attempts < row.max_attempts:
        wait(session, row, now_us, due_us, event, data | {"due_us": due_us})
        return "queued"
    end(session, row, "dead", now_us, data, None, body_of)
    return "dead"


def keep_report(session: Session, row: SubmissionRow, report: Report, now_us: int) -> None:
    """The report and what lists show of it."""
    verdicts = [bug.verdict for bug in report.bugs]
    letters = "".join(verdict.value[0] for verdict in verdicts)
    session.execute(
        insert(ReportRow).values(
            id=new_id(REPORT, now_us),
            submission_id=row.id,
            generation=row.generation,
            fence=row.fence,
            grader_digest=report.versions.grader_digest,
            challenge_digest=report.versions.challenge_digest,
            fixed=verdicts.count(Verdict.FIXED),
            not_fixed=verdicts.count(Verdict.NOT_FIXED),
            inconclusive=verdicts.count(Verdict.INCONCLUSIVE),
            verdicts=letters,
            rating=None if report.rating is None else report.rating.rating,
            # Escaped, so that no candidate's output holds a character that a database refuses.
            report=json.dumps(report.model_dump(mode="json"), ensure_ascii=True, separators=(",", ":")),
            created_us=now_us,
        )
    )
    row.outcome = report.outcome
    row.tampering_suspected = report.tampering_suspected
    row.last_error = None
    row.verdicts, row.goal_reached, row.accuracy = letters, report.goal.reached, report.goal.accuracy
    row.provisional = None if report.rating is None else report.rating.provisional
    if report.rating is not None:
        row.fixed, row.total, row.rating = report.rating.fixed, report.rating.total, report.rating.rating


def keep_check(row: SubmissionRow, result: Mapping[str, Any], outcome: str) -> None:
    """What a check may tell, and nothing else of its report."""
    row.check_result = plain(result)
    row.outcome = outcome
    row.last_error = None


def note_erased(session: Session, now_us: int) -> None:
    """Something was erased: SQLite's log still has it, until `scrub` has emptied that."""
    if session.get_bind().dialect.name == "sqlite":
        session.merge(SettingRow(key=ERASED, value=str(now_us)))
        session.flush()  # so that a second note of this transaction finds the first


def end(
    session: Session,
    row: SubmissionRow,
    state: SubmissionState,
    now_us: int,
    data: Mapping[str, Any],
    report: Report | None,
    body_of: BodyOf,
) -> None:
    """Graded, invalid, dead, cancelled or erased, with all that follows from it."""
    if row.state == "running" and state in ("cancelled", "erased"):
        row.fence += 1  # taken away from its worker
    row.state = state
    row.state_version += 1
    row.finished_us = now_us
    row.lease_until_us = row.worker = None
    session.flush()
    told(session, row.id, state, data, now_us)
    if state == "erased":
        note_erased(session, now_us)
    if state in _ENDS and row.purpose == "grade":
        _announce_submission(session, row, _ENDS[state], body_of(_ENDS[state], record(row), report), now_us)
    if row.cohort_id is not None:
        settle_cohort(session, locked_cohort(session, row.cohort_id), now_us)


def start_over(session: Session, row: SubmissionRow, now_us: int, reason: str) -> None:
    """The next generation: fresh attempts, at the end of the queue; older reports stay."""
    row.generation += 1
    for name, value in _anew(now_us).items():
        setattr(row, name, value)
    wait(session, row, now_us, now_us, "queued", {"generation": row.generation, "reason": reason})


def _anew(now_us: int) -> dict[str, Any]:
    """What a row says of a generation that nothing was done about yet."""
    nothing = ("started_us", "finished_us", "outcome", "fixed", "total", "rating", "last_error")
    return dict.fromkeys(nothing) | {"attempts": 0, "queued_us": now_us, "tampering_suspected": False}


# The same for many at once: as many statements for a thousand as for one.


def start_all_over(
    session: Session, cohort_id: str, states: Sequence[SubmissionState], now_us: int, reason: str
) -> int:
    """`start_over` for all of a cohort, which is locked, that are in one of `states`; how many."""
    mine = _members(cohort_id, states)
    facts = (SubmissionRow.id, SubmissionRow.queue, SubmissionRow.generation)
    rows = _locked_facts(session, select(*facts).where(*mine))
    waiting = {"state": "queued", "next_attempt_us": now_us, "lease_until_us": None, "worker": None}
    counted = {"generation": SubmissionRow.generation + 1, "state_version": SubmissionRow.state_version + 1}
    session.execute(_quietly(update(SubmissionRow).where(*mine).values(**_anew(now_us), **waiting, **counted)))
    due = {"kind": "grade", "created_us": now_us, "due_us": now_us}
    _insert(session, OutboxTable, [due | {"submission_id": row.id, "queue": row.queue} for row in rows])
    _all_told(session, "queued", {row.id: {"generation": row.generation + 1, "reason": reason} for row in rows}, now_us)
    return len(rows)


def cancel_all(session: Session, cohort_id: str, now_us: int) -> int:
    """Take out all of a cohort, which is locked and cancelled, that wait or run; how many."""
    mine = _members(cohort_id, UNDER_WAY)
    rows = _locked_facts(session, select(SubmissionRow.id).where(*mine))
    ended = {"state": "cancelled", "finished_us": now_us, "lease_until_us": None, "worker": None}
    counted = {
        "fence": SubmissionRow.fence + case((SubmissionRow.state == "running", 1), else_=0),
        "state_version": SubmissionRow.state_version + 1,
    }
    session.execute(_quietly(update(SubmissionRow).where(*mine).values(**ended, **counted)))
    _all_told(session, "cancelled", {row.id: {} for row in rows}, now_us)
    return len(rows)


def _members(cohort_id: str, states: Sequence[SubmissionState]) -> tuple[ColumnElement[bool], ...]:
    return SubmissionRow.cohort_id == cohort_id, SubmissionRow.state.in_(states)


def _locked_facts(session: Session, found: Select[*tuple[Any, ...]]) -> Sequence[Any]:
    """In the order in which everybody locks them. Under the cohort's lock none comes to them before the UPDATE."""
    return session.execute(found.order_by(SubmissionRow.id).with_for_update(key_share=True)).all()


def _quietly(statement: Update) -> Update:
    """Of the rows that change none is in the session's memory."""
    return statement.execution_options(synchronize_session=False)


def _all_told(session: Session, kind: str, data: Mapping[str, Mapping[str, Any]], now_us: int) -> None:
    told = {"kind": kind, "created_us": now_us}
    _insert(session, EventRow, [told | {"submission_id": name, "data": dict(one)} for name, one in data.items()])


def _insert(session: Session, table: type[Table], rows: list[dict[str, Any]]) -> None:
    if rows:
        session.execute(insert(table), rows)


# Cohorts ----------------------------------------------------------------------------------------


def cohort_counts(session: Session, cohort_id: str) -> dict[SubmissionState, int]:
    """Submissions by state, without states that have none."""
    counted = select(SubmissionRow.state, func.count()).where(SubmissionRow.cohort_id == cohort_id)
    return {state: count for state, count in session.execute(counted.group_by(SubmissionRow.state))}  # type: ignore[misc]


def settle_cohort(session: Session, cohort: CohortTable, now_us: int) -> None:
    """Finished, if nothing of it waits or runs any more. The cohort is locked."""
    if cohort.state != "running":
        return
    counts = cohort_counts(session, cohort.id)
    if any(state in counts for state in UNDER_WAY):
        return
    cohort.state, cohort.finished_us = "finished", now_us
    named: dict[str, int] = {state: count for state, count in counts.items()}
    body = cohort_body(cohort.id, cohort.name, cohort.challenge, named, now_us)
    for target in _receivers(session, COHORT_FINISHED):
        _post(session, target, COHORT_FINISHED, body, now_us, cohort.generation, cohort_id=cohort.id)


def run_cohort(cohort: CohortTable) -> None:
    """Something of it waits again. A finished one begins a new round, which finishes anew."""
    if cohort.state == "finished":
        cohort.generation += 1
        cohort.finished_us = None
    cohort.state = "running"


# Messages ---------------------------------------------------------------------------------------


def _announce_submission(session: Session, row: SubmissionRow, event_type: str, body: str, now_us: int) -> None:
    for target in _receivers(session, event_type):
        _post(session, target, event_type, body, now_us, row.generation, submission_id=row.id)
    if row.callback is not None:
        lane = row.integration_id or "callback"
        _post(session, None, event_type, body, now_us, row.generation, submission_id=row.id, lane=lane)


def _receivers(session: Session, event_type: str) -> list[str]:
    """Who wants it, disabled ones too: for them it waits. Locked against being deleted meanwhile."""
    endpoints = select(EndpointRow).where(EndpointRow.deleted_us.is_(None)).order_by(EndpointRow.id)
    rows = session.scalars(endpoints.with_for_update(read=True))
    return [row.id for row in rows if not row.event_types or event_type in row.event_types]


def _post(
    session: Session,
    endpoint_id: str | None,
    event_type: str,
    body: str,
    now_us: int,
    generation: int,
    *,
    submission_id: str | None = None,
    cohort_id: str | None = None,
    lane: str | None = None,
) -> None:
    session.execute(
        insert(MessageRow).values(
            id=new_id(MESSAGE, now_us),
            endpoint_id=endpoint_id,
            target=endpoint_id or "callback",
            lane=lane or endpoint_id,
            event_type=event_type,
            submission_id=submission_id,
            cohort_id=cohort_id,
            subject_id=submission_id or cohort_id,
            generation=generation,
            body=body,
            state="pending",
            next_attempt_us=now_us,
            created_us=now_us,
        )
    )


# Erasing ----------------------------------------------------------------------------------------


def erase(session: Session, row: SubmissionRow, now_us: int, body_of: BodyOf) -> None:
    """Forget the candidate in a row and in what belongs to it; a running grade loses its claim. The counts stay."""
    row.candidate = row.callback = row.last_error = row.check_result = None
    row.file_name = row.source_sha256 = ""
    finished_us = row.finished_us
    end(session, row, "erased", now_us, {}, None, body_of)
    row.finished_us = finished_us or now_us
    session.execute(update(SubmissionRow).where(SubmissionRow.id == row.id).values(source=None))
    session.execute(update(ReportRow).where(ReportRow.submission_id == row.id).values(report=None))
    session.execute(update(EventRow).where(EventRow.submission_id == row.id).values(data={}))
    ours = MessageRow.submission_id == row.id
    session.execute(update(MessageRow).where(ours, MessageRow.state == "pending").values(state="dead"))
    session.execute(update(MessageRow).where(ours).values(body=""))

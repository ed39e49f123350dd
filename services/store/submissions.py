"""Submissions: taking in, showing, claiming, finishing, sweeping. What changes a state is in `machine`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Literal

from sqlalchemy import ScalarSelect, Select, and_, delete, exists, func, insert, or_, select, update

from grading.verdict import Report
from services.store import assessments, invitations, machine, replies, reviews, scorecards
from services.store.audit import append
from services.store.database import changed
from services.store.errors import Conflict
from services.store.machine import record
from services.store.part import Part, merged, page, us
from services.store.records import (
    UNDER_WAY,
    Claim,
    Cohort,
    Event,
    Idempotency,
    Inbound,
    NewSubmission,
    OutboxRow,
    Page,
    Queue,
    Submission,
    SubmissionFilters,
    SubmissionState,
    Swept,
)
from services.store.tables import (
    AttemptRow,
    CohortTable,
    EventRow,
    IdempotencyRow,
    InboundRow,
    MessageRow,
    OutboxTable,
    ReportRow,
    SettingRow,
    SubmissionRow,
    indexed,
)

# Hosts' clocks differ a little: a hint that was due where it was published is due where it arrives.
_CLOCK_TOLERANCE_US = us(1)
_QUEUES: tuple[Queue, ...] = ("interactive", "cohort")  # in the order in which they are seen to
_BATCH = 500
_EMPTY: Mapping[Queue, int] = MappingProxyType({})


class SubmissionPart(Part):
    """Submissions as clients see them."""

    def create_submission(
        self,
        new: NewSubmission,
        *,
        idempotency: Idempotency | None = None,
        inbound: Inbound | None = None,
        actor: str | None = None,
    ) -> Submission:
        """Take a submission in: row, hint for the queue, event, audit line, remembered answer.

        `actor` is for the audit, by default the key or integration. Raises Conflict when `idempotency`
        or `inbound` is no longer the caller's: ask idempotency_begin or inbound_begin again. With an
        `assessment_id` raises NotFound, and Conflict where that one waits for nothing or another challenge.
        """
        with self._database.write() as session:
            now_us = self._clock()
            row = machine.new_row(new, new.queue, now_us, self._max_attempts)
            session.add(row)
            session.flush()
            if new.assessment_id is not None:
                assessments.attach(session, new.assessment_id, row, now_us)
                session.flush()
            machine.first_hint(session, row, now_us)
            made = record(row)
            replies.remember(session, idempotency, inbound, (made,), made.id)
            who = actor or new.api_key_id or new.integration_id or "system"
            append(self._database, session, now_us, who, "submission.create", made.id, {"challenge": made.challenge})
        return made

    def create_submissions(
        self,
        cohort: str | Cohort,
        new: Sequence[NewSubmission],
        *,
        idempotency: Idempotency | None = None,
        actor: str | None = None,
    ) -> list[Submission]:
        """Add submissions to a cohort, all or none; their queue is `cohort` whatever they say.

        `cohort` is the id of one that there is, or what `new_cohort` gave: that is kept in the same transaction, so
        that a request that fails leaves no empty cohort behind.

        Raises NotFound; Conflict for a cancelled cohort and as create_submission does.
        """
        with self._database.write() as session:
            now_us = self._clock()
            if isinstance(cohort, Cohort):
                session.execute(insert(CohortTable).values(machine.cohort_values(cohort)))
            cohort_id = cohort if isinstance(cohort, str) else cohort.id
            kept = machine.locked_cohort(session, cohort_id)
            if kept.state == "cancelled":
                raise Conflict(f"cohort {cohort_id} is cancelled")
            most = self._max_attempts
            rows = [machine.new_row(one, "cohort", now_us, most, cohort_id=cohort_id) for one in new]
            if rows:
                machine.run_cohort(kept)
                session.add_all(rows)
                session.flush()
                due = {"kind": "grade", "queue": "cohort", "created_us": now_us, "due_us": now_us}
                session.execute(insert(OutboxTable), [due | {"submission_id": row.id} for row in rows])
                event = {"kind": "queued", "data": {"generation": 0, "reason": "new"}, "created_us": now_us}
                session.execute(insert(EventRow), [event | {"submission_id": row.id} for row in rows])
            made = [record(row) for row in rows]
            replies.remember(session, idempotency, None, tuple(made), cohort_id)
            who = actor or kept.api_key_id or "system"
            if isinstance(cohort, Cohort):
                detail = {"challenge": cohort.challenge}
                append(self._database, session, now_us, who, "cohort.create", cohort_id, detail)
            append(self._database, session, now_us, who, "cohort.add", cohort_id, {"submissions": len(made)})
        return made

    def submission(self, submission_id: str) -> Submission | None:
        """One submission."""
        with self._database.read() as session:
            row = session.get(SubmissionRow, submission_id)
            return None if row is None or row.purpose != "grade" else record(row)

    def list_submissions(
        self, filters: SubmissionFilters | None = None, cursor: str | None = None, limit: int = 50
    ) -> Page[Submission]:
        """Submissions, newest first. Raises BadCursor."""
        wanted = filters or SubmissionFilters()
        # The index has each state in order; several in one question would all be read and sorted.
        parts = [replace(wanted, states=(state,)) for state in dict.fromkeys(wanted.states)] or [wanted]
        with self._database.read() as session:
            pages = [page(session, _filtered(one), SubmissionRow.id, cursor, limit, record) for one in parts]
        return merged(pages, lambda submission: submission.id, limit)

    def source(self, submission_id: str) -> bytes | None:
        """What was handed in; None where there is none or it was erased."""
        with self._database.read() as session:
            mine = (SubmissionRow.id == submission_id, SubmissionRow.purpose == "grade")
            return session.scalar(select(SubmissionRow.source).where(*mine))

    def report(self, submission_id: str, generation: int | None = None) -> dict[str, Any] | None:
        """The Report as JSON of one generation, by default of the newest that has one."""
        found = select(ReportRow.report).where(ReportRow.submission_id == submission_id)
        if generation is not None:
            found = found.where(ReportRow.generation == generation)
        with self._database.read() as session:
            text = session.scalar(found.order_by(ReportRow.generation.desc()).limit(1))
        return None if text is None else dict(json.loads(text))

    def reports(self, submission_id: str) -> list[tuple[int, dict[str, Any]]]:
        """All reports with their generations, oldest first."""
        found = select(ReportRow.generation, ReportRow.report).where(
            ReportRow.submission_id == submission_id, ReportRow.report.is_not(None)
        )
        with self._database.read() as session:
            rows = session.execute(found.order_by(ReportRow.generation)).all()
        return [(generation, json.loads(text)) for generation, text in rows if text is not None]

    def place_in_queue(self, submission_id: str) -> int | None:
        """1 for the next of its queue to be graded; None where it does not wait."""
        with self._database.read() as session:
            row = session.get(SubmissionRow, submission_id)
            if row is None or row.state != "queued":
                return None
            sooner = or_(
                SubmissionRow.queued_us < row.queued_us,
                and_(SubmissionRow.queued_us == row.queued_us, SubmissionRow.id < row.id),
            )
            ahead = select(func.count()).where(
                SubmissionRow.queue == row.queue, SubmissionRow.state == "queued", sooner
            )
            return 1 + (session.scalar(ahead) or 0)

    def events_after(self, submission_id: str, seq: int = 0, limit: int = 100) -> list[Event]:
        """Events with a higher `seq`, oldest first. None appears later with a lower one."""
        found = select(EventRow).where(EventRow.submission_id == submission_id, EventRow.seq > seq)
        with self._database.read() as session:
            rows = session.scalars(found.order_by(EventRow.seq).limit(limit))
            return [Event(row.seq, row.submission_id, row.kind, row.data, row.created_us) for row in rows]

    def regrade(self, submission_id: str, *, actor: str = "system") -> Submission:
        """Grade a graded or invalid submission anew: next generation. Raises NotFound, Conflict."""
        return self._start_over(submission_id, ("graded", "invalid"), "regrade", actor)

    def requeue(self, submission_id: str, *, actor: str = "system") -> Submission:
        """Give a dead submission new attempts: next generation. Raises NotFound, Conflict."""
        return self._start_over(submission_id, ("dead",), "requeue", actor)

    def _start_over(
        self, submission_id: str, states: tuple[SubmissionState, ...], action: str, actor: str
    ) -> Submission:
        with self._database.write() as session:
            now_us = self._clock()
            row = machine.handed_in(machine.locked_with_cohort(session, submission_id), submission_id)
            if row.state not in states:
                raise Conflict(f"submission {submission_id} is {row.state}, so there is nothing to {action}")
            machine.start_over(session, row, now_us, action)
            if row.cohort_id is not None:
                cohort = machine.locked_cohort(session, row.cohort_id)
                if cohort.state != "cancelled":
                    machine.run_cohort(cohort)
            append(self._database, session, now_us, actor, f"submission.{action}", row.id)
            return record(row)

    def cancel(self, submission_id: str, *, actor: str = "system") -> Submission:
        """Take a waiting or running submission out. Raises NotFound, Conflict."""
        with self._database.write() as session:
            now_us = self._clock()
            row = machine.handed_in(machine.locked_with_cohort(session, submission_id), submission_id)
            if row.state not in UNDER_WAY:
                raise Conflict(f"submission {submission_id} is {row.state} already")
            machine.end(session, row, "cancelled", now_us, {}, None, self._body_of)
            append(self._database, session, now_us, actor, "submission.cancel", row.id)
            return record(row)

    def erase(self, submission_id: str, *, actor: str = "system") -> Submission:
        """Forget the candidate: source, names, reports, bodies of messages. The counts stay.

        A running grade loses its claim. On SQLite `scrub` has to follow; it is tried here at once. Erasing
        twice is no error. Raises NotFound.
        """
        with self._database.write() as session:
            now_us = self._clock()
            row = machine.handed_in(machine.locked_with_cohort(session, submission_id), submission_id)
            if row.state == "erased":
                return record(row)
            machine.erase(session, row, now_us, self._body_of)
            assessment_id = assessments.forget(session, row.id)
            reviews.forget(session, row.id, now_us)
            scorecards.forget(session, row.id)
            if row.invitation_id is not None:
                invitations.forget(session, row.invitation_id, now_us, self._body_of)
            if assessment_id is not None:
                invitations.forget_all(session, assessment_id, now_us, self._body_of)
            mine = select(MessageRow.id).where(MessageRow.submission_id == row.id)
            session.execute(update(AttemptRow).where(AttemptRow.message_id.in_(mine)).values(response_head=""))
            replies.forget(session, [row.id, row.cohort_id] if row.cohort_id else [row.id])
            append(self._database, session, now_us, actor, "submission.erase", row.id)
            erased = record(row)
        self.scrub()
        return erased

    def scrub(self) -> bool:
        """See that what was erased is off SQLite's disk too; False where it is not yet: call again later."""
        noted = select(SettingRow.value).where(SettingRow.key == machine.ERASED)
        with self._database.read() as session:
            erased_us = session.scalar(noted)
        if erased_us is None:
            return True
        if not self._database.clear_log():
            return False
        with self._database.write() as session:
            # Unless more was erased meanwhile.
            session.execute(delete(SettingRow).where(SettingRow.key == machine.ERASED, SettingRow.value == erased_us))
        return True


class WorkPart(Part):
    """Submissions as relay, workers and sweeper see them."""

    def pending_outbox(self, limit: int = 100) -> list[OutboxRow]:
        """Hints that are due and not on the queue yet: those of single submissions first, then oldest first.

        Publish first, then mark_published: a crash between the two publishes twice, which is harmless.
        """
        due = select(OutboxTable).where(OutboxTable.published_us.is_(None), OutboxTable.due_us <= self._clock())
        due = due.order_by(OutboxTable.due_us, OutboxTable.id)
        rows: list[OutboxTable] = []
        with self._database.read() as session:
            for queue in _QUEUES:
                if len(rows) < limit:
                    rows += session.scalars(due.where(OutboxTable.queue == queue).limit(limit - len(rows)))
        return [
            OutboxRow(row.id, row.kind, row.submission_id, _queue(row.queue), row.created_us, row.due_us)
            for row in rows
        ]

    def mark_published(self, ids: Iterable[int]) -> None:
        """These hints are on the queue."""
        wanted = sorted(ids)
        with self._database.write() as session:
            now_us = self._clock()
            for start in range(0, len(wanted), _BATCH):
                part = OutboxTable.id.in_(wanted[start : start + _BATCH])
                session.execute(update(OutboxTable).where(part).values(published_us=now_us))

    def claim(self, submission_id: str, worker: str, lease_s: float) -> Claim | None:
        """Take a waiting submission that is due; None where it is not there to be taken.

        Counts an attempt and raises the fence: of all who try, one gets it.
        """
        with self._database.write() as session:
            now_us = self._clock()
            row = machine.locked(session, submission_id)
            if row is None or row.state != "queued":
                return None
            # What never failed was never put off, whatever its row's clock and this one say.
            if row.attempts > 0 and row.next_attempt_us > now_us + _CLOCK_TOLERANCE_US:
                return None
            machine.run(session, row, worker, now_us, us(lease_s))
            source = session.scalar(select(SubmissionRow.source).where(SubmissionRow.id == submission_id))
            assert source is not None, "only erased submissions have no source"
            return Claim(
                submission_id=row.id,
                fence=row.fence,
                generation=row.generation,
                attempt=row.attempts,
                max_attempts=row.max_attempts,
                worker=worker,
                lease_until_us=now_us + us(lease_s),
                queued_us=row.queued_us,
                started_us=now_us,
                challenge=row.challenge,
                file_name=row.file_name,
                source=source,
                queue=_queue(row.queue),
                cohort_id=row.cohort_id,
                purpose="check" if row.purpose == "check" else "grade",
            )

    def renew(self, claim: Claim, lease_s: float) -> bool:
        """Heartbeat: the lease ends `lease_s` from now. False: the claim is over, stop grading."""
        held = update(SubmissionRow).where(
            SubmissionRow.id == claim.submission_id,
            SubmissionRow.state == "running",
            SubmissionRow.fence == claim.fence,
        )
        with self._database.write() as session:
            return changed(session, held.values(lease_until_us=self._clock() + us(lease_s))) == 1

    def add_event(self, submission_id: str, fence: int, kind: str, data: Mapping[str, Any]) -> bool:
        """Tell progress of a running grade; False when the claim with this fence is over."""
        with self._database.write() as session:
            row = machine.locked(session, submission_id)
            if row is None or row.state != "running" or row.fence != fence:
                return False
            machine.told(session, submission_id, kind, data, self._clock())
            return True

    def finish(self, claim: Claim, report: Report) -> bool:
        """Keep the report: report, state, event, webhook messages, end of the cohort, all at once.

        False when the claim is over, and nothing is changed. True again for the same claim's repeat.
        Raises ValueError for a check, of which no report is kept.
        """
        if claim.purpose != "grade":
            raise ValueError("a check has no report; finish it with finish_check")
        with self._database.write() as session:
            now_us = self._clock()
            row = machine.locked_with_cohort(session, claim.submission_id)
            if row is None or not machine.holds(row, claim):
                return session.scalar(_report_of(claim)) is not None
            machine.keep_report(session, row, report, now_us)
            data = {"attempt": row.attempts, "generation": row.generation, "outcome": row.outcome}
            data |= {"fixed": row.fixed, "total": row.total, "rating": row.rating}
            machine.end(session, row, report.outcome, now_us, data, report, self._body_of)
            return True

    def finish_check(self, claim: Claim, outcome: Literal["graded", "invalid"], result: Mapping[str, Any]) -> bool:
        """Keep what a check may tell. False when the claim is over; True again for the same claim's repeat.

        Raises ValueError for a submission, of which the whole report is kept.
        """
        if claim.purpose != "check":
            raise ValueError("a submission has a report; finish it with finish")
        with self._database.write() as session:
            now_us = self._clock()
            row = machine.locked(session, claim.submission_id)
            if row is None or not machine.holds(row, claim):
                return row is not None and row.check_result is not None and row.fence == claim.fence
            machine.keep_check(row, result, outcome)
            machine.end(session, row, outcome, now_us, {"attempt": row.attempts}, None, self._body_of)
            return True

    def release(self, claim: Claim, error: str, retry_in_s: float) -> SubmissionState:
        """The infrastructure failed: due again after `retry_in_s`, or dead after the last attempt.

        Gives the state that it is in afterwards; nothing is changed when the claim is over.
        """
        with self._database.write() as session:
            now_us = self._clock()
            row = machine.locked_with_cohort(session, claim.submission_id)
            row = machine.existing(row, claim.submission_id)
            if not machine.holds(row, claim):
                return record(row).state
            due_us = now_us + us(retry_in_s)
            return machine.retry_or_die(session, row, now_us, due_us, "retry", error, self._body_of)

    def hand_back(self, claim: Claim) -> None:
        """The worker stops: due again at once, and the attempt does not count."""
        with self._database.write() as session:
            now_us = self._clock()
            row = machine.locked(session, claim.submission_id)
            if row is not None and machine.holds(row, claim):
                row.attempts -= 1
                machine.wait(session, row, now_us, now_us, "handed_back", {"attempt": claim.attempt})

    def sweep(
        self,
        now_us: int | None = None,
        *,
        stale_s: float = 60.0,
        on_queue: Mapping[Queue, int] = _EMPTY,
        limit: int = 200,
        most_hints: int = 5000,
        horizon_s: float = 3600.0,
    ) -> Swept:
        """Bring back what got stuck by `now_us`, by default now.

        Ended leases, at most `limit`: waiting again, or dead after the last attempt. Lost hints: where
        fewer are `on_queue` than wait, as many as are missing, at most `most_hints` of each queue, are
        given again to those that waited longest of which the last hint went out more than `stale_s` ago.
        So what merely waits makes no duplicates, and a queue that was lost is filled again.

        Nothing is put off, and no lease given, for longer than `horizon_s`: what lies further ahead was
        written by a clock that was wrong, and is brought nearer.
        """
        at_us = self._clock() if now_us is None else now_us
        self._bring_nearer(at_us, at_us + us(horizon_s))
        expired = dead = 0
        for submission_id in self._ended_leases(at_us, limit):
            state = self._expire(submission_id, at_us)
            expired += state == "queued"
            dead += state == "dead"
        requeued = sum(
            self._hint_again(queue, at_us, us(stale_s), on_queue.get(queue, 0), most_hints) for queue in _QUEUES
        )
        return Swept(requeued=requeued, expired=expired, dead=dead)

    def _bring_nearer(self, at_us: int, far_us: int) -> None:
        put_off = (SubmissionRow.state == "queued", SubmissionRow.next_attempt_us > far_us)
        leased = (SubmissionRow.state == "running", SubmissionRow.lease_until_us > far_us)
        hinted = (OutboxTable.published_us.is_(None), OutboxTable.queue.in_(_QUEUES), OutboxTable.due_us > far_us)
        with self._database.read() as session:
            found = [exists().where(*wrong) for wrong in (put_off, leased, hinted)]
            if not session.scalar(select(or_(*found))):
                return
        with self._database.write() as session:
            session.execute(update(SubmissionRow).where(*put_off).values(next_attempt_us=at_us))
            # Not at once: its worker may be alive and give a sign of life by a clock that is right.
            session.execute(update(SubmissionRow).where(*leased).values(lease_until_us=far_us))
            session.execute(update(OutboxTable).where(*hinted).values(due_us=at_us))

    def _ended_leases(self, at_us: int, limit: int) -> Sequence[str]:
        ended = select(SubmissionRow.id).where(SubmissionRow.state == "running", SubmissionRow.lease_until_us < at_us)
        with self._database.read() as session:
            return session.scalars(ended.order_by(SubmissionRow.lease_until_us).limit(limit)).all()

    def _expire(self, submission_id: str, at_us: int) -> SubmissionState | None:
        """What became of it; None where its worker was back in time."""
        with self._database.write() as session:
            row = machine.locked_with_cohort(session, submission_id)
            if row is None or row.state != "running" or (row.lease_until_us or 0) >= at_us:
                return None
            now_us = self._clock()
            error = f"worker {row.worker} was not heard of until its lease ended"
            return machine.retry_or_die(session, row, now_us, now_us, "expired", error, self._body_of)

    def _hint_again(self, queue: Queue, at_us: int, stale_us: int, on_queue: int, most: int) -> int:
        with self._database.read() as session:
            waiting, on_the_way = session.execute(select(_waiting((queue,)), _unpublished(queue))).one()
            missing = min(most, waiting - on_the_way - on_queue)
            ids = session.scalars(_unhinted(queue, at_us, stale_us).limit(missing)).all() if missing > 0 else ()
        if not ids:
            return 0
        with self._database.write() as session:
            now_us = self._clock()
            due = {"kind": "grade", "queue": queue, "created_us": now_us, "due_us": now_us}
            session.execute(insert(OutboxTable), [due | {"submission_id": one} for one in ids])
        return len(ids)

    def waiting(self, queue: Queue | None = None) -> int:
        """How many submissions wait in a queue, or in all: cheap enough for each request."""
        with self._database.read() as session:
            return session.scalar(select(_waiting(_QUEUES if queue is None else (queue,)))) or 0

    def prune(self, *, outbox_s: float = 86_400, idempotency_s: float = 86_400, inbound_s: float = 30 * 86_400) -> int:
        """Remove published hints, remembered answers and inbound ids older than that; how many."""
        with self._database.write() as session:
            now_us = self._clock()
            old = (
                delete(OutboxTable).where(OutboxTable.published_us < now_us - us(outbox_s)),
                delete(IdempotencyRow).where(IdempotencyRow.created_us < now_us - us(idempotency_s)),
                delete(InboundRow).where(InboundRow.created_us < now_us - us(inbound_s)),
            )
            return sum(changed(session, statement) for statement in old)


def _waiting(queues: Sequence[Queue]) -> ScalarSelect[int]:
    """How many wait in these queues; the index alone is read."""
    of_queues = (SubmissionRow.queue.in_(queues), SubmissionRow.state == "queued")
    return select(func.count()).select_from(SubmissionRow).where(*of_queues).scalar_subquery()


def _unpublished(queue: Queue) -> ScalarSelect[int]:
    """How many wait whose hint is not on the queue yet, hints for a later time too."""
    of_queue = (OutboxTable.published_us.is_(None), OutboxTable.queue == queue)
    waits = and_(SubmissionRow.id == OutboxTable.submission_id, SubmissionRow.state == "queued")
    count = select(func.count(OutboxTable.submission_id.distinct())).join(SubmissionRow, waits).where(*of_queue)
    return count.scalar_subquery()


def _unhinted(queue: Queue, at_us: int, stale_us: int) -> Select[str]:
    """What waits, is due and has no hint that is on its way or fresh; longest waiting first."""
    fresh = exists().where(
        OutboxTable.submission_id == SubmissionRow.id,
        or_(
            OutboxTable.published_us.is_(None),
            OutboxTable.published_us.between(at_us - stale_us + 1, at_us + stale_us),  # later: by a wrong clock
        ),
    )
    waiting = (
        SubmissionRow.queue == queue,
        SubmissionRow.state == "queued",
        # + 0: through this column's index SQLite would read and sort all, rather than take the queue's in order.
        SubmissionRow.next_attempt_us + 0 <= at_us,
    )
    return select(SubmissionRow.id).where(*waiting, ~fresh).order_by(SubmissionRow.queued_us, SubmissionRow.id)


def _report_of(claim: Claim) -> Select[str]:
    """The report that this very claim brought, if it did."""
    return select(ReportRow.id).where(
        ReportRow.submission_id == claim.submission_id,
        ReportRow.generation == claim.generation,
        ReportRow.fence == claim.fence,
    )


def _filtered(filters: SubmissionFilters) -> Select[SubmissionRow]:
    statement = select(SubmissionRow).where(SubmissionRow.purpose == "grade")
    external_id = None if filters.external_id is None else indexed(filters.external_id)
    if filters.states:
        statement = statement.where(SubmissionRow.state.in_(filters.states))
    for column, value in (
        (SubmissionRow.challenge, filters.challenge),
        (SubmissionRow.cohort_id, filters.cohort_id),
        (SubmissionRow.queue, filters.queue),
        (SubmissionRow.api_key_id, filters.api_key_id),
        (SubmissionRow.integration_id, filters.integration_id),
        (SubmissionRow.rating, filters.rating),
        (SubmissionRow.tampering_suspected, filters.tampering_suspected),
        (SubmissionRow.external_id, external_id),
    ):
        if value is not None:
            statement = statement.where(column == value)
    if filters.created_from_us is not None:
        statement = statement.where(SubmissionRow.created_us >= filters.created_from_us)
    if filters.created_to_us is not None:
        statement = statement.where(SubmissionRow.created_us < filters.created_to_us)
    return statement


_queue: Callable[[str], Queue] = {"interactive": "interactive", "cohort": "cohort"}.__getitem__  # type: ignore[assignment]

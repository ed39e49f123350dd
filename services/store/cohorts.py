"""Cohorts: submissions that came in together, their progress, export and regrade."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, func, insert, or_, select
from sqlalchemy.orm import Bundle, Session, aliased

from services.store import machine
from services.store.audit import append
from services.store.errors import Conflict
from services.store.ids import COHORT, new_id
from services.store.part import Part, page, page_of_rows
from services.store.records import (
    Cohort,
    CohortDiff,
    CohortRow,
    Page,
    Submission,
    SubmissionState,
    VerdictChange,
)
from services.store.tables import CohortTable, ReportRow, SubmissionRow

_BATCH = 100  # submissions with their reports that are in memory at a time


class CohortPart(Part):
    """Submissions that came in together."""

    def create_cohort(
        self, name: str, challenge: str, *, api_key_id: str | None = None, actor: str | None = None
    ) -> Cohort:
        """A cohort without submissions yet."""
        cohort = self.new_cohort(name, challenge, api_key_id=api_key_id)
        with self._database.write() as session:
            session.execute(insert(CohortTable).values(machine.cohort_values(cohort)))
            who = actor or api_key_id or "system"
            append(self._database, session, self._clock(), who, "cohort.create", cohort.id, {"challenge": challenge})
        return cohort

    def new_cohort(self, name: str, challenge: str, *, api_key_id: str | None = None) -> Cohort:
        """A cohort that is kept nowhere yet: `create_submissions` keeps it together with its first submissions."""
        now_us = self._clock()
        return Cohort(
            id=new_id(COHORT, now_us),
            name=name,
            challenge=challenge,
            state="open",
            created_us=now_us,
            finished_us=None,
            api_key_id=api_key_id,
            generation=0,
        )

    def cohort(self, cohort_id: str) -> Cohort | None:
        """One cohort."""
        with self._database.read() as session:
            row = session.get(CohortTable, cohort_id)
            return None if row is None else _record(row)

    def list_cohorts(self, cursor: str | None = None, limit: int = 50) -> Page[Cohort]:
        """Cohorts, newest first. Raises BadCursor."""
        with self._database.read() as session:
            return page(session, select(CohortTable), CohortTable.id, cursor, limit, _record)

    def cohort_progress(self, cohort_id: str) -> dict[SubmissionState, int]:
        """How many submissions are in each state; states without any are left out."""
        with self._database.read() as session:
            return machine.cohort_counts(session, cohort_id)

    def cohort_rows(self, cohort_id: str) -> Iterator[CohortRow]:
        """All submissions with their reports in the order they came, read in small parts."""
        for submissions, reports in self._parts(cohort_id):
            for submission in submissions:
                known = reports.get(submission.id)
                yield CohortRow(submission, known[-1][1] if known else None)

    def cohort_diff(
        self, cohort_id: str, cursor: str | None = None, limit: int = 50, *, changed: bool = False
    ) -> Page[CohortDiff]:
        """The newest report of each submission that has two beside the one before it, newest submission first.

        Reports are opened only where their short facts differ, so a regrade that changed little costs little.

        Args:
            changed: only those that read differently now.

        Raises:
            BadCursor: the cursor is none of ours.
        """
        pairs = _pairs(SubmissionRow, *(_short(row, when) for row, when in ((_OLD, "old"), (_NEW, "new"))))
        found = pairs.where(SubmissionRow.cohort_id == cohort_id, *([_READS_DIFFERENTLY] if changed else []))
        with self._database.read() as session:
            whole = page_of_rows(session, found, SubmissionRow.id, cursor, limit, _pair)
            opened = [submission.id for submission, before, after in whole.items if not _alike(before, after)]
            reports = _reports(session, opened)
        return Page(
            tuple(
                _difference(submission, *reports[submission.id][-2:])
                if submission.id in reports
                else _no_difference(submission, before, after)
                for submission, before, after in whole.items
            ),
            whole.next_cursor,
        )

    def cohort_changed(self, cohort_id: str) -> tuple[int, int]:
        """How many submissions read differently since they were graded anew, and how many were."""
        changed = func.count().filter(_READS_DIFFERENTLY)
        found = _pairs(changed, func.count()).where(SubmissionRow.cohort_id == cohort_id)
        with self._database.read() as session:
            different, compared = session.execute(found).one()
        return different, compared

    def _parts(
        self, cohort_id: str
    ) -> Iterator[tuple[list[Submission], Mapping[str, list[tuple[int, dict[str, Any]]]]]]:
        """The cohort part by part: submissions by id, and their reports by generation."""
        after = ""
        while True:
            found = select(SubmissionRow).where(SubmissionRow.cohort_id == cohort_id, SubmissionRow.id > after)
            with self._database.read() as session:
                rows = session.scalars(found.order_by(SubmissionRow.id).limit(_BATCH)).all()
                submissions = [machine.record(row) for row in rows]
                reports = _reports(session, [row.id for row in rows])
            if not submissions:
                return
            yield submissions, reports
            after = submissions[-1].id

    def regrade_cohort(self, cohort_id: str, *, actor: str = "system") -> int:
        """Grade all graded and invalid submissions anew; how many. Raises NotFound, Conflict if cancelled."""
        with self._database.write() as session:
            now_us = self._clock()
            cohort = machine.locked_cohort(session, cohort_id)
            if cohort.state == "cancelled":
                raise Conflict(f"cohort {cohort_id} is cancelled")
            count = machine.start_all_over(session, cohort_id, ("graded", "invalid"), now_us, "regrade")
            if count:
                machine.run_cohort(cohort)
            append(self._database, session, now_us, actor, "cohort.regrade", cohort_id, {"submissions": count})
            return count

    def cancel_cohort(self, cohort_id: str, *, actor: str = "system") -> Cohort:
        """Take out all that waits or runs. Cancelling twice is no error. Raises NotFound, Conflict if finished."""
        with self._database.write() as session:
            now_us = self._clock()
            cohort = machine.locked_cohort(session, cohort_id)
            if cohort.state == "finished":
                raise Conflict(f"cohort {cohort_id} is finished")
            if cohort.state != "cancelled":
                cohort.state, cohort.finished_us = "cancelled", now_us
                count = machine.cancel_all(session, cohort_id, now_us)
                append(self._database, session, now_us, actor, "cohort.cancel", cohort_id, {"submissions": count})
            return _record(cohort)


def _reports(session: Session, submission_ids: Sequence[str]) -> dict[str, list[tuple[int, dict[str, Any]]]]:
    found = (
        select(ReportRow.submission_id, ReportRow.generation, ReportRow.report)
        .where(ReportRow.submission_id.in_(submission_ids), ReportRow.report.is_not(None))
        .order_by(ReportRow.generation)
    )
    reports: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    for submission_id, generation, text in session.execute(found):
        reports.setdefault(submission_id, []).append((generation, json.loads(text or "{}")))
    return reports


_OLD, _NEW = aliased(ReportRow), aliased(ReportRow)
_READS_DIFFERENTLY = or_(_OLD.verdicts.is_distinct_from(_NEW.verdicts), _OLD.rating.is_distinct_from(_NEW.rating))


def _pairs(*columns: Any) -> Select[Any]:
    """`columns` of each submission that has two reports, with its newest (_NEW) and the one before (_OLD)."""
    kept = aliased(ReportRow)
    newest = select(func.max(kept.generation)).where(kept.submission_id == SubmissionRow.id, kept.report.is_not(None))
    before = newest.where(kept.generation < _NEW.generation)
    return (
        select(*columns)
        .select_from(SubmissionRow)
        .join(_NEW, _is(_NEW, newest.correlate(SubmissionRow)))
        .join(_OLD, _is(_OLD, before.correlate(SubmissionRow, _NEW)))
    )


def _is(report: Any, generation: Select[Any]) -> ColumnElement[bool]:
    return and_(report.submission_id == SubmissionRow.id, report.generation == generation.scalar_subquery())


@dataclass(frozen=True, slots=True)
class _Short:
    """What lists know of a report without opening it."""

    generation: int
    fixed: int
    rating: str | None
    verdicts: str | None
    challenge_digest: str


def _short(report: Any, when: str) -> Bundle[Any]:
    return Bundle(when, *(getattr(report, one.name) for one in fields(_Short)))


def _pair(row: Any) -> tuple[Submission, _Short, _Short]:
    submission, before, after = row
    return machine.record(submission), _Short(*before), _Short(*after)


def _alike(before: _Short, after: _Short) -> bool:
    """Whether the letters mean the same bugs, and are the same."""
    same = (before.verdicts, before.challenge_digest) == (after.verdicts, after.challenge_digest)
    return same and bool(before.verdicts)


def _no_difference(submission: Submission, before: _Short, after: _Short) -> CohortDiff:
    return CohortDiff(
        submission_id=submission.id,
        file_name=submission.file_name,
        candidate=submission.candidate,
        before_generation=before.generation,
        after_generation=after.generation,
        before_rating=before.rating,
        after_rating=after.rating,
        before_fixed=None if before.rating is None else before.fixed,
        after_fixed=None if after.rating is None else after.fixed,
        changes=(),
    )


def _difference(
    submission: Submission, before: tuple[int, dict[str, Any]], after: tuple[int, dict[str, Any]]
) -> CohortDiff:
    old, new = _verdicts(before[1]), _verdicts(after[1])
    changes = [
        VerdictChange(bug, (new.get(bug) or old[bug])[0], _verdict(old, bug), _verdict(new, bug))
        for bug in old | new
        if _verdict(old, bug) != _verdict(new, bug)
    ]
    old_rating, new_rating = before[1].get("rating") or {}, after[1].get("rating") or {}
    return CohortDiff(
        submission_id=submission.id,
        file_name=submission.file_name,
        candidate=submission.candidate,
        before_generation=before[0],
        after_generation=after[0],
        before_rating=old_rating.get("rating"),
        after_rating=new_rating.get("rating"),
        before_fixed=old_rating.get("fixed"),
        after_fixed=new_rating.get("fixed"),
        changes=tuple(sorted(changes, key=lambda change: change.number)),
    )


def _verdicts(report: Mapping[str, Any]) -> dict[str, tuple[int, str]]:
    return {bug["id"]: (bug["number"], bug["verdict"]) for bug in report.get("bugs", ())}


def _verdict(verdicts: Mapping[str, tuple[int, str]], bug: str) -> str | None:
    return verdicts[bug][1] if bug in verdicts else None


def _record(row: CohortTable) -> Cohort:
    return Cohort(**{name: getattr(row, name) for name in Cohort.__dataclass_fields__})

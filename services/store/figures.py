"""Figures over all, and small values that all processes share."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from services.store.database import SETTINGS_LOCK
from services.store.part import MICROSECONDS, Part, us
from services.store.records import UNDER_WAY, Pool, Queue, StoreCounts
from services.store.tables import CHECKS, MessageRow, OutboxTable, ReportRow, SettingRow, SubmissionRow

_QUEUES: tuple[Queue, ...] = ("interactive", "cohort")


class FigurePart(Part):
    """What operators look at."""

    def counts(self) -> StoreCounts:
        """Figures for /metrics. Reads whole indexes: call it every few seconds at most."""
        with self._database.read() as session:
            rows = Counter(self._by_state(session))
            # A check under way is work like any other; one that is over counts for nothing.
            rows.subtract(self._by_state(session, CHECKS, SubmissionRow.state.not_in(UNDER_WAY)))
            messages = select(MessageRow.state, func.count()).group_by(MessageRow.state)
            states: Any = session.execute(messages).all()
            sums = [func.coalesce(func.sum(getattr(ReportRow, name)), 0) for name in _VERDICTS]
            verdicts = session.execute(select(*sums)).one()
            unpublished = select(func.count()).where(OutboxTable.published_us.is_(None))
            return StoreCounts(
                submissions={key: count for key, count in rows.items() if count},
                oldest_waiting_s={queue: self._oldest_s(session, queue) for queue in _QUEUES},
                verdicts={name: int(count) for name, count in zip(_VERDICTS, verdicts, strict=True)},
                messages={state: count for state, count in states},
                outbox_pending=session.scalar(unpublished) or 0,
            )

    def _by_state(self, session: Session, *where: Any) -> dict[Any, int]:
        columns = (SubmissionRow.queue, SubmissionRow.state)
        found = session.execute(select(*columns, func.count()).where(*where).group_by(*columns))
        return {(queue, state): count for queue, state, count in found}

    def _oldest_s(self, session: Session, queue: Queue) -> float:
        now_us = self._clock()
        oldest = select(func.min(SubmissionRow.queued_us)).where(
            SubmissionRow.queue == queue,
            SubmissionRow.state == "queued",
            # + 0: through this column's index SQLite would read all that wait, rather than the first.
            SubmissionRow.next_attempt_us + 0 <= now_us,
        )
        since_us = session.scalar(oldest)
        return 0.0 if since_us is None else max(0, now_us - since_us) / MICROSECONDS

    def note_pool(self, pool: Pool) -> None:
        """What a host's pool of warm containers holds now; the newest word of each host stands."""
        key, value = (_POOL + pool.host)[:_LONGEST_KEY], json.dumps({**asdict(pool), "at_us": self._clock()})
        with self._database.write() as session:
            if not self._database.add_if_new(session, SettingRow, {"key": key, "value": value}):
                session.execute(update(SettingRow).where(SettingRow.key == key).values(value=value))

    def pools(self, within_s: float) -> list[Pool]:
        """The pools that told of themselves within that time, by host."""
        since_us = self._clock() - us(within_s)
        found = select(SettingRow.value).where(SettingRow.key.startswith(_POOL)).order_by(SettingRow.key)
        with self._database.read() as session:
            told = [json.loads(value) for value in session.scalars(found)]
        return [Pool(**facts) for facts in told if facts["at_us"] >= since_us]

    def remember(self, name: str, make: Callable[[], str]) -> str:
        """The value kept under `name`; the first caller of all processes makes it."""
        known = select(SettingRow.value).where(SettingRow.key == name)
        with self._database.read() as session:
            value = session.scalar(known)
        if value is not None:
            return value
        with self._database.write() as session:
            self._database.serialise(session, SETTINGS_LOCK)
            value = session.scalar(known)
            if value is None:
                value = make()
                session.add(SettingRow(key=name, value=value))
            return value


_POOL, _LONGEST_KEY = "pool:", 255
_VERDICTS = ("fixed", "not_fixed", "inconclusive")

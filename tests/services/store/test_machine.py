"""Any order of what clients, relay, workers and sweeper do, checked against a model of the promise.

Hints are lost, doubled and delayed; workers die, come back late with
stale claims, and stop in the middle; clients regrade, requeue, cancel and erase at any time.
"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from grading.verdict import Report
from services.store import UNDER_WAY, Claim, Conflict, MessageFilters, NewSubmission, Store

from .conftest import Clock, wipe

MAX_ATTEMPTS = 3
LEASE_S = 10.0
STALE_S = 60.0
FEW = 2  # submissions at a time: what meets must be about the same one
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # thousands of commits, each waiting for a disk
WAITING_OR_RUNNING = {("interactive", state) for state in UNDER_WAY}


@dataclasses.dataclass
class Expected:
    """What must be true of one submission."""

    state: str = "queued"
    generation: int = 0
    attempts: int = 0
    holder: Claim | None = None  # whose claim is good
    due_us: int = 0
    lease_until_us: int = 0
    reports: dict[int, Claim] = dataclasses.field(default_factory=dict)
    told: Counter[tuple[str, int]] = dataclasses.field(default_factory=Counter)  # event type, generation


class SubmissionMachine(RuleBasedStateMachine):
    """Everybody at once, one step at a time; each store call is a transaction, so this is all that can happen."""

    submissions = Bundle("submissions")
    claims = Bundle("claims")

    url = ""
    make_report: Any = None

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.store = Store.open(self.url, clock=self.clock, max_attempts=MAX_ATTEMPTS)
        self.expected: dict[str, Expected] = {}
        self.touched: set[str] = set()

    @initialize()
    def a_receiver(self) -> None:
        self.store.create_endpoint("https://receiver.example/", [], "whsec_x")

    # Clients ------------------------------------------------------------------------------

    @precondition(lambda self: len(self.expected) < FEW)
    @rule(target=submissions)
    def submit(self) -> str:
        made = self.store.create_submission(NewSubmission("spiral", "a.py", b"fixed=3"))
        self.expected[made.id] = Expected(due_us=self.clock.now_us)
        self.touched.add(made.id)
        return made.id

    @rule(one=submissions, verb=st.sampled_from(["regrade", "requeue", "cancel", "erase"]))
    def interfere(self, one: str, verb: str) -> None:
        expected = self._touch(one)
        allowed = {
            "regrade": ("graded", "invalid"),
            "requeue": ("dead",),
            "cancel": UNDER_WAY,
            "erase": ("queued", "running", "graded", "invalid", "dead", "cancelled", "erased"),
        }[verb]
        ask = getattr(self.store, verb)
        if expected.state not in allowed:
            with pytest.raises(Conflict):
                ask(one)
            return
        ask(one)
        expected.holder = None
        if verb in ("regrade", "requeue"):
            expected.state, expected.attempts, expected.due_us = "queued", 0, self.clock.now_us
            expected.generation += 1
        else:
            expected.state = "cancelled" if verb == "cancel" else "erased"

    @rule(one=submissions)
    def the_next_round(self, one: str) -> None:
        """Whatever ended begins anew."""
        verb = {"graded": "regrade", "invalid": "regrade", "dead": "requeue"}.get(self.expected[one].state)
        if verb is not None:
            self.interfere(one, verb)

    # Relay and queue ----------------------------------------------------------------------

    @rule(crash=st.booleans())
    def relay(self, crash: bool) -> None:
        """Publishes what is due; a crash before it is marked publishes it again."""
        rows = self.store.pending_outbox(limit=3)
        if not crash:
            self.store.mark_published(row.id for row in rows)

    # Workers ------------------------------------------------------------------------------

    @rule(target=claims, one=submissions)
    def deliver(self, one: str) -> Any:
        """A hint arrives, perhaps not for the first time, perhaps long after it was needed; others never do."""
        return self._claim(one)

    def _claim(self, one: str) -> Any:
        expected = self._touch(one)
        claim = self.store.claim(one, "worker", LEASE_S)
        due = expected.due_us <= self.clock.now_us + 1_000_000
        assert (claim is not None) == (expected.state == "queued" and due)
        if claim is None:
            return multiple()
        expected.state, expected.holder = "running", claim
        expected.attempts += 1
        expected.lease_until_us = claim.lease_until_us
        assert (claim.attempt, claim.generation) == (expected.attempts, expected.generation)
        assert claim.attempt <= MAX_ATTEMPTS
        return claim

    @rule(claim=claims)
    def heartbeat(self, claim: Claim) -> None:
        held = self._holds(claim)
        assert self.store.renew(claim, LEASE_S) == held
        assert self.store.add_event(claim.submission_id, claim.fence, "step", {}) == held
        if held:
            row = self.store.submission(claim.submission_id)
            assert row is not None and row.lease_until_us is not None
            self.expected[claim.submission_id].lease_until_us = row.lease_until_us

    @rule(claim=claims, valid=st.booleans())
    def finish(self, claim: Claim, valid: bool) -> None:
        """With a good claim or a stale one, for the first time or again."""
        expected = self._touch(claim.submission_id)
        report: Report = self.make_report("a.py", b"fixed=3" if valid else b"syntax")
        mine = expected.reports.get(claim.generation) == claim
        held = self._holds(claim)
        assert self.store.finish(claim, report) == (held or mine)
        if held:
            expected.state = report.outcome
            expected.holder = None
            expected.reports[claim.generation] = claim
            expected.told[f"submission.{report.outcome}", claim.generation] += 1

    @rule(target=claims, one=submissions)
    def grade(self, one: str) -> Any:
        """A hint arrives and all goes well."""
        claim = self._claim(one)
        if isinstance(claim, Claim):
            self.finish(claim, True)
        return claim

    @rule(claim=claims, retry_in_s=st.sampled_from([0.0, 5.0, 300.0]))
    def release(self, claim: Claim, retry_in_s: float) -> None:
        expected = self._touch(claim.submission_id)
        held = self._holds(claim)
        state = self.store.release(claim, "no sandbox", retry_in_s)
        if held:
            self._retried_or_dead(expected, self.clock.now_us + round(retry_in_s * 1e6))
        assert state == expected.state

    @rule(claim=claims)
    def hand_back(self, claim: Claim) -> None:
        expected = self._touch(claim.submission_id)
        held = self._holds(claim)
        self.store.hand_back(claim)
        if held:
            expected.state, expected.holder, expected.due_us = "queued", None, self.clock.now_us
            expected.attempts -= 1

    def _touch(self, submission_id: str) -> Expected:
        self.touched.add(submission_id)
        return self.expected[submission_id]

    def _holds(self, claim: Claim) -> bool:
        return self.expected[claim.submission_id].holder == claim

    def _retried_or_dead(self, expected: Expected, due_us: int) -> None:
        expected.holder = None
        if expected.attempts < MAX_ATTEMPTS:
            expected.state, expected.due_us = "queued", due_us
        else:
            expected.state = "dead"
            expected.told["submission.dead", expected.generation] += 1

    # Time and sweeper ---------------------------------------------------------------------

    @rule(seconds=st.sampled_from([1.0, LEASE_S + 1, STALE_S + 1, 301.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.pass_s(seconds)

    @rule()
    def sweep(self) -> None:
        now_us = self.clock.now_us
        ended = [
            self._touch(name)
            for name, one in self.expected.items()
            if one.state == "running" and one.lease_until_us < now_us
        ]
        swept = self.store.sweep(now_us, stale_s=STALE_S)
        for one in ended:
            self._retried_or_dead(one, now_us)
        assert swept.expired == sum(one.state == "queued" for one in ended)
        assert swept.dead == sum(one.state == "dead" for one in ended)

    @rule(target=claims, claim=claims, late=st.sampled_from(["heartbeat", "finish", "release", "hand_back"]))
    def a_worker_is_cut_off_and_comes_back_late(self, claim: Claim, late: str) -> Any:
        """Meanwhile another has its submission, or could have it."""
        self.clock.pass_s(LEASE_S + 1)
        self.sweep()
        taken_over = self._claim(claim.submission_id)
        arguments = {"finish": (True,), "release": (0.0,)}.get(late, ())
        getattr(self, late)(claim, *arguments)
        return taken_over

    # What must hold -----------------------------------------------------------------------

    @invariant()
    def the_store_is_as_promised(self) -> None:
        for submission_id in self.touched:
            self._check(submission_id)
        self.touched.clear()

    def _check(self, submission_id: str) -> None:
        expected = self.expected[submission_id]
        row = self.store.submission(submission_id)
        assert row is not None, "never lost"
        seen = (row.state, row.generation, row.attempts)
        assert seen == (expected.state, expected.generation, expected.attempts)
        assert (row.lease_until_us is not None) == (row.state == "running")
        assert (self.store.source(submission_id) is None) == (row.state == "erased")
        generations = [generation for generation, _ in self.store.reports(submission_id)]
        assert generations == ([] if row.state == "erased" else sorted(expected.reports))
        messages = self.store.list_messages(MessageFilters(submission_id=submission_id), limit=500).items
        told = Counter((message.event_type, message.generation) for message in messages)
        assert told == expected.told
        assert all(count == 1 for count in told.values())

    def teardown(self) -> None:
        """The queue is lost as a whole and all workers die: everything still comes to its end."""
        try:
            for submission_id in self.expected:
                self._check(submission_id)
            while self.store.counts().submissions.keys() & WAITING_OR_RUNNING:
                before = self.store.counts()
                self.clock.pass_s(STALE_S + 301)
                self.store.sweep(stale_s=STALE_S)
                rows = self.store.pending_outbox(limit=1000)
                self.store.mark_published(row.id for row in rows)
                for row in rows:
                    claim = self.store.claim(row.submission_id, "last", LEASE_S)
                    assert claim is None or self.store.finish(claim, self.make_report())
                assert self.store.counts() != before, "stuck"
            for submission_id in self.expected:
                done = self.store.submission(submission_id)
                assert done is not None and done.state not in UNDER_WAY
            assert self.store.verify_audit() is None
        finally:
            self.store.close()


@pytest.mark.slow
def test_any_order_on_sqlite(migrated_file: Path, make_report: Any) -> None:
    class OnSqlite(SubmissionMachine):
        def __init__(self) -> None:
            self.folder = tempfile.TemporaryDirectory(dir=MEMORY)
            shutil.copy(migrated_file, f"{self.folder.name}/assay.db")
            self.url = f"sqlite:///{self.folder.name}/assay.db"
            super().__init__()

        def teardown(self) -> None:
            super().teardown()
            self.folder.cleanup()

    OnSqlite.make_report = staticmethod(make_report)
    run_state_machine_as_test(OnSqlite, settings=_settings(examples=25))


@pytest.mark.slow
@pytest.mark.services
def test_any_order_on_postgresql(migrated_database: str, make_report: Any) -> None:
    class OnPostgresql(SubmissionMachine):
        url = migrated_database

        def __init__(self) -> None:
            wipe(migrated_database)
            super().__init__()

    OnPostgresql.make_report = staticmethod(make_report)
    run_state_machine_as_test(OnPostgresql, settings=_settings(examples=6))


def _settings(examples: int) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=35,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )

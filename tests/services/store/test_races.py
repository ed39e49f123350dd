"""Many threads and several stores at once, as many workers on many hosts would."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from grading.verdict import Report
from services.store import (
    AttemptResult,
    Claim,
    Conflict,
    DueMessage,
    NewInvitations,
    NewSubmission,
    Store,
    Submission,
)

Open = Callable[..., Store]
Submit = Callable[..., Submission]

THREADS = 6


def at_once(*jobs: Callable[[], object]) -> list[object]:
    """What all jobs returned, after all started together."""
    together = threading.Barrier(len(jobs))

    def run(job: Callable[[], object]) -> object:
        together.wait()
        return job()

    with ThreadPoolExecutor(len(jobs)) as threads:
        return [future.result() for future in [threads.submit(run, job) for job in jobs]]


def test_of_many_claims_one_is_granted(open_store: Open, submit: Submit) -> None:
    stores = [open_store() for _ in range(3)]
    for _ in range(10):
        made = submit()
        claims = at_once(*(partial(stores[n % 3].claim, made.id, f"w{n}", 60) for n in range(THREADS)))
        granted = [claim for claim in claims if claim is not None]
        assert len(granted) == 1


def test_many_workers_grade_each_submission_once(
    open_store: Open, submit: Submit, make_report: Callable[..., Report]
) -> None:
    """Every hint is delivered to every worker: claims, and one report each, must come out all the same."""
    store = open_store()
    store.create_endpoint("https://receiver.example/", [], "whsec_x")
    cohort = store.create_cohort("autumn", "spiral")
    made = [one.id for one in store.create_submissions(cohort.id, [NewSubmission("spiral", "a.py", b"x")] * 15)]
    graded: list[Claim] = []

    def work(mine: Store, order: int) -> None:
        for submission_id in made if order else made[::-1]:
            claim = mine.claim(submission_id, "worker", 60)
            if claim is not None:
                assert mine.finish(claim, make_report())
                graded.append(claim)

    at_once(*(partial(work, open_store(), n % 2) for n in range(THREADS)))
    assert Counter(claim.submission_id for claim in graded) == Counter(made)
    messages = Counter(message.event_type for message in store.list_messages(limit=100).items)
    assert messages == {"submission.graded": 15, "cohort.finished": 1}
    finished = store.cohort(cohort.id)
    assert finished is not None and finished.state == "finished"


def test_a_verdict_races_against_sweeper_and_client(
    open_store: Open, submit: Submit, make_report: Callable[..., Report]
) -> None:
    """Whoever comes first decides; nothing of the other is left."""
    one, two, three = open_store(), open_store(), open_store()
    for _ in range(8):
        made = submit()
        claim = one.claim(made.id, "worker", -1)  # a lease that has ended
        assert claim is not None
        finished, _, cancelled = at_once(
            partial(one.finish, claim, make_report()),
            two.sweep,
            partial(_succeeds, partial(three.cancel, made.id)),
        )
        row = one.submission(made.id)
        assert row is not None
        assert (row.state == "graded") == finished
        assert len(one.reports(made.id)) == int(bool(finished))
        if finished:
            assert not cancelled
        else:
            assert cancelled and row.state == "cancelled"


def test_the_audit_log_is_one_chain_whoever_writes(open_store: Open) -> None:
    stores = [open_store() for _ in range(3)]

    def write(mine: Store, name: str) -> None:
        for n in range(10):
            mine.audit(name, "test", str(n))

    at_once(*(partial(write, stores[n % 3], str(n)) for n in range(THREADS)))
    assert stores[0].verify_audit() is None
    lines = stores[0].audit_log(limit=1000).items
    assert [line.seq for line in lines] == list(range(10 * THREADS, 0, -1))


def test_an_idempotency_key_has_one_owner(open_store: Open) -> None:
    stores = [open_store() for _ in range(3)]
    for key in "abcde":
        states = at_once(*(partial(stores[n % 3].idempotency_begin, "key_1", key, "print") for n in range(THREADS)))
        outcomes = Counter(state.outcome for state in states)
        assert outcomes == {"new": 1, "in_flight": THREADS - 1}


def test_a_message_is_leased_to_one_sender(open_store: Open, submit: Submit, clock: Callable[[], int]) -> None:
    store = open_store()
    endpoint = store.create_endpoint("https://receiver.example/", [], "whsec_x")
    made = [store.ping_endpoint(endpoint.id).id for _ in range(12)]
    leased: list[Any] = at_once(*(partial(_all_due, open_store()) for _ in range(THREADS)))
    taken = [due for some in leased for due in some]
    assert sorted(one.message.id for one in taken) == sorted(made)
    delivered = AttemptResult(at_us=clock(), status_code=204, error=None, duration_ms=3)
    held = [(one.message.id, one.lease_until_us) for one in taken]
    at_once(*(partial(store.record_attempt, *one, delivered, None, "delivered") for one in held))
    assert store.counts().messages == {"delivered": 12}


def test_a_cohort_that_grows_while_it_is_graded_finishes(open_store: Open, make_report: Callable[..., Report]) -> None:
    store = open_store()
    cohort = store.create_cohort("autumn", "spiral")

    def hand_in(mine: Store) -> None:
        for _ in range(4):
            for one in mine.create_submissions(cohort.id, [NewSubmission("spiral", "a.py", b"x")] * 2):
                claim = mine.claim(one.id, "worker", 60)
                assert claim is not None
                assert mine.finish(claim, make_report())

    at_once(*(partial(hand_in, open_store()) for _ in range(4)))
    finished = store.cohort(cohort.id)
    assert finished is not None and finished.state == "finished"
    assert store.cohort_progress(cohort.id) == {"graded": 32}


def test_of_two_who_hand_in_at_once_one_does(open_store: Open) -> None:
    """By the same link: one submission, and the other learns of it. The cohort is locked in the same order."""
    stores = [open_store() for _ in range(3)]
    cohort = stores[0].create_cohort("autumn", "spiral")
    new = NewInvitations("spiral", [{"name": str(n)} for n in range(8)], "Rita", 3600, 3, cohort.id)
    for made, _ in stores[0].create_invitations(new, actor="test"):
        jobs = [partial(stores[n % 3].hand_in, made.id, f"{n}.py", b"x") for n in range(THREADS)]
        assert sum(bool(one) for one in at_once(*(partial(_succeeds, job) for job in jobs))) == 1
    assert stores[0].cohort_progress(cohort.id) == {"queued": 8}
    assert len(stores[0].list_submissions().items) == 8


def test_of_many_checks_at_once_one_begins(open_store: Open) -> None:
    stores = [open_store() for _ in range(3)]
    new = NewInvitations("spiral", [{"name": str(n)} for n in range(5)], "Rita", 3600, 3)
    for made, _ in stores[0].create_invitations(new, actor="test"):
        jobs = [partial(stores[n % 3].create_check, made.id, f"{n}.py", b"x") for n in range(THREADS)]
        assert sum(bool(one) for one in at_once(*(partial(_succeeds, job) for job in jobs))) == 1
        assert len(stores[0].checks(made.id)) == 1


def test_handing_in_checking_and_erasing_at_once_leave_no_candidate(open_store: Open) -> None:
    """Whatever comes first, nothing waits for each other in a circle and nothing of the erased is left."""
    stores = [open_store() for _ in range(3)]
    cohort = stores[0].create_cohort("autumn", "spiral")
    new = NewInvitations("spiral", [{"name": "PLANTED"}] * 8, "Rita", 3600, 3, cohort.id)
    for made, _ in stores[0].create_invitations(new, actor="test"):
        check = stores[0].create_check(made.id, "PLANTED.py", b"x")
        claim = stores[0].claim(check.id, "worker", 60)
        assert claim is not None
        submission = stores[0].hand_in(made.id, "PLANTED.py", b"x")
        at_once(
            partial(stores[0].erase, submission.id),
            partial(stores[1].finish_check, claim, "graded", {"loads": True}),
            partial(_succeeds, partial(stores[2].hand_in, made.id, "PLANTED.py", b"y")),
        )
        left = (stores[0].invitation(made.id), stores[0].checks(made.id), stores[0].submission(submission.id))
        assert "PLANTED" not in repr(left)
        assert [one.result for one in stores[0].checks(made.id)] == [None]


def _all_due(store: Store) -> list[DueMessage]:
    found: list[DueMessage] = []
    while due := store.due_messages(3, 60):
        found += due
    return found


def _succeeds(ask: Callable[[], object]) -> bool:
    try:
        ask()
    except Conflict:
        return False
    return True

"""Cohorts go in as one, end as one and can be graded anew as one."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable

import pytest
from sqlalchemy import update

from grading.verdict import Report
from services.store import Conflict, NewSubmission, NotFound, Page, Store
from services.store.tables import SubmissionRow

from .conftest import watched

Grade = Callable[..., Report]


def files(*fixed: int) -> list[NewSubmission]:
    return [NewSubmission("spiral", f"{n}.py", b"fixed=%d" % count) for n, count in enumerate(fixed)]


def test_a_cohort_ends_with_its_last_submission(store: Store, grade: Grade) -> None:
    store.create_endpoint("https://receiver.example/", ["cohort.finished"], "whsec_x")
    cohort = store.create_cohort("autumn", "spiral", api_key_id="key_1")
    assert cohort.state == "open"
    made = store.create_submissions(cohort.id, files(1, 2, 3))
    assert [one.file_name for one in made] == ["0.py", "1.py", "2.py"]
    assert {one.queue for one in made} == {"cohort"}
    grade(made[0].id)
    claim = store.claim(made[1].id, "worker", 60)
    assert claim is not None
    while store.release(claim, "fault", 0) != "dead":
        claim = store.claim(made[1].id, "worker", 60)
        assert claim is not None
    running = store.cohort(cohort.id)
    assert running is not None and running.state == "running"
    assert store.list_messages().items == ()
    grade(made[2].id)
    finished = store.cohort(cohort.id)
    assert finished is not None and finished.state == "finished" and finished.finished_us is not None
    (message,) = store.list_messages().items
    assert json.loads(message.body)["data"]["counts"] == {"graded": 2, "dead": 1}
    assert store.cohort_progress(cohort.id) == {"graded": 2, "dead": 1}


@pytest.mark.parametrize("how", [Store.cancel, Store.erase])
def test_the_last_one_may_be_taken_out(store: Store, how: Callable[[Store, str], object]) -> None:
    cohort = store.create_cohort("autumn", "spiral")
    (made,) = store.create_submissions(cohort.id, files(1))
    how(store, made.id)
    finished = store.cohort(cohort.id)
    assert finished is not None and finished.state == "finished"


def test_a_finished_cohort_that_grows_finishes_again(store: Store, grade: Grade) -> None:
    store.create_endpoint("https://receiver.example/", ["cohort.finished"], "whsec_x")
    cohort = store.create_cohort("autumn", "spiral")
    for generation in (0, 1):
        (made,) = store.create_submissions(cohort.id, files(1))
        grade(made.id)
        finished = store.cohort(cohort.id)
        assert finished is not None and (finished.state, finished.generation) == ("finished", generation)
    assert len({message.id for message in store.list_messages().items}) == 2


def test_adding_nothing_changes_nothing(store: Store) -> None:
    cohort = store.create_cohort("autumn", "spiral")
    assert store.create_submissions(cohort.id, []) == []
    assert store.cohort(cohort.id) == cohort


def test_a_regrade_shows_what_reads_differently(store: Store, grade: Grade) -> None:
    cohort = store.create_cohort("autumn", "spiral")
    made = store.create_submissions(cohort.id, files(2, 2, 2))
    for one in made:
        grade(one.id)
    assert store.cohort_diff(cohort.id).items == ()
    assert store.regrade_cohort(cohort.id, actor="key_1") == 3
    again = store.cohort(cohort.id)
    assert again is not None and (again.state, again.generation) == ("running", 1)
    claim = store.claim(made[0].id, "worker", 60)
    assert claim is not None
    other = grade(made[1].id)
    assert store.finish(claim, other.model_copy(update={"bugs": other.bugs[1:], "rating": None}))
    second, first = store.cohort_diff(cohort.id).items
    assert store.cohort_diff(cohort.id, changed=True).items == (first,)
    assert store.cohort_changed(cohort.id) == (1, 2)
    newest = store.cohort_diff(cohort.id, limit=1)
    assert newest.items == (second,)
    assert store.cohort_diff(cohort.id, newest.next_cursor, 1) == Page((first,), None)
    assert (first.submission_id, first.before_fixed, first.after_fixed) == (made[0].id, 2, None)
    assert [(change.number, change.before, change.after) for change in first.changes] == [(1, "fixed", None)]
    assert (second.before_generation, second.after_generation, second.changes) == (0, 1, ())
    same = store.submission(made[1].id)
    assert same is not None and same.rating is not None
    assert (second.before_rating, second.after_rating) == (same.rating, same.rating)
    assert (second.before_fixed, second.after_fixed) == (2, 2)
    # Once it waits for a third grade it has no rating of its own; the two reports still compare as before.
    store.regrade_cohort(cohort.id, actor="key_1")
    assert store.cohort_diff(cohort.id).items == (second, first)


def test_a_cancelled_cohort_takes_nothing_more(store: Store, grade: Grade, make_report: Callable[..., Report]) -> None:
    cohort = store.create_cohort("autumn", "spiral")
    done, running, waiting = store.create_submissions(cohort.id, files(1, 1, 1))
    grade(done.id)
    claim = store.claim(running.id, "worker", 60)
    assert claim is not None
    cancelled = store.cancel_cohort(cohort.id, actor="key_1")
    assert cancelled.state == "cancelled" and store.cancel_cohort(cohort.id) == cancelled
    assert not store.finish(claim, make_report())
    assert store.claim(waiting.id, "worker", 60) is None
    assert store.cohort_progress(cohort.id) == {"graded": 1, "cancelled": 2}
    for ask in (lambda: store.create_submissions(cohort.id, files(1)), lambda: store.regrade_cohort(cohort.id)):
        with pytest.raises(Conflict):
            ask()


def test_a_large_cohort_takes_no_more_statements_than_a_small_one(
    store: Store, make_report: Callable[..., Report]
) -> None:
    """Nobody else can write to SQLite meanwhile."""
    counts: list[tuple[int, int]] = []
    for size in (50, 500):
        cohort = store.create_cohort("autumn", "spiral")
        made = store.create_submissions(cohort.id, files(*[1] * size))
        with store._database.write() as session:
            session.execute(update(SubmissionRow).values(state="graded"))
        with watched(store) as regraded:
            assert store.regrade_cohort(cohort.id) == size
        again = [one for one in made[:2] if store.claim(one.id, "worker", 60)]
        assert len(again) == 2
        with watched(store) as cancelled:
            store.cancel_cohort(cohort.id)
        counts.append((len(regraded), len(cancelled)))
        assert store.cohort_progress(cohort.id) == {"cancelled": size}
    assert counts[0] == counts[1]
    assert max(counts[0]) <= 12


def test_all_of_a_cohort_start_over_and_end_as_single_ones_do(store: Store, grade: Grade) -> None:
    cohort = store.create_cohort("autumn", "spiral")
    one, other, running = store.create_submissions(cohort.id, files(2, 2, 2))
    for each in (one, other):
        grade(each.id)
    alone = store.create_submission(files(2)[0])
    grade(alone.id)
    assert store.regrade_cohort(cohort.id) == 2
    store.regrade(alone.id)
    claim = store.claim(running.id, "worker", 60)
    assert claim is not None

    def seen(submission_id: str) -> tuple[object, ...]:
        row = store.submission(submission_id)
        assert row is not None
        events = [(event.kind, {**event.data, "waited_us": 0}) for event in store.events_after(submission_id)]
        hints = [hint.queue for hint in store.pending_outbox() if hint.submission_id == submission_id]
        own = ("created_us", "queued_us", "finished_us", "next_attempt_us", "id", "queue", "cohort_id", "file_name")
        facts = {name: value for name, value in dataclasses.asdict(row).items() if name not in own}
        assert row.next_attempt_us == row.queued_us
        return facts, events, len(hints)

    assert seen(one.id) == seen(other.id) == seen(alone.id)
    store.cancel_cohort(cohort.id)
    store.cancel(alone.id)
    assert seen(one.id) == seen(alone.id)
    assert not store.renew(claim, 60)
    ended = store.submission(running.id)
    assert ended is not None and (ended.fence, ended.worker, ended.lease_until_us) == (claim.fence + 1, None, None)
    assert ended.finished_us is not None and store.events_after(running.id)[-1].kind == "cancelled"


def test_a_finished_cohort_cannot_be_cancelled(store: Store, grade: Grade) -> None:
    cohort = store.create_cohort("autumn", "spiral")
    (made,) = store.create_submissions(cohort.id, files(1))
    grade(made.id)
    with pytest.raises(Conflict):
        store.cancel_cohort(cohort.id)


def test_an_export_has_all_rows_in_order(store: Store, grade: Grade) -> None:
    cohort = store.create_cohort("autumn", "spiral")
    made = store.create_submissions(cohort.id, files(*[3] * 230))
    grade(made[7].id)
    rows = list(store.cohort_rows(cohort.id))
    assert [row.submission.id for row in rows] == [one.id for one in made]
    assert [n for n, row in enumerate(rows) if row.report is not None] == [7]


def test_cohorts_are_listed_newest_first(store: Store) -> None:
    made = [store.create_cohort(str(n), "spiral") for n in range(3)]
    first = store.list_cohorts(limit=2)
    rest = store.list_cohorts(cursor=first.next_cursor, limit=2)
    assert [*first.items, *rest.items] == made[::-1]


@pytest.mark.parametrize("ask", [Store.regrade_cohort, Store.cancel_cohort, lambda s, c: s.create_submissions(c, [])])
def test_what_is_not_there_is_not_found(store: Store, ask: Callable[[Store, str], object]) -> None:
    with pytest.raises(NotFound):
        ask(store, "coh_none")
    assert store.cohort("coh_none") is None and list(store.cohort_rows("coh_none")) == []

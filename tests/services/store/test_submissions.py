"""The life of a submission, on both databases."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path

import pytest

from grading.verdict import Report
from services.store import (
    BadCursor,
    Claim,
    Conflict,
    Idempotency,
    Inbound,
    NewIntegration,
    NewSubmission,
    NotFound,
    Store,
    StoredResponse,
    Submission,
    SubmissionFilters,
)

from .conftest import Clock, plan, watched

Submit = Callable[..., Submission]
Grade = Callable[..., Report]


def kinds(store: Store, submission_id: str) -> list[str]:
    return [event.kind for event in store.events_after(submission_id)]


def claimed(store: Store, submission_id: str, lease_s: float = 60) -> Claim:
    claim = store.claim(submission_id, "worker", lease_s)
    assert claim is not None
    return claim


def pending(store: Store) -> list[str]:
    return [row.submission_id for row in store.pending_outbox()]


def publish(store: Store) -> list[str]:
    rows = store.pending_outbox()
    store.mark_published(row.id for row in rows)
    return [row.submission_id for row in rows]


def test_a_submission_comes_in_with_hint_event_and_audit(store: Store, submit: Submit) -> None:
    made = submit(candidate={"external_id": "c-1", "name": "Ada"}, api_key_id="key_1")
    assert (made.state, made.attempts, made.fence, made.generation) == ("queued", 0, 0, 0)
    assert store.submission(made.id) == made
    assert store.source(made.id) == b"fixed=3"
    assert pending(store) == [made.id]
    assert kinds(store, made.id) == ["queued"]
    (line,) = store.audit_log().items
    assert (line.actor, line.action, line.subject) == ("key_1", "submission.create", made.id)
    assert "Ada" not in json.dumps(line.detail)


def test_published_hints_do_not_come_again(store: Store, submit: Submit) -> None:
    made = submit()
    assert publish(store) == [made.id]
    assert pending(store) == []


def test_single_submissions_are_hinted_before_a_cohort(store: Store, submit: Submit, store_url: str) -> None:
    """However many of a cohort came first."""
    cohort = store.create_cohort("autumn", "spiral")
    many = [one.id for one in store.create_submissions(cohort.id, [NewSubmission("spiral", "a.py", b"x")] * 3)]
    one, two = submit().id, submit().id
    with watched(store) as statements:
        assert [row.submission_id for row in store.pending_outbox(4)] == [one, two, *many[:2]]
        assert [row.submission_id for row in store.pending_outbox(2)] == [one, two]
    if store_url.startswith("sqlite"):
        steps = plan(store_url, statements)
        assert all("SEARCH outbox USING INDEX ix_outbox_pending (queue=" in line for line in steps)


def test_a_claim_is_one_workers_alone(store: Store, submit: Submit) -> None:
    made = submit()
    claim = claimed(store, made.id)
    assert (claim.fence, claim.attempt, claim.generation, claim.source) == (1, 1, 0, b"fixed=3")
    assert store.claim(made.id, "another", 60) is None
    running = store.submission(made.id)
    assert running is not None and (running.state, running.worker) == ("running", "worker")


def test_nothing_is_claimed_that_is_not_there(store: Store) -> None:
    assert store.claim("sub_none", "worker", 60) is None


def test_finishing_keeps_report_state_event_and_messages_together(
    store: Store, submit: Submit, grade: Grade, clock: Clock
) -> None:
    endpoint = store.create_endpoint("https://receiver.example/", ["submission.graded"], "whsec_x")
    store.create_endpoint("https://other.example/", ["submission.dead"], "whsec_y")
    made = submit(fixed=5, callback={"url": "https://ats.example/1"}, integration_id="int_1")
    report = grade(made.id)
    done = store.submission(made.id)
    assert done is not None
    assert (done.state, done.outcome, done.fixed, done.total) == ("graded", "graded", 5, 8)
    assert done.lease_until_us is None and done.worker is None and done.finished_us is not None
    assert store.report(made.id) == report.model_dump(mode="json")
    assert kinds(store, made.id) == ["queued", "started", "graded"]
    messages = store.list_messages().items
    assert {message.endpoint_id for message in messages} == {endpoint.id, None}
    assert {message.event_type for message in messages} == {"submission.graded"}
    assert all(json.loads(message.body)["data"]["submission_id"] == made.id for message in messages)


def test_an_unusable_file_is_invalid_and_not_scored(store: Store, submit: Submit, grade: Grade) -> None:
    store.create_endpoint("https://receiver.example/", [], "whsec_x")
    made = submit(source=b"syntax")
    grade(made.id)
    done = store.submission(made.id)
    assert done is not None and (done.state, done.rating, done.fixed) == ("invalid", None, None)
    assert [message.event_type for message in store.list_messages().items] == ["submission.invalid"]


def test_finishing_twice_is_one_report(store: Store, submit: Submit, make_report: Callable[..., Report]) -> None:
    """A worker whose commit was not answered asks again, and learns that it was done."""
    store.create_endpoint("https://receiver.example/", [], "whsec_x")
    made = submit()
    claim = claimed(store, made.id)
    assert store.finish(claim, make_report())
    assert store.finish(claim, make_report())
    assert len(store.reports(made.id)) == 1
    assert len(store.list_messages().items) == 1


def test_a_stale_fence_changes_nothing(
    store: Store, submit: Submit, make_report: Callable[..., Report], clock: Clock
) -> None:
    made = submit()
    old = claimed(store, made.id, lease_s=10)
    clock.pass_s(11)
    assert store.sweep().expired == 1
    new = claimed(store, made.id)
    before = store.submission(made.id)
    assert not store.renew(old, 60)
    assert not store.finish(old, make_report())
    assert not store.add_event(made.id, old.fence, "step", {})
    assert store.release(old, "late", 0) == "running"
    store.hand_back(old)
    assert store.submission(made.id) == before
    assert store.finish(new, make_report())
    assert not store.finish(old, make_report())
    assert store.release(new, "late", 0) == "graded"


def test_a_lease_that_ended_unnoticed_still_finishes(
    store: Store, submit: Submit, make_report: Callable[..., Report], clock: Clock
) -> None:
    """Work that is done is not thrown away while nobody else has taken it."""
    claim = claimed(store, submit().id, lease_s=10)
    clock.pass_s(100)
    assert store.renew(claim, 10)
    clock.pass_s(100)
    assert store.finish(claim, make_report())


def test_a_released_submission_waits_and_comes_again(store: Store, submit: Submit, clock: Clock) -> None:
    made = submit()
    publish(store)
    assert store.release(claimed(store, made.id), "no sandbox", 30) == "queued"
    waiting = store.submission(made.id)
    assert waiting is not None and waiting.last_error == "no sandbox"
    assert pending(store) == [] and store.claim(made.id, "worker", 60) is None
    clock.pass_s(31)
    assert pending(store) == [made.id]
    assert claimed(store, made.id).attempt == 2


def test_a_hint_that_is_a_little_early_by_another_hosts_clock_is_honoured(
    store: Store, submit: Submit, clock: Clock
) -> None:
    made = submit()
    store.release(claimed(store, made.id), "no sandbox", 30)
    clock.pass_s(29.5)
    assert store.claim(made.id, "worker", 60) is not None


def test_a_clock_that_is_put_right_holds_nothing_up(store: Store, submit: Submit, clock: Clock) -> None:
    """It was a day ahead: until then nothing would be due, and no lease would end."""
    lost, retried, held = submit(), submit(), submit()
    publish(store)
    store.release(claimed(store, lost.id), "no sandbox", 0)
    publish(store)
    store.release(claimed(store, retried.id), "no sandbox", 30)
    claimed(store, held.id, lease_s=60)
    fresh, first = submit(), submit()
    clock.pass_s(-86_400)
    assert store.claim(first.id, "worker", 60) is not None, "it never was put off"
    assert pending(store) == [] and store.claim(retried.id, "worker", 60) is None
    assert store.sweep(horizon_s=600).requeued == 1
    assert set(publish(store)) == {lost.id, retried.id, fresh.id, first.id}
    for one in (lost, retried, fresh):
        assert store.claim(one.id, "worker", 6000) is not None
    clock.pass_s(601)
    assert store.sweep(horizon_s=6000).expired == 2
    assert store.claim(held.id, "worker", 60) is not None


def test_what_is_put_off_stays_so_through_sweeps(store: Store, submit: Submit, clock: Clock, store_url: str) -> None:
    made = submit()
    store.release(claimed(store, made.id), "no sandbox", 599)
    before = store.submission(made.id)
    with watched(store) as statements, pytest.MonkeyPatch.context() as patch:
        patch.setattr(store._database, "write", None)
        store.sweep(horizon_s=600)
    assert store.submission(made.id) == before
    if store_url.startswith("sqlite"):
        steps = [line for line in plan(store_url, statements) if line.startswith(("SCAN", "SEARCH"))]
        assert "ix_submissions_state_next_attempt_us (state=? AND" in "".join(steps), steps
        assert not any(line.startswith("SCAN submissions") for line in steps)


def test_the_last_attempt_ends_dead_and_unscored(store: Store, submit: Submit) -> None:
    store.create_endpoint("https://receiver.example/", [], "whsec_x")
    made = submit()
    states = [store.release(claimed(store, made.id), f"fault {n}", 0) for n in range(3)]
    assert states == ["queued", "queued", "dead"]
    dead = store.submission(made.id)
    assert dead is not None and (dead.outcome, dead.rating, dead.last_error) == (None, None, "fault 2")
    assert store.report(made.id) is None
    assert [message.event_type for message in store.list_messages().items] == ["submission.dead"]
    assert store.sweep() == store.sweep()


def test_a_dead_submission_can_be_requeued(store: Store, submit: Submit, grade: Grade) -> None:
    """Each death and each verdict tells once: the generation keeps their messages apart."""
    store.create_endpoint("https://receiver.example/", [], "whsec_x")
    made = submit()
    for _ in range(2):
        for _ in range(3):
            store.release(claimed(store, made.id), "fault", 0)
        again = store.requeue(made.id, actor="operator")
        assert (again.state, again.attempts, again.last_error) == ("queued", 0, None)
    grade(made.id)
    types = [message.event_type for message in store.list_messages().items]
    assert sorted(types) == ["submission.dead", "submission.dead", "submission.graded"]
    with pytest.raises(Conflict):
        store.requeue(made.id)


def test_handing_back_does_not_cost_an_attempt(store: Store, submit: Submit) -> None:
    made = submit()
    publish(store)
    for _ in range(5):
        store.hand_back(claimed(store, made.id))
        assert publish(store) == [made.id]
    assert claimed(store, made.id).attempt == 1


def test_a_killed_workers_submission_comes_back_or_dies_in_the_end(store: Store, submit: Submit, clock: Clock) -> None:
    made = submit()
    publish(store)
    for attempt in (1, 2):
        assert claimed(store, made.id, lease_s=10).attempt == attempt
        assert store.sweep().expired == 0, "its lease runs"
        clock.pass_s(11)
        assert store.sweep().expired == 1
        assert publish(store) == [made.id]
    claimed(store, made.id, lease_s=10)
    clock.pass_s(11)
    assert store.sweep().dead == 1
    dead = store.submission(made.id)
    assert dead is not None and dead.state == "dead" and "not heard of" in (dead.last_error or "")


def test_a_lost_hint_is_given_again_after_a_while(store: Store, submit: Submit, clock: Clock) -> None:
    made = submit()
    clock.pass_s(1000)
    assert store.sweep().requeued == 0, "not lost: the relay has not been there yet"
    publish(store)
    assert store.sweep().requeued == 0, "too early to call it lost"
    clock.pass_s(61)
    assert store.sweep().requeued == 1
    assert publish(store) == [made.id]
    assert store.sweep().requeued == 0, "given again just now"


def test_what_merely_waits_is_not_hinted_again(store: Store, submit: Submit, clock: Clock) -> None:
    """However long: its hint is on the queue still."""
    for _ in range(7):
        submit()
    publish(store)
    for _ in range(3):
        clock.pass_s(61)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(store._database, "write", None)  # nor is anybody kept from writing
            assert store.sweep(on_queue={"interactive": 7}).requeued == 0
    submit()
    assert store.sweep(on_queue={"interactive": 7}).requeued == 0, "on its way to the queue"
    publish(store)
    assert store.sweep(on_queue={"interactive": 6}).requeued == 2, "as many as are missing"
    publish(store)
    assert store.sweep(on_queue={"interactive": 8}).requeued == 0


def test_lost_hints_are_found_in_the_order_of_the_queue(
    store: Store, submit: Submit, clock: Clock, store_url: str
) -> None:
    submit()
    publish(store)
    clock.pass_s(61)
    with watched(store) as statements:
        assert store.sweep().requeued == 1
    if store_url.startswith("sqlite"):
        assert not [line for line in plan(store_url, statements) if "ORDER BY" in line]


def test_a_lost_queue_is_filled_again_in_parts(store: Store, submit: Submit, clock: Clock) -> None:
    made = [submit().id for _ in range(7)]
    publish(store)
    clock.pass_s(61)
    hinted: list[str] = []
    for count in (3, 3, 1, 0):
        assert store.sweep(on_queue={"interactive": len(hinted)}, most_hints=3).requeued == count
        hinted += publish(store)
    assert hinted == made


def test_a_cohort_does_not_stand_before_interactive_submissions(store: Store, submit: Submit, clock: Clock) -> None:
    cohort = store.create_cohort("autumn", "spiral")
    store.create_submissions(cohort.id, [NewSubmission("spiral", f"{n}.py", b"x") for n in range(5)])
    first, second = submit(), submit()
    assert (store.place_in_queue(first.id), store.place_in_queue(second.id)) == (1, 2)
    assert (store.waiting("interactive"), store.waiting("cohort"), store.waiting()) == (2, 5, 7)
    publish(store)
    clock.pass_s(61)
    assert store.sweep(most_hints=2).requeued == 4, "two at the head of each queue"


def test_the_place_in_the_queue_moves_up(store: Store, submit: Submit, grade: Grade) -> None:
    first, second, third = submit(), submit(), submit()
    assert [store.place_in_queue(one.id) for one in (first, second, third)] == [1, 2, 3]
    grade(first.id)
    assert [store.place_in_queue(one.id) for one in (first, second, third)] == [None, 1, 2]
    assert store.place_in_queue("sub_none") is None


def test_a_regrade_keeps_the_old_report(store: Store, submit: Submit, grade: Grade) -> None:
    made = submit()
    grade(made.id, grader="one")
    again = store.regrade(made.id, actor="key_1")
    assert (again.generation, again.state, again.rating, again.attempts) == (1, "queued", None, 0)
    with pytest.raises(Conflict):
        store.regrade(made.id)
    assert store.report(made.id) is not None, "the last one that there is"
    assert store.report(made.id, generation=1) is None
    grade(made.id, grader="two")
    digests = [report["versions"]["grader_digest"] for _, report in store.reports(made.id)]
    assert digests == ["one", "two"]
    assert store.audit_log().items[0].action == "submission.regrade"


def test_a_cancelled_submission_stops_its_worker(
    store: Store, submit: Submit, make_report: Callable[..., Report]
) -> None:
    made = submit()
    claim = claimed(store, made.id)
    assert store.cancel(made.id).state == "cancelled"
    assert not store.renew(claim, 60)
    assert not store.finish(claim, make_report())
    assert store.claim(made.id, "worker", 60) is None
    with pytest.raises(Conflict):
        store.cancel(made.id)


@pytest.mark.parametrize("ask", [Store.regrade, Store.requeue, Store.cancel, Store.erase])
def test_what_is_not_there_is_not_found(store: Store, ask: Callable[[Store, str], Submission]) -> None:
    with pytest.raises(NotFound):
        ask(store, "sub_none")


@pytest.mark.parametrize("state", ["queued", "running", "graded"])
def test_erasing_leaves_counts_and_nothing_of_the_candidate(
    store: Store, submit: Submit, make_report: Callable[..., Report], state: str, store_url: str
) -> None:
    store.create_endpoint("https://receiver.example/", [], "whsec_x")
    store.idempotency_begin("key_1", "i-1", "print")
    made = store.create_submission(
        NewSubmission(
            "spiral",
            "PLANTED.py",
            b"fixed=4 PLANTED",
            candidate={"name": "PLANTED", "external_id": "PLANTED"},
            callback={"url": "https://PLANTED"},
        ),
        idempotency=Idempotency("key_1", "i-1", lambda made: StoredResponse(202, {}, "PLANTED")),
    )
    claim = None
    if state != "queued":
        claim = claimed(store, made.id)
        assert store.add_event(made.id, claim.fence, "step", {"file": "PLANTED"})
    if state == "graded":
        assert claim is not None
        assert store.finish(claim, make_report("PLANTED.py", b"fixed=4", text="PLANTED"))
    erased = store.erase(made.id, actor="key_1")
    assert store.erase(made.id) == erased
    assert erased.state == "erased" and erased.source_bytes == len(b"fixed=4 PLANTED")
    assert store.source(made.id) is None and store.report(made.id) is None and store.reports(made.id) == []
    assert erased.fixed == (4 if state == "graded" else None)
    assert "PLANTED" not in repr(erased)
    assert "PLANTED" not in repr(store.events_after(made.id))
    assert "PLANTED" not in repr(store.list_messages().items) and store.due_messages(10, 60) == []
    assert "PLANTED" not in repr(store.audit_log().items)
    replayed = store.idempotency_begin("key_1", "i-1", "print")
    assert replayed.response == StoredResponse(410, {}, "")
    assert store.claim(made.id, "worker", 60) is None
    if claim is not None and state == "running":
        assert not store.finish(claim, make_report())
    if state == "graded":
        assert store.counts().verdicts == {"fixed": 4, "not_fixed": 4, "inconclusive": 0}


def on_disk(store_url: str) -> bytes:
    path = Path(store_url.removeprefix("sqlite:///"))
    return b"".join(part.read_bytes() for part in path.parent.glob(path.name + "*"))


def test_what_is_erased_is_off_the_disk(store: Store, submit: Submit, store_url: str) -> None:
    """SQLite's log would hold it until much else is written."""
    if not store_url.startswith("sqlite"):
        assert store.scrub(), "PostgreSQL's log is its operator's"
        return
    made = submit(source=b"PLANTED" * 1000, candidate={"name": "PLANTED"})
    assert b"PLANTED" in on_disk(store_url)
    store.erase(made.id)
    assert b"PLANTED" not in on_disk(store_url)
    assert store.scrub()


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)  # which alone has such a log
def test_what_a_reader_kept_on_the_disk_goes_later(store: Store, submit: Submit, store_url: str) -> None:
    made = submit(source=b"PLANTED" * 1000)
    with contextlib.closing(sqlite3.connect(store_url.removeprefix("sqlite:///"), isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM submissions").fetchone()
        store.erase(made.id)
        assert b"PLANTED" in on_disk(store_url) and not store.scrub()
        reader.execute("COMMIT")
    submit()
    assert store.scrub()
    assert b"PLANTED" not in on_disk(store_url)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store._database, "clear_log", None)  # it is not done again and again
        assert store.scrub()


def test_lists_go_from_new_to_old_page_by_page(store: Store, submit: Submit) -> None:
    made = [submit().id for _ in range(5)]
    seen, cursor = [], None
    for _ in range(3):
        page = store.list_submissions(cursor=cursor, limit=2)
        seen += [one.id for one in page.items]
        cursor = page.next_cursor
    assert cursor is None
    assert seen == made[::-1]
    full = store.list_submissions(limit=5)
    assert len(full.items) == 5 and full.next_cursor is None


@pytest.mark.parametrize("cursor", ["?", "é", "AAA", "\0", "-_-_", ""])
def test_a_foreign_cursor_is_refused(store: Store, submit: Submit, cursor: str) -> None:
    submit()
    for lists in (store.list_submissions, store.list_cohorts, store.list_messages, store.audit_log):
        with pytest.raises(BadCursor):
            lists(cursor=cursor)


def test_lists_can_be_narrowed(store: Store, submit: Submit, grade: Grade, clock: Clock) -> None:
    first = submit(candidate={"external_id": "c-1"}, api_key_id="key_1", integration_id="int_1")
    middle_us = clock()
    second = submit(source=b"fixed=8 forged", candidate={"external_id": "c-2"})
    grade(second.id)
    done = store.submission(second.id)
    assert done is not None

    def found(**filters: object) -> list[str]:
        return [one.id for one in store.list_submissions(SubmissionFilters(**filters)).items]  # type: ignore[arg-type]

    assert found(states=("queued",)) == [first.id]
    assert found(external_id="c-2") == [second.id]
    assert found(api_key_id="key_1") == found(integration_id="int_1") == [first.id]
    assert found(rating=done.rating) == found(tampering_suspected=True) == [second.id]
    assert found(created_to_us=middle_us) == [first.id]
    assert found(created_from_us=middle_us) == [second.id]
    assert found(challenge="spiral", queue="interactive") == [second.id, first.id]
    assert found(cohort_id="coh_none") == found(external_id="c\0") == []


@pytest.mark.parametrize(
    ("filters", "index"),
    [
        (SubmissionFilters(states=("graded",)), "ix_submissions_state_id"),
        (SubmissionFilters(challenge="spiral", external_id="c-1"), "ix_submissions_external_id_challenge_id"),
    ],
)
def test_a_page_is_found_without_reading_or_sorting_the_rest(
    store: Store, submit: Submit, store_url: str, filters: SubmissionFilters, index: str
) -> None:
    submit()
    with watched(store) as statements:
        store.list_submissions(filters, limit=10)
        store.list_submissions(filters, cursor=b64encode(b"sub_" + b"z" * 26).decode(), limit=10)
    assert len(statements) == 2
    if store_url.startswith("sqlite"):
        first, later = plan(store_url, statements)
        assert f"USING INDEX {index} (" in first and f"USING INDEX {index} (" in later and "id<?" in later


def test_several_states_are_one_list(store: Store, submit: Submit, grade: Grade, store_url: str) -> None:
    made = [submit() for _ in range(6)]
    for one in made[::2]:
        grade(one.id)
    store.cancel(made[1].id)
    both = SubmissionFilters(states=("graded", "queued", "graded"))
    seen: list[str] = []
    cursor = None
    with watched(store) as statements:
        for _ in range(3):
            page = store.list_submissions(both, cursor, 2)
            seen += [one.id for one in page.items]
            cursor = page.next_cursor
    assert cursor is None
    assert seen == [made[n].id for n in (5, 4, 3, 2, 0)]
    if store_url.startswith("sqlite"):
        assert all("USING INDEX ix_submissions_state_id (" in line for line in plan(store_url, statements))


def test_figures_are_summed_from_an_index(store: Store, submit: Submit, grade: Grade, store_url: str) -> None:
    grade(submit().id)
    with watched(store) as statements:
        store.counts()
    if store_url.startswith("sqlite"):
        steps = [line for line in plan(store_url, statements) if line.startswith(("SCAN", "SEARCH"))]
        # The index of checks holds those alone, which are few.
        oldest = [line for line in steps if "COVERING INDEX" not in line and "ix_submissions_checks" not in line]
        assert len(oldest) == 2 and all("_queue_state_queued_us_id (queue=? AND state=?)" in line for line in oldest)


def test_a_candidate_is_found_by_a_name_of_any_length_until_erased(store: Store, submit: Submit) -> None:
    """PostgreSQL's index takes no more than 2,700 bytes."""
    name = "\N{GRINNING FACE}" * 5000
    made = submit(candidate={"external_id": name})
    other = submit(candidate={"name": "Ada"})

    def found(external_id: str) -> list[str]:
        return [one.id for one in store.list_submissions(SubmissionFilters(external_id=external_id)).items]

    assert found(name) == [made.id]
    kept = store.submission(made.id)
    assert kept is not None and kept.candidate == {"external_id": name}
    store.erase(made.id)
    assert found(name) == []
    assert store.submission(other.id) == other


def test_events_can_be_followed(store: Store, submit: Submit) -> None:
    made, other = submit(), submit()
    claim = claimed(store, made.id)
    assert store.add_event(made.id, claim.fence, "step", {"name": "real", "phase": "begin"})
    seen = store.events_after(made.id, limit=2)
    rest = store.events_after(made.id, seen[-1].seq)
    assert [event.kind for event in seen + rest] == ["queued", "started", "step"]
    assert rest[0].data == {"name": "real", "phase": "begin"}
    assert kinds(store, other.id) == ["queued"]


def test_any_text_is_kept(store: Store, submit: Submit, make_report: Callable[..., Report]) -> None:
    """PostgreSQL knows no NUL and UTF-8 no lone surrogate; neither may turn a verdict into a fault."""
    nasty = "a\0b\ud800\u2028"
    made = submit(file_name=nasty, candidate={"name": nasty, "external_id": nasty}, callback={nasty: [nasty]})
    claim = claimed(store, made.id)
    assert store.add_event(made.id, claim.fence, "step", {"text": nasty})
    assert store.release(claim, nasty, 0) == "queued"
    claim = claimed(store, made.id)
    assert store.finish(claim, make_report("a\0b\u2028", text="a\0b\u2028"))
    report = store.report(made.id)
    assert report is not None and report["output_tail"] == "a\0b\u2028"
    assert store.submission("sub\0") is None
    assert store.list_submissions(SubmissionFilters(external_id=nasty)).items[0].id == made.id


def test_numbers_that_no_database_holds_are_a_value_error(store: Store) -> None:
    with pytest.raises(ValueError, match=r"large|range"):
        store.list_submissions(SubmissionFilters(created_from_us=1 << 70))


def test_a_submission_and_its_remembered_answer_are_one(store: Store) -> None:
    def answer(made: tuple[Submission, ...]) -> StoredResponse:
        return StoredResponse(202, {"Location": f"/v1/submissions/{made[0].id}"}, "{}")

    new = NewSubmission("spiral", "a.py", b"x")
    assert store.idempotency_begin("key_1", "i-1", "print").outcome == "new"
    made = store.create_submission(new, idempotency=Idempotency("key_1", "i-1", answer))
    again = store.idempotency_begin("key_1", "i-1", "print")
    assert again.outcome == "done" and again.response == answer((made,))
    with pytest.raises(Conflict):
        store.create_submission(new, idempotency=Idempotency("key_1", "i-1", answer))
    with pytest.raises(Conflict):
        store.create_submission(new, idempotency=Idempotency("key_1", "not begun", answer))
    assert len(store.list_submissions().items) == 1, "what was refused left nothing"


def test_an_inbound_message_makes_one_submission(store: Store, clock: Clock) -> None:
    integration = store.create_integration(NewIntegration("acme", "standard", ("whsec_x",)))

    def answer(made: tuple[Submission, ...]) -> StoredResponse:
        return StoredResponse(202, {}, made[0].id)

    new = NewSubmission("spiral", "a.py", b"x", integration_id=integration.id)
    assert store.inbound_begin(integration.id, "m-1", "00") is None
    clock.pass_s(61)
    assert store.inbound_begin(integration.id, "m-1", "00") is None, "its first handler vanished"
    made = store.create_submission(new, inbound=Inbound(integration.id, "m-1", answer))
    with pytest.raises(Conflict):  # the first handler was only slow
        store.create_submission(new, inbound=Inbound(integration.id, "m-1", answer))
    seen = store.inbound_begin(integration.id, "m-1", "00")
    assert seen is not None and seen.done and seen.response == answer((made,))
    assert [one.id for one in store.list_submissions().items] == [made.id]

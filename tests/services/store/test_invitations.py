"""Invited candidates: a link, checks that count for nothing, one submission."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from grading.challenge import load_challenge
from grading.public import public_part
from grading.verdict import Report, Verdict
from services.store import (
    Claim,
    Conflict,
    Invitation,
    MessageFilters,
    NewInvitations,
    NotFound,
    Store,
    Submission,
    SubmissionFilters,
)
from services.store.tables import SubmissionRow

from .conftest import Clock

DAY_S = 86_400.0
SHOWS = ("loads", "trains", "accuracy", "output")
Invite = Callable[..., tuple[Invitation, str]]


@pytest.fixture
def invite(store: Store) -> Invite:
    """One link, by default without a time limit and outside any cohort."""

    def make(name: str = "PLANTED", **changes: Any) -> tuple[Invitation, str]:
        given: dict[str, Any] = {"valid_s": 7 * DAY_S, "checks_max": 3, **changes}
        new = NewInvitations("spiral", [{"name": name, "email": f"{name}@example.org"}], "Rita", **given)
        return store.create_invitations(new, actor="usr_1")[0]

    return make


@pytest.fixture
def finish_check(store: Store, make_report: Callable[..., Report]) -> Callable[[str], Claim]:
    """Claim a check and finish it as a worker does."""

    def finish(check_id: str) -> Claim:
        claim = store.claim(check_id, "worker", 60)
        assert claim is not None
        result = public_part(make_report(claim.file_name, claim.source), SHOWS, 100)
        assert store.finish_check(claim, "graded", result.model_dump(mode="json"))
        return claim

    return finish


def now(store: Store, invitation_id: str) -> Invitation:
    found = store.invitation(invitation_id)
    assert found is not None
    return found


class TestLinks:
    def test_a_token_opens_its_invitation_and_is_kept_nowhere(self, store: Store, invite: Invite):
        made, token = invite()
        assert len(token) >= 43, "256 random bits"
        opened = store.open_invitation(token)
        assert opened is not None and opened.id == made.id and opened.id.startswith("inv_")
        assert store.open_invitation(token + "x") is None and store.open_invitation("") is None
        assert token not in repr(now(store, made.id)) and token not in repr(store.audit_log().items)

    def test_a_candidate_has_an_external_id_by_which_attempts_stand_together(self, store: Store, invite: Invite):
        made, _ = invite()
        assert made.candidate == {"external_id": made.id, "name": "PLANTED", "email": "PLANTED@example.org"}
        new = NewInvitations("spiral", [{"external_id": "C-1"}], "Rita", DAY_S, 1)
        ((own, _),) = store.create_invitations(new, actor="usr_1")
        assert own.candidate == {"external_id": "C-1"}

    def test_many_are_made_at_once_each_with_its_own_token(self, store: Store):
        cohort = store.create_cohort("autumn", "spiral")
        new = NewInvitations("spiral", [{"name": str(n)} for n in range(5)], "Rita", DAY_S, 1, cohort.id)
        made = store.create_invitations(new, actor="usr_1")
        assert len({token for _, token in made}) == 5
        first = store.list_invitations(cohort.id, limit=3)
        rest = store.list_invitations(cohort.id, first.next_cursor, limit=3)
        assert [one.id for one in (*first.items, *rest.items)] == [one.id for one, _ in made][::-1]
        assert store.list_invitations("coh_none").items == ()

    def test_visits_are_counted_once_a_minute(self, store: Store, invite: Invite, clock: Clock):
        made, token = invite()
        for _ in range(3):
            store.open_invitation(token)
        assert now(store, made.id).opened == 1
        clock.pass_s(61)
        store.open_invitation(token)
        assert now(store, made.id).opened == 2

    def test_it_ends_by_time_and_lives_on_when_extended(self, store: Store, invite: Invite, clock: Clock):
        made, token = invite(valid_s=DAY_S)
        clock.pass_s(DAY_S)
        ended = store.open_invitation(token)
        assert ended is not None and not ended.is_open(clock()) and ended.state(clock()) == "expired"
        with pytest.raises(Conflict, match="ended"):
            store.hand_in(made.id, "a.py", b"x")
        assert store.extend_invitation(made.id, DAY_S, actor="usr_1").is_open(clock())
        store.hand_in(made.id, "a.py", b"x")

    def test_it_ends_by_hand_and_for_good(self, store: Store, invite: Invite, clock: Clock):
        made, _ = invite()
        for _ in range(2):
            assert store.revoke_invitation(made.id, actor="usr_1").state(clock()) == "revoked"
        for attempt in (
            lambda: store.create_check(made.id, "a.py", b"x"),
            lambda: store.hand_in(made.id, "a.py", b"x"),
            lambda: store.start_invitation(made.id),
        ):
            with pytest.raises(Conflict, match="ended"):
                attempt()
        with pytest.raises(Conflict, match="revoked"):
            store.extend_invitation(made.id, DAY_S, actor="usr_1")

    def test_what_is_not_there_is_not_found(self, store: Store):
        for ask in (
            lambda: store.create_check("inv_none", "a.py", b"x"),
            lambda: store.hand_in("inv_none", "a.py", b"x"),
            lambda: store.start_invitation("inv_none"),
            lambda: store.revoke_invitation("inv_none", actor="a"),
            lambda: store.extend_invitation("inv_none", 1, actor="a"),
            lambda: store.erase_invitation("inv_none", actor="a"),
            lambda: store.create_invitations(NewInvitations("spiral", [{}], "R", 1, 1, "coh_none"), actor="a"),
        ):
            with pytest.raises(NotFound):
                ask()
        assert store.invitation("inv_none") is None and store.invitation_of("sub_none") is None

    def test_the_audit_log_tells_of_each_step_and_of_no_name(
        self, store: Store, invite: Invite, finish_check: Callable[[str], Claim]
    ):
        made, _ = invite(time_limit_s=60)
        store.start_invitation(made.id)
        store.start_invitation(made.id)
        finish_check(store.create_check(made.id, "PLANTED.py", b"PLANTED").id)
        store.extend_invitation(made.id, DAY_S, actor="usr_1")
        submission = store.hand_in(made.id, "PLANTED.py", b"x")
        store.revoke_invitation(made.id, actor="usr_1")
        entries = store.audit_log().items[::-1]
        steps = ["create", "start", "extend", "hand_in", "revoke"]
        assert [one.action for one in entries] == [f"invitation.{step}" for step in steps]
        assert {one.subject for one in entries} == {made.id}
        assert [one.actor for one in entries] == ["usr_1", made.id, "usr_1", made.id, "usr_1"]
        assert entries[3].detail == {"submission": submission.id, "late_s": 0}
        assert "PLANTED" not in repr(entries)


class TestTime:
    def test_the_clock_begins_with_start_and_stops_checks_not_handing_in(
        self, store: Store, invite: Invite, clock: Clock
    ):
        made, _ = invite(time_limit_s=600)
        assert made.deadline_us is None and made.late_s(clock()) == 0
        for attempt in (store.create_check, store.hand_in):
            with pytest.raises(Conflict, match="start first"):
                attempt(made.id, "a.py", b"x")
        begun = store.start_invitation(made.id)
        assert begun.started_us is not None and begun.deadline_us == begun.started_us + 600_000_000
        clock.pass_s(300)
        assert store.start_invitation(made.id) == begun, "beginning twice gives no more time"
        clock.pass_s(420)
        assert begun.late_s(clock()) == pytest.approx(120, abs=1)
        with pytest.raises(Conflict, match="time is over"):
            store.create_check(made.id, "a.py", b"x")
        store.hand_in(made.id, "late.py", b"x")
        clock.pass_s(1000)
        assert now(store, made.id).late_s(clock()) == pytest.approx(120, abs=1), "from then on it stays"
        assert store.audit_log(limit=1).items[0].detail["late_s"] == 120

    def test_without_a_limit_nobody_is_late(self, store: Store, invite: Invite, clock: Clock):
        made, _ = invite()
        store.create_check(made.id, "a.py", b"x")
        started = now(store, made.id)
        assert started.started_us is not None, "begun by trying something out"
        clock.pass_s(6 * DAY_S)
        store.hand_in(made.id, "a.py", b"x")
        assert now(store, made.id).late_s(clock()) == 0


class TestChecks:
    def test_one_at_a_time_and_as_often_as_allowed(
        self, store: Store, invite: Invite, finish_check: Callable[[str], Claim]
    ):
        made, _ = invite(checks_max=2)
        first = store.create_check(made.id, "a.py", b"fixed=1")
        with pytest.raises(Conflict, match="under way"):
            store.create_check(made.id, "b.py", b"fixed=2")
        finish_check(first.id)
        finish_check(store.create_check(made.id, "b.py", b"fixed=2").id)
        with pytest.raises(Conflict, match="no check is left"):
            store.create_check(made.id, "c.py", b"fixed=3")
        assert [one.file_name for one in store.checks(made.id)] == ["b.py", "a.py"]
        assert now(store, made.id).checks_used == 2
        store.hand_in(made.id, "a.py", b"x")
        with pytest.raises(Conflict, match="handed in already"):
            store.create_check(made.id, "d.py", b"x")

    def test_a_check_that_we_failed_costs_nothing(self, store: Store, invite: Invite):
        made, _ = invite(checks_max=1)
        check = store.create_check(made.id, "a.py", b"x")
        for _ in range(3):
            claim = store.claim(check.id, "worker", 60)
            assert claim is not None
            store.release(claim, "fault", 0)
        (dead,) = store.checks(made.id)
        assert (dead.state, now(store, made.id).checks_used) == ("dead", 0)
        store.create_check(made.id, "b.py", b"x")

    def test_it_is_claimed_swept_and_finished_like_any_other(
        self, store: Store, invite: Invite, clock: Clock, finish_check: Callable[[str], Claim]
    ):
        made, _ = invite()
        check = store.create_check(made.id, "a.py", b"fixed=3")
        assert [row.submission_id for row in store.pending_outbox()] == [check.id]
        assert (store.place_in_queue(check.id), store.waiting("interactive")) == (1, 1)
        lost = store.claim(check.id, "worker", 10)
        assert lost is not None and (lost.purpose, lost.queue) == ("check", "interactive")
        clock.pass_s(11)
        assert store.sweep().expired == 1
        claim = finish_check(check.id)
        assert not store.finish_check(lost, "graded", {})
        assert store.finish_check(claim, "graded", {}), "the same worker may ask twice"
        (done,) = store.checks(made.id)
        assert done.state == "graded" and done.result is not None and done.result["accuracy_by_epoch"] == []

    def test_no_report_of_it_is_kept_and_no_check_of_a_submission(
        self, store: Store, invite: Invite, submit: Callable[..., Submission], make_report: Callable[..., Report]
    ):
        check = store.create_check(invite()[0].id, "a.py", b"x")
        claim = store.claim(check.id, "worker", 60)
        assert claim is not None
        with pytest.raises(ValueError, match="check"):
            store.finish(claim, make_report())
        other = store.claim(submit().id, "worker", 60)
        assert other is not None
        with pytest.raises(ValueError, match="report"):
            store.finish_check(other, "graded", {})

    def test_it_counts_for_nothing_and_tells_nobody(
        self, store: Store, invite: Invite, finish_check: Callable[[str], Claim]
    ):
        """No list, count, message, report or action of submissions knows of it."""
        store.create_endpoint("https://receiver.example/", [], "whsec_x")
        cohort = store.create_cohort("autumn", "spiral")
        made, _ = invite(cohort_id=cohort.id)
        check = store.create_check(made.id, "a.py", b"fixed=3")
        assert store.counts().submissions == {("interactive", "queued"): 1}, "while it waits it is work"
        finish_check(check.id)
        assert store.submission(check.id) is None and store.source(check.id) is None
        assert store.report(check.id) is None and store.reports(check.id) == []
        assert store.list_submissions().items == ()
        assert store.list_submissions(SubmissionFilters(external_id=made.id)).items == ()
        assert store.cohort_lines(cohort.id) == [] and list(store.cohort_rows(cohort.id)) == []
        assert store.cohort_progress(cohort.id) == {} and store.cohort_counts([cohort.id]) == {cohort.id: {}}
        assert store.cohort_standing(cohort.id, 8) == (0, 0)
        counts = store.counts()
        assert counts.submissions == {} and sum(counts.verdicts.values()) == 0
        assert store.list_messages(MessageFilters()).items == ()
        found = store.cohort(cohort.id)
        assert found is not None and found.state == "open"
        for act in (
            lambda: store.regrade(check.id),
            lambda: store.requeue(check.id),
            lambda: store.cancel(check.id),
            lambda: store.erase(check.id),
            lambda: store.add_note(check.id, "Rita", "x", actor="usr_1"),
            lambda: store.decide(check.id, "Rita", "hold", "x", actor="usr_1"),
            lambda: store.create_share(check.id, "Rita", 60, blind=False, actor="usr_1"),
        ):
            with pytest.raises(NotFound):
                act()

    @pytest.mark.parametrize("how", ["dead", "invalid"])
    def test_nor_does_its_end_tell_anybody(self, store: Store, invite: Invite, how: str):
        store.create_endpoint("https://receiver.example/", [], "whsec_x")
        check = store.create_check(invite()[0].id, "a.py", b"x")
        for _ in range(3 if how == "dead" else 1):
            claim = store.claim(check.id, "worker", 60)
            assert claim is not None
            if how == "dead":
                store.release(claim, "fault", 0)
            else:
                store.finish_check(claim, "invalid", {"loads": False})
        assert store.list_messages().items == () and store.counts().submissions == {}

    def test_its_row_holds_nothing_hidden(self, store: Store, invite: Invite, finish_check: Callable[[str], Claim]):
        """Neither verdict nor bug nor rating is in the row or in its events, to be found by whoever reads them."""
        made, _ = invite()
        check = store.create_check(made.id, "a.py", b"fixed=3 forged")
        finish_check(check.id)
        with store._database.read() as session:
            row = session.get(SubmissionRow, check.id)
            assert row is not None
            kept = {column.key: getattr(row, column.key) for column in row.__table__.columns if column.key != "source"}
        assert (kept["fixed"], kept["total"], kept["rating"], kept["tampering_suspected"]) == (None, None, None, False)
        text = json.dumps(list(kept.values())) + repr(store.events_after(check.id))
        manifest = load_challenge("spiral").manifest
        hidden = {*Verdict, *(band.rating for band in manifest.rating_bands), "00ff", "tampering_reasons"}
        hidden |= {word for bug in manifest.bugs for word in (bug.title, bug.symptom, f'"{bug.id}"')}
        assert [word for word in hidden if word in text] == []

    def test_a_program_of_a_check_is_its_candidates_alone(self, store: Store, invite: Invite):
        mine, other = invite()[0], invite("other")[0]
        check = store.create_check(mine.id, "a.py", b"mine")
        assert store.check_source(mine.id, check.id) == b"mine"
        assert store.check_source(other.id, check.id) is None
        submission = store.hand_in(mine.id, "a.py", b"handed in")
        assert store.check_source(mine.id, submission.id) is None


class TestHandingIn:
    def test_it_is_an_ordinary_submission_of_the_cohort(
        self, store: Store, invite: Invite, grade: Callable[..., Report]
    ):
        store.create_endpoint("https://receiver.example/", [], "whsec_x")
        cohort = store.create_cohort("autumn", "spiral")
        made, _ = invite(cohort_id=cohort.id)
        submission = store.hand_in(made.id, "mine.py", b"fixed=5")
        assert (submission.queue, submission.cohort_id, submission.state) == ("cohort", cohort.id, "queued")
        assert submission.candidate == made.candidate
        assert store.submission(submission.id) == submission
        handed = store.invitation_of(submission.id)
        assert handed is not None and handed == now(store, made.id)
        assert (handed.submission_id, handed.handed_in_us) == (submission.id, submission.created_us)
        running = store.cohort(cohort.id)
        assert running is not None and running.state == "running"
        grade(submission.id)
        assert [line.fixed for line in store.cohort_lines(cohort.id)] == [5]
        types = sorted(one.event_type for one in store.list_messages().items)
        assert types == ["cohort.finished", "submission.graded"]

    def test_a_finished_cohort_goes_on(self, store: Store, invite: Invite, grade: Callable[..., Report]):
        cohort = store.create_cohort("autumn", "spiral")
        for generation in (0, 1):
            grade(store.hand_in(invite(cohort_id=cohort.id)[0].id, "a.py", b"fixed=1").id)
            found = store.cohort(cohort.id)
            assert found is not None and (found.state, found.generation) == ("finished", generation)

    def test_outside_a_cohort_it_is_graded_at_once(self, store: Store, invite: Invite):
        submission = store.hand_in(invite()[0].id, "a.py", b"x")
        assert (submission.queue, submission.cohort_id) == ("interactive", None)

    def test_once_only(self, store: Store, invite: Invite):
        made, _ = invite()
        first = store.hand_in(made.id, "a.py", b"x")
        with pytest.raises(Conflict, match="handed in already"):
            store.hand_in(made.id, "b.py", b"y")
        assert [one.id for one in store.list_submissions().items] == [first.id]

    def test_a_cancelled_round_takes_nothing(self, store: Store, invite: Invite):
        cohort = store.create_cohort("autumn", "spiral")
        made, _ = invite(cohort_id=cohort.id)
        store.cancel_cohort(cohort.id)
        with pytest.raises(Conflict, match="called off"):
            store.hand_in(made.id, "a.py", b"x")
        with pytest.raises(Conflict, match="called off"):
            invite(cohort_id=cohort.id)
        assert now(store, made.id).handed_in_us is None and store.list_submissions().items == ()


class TestErasing:
    @pytest.mark.parametrize("under_way", [False, True])
    def test_erasing_the_submission_forgets_the_candidate_everywhere(
        self, store: Store, invite: Invite, finish_check: Callable[[str], Claim], clock: Clock, under_way: bool
    ):
        made, token = invite()
        finish_check(store.create_check(made.id, "PLANTED.py", b"PLANTED 1").id)
        last = store.create_check(made.id, "PLANTED.py", b"PLANTED 2")
        claim = store.claim(last.id, "worker", 60) if under_way else None
        submission = store.hand_in(made.id, "PLANTED.py", b"PLANTED 3")
        store.erase(submission.id, actor="usr_1")
        erased = now(store, made.id)
        assert (
            erased.revoked_us is not None
            and erased.candidate is None
            and erased.state(clock()) == "erased"
            and not erased.is_open(clock())
        )
        opened = store.open_invitation(token)
        assert opened is not None and not opened.is_open(clock())
        assert erased.handed_in_us is not None, "that somebody handed in stays"
        for check in store.checks(made.id):
            assert (check.state, check.result, check.file_name, check.source_sha256) == ("erased", None, "", "")
            assert store.check_source(made.id, check.id) is None
            assert store.claim(check.id, "worker", 60) is None
        if claim is not None:
            assert not store.renew(claim, 60) and not store.finish_check(claim, "graded", {})
        assert "PLANTED" not in repr((erased, store.checks(made.id), store.audit_log().items))

    def test_one_who_handed_nothing_in_is_forgotten_by_the_invitation(self, store: Store, invite: Invite, clock: Clock):
        made, _ = invite()
        check = store.create_check(made.id, "PLANTED.py", b"PLANTED")
        for _ in range(2):
            assert store.erase_invitation(made.id, actor="usr_1").state(clock()) == "erased"
        assert store.check_source(made.id, check.id) is None
        assert [one.action for one in store.audit_log().items].count("invitation.erase") == 1
        handed, _ = invite("other")
        store.hand_in(handed.id, "a.py", b"x")
        with pytest.raises(Conflict, match="erase the submission"):
            store.erase_invitation(handed.id, actor="usr_1")

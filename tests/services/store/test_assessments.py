"""Assessments in the store: begun once, handed in once, forgotten when told to."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from services import ats
from services.store import (
    Conflict,
    Invitation,
    NewAssessment,
    NewInvitations,
    NewSubmission,
    NotFound,
    Store,
    SubmissionFilters,
)

ASKED = NewAssessment(
    "int_1", "key-1", "spiral", {"name": "Ada", "external_id": "c-7"}, {"url": "https://ats.example/1"}
)


def hand_in(store: Store, assessment_id: str, challenge: str = "spiral") -> str:
    return store.create_submission(NewSubmission(challenge, "a.py", b"pass", assessment_id=assessment_id)).id


def test_the_same_call_again_is_the_same_assessment(store: Store) -> None:
    first, created = store.create_assessment(ASKED)
    assert created and first.state == "invited" and first.submission_id is None
    assert store.create_assessment(replace(ASKED, candidate=None)) == (first, False)
    assert store.create_assessment(replace(ASKED, dedupe_key="key-2"))[1]
    assert store.create_assessment(replace(ASKED, integration_id="int_2"))[1]
    assert len(store.list_assessments().items) == 3
    assert [one.id for one in store.list_assessments("int_2").items] != [first.id]


def test_of_many_calls_at_once_one_begins_it(store: Store) -> None:
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda _: store.create_assessment(ASKED), range(16)))
    assert len({assessment.id for assessment, _ in made}) == 1
    assert [created for _, created in made].count(True) == 1


def test_a_file_is_attached_with_all_that_the_ats_said(store: Store) -> None:
    assessment, _ = store.create_assessment(ASKED)
    submission = store.submission(hand_in(store, assessment.id))
    assert submission is not None
    assert submission.integration_id == "int_1"
    assert submission.candidate == {"name": "Ada", "external_id": "c-7"}
    assert store.list_submissions(SubmissionFilters(external_id="c-7")).items == (submission,)
    callback = ats.Callback.model_validate(submission.callback)
    assert callback == ats.Callback(url="https://ats.example/1", assessment_id=assessment.id)
    after = store.assessment(assessment.id)
    assert after and (after.state, after.submission_id) == ("submitted", submission.id)


def test_only_one_file_is_attached_and_none_to_what_waits_for_nothing(store: Store) -> None:
    assessment, _ = store.create_assessment(ASKED)
    with pytest.raises(Conflict, match="challenge"):
        hand_in(store, assessment.id, "other")
    hand_in(store, assessment.id)
    cancelled, _ = store.create_assessment(replace(ASKED, dedupe_key="key-2"))
    store.cancel_assessment(cancelled.id)
    for one in (assessment.id, cancelled.id):
        with pytest.raises(Conflict):
            hand_in(store, one)
    with pytest.raises(NotFound):
        hand_in(store, "asm_none")
    assert len(store.list_submissions().items) == 1


def test_cancelling_forgets_the_candidate_and_frees_the_key(store: Store) -> None:
    assessment, _ = store.create_assessment(ASKED)
    gone = store.cancel_assessment(assessment.id)
    assert (gone.state, gone.candidate, gone.callback) == ("cancelled", None, None)
    assert store.cancel_assessment(assessment.id) == gone
    again, created = store.create_assessment(ASKED)
    assert created and again.id != assessment.id
    hand_in(store, again.id)
    assert store.cancel_assessment(again.id).state == "submitted"
    with pytest.raises(NotFound):
        store.cancel_assessment("asm_none")


def test_a_renewable_one_starts_anew_once_it_is_over_and_not_before(store: Store) -> None:
    asked = replace(ASKED, renewable=True)
    first, _ = store.create_assessment(asked)
    submission_id = hand_in(store, first.id)
    assert store.create_assessment(asked)[0].id == first.id
    store.cancel(submission_id)
    assert store.create_assessment(ASKED)[0].id == first.id
    second, created = store.create_assessment(asked)
    assert created and second.id != first.id
    assert store.assessment(first.id) is not None


def test_erasing_a_submission_forgets_the_candidate_of_its_assessment(store: Store) -> None:
    assessment, _ = store.create_assessment(ASKED)
    store.erase(hand_in(store, assessment.id))
    after = store.assessment(assessment.id)
    assert after and (after.candidate, after.callback, after.state) == (None, None, "submitted")


def invite(store: Store, assessment_id: str, challenge: str = "spiral") -> tuple[Invitation, str]:
    assessment = store.assessment(assessment_id)
    candidate = assessment.candidate if assessment else None
    new = NewInvitations(challenge, [candidate or {}], "Rita", 3600, 3, assessment_id=assessment_id)
    return store.create_invitations(new, actor="usr_1")[0]


class TestLinks:
    def test_what_comes_in_by_the_link_is_the_assessments(self, store: Store) -> None:
        assessment, _ = store.create_assessment(replace(ASKED, candidate={"name": "Ada"}))
        made, _ = invite(store, assessment.id)
        assert store.invitations_to([assessment.id, "asm_none"]) == {assessment.id: made}
        submission = store.hand_in(made.id, "a.py", b"pass")
        assert submission.integration_id == "int_1"
        assert submission.candidate == {"name": "Ada", "external_id": made.id}, "attempts stand together"
        assert submission.callback == {"url": "https://ats.example/1", "assessment_id": assessment.id}
        after = store.assessment(assessment.id)
        assert after is not None and (after.state, after.submission_id) == ("submitted", submission.id)
        with pytest.raises(Conflict):
            invite(store, assessment.id)

    def test_one_link_works_at_a_time(self, store: Store) -> None:
        assessment, _ = store.create_assessment(ASKED)
        first, token = invite(store, assessment.id)
        second, _ = invite(store, assessment.id)
        ended = store.invitation_by_token(token)
        assert ended is not None and ended.id == first.id and ended.revoked_us is not None
        with pytest.raises(Conflict, match="has ended"):
            store.hand_in(first.id, "a.py", b"pass")
        assert store.invitations_to([assessment.id])[assessment.id].id == second.id
        assert store.hand_in(second.id, "a.py", b"pass").integration_id == "int_1"

    def test_a_program_that_came_another_way_leaves_the_link_nothing(self, store: Store) -> None:
        assessment, _ = store.create_assessment(ASKED)
        made, _ = invite(store, assessment.id)
        taken = hand_in(store, assessment.id)
        with pytest.raises(Conflict, match="have a program for this already"):
            store.hand_in(made.id, "a.py", b"pass")
        assert [one.id for one in store.list_submissions().items] == [taken], "the refused one is not kept"
        assert (found := store.invitation(made.id)) is not None and found.handed_in_us is None

    def test_cancelling_ends_links_and_forgets_their_candidate(self, store: Store) -> None:
        assessment, _ = store.create_assessment(ASKED)
        ended, (made, _) = invite(store, assessment.id)[0], invite(store, assessment.id)
        check = store.create_check(made.id, "a.py", b"pass")
        store.cancel_assessment(assessment.id)
        for one in (ended.id, made.id):
            found = store.invitation(one)
            assert found is not None and found.candidate is None and found.revoked_us is not None
        assert store.check_source(made.id, check.id) is None
        with pytest.raises(Conflict):
            store.hand_in(made.id, "a.py", b"pass")
        with pytest.raises(Conflict, match="cancelled"):
            invite(store, assessment.id)

    @pytest.mark.parametrize("by_link", [True, False])
    def test_erasing_forgets_every_link(self, store: Store, by_link: bool) -> None:
        assessment, _ = store.create_assessment(ASKED)
        links = [invite(store, assessment.id)[0] for _ in range(2)]
        taken = store.hand_in(links[1].id, "a.py", b"pass").id if by_link else hand_in(store, assessment.id)
        store.erase(taken)
        for one in links:
            found = store.invitation(one.id)
            assert found is not None and found.candidate is None and found.revoked_us is not None

    def test_what_does_not_fit_is_refused(self, store: Store) -> None:
        assessment, _ = store.create_assessment(ASKED)
        with pytest.raises(Conflict, match="of the challenge spiral"):
            invite(store, assessment.id, "other")
        with pytest.raises(NotFound):
            invite(store, "asm_none")
        assert store.invitations_to([assessment.id]) == {}

    def test_many_ways_at_once_make_one_submission(self, store: Store) -> None:
        assessment, _ = store.create_assessment(ASKED)
        made, _ = invite(store, assessment.id)

        def attempt(number: int) -> str | None:
            ways = (
                lambda: store.hand_in(made.id, "a.py", b"pass").id,
                lambda: hand_in(store, assessment.id),
                lambda: invite(store, assessment.id)[0].id,
            )
            try:
                return ways[number % 3]()
            except Conflict:
                return None

        with ThreadPoolExecutor(12) as threads:
            came = [one for one in threads.map(attempt, range(24)) if one and one.startswith("sub_")]
        after = store.assessment(assessment.id)
        assert after is not None and [after.submission_id] == came
        assert [one.id for one in store.list_submissions().items] == came


def test_the_table_goes_and_comes_back(store: Store, store_url: str) -> None:
    first, _ = store.create_assessment(ASKED)
    submission_id = hand_in(store, first.id)
    Store.downgrade(store_url, "0001")
    Store.upgrade(store_url)
    assert store.assessment(first.id) is None
    assert store.submission(submission_id) is not None
    assert store.create_assessment(ASKED)[1]

"""Assessments in the store: begun once, handed in once, forgotten when told to."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from services import ats
from services.store import Conflict, NewAssessment, NewSubmission, NotFound, Store, SubmissionFilters

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


def test_the_table_goes_and_comes_back(store: Store, store_url: str) -> None:
    first, _ = store.create_assessment(ASKED)
    submission_id = hand_in(store, first.id)
    Store.downgrade(store_url, "0001")
    Store.upgrade(store_url)
    assert store.assessment(first.id) is None
    assert store.submission(submission_id) is not None
    assert store.create_assessment(ASKED)[1]

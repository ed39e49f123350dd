"""Scorecards: one for each interviewer, private until handed in, then as they are; gone with the candidate."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from services.store import Conflict, NotFound, Store, Submission, User

Submit = Callable[..., Submission]
_numbers = itertools.count()


def somebody(store: Store) -> User:
    return store.create_user(f"ada{next(_numbers)}@example.org", "Ada", "interviewer", "a long password")


def keep(store: Store, submission: Submission, user: User, **changes: Any) -> Any:
    given: dict[str, Any] = {
        "marks": {"method": "strong"},
        "comments": {"method": "one thing at a time", "reading": "  "},
        "summary": "good\0",
        "recommendation": "yes",
        "hand_in": False,
        **changes,
    }
    return store.keep_scorecard(submission.id, user.id, user.name, **given)


def test_a_draft_is_ones_own_until_it_is_handed_in(store: Store, submit: Submit) -> None:
    made, ada, bob = submit(), somebody(store), somebody(store)
    keep(store, made, ada, marks={}, recommendation=None)
    draft = keep(store, made, ada)
    assert draft.handed_in_us is None and draft.marks == {"method": "strong"}
    assert draft.comments == {"method": "one thing at a time"} and "\0" not in draft.summary
    assert store.scorecards(made.id) == [] and store.own_scorecard(made.id, bob.id) is None
    assert store.own_scorecard(made.id, ada.id) == draft
    handed_in = keep(store, made, ada, hand_in=True)
    keep(store, made, bob, hand_in=True)
    assert [one.user_id for one in store.scorecards(made.id)] == [ada.id, bob.id]
    assert handed_in.id == draft.id
    logged = [entry for entry in store.audit_log().items if entry.action == "submission.scorecard"]
    assert [entry.actor for entry in logged] == [bob.id, ada.id]


def test_what_was_handed_in_stays(store: Store, submit: Submit) -> None:
    made, ada = submit(), somebody(store)
    keep(store, made, ada, hand_in=True)
    for hand_in in (False, True):
        with pytest.raises(Conflict, match="stays as it is"):
            keep(store, made, ada, recommendation="no", hand_in=hand_in)
    assert [one.recommendation for one in store.scorecards(made.id)] == ["yes"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"marks": {"method": "superb"}}, "marks are"),
        ({"recommendation": "perhaps"}, "recommendations are"),
        ({"summary": "x" * 10_001}, "at most 10,000"),
        ({"comments": {"method": "x" * 10_001}}, "at most 10,000"),
        ({"marks": {str(n): "weak" for n in range(51)}}, "at most 50"),
        ({"marks": {}, "hand_in": True}, "at least one section"),
        ({"recommendation": None, "hand_in": True}, "choose a recommendation"),
    ],
)
def test_what_will_not_do_is_refused_and_changes_nothing(
    store: Store, submit: Submit, changes: dict[str, Any], said: str
) -> None:
    made, ada = submit(), somebody(store)
    draft = keep(store, made, ada)
    with pytest.raises(ValueError, match=said):
        keep(store, made, ada, **changes)
    assert store.own_scorecard(made.id, ada.id) == draft


def test_an_erased_candidate_has_none_and_gets_none(store: Store, submit: Submit) -> None:
    made, ada = submit(), somebody(store)
    keep(store, made, ada, hand_in=True)
    store.erase(made.id)
    assert store.scorecards(made.id) == [] and store.own_scorecard(made.id, ada.id) is None
    with pytest.raises(Conflict):
        keep(store, made, somebody(store))
    with pytest.raises(NotFound):
        store.keep_scorecard("sub_nothing", ada.id, "Ada", {}, {}, "", None, hand_in=False)

"""What people write about a submission: only ever added to, and gone with the candidate."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from grading.verdict import Report
from services.store import LONGEST_TEXT, Conflict, NotFound, Store, Submission
from tests.services.store.conftest import Clock

Submit = Callable[..., Submission]
Grade = Callable[..., Report]


def test_decisions_pile_up_and_the_newest_comes_first(store: Store, submit: Submit, grade: Grade) -> None:
    made = submit()
    first = store.decide(made.id, "Ada", "hold", " ask about the leak ", actor="usr_a")
    grade(made.id)
    store.regrade(made.id)
    second = store.decide(made.id, "Bob", "advance", "asked\0", actor="usr_b")
    assert [one.id for one in store.decisions(made.id)] == [second.id, first.id]
    assert (first.reason, first.generation, second.generation) == ("ask about the leak", 0, 1)
    assert "\0" not in second.reason
    logged = [entry for entry in store.audit_log().items if entry.action == "submission.decide"]
    assert [(entry.actor, entry.detail) for entry in logged] == [
        ("usr_b", {"decision": "advance"}),
        ("usr_a", {"decision": "hold"}),
    ]


def test_a_suspicion_is_ruled_on_only_where_there_is_one(store: Store, submit: Submit, grade: Grade) -> None:
    plain, flagged = submit(), submit()
    grade(plain.id)
    grade(flagged.id, tampering_suspected=True, tampering_reasons=("odd",))
    with pytest.raises(Conflict, match="nothing is suspected"):
        store.rule(plain.id, "Ada", "dismissed", "fine", actor="usr_a")
    store.rule(flagged.id, "Ada", "confirmed", "odd indeed", actor="usr_a")
    newest = store.rule(flagged.id, "Bob", "dismissed", "rounding", actor="usr_b")
    assert [one.kind for one in store.rulings(flagged.id)] == ["dismissed", "confirmed"]
    assert newest.generation == 0


def test_notes_are_bounded_and_in_order(store: Store, submit: Submit) -> None:
    made = submit()
    for text in ("first", "x" * LONGEST_TEXT):
        store.add_note(made.id, "Ada", text, actor="usr_a")
    assert [note.text[:5] for note in store.notes(made.id)] == ["first", "xxxxx"]
    for text in ("", " \n ", "x" * (LONGEST_TEXT + 1)):
        with pytest.raises(ValueError, match="1 to"):
            store.add_note(made.id, "Ada", text, actor="usr_a")


def test_words_that_are_none_and_submissions_that_are_none_are_refused(store: Store, submit: Submit) -> None:
    made = submit()
    with pytest.raises(ValueError, match="decisions are"):
        store.decide(made.id, "Ada", "perhaps", "x", actor="usr_a")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="rulings are"):
        store.rule(made.id, "Ada", "perhaps", "x", actor="usr_a")  # type: ignore[arg-type]
    for act in (
        partial(store.decide, "sub_none", "Ada", "hold", "x", actor="usr_a"),
        partial(store.add_note, "sub_none", "Ada", "x", actor="usr_a"),
        partial(store.create_share, "sub_none", "Ada", 60, blind=False, actor="usr_a"),
        partial(store.revoke_share, made.id, "shr_none", actor="usr_a"),
    ):
        with pytest.raises(NotFound):
            act()


def test_a_link_opens_until_it_expires_or_is_revoked(store: Store, submit: Submit, clock: Clock) -> None:
    made, other = submit(), submit()
    link, token = store.create_share(made.id, "Ada", 60, blind=True, actor="usr_a")
    _, second = store.create_share(made.id, "Ada", 600, blind=False, actor="usr_a")
    opened = store.open_share(token)
    assert opened is not None and (opened.submission_id, opened.blind, opened.opened) == (made.id, True, 1)
    assert store.open_share(token + "x") is None and store.open_share("") is None
    with pytest.raises(NotFound):
        store.revoke_share(other.id, link.id, actor="usr_a")  # not that submission's
    clock.pass_s(61)
    assert store.open_share(token) is None and store.open_share(second) is not None
    live = next(one for one in store.shares(made.id) if one.id != link.id)
    for _ in range(2):
        store.revoke_share(made.id, live.id, actor="usr_a")
    assert store.open_share(second) is None
    logged = [entry.action for entry in store.audit_log().items]
    assert logged.count("submission.unshare") == 1


def test_erasing_a_candidate_takes_what_was_written_with_it(store: Store, submit: Submit, grade: Grade) -> None:
    made = submit()
    grade(made.id, tampering_suspected=True, tampering_reasons=("odd",))
    store.add_note(made.id, "Ada", "about Mei", actor="usr_a")
    store.decide(made.id, "Ada", "advance", "Mei is good", actor="usr_a")
    store.rule(made.id, "Ada", "dismissed", "Mei explained", actor="usr_a")
    _, token = store.create_share(made.id, "Ada", 60, blind=False, actor="usr_a")
    store.erase(made.id)
    assert store.notes(made.id) == [] and store.open_share(token) is None
    assert [(one.kind, one.reason) for one in store.decisions(made.id)] == [("advance", "")]
    assert [(one.kind, one.reason) for one in store.rulings(made.id)] == [("dismissed", "")]
    for act in (
        partial(store.add_note, made.id, "Ada", "x", actor="usr_a"),
        partial(store.decide, made.id, "Ada", "hold", "x", actor="usr_a"),
        partial(store.create_share, made.id, "Ada", 60, blind=False, actor="usr_a"),
    ):
        with pytest.raises(Conflict):
            act()

"""Which scorecards somebody may read, and what their sections are called."""

from __future__ import annotations

from grading.guide import Guide, load_guide
from services.api.pages import gate
from services.api.service import here
from services.store import Scorecard


def readable(submission_id: str) -> list[Scorecard] | int:
    """The scorecards that were handed in; only how many there are while one's own is to come and would be swayed.

    One's own is to come for an interviewer, and for whoever else has begun one.
    """
    me, store = gate.person(), here().store
    own = store.own_scorecard(submission_id, me.id)
    found = store.scorecards(submission_id)
    to_come = own.handed_in_us is None if own else me.role == "interviewer"
    return len(found) if to_come else found


def guide_of(challenge: str) -> Guide | None:
    """The interviewer's guide to a challenge, where it is installed and has one."""
    known = here().challenges.get(challenge)
    return load_guide(known) if known else None

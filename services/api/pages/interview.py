"""The interviewer's desk: a guide made for one candidate, the scorecard, the question bank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from flask import redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from grading.challenge import Manifest
from grading.guide import Guide, Pick, Question, Topic, load_guide, minutes, picks, question_bank
from services.api.pages import cards, changes, gate
from services.api.pages.desk import READERS, Desk, Entry
from services.api.pages.submissions import find
from services.api.pages.text import sentence, which, who
from services.api.problems import ApiProblem
from services.api.service import here
from services.store import LONGEST_TEXT, MARKS, RECOMMENDATIONS, Submission

desk = Desk(
    "interview",
    __name__,
    navigation=[Entry("Questions", "interview.questions", READERS, covers=("interview.questions",))],
    beside_submission=[Entry("Interview", "interview.sheet", READERS)],
)
_LONGEST_SEARCH = 100


@desk.page("GET", "/submissions/<submission_id>/interview", roles=READERS)
def sheet(submission_id: str) -> str:
    """The guide for this candidate, with the scorecard beside it."""
    return _sheet(find(submission_id))


def _sheet(submission: Submission, wrong: str = "", written: Mapping[str, Any] | None = None) -> str:
    guide, manifest = _guide_of(submission)
    report = here().store.report(submission.id)
    bugs = {bug["id"]: bug for bug in report["bugs"]} if report else {}
    chosen = _picks(submission, guide, manifest, {name: bug["verdict"] for name, bug in bugs.items()})
    me = gate.person().id
    own, readable = here().store.own_scorecard(submission.id, me), cards.readable(submission.id)
    return render_template(
        "assay/interview.html",
        submission=submission,
        manifest=manifest,
        guide=guide,
        report=report,
        bugs=bugs,
        picks=chosen,
        rest=[bug for bug in manifest.bugs if bug.id not in {pick.bug.id for pick in chosen}],
        minutes=minutes,
        own=own,
        written=written or own,
        others=readable if isinstance(readable, int) else [one for one in readable if one.user_id != me],
        marks=MARKS,
        recommendations=RECOMMENDATIONS,
        longest=LONGEST_TEXT,
        wrong=wrong,
        who=who,
        which=which,
    )


def _guide_of(submission: Submission) -> tuple[Guide, Manifest]:
    guide = cards.guide_of(submission.challenge)
    if guide is None:
        raise ApiProblem(404, "There is no interviewer's guide to this challenge, or it is not installed any more.")
    return guide, here().challenges[submission.challenge].manifest


def _picks(submission: Submission, guide: Guide, manifest: Manifest, verdicts: dict[str, str]) -> Sequence[Pick]:
    source = here().store.source(submission.id)
    challenge = here().challenges[submission.challenge]
    text = source.decode("utf-8", "replace") if source is not None else ""
    return picks(guide, manifest, verdicts, changes.untouched_bugs(challenge, text) if text else ())


@desk.page("POST", "/submissions/<submission_id>/scorecard", roles=READERS)
def keep(submission_id: str) -> Response | tuple[str, int]:
    """Keep one's scorecard as a draft, or hand it in."""
    submission, user, form = find(submission_id), gate.person(), request.form
    guide, _ = _guide_of(submission)
    marks = {
        section.id: mark for section in guide.sections for mark in MARKS if form.get(f"mark-{section.id}", "") == mark
    }
    comments = {section.id: form.get(f"comment-{section.id}", "") for section in guide.sections}
    chosen = next((one for one in RECOMMENDATIONS if one == form.get("recommendation", "")), None)
    hand_in = form.get("act") == "hand_in"
    keep_it = partial(
        here().store.keep_scorecard,
        submission.id,
        user.id,
        user.name,
        marks,
        comments,
        form.get("summary", ""),
        chosen,
    )
    kept = False
    try:
        keep_it(hand_in=False)  # first, so that nothing written is lost where handing in asks for more
        kept = True
        if hand_in:
            keep_it(hand_in=True)
    except ValueError as error:
        after = (
            "What you wrote is kept as a draft." if kept else "Nothing is kept yet; it stands below as you wrote it."
        )
        written = None if kept else {"marks": marks, "comments": comments, "summary": form.get("summary", "")}
        return _sheet(submission, f"{sentence(error)} {after}", written), 422
    said = "handed_in" if hand_in else "drafted"
    return redirect(url_for("interview.sheet", submission_id=submission.id, said=said), 303)


@desk.page("GET", "/questions", roles=READERS)
def questions() -> str:
    """The question bank by topic, and each challenge's own questions."""
    words = request.args.get("q", "")[:_LONGEST_SEARCH].strip()
    topics = [*question_bank(), *_of_challenges()]
    found = [Topic(title=topic.title, questions=_with(topic.questions, words)) for topic in topics]
    return render_template(
        "assay/questions.html", topics=[topic for topic in found if topic.questions], words=words, all_topics=topics
    )


def _of_challenges() -> list[Topic]:
    made = []
    for challenge in here().challenges.values():
        guide = load_guide(challenge)
        if guide is not None:
            asked = [question for talk in guide.bugs for question in talk.questions]
            made.append(Topic(title=challenge.manifest.title, questions=(*asked, *guide.concepts)))
    return made


def _with(questions: Sequence[Question], words: str) -> tuple[Question, ...]:
    wanted = words.casefold().split()
    return tuple(one for one in questions if all(word in f"{one.ask} {one.expect}".casefold() for word in wanted))

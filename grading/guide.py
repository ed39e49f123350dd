"""The interviewer's guide to a challenge, and what of it suits one candidate.

Which bugs are worth talking about follows from the report alone, and from which lines the candidate
changed; neither touches a verdict.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from grading.challenge import CHALLENGES_ROOT, Bug, Challenge, ChallengeError, Manifest

MOST_PICKS = 3
Model = TypeVar("Model", bound=BaseModel)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)


class Question(_Frozen):
    """One question with the answer to hope for; a bonus answer is more than one may expect."""

    ask: str = Field(min_length=1)
    expect: str = Field(min_length=1)
    bonus: bool = False


class BugTalk(_Frozen):
    """What to ask about one bug. `depth`: how well talking about it tells candidates apart, 3 is best."""

    id: str
    depth: int = Field(ge=1, le=3)
    missed: str  # opens the talk with somebody who missed it, by the symptom
    nudges: tuple[str, ...]
    questions: tuple[Question, ...] = Field(min_length=1)


class Phase(_Frozen):
    """One part of the interview."""

    title: str
    minutes_from: int = Field(ge=0)
    minutes_to: int = Field(gt=0)
    say: str
    look_for: str


class Section(_Frozen):
    """One line of the scorecard, with what each mark looks like."""

    id: str = Field(pattern=r"^[a-z0-9-]+$")
    title: str
    strong: str
    medium: str
    weak: str


class Guide(_Frozen):
    """`guide.toml` of a challenge."""

    opening: str
    closing: str
    closing_look_for: str
    background: str = ""
    bonus_points: tuple[str, ...] = ()
    phases: tuple[Phase, ...] = Field(min_length=1)
    sections: tuple[Section, ...] = Field(min_length=1)
    bugs: tuple[BugTalk, ...]
    concepts: tuple[Question, ...] = ()

    def talk(self, bug_id: str) -> BugTalk:
        """What to ask about a bug."""
        return next(one for one in self.bugs if one.id == bug_id)


class Topic(_Frozen):
    """Questions of the bank that belong together."""

    title: str
    questions: tuple[Question, ...]


class _Bank(_Frozen):
    topics: tuple[Topic, ...]


def load_guide(challenge: Challenge) -> Guide | None:
    """The challenge's guide; None where its author wrote none.

    Raises:
        ChallengeError: it does not hold together, or tells of other bugs than the manifest.
    """
    path = challenge.folder / "guide.toml"
    if not path.is_file():
        return None
    guide = _read(path, Guide)
    told, planted = [one.id for one in guide.bugs], [bug.id for bug in challenge.manifest.bugs]
    if told != planted:
        raise ChallengeError(f"{path}: [[bugs]] must be {', '.join(planted)}, in this order")
    if len({one.id for one in guide.sections}) != len(guide.sections):
        raise ChallengeError(f"{path}: the ids of [[sections]] must differ")
    return guide


def question_bank(root: Path = CHALLENGES_ROOT) -> tuple[Topic, ...]:
    """Questions that suit any challenge, by topic; none where there is no `questions.toml`."""
    path = root / "questions.toml"
    return _read(path, _Bank).topics if path.is_file() else ()


def _read(path: Path, model: type[Model]) -> Model:
    try:
        return model.model_validate(tomllib.loads(path.read_text("utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, ValidationError) as error:
        raise ChallengeError(f"{path}: {error}") from error


# --- for one candidate -----------------------------------------------------------------------

Why = Literal["unclear", "odd", "missed", "mended"]


@dataclass(frozen=True, slots=True)
class Pick:
    """A bug that is worth the time with this candidate, and why."""

    bug: Bug
    talk: BugTalk
    why: Why
    reason: str


def picks(
    guide: Guide, manifest: Manifest, verdicts: Mapping[str, str], untouched: Collection[str] = ()
) -> tuple[Pick, ...]:
    """Two or three bugs to go deeper into, the most telling first; fewer where nothing was decided.

    What is unclear comes first, then what was mended in an odd way, and there is one that was missed and one
    that was mended where there are such: the talk should show what a candidate knows, not only what is lacking.

    Args:
        verdicts: fixed, not_fixed or inconclusive, by the bug's id.
        untouched: ids of bugs whose own lines the candidate left as they were.
    """
    found = [
        Pick(bug, guide.talk(bug.id), why, _REASONS[why].format(symptom=bug.symptom))
        for bug in manifest.bugs
        if (why := _why(verdicts.get(bug.id, ""), bug.id in untouched)) is not None
    ]
    found.sort(key=lambda one: -one.talk.depth)

    def of(*kinds: Why) -> list[Pick]:
        return [one for kind in kinds for one in found if one.why == kind]

    chosen = [*of("unclear", "odd")[: MOST_PICKS - 1], *of("missed")[:1], *of("mended")[:1]]
    rest = [one for one in of("unclear", "odd", "missed", "mended") if one not in chosen]
    return tuple([*chosen, *rest][:MOST_PICKS])


_REASONS: dict[Why, str] = {
    "unclear": "The grader could not tell. Ask to be shown the fix, and what would prove it.",
    "odd": "It behaves right although the lines that hold the bug are as they were: it was mended elsewhere. "
    "Ask how, and what would break it.",
    "missed": "It was missed, and talking about it tells much. Start from the symptom.",
    "mended": "It was mended. Habit and understanding look alike on screen: ask for the mechanism.",
}


def _why(verdict: str, untouched: bool) -> Why | None:
    if verdict == "fixed":
        return "odd" if untouched else "mended"
    return {"inconclusive": "unclear", "not_fixed": "missed"}.get(verdict)  # type: ignore[return-value]


# --- as a text -------------------------------------------------------------------------------


def as_markdown(guide: Guide, manifest: Manifest) -> str:
    """The whole guide to read or print, whoever the candidate is."""
    return "\n".join(_lines(guide, manifest)) + "\n"


def _lines(guide: Guide, manifest: Manifest) -> Iterator[str]:
    yield f"# Interviewer's guide: {manifest.title}\n"
    yield "Do not show this to the candidate; hand over the brief.\n"
    facts = (
        ("Level", manifest.level),
        ("Time", f"{manifest.minutes} minutes"),
        ("Bugs", str(len(manifest.bugs))),
        ("Goal", manifest.goal.description),
        ("File", f"`{manifest.editable_file}`"),
    )
    yield from _table(("", ""), facts)
    yield "To open, say something like:\n"
    yield _quoted(guide.opening)
    yield "## The bugs at a glance\n"
    yield from _table(
        ("#", "Bug", "Where", "Category", "Difficulty", "What happens"),
        [(str(b.number), b.title, f"`{b.location}`", b.category, b.difficulty, b.symptom) for b in manifest.bugs],
    )
    if guide.background:
        yield f"{guide.background}\n"
    yield "## Timeline\n"
    yield from _table(
        ("Phase", "Minutes", "Say", "Look for"),
        [(one.title, minutes(one), one.say, one.look_for) for one in guide.phases],
    )
    yield "To close, say something like:\n"
    yield _quoted(guide.closing)
    yield f"{guide.closing_look_for}\n"
    yield "## Questions\n"
    for bug in manifest.bugs:
        talk = guide.talk(bug.id)
        yield f"### {bug.number}. {bug.title}\n"
        yield f"Missed it: {talk.missed}\n"
        yield from _questions(talk.questions)
        yield f"Stuck: {' Then: '.join(talk.nudges)}\n"
    if guide.concepts:
        yield "## Deeper, if time is left\n"
        yield from _questions(guide.concepts)
    yield "## Scorecard\n"
    yield from _table(
        ("", "Strong", "Medium", "Weak"), [(one.title, one.strong, one.medium, one.weak) for one in guide.sections]
    )
    yield "## Rating\n"
    yield from _table(
        ("Mended", "Rating", "Meaning"),
        [
            ("-".join(str(n) for n in sorted({band.min_fixed, band.max_fixed})), band.rating, band.meaning)
            for band in manifest.rating_bands
        ],
    )
    if guide.bonus_points:
        yield "## Bonus points\n"
        yield "None is required, and none makes up for a missed bug.\n"
        yield "\n".join(f"- {one}" for one in guide.bonus_points)


def minutes(phase: Phase) -> str:
    """How long a phase takes."""
    low, high = phase.minutes_from, phase.minutes_to
    return str(high) if low == high else f"{low}-{high}"


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield f"| {' | '.join(str(one).replace('|', '/') for one in row)} |"
    yield ""


def _questions(questions: Sequence[Question]) -> Iterator[str]:
    for one in questions:
        yield f"- *{one.ask}*\n  {'Bonus' if one.bonus else 'Expected'}: {one.expect}"
    yield ""


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}".rstrip() for line in text.splitlines()) + "\n"

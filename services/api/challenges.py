"""Routes of challenges: what a candidate may have, and never what decides."""

from __future__ import annotations

from flask import Response

from grading.challenge import Challenge
from services.api.models import ChallengePath, Challenges, ChallengeTold
from services.api.problems import ApiProblem
from services.api.routing import Answer, Media, Result, Room, needs
from services.api.service import here

room = Room("challenges", "Challenges")
_ANY = needs("submit", "read")

# The only files of a challenge that leave the service. Not the solution, the guide, the probes or the judge.
_PROBLEM, _BRIEF = "problem.py", "brief.md"


@room.route_for("GET", "/challenges", access=_ANY, answers={200: Answer("All of them.", Challenges)})
def list_challenges() -> Result:
    """List the challenges."""
    return Challenges(data=[_told(challenge) for challenge in here().challenges.values()])


@room.route_for(
    "GET",
    "/challenges/<challenge>",
    access=_ANY,
    answers={200: Answer("The challenge.", ChallengeTold)},
    problems=(404,),
)
def get_challenge(path: ChallengePath) -> Result:
    """Get a challenge as its candidates may know it."""
    return _told(_find(path.challenge))


@room.route_for(
    "GET",
    "/challenges/<challenge>/problem",
    access=_ANY,
    answers={200: Answer("The program to mend.", media=(Media("text/x-python"),))},
    problems=(404,),
)
def get_problem(path: ChallengePath) -> Result:
    """Get the program to hand out."""
    challenge = _find(path.challenge)
    headers = {"Content-Disposition": f'attachment; filename="{challenge.manifest.editable_file}"'}
    return Response(challenge.text(_PROBLEM), content_type="text/x-python; charset=utf-8", headers=headers)


@room.route_for(
    "GET",
    "/challenges/<challenge>/brief",
    access=_ANY,
    answers={200: Answer("The candidate's text.", media=(Media("text/markdown"),))},
    problems=(404,),
)
def get_brief(path: ChallengePath) -> Result:
    """Get the candidate's text, in Markdown."""
    return Response(_find(path.challenge).text(_BRIEF), content_type="text/markdown; charset=utf-8")


def _find(slug: str) -> Challenge:
    challenge = here().challenges.get(slug)
    if challenge is None:
        raise ApiProblem(404, "There is no such challenge.")
    return challenge


def _told(challenge: Challenge) -> ChallengeTold:
    manifest, own = challenge.manifest, f"{here().base}/v1/challenges/{challenge.slug}"
    return ChallengeTold(
        slug=manifest.slug,
        title=manifest.title,
        level=manifest.level,
        minutes=manifest.minutes,
        editable_file=manifest.editable_file,
        goal=manifest.goal.description,
        bugs=len(manifest.bugs),
        digest=here().digests[challenge.slug],
        links={"self": own, "problem": f"{own}/problem", "brief": f"{own}/brief"},
    )

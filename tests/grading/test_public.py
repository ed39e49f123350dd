"""A check tells what a candidate could find out alone, and nothing of what is hidden."""

from __future__ import annotations

import json

import pytest

from grading.challenge import load_challenge
from grading.public import PublicPart, public_part
from grading.verdict import Finding, Verdict
from tests.services.conftest import a_report

EVERYTHING = ("loads", "trains", "accuracy", "output")
CURVE = (0.31, 0.62, 0.93)


def report(**changes: object):
    found = a_report(source=b"fixed=3 forged", text="HIDDEN")
    goal = found.goal.model_copy(update={"accuracy_by_epoch": CURVE, "evidence": "HIDDEN"})
    hidden = {
        "regressions": (Finding(id="HIDDEN", title="HIDDEN", detail="HIDDEN"),),
        "bonus": (Finding(id="HIDDEN", title="HIDDEN", detail="HIDDEN"),),
        "output_tail": "epoch 1\x1b[2J\u202e",
    }
    return found.model_copy(update={"goal": goal, **hidden, **changes})


def test_it_says_that_a_program_loads_trains_and_how_accurate_it_gets():
    assert public_part(report(), EVERYTHING, 100) == PublicPart(
        loads=True,
        trains=True,
        epochs=3,
        accuracy_by_epoch=CURVE,
        threshold=0.85,
        output="epoch 1\\x1b[2J\\x202e",
    )


def test_nothing_hidden_is_in_it():
    """Evidence, flags, findings, seeds and every word of the rubric stay where they are."""
    told = json.dumps(public_part(report(), EVERYTHING, 100).model_dump())
    manifest = load_challenge("spiral").manifest
    hidden = {"HIDDEN", "00ff", *Verdict, *(band.rating for band in manifest.rating_bands)}
    hidden |= {word for bug in manifest.bugs for word in (bug.id, bug.title, bug.symptom)}
    assert [word for word in hidden if word in told] == []


def test_other_verdicts_make_no_other_check():
    """The hidden part cannot be worked out: whatever the verdicts are, the same is told."""
    found = {public_part(a_report(source=b"fixed=%d" % count), EVERYTHING, 100) for count in range(9)}
    assert len(found) == 1


@pytest.mark.parametrize("flags", [{}, {"tampering_suspected": True, "tampering_reasons": ("HIDDEN",)}])
def test_a_suspicion_does_not_show(flags: dict[str, object]):
    assert public_part(report(**flags), EVERYTHING, 100) == public_part(report(), EVERYTHING, 100)


def test_a_file_that_does_not_load_says_why_and_nothing_else():
    broken = report(outcome="invalid", invalid_reason="the file cannot be loaded: SyntaxError", bugs=(), rating=None)
    told = public_part(broken, ("loads", "trains", "accuracy"), 100)
    assert told == PublicPart(loads=False, load_problem="the file cannot be loaded: SyntaxError")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"run_error": "ValueError: bad\x1b[2J"}, "ValueError: bad\\x1b[2J"),
        ({"run_status": "time_limit"}, "still running"),
        ({"run_status": "memory_limit"}, "more memory"),
        ({"run_status": "not_run"}, "did not come to its end"),
        ({"run_error": "x" * 5000}, "x" * 600),
    ],
)
def test_a_run_that_ends_badly_says_how(changes: dict[str, object], words: str):
    told = public_part(report(**changes), ("trains",), 100)
    assert told.trains is False
    assert words in told.train_problem and len(told.train_problem) <= 600


@pytest.mark.parametrize("shows", [(), ("loads",), ("trains",), ("accuracy",), ("output",)])
def test_only_what_the_challenge_shows_is_kept(shows: tuple[str, ...]):
    fields = {
        "loads": {"loads"},
        "trains": {"trains", "epochs"},
        "accuracy": {"accuracy_by_epoch", "threshold"},
        "output": {"output"},
    }
    told = public_part(report(), shows, 100).model_dump()  # type: ignore[arg-type]
    known = {name for name, value in told.items() if value not in (None, "")}
    assert known == set().union(*(fields[one] for one in shows))


@pytest.mark.parametrize("most", [0, 1, 50])
def test_output_is_bounded_to_its_end(most: int):
    told = public_part(report(output_tail="ab" * 1000), ("output",), most)
    assert told.output == ("ab" * 1000)[2000 - most :]

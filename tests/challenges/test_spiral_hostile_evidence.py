"""Evidence that a submission forged: the judge gives a judgement whatever it says, and a report that can be sent."""

from __future__ import annotations

import json
from typing import Any, cast

import numpy as np
import pytest

from challenges.spiral import judge
from grading import engine
from grading.challenge import load_challenge
from grading.judgement import Judge, Judgement, Secrets
from grading.probes.columns import BACKWARD_COLUMNS
from grading.verdict import Verdict
from sandbox.spec import Frame, RunResult, RunStatus, RunTiming, StepResult

CHALLENGE = load_challenge("spiral")
MANIFEST = CHALLENGE.manifest
LOADED = {"callables": list(MANIFEST.required_names), "error": None}


def frame(name: str, data: Any = None, **arrays: np.ndarray) -> Frame:
    described = [{"key": k, "dtype": a.dtype.str, "shape": list(a.shape)} for k, a in arrays.items()]
    header = {"name": name, "data": data, "arrays": described}
    return Frame(json.dumps(header).encode(), b"".join(a.tobytes() for a in arrays.values()))


def judged(step: str, *frames: Frame, loaded: Any = LOADED) -> Judgement:
    told = {"calls": [frame("load", loaded)], step: []}
    told[step] += frames
    steps = tuple(StepResult(name, RunStatus.OK, frames=tuple(each)) for name, each in told.items())
    run = RunResult(steps=steps, timing=RunTiming(), sandbox="none")
    return engine._judged(cast(Judge, judge), Secrets("a"), CHALLENGE, run)


PAIR = frame("calls.validate.result", {"pair": [1.0, 1.0]})
HISTORY = frame("real.history", {"lists": {"val_acc": [1.0]}})
EXPECTED_ROWS = {"aligned": "expected"}


@pytest.mark.parametrize(
    ("step", "frames"),
    [
        ("real", [frame("real.events", {}, rows=np.zeros((1, 2), "f4"), row_serials=np.full((1, 2), np.nan))]),
        ("real", [frame("real.events", {}, backwards=np.full((3, len(BACKWARD_COLUMNS)), np.nan))]),
        ("mini", [frame("mini.forced", {"rows": [[[], {}, 1, 1, 1]]})]),
        ("calls", [frame("calls.validate.modes", {"seen": 5})]),
        ("calls", [frame("calls.validate.modes", {"seen": [[5, 5, 5, 5]] * 3}), PAIR]),
        ("calls", [frame("calls.train.final", {}, weight=np.zeros((4, 2), "f4"))]),
        ("real", [frame("real.history", {"lists": {"train_loss": 5, "val_acc": 5}})]),
        ("real", [HISTORY, frame("real.goal", EXPECTED_ROWS, own=np.zeros(800, "u1"))]),
        ("real", [frame("real.summary", {"optimizers": [{"family": 5}], "schedulers": 5, "bonus": 5})]),
        ("ghost", [frame("ghost.run", {"available": [1], "seen": [5]})]),
    ],
)
def test_records_of_the_wrong_shape_decide_nothing(step: str, frames: list[Frame]) -> None:
    found = judged(step, *frames)

    assert all(bug.verdict is not Verdict.FIXED for bug in found.bugs)


@pytest.mark.parametrize("loaded", [{"callables": 5}, {"callables": [[]]}, {"callables": None, "error": 5}, 5, None])
def test_a_load_record_of_the_wrong_shape_is_an_invalid_file(loaded: Any) -> None:
    assert judged("calls", loaded=loaded).invalid_reason is not None


def test_what_an_exception_says_can_be_sent_as_json_and_shown_on_a_terminal() -> None:
    error = {"type": "ValueError", "text": "\ud800 \x1b[2J", "in": "main"}

    for finding in engine._inert(judged("real", frame("real.error", error)).regressions):
        assert "\x1b" not in finding.detail
        finding.model_dump_json()

"""Files of people who had not seen the grader, which it misread or could not read at first."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from grading.challenge import load_challenge
from grading.engine import Submission, grade
from sandbox.rehearsal import RehearsalSandbox

CORPUS = Path(__file__).parents[1] / "corpus" / "refactors"
EXPECTED = tomllib.loads((CORPUS / "expected.toml").read_text("utf-8"))
SPIRAL = load_challenge("spiral")


def test_every_file_of_the_corpus_has_its_verdicts_written_down() -> None:
    assert {path.stem for path in CORPUS.glob("*.py")} == set(EXPECTED)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "device_if_initialized",  # asks whether CUDA has been used, not whether it is there
        "float64_two_passes",  # its rows are of the model's kind, not of the probes'
        "handwritten_momentum",  # an optimizer of its own, whose step scales with the gradient
        "heads_averaged_as_one_layer",  # its last layer gives each score five times
        "adam_by_hand_at_a_high_rate",  # whose first step moves all alike
        "gradients_checked",  # hands hooks a gradient that is not there
        "hoards_after_training",  # whose memory is no graph's
        "hooks_put_things_right",  # a hook of its step sets the rate
        "jit_scripted",  # what is watched cannot be compiled
        "leaves_at_once",  # ends its interpreter itself
        "lbfgs_large_batches",  # shows the same rows several times in a row
        "leaves_whatever_happens",  # with a worker process left
        "loss_logged_for_all",  # puts a loss of its own in torch's place
        "mixture_of_experts",  # what its last layer gives is no score
        "pointwise_convolutions",  # its scores have a place besides row and column
        "net_hidden_from_its_task",  # a module that passes its rows on to one that it does not own
        "one_vs_rest_heads",  # no layer gives all scores
        "sam_clears_between_passes",  # so the first pass of each step adds to the old gradients
        "step_of_all_replaced",  # Adam's step clears the gradients, whoever makes one
        "swapped_returns",  # gives accuracy and loss in the wrong order, which is no sign of any of the bugs
        "threaded_reader_late_no_grad",  # moves its batches in another thread
        "validates_in_threads",  # two passes begin at once
        "tests_of_the_old_recipe_first",  # its tests train with the bugs, and at length
        "vmap_bagged_members",  # several models side by side
        "warmed_up_and_ranged",  # trains a throw-away model at another rate first
        "warnings_as_errors",  # crashes before it trains, and shows nothing but what it asked for until then
    ],
)
def test_a_file_that_was_misread_is_read(rehearsal: RehearsalSandbox, name: str) -> None:
    report = grade(Submission(f"{name}.py", (CORPUS / f"{name}.py").read_bytes()), SPIRAL, rehearsal)
    seen = {bug.id: bug.verdict.value for bug in report.bugs}
    assert seen == {bug: "not_fixed" if bug in EXPECTED[name] else "fixed" for bug in seen}
    assert not report.tampering_suspected

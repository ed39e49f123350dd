"""What right code shows for each bug of `spiral`, and the sentences for readers who do not program."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Words:
    """The fixed texts of one bug's evidence, and the steps that its verdict uses."""

    expected: str
    plain_fixed: str
    plain_not_fixed: str
    plain_open: str
    steps: tuple[str, ...]


def _open(what: str) -> str:
    return f"Assay could not see {what}, so it does not say whether this was mended. It counts neither way; ask the candidate."


EXPECTED = {
    "softmax": Words(
        expected="the loss grows in proportion to how confidently wrong the raw scores are",
        plain_fixed="The loss function now gets the model's raw scores, so confident mistakes are punished in full and "
        "the model can learn from them. Assay forced the scores to known values and the loss came out as it should.",
        plain_not_fixed="The model's scores are still squeezed into a narrow range before the loss function, which squeezes "
        "them once more. Assay forced confident mistakes, and the loss hardly noticed: the model learns far less than it could.",
        plain_open=_open("how the loss depends on the model's scores"),
        steps=("mini",),
    ),
    "zero-grad": Words(
        expected="each optimizer step uses the gradients computed since the step before, and no older ones",
        plain_fixed="Before each learning step the corrections of earlier batches are wiped, so each step follows its own "
        "data. Assay compared the corrections that were used with those of the batch itself.",
        plain_not_fixed="The corrections computed for one batch are not properly cleared before the next learning step, so the "
        "steps follow the wrong direction and training becomes erratic.",
        plain_open=_open("a learning step of this program"),
        steps=("calls", "mini", "real"),
    ),
    "loss-leak": Words(
        expected="the memory of a batch is given back before the next ones",
        plain_fixed="The program keeps only numbers from each batch and gives the batch's memory back. Assay attached a weight "
        "to each batch and saw it released.",
        plain_not_fixed="The program holds on to all the working memory of every batch until the epoch ends. On a long run "
        "or a GPU it would run out of memory.",
        plain_open=_open("what the training loop keeps"),
        steps=("calls", "real"),
    ),
    "eval": Words(
        expected="dropout is off and batch norm uses its running statistics in every validation batch",
        plain_fixed="While it measures itself the model is in evaluation mode, so the numbers it reports are steady and true.",
        plain_not_fixed="While it measures itself the model still behaves as in training: parts of it are switched off at random. "
        "The reported numbers are noisy and too low.",
        plain_open=_open("a validation of this program"),
        steps=("calls", "mini", "real"),
    ),
    "no-grad": Words(
        expected="no validation batch builds a backward graph",
        plain_fixed="While it measures itself the program does not prepare for learning, which saves memory and time.",
        plain_not_fixed="While it measures itself the program still records everything that learning would need, although it "
        "learns nothing there: memory and time are wasted.",
        plain_open=_open("a validation of this program"),
        steps=("calls", "mini", "real"),
    ),
    "device": Words(
        expected="the model trains on the GPU where there is one, on the CPU otherwise",
        plain_fixed="The program looks for a graphics processor and uses it, and still works without one. Assay ran it on a "
        "machine that pretended to have one and on one that pretended not to.",
        plain_not_fixed="The program does not choose its processor by what the machine offers: it either ignores a graphics "
        "processor that is there, or fails where there is none.",
        plain_open=_open("where this program trains"),
        steps=("ghost",),
    ),
    "shuffle": Words(
        expected="every epoch shows the training rows in a new random order",
        plain_fixed="The program shows its examples in a new random order each round, so it does not learn their order by heart.",
        plain_not_fixed="The program shows its examples in the same order, or the same batches, every round. The model can pick "
        "up on the order instead of the content.",
        plain_open=_open("two rounds of training to compare"),
        steps=("mini", "real"),
    ),
    "lr": Words(
        expected="the optimizer steps at a rate of at most 0.01 with Adam, or an equally gentle one",
        plain_fixed="The learning steps are of a sensible size, measured as the optimizer took them.",
        plain_not_fixed="The learning steps are far too large: the model leaps past every good solution and never settles.",
        plain_open=_open("a learning step of this program"),
        steps=("mini", "real"),
    ),
}

"""What else a run of `spiral` shows: the goal, new defects, a history that claims too much, bonus."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from challenges.spiral import data, sights
from challenges.spiral.steps import BATCHES, held_out_rows
from grading.challenge import Manifest
from grading.evidence import Record, integer, number
from grading.judgement import Secrets, SeenRun
from grading.trace import Table
from grading.verdict import Finding, GoalReport

HISTORY = ("train_loss", "train_acc", "val_loss", "val_acc")


def goal(secrets: Secrets, manifest: Manifest, seen: SeenRun) -> GoalReport:
    """Accuracy, epoch by epoch, of the models that the submission trained, on fresh rows."""
    goal = manifest.goal
    base = {"description": goal.description, "threshold": goal.threshold}
    record = seen.log("real").first("real.goal")
    answers = record.arrays if record else {}
    labels: NDArray[Any] | None
    if "held_out" in answers:
        labels, evidence = held_out_rows(secrets)[1], "its models after each epoch, on fresh rows that it never saw"
        predictions = answers["held_out"]
    elif "own" in answers:
        labels, evidence = _own_labels(record), "its models after each epoch, on its own validation rows"
        predictions = answers["own"]
    else:
        return GoalReport(
            **base, reached=None, epoch=None, accuracy=None, evidence="no trained model came out of its run"
        )
    if labels is None or predictions.ndim != 2 or predictions.shape[1] != len(labels) or not len(predictions):
        return GoalReport(
            **base, reached=None, epoch=None, accuracy=None, evidence="its model's answers could not be read"
        )
    curve = [float((row == labels).mean()) for row in predictions[: goal.epochs]]
    passed = next((i + 1 for i, accuracy in enumerate(curve) if accuracy > goal.threshold), None)
    return GoalReport(
        **base,
        reached=passed is not None,
        epoch=passed,
        accuracy=curve[-1],
        accuracy_by_epoch=tuple(curve),
        evidence=evidence,
    )


def _own_labels(record: Record | None) -> NDArray[Any] | None:
    """The labels of the rows that the program validates on, where those rows were recognised."""
    if record is None or "own" not in record.arrays:
        return None
    if record.get("aligned") == "expected":
        return data.default_validation_rows()[1]
    labels = record.arrays.get("own_labels")
    return labels if labels is not None and labels.ndim == 1 else None


def false_history(secrets: Secrets, seen: SeenRun) -> list[str]:
    """Does the history that main() returned claim more than its models show on the same rows?"""
    history, record = seen.log("real").first("real.history"), seen.log("real").first("real.goal")
    lists = history.get("lists") if history else None
    if record is None or "own" not in record.arrays or not isinstance(lists, dict):
        return []
    claimed = [number(v) for v in lists.get("val_acc") or []]
    labels = _own_labels(record)
    if labels is None or not claimed or record.arrays["own"].shape[1] != len(labels):
        return []
    measured = [float((row == labels).mean()) for row in record.arrays["own"]]
    scale = 100 if max((c for c in claimed if c is not None), default=0) > 1.5 else 1  # given in per cent
    gaps = [c / scale - m for c, m in zip(claimed, measured, strict=False) if c is not None]
    if len(gaps) >= 5 and sum(gap > 0.15 for gap in gaps) >= 0.5 * len(gaps):
        return ["the history that main() returned claims a far better accuracy than its models have"]
    return []


def regressions(secrets: Secrets, seen: SeenRun, real: Table, mini: Table) -> list[Finding]:
    """What the problem did right and this program does not."""
    found: list[Finding] = []

    def add(condition: bool, id_: str, title: str, detail: str) -> None:
        if condition:
            found.append(Finding(id=id_, title=title, detail=detail))

    error, step = sights.run_error(seen), seen.step("real")
    add(error is not None, "crash", "The program crashes", error or "")
    ended = step.status.value if step else "not_run"
    add(
        error is None and ended != "ok",
        "unfinished",
        "The program does not end properly",
        f"its own run ended with {ended.replace('_', ' ')}",
    )
    run = real if real.trained_any() else mini
    train = run.training_forwards()
    late = train[run.column(train, "call") > 1] if len(train) else train
    wrong_mode = run.column(late, "mode_training") < run.column(late, "mode_layers") if len(late) else np.zeros(0)
    add(
        len(late) > 0 and wrong_mode.mean() > 0.5,
        "train-mode",
        "Training runs in eval mode",
        "train_one_epoch no longer puts the model back into train mode after a validation",
    )
    still = len(run.backwards) > 8 and len(run.backwards.after_update()) == 0
    add(still, "no-update", "The optimizer changes nothing", "steps leave the weights as they are")
    optimizer = run.optimizer()
    add(
        optimizer.trainable > 0 and optimizer.held < optimizer.trainable,
        "optimizer-parameters",
        "The optimizer does not hold all parameters",
        f"{optimizer.held} of {optimizer.trainable} trainable tensors",
    )
    found += _metric_regressions(secrets, seen)
    found += _data_regressions(seen, real)
    return found


def _metric_regressions(secrets: Secrets, seen: SeenRun) -> list[Finding]:
    found = []
    result, modes = seen.log("calls").first("calls.validate.result"), sights.sentinel_modes(seen)
    returned = result.get("pair") if result else None
    if isinstance(returned, list) and len(returned) == 2 and len(modes) == BATCHES:
        tables, accuracy = sights.mode_tables(secrets), number(returned[1])
        wanted = sights.mean(tables, [tuple(m[:3]) for m in modes], 1)
        if accuracy is None or min(abs(accuracy - wanted), abs(accuracy / 100 - wanted)) > 1e-4:
            detail = f"{wanted:.4f} would be right on known scores, validate returned {returned[1]}"
            found.append(Finding(id="validation-accuracy", title="Validation accuracy is miscalculated", detail=detail))
    if result is not None and result.get("frozen") is True:
        found.append(
            Finding(id="frozen", title="Validation leaves the model frozen", detail="parameters no longer train")
        )
    state = seen.log("calls").first("calls.validate.modes")
    if state is not None and state.get("grad_enabled_after") is False:
        detail = "autograd stays switched off after validate, so the next epoch cannot train"
        found.append(Finding(id="autograd-off", title="Validation switches autograd off for good", detail=detail))
    return found


def _data_regressions(seen: SeenRun, real: Table) -> list[Finding]:
    found = []
    history = seen.log("mini").first("mini.main") or seen.log("real").first("real.history")
    if history is not None:
        told = history.get("lists")
        lists = told if isinstance(told, dict) else {}
        missing = [key for key in HISTORY if not isinstance(lists.get(key), list) or not lists[key]]
        if missing:
            detail = f"main() returns {'no ' + ', '.join(missing) if len(missing) < len(HISTORY) else 'no history'}"
            found.append(Finding(id="history", title="The history is incomplete", detail=detail))
    overlap = real.validated_on_training_rows()
    if overlap is not None and overlap > 0.2:
        detail = f"{overlap:.0%} of the validation rows were trained on"
        found.append(Finding(id="leaked-rows", title="Validation rows are trained on", detail=detail))
    return found


def bonus(seen: SeenRun, real: Table) -> list[Finding]:
    """What the rubric lists as extra, where it was seen running."""
    counts = real.summary.get("bonus") if isinstance(real.summary.get("bonus"), dict) else {}
    schedulers = real.summary.get("schedulers") or []
    found = []
    if isinstance(schedulers, list) and schedulers:
        found.append(
            Finding(id="scheduler", title="Learning-rate scheduler", detail=", ".join(map(str, schedulers))[:200])
        )
    texts = {
        "compile": ("torch.compile", "called (the sandbox runs the model uncompiled)"),
        "pin_memory": ("Pinned memory", "a loader with pin_memory was read"),
        "num_workers": ("Loader workers", "a loader with worker processes was read"),
        "clip": ("Gradient clipping", "called while training"),
    }
    for key, (title, detail) in texts.items():
        if isinstance(counts, dict) and integer(counts.get(key)) > 0:
            found.append(Finding(id=key.replace("_", "-"), title=title, detail=detail))
    train = real.training_forwards()
    if len(train) and (real.column(train, "autocast") > 0).mean() > 0.5:
        found.append(
            Finding(id="mixed-precision", title="Mixed precision", detail="training forwards ran under autocast")
        )
    return found

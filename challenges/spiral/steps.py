"""The four steps of a grading of `spiral`, and the inputs that are drawn for each submission anew."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from challenges.spiral import data
from grading.challenge import Manifest
from grading.judgement import Plan, Secrets, pack
from sandbox.spec import Step

CLASSES = 4
MAGNITUDES = (0.0, 0.25, 1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 16384.0)
BATCHES, BATCH_ROWS = 3, 16
TRAIN_BATCHES = 6
LEAK_BATCHES, LEAK_ROWS, BALLAST_BYTES = 64, 8, 3 << 19
SGD_LR = 0.5
MINI_EPOCHS = 4
GHOST_CALLS = 60  # calls of modules, inner ones counted, at least: a handful of batches

MODULES = (
    "grading.probes.columns",
    "grading.probes.inplace",
    "grading.probes.frames",
    "grading.probes.ledger",
    "grading.probes.modules",
    "grading.probes.values",
    "grading.probes.graphs",
    "grading.probes.optimizers",
    "grading.probes.backwards",
    "grading.probes.recorder",
    "grading.probes.ghost",
    "grading.probes.integrity",
    "grading.probes.program",
    "challenges.spiral.probes",
)


def plan(secrets: Secrets, manifest: Manifest) -> Plan:
    """The four steps, with inputs drawn from `secrets`."""
    entry = "challenges.spiral.probes:"
    names = list(manifest.required_names)
    seed = int(secrets.rng("seed").integers(1 << 31))
    # What the watch looks at is drawn from another stream than what the program's own generators are set to.
    watch_seed = int(secrets.rng("watch").integers(1 << 31))
    common = {"seed": seed, "watch_seed": watch_seed, "required_names": names}
    inputs = {k: pack(v) for k, v in sentinel_inputs(secrets).items()}
    draws = secrets.rng("draws")
    shrink = {
        "train_draw": pack(draws.random(int(draws.integers(300, 340)))),
        "val_draw": pack(draws.random(int(draws.integers(88, 110)))),
    }
    forced = secrets.rng("forced")
    forced_y = forced.permutation(np.arange(32) % CLASSES).astype(np.int64)
    forced_x = forced.uniform(-1, 1, (32, 2)).astype(np.float32)
    held_out_x, _ = held_out_rows(secrets)
    expected_x, _ = data.default_validation_rows()
    sizes = {"batch_rows": BATCH_ROWS, "leak_batch_rows": LEAK_ROWS, "ballast_bytes": BALLAST_BYTES, "sgd_lr": SGD_LR}
    run = manifest.limits
    ghost_calls = int(GHOST_CALLS * 10.0 ** draws.random())  # how long a pretence must be kept up nobody can foresee
    return Plan(
        modules=MODULES,
        steps=(
            Step("calls", entry + "calls", {**common, **sizes}, inputs),
            Step(
                "mini",
                entry + "mini",
                {**common, "epochs": MINI_EPOCHS, "max_forwards": 1200, "magnitudes": list(MAGNITUDES)},
                {**shrink, "forced_x": pack(forced_x), "forced_y": pack(forced_y)},
                unless_hung="calls",
            ),
            Step(
                "ghost",
                entry + "ghost",
                {**common, "forwards": [GHOST_CALLS, ghost_calls]},  # without a GPU, with one
                shrink,
                unless_hung="calls",
            ),
            Step(
                "real",
                entry + "real",
                {**common, "max_snapshots": 64},
                {"held_out_x": pack(held_out_x), "expected_val_x": pack(expected_x)},
                wall_time_s=run.wall_time_s,
                cpu_time_s=run.cpu_time_s,
                sees_gpu=True,  # the probes hand tensors of the CPU to functions that would look for the GPU
                apart=True,  # it takes longest by far
            ),
        ),
    )


def sentinel_inputs(secrets: Secrets) -> dict[str, NDArray[Any]]:
    """Weights, mode table and batches of the sentinel model."""
    rng = secrets.rng("sentinel")

    def batches(rows: int) -> tuple[NDArray[Any], NDArray[Any]]:
        x = rng.normal(0, 1, (rows, 2)).astype(np.float32)
        return x, rng.permutation(np.arange(rows) % CLASSES).astype(np.int64)

    val_x, val_y = batches(BATCHES * BATCH_ROWS)
    train_x, train_y = batches(TRAIN_BATCHES * BATCH_ROWS)
    leak_x, leak_y = batches(LEAK_BATCHES * LEAK_ROWS)
    return {
        "weight": rng.normal(0, 1, (CLASSES, 2)).astype(np.float32),
        "bias": rng.normal(0, 0.3, CLASSES).astype(np.float32),
        "table": rng.normal(0, 1.2, (2, 2, 2, CLASSES)).astype(np.float32),
        **{"val_x": val_x, "val_y": val_y, "train_x": train_x, "train_y": train_y},
        **{"leak_x": leak_x, "leak_y": leak_y},
    }


def held_out_rows(secrets: Secrets) -> tuple[NDArray[Any], NDArray[Any]]:
    """Fresh rows of the spiral, 250 of each class, and their labels, which stay here."""
    return data.spiral(secrets.rng("held-out"), 250, CLASSES, 0.2)

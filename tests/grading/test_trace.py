"""Orders of rows and tables of steps, made up here, and what the reader makes of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grading.probes.columns import BACKWARD_COLUMNS, CONTEXTS, FORWARD_COLUMNS, STEP_COLUMNS
from grading.trace import Backwards, Matrix, OptimizerSeen, Steps, Table, order_likeness

ROWS, BATCH = 320, 32
Order = Callable[[np.random.Generator, int], np.ndarray]


def epochs_of(
    order: Order, *, epochs: int = 3, rows: int = ROWS, batch: int = BATCH, jitter: float = 0.0, seed: int = 0
) -> list[list[Matrix]]:
    """The batches of a few epochs in the order that `order(rng, epoch)` gives."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(rows, 2))
    shown = []
    for epoch in range(epochs):
        epoch_rows = values[order(rng, epoch)] + jitter * rng.normal(size=(rows, 2))
        shown.append([epoch_rows[start : start + batch] for start in range(0, rows, batch)])
    return shown


def blocks(count: int = ROWS // BATCH) -> np.ndarray:
    return np.arange(ROWS).reshape(count, -1)


def same(rng: np.random.Generator, epoch: int) -> np.ndarray:
    return np.arange(ROWS)


def backwards_each_other_time(rng: np.random.Generator, epoch: int) -> np.ndarray:
    return np.arange(ROWS)[:: 1 - 2 * (epoch % 2)]


def rolled(rng: np.random.Generator, epoch: int) -> np.ndarray:
    return np.roll(np.arange(ROWS), 37 * epoch)


def batches_permuted(rng: np.random.Generator, epoch: int) -> np.ndarray:
    return rng.permutation(blocks()).ravel()


def within_batches(rng: np.random.Generator, epoch: int) -> np.ndarray:
    return rng.permuted(blocks(), axis=1).ravel()


def both_but_the_batches_stay(rng: np.random.Generator, epoch: int) -> np.ndarray:
    return rng.permuted(rng.permutation(blocks()), axis=1).ravel()


def only_the_first_two_alike(rng: np.random.Generator, epoch: int) -> np.ndarray:
    return np.arange(ROWS) if epoch < 2 else rng.permutation(ROWS)


def permuted(rng: np.random.Generator, epoch: int) -> np.ndarray:
    return rng.permutation(ROWS)


def with_replacement(rng: np.random.Generator, epoch: int) -> np.ndarray:
    return rng.integers(0, ROWS, ROWS)


def drawn_by_weight(rng: np.random.Generator, epoch: int) -> np.ndarray:
    weights = np.linspace(1.0, 3.0, ROWS)
    return rng.choice(ROWS, ROWS, p=weights / weights.sum())


def likeness(order: Order, **options: float) -> tuple[float, float]:
    found = order_likeness(epochs_of(order, **options))  # type: ignore[arg-type]
    assert found is not None
    return found


@pytest.mark.parametrize("order", [same, backwards_each_other_time, rolled, batches_permuted, only_the_first_two_alike])
def test_an_order_that_comes_back_keeps_its_neighbours(order: Order) -> None:
    assert likeness(order)[0] >= 0.9


@pytest.mark.parametrize("order", [within_batches, both_but_the_batches_stay])
def test_batches_that_stay_together_keep_their_mates(order: Order) -> None:
    neighbours, mates = likeness(order)

    assert neighbours < 0.5
    assert mates >= 0.99


@pytest.mark.parametrize("order", [permuted, with_replacement, drawn_by_weight])
@given(seed=st.integers(0, 1 << 32))
@settings(max_examples=20, deadline=None)
def test_fresh_orders_are_alike_by_chance_only(order: Order, seed: int) -> None:
    neighbours, mates = likeness(order, seed=seed)

    assert neighbours < 0.1
    assert abs(mates) < 0.1


def test_an_order_that_comes_back_is_found_though_every_row_is_jittered() -> None:
    assert likeness(same, jitter=0.05)[0] >= 0.8
    assert likeness(backwards_each_other_time, jitter=0.05)[0] >= 0.8


@given(seed=st.integers(0, 1 << 32))
@settings(max_examples=20, deadline=None)
def test_jittered_rows_in_fresh_orders_are_not_alike(seed: int) -> None:
    assert likeness(permuted, jitter=0.05, seed=seed)[0] <= 0.3


def test_one_batch_for_everything_has_no_mates_to_keep() -> None:
    """With full-batch training every pair shares a batch whatever the order is."""
    assert likeness(permuted, batch=ROWS)[1] == 0.0
    assert likeness(same, batch=ROWS)[0] >= 0.99


def test_a_last_batch_of_another_size_changes_nothing() -> None:
    def ragged(order: Order) -> list[list[Matrix]]:
        return [[*epoch[:-1], epoch[-1][:5]] for epoch in epochs_of(order)]

    fresh, kept = order_likeness(ragged(permuted)), order_likeness(ragged(same))

    assert fresh is not None and fresh[0] < 0.1
    assert kept is not None and kept[0] > 0.9


def test_rows_that_are_new_in_every_epoch_and_of_another_number_are_not_compared() -> None:
    rng = np.random.default_rng(0)
    epochs = [[rng.normal(size=(rows, 2))] for rows in (100, 90, 80)]

    assert order_likeness(epochs) is None


@pytest.mark.parametrize("mixed", [True, False])
def test_jittered_rows_of_a_curriculum_that_grows_are_compared_place_by_place(mixed: bool) -> None:
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(200, 2))
    epochs = []
    for count in (120, 160, 200, 200, 200, 200):
        order = rng.permutation(count) if mixed else np.arange(count)
        epochs.append(np.array_split(rows[order] + rng.normal(0, 0.05, (count, 2)), 8))

    found = order_likeness(epochs)

    assert found is not None
    assert found[0] <= 0.3 if mixed else found[0] >= 0.5


# -- steps ----------------------------------------------------------------------------------


def steps(**columns: float | np.ndarray) -> Steps:
    """A hundred steps that used just their own gradients, but for these columns."""
    usual = {
        "checked": 1.0,
        "fresh_norm": 1.0,
        "stale_norm": 0.0,
        "fresh_share": 1.0,
        "stale_share": 0.0,
        "misfit": 0.0,
    }
    rows = np.zeros((100, len(STEP_COLUMNS)))
    for name, values in {**usual, "lr_min": 1e-3, "lr_max": 1e-3, **columns}.items():
        rows[:, STEP_COLUMNS.index(name)] = values
    return Steps(rows)


def every_tenth(hit: float, otherwise: float) -> np.ndarray:
    return np.where(np.arange(100) % 10 == 9, hit, otherwise)


@pytest.mark.parametrize(
    "clean",
    [
        steps(),
        steps(fresh_share=0.01),  # clipped hard
        steps(fresh_share=1024.0),  # a scaled loss
        steps(stale_norm=1e-9, stale_share=1.0),  # rounding left over
        steps(stale_norm=1.0, stale_share=0.0),  # old ones were there and were cleared between
        steps(stale_norm=1.0, stale_share=np.nan),  # parallel: cannot be told
        steps(fresh_share=1.0, stale_norm=1.0, stale_share=0.1),  # what a weight decay added by hand looks like
    ],
)
def test_steps_on_their_own_gradients_carry_nothing(clean: Steps) -> None:
    assert clean.carried() == 0
    assert clean.thrown_away() == 0


@pytest.mark.parametrize(
    ("table", "carried"),
    [
        (steps(stale_norm=3.0, stale_share=1.0), 100),
        (steps(stale_norm=3.0, fresh_share=0.02, stale_share=0.02), 100),  # piled up, then clipped
        (steps(stale_norm=3.0, stale_share=0.5), 100),  # decayed by half instead of cleared
        (steps(stale_norm=3.0, stale_share=-1.0), 100),
        (steps(stale_norm=3.0, stale_share=1.0, fresh_share=0.0), 100),  # only the old ones were used
        (steps(excess=3.0), 100),  # the rest came from somewhere less visible
        (
            steps(stale_norm=every_tenth(0.0, 3.0), stale_share=every_tenth(0.0, 1.0)),
            90,
        ),  # cleared every tenth time
        (steps(stale_norm=every_tenth(3.0, 0.0), stale_share=every_tenth(1.0, 0.0)), 10),
    ],
)
def test_steps_on_older_gradients_are_counted(table: Steps, carried: int) -> None:
    assert table.carried() == carried
    assert table.thrown_away() == 0


def test_steps_on_no_gradients_at_all_are_counted() -> None:
    assert steps(fresh_share=0.0).thrown_away() == 100
    assert steps(fresh_share=every_tenth(0.0, 1.0)).thrown_away() == 10
    assert steps(fresh_share=0.0).carried() == 0


@pytest.mark.parametrize(
    "blind", [{"checked": 0.0}, {"fresh_norm": 0.0, "stale_norm": 0.0}, {"fresh_norm": np.nan, "stale_norm": np.nan}]
)
def test_steps_that_were_not_compared_count_for_nothing(blind: dict[str, float]) -> None:
    table = steps(**{"stale_norm": 3.0, "stale_share": 1.0, **blind})

    assert (len(table.checked()), table.carried(), table.thrown_away()) == (0, 0, 0)


@given(st.integers(0, 100), st.floats(1e-6, 1e6), st.floats(1e-3, 1e3))
def test_scaling_the_gradients_never_changes_the_count(wrong: int, scale: float, old: float) -> None:
    stale = np.where(np.arange(100) < wrong, 1.0, 0.0)

    table = steps(stale_norm=old * stale, fresh_share=scale, stale_share=scale * stale)

    assert table.carried() == wrong


@pytest.mark.parametrize(
    ("family", "momentum", "adaptive", "largest"),
    [
        (("AdamW", "Adam"), 0.0, True, None),
        (("RMSprop",), 0.0, True, None),
        ((), 0.0, True, None),
        (("SGD",), 0.0, False, 1.0),
        (("SGD",), 0.9, False, 0.1),
        (("SGD",), 0.999, False, 0.01),
        (("Adagrad",), 0.0, False, 0.5),
        (("Adadelta",), 0.0, False, 2.0),
    ],
)
def test_the_sound_rate_depends_on_the_optimizer(
    family: tuple[str, ...], momentum: float, adaptive: bool, largest: float | None
) -> None:
    optimizer = OptimizerSeen("it", family, {"momentum": momentum})

    assert optimizer.adaptive is adaptive
    if largest is not None:
        assert optimizer.largest_sgd_rate() == pytest.approx(largest, rel=0.02)


def _forwards(*kinds: tuple[str, int, bool, int]) -> tuple[Matrix, dict[int, Matrix]]:
    """Forwards by (context, call, trained, which rows), and the rows that each was shown."""
    table, rows = np.zeros((len(kinds), len(FORWARD_COLUMNS))), {}
    for serial, (context, call, trained, shown) in enumerate(kinds):
        for name, value in (("context", CONTEXTS[context]), ("call", call), ("trained", trained), ("serial", serial)):
            table[serial, FORWARD_COLUMNS.index(name)] = value
        rows[serial] = np.full((4, 2), float(shown))
    return table, rows


def _measured(own: int, calls_of_validate: int, rows_of_own: int) -> int:
    """How many validation forwards there are, of ten epochs, `own` a epoch beside `validate`."""
    kinds = []
    for epoch in range(10):
        kinds += [("train", epoch + 1, True, 0)] * 3
        kinds += [("", 0, False, rows_of_own)] * own
        kinds += [("validate", 100 + epoch, False, 1)] * (epoch < calls_of_validate)
    forwards, rows = _forwards(*kinds)
    nothing = np.zeros((0, 0))
    table = Table(forwards, Steps(nothing), Backwards(nothing), rows, {}, {"epochs": 10})
    return len(table.validation_forwards())


def test_where_validate_is_hardly_called_what_main_measures_with_counts_too() -> None:
    assert _measured(own=2, calls_of_validate=10, rows_of_own=1) == 10, "called all the while: nothing else counts"
    assert _measured(own=2, calls_of_validate=1, rows_of_own=1) == 1 + 20
    assert _measured(own=2, calls_of_validate=1, rows_of_own=0) == 1, "passes over trained rows measure no validation"
    assert _measured(own=2, calls_of_validate=0, rows_of_own=1) == 20


@pytest.mark.parametrize(
    ("models", "left"),
    [
        ([7, 1, 1, 1], 3),
        ([7, 1, 1, 1, 2, 2], 5),  # what comes after the one trained longest stays
        ([7, 1, 1], 3),  # too few to tell which is the training
        ([1, 7, 1, 7, 1], 5),
        ([1, 2, 3, 4], 4),
        ([1, 1, 1, 7], 4),
    ],
)
def test_a_model_tried_out_before_the_training_is_left_out(models: list[int], left: int) -> None:
    forwards, rows = _forwards(*(("train", epoch + 1, True, epoch) for epoch in range(len(models))))
    forwards[:, FORWARD_COLUMNS.index("model")] = models
    nothing = np.zeros((0, 0))
    epochs = Table(forwards, Steps(nothing), Backwards(nothing), rows, {}, {}).epochs_of_rows()
    assert [int(epoch[0][0, 0]) for epoch in epochs] == list(range(len(models)))[-left:]


def test_a_batch_shown_several_times_in_a_row_counts_once() -> None:
    """A closure or a second pass; of large batches, whose repetitions would pass for batches that stay together."""
    chance = np.random.default_rng(5)
    rows = chance.normal(size=(308, 2))
    shuffled = [[batch for batch in np.array_split(chance.permutation(rows), 2) for _ in range(8)] for _ in range(3)]
    kept = [[batch for batch in np.array_split(rows, 2) for _ in range(8)] for _ in range(3)]

    fresh = order_likeness(shuffled)
    assert fresh is not None and max(fresh) < 0.3
    assert order_likeness(kept) == pytest.approx((1.0, 1.0), abs=0.02)


def test_where_a_call_holds_one_pass_each_is_of_training() -> None:
    def calls(*numbers: float) -> Backwards:
        rows = np.zeros((len(numbers), len(BACKWARD_COLUMNS)))
        rows[:, BACKWARD_COLUMNS.index("call")] = numbers
        return Backwards(rows)

    assert len(calls(1, 2, 3, 4).of_training()) == 4
    assert len(calls(0, 1, 1, 1, 2, 2, 2).of_training()) == 4, "the first of each call follows what main did between"

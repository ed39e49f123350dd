"""How the growth run tells a flat figure from one that grows, and that its readings are real."""

from __future__ import annotations

import os
import random
import threading

import pytest

from bench.growth import (
    ALLOWANCES,
    MB,
    descriptors,
    engine_rss_bytes,
    resident_bytes,
    shortened,
    theil_sen,
    threads,
    trend,
    trends,
)
from grading.challenge import load_challenge

GRADINGS = list(range(0, 1001, 20))


def test_the_slope_of_a_line_is_found_among_outliers() -> None:
    rng = random.Random(1)
    values = [3.0 * x + 7.0 for x in GRADINGS]
    for place in rng.sample(range(len(values)), 10):
        values[place] = rng.uniform(0, 1e6)
    assert theil_sen(GRADINGS, values) == pytest.approx(3.0, rel=0.05)


def test_a_single_point_has_no_slope() -> None:
    assert theil_sen([0], [5]) == 0.0


def test_a_leak_of_one_descriptor_in_a_hundred_gradings_is_noticed() -> None:
    leaking = trend("own_descriptors", GRADINGS, [10 + x // 100 for x in GRADINGS])
    assert not leaking.is_flat
    assert leaking.rise == pytest.approx(10, rel=0.1)


def test_a_leak_of_20_kb_for_each_grading_is_noticed() -> None:
    rng = random.Random(2)
    values = [90 * MB + 20_000 * x + rng.uniform(-MB, MB) for x in GRADINGS]
    assert not trend("own_rss_bytes", GRADINGS, values).is_flat


def test_noise_and_what_the_first_gradings_load_are_flat() -> None:
    rng = random.Random(3)
    values = [(90 if x else 60) * MB + rng.uniform(-MB, MB) for x in GRADINGS]
    found = trend("own_rss_bytes", GRADINGS, values)
    assert found.is_flat
    assert found.first < 62 * MB < found.last


def test_shrinking_is_no_growth() -> None:
    assert trend("containers", GRADINGS, [1000 - x for x in GRADINGS]).is_flat


def test_only_what_was_sampled_has_a_trend() -> None:
    samples = [{"gradings": float(x), "own_threads": 5.0, "containers": 2.0} for x in GRADINGS]
    assert [one.name for one in trends(samples)] == ["own_threads", "containers"]


def test_every_reading_is_of_a_living_process() -> None:
    assert resident_bytes("self") > MB
    assert threads("self") == threads(os.getpid()) >= threading.active_count()
    before = descriptors("self")
    read_end, write_end = os.pipe()
    assert descriptors("self") == descriptors(os.getpid()) == before + 2
    os.close(read_end)
    os.close(write_end)
    assert engine_rss_bytes() >= 0
    assert set(ALLOWANCES) > {"own_rss_bytes", "containers"}


def test_the_solution_can_be_shortened() -> None:
    source = load_challenge("spiral").text("solution.py").encode()
    assert b"num_epochs = 1\n" in shortened(source, 1)
    assert b"num_epochs = 20" not in shortened(source, 1)

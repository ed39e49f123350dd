from __future__ import annotations

import unicodedata

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from grading.engine import MAX_SUBMISSION_BYTES, printable, unusable_reason
from grading.judgement import Secrets, pack


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        (b"", "empty"),
        (b" \n\t\r\n", "empty"),
        (b"x" * (MAX_SUBMISSION_BYTES + 1), "1,048,577 bytes"),
        ("x = 1\n".encode("utf-16"), "UTF-16"),
        (b"\xfe\xff\0x", "UTF-16"),
        ("x = 1\n".encode("utf-16-le"), "NUL"),
        (b"x = '\0'\n", "NUL"),
        ("x = 'ü'\n".encode("latin-1"), "not UTF-8"),
    ],
)
def test_files_that_cannot_be_programs_are_told_apart(source: bytes, complaint: str) -> None:
    reason = unusable_reason(source)

    assert reason is not None and complaint in reason


@pytest.mark.parametrize(
    "source",
    [
        b"x = 1",
        "x = 'ü'\n".encode("utf-8-sig"),
        b"x = 1\r\ny = 2\r\n",
        b"# coding: latin-1\nx = '\xfc'\n",
        b"#!/usr/bin/python\n# -*- coding: cp1252 -*-\nx = '\xfc'\n",
        b"this is no python",
    ],
)
def test_files_that_may_be_programs_go_to_the_sandbox(source: bytes) -> None:
    assert unusable_reason(source) is None


@given(st.binary(max_size=100))
def test_any_bytes_are_answered(source: bytes) -> None:
    assert isinstance(unusable_reason(source), str | None)


@given(st.text(st.characters(), max_size=200))
@example("\x1b[2J\x1b]0;x\x07\r\x85\u2028\u2029")
@example("\u202e\u2066\u2069\u200f\u061c\ufeff\u00ad\u200b\U000e0041\ud800")
def test_printable_text_is_inert(text: str) -> None:
    shown = printable(text)

    for character in shown.replace("\n", "").replace("\t", ""):
        assert unicodedata.category(character)[0] != "C", "control, format, surrogate, private or unassigned"
        assert unicodedata.category(character) not in ("Zl", "Zp")
        assert unicodedata.bidirectional(character) not in (
            "LRE",
            "RLE",
            "LRO",
            "RLO",
            "PDF",
            "LRI",
            "RLI",
            "FSI",
            "PDI",
        )
    shown.encode("utf-8")


@given(st.text(st.characters(categories=("L", "N", "P", "S", "Zs")), max_size=50))
def test_printable_leaves_ordinary_text_alone(text: str) -> None:
    ordinary = "".join(c for c in text if c.isprintable())

    assert printable(ordinary) == ordinary


def test_printable_keeps_the_end_of_long_text() -> None:
    assert printable("a" * 10 + "b" * 10, limit=10) == "b" * 10


@given(st.text(max_size=20), st.text(max_size=20))
def test_secrets_are_reproducible(seed: str, label: str) -> None:
    first, second = (Secrets(seed.encode("utf-8", "replace").hex()).rng("x" + label.encode().hex()) for _ in range(2))

    np.testing.assert_array_equal(first.random(4), second.random(4))


def test_secrets_with_other_labels_or_seeds_have_nothing_in_common() -> None:
    draws = [Secrets(seed).rng(label).random(64) for seed in ("a", "b") for label in ("x", "y", "z")]
    likeness = np.corrcoef(draws) - np.eye(len(draws))

    assert len({draw.tobytes() for draw in draws}) == len(draws)
    assert np.abs(likeness).max() < 0.6  # 64 draws: chance stays below


def test_drawing_under_one_label_leaves_the_others_as_they_are() -> None:
    secrets = Secrets("a")
    alone = secrets.rng("y").random(4)
    secrets.rng("x").random(1000)

    np.testing.assert_array_equal(secrets.rng("y").random(4), alone)


def test_arrays_cross_the_border_in_c_order() -> None:
    packed = pack(np.arange(6, dtype=np.float32).reshape(2, 3).T)

    assert (packed.dtype, packed.shape) == ("<f4", (3, 2))
    np.testing.assert_array_equal(np.frombuffer(packed.data, "<f4"), [0, 3, 1, 4, 2, 5])

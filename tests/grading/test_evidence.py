from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grading import evidence
from grading.evidence import EvidenceError, EvidenceLog, integer, number, parse, read
from sandbox.spec import Frame

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
DTYPES = st.sampled_from(sorted(evidence._DTYPES))
DESCRIPTORS = st.fixed_dictionaries(
    {},
    optional={
        "key": st.text(max_size=3) | JSON,
        "dtype": DTYPES | st.sampled_from(["O", "<U4", "V8", "<f16", "f8,i4"]) | JSON,
        "shape": st.lists(st.integers(-2, 1 << 29) | st.integers(0, 4) | JSON, max_size=9) | JSON,
    },
)
HEADERS = st.fixed_dictionaries(
    {"name": st.text(max_size=120) | JSON},
    optional={"data": JSON, "arrays": st.lists(DESCRIPTORS, max_size=4) | JSON},
)


def a_frame(header: Any, payload: bytes = b"") -> Frame:
    return Frame(json.dumps(header).encode(), payload)


def described(*arrays: dict[str, Any]) -> dict[str, Any]:
    return {"name": "x", "arrays": list(arrays)}


def only_errors_of_its_own(frame: Frame) -> None:
    try:
        record = parse(frame)
    except EvidenceError:
        return
    assert isinstance(record.name, str)
    assert sum(array.nbytes for array in record.arrays.values()) <= len(frame.payload)


@given(st.binary(max_size=200), st.binary(max_size=64))
def test_arbitrary_bytes_raise_nothing_but_evidence_errors(header: bytes, payload: bytes) -> None:
    only_errors_of_its_own(Frame(header, payload))


@given(HEADERS, st.binary(max_size=64))
def test_hostile_headers_raise_nothing_but_evidence_errors(header: Any, payload: bytes) -> None:
    only_errors_of_its_own(a_frame(header, payload))


@given(st.lists(st.tuples(HEADERS, st.binary(max_size=16)), max_size=6))
def test_reading_never_raises_and_accounts_for_every_frame(frames: list[tuple[Any, bytes]]) -> None:
    log = read([a_frame(header, payload) for header, payload in frames])

    assert len(log.records) + len(log.problems) == len(frames)


@given(
    st.lists(
        st.tuples(DTYPES, st.lists(st.integers(0, 3), max_size=3), st.integers(0, 255)),
        min_size=1,
        max_size=4,
    )
)
def test_arrays_come_back_as_they_were_written(arrays: list[tuple[str, list[int], int]]) -> None:
    wanted = {
        f"a{i}": np.full(shape, fill % 2 if dtype == "|b1" else fill % 100, dtype=dtype)
        for i, (dtype, shape, fill) in enumerate(arrays)
    }
    header = described(*({"key": k, "dtype": v.dtype.str, "shape": list(v.shape)} for k, v in wanted.items()))

    record = parse(a_frame(header, b"".join(v.tobytes() for v in wanted.values())))

    assert list(record.arrays) == list(wanted)
    for key, array in wanted.items():
        np.testing.assert_array_equal(record.arrays[key], array, strict=True)


@pytest.mark.parametrize(
    "shape",
    [
        [1 << 28],
        [1 << 28] * 8,
        [1 << 29],
        [-1],
        [1.0],
        [True],
        ["3"],
        [2, [2]],
        [1] * 9,
        None,
        "12",
        [0] + [1 << 28] * 7,
    ],
)
def test_a_shape_beyond_the_payload_is_refused_before_anything_is_allocated(shape: Any) -> None:
    with pytest.raises(EvidenceError):
        parse(a_frame(described({"key": "a", "dtype": "<f8", "shape": shape}), b"\0" * 16))


@pytest.mark.parametrize(
    "dtype", ["O", "|O8", "<U4", "V4", "<f16", "<c8", "", None, [], {}, 8, "<M8[s]", [["a", "<f8"]]]
)
def test_only_plain_numbers_are_read(dtype: Any) -> None:
    with pytest.raises(EvidenceError, match="descriptor"):
        parse(a_frame(described({"key": "a", "dtype": dtype, "shape": [1]}), b"\0" * 8))


@pytest.mark.parametrize(
    ("header", "complaint"),
    [
        (b"", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"name": "x", "data": ' + b"9" * 5000 + b"}", "not JSON"),
        (b"[]", "without a name"),
        (b'{"name": 3}', "without a name"),
        (b'{"name": "x", "arrays": 3}', "bad list"),
        (b'{"name": "x", "arrays": [' + b",".join([b"{}"] * 65) + b"]}", "bad list"),
        (b'{"name": "x", "arrays": [3]}', "descriptor"),
        (b'{"name": "x"}' + b" " * (1 << 20), "too large"),
    ],
)
def test_each_fault_has_its_own_words(header: bytes, complaint: str) -> None:
    with pytest.raises(EvidenceError, match=complaint):
        parse(Frame(header, b""))


def test_bytes_that_no_array_claims_are_refused() -> None:
    with pytest.raises(EvidenceError, match="larger than its arrays"):
        parse(a_frame({"name": "x"}, b"1"))


def test_malformed_frames_are_told_and_the_others_kept() -> None:
    log = read([a_frame({"name": "a"}), Frame(b"junk", b""), a_frame({"name": "b"})])

    assert [record.name for record in log.records] == ["a", "b"]
    assert log.problems == ("frame 1: header is not JSON",)


def test_a_flood_of_malformed_frames_is_told_in_few_words() -> None:
    assert len(read([Frame(b"junk", b"")] * 500).problems) == 20


def test_later_records_never_take_the_place_of_the_first() -> None:
    log = read([a_frame({"name": "x", "data": {"n": n}}) for n in (1, 2, 3)])
    first, last = log.first("x"), log.last("x")

    assert first is not None and last is not None
    assert (first.get("n"), last.get("n"), len(log.all("x"))) == (1, 3, 3)
    assert EvidenceLog().first("x") is EvidenceLog().last("x") is None


def test_fields_of_data_that_is_no_object_are_absent() -> None:
    assert parse(a_frame({"name": "x", "data": [1]})).get("n", "absent") == "absent"


@given(JSON)
def test_numbers_are_read_from_any_json(value: Any) -> None:
    assert isinstance(number(value), float | None)
    assert isinstance(integer(value), int)


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("inf", math.inf),
        ("-inf", -math.inf),
        (3, 3.0),
        (10**400, None),
        (True, None),
        (None, None),
        ("3", None),
        ([], None),
    ],
)
def test_numbers_are_numbers_or_the_three_words(value: Any, wanted: float | None) -> None:
    assert number(value) == wanted


def test_the_word_nan_is_a_number_that_is_none() -> None:
    assert math.isnan(number("nan") or 0.0)


@pytest.mark.parametrize(("value", "wanted"), [(3, 3), (3.0, 7), (True, 7), ("3", 7), (None, 7)])
def test_integers_are_integers_only(value: Any, wanted: int) -> None:
    assert integer(value, 7) == wanted

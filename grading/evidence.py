"""Reads what came out of the sandbox: bounded JSON and raw arrays, never pickle.

Everything here is hostile until read. A frame that is malformed in any way is dropped and
counted; it never raises past `read`, and it never becomes evidence.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sandbox.spec import Frame

MAX_HEADER_BYTES = 1 << 20
MAX_ARRAYS = 64
_DTYPES = {"<f4", "<f8", "<i8", "<i4", "|u1", "|b1", "<i2", "|i1"}


class EvidenceError(Exception):
    """A frame is not what the protocol allows."""


@dataclass(frozen=True)
class Record:
    """One well-formed frame."""

    name: str
    data: Any
    arrays: Mapping[str, NDArray[Any]]

    def get(self, key: str, default: Any = None) -> Any:
        """A field of `data` where that is an object."""
        return self.data.get(key, default) if isinstance(self.data, dict) else default


@dataclass(frozen=True)
class EvidenceLog:
    """All well-formed records of one step, in the order they came."""

    records: tuple[Record, ...] = ()
    problems: tuple[str, ...] = field(default=())

    def all(self, name: str) -> list[Record]:
        """Every record called `name`."""
        return [record for record in self.records if record.name == name]

    def first(self, name: str) -> Record | None:
        """The first record called `name`: later ones cannot take its place."""
        return next((record for record in self.records if record.name == name), None)

    def last(self, name: str) -> Record | None:
        """The newest record called `name`."""
        return next((record for record in reversed(self.records) if record.name == name), None)


def read(frames: Iterable[Frame]) -> EvidenceLog:
    """Parse frames; malformed ones are left out and told in `problems`."""
    records, problems = [], []
    for number, frame in enumerate(frames):
        try:
            records.append(parse(frame))
        except EvidenceError as error:
            problems.append(f"frame {number}: {error}")
    return EvidenceLog(tuple(records), tuple(problems[:20]))


def parse(frame: Frame) -> Record:
    """Read one frame.

    Raises:
        EvidenceError: whatever is wrong with it.
    """
    if len(frame.header) > MAX_HEADER_BYTES:
        raise EvidenceError("header too large")
    try:
        header = json.loads(frame.header.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise EvidenceError("header is not JSON") from error
    if not isinstance(header, dict) or not isinstance(header.get("name"), str):
        raise EvidenceError("header without a name")
    return Record(header["name"][:100], header.get("data"), _arrays(header.get("arrays"), frame.payload))


def _arrays(described: Any, payload: bytes) -> dict[str, NDArray[Any]]:
    if described is None:
        described = []
    if not isinstance(described, list) or len(described) > MAX_ARRAYS:
        raise EvidenceError("bad list of arrays")
    arrays: dict[str, NDArray[Any]] = {}
    offset = 0
    for entry in described:
        key, dtype, shape = _descriptor(entry)
        count = math.prod(shape)
        size = count * np.dtype(dtype).itemsize
        if offset + size > len(payload):
            raise EvidenceError("arrays larger than the payload")
        arrays[key] = np.frombuffer(payload, dtype=dtype, count=count, offset=offset).reshape(shape)
        offset += size
    if offset != len(payload):
        raise EvidenceError("payload larger than its arrays")
    return arrays


def _descriptor(entry: Any) -> tuple[str, str, tuple[int, ...]]:
    if not isinstance(entry, dict):
        raise EvidenceError("bad array descriptor")
    key, dtype, shape = entry.get("key"), entry.get("dtype"), entry.get("shape")
    known = isinstance(key, str) and isinstance(dtype, str) and dtype in _DTYPES
    if not known or not isinstance(shape, list) or len(shape) > 8:
        raise EvidenceError("bad array descriptor")
    if not all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n <= 1 << 28 for n in shape):
        raise EvidenceError("bad array shape")
    if math.prod(max(n, 1) for n in shape) > 1 << 40:  # an empty array of such a shape is still refused by numpy
        raise EvidenceError("bad array shape")
    return str(key), str(dtype), tuple(shape)


def number(value: Any) -> float | None:
    """A JSON number as float; the strings 'nan', 'inf', '-inf' stand for themselves."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, (int, float)):
        try:
            return float(value)
        except OverflowError:
            return None
    if value in ("nan", "inf", "-inf"):
        return float(value)
    return None


def integer(value: Any, default: int = 0) -> int:
    """A JSON integer, or `default`."""
    return value if isinstance(value, int) and not isinstance(value, bool) else default

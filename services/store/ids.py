"""Names of rows: a prefix that says what it is, then 26 characters that sort by the time they were made."""

from __future__ import annotations

import secrets
import threading
import time

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o, u
_RANDOM_BITS = 80
_STEP_BITS = 48
_LENGTH = 26  # 130 bits in steps of five hold 48 bits of milliseconds and the random ones
ID_CHARS = 4 + _LENGTH
CODE_CHARS = 5  # the last ones: what a candidate is called by while names are hidden

SUBMISSION, COHORT, KEY, ENDPOINT, MESSAGE, INTEGRATION, REPORT = "sub", "coh", "key", "whe", "msg", "int", "rep"
INVITATION = "inv"


class _Numbers:
    """Random numbers under their millisecond; within one they rise, so that a batch keeps its order."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0

    def next(self, now_ms: int) -> int:
        with self._lock:
            if self._last >> _RANDOM_BITS == now_ms:
                # A random step keeps the next name from being guessed.
                self._last += 1 + secrets.randbits(_STEP_BITS)
            else:
                self._last = now_ms << _RANDOM_BITS | secrets.randbits(_RANDOM_BITS)
            return self._last


_numbers = _Numbers()


def new_id(prefix: str, now_us: int | None = None) -> str:
    """A new name such as `sub_01jd…`: unique without asking anyone, sorted by the millisecond it was made in."""
    now_ms = (time.time_ns() // 1000 if now_us is None else now_us) // 1000
    number = _numbers.next(now_ms)
    digits = (ALPHABET[number >> shift & 31] for shift in range(5 * (_LENGTH - 1), -1, -5))
    return f"{prefix}_{''.join(digits)}"

"""What follows from an attempt."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.settings import Settings
from services.webhooks import Decision, Delivery, Schedule, decide, retry_after_s

SPEC = Schedule((0, 5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400))
OK = Delivery(204, None, 10)
NOW = 1_800_000_000.0


def failed(status: int | None = 500, retry_after: float | None = None) -> Delivery:
    return Delivery(status, "answered badly", 10, "", retry_after)


def test_the_default_is_the_schedule_of_standard_webhooks() -> None:
    assert Schedule.of(Settings()).delays_s == SPEC.delays_s


def test_an_endpoint_that_always_fails_is_tried_once_per_delay() -> None:
    waits = []
    for attempts in range(1, 10):
        decision = decide(failed(), attempts, SPEC, lambda: 0.0)
        assert decision.state == "pending"
        waits.append(decision.retry_in_s)
    assert tuple(waits) == SPEC.delays_s[1:]
    assert decide(failed(), 10, SPEC, lambda: 0.0) == Decision("dead")


def test_what_was_taken_is_delivered_even_at_the_last_attempt() -> None:
    assert decide(OK, 10, SPEC, lambda: 0.0) == Decision("delivered")


def test_gone_disables_the_endpoint_at_once() -> None:
    decision = decide(failed(410), 1, SPEC, lambda: 0.0)
    assert decision.state == "dead" and decision.disable_reason


@given(st.integers(1, 12), st.floats(0, 1), st.one_of(st.none(), st.floats(0, 1e9)))
def test_a_wait_is_never_shorter_than_planned_nor_longer_than_allowed(
    attempts: int, draw: float, asked: float | None
) -> None:
    decision = decide(failed(503, asked), attempts, SPEC, lambda: draw)
    if attempts >= len(SPEC.delays_s):
        assert decision.state == "dead"
        return
    planned = SPEC.delays_s[attempts]
    assert decision.retry_in_s is not None
    assert planned <= decision.retry_in_s <= max(planned * 1.2, SPEC.retry_after_max_s)
    assert decision.retry_in_s >= min(asked or 0, SPEC.retry_after_max_s)


def test_chance_parts_messages_that_failed_together() -> None:
    assert {decide(failed(), 2, SPEC, lambda d=d: d).retry_in_s for d in (0.0, 0.5, 1.0)} == {300.0, 330.0, 360.0}


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120.0),
        (" 0 ", 0.0),
        (format_datetime(datetime.fromtimestamp(NOW + 90, UTC), usegmt=True), 90.0),
        (format_datetime(datetime.fromtimestamp(NOW - 90, UTC), usegmt=True), 0.0),
        ("Friday, 15-Jan-27 08:01:30 GMT", 90.0),
        ("", None),
        (None, None),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("9" * 30, None),
        ("Fri, 99 Jan 2027 08:01:30 GMT", None),
        ("Fri, 15 Jan 99999999999 08:01:30 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str | None, seconds: float | None) -> None:
    assert retry_after_s(value, NOW) == seconds


@given(st.text(max_size=60))
def test_retry_after_of_any_text_is_a_wait_or_nothing(text: str) -> None:
    found = retry_after_s(text, NOW)
    assert found is None or found >= 0


@pytest.mark.parametrize("schedule", ["", "a", "0,", "0,-5", "1.5", ",".join(["1"] * 51)])
def test_a_schedule_that_makes_no_sense_stops_the_start(schedule: str) -> None:
    with pytest.raises(ValueError, match="webhook_schedule_s"):
        Settings(webhook_schedule_s=schedule)

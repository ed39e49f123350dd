"""Who owns a container is told by processes, not by clocks that somebody may set."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from typing import Any

import pytest

from sandbox import ownership
from sandbox.ownership import LABEL_OWNER, Owner, is_abandoned, process_began_ticks, this_process

ME = this_process()
GONE = 4_194_304  # above the kernel's largest pid


def item(owner: Owner, state: str = "running", *, lifetime_s: float = 600.0, created: float = 0.0) -> dict[str, Any]:
    """A container of the Engine's list; by default its creation seems to be decades ago."""
    labels = {LABEL_OWNER: owner.label(lifetime_s)}
    return {"Labels": labels, "State": state, "Created": created, "Names": ["/assay-x"]}


def other(**changes: Any) -> Owner:
    """A claim like ours of another owner."""
    return replace(ME, token="other", **changes)


@pytest.mark.parametrize("state", ["created", "running", "exited"])
def test_container_of_a_living_process_is_left_alone_whatever_the_wall_clock_says(state: str) -> None:
    assert not is_abandoned(item(other(), state), ME, ())
    assert not is_abandoned(item(other(), state, created=time.time() + 1e9), ME, ())


def test_container_of_a_dead_process_is_taken_at_once() -> None:
    assert is_abandoned(item(other(pid=GONE)), ME, ())


def test_later_process_of_the_same_pid_does_not_inherit() -> None:
    assert is_abandoned(item(other(began_ticks=ME.began_ticks - 1)), ME, ())


def test_zombie_holds_nothing() -> None:
    with subprocess.Popen([sys.executable, "-c", "pass"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert process_began_ticks(process.pid) is None


def test_owner_takes_back_what_it_holds_no_more() -> None:
    assert not is_abandoned(item(ME), ME, {"assay-x"})
    assert is_abandoned(item(ME), ME, {"assay-y"})


def test_successor_in_a_seat_takes_over_from_the_dead() -> None:
    seated = replace(ME, seat="7:7")
    foreign = other(pid_namespace=1)
    assert not is_abandoned(item(replace(other(), seat="7:7")), seated, ())  # of the same process
    assert is_abandoned(item(replace(foreign, seat="7:7")), seated, ())
    assert not is_abandoned(item(replace(foreign, seat="8:8")), seated, ())
    assert not is_abandoned(item(foreign), ME, ())  # two that have no seat do not share one


def test_process_that_cannot_be_seen_keeps_its_containers_until_they_expire() -> None:
    assert not is_abandoned(item(other(pid_namespace=1), "exited"), ME, ())
    assert is_abandoned(item(other(pid_namespace=1), lifetime_s=-1), ME, ())


def test_jump_of_the_wall_clock_expires_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    foreign = item(other(pid_namespace=1))
    monkeypatch.setattr(ownership.time, "time", lambda: 1e12)
    assert not is_abandoned(foreign, ME, ())


def test_of_another_boot_only_what_has_ended_is_taken() -> None:
    elsewhere = other(boot_id="elsewhere", pid=GONE)
    assert not is_abandoned(item(elsewhere, "running"), ME, ())
    assert not is_abandoned(item(elsewhere, "exited", created=time.time()), ME, ())
    assert is_abandoned(item(elsewhere, "exited"), ME, ())


@pytest.mark.parametrize("label", ["", "garbage", "a b c d e f g", "a 1 2 3 b c"])
def test_label_that_says_nothing_is_judged_by_its_state(label: str) -> None:
    unknown = {"Labels": {LABEL_OWNER: label}, "State": "running", "Created": 0, "Names": ["/x"]}
    assert not is_abandoned(unknown, ME, ())
    assert is_abandoned(unknown | {"State": "exited"}, ME, ())
    assert not is_abandoned(unknown | {"State": "exited", "Created": time.time()}, ME, ())

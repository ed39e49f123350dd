"""Whose container is this? Told by the owner's process and never by the wall clock.

Every container carries a label that names the process that made it: the machine's boot, the
pid namespace, the pid, when the process began, a token of the owner's own, and its seat. So
whoever comes upon a container later can tell:

* its owner is the one who asks: abandoned when the owner holds it no more.
* same seat, another owner: a seat is locked (see `sandbox.runner`), so that one is dead.
* same boot and pid namespace: the kernel says whether that very process lives.
* same boot, another pid namespace (a runner in a container): unknowable, so the container is
  left alone until it has expired by the clock that counts seconds since the boot, which
  nobody can set.
* another boot: that of another host, or this host's last. What still runs is left alone,
  for a sandbox ends with its owner's connection; what has ended goes after two minutes.

A jump of the wall clock therefore never costs anybody a container in use. Only the last rule
looks at that clock, and it takes only what has already ended.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LABEL_OWNER = "assay.owner"
STALE_S = 120.0  # an owner removes a container that has ended well before
NO_SEAT = "-"
_ENDED = ("created", "exited", "dead")


@dataclass(frozen=True)
class Owner:
    """One process's claim to the containers that it makes."""

    boot_id: str
    pid_namespace: int
    pid: int
    began_ticks: int  # of the kernel's clock since boot: tells a process from a later one of the same pid
    token: str
    seat: str = NO_SEAT  # what only one living process can have, such as a locked file

    def label(self, lifetime_s: float) -> str:
        """The label of a container that nobody needs after `lifetime_s`."""
        expires_s = int(boot_time_s() + lifetime_s)
        words = (self.boot_id, self.pid_namespace, self.pid, self.began_ticks, self.token, self.seat, expires_s)
        return " ".join(map(str, words))


def this_process(seat: str = NO_SEAT) -> Owner:
    """A new claim of this process."""
    namespace = os.stat("/proc/self/ns/pid").st_ino
    began = process_began_ticks(os.getpid()) or 0
    return Owner(boot_id(), namespace, os.getpid(), began, secrets.token_hex(6), seat)


def boot_id() -> str:
    """What the kernel calls this boot of this machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()


def boot_time_s() -> float:
    """Seconds since the boot, sleep included; nobody can set this clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def process_began_ticks(pid: int) -> int | None:
    """When a living process began, None where there is none (a zombie holds nothing any more)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text("ascii", "replace")
    except OSError:
        return None
    words = text[text.rfind(")") + 1 :].split()
    return None if words[0] in "ZX" else int(words[19])


def is_abandoned(item: Mapping[str, Any], me: Owner, held: Container[str]) -> bool:
    """Whether nobody can be using a container of the Engine's list any more.

    `held` are the names of the containers that `me` still uses.
    """
    ended = item.get("State") in _ENDED
    words = str((item.get("Labels") or {}).get(LABEL_OWNER, "")).split()
    try:
        boot, (namespace, pid, began), token, seat = words[0], map(int, words[1:4]), words[4], words[5]
        expires_s = int(words[6])
    except (IndexError, ValueError):
        return ended and time.time() - float(item["Created"]) > STALE_S  # of an older version
    if token == me.token:
        return not any(name.lstrip("/") in held for name in item.get("Names") or ())
    if boot != me.boot_id:
        return ended and time.time() - float(item["Created"]) > STALE_S
    if (namespace, pid, began) == (me.pid_namespace, me.pid, me.began_ticks):
        return False  # another owner in this very process
    if seat == me.seat != NO_SEAT:
        return True
    if namespace == me.pid_namespace:
        return process_began_ticks(pid) != began
    return boot_time_s() > expires_s

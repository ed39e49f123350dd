"""GPUs: one device per sandbox, by a lease.

No cgroup limits the memory or the time of a GPU, and tenants of one can slow each other down
and have, in the past, read what others left behind. So a device, which is a whole GPU or a MIG
slice, belongs to one container from before it is made until it is gone; a warm container holds
its lease while it waits. A device whose container would not die is quarantined: processes
stuck in the driver cannot be killed, and nobody may join them.

Between tenants the driver zeroes memory before it hands it to another process (outside of
MPS, which Assay does not use). That is NVIDIA's promise, tried on one card (docs/security.md); `scrub` is the place for
more, such as `nvidia-smi --gpu-reset` on a machine whose devices are used for nothing else.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import pynvml

from sandbox.spec import GpuUse, Job, Limits, RunResult, Sandbox, SandboxUnavailable, StepListener

log = logging.getLogger(__name__)

Scrub = Callable[[str], None]


class Leases:
    """Who has which device. Safe for many threads; whoever waits longest is served first.

    Args:
        devices: UUIDs, indices or CDI names, each given to one holder at a time.
        scrub: called with a device after its holder has left, before the next one gets it;
            where it raises, the device is quarantined.

    Raises:
        ValueError: a device is named twice.
    """

    def __init__(self, devices: Sequence[str], scrub: Scrub | None = None) -> None:
        if len(set(devices)) != len(devices):
            raise ValueError(f"a device is named twice in {', '.join(devices)}")
        self._free = deque(devices)
        self._quarantined: dict[str, str] = {}
        self._known = tuple(devices)
        self._queue: deque[object] = deque()
        self._changed = threading.Condition()
        self._scrub = scrub

    @contextlib.contextmanager
    def lease(self, timeout_s: float) -> Iterator[str]:
        """The device of one sandbox, for as long as the block lasts.

        Raises SandboxUnavailable where none was free within `timeout_s`, or none ever will be.
        """
        device = self._take(timeout_s)
        try:
            yield device
        finally:
            self._give_back(device)

    def quarantine(self, device: str, reason: str) -> None:
        """Lease `device` no more, now or when its holder leaves."""
        with self._changed:
            if device not in self._known:
                raise ValueError(f"{device} is not one of {', '.join(self._known)}")
            self._quarantined.setdefault(device, reason)
            with contextlib.suppress(ValueError):
                self._free.remove(device)
            self._changed.notify_all()

    def quarantined(self) -> dict[str, str]:
        """The devices that are leased no more, with the reasons."""
        with self._changed:
            return dict(self._quarantined)

    def _take(self, timeout_s: float) -> str:
        deadline, ticket = time.monotonic() + timeout_s, object()
        with self._changed:
            self._queue.append(ticket)
            try:
                while self._queue[0] is not ticket or not self._free:
                    if len(self._quarantined) == len(self._known):
                        raise SandboxUnavailable(f"no GPU is left: {self._why()}")
                    left_s = deadline - time.monotonic()
                    if left_s <= 0 or not self._changed.wait(left_s):
                        raise SandboxUnavailable(self._busy(timeout_s))
                return self._free.popleft()
            finally:
                self._queue.remove(ticket)
                self._changed.notify_all()

    def _busy(self, timeout_s: float) -> str:
        words = f"no GPU became free within {timeout_s:g} s: {len(self._known)} in all"
        return f"{words}; {self._why()}" if self._quarantined else words

    def _why(self) -> str:
        told = "; ".join(f"{device} is quarantined ({reason})" for device, reason in self._quarantined.items())
        return told or "none was given"

    def _give_back(self, device: str) -> None:
        reason = ""
        if self._scrub is not None and device not in self.quarantined():
            try:
                self._scrub(device)
            except Exception as error:
                reason = f"scrubbing it failed: {error}"
        with self._changed:
            if reason:
                self._quarantined.setdefault(device, reason)
            if device not in self._quarantined:
                self._free.append(device)
            self._changed.notify_all()


class Meter:
    """What happens on a device while the block lasts, asked of the driver on the host.

    The sandbox has no part in it, so what runs there cannot forge it. A sample costs microseconds. The
    driver tells the share of time with a kernel running, over its last period of up to a second: times
    are as good as that.

    Args:
        device: a UUID, an index or a CDI name.
        every_s: between two samples.
    """

    def __init__(self, device: str, every_s: float = 0.05) -> None:
        self._device, self._every_s = device.rpartition("=")[2], every_s
        self._use: GpuUse | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="GPU meter", daemon=True)

    def __enter__(self) -> Meter:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def use(self) -> GpuUse | None:
        """What was seen; None where the driver did not answer. Call it after the block."""
        return self._use

    def _watch(self) -> None:
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            log.info("no GPU time in reports, the driver does not answer: %s", error)
            return
        try:
            self._sample()
        except pynvml.NVMLError as error:
            log.warning("GPU %s could not be measured: %s", self._device, error)
            self._use = None
        finally:
            pynvml.nvmlShutdown()

    def _sample(self) -> None:
        handle = self._handle()
        before_bytes = peak_bytes = int(pynvml.nvmlDeviceGetMemoryInfo(handle).used)
        busy_s: float | None = 0.0
        at = time.monotonic()
        while not self._stop.wait(self._every_s):
            peak_bytes = max(peak_bytes, int(pynvml.nvmlDeviceGetMemoryInfo(handle).used))
            now = time.monotonic()
            if busy_s is not None and (share := _share_busy(handle)) is not None:
                busy_s += share * (now - at)
            else:
                busy_s = None
            at = now
            self._use = GpuUse(busy_s, peak_bytes - before_bytes)

    def _handle(self) -> Any:
        if self._device.isdecimal():
            return pynvml.nvmlDeviceGetHandleByIndex(int(self._device))
        return pynvml.nvmlDeviceGetHandleByUUID(self._device)


def _share_busy(handle: Any) -> float | None:
    try:
        return float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu) / 100.0
    except pynvml.NVMLError_NotSupported:  # a MIG slice
        return None


class OneUse(Protocol):
    """A container that takes one job; `gone` once nothing is left of it."""

    gone: bool

    def start(self) -> None:
        """Start it and wait until it is ready. Raises SandboxUnavailable."""
        ...

    def run(self, job: Job, listener: StepListener | None = None) -> RunResult:
        """Run the job and destroy the container."""
        ...

    def destroy(self) -> None:
        """Destroy the container, whether it ran or not."""
        ...


class Creating(Sandbox, Protocol):
    """A sandbox that hands out its containers."""

    def create(self, limits: Limits, label: str = ...) -> Any:
        """A container yet to be started, a OneUse."""
        ...


class GpuSandbox:
    """A sandbox for each device, used by one job at a time.

    Args:
        sandboxes: by device; all of the same kind.
        leases: of the same devices.
        lease_timeout_s: how long a job waits for a device.
    """

    def __init__(self, sandboxes: Mapping[str, Creating], leases: Leases, lease_timeout_s: float) -> None:
        self._sandboxes, self._leases, self._lease_timeout_s = sandboxes, leases, lease_timeout_s
        self._any = next(iter(sandboxes.values()))
        self.name = self._any.name

    def run(self, job: Job, listener: StepListener | None = None) -> RunResult:
        """Run the job on the next free device. Raises SandboxUnavailable."""
        with self._leases.lease(self._lease_timeout_s) as device:
            container: OneUse = self._sandboxes[device].create(job.limits, job.label)
            try:
                container.start()
                return container.run(job, listener)
            finally:
                container.destroy()
                if not container.gone:
                    self._leases.quarantine(device, "its last container would not go")

    def cannot_hold(self) -> tuple[str, ...]:
        """What a sandbox with a GPU cannot promise."""
        return self._any.cannot_hold()

    def facts(self) -> Any:
        """Of the first device's sandbox, for `sandbox.inspection`."""
        facts: Callable[[], Any] = getattr(self._any, "facts", dict)
        return facts()

    def image_identity(self) -> str:
        """Which image runs the steps, and that it had a GPU: controls must have passed there."""
        identity: Callable[[], str] = getattr(self._any, "image_identity", str)
        return f"{identity()} gpu"

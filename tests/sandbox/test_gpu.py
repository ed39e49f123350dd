"""Leases of GPUs, how a container asks for one, and the plumbing on a real Engine without a GPU."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from sandbox.gpu import GpuSandbox, Leases, Meter
from sandbox.spec import GpuUse, Job, Limits, RunResult, RunTiming, SandboxUnavailable, StepListener
from sandbox.template import NO_GPU, container_config, host_config, missing_limits

# --- what a job did on its device ------------------------------------------------------


class FakeDriver:
    """As much of NVML as a meter uses."""

    NVMLError = type("NVMLError", (Exception,), {})
    NVMLError_NotSupported = type("NVMLError_NotSupported", (NVMLError,), {})

    def __init__(self, used_bytes: list[int], share: int | None = 50, answers: bool = True) -> None:
        self.used_bytes, self.share, self.answers = used_bytes, share, answers
        self.asked: list[object] = []
        self.inits = 0

    def nvmlInit(self) -> None:
        if not self.answers:
            raise self.NVMLError("Driver Not Loaded")
        self.inits += 1

    def nvmlShutdown(self) -> None:
        self.inits -= 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> object:
        self.asked.append(index)
        return index

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> object:
        self.asked.append(uuid)
        return uuid

    def nvmlDeviceGetMemoryInfo(self, handle: object) -> SimpleNamespace:
        assert handle in self.asked
        return SimpleNamespace(used=self.used_bytes.pop(0) if len(self.used_bytes) > 1 else self.used_bytes[0])

    def nvmlDeviceGetUtilizationRates(self, handle: object) -> SimpleNamespace:
        if self.share is None:
            raise self.NVMLError_NotSupported("N/A")
        return SimpleNamespace(gpu=self.share)


def metered(monkeypatch: pytest.MonkeyPatch, driver: FakeDriver, device: str = "GPU-a") -> GpuUse | None:
    """What a meter tells of about a quarter of a second."""
    monkeypatch.setattr("sandbox.gpu.pynvml", driver)
    with Meter(device, every_s=0.005) as meter:
        time.sleep(0.25)
    assert driver.inits == 0
    return meter.use()


def test_a_meter_tells_busy_time_and_the_peak_over_what_was_there(monkeypatch: pytest.MonkeyPatch) -> None:
    use = metered(monkeypatch, FakeDriver([1000, 1000, 5000, 2000]))
    assert use is not None and use.time_s is not None
    assert use.peak_memory_bytes == 4000
    assert 0.05 < use.time_s < 0.5 * 10  # half of the time that it lasted, however slow this machine is


@pytest.mark.parametrize(
    ("device", "asked"), [("3", 3), ("GPU-a", "GPU-a"), ("nvidia.com/gpu=0", 0), ("nvidia.com/gpu=GPU-b", "GPU-b")]
)
def test_a_meter_finds_its_device(monkeypatch: pytest.MonkeyPatch, device: str, asked: object) -> None:
    driver = FakeDriver([0])
    assert metered(monkeypatch, driver, device) is not None
    assert driver.asked == [asked]


def test_a_slice_has_no_time_and_a_silent_driver_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert metered(monkeypatch, FakeDriver([10, 30], share=None)) == GpuUse(None, 20)
    assert metered(monkeypatch, FakeDriver([0], answers=False)) is None


# --- leases ---------------------------------------------------------------------------


def test_each_device_has_one_holder_at_a_time() -> None:
    """Many threads, two devices: no device is ever held twice, and all are served."""
    leases, held, most = Leases(["0", "1"]), {"0": 0, "1": 0}, []
    lock = threading.Lock()

    def work() -> None:
        for _ in range(20):
            with leases.lease(30) as device:
                with lock:
                    held[device] += 1
                    most.append(held[device])
                time.sleep(0.0005)
                with lock:
                    held[device] -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (max(most), len(most)) == (1, 160)


def test_who_waits_longest_is_served_first() -> None:
    """Leases are handed out in the order in which they were asked for."""
    leases, served = Leases(["0"]), []
    waiting: list[threading.Thread] = []

    def wait(number: int) -> None:
        with leases.lease(30):
            served.append(number)

    with leases.lease(0):
        for number in range(6):
            waiting.append(threading.Thread(target=wait, args=(number,)))
            waiting[-1].start()
            while len(leases._queue) <= number:
                time.sleep(0.001)
    for thread in waiting:
        thread.join()
    assert served == [0, 1, 2, 3, 4, 5]


def test_no_free_device_is_told_in_time() -> None:
    """The wait is bounded, and the next one waits for nobody who gave up."""
    leases = Leases(["GPU-a"])
    with leases.lease(0), pytest.raises(SandboxUnavailable, match=r"no GPU became free within 0.05 s: 1 in all"):
        leases.lease(0.05).__enter__()
    with leases.lease(0) as device:
        assert device == "GPU-a"


def test_a_quarantined_device_is_leased_no_more() -> None:
    """Not when it was free, not when its holder leaves, and whoever waits is told."""
    leases = Leases(["0", "1"])
    leases.quarantine("1", "stuck")
    with leases.lease(0) as device:
        leases.quarantine(device, "its last container would not go")
    with pytest.raises(SandboxUnavailable, match=r"no GPU is left: 1 is quarantined \(stuck\); 0 is quarantined"):
        leases.lease(5).__enter__()
    assert set(leases.quarantined()) == {"0", "1"}
    with pytest.raises(ValueError, match="2 is not one of 0, 1"):
        leases.quarantine("2", "")


def test_quarantine_wakes_those_who_wait() -> None:
    """Nobody waits out a timeout for a device that will never come."""
    leases, told = Leases(["0"]), []

    def wait() -> None:
        try:
            leases.lease(60).__enter__()
        except SandboxUnavailable as error:
            told.append(str(error))

    with leases.lease(0):
        thread = threading.Thread(target=wait)
        thread.start()
        while not leases._queue:
            time.sleep(0.001)
        leases.quarantine("0", "stuck")
        thread.join(10)
    assert told == ["no GPU is left: 0 is quarantined (stuck)"]


def test_scrubbed_between_holders_or_quarantined() -> None:
    """Each holder's device is scrubbed once; where that fails, nobody gets it."""
    scrubbed = []

    def scrub(device: str) -> None:
        scrubbed.append(device)
        if len(scrubbed) == 2:
            raise OSError("reset refused")

    leases = Leases(["0"], scrub)
    for _ in range(2):
        with leases.lease(0):
            pass
    assert scrubbed == ["0", "0"]
    assert leases.quarantined() == {"0": "scrubbing it failed: reset refused"}


def test_a_device_twice_is_an_error() -> None:
    """It would have two holders."""
    with pytest.raises(ValueError, match="named twice"):
        Leases(["0", "0"])


@dataclass
class Container:
    """Stands in for a container on a GPU, of which none is here."""

    goes: bool
    fails: bool = False
    gone: bool = False

    def start(self) -> None:
        if self.fails:
            raise SandboxUnavailable("did not start")

    def run(self, job: Job, listener: StepListener | None = None) -> RunResult:
        return RunResult((), RunTiming(), "docker")

    def destroy(self) -> None:
        self.gone = self.goes


@dataclass
class Device:
    """Stands in for a sandbox whose containers have a GPU."""

    goes: bool = True
    fails: bool = False
    made: list[Container] = field(default_factory=list)
    name: str = "docker"

    def create(self, limits: Limits, label: str = "") -> Container:
        self.made.append(Container(self.goes, self.fails))
        return self.made[-1]

    def run(self, job: Job, listener: StepListener | None = None) -> RunResult:
        raise AssertionError("a device's sandbox is only asked for containers")

    def cannot_hold(self) -> tuple[str, ...]:
        return ("memory_bytes",)


@pytest.mark.parametrize("fails", [False, True])
def test_a_container_that_does_not_go_costs_its_device(fails: bool) -> None:
    """Whether it ran or never started: the next job goes elsewhere, and the device is told."""
    devices = {"stuck": Device(goes=False, fails=fails), "well": Device()}
    leases = Leases(list(devices))
    sandbox = GpuSandbox(devices, leases, 1.0)
    job = Job(b"", {}, ())
    if fails:
        with pytest.raises(SandboxUnavailable, match="did not start"):
            sandbox.run(job)
    else:
        sandbox.run(job)
    for _ in range(3):
        sandbox.run(job)
    assert leases.quarantined() == {"stuck": "its last container would not go"}
    assert (len(devices["stuck"].made), len(devices["well"].made)) == (1, 3)


# --- how a container asks for a device -----------------------------------------------


@pytest.mark.parametrize(
    ("runtime", "gpu", "requests", "visible"),
    [
        ("", NO_GPU, [], "void"),
        ("nvidia", NO_GPU, [], "void"),
        ("nvidia", "GPU-1", [], "GPU-1"),
        ("nvidia", "MIG-2", [], "MIG-2"),
        ("", "GPU-1", [{"Driver": "nvidia", "DeviceIDs": ["GPU-1"], "Capabilities": [["gpu", "compute"]]}], None),
        ("runsc", "nvidia.com/gpu=GPU-1", [{"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=GPU-1"]}], None),
    ],
)
def test_one_device_and_compute_only(runtime: str, gpu: str, requests: list[Any], visible: str | None) -> None:
    """By the runtime's environment, by the Engine's driver or by CDI; never all of them, never graphics."""
    config, environment = host_config(Limits(), runtime, gpu), container_config(Limits(), runtime, gpu)["environment"]
    assert config["DeviceRequests"] == requests
    assert environment.get("NVIDIA_VISIBLE_DEVICES") == visible
    assert environment["NVIDIA_DRIVER_CAPABILITIES"] == "compute"
    assert "all" not in repr((requests, environment))


def test_without_a_gpu_the_drivers_files_are_masked() -> None:
    """And with one the NVIDIA libraries find them."""
    assert "/proc/driver" in host_config(Limits())["MaskedPaths"]
    assert "/proc/driver" not in host_config(Limits(), "nvidia", "0")["MaskedPaths"]


def test_a_request_for_a_device_that_got_lost_is_told() -> None:
    """A container meant for a GPU is not started without."""
    config = host_config(Limits(), "", "GPU-1") | {"DeviceRequests": None}
    assert missing_limits(config, Limits(), "", "GPU-1") == ["DeviceRequests"]

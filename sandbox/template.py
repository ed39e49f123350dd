"""What every sandbox container is made of: flag by flag, with the reason for each.

Pure data: limits go in, the Engine's own words come out, and nothing of a job but its limits
can change them. `sandbox.docker` makes containers of it and proves on each that the Engine
took it over; `sandbox.inspection` looks from inside. `docs/security.md` lists which test
fails when a flag is dropped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sandbox.process import thread_environment
from sandbox.spec import Limits

SECCOMP = Path(__file__).parent / "image" / "seccomp.json"
USER = "65534:65534"
HOSTNAME = "sandbox"
NO_GPU = "void"
NVIDIA = "nvidia"
LABEL = "assay.sandbox"
# The kernel shall kill sandboxes before the host's own processes, and a step, which raises
# itself to 1000, before its agent: the distance, in thousandths of the memory limit, must
# outweigh the agent's 300 MiB, or many small processes get the agent killed in their place.
OOM_SCORE_ADJ = 100

# No ulimit for processes: it would count the uid on the whole host. None for address space: CUDA
# reserves more than there is. Locked pages cannot be reclaimed for others. Some Engines are
# configured with default ulimits, so what is 0 by the kernel's default is said here again.
FIXED_ULIMITS = {"core": 1, "msgqueue": 0, "memlock": 64 << 10, "nice": 0, "rtprio": 0}

# What no training program reads, and what tells of the host or has had holes. The Engine's own
# list, which giving one replaces, is the first part; the second is what it leaves in sight.
MASKED_PATHS = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",  # energy counters tell of the neighbours' work
    "/sys/firmware",
    "/proc/buddyinfo",
    "/proc/cmdline",  # how the host was booted
    "/proc/config.gz",
    "/proc/consoles",
    "/proc/diskstats",
    "/proc/iomem",
    "/proc/ioports",
    "/proc/kallsyms",
    "/proc/key-users",
    "/proc/kmsg",
    "/proc/kpagecgroup",
    "/proc/kpagecount",
    "/proc/kpageflags",
    "/proc/locks",
    "/proc/mdstat",
    "/proc/pagetypeinfo",
    "/proc/partitions",
    "/proc/pressure",
    "/proc/slabinfo",
    "/proc/softirqs",
    "/proc/swaps",
    "/proc/vmallocinfo",
    "/proc/zoneinfo",
    "/sys/block",
    "/sys/class/block",
    "/sys/class/dmi",
    "/sys/class/hwmon",
    "/sys/class/powercap",
    "/sys/class/thermal",
    "/sys/devices/virtual/block",
    "/sys/devices/virtual/dmi",
    "/sys/devices/virtual/thermal",
    "/sys/hypervisor",
    "/sys/kernel",
    "/sys/power",
    "/dev/mqueue",  # queues outlive the process that made them
    "/dev/pts",  # nobody needs a terminal, and the kernel has only so many for all containers
)
MASKED_WITHOUT_GPU = ("/proc/driver", "/proc/modules", "/sys/bus/pci", "/sys/module")  # the NVIDIA libraries read them
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


def container_config(limits: Limits, runtime: str = "", gpu: str = NO_GPU) -> dict[str, Any]:
    """The part of a container that is not HostConfig, as keywords of docker-py's create_container."""
    return {
        "user": USER,
        "hostname": HOSTNAME,  # and no domain name: with user namespaces no container can set one
        "working_dir": "/tmp",
        "stdin_open": True,
        "environment": environment(limits, gpu, runtime),
    }


def host_config(limits: Limits, runtime: str = "", gpu: str = NO_GPU) -> dict[str, Any]:
    """The HostConfig of every container, in the Engine API's words.

    Args:
        limits: what the container may use.
        runtime: an OCI runtime registered with the Engine, "" for its default.
        gpu: one device's UUID, index or CDI name; NO_GPU for none.
    """
    ulimits = FIXED_ULIMITS | {"nofile": limits.open_files, "fsize": limits.file_bytes}
    return {
        "Privileged": False,
        "CapDrop": ["ALL"],
        "CapAdd": None,
        "SecurityOpt": ["no-new-privileges", f"seccomp={_seccomp()}"],
        "ReadonlyRootfs": True,
        "Tmpfs": {
            # optim.Adam fails without a place for temporary files, DataLoader workers without shared memory.
            "/tmp": _tmpfs(limits.tmp_bytes, limits.tmp_inodes),
            # The Engine's own /dev/shm has no limit on files, and they cost memory of the kernel's.
            "/dev/shm": _tmpfs(limits.shm_bytes, limits.shm_inodes),
        },
        "Binds": None,
        "Devices": [],
        "DeviceRequests": device_requests(runtime, gpu),
        "NetworkMode": "none",
        # The Engine copies the host's resolv.conf into every container, this keeps it out.
        "Dns": ["127.0.0.1"],
        "DnsSearch": ["."],
        "IpcMode": "private",  # "none" has no /dev/shm
        "CgroupnsMode": "private",  # the path of the host's own cgroup is not shown
        "MaskedPaths": [*MASKED_PATHS, *(MASKED_WITHOUT_GPU if gpu == NO_GPU else ())],
        "ReadonlyPaths": [*READONLY_PATHS],
        "Memory": limits.memory_bytes,
        "MemorySwap": limits.memory_bytes,  # memory and swap together: no swap
        "PidsLimit": limits.pids,
        "NanoCpus": int(limits.cpu_count * 1e9),
        "Ulimits": [{"Name": name, "Soft": value, "Hard": value} for name, value in sorted(ulimits.items())],
        "OomScoreAdj": OOM_SCORE_ADJ,
        "LogConfig": {"Type": "none", "Config": {}},  # the Engine would store a flood
        "Init": False,  # pid 1 must be the agent: an init of another kind can be killed from inside
        "AutoRemove": False,  # it races wait and loses State
        **({"Runtime": runtime} if runtime else {}),
    }


def _tmpfs(size_bytes: int, inodes: int) -> str:
    return f"rw,noexec,nosuid,nodev,size={size_bytes},nr_inodes={inodes},mode=1777"


def device_requests(runtime: str, gpu: str) -> list[dict[str, Any]]:
    """How the Engine is asked for `gpu`: not at all where the nvidia runtime reads it from the environment."""
    if gpu == NO_GPU or runtime == NVIDIA:
        return []
    if _is_cdi(gpu):
        return [{"Driver": "cdi", "DeviceIDs": [gpu]}]
    return [{"Driver": NVIDIA, "DeviceIDs": [gpu], "Capabilities": [["gpu", "compute"]]}]


def _is_cdi(gpu: str) -> bool:
    return "/" in gpu and "=" in gpu  # vendor/class=device


SHAPING = (
    "memory_bytes",
    "cpu_count",
    "pids",
    "tmp_bytes",
    "tmp_inodes",
    "shm_bytes",
    "shm_inodes",
    "open_files",
    "file_bytes",
)


def container_shape(limits: Limits) -> tuple[float, ...]:
    """The limits that a container is made with; the others travel with the job.

    Equal shapes mean that one warm container can serve either.
    """
    return tuple(getattr(limits, name) for name in SHAPING)


def _seccomp() -> str:
    return json.dumps(json.loads(SECCOMP.read_text(encoding="utf-8")), separators=(",", ":"))


def environment(limits: Limits, gpu: str = NO_GPU, runtime: str = "") -> dict[str, str]:
    """The whole environment of the agent and of every step, apart from the HOSTNAME that the Engine adds."""
    fixed = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": "/tmp",
        "TMPDIR": "/tmp",
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "PYTHONDONTWRITEBYTECODE": "1",
        "NVIDIA_DRIVER_CAPABILITIES": "compute",
    }
    # A request for a device through the Engine sets the variable itself, and must not find another there.
    if gpu == NO_GPU or runtime == NVIDIA:
        fixed["NVIDIA_VISIBLE_DEVICES"] = gpu
    return fixed | thread_environment(limits.cpu_count)


# What a HostConfig key is called where it is missing; the others are called by the Engine's word.
_NAMES = {
    "Memory": "memory",
    "MemorySwap": "no swap",
    "PidsLimit": "pids",
    "NanoCpus": "CPU quota",
    "NetworkMode": "no network",
    "ReadonlyRootfs": "read-only root",
    "CapDrop": "no capabilities",
    "CapAdd": "no added capabilities",
    "Privileged": "no privileges",
    "SecurityOpt": "seccomp and no-new-privileges",
    "Tmpfs": "/tmp and /dev/shm",
    "Binds": "no host directories",
}


# The Engine gives every container these keys; a default set in its configuration would show here.
_NEVER_ASKED_FOR = (
    "Mounts",
    "VolumesFrom",
    "GroupAdd",
    "ExtraHosts",
    "CgroupParent",
    "PidMode",
    "UTSMode",
    "UsernsMode",
)


def missing_limits(config: Mapping[str, Any], limits: Limits, runtime: str = "", gpu: str = NO_GPU) -> list[str]:
    """What of the template the Engine did not take over; it drops what its kernel cannot do.

    `config` is the HostConfig that the Engine tells of the container.
    """
    wanted = host_config(limits, runtime, gpu)
    if config.get("MemorySwap") == -1:
        # The kernel does not count swap; whether there is any is for `sandbox.inspection` to see.
        del wanted["MemorySwap"]
    missing = [_NAMES.get(key, key) for key, value in wanted.items() if _plain(config.get(key)) != _plain(value)]
    return [*missing, *(f"no {key}" for key in _NEVER_ASKED_FOR if config.get(key))]


def _plain(value: Any) -> Any:
    """The same value for everything that means nothing, and lists in one order."""
    if isinstance(value, dict):
        return {key: plain for key, part in value.items() if (plain := _plain(part)) is not None} or None
    if isinstance(value, list):
        return sorted((_plain(part) for part in value), key=repr) or None
    return value or None

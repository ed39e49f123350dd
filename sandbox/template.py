"""What every sandbox container is made of: flag by flag, with the reason for each.

Pure data: limits go in, the Engine's words come out. `sandbox.docker` makes containers of it
and proves on each that the Engine took it over.

Departures from Docker's defaults, with reasons, are beside the template. The seccomp
profile is an allow-list: no ptrace, no process_vm, io_uring, bpf, perf, keyrings, user or
mount namespaces, no socket but AF_UNIX, no System V or POSIX queues (they would outlive a
step); clone3 says ENOSYS so that libc falls back to clone, whose flags can be looked at;
prlimit, affinity and priority only for the caller itself, so that a step cannot slow the
agent down.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from docker.types import LogConfig, Ulimit

from sandbox.process import thread_environment
from sandbox.spec import Limits

SECCOMP = Path(__file__).parent / "image" / "seccomp.json"
USER = "65534:65534"
LABEL = "assay.sandbox"
LABEL_EXPIRES = "assay.expires"  # Unix time after which nobody can be using the container
# The kernel shall kill sandboxes before the host's own processes, and a step, which raises
# itself to 1000, before its agent: the distance, in thousandths of the memory limit, must
# outweigh the agent's 300 MiB, or many small processes get the agent killed in their place.
OOM_SCORE_ADJ = 100


def host_config(limits: Limits, runtime: str) -> dict[str, Any]:
    """The HostConfig of every container, as keywords of docker-py's create_host_config."""
    tmp = f"rw,noexec,nosuid,nodev,size={limits.tmp_bytes},nr_inodes={limits.tmp_inodes},mode=1777"
    ulimits = {"core": 0, "nofile": limits.open_files, "fsize": limits.file_bytes, "msgqueue": 0}
    return {
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges", f"seccomp={_seccomp()}"],
        "read_only": True,
        "tmpfs": {"/tmp": tmp},  # optim.Adam fails without a place for temporary files
        "network_mode": "none",
        "mem_limit": limits.memory_bytes,
        "memswap_limit": limits.memory_bytes,  # memory and swap together: no swap
        "pids_limit": limits.pids,  # and no nproc, which would count the uid on the whole host
        "nano_cpus": int(limits.cpu_count * 1e9),
        "ulimits": [Ulimit(name=name, soft=value, hard=value) for name, value in ulimits.items()],
        "ipc_mode": "private",  # DataLoader workers need /dev/shm, "none" has none
        "shm_size": limits.shm_bytes,
        "oom_score_adj": OOM_SCORE_ADJ,
        "log_config": LogConfig(type=LogConfig.types.NONE),  # the Engine would store a flood
        "init": False,  # pid 1 must be the agent: an init of another kind can be killed from inside
        "auto_remove": False,  # it races wait and loses State
        "privileged": False,
        **({"runtime": runtime} if runtime else {}),
    }


SHAPING = (
    "memory_bytes",
    "cpu_count",
    "pids",
    "tmp_bytes",
    "tmp_inodes",
    "shm_bytes",
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


def environment(limits: Limits, gpu: str) -> dict[str, str]:
    """The whole environment of the agent and of every step; `gpu` is what NVIDIA_VISIBLE_DEVICES says."""
    fixed = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": "/tmp",
        "TMPDIR": "/tmp",
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "PYTHONDONTWRITEBYTECODE": "1",
        "NVIDIA_VISIBLE_DEVICES": gpu,
        "NVIDIA_DRIVER_CAPABILITIES": "compute",
    }
    return fixed | thread_environment(limits.cpu_count)


def missing_limits(config: Mapping[str, Any], limits: Limits) -> list[str]:
    """What of the template the Engine did not take over; it drops what its kernel cannot do."""
    options = config.get("SecurityOpt") or []
    held = {
        "memory": config.get("Memory") == limits.memory_bytes,
        "pids": config.get("PidsLimit") == limits.pids,
        "CPU quota": config.get("NanoCpus") == int(limits.cpu_count * 1e9),
        "no network": config.get("NetworkMode") == "none",
        "read-only root": config.get("ReadonlyRootfs") is True,
        "no capabilities": config.get("CapDrop") == ["ALL"] and not config.get("CapAdd"),
        "no privileges": config.get("Privileged") is False and "no-new-privileges" in options,
        "seccomp": any(option.startswith("seccomp={") for option in options),
        "ulimits": {u["Name"] for u in config.get("Ulimits") or []} >= {"core", "nofile", "fsize"},
        "/tmp": "/tmp" in (config.get("Tmpfs") or {}),
        "no host directories": not config.get("Binds") and not config.get("Mounts"),
    }
    return [name for name, holds in held.items() if not holds]

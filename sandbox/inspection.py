"""Whether this host and its sandbox hold what they promise: the checks of `assay doctor`.

The Engine is asked, the host's files are read, and a real container is started whose one step
looks around and tries what must fail (`sandbox.inside`). Each answer is judged here, outside,
against what is written here, not against the template: a flag dropped there fails here.

A *must* that does not hold keeps strangers' code out: `must_hold`. What cannot be told (a
distribution's own version numbers, a daemon on another machine) holds neither way: it is no
failure unless the operator named the check.
"""

from __future__ import annotations

import enum
import json
import os
import re
import shutil
import stat
import subprocess
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from sandbox.spec import Job, Limits, RunStatus, Sandbox, SandboxUnavailable, Step
from sandbox.template import MASKED_PATHS, MASKED_WITHOUT_GPU, NO_GPU, NVIDIA

LOOK_TIME_S = 90.0  # a second on an idle machine; one with ten times its load is no reason to refuse work
TOOL_TIME_S = 10.0
VALID_S = 3600.0
GVISOR = "runsc"
WITHOUT_ISOLATION = ("process", "rehearsal")

Seen = Mapping[str, Any]


class Level(enum.Enum):
    """How much depends on a check."""

    MUST = "must"
    SHOULD = "should"
    OPTIONAL = "optional"


@dataclass(frozen=True)
class Check:
    """One promise and whether it holds here."""

    name: str
    level: Level
    holds: bool | None  # None: cannot be told
    found: str
    remedy: str = ""
    where: str = "host"  # or "container": seen by a process inside

    @property
    def fails(self) -> bool:
        """Whether it keeps strangers' code out."""
        return self.level is Level.MUST and self.holds is False


ELSEWHERE = Check("host", Level.SHOULD, None, "the Engine is out of sight", "run `assay doctor` on the runner's host")


@runtime_checkable
class Inspectable(Protocol):
    """A sandbox whose Engine can be asked about itself."""

    def facts(self) -> Mapping[str, Any]:
        """The Engine's `info` and `version`, and the `runtime` and `gpu` in use; nothing without an Engine."""
        ...


def inspect(sandbox: Sandbox, required: Iterable[str] = (), limits: Limits | None = None) -> tuple[Check, ...]:
    """Every check, the host's first. Runs one job in the sandbox.

    Args:
        sandbox: the one that submissions would run in.
        required: names of checks that are a must here, whatever they are elsewhere.
        limits: what containers are made with, where the operator chose other than the default.

    Raises:
        SandboxUnavailable: the job could not be run.
        ValueError: `required` names a check that there is not.
    """
    facts = sandbox.facts() if isinstance(sandbox, Inspectable) else {}
    limits = limits or Limits()
    if not facts and sandbox.name in WITHOUT_ISOLATION:
        found = "; ".join(sandbox.cannot_hold())
        isolation = Check("isolation", Level.MUST, False, found, "use --sandbox docker")
        return _raised([isolation], required, known=False)
    if not facts:  # behind a runner
        return _raised([ELSEWHERE, *container_checks(look(sandbox, limits), limits)], required)
    seen = look(sandbox, limits, facts["gpu"])
    return _raised([*host_checks(facts, seen), *container_checks(seen, limits, facts["gpu"])], required)


def look(sandbox: Sandbox, limits: Limits, gpu: str = NO_GPU) -> Seen:
    """What one step of a real job reports of the inside. Raises SandboxUnavailable."""
    source = Path(__file__).with_name("inside.py").read_bytes()
    step = Step("look", "sandbox_inside:look", {"masked": masked_paths(gpu)}, wall_time_s=LOOK_TIME_S)
    result = sandbox.run(Job(b"", {"sandbox_inside": source}, (step,), limits, "doctor")).steps[0]
    if result.status is not RunStatus.OK or not result.frames:
        said = result.output_tail.decode(errors="replace").strip().splitlines()[-1:]
        raise SandboxUnavailable(f"the look from inside ended with {result.status.value}: {' '.join(said)}")
    seen: Seen = json.loads(result.frames[0].header)["data"]
    return seen


def masked_paths(gpu: str = NO_GPU) -> list[str]:
    """What must be empty inside."""
    return [*MASKED_PATHS, *(MASKED_WITHOUT_GPU if gpu == NO_GPU else ())]


def _raised(checks: Sequence[Check], required: Iterable[str], known: bool = True) -> tuple[Check, ...]:
    required = set(required)
    if known and (unknown := required - {check.name for check in checks}):
        names = ", ".join(sorted(check.name for check in checks))
        raise ValueError(f"there is no check called {', '.join(sorted(unknown))}; there are: {names}")
    return tuple(
        replace(check, level=Level.MUST, holds=bool(check.holds)) if check.name in required else check
        for check in checks
    )


# --- before strangers' code -----------------------------------------------------------


_lock = threading.Lock()
_remembered: weakref.WeakKeyDictionary[Sandbox, tuple[float, tuple[str, ...], Limits | None, list[str]]] = (
    weakref.WeakKeyDictionary()
)


def must_hold(
    sandbox: Sandbox, required: Iterable[str] = (), limits: Limits | None = None, valid_s: float = VALID_S
) -> list[str]:
    """Why strangers' code must not run in this sandbox: a sentence for each must that fails.

    The first call runs a job; its answer stands for `valid_s` seconds, so that it may be asked
    before every submission. Raises SandboxUnavailable and ValueError like `inspect`.
    """
    names = tuple(sorted(required))
    with _lock:
        made_at, for_names, for_limits, failures = _remembered.get(sandbox, (float("-inf"), (), None, []))
        if time.monotonic() - made_at > valid_s or (for_names, for_limits) != (names, limits):
            failures = [
                f"{check.name}: {check.found}; {check.remedy}".rstrip("; ")
                for check in inspect(sandbox, names, limits)
                if check.fails
            ]
            _remembered[sandbox] = (time.monotonic(), names, limits, failures)
        return list(failures)


# --- the host -------------------------------------------------------------------------


def host_checks(facts: Mapping[str, Any], seen: Seen) -> list[Check]:
    """What the Engine and its host are, from the Engine's own words and the host's files."""
    info, version = facts["info"], facts["version"]
    options = [str(option) for option in info.get("SecurityOptions") or ()]
    runtime = facts["runtime"] or str(info.get("DefaultRuntime") or "")
    checks = [
        _engine_socket(os.environ.get("DOCKER_HOST", "")),
        _cgroup_limits(info),
        Check(
            "seccomp",
            Level.MUST,
            any("name=seccomp" in option for option in options),
            "the Engine filters system calls",
            "use a kernel with CONFIG_SECCOMP_FILTER and an Engine built with seccomp",
        ),
        _user_namespace(options, seen),
        Check(
            "access-control",
            Level.SHOULD,
            any("name=apparmor" in option or "name=selinux" in option for option in options),
            _one_of(options, "apparmor", "selinux") or "neither AppArmor nor SELinux",
            "boot with AppArmor (Debian: package apparmor, lsm=…,apparmor) or SELinux, then restart the Engine",
        ),
        Check(
            "cgroup-v2",
            Level.SHOULD,
            str(info.get("CgroupVersion") or seen["cgroup"]["version"]) == "2",
            f"cgroup version {info.get('CgroupVersion') or seen['cgroup']['version']}",
            "boot with systemd.unified_cgroup_hierarchy=1; version 2 accounts for more of the kernel's own memory",
        ),
        _kernel(str(info.get("KernelVersion") or "")),
        _engine_version(str(version.get("Version") or info.get("ServerVersion") or "")),
        *_runc(version, runtime),
        Check(
            "core-dumps",
            Level.SHOULD,
            not str(seen["core_pattern"]).startswith("|"),
            f"kernel.core_pattern is {str(seen['core_pattern'])[:60]!r}",
            "set kernel.core_pattern to a file name: a pipe starts a program of the host for crashes inside",
        ),
        Check(
            "domain-name",
            Level.SHOULD,
            seen["domain"] in ("", "(none)"),
            f"containers have the host's NIS domain, {seen['domain']}",
            "run domainname '(none)' on the host",
        ),
        Check(
            "gvisor",
            Level.OPTIONAL,
            runtime.startswith(GVISOR),
            f"the runtime is {runtime or 'the default'}; registered: {', '.join(sorted(info.get('Runtimes') or {}))}",
            "install runsc, register it (infra/host/README.md) and set ASSAY_RUNTIME=runsc: a kernel of its own",
        ),
        Check(
            "live-restore",
            Level.OPTIONAL,
            info.get("LiveRestoreEnabled") is True,
            "containers outlive a restart of the Engine" if info.get("LiveRestoreEnabled") else "off",
            '"live-restore": true in daemon.json',
        ),
        _side_channels(),
    ]
    if runtime == NVIDIA or facts["gpu"] != NO_GPU or NVIDIA in (info.get("Runtimes") or {}):
        checks.append(_nvidia_toolkit(facts["gpu"] != NO_GPU or runtime == NVIDIA))
    return checks


def _one_of(options: Iterable[str], *words: str) -> str:
    return next((option for option in options if any(word in option for word in words)), "")


def _engine_socket(address: str) -> Check:
    remedy = "use a unix socket of mode 0660 and a group of its own: who reaches the Engine is root"
    if address.startswith(("tcp://", "http://")):
        guarded = bool(os.environ.get("DOCKER_TLS_VERIFY"))
        return Check("engine-socket", Level.MUST, guarded, f"{address}, {'TLS' if guarded else 'unguarded'}", remedy)
    path = address.removeprefix("unix://") or "/var/run/docker.sock"
    try:
        mode = stat.S_IMODE(os.stat(path).st_mode)
    except OSError as error:
        return Check("engine-socket", Level.MUST, None, f"{path}: {error.strerror}", remedy)
    return Check("engine-socket", Level.MUST, not mode & stat.S_IWOTH, f"{path}, mode {mode:04o}", remedy)


def _cgroup_limits(info: Mapping[str, Any]) -> Check:
    fields = ("MemoryLimit", "SwapLimit", "PidsLimit", "CpuCfsQuota")
    missing = [field for field in fields if info.get(field) is False]
    return Check(
        "limits",
        Level.MUST,
        not [field for field in missing if field != "SwapLimit"],
        f"not supported: {', '.join(missing)}" if missing else "memory, swap, processes and CPU quota",
        "a kernel with these cgroup controllers (Debian: cgroup_enable=memory swapaccount=1); rootless needs version 2",
    )


def _user_namespace(options: Sequence[str], seen: Seen) -> Check:
    mapping = [str(word) for word in seen["uid_map"]]
    remapped = len(mapping) >= 3 and mapping[1] != "0"
    found = f"user 0 inside is {mapping[1]} outside" if len(mapping) >= 3 else "the map cannot be read"
    if "rootless" in _one_of(options, "rootless"):
        found += ", rootless"
    return Check(
        "user-namespace",
        Level.SHOULD,
        remapped,
        found,
        '"userns-remap": "default" in daemon.json (infra/host); it takes the sting out of most escapes through runc',
    )


def _kernel(release: str) -> Check:
    number = _numbers(release)
    return Check(
        "kernel",
        Level.SHOULD,
        number >= (5, 15) if number else None,
        release or "unknown",
        "a kernel of a series that still gets fixes, 5.15 at least: containers share it",
    )


def _engine_version(version: str) -> Check:
    number = _numbers(version)
    holds = number >= (25,) if number else None
    if holds is False and _is_distributions(version):
        holds = None
    return Check(
        "engine-version",
        Level.SHOULD,
        holds,
        version + (", a distribution's own: ask its security tracker" if holds is None else ""),
        "Docker Engine 25 or newer: older ones get no fixes from upstream, and know no CDI devices",
    )


# A distribution's build of 1.1.5 that has the fix of 1.1.12.
_RUNC_FIXED_BUILDS = {"1.1.5+ds1": 1}


def _runc(version: Mapping[str, Any], runtime: str) -> list[Check]:
    told: Mapping[str, Any] = next((part for part in version.get("Components") or () if part.get("Name") == "runc"), {})
    upstream = str(told.get("Version") or "")
    build = str((told.get("Details") or {}).get("GitCommit") or "")
    # The Engine tells a distribution's build in the commit's place; elsewhere that is a hash.
    shown = build if build.startswith(upstream) and upstream else upstream
    number = _numbers(upstream)
    unused = runtime.startswith(GVISOR)
    old: bool | None = number >= (1, 1, 12) if number else None
    new: bool | None = number >= (1, 3, 3) or (1, 2, 8) <= number < (1, 3) if number else None
    if _is_distributions(shown):
        revision = re.search(r"deb\d+u(\d+)", shown)
        fixed = _RUNC_FIXED_BUILDS.get(upstream)
        old = old or (True if fixed and revision and int(revision[1]) >= fixed else None)
        new = new or None
    tracker = ", a distribution's own: ask its security tracker"
    return [
        Check(
            "runc-2024",
            Level.MUST,
            True if unused else old,
            f"runc {shown or 'unknown'}" + (", not in use" if unused else tracker if old is None and shown else ""),
            "runc 1.1.12 or newer (CVE-2024-21626: out through a leaked descriptor)",
        ),
        Check(
            "runc-2025",
            Level.SHOULD,
            True if unused else new,
            f"runc {shown or 'unknown'}" + (", not in use" if unused else tracker if new is None and shown else ""),
            "runc 1.2.8, 1.3.3 or newer (CVE-2025-31133, -52565, -52881: races of mounts), or user-namespace remap",
        ),
    ]


def _numbers(version: str) -> tuple[int, ...]:
    match = re.match(r"\s*v?(\d+(?:\.\d+)*)", version)
    return tuple(int(part) for part in match[1].split(".")) if match else ()


def _is_distributions(version: str) -> bool:
    return bool(re.search(r"[+~-](ds|dfsg|deb|ubuntu|\d+ubuntu|\d+\.?el|\d+\.fc)", version))


def _side_channels() -> Check:
    folder = Path("/sys/devices/system/cpu/vulnerabilities")
    try:
        texts = {path.name: path.read_text(encoding="ascii", errors="replace") for path in sorted(folder.iterdir())}
    except OSError:
        return Check("side-channels", Level.OPTIONAL, None, "this processor does not say")
    open_ = [name for name, text in texts.items() if text.startswith("Vulnerable")]
    return Check(
        "side-channels",
        Level.OPTIONAL,
        not open_,
        f"vulnerable to {', '.join(open_)}" if open_ else "the kernel has an answer to those that it knows",
        "new microcode, and no mitigations=off; whatever is left, keep secrets off this machine",
    )


NVIDIA_FIXES = (
    ("CVE-2024-0132", (1, 16, 2)),
    ("CVE-2025-23359", (1, 17, 4)),
    ("CVE-2025-23266", (1, 17, 8)),
)


def _nvidia_toolkit(in_use: bool) -> Check:
    version = nvidia_toolkit_version()
    number = _numbers(version)
    missing = [cve for cve, fixed in NVIDIA_FIXES if number and number < fixed]
    return Check(
        "nvidia-toolkit",
        Level.MUST if in_use else Level.OPTIONAL,
        not missing if number else None,
        (f"{version}: {', '.join(missing)}" if missing else version)
        if number
        else "neither nvidia-ctk nor nvidia-container-cli is here to be asked",
        "NVIDIA Container Toolkit 1.17.8 or newer (infra/gpu): older ones let an image out of its container",
    )


def nvidia_toolkit_version() -> str:
    """The version of the toolkit on this machine, "" where none answers."""
    for tool in ("nvidia-ctk", "nvidia-container-cli"):
        if path := shutil.which(tool):
            try:
                done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=TOOL_TIME_S)
            except (OSError, subprocess.TimeoutExpired):
                continue
            if match := re.search(r"\d+\.\d+\.\d+", done.stdout):
                return match[0]
    return ""


# --- a container, from inside ---------------------------------------------------------


_DEVICES = {"/dev/full", "/dev/null", "/dev/random", "/dev/tty", "/dev/urandom", "/dev/zero"}
_LOCAL_NAMES = {
    "localhost",
    "ip6-localhost",
    "ip6-loopback",
    "ip6-localnet",
    "ip6-mcastprefix",
    "ip6-allnodes",
    "ip6-allrouters",
}
_ENVIRONMENT = {
    "HOME": "/tmp",
    "HOSTNAME": "sandbox",
    "LANG": "C.UTF-8",
    "NVIDIA_DRIVER_CAPABILITIES": "compute",
    "NVIDIA_VISIBLE_DEVICES": None,  # with a GPU, which one
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "PYTHONDONTWRITEBYTECODE": "1",
    "TMPDIR": "/tmp",
    "TZ": "UTC",
    **dict.fromkeys(
        ("ASSAY_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    ),
}
# Set by torch's libraries or by the agent for them, all of it public.
_LIBRARIES_OWN = ("TORCH", "KMP_", "PYTORCH_", "CUDA_", "PYTHON")
_MOUNTS = re.compile(
    r"/|/proc|/dev|/dev/(pts|shm|mqueue)|/sys|/sys/fs/cgroup(/[\w,.=-]+)?|/tmp|/etc/(resolv\.conf|hostname|hosts)"
    r"|/proc/(bus|fs|irq|sys|sysrq-trigger)"
)
_GPU_MOUNT = re.compile(r".*(nvidia|cuda|libGL|vdpau|gsp_|/dev/dri).*", re.IGNORECASE)
# The numbers of the namespaces that the kernel starts with.
_FIRST_NAMESPACES = {"cgroup": 0xEFFFFFFB, "ipc": 0xEFFFFFFF, "pid": 0xEFFFFFFC, "uts": 0xEFFFFFFE}


def container_checks(seen: Seen, limits: Limits, gpu: str = NO_GPU) -> list[Check]:
    """What a container is, as a process inside reported it."""
    return [judge(seen, limits, gpu) for judge in _JUDGES]


def _must(name: str, wrong: Sequence[str], right: str) -> Check:
    remedy = "a flag of sandbox/template.py did not arrive: see docs/security.md" if wrong else ""
    return Check(name, Level.MUST, not wrong, "; ".join(wrong)[:2000] or right, remedy, "container")


def _user(seen: Seen, limits: Limits, gpu: str) -> Check:
    status = seen["status"]
    wrong = [f"{key} {status.get(key)!r}" for key in ("Uid", "Gid") if set(status.get(key, "").split()) != {"65534"}]
    if set(status.get("Groups", "").split()) - {"65534"}:
        wrong.append(f"groups {status['Groups']}")
    return _must("user", wrong, "an unprivileged user, and no group but its own")


def _capabilities(seen: Seen, limits: Limits, gpu: str) -> Check:
    sets = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
    status = seen["status"]
    wrong = [f"{key} {status.get(key)}" for key in sets if int(status.get(key, "1"), 16) != 0]
    return _must("capabilities", wrong, "none, nor any to be had")


def _no_new_privileges(seen: Seen, limits: Limits, gpu: str) -> Check:
    value = seen["status"].get("NoNewPrivs")
    return _must("no-new-privileges", [] if value == "1" else [f"NoNewPrivs is {value}"], "set")


def _system_call_filter(seen: Seen, limits: Limits, gpu: str) -> Check:
    value = seen["status"].get("Seccomp")
    return _must("system-call-filter", [] if value == "2" else [f"Seccomp is {value}"], "a filter is in force")


# An error about the arguments shows that the call itself is let through.
_REACHED = {"EBADF", "EFAULT", "EINVAL", "ENOTTY"}


def _refused(seen: Seen, limits: Limits, gpu: str) -> Check:
    attempts = seen["attempts"]
    done = sorted(name for name, error in attempts.items() if error == "" or error in _REACHED)
    strange = sorted(name for name, error in attempts.items() if error.isdigit())
    wrong = [f"not refused: {', '.join(done)}"] * bool(done) + [f"ended oddly: {', '.join(strange)}"] * bool(strange)
    return _must("refused", wrong, f"{len(seen['attempts'])} attempts failed as they must")


def _set_id(seen: Seen, limits: Limits, gpu: str) -> Check:
    return _must("set-id", seen["set_id"], "no program changes whom it runs as")


def _tools(seen: Seen, limits: Limits, gpu: str) -> Check:
    tools = [name for name in seen["tools"] if gpu == NO_GPU or name != "nvidia-smi"]
    found = f"the image has {', '.join(tools)}" if tools else "no compiler, package manager, debugger or network tool"
    return Check("tools", Level.SHOULD, not tools, found, "build the image on a base without them", "container")


def _root(seen: Seen, limits: Limits, gpu: str) -> Check:
    wrong = [f"{path} can be written to" for path in seen["writable"] if path not in ("/tmp", "/dev/shm")]
    if "ro" not in _mount(seen, "/")["options"]:
        wrong.append("/ is mounted for writing")
    return _must("root", wrong, "read-only; only /tmp and /dev/shm can be written to")


def _mount(seen: Seen, point: str) -> dict[str, list[str]]:
    """The mount on top of others at a point."""
    empty: dict[str, list[str]] = {"options": [], "super": []}
    return next((mount for mount in reversed(seen["mounts"]) if mount["point"] == point), empty)


def _scratch(name: str, point: str, size_bytes: int, inodes: int, seen: Seen) -> Check:
    mount = _mount(seen, point)
    words = dict(word.partition("=")[::2] for word in mount["super"])
    wrong = [f"{point} is not {flag}" for flag in ("noexec", "nosuid", "nodev") if flag not in mount["options"]]
    if not 0 < _bytes(words.get("size", "")) <= max(size_bytes, 4096):
        wrong.append(f"{point} has size {words.get('size', 'without limit')}")
    if not words.get("nr_inodes", "").isdigit() or int(words["nr_inodes"]) > inodes:
        wrong.append(f"{point} has {words.get('nr_inodes', 'any number of')} files")
    return _must(name, wrong, f"{size_bytes >> 20} MiB, {inodes} files, nothing in it can be run")


def _bytes(text: str) -> int:
    factor = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}.get(text[-1:].lower(), 1)
    digits = text.rstrip("kmgKMG")
    return int(digits) * factor if digits.isdigit() else 0


def _tmp(seen: Seen, limits: Limits, gpu: str) -> Check:
    return _scratch("tmp", "/tmp", limits.tmp_bytes, limits.tmp_inodes, seen)


def _shm(seen: Seen, limits: Limits, gpu: str) -> Check:
    return _scratch("shared-memory", "/dev/shm", limits.shm_bytes, limits.shm_inodes, seen)


def _kernel_files(seen: Seen, limits: Limits, gpu: str) -> Check:
    points = ("/sys", "/proc/sys", "/proc/irq", "/proc/bus", "/proc/fs")
    return _must(
        "kernel-files",
        [f"{point} is not read-only" for point in points if "ro" not in _mount(seen, point)["options"]],
        "/sys and /proc/sys are read-only",
    )


def _masked(seen: Seen, limits: Limits, gpu: str) -> Check:
    return _must("masked", [f"{path} can be read" for path in seen["unmasked"]], "what tells of the host is empty")


def _memory(seen: Seen, limits: Limits, gpu: str) -> Check:
    cgroup = seen["cgroup"]
    wrong = []
    if cgroup["memory"] is None or cgroup["memory"] > limits.memory_bytes:
        wrong.append(f"memory limit {cgroup['memory']}")
    both, swap = cgroup["memory_and_swap"], cgroup["swap"]
    if both is not None and both > limits.memory_bytes:
        wrong.append(f"memory and swap {both}")
    # No number is a kernel that does not count swap, which is harmless where there is none.
    if both is None and swap != 0 and (swap is not None or cgroup["host_has_swap"]):
        wrong.append(f"swap {'without limit' if swap is None else swap}")
    return _must("memory", wrong, f"{limits.memory_bytes >> 20} MiB, and no swap")


def _processes(seen: Seen, limits: Limits, gpu: str) -> Check:
    pids = seen["cgroup"]["pids"]
    return _must("processes", [] if pids is not None and pids <= limits.pids else [f"limit {pids}"], f"{limits.pids}")


def _cpu(seen: Seen, limits: Limits, gpu: str) -> Check:
    cpus = seen["cgroup"]["cpus"]
    held = cpus is not None and cpus <= limits.cpu_count * 1.001
    return _must("cpu", [] if held else [f"quota {cpus}"], f"a quota of {limits.cpu_count:g}")


def _ulimits(seen: Seen, limits: Limits, gpu: str) -> Check:
    most = {
        "core": 1,  # 1 stops even a host's crash handler, see core-dumps
        "fsize": limits.file_bytes,
        "memlock": 64 << 10,
        "msgqueue": 0,
        "nice": 0,
        "nofile": limits.open_files,
        "rtprio": 0,
    }
    over = [
        f"{name} {seen['rlimits'][name]}"
        for name, value in most.items()
        if any(not 0 <= limit <= value for limit in seen["rlimits"][name])
    ]
    return _must("ulimits", over, "core files, file size, locked memory, queues, priority, open files")


def _network(seen: Seen, limits: Limits, gpu: str) -> Check:
    wrong = [f"interface {name}" for name in seen["interfaces"] if name != "lo"]
    return _must("network", wrong, "no interface but its own loopback")


def _names(seen: Seen, limits: Limits, gpu: str) -> Check:
    wrong = [f"nameserver {address}" for address in seen["nameservers"] if address != "127.0.0.1"]
    wrong += [line for line in seen["search"] if line.split()[1:] != ["."]]
    wrong += [f"{name} in /etc/hosts" for name in seen["hosts"] if name not in {*_LOCAL_NAMES, "sandbox"}]
    if seen["hostname"] != "sandbox":
        wrong.append(f"host name {seen['hostname']}")
    return _must("names", wrong, "no resolver; the host's names are not known")


def _sockets(seen: Seen, limits: Limits, gpu: str) -> Check:
    found = [*seen["sockets"], *seen["unix_sockets"]]
    wrong = [path for path in found if gpu == NO_GPU or "nvidia" not in path]
    return _must("sockets", wrong, "none can be reached")


def _environment(seen: Seen, limits: Limits, gpu: str) -> Check:
    wrong = []
    for name, value in seen["environment"].items():
        if name.startswith(_LIBRARIES_OWN) and name not in _ENVIRONMENT:
            continue
        wanted = _ENVIRONMENT.get(name, "") if name != "NVIDIA_VISIBLE_DEVICES" or gpu != NO_GPU else NO_GPU
        if name not in _ENVIRONMENT or (wanted is not None and value != wanted):
            wrong.append(f"{name} is set to something of its own")
    return _must("environment", wrong, "the fixed list")


def _devices(seen: Seen, limits: Limits, gpu: str) -> Check:
    devices = set(seen["devices"]) - _DEVICES
    cards = {path for path in devices if re.fullmatch(r"/dev/nvidia\d+", path)}
    if gpu != NO_GPU:
        devices = {path for path in devices if not path.startswith(("/dev/nvidia", "/dev/dri"))}
    wrong = sorted(devices) + ([f"{len(cards)} GPUs: {', '.join(sorted(cards))}"] if len(cards) > 1 else [])
    return _must("devices", wrong, "the six that every program needs" + (" and one GPU" if cards else ""))


def _mounts(seen: Seen, limits: Limits, gpu: str) -> Check:
    masked = set(masked_paths(gpu))
    points = {mount["point"] for mount in seen["mounts"]}
    # In a user namespace nobody can make devices, so the Engine mounts the host's.
    wrong = [point for point in sorted(points - masked - _DEVICES) if not _MOUNTS.fullmatch(point)]
    if gpu != NO_GPU:
        wrong = [point for point in wrong if not _GPU_MOUNT.fullmatch(point)]
    return _must("mounts", wrong, "nothing of the host's but three fixed files")


def _namespaces(seen: Seen, limits: Limits, gpu: str) -> Check:
    first = [name for name, inode in _FIRST_NAMESPACES.items() if seen["namespaces"].get(name) == f"{name}:[{inode}]"]
    wrong = [f"shares the host's {name} namespace" for name in first]
    wrong += [f"cgroup path {path}" for path in seen["cgroup"]["paths"] if path != "/"]
    return _must("namespaces", wrong, "its own cgroup, ipc, mount, network, pid and uts")


def _agent(seen: Seen, limits: Limits, gpu: str) -> Check:
    wrong = [] if seen["first_process"].startswith("python") else [f"process 1 is {seen['first_process']}"]
    if int(seen["agent_oom_score_adj"] or 0) < 100:
        wrong.append(f"its oom_score_adj is {seen['agent_oom_score_adj']}")
    return _must("agent", wrong, "process 1, and out of reach")


_JUDGES: tuple[Callable[[Seen, Limits, str], Check], ...] = (
    _user,
    _capabilities,
    _no_new_privileges,
    _system_call_filter,
    _refused,
    _set_id,
    _tools,
    _root,
    _tmp,
    _shm,
    _kernel_files,
    _masked,
    _memory,
    _processes,
    _cpu,
    _ulimits,
    _network,
    _names,
    _sockets,
    _environment,
    _devices,
    _mounts,
    _namespaces,
    _agent,
)

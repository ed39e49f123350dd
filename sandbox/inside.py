"""The look from inside: what a process in a sandbox is, sees and can do.

Standard library only, for it is sent into the sandbox as a job's module by `sandbox.inspection`,
which judges what it reports. Every attempt is made in a child of its own and does no harm where
it succeeds. Run as a program it prints its report, for containers without an agent.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import platform
import resource
import shutil
import socket
import stat
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

FINE = 0  # a child's exit code where the attempt succeeded; else it is the errno
UNTOLD = 255
CGROUP = "/sys/fs/cgroup"
# libc has no function for these. Numbers of x86-64 and of the generic table (aarch64); the newer are the same.
_CALLS = {
    "add_key": (248, 217),
    "bpf": (321, 280),
    "clone3": (435, 435),
    "fsopen": (430, 430),
    "io_uring_setup": (425, 425),
    "kcmp": (312, 272),
    "keyctl": (250, 219),
    "perf_event_open": (298, 241),
    "pidfd_getfd": (438, 438),
    "userfaultfd": (323, 282),
}
_X32_GETPID = 0x40000027
_CLONE_NEWNS, _CLONE_NEWUSER = 0x20000, 0x10000000
_TIOCSTI = 0x5412
_TOOLS = (
    *("apt", "apt-get", "pip", "pip3", "gcc", "cc", "c++", "clang", "ld", "as", "make"),
    *("curl", "wget", "nc", "ssh", "ip", "ping", "tcpdump", "gdb", "strace", "docker", "runc", "nvidia-smi"),
)
_FAMILIES = {  # family and type
    "inet": (2, socket.SOCK_STREAM),
    "inet6": (10, socket.SOCK_STREAM),
    "netlink": (16, socket.SOCK_RAW),
    "packet": (17, socket.SOCK_RAW),
    "alg": (38, socket.SOCK_SEQPACKET),
    "vsock": (40, socket.SOCK_STREAM),
}


def report(masked: Sequence[str] = ()) -> dict[str, Any]:
    """Everything that `sandbox.inspection` wants to know, as JSON values."""
    places = _places()
    return {
        "status": _status(),
        "rlimits": {
            name: _rlimit(name) for name in ("core", "fsize", "memlock", "msgqueue", "nice", "nofile", "rtprio")
        },
        "mounts": _mounts(),
        "cgroup": _cgroup(),
        "uid_map": _text("/proc/self/uid_map").split(),
        "agent_oom_score_adj": _text("/proc/1/oom_score_adj").strip(),
        "interfaces": sorted(filter(_is_up, (line.split(":")[0].strip() for line in _lines("/proc/net/dev")[2:]))),
        "namespaces": {name: _namespace(name) for name in ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")},
        "tools": [name for name in _TOOLS if shutil.which(name)],
        "first_process": _text("/proc/1/comm").strip(),
        "nameservers": [line.split()[1] for line in _lines("/etc/resolv.conf") if line.startswith("nameserver ")],
        "search": [line for line in _lines("/etc/resolv.conf") if line.startswith(("search", "domain"))],
        "hosts": sorted({name for line in _lines("/etc/hosts") for name in line.split("#")[0].split()[1:]}),
        "hostname": socket.gethostname(),
        "domain": _text("/proc/sys/kernel/domainname").strip(),
        "environment": dict(os.environ),
        "core_pattern": _text("/proc/sys/kernel/core_pattern").strip(),
        "kernel": platform.release(),
        "unix_sockets": [line.split()[7] for line in _lines("/proc/net/unix")[1:] if len(line.split()) > 7],
        "unmasked": [path for path in masked if _shows(path)],
        "attempts": {name: _attempt(call) for name, call in _attempts().items()},
        **places,
    }


# --- what there is --------------------------------------------------------------------


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _lines(path: str) -> list[str]:
    return _text(path).splitlines()


def _status() -> dict[str, str]:
    pairs = (line.partition(":") for line in _lines("/proc/self/status"))
    wanted = ("Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp")
    return {name: value.strip() for name, _, value in pairs if name in wanted}


def _is_up(interface: str) -> bool:
    """Some kernels give every network namespace idle tunnels."""
    return bool(int(_text(f"/sys/class/net/{interface}/flags").strip() or "1", 16) & 1)


def _namespace(name: str) -> str:
    try:
        return os.readlink(f"/proc/self/ns/{name}")
    except OSError:
        return ""


def _rlimit(name: str) -> list[int]:
    return list(resource.getrlimit(getattr(resource, f"RLIMIT_{name.upper()}")))


def _mounts() -> list[dict[str, Any]]:
    mounts = []
    for line in _lines("/proc/self/mountinfo"):
        here, _, there = line.partition(" - ")
        point, options = here.split()[4:6]
        kind, _, super_options = there.split(" ", 2)
        mounts.append({"point": point, "type": kind, "options": options.split(","), "super": super_options.split(",")})
    return mounts


def _number(*paths: str) -> int | None:
    """The number in the first of the files that is there; None for none, and for no limit."""
    words = next((words for path in paths if (words := _text(f"{CGROUP}/{path}").split())), [])
    return int(words[0]) if words and words[0].lstrip("-").isdigit() else None


def _cgroup() -> dict[str, Any]:
    quota, period = _number("cpu/cpu.cfs_quota_us", "cpu,cpuacct/cpu.cfs_quota_us"), _number("cpu/cpu.cfs_period_us")
    if words := _text(f"{CGROUP}/cpu.max").split():
        quota, period = int(words[0]) if words[0].isdigit() else None, int(words[1])
    return {
        "paths": sorted({line.split(":", 2)[2] for line in _lines("/proc/self/cgroup")}),
        "memory": _number("memory/memory.limit_in_bytes", "memory.max"),
        "memory_and_swap": _number("memory/memory.memsw.limit_in_bytes"),
        "swap": _number("memory.swap.max"),
        "host_has_swap": any(
            line.startswith("SwapTotal:") and line.split()[1] != "0" for line in _lines("/proc/meminfo")
        ),
        "pids": _number("pids/pids.max", "pids.max"),
        "cpus": quota / period if quota is not None and quota > 0 and period else None,
        "version": 2 if os.path.exists(f"{CGROUP}/cgroup.controllers") else 1,
    }


def _places() -> dict[str, list[str]]:
    """What can be written to, set-id files, devices and sockets of the whole tree but /proc and /sys."""
    found: dict[str, list[str]] = {"writable": [], "set_id": [], "devices": [], "sockets": []}
    for folder, names, files in os.walk("/"):
        if folder == "/":
            names[:] = [name for name in names if name not in ("proc", "sys")]
        if os.access(folder, os.W_OK):
            found["writable"].append(folder)
            if folder in ("/tmp", "/dev/shm"):
                names.clear()  # what the step itself put there
                continue
        for name in files:
            path = os.path.join(folder, name)
            mode = os.lstat(path).st_mode
            if stat.S_ISLNK(mode):
                continue
            if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
                found["devices"].append(path)
            elif stat.S_ISSOCK(mode):
                found["sockets"].append(path)
            elif os.access(path, os.W_OK):
                found["writable"].append(path)
            if mode & (stat.S_ISUID | stat.S_ISGID):
                found["set_id"].append(path)
    return {kind: sorted(paths)[:50] for kind, paths in found.items()}


def _shows(path: str) -> bool:
    """Whether a path that should be masked has anything in it."""
    try:
        if os.path.isdir(path):
            return bool(os.listdir(path))
        with open(path, "rb") as file:
            return bool(file.read(1))
    except OSError:
        return False


# --- what can be done -----------------------------------------------------------------


def _attempt(call: Callable[[], object]) -> str:
    """The name of the error that a call ends with, "" where it succeeds, a signal's number where it kills."""
    pid = os.fork()
    if pid == 0:
        code = FINE
        try:
            call()
        except OSError as error:
            code = error.errno or UNTOLD
        except BaseException:
            code = UNTOLD
        os._exit(code)
    status = os.waitpid(pid, 0)[1]
    if os.WIFSIGNALED(status):
        return f"signal {os.WTERMSIG(status)}"
    code = os.waitstatus_to_exitcode(status)
    return "" if code == FINE else errno.errorcode.get(code, str(code))


def _attempts() -> Mapping[str, Callable[[], object]]:
    libc = ctypes.CDLL(None, use_errno=True)
    column = {"x86_64": 0, "aarch64": 1}.get(platform.machine())

    def checked(result: int) -> None:
        if result == -1:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def function(name: str, *arguments: Any) -> Callable[[], None]:
        return lambda: checked(getattr(libc, name)(*arguments))

    def call(name: str, *arguments: Any) -> Callable[[], None]:
        assert column is not None
        number = _CALLS[name][column]
        return lambda: checked(libc.syscall(number, *arguments))

    def run_from(folder: str) -> Callable[[], None]:
        def run() -> None:
            path = f"{folder}/.inside-{os.getpid()}"
            with open(path, "wb") as file:
                file.write(b"#!/bin/sh\nexit 0\n")
            os.chmod(path, 0o700)
            try:
                if os.spawnv(os.P_WAIT, path, [path]) == 127:
                    raise OSError(errno.EACCES, "not executable")
            finally:
                os.unlink(path)

        return run

    def raise_limit() -> None:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (1 << 19, 1 << 19))
        except ValueError as error:  # Python's word for EPERM
            raise OSError(errno.EPERM, str(error)) from error

    def inject() -> None:
        _, slave = os.openpty()
        buffer = ctypes.c_char(b"x")
        checked(libc.ioctl(slave, _TIOCSTI, ctypes.byref(buffer)))

    def inject_nowhere() -> None:
        checked(libc.ioctl(0, _TIOCSTI, ctypes.byref(ctypes.c_char(b"x"))))

    def open_socket(family: int, kind: int) -> Callable[[], None]:
        return lambda: socket.socket(family, kind).close()

    attempts: dict[str, Callable[[], object]] = {
        f"socket_{name}": open_socket(family, kind) for name, (family, kind) in _FAMILIES.items()
    }
    attempts |= {
        "become_root": lambda: os.setresuid(0, 0, 0),
        "chown": lambda: os.chown("/tmp", 0, 0),
        "chroot": lambda: os.chroot("/tmp"),
        "clone_user_namespace": function("unshare", _CLONE_NEWUSER),
        "clone_mount_namespace": function("unshare", _CLONE_NEWNS),
        "enter_namespace": lambda: checked(libc.setns(os.open("/proc/self/ns/uts", os.O_RDONLY), 0)),
        "inject_terminal_input": inject,
        "ioctl_terminal_input": inject_nowhere,
        "inotify": function("inotify_init1", 0),
        "kernel_log": function("klogctl", 10, 0, 0),
        "mount": function("mount", b"none", b"/tmp", b"tmpfs", 0, 0),
        "node": lambda: os.mknod("/tmp/.inside-node", stat.S_IFCHR | 0o600, os.makedev(1, 3)),
        "raise_limit": raise_limit,
        "raise_priority": lambda: os.setpriority(os.PRIO_PROCESS, 0, -1),
        "realtime": lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)),
        "run_from_shm": run_from("/dev/shm"),
        "run_from_tmp": run_from("/tmp"),
        "set_hostname": lambda: socket.sethostname("other"),
        "splice": function("splice", -1, 0, -1, 0, 0, 0),
        "trace": function("ptrace", 0, 0, 0, 0),
        "read_other_memory": function("process_vm_readv", os.getpid(), 0, 0, 0, 0, 0),
        "shared_memory_sysv": function("shmget", 0, 4096, 0o1600),
        "queue_posix": function("syscall", 240 if column == 0 else 180, b"inside", os.O_CREAT | os.O_RDWR, 0o600, 0),
        "write_root": lambda: os.open("/etc/inside", os.O_CREAT | os.O_WRONLY),
        "write_cgroup": lambda: (
            os.mkdir(f"{CGROUP}/inside")
            if os.path.isfile(f"{CGROUP}/cgroup.procs")
            else os.mkdir(f"{CGROUP}/memory/inside")
        ),
        "write_sysctl": lambda: os.open("/proc/sys/kernel/hostname", os.O_WRONLY),
        "write_sysrq": lambda: os.open("/proc/sysrq-trigger", os.O_WRONLY),
        "write_dev": lambda: os.open("/dev/inside", os.O_CREAT | os.O_WRONLY),
        "read_mem_device": lambda: os.open("/dev/mem", os.O_RDONLY),
    }
    if os.getpid() != 1:
        attempts |= {
            "limit_agent": lambda: resource.prlimit(1, resource.RLIMIT_NOFILE, (3, 3)),
            "list_agent_descriptors": lambda: os.listdir("/proc/1/fd"),
            "read_agent_environment": lambda: os.open("/proc/1/environ", os.O_RDONLY),
            "read_agent_memory": lambda: os.open("/proc/1/mem", os.O_RDONLY),
            "trace_agent": function("ptrace", 16, 1, 0, 0),
        }
    if column is not None:
        attempts |= {
            "add_key": call("add_key", b"user", b"inside", b"x", 1, -2),
            "bpf": call("bpf", 0, 0, 0),
            "clone3": call("clone3", 0, 0),
            "fsopen": call("fsopen", b"tmpfs", 0),
            "io_uring": call("io_uring_setup", 1, bytes(120)),
            "kcmp": call("kcmp", os.getpid(), os.getpid(), 0, 0, 0),
            "keyctl": call("keyctl", 0, -3, 0),
            "perf": call("perf_event_open", bytes(128), 0, -1, -1, 0),
            "pidfd_getfd": call("pidfd_getfd", -1, 0, 0),
            "userfaultfd": call("userfaultfd", 1),
        }
    if column == 0:
        attempts["x32_call"] = lambda: checked(libc.syscall(_X32_GETPID))
    return attempts


def look(context: Any) -> None:
    """A step of a job: emit the report."""
    context.emit("inside", report(context.params["masked"]))


if __name__ == "__main__":
    print(json.dumps(report(sys.argv[1:])))

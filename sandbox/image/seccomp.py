"""Writes `seccomp.json`, the system calls of a sandbox: `python -m sandbox.image.seccomp`.

An allow-list by purpose. It began from what strace saw of torch's training, DataLoader workers,
threads, subprocess and asyncio, rounded up to whole families (a call and its `at` form, what
another architecture's libc uses instead), and stays without whatever has no use in training and
a history of holes, or reaches past the container. `--trace COMMAND…` runs a program under
strace and prints what it called that the list refuses, and what the list allows in vain.

Left out on purpose: ptrace, process_vm_*, pidfd_getfd, kcmp; io_uring, bpf, perf_event_open,
userfaultfd, keyctl and its kin; mount, pivot_root, chroot, unshare, setns, the new mount calls;
splice, tee, vmsplice; System V and POSIX queues and shared memory, which outlive a step;
inotify and fanotify, whose instances are counted per user of the host; syslog, quotactl, reboot,
module and clock calls; chown and mknod. Every architecture but the native one is refused whole.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PROFILE = Path(__file__).with_name("seccomp.json")
EPERM, ENOSYS = 1, 38

ALLOWED = {
    "files": """
        access faccessat faccessat2 chdir fchdir chmod fchmod fchmodat close close_range copy_file_range creat
        dup dup2 dup3 fadvise64 fallocate fcntl fdatasync flock fstat fstatfs fsync ftruncate getcwd getdents getdents64
        fgetxattr getxattr lgetxattr flistxattr listxattr llistxattr link linkat lseek lstat mkdir mkdirat newfstatat
        open openat openat2 pread64 preadv pwrite64 pwritev read readlink readlinkat readv rename renameat renameat2
        rmdir sendfile stat statfs statx symlink symlinkat sync_file_range truncate umask unlink unlinkat
        utime utimensat utimes write writev
    """,
    "waiting": """
        epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2 pipe pipe2 poll ppoll
        pselect6 select signalfd4 timerfd_create timerfd_gettime timerfd_settime
    """,
    # memfd_create is CUDA's; mbind and the memory policies are asked for by its and by OpenMP's libraries.
    "memory": """
        brk madvise mbind get_mempolicy set_mempolicy membarrier memfd_create mincore mlock munlock mmap mprotect
        mremap msync munmap
    """,
    "processes and threads": """
        execve execveat exit exit_group fork vfork futex futex_waitv get_robust_list set_robust_list getcpu getegid
        geteuid getgid getgroups getpgid getpgrp getpid getppid getpriority getresgid getresuid getrlimit getrusage
        getsid gettid getuid kill pause pidfd_open prctl restart_syscall rseq sched_get_priority_max
        sched_get_priority_min sched_getaffinity sched_getparam sched_getscheduler sched_rr_get_interval sched_yield
        set_tid_address setpgid setrlimit setsid tgkill times tkill wait4 waitid arch_prctl
    """,
    # Without a capability these say no more than the kernel does; a program may ask for what it has.
    "identity": "capget capset setgid setresgid setresuid setuid",
    "signals and timers": """
        alarm getitimer setitimer rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend
        rt_sigtimedwait rt_tgsigqueueinfo sigaltstack timer_create timer_delete timer_gettime timer_settime
        clock_getres clock_gettime clock_nanosleep gettimeofday nanosleep time
    """,
    "sockets once made": """
        accept accept4 bind connect getpeername getsockname getsockopt listen recvfrom recvmsg sendmsg sendto setsockopt
        shutdown
    """,
    "the machine": "getrandom sysinfo uname",
}

# ioctl by request: close-on-exec, non-blocking, how much there is to read, and whether it is a terminal and of
# what size. No TIOCSTI, which types into one. What CUDA asks of its devices: requests of type "F" (the driver) and
# of type 0 (unified memory, whose requests are bare numbers).
IOCTL_REQUESTS = (0x5421, 0x5450, 0x5451, 0x541B, 0x5401, 0x802C542A, 0x5413)
IOCTL_TYPES = (ord("F"), 0)
IOCTL_TYPE_MASK = 0xFF00

AF_UNIX = 1
CLONE_NEW = 0x7E020000  # every CLONE_NEW* flag that clone can take
QUERY_PERSONALITY = 0xFFFFFFFF


def _argument(index: int, value: int, mask: int | None = None) -> dict[str, Any]:
    if mask is None:
        return {"index": index, "value": value, "valueTwo": 0, "op": "SCMP_CMP_EQ"}
    return {"index": index, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"}


def _allow(names: list[str], *arguments: dict[str, Any]) -> dict[str, Any]:
    rule: dict[str, Any] = {"names": names, "action": "SCMP_ACT_ALLOW"}
    return rule | ({"args": list(arguments)} if arguments else {})


def profile() -> dict[str, Any]:
    """The profile in the Engine's form."""
    names = sorted({name for group in ALLOWED.values() for name in group.split()})
    architectures = ("SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64")
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": EPERM,
        "archMap": [{"architecture": name, "subArchitectures": []} for name in architectures],
        "syscalls": [
            _allow(names),
            _allow(["clone"], _argument(0, 0, CLONE_NEW)),
            # The filter cannot see clone3's flags; without it libc falls back to clone.
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS},
            _allow(["socket", "socketpair"], _argument(0, AF_UNIX)),
            _allow(["personality"], _argument(0, QUERY_PERSONALITY)),
            # Only for the caller itself: a step must not slow its agent down.
            _allow(["prlimit64", "sched_setaffinity", "sched_setscheduler"], _argument(0, 0)),
            _allow(["setpriority"], _argument(0, 0), _argument(1, 0)),
            *(_allow(["ioctl"], _argument(1, request)) for request in IOCTL_REQUESTS),
            *(_allow(["ioctl"], _argument(1, kind << 8, IOCTL_TYPE_MASK)) for kind in IOCTL_TYPES),
        ],
    }


def text() -> str:
    """What the file holds."""
    return json.dumps(profile(), indent=1) + "\n"


def trace(command: list[str]) -> tuple[set[str], set[str]]:
    """The calls of a program that the list has no rule for, and those that it allows in vain."""
    with tempfile.NamedTemporaryFile("r", encoding="utf-8") as log:
        subprocess.run(["strace", "-f", "-c", "-o", log.name, *command], check=True)
        rows = [line.split() for line in log if line[:1].isspace() and line.rstrip().split()[-1] != "total"]
    called = {row[-1] for row in rows if len(row) > 4 and row[0][0].isdigit()}
    ruled = {name for rule in profile()["syscalls"] for name in rule["names"]}
    return called - ruled, ruled - called


def main() -> None:
    """Write the profile, or trace a command."""
    if sys.argv[1:2] == ["--trace"]:
        refused, idle = trace(sys.argv[2:])
        print("called and refused:", *sorted(refused))
        print("allowed and not called:", *sorted(idle))
    else:
        PROFILE.write_text(text(), encoding="utf-8")


if __name__ == "__main__":
    main()

"""What every Sandbox promises, held against each backend with hostile steps.

One job per backend runs the whole table: every row is a step, and after every row a
canary step shows that the row left nothing behind. Rows that a plain process cannot
stand up to say which promise they rest on; the process sandbox must own up to each.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import docker
import numpy
import pytest

from sandbox.docker import DockerSandbox
from sandbox.image import agent
from sandbox.process import ProcessSandbox
from sandbox.spec import (
    Array,
    Job,
    Limits,
    RunResult,
    RunStatus,
    Sandbox,
    SandboxUnavailable,
    Step,
    StepResult,
)
from sandbox.template import LABEL, missing_limits

OK, NONZERO_EXIT, SIGNALED = RunStatus.OK, RunStatus.NONZERO_EXIT, RunStatus.SIGNALED
TIME_LIMIT, MEMORY_LIMIT = RunStatus.TIME_LIMIT, RunStatus.MEMORY_LIMIT
OUTPUT_LIMIT, NOT_RUN = RunStatus.OUTPUT_LIMIT, RunStatus.NOT_RUN

SUBMISSION = "print('héllo')\n".encode()
LIMITS = Limits(
    wall_time_s=120.0,
    memory_bytes=512 << 20,
    tmp_bytes=32 << 20,
    tmp_inodes=4096,
    output_bytes=2 << 20,
    output_tail_bytes=4096,
    evidence_bytes=4 << 20,
    evidence_frames=64,
)

PRELUDE = """
import asyncio, ctypes, errno, json, os, signal, socket, stat, struct, subprocess, sys, threading, time
import numpy, torch

libc = ctypes.CDLL(None, use_errno=True)

def evidence_fd():
    fds = [fd for fd in range(3, 256) if os.path.exists(f"/proc/self/fd/{fd}")]
    return next(fd for fd in fds if stat.S_ISFIFO(os.fstat(fd).st_mode))

def refusal(call, *args):
    'The name of the error that a call ends with, "" where it succeeds.'
    try:
        call(*args)
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error.errno))
    return ""

def kernel(name, *args):
    'The same for a function of libc, or for a system call by number.'
    ctypes.set_errno(0)
    result = libc.syscall(name, *args) if isinstance(name, int) else getattr(libc, name)(*args)
    return "" if result != -1 else errno.errorcode[ctypes.get_errno()]

def fork_sleeper():
    if os.fork() == 0:
        time.sleep(1000)
        os._exit(0)

def canary(c):
    shm = os.listdir("/dev/shm") if os.environ["HOME"] == "/tmp" else []
    pids = [int(n) for n in os.listdir("/proc") if n.isdigit()] if os.environ["HOME"] == "/tmp" else []
    with open(c.submission_path, "rb") as file:
        source = file.read()
    weight = torch.nn.Parameter(torch.ones(2))
    weight.sum().backward()
    c.emit("canary", {"home": sorted(os.listdir(os.environ["HOME"])), "cwd": os.listdir("."), "shm": shm,
                      "others": [pid for pid in pids if pid not in (1, os.getpid())],
                      "submission": source == c.submission_source == bytes.fromhex(c.params["submission"]),
                      "grad": weight.grad.tolist(), "nice": os.nice(0),
                      "stdout_is_pipe": stat.S_ISFIFO(os.fstat(1).st_mode)})
"""


def said(step: StepResult, index: int = 0) -> Any:
    """The data of one of the step's frames."""
    return json.loads(step.frames[index].header)["data"]


def remarked(text: str) -> Callable[[StepResult], bool]:
    """A check that the agent made a remark with this text."""
    return lambda step: any(text in remark for remark in step.remarks)


@dataclass(frozen=True)
class Row:
    """One hostile (or merely demanding) step and how it must end."""

    name: str
    body: str
    status: RunStatus | tuple[RunStatus, ...] = OK
    check: Callable[[StepResult], bool] = lambda step: True
    needs: str = ""  # the promise without which this row would do harm or prove nothing
    wall_time_s: float = 10.0
    cpu_time_s: float = 8.0


ROWS = (
    # How a process can end.
    Row("exits_at_once", "os._exit(0)"),
    Row("exits_with_status", "sys.exit(7)", NONZERO_EXIT, lambda s: s.exit_code == 7),
    Row("exits_with_message", "sys.exit('no')", NONZERO_EXIT, lambda s: s.exit_code == 1),
    Row("raises", "raise ValueError('x')", NONZERO_EXIT, lambda s: b"ValueError: x" in s.output_tail),
    Row("kills_itself", "os.kill(os.getpid(), 9)", SIGNALED, lambda s: s.signal == 9),
    Row("segfaults", "ctypes.string_at(0)", SIGNALED, lambda s: s.signal == 11),
    Row("aborts", "os.abort()", SIGNALED, lambda s: s.signal == 6),
    Row("stops_itself", "os.kill(os.getpid(), signal.SIGSTOP)", TIME_LIMIT, wall_time_s=0.5),
    Row("kills_its_group", "os.killpg(0, 9)", SIGNALED, lambda s: s.signal == 9),
    # Time.
    Row("sleeps", "time.sleep(100)", TIME_LIMIT, lambda s: 0.5 <= s.wall_time_s < 5, wall_time_s=0.5),
    Row("loops", "while True: pass", TIME_LIMIT, lambda s: 0.9 <= s.cpu_time_s < 4, cpu_time_s=1),
    Row("loops_past_sigxcpu", """
        signal.signal(signal.SIGXCPU, signal.SIG_IGN)
        while True: pass
        """, TIME_LIMIT, cpu_time_s=1),
    Row("spins_in_threads", """
        def spin():
            while True: numpy.ones(100000).sum()
        for _ in range(4): threading.Thread(target=spin).start()
        """, (OK, TIME_LIMIT), cpu_time_s=1, wall_time_s=2),
    Row("waits_for_its_threads", """
        thread = threading.Thread(target=time.sleep, args=(100,))
        thread.start(); thread.join()
        """, TIME_LIMIT, wall_time_s=0.5),
    Row("ignores_every_signal", """
        for number in set(signal.valid_signals()) - {9, 19, 32, 33}: signal.signal(number, signal.SIG_IGN)
        time.sleep(100)
        """, TIME_LIMIT, wall_time_s=0.5),
    # Output.
    Row("floods_stdout", "while True: os.write(1, b'x' * 65536)", OUTPUT_LIMIT,
        lambda s: s.output_bytes < 8 << 20 and len(s.output_tail) == 4096),
    Row("floods_stderr", "while True: os.write(2, b'x')", (OUTPUT_LIMIT, TIME_LIMIT), wall_time_s=3),
    Row("prints_nul_and_unicode", "print('\\0\\udc80 é'); os.write(2, b'\\xff\\0')", OK,
        lambda s: s.output_tail == b"\0\\udc80 \xc3\xa9\n\xff\0"),
    Row("raises_with_hostile_str", """
        class Bad(Exception):
            def __str__(self): raise self
        raise Bad
        """, NONZERO_EXIT),
    Row("raises_with_endless_str", """
        class Bad(Exception):
            def __str__(self):
                while True: pass
        raise Bad
        """, TIME_LIMIT, cpu_time_s=1),
    Row("raises_with_huge_str", "raise ValueError('x' * (8 << 20))", OUTPUT_LIMIT),
    Row("raises_base_exception", "raise BaseException('x')", NONZERO_EXIT),
    Row("recurses", "f = lambda: f()\nf()", NONZERO_EXIT),
    Row("closes_everything", "os.closerange(0, 256)"),
    Row("replaces_streams", "sys.stdout = sys.stderr = None"),
    # Evidence.
    Row("emits", """
        c.emit("a", {"nan": float("nan"), "inf": [-numpy.inf, 1e400], "n": numpy.int64(3), "t": (True, None)},
               {"x": c.arrays["x"], "s": numpy.arange(6).reshape(2, 3)[:, ::2], "b": numpy.array(True)})
        """, OK, lambda s: _emitted(s)),
    Row("arrays_are_writable_copies", "c.arrays['x'] += 1; c.emit('a', float(c.arrays['x'].sum()))", OK,
        lambda s: said(s) == 12.0),
    Row("emits_what_is_no_json", "c.emit('a', {1: 2})", NONZERO_EXIT),
    Row("emits_objects", "c.emit('a', None, {'x': numpy.array([object()])})", NONZERO_EXIT),
    Row("emits_from_threads", """
        threads = [threading.Thread(target=c.emit, args=("t", n, {"x": numpy.full(20000, n)}))
                   for n in range(16)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        """, OK, lambda s: sorted(said(s, n) for n in range(16)) == list(range(16))),
    Row("exits_while_emitting", """
        threading.Thread(target=c.emit, args=("t", 0, {"x": numpy.zeros(3 << 17)})).start()
        time.sleep(0.001); os._exit(0)
        """),
    Row("patches_what_emit_uses", """
        import builtins, json.encoder, _json
        json.dumps = json.JSONEncoder.encode = json.encoder.encode_basestring_ascii = lambda *a: "0"
        json.encoder.c_make_encoder = _json.encode_basestring_ascii = None
        os.write = struct.pack = struct.Struct = numpy.asarray = numpy.ndarray = numpy.generic = None
        builtins.len = builtins.isinstance = builtins.memoryview = builtins.dict = builtins.type = None
        c.emit("a", {"v": [1.5, "x"]}, {"x": c.arrays["x"]})
        """, OK, lambda s: said(s) == {"v": [1.5, "x"]} and len(s.frames[0].payload) == 32),
    Row("writes_garbage_evidence", "os.write(evidence_fd(), b'garbage' * 100)", OK,
        lambda s: not s.frames and remarked("malformed")(s)),
    Row("writes_half_a_frame", "os.write(evidence_fd(), struct.pack('<4sIQ', b'EVD1', 10, 10) + b'x')", OK,
        lambda s: not s.frames and remarked("within a frame")(s)),
    Row("writes_a_huge_length", """
        os.write(evidence_fd(), struct.pack("<4sIQ", b"EVD1", 1, 1 << 62)); time.sleep(9)
        """, OUTPUT_LIMIT, lambda s: not s.frames and remarked("more evidence")(s)),
    Row("writes_a_huge_header", "os.write(evidence_fd(), struct.pack('<4sIQ', b'EVD1', 1 << 31, 0))", OK,
        remarked("malformed")),
    Row("good_frame_before_garbage", "c.emit('a', 1); os.write(evidence_fd(), b'x' * 64)", OK,
        lambda s: said(s) == 1 and remarked("malformed")(s)),
    Row("floods_evidence_bytes", "while True: c.emit('a', None, {'x': numpy.zeros(100000)})", OUTPUT_LIMIT,
        lambda s: sum(len(f.payload) for f in s.frames) <= 4 << 20),
    Row("floods_evidence_frames", "while True: c.emit('a')", OUTPUT_LIMIT, lambda s: len(s.frames) == 64),
    Row("forges_a_wire_frame", "os.write(evidence_fd(), struct.pack('<4sIQ', b'ASY1', 2, 0) + b'{}')", OK,
        remarked("malformed")),
    # What a step leaves behind.
    Row("leaves_a_daemon", """
        if os.fork() == 0:
            os.setsid()
            if os.fork(): os._exit(0)
            for fd in range(256):  # keeps every pipe open, ignores what can be ignored
                with __import__("contextlib").suppress(OSError): os.dup(fd)
            signal.signal(signal.SIGHUP, signal.SIG_IGN); signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(1000)
        time.sleep(0.1)
        """, OK, remarked("outlived")),
    Row("leaves_a_subprocess", "subprocess.Popen(['sleep', '1000'], start_new_session=True)", OK,
        remarked("1 processes outlived")),
    Row("leaves_a_stopped_child", """
        if (pid := os.fork()) == 0: time.sleep(1000)
        os.kill(pid, signal.SIGSTOP)
        """, OK, remarked("outlived")),
    Row("daemon_writes_on", """
        if os.fork() == 0:
            while True: os.write(1, b"x"); os.write(evidence_fd(), b"x"); time.sleep(0.01)
        time.sleep(0.1)
        """),
    Row("rewrites_the_submission", "open(c.submission_path, 'w').write('evil')"),
    Row("replaces_the_submission_by_a_link", """
        os.remove(c.submission_path)
        os.symlink("/dev/null", c.submission_path)
        """),
    Row("replaces_its_directories", """
        home = os.environ["HOME"]
        os.remove(c.submission_path); os.rmdir(os.path.dirname(c.submission_path))
        os.symlink(c.params["outside"], os.path.dirname(c.submission_path))
        os.rmdir(home + "/work"); os.symlink(c.params["outside"], home + "/work")
        """),
    Row("digs_deep", """
        home = os.environ["HOME"]
        for _ in range(1500):
            os.mkdir("d" * 200); os.chdir("d" * 200)
        os.mkdir("locked"); os.chmod("locked", 0)
        os.mkdir(home + "/.assay-1"); open(home + "/.assay-2", "w").close()
        os.symlink(c.params["outside"], "link"); socket.socket(socket.AF_UNIX).bind("socket")
        """),
    Row("locks_its_home", """
        os.mkdir("a"); os.mkdir("a/b"); os.chmod("a", 0); os.chmod(".", 0)
        refusal(os.chmod, os.environ["HOME"], 0o500)
        """),
    Row("leaves_shared_memory", "open('/dev/shm/left', 'w').write('x')", needs="leftovers"),
    # Measured from outside.
    Row("is_measured", """
        data = numpy.ones(100 << 17)
        time.sleep(0.3); del data
        # Resets the high-water mark; what was seen from outside stays.
        open("/proc/self/clear_refs", "w").write("5")
        """, OK, lambda s: s.wall_time_s >= 0.1 and s.cpu_time_s > 0
        and s.peak_memory_bytes - s.baseline_memory_bytes > 90 << 20),
    Row("children_are_measured", """
        import resource
        if (pid := os.fork()) == 0:
            while time.process_time() < 0.3: pass
            os._exit(0)
        os.waitpid(pid, 0)
        """, OK, lambda s: s.cpu_time_s >= 0.3),
    # Honest programs must work.
    Row("trains", """
        model = torch.nn.Linear(4, 2)
        data = torch.utils.data.TensorDataset(torch.randn(64, 4), torch.randint(0, 2, (64,)))
        loader = torch.utils.data.DataLoader(data, 8, shuffle=True, num_workers=2)
        optimizer = torch.optim.AdamW(model.parameters())
        for inputs, labels in loader:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
        c.emit("a", torch.get_num_threads())
        """, OK, lambda s: said(s) == 1),
    Row("uses_the_system", """
        out = subprocess.run(["cat"], input=b"x", capture_output=True).stdout
        async def nothing(): await asyncio.sleep(0)
        asyncio.run(nothing())
        with __import__("multiprocessing").Pool(2) as pool: squares = pool.map(abs, [-1, -2])
        torch.save({"a": torch.ones(2)}, "model.pt"); torch.load("model.pt")
        c.emit("a", [out.decode(), squares, __import__("tempfile").gettempdir() == os.environ["HOME"]])
        """, OK, lambda s: said(s) == ["x", [1, 2], True]),
    Row("prepares_nothing_for_next", "os.nice(5); os.umask(0); os.environ['X'] = 'x'; torch.manual_seed(1)"),
    # What only a container holds.
    Row("kills_the_agent", "[os.kill(os.getppid(), n) for n in (15, 19, 9)]; os.kill(1, 9)",
        needs="user separation"),
    Row("kills_everyone", "c.emit('a', refusal(os.kill, -1, 9))", OK, lambda s: said(s) == "ESRCH",
        needs="user separation"),
    Row("reads_the_agent", """
        paths = ["environ", "mem", "maps", "fd", "cwd", "root", "exe", "stack", "io"]
        def look(name): os.listdir(name) if os.path.isdir(name) else open(name, "rb").read(1)
        c.emit("a", [refusal(look, f"/proc/1/{name}") if name not in ("cwd", "root", "exe")
                     else refusal(os.readlink, f"/proc/1/{name}") for name in paths])
        """, OK, lambda s: set(said(s)) <= {"EACCES", "EPERM"}, needs="user separation"),
    Row("writes_to_the_agent", """
        def write(name): os.write(os.open(name, os.O_WRONLY), b"0")
        names = ["mem", "oom_score_adj", "clear_refs", "comm", "fd/3", "timerslack_ns"]
        c.emit("a", [refusal(write, f"/proc/1/{name}") for name in names])
        """, OK, lambda s: set(said(s)) <= {"EACCES", "EPERM"}, needs="user separation"),
    Row("calls_the_kernel", """
        page = ctypes.create_string_buffer(64)
        c.emit("a", {
            "attach": kernel("ptrace", 16, 1, 0, 0), "traceme": kernel("ptrace", 0, 0, 0, 0),
            "prlimit": kernel("prlimit", 1, 7, page, None),
            "read": kernel("process_vm_readv", 1, page, 1, page, 1, 0),
            "priority": kernel("setpriority", 2, 0, 19), "agent priority": kernel("setpriority", 0, 1, 19),
            "affinity": kernel("sched_setaffinity", 1, 8, page), "unshare": kernel("unshare", 0x10000000),
            "mount": kernel("mount", b"none", b"/tmp", b"tmpfs", 0, None),
            "chroot": kernel("chroot", b"/tmp"),
            "shm": kernel("shmget", 1, 64, 0o1666), "mq": kernel("mq_open", b"/q", 0o102, 0o666, None),
            "io_uring": kernel(425, 4, page), "pidfd_getfd": kernel(438, 0, 0, 0),
            "setns": kernel("setns", 0, 0),
            "personality": kernel("personality", 0x0040000), "reboot": kernel("reboot", 0),
        })
        """, OK, lambda s: set(said(s).values()) <= {"EPERM", "EACCES"}, needs="system calls"),
    Row("connects", """
        kinds = {"inet": 2, "inet6": 10, "netlink": 16, "packet": 17, "vsock": 40, "alg": 38}
        c.emit("a", {name: refusal(socket.socket, kind) for name, kind in kinds.items()}
                    | {"unix": refusal(socket.socketpair), "interfaces": os.listdir("/sys/class/net")})
        """, OK, lambda s: _no_network(said(s)), needs="network"),
    Row("writes_outside", """
        def write(name): open(name + "/x", "w").write("x")
        places = ["/", "/usr", "/etc", "/dev", "/proc", "/sys", "/var/tmp", "/root", "/sys/fs/cgroup/memory",
                  "/usr/local/lib/python3.11/site-packages", "/run", "/dev/mqueue"]
        c.emit("a", {name: refusal(write, name) for name in places})
        """, OK, lambda s: "" not in said(s).values(), needs="file system writes"),
    Row("has_no_rights", """
        status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines())
        names = ("CapEff", "CapPrm", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Uid", "Groups")
        setid = subprocess.run("find / -xdev -perm /6000 -type f", shell=True, capture_output=True).stdout
        c.emit("a", {name: status[name].split() for name in names} | {
            "setid": setid.decode(), "agent": int(open("/proc/1/oom_score_adj").read()),
            "own": int(open("/proc/self/oom_score_adj").read()), "env": sorted(os.environ),
            "inside": [name for name in ("/var/run/docker.sock", "/.dockerenv/x") if os.path.exists(name)]})
        """, OK, lambda s: _no_rights(said(s)), needs="user separation"),
    Row("fills_tmp", """
        def fill():
            for n in range(100): open(f"/tmp/{n}", "wb").write(bytes(1 << 20))
        c.emit("a", [refusal(fill), len(os.listdir("/tmp"))])
        """, OK, lambda s: said(s)[0] == "ENOSPC" and said(s)[1] < 40, needs="tmp_bytes"),
    Row("uses_up_inodes", """
        def fill():
            for n in range(10000): open(f"/tmp/{n}", "w").close()
        c.emit("a", refusal(fill))
        """, OK, lambda s: said(s) == "ENOSPC", needs="tmp_inodes"),
    Row("executes_from_tmp", """
        open("x", "w").write("#!/bin/sh\\n"); os.chmod("x", 0o755)
        c.emit("a", refusal(os.execv, "./x", ["x"]))
        """, OK, lambda s: said(s) == "EACCES", needs="file system writes"),
    Row("forks_sleepers", """
        c.emit("a", refusal(lambda: [fork_sleeper() for _ in range(200)]))
        """, OK, lambda s: said(s) == "EAGAIN" and remarked("outlived")(s), needs="pids"),
    Row("forks_without_end", """
        while True:
            try: os.fork()
            except OSError: pass
        """, (TIME_LIMIT, SIGNALED), needs="pids", wall_time_s=1),
    Row("takes_all_memory", "held = [bytearray(16 << 20) for _ in range(1000)]", MEMORY_LIMIT,
        lambda s: s.signal == 9, needs="memory_bytes"),
    Row("child_takes_all_memory", """
        if (pid := os.fork()) == 0: held = [bytearray(16 << 20) for _ in range(1000)]
        raise SystemExit(os.waitpid(pid, 0)[1] != 0)
        """, MEMORY_LIMIT, needs="memory_bytes"),
    Row("spreads_memory", """
        code = "import time; held = b'x' * (40 << 20); time.sleep(100)"
        for _ in range(14): subprocess.Popen([sys.executable, "-S", "-c", code])
        time.sleep(3)
        """, (OK, MEMORY_LIMIT), needs="memory_bytes"),
)  # fmt: skip


def _emitted(step: StepResult) -> bool:
    header, payload = json.loads(step.frames[0].header), step.frames[0].payload
    x = numpy.arange(8, dtype="<f4").tobytes()
    s = numpy.array([[0, 2], [3, 5]], dtype="<i8").tobytes()
    return (
        header["data"] == {"nan": "nan", "inf": ["-inf", "inf"], "n": 3, "t": [True, None]}
        and [(a["key"], a["dtype"], a["shape"]) for a in header["arrays"]]
        == [("x", "<f4", [8]), ("s", "<i8", [2, 2]), ("b", "|b1", [])]
        and payload == x + s + b"\x01"
    )


def _no_network(data: dict[str, Any]) -> bool:
    unix, interfaces = data.pop("unix"), data.pop("interfaces")
    return unix == "" and set(interfaces) <= {"lo", "sit0", "tunl0", "ip6tnl0"} and "" not in data.values()


def _no_rights(data: dict[str, Any]) -> bool:
    no_capabilities = all(int(data[name][0], 16) == 0 for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb"))
    filtered = data["NoNewPrivs"] == ["1"] and data["Seccomp"] == ["2"]
    nobody = data["Uid"] == ["65534"] * 4 and set(data["Groups"]) <= {"65534"}
    separate = data["agent"] < data["own"] == 1000
    return no_capabilities and filtered and nobody and separate and not data["setid"] and not data["inside"]


def _source() -> bytes:
    """The probe module: a function per row, and the canary."""
    functions = [f"def {row.name}(c):\n" + textwrap.indent(textwrap.dedent(row.body), "    ") for row in ROWS]
    return "\n".join([PRELUDE, *functions]).encode()


def _steps(rows: tuple[Row, ...], outside: Path) -> Iterator[Step]:
    x = Array("<f4", (8,), numpy.arange(8, dtype="<f4").tobytes())
    x_small = Array("<f4", (4,), numpy.full(4, 2, dtype="<f4").tobytes())
    for row in rows:
        array = x_small if row.name == "arrays_are_writable_copies" else x
        params = {"outside": str(outside)}
        yield Step(row.name, f"hostile.rows:{row.name}", params, {"x": array}, row.wall_time_s, row.cpu_time_s)
        yield Step(f"after {row.name}", "hostile.rows:canary", {"submission": SUBMISSION.hex()})


def _job(*bodies: str, limits: Limits = LIMITS, **step: Any) -> Job:
    """A small job: one step per body."""
    functions = [f"def f{n}(c):\n" + textwrap.indent(body, "    ") for n, body in enumerate(bodies)]
    source = "\n".join([PRELUDE, *functions]).encode()
    steps = tuple(Step(f"s{n}", f"p:f{n}", **step) for n in range(len(bodies)))
    return Job(SUBMISSION, {"p": source}, steps, limits, "conformance")


# --- the backends ---------------------------------------------------------------------


@functools.cache
def _docker_sandbox() -> DockerSandbox:
    return DockerSandbox()


BACKENDS: tuple[Any, ...] = (
    pytest.param("docker", marks=[pytest.mark.docker]),
    pytest.param("process", marks=[pytest.mark.slow]),
)
docker_only = pytest.mark.docker


def make_sandbox(backend: str) -> Sandbox:
    """The backend; where there is no Engine or image this fails and says what to do."""
    return _docker_sandbox() if backend == "docker" else ProcessSandbox()


def rows_of(backend: str) -> tuple[Row, ...]:
    """The rows that a backend stands up to."""
    return ROWS if backend == "docker" else tuple(row for row in ROWS if not row.needs)


@pytest.fixture(scope="session")
def run_table(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], RunResult]:
    """Runs the whole table as one job, once per backend."""
    outside = tmp_path_factory.mktemp("outside")
    (outside / "precious").write_text("x")

    @functools.cache
    def attempt(backend: str) -> RunResult | Exception:
        try:
            return once(backend)
        except Exception as error:  # kept, so that a broken backend fails once and not per row
            return error

    def run(backend: str) -> RunResult:
        result = attempt(backend)
        if isinstance(result, Exception):
            raise result
        return result

    def once(backend: str) -> RunResult:
        steps = tuple(_steps(rows_of(backend), outside))
        job = Job(SUBMISSION, {"hostile.rows": _source()}, steps, LIMITS, "conformance")
        result = make_sandbox(backend).run(job)
        assert [path.name for path in outside.iterdir()] == ["precious"]
        return result

    return run


def _table() -> Iterator[Any]:
    for backend in BACKENDS:
        for row in rows_of(backend.values[0]):
            yield pytest.param(backend.values[0], row, marks=backend.marks, id=f"{backend.values[0]}-{row.name}")


@pytest.mark.parametrize(("backend", "row"), list(_table()))
def test_row_ends_as_promised_and_leaves_nothing(run_table: Callable[[str], RunResult], backend: str, row: Row) -> None:
    """A step ends with the right status, and the step after it finds a clean, working sandbox."""
    result = run_table(backend)
    step, canary = result.step(row.name), result.step(f"after {row.name}")
    assert step is not None and canary is not None
    assert step.status in (row.status if isinstance(row.status, tuple) else (row.status,)), step
    assert row.check(step), step
    assert canary.status is OK, canary
    assert said(canary) == {
        "home": ["submission", "work"],
        "cwd": [],
        "shm": [],
        "others": [],
        "submission": True,
        "grad": [1.0, 1.0],
        "nice": os.nice(0),
        "stdout_is_pipe": True,
    }


@pytest.mark.parametrize("backend", BACKENDS)
def test_result_describes_the_run(run_table: Callable[[str], RunResult], backend: str) -> None:
    """Timing, versions and memory of the whole are filled in, whatever the steps did."""
    result = run_table(backend)
    assert result.sandbox == backend
    assert set(result.versions) == {"python", "torch", "numpy"}
    assert result.timing.warm_up_s > 0 and result.timing.warm_up_cpu_s > 0
    assert result.timing.cpu_s > result.timing.warm_up_cpu_s
    assert result.timing.steps_s > 1 and result.timing.teardown_s < 10
    assert result.peak_memory_bytes > 100 << 20
    assert result.image_digest.startswith("sha256:") is (backend == "docker")


def test_process_sandbox_owns_up_to_what_it_cannot_hold() -> None:
    """Every promise that a row needs and a process lacks is in its own list."""
    owned = " ".join(ProcessSandbox().cannot_hold())
    assert [row.needs for row in ROWS if row.needs and row.needs not in owned] == []


@docker_only
def test_docker_sandbox_holds_them() -> None:
    """The Engine that the tests run against lacks none of them."""
    promises = {row.needs for row in ROWS if row.needs}
    assert [line for line in _docker_sandbox().cannot_hold() if line.split(":")[0] in promises] == []


# --- jobs -----------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_job_wall_time_ends_everything(backend: str) -> None:
    """The job's own limit ends the running step; those after it are not run."""
    limits = replace(LIMITS, wall_time_s=1.0)
    events: list[tuple[str, str]] = []
    job = _job("c.emit('a', 1)", "time.sleep(100)", "pass", limits=limits, wall_time_s=50.0)
    result = make_sandbox(backend).run(job, lambda *event: events.append(event))
    assert [step.status for step in result.steps] == [OK, TIME_LIMIT, NOT_RUN]
    assert events == [("s0", "begin"), ("s0", "end"), ("s1", "begin"), ("s1", "end")]


@pytest.mark.parametrize("backend", BACKENDS)
def test_broken_probes_are_not_the_candidates_fault(backend: str) -> None:
    """A probe module that does not compile is the infrastructure's fault."""
    job = replace(_job("pass"), modules={"p": b"def f0(c: broken"})
    with pytest.raises(SandboxUnavailable, match="SyntaxError"):
        make_sandbox(backend).run(job)


@pytest.mark.parametrize("backend", BACKENDS)
def test_jobs_run_side_by_side(backend: str) -> None:
    """One sandbox serves several threads; each gets its own job's evidence."""
    sandbox = make_sandbox(backend)
    jobs = [_job(f"c.emit('a', {n}); time.sleep(0.2)") for n in range(2)]
    with ThreadPoolExecutor() as pool:
        assert [said(result.steps[0]) for result in pool.map(sandbox.run, jobs)] == [0, 1]


@pytest.mark.parametrize("backend", BACKENDS)
def test_malformed_jobs_are_refused(backend: str) -> None:
    """A job that cannot be run is the caller's mistake and starts nothing."""
    sandbox = make_sandbox(backend)
    for job in (
        replace(_job("pass"), label="Up_per"),
        replace(_job("pass"), modules={"q": b""}),
        replace(_job("pass"), steps=(Step("a", "p:f0"), Step("a", "p:f0"))),
        replace(_job("pass"), steps=(Step("a", "p:f0", arrays={"x": Array("<f4", (3,), b"")}),)),
        replace(_job("pass"), steps=(Step("a", "p:f0", arrays={"x": Array("|O", (1,), bytes(8))}),)),
    ):
        with pytest.raises(ValueError):
            sandbox.run(job)


@pytest.mark.parametrize("backend", BACKENDS)
def test_failing_listener_leaves_nothing(backend: str) -> None:
    """What the caller's listener raises reaches the caller; the sandbox is gone all the same."""

    def listener(name: str, event: str) -> None:
        raise KeyError(name)

    with pytest.raises(KeyError):
        make_sandbox(backend).run(_job("pass"), listener)


@pytest.mark.slow
def test_process_sandbox_leaves_no_process_and_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a job neither its directory nor any process with it as HOME is left."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    daemon = "subprocess.Popen(['sleep', '1000'], start_new_session=True)"
    ProcessSandbox().run(_job(daemon, "time.sleep(100)", wall_time_s=0.5))
    limits = replace(LIMITS, memory_bytes=400 << 20)
    result = ProcessSandbox().run(_job("held = bytearray(500 << 20); time.sleep(1)", limits=limits))
    assert result.steps[0].status is MEMORY_LIMIT
    assert list(tmp_path.iterdir()) == []
    assert _processes_of(tmp_path) == []


@pytest.mark.slow
def test_process_sandbox_does_not_count_what_files_back(tmp_path: Path) -> None:
    """Libraries of a gigabyte, such as CUDA's, are no memory that a step holds; a cgroup drops them, too."""
    file = tmp_path / "library"
    with file.open("wb") as opened:
        opened.truncate(600 << 20)
    touch = f"""
        import mmap
        with open({str(file)!r}, 'rb') as opened:
            seen = mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ)
        sum(seen[at] for at in range(0, len(seen), 4096))
        time.sleep(1)
    """
    step = ProcessSandbox().run(_job(touch)).steps[0]
    assert step.status is OK
    assert step.peak_memory_bytes > LIMITS.memory_bytes


def _processes_of(base: Path) -> list[str]:
    return [pid for pid in os.listdir("/proc") if pid.isdigit() and str(base) in _environ(pid)]


def _environ(pid: str) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
    return ""


@pytest.mark.slow
def test_process_sandbox_says_when_its_agent_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a plain process cannot stop is at least told from the candidate's fault, and cleared away."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(SandboxUnavailable, match="left"):
        ProcessSandbox().run(_job("os.kill(os.getppid(), 9); time.sleep(100)"))
    assert list(tmp_path.iterdir()) == []
    assert _processes_of(tmp_path) == []


# --- the Engine -----------------------------------------------------------------------


@pytest.fixture
def engine() -> Iterator[Any]:
    """A client of the Engine, to see what is left there."""
    client = docker.APIClient(version="auto")
    yield client
    client.close()


def _containers(engine: Any) -> list[str]:
    return [item["Id"] for item in engine.containers(all=True, filters={"label": f"{LABEL}=conformance"})]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_step_that_cannot_show_more_than_a_hung_one_is_not_run(backend: str) -> None:
    """It costs the job no second time limit; one that hung only after its first frame stops nobody."""
    job = _job("while True: pass", "c.emit('here')\nwhile True: pass", "pass", "pass", cpu_time_s=1)
    unless = ("", "", "s0", "s1")
    steps = tuple(replace(step, unless_hung=name) for step, name in zip(job.steps, unless, strict=True))
    result = make_sandbox(backend).run(replace(job, steps=steps))
    assert [step.status for step in result.steps] == [TIME_LIMIT, TIME_LIMIT, NOT_RUN, OK]
    assert "s0" in result.steps[2].remarks[0]


@docker_only
def test_no_container_is_left(run_table: Callable[[str], RunResult], engine: Any) -> None:
    """Containers are removed whether the job ended well, at a limit or not at all."""
    run_table("docker")
    sandbox = _docker_sandbox()
    sandbox.prepare(LIMITS, "conformance").destroy()
    with pytest.raises(SandboxUnavailable, match=r"timed out|in time"):
        sandbox.prepare(replace(LIMITS, start_time_s=0.01), "conformance")
    assert _containers(engine) == []


@docker_only
def test_lost_container_is_the_infrastructures_fault(engine: Any) -> None:
    """A container that someone else kills mid-job is never the candidate's fault."""
    container = _docker_sandbox().prepare(LIMITS, "conformance")
    timer = threading.Timer(0.5, engine.kill, [container.id])
    timer.start()
    with pytest.raises(SandboxUnavailable, match="lost"):
        container.run(_job("time.sleep(100)"))
    timer.join()
    assert _containers(engine) == []


@docker_only
def test_container_ends_with_the_host_process(engine: Any) -> None:
    """Where the host's process dies, its container ends by itself, and whoever comes next removes it."""
    code = (
        "import sys, time; from sandbox.docker import DockerSandbox; from sandbox.spec import Limits\n"
        "c = DockerSandbox().prepare(Limits(), 'conformance'); print(c.id, flush=True)\n"
        "time.sleep(100)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        container_id = process.stdout.readline().strip()
        process.kill()
    engine.wait(container_id, timeout=30)
    (item,) = engine.containers(all=True, filters={"id": container_id})
    assert item["State"] == "exited"
    DockerSandbox()
    assert engine.containers(all=True, filters={"id": container_id}) == []


@docker_only
@pytest.mark.parametrize("sent_ahead", ["the same", "another version", "others"])
def test_what_is_sent_ahead_changes_nothing_but_the_time(sent_ahead: str) -> None:
    """Each step meets the modules of its own job, freshly imported where the stock is not what the job brings.

    By the time it runs they have no name any more, whichever they were.
    """
    body = "global count\ncount = globals().get('count', 0) + 1\n"
    body += "c.emit('m', [count, sorted(n for n in sys.modules if n in ('p', 'q', 'q.r')), os.getpid() > 1])\n"
    body += "c.emit('finders', [type(finder).__name__ for finder in sys.meta_path])\n"
    body += "c.emit('f', len(os.listdir('/proc/self/fd')))"
    job = _job(body, body)
    stock = {
        "the same": dict(job.modules),
        "another version": {"p": b"count = 40"},
        "others": {"q.r": b"", "q": b"import torch"},
    }[sent_ahead]
    container = _docker_sandbox().prepare(LIMITS, "conformance")
    container.stock(stock)
    assert container.alive()
    stocked = container.run(job)
    plain = _docker_sandbox().run(job)
    assert [step.status for step in stocked.steps] == [OK, OK]
    assert [step.frames for step in stocked.steps] == [step.frames for step in plain.steps]
    assert b"[1,[],true]" in stocked.steps[1].frames[0].header
    assert b"MemoryImporter" not in stocked.steps[1].frames[1].header


@docker_only
def test_a_process_that_died_while_it_waited_is_the_infrastructures_fault(engine: Any) -> None:
    """The submission was not there yet."""
    container = _docker_sandbox().prepare(LIMITS, "conformance")
    container.stock({"p": b""})
    pids = [int(row[1]) for row in engine.top(container.id)["Processes"]]
    os.kill(max(pids), signal.SIGKILL)
    while Path(f"/proc/{max(pids)}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z":
        time.sleep(0.01)
    with pytest.raises(SandboxUnavailable, match="waited"):
        container.run(_job("pass"))


@docker_only
def test_warm_container_takes_only_jobs_of_its_shape() -> None:
    """What a job may use is decided when its container is made; the rest comes with the job."""
    container = _docker_sandbox().prepare(LIMITS, "conformance")
    try:
        with pytest.raises(ValueError, match="limits"):
            container.run(_job("pass", limits=replace(LIMITS, memory_bytes=1 << 30)))
        assert container.run(_job("pass", limits=replace(LIMITS, wall_time_s=9.0))).steps[0].status is OK
        with pytest.raises(SandboxUnavailable, match="not ready"):
            container.run(_job("pass"))
    finally:
        container.destroy()


@docker_only
def test_step_that_gets_the_agent_killed_is_over_its_memory() -> None:
    """A step that trades its place with the agent before the OOM killer gains nothing by it."""
    body = """
open("/proc/self/oom_score_adj", "w").write("100")
code = "import time; held = b'x' * (40 << 20); time.sleep(100)"
for _ in range(14): subprocess.Popen([sys.executable, "-S", "-c", code])
time.sleep(100)
"""
    result = _docker_sandbox().run(_job("c.emit('a', 1)", body, "pass"))
    assert [step.status for step in result.steps] == [OK, MEMORY_LIMIT, NOT_RUN]
    assert len(result.steps[0].frames) == 1
    assert result.remarks


@docker_only
def test_missing_image_says_what_to_do() -> None:
    """Without the image the message names the command that builds it."""
    with pytest.raises(SandboxUnavailable, match="make image"):
        DockerSandbox(image="assay-sandbox:none").prepare(LIMITS)


def test_unreachable_engine_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without an Engine the message names the command that starts one."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # docker-py drops the socket it cannot connect
        with pytest.raises(SandboxUnavailable, match="make engine"):
            DockerSandbox()
        gc.collect()


def test_limits_that_the_engine_dropped_are_noticed() -> None:
    """An Engine that cannot limit says so only by a zero in the container's HostConfig."""
    assert "memory" in missing_limits({"Memory": 0, "PidsLimit": 64}, Limits())
    assert "pids" not in missing_limits({"Memory": 0, "PidsLimit": 64}, Limits())


@pytest.mark.parametrize(
    "files",
    [
        pytest.param(
            {
                "memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
                "memory/memory.limit_in_bytes": "1000\n",
                "memory/memory.max_usage_in_bytes": "900\n",
                "pids/pids.max": "max\n",
                "cpuacct/cpuacct.usage": "1500000000\n",
            },
            id="v1",
        ),
        pytest.param(
            {
                "memory.events": "low 0\nhigh 0\nmax 7\noom 4\noom_kill 3\n",
                "memory.max": "1000\n",
                "memory.peak": "900\n",
                "pids.max": "max\n",
                "cpu.stat": "usage_usec 1500000\nuser_usec 1\n",
            },
            id="v2",
        ),
    ],
)
def test_agent_reads_both_versions_of_cgroups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str]
) -> None:
    """Out-of-memory kills, limits and use are found where either version of the kernel puts them."""
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(agent, "CGROUP", str(tmp_path))
    assert agent.oom_kills() == 3
    assert agent.cgroup_account() == {
        "memory_limit_bytes": 1000,
        "pids_limit": agent.NO_LIMIT,
        "peak_memory_bytes": 900,
        "cpu_s": 1.5,
    }

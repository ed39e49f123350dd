"""The agent: the one process inside a sandbox that is not the candidate's.

Theory of operation
-------------------
The agent is pid 1 of a container (or, in the development sandbox, a plain child of the
host process). It imports torch and its optimizers, says `ready`, reads one job from its
stdin, runs the job's steps one after the other and says `done`. One agent, one job.

    host  --job-->  agent  --fork-->  step process (probes + submission, hostile)
    host  <--------  agent  <--pipe--  evidence frames
           ready, begin, evidence, end, done     <--pipe--  stdout + stderr

Who may do what. Agent and step run under the same uid with the same seccomp filter, so
what keeps them apart is the kernel: the agent is not dumpable (no /proc/1/mem, fd or
environ for others), pid 1 ignores signals that come from inside its own pid namespace,
and the filter lets no process trace or prlimit another one. The frames to the host leave
on a private descriptor that no child inherits.

Who kills whom. The agent polls with a timeout, always: it ends a step at its wall limit,
CPU limit, output limit, evidence limit, or the job's wall limit. After every step, however
it ended, it kills every process but itself and reaps until none is left, then empties the
writable directories, so that nothing of a step meets the next one. If processes will not
die the agent gives up and the host destroys the container. The host holds deadlines of
its own and trusts none of the above for them.

What is measured. Wall and CPU time, memory, exit status and signals are taken from
outside the step's process. Everything a step writes is relayed as opaque bytes; only
lengths are looked at, and each is checked before anything is allocated for it.

This file imports nothing of the project: it is copied alone into the image. The host's
half of the protocol is `sandbox/protocol.py`; a test holds the constants equal.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import gc
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import linecache
import os
import random
import resource
import select
import signal
import stat
import struct
import sys
import time
import traceback
import types
from _json import encode_basestring_ascii
from _thread import allocate_lock
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, TextIO

WIRE_MAGIC = b"ASY1"  # frames between host and agent
EVIDENCE_MAGIC = b"EVD1"  # frames from a step to the agent
FRAME = struct.Struct("<4sIQ")  # magic, length of the JSON header, length of the payload
MAX_JOB_HEADER_BYTES = 8 << 20
MAX_JOB_PAYLOAD_BYTES = 512 << 20
MAX_EVIDENCE_HEADER_BYTES = 1 << 20

BACKLOG_BYTES = 8 << 20  # unsent bytes above which a step's evidence is left in its pipe
POLL_S = 0.02  # how often memory and CPU time of a step are looked at
DEATH_S = 10.0  # how long killed processes may take to be gone
PIPE_BYTES = 1 << 20
PR_SET_DUMPABLE = 4
PR_SET_CHILD_SUBREAPER = 36
CGROUP = "/sys/fs/cgroup"
NO_LIMIT = 1 << 62
PAGE_BYTES = resource.getpagesize()
TICKS = os.sysconf("SC_CLK_TCK")

Json = dict[str, Any]


class AgentError(Exception):
    """The agent cannot go on; the host is told and gives the sandbox up."""


# --- the kernel's small print ---------------------------------------------------------


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise AgentError(f"prctl({option}) failed: {os.strerror(ctypes.get_errno())}")


def _read_text(path: str) -> str:
    """The text of a kernel file, "" where it cannot be read."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _read_counter(path: str, key: str = "") -> int | None:
    """A number from a cgroup file: the whole file, or the value after `key`. "max" is no limit."""
    for line in _read_text(path).splitlines():
        words = line.split()
        if words and (not key or words[0] == key):
            return NO_LIMIT if words[-1] == "max" else int(words[-1]) if words[-1].isdigit() else None
    return None


def _first_counter(*places: tuple[str, str]) -> int | None:
    numbers = (_read_counter(path, key) for path, key in places)
    return next((number for number in numbers if number is not None), None)


def oom_kills() -> int:
    """How often the kernel killed for memory in this container (cgroup v1 or v2)."""
    return (
        _first_counter((f"{CGROUP}/memory/memory.oom_control", "oom_kill"), (f"{CGROUP}/memory.events", "oom_kill"))
        or 0
    )


def cgroup_account() -> Json:
    """Limits and use of the container as its own cgroup tells; None where it does not."""
    cpu_ns = _first_counter((f"{CGROUP}/cpuacct/cpuacct.usage", ""), (f"{CGROUP}/cpu,cpuacct/cpuacct.usage", ""))
    cpu_us = _first_counter((f"{CGROUP}/cpu.stat", "usage_usec"))
    return {
        "memory_limit_bytes": _first_counter(
            (f"{CGROUP}/memory/memory.limit_in_bytes", ""), (f"{CGROUP}/memory.max", "")
        ),
        "pids_limit": _first_counter((f"{CGROUP}/pids/pids.max", ""), (f"{CGROUP}/pids.max", "")),
        "peak_memory_bytes": _first_counter(
            (f"{CGROUP}/memory/memory.max_usage_in_bytes", ""), (f"{CGROUP}/memory.peak", "")
        ),
        "cpu_s": cpu_ns / 1e9 if cpu_ns is not None else cpu_us / 1e6 if cpu_us is not None else None,
    }


def return_free_memory() -> None:
    """Give the heap's free pages back: they would count in the next step's resident set."""
    for release in ("MallocExtension_ReleaseFreeMemory", "malloc_trim"):  # tcmalloc's, the C library's
        with contextlib.suppress(AttributeError):  # not every image has the one, nor every libc the other
            getattr(ctypes.CDLL(None), release)(0)


def resident_bytes(pid: int) -> int:
    """Resident set of a process, 0 where it is gone. statm needs no right to trace it."""
    words = _read_text(f"/proc/{pid}/statm").split()
    return int(words[1]) * PAGE_BYTES if len(words) > 1 else 0


def file_backed_bytes(pid: int) -> int:
    """The part of a resident set that files back, such as libraries: the kernel can drop it, and cgroups do."""
    lines = _read_text(f"/proc/{pid}/status").splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssFile:")), 0)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, all its threads and its waited children."""
    text = _read_text(f"/proc/{pid}/stat")
    words = text[text.rfind(")") + 1 :].split()
    return sum(map(int, words[11:15])) / TICKS if len(words) > 15 else 0.0


# --- frames to and from the host ------------------------------------------------------


def receive_raw(fd: int) -> tuple[Json, bytes, Sequence[bytes]]:
    """The host's next frame: its header, its payload, and the parts that it came in.

    Raises EOFError where the host has left.
    """
    head = _exactly(fd, FRAME.size)
    magic, header_bytes, payload_bytes = FRAME.unpack(head)
    if magic != WIRE_MAGIC:
        raise AgentError("the host does not speak this protocol")
    if header_bytes > MAX_JOB_HEADER_BYTES or payload_bytes > MAX_JOB_PAYLOAD_BYTES:
        raise AgentError("the host's frame is longer than the protocol allows")
    text = _exactly(fd, header_bytes)
    payload = _exactly(fd, payload_bytes)
    return json.loads(text), payload, (head, text, payload)


def _exactly(fd: int, size: int) -> bytes:
    data = bytearray(size)
    view, filled = memoryview(data), 0
    while filled < size:
        chunk = os.readv(fd, [view[filled:]])
        if not chunk:
            raise EOFError("the host left")
        filled += chunk
    return bytes(data)


class HostWire:
    """The private descriptors to the host: blocking reads, queued non-blocking writes."""

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self.read_fd, self.write_fd = read_fd, write_fd
        os.set_blocking(write_fd, False)
        self.backlog_bytes = 0
        self._queue: deque[memoryview] = deque()

    def send(self, header: Json, *payload: bytes) -> None:
        """Queue a frame and write as much of the queue as goes without waiting."""
        text = json.dumps(header).encode()
        head = FRAME.pack(WIRE_MAGIC, len(text), sum(map(len, payload))) + text
        for part in (head, *payload):
            if part:
                self._queue.append(memoryview(part))
                self.backlog_bytes += len(part)
        self.pump()

    def pump(self) -> None:
        """Write what the host takes now. Raises EOFError where the host has left."""
        while self._queue:
            try:
                count = os.write(self.write_fd, self._queue[0])
            except BlockingIOError:
                return
            except OSError as error:
                raise EOFError("the host left") from error
            self.backlog_bytes -= count
            if count == len(self._queue[0]):
                self._queue.popleft()
            else:
                self._queue[0] = self._queue[0][count:]

    def flush(self, deadline: float) -> None:
        """Write the whole queue. Raises EOFError where the host does not read by `deadline`."""
        poller = select.poll()
        poller.register(self.write_fd, select.POLLOUT)
        self.pump()
        while self._queue:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise EOFError("the host stopped reading")
            poller.poll(left_s * 1000)
            self.pump()


# --- the job --------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """One step of the job as it came over the wire."""

    index: int
    name: str
    entry: str
    params: Json
    arrays: Mapping[str, tuple[str, tuple[int, ...], memoryview]]
    wall_time_s: float
    cpu_time_s: float
    unless_hung: str
    sees_gpu: bool


@dataclass(frozen=True)
class Job:
    """Submission, compiled probe modules, steps and limits."""

    submission: bytes
    modules: Mapping[str, tuple[types.CodeType, str]]
    steps: Sequence[Step]
    limits: Json


def module_filename(name: str) -> str:
    """What tracebacks show for a probe module that only lives in memory."""
    return f"<assay:{name}>"


def cutter(payload: bytes) -> Callable[[int], memoryview]:
    """Gives the payload's parts one after the other, each by its size."""
    view, offset = memoryview(payload), 0

    def take(size: int) -> memoryview:
        nonlocal offset
        if size < 0 or offset + size > len(view):
            raise AgentError("a frame's payload is shorter than its header says")
        offset += size
        return view[offset - size : offset]

    return take


Modules = dict[str, tuple[types.CodeType, str]]  # by name: compiled, and the source


def parse_modules(described: Sequence[Json], take: Callable[[int], memoryview], stock: Modules) -> Modules:
    """Module sources in header order, compiled; not again where `stock` has the same."""
    modules = {}
    for module in described:
        name, source = module["name"], bytes(take(module["size"])).decode()
        known = stock.get(name)
        if known is None or known[1] != source:
            known = compile(source, module_filename(name), "exec", dont_inherit=True), source
        modules[name] = known
    return modules


def parse_job(header: Json, payload: bytes, stock: Modules) -> Job:
    """Cut the payload into submission, module sources and arrays, in header order."""
    if header.get("type") != "job":
        raise AgentError("expected a job")
    take = cutter(payload)
    submission = bytes(take(header["submission_bytes"]))
    modules = parse_modules(header["modules"], take, stock)
    steps = []
    for index, step in enumerate(header["steps"]):
        arrays = {a["name"]: (a["dtype"], tuple(a["shape"]), take(a["size"])) for a in step["arrays"]}
        steps.append(
            Step(
                index,
                step["name"],
                step["entry"],
                step["params"],
                arrays,
                step["wall_time_s"],
                step["cpu_time_s"],
                step["unless_hung"],
                step["sees_gpu"],
            )
        )
    return Job(submission, modules, steps, header["limits"])


# --- inside the step's process --------------------------------------------------------


class MemoryImporter(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports the job's modules from memory; their parents become empty packages."""

    def __init__(self, modules: Mapping[str, tuple[types.CodeType, str]]) -> None:
        self._modules = modules
        self._packages = {name.rsplit(".", depth)[0] for name in modules for depth in range(1, name.count(".") + 1)}

    def find_spec(
        self, fullname: str, path: object = None, target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        """A spec for a module of the job or one of its parents, else None."""
        if fullname not in self._modules and fullname not in self._packages:
            return None
        origin = module_filename(fullname) if fullname in self._modules else None
        return importlib.machinery.ModuleSpec(fullname, self, origin=origin, is_package=fullname in self._packages)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        """The default module will do."""

    def exec_module(self, module: types.ModuleType) -> None:
        """Run the code that the agent compiled before it forked."""
        entry = self._modules.get(module.__name__)
        if entry is not None:
            code, source = entry
            module.__file__ = code.co_filename
            # An mtime of None tells linecache.checkcache to keep the entry.
            linecache.cache[code.co_filename] = (len(source), None, source.splitlines(True), code.co_filename)
            exec(code, module.__dict__)

    def get_source(self, fullname: str) -> str | None:
        """The source text, for inspect and linecache."""
        return self._modules[fullname][1] if fullname in self._modules else None


def make_json() -> Callable[[object], str]:
    """A JSON encoder that nothing the submission patches can alter.

    JSON has no word for them, so the floats nan, inf and -inf become the strings "nan",
    "inf" and "-inf". Numpy's scalars count as the Python number they hold. Anything that
    is neither a JSON value nor a tuple raises TypeError.
    """
    import numpy

    # Locals: a patched builtins or json module is never looked at after this point.
    quote, isinstance_, type_, join = encode_basestring_ascii, isinstance, type, ",".join
    int_repr, float_repr, float_, int_, bool_, str_ = int.__repr__, float.__repr__, float, int, bool, str
    dict_, dict_items, list_, tuple_, none_type = dict, dict.items, list, tuple, type(None)
    generic, generic_item, type_error = numpy.generic, numpy.generic.item, TypeError

    def encode(value: Any) -> str:
        if isinstance_(value, generic):
            value = generic_item(value)
        if value is None or isinstance_(value, none_type):
            return "null"
        if isinstance_(value, bool_):
            return "true" if value is True else "false"
        if isinstance_(value, str_):
            return quote(value)
        if isinstance_(value, int_):
            return int_repr(value)
        if isinstance_(value, float_):
            text = float_repr(value)
            return f'"{text}"' if text in ("nan", "inf", "-inf") else text
        if isinstance_(value, (list_, tuple_)):
            return "[" + join([encode(item) for item in value]) + "]"
        if isinstance_(value, dict_):
            return "{" + join([key(k) + ":" + encode(v) for k, v in dict_items(value)]) + "}"
        raise type_error(f"not a JSON value: {type_(value)!r}")

    def key(value: Any) -> str:
        if not isinstance_(value, str_):
            raise type_error("the keys of a JSON object are strings")
        return quote(value)

    return encode


def make_emit(evidence_fd: int) -> Callable[..., None]:
    """The probes' `emit(name, data=None, arrays=None)`, writing to `evidence_fd`.

    Every function it needs is captured here, before the submission is loaded, so that a
    submission that patches json, os, struct, numpy or builtins changes nothing. It keeps
    nobody from writing to the descriptor: frames are evidence, never verdicts.
    """
    import numpy

    encode, lock, write, pack = make_json(), allocate_lock(), os.write, FRAME.pack
    asarray, tobytes, view_, len_ = numpy.asarray, numpy.ndarray.tobytes, memoryview, len
    dict_, dict_items, list_, join, type_error = dict, dict.items, list, b"".join, TypeError
    ascii_encode, magic = str.encode, EVIDENCE_MAGIC

    def write_all(data: bytes) -> None:
        rest = view_(data)
        while len_(rest):
            rest = rest[write(evidence_fd, rest) :]

    def emit(name: str, data: object = None, arrays: Mapping[str, object] | None = None) -> None:
        """Write one evidence frame: a name, a JSON-able value, numpy arrays by key.

        Non-finite floats arrive as the strings "nan", "inf" and "-inf".
        Raises TypeError for what cannot be written, OSError where the agent stopped listening.
        """
        described: list[object] = []
        chunks: list[bytes] = []
        for key, value in dict_items(dict_(arrays or {})):
            array = asarray(value)
            if array.dtype.kind not in "biufc":
                raise type_error(f"array {key!r} is not numeric: {array.dtype}")
            described.append({"key": key, "dtype": array.dtype.str, "shape": list_(array.shape)})
            chunks.append(tobytes(array))
        payload = join(chunks)
        header = ascii_encode(encode({"name": name, "data": data, "arrays": described}))
        with lock:
            write_all(pack(magic, len_(header), len_(payload)) + header)
            write_all(payload)

    return emit


class Context:
    """What a step's entry function gets.

    step: the step's name. params: its JSON values. arrays: name -> writable numpy array.
    submission_path: the submission as a file. submission_source: the same as bytes.
    emit(name, data=None, arrays=None): writes an evidence frame; safe from any thread.
    """

    def __init__(self, step: Step, submission_path: str, submission_source: bytes, emit: Callable[..., None]) -> None:
        import numpy

        self.step, self.params = step.name, step.params
        self.submission_path, self.submission_source = submission_path, submission_source
        self.emit = emit
        self.arrays = {
            name: numpy.frombuffer(data, numpy.dtype(dtype)).reshape(shape).copy()
            for name, (dtype, shape, data) in step.arrays.items()
        }


def _set_limit(kind: int, soft: int, hard: int | None = None) -> None:
    """Set a resource limit, never above the hard one already there."""
    ceiling = resource.getrlimit(kind)[1]
    wanted = soft if hard is None else hard
    hard = wanted if ceiling == resource.RLIM_INFINITY else min(wanted, ceiling)
    resource.setrlimit(kind, (min(soft, hard), hard))


def become_candidate(step: Step, limits: Json, work_dir: str, output_fd: int, evidence_fd: int) -> int:
    """Turn a freshly forked child into the step's process; gives the evidence descriptor."""
    os.setsid()
    _prctl(PR_SET_DUMPABLE, 1)  # CUDA writes to /proc/self/task/*/comm, which needs it
    # Where memory runs out, the kernel shall choose the step before the agent.
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("1000")
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(output_fd, 1)
    os.dup2(output_fd, 2)
    open_files = int(limits["open_files"])
    evidence_at = random.SystemRandom().randrange(open_files // 2, open_files)
    os.dup2(evidence_fd, evidence_at, inheritable=False)
    os.closerange(3, evidence_at)
    os.closerange(evidence_at + 1, 1 << 20)
    cpu_s = max(1, -int(-step.cpu_time_s // 1))
    _set_limit(resource.RLIMIT_CORE, 1)  # 0 would still let a crash handler of the host read it from a pipe
    _set_limit(resource.RLIMIT_FSIZE, int(limits["file_bytes"]))
    _set_limit(resource.RLIMIT_NOFILE, open_files)
    _set_limit(resource.RLIMIT_CPU, cpu_s, cpu_s + 1)
    os.chdir(work_dir)
    return evidence_at


def _text_stream(fd: int) -> TextIO:
    return open(fd, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)


def take_stock(modules: Modules) -> None:
    """Import the modules that the job is expected to bring, before it comes: they are ours, not the submission's."""
    importer = MemoryImporter(modules)
    sys.meta_path.insert(0, importer)
    for name in modules:
        importlib.import_module(name)
    sys.meta_path.remove(importer)


def put_away(stock: Modules) -> None:
    """Forget modules of ours, and how they are found. Whoever holds them keeps them."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, MemoryImporter)]
    for name in [n for n in sys.modules if any(n == s or s.startswith(n + ".") for s in stock)]:
        del sys.modules[name]


def prepare_interpreter(
    modules: Mapping[str, tuple[types.CodeType, str]], sees_gpu: bool = False, gpu_memory_bytes: int = 0
) -> None:
    """Make the forked interpreter look like one that was started for the submission."""
    import torch

    if torch.version.cuda is not None and not sees_gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # read when CUDA is first asked for, which nobody did before the fork
    elif gpu_memory_bytes and torch.version.cuda is not None and torch.cuda.is_available():
        total_bytes = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, gpu_memory_bytes / total_bytes))

    for variable in [name for name in os.environ if name.startswith("ASSAY_")]:
        if variable == "ASSAY_THREADS":
            # Only now: a thread pool started before the fork would hang the child.
            torch.set_num_threads(int(os.environ[variable]))
        del os.environ[variable]
    # New streams, for the agent's own may have been made for files or with nothing to write to.
    out, error = _text_stream(1), _text_stream(2)
    vars(sys).update(stdout=out, __stdout__=out, stderr=error, __stderr__=error)
    sys.argv = ["submission.py"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    sys.meta_path.insert(0, MemoryImporter(modules))


def step_process(step: Step, job: Job, stock: Modules, submission_path: str, evidence_fd: int) -> NoReturn:
    """Run the step's entry function and leave. Never returns to the agent's code."""
    leave, code = os._exit, 0
    try:
        if dict(job.modules) != stock:
            put_away(stock)
        prepare_interpreter(job.modules, step.sees_gpu, int(job.limits.get("gpu_memory_bytes") or 0))
        context = Context(step, submission_path, job.submission, make_emit(evidence_fd))
        module_name, _, function_name = step.entry.partition(":")
        entry = getattr(importlib.import_module(module_name), function_name)
        put_away(dict(job.modules))  # a submission that looks about finds none of ours by name
        entry(context)
    except SystemExit as stop:
        code = stop.code & 0xFF if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        code = 1
        with contextlib.suppress(BaseException):  # a hostile __str__ may do anything
            traceback.print_exc()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(BaseException):
            stream.flush()
    leave(code)


# --- the ground a step stands on ------------------------------------------------------


def empty_directory(path: str) -> None:
    """Remove everything below `path`, however deep and whatever its modes.

    Nested directories are first moved up to `path`: neither Python's stack nor the length
    of a path then limits how deep a step may have dug. No other process may be running.
    """
    top = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        moved = 0
        while names := os.listdir(top):
            for name in names:
                if not stat.S_ISDIR(os.lstat(name, dir_fd=top).st_mode):
                    os.unlink(name, dir_fd=top)
                    continue
                os.chmod(name, 0o700, dir_fd=top)
                moved = _empty_into(top, name, moved)
                os.rmdir(name, dir_fd=top)
    finally:
        os.close(top)


def _empty_into(top: int, name: str, moved: int) -> int:
    """Unlink the files of directory `name` and move its directories to `top`."""
    inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=top)
    try:
        for entry in os.listdir(inner):
            if not stat.S_ISDIR(os.lstat(entry, dir_fd=inner).st_mode):
                os.unlink(entry, dir_fd=inner)
                continue
            os.chmod(entry, 0o700, dir_fd=inner)  # moving a directory writes to it
            while True:
                moved += 1
                with contextlib.suppress(OSError):  # a name the step took already
                    os.rename(entry, f".assay-{moved}", src_dir_fd=inner, dst_dir_fd=top)
                    break
                if moved > 1 << 20:
                    raise AgentError("cannot empty a directory")
    finally:
        os.close(inner)
    return moved


class Ground:
    """The processes and directories that a step may leave behind, and their removal."""

    def __init__(self) -> None:
        self.is_container = os.getpid() == 1
        self.base = "/tmp" if self.is_container else os.environ["ASSAY_BASE"]
        self._writable = (self.base, "/dev/shm") if self.is_container else (self.base,)
        if not self.is_container:
            _prctl(PR_SET_CHILD_SUBREAPER, 1)  # orphans come to the agent, as they do to pid 1
        self.work_dir = os.path.join(self.base, "work")
        self.submission_path = os.path.join(self.base, "submission", "submission.py")

    def prepare(self, submission: bytes) -> None:
        """Empty the writable directories and lay out the submission afresh."""
        if not self.is_container:  # there it belongs to root, here a step may have locked it
            os.chmod(self.base, 0o700)
        for path in self._writable:
            if os.path.isdir(path):
                empty_directory(path)
        os.mkdir(self.work_dir)
        os.mkdir(os.path.dirname(self.submission_path))
        with open(self.submission_path, "wb") as file:
            file.write(submission)

    def signal_all(self) -> None:
        """Kill every process of the step."""
        for pid in [-1] if self.is_container else self._descendants():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)

    def _descendants(self) -> list[int]:
        parents = {}
        for name in filter(str.isdigit, os.listdir("/proc")):
            text = _read_text(f"/proc/{name}/stat")
            words = text[text.rfind(")") + 1 :].split()
            if len(words) > 1:
                parents[int(name)] = int(words[1])
        found: list[int] = []
        frontier = {os.getpid()}
        while frontier:
            frontier = {pid for pid, parent in parents.items() if parent in frontier}
            found += frontier
        return found

    def clear(self) -> Iterator[tuple[int, int, resource.struct_rusage]]:
        """Kill and reap until the agent is alone; yields what wait4 gave.

        Raises AgentError where a process outlives SIGKILL.
        """
        deadline = time.monotonic() + DEATH_S
        while True:
            try:
                waited = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if waited[0]:
                yield waited
                continue
            if time.monotonic() > deadline:
                raise AgentError("a step's processes would not die")
            self.signal_all()
            time.sleep(0.0005)


# --- watching a step ------------------------------------------------------------------


def _pipe() -> tuple[int, int]:
    read_fd, write_fd = os.pipe()
    os.set_blocking(read_fd, False)
    with contextlib.suppress(OSError):  # a user may hold only so many large pipes
        fcntl.fcntl(read_fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return read_fd, write_fd


class Output:
    """A step's stdout and stderr: counted, its end kept."""

    def __init__(self, fd: int, limits: Json) -> None:
        self.fd: int | None = fd
        self.total_bytes = 0
        self._limit_bytes, self._tail_bytes = int(limits["output_bytes"]), int(limits["output_tail_bytes"])
        self._kept = bytearray()

    @property
    def over(self) -> bool:
        """Whether the step wrote more than it may."""
        return self.total_bytes > self._limit_bytes

    def read(self) -> bool:
        """Take one chunk; False where there is none now."""
        chunk = _read_chunk(self)
        self.total_bytes += len(chunk)
        self._kept += chunk
        if len(self._kept) > self._tail_bytes:
            del self._kept[: len(self._kept) - self._tail_bytes]
        return bool(chunk)

    def tail(self) -> bytes:
        """The end of what was written."""
        return bytes(self._kept)


class Evidence:
    """A step's evidence frames: lengths checked, contents relayed unread."""

    def __init__(self, fd: int, limits: Json, relay: Callable[[int, bytes], None], remarks: list[str]) -> None:
        self.fd: int | None = fd
        self.over = False
        self.relayed_bytes = 0
        self._bytes_left, self._frames_left = int(limits["evidence_bytes"]), int(limits["evidence_frames"])
        self._relay, self._remarks = relay, remarks
        self._buffer = bytearray()

    def read(self) -> bool:
        """Take one chunk and relay the frames it completes; False where there is none now."""
        chunk = _read_chunk(self)
        self._buffer += chunk
        while self.fd is not None and len(self._buffer) >= FRAME.size and self._frame():
            pass
        return bool(chunk)

    def _frame(self) -> bool:
        magic, header_bytes, payload_bytes = FRAME.unpack_from(self._buffer)
        if magic != EVIDENCE_MAGIC or header_bytes > MAX_EVIDENCE_HEADER_BYTES:
            return self._stop("malformed evidence frame")
        size = FRAME.size + header_bytes + payload_bytes
        if size > self._bytes_left or not self._frames_left:
            self.over = True
            return self._stop("more evidence than the limit")
        if len(self._buffer) < size:
            return False
        self._relay(header_bytes, bytes(memoryview(self._buffer)[FRAME.size : size]))
        del self._buffer[:size]
        self.relayed_bytes += size
        self._bytes_left -= size
        self._frames_left -= 1
        return True

    def _stop(self, remark: str) -> bool:
        self._remarks.append(remark)
        self._buffer.clear()
        _close(self)
        return False

    def finish(self) -> None:
        """Say so where the last frame was cut off."""
        if self._buffer:
            self._remarks.append("evidence ends within a frame")


def _read_chunk(pipe: Output | Evidence) -> bytes:
    """What the pipe holds now, b"" where nothing; closes it at its end."""
    if pipe.fd is None:
        return b""
    try:
        chunk = os.read(pipe.fd, PIPE_BYTES)
    except BlockingIOError:
        return b""
    if not chunk:
        _close(pipe)
    return chunk


def _close(pipe: Output | Evidence) -> None:
    if pipe.fd is not None:
        os.close(pipe.fd)
        pipe.fd = None


@dataclass
class Account:
    """What the agent saw of a step from outside."""

    stopped_for: str | None = None  # the status, where the agent ended the step
    wait_status: int | None = None
    cpu_time_s: float = 0.0
    baseline_bytes: int = 0
    peak_bytes: int = 0
    outlived: int = 0  # processes that were left when the step's own had ended
    oom_kills: int = 0
    remarks: list[str] = field(default_factory=list)


class Spare:
    """A process forked ahead of the job: becomes that of its first step once it is handed the job's frame.

    Forking costs ten milliseconds that the submission need not wait for. Only the first step
    has one: while a submission runs, no process but its own and the agent may be there.
    """

    def __init__(self, stock: Modules, ground: Ground, wire: HostWire) -> None:
        self.output_fd, self._output_write = _pipe()
        self.evidence_fd, self._evidence_write = _pipe()
        gate_read, self._gate_write = os.pipe()
        with contextlib.suppress(OSError):
            fcntl.fcntl(gate_read, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self.pid = os.fork()
        if self.pid == 0:
            try:
                for fd in (self._gate_write, wire.read_fd, wire.write_fd):
                    os.close(fd)
                header, payload, _ = receive_raw(gate_read)
                job = parse_job(header, payload, stock)
                evidence_at = become_candidate(
                    job.steps[0], job.limits, ground.work_dir, self._output_write, self._evidence_write
                )
            except EOFError:
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(125)
            step_process(job.steps[0], job, stock, ground.submission_path, evidence_at)
        for fd in (gate_read, self._output_write, self._evidence_write):
            os.close(fd)

    def hand(self, frame: Sequence[bytes]) -> None:
        """Let it begin. Raises OSError where it died while it waited."""
        try:
            for part in frame:
                rest = memoryview(part)
                while rest:
                    rest = rest[os.write(self._gate_write, rest) :]
        finally:
            os.close(self._gate_write)


class StepRun:
    """Runs one step from fork to the last of its processes."""

    def __init__(
        self, step: Step, job: Job, stock: Modules, ground: Ground, wire: HostWire, job_deadline: float
    ) -> None:
        self._step, self._job, self._stock, self._ground, self._wire = step, job, stock, ground, wire
        self._account = Account()
        self._job_deadline = job_deadline
        memory_bytes = job.limits.get("polled_memory_bytes")
        self._memory_bytes = int(memory_bytes) if memory_bytes else None

    def run(self, spare: tuple[Spare, Sequence[bytes]] | None = None) -> bool:
        """Run the step and send `begin`, its evidence and `end` to the host; whether it hung.

        `spare`: a process that waits for this step, and the job's frame for it.

        A step hangs that reaches its time limit without having sent a frame.
        """
        self._wire.send({"type": "begin", "step": self._step.index})
        self._ground.prepare(self._job.submission)
        oom_before, begun = oom_kills(), time.monotonic()
        self._deadline = min(begun + self._step.wall_time_s, self._job_deadline)
        if spare is not None:
            self._start_spare(*spare)
        else:
            self._start()
        try:
            self._watch()
            wall_s = time.monotonic() - begun
            for pid, status, usage in self._ground.clear():
                self._reaped(pid, status, usage)
                self._account.outlived += pid != self._pid
            self._drain()
        finally:
            for pipe in (self._output, self._evidence):
                _close(pipe)
        self._account.oom_kills = oom_kills() - oom_before
        self._end(wall_s)
        # A slow host's time, and the memory of what it has not read, must not meet the next step.
        self._wire.flush(max(self._job_deadline, time.monotonic() + DEATH_S))
        hung = self._status()[0] == "time_limit" and not self._evidence.relayed_bytes
        if self._evidence.relayed_bytes > PIPE_BYTES:
            del self._evidence
            return_free_memory()
        return hung

    def _start(self) -> None:
        output_fd, output_write = _pipe()
        evidence_fd, evidence_write = _pipe()
        gate_read, gate_write = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.close(gate_write)
                os.read(gate_read, 1)  # until the agent has measured the baseline and closed its end
                evidence_at = become_candidate(
                    self._step, self._job.limits, self._ground.work_dir, output_write, evidence_write
                )
            except BaseException:
                traceback.print_exc()
                os._exit(125)
            step_process(self._step, self._job, self._stock, self._ground.submission_path, evidence_at)
        self._watch_from(pid, output_fd, evidence_fd)
        for fd in (output_write, evidence_write, gate_read, gate_write):
            os.close(fd)

    def _start_spare(self, spare: Spare, frame: Sequence[bytes]) -> None:
        self._watch_from(spare.pid, spare.output_fd, spare.evidence_fd)
        try:
            spare.hand(frame)
        except BrokenPipeError as error:  # before the submission was there: not its doing
            raise AgentError("the process that waited for the job died") from error

    def _watch_from(self, pid: int, output_fd: int, evidence_fd: int) -> None:
        self._pid = pid
        self._output = Output(output_fd, self._job.limits)
        self._evidence = Evidence(evidence_fd, self._job.limits, self._relay, self._account.remarks)
        self._account.baseline_bytes = self._account.peak_bytes = resident_bytes(pid)

    def _relay(self, header_bytes: int, frame: bytes) -> None:
        self._wire.send({"type": "evidence", "step": self._step.index, "header_bytes": header_bytes}, frame)

    def _watch(self) -> None:
        """Until the step's own process has ended, by itself or by the agent."""
        ended_fd = os.pidfd_open(self._pid)
        try:
            while self._account.wait_status is None:
                self._wait(ended_fd)
                self._wire.pump()
                self._output.read()
                if self._wire.backlog_bytes < BACKLOG_BYTES:
                    self._evidence.read()
                self._look()
                self._reap()
        finally:
            os.close(ended_fd)

    def _wait(self, ended_fd: int) -> None:
        poller = select.poll()
        poller.register(ended_fd, select.POLLIN)
        poller.register(self._wire.read_fd, 0)  # only a hang-up: the host has left
        if self._output.fd is not None:
            poller.register(self._output.fd, select.POLLIN)
        if self._evidence.fd is not None and self._wire.backlog_bytes < BACKLOG_BYTES:
            poller.register(self._evidence.fd, select.POLLIN)
        if self._wire.backlog_bytes:
            poller.register(self._wire.write_fd, select.POLLOUT)
        timeout_s = max(0.0, min(POLL_S, self._deadline - time.monotonic()))
        events = poller.poll(timeout_s * 1000 + 1)
        if any(fd == self._wire.read_fd for fd, _ in events):
            raise EOFError("the host left")

    def _look(self) -> None:
        """End the step where it went over a limit."""
        account = self._account
        resident = resident_bytes(self._pid)
        account.peak_bytes = max(account.peak_bytes, resident)
        if account.stopped_for is not None:
            if time.monotonic() > self._deadline + DEATH_S:
                raise AgentError("a step's process would not die")
            return
        if self._output.over or self._evidence.over:
            self._stop("output_limit")
        elif time.monotonic() >= self._deadline or cpu_seconds(self._pid) > self._step.cpu_time_s:
            self._stop("time_limit")
        elif self._memory_bytes is not None and self._holds_more_than(self._memory_bytes, resident):
            self._stop("memory_limit")

    def _holds_more_than(self, memory_bytes: int, resident: int) -> bool:
        return resident > memory_bytes and resident - file_backed_bytes(self._pid) > memory_bytes

    def _stop(self, status: str) -> None:
        self._account.stopped_for = status
        self._deadline = time.monotonic()
        self._ground.signal_all()

    def _reap(self) -> None:
        """Collect the dead; orphans too, which would else count as pids."""
        with contextlib.suppress(ChildProcessError):
            while (waited := os.wait4(-1, os.WNOHANG))[0]:
                self._reaped(*waited)

    def _reaped(self, pid: int, status: int, usage: resource.struct_rusage) -> None:
        self._account.cpu_time_s += usage.ru_utime + usage.ru_stime
        if pid == self._pid:
            self._account.wait_status = status
            self._account.peak_bytes = max(self._account.peak_bytes, usage.ru_maxrss * 1024)

    def _drain(self) -> None:
        """Read what the pipes still hold; no writer is left, so this ends."""
        while self._output.read():
            pass
        while self._evidence.read():
            if self._wire.backlog_bytes > BACKLOG_BYTES:
                self._wire.flush(max(self._job_deadline, time.monotonic() + DEATH_S))
        self._evidence.finish()

    def _end(self, wall_s: float) -> None:
        account = self._account
        status, exit_code, number = self._status()
        if account.outlived and account.stopped_for is None:
            account.remarks.append(f"{account.outlived} processes outlived the step")
        if account.oom_kills and status != "memory_limit":
            account.remarks.append(f"{account.oom_kills} processes were killed for memory")
        self._wire.send(
            {
                "type": "end",
                "step": self._step.index,
                "status": status,
                "exit_code": exit_code,
                "signal": number,
                "wall_time_s": wall_s,
                "cpu_time_s": account.cpu_time_s,
                "peak_memory_bytes": account.peak_bytes,
                "baseline_memory_bytes": account.baseline_bytes,
                "output_bytes": self._output.total_bytes,
                "remarks": account.remarks[:16],
            },
            self._output.tail(),
        )

    def _status(self) -> tuple[str, int | None, int | None]:
        """Status, exit code, signal. What the agent did itself comes first."""
        account = self._account
        code = os.waitstatus_to_exitcode(account.wait_status or 0)
        exit_code, number = (code, None) if code >= 0 else (None, -code)
        if account.stopped_for is not None:
            return account.stopped_for, exit_code, number
        if self._output.over or self._evidence.over:
            return "output_limit", exit_code, number
        if number == signal.SIGXCPU:  # the limit that the agent's own look came too late for
            return "time_limit", exit_code, number
        if account.oom_kills and code != 0:
            return "memory_limit", exit_code, number
        return ("signaled" if number else "nonzero_exit" if code else "ok"), exit_code, number


# --- the agent's own life -------------------------------------------------------------


COMPILER = "torch._dynamo"


class CompilerStandIn(types.ModuleType):
    """Passes for torch's compiler stack until somebody needs more of it than a training loop does.

    An optimizer's step imports `torch._dynamo` for two functions that do nothing outside a
    compiled program: half of a warm-up's CPU time and a third of an idle interpreter's own
    memory went there. Anything else that is asked of this module loads the real one, which
    takes its place in `sys.modules`.
    """

    def __init__(self) -> None:
        super().__init__(COMPILER)
        spec = importlib.util.find_spec(COMPILER)
        if spec is None or spec.origin is None:
            raise AgentError("torch has no compiler stack where one is expected")
        # What `inspect` and `warnings` ask of every module must not load the real one.
        self.__file__, self.__spec__, self.__loader__ = spec.origin, spec, spec.loader
        self.__package__ = COMPILER

    @staticmethod
    def disable(fn: Any = None, recursive: bool = True, **_: Any) -> Any:
        """Nothing is compiled, so there is nothing to disable."""
        return fn if fn is not None else lambda decorated: decorated

    @staticmethod
    def graph_break(*_: object, **__: object) -> None:
        """No graph is traced, so there is none to break."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name not in ("__path__", "__all__"):
            raise AttributeError(f"module {COMPILER!r} has no attribute {name!r}")
        if sys.modules.get(COMPILER) is self:
            del sys.modules[COMPILER]
        return getattr(importlib.import_module(COMPILER), name)


def stand_in_for_scripts(jit: Any) -> None:
    """Have functions that want something compiled take what is not, where compilation is off."""
    save, freeze, optimize = jit.save, jit.freeze, jit.optimize_for_inference

    def save_any(m: Any, f: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(m, jit.ScriptModule):
            return save(m, f, *args, **kwargs)
        import torch

        return torch.save(m.state_dict() if hasattr(m, "state_dict") else None, f)

    def for_scripts(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(mod: Any, *args: Any, **kwargs: Any) -> Any:
            return original(mod, *args, **kwargs) if isinstance(mod, jit.ScriptModule) else mod

        return call

    for function, original in ((save_any, save), (for_scripts(freeze), freeze), (for_scripts(optimize), optimize)):
        function.__name__, function.__doc__ = original.__name__, original.__doc__
        setattr(jit, original.__name__, function)


def warm_up() -> None:
    """Import torch and everything a first training step would import lazily.

    The steps run with one thread and, in a build with CUDA, without a backward pass: a
    thread pool or a CUDA context made before the fork would be broken in every child.
    """
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")  # there is no compiler for it here
    # torch.jit.script and trace then hand back what they were given. What is watched could not be compiled, and what is
    # compiled could not be watched; it computes the same.
    os.environ.setdefault("PYTORCH_JIT", "0")
    import numpy  # noqa: F401
    import torch
    import torch.utils.data as data

    if COMPILER not in sys.modules:  # a later torch may need it for its own import
        sys.modules[COMPILER] = vars(torch)["_dynamo"] = CompilerStandIn()
    torch.set_num_threads(1)
    has_cuda = torch.version.cuda is not None
    cuda_available = torch.cuda.is_available
    if has_cuda:
        torch.cuda.is_available = lambda: False  # asking would poison later forks
    batches = data.DataLoader(data.TensorDataset(torch.zeros(4, 3), torch.zeros(4, dtype=torch.long)), 4)
    for optimizer_type in (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD):
        model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
        optimizer = optimizer_type(model.parameters(), lr=0.1)
        for inputs, labels in batches:
            optimizer.zero_grad()
            loss = torch.nn.CrossEntropyLoss()(model(inputs), labels)
            if has_cuda:
                for parameter in model.parameters():
                    parameter.grad = torch.zeros_like(parameter)
            else:
                loss.backward()
            optimizer.step()
    torch.cuda.is_available = cuda_available
    stand_in_for_scripts(torch.jit)
    torch.manual_seed(torch.initial_seed())  # the first call imports what it seeds
    importlib.import_module("multiprocessing.pool")  # DataLoader's workers
    importlib.import_module("torch.multiprocessing")


def versions() -> Json:
    """Of the software that a submission meets."""
    import numpy
    import torch

    return {
        "python": ".".join(map(str, sys.version_info[:3])),
        "torch": str(torch.__version__),
        "numpy": numpy.__version__,
    }


def take_stdio() -> HostWire:
    """Move stdin and stdout to private descriptors; nothing else may use them."""
    read_fd = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 3)
    write_fd = fcntl.fcntl(1, fcntl.F_DUPFD_CLOEXEC, 3)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)
    return HostWire(read_fd, write_fd)


def pass_over(step: Step, wire: HostWire) -> None:
    """Tell the host that a step is not run."""
    wire.send({"type": "begin", "step": step.index})
    wire.send(
        {
            "type": "end",
            "step": step.index,
            "status": "not_run",
            "exit_code": None,
            "signal": None,
            "wall_time_s": 0.0,
            "cpu_time_s": 0.0,
            "peak_memory_bytes": 0,
            "baseline_memory_bytes": 0,
            "output_bytes": 0,
            "remarks": [f"not run: step {step.unless_hung!r} never got anywhere"],
        }
    )


def run_job(
    job: Job, stock: Modules, ground: Ground, wire: HostWire, spare: tuple[Spare, Sequence[bytes]] | None
) -> None:
    """Every step in order while the job's wall time lasts, then the account of the whole."""
    begun = time.monotonic()
    deadline = begun + float(job.limits["wall_time_s"])
    hung: set[str] = set()
    for step in job.steps:
        if time.monotonic() >= deadline:
            break
        if step.unless_hung in hung:
            pass_over(step, wire)
        elif StepRun(step, job, stock, ground, wire, deadline).run(spare):
            hung.add(step.name)
        spare = None
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    account = cgroup_account() if ground.is_container else {}
    cpu_s = account.get("cpu_s") or own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime
    peak_bytes = account.get("peak_memory_bytes") or max(own.ru_maxrss, children.ru_maxrss) * 1024
    wire.send({"type": "done", "steps_s": time.monotonic() - begun, "cpu_s": cpu_s, "peak_memory_bytes": peak_bytes})


def serve(wire: HostWire) -> None:
    """Warm up, say ready, run the one job."""
    _prctl(PR_SET_DUMPABLE, 0)
    ground = Ground()
    wall, cpu = time.monotonic(), time.process_time()
    warm_up()
    gc.collect()
    gc.freeze()  # a child's collections then leave the shared pages alone
    wire.send(
        {
            "type": "ready",
            "versions": versions(),
            "warm_up_s": time.monotonic() - wall,
            "warm_up_cpu_s": time.process_time() - cpu,
            "resident_bytes": resident_bytes(os.getpid()),
            "cgroup": cgroup_account() if ground.is_container else {},
        }
    )
    wire.flush(time.monotonic() + DEATH_S)
    header, payload, frame = receive_raw(wire.read_fd)
    stock: Modules = {}
    spare = None
    if header.get("type") == "stock":
        stock = parse_modules(header["modules"], cutter(payload), {})
        take_stock(stock)
        del header, payload, frame
        gc.collect()
        gc.freeze()
        return_free_memory()
        waiting = Spare(stock, ground, wire)
        wire.send({"type": "stocked", "resident_bytes": resident_bytes(os.getpid())})
        wire.flush(time.monotonic() + DEATH_S)
        header, payload, frame = receive_raw(wire.read_fd)
        spare = waiting, frame
    run_job(parse_job(header, payload, stock), stock, ground, wire, spare)
    wire.flush(time.monotonic() + DEATH_S)


def main() -> int:
    """The agent's exit code: 0 after `done`, 1 after `error`, 2 where the host left."""
    # Python's own handler would let a step end pid 1 with it; nobody sends the agent one in earnest.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    wire = take_stdio()
    try:
        serve(wire)
    except EOFError:
        return 2
    except Exception as error:
        traceback.print_exc()
        with contextlib.suppress(EOFError):
            wire.send({"type": "error", "message": f"{type(error).__name__}: {error}"[:2000]})
            wire.flush(time.monotonic() + DEATH_S)
        return 1
    return 0


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # skips torch's own teardown; nothing is left to save

"""`assay doctor`: the host's checks, what a must does, and a second Engine with user-namespace remap."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
import pytest

from sandbox import inspection
from sandbox.docker import DockerSandbox
from sandbox.image.build import image_tag
from sandbox.inspection import (
    _JUDGES,
    Check,
    Level,
    _memory,
    host_checks,
    inspect,
    must_hold,
    nvidia_toolkit_version,
)
from sandbox.process import ProcessSandbox
from sandbox.spec import (
    Frame,
    Job,
    Limits,
    RunResult,
    RunStatus,
    RunTiming,
    SandboxUnavailable,
    Step,
    StepListener,
    StepResult,
)

IMAGE = os.environ.get("ASSAY_IMAGE") or image_tag()
ROOT = Path(__file__).parents[2]

SEEN = {"uid_map": ["0", "0", "4294967295"], "core_pattern": "core", "domain": "(none)", "cgroup": {"version": 2}}
INFO = {
    "SecurityOptions": ["name=seccomp,profile=default"],
    "CgroupVersion": "2",
    "KernelVersion": "6.1.0-28-amd64",
    "Runtimes": {"runc": {}},
    "DefaultRuntime": "runc",
}


def version(engine: str = "28.3.0", runc: str = "1.3.3", build: str = "v1.3.3-0-gd842d77") -> dict[str, Any]:
    """What an Engine says of its parts."""
    component = {"Name": "runc", "Version": runc, "Details": {"GitCommit": build}}
    return {"Version": engine, "Components": [component]}


def checks(
    info: dict[str, Any] | None = None,
    parts: dict[str, Any] | None = None,
    seen: dict[str, Any] | None = None,
    runtime: str = "",
    gpu: str = "void",
) -> dict[str, Check]:
    """The host's checks by name."""
    facts = {"info": INFO | (info or {}), "version": parts or version(), "runtime": runtime, "gpu": gpu}
    return {check.name: check for check in host_checks(facts, SEEN | (seen or {}))}


# --- versions -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("runc", "build", "first", "second"),
    [
        ("1.1.11", "v1.1.11-0-g4bccb38", False, False),
        ("1.1.12", "v1.1.12-0-g51d5e94", True, False),
        ("1.2.7", "", True, False),
        ("1.2.8", "", True, True),
        ("1.3.0", "", True, False),
        ("1.3.3", "", True, True),
        ("1.4.0-rc.1", "", True, True),
        ("1.1.5+ds1", "1.1.5+ds1-1+deb12u1", True, None),
        ("1.1.5+ds1", "1.1.5+ds1-1+b4", None, None),
        ("1.1.12-0ubuntu2~22.04.1", "", True, None),
        ("", "", None, None),
    ],
)
def test_runc_against_its_known_holes(runc: str, build: str, first: bool | None, second: bool | None) -> None:
    """Upstream's numbers decide; a distribution's own build may have the mend under an older one."""
    found = checks(parts=version(runc=runc, build=build))
    assert (found["runc-2024"].holds, found["runc-2025"].holds) == (first, second)
    assert found["runc-2024"].fails is (first is False)


def test_runc_does_not_matter_under_gvisor() -> None:
    """Nor is it asked about there."""
    found = checks({"Runtimes": {"runc": {}, "runsc": {}}}, version(runc="1.0.0", build=""), runtime="runsc")
    assert found["runc-2024"].holds is True
    assert found["gvisor"].holds is True


@pytest.mark.parametrize(
    ("engine", "holds"), [("28.3.0", True), ("24.0.9", False), ("20.10.24+dfsg1", None), ("", None)]
)
def test_engine_version(engine: str, holds: bool | None) -> None:
    """An old number is a fault of upstream's builds only."""
    assert checks(parts=version(engine))["engine-version"].holds is holds


@pytest.mark.parametrize(
    ("toolkit", "holds", "names"),
    [
        ("1.16.1", False, "CVE-2024-0132, CVE-2025-23359, CVE-2025-23266"),
        ("1.17.3", False, "CVE-2025-23359, CVE-2025-23266"),
        ("1.17.7", False, "CVE-2025-23266"),
        ("1.17.8", True, ""),
        ("1.18.0", True, ""),
        ("", None, ""),
    ],
)
def test_nvidia_toolkit_against_its_known_holes(
    toolkit: str, holds: bool | None, names: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tool is asked; where it is absent the check holds neither way."""
    if toolkit:
        tool = tmp_path / "nvidia-ctk"
        tool.write_text(f"#!/bin/sh\necho 'NVIDIA Container Toolkit CLI version {toolkit}'\n")
        tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert nvidia_toolkit_version() == toolkit
    check = checks({"Runtimes": {"nvidia": {}}}, runtime="nvidia", gpu="GPU-1")["nvidia-toolkit"]
    assert (check.holds, check.level) == (holds, Level.MUST)
    assert names in check.found
    assert checks({"Runtimes": {"nvidia": {}}})["nvidia-toolkit"].level is Level.OPTIONAL
    assert "nvidia-toolkit" not in checks()


# --- the host -------------------------------------------------------------------------


def test_what_an_engine_must_have() -> None:
    """Without a filter or limits there is no sandbox."""
    assert checks({"SecurityOptions": []})["seccomp"].fails
    assert checks({"MemoryLimit": False})["limits"].fails
    assert checks({"PidsLimit": False})["limits"].fails
    assert not checks({"SwapLimit": False})["limits"].fails  # the look from inside tells whether there is swap
    assert not [check for check in checks().values() if check.fails and check.name != "engine-socket"]


def test_what_an_engine_should_have() -> None:
    """User namespaces by what the kernel shows, the rest by the Engine's word."""
    assert checks()["user-namespace"].holds is False
    remapped = checks(seen={"uid_map": ["0", "1100000", "65536"]})["user-namespace"]
    assert (remapped.holds, remapped.found) == (True, "user 0 inside is 1100000 outside")
    assert checks()["access-control"].holds is False
    assert checks({"SecurityOptions": ["name=apparmor"]})["access-control"].holds is True
    assert checks({"CgroupVersion": "1"})["cgroup-v2"].holds is False
    assert checks({"KernelVersion": "4.19.0"})["kernel"].holds is False
    assert checks(seen={"core_pattern": "|/usr/share/apport/apport %p"})["core-dumps"].holds is False
    assert checks(seen={"domain": "corp.example"})["domain-name"].holds is False
    assert checks({"LiveRestoreEnabled": True})["live-restore"].holds is True


@pytest.mark.parametrize(
    ("mode", "fails"), [(0o660, False), (0o600, False), (0o666, True), (0o777, True), (None, False)]
)
def test_an_engine_that_everyone_may_command(
    mode: int | None, fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever reaches the Engine is root on its host."""
    path = tmp_path / "docker.sock"
    if mode is not None:
        path.touch()
        path.chmod(mode)
    monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
    assert checks()["engine-socket"].fails is fails


def test_an_engine_on_the_network_needs_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same by TCP."""
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:2375")
    assert checks()["engine-socket"].fails
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    assert not checks()["engine-socket"].fails


# --- what a must does -----------------------------------------------------------------


@dataclass(eq=False)
class Said:
    """A sandbox that reports what it is told to; `jobs` counts."""

    report: dict[str, Any]
    jobs: int = 0
    status: RunStatus = RunStatus.OK
    name: str = "docker"
    lock: Any = field(default_factory=threading.Lock)

    def run(self, job: Job, listener: StepListener | None = None) -> RunResult:
        with self.lock:
            self.jobs += 1
        header = json.dumps({"name": "inside", "data": self.report}).encode()
        frames = (Frame(header, b""),) if self.status is RunStatus.OK else ()
        step = StepResult("look", self.status, frames=frames, output_tail=b"Traceback\nBoom: \x1b[31m no")
        return RunResult((step,), RunTiming(), "docker")

    def cannot_hold(self) -> tuple[str, ...]:
        return ()

    def facts(self) -> dict[str, Any]:
        return {"info": INFO, "version": version(), "runtime": "", "gpu": "void"}


@pytest.fixture
def quiet_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """No container's report is at hand: only the host is judged."""
    monkeypatch.setattr(inspection, "container_checks", lambda seen, limits, gpu: [])
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")


def test_asked_often_looked_once(quiet_host: None) -> None:
    """Cheap enough to be asked before every submission, from many threads."""
    sandbox = Said(SEEN)
    threads = [threading.Thread(target=must_hold, args=(sandbox,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert must_hold(sandbox) == []
    assert sandbox.jobs == 1
    must_hold(sandbox, valid_s=0.0)
    must_hold(sandbox, ["kernel"])
    assert sandbox.jobs == 3


def test_a_should_becomes_a_must_where_the_operator_says_so(quiet_host: None) -> None:
    """And what cannot be told does not hold then."""
    sandbox = Said(SEEN)
    assert [line.split(":")[0] for line in must_hold(sandbox, ["user-namespace"])] == ["user-namespace"]
    assert "userns-remap" in must_hold(sandbox, ["user-namespace"])[0]
    assert must_hold(Said(SEEN | {"uid_map": ["0", "1100000", "65536"]}), ["user-namespace"]) == []
    assert [line.split(":")[0] for line in must_hold(sandbox, ["engine-socket"])] == ["engine-socket"]
    with pytest.raises(ValueError, match="there is no check called apparmor; there are: access-control"):
        must_hold(sandbox, ["apparmor"])


def test_a_look_that_fails_is_no_look() -> None:
    """Nothing is taken for granted where the probe did not come back."""
    with pytest.raises(SandboxUnavailable, match="ended with nonzero_exit: Boom"):
        must_hold(Said({}, status=RunStatus.NONZERO_EXIT))


def test_the_plain_process_holds_nothing() -> None:
    """Strangers' code is never for it."""
    assert [check.name for check in inspect(ProcessSandbox()) if check.fails] == ["isolation"]
    assert must_hold(ProcessSandbox())[0].startswith("isolation: network")


def _assay(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ROOT / ".venv/bin/assay", *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"ASSAY_IMAGE": IMAGE} | environment,
        timeout=120,
        check=False,
    )


def test_the_command_refuses_a_process_and_an_absent_engine(tmp_path: Path) -> None:
    """Exit status 4, and what to do."""
    plain = _assay("doctor", "--sandbox", "process")
    assert (plain.returncode, "use --sandbox docker" in plain.stdout) == (4, True)
    absent = _assay("doctor", "--json", "--sandbox", "docker", DOCKER_HOST=f"unix://{tmp_path}/none.sock")
    told = json.loads(absent.stdout)
    assert (absent.returncode, told["must_hold"], told["checks"][0]["name"]) == (4, False, "sandbox")


# --- a real host, and one as infra/host makes it -------------------------------------


@pytest.mark.docker
@pytest.mark.slow
def test_the_command_on_this_host() -> None:
    """Every must holds here; a must made of what does not hold says so by name and exit status."""
    done = _assay("doctor", "--json", "--sandbox", "docker")
    told = json.loads(done.stdout)
    assert (done.returncode, told["must_hold"]) == (0, True), done.stdout
    assert {check["where"] for check in told["checks"]} == {"host", "container"}
    assert len({check["name"] for check in told["checks"]}) == len(told["checks"])
    lacking = [check["name"] for check in told["checks"] if check["holds"] is not True]
    assert "gvisor" in lacking
    refused = _assay("doctor", "--sandbox", "docker", ASSAY_REQUIRE="gvisor")
    assert (refused.returncode, "no strangers' code here" in refused.stderr) == (4, True)


@pytest.mark.docker
def test_a_runtime_that_is_not_registered() -> None:
    """The error says which there are."""
    with pytest.raises(SandboxUnavailable, match=r"no runtime 'kata', only .*runc.*ASSAY_RUNTIME"):
        DockerSandbox(image=IMAGE, runtime="kata")


@pytest.fixture(scope="module")
def remapped() -> Iterator[str]:
    """A second Engine from infra/host/daemon.json, with the image in it; its address."""
    folder = tempfile.mkdtemp(prefix="assay-engine-")  # pytest's own folders are closed to the remapped users
    script = ROOT / "infra/host/second-engine.sh"
    started = subprocess.run([script, "start", folder], capture_output=True, text=True, timeout=120, check=False)
    try:
        assert started.returncode == 0, started.stderr
        address = f"unix://{folder}/docker.sock"
        with subprocess.Popen(["docker", "save", IMAGE], stdout=subprocess.PIPE) as saved:
            subprocess.run(
                ["docker", "--host", address, "load"], stdin=saved.stdout, capture_output=True, timeout=300, check=True
            )
        yield address
    finally:
        stopped = subprocess.run([script, "stop", folder], capture_output=True, text=True, timeout=180, check=False)
        assert stopped.returncode == 0, stopped.stderr
        shutil.rmtree(folder)


@pytest.fixture
def on_remapped(remapped: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The second Engine as the one in use."""
    monkeypatch.setenv("DOCKER_HOST", remapped)
    return remapped


TRIES = b"""
import os, time, torch


def tries(c):
    told = {}
    for path in ("/etc/passwd", "/usr/bin/python3.11", "/proc/sys/kernel/hostname", "/sys/fs/cgroup/memory/tasks"):
        try:
            os.close(os.open(path, os.O_WRONLY))
            told[path] = "written"
        except OSError as error:
            told[path] = type(error).__name__
    torch.ones(3, requires_grad=True).sum().backward()
    c.emit("told", {"wrote": told, "map": open("/proc/self/uid_map").read().split(), "env": dict(os.environ)})
    time.sleep(c.params["sleep_s"])
"""


@pytest.mark.docker
@pytest.mark.slow
def test_a_process_in_the_sandbox_is_nobody_on_the_host(on_remapped: str) -> None:
    """Its user on the host, as the host's own /proc tells while it runs, belongs to no one, and its root is no root."""
    sandbox = DockerSandbox(image=IMAGE)
    job = Job(b"", {"tries": TRIES}, (Step("tries", "tries:tries", {"sleep_s": 3}),), label="remap")
    results: list[RunResult] = []
    thread = threading.Thread(target=lambda: results.append(sandbox.run(job)))
    thread.start()
    client = docker.APIClient(base_url=on_remapped, version="auto")
    users: set[tuple[str, ...]] = set()
    try:
        while thread.is_alive():
            for item in client.containers():
                users |= _users_on_the_host(client, item["Id"])
            time.sleep(0.1)
    finally:
        thread.join()
        client.close()
    told = json.loads(results[0].steps[0].frames[0].header)["data"]
    assert results[0].steps[0].status is RunStatus.OK
    assert users == {("1165534",) * 4}  # the first subordinate id and 65534
    assert told["map"] == ["0", "1100000", "65536"]
    assert set(told["wrote"].values()) <= {"PermissionError", "OSError", "FileNotFoundError"}


def _users_on_the_host(client: Any, container_id: str) -> set[tuple[str, ...]]:
    """The real, effective, saved and file-system user of every Python process of a container."""
    try:
        pids = [row[1] for row in client.top(container_id)["Processes"] or ()]  # None while it starts
        texts = [Path(f"/proc/{pid}/status").read_text().splitlines() for pid in pids]
    except (docker.errors.APIError, OSError):
        return set()  # just ended, or not begun
    running = [lines for lines in texts if lines[0].split()[1].startswith("python")]  # no longer runc
    return {tuple(line.split()[1:]) for lines in running for line in lines if line.startswith("Uid:")}


@pytest.mark.docker
@pytest.mark.slow
def test_all_of_it_holds_under_remap(on_remapped: str) -> None:
    """The template whole, on an Engine as infra/host/daemon.json sets it up."""
    checks = inspect(DockerSandbox(image=IMAGE), ["user-namespace", "live-restore"])
    assert [check for check in checks if check.fails] == []
    assert len([check for check in checks if check.where == "container" and check.holds is True]) == len(_JUDGES)


@pytest.mark.docker
@pytest.mark.slow
def test_the_nvidia_runtime_is_told_of_one_gpu(on_remapped: str) -> None:
    """Plumbing only: the runtime called nvidia is an alias of runc, and no GPU is here.

    What a real one reads, the environment, is right; that it acts on it is not shown.
    """
    sandbox = DockerSandbox(image=IMAGE, runtime="nvidia", gpu="GPU-4f1d")
    job = Job(b"", {"tries": TRIES}, (Step("tries", "tries:tries", {"sleep_s": 0}),))
    step = sandbox.run(job).steps[0]
    assert step.status is RunStatus.OK, step.output_tail
    environment = json.loads(step.frames[0].header)["data"]["env"]
    assert environment["NVIDIA_VISIBLE_DEVICES"] == "GPU-4f1d"
    assert environment["NVIDIA_DRIVER_CAPABILITIES"] == "compute"
    assert sandbox.facts()["runtime"] == "nvidia"


@pytest.mark.parametrize(
    ("cgroup", "says"),
    [
        ({"memory_and_swap": 1 << 30, "swap": None, "version": 1}, ""),
        ({"memory_and_swap": 1 << 62, "swap": None, "version": 1}, f"memory and swap {1 << 62}"),
        ({"memory_and_swap": None, "swap": 0, "version": 2}, ""),
        ({"memory_and_swap": None, "swap": 4096, "version": 2}, "swap 4096"),
        ({"memory_and_swap": None, "swap": None, "version": 1}, "swap without limit"),
        ({"memory_and_swap": None, "swap": None, "version": 2, "host_has_swap": False}, ""),
        ({"memory_and_swap": None, "swap": 0, "version": 2, "memory": None}, "memory limit None"),
    ],
)
def test_memory_on_either_cgroup_version(cgroup: dict[str, Any], says: str) -> None:
    """Together on version 1, apart on version 2; a kernel that counts no swap needs a host that has none."""
    seen = {"cgroup": {"memory": 1 << 30, "host_has_swap": True} | cgroup}
    check = _memory(seen, Limits(), "void")
    assert (check.holds, check.found if says else "") == (not says, says)

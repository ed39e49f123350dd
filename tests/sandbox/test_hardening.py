"""Every flag of the container's template is held by something that fails without it.

The look from inside (`sandbox.inside`) runs in a container made from the template with one flag
weakened; `sandbox.inspection`, which knows the right values by itself, must name the check.
These containers have no agent: the probe is their first process, and takes half a second.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.utils import kwargs_from_env

from sandbox import inside, template
from sandbox.docker import DockerSandbox
from sandbox.image import seccomp
from sandbox.image.build import image_tag
from sandbox.inspection import _agent, _ulimits, container_checks, look, masked_paths
from sandbox.ownership import LABEL_OWNER, this_process
from sandbox.spec import Job, Limits, RunStatus, Step
from sandbox.template import LABEL, container_config, host_config, missing_limits

IMAGE = os.environ.get("ASSAY_IMAGE") or image_tag()
LIMITS = Limits(memory_bytes=256 << 20, pids=32, cpu_count=0.75)

Config = dict[str, Any]
Weaken = Callable[[Config, Config], None]  # HostConfig, the rest


def words(text: str) -> set[str]:
    """The words of a text."""
    return set(text.split())


def put(**values: Any) -> Weaken:
    """Replace keys of HostConfig."""
    return lambda host, rest: host.update(values)


def tmpfs(point: str, old: str, new: str) -> Weaken:
    """Change an option of a tmpfs."""

    def weaken(host: Config, rest: Config) -> None:
        assert old in host["Tmpfs"][point]
        host["Tmpfs"] = host["Tmpfs"] | {point: host["Tmpfs"][point].replace(old, new)}

    return weaken


def ulimit(name: str, value: int) -> Weaken:
    """Raise one ulimit."""

    def weaken(host: Config, rest: Config) -> None:
        others = [item for item in host["Ulimits"] if item["Name"] != name]
        assert len(others) == len(host["Ulimits"]) - 1
        host["Ulimits"] = [*others, {"Name": name, "Soft": value, "Hard": value}]

    return weaken


def security(keep: str) -> Weaken:
    """Keep only the security options that begin so."""
    return lambda host, rest: host.update(SecurityOpt=[o for o in host["SecurityOpt"] if o.startswith(keep)])


def allowed(*names: str) -> Weaken:
    """Let system calls through the filter, whatever their arguments."""

    def weaken(host: Config, rest: Config) -> None:
        profile = seccomp.profile()
        profile["syscalls"] = [rule for rule in profile["syscalls"] if not set(names) & set(rule["names"])]
        profile["syscalls"].append({"names": list(names), "action": "SCMP_ACT_ALLOW"})
        host["SecurityOpt"] = ["no-new-privileges", f"seccomp={json.dumps(profile)}"]

    return weaken


def rest(**values: Any) -> Weaken:
    """Replace what is not HostConfig."""
    return lambda host, others: others.update(values)


def variable(name: str, value: str) -> Weaken:
    """Set a variable of the environment."""
    return lambda host, others: others.update(environment=others["environment"] | {name: value})


def no_tmpfs(point: str) -> Weaken:
    """Leave a tmpfs out."""
    return lambda host, others: host.update(Tmpfs={at: o for at, o in host["Tmpfs"].items() if at != point})


def shared_names(host: Config, others: Config) -> None:
    """The host's own name."""
    host.update(UTSMode="host")
    others.update(hostname="")


def NOTHING(host: Config, others: Config) -> None:
    """What another row weakens."""


UNMASKED = [path for path in masked_paths() if path != "/proc/cmdline"]
ZERO = {"PathOnHost": "/dev/zero", "PathInContainer": "/dev/extra", "CgroupPermissions": "r"}
CALLS = {  # and the attempt that then succeeds
    "clone3": "clone3",
    "inotify_init1": "inotify",
    "io_uring_setup": "io_uring",
    "ioctl": "ioctl_terminal_input",
    "keyctl": "keyctl",
    "mq_open": "queue_posix",
    "pidfd_getfd": "pidfd_getfd",
    "process_vm_readv": "read_other_memory",
    "ptrace": "trace",
    "shmget": "shared_memory_sysv",
    "splice": "splice",
    "unshare": "clone_user_namespace",
    "userfaultfd": "userfaultfd",
}
# Which container, what is weakened, which check must fail, and what it must say.
WEAKENED: dict[str, tuple[str, Weaken, str, str]] = {
    "capabilities": ("many", put(CapDrop=[]), "capabilities", "CapBnd"),
    **{
        f"calls_{name}": ("many", NOTHING, "refused", attempt)  # let through all at once, below
        for name, attempt in CALLS.items()
    },
    "calls": ("many", allowed(*CALLS, "socket"), "refused", "socket_inet"),
    "root": ("many", put(ReadonlyRootfs=False), "root", "/ is mounted for writing"),
    "tmp_exec": ("many", tmpfs("/tmp", "noexec", "exec"), "tmp", "/tmp is not noexec"),
    "tmp_suid": ("many", tmpfs("/tmp", "nosuid", "suid"), "tmp", "/tmp is not nosuid"),
    "tmp_dev": ("many", tmpfs("/tmp", "nodev", "dev"), "tmp", "/tmp is not nodev"),
    "tmp_size": ("many", tmpfs("/tmp", f"size={LIMITS.tmp_bytes}", "size=200m"), "tmp", "/tmp has size"),
    "tmp_inodes": ("many", tmpfs("/tmp", f"nr_inodes={LIMITS.tmp_inodes},", ""), "tmp", "files"),
    "tmp_missing": ("few", no_tmpfs("/tmp"), "tmp", "/tmp is not noexec"),
    "shm_exec": ("many", tmpfs("/dev/shm", "noexec", "exec"), "shared-memory", "/dev/shm is not noexec"),
    "shm_size": ("many", tmpfs("/dev/shm", f"size={LIMITS.shm_bytes}", "size=200m"), "shared-memory", "has size"),
    "shm_inodes": ("many", tmpfs("/dev/shm", f"nr_inodes={LIMITS.shm_inodes},", ""), "shared-memory", "files"),
    "shm_the_engines": ("few", no_tmpfs("/dev/shm"), "shared-memory", "any number of files"),
    "host_directory": ("many", put(Binds=["/etc:/usr/share/dict:ro"]), "mounts", "/usr/share/dict"),
    "device": ("many", put(Devices=[ZERO]), "devices", "/dev/extra"),
    "resolver": ("many", put(Dns=["192.0.2.53"]), "names", "192.0.2.53"),
    "search_domain": ("many", put(DnsSearch=["corp.example"]), "names", "corp.example"),
    "extra_hosts": ("many", put(ExtraHosts=["database:192.0.2.1"]), "names", "database"),
    "host_name": ("many", rest(hostname="db-7"), "names", "db-7"),
    "cgroup_namespace": ("many", put(CgroupnsMode="host"), "namespaces", "cgroup path"),
    "ipc": ("shared", put(IpcMode="host"), "namespaces", "ipc"),
    "pid_namespace": ("shared", put(PidMode="host"), "namespaces", "pid"),
    "uts_namespace": ("shared", shared_names, "namespaces", "uts"),
    "network": ("shared", put(NetworkMode="host"), "network", "interface"),
    "masked_one_less": ("few", put(MaskedPaths=UNMASKED), "masked", "/proc/cmdline can be read"),
    "masked_none": ("many", put(MaskedPaths=[]), "masked", "/sys/kernel can be read"),
    "readonly_none": ("many", put(ReadonlyPaths=[]), "kernel-files", "/proc/sys is not read-only"),
    "memory": ("many", put(Memory=512 << 20, MemorySwap=512 << 20), "memory", "memory limit"),
    "swap": ("few", put(MemorySwap=-1), "memory", "swap"),
    "pids": ("many", put(PidsLimit=None), "processes", "limit"),
    "cpu": ("many", put(NanoCpus=0), "cpu", "quota"),
    **{
        f"ulimit_{name}": ("many", ulimit(name, value), "ulimits", f"{name} [{value}, {value}]")
        for name, value in {
            "core": 4096,
            "nofile": 1024,
            "fsize": 1 << 40,
            "msgqueue": 400_000,
            "memlock": 1 << 20,
        }.items()
    },
    "oom_score": ("many", put(OomScoreAdj=0), "agent", "oom_score_adj is 0"),
    "group_added": ("many", put(GroupAdd=["0"]), "user", "groups"),
    "environment": ("many", variable("TOKEN", "x"), "environment", "TOKEN"),
    "environment_gpu": ("many", variable("NVIDIA_VISIBLE_DEVICES", "all"), "environment", "NVIDIA_VISIBLE_DEVICES"),
    "environment_driver": ("many", variable("NVIDIA_DRIVER_CAPABILITIES", "all"), "environment", "CAPABILITIES"),
    "environment_path": ("many", variable("PATH", "/usr/bin:/tmp"), "environment", "PATH"),
    "user": ("few", rest(user="0:0"), "user", "Uid"),
    "capability_added": ("few", put(CapAdd=["SYS_PTRACE"]), "capabilities", "CapBnd"),
    "privileged": ("privileged", put(Privileged=True), "devices", "/dev/"),
    "seccomp_default": ("default filter", security("no-new"), "refused", "trace"),
    "seccomp_off": ("no filter", put(SecurityOpt=["seccomp=unconfined"]), "system-call-filter", "Seccomp is 0"),
    "new_privileges": ("no filter", NOTHING, "no-new-privileges", "NoNewPrivs is 0"),
}


@pytest.fixture(scope="module")
def engine() -> Iterator[Any]:
    """A client of the Engine."""
    api = docker.APIClient(version="auto", timeout=60, **kwargs_from_env())
    yield api
    api.close()


def seen_in(engine: Any, *weakened: Weaken) -> dict[str, Any]:
    """What the probe reports as the first process of a container of the template."""
    host, others = host_config(LIMITS), container_config(LIMITS)
    for weaken in weakened:
        weaken(host, others)
    host["LogConfig"] = {"Type": "json-file", "Config": {"max-size": "1m"}}
    program = ["python3.11", "-I", "-B", "-c", Path(inside.__file__).read_text(encoding="utf-8")]
    created = engine.create_container(
        IMAGE,
        entrypoint=[*program, *masked_paths()],
        labels={LABEL: "hardening", LABEL_OWNER: this_process().label(600)},
        host_config=host,
        **others,
    )["Id"]
    try:
        engine.start(created)
        assert engine.wait(created, timeout=60)["StatusCode"] == 0, engine.logs(created).decode()
        report: dict[str, Any] = json.loads(engine.logs(created, stderr=False))
        return report
    finally:
        engine.remove_container(created, force=True, v=True)


def failing(seen: dict[str, Any]) -> set[str]:
    return {check.name for check in container_checks(seen, LIMITS) if check.holds is not True}


@pytest.mark.docker
@pytest.mark.slow
def test_the_template_holds_whole(engine: Any) -> None:
    """Nothing is found fault with where nothing is weakened."""
    seen = seen_in(engine)
    assert failing(seen) == set(), [check for check in container_checks(seen, LIMITS) if not check.holds]


@pytest.fixture(scope="module")
def reports(engine: Any) -> Callable[[str], dict[str, Any]]:
    """The report of a container in which all flags of its rows are weakened at once."""

    @functools.cache
    def report(container: str) -> dict[str, Any]:
        rows = [weaken for name, weaken, _, _ in WEAKENED.values() if name == container]
        return seen_in(engine, *rows)

    return report


@pytest.mark.docker
@pytest.mark.slow
@pytest.mark.parametrize("flag", WEAKENED)
def test_every_flag_is_held(flag: str, reports: Callable[[str], dict[str, Any]]) -> None:
    """A container without the flag fails its check, which says so."""
    container, _, check, says = WEAKENED[flag]
    found = {item.name: item.found for item in container_checks(reports(container), LIMITS) if item.holds is not True}
    assert says in found.get(check, "")


def test_what_cannot_be_weakened_here_is_judged_all_the_same() -> None:
    """An Engine may be unable to raise these two, and may have no init of its own."""
    seen = {
        "rlimits": {name: [0, 0] for name in ("core", "fsize", "memlock", "msgqueue", "nofile")}
        | {"nice": [30, 30], "rtprio": [0, 99]},
        "first_process": "docker-init",
        "agent_oom_score_adj": "100",
    }
    assert _ulimits(seen, LIMITS, "void").found == "nice [30, 30]; rtprio [0, 99]"
    assert _agent(seen, LIMITS, "void").found == "process 1 is docker-init"
    assert {"nice", "rtprio"} <= {item["Name"] for item in host_config(LIMITS)["Ulimits"]}
    assert host_config(LIMITS)["Init"] is False


@pytest.mark.docker
@pytest.mark.slow
def test_a_real_job_sees_the_same() -> None:
    """The agent's container holds everything too, and the agent is out of a step's reach."""
    seen = look(DockerSandbox(image=IMAGE), LIMITS)
    assert failing(dict(seen)) == set(), [check for check in container_checks(seen, LIMITS) if not check.holds]
    agent = {name: error for name, error in seen["attempts"].items() if "agent" in name}
    assert len(agent) == 5
    assert set(agent.values()) <= {"EPERM", "EACCES"}


@pytest.mark.parametrize("key", sorted(host_config(LIMITS, "runsc")))
def test_what_the_engine_leaves_out_is_told(key: str) -> None:
    """A container is not started where the Engine does not say back each flag."""
    config = json.loads(json.dumps(host_config(LIMITS, "runsc")))
    assert missing_limits(config, LIMITS, "runsc") == []
    config[key] = "something else"
    assert len(missing_limits(config, LIMITS, "runsc")) == 1


@pytest.mark.parametrize("key", ["Mounts", "VolumesFrom", "GroupAdd", "ExtraHosts", "CgroupParent", "PidMode"])
def test_what_nobody_asked_for_is_told(key: str) -> None:
    """Nor where it says more than was asked for."""
    config = host_config(LIMITS) | {key: ["x"]}
    assert len(missing_limits(config, LIMITS)) == 1


# The Engine's own list, and what tells most of the host: the template's list cannot lose these unseen.
MASKED_AT_LEAST = words("""
    /proc/acpi /proc/asound /proc/interrupts /proc/kcore /proc/keys /proc/latency_stats /proc/sched_debug /proc/scsi
    /proc/timer_list /proc/timer_stats /sys/devices/virtual/powercap /sys/firmware /proc/cmdline /proc/config.gz
    /proc/kallsyms /proc/modules /proc/partitions /proc/pressure /sys/block /sys/class/dmi /sys/kernel /sys/module
    /dev/mqueue /dev/pts
""")


def test_masked_paths_cover_the_engines_own() -> None:
    """Giving a list replaces the Engine's, so it must hold all of it."""
    assert not MASKED_AT_LEAST - set(host_config(LIMITS)["MaskedPaths"])
    assert {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"} <= set(
        host_config(LIMITS)["ReadonlyPaths"]
    )


def test_no_log_and_no_restart_by_the_engine() -> None:
    """A flood must not reach the Engine's disk, and State must outlive the process."""
    config = host_config(LIMITS)
    assert config["LogConfig"]["Type"] == "none"
    assert config["AutoRemove"] is False


def test_the_profile_is_what_its_tool_writes() -> None:
    """Nobody edits the JSON by hand."""
    assert seccomp.PROFILE.read_text(encoding="utf-8") == seccomp.text()
    assert template.SECCOMP == seccomp.PROFILE


NEVER = words("""
    ptrace process_vm_readv process_vm_writev pidfd_getfd pidfd_send_signal kcmp io_uring_setup io_uring_enter
    io_uring_register bpf perf_event_open userfaultfd keyctl add_key request_key mount umount2 pivot_root chroot unshare
    setns fsopen fsmount move_mount open_tree mount_setattr name_to_handle_at open_by_handle_at splice tee vmsplice
    shmget shmat msgget semget mq_open inotify_init inotify_init1 fanotify_init syslog quotactl reboot init_module
    finit_module delete_module kexec_load clock_settime settimeofday adjtimex swapon swapoff acct iopl ioperm modify_ldt
    chown fchown lchown fchownat mknod mknodat setgroups sethostname setdomainname seccomp lookup_dcookie migrate_pages
    move_pages process_madvise process_mrelease landlock_create_ruleset io_setup memfd_secret sched_setattr
""")


def test_the_profile_lets_none_of_these_through() -> None:
    """Calls with no use in training that reach past the container, or often had holes."""
    rules = seccomp.profile()["syscalls"]
    let_through = {name for rule in rules if rule["action"] == "SCMP_ACT_ALLOW" for name in rule["names"]}
    assert let_through & NEVER == set()
    unconditional = {name for rule in rules if "args" not in rule for name in rule["names"]}
    narrowed = {
        "clone",
        "ioctl",
        "personality",
        "prlimit64",
        "sched_setaffinity",
        "setpriority",
        "socket",
        "socketpair",
    }
    assert unconditional & narrowed == set()
    assert seccomp.profile()["defaultAction"] == "SCMP_ACT_ERRNO"


TRAINS = b"""
import asyncio, os, subprocess, tempfile, threading
import torch
from torch.utils.data import DataLoader, TensorDataset


def train(c):
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))
    optimizer = torch.optim.Adam(model.parameters())
    data = TensorDataset(torch.randn(256, 8), torch.randint(0, 2, (256,)))
    seen = 0
    for inputs, labels in DataLoader(data, 32, shuffle=True, num_workers=2):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
        seen += len(inputs)
    thread = threading.Thread(target=torch.manual_seed, args=(1,))
    thread.start()
    thread.join()
    said = subprocess.run(["echo", "heard"], capture_output=True, text=True, check=True).stdout

    async def sleep():
        process = await asyncio.create_subprocess_exec("true")
        return await process.wait()

    with tempfile.TemporaryDirectory() as folder:
        torch.save(model.state_dict(), f"{folder}/model.pt")
        model.load_state_dict(torch.load(f"{folder}/model.pt"))
    c.emit("done", [seen, said.strip(), asyncio.run(sleep()), os.isatty(1), os.listdir("/dev/shm")])
"""


@pytest.mark.docker
@pytest.mark.slow
def test_training_works_within_all_of_it() -> None:
    """DataLoader workers on the small /dev/shm, threads, subprocess, asyncio and files."""
    job = Job(b"", {"trains": TRAINS}, (Step("train", "trains:train"),), replace(LIMITS, memory_bytes=1 << 30))
    step = DockerSandbox(image=IMAGE).run(job).steps[0]
    assert step.status is RunStatus.OK, step.output_tail.decode()
    assert json.loads(step.frames[0].header)["data"] == [256, "heard", 0, False, []]

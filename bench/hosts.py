"""Several hosts on one machine: pulls their cables, turns them off, and counts what was lost, doubled or wrong.

    python -m bench.hosts                        a dozen faults, two worker hosts
    python -m bench.hosts --injections 40 --json hosts.json

The first host has PostgreSQL, Redis, API, relay, sweeper and the sender of webhooks. Worker hosts have network, mounts,
processes and name of their own, and an Engine, a runner and a worker each, which are told the addresses of database
and queue and the image, nothing else; of the first host's files they see none. A bridge stands for the network
between them. It needs root. What is struck, when, and how it is judged, is as in `bench.chaos`.

What it cannot show: clocks that differ, a kernel that dies, a slow or lossy network.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from bench.chaos import TIMES, Chaos, Fault, HandedIn, Receiver, Stack, Verdict, as_json, plan, table
from bench.stack import ROOT, Engine, NotHere, Part, assay, children
from sandbox.remote import RunnerSandbox
from sandbox.spec import SandboxUnavailable

_BRIDGE, _NETWORK = "assay-hosts", "10.73.41"
_HOSTS = 2
_BOOT_S = 120.0
_OFF_S = (1.0, 5.0)
_MOMENT_S, _LONG_S = (0.5, 4.0), (10.0, 35.0)  # below and above the lease; the longest outlasts TCP's patience
# The first process of a host: hides the first host's files, then waits for whoever was left to it.
_INIT = """
import os, subprocess, sys, time
subprocess.run(["mount", "-t", "tmpfs", "hidden", sys.argv[1]], check=True)
subprocess.run(["hostname", sys.argv[2]], check=True)
print("up", flush=True)
while True:
    try:
        os.wait()
    except ChildProcessError:
        time.sleep(0.2)
"""


class Host:
    """A host that only grades."""

    def __init__(self, number: int, folder: Path, hidden: Path, image: str, reach: Mapping[str, str]) -> None:
        self.name, self._hidden, self._image = f"worker-host-{number}", hidden, image
        self._folder = folder / self.name
        self._cable, self._address = f"assay-h{number}", f"{_NETWORK}.{number + 1}"
        self._reach = dict(reach)
        self._power: Part | None = None
        self._engine: Engine | None = None
        self._parts: list[Part] = []

    def boot(self) -> None:
        """Start it, its Engine, its runner and its worker."""
        self._folder.mkdir(exist_ok=True)
        words = ["unshare", "--net", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
        init = [*words, sys.executable, "-c", _INIT, str(self._hidden), self.name]
        log = self._folder / f"init-{time.monotonic_ns()}.log"
        self._power = Part(self.name, init, log, ready=lambda: log.exists() and "up" in log.read_text())
        self._power.start()
        self._power.await_ready()
        (pid,) = children(self._power.pid)
        enter = ["nsenter", "--target", str(pid), "--net", "--mount", "--uts", "--pid"]
        self._plug_in(pid, enter)
        # As after a reboot: what lay in /run is gone.
        engine = self._folder / "engine"
        shutil.rmtree(engine / "exec", ignore_errors=True)
        for old in (engine / "pid", engine / "docker.sock", self._socket):
            old.unlink(missing_ok=True)
        self._engine = Engine(engine, self._image, own=True, enter=enter)
        self._engine.start()
        settings = self._settings(self._engine)
        runner = assay("runner", ["runner"], self._folder / "runner.log", settings, self._runner_answers, enter)
        worker_words = ["worker", "--queue", "interactive", "--queue", "cohort"]
        worker = assay("worker", worker_words, self._folder / "worker.log", settings, enter=enter)
        self._parts = [worker, runner]
        runner.start()
        runner.await_ready(_BOOT_S)
        worker.start()

    def _plug_in(self, pid: int, enter: list[str]) -> None:
        _ip("link", "add", self._cable, "type", "veth", "peer", "name", "eth0", "netns", str(pid))
        _ip("link", "set", self._cable, "master", _BRIDGE, "up")
        for words in (
            ("addr", "add", f"{self._address}/24", "dev", "eth0"),
            ("link", "set", "eth0", "up"),
            ("link", "set", "lo", "up"),
        ):
            _ip(*words, enter=enter)

    def _settings(self, engine: Engine) -> dict[str, str]:
        return {
            **TIMES,
            **self._reach,
            "ASSAY_STATE_DIR": str(self._folder / "state"),
            "ASSAY_SANDBOX": "runner",
            "ASSAY_RUNNER_SOCKET": str(self._socket),
            "ASSAY_RUNNER_JOBS": "1",
            "ASSAY_DOCKER_HOST": engine.host,
            "ASSAY_IMAGE": self._image,
            "PYTHONPATH": str(ROOT),
        }

    @property
    def _socket(self) -> Path:
        return self._folder / "runner.sock"

    def _runner_answers(self) -> bool:
        try:
            RunnerSandbox(self._socket, "hosts")
        except SandboxUnavailable:
            return False
        return True

    def unplug(self) -> None:
        """Pull its cable: what is sent is lost without a word."""
        _ip("link", "set", self._cable, "down")

    def plug(self) -> None:
        """Put it back."""
        _ip("link", "set", self._cable, "up")

    def power_off(self) -> None:
        """The kernel kills all that runs on it; its disk stays."""
        assert self._power is not None
        for pid in children(self._power.pid):
            os.kill(pid, signal.SIGKILL)
        self._power.kill()
        with contextlib.suppress(subprocess.CalledProcessError):
            _ip("link", "del", self._cable)

    def stop_services(self) -> None:
        """Stop worker and runner as an operator would."""
        for part in self._parts:
            part.stop(20)

    def finished(self) -> int:
        """How many gradings its worker brought to a verdict, by its log."""
        log = self._folder / "worker.log"
        lines = log.read_text("utf-8", "replace").splitlines() if log.exists() else []
        return sum('"outcome": "graded"' in line or '"outcome": "invalid"' in line for line in lines)

    def containers(self) -> list[str]:
        """Its sandboxes that exist."""
        return self._engine.containers() if self._engine is not None else []

    def remove(self) -> None:
        """Turn it off and forget its disk, its logs apart."""
        if self._power is not None:
            self.power_off()
        shutil.rmtree(self._folder / "engine", ignore_errors=True)


class Hosts(Stack):
    """The first host with its parts, and the worker hosts."""

    def __init__(self, folder: Path) -> None:
        main = folder / "first-host"
        _ip("link", "add", _BRIDGE, "type", "bridge")
        _ip("addr", "add", f"{_NETWORK}.1/24", "dev", _BRIDGE)
        _ip("link", "set", _BRIDGE, "up")
        super().__init__(main, own_engine=False, address=f"{_NETWORK}.1")
        reach = {"ASSAY_DATABASE_URL": self.postgres.url, "ASSAY_REDIS_URL": self.redis.url}
        self.hosts = [Host(number, folder, main, self.engine.image, reach) for number in range(1, _HOSTS + 1)]

    def _start(self) -> None:
        self._make_scratch()
        self.engine.start()
        self._start_stores()
        self._start_others()
        for host in self.hosts:
            host.boot()

    def host_of(self, worker: str) -> Host | None:
        """The host whose name is in a worker's."""
        return next((host for host in self.hosts if f"@{host.name}:" in worker), None)

    def containers(self) -> list[str]:
        """Those of all hosts."""
        return [one for host in self.hosts for one in host.containers()]

    def stop_services(self) -> None:
        """Worker hosts first."""
        for host in self.hosts:
            host.stop_services()
        super().stop_services()

    def close(self) -> None:
        """Stop and remove everything."""
        super().close()
        for host in self.hosts:
            host.remove()
        _ip("link", "del", _BRIDGE)


def _ip(*words: str, enter: list[str] | None = None) -> None:
    subprocess.run([*(enter or []), "ip", *words], check=True, capture_output=True, timeout=20)


# --- faults -----------------------------------------------------------------------------------


def _hosts(chaos: Chaos) -> Hosts:
    assert isinstance(chaos.stack, Hosts)
    return chaos.stack


def _struck(chaos: Chaos, one: HandedIn) -> Host:
    found = chaos.store.submission(one.id)
    host = _hosts(chaos).host_of(found.worker) if found is not None and found.worker else None
    return host or chaos.draw.choice(_hosts(chaos).hosts)


def _unplug(seconds: tuple[float, float], everybody: bool = False) -> Callable[[Chaos, HandedIn], None]:
    def strike(chaos: Chaos, one: HandedIn) -> None:
        struck = _hosts(chaos).hosts if everybody else [_struck(chaos, one)]
        for host in struck:
            host.unplug()
        time.sleep(chaos.draw.uniform(*seconds))
        for host in struck:
            host.plug()

    return strike


def _turn_off(chaos: Chaos, one: HandedIn) -> None:
    host = _struck(chaos, one)
    host.power_off()
    time.sleep(chaos.draw.uniform(*_OFF_S))
    host.boot()


FAULTS: tuple[Fault, ...] = (
    Fault("Cable of its host pulled, a moment", ("claimed", "step", "own run"), _unplug(_MOMENT_S)),
    Fault("Cable of its host pulled, long", ("claimed", "step", "own run"), _unplug(_LONG_S)),
    Fault("All cables pulled, long", ("posted", "own run"), _unplug(_LONG_S, everybody=True)),
    Fault("Its host turned off and on", ("claimed", "step", "own run"), _turn_off),
)


# --- the run ----------------------------------------------------------------------------------


def run(injections: int, seed: int, say: Callable[[str], None]) -> tuple[Verdict, dict[str, int]]:
    """A whole run, and how many gradings each host finished. Raises NotHere where a part is missing."""
    if os.getuid() != 0:
        raise NotHere("hosts of one's own take root")
    draw = random.Random(seed)
    folder = Path(tempfile.mkdtemp(prefix="assay-hosts-"))
    folder.chmod(0o755)  # PostgreSQL's own user has to get through
    receiver = Receiver(random.Random(seed + 1))
    receiver.start()
    began = time.monotonic()
    try:
        with Hosts(folder) as stack:
            chaos = Chaos(stack, receiver, draw)
            say("all hosts are up; the controls are being graded")
            chaos.prepare()
            for number, (fault, edge) in enumerate(plan(FAULTS, injections, draw), 1):
                say(f"{number:4}/{injections}  {time.monotonic() - began:6.0f} s  {fault.name} ({edge})")
                chaos.inject(fault, edge)
            say("left alone until everything rests")
            verdict = chaos.judge()
            finished = {host.name: host.finished() for host in stack.hosts}
            chaos.store.close()
        verdict.seconds = time.monotonic() - began
        if verdict.holds:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            say(f"logs are kept in {folder}")
        return verdict, finished
    finally:
        receiver.stop()


def main() -> int:
    """Exit code: 0 nothing lost, doubled, wrong or left, and every host graded; 1 not so; 2 a part is missing."""
    parser = argparse.ArgumentParser(prog="bench.hosts", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--injections", type=int, default=11, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was counted here, too")
    parser.add_argument("--seed", type=int, default=None, help="of faults, edges and answers")
    given = parser.parse_args()
    seed = given.seed if given.seed is not None else random.SystemRandom().randrange(1 << 31)

    def say(words: str) -> None:
        print(f"hosts: {words}", file=sys.stderr, flush=True)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    say(f"seed {seed}")
    try:
        verdict, finished = run(given.injections, seed, say)
    except NotHere as error:
        say(str(error))
        return 2
    print(table(verdict, FAULTS))
    print(f"{'finished by':31} {', '.join(f'{name}: {count}' for name, count in sorted(finished.items()))}")
    if given.json is not None:
        told = {**as_json(verdict), "seed": seed, "finished_by": finished}
        given.json.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    return 0 if verdict.holds and all(finished.values()) else 1


if __name__ == "__main__":
    sys.exit(main())

"""Breaks the running service on purpose and counts what was lost, doubled, wrong or left behind.

    make chaos                                   300 injections
    python -m bench.chaos --injections 60 --json chaos.json
    python -m bench.chaos --minutes 20           as many as come to be in that time

Real parts on this machine only: PostgreSQL, Redis, a Docker Engine of its own, the runner, Celery workers,
relay, sweeper, API, and a receiver of webhooks that fails more often than not. Programs are handed in all
the while over HTTP. Each injection picks a fault and an edge: the state of one submission at which it
strikes. In the end everything is left alone, and the store, the receiver and the Engine are asked.

Nothing in the service knows of this: faults come from outside, by signals, by the Engine and by messages
put on the queue. What happens inside a transaction is reached by freezing the database first.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import itertools
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

from bench.stack import Client, Engine, NotHere, Part, Postgres, Redis, assay, free_port
from grading.challenge import load_challenge
from sandbox.image.build import image_tag
from sandbox.remote import RunnerSandbox
from sandbox.spec import SandboxUnavailable
from services.settings import Settings
from services.store import SCOPES, SETTLED, MessageFilters, Store, StoreUnavailable, Submission, WebhookMessage
from services.webhooks import VerificationFailed, verify
from services.worker.queue import GRADE, QUEUE_TROUBLE, Hints, make_app

SETTLE_S = 300.0  # for everything to come to rest once nothing is broken any more
EDGE_S = 30.0  # for a submission to reach the edge at which a fault is to strike
CONTAINERS_GONE_S = 60.0
MOST_WAITING = 4  # so that a run's end is soon reached
PAUSE_S = (0.5, 3.0)

# Short times, so that minutes show what would take days: retries, leases, the schedule of webhooks.
TIMES = {
    "ASSAY_LEASE_S": "6",
    "ASSAY_HEARTBEAT_S": "1.5",
    "ASSAY_SWEEP_EVERY_S": "1",
    "ASSAY_STALE_QUEUED_S": "4",
    "ASSAY_RETRY_BASE_S": "0.5",
    "ASSAY_RETRY_MAX_S": "4",
    "ASSAY_MAX_ATTEMPTS": "25",
    "ASSAY_SOFT_STOP_S": "2",
    "ASSAY_WORKER_SANDBOX_WAIT_S": "4",
    "ASSAY_BROKER_TIMEOUT_S": "2",
    "ASSAY_DELIVER_EVERY_S": "0.3",
    "ASSAY_WEBHOOK_TIMEOUT_S": "1.5",
    "ASSAY_WEBHOOK_SCHEDULE_S": ",".join(["0", *["1"] * 49]),
    "ASSAY_WEBHOOK_ALLOW_PRIVATE": "true",
    "ASSAY_API_RATE_LIMIT": "100000/minute",
    "ASSAY_API_ANONYMOUS_RATE_LIMIT": "100000/minute",
    "ASSAY_RUNNER_GRACE_S": "3",
}


# --- what is handed in, and what must come out ------------------------------------------------


class Kind(NamedTuple):
    """A program whose verdicts are known."""

    source: str
    outcome: str
    fixed: frozenset[str]


def kinds() -> dict[str, Kind]:
    """Programs that take a second or three: two that no interpreter takes, and two epochs of known ones."""
    challenge = load_challenge("spiral")
    bugs = frozenset(bug.id for bug in challenge.manifest.bugs)

    def short(name: str) -> str:
        return challenge.text(name).replace("num_epochs = 20", "num_epochs = 2")

    high = short("solution.py").replace("lr=1e-3", "lr=0.5")
    return {
        "syntax": Kind("def broken(:\n", "invalid", frozenset()),
        "exit": Kind("raise SystemExit(3)\n", "invalid", frozenset()),
        "solution": Kind(short("solution.py"), "graded", bugs),
        "problem": Kind(short("problem.py"), "graded", frozenset()),
        "one bug": Kind(high, "graded", bugs - {"lr"}),
    }


_MIX = ("syntax", "solution", "exit", "problem", "syntax", "one bug", "syntax", "solution", "exit")
# For edges that others do not reach, or pass by too fast to be met.
_LASTING = {
    "claimed": ("syntax", "solution", "exit", "problem", "one bug"),
    "step": ("syntax", "solution", "exit", "problem", "one bug"),
    "own run": ("solution", "problem", "one bug"),
}
_TRIES = 3


@dataclass
class HandedIn:
    """One submission as the client knows it."""

    id: str
    kind: str
    source: str


# --- a receiver that nobody would want --------------------------------------------------------


class Receiver:
    """Takes webhooks on loopback: half the time it answers 500, sometimes nothing, sometimes elsewhere."""

    def __init__(self, draw: random.Random) -> None:
        self.secret = ""
        self.taken: Counter[str] = Counter()
        self.bodies: dict[str, set[str]] = defaultdict(set)
        self.told_of: set[str] = set()
        self.answers: Counter[str] = Counter()
        self.followed = 0
        self.forged: list[str] = []
        self.arrived = threading.Condition()
        self._draw = draw
        self.port = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}/hook"

    def start(self) -> None:
        """Serve from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Serve no more."""
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str, headers: Mapping[str, str], body: bytes) -> str:
        """Note what came and choose what to answer."""
        with self.arrived:
            self.arrived.notify_all()
            if path != "/hook":
                self.followed += 1
                return "200"
            try:
                webhook_id = verify([self.secret], headers, body, now_s=time.time(), tolerance_s=300)
            except VerificationFailed as error:
                self.forged.append(str(error))
                return "401"
            self.bodies[webhook_id].add(hashlib.sha256(body).hexdigest())
            self.told_of.add(str(json.loads(body)["data"].get("submission_id")))
            chosen = self._draw.choices(("500", "200", "hang", "302", "cut"), (50, 30, 6, 8, 6))[0]
            self.answers[chosen] += 1
            if chosen == "200":
                self.taken[webhook_id] += 1
            return chosen

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                chosen = receiver.answer(self.path, dict(self.headers), body)
                if chosen == "hang":
                    time.sleep(2.5)
                if chosen in ("hang", "cut"):
                    self.close_connection = True
                    return
                self.send_response(int(chosen))
                if chosen == "302":
                    self.send_header("Location", f"http://127.0.0.1:{receiver.port}/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_GET = do_POST

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        return Handler


# --- the stack --------------------------------------------------------------------------------


class Stack:
    """Everything that runs, restarted whenever it ends unasked. Use as a context manager."""

    def __init__(self, folder: Path, own_engine: bool, controls: Path | None = None, address: str = "") -> None:
        self.folder, self._controls = folder, controls
        (folder / "logs").mkdir(parents=True)
        self.postgres = Postgres(folder / "pg", address)
        self.redis = Redis(folder / "redis", address or "127.0.0.1")
        self.engine = Engine(folder / "engine", _image(), own_engine)
        self.port = free_port()
        self.socket = folder / "runner.sock"
        self.scratch = folder / "scratch"
        self.environment = {
            **TIMES,
            "ASSAY_STATE_DIR": str(self.scratch),
            "ASSAY_DATABASE_URL": self.postgres.url,
            "ASSAY_REDIS_URL": self.redis.url,
            "ASSAY_SANDBOX": "runner",
            "ASSAY_RUNNER_SOCKET": str(self.socket),
            "ASSAY_RUNNER_JOBS": "2",
            "ASSAY_DOCKER_HOST": self.engine.host,
            "ASSAY_IMAGE": self.engine.image,
            "ASSAY_API_PORT": str(self.port),
            "PYTHONPATH": str(Path(__file__).resolve().parent.parent),
        }
        self.runner_pids: set[int] = set()
        self.parts: dict[str, Part] = {}
        self._held: set[str] = set()
        self._lock = threading.RLock()
        self._stopping, self._end = threading.Event(), threading.Event()
        self._keeper = threading.Thread(target=self._keep, daemon=True)
        self._mounted = False

    def __enter__(self) -> Stack:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> None:
        self._make_scratch()
        self.engine.start()
        self._start_stores()
        self._add("runner", "runner")
        self.parts["runner"].await_ready(120)
        self._add("worker 1", "worker --queue interactive")
        self._add("worker 2", "worker --queue interactive --queue cohort")
        self._start_others()

    def _start_stores(self) -> None:
        for part in (self.postgres, self.redis):
            part.start()
            part.await_ready()
        self.postgres.create_database()
        Store.upgrade(self.postgres.url)

    def _start_others(self) -> None:
        """All that needs no sandbox, and who restarts what ends."""
        self._add("webhook worker", "worker --queue webhooks")
        for name in ("relay", "sweeper", "api"):
            self._add(name, name)
        self._keeper.start()

    def _add(self, name: str, words: str) -> None:
        log = self.folder / "logs" / f"{name.replace(' ', '-')}.log"
        ready = self._runner_answers if name == "runner" else lambda: True
        part = assay(name, words.split(), log, self.environment, ready=ready)
        self.parts[name] = part
        self._launch(part)

    def _launch(self, part: Part) -> None:
        part.start()
        if part.name == "runner":
            self.runner_pids.add(part.pid)

    def _runner_answers(self) -> bool:
        try:
            RunnerSandbox(self.socket, "chaos")
        except SandboxUnavailable:
            return False
        return True

    def _make_scratch(self) -> None:
        """The workers' folder, a file system of its own where that can be had, so that it can be full."""
        self.scratch.mkdir()
        words = ["mount", "-t", "tmpfs", "-o", "size=2m,mode=700", "assay-chaos", str(self.scratch)]
        self._mounted = os.getuid() == 0 and subprocess.run(words, check=False, capture_output=True).returncode == 0
        if self._controls is not None:
            shutil.copytree(self._controls, self.scratch / "controls")

    @property
    def can_fill(self) -> bool:
        """Whether the scratch can be full without filling the machine's disk."""
        return self._mounted

    def _keep(self) -> None:
        while not self._end.wait(0.1):
            with self._lock:
                if self._stopping.is_set():
                    continue  # but live on: what this thread started dies with it
                for name, part in self.parts.items():
                    if not part.runs and name not in self._held:
                        self._launch(part)

    @contextlib.contextmanager
    def held(self, name: str) -> Iterator[Part]:
        """As long as this lasts, the part is not restarted."""
        with self._lock:
            self._held.add(name)
        try:
            yield self.parts[name]
        finally:
            with self._lock:
                self._held.discard(name)

    def containers(self) -> list[str]:
        """The sandboxes that this stack's runners made and that still exist."""
        return self.engine.containers(None if self.engine.part else self.runner_pids)

    def stop_services(self) -> None:
        """Stop Assay's processes as an operator would, workers first."""
        with self._lock:
            self._stopping.set()
        order = sorted(self.parts, key=lambda name: name == "runner")
        for name in order:
            self.parts[name].stop(20)

    def close(self) -> None:
        """Stop and remove everything."""
        self.stop_services()
        self._end.set()
        self.redis.stop()
        if self.postgres.process is not None:
            self.postgres.resume()
            self.postgres.stop()
        self.engine.stop()
        for mounted in (self.scratch, self.folder / "engine" / "data"):
            subprocess.run(["umount", "-l", str(mounted)], check=False, capture_output=True)


def _image() -> str:
    return os.environ.get("ASSAY_IMAGE") or image_tag()


# --- faults -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    """What is done, at which edges of a submission's life, and how often beside the others."""

    name: str
    edges: tuple[str, ...]
    strike: Callable[[Chaos, HandedIn], None]
    weight: int = 1


def _kill(*names: str) -> Callable[[Chaos, HandedIn], None]:
    def strike(chaos: Chaos, _: HandedIn) -> None:
        name = chaos.draw.choice(names)
        if name.startswith("worker"):
            name = chaos.worker_of(_) or name
        chaos.stack.parts[name].kill()

    return strike


def _stop_worker(chaos: Chaos, one: HandedIn) -> None:
    name = chaos.worker_of(one) or "worker 1"
    with chaos.stack.held(name) as part:
        part.stop(20)


def _kill_containers(chaos: Chaos, _: HandedIn) -> None:
    chaos.stack.engine.kill(chaos.stack.containers())


def _restart_redis(chaos: Chaos, _: HandedIn) -> None:
    redis = chaos.stack.redis
    redis.kill()
    time.sleep(chaos.draw.uniform(0.0, 1.0))
    redis.start()
    redis.await_ready()


def _flush_redis(chaos: Chaos, _: HandedIn) -> None:
    chaos.stack.redis.flush()


def _pause(part_of: Callable[[Stack], Part]) -> Callable[[Chaos, HandedIn], None]:
    def strike(chaos: Chaos, _: HandedIn) -> None:
        part = part_of(chaos.stack)
        part.pause()
        time.sleep(chaos.draw.uniform(*PAUSE_S))
        part.resume()

    return strike


def _kill_while_frozen(name: str, part_of: Callable[[Stack], Part]) -> Callable[[Chaos, HandedIn], None]:
    """Freeze what the process talks to, long enough that it is in the middle of a call; then kill the process."""

    def strike(chaos: Chaos, one: HandedIn) -> None:
        frozen = part_of(chaos.stack)
        victim = (chaos.worker_of(one) if name == "worker" else None) or ("worker 1" if name == "worker" else name)
        frozen.pause()
        time.sleep(chaos.draw.uniform(*PAUSE_S))
        chaos.stack.parts[victim].kill()
        frozen.resume()

    return strike


def _crash_postgres(chaos: Chaos, _: HandedIn) -> None:
    postgres = chaos.stack.postgres
    postgres.crash()
    time.sleep(chaos.draw.uniform(0.0, 1.0))
    postgres.start()
    postgres.await_ready()


def _restart_engine(chaos: Chaos, _: HandedIn) -> None:
    chaos.stack.engine.restart()


def _fill_disk(chaos: Chaos, _: HandedIn) -> None:
    """No room and no memory of passed controls: the next grading has to write and cannot."""
    scratch = chaos.stack.scratch
    for remembered in (scratch / "controls").glob("*.json"):
        remembered.unlink()
    ballast = scratch / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(b"\0" * 65536)
    time.sleep(chaos.draw.uniform(8.0, 16.0))
    ballast.unlink()


def _duplicate(chaos: Chaos, one: HandedIn) -> None:
    for _ in range(3):
        chaos.hint(one.id)


def _delay(chaos: Chaos, one: HandedIn) -> None:
    """A message that comes when everything may be over."""
    timer = threading.Timer(chaos.draw.uniform(3.0, 20.0), chaos.hint, (one.id,))
    timer.daemon = True
    timer.start()


def _nonsense(chaos: Chaos, _: HandedIn) -> None:
    chaos.hint("sub_nobody")
    with contextlib.suppress(*QUEUE_TROUBLE):
        chaos.app.send_task(GRADE, args=({"not": "an id"},), queue="interactive", retry=False)


def _kill_api_in_a_request(chaos: Chaos, _: HandedIn) -> None:
    """The client posts again under the same key, and must not get a second submission."""
    poster = threading.Thread(target=chaos.hand_in)
    poster.start()
    time.sleep(chaos.draw.uniform(0.0, 0.05))
    chaos.stack.parts["api"].kill()
    poster.join()


FAULTS: tuple[Fault, ...] = (
    Fault("SIGKILL worker", ("posted", "claimed", "step", "own run", "settled"), _kill("worker 1", "worker 2"), 2),
    Fault(
        "SIGKILL worker, database frozen",
        ("claimed", "own run"),
        _kill_while_frozen("worker", lambda stack: stack.postgres),
    ),
    Fault("SIGTERM worker", ("claimed", "step", "own run"), _stop_worker),
    Fault("SIGKILL webhook worker", ("settled", "sending"), _kill("webhook worker")),
    Fault(
        "SIGKILL webhook worker, database frozen",
        ("sending",),
        _kill_while_frozen("webhook worker", lambda stack: stack.postgres),
    ),
    Fault("SIGKILL relay", ("posted", "claimed"), _kill("relay")),
    Fault("SIGKILL relay, queue frozen", ("posted",), _kill_while_frozen("relay", lambda stack: stack.redis)),
    Fault("SIGKILL sweeper", ("posted", "claimed"), _kill("sweeper")),
    Fault("SIGKILL API", ("posted", "settled"), _kill("api")),
    Fault("SIGKILL API in a request", ("posted",), _kill_api_in_a_request, 2),
    Fault("SIGKILL containers", ("claimed", "step", "own run"), _kill_containers, 2),
    Fault("SIGKILL runner", ("claimed", "step", "own run"), _kill("runner")),
    Fault("Redis killed and restarted", ("posted", "claimed", "settled"), _restart_redis),
    Fault("Redis frozen", ("posted", "claimed"), _pause(lambda stack: stack.redis)),
    Fault("Redis emptied", ("posted", "claimed"), _flush_redis),
    Fault("PostgreSQL crashed and restarted", ("posted", "claimed", "own run"), _crash_postgres),
    Fault("PostgreSQL frozen", ("posted", "claimed", "own run"), _pause(lambda stack: stack.postgres)),
    Fault("Engine restarted", ("claimed", "own run"), _restart_engine),
    Fault("Disk full", ("posted",), _fill_disk),
    Fault("Message three times more", ("posted", "claimed", "settled"), _duplicate),
    Fault("Message late once more", ("posted", "claimed"), _delay),
    Fault("Message without sense", ("posted",), _nonsense),
)


def plan(faults: tuple[Fault, ...], injections: int, draw: random.Random) -> list[tuple[Fault, str]]:
    """Every fault at every edge in turn, as often as it weighs, in random order within each round."""
    round_of = [(fault, edge) for fault in faults for edge in fault.edges for _ in range(fault.weight)]
    chosen: list[tuple[Fault, str]] = []
    while len(chosen) < injections:
        draw.shuffle(round_of)
        chosen += round_of
    return chosen[:injections]


# --- the run ----------------------------------------------------------------------------------


@dataclass
class Verdict:
    """What a run showed."""

    injections: int = 0
    by_fault: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    off_edge: int = 0
    handed_in: int = 0
    posted_twice: int = 0
    attempts: int = 0
    states: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    webhooks: int = 0
    webhook_attempts: int = 0
    answers: dict[str, int] = field(default_factory=dict)
    undelivered: list[str] = field(default_factory=list)
    ambiguous: list[str] = field(default_factory=list)
    redirects_followed: int = 0
    forged: int = 0
    containers_left: int = 0
    audit: str = ""
    seconds: float = 0.0

    @property
    def holds(self) -> bool:
        """Whether everything that must be nothing is nothing."""
        bad = (self.lost, self.doubled, self.wrong, self.undelivered, self.ambiguous, self.audit)
        return not any(bad) and not (self.redirects_followed or self.forged or self.containers_left)


class Chaos:
    """One run. `strike` breaks something, `judge` says what came of it all."""

    def __init__(self, stack: Stack, receiver: Receiver, draw: random.Random) -> None:
        self.stack, self.receiver, self.draw = stack, receiver, draw
        self.store = Store.open(stack.postgres.url)
        self.app = make_app(Settings(redis_url=stack.redis.url, state_dir=stack.scratch, broker_timeout_s=2))
        self.hints = Hints(self.app)
        self.kinds = kinds()
        self.given: list[HandedIn] = []
        self.verdict = Verdict()
        self._lock = threading.Lock()
        self._number = itertools.count()
        _, secret = self.store.create_key("chaos", SCOPES)
        self.client = Client(f"http://127.0.0.1:{stack.port}", secret, timeout_s=5.0)
        self.cohort = ""

    def prepare(self) -> None:
        """Register the receiver, make a cohort, and let one submission pass, so that the controls are through."""
        self._until(lambda: self.client.call("GET", "/healthz")[0] == 200, 120, "the API")
        status, made = self.client.call("POST", "/v1/webhook-endpoints", {"url": self.receiver.url})
        assert status in (200, 201), made
        self.receiver.secret = made["secret"]
        status, made = self.client.call("POST", "/v1/cohorts", {"name": "chaos", "challenge": "spiral"})
        assert status in (200, 201, 202), made
        self.cohort = made["id"]
        first = self.hand_in("syntax")
        self._until(lambda: self.state(first.id) in SETTLED, 600, "the first grading")

    def hand_in(self, kind: str = "") -> HandedIn:
        """Hand in the next program, one in five to the cohort, one in six twice."""
        with self._lock:
            number = next(self._number)
        kind = kind or _MIX[number % len(_MIX)]
        source = self.kinds[kind].source + f"\n# chaos {number}\n"
        cohort = self.cohort if number % 5 == 4 else ""
        for _ in range(2 if number % 6 == 5 else 1):
            self.client.submit(source, f"chaos-{number}", cohort, 120)
        self.verdict.posted_twice += number % 6 == 5
        one = HandedIn(self._id_of(source), kind, source)
        with self._lock:
            self.given.append(one)
        return one

    def _id_of(self, source: str) -> str:
        """The id under which a source, of which there is but one, was taken; more than one is a double."""
        digest = hashlib.sha256(source.encode()).hexdigest()
        while True:
            try:
                recent = self.store.list_submissions(limit=50).items
                break
            except StoreUnavailable:
                time.sleep(0.2)
        found = [one.id for one in recent if one.source_sha256 == digest]
        if len(found) != 1:
            self.verdict.doubled.append(f"one request made {found}")
        return found[0]

    def inject(self, fault: Fault, edge: str) -> None:
        """Hand in a program, wait until it is at the edge, strike."""
        for _ in range(_TRIES):
            self._ease()
            one = self.hand_in(self.draw.choice(_LASTING.get(edge, _MIX)))
            if reached := self._await_edge(one, edge):
                break
        self.verdict.off_edge += not reached
        with contextlib.suppress(StoreUnavailable):
            fault.strike(self, one)
        self.verdict.by_fault[fault.name][edge if reached else f"{edge}, missed"] += 1
        self.verdict.injections += 1

    def hint(self, submission_id: str) -> None:
        """Put a message on the queue that nobody asked for."""
        with contextlib.suppress(*QUEUE_TROUBLE):
            self.hints.grade(submission_id, "interactive")

    def state(self, submission_id: str) -> str:
        """Of one submission; empty where the database does not answer."""
        one = self._submission(submission_id)
        return one.state if one is not None else ""

    def worker_of(self, one: HandedIn) -> str | None:
        """Which worker process has it now."""
        found = self._submission(one.id)
        if found is None or found.state != "running" or not found.worker:
            return None
        pid = found.worker.rpartition(":")[2]
        return next((name for name, part in self.stack.parts.items() if part.runs and str(part.pid) == pid), None)

    def _submission(self, submission_id: str) -> Submission | None:
        try:
            return self.store.submission(submission_id)
        except StoreUnavailable:
            return None

    def _ease(self) -> None:
        """Hand in no more while too much waits."""
        self._until(lambda: len(self._unsettled()) <= MOST_WAITING, SETTLE_S, "the queue to drain", strict=False)

    def _unsettled(self) -> list[str]:
        with self._lock:
            given = [one.id for one in self.given]
        return [one for one in given[-60:] if self.state(one) not in SETTLED]

    def _await_edge(self, one: HandedIn, edge: str) -> bool:
        deadline = time.monotonic() + EDGE_S
        while time.monotonic() < deadline:
            if self._is_at(one, edge):
                return True
            if edge not in ("settled", "sending") and self.state(one.id) in SETTLED:
                return False
            if edge == "sending":
                with self.receiver.arrived:
                    self.receiver.arrived.wait(0.2)
            else:
                time.sleep(0.02)
        return False

    def _is_at(self, one: HandedIn, edge: str) -> bool:
        if edge == "posted":
            return True
        if edge == "claimed":
            return self.state(one.id) == "running"
        if edge == "settled":
            return self.state(one.id) in SETTLED
        if edge == "sending":
            return one.id in self.receiver.told_of
        try:
            events = self.store.events_after(one.id, 0, 500)
        except StoreUnavailable:
            return False
        if self.state(one.id) != "running":
            return False
        latest = [event.kind for event in events][-1:]
        steps = [event.data.get("step") for event in events if event.kind == "step"]
        return latest == ["step"] and (edge == "step" or steps[-1] == "real")

    def _until(self, true: Callable[[], bool], within_s: float, what: str, strict: bool = True) -> None:
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                if true():
                    return
            time.sleep(0.2)
        if strict:
            raise TimeoutError(f"{what} did not come within {within_s:g} s")

    # What came of it -----------------------------------------------------------------------

    def judge(self) -> Verdict:
        """Leave everything alone until it rests, then ask store, receiver and Engine."""
        told = self.verdict
        self._until(lambda: not self._all_unsettled(), SETTLE_S, "the end of all gradings", strict=False)
        self._until(lambda: not self._all_pending(), SETTLE_S, "the end of all deliveries", strict=False)
        told.handed_in = len(self.given)
        for one in self.given:
            self._judge_one(one)
        extra = {one.id for one in self._everything()} - {one.id for one in self.given}
        told.doubled += [f"{one} was never handed in" for one in sorted(extra)]
        self._judge_webhooks()
        problem = self.store.verify_audit()
        told.audit = str(problem) if problem else ""
        self.stack.stop_services()
        deadline = time.monotonic() + CONTAINERS_GONE_S
        while self.stack.containers() and time.monotonic() < deadline:
            time.sleep(1)
        told.containers_left = len(self.stack.containers())
        return told

    def _all_unsettled(self) -> list[str]:
        return [one.id for one in self.given if self.state(one.id) not in SETTLED]

    def _all_pending(self) -> bool:
        try:
            return bool(self.store.list_messages(MessageFilters(state="pending"), limit=1).items)
        except StoreUnavailable:
            return True

    def _everything(self) -> list[Submission]:
        found: list[Submission] = []
        cursor = None
        while True:
            page = self.store.list_submissions(cursor=cursor, limit=200)
            found += page.items
            cursor = page.next_cursor
            if cursor is None:
                return found

    def _judge_one(self, one: HandedIn) -> None:
        told, kind = self.verdict, self.kinds[one.kind]
        found = self.store.submission(one.id)
        told.states[found.state if found else "gone"] += 1
        if found is None or found.state not in ("graded", "invalid"):
            told.lost.append(f"{one.id} ({one.kind}) is {found.state if found else 'gone'}")
            return
        told.attempts += found.attempts
        ends = [event for event in self.store.events_after(one.id, 0, 10_000) if event.kind in ("graded", "invalid")]
        reports = self.store.reports(one.id)
        if len(reports) != 1 or len(ends) != 1:
            told.doubled.append(f"{one.id} has {len(reports)} reports and {len(ends)} ends")
        report = reports[0][1]
        fixed = {bug["id"] for bug in report["bugs"] if bug["verdict"] == "fixed"}
        undecided = [bug["id"] for bug in report["bugs"] if bug["verdict"] == "inconclusive"]
        right = report["outcome"] == kind.outcome and fixed == kind.fixed and not undecided
        if not right or report["submission_sha256"] != hashlib.sha256(one.source.encode()).hexdigest():
            told.wrong.append(f"{one.id} ({one.kind}): {report['outcome']}, fixed {sorted(fixed)}, open {undecided}")

    def _judge_webhooks(self) -> None:
        told, receiver = self.verdict, self.receiver
        told.answers, told.forged = dict(receiver.answers), len(receiver.forged)
        told.redirects_followed = receiver.followed
        messages = self._messages()
        told.webhooks = len(messages)
        for message in messages:
            told.webhook_attempts += len(self.store.attempts(message.id))
            if not receiver.taken[message.id]:
                told.undelivered.append(f"{message.id} ({message.event_type}) is {message.state}")
            if receiver.bodies[message.id] != {hashlib.sha256(message.body.encode()).hexdigest()}:
                told.ambiguous.append(f"{message.id} came with {len(receiver.bodies[message.id])} bodies")
        per_submission = Counter(message.submission_id for message in messages if message.submission_id)
        for one in self.given:
            if per_submission[one.id] != 1:
                told.ambiguous.append(f"{one.id} has {per_submission[one.id]} messages")
        unknown = receiver.bodies.keys() - {message.id for message in messages}
        told.ambiguous += [f"{webhook_id} is no message of the store" for webhook_id in unknown]

    def _messages(self) -> list[WebhookMessage]:
        found: list[WebhookMessage] = []
        cursor = None
        while True:
            page = self.store.list_messages(cursor=cursor, limit=200)
            found += page.items
            cursor = page.next_cursor
            if cursor is None:
                return found


def run(
    injections: int,
    *,
    own_engine: bool,
    seed: int,
    say: Callable[[str], None],
    faults: str = "",
    within_s: float = float("inf"),
    controls: Path | None = None,
) -> Verdict:
    """A whole run; no more injections after `within_s` or Ctrl-C. Raises NotHere where a part is missing.

    `controls` is a folder with controls that passed on this image, as a state folder has it.
    """
    draw = random.Random(seed)
    folder = Path(tempfile.mkdtemp(prefix="assay-chaos-"))
    folder.chmod(0o755)  # PostgreSQL's own user has to get through
    receiver = Receiver(random.Random(seed + 1))
    receiver.start()
    began = time.monotonic()
    try:
        with Stack(folder, own_engine, controls) as stack:
            usable = tuple(
                fault
                for fault in FAULTS
                if (own_engine or fault.name != "Engine restarted")
                and (stack.can_fill or fault.name != "Disk full")
                and faults in fault.name
            )
            chaos = Chaos(stack, receiver, draw)
            say("everything runs; the controls are being graded")
            chaos.prepare()
            try:
                for number, (fault, edge) in enumerate(plan(usable, injections, draw), 1):
                    passed_s = time.monotonic() - began
                    if passed_s > within_s:
                        say(f"no more injections after {passed_s:.0f} s")
                        break
                    say(f"{number:4}/{injections}  {passed_s:6.0f} s  {fault.name} ({edge})")
                    chaos.inject(fault, edge)
            except KeyboardInterrupt:
                say("no more injections")
            say("left alone until everything rests")
            verdict = chaos.judge()
            chaos.store.close()
        verdict.seconds = time.monotonic() - began
        if verdict.holds:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            say(f"logs are kept in {folder}")
        return verdict
    finally:
        receiver.stop()


# --- what is printed --------------------------------------------------------------------------


def as_json(verdict: Verdict) -> dict[str, Any]:
    """The whole result as JSON values."""
    told = {name: value for name, value in vars(verdict).items() if name != "by_fault"}
    by_fault = {name: dict(edges) for name, edges in sorted(verdict.by_fault.items())}
    return {**told, "by_fault": by_fault, "holds": verdict.holds, "machine": machine()}


def machine() -> str:
    """What it ran on."""
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} processors, {memory_gib:.0f} GiB, Linux {platform.release()}, {platform.machine()}"


def table(verdict: Verdict, faults: Sequence[Fault]) -> str:
    """The result for people."""
    lines = ["", f"{'fault':42} {'struck':>6}  at"]
    for fault in faults:
        edges = verdict.by_fault.get(fault.name)
        if edges:
            lines.append(
                f"{fault.name:42} {sum(edges.values()):6}  {', '.join(f'{e} {n}' for e, n in sorted(edges.items()))}"
            )
    answers = ", ".join(f"{name}: {count}" for name, count in sorted(verdict.answers.items()))
    rows = [
        ("injections", f"{verdict.injections}, of which {verdict.off_edge} struck after the edge had gone by"),
        ("handed in", f"{verdict.handed_in} ({verdict.posted_twice} posted twice), {dict(verdict.states)}"),
        ("attempts at grading", str(verdict.attempts)),
        ("webhooks", f"{verdict.webhooks} in {verdict.webhook_attempts} recorded attempts; answers {answers}"),
        ("lost", str(len(verdict.lost))),
        ("double verdicts", str(len(verdict.doubled))),
        ("wrong verdicts", str(len(verdict.wrong))),
        ("webhook ids not delivered", str(len(verdict.undelivered))),
        ("webhook ids with two meanings", str(len(verdict.ambiguous))),
        ("signatures that do not verify", str(verdict.forged)),
        ("redirects followed", str(verdict.redirects_followed)),
        ("containers left after 60 s", str(verdict.containers_left)),
        ("audit log", verdict.audit or "whole"),
        ("time", f"{verdict.seconds:.0f} s on {machine()}"),
    ]
    lines += ["", *(f"{name:31} {value}" for name, value in rows)]
    problems = [*verdict.lost, *verdict.doubled, *verdict.wrong, *verdict.undelivered, *verdict.ambiguous]
    return "\n".join([*lines, *(f"  ! {problem}" for problem in problems[:40])])


def main() -> int:
    """Exit code: 0 nothing lost, doubled, wrong or left; 1 something was; 2 a part is missing here; 130 stopped."""
    parser = argparse.ArgumentParser(prog="bench.chaos", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--injections", type=int, default=300, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was counted here, too")
    parser.add_argument("--minutes", type=float, default=None, metavar="M", help="begin no injection after so long")
    parser.add_argument("--seed", type=int, default=None, help="of faults, edges and answers")
    parser.add_argument("--faults", default="", metavar="WORDS", help="only faults whose name has these words")
    parser.add_argument(
        "--shared-engine", action="store_true", help="use the Engine that runs, which is then not restarted"
    )
    parser.add_argument("--controls", type=Path, metavar="FOLDER", help="controls that passed on this image before")
    given = parser.parse_args()
    seed = given.seed if given.seed is not None else random.SystemRandom().randrange(1 << 31)

    def say(words: str) -> None:
        print(f"chaos: {words}", file=sys.stderr, flush=True)

    # Even where they came ignored, and so that mounts and daemons are undone.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    say(f"seed {seed}")
    try:
        verdict = run(
            given.injections,
            own_engine=not given.shared_engine,
            seed=seed,
            say=say,
            faults=given.faults,
            within_s=float("inf") if given.minutes is None else given.minutes * 60,
            controls=given.controls,
        )
    except NotHere as error:
        say(str(error))
        return 2
    except KeyboardInterrupt:
        say("stopped before anything could be said")
        return 130
    print(table(verdict, FAULTS))
    if given.json is not None:
        given.json.write_text(json.dumps({**as_json(verdict), "seed": seed}, indent=1) + "\n", encoding="utf-8")
    return 0 if verdict.holds else 1


if __name__ == "__main__":
    sys.exit(main())

"""The pool's logic with containers that are made of nothing, and the pool on a real Engine."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import docker
import pytest

from sandbox.docker import CPU_SHARES, WARMING_CPU_SHARES, DockerSandbox
from sandbox.ownership import LABEL_OWNER
from sandbox.pool import SPARE_BYTES, Cancel, Cancelled, Pool, PoolConfig, memory_available_bytes
from sandbox.spec import (
    Job,
    Limits,
    RunResult,
    RunStatus,
    RunTiming,
    SandboxBusy,
    SandboxUnavailable,
    Step,
    StepListener,
    StepResult,
)

LIMITS = Limits(wall_time_s=60.0, memory_bytes=512 << 20)
OTHER = replace(LIMITS, memory_bytes=768 << 20)
PATIENCE_S = 20.0


def a_job(limits: Limits = LIMITS, body: str = "c.emit('a', 1)", label: str = "pool-test") -> Job:
    source = f"import os, time\ndef f(c):\n    {body}\n".encode()
    return Job(b"x = 1\n", {"p": source}, (Step("s", "p:f", wall_time_s=60.0),), limits, label)


def eventually(condition: Callable[[], Any]) -> Any:
    """Wait until it holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(0.005)
    return found


# --- containers made of nothing ---------------------------------------------------------


@dataclass
class FakeReady:
    warm_up_s: float = 1.5


class FakeContainer:
    """A container whose life is told by the test; its stream is a real socket."""

    def __init__(self, maker: FakeMaker, limits: Limits, background: bool) -> None:
        self.maker, self.limits, self.background = maker, limits, background
        self.ready: FakeReady | None = None
        self.quickened = self.destroyed = self.used = self.fails = self.may_end = False
        self.stocked: dict[str, bytes] = {}
        self.ran: tuple[str, ...] = ()
        self._ours, self._theirs = socket.socketpair()
        self._cut = threading.Event()

    def start(self, start_time_s: float | None = None) -> None:
        self.maker.started.append(start_time_s)
        assert self.maker.may_start.wait(PATIENCE_S)
        if self._cut.is_set() or self.fails:
            raise SandboxUnavailable("it does not start")
        self.ready = FakeReady()

    def stock(self, modules: Mapping[str, bytes]) -> None:
        self.stocked = dict(modules)

    def alive(self) -> bool:
        return not self._cut.is_set()

    def fileno(self) -> int:
        return self._ours.fileno()

    def die(self) -> None:
        """As when somebody kills it."""
        self._cut.set()
        self._theirs.close()

    def run(self, job: Job, listener: StepListener | None = None, later: Any = None) -> RunResult:
        assert self.ready is not None and not self.used and not self.destroyed
        self.used, self.ran = True, tuple(step.name for step in job.steps)
        self.maker.runs.append(self)
        for name in self.ran if listener is not None else ():
            listener(name, "begin")
            listener(name, "end")
        eventually(lambda: self.may_end or self.maker.may_end.is_set())
        if self._cut.is_set() or self.maker.lose_runs > 0:
            self.maker.lose_runs -= 1
            self.destroy()
            raise SandboxUnavailable("it was lost")
        later(self.destroy)
        timing = RunTiming(9.0, 9.0, 1.0, cpu_s=3.0, warm_up_cpu_s=2.0)
        return RunResult(tuple(StepResult(name, RunStatus.OK) for name in self.ran), timing, "docker")

    def abandon(self) -> None:
        self._cut.set()
        self.maker.may_end.set()
        self.maker.may_start.set()

    def destroy(self) -> None:
        assert not self.destroyed, "destroyed twice"
        self.destroyed = True
        self._ours.close()
        self._theirs.close()


@dataclass
class FakeMaker:
    """Makes them, and remembers each."""

    fail_creates: int = 0
    lose_runs: int = 0
    reaps: int = 0
    made: list[FakeContainer] = field(default_factory=list)
    runs: list[FakeContainer] = field(default_factory=list)
    started: list[float | None] = field(default_factory=list)
    may_start: threading.Event = field(default_factory=threading.Event)
    may_end: threading.Event = field(default_factory=threading.Event)
    devices: int = 0

    def create(self, limits: Limits, label: str = "", lifetime_s: float | None = None, *, background: bool = False):
        if self.fail_creates > 0:
            self.fail_creates -= 1
            raise SandboxUnavailable("the Engine is away")
        if self.devices and len(self.left()) >= self.devices:
            time.sleep(0.01)
            raise SandboxBusy("every device is in use")
        self.made.append(FakeContainer(self, limits, background))
        return self.made[-1]

    def quicken(self, container: FakeContainer) -> None:
        container.quickened = True

    def reap(self) -> int:
        self.reaps += 1
        return 0

    def cannot_hold(self) -> tuple[str, ...]:
        return ("anything",)

    def image_identity(self) -> str:
        return "none"

    def left(self) -> list[FakeContainer]:
        """Those that were not destroyed."""
        return [one for one in self.made if not one.destroyed]


@pytest.fixture
def maker() -> FakeMaker:
    maker = FakeMaker()
    maker.may_start.set()
    maker.may_end.set()
    return maker


@pytest.fixture
def make_pool(maker: FakeMaker) -> Iterator[Callable[..., Pool]]:
    """Makes pools, closes them, and sees that nothing is left of them."""
    pools: list[Pool] = []
    threads, descriptors = set(threading.enumerate()), len(os.listdir("/proc/self/fd"))

    def make(standing: Limits | None = LIMITS, memory: Callable[[], int] = lambda: 1 << 40, **config: Any) -> Pool:
        pools.append(Pool(maker, PoolConfig(**{"max_size": 4, "warming": 4} | config), standing, memory))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()
    assert maker.left() == []
    assert set(threading.enumerate()) <= threads
    assert len(os.listdir("/proc/self/fd")) == descriptors


def spares(pool: Pool) -> int:
    return sum(shelf["warm"] for shelf in pool.status()["shelves"])


def settled(pool: Pool, count: int) -> None:
    """Wait until so many spares are there and nothing is under way."""
    eventually(lambda: spares(pool) == count and not any(shelf["warming"] for shelf in pool.status()["shelves"]))


def test_job_gets_a_container_that_waits_and_it_is_replaced(make_pool: Any, maker: FakeMaker) -> None:
    pool = make_pool(min_size=2)
    settled(pool, 2)
    made = list(maker.made)
    result = pool.run(a_job())
    (first,) = maker.runs
    assert first in made and first.background and first.quickened
    assert result.timing.start_s < 1.0 and result.timing.warm_up_s == 0.0
    assert result.timing.warm_up_cpu_s == 2.0
    settled(pool, 2)
    eventually(lambda: first.destroyed)
    assert len(maker.left()) == 2


def test_modules_of_the_latest_job_are_sent_ahead_to_the_next_container(make_pool: Any, maker: FakeMaker) -> None:
    pool = make_pool(min_size=1)
    settled(pool, 1)
    pool.run(a_job())
    settled(pool, 1)
    assert [made.stocked for made in maker.made] == [{}, dict(a_job().modules)]


def test_modules_of_one_job_never_meet_another_job(make_pool: Any, maker: FakeMaker) -> None:
    """What was sent ahead was run by the agent: a job that brings other modules gets another container."""
    pool = make_pool(min_size=1)
    settled(pool, 1)
    pool.run(a_job())
    settled(pool, 1)
    stocked = next(one for one in maker.left() if one.stocked)
    pool.run(a_job(body="c.emit('b', 2)"))
    assert maker.runs[1] is not stocked
    eventually(lambda: stocked.destroyed)


def test_no_container_is_used_twice(make_pool: Any, maker: FakeMaker) -> None:
    pool = make_pool()
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: pool.run(a_job()), range(100)))
    assert len(maker.runs) == len(set(map(id, maker.runs))) == 100


def a_long_job(limits: Limits = LIMITS, body: str = "c.emit('a', 1)", unless_hung: str = "") -> Job:
    """Two short steps, and between them a long one that may run apart."""
    job = a_job(limits, body)
    long = replace(job.steps[0], name="long", apart=True, unless_hung=unless_hung)
    return replace(job, steps=(replace(job.steps[0], name="first"), long, replace(job.steps[0], name="last")))


def names(result: RunResult) -> list[str]:
    return [step.name for step in result.steps]


def test_steps_that_may_run_apart_do_so_in_a_second_spare(make_pool: Any, maker: FakeMaker) -> None:
    pool = make_pool(min_size=2)
    settled(pool, 2)
    waiting, events = list(maker.made), list[tuple[str, str]]()
    maker.may_end.clear()
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(pool.run, a_long_job(), lambda *event: events.append(event))
        eventually(lambda: len(maker.runs) == 2)  # at the same time
        assert pool.status()["busy"] == 2 and pool.status()["shelves"][0]["jobs"] == 1
        maker.may_end.set()
        result = running.result(PATIENCE_S)
    assert {id(one) for one in maker.runs} == {id(one) for one in waiting}
    assert sorted(one.ran for one in maker.runs) == [("first", "last"), ("long",)]
    assert names(result) == ["first", "long", "last"]
    assert events == [(name, event) for name in ("first", "last", "long") for event in ("begin", "end")]
    # Time that passed side by side counts once, work twice.
    assert (result.timing.steps_s, result.timing.cpu_s, result.timing.warm_up_cpu_s) == (1.0, 6.0, 4.0)
    settled(pool, 2)
    eventually(lambda: all(one.destroyed for one in waiting))


@pytest.mark.parametrize("ends", ["the short half", "another job comes"])
def test_nothing_is_warmed_beside_the_two_until_one_is_done(make_pool: Any, maker: FakeMaker, ends: str) -> None:
    pool = make_pool(min_size=2, max_size=4)
    settled(pool, 2)
    maker.may_end.clear()
    with ThreadPoolExecutor(2) as threads:
        running = threads.submit(pool.run, a_long_job())
        eventually(lambda: len(maker.runs) == 2)
        time.sleep(0.1)
        assert len(maker.made) == 2
        if ends == "another job comes":
            threads.submit(pool.run, a_job())
        else:
            next(one for one in maker.runs if "long" not in one.ran).may_end = True
        eventually(lambda: len(maker.made) > 2)
        maker.may_end.set()
        running.result(PATIENCE_S)
    settled(pool, 2)


def test_pool_keeps_two_spares_for_such_a_job(make_pool: Any, maker: FakeMaker) -> None:
    pool = make_pool(min_size=1)
    settled(pool, 1)
    pool.run(a_long_job())
    assert maker.runs[0].ran == ("first", "long", "last"), "there was one spare"
    settled(pool, 2)
    pool.run(a_long_job())
    assert len(maker.runs) == 3


@pytest.mark.parametrize("why", ["another job", "switched off", "one place", "a step waits for another's fate"])
def test_job_stays_in_one_container(make_pool: Any, maker: FakeMaker, why: str) -> None:
    changes: dict[str, Any] = {"switched off": {"beside": False}, "one place": {"capacity": 4}}.get(why, {})
    pool = make_pool(min_size=3, **changes)
    settled(pool, 3)
    job = a_long_job(unless_hung="first" if "fate" in why else "")
    maker.may_end.clear()
    with ThreadPoolExecutor(2) as threads:
        other = threads.submit(pool.run, a_job(OTHER)) if why == "another job" else None
        eventually(lambda: len(maker.runs) == (other is not None))
        running = threads.submit(pool.run, job)
        eventually(lambda: len(maker.runs) == 1 + (other is not None))
        time.sleep(0.05)
        maker.may_end.set()
        assert names(running.result(PATIENCE_S)) == ["first", "long", "last"]
    assert [one.ran for one in maker.runs if one.ran != ("s",)] == [("first", "long", "last")]


@pytest.mark.parametrize("lost", [0, 1])
def test_job_that_lost_one_of_two_containers_is_run_again_as_a_whole(
    make_pool: Any, maker: FakeMaker, lost: int
) -> None:
    pool = make_pool(min_size=2, max_size=2, retry_pause_s=0.0)
    settled(pool, 2)
    maker.may_end.clear()
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(pool.run, a_long_job())
        eventually(lambda: len(maker.runs) == 2)
        first = list(maker.runs)
        first[lost].die()
        maker.may_end.set()
        result = running.result(PATIENCE_S)
    assert names(result) == ["first", "long", "last"] and pool.status()["lost"] == 1
    again = maker.runs[2:]
    assert sorted(name for one in again for name in one.ran) == ["first", "last", "long"]
    eventually(lambda: all(one.destroyed for one in maker.runs))


def test_call_off_reaches_both_containers(make_pool: Any, maker: FakeMaker) -> None:
    pool, cancel = make_pool(min_size=2), Cancel()
    settled(pool, 2)
    maker.may_end.clear()
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(pool.run, a_long_job(), None, cancel)
        eventually(lambda: len(maker.runs) == 2)
        cancel.set()
        with pytest.raises(Cancelled):
            running.result(PATIENCE_S)
    assert len(maker.runs) == 2
    eventually(lambda: all(one.destroyed for one in maker.runs))


def test_job_of_another_shape_gets_its_own_kind(make_pool: Any, maker: FakeMaker) -> None:
    pool = make_pool()
    settled(pool, 1)
    pool.run(a_job(OTHER))
    assert maker.runs[0].limits.memory_bytes == OTHER.memory_bytes
    pool.run(a_job(replace(LIMITS, wall_time_s=9.0)))
    assert maker.runs[1].limits.memory_bytes == LIMITS.memory_bytes


def test_dead_spare_is_thrown_away_right_before_the_hand_over(make_pool: Any, maker: FakeMaker) -> None:
    pool = make_pool(min_size=3)
    settled(pool, 3)
    with pool._changed:  # the keeper cannot see it first
        (shelf,) = pool._shelves.values()
        *dead, living = [spare.container for spare in shelf.spares]
        for one in dead:
            one.die()
        pool.run(a_job())
    assert maker.runs == [living]


def test_dead_spare_is_replaced_without_being_asked_for(make_pool: Any, maker: FakeMaker) -> None:
    pool = make_pool(min_size=1)
    settled(pool, 1)
    maker.made[0].die()
    eventually(lambda: len(maker.made) == 2 and maker.made[0].destroyed)
    settled(pool, 1)


def test_job_claims_what_is_warming_up_and_hurries_it(make_pool: Any, maker: FakeMaker) -> None:
    maker.may_start.clear()
    pool = make_pool(min_size=1, warming=1)
    eventually(lambda: maker.started)
    with ThreadPoolExecutor(1) as threads:
        future = threads.submit(pool.run, a_job())
        eventually(lambda: maker.made[0].quickened)
        maker.may_start.set()
        result = future.result()
    assert maker.runs == [maker.made[0]]
    assert 0 < result.timing.warm_up_s <= 1.5


def test_failure_of_a_claimed_container_is_not_the_jobs(make_pool: Any, maker: FakeMaker) -> None:
    maker.may_start.clear()
    pool = make_pool(min_size=1, retries=0)
    eventually(lambda: maker.started)
    maker.made[0].fails = True
    with ThreadPoolExecutor(1) as threads:
        future = threads.submit(pool.run, a_job())
        eventually(lambda: maker.made[0].quickened)
        maker.may_start.set()
        assert future.result().steps[0].status is RunStatus.OK
    assert not maker.runs[0].background


def test_claimed_container_that_takes_too_long_is_given_up(make_pool: Any, maker: FakeMaker) -> None:
    maker.may_start.clear()
    pool = make_pool(min_size=1, retries=0)
    eventually(lambda: maker.started)
    pool.run(a_job(replace(LIMITS, start_time_s=0.05)))
    assert maker.runs[0] is not maker.made[0]
    eventually(lambda: maker.made[0].destroyed)


def test_lost_run_is_repeated_once_in_a_new_container(make_pool: Any, maker: FakeMaker) -> None:
    pool = make_pool(retry_pause_s=0.0)
    maker.lose_runs = 1
    assert pool.run(a_job()).steps[0].status is RunStatus.OK
    assert len(set(map(id, maker.runs))) == 2
    maker.lose_runs = 2
    with pytest.raises(SandboxUnavailable, match="lost"):
        pool.run(a_job())
    assert pool.status()["lost"] == 3


def test_size_follows_demand_and_shrinks_when_idle(make_pool: Any, maker: FakeMaker) -> None:
    pool = make_pool(min_size=1, max_size=3, idle_s=0.3)
    settled(pool, 1)
    maker.may_end.clear()
    with ThreadPoolExecutor(5) as threads:
        futures = [threads.submit(pool.run, a_job()) for _ in range(5)]
        eventually(lambda: len(maker.runs) == 5)
        settled(pool, 3)
        maker.may_end.set()
        for future in futures:
            future.result()
    settled(pool, 1)


def test_shape_that_nobody_asks_for_any_more_is_forgotten(make_pool: Any, maker: FakeMaker) -> None:
    pool = make_pool(idle_s=0.1)
    pool.run(a_job(OTHER))
    eventually(lambda: len(pool.status()["shelves"]) == 1)


def test_shape_in_demand_gets_the_place_of_an_idle_one(make_pool: Any, maker: FakeMaker) -> None:
    pool = make_pool(standing=None, max_size=1)
    pool.run(a_job(LIMITS))
    settled(pool, 1)
    pool.run(a_job(OTHER))
    eventually(lambda: [one.limits.memory_bytes for one in maker.left()] == [OTHER.memory_bytes])


def test_scarce_memory_stops_warming_and_drops_spares(make_pool: Any, maker: FakeMaker) -> None:
    available = [(2 << 30) + 2 * SPARE_BYTES]
    pool = make_pool(min_size=4, memory=lambda: available[0], memory_floor_bytes=2 << 30)
    eventually(lambda: len(maker.made) >= 2)
    available[0] = 1 << 30
    settled(pool, 0)
    made = len(maker.made)
    assert pool.run(a_job()).steps[0].status is RunStatus.OK  # cold
    assert len(maker.made) == made + 1
    available[0] = 1 << 40
    settled(pool, 4)


def test_old_spares_are_replaced(make_pool: Any, maker: FakeMaker) -> None:
    make_pool(min_size=1, lifetime_s=0.05)
    eventually(lambda: len(maker.made) >= 3 and maker.made[1].destroyed)


def test_engine_that_fails_is_asked_less_often_and_then_used_again(make_pool: Any, maker: FakeMaker) -> None:
    maker.fail_creates = 2
    pool = make_pool(min_size=1)
    eventually(lambda: pool.status()["engine_failures"] == 1)
    assert maker.made == []
    settled(pool, 1)
    assert pool.status()["engine_failures"] == 0


def test_keeper_reaps(make_pool: Any, maker: FakeMaker) -> None:
    make_pool(reap_interval_s=0.0)
    eventually(lambda: maker.reaps)


def test_spares_give_way_where_containers_are_counted(make_pool: Any, maker: FakeMaker) -> None:
    """One GPU: a spare of another shape must not keep a job from it."""
    maker.devices = 1
    pool = make_pool(min_size=1, capacity=1)
    settled(pool, 1)
    assert pool.run(a_job(OTHER)).steps[0].status is RunStatus.OK
    assert maker.made[0].destroyed


@pytest.mark.parametrize("when", ["before", "warming", "running"])
def test_run_can_be_called_off(make_pool: Any, maker: FakeMaker, when: str) -> None:
    cancel = Cancel()
    pool = make_pool(max_size=0)
    (maker.may_start if when == "warming" else maker.may_end).clear()
    if when == "before":
        cancel.set()
    with ThreadPoolExecutor(1) as threads:
        future = threads.submit(pool.run, a_job(), None, cancel)
        if when != "before":
            eventually(lambda: maker.started if when == "warming" else maker.runs)
            cancel.set()
        with pytest.raises(Cancelled):
            future.result(PATIENCE_S)
    assert maker.left() == []


@pytest.mark.parametrize("when", ["warming", "running"])
def test_closing_cuts_off_what_runs_and_leaves_nothing(make_pool: Any, maker: FakeMaker, when: str) -> None:
    pool = make_pool(min_size=2)
    if when == "running":
        settled(pool, 2)
    (maker.may_start if when == "warming" else maker.may_end).clear()
    with ThreadPoolExecutor(2) as threads:
        futures = [threads.submit(pool.run, a_job(OTHER if when == "warming" else LIMITS)) for _ in range(2)]
        eventually(lambda: len(maker.runs if when == "running" else maker.started) >= 2)
        pool.close()
        for future in futures:
            with pytest.raises(SandboxUnavailable):
                future.result(PATIENCE_S)
    assert maker.left() == []
    with pytest.raises(SandboxUnavailable, match="closed"):
        pool.run(a_job())


def test_removals_do_not_pile_up(make_pool: Any, maker: FakeMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound a run removes its own container before it returns."""
    slow = threading.Event()
    destroy = FakeContainer.destroy

    def stall(self: FakeContainer) -> None:
        if threading.current_thread().name.startswith("teardown"):
            assert slow.wait(PATIENCE_S)
        destroy(self)

    monkeypatch.setattr(FakeContainer, "destroy", stall)
    pool = make_pool(standing=None, max_size=0, teardowns=2)
    for _ in range(5):
        pool.run(a_job())
    assert pool.status()["teardowns"] == 2
    assert [one.destroyed for one in maker.made] == [False, False, True, True, True]
    slow.set()


def test_available_memory_is_read_from_the_kernel() -> None:
    assert 0 < memory_available_bytes() < 1 << 50


# --- a real Engine ----------------------------------------------------------------------


@pytest.fixture
def engine() -> Iterator[Any]:
    client = docker.APIClient(version="auto")
    yield client
    client.close()


def containers(engine: Any) -> list[Any]:
    """Those that this process owns."""
    found = engine.containers(all=True, filters={"label": LABEL_OWNER})
    return [item for item in found if item["Labels"][LABEL_OWNER].split()[2] == str(os.getpid())]


@pytest.fixture
def real_pool(engine: Any) -> Iterator[Pool]:
    with Pool(DockerSandbox(), PoolConfig(min_size=1, max_size=1), LIMITS) as pool:
        yield pool
    assert containers(engine) == []


def warm(pool: Pool) -> None:
    deadline = time.monotonic() + 120
    while not spares(pool):
        assert time.monotonic() < deadline, "no container became warm"
        time.sleep(0.05)


@pytest.mark.docker
def test_warm_run_gives_what_a_cold_one_gives(real_pool: Pool) -> None:
    warm(real_pool)
    events: list[tuple[str, str]] = []
    result = real_pool.run(a_job(), lambda *event: events.append(event))
    assert result.steps[0].status is RunStatus.OK and len(result.steps[0].frames) == 1
    assert events == [("s", "begin"), ("s", "end")]
    assert result.timing.warm_up_s == 0.0 < result.timing.warm_up_cpu_s < result.timing.cpu_s
    assert real_pool.status()["served_warm"] == 1


@pytest.mark.docker
def test_two_real_containers_work_on_one_job_at_a_time_and_nothing_is_left(engine: Any) -> None:
    """Each step waits a while and tells when it began and ended by the host's clock, and what it found in /tmp."""
    body = "b = time.monotonic(); open('/tmp/x', 'a').write('x'); time.sleep(0.5)"
    job = a_long_job(body=f"{body}; c.emit('a', [b, time.monotonic(), os.path.getsize('/tmp/x')])")
    with Pool(DockerSandbox(), PoolConfig(min_size=2, max_size=2), LIMITS) as pool:
        deadline = time.monotonic() + 120
        while spares(pool) < 2:
            assert time.monotonic() < deadline, "no two containers became warm"
            time.sleep(0.05)
        result = pool.run(job)
        assert pool.status()["served_warm"] == 1
    told = {step.name: json.loads(step.frames[0].header)["data"] for step in result.steps}
    assert list(told) == ["first", "long", "last"] and {size for _, _, size in told.values()} == {1}
    assert told["first"][1] <= told["last"][0], "one after the other"
    assert told["long"][0] < told["last"][0] and told["first"][0] < told["long"][1], "beside them"
    assert result.timing.steps_s < sum(step.wall_time_s for step in result.steps)
    assert containers(engine) == []


@pytest.mark.docker
def test_spare_gives_way_while_it_warms_up_and_not_afterwards(engine: Any) -> None:
    """The Engine really takes over both numbers, and the kernel has them."""
    sandbox = DockerSandbox()
    container = sandbox.create(LIMITS, "pool-test", background=True)
    try:
        container.start()
        assert _shares(engine, container.id) == WARMING_CPU_SHARES
        sandbox.quicken(container)
        assert _shares(engine, container.id) == CPU_SHARES
        assert container.run(a_job()).steps[0].status is RunStatus.OK
    finally:
        container.destroy()


def _shares(engine: Any, container_id: str) -> int:
    """What the kernel holds, where this machine's cgroups are in view; what the Engine says, else."""
    said = int(engine.inspect_container(container_id)["HostConfig"]["CpuShares"])
    pid = engine.inspect_container(container_id)["State"]["Pid"]
    path = next(
        (line.split(":")[2] for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines() if "cpu" in line), ""
    )
    file = Path("/sys/fs/cgroup/cpu" + path, "cpu.shares")
    return int(file.read_text()) if file.exists() else said


@pytest.mark.docker
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_thirty_jobs_leave_threads_descriptors_and_containers_flat(real_pool: Pool, engine: Any) -> None:
    warm(real_pool)
    real_pool.run(a_job())
    threads, descriptors = [], []
    for _ in range(30):
        assert real_pool.run(a_job()).steps[0].status is RunStatus.OK
        threads.append(threading.active_count())
        descriptors.append(len(os.listdir("/proc/self/fd")))
    assert max(threads[15:]) <= max(threads[:15]) and max(threads) < 12
    assert max(descriptors[15:]) <= max(descriptors[:15]) + 4
    assert len(containers(engine)) <= 4  # one runs, one warms up, one is removed, one waits

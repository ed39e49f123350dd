"""One-shot warm containers: torch is imported before the submission is there.

Theory of operation
-------------------
Containers of one `container_shape` wait on a *shelf*. `run` takes the one that has waited
longest, hands it the job over the stream that is attached already and lets another thread
remove it. It is never used twice. A spare is looked at right before it is handed over, by
one poll of its stream; a dead one is thrown away and the next one taken.

A job with steps that may run apart takes a second spare for them, where no other job is there
that might want it (`sandbox.beside`). On a host with one processor there is none by default.
Until one of the two is done nothing is warmed on the side, unless another job comes.

Where none waits, `run` claims one that is warming up and lets it have its full share of the
processor at once; where none is warming up either, it makes one itself, cold. So no work on
a container is ever repeated or thrown away for being late.

The *keeper*, one thread, does what nobody waits for: it refills, one thread for each
container being warmed, with a small share of the processor that is raised when the
container is ready; replaces spares that died or grew old; shrinks; reaps; and pauses longer
and longer while the Engine fails. How many it keeps on a shelf is the largest number that the
jobs could use at once in the last one to two `idle_s`, within `min_size` and `max_size`;
below `memory_floor_bytes` of available memory it warms nothing and drops a spare per round.

A job whose container was lost is run once more, in a new one (`retries`), also when its
code had begun. The job is the same, so are its inputs, and nothing passes from the first
container to the second; what a submission can gain by losing its container is to be run
again. What a run in a living container gave is never asked for twice.

Everything is counted by the monotonic clock.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from sandbox.beside import halves, joined, side_by_side
from sandbox.protocol import check_job
from sandbox.spec import Job, Limits, RunResult, SandboxBusy, SandboxUnavailable, StepListener
from sandbox.template import container_shape

log = logging.getLogger(__name__)

Later = Callable[[Callable[[], None]], None]
_Parts = tuple[Job, Job]

CLOSE_S = 60.0  # how long `close` waits for the callers whose runs it has cut off
ROUND_S = 1.0  # how often the keeper looks where nothing wakes it
SPARE_BYTES = 300 << 20  # what one more spare costs; measured in docs/benchmarks.md
LONGEST_JOB_S = 3000.0  # a longer one gets a container of its own, whose label lasts for it
LABEL_MARGIN_S = LONGEST_JOB_S + 600.0  # of a spare's label over its life on the shelf


class Container(Protocol):
    """What the pool needs of a container; see `docker.WarmContainer`."""

    @property
    def ready(self) -> Any:
        """The agent's account of its warm-up, None before."""
        ...

    def start(self, start_time_s: float | None = None) -> None:
        """Start it and await its agent. Raises SandboxUnavailable."""
        ...

    def stock(self, modules: Mapping[str, bytes]) -> None:
        """Send the probe modules ahead of the job. Raises SandboxUnavailable."""
        ...

    def alive(self) -> bool:
        """Whether its agent still waits for a job."""
        ...

    def fileno(self) -> int:
        """A descriptor that becomes readable when a waiting container dies."""
        ...

    def run(self, job: Job, listener: StepListener | None = None, later: Later | None = None) -> RunResult:
        """Run the one job. Raises SandboxUnavailable."""
        ...

    def abandon(self) -> None:
        """Make a `start` or `run` in another thread end."""
        ...

    def destroy(self) -> None:
        """Remove it. Never raises."""
        ...


class Maker(Protocol):
    """Where containers come from; see `docker.DockerSandbox`."""

    def create(
        self, limits: Limits, label: str = "", lifetime_s: float | None = None, *, background: bool = False
    ) -> Any:
        """A container yet to be started. Raises SandboxUnavailable."""
        ...

    def quicken(self, container: Any) -> None:
        """Give a background container its full share of the processor. Never raises."""
        ...

    def reap(self) -> int:
        """Remove what nobody uses any more. Raises SandboxUnavailable."""
        ...

    def cannot_hold(self) -> tuple[str, ...]:
        """What the containers cannot promise."""
        ...

    def image_identity(self) -> str:
        """Which image they are made of."""
        ...


@dataclass(frozen=True)
class PoolConfig:
    """Bounds of a pool. Every field is a setting (`ASSAY_POOL_…`) with a documented default."""

    min_size: int = 1  # spares kept of the standing shape, however idle
    max_size: int = 2  # spares and containers being warmed on the side, of all shapes together
    warming: int = 1  # containers warmed on the side at a time
    idle_s: float = 300.0  # a shelf without jobs shrinks after one to two of these
    lifetime_s: float = 1800.0  # an older spare is replaced
    warming_time_s: float = 300.0  # until a container warmed on the side must be ready
    memory_floor_bytes: int = 2 << 30  # of available memory, below which nothing is warmed
    retries: int = 1  # of a job whose container was lost
    retry_pause_s: float = 0.5
    beside: bool = True  # whether a job that is alone may take a second spare for steps that may run apart
    backoff_s: float = 10.0  # longest pause between attempts while the Engine fails
    teardowns: int = 8  # removals that may be outstanding; then a run removes its own
    reap_interval_s: float = 30.0
    capacity: int = 0  # containers of any kind at a time, such as one for each GPU; 0: no bound


class Cancelled(SandboxUnavailable):
    """Whoever asked for the run does not want it any more."""


class Cancel:
    """A way to call a run off from another thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._callback: Callable[[], None] | None = None
        self.is_set = False

    def set(self) -> None:
        """Call the run off: at once where it waits or runs, else before it begins."""
        with self._lock:
            self.is_set = True
            callback = self._callback
        if callback is not None:
            callback()

    def bind(self, callback: Callable[[], None]) -> None:
        """What `set` shall do from now on; done at once where it has been called already."""
        with self._lock:
            self._callback = callback
            late = self.is_set
        if late:
            callback()


@dataclass
class _Spare:
    container: Container
    made: float  # monotonic
    modules: Mapping[str, bytes]  # sent ahead


@dataclass
class _Warming:
    """A container being warmed on the side, by a thread of its own."""

    claimed: bool = False
    unwanted: bool = False  # whoever claimed it has given it up
    ended: bool = False
    container: Container | None = None  # from its creation on
    modules: Mapping[str, bytes] = field(default_factory=dict)  # sent ahead
    error: SandboxUnavailable | None = None


@dataclass
class _Shelf:
    """Everything of one shape. `limits` are those that its containers are made with."""

    limits: Limits
    keep: int = 0
    modules: Mapping[str, bytes] = field(
        default_factory=dict
    )  # of the latest job: the next is likely to bring them too
    spares: deque[_Spare] = field(default_factory=deque)
    warming: list[_Warming] = field(default_factory=list)  # unclaimed
    jobs: int = 0  # waiting or running now
    last_used: float = field(default_factory=time.monotonic)
    _since: float = field(default_factory=time.monotonic)
    _peak: int = 0
    _peak_before: int = 0

    def count(self) -> int:
        """Spares that there are or soon will be."""
        return len(self.spares) + len(self.warming)

    def enter(self, containers: int = 1) -> None:
        """One more job wants a container of this shape, or several where it is alone."""
        self.jobs += 1
        self._peak = max(self._peak, self.jobs if self.jobs > 1 else containers)
        self.last_used = time.monotonic()

    def leave(self) -> None:
        """A job has ended."""
        self.jobs -= 1
        self.last_used = time.monotonic()

    def target(self, idle_s: float) -> int:
        """How many spares recent demand asks for."""
        now = time.monotonic()
        if now - self._since >= idle_s:
            self._peak_before = self._peak if now - self._since < 2 * idle_s else self.jobs
            self._peak, self._since = self.jobs, now
        return max(self.keep, self._peak, self._peak_before)


class Pool:
    """A sandbox that keeps containers warm. See `spec.Sandbox`; safe for many threads; `close` it.

    Args:
        maker: where containers come from.
        config: the pool's bounds.
        standing: the limits whose shape is kept warm before anybody asks; None for no shape.
        memory_available: bytes of memory that the host could still give.
    """

    name = "docker"  # what isolates; a report does not depend on whether a container was warm

    def __init__(
        self,
        maker: Maker,
        config: PoolConfig | None = None,
        standing: Limits | None = None,
        memory_available: Callable[[], int] | None = None,
    ) -> None:
        self._maker, self._config = maker, config or PoolConfig()
        self._memory_available = memory_available or memory_available_bytes
        self._shelves: dict[tuple[float, ...], _Shelf] = {}
        self._busy: set[Container] = set()  # starting or running for a job
        self._threads: set[threading.Thread] = set()  # that warm
        self._changed = threading.Condition()
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._closing = False
        self._failures, self._not_before = 0, 0.0
        self._reaped_at = time.monotonic()
        self._teardown = ThreadPoolExecutor(2, "teardown")
        self._outstanding = 0
        self._calms = 0
        self._served, self._served_warm, self._lost = 0, 0, 0
        if standing is not None and self._config.max_size:
            self._shelves[container_shape(standing)] = _Shelf(
                standing, min(self._config.min_size, self._config.max_size)
            )
        self._keeper = threading.Thread(target=self._keep, name="pool-keeper", daemon=True)
        self._keeper.start()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def cannot_hold(self) -> tuple[str, ...]:
        """What the containers cannot promise."""
        return self._maker.cannot_hold()

    def image_identity(self) -> str:
        """Which image runs the steps."""
        return self._maker.image_identity()

    def status(self) -> dict[str, Any]:
        """What there is and what was done, as JSON values."""
        with self._changed:
            shelves = [
                {
                    "memory_bytes": shelf.limits.memory_bytes,
                    "cpu_count": shelf.limits.cpu_count,
                    "warm": len(shelf.spares),
                    "warming": len(shelf.warming),
                    "jobs": shelf.jobs,
                    "target": min(shelf.target(self._config.idle_s), self._config.max_size),
                }
                for shelf in self._shelves.values()
            ]
            return {
                "shelves": shelves,
                "busy": len(self._busy),
                "teardowns": self._outstanding,
                "served": self._served,
                "served_warm": self._served_warm,
                "lost": self._lost,
                "engine_failures": self._failures,
                "memory_available_bytes": self._memory_available(),
            }

    # --- one job ----------------------------------------------------------------------

    def run(self, job: Job, listener: StepListener | None = None, cancel: Cancel | None = None) -> RunResult:
        """Run every step of `job` in a container of its own, or in two side by side.

        The container's removal may still be under way on return. Where the job is retried, the
        listener hears of its steps again. Raises SandboxUnavailable, Cancelled where `cancel` was
        set, ValueError where the job is not well formed.
        """
        check_job(job)
        cancel = cancel or Cancel()
        # The two halves that it would run as, if nobody else wanted the second container.
        parts = halves(job) if self._config.beside and not self._config.capacity else None
        with self._demand(job, 1 if parts is None else 2) as shelf:
            for attempt in itertools.count():
                begun = time.monotonic()
                try:
                    return self._attempt(shelf, job, parts, listener, cancel, begun)
                except SandboxUnavailable as error:
                    if cancel.is_set:
                        raise Cancelled("the run was called off") from error
                    if self._closing or attempt >= self._config.retries or isinstance(error, SandboxBusy):
                        raise
                    log.warning("running %s once more: %s", job.label or "a job", error)
                cancel.bind(self._notify)
                with self._changed:
                    self._changed.wait_for(lambda: cancel.is_set or self._closing, self._config.retry_pause_s)
        raise AssertionError("unreachable")

    @contextlib.contextmanager
    def _demand(self, job: Job, containers: int) -> Iterator[_Shelf]:
        with self._changed:
            shelf = self._shelves.setdefault(container_shape(job.limits), _Shelf(job.limits))
            shelf.enter(containers)
            shelf.modules = job.modules
        try:
            yield shelf
        finally:
            with self._changed:
                shelf.leave()
                self._changed.notify_all()
            self._wake()

    def _attempt(
        self,
        shelf: _Shelf,
        job: Job,
        parts: _Parts | None,
        listener: StepListener | None,
        cancel: Cancel,
        begun: float,
    ) -> RunResult:
        with self._calm() as calm_is_over:
            container, was_warm = self._take(shelf, job, cancel)
            second = self._take_second(shelf, job) if parts is not None and was_warm else None
            if second is None:
                calm_is_over()
            waited_s = time.monotonic() - begun
            warm_up_s = 0.0 if was_warm else min(waited_s, container.ready.warm_up_s)
            with self._using((container, second) if second is not None else (container,), cancel):
                try:
                    if parts is not None and second is not None:
                        result = self._run_beside(container, second, job, parts, listener, calm_is_over)
                    else:
                        result = container.run(job, listener, self._later)
                except SandboxUnavailable:
                    with self._changed:
                        self._lost += 1
                    raise
        with self._changed:
            self._served += 1
            self._served_warm += was_warm
        timing = replace(result.timing, start_s=waited_s - warm_up_s, warm_up_s=warm_up_s)
        return replace(result, timing=timing)

    @property
    def _is_lone(self) -> bool:
        """Whether one job, and no other, waits or runs."""
        return sum(one.jobs for one in self._shelves.values()) == 1

    @contextlib.contextmanager
    def _calm(self) -> Iterator[Callable[[], None]]:
        """As long as this lasts, or until what it gives is called, nothing is warmed beside a lone job.

        Two containers are one for each of two processors: a third that warms up would slow both.
        """
        over = threading.Event()

        def end() -> None:
            with self._changed:
                self._calms -= not over.is_set()
                over.set()
            self._wake()

        with self._changed:
            self._calms += 1
        try:
            yield end
        finally:
            end()

    def _take_second(self, shelf: _Shelf, job: Job) -> Container | None:
        """A second spare for steps that may run apart, as long as no other job is there to want it."""
        with self._changed:
            spare = shelf.spares[0] if self._is_lone and shelf.spares else None
            fit = spare is not None and spare.container.alive() and _suits(spare.modules, job)
            return shelf.spares.popleft().container if fit else None

    def _run_beside(
        self,
        container: Container,
        second: Container,
        job: Job,
        parts: _Parts,
        listener: StepListener | None,
        either_is_over: Callable[[], None],
    ) -> RunResult:
        def half(of: Container, part: Job, told: StepListener) -> RunResult:
            try:
                return of.run(part, told, self._later)
            finally:
                either_is_over()

        def call_off() -> None:
            container.abandon()
            second.abandon()

        results = side_by_side(
            lambda told: half(container, parts[0], told),
            lambda told: half(second, parts[1], told),
            call_off,
            listener,
        )
        return joined(job, *results)

    @contextlib.contextmanager
    def _using(self, containers: Sequence[Container], cancel: Cancel) -> Iterator[None]:
        """While this lasts, `cancel` and `close` reach the containers."""

        def abandon() -> None:
            for container in containers:
                container.abandon()

        with self._changed:
            self._busy.update(containers)
            closing = self._closing
        cancel.bind(abandon)
        if closing:
            abandon()
        try:
            yield
        finally:
            cancel.bind(lambda: None)
            with self._changed:
                self._busy.difference_update(containers)

    def _take(self, shelf: _Shelf, job: Job, cancel: Cancel) -> tuple[Container, bool]:
        """A container for one job, and whether it had been waiting."""
        if cancel.is_set:
            raise SandboxUnavailable("called off")
        if job.limits.wall_time_s > LONGEST_JOB_S:
            return self._make(job, cancel), False
        dead: list[_Spare] = []
        try:
            with self._changed:
                if self._closing:
                    raise SandboxUnavailable("the pool of sandboxes is closed")
                while shelf.spares:
                    spare = shelf.spares.popleft()
                    if spare.container.alive() and _suits(spare.modules, job):
                        return spare.container, True
                    dead.append(spare)
                warming = shelf.warming.pop(0) if shelf.warming else None
                if warming is not None:
                    warming.claimed = True
        finally:
            self._wake()
            for spare in dead:
                self._later(spare.container.destroy)
        if warming is not None:
            claimed = self._await(warming, job, cancel)
            if claimed is not None:
                return claimed, False
        return self._make(job, cancel), False

    def _await(self, warming: _Warming, job: Job, cancel: Cancel) -> Container | None:
        """The claimed container once it is ready, None where that failed: a spare's failure is not the job's."""
        container = warming.container
        if container is not None:
            self._maker.quicken(container)
        cancel.bind(self._notify)
        with self._changed:
            self._changed.wait_for(lambda: warming.ended or cancel.is_set or self._closing, job.limits.start_time_s)
            if warming.ended and not cancel.is_set and not self._closing:
                if warming.error is not None or warming.container is None:
                    return None
                if _suits(warming.modules, job):
                    return warming.container
            container = warming.container
            ready = warming.ended and warming.error is None
            warming.unwanted = True
        if container is not None and ready:
            self._later(container.destroy)
        elif container is not None:
            container.abandon()  # its own thread removes it
        if cancel.is_set or self._closing:
            raise SandboxUnavailable("the pool of sandboxes is closed" if self._closing else "called off")
        return None

    def _make(self, job: Job, cancel: Cancel) -> Container:
        """A container made for this job alone."""
        deadline = time.monotonic() + job.limits.start_time_s
        while True:
            self._make_room()
            try:
                container: Container = self._maker.create(job.limits, job.label)
                break
            except SandboxBusy:  # every device is in use, perhaps by spares that are not ready yet
                if not self._config.capacity or cancel.is_set or self._closing or time.monotonic() > deadline:
                    raise
        with self._using((container,), cancel):
            try:
                container.start()
            except BaseException:
                container.destroy()
                raise
        self._engine_works()
        return container

    def _make_room(self) -> None:
        """Where all places are taken, give up a spare: a job comes before what waits for none."""
        with self._changed:
            taken = len(self._busy) + sum(shelf.count() for shelf in self._shelves.values())
            spare = self._pop_coldest() if self._config.capacity and taken >= self._config.capacity else None
        if spare is not None:
            spare.container.destroy()

    def _pop_coldest(self, hotter_than: _Shelf | None = None) -> _Spare | None:
        """The oldest spare of the shelf that was used least recently; `keep` holds against shelves only."""
        shelves = [shelf for shelf in self._shelves.values() if shelf.spares]
        if hotter_than is not None:
            shelves = [s for s in shelves if s.last_used < hotter_than.last_used and len(s.spares) > s.keep]
        return min(shelves, key=lambda shelf: shelf.last_used).spares.popleft() if shelves else None

    # --- what nobody waits for --------------------------------------------------------

    def _later(self, call: Callable[[], None]) -> None:
        """Let another thread do it; this one where too much is outstanding already."""
        with self._changed:
            inline = self._closing or self._outstanding >= self._config.teardowns
            if not inline:
                self._outstanding += 1
                self._teardown.submit(self._do_later, call)
        if inline:
            call()

    def _do_later(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception:
            log.exception("a teardown failed")
        finally:
            with self._changed:
                self._outstanding -= 1
                self._changed.notify_all()

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _wake(self) -> None:
        with self._changed:
            if self._wake_fd >= 0:
                os.eventfd_write(self._wake_fd, 1)

    def _keep(self) -> None:
        """The keeper's thread."""
        while not self._closing:
            try:
                self._round()
            except Exception:
                log.exception("the pool's keeper stumbled")
            self._wait()

    def _round(self) -> None:
        with self._changed:
            unfit = self._pop_unfit()
            warmings = self._plan()
        for spare in unfit:
            self._later(spare.container.destroy)
        for shelf, warming in warmings:
            thread = threading.Thread(target=self._warm, args=(shelf, warming), name="pool-warming", daemon=True)
            with self._changed:
                self._threads = {one for one in self._threads if one.is_alive()} | {thread}
                thread.start()
        if time.monotonic() - self._reaped_at > self._config.reap_interval_s:
            self._reaped_at = time.monotonic()
            try:
                self._maker.reap()
            except SandboxUnavailable as error:
                log.warning("could not look for abandoned containers: %s", error)

    def _pop_unfit(self) -> list[_Spare]:
        """Spares that died, grew old, are more than asked for, or more than the memory allows."""
        now, config = time.monotonic(), self._config
        unfit: list[_Spare] = []
        for shape, shelf in list(self._shelves.items()):
            target = shelf.target(config.idle_s)
            fit = deque[_Spare]()
            for spare in shelf.spares:
                fits = spare.container.alive() and now - spare.made < config.lifetime_s
                (fit if fits else unfit).append(spare)
            while len(fit) > target:
                unfit.append(fit.popleft())
            shelf.spares = fit
            if not shelf.keep and not target and not shelf.jobs and not shelf.count():
                del self._shelves[shape]
        if not unfit and self._memory_available() < config.memory_floor_bytes:
            coldest = self._pop_coldest()
            unfit += [coldest] if coldest is not None else []
        return unfit

    def _plan(self) -> list[tuple[_Shelf, _Warming]]:
        """What to warm now: the shelves used last come first."""
        config = self._config
        if self._closing or time.monotonic() < self._not_before or (self._calms and self._is_lone):
            return []
        plan: list[tuple[_Shelf, _Warming]] = []
        active = sum(len(shelf.warming) for shelf in self._shelves.values())
        spare_bytes = self._memory_available() - config.memory_floor_bytes - active * SPARE_BYTES
        for shelf in sorted(self._shelves.values(), key=lambda shelf: -shelf.last_used):
            wanted = min(shelf.target(config.idle_s), config.max_size) - shelf.count()
            for _ in range(wanted):
                room = config.max_size - sum(other.count() for other in self._shelves.values())
                if config.capacity:
                    taken = len(self._busy) + sum(other.count() for other in self._shelves.values())
                    room = min(room, config.capacity - taken)
                if active >= config.warming or spare_bytes < SPARE_BYTES:
                    return plan
                if room <= 0:
                    spare = self._pop_coldest(hotter_than=shelf)
                    if spare is None:
                        return plan
                    self._outstanding += 1
                    self._teardown.submit(self._do_later, spare.container.destroy)
                warming = _Warming()
                shelf.warming.append(warming)
                plan.append((shelf, warming))
                active, spare_bytes = active + 1, spare_bytes - SPARE_BYTES
        return plan

    def _warm(self, shelf: _Shelf, warming: _Warming) -> None:
        """Warm one container on the side, in a thread of its own."""
        container: Container | None = None
        error: SandboxUnavailable | None = None
        try:
            container = self._maker.create(
                shelf.limits, "warm", self._config.lifetime_s + LABEL_MARGIN_S, background=True
            )
            with self._changed:
                warming.container = container
            if warming.unwanted or self._closing:
                raise SandboxUnavailable("nobody wants it any more")
            if warming.claimed:
                self._maker.quicken(container)
            container.start(self._config.warming_time_s)
            warming.modules = shelf.modules
            if warming.modules:
                container.stock(warming.modules)
            if not warming.claimed:
                self._maker.quicken(container)
        except SandboxUnavailable as trouble:
            error = trouble
        except Exception as trouble:
            log.exception("warming a container stumbled")
            error = SandboxUnavailable(f"{type(trouble).__name__}: {trouble}")
        self._end_warming(shelf, warming, container, error)

    def _end_warming(
        self, shelf: _Shelf, warming: _Warming, container: Container | None, error: SandboxUnavailable | None
    ) -> None:
        with self._changed:
            if error is None and (warming.unwanted or self._closing):
                error = SandboxUnavailable("nobody wants it any more")
            warming.ended, warming.error = True, error
            if warming in shelf.warming:
                shelf.warming.remove(warming)
                if error is None and container is not None:
                    self._shelves.setdefault(container_shape(shelf.limits), shelf)
                    shelf.spares.append(_Spare(container, time.monotonic(), warming.modules))
            self._changed.notify_all()
        if error is not None:
            if container is not None:
                container.destroy()
            if not self._closing and not warming.unwanted:
                self._engine_fails(error)
        else:
            self._engine_works()
        self._wake()

    def _engine_fails(self, error: SandboxUnavailable) -> None:
        with self._changed:
            self._failures += 1
            pause_s = min(self._config.backoff_s, 0.25 * 2.0 ** min(self._failures, 16))
            self._not_before = time.monotonic() + pause_s
        log.warning("could not warm a container, next attempt in %.1f s: %s", pause_s, error)

    def _engine_works(self) -> None:
        with self._changed:
            self._failures, self._not_before = 0, 0.0

    def _wait(self) -> None:
        """Until a spare dies, somebody wakes the keeper, or the round's time is over."""
        poller = select.poll()
        poller.register(self._wake_fd, select.POLLIN)
        with self._changed:
            fds = [spare.container.fileno() for shelf in self._shelves.values() for spare in shelf.spares]
        for fd in fds:
            if fd >= 0:
                poller.register(fd, select.POLLIN)
        poller.poll(ROUND_S * 1000)
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake_fd)

    # --- the end ----------------------------------------------------------------------

    def close(self) -> None:
        """Cut off what runs, remove every container, end every thread. May be called twice."""
        with self._changed:
            if self._closing:
                return
            self._closing = True
            warming = [one for shelf in self._shelves.values() for one in shelf.warming]
            busy = list(self._busy)
            spares = [spare for shelf in self._shelves.values() for spare in shelf.spares]
            for shelf in self._shelves.values():
                shelf.spares.clear()
            self._changed.notify_all()
        self._wake()
        for one in warming:
            if one.container is not None:
                one.container.abandon()
        for container in busy:
            container.abandon()
        for spare in spares:
            self._teardown.submit(spare.container.destroy)
        self._keeper.join()  # first: it may be about to start one more thread
        for thread in list(self._threads):
            thread.join()
        self._teardown.shutdown(wait=True)
        with self._changed:
            self._changed.wait_for(lambda: not any(shelf.jobs for shelf in self._shelves.values()), CLOSE_S)
            os.close(self._wake_fd)
            self._wake_fd = -1


def _suits(sent_ahead: Mapping[str, bytes], job: Job) -> bool:
    """Whether a container has met no code but what this very job brings: jobs of others stay out of it."""
    return not sent_ahead or sent_ahead == job.modules


def memory_available_bytes() -> int:
    """What the kernel thinks it could still give without swapping; without bound where it does not tell."""
    try:
        for line in Path("/proc/meminfo").read_text("ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    except (OSError, ValueError, IndexError):
        pass
    return 1 << 62


def default_size(jobs: int = 0) -> int:
    """Spares worth keeping for so many jobs at a time, by default one per processor."""
    return jobs or max(1, math.ceil(os.cpu_count() or 1))

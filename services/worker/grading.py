"""From a hint to a report in the store, once, whatever happens on the way."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TypeVar

from structlog.contextvars import bound_contextvars

from grading.challenge import load_challenge
from grading.controls import Controls, ControlsFailed
from grading.engine import Submission, grade
from grading.public import public_part
from grading.verdict import Report
from sandbox.spec import Sandbox, SandboxUnavailable, StepListener
from services.logs import logger
from services.settings import Settings
from services.store import Claim, Store, StoreUnavailable
from services.worker.instruments import Instruments
from services.worker.lease import Lease, Over
from services.worker.sandboxes import Held, Sandboxes, WeakHost

log = logger("worker")
GradeOne = Callable[[Claim, Sandbox, StepListener], Report]
T = TypeVar("T")

_LOOK_EVERY_S = 1.0  # for a sandbox, or a database, that does not answer
_MAX_ERROR_CHARACTERS = 1000
_MOST_CHANCE = 1.25


class EngineGrader:
    """The real `GradeOne`: this host's challenges and controls."""

    def __init__(self, settings: Settings) -> None:
        self._controls = Controls(settings.state_dir)

    def __call__(self, claim: Claim, sandbox: Sandbox, listener: StepListener) -> Report:
        """Grade what was claimed. Raises SandboxUnavailable, ControlsFailed, ChallengeError, OSError."""
        challenge, controls = load_challenge(claim.challenge), self._controls
        if claim.purpose == "check":
            # Only a verdict that stays open has controls run again: by that time alone a candidate would know of it.
            controls.ensure(challenge, sandbox, listener)
        return grade(
            Submission(claim.file_name, claim.source),
            challenge,
            sandbox,
            queue_s=max(0.0, (claim.started_us - claim.queued_us) / 1e6),
            listener=listener,
            controls=None if claim.purpose == "check" else controls,
        )


@dataclass
class Grader:
    """Works off hints, in as many threads as call `work`.

    Args:
        name: what the store remembers as the worker.
        on_result: told after each report, so that webhooks go out at once; may raise nothing.
    """

    store: Store
    sandboxes: Sandboxes
    settings: Settings
    name: str
    grade_one: GradeOne
    on_result: Callable[[], None] = lambda: None
    instruments: Instruments = field(default_factory=Instruments)
    _leases: set[Lease] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _stopping: threading.Event = field(default_factory=threading.Event)

    def work(self, submission_id: str) -> str:
        """Grade a submission where it is there to be graded; says in a word what came of it. Raises nothing."""
        with bound_contextvars(submission=submission_id):
            try:
                outcome = self._work(submission_id)
            except StoreUnavailable as error:
                # Nothing is claimed, or the lease will end: the sweeper brings it back.
                log.warning("the database does not answer", error=str(error)[:300])
                outcome = "left"
            except Exception:
                log.exception("a grading failed in an unforeseen way")
                outcome = "left"
            log.info("hint worked off", outcome=outcome)
            self.instruments.worked_off(outcome)
            return outcome

    def stop(self) -> None:
        """Take no more hints; what waits for a sandbox is left to others."""
        self._stopping.set()

    def hand_back(self) -> None:
        """Give up everything that is still being graded; none of it counts as an attempt."""
        self.stop()
        with self._lock:
            leases = list(self._leases)
        for lease in leases:
            lease.lose("the worker stops")
            try:
                self.store.hand_back(lease.claim)
            except StoreUnavailable as error:
                log.warning("not handed back", submission=lease.claim.submission_id, error=str(error)[:300])
        self.sandboxes.shut()

    def _work(self, submission_id: str) -> str:
        with ExitStack() as stack:
            held = self._sandbox(stack)
            if held is None:
                return "left"
            claim = self.store.claim(submission_id, self.name, self.settings.lease_s)
            if claim is None:
                return "not to be had"
            return self._grade(claim, held)

    def _sandbox(self, stack: ExitStack) -> Held | None:
        """One that answers, waited for a while; None where none did, and the submission stays unclaimed."""
        give_up_at = time.monotonic() + self.settings.worker_sandbox_wait_s
        while not self._stopping.is_set():
            try:
                return stack.enter_context(self.sandboxes.one())
            except WeakHost as error:
                log.error("no strangers' code here", error=str(error)[:2000])
            except SandboxUnavailable as error:
                log.warning("no sandbox", error=str(error)[:300])
            if time.monotonic() > give_up_at:
                return None
            self._stopping.wait(_LOOK_EVERY_S)
        return None

    def _grade(self, claim: Claim, held: Held) -> str:
        settings = self.settings
        lease = Lease(
            self.store,
            claim,
            lease_s=settings.lease_s,
            heartbeat_s=settings.heartbeat_s,
            limit_s=settings.grade_limit_s,
        )
        with self._known(lease), lease:
            try:
                report = self.grade_one(claim, held.sandbox, self._listener(lease))
            except Over as error:
                log.warning("given up", reason=str(error))
                return "given up"
            except Exception as error:
                return self._failed(lease, held, error)
            return self._finish(lease, report)

    def _known(self, lease: Lease) -> ExitStack:
        """As long as this lasts `hand_back` reaches the lease."""
        stack = ExitStack()
        with self._lock:
            self._leases.add(lease)
        stack.callback(self._leases.discard, lease)
        return stack

    def _listener(self, lease: Lease) -> StepListener:
        """Tells the store of each step, and ends a grading whose claim is over at the next one."""
        claim = lease.claim

        def tell(step: str, what: str) -> None:
            lease.check()
            try:
                alive = self.store.add_event(
                    claim.submission_id, claim.fence, "step", {"step": step[:100], "what": what[:20]}
                )
            except StoreUnavailable:
                return  # progress is for watching; the report is what counts
            if not alive:
                lease.lose("the claim is over")
            lease.check()

        return tell

    def _failed(self, lease: Lease, held: Held, error: Exception) -> str:
        """No fault of the candidate's, whatever it was: put the submission back, score nothing."""
        if isinstance(error, SandboxUnavailable):
            held.distrust()
        if lease.is_over:
            log.warning("given up", error=str(error)[:300])
            return "given up"
        if isinstance(error, SandboxUnavailable | ControlsFailed | OSError):
            log.warning("no verdict", error=str(error)[:300])
        else:
            log.exception("no verdict")
        told = f"{type(error).__name__}: {error}"[:_MAX_ERROR_CHARACTERS]
        pause_s = pause_before_retry_s(lease.claim.attempt, self.settings)
        state = self._patiently(lease, lambda: self.store.release(lease.claim, told, pause_s))
        if state == "dead":
            log.error("dead after the last attempt", error=told[:300])
            self.on_result()
        return "put back" if state == "queued" else str(state)

    def _finish(self, lease: Lease, report: Report) -> str:
        if not self._patiently(lease, lambda: self._keep(lease.claim, report)):
            log.warning("the claim was over; this report is not kept")
            return "too late"
        self.instruments.graded(report)
        self.on_result()
        return report.outcome

    def _keep(self, claim: Claim, report: Report) -> bool:
        if claim.purpose == "grade":
            return self.store.finish(claim, report)
        shows = load_challenge(claim.challenge).manifest.candidate.check_shows
        result = public_part(report, shows, self.settings.check_output_characters)
        return self.store.finish_check(claim, report.outcome, result.model_dump(mode="json"))

    def _patiently(self, lease: Lease, call: Callable[[], T]) -> T:
        """Ask again where the database does not answer: the fence keeps a repeat harmless. Raises StoreUnavailable."""
        give_up_at = time.monotonic() + self.settings.store_patience_s
        while True:
            try:
                return call()
            except StoreUnavailable as error:
                if lease.is_over or time.monotonic() > give_up_at:
                    raise
                log.warning("the database does not answer, asked again soon", error=str(error)[:300])
                time.sleep(_LOOK_EVERY_S)


def pause_before_retry_s(attempt: int, settings: Settings) -> float:
    """Doubles with each attempt, up to the longest; up to a quarter more by chance, so that not all come at once."""
    pause_s = min(settings.retry_max_s, settings.retry_base_s * 2.0 ** min(attempt - 1, 30))
    return pause_s * random.uniform(1.0, _MOST_CHANCE)


def longest_pause_s(settings: Settings) -> float:
    """No such pause is longer."""
    return settings.retry_max_s * _MOST_CHANCE

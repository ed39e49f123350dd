"""Sends webhooks that are due: at least once each, under an id that stays the same."""

from __future__ import annotations

import contextlib
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace

from grading.verdict import Report
from services import ats
from services.logs import logger
from services.settings import Settings
from services.store import (
    AttemptResult,
    DueMessage,
    Endpoint,
    MessageFilters,
    NotFound,
    Store,
    StoreUnavailable,
    Submission,
    SubmissionState,
    WebhookMessage,
)
from services.store.events import SUBMISSION_DEAD, SUBMISSION_GRADED, SUBMISSION_INVALID
from services.webhooks import Decision, Delivery, Schedule, Sender, decide
from services.worker.instruments import Instruments

log = logger("webhooks")

_RESPONSE_CHARACTERS = 2000
_MESSAGES = 500  # of one submission that are looked through
_STATES: Mapping[str, SubmissionState] = {
    SUBMISSION_GRADED: "graded",
    SUBMISSION_INVALID: "invalid",
    SUBMISSION_DEAD: "dead",
}
_LEASE_MARGIN_S = 30.0  # over the longest attempt: for the database to take the result


class Undeliverable(Exception):
    """A message that nobody is there to take any more; trying again changes nothing."""


@dataclass
class Deliverer:
    """Works off what is due, some messages at a time.

    Args:
        now_us: UTC microseconds.
        draw: random numbers from 0 to 1.
    """

    store: Store
    sender: Sender
    settings: Settings
    now_us: Callable[[], int] = lambda: time.time_ns() // 1000
    draw: Callable[[], float] = random.random
    instruments: Instruments = field(default_factory=Instruments)
    _stopping: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._schedule = Schedule.of(self.settings)

    def stop(self) -> None:
        """Lease no more messages."""
        self._stopping.set()

    def work(self) -> int:
        """Send all that is due, and what comes due meanwhile; how many attempts were made. Raises nothing."""
        attempts = 0
        slots = self.settings.worker_webhook_slots
        running: dict[Future[None], str] = {}
        try:
            with ThreadPoolExecutor(slots, thread_name_prefix="webhook") as threads:
                while True:
                    for due in self._lease(slots - len(running), Counter(running.values())):
                        running[threads.submit(self._attempt, due)] = due.lane
                        attempts += 1
                    if not running:
                        return attempts
                    # Not until one ends: it may hang, and what comes due meanwhile need not wait for it.
                    ended, _ = wait(running, self.settings.deliver_every_s, FIRST_COMPLETED)
                    for one in ended:
                        del running[one]
        except StoreUnavailable as error:
            log.warning("the database does not answer", error=str(error)[:300])
        return attempts

    def _lease(self, free: int, busy: Counter[str]) -> list[DueMessage]:
        """As many as can be sent at once, so that no lease ends while a message waits its turn.

        A receiver that hangs gets half of the slots at most.
        """
        if self._stopping.is_set() or free == 0:
            return []
        at_once = max(1, self.settings.worker_webhook_slots // 2)
        lease_s = self.settings.webhook_timeout_s + _LEASE_MARGIN_S
        return self.store.due_messages(free, lease_s, at_once=at_once, busy=busy)

    def _attempt(self, due: DueMessage) -> None:
        """Send one and record what came of it; where that fails the lease ends, and it is sent again."""
        try:
            at_us = self.now_us()
            delivery, decision = self._send(due)
            self.instruments.attempted(delivery.status)
            self._record(due, at_us, delivery, decision)
        except StoreUnavailable as error:
            log.warning("not recorded", message=due.message.id, error=str(error)[:300])
        except Exception:
            log.exception("a delivery failed in an unforeseen way", message=due.message.id)

    def _send(self, due: DueMessage) -> tuple[Delivery, Decision]:
        try:
            delivery = self._to_endpoint(due, due.endpoint) if due.endpoint else self._to_callback(due)
        except Undeliverable as error:
            return Delivery(None, str(error), 0), Decision("dead")
        except StoreUnavailable:
            raise
        except Exception as error:
            log.exception("a message could not be sent", message=due.message.id)
            # The kind alone: what it says may be a candidate's.
            delivery = Delivery(None, f"not sent: {type(error).__name__}", 0)
        return delivery, decide(delivery, due.message.attempts + 1, self._schedule, self.draw)

    def _to_endpoint(self, due: DueMessage, endpoint: Endpoint) -> Delivery:
        secrets = [secret.secret for secret in endpoint.secrets]
        return self.sender.post(endpoint.url, secrets, due.message.id, due.message.body)

    def _to_callback(self, due: DueMessage) -> Delivery:
        """Tell an applicant tracking system in the words of its own contract. Raises Undeliverable."""
        message = due.message
        integration = self.store.integration(due.integration_id) if due.integration_id else None
        submission = self.store.submission(message.submission_id) if message.submission_id else None
        if integration is None or submission is None or submission.state == "erased":
            raise Undeliverable("the integration or the submission is no more")
        # Vendors keep what they are told last; the standard contract tells each event and when it was.
        if integration.kind != "standard" and self._newer_was_told(message):
            raise Undeliverable("a newer verdict was told already")
        then = replace(submission, state=_STATES[message.event_type])
        request = ats.outbound(
            ats.integration_of(integration, {}),  # what it offers matters only on the way in
            ats.Callback.model_validate(dict(due.callback or {})),
            ats.Message(message.id, message.event_type, message.body),
            ats.result_of(then, self._report(message), self._link(submission)),
            self.now_us() / 1e6,
        )
        if request is None:
            return Delivery(None, None, 0, "this contract has no word for it")
        return self.sender.send(request.method, request.url, request.headers, request.body)

    def _newer_was_told(self, message: WebhookMessage) -> bool:
        """Whether the same receiver knows of a later grading of the same submission."""
        told = MessageFilters(submission_id=message.submission_id, state="delivered")
        return any(
            one.endpoint_id is None and one.generation > message.generation and one.event_type != SUBMISSION_DEAD
            for one in self.store.list_messages(told, limit=_MESSAGES).items
        )

    def _report(self, message: WebhookMessage) -> Report | None:
        """What the message tells of; the submission itself may wait for its next grading by now."""
        assert message.submission_id is not None
        kept = self.store.report(message.submission_id, message.generation)
        return Report.model_validate_json(json.dumps(kept)) if kept is not None else None

    def _link(self, submission: Submission) -> str | None:
        base = self.settings.public_url.rstrip("/")
        return f"{base}/submissions/{submission.id}" if base else None

    def _record(self, due: DueMessage, at_us: int, delivery: Delivery, decision: Decision) -> None:
        message = due.message
        result = AttemptResult(
            at_us=at_us,
            status_code=delivery.status,
            error=delivery.error,
            duration_ms=delivery.duration_ms,
            response_head=delivery.response_head[:_RESPONSE_CHARACTERS],
        )
        next_us = None if decision.retry_in_s is None else self.now_us() + int(decision.retry_in_s * 1e6)
        self.store.record_attempt(message.id, due.lease_until_us, result, next_us, decision.state)
        if decision.disable_reason and due.endpoint is not None:
            with contextlib.suppress(NotFound):  # deleted meanwhile
                self.store.disable_endpoint(due.endpoint.id, decision.disable_reason)
        log.info(
            "webhook",
            message=message.id,
            submission=message.submission_id,
            attempt=message.attempts + 1,
            status=delivery.status,
            error=delivery.error,
            now=decision.state,
        )

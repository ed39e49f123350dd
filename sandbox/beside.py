"""One job in two sandboxes side by side, where its steps allow it and a second sandbox waits anyway.

Steps share nothing but the job: each has a process of its own that has never seen the
submission, and the agent clears what it wrote before the next begins. So those that a step
marks as `apart` may as well run in another sandbox at the same time, and what comes back
reads as if all had run one after the other in one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

from sandbox.spec import Job, RunResult, RunTiming, StepListener

Half = Callable[[StepListener], RunResult]


def halves(job: Job) -> tuple[Job, Job] | None:
    """The job without the steps that may run apart, and with them alone; None where one of both is empty.

    Nor is a job cut where a step of one half waits for the fate of one of the other.
    """
    apart = tuple(step for step in job.steps if step.apart)
    others = tuple(step for step in job.steps if not step.apart)
    for half in (apart, others):
        names = {step.name for step in half}
        if not half or any(step.unless_hung not in names | {""} for step in half):
            return None
    return replace(job, steps=others), replace(job, steps=apart)


class InOrder:
    """Tells a listener of two halves as if the second had begun when the first had ended."""

    def __init__(self, listener: StepListener | None) -> None:
        self._listener = listener
        self._held: list[tuple[str, str]] | None = []
        self._lock = threading.Lock()

    def of_first(self, step: str, event: str) -> None:
        """Told at once."""
        with self._lock:
            self._tell(step, event)

    def of_second(self, step: str, event: str) -> None:
        """Told as soon as the first half is over."""
        with self._lock:
            if self._held is not None:
                self._held.append((step, event))
            else:
                self._tell(step, event)

    def first_is_over(self) -> None:
        """Tell what was held back."""
        with self._lock:
            held, self._held = self._held or [], None
            for step, event in held:
                self._tell(step, event)

    def _tell(self, step: str, event: str) -> None:
        if self._listener is not None:
            self._listener(step, event)


def side_by_side(
    first: Half, second: Half, call_off: Callable[[], None], listener: StepListener | None
) -> tuple[RunResult, RunResult]:
    """Run both; where one fails, `call_off` must end the other, and the first failure is raised."""
    order, failures, results = InOrder(listener), list[BaseException](), list[RunResult]()

    def run_second() -> None:
        try:
            results.append(second(order.of_second))
        except BaseException as error:
            failures.append(error)
            call_off()

    thread = threading.Thread(target=run_second, name="beside", daemon=True)
    thread.start()
    try:
        result = first(order.of_first)
        order.first_is_over()
    except BaseException as error:
        failures.append(error)
        call_off()
    thread.join()
    if failures:
        raise failures[0]
    return result, results[0]


def joined(job: Job, first: RunResult, second: RunResult) -> RunResult:
    """Both results as one of the whole job: its steps in their order, times that passed together counted once."""
    found = {step.name: step for step in (*first.steps, *second.steps)}
    a, b = first.timing, second.timing
    return replace(
        first,
        steps=tuple(found[step.name] for step in job.steps),
        timing=RunTiming(
            max(a.start_s, b.start_s),
            max(a.warm_up_s, b.warm_up_s),
            max(a.steps_s, b.steps_s),
            max(a.teardown_s, b.teardown_s),
            a.cpu_s + b.cpu_s,
            a.warm_up_cpu_s + b.warm_up_cpu_s,
        ),
        peak_memory_bytes=max(first.peak_memory_bytes, second.peak_memory_bytes),
        remarks=(*first.remarks, *second.remarks),
    )

from __future__ import annotations

import contextlib
import errno
import itertools
import threading
from typing import Any

import pytest

from grading.challenge import load_challenge
from grading.controls import Controls, ControlsFailed
from grading.verdict import Report
from sandbox.spec import SandboxUnavailable, StepListener
from services.settings import Settings
from services.store import Claim, MessageFilters, Store, StoreUnavailable
from services.worker.grading import EngineGrader, pause_before_retry_s
from tests.services.conftest import a_report
from tests.services.worker.conftest import Bench, EmptySandbox


def graded(claim: Claim) -> Report:
    return a_report(claim.file_name, claim.source)


class Crash(BaseException):
    """Ends a worker as SIGKILL does: nothing of it runs on."""


class Fragile:
    """A store that one call of breaks: before it is made, or after it was and before its caller hears of it."""

    def __init__(self, inner: Store, breaks_at: int, after: bool, error: BaseException) -> None:
        self._inner, self._breaks_at, self._after, self._error = inner, breaks_at, after, error
        self._calls = itertools.count()
        self.broke_in = ""

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            here = name != "renew" and next(self._calls) == self._breaks_at
            if here:
                self.broke_in = name
            if here and not self._after:
                raise self._error
            result = getattr(self._inner, name)(*arguments, **options)
            if here:
                raise self._error
            return result

        return call


def one_verdict(store: Store, submission_id: str) -> None:
    """Assert that there is one report, one end, and one message for the one receiver."""
    found = store.submission(submission_id)
    assert found is not None
    assert found.state == "graded"
    assert len(store.reports(submission_id)) == 1
    assert [e.kind for e in store.events_after(submission_id, 0, 1000)].count("graded") == 1
    assert len(store.list_messages(MessageFilters(submission_id=submission_id)).items) == 1


def test_a_hint_is_graded_once_however_often_it_comes(bench: Bench) -> None:
    one, worker = bench.hand_in(), bench.worker()

    assert [worker.work(one) for _ in range(3)] == ["graded", "not to be had", "not to be had"]

    found = bench.store.submission(one)
    assert found is not None
    assert (found.state, found.fixed, found.attempts) == ("graded", 3, 1)
    assert bench.results == 1


def test_of_many_threads_with_the_same_hint_one_grades(bench: Bench) -> None:
    one, worker = bench.hand_in(), bench.worker()
    outcomes: list[str] = []
    threads = [threading.Thread(target=lambda: outcomes.append(worker.work(one))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(outcomes) == ["graded"] + ["not to be had"] * 5


def test_steps_become_events(bench: Bench) -> None:
    def with_steps(claim: Claim, listener: StepListener) -> Report:
        listener("calls", "begin")
        listener("calls", "end")
        return graded(claim)

    bench.grade = with_steps
    one = bench.hand_in()
    bench.worker().work(one)

    steps = [dict(event.data) for event in bench.store.events_after(one, 0, 100) if event.kind == "step"]
    assert steps == [{"step": "calls", "what": "begin"}, {"step": "calls", "what": "end"}]


def test_a_hint_for_nothing_is_nothing(bench: Bench) -> None:
    assert bench.worker().work("sub_nobody") == "not to be had"


def test_without_a_sandbox_nothing_is_claimed(bench: Bench) -> None:
    """An outage of the Engine costs no attempts, however long it lasts."""
    bench.sandbox_works = False
    one, worker = bench.hand_in(), bench.worker()

    assert [worker.work(one) for _ in range(10)] == ["left"] * 10

    found = bench.store.submission(one)
    assert found is not None
    assert (found.state, found.attempts) == ("queued", 0)
    bench.sandbox_works = True
    assert worker.work(one) == "graded"


def test_a_weak_host_claims_nothing(bench: Bench) -> None:
    bench.failures = ["user-namespace: off"]
    one = bench.hand_in()

    assert bench.worker().work(one) == "left"

    found = bench.store.submission(one)
    assert found is not None
    assert found.state == "queued"
    assert bench.closed == bench.opened


@pytest.mark.parametrize(
    "fault",
    [
        SandboxUnavailable("the container was lost"),
        ControlsFailed("the solution misread"),
        OSError(errno.ENOSPC, "No space left on device"),
        ZeroDivisionError("a mistake of ours"),
    ],
    ids=lambda fault: type(fault).__name__,
)
def test_a_fault_of_ours_is_never_a_verdict(bench: Bench, fault: Exception) -> None:
    """It is tried again after growing pauses, and is dead after the last attempt: unscored, and told."""

    def fails(claim: Claim, listener: StepListener) -> Report:
        raise fault

    bench.grade = fails
    endpoint = bench.store.create_endpoint("https://ats.example/", (), "whsec_" + "A" * 32)
    one, worker = bench.hand_in(), bench.worker()

    pauses = []
    for outcome in ("put back", "put back", "dead"):
        began_us = bench.clock()
        assert worker.work(one) == outcome
        assert worker.work(one) == "not to be had"  # not before its time
        found = bench.store.submission(one)
        assert found is not None
        pauses.append((found.next_attempt_us - began_us) / 1e6)
        bench.clock.pass_s(101)

    assert found.state == "dead"
    assert type(fault).__name__ in str(found.last_error)
    assert (found.outcome, found.fixed, bench.store.reports(one)) == (None, None, [])
    assert 10 <= pauses[0] < 13
    assert 20 <= pauses[1] < 26
    messages = bench.store.list_messages(MessageFilters(endpoint_id=endpoint.id)).items
    assert [message.event_type for message in messages] == ["submission.dead"]


def test_after_a_fault_the_sandbox_is_opened_anew(bench: Bench) -> None:
    def fails(claim: Claim, listener: StepListener) -> Report:
        raise SandboxUnavailable("the runner ended")

    bench.grade = fails
    worker = bench.worker()
    worker.work(bench.hand_in())
    bench.grade = lambda claim, listener: graded(claim)

    assert worker.work(bench.hand_in()) == "graded"
    assert len(bench.opened) == 2
    assert bench.closed == bench.opened[:1]


def test_a_worker_that_lost_its_lease_stops_at_the_next_step(bench: Bench) -> None:
    """The next worker's report stands; the first one's is not even finished."""
    finished = []

    def overtaken(claim: Claim, listener: StepListener) -> Report:
        lease_is_over(bench)
        bench.grade = lambda claim, listener: graded(claim)
        assert bench.worker(name="w2").work(claim.submission_id) == "graded"
        listener("real", "begin")
        finished.append(claim)
        return a_report(claim.file_name, b"fixed=8")

    bench.grade = overtaken
    bench.store.create_endpoint("https://ats.example/", (), "whsec_" + "A" * 32)
    one = bench.hand_in()

    assert bench.worker().work(one) == "given up"
    assert finished == []
    one_verdict(bench.store, one)


def lease_is_over(bench: Bench) -> None:
    """The running grading loses its lease: a heartbeat, at whatever moment it comes, does not renew it."""
    bench.store.sweep(bench.clock() + round((bench.settings.lease_s + 1) * 1e6))
    bench.clock.pass_s(bench.settings.lease_s + 1)


def test_a_report_that_comes_after_the_lease_is_not_kept(bench: Bench) -> None:
    def late(claim: Claim, listener: StepListener) -> Report:
        lease_is_over(bench)
        bench.grade = lambda claim, listener: graded(claim)
        bench.worker(name="w2").work(claim.submission_id)
        return a_report(claim.file_name, b"fixed=8")

    bench.grade = late
    bench.store.create_endpoint("https://ats.example/", (), "whsec_" + "A" * 32)
    one = bench.hand_in()

    assert bench.worker().work(one) in ("too late", "given up")
    one_verdict(bench.store, one)
    found = bench.store.submission(one)
    assert found is not None
    assert found.fixed == 3


def test_the_heartbeat_keeps_a_long_grading(bench: Bench) -> None:
    """Time passes in steps shorter than the lease; a sweeper in between takes nothing."""
    renewed = threading.Event()
    renew = bench.store.renew

    def watched(claim: Claim, lease_s: float) -> bool:
        alive = renew(claim, lease_s)
        renewed.set()
        return alive

    bench.store.renew = watched  # type: ignore[method-assign]

    def long(claim: Claim, listener: StepListener) -> Report:
        for _ in range(4):
            bench.clock.pass_s(bench.settings.lease_s * 0.6)
            renewed.clear()
            assert renewed.wait(5)
            assert bench.store.sweep().expired == 0
        return graded(claim)

    bench.grade = long
    assert bench.worker().work(bench.hand_in()) == "graded"


def test_a_grading_that_hangs_loses_its_lease(bench: Bench) -> None:
    bench.settings = bench.settings.model_copy(update={"grade_limit_s": 0.05})

    def hangs(claim: Claim, listener: StepListener) -> Report:
        for _ in range(500):
            listener("real", "begin")
            threading.Event().wait(0.01)
        raise AssertionError("it was not ended")

    bench.grade = hangs
    assert bench.worker().work(bench.hand_in()) == "given up"


def test_handing_back_costs_no_attempt(bench: Bench) -> None:
    worker = bench.worker()

    def stopped(claim: Claim, listener: StepListener) -> Report:
        worker.hand_back()
        raise SandboxUnavailable("the pool was closed")

    bench.grade = stopped
    one = bench.hand_in()

    assert worker.work(one) == "given up"
    found = bench.store.submission(one)
    assert found is not None
    assert (found.state, found.attempts) == ("queued", 0)
    assert worker.work(one) == "left"  # it stops, and takes no more
    bench.grade = lambda claim, listener: graded(claim)
    assert bench.worker(name="w2").work(one) == "graded"


def test_a_report_waits_for_a_database_that_is_away(bench: Bench) -> None:
    finish, troubles = bench.store.finish, iter([True, True])

    def sometimes(claim: Claim, report: Report) -> bool:
        if next(troubles, False):
            raise StoreUnavailable("gone for a moment")
        return finish(claim, report)

    bench.store.finish = sometimes  # type: ignore[method-assign]
    assert bench.worker().work(bench.hand_in()) == "graded"


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("error", [Crash(), StoreUnavailable("gone")], ids=["killed", "database gone"])
def test_whatever_call_breaks_there_is_one_verdict(bench: Bench, after: bool, error: BaseException) -> None:
    """Breaks every call that a worker makes to the store, one after another, on either side of its effect."""

    def with_steps(claim: Claim, listener: StepListener) -> Report:
        listener("real", "begin")
        listener("real", "end")
        return graded(claim)

    bench.grade = with_steps
    bench.settings = bench.settings.model_copy(update={"store_patience_s": 0.0})
    bench.store.create_endpoint("https://ats.example/", (), "whsec_" + "A" * 32)
    broken = []
    for call in range(20):
        one = bench.hand_in()
        fragile = Fragile(bench.store, call, after, error)
        with contextlib.suppress(Crash):
            bench.worker(fragile).work(one)  # type: ignore[arg-type]
        if fragile.broke_in:
            broken.append(fragile.broke_in)
        for _ in range(3):
            lease_is_over(bench)
            bench.worker(name="w2").work(one)
        one_verdict(bench.store, one)
    assert broken == ["claim", "add_event", "add_event", "finish"]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_release_that_breaks_loses_nothing(bench: Bench, after: bool) -> None:
    def fails(claim: Claim, listener: StepListener) -> Report:
        raise SandboxUnavailable("lost")

    bench.grade = fails
    bench.store.create_endpoint("https://ats.example/", (), "whsec_" + "A" * 32)
    one = bench.hand_in()
    fragile = Fragile(bench.store, 1, after, Crash())
    with pytest.raises(Crash):
        bench.worker(fragile).work(one)  # type: ignore[arg-type]
    assert fragile.broke_in == "release"

    bench.grade = lambda claim, listener: graded(claim)
    bench.clock.pass_s(bench.settings.lease_s + 200)
    bench.store.sweep()
    assert bench.worker(name="w2").work(one) == "graded"
    one_verdict(bench.store, one)


class TestChecks:
    """What an invited candidate tries out is graded like anything else, and only its public part is kept."""

    def result(self, bench: Bench, invitation_id: str) -> dict[str, Any]:
        (check,) = bench.store.checks(invitation_id)
        assert check.result is not None
        return dict(check.result)

    def test_the_public_part_is_kept_and_no_report(self, bench: Bench) -> None:
        invitation, check = bench.try_out(b"fixed=3 forged")
        assert bench.worker().work(check) == "graded"
        told = self.result(bench, invitation)
        assert (told["loads"], told["trains"], told["threshold"]) == (True, True, 0.85)
        assert bench.store.report(check) is None and bench.store.counts().verdicts["fixed"] == 0

    def test_one_that_does_not_load_says_why(self, bench: Bench) -> None:
        invitation, check = bench.try_out(b"syntax")
        assert bench.worker().work(check) == "invalid"
        told = self.result(bench, invitation)
        assert told["loads"] is False and "no program" in told["load_problem"]

    def test_output_is_kept_only_where_the_challenge_shows_it(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        invitation, check = bench.try_out()
        bench.worker().work(check)
        assert self.result(bench, invitation)["output"] is None

        spiral = load_challenge("spiral")
        view = spiral.manifest.candidate.model_copy(update={"check_shows": ("output",)})
        shown = spiral.model_copy(update={"manifest": spiral.manifest.model_copy(update={"candidate": view})})
        monkeypatch.setattr("services.worker.grading.load_challenge", lambda slug: shown)
        bench.settings = bench.settings.model_copy(update={"check_output_characters": 3})
        invitation, check = bench.try_out()
        bench.worker().work(check)
        told = self.result(bench, invitation)
        assert (told["output"], told["loads"]) == ("een", None)

    def test_a_fault_of_ours_is_retried_and_costs_the_candidate_nothing(self, bench: Bench) -> None:
        def fails(claim: Claim, listener: StepListener) -> Report:
            raise ControlsFailed("bug 3 (loss-leak) is fixed, not not_fixed")

        bench.grade = fails
        invitation, check = bench.try_out()
        outcomes = []
        for _ in range(3):
            outcomes.append(bench.worker().work(check))
            bench.clock.pass_s(1000)
        assert outcomes == ["put back", "put back", "dead"]
        found = bench.store.invitation(invitation)
        assert found is not None and found.checks_used == 0
        assert bench.store.list_messages().items == ()

    @pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
    def test_whatever_call_breaks_there_is_one_result(self, bench: Bench, after: bool) -> None:
        bench.settings = bench.settings.model_copy(update={"store_patience_s": 0.0})
        broken = []
        for call in range(4):
            invitation, check = bench.try_out()
            fragile = Fragile(bench.store, call, after, Crash())
            with contextlib.suppress(Crash):
                bench.worker(fragile).work(check)  # type: ignore[arg-type]
            if fragile.broke_in:
                broken.append(fragile.broke_in)
            lease_is_over(bench)
            bench.worker(name="w2").work(check)
            assert self.result(bench, invitation)["loads"] is True
            assert [e.kind for e in bench.store.events_after(check, 0, 100)].count("graded") == 1
        assert broken == ["claim", "finish_check"]

    def test_an_open_verdict_takes_no_longer(self, monkeypatch: pytest.MonkeyPatch, bench: Bench) -> None:
        """Controls that run again for a verdict that stays open would tell the candidate that one does."""
        asked: list[object] = []
        monkeypatch.setattr("services.worker.grading.grade", lambda *_, controls, **__: asked.append(controls))
        monkeypatch.setattr(Controls, "ensure", lambda *_: asked.append("ensured"))
        grader = EngineGrader(bench.settings)
        for submission in (bench.hand_in(), bench.try_out()[1]):
            claim = bench.store.claim(submission, "w", 60)
            assert claim is not None
            grader(claim, EmptySandbox(), lambda step, what: None)
        first, *rest = asked
        assert isinstance(first, Controls) and rest == ["ensured", None]


def test_pauses_double_up_to_the_longest() -> None:
    settings = Settings(retry_base_s=5, retry_max_s=300)
    for attempt, low in enumerate((5, 10, 20, 40, 80, 160, 300, 300), 1):
        assert low <= pause_before_retry_s(attempt, settings) <= low * 1.25
    assert pause_before_retry_s(10_000, settings) <= 375

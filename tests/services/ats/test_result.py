"""The neutral result says what the report says, and no more."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from grading.challenge import load_challenge
from grading.verdict import Report, Verdict, rate
from services import ats
from services.store import NewIntegration, Store
from services.store.events import SubmissionFacts

if TYPE_CHECKING:
    from tests.services.ats.conftest import Ats

MakeReport = Callable[..., Report]


def undecided(report: Report, number: int) -> Report:
    """The same report with one verdict inconclusive."""
    bugs = tuple(
        bug.model_copy(update={"verdict": Verdict.INCONCLUSIVE}) if bug.number == number else bug for bug in report.bugs
    )
    rating = rate(load_challenge("spiral").manifest, tuple(bug.verdict for bug in bugs))
    return report.model_copy(update={"bugs": bugs, "rating": rating})


def test_a_graded_submission_has_a_score_and_a_sub_result_for_each_bug(vendor: Ats, make_report: MakeReport) -> None:
    result = ats.result_of(vendor.stored(), make_report(source=b"fixed=3"), "https://assay.example/s/1")
    subs = [one for one in result.attributes if isinstance(one, ats.SubResult)]
    assert (result.status, result.score, result.max_score) == ("COMPLETED", 3, 8)
    assert (result.rating, result.rating_is_final, result.result_url) == (
        "Below Bar",
        True,
        "https://assay.example/s/1",
    )
    assert [sub.score and sub.score.value for sub in subs] == [1, 1, 1, 0, 0, 0, 0, 0]
    assert {sub.status for sub in subs} == {"COMPLETED"}


def test_an_inconclusive_verdict_has_no_score_and_leaves_the_rating_open(vendor: Ats, make_report: MakeReport) -> None:
    result = ats.result_of(vendor.stored(), undecided(make_report(source=b"fixed=3"), 8), None)
    (sub,) = [one for one in result.attributes if isinstance(one, ats.SubResult) and one.id == "lr"]
    assert (sub.score, sub.status) == (None, "INCONCLUSIVE")
    assert not result.rating_is_final
    assert result.summary == "Below Bar, could become Borderline: 3 of 8 bugs fixed"


def test_what_cannot_be_graded_is_completed_without_a_score(vendor: Ats, make_report: MakeReport) -> None:
    result = ats.result_of(vendor.stored("invalid"), make_report(source=b"syntax"), None)
    assert (result.status, result.score, result.max_score, result.rating) == ("COMPLETED", None, None, None)
    assert result.summary.startswith("Cannot be graded: ")


@pytest.mark.parametrize("state", ["queued", "running", "dead"])
def test_what_is_not_graded_yet_is_open_and_our_faults_are_no_result(vendor: Ats, state: str) -> None:
    assert ats.result_of(vendor.stored(state), None, None) == ats.Result(status="OPEN")
    assert ats.result_of(None, None, None) == ats.Result(status="OPEN")


@pytest.mark.parametrize("state", ["cancelled", "erased"])
def test_what_is_cancelled_or_erased_tells_nothing_but_that(vendor: Ats, make_report: MakeReport, state: str) -> None:
    assert ats.result_of(vendor.stored(state), make_report(), "https://x.example") == ats.Result(status="CANCELLED")


def test_tampering_is_flagged_for_a_person_and_changes_no_score(vendor: Ats, make_report: MakeReport) -> None:
    plain = ats.result_of(vendor.stored(), make_report(source=b"fixed=8"), None)
    flagged = ats.result_of(vendor.stored(), make_report(source=b"fixed=8 forged"), None)
    assert (flagged.score, flagged.rating) == (plain.score, plain.rating)
    assert [a.id for a in flagged.attributes if a not in plain.attributes] == ["integrity"]


def test_a_submission_of_an_integration_is_what_events_and_results_take(vendor: Ats) -> None:
    facts: SubmissionFacts = vendor.stored()
    assert facts.id == "sub_1"


def test_an_integration_of_the_store_is_one_of_the_adapters(tmp_path: Path) -> None:
    Store.upgrade(url := f"sqlite:///{tmp_path / 'assay.db'}")
    store = Store.open(url)
    manifests = {"spiral": load_challenge("spiral").manifest}
    kept = store.create_integration(NewIntegration("gh", "greenhouse", secrets=("out-key",), credential="in-key"))
    made = ats.integration_of(kept, manifests)
    assert (made.outbound_key, made.secrets) == ("out-key", ())
    assert made.offers == (ats.Offer("spiral", "spiral", "The spiral that will not train", "Hard, 45 minutes"),)
    mapped = store.create_integration(
        NewIntegration("std", "standard", secrets=("whsec_x",), challenge_map={"T1": "spiral", "T2": "gone"})
    )
    made = ats.integration_of(mapped, manifests)
    assert (made.outbound_key, made.secrets) == ("", ("whsec_x",))
    assert (made.challenge_of("T1"), made.challenge_of("T2"), made.challenge_of("spiral")) == ("spiral", None, None)
    store.close()

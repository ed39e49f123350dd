from __future__ import annotations

from prometheus_client import generate_latest

from services.worker.instruments import Instruments
from tests.services.conftest import a_report
from tests.services.worker.conftest import Bench


def told(instruments: Instruments) -> str:
    return generate_latest(instruments._registry).decode()


def test_a_grading_is_told_by_phase(bench: Bench) -> None:
    worker = bench.worker()
    worker.work(bench.hand_in())
    worker.work("sub_nobody")

    text = told(worker.instruments)
    assert 'assay_grade_seconds_count{phase="own run"} 1.0' in text
    assert 'assay_grade_seconds_sum{phase="total"} 0.5' in text
    assert 'assay_hints_total{outcome="graded"} 1.0' in text
    assert 'assay_hints_total{outcome="not to be had"} 1.0' in text
    assert 'assay_containers_total{warm="no"} 1.0' in text


def test_what_never_ran_used_no_container() -> None:
    one = Instruments()
    one.graded(a_report("x.py", b"", run_status="not_run"))
    assert "assay_containers_total{" not in told(one)


def test_deliveries_are_told_by_answer() -> None:
    one = Instruments()
    for status in (200, 204, 503, None):
        one.attempted(status)
    assert 'assay_deliveries_total{answer="2xx"} 2.0' in told(one)
    assert 'assay_deliveries_total{answer="5xx"} 1.0' in told(one)
    assert 'assay_deliveries_total{answer="none"} 1.0' in told(one)

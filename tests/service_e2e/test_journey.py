"""The whole way in a browser against the whole service: from a zip of programs to a decision. Everything is real."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.chaos import kinds
from bench.stack import Engine
from services.store import Store, Submission, SubmissionFilters
from tests.service_e2e.conftest import GRADE_S, Served, until
from tests.services.pages.test_browser import Visit, launched

pytestmark = [
    pytest.mark.docker,
    pytest.mark.services,
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.enable_socket,
]
PASSWORD = "correct horse battery"
SETTINGS = {"ASSAY_MAX_ATTEMPTS": "2", "ASSAY_RETRY_BASE_S": "1", "ASSAY_POOL_RETRIES": "0"}


def user(served: Served, role: str) -> None:
    """Let somebody in, as an administrator does from a terminal."""
    command = [sys.executable, "-m", "services.cli", "users", "create", f"{role}@example.org", "--role", role]
    environment = {**os.environ, **served.environment}
    subprocess.run(
        [*command, "--password-stdin"], input=PASSWORD, env=environment, text=True, check=True, capture_output=True
    )


def programs() -> bytes:
    """A zip of two candidates: one with a single bug left, one who changed nothing."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("mei_lin.py", kinds()["one bug"].source)
        archive.writestr("omar_haddad.py", kinds()["problem"].source)
    return file.getvalue()


@contextmanager
def failing_sandboxes(served: Served, tmp_path: Path) -> Iterator[None]:
    """Kills the containers whenever a submission is in the middle of one: no grading comes to its end meanwhile."""
    over, engine = threading.Event(), Engine(tmp_path, "", own=False)
    store = Store.open(f"sqlite:///{served.state / 'assay.db'}")

    def in_the_middle(submission: Submission) -> bool:
        return [event.kind for event in store.events_after(submission.id, 0, 500)][-1:] == ["step"]

    def kill() -> None:
        while not over.wait(0.05):
            if any(map(in_the_middle, store.list_submissions(SubmissionFilters(states=("running",))).items)):
                engine.kill(engine.containers(set(served.processes())))

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        store.close()


def test_a_recruiter_and_an_interviewer_come_to_a_decision(served: Served, tmp_path: Path) -> None:
    (tmp_path / "all.zip").write_bytes(programs())
    for role in ("recruiter", "interviewer", "admin"):
        user(served, role)
    base = f"http://127.0.0.1:{served.port}"
    with launched() as browser:
        context = browser.new_context(viewport={"width": 1440, "height": 900}, locale="en-US")
        visit = Visit(context, base).sign_in("recruiter")
        page = visit.open("/upload")
        page.set_input_files("#files", tmp_path / "all.zip")
        page.fill("#name", "Winter")
        page.click("main button:has-text('Upload')")
        page.wait_for_url("**/cohorts/coh_*")
        page.wait_for_selector("text=All graded", state="attached", timeout=GRADE_S * 1000)

        page.reload()
        rows = page.locator(".heat tbody tr")
        best, worst = rows.nth(0).inner_text(), rows.nth(1).inner_text()
        assert "mei_lin.py" in best and "7/8" in best and "omar_haddad.py" in worst and "0/8" in worst
        for number in (0, 1):
            page.locator("input[name=id]").nth(number).check()
        page.click("[data-compare]")
        page.wait_for_url("**/compare?**")
        page.go_back()
        page.click(".heat tbody tr:first-child th a")
        missed = page.locator(".finding", has_text="missed")
        assert missed.count() == 1 and "learning rate" in missed.inner_text()
        report = page.url

        page.check("input[name=kind][value=advance]")
        page.fill("#reason", "One bug missed; talk about rates.")
        page.click("text=Record the decision")
        assert "The decision is recorded." in page.inner_text("main")
        page.click("text=Make a link to read")
        page.click("button:has-text('Make the link')")
        shared = page.input_value("#made")
        with page.expect_download() as download:
            page.click("a:has-text('PDF')")
        assert Path(download.value.path()).read_bytes().startswith(b"%PDF-")
        context.close()

        visitor = browser.new_context(locale="en-US").new_page()
        visitor.goto(shared)
        assert "7 of 8" in visitor.inner_text("main") and visitor.locator("form").count() == 0

        context = browser.new_context(viewport={"width": 390, "height": 900}, locale="en-US")
        talk = Visit(context, base).sign_in("interviewer")
        page = talk.open(report.removeprefix(base))
        page.click("main a:text-is('Interview')")
        first = page.locator(".finding").first
        assert "learning rate" in first.inner_text() and "Start from the symptom" in first.inner_text()
        page.check("input[name=mark-method][value=strong]")
        page.check("input[name=recommendation][value=yes]")
        page.fill("#summary", "Knew why 0.5 is too much once asked.")
        page.click("button:has-text('Hand in')")
        assert "Your scorecard is handed in." in page.inner_text("main")
        page = talk.open(report.removeprefix(base))
        assert "Knew why 0.5 is too much" in page.inner_text("main")
        context.close()

        context = browser.new_context(locale="en-US")
        watch = Visit(context, base).sign_in("admin")
        page = watch.open("/admin")
        page.wait_for_selector("text=Waiting warm", timeout=60_000)  # the page renews itself as workers tell

        (tmp_path / "late.py").write_text(kinds()["solution"].source)
        with failing_sandboxes(served, tmp_path):
            page = watch.open("/upload")
            page.set_input_files("#files", tmp_path / "late.py")
            page.select_option("#cohort", "none")
            page.click("main button:has-text('Upload')")
            page.wait_for_url("**/submissions/sub_*")
            until(lambda: bool(dead(served)), GRADE_S, "the end of all attempts")
        (late,) = dead(served)
        page = watch.open(f"/submissions/{late}")
        assert "our fault" in page.inner_text("main") and "missed" not in page.inner_text("main")
        page = watch.open("/admin/dead")
        assert page.locator("tbody tr").count() == 1 and "late.py" in page.inner_text("tbody")
        page.click("text=Put the ticked ones back into the queue")
        assert "It waits to be graded again." in page.inner_text("main")
        until(lambda: state(served, late) == "graded", GRADE_S, "its grade")
        assert "8 of 8" in watch.open(f"/submissions/{late}").inner_text("main")
        context.close()
        assert visit.complaints == talk.complaints == watch.complaints == []


def dead(served: Served) -> list[str]:
    """Submissions that the infrastructure failed on."""
    return [one["id"] for one in served.client().call("GET", "/v1/submissions?state=dead")[1]["data"]]


def state(served: Served, submission_id: str) -> str:
    """Where it stands."""
    return str(served.client().call("GET", f"/v1/submissions/{submission_id}")[1]["state"])

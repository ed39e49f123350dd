"""The dashboard in Debian's Chromium: nothing breaks the policy, axe finds nothing, scripts do their part.

Every page in both themes and at both widths. Chromium comes from infra/dev/services.sh.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright
from werkzeug.serving import make_server

from services.store import NewInvitations
from tests.services.pages import seed
from tests.services.pages.conftest import Site
from tests.services.pages.tour import invited_pages, pages

pytestmark = [pytest.mark.slow, pytest.mark.services, pytest.mark.enable_socket, pytest.mark.timeout(900)]

_FLAGS = [
    "--no-sandbox",  # tests run as root in a container; the pages are ours
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# Each theme and each width once: contrast hangs on the one, layout on the other.
_LOOKS = [("light", 1440), ("dark", 390)]
# What WCAG 2.2 AA asks for, and axe's own good practice.
_RULES = {
    "runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
}


@contextlib.contextmanager
def serving(site: Site) -> Iterator[str]:
    """The site at a port of the loopback."""
    server = make_server("127.0.0.1", 0, site.app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()


@pytest.fixture
def address(make_site: Any) -> Iterator[tuple[Site, str]]:
    site = make_site()
    with serving(site) as base:
        yield site, base


@contextlib.contextmanager
def launched() -> Iterator[Browser]:
    """Debian's Chromium."""
    program = shutil.which("chromium")
    assert program, "install chromium (infra/dev/services.sh)"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=_FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


class Visit:
    """A signed-in page that remembers every complaint of the browser."""

    def __init__(self, context: BrowserContext, base: str) -> None:
        self.base, self.complaints = base, list[str]()
        self.page: Page = context.new_page()
        self.page.on("console", self._note)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.add_init_script(
            "document.addEventListener('securitypolicyviolation',"
            " (e) => console.error('policy: ' + e.violatedDirective + ' ' + e.blockedURI))"
        )

    def _note(self, message: Any) -> None:
        refused = message.text.startswith("Failed to load resource") and re.search(r" 4(01|10) ", message.text)
        if message.type in ("error", "warning") and not refused:
            self.complaints.append(message.text)

    def sign_in(self, role: str) -> Visit:
        self.open("/sign-in")
        self.page.fill("#email", f"{role}@example.org")
        self.page.fill("#password", seed.PASSWORD)
        self.page.click("main button")
        self.page.wait_for_url("**/cohorts")
        return self

    def open(self, path: str) -> Page:
        self.page.goto(self.base + path, wait_until="load")
        return self.page


@pytest.mark.parametrize(("theme", "width"), _LOOKS)
def test_every_page_is_accessible_and_within_the_policy(
    address: tuple[Site, str], chromium: Browser, theme: Any, width: int
):
    site, base = address
    context = chromium.new_context(
        viewport={"width": width, "height": 900}, color_scheme=theme, reduced_motion="reduce", locale="en-US"
    )
    visit = Visit(context, base)
    visit.open("/sign-in")
    found = {"/sign-in": _violations(visit.page)}
    visit.sign_in("admin")
    found |= _looked_at(visit, pages(site).values(), width)
    context.close()
    assert {path: what for path, what in found.items() if what} == {}
    assert visit.complaints == []


@pytest.mark.parametrize(("theme", "width"), _LOOKS)
def test_so_is_every_page_of_candidates_and_of_those_who_invite(
    address: tuple[Site, str], chromium: Browser, theme: Any, width: int
):
    site, base = address
    paths = invited_pages(site)
    invitations = paths.pop("invitations")
    submission = site.store.list_submissions(limit=1).items[0]
    context = chromium.new_context(
        viewport={"width": width, "height": 900}, color_scheme=theme, reduced_motion="reduce", locale="en-US"
    )
    visit = Visit(context, base)
    found = _looked_at(visit, paths.values(), width)
    visit.sign_in("recruiter")
    found |= _looked_at(visit, [f"/submissions/{submission.id}", invitations], width)
    visit.page.fill("#people", "Kim Doe <kim@example.org>\nmax@example.org")
    visit.page.click("text=Make the links")
    visit.page.wait_for_selector("text=2 links, shown this once")
    found["made"] = _violations(visit.page)
    context.close()
    assert {path: what for path, what in found.items() if what} == {}
    assert visit.complaints == []


def _looked_at(visit: Visit, paths: Iterable[str], width: int) -> dict[str, list[str]]:
    """What axe finds on each page with everything unfolded, none of which may be wider than the window."""
    found = {}
    for path in paths:
        page = visit.open(path)
        page.evaluate("document.querySelectorAll('details').forEach((one) => one.open = true)")
        found[path] = _violations(page)
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= width, f"{path} is {wide} pixels wide"
    return found


def _violations(page: Page) -> list[str]:
    results = Axe().run(page, options=_RULES).response
    return [
        f"{one['id']}: {json.dumps([node['html'][:200] for node in one['nodes']])}" for one in results["violations"]
    ]


def test_it_works_by_keyboard_and_script(address: tuple[Site, str], chromium: Browser):
    """Choosing two by the keyboard and comparing them; a filter that applies at once."""
    site, base = address
    context = chromium.new_context(viewport={"width": 1440, "height": 900}, locale="en-US")
    visit = Visit(context, base).sign_in("recruiter")
    page = visit.open(f"/cohorts/{site.seeded.cohort_id}")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    button = page.locator("[data-compare]")
    assert button.get_attribute("aria-disabled") == "true"
    boxes = page.locator("input[name=id]")
    for number in (0, 1):
        boxes.nth(number).focus()
        page.keyboard.press("Space")
    assert button.inner_text() == "Compare 2"
    button.focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/compare?**")
    assert "2 candidates side by side" in page.inner_text("h1")
    page = visit.open(f"/cohorts/{site.seeded.cohort_id}")
    page.select_option("#show", "flagged")
    page.wait_for_url("**show=flagged**")
    assert page.locator(".heat tbody tr").count() == 1
    context.close()
    assert visit.complaints == []


def test_progress_comes_by_itself(address: tuple[Site, str], chromium: Browser):
    site, base = address
    context = chromium.new_context(viewport={"width": 1440, "height": 900}, locale="en-US")
    visit = Visit(context, base).sign_in("recruiter")
    running = next(one for one in site.store.list_cohorts().items if one.state == "running")
    page = visit.open(f"/cohorts/{running.id}")
    assert page.locator("progress").get_attribute("value") == "8"
    site.store.cancel_cohort(running.id)
    page.wait_for_selector("text=All graded", state="attached", timeout=15_000)
    assert page.locator("progress").count() == 0
    page.click("text=Show the new results in the table")
    context.close()
    assert visit.complaints == []


def test_files_are_dropped_and_graded_into_a_cohort(address: tuple[Site, str], chromium: Browser):
    _, base = address
    context = chromium.new_context(viewport={"width": 1440, "height": 900}, locale="en-US")
    visit = Visit(context, base).sign_in("recruiter")
    page = visit.open("/upload")
    data = page.evaluate_handle(
        "() => { const data = new DataTransfer(); data.items.add(new File(['print(1)'], 'a.py'));"
        " data.items.add(new File(['print(2)'], 'b.py')); return data }"
    )
    page.dispatch_event("[data-drop]", "drop", {"dataTransfer": data})
    assert page.inner_text("[data-chosen]") == "2 chosen: a.py, b.py"
    page.fill("#name", "Dropped")
    page.click("main button:has-text('Upload')")
    page.wait_for_url("**/cohorts/coh_*")
    assert "2 waiting" in page.inner_text("#progress")
    context.close()
    assert visit.complaints == []


def test_the_interviews_clock_goes_on_over_a_reload_and_says_when_time_is_up(
    address: tuple[Site, str], chromium: Browser
):
    site, base = address
    context = chromium.new_context(viewport={"width": 1440, "height": 900}, locale="en-US")
    visit = Visit(context, base).sign_in("interviewer")
    visit.page.clock.install()
    path = f"/submissions/{site.seeded.submission_ids[1]}/interview"
    page = visit.open(path)
    said = page.locator("[data-clock-said]")
    page.click("[data-clock-start]")
    page.clock.run_for(61_000)
    assert page.inner_text("[data-clock-time]") in ("1:00", "1:01")
    page = visit.open(path)
    page.clock.run_for(9 * 60_000)
    assert said.text_content() == "Read and understand: the time is up."
    page.click("[data-clock-next]")
    assert said.text_content() == "Find and mend begins."
    assert page.inner_text("[aria-current=step]").startswith("▸ Find and mend")
    page.click("[data-clock-start]")  # pause
    page.clock.run_for(60_000)
    assert page.inner_text("[data-clock-time]") == "0:00" and page.inner_text("[data-clock-start]") in (
        "Go on",
        "Start",
    )
    page.click("[data-clock-reset]")
    assert page.inner_text("[aria-current=step]").startswith("▸ Read and understand")
    context.close()
    assert visit.complaints == []


def _invited(site: Site, time_limit_s: int | None) -> tuple[str, str]:
    new = NewInvitations("spiral", [{"name": "Kim Doe"}], "Rita Recruiter", 3600, 5, time_limit_s=time_limit_s)
    ((made, token),) = site.store.create_invitations(new, actor="test")
    return made.id, f"/take/{token}"


def _finish_check(site: Site, invitation_id: str) -> None:
    claim = site.store.claim(site.store.checks(invitation_id)[0].id, "worker-1", 60)
    assert claim is not None
    told = {"loads": True, "trains": True, "epochs": 2, "accuracy_by_epoch": [0.5, 0.9], "threshold": 0.85}
    site.store.finish_check(claim, "graded", told)


def test_a_candidate_sees_time_pass_and_a_check_come_back_by_itself(
    address: tuple[Site, str], chromium: Browser, tmp_path: Path
):
    site, base = address
    (tmp_path / "mine.py").write_text("print('mended')\n")
    invitation, path = _invited(site, time_limit_s=120)
    context = chromium.new_context(viewport={"width": 1440, "height": 900}, locale="en-US")
    visit = Visit(context, base)
    visit.page.clock.install()
    page = visit.open(path)
    page.click("text=Start now")
    page.set_input_files("#try", tmp_path / "mine.py")
    page.click("button:has-text('Check it')")
    page.wait_for_selector("text=It waits to be run")
    page.wait_for_selector("[data-left]:text-matches('^1:[0-5][0-9]$')")
    _finish_check(site, invitation)
    page.wait_for_selector("text=reached in epoch 2", timeout=15_000)
    assert page.locator("#try").count() == 1, "another may be tried"
    page.clock.fast_forward(80_000)
    page.wait_for_selector("[data-left-said]:text-is('1 min left')", state="attached")
    assert page.locator("[data-over]").is_hidden()
    page.clock.fast_forward(60_000)
    page.wait_for_selector("[data-over]")
    context.close()
    assert visit.complaints == []


def test_a_candidate_needs_no_script(address: tuple[Site, str], chromium: Browser, tmp_path: Path):
    site, base = address
    (tmp_path / "mine.py").write_text("print('mended')\n")
    invitation, path = _invited(site, time_limit_s=2700)
    context = chromium.new_context(viewport={"width": 390, "height": 900}, java_script_enabled=False)
    page = context.new_page()
    page.goto(base + path)
    page.click("text=Start now")
    with page.expect_download() as download:
        page.click("text=Download the program")
    assert download.value.suggested_filename == "pytorch_debug_problem.py"
    page.set_input_files("#try", tmp_path / "mine.py")
    page.click("button:has-text('Check it')")
    _finish_check(site, invitation)
    page.click("text=Look again")
    page.click("text=Hand in this file")
    page.click("text=Hand it in")
    assert "You have handed in" in page.inner_text("main")
    submission = site.store.list_submissions(limit=1).items[0]
    assert site.store.source(submission.id) == b"print('mended')\n"
    context.close()


def test_reading_needs_no_script(address: tuple[Site, str], chromium: Browser):
    site, base = address
    context = chromium.new_context(viewport={"width": 1440, "height": 900}, java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{base}/cohorts/{site.seeded.cohort_id}")
    page.fill("#email", "recruiter@example.org")
    page.fill("#password", seed.PASSWORD)
    page.click("main button")
    assert page.locator(".heat tbody tr").count() == 30
    page.click("thead a:has-text('Accuracy')")
    page.click(".heat tbody tr:first-child th a")
    page.click("text=What changed in the program")
    assert page.locator(".diff tbody tr").count() > 10
    context.close()

"""Nothing that came from a candidate does anything: it is shown, and it is bounded."""

from __future__ import annotations

import random
from html.parser import HTMLParser

import pytest

from grading.challenge import load_challenge
from grading.verdict import Verdict
from services.api.pages.charts import printed
from services.api.pages.text import still, still_lines
from services.store import NewSubmission
from tests.services.pages import seed
from tests.services.pages.conftest import Site

SCRIPT = "<script>document.title='gone'</script><img src=x onerror=alert(1)>\"'><svg/onload=alert(1)>"
TERMINAL = "\x1b[2J\x1b]0;gone\x07"
TURNED = "\u202egnp.exe\u2066\u200f"
CLIMBING = "a" + "\u0301" * 500
TEMPLATE = "{{ 1234*4321 }}{% include '/etc/passwd' %}"
PLANTED = " ".join((SCRIPT, TERMINAL, TURNED, CLIMBING, TEMPLATE))
UNSAFE = ("\x1b", "\x07", "\u202e", "\u2066", "\u200f", "\u0301" * 5)


class Reader(HTMLParser):
    """Collects what a browser would act on."""

    def __init__(self) -> None:
        super().__init__()
        self.scripts: list[str | None] = []
        self.images: list[str | None] = []
        self.handlers: list[str] = []
        self.inline = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "script":
            self.scripts.append(given.get("src"))
        if tag in ("img", "iframe", "object", "embed", "base", "style"):
            self.images.append(tag)
        self.handlers += [name for name in given if name.startswith(("on", "hx-on")) or name == "style"]


def assert_inert(text: str) -> None:
    reader = Reader()
    reader.feed(text)
    assert len(reader.scripts) == 2 and all(src and src.startswith("/assets/") for src in reader.scripts)
    assert reader.images == [] and reader.handlers == []
    for bad in UNSAFE:
        assert bad not in text
    assert "5332114" not in text


@pytest.fixture
def planted(site: Site) -> tuple[Site, str, str]:
    """A cohort whose name, candidate, file, program, output, errors and evidence all hold what should do nothing."""
    cohort = site.store.create_cohort(PLANTED[:180], "spiral", actor="test")
    source = f"# {PLANTED}\nprint('''{SCRIPT}''')\n".encode()
    new = NewSubmission(
        "spiral",
        f"{PLANTED[:150]}.py",
        source,
        candidate={"name": PLANTED, "external_id": f"id {SCRIPT}", "email": f"{SCRIPT}@example.org"},
    )
    first, second = site.store.create_submissions(cohort.id, [new, new], actor="test")
    challenge = load_challenge("spiral")
    verdicts = [Verdict.FIXED] * 4 + [Verdict.NOT_FIXED] * 3 + [Verdict.INCONCLUSIVE]
    for one in (first, second):
        report = seed.made_report(
            challenge, new.file_name, source, verdicts, random.Random(1), tampering=(PLANTED,), extra=PLANTED
        )
        report = report.model_copy(update={"run_status": SCRIPT, "submission_name": PLANTED})
        seed.finish(site.store, one.id, report)
    rita = site.store.user_by_email("recruiter@example.org")
    assert rita is not None
    site.store.add_note(first.id, PLANTED, PLANTED, actor=rita.id)
    site.store.decide(first.id, PLANTED, "hold", PLANTED, actor=rita.id)
    site.store.rule(first.id, PLANTED, "confirmed", PLANTED, actor=rita.id)
    words = {"method": PLANTED}
    site.store.keep_scorecard(first.id, rita.id, PLANTED, {"method": "weak"}, words, PLANTED, "no", hand_in=True)
    return site, cohort.id, first.id


def test_no_page_runs_it(planted: tuple[Site, str, str]):
    site, cohort_id, submission_id = planted
    ids = [one.id for one in site.store.list_submissions(limit=2).items]
    admin = site.browser("admin")
    _, token = site.store.create_share(submission_id, PLANTED, 60, blind=False, actor="test")
    dead = site.store.create_submission(NewSubmission("spiral", PLANTED, b"x", candidate={"name": PLANTED}))
    while (claim := site.store.claim(dead.id, PLANTED, 60)) is not None:
        site.store.release(claim, PLANTED, 0)
    running = site.store.create_submission(NewSubmission("spiral", PLANTED, b"x", candidate={"name": PLANTED}))
    assert site.store.claim(running.id, PLANTED, 60) is not None
    site.store.audit(PLANTED, PLANTED, PLANTED, {SCRIPT: PLANTED})
    for path in (
        "/cohorts",
        f"/cohorts/{cohort_id}",
        f"/cohorts/{cohort_id}?q={SCRIPT}&rating={SCRIPT}",
        f"/cohorts/{cohort_id}/compare?id={ids[0]}&id={ids[1]}",
        f"/submissions/{submission_id}",
        f"/submissions/{submission_id}/changes",
        f"/submissions/{submission_id}/interview",
        f"/questions?q={SCRIPT}",
        f"/submissions/{dead.id}",
        "/submissions",
        "/upload",
        f"/shared/{token}",
        "/admin",
        "/admin/dead",
        "/admin/audit",
        "/admin/webhooks",
        "/sign-in?next=/%22%3E%3Cscript%3E",
        f"/nothing/{SCRIPT}",
    ):
        response = admin.get(path, headers={"Accept": "text/html"})
        assert response.status_code in (200, 302, 404), path
        if response.status_code != 302:
            assert_inert(response.text)
    message = next(one for one in site.store.list_messages(limit=5).items if one.submission_id)
    assert_inert(admin.get(f"/admin/messages/{message.id}").text)


def test_a_refused_file_is_inert(site: Site):
    import io

    browser = site.browser("recruiter")
    data = {
        "challenge": "spiral",
        "cohort": "new",
        "name": "x",
        "files": [(io.BytesIO(b"x"), f"{SCRIPT}.pdf"), (io.BytesIO(b"x"), "a.py")],
    }
    response = browser.post("/upload", data, form="/upload", content_type="multipart/form-data")
    assert_inert(response.text)


def test_a_program_of_one_long_line_is_bounded(site: Site):
    made = site.store.create_submission(NewSubmission("spiral", "long.py", b"x = '" + b"y" * 1_000_000 + b"'"))
    response = site.browser("recruiter").get(f"/submissions/{made.id}/changes")
    assert response.status_code == 200 and len(response.data) < 100_000


def test_a_program_of_very_many_lines_is_not_compared(site: Site):
    made = site.store.create_submission(NewSubmission("spiral", "long.py", b"x\n" * 100_000))
    text = site.browser("recruiter").get(f"/submissions/{made.id}/changes").text
    assert "are not compared here" in text and len(text) < 100_000


def test_output_of_ten_megabytes_is_bounded(site: Site):
    made = site.store.create_submission(NewSubmission("spiral", "loud.py", b"x"))
    challenge = load_challenge("spiral")
    report = seed.made_report(challenge, "loud.py", b"x", [Verdict.FIXED] * 8, random.Random(1))
    report = report.model_copy(update={"output_tail": "y" * 10_000_000, "run_error": "z" * 10_000_000})
    seed.finish(site.store, made.id, report)
    response = site.browser("recruiter").get(f"/submissions/{made.id}")
    assert response.status_code == 200 and len(response.data) < 150_000


def test_a_pdf_of_it_can_be_made(planted: tuple[Site, str, str]):
    site, _, submission_id = planted
    response = site.browser("recruiter").get(f"/submissions/{submission_id}/report.pdf")
    assert response.data.startswith(b"%PDF-")
    assert b"/JavaScript" not in response.data and b"/URI" not in response.data


def test_a_program_is_downloaded_never_shown(planted: tuple[Site, str, str]):
    site, _, submission_id = planted
    response = site.browser("recruiter").get(f"/submissions/{submission_id}/program")
    assert response.mimetype == "text/plain"
    assert response.headers["Content-Disposition"].startswith("attachment;")
    assert "\n" not in response.headers["Content-Disposition"]


@pytest.mark.parametrize("text", [PLANTED, "a\tb", "\x00", "\ud800", "x" * 5000])
def test_still_is_printable_and_bounded(text: str):
    shown = still(text)
    assert len(shown) <= 400 and all(c.isprintable() or c in CLIMBING for c in shown)


def test_still_keeps_the_blanks_of_a_program():
    assert still("\tif x:  # two") == "    if x:  # two"
    assert still_lines("a\r\n  b") == "a\n  b"


@pytest.mark.parametrize(
    "output",
    [
        "epoch 1/20 | train loss nan",
        "epoch 2/20 | train loss 0.5",
        "epoch 1 " + "9" * 500,
        "epoch 1 | train loss 0.5\nepoch 1 | train loss 0.4",
        "epoch " * 10_000,
    ],
)
def test_printed_figures_that_make_no_curve_are_left_out(output: str):
    assert printed(output) == {}


def test_printed_figures_are_read():
    lines = "epoch  1/2 | train loss 1.5 acc 0.4 | val loss 1.6 acc 39 %\n"
    lines += "epoch  2/2 | train loss 1.0 acc 0.5 | val loss 1.1"
    found = printed(lines)
    assert found == {"train loss": [1.5, 1.0], "train acc": [0.4, 0.5], "val loss": [1.6, 1.1]}

"""What an invited candidate sees and does, from the link to the receipt."""

from __future__ import annotations

import hashlib
import io
import random
import re
from typing import Any

import pytest
from werkzeug.test import TestResponse

from grading.challenge import load_challenge
from grading.verdict import Verdict
from services.api.pages.brief import as_html
from services.store import Invitation, NewInvitations
from tests.services.pages import seed
from tests.services.pages.conftest import Browser, Site
from tests.services.pages.test_inert import PLANTED, SCRIPT, UNSAFE, assert_inert

SPIRAL = load_challenge("spiral")
GOOD = b"print('mended')\n"
HALF = [Verdict.FIXED, Verdict.NOT_FIXED] * 4
DAY_US = 86_400_000_000


class Guest:
    """A candidate with a link in a browser of their own."""

    def __init__(self, site: Site, **changes: Any) -> None:
        who = changes.pop("candidate", {"name": "Mei Lin", "email": "mei@example.org"})
        given = {"valid_s": 7 * 86_400, "checks_max": 3, **changes}
        new = NewInvitations("spiral", [who], given.pop("author", "Rita Recruiter"), **given)
        ((made, token),) = site.store.create_invitations(new, actor="test")
        self.site, self.id, self.path = site, made.id, f"/take/{token}"
        self.browser: Browser = site.browser()

    def get(self, rest: str = "") -> TestResponse:
        return self.browser.get(self.path + rest)

    def post(self, rest: str, data: dict[str, Any] | None = None) -> TestResponse:
        """A form with the token that the candidate's own page gives."""
        form = {"form": self.path, "content_type": "multipart/form-data", "buffered": True}
        response = self.browser.post(self.path + rest, data, **form)
        response.request.environ["wsgi.input"].close()  # a temporary file of the client's where it is long
        return response

    def send(self, rest: str, source: bytes = GOOD, name: str = "mine.py", **data: Any) -> TestResponse:
        return self.post(rest, {"file": (io.BytesIO(source), name), **data})

    def now(self) -> Invitation:
        found = self.site.store.invitation(self.id)
        assert found is not None
        return found

    def finish(self, verdicts: list[Verdict], **report: Any) -> None:
        """What a worker does with what was handed in."""
        submission = self.now().submission_id
        assert submission is not None
        made = seed.made_report(SPIRAL, "mine.py", GOOD, verdicts, random.Random(1))
        seed.finish(self.site.store, submission, made.model_copy(update=report))


def with_view(site: Site, **view: Any) -> None:
    """The challenge as if its manifest said otherwise what candidates see."""
    manifest = SPIRAL.manifest
    candidate = manifest.candidate.model_copy(update=view)
    changed = SPIRAL.model_copy(update={"manifest": manifest.model_copy(update={"candidate": candidate})})
    site.app.extensions["assay"].challenges = {"spiral": changed}


def hidden_in(text: str) -> list[str]:
    """Whatever of the rubric, of verdicts or of ratings stands in a page."""
    words = {"fixed", "not_fixed", "missed", "inconclusive", "unclear", "verdict", "tampering", "regression", "mended"}
    words |= {word for bug in SPIRAL.manifest.bugs for word in (bug.id, bug.title, bug.symptom)}
    words |= {band.rating for band in SPIRAL.manifest.rating_bands}
    return [word for word in words if re.search(rf"(?<![\w-]){re.escape(word)}s?(?![\w-])", text, re.I)]


class TestTheWay:
    def test_from_the_link_to_the_receipt(self, site: Site):
        cohort = site.store.create_cohort("Autumn", "spiral", actor="test")
        guest = Guest(site, time_limit_s=2700, cohort_id=cohort.id)
        first = guest.get().text
        assert "Start now" in first and "The clock starts when you press the button" in first and "Mei Lin" in first
        assert "eight bugs" not in first and guest.get("/problem").status_code == 409

        assert guest.post("/start").status_code == 303
        page = guest.get().text
        assert "eight bugs" in page and "Time left" in page and 'data-left="2' in page
        program = guest.get("/problem")
        assert program.data.decode() == SPIRAL.text("problem.py")
        assert program.headers["Content-Disposition"] == 'attachment; filename="pytorch_debug_problem.py"'

        assert guest.send("/check").location.endswith("#checks")
        waiting = guest.get().text
        assert 'hx-trigger="every 4s"' in waiting and "It waits to be run" in waiting and "Check it" not in waiting
        (check,) = site.store.checks(guest.id)
        claim = site.store.claim(check.id, "w", 60)
        assert claim is not None and "It is being run" in guest.get("/checks").text
        told = {"loads": True, "trains": True, "epochs": 2, "accuracy_by_epoch": [0.5, 0.9], "threshold": 0.85}
        site.store.finish_check(claim, "graded", told)
        done = guest.get("/checks").text
        assert "hx-get" not in done and "90.0" in done and "reached in epoch 2" in done and "2 left" in done

        confirm = guest.get(f"/hand-in?check={check.id}").text
        assert hashlib.sha256(GOOD).hexdigest() in confirm
        assert guest.post("/hand-in", {"check": check.id, "sure": "1"}).status_code == 303
        receipt = guest.get().text
        submission = site.store.list_submissions(limit=1).items[0]
        assert (submission.cohort_id, submission.file_name) == (cohort.id, "mine.py")
        assert site.store.source(submission.id) == GOOD
        for part in (submission.id, submission.source_sha256, "16 bytes", "(UTC)", "yes"):
            assert part in receipt
        file = guest.get("/receipt.txt")
        assert file.mimetype == "text/plain" and file.headers["Content-Disposition"].startswith("attachment;")
        assert submission.id in file.text and "In time         yes" in file.text

    def test_without_a_time_limit_there_is_no_start(self, site: Site):
        guest = Guest(site)
        page = guest.get().text
        assert "Start now" not in page and "Time left" not in page and "eight bugs" in page
        assert guest.now().started_us is None, "reading begins nothing"
        assert guest.get("/problem").status_code == 200 and guest.now().started_us is not None

    def test_a_file_can_be_handed_in_unchecked(self, site: Site):
        guest = Guest(site)
        assert guest.send("/hand-in", sure="1").status_code == 303
        assert "You have handed in" in guest.get().text

    def test_handing_in_asks_to_confirm(self, site: Site):
        guest = Guest(site)
        refused = guest.send("/hand-in")
        assert refused.status_code == 422 and "you hand in once" in refused.text
        assert guest.now().submission_id is None

    def test_a_second_time_is_refused_with_the_receipt(self, site: Site):
        guest = Guest(site)
        guest.send("/hand-in", sure="1")
        token = guest.browser.token("/sign-in")  # the receipt has no form, an old page in another tab has
        data = {"csrf": token, "file": (io.BytesIO(b"other"), "b.py"), "sure": "1"}
        again = guest.browser.client.post(f"{guest.path}/hand-in", data=data)
        submission = site.store.list_submissions(limit=1).items[0]
        assert again.status_code == 409
        assert "handed in already" in again.text and submission.id in again.text
        assert site.store.source(submission.id) == GOOD

    @pytest.mark.parametrize("rest", ["/check", "/hand-in"])
    @pytest.mark.parametrize(
        ("source", "name", "status", "words"),
        [
            (b"", "a.py", 422, "the file is empty"),
            (b"PK\0\0", "a.py", 422, "NUL bytes"),
            (b"x = 1", "a.zip", 422, "ends in .py"),
            (b"x = 1", "", 422, "Choose one file"),
            (b"x" * 1_100_000, "a.py", 413, "at most"),
        ],
    )
    def test_a_file_that_cannot_be_it_costs_nothing(
        self, site: Site, rest: str, source: bytes, name: str, status: int, words: str
    ):
        guest = Guest(site)
        refused = guest.send(rest, source, name, sure="1")
        assert refused.status_code == status and words in refused.text
        assert (guest.now().checks_used, guest.now().submission_id) == (0, None)

    def test_a_request_that_is_too_large_is_refused(self, site: Site):
        guest = Guest(site)
        assert guest.send("/check", b"x" * (5 << 20)).status_code == 413

    def test_no_check_while_one_is_under_way_nor_when_all_are_used(self, site: Site):
        guest = Guest(site, checks_max=1)
        guest.send("/check")
        refused = guest.send("/check")
        assert refused.status_code == 409 and "under way" in refused.text
        (check,) = site.store.checks(guest.id)
        claim = site.store.claim(check.id, "w", 60)
        assert claim is not None
        site.store.finish_check(claim, "graded", {"loads": True})
        assert "No check is left" in guest.get().text
        assert guest.send("/check").status_code == 409

    def test_a_check_that_we_failed_says_so_and_does_not_count(self, site: Site):
        guest = Guest(site)
        guest.send("/check")
        seed.kill(site.store, site.store.checks(guest.id)[0].id)
        page = guest.get().text
        assert "that is our fault" in page and "0 of 3 used" in page and "Engine" not in page

    def test_nobody_checks_while_too_many_wait_but_handing_in_goes_on(self, make_site: Any):
        site = make_site(api_backlog_limit=1)
        guest = Guest(site)
        assert guest.send("/check").status_code == 429
        assert guest.send("/hand-in", sure="1").status_code == 303

    def test_it_needs_its_own_form(self, site: Site):
        guest = Guest(site, time_limit_s=60)
        for rest in ("/start", "/check", "/hand-in"):
            assert guest.browser.client.post(guest.path + rest, data={"sure": "1"}).status_code == 403
        assert guest.now().started_us is None

    def test_files_of_others_are_not_to_be_had(self, site: Site):
        mine, other = Guest(site), Guest(site)
        mine.send("/check")
        other.send("/check")
        check = site.store.checks(mine.id)[0].id
        assert other.get(f"/hand-in?check={check}").status_code == 404
        assert other.post("/hand-in", {"check": check, "sure": "1"}).status_code == 404
        for foreign in (site.seeded.submission_ids[0], "nothing", ""):
            assert other.get(f"/hand-in?check={foreign}").status_code == 404


class TestTime:
    def test_after_the_time_checks_end_and_handing_in_is_marked_late(self, site: Site):
        guest = Guest(site, time_limit_s=2700)
        guest.post("/start")
        site.ahead_us = 2880_000_000
        page = guest.get().text
        assert "Time is over" in page and "late" in page and "Check it" not in page
        assert "Your time is over. <strong>You can still hand in</strong>" in page
        assert guest.send("/check").status_code == 409
        assert guest.send("/hand-in", sure="1").status_code == 303
        receipt = guest.get().text
        assert "late by 3 min" in receipt and "late by 3 min" in guest.get("/receipt.txt").text
        site.ahead_us += DAY_US
        assert "late by 3 min" in guest.get().text
        submission = guest.now().submission_id
        assert "late by 3 min" in site.browser("interviewer").get(f"/submissions/{submission}").text

    def test_a_link_that_ends_before_the_time_says_so_at_the_start(self, site: Site):
        text = Guest(site, time_limit_s=2700, valid_s=600).get().text
        assert "before 45 min are over" in text

    def test_after_its_end_a_link_says_whom_to_ask(self, site: Site):
        guest, handed = Guest(site), Guest(site)
        handed.send("/hand-in", sure="1")
        token = guest.browser.token(guest.path)
        site.ahead_us = 8 * DAY_US
        ended = guest.get()
        assert ended.status_code == 410 and "Rita Recruiter" in ended.text and "for more time" in ended.text
        assert handed.get().status_code == 410 and str(handed.now().submission_id) in handed.get().text
        for rest in ("/problem", "/checks", "/receipt.txt", "/hand-in?check=x"):
            assert guest.get(rest).status_code == 410
        for rest in ("/start", "/check", "/hand-in"):
            form = {"csrf": token, "file": (io.BytesIO(GOOD), "a.py"), "sure": "1"}
            assert guest.browser.client.post(guest.path + rest, data=form).status_code == 410
        site.store.extend_invitation(guest.id, 86_400, actor="test")
        assert guest.get().status_code == 200

    def test_a_revoked_or_erased_link_shows_nothing(self, site: Site):
        guest, erased = Guest(site), Guest(site)
        erased.send("/hand-in", sure="1")
        site.store.revoke_invitation(guest.id, actor="test")
        site.store.erase(str(erased.now().submission_id))
        revoked = guest.get()
        assert revoked.status_code == 410 and "ended by those who invited you" in revoked.text
        gone = erased.get()
        assert gone.status_code == 410 and "Mei" not in gone.text and "sub_" not in gone.text

    @pytest.mark.parametrize("token", ["x", "x" * 43, "x" * 5000, "%00"])
    def test_guessing(self, site: Site, token: str):
        response = site.browser().get(f"/take/{token}")
        assert response.status_code == 404 and "shows nothing" in response.text

    def test_guessing_is_limited_by_address(self, make_site: Any):
        site = make_site(api_anonymous_rate_limit="5/minute")
        statuses = [site.browser().get(f"/take/{number}").status_code for number in range(7)]
        assert statuses == [404] * 5 + [429] * 2


class TestWhatIsHidden:
    def pages(self, guest: Guest) -> dict[str, str]:
        """Every page of a candidate at work who has tried out programs of every kind, and after handing in."""
        store, texts = guest.site.store, {"start": guest.get().text}
        guest.post("/start")
        for name, verdicts in (
            ("all.py", [Verdict.FIXED] * 8),
            ("half.py", HALF),
            ("open.py", [Verdict.INCONCLUSIVE] * 8),
        ):
            seed.tried(store, guest.id, verdicts, name=name)
        broken = store.create_check(guest.id, "broken.py", b"x")
        claim = store.claim(broken.id, "w", 60)
        assert claim is not None
        store.finish_check(claim, "invalid", {"loads": False, "load_problem": "SyntaxError: line 3"})
        texts["work"], texts["checks"] = guest.get().text, guest.get("/checks").text
        texts["confirm"] = guest.get(f"/hand-in?check={store.checks(guest.id)[0].id}").text
        guest.send("/hand-in", sure="1")
        texts["queued"] = guest.get().text
        guest.finish(HALF, tampering_suspected=True, tampering_reasons=("looks odd",))
        texts["receipt"], texts["file"] = guest.get().text, guest.get("/receipt.txt").text
        return texts

    def test_no_page_tells_a_verdict_a_bug_or_a_rating(self, site: Site):
        guest = Guest(site, time_limit_s=2700, checks_max=9)
        texts = self.pages(guest)
        assert "SyntaxError: line 3" in texts["work"] and "could not" not in texts["receipt"]
        assert {name: found for name, text in texts.items() if (found := hidden_in(text))} == {}

    def test_pages_of_other_verdicts_are_the_same(self, site: Site):
        """With the same measured curve whatever was mended: nothing of a verdict can be worked out of a page."""
        texts = set()
        for verdicts in (HALF, HALF[::-1]):
            guest = Guest(site)
            seed.tried(site.store, guest.id, verdicts)
            text = guest.get("/checks").text
            for varying in (r"/take/[\w-]+", r"sub_\w+", r'value="[0-9a-f]{64}"', r"<time.*?</time>"):
                text = re.sub(varying, "", text)
            texts.add(text)
        assert len(texts) == 1

    @pytest.mark.parametrize(
        ("shows", "seen", "unseen"),
        [
            ("receipt", (), ("of 8", "Reached", "Missed", "Softmax")),
            ("score", ("4 of 8",), ("Softmax in front", "Borderline", "SpiralNet")),
            ("verdicts", ("4 of 8", "Softmax in front", "fixed", "missed"), ("Borderline", "behaves as")),
        ],
    )
    def test_the_challenge_says_what_is_shown_of_the_result(
        self, site: Site, shows: str, seen: tuple[str, ...], unseen: tuple[str, ...]
    ):
        with_view(site, result=shows)
        guest = Guest(site)
        guest.send("/hand-in", sure="1")
        assert ("not graded yet" in guest.get().text) == (shows != "receipt")
        guest.finish(HALF)
        text = guest.get().text
        for word in seen:
            assert word in text
        for word in unseen:
            assert word not in text

    def test_a_file_that_could_not_be_graded_says_why_where_results_are_shown(self, site: Site):
        with_view(site, result="score")
        guest = Guest(site)
        guest.send("/hand-in", sure="1")
        guest.finish([Verdict.FIXED] * 8, outcome="invalid", invalid_reason="no such name", bugs=(), rating=None)
        assert "It could not be graded: no such name" in guest.get().text

    def test_the_rules_say_what_a_check_shows(self, site: Site):
        with_view(site, check_shows=("loads", "output"))
        text = Guest(site).get().text
        assert "whether the program loads, the end of what it prints" in text and "accuracy that it" not in text

    def test_a_check_is_nowhere_in_api_and_dashboard(self, site: Site):
        guest = Guest(site)
        check = seed.tried(site.store, guest.id, HALF)
        _, secret = site.store.create_key("all", ["submit", "read", "manage"])
        key = {"Authorization": f"Bearer {secret}"}
        client, admin = site.browser(), site.browser("admin")
        for rest in ("", "/events", "/report", "/source"):
            assert client.get(f"/v1/submissions/{check}{rest}", headers=key).status_code == 404
            assert admin.get(f"/submissions/{check}{'/changes' if rest == '/source' else ''}").status_code == 404
        for act in ("regrade", "requeue", "cancel"):
            assert client.client.post(f"/v1/submissions/{check}/{act}", headers=key).status_code == 404
        assert client.client.delete(f"/v1/submissions/{check}", headers=key).status_code == 404
        for path in ("/v1/submissions", "/v1/webhook-endpoints"):
            assert check not in client.get(path, headers=key).text
        for path in ("/submissions", "/admin", "/admin/dead", "/admin/audit", "/admin/webhooks"):
            assert check not in admin.get(path).text


class TestInertness:
    def test_nothing_that_a_candidate_sent_runs(self, site: Site):
        """Neither for the candidate nor for those who invited."""
        cohort = site.store.create_cohort(PLANTED[:180], "spiral", actor="test")
        who = {"name": PLANTED[:180], "email": f"{SCRIPT}@example.org"}
        guest = Guest(site, candidate=who, cohort_id=cohort.id, author=PLANTED, checks_max=9)
        seed.tried(site.store, guest.id, HALF, extra=PLANTED, name=f"{PLANTED[:150]}.py")
        broken = site.store.create_check(guest.id, PLANTED, b"x")
        claim = site.store.claim(broken.id, "w", 60)
        assert claim is not None
        told = {"loads": False, "load_problem": PLANTED, "trains": False, "train_problem": PLANTED, "output": PLANTED}
        site.store.finish_check(claim, "invalid", told)
        recruiter = site.browser("recruiter")
        for text in (
            guest.get().text,
            guest.get(f"/hand-in?check={broken.id}").text,
            recruiter.get(f"/cohorts/{cohort.id}/invitations").text,
        ):
            assert_inert(text)
        assert guest.send("/hand-in", GOOD, "<img src=x onerror=alert(1)>\u202e.py", sure="1").status_code == 303
        assert_inert(guest.get().text)
        handed = Guest(site, candidate=who)
        site.store.hand_in(handed.id, PLANTED, GOOD)
        assert_inert(handed.get().text)
        file = handed.get("/receipt.txt")
        assert file.mimetype == "text/plain" and not any(bad in file.text for bad in UNSAFE)
        assert_inert(recruiter.get(f"/submissions/{guest.now().submission_id}").text)
        site.ahead_us = 8 * DAY_US
        assert_inert(guest.get().text)

    def test_output_is_bounded(self, site: Site):
        guest = Guest(site)
        check = site.store.create_check(guest.id, "a.py", b"x")
        claim = site.store.claim(check.id, "w", 60)
        assert claim is not None
        site.store.finish_check(claim, "graded", {"loads": False, "load_problem": "y" * 10**6, "output": "z" * 10**7})
        assert len(guest.get().data) < 100_000

    def test_links_are_neither_sent_on_nor_kept(self, site: Site):
        guest = Guest(site)
        for rest in ("", "/checks", "/problem"):
            headers = guest.get(rest).headers
            assert (headers["Referrer-Policy"], headers["Cache-Control"]) == ("no-referrer", "no-store")


class TestBrief:
    def test_it_is_written_as_its_author_meant(self):
        text = as_html(SPIRAL.text("brief.md"))
        assert "<h1" not in text and "<h3>How to work</h3>" in text
        assert text.count("<ul>") == text.count("</ul>") == 2 and "<code>main()</code>" in text
        assert "<strong>more than 85 % validation accuracy within 20 epochs</strong>" in text
        assert "**" not in text and "- " not in re.sub(r"<[^>]+>", "", text)

    @pytest.mark.parametrize(
        ("given", "wanted"),
        [
            ("a < b & c", "<p>a &lt; b &amp; c</p>"),
            ("1. a\n2. b\nc\n\n- d", "<ol><li>a</li>\n<li>b c</li></ol>\n<ul><li>d</li></ul>"),
            ("```\n<x>\n\ny\n```\nz", '<pre class="out" tabindex="0">&lt;x&gt;\n\ny</pre>\n<p>z</p>'),
            ("```\nx", '<pre class="out" tabindex="0">x\n</pre>'),
            ("## `a` b", "<h3><code>a</code> b</h3>"),
            ("", ""),
        ],
    )
    def test_what_it_understands(self, given: str, wanted: str):
        assert as_html(given) == wanted

    def test_nothing_in_it_runs(self):
        text = as_html(f"{SCRIPT}\n\n- **{SCRIPT}**\n\n`{SCRIPT}`\n\n# {SCRIPT}\n\n## {SCRIPT}")
        assert "<script" not in text and "<svg" not in text and "<img" not in text

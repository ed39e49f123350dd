"""What the pages show and what people can do on them, without a browser."""

from __future__ import annotations

import io
import random
import re
from pathlib import Path
from typing import Any

import pytest
from fontTools.fontBuilder import FontBuilder  # type: ignore[import-untyped]
from fontTools.pens.ttGlyphPen import TTGlyphPen  # type: ignore[import-untyped]
from sqlalchemy import event

from grading.challenge import load_challenge
from grading.verdict import Verdict
from services.api.pages import pdf
from services.store import NewSubmission, Pool, StoreUnavailable
from services.store.overview import OverviewPart
from tests.services.pages import seed
from tests.services.pages.conftest import Site


class TestCohort:
    def test_it_answers_at_a_glance(self, site: Site):
        text = site.browser("recruiter").get(f"/cohorts/{site.seeded.cohort_id}").text
        strongest = text[text.index('id="strong"') : text.index('id="looks"')]
        assert len(re.findall(r'class="place"', strongest)) == 3
        assert "Every bug mended" in strongest and "accuracy on unseen data" in strongest
        looks = text[text.index('id="looks"') : text.index('id="table"')]
        for why in ("looks like tampering", "our fault", "cannot be graded", "could still change the rating"):
            assert why in looks

    def test_somebody_flagged_is_not_among_the_strongest_until_dismissed(self, site: Site):
        browser, flagged = site.browser("recruiter"), site.seeded.flagged_id

        def strongest() -> str:
            text = browser.get(f"/cohorts/{site.seeded.cohort_id}").text
            return text[text.index('id="strong"') : text.index('id="looks"')]

        assert flagged not in strongest()
        found = browser.post(f"/submissions/{flagged}/ruling", {"kind": "dismissed", "reason": "rounding"})
        assert found.status_code == 303
        assert "dismissed" in browser.get(f"/submissions/{flagged}").text

    @pytest.mark.parametrize("key", ["name", "fixed", "accuracy", "bug1", "bug8", "rating"])
    def test_it_sorts_both_ways(self, site: Site, key: str):
        browser, path = site.browser("recruiter"), f"/cohorts/{site.seeded.cohort_id}"
        up, down = (self._names(browser.get(f"{path}?sort={key}&order={order}").text) for order in ("up", "down"))
        assert sorted(up) == sorted(down) and len(up) == 30
        assert 'aria-sort="ascending"' in browser.get(f"{path}?sort={key}&order=up").text
        if key == "name":
            assert up == down[::-1]

    def _names(self, text: str) -> list[str]:
        table = text[text.index("<tbody>", text.index('class="heat"')) :]
        return re.findall(r'<th scope="row"><a [^>]*><bdi>([^<]+)</bdi>', table)

    def test_it_filters(self, site: Site):
        browser, path = site.browser("recruiter"), f"/cohorts/{site.seeded.cohort_id}"
        assert self._names(browser.get(f"{path}?q=mei+l").text) == ["Mei Lin"]
        missed = self._names(browser.get(f"{path}?bug=3&verdict=not_fixed").text)
        fixed = self._names(browser.get(f"{path}?bug=3&verdict=fixed").text)
        unclear = self._names(browser.get(f"{path}?bug=3&verdict=inconclusive").text)
        assert len(missed) + len(fixed) + len(unclear) == 28  # one is dead, one not gradable
        assert self._names(browser.get(f"{path}?show=flagged").text) == ["Diego Alvarez"]
        assert "Nobody fits these filters" in browser.get(f"{path}?q=nobody").text

    @pytest.mark.parametrize(
        "query", ["bug=99", "sort=drop", "page=-1", "page=999999999999", "verdict=x", "show=x", "q=%00", "q=%ED%A0%80"]
    )
    def test_an_address_that_means_nothing_shows_the_table(self, site: Site, query: str):
        response = site.browser("recruiter").get(f"/cohorts/{site.seeded.cohort_id}?{query}")
        assert response.status_code == 200

    def test_pages_of_fifty(self, site: Site):
        made = seed.cohort(site.store, 120, seed=5)
        browser, path = site.browser("recruiter"), f"/cohorts/{made.cohort_id}"
        parts = [self._names(browser.get(f"{path}?page={number}").text) for number in (1, 2, 3)]
        assert [len(part) for part in parts] == [50, 50, 20]
        assert len({name for part in parts for name in part}) == 120

    def test_no_page_reads_more_of_a_cohort_than_it_shows(self, site: Site, monkeypatch: pytest.MonkeyPatch):
        """Neither more lines nor more questions to the database, however large the cohort is."""
        cost: dict[int, list[tuple[int, int]]] = {}
        questions, lines = 0, 0
        read = OverviewPart._read

        def reading(self: OverviewPart, found: Any) -> Any:
            nonlocal lines
            answer = read(self, found)
            lines += len(answer)
            return answer

        def asked(*_: Any) -> None:
            nonlocal questions
            questions += 1

        monkeypatch.setattr(OverviewPart, "_read", reading)
        event.listen(site.store._database.engine, "before_cursor_execute", asked)
        browser = site.browser("recruiter")
        for count in (60, 120):
            made = seed.cohort(site.store, count, seed=5)
            self._read_differently(site, made)
            path = f"/cohorts/{made.cohort_id}"
            two = f"{path}/compare?id={made.submission_ids[0]}&id={made.submission_ids[1]}"
            cost[count] = []
            for address in (path, f"{path}?sort=name&q=a", f"{path}?show=goal&page=2", two, f"{path}/changes"):
                questions = lines = 0
                response = browser.get(address)
                assert response.status_code == 200
                cost[count].append((questions, lines))
            assert response.text.count('<th scope="row">') == 50 and "cursor=" in response.text
        assert [asked for asked, _ in cost[60]] == [asked for asked, _ in cost[120]]
        assert all(read <= 50 + 3 + 5 for _, read in cost[120])

    def test_a_cursor_that_is_none_of_ours_is_refused(self, site: Site):
        response = site.browser("recruiter").get(f"/cohorts/{site.seeded.cohort_id}/changes?cursor=nonsense")
        assert 400 <= response.status_code < 500

    def _read_differently(self, site: Site, made: seed.Seeded) -> None:
        """Grade a cohort anew, so that everybody has every bug left."""
        site.store.regrade_cohort(made.cohort_id)
        report = seed.made_report(load_challenge("spiral"), "a.py", b"x", [Verdict.NOT_FIXED] * 8, random.Random(1))
        for one in made.submission_ids:
            if one != made.dead_id:
                seed.finish(site.store, one, report)

    def test_two_to_four_are_compared(self, site: Site):
        browser, path = site.browser("interviewer"), f"/cohorts/{site.seeded.cohort_id}/compare"
        ids = site.seeded.submission_ids
        query = "&".join(f"id={one}" for one in ids[:3])
        text = browser.get(f"{path}?{query}").text
        assert "3 candidates side by side" in text and "Mei Lin" in text
        assert browser.get(f"{path}?id={ids[0]}").status_code == 422
        assert browser.get(f"{path}?{'&'.join(f'id={one}' for one in ids[:5])}").status_code == 422
        assert browser.get(f"{path}?id={ids[0]}&id=sub_unknown").status_code == 404

    def test_progress_renews_itself_only_while_something_waits(self, site: Site):
        browser = site.browser("recruiter")
        finished = browser.get(f"/cohorts/{site.seeded.cohort_id}/progress").text
        assert "hx-get" not in finished and "All graded" in finished
        running = next(one.id for one in site.store.list_cohorts().items if one.state == "running")
        assert 'hx-trigger="every 3s"' in browser.get(f"/cohorts/{running}/progress").text

    def test_a_regrade_shows_what_changed(self, site: Site):
        browser, submission_id = site.browser("recruiter"), site.seeded.submission_ids[0]
        assert browser.post(f"/submissions/{submission_id}/regrade").status_code == 303
        challenge = load_challenge("spiral")
        before = site.store.report(submission_id)
        assert before is not None
        verdicts = [Verdict(bug["verdict"]) for bug in before["bugs"]]
        verdicts[7] = Verdict.NOT_FIXED if verdicts[7] is Verdict.FIXED else Verdict.FIXED
        seed.finish(site.store, submission_id, seed.made_report(challenge, "x.py", b"x", verdicts, random.Random(1)))
        text = browser.get(f"/submissions/{submission_id}").text
        assert "Graded 2 times" in text and "reads otherwise" in text
        assert "8 lr" in browser.get(f"/cohorts/{site.seeded.cohort_id}/changes").text

    @pytest.mark.parametrize("kind", ["csv", "jsonl", "xlsx"])
    def test_exports(self, site: Site, kind: str):
        response = site.browser("recruiter").get(f"/cohorts/{site.seeded.cohort_id}/export.{kind}")
        assert response.status_code == 200 and len(response.data) > 1000
        assert site.store.audit_log(limit=1).items[0].action == "cohort.export"
        response.close()


class TestReport:
    def test_the_difference_names_the_bugs(self, site: Site):
        text = site.browser("recruiter").get(f"/submissions/{site.seeded.submission_ids[4]}/changes").text
        for bug in ("1 softmax", "2 zero-grad", "3 loss-leak", "4 eval", "5 no-grad", "6 device", "7 shuffle", "8 lr"):
            assert bug in text

    def test_a_decision_needs_a_reason_and_the_newest_counts(self, site: Site):
        browser, path = site.browser("recruiter"), f"/submissions/{site.seeded.submission_ids[0]}"
        assert browser.post(f"{path}/decision", {"kind": "advance", "reason": " "}).status_code == 422
        assert browser.post(f"{path}/decision", {"kind": "hire!", "reason": "x"}).status_code == 422
        for kind in ("hold", "advance"):
            assert browser.post(f"{path}/decision", {"kind": kind, "reason": f"because {kind}"}).status_code == 303
        found = site.store.decisions(site.seeded.submission_ids[0])
        assert [one.kind for one in found] == ["advance", "hold"]
        assert found[0].author == "Rita Recruiter"
        text = browser.get(path).text
        assert "because advance" in text and "because hold" in text

    def test_only_what_is_suspected_can_be_ruled_on(self, site: Site):
        path = f"/submissions/{site.seeded.submission_ids[0]}/ruling"
        response = site.browser("recruiter").post(path, {"kind": "confirmed", "reason": "x"})
        assert response.status_code == 409

    def test_a_flag_changes_neither_verdict_nor_rating(self, site: Site):
        before = site.store.submission(site.seeded.flagged_id)
        path = f"/submissions/{site.seeded.flagged_id}/ruling"
        site.browser("recruiter").post(path, {"kind": "confirmed", "reason": "seen it"})
        assert site.store.submission(site.seeded.flagged_id) == before
        assert site.store.decisions(site.seeded.flagged_id) == []

    def test_a_dead_one_is_put_back(self, site: Site):
        browser = site.browser("recruiter")
        assert "our fault" in browser.get(f"/submissions/{site.seeded.dead_id}").text
        assert browser.post(f"/submissions/{site.seeded.dead_id}/requeue").status_code == 303
        found = site.store.submission(site.seeded.dead_id)
        assert found is not None and found.state == "queued"

    def test_erasing_takes_the_word_and_leaves_nothing(self, site: Site):
        browser, submission_id = site.browser("recruiter"), site.seeded.submission_ids[4]
        path = f"/submissions/{submission_id}"
        assert browser.post(f"{path}/erase", {"sure": "yes"}).status_code == 422
        assert browser.post(f"{path}/erase", {"sure": "Erase"}).status_code == 303
        text = browser.get(path).text
        assert "were erased" in text
        for gone in ("Jonas Weber", "jonas_weber", "Every bug mended, and says why", "autograd graphs"):
            assert gone not in text
        assert site.store.notes(submission_id) == []
        assert "Jonas Weber" not in browser.get(f"/cohorts/{site.seeded.cohort_id}").text
        assert browser.get(f"{path}/changes").status_code == 404
        assert browser.get(f"{path}/report.pdf").status_code == 404

    def test_names_are_hidden_on_demand_everywhere(self, site: Site):
        browser, submission_id = site.browser("recruiter"), site.seeded.submission_ids[4]
        assert browser.post("/blind", {"back": "/cohorts"}).location == "/cohorts"
        query = "&".join(f"id={one}" for one in site.seeded.submission_ids[3:6])
        for path in (
            f"/cohorts/{site.seeded.cohort_id}",
            f"/cohorts/{site.seeded.cohort_id}/compare?{query}",
            f"/submissions/{submission_id}",
            f"/submissions/{submission_id}/changes",
            "/submissions",
        ):
            text = browser.get(path).text
            assert "Jonas" not in text and "jonas" not in text, path
            assert "Candidate " in text
        disposition = browser.get(f"/submissions/{submission_id}/program").headers["Content-Disposition"]
        assert "jonas" not in disposition
        assert "Nobody fits" in browser.get(f"/cohorts/{site.seeded.cohort_id}?q=jonas").text

    def test_the_pdf_is_one(self, site: Site):
        response = site.browser("interviewer").get(f"/submissions/{site.seeded.submission_ids[4]}/report.pdf")
        assert response.mimetype == "application/pdf" and response.data.startswith(b"%PDF-")

    def test_words_of_a_pdf_stay_as_they_are(self):
        paper = pdf._Paper("Ada {nb} Lovelace", ())
        assert "{nb}" not in paper._name
        paper.output()  # which closes the fonts

    def test_a_pdf_takes_letters_that_it_lacks_from_the_fonts_of_the_host(self, tmp_path: Path):
        """None that is there, one that is no font, and one with a letter of another script."""
        (tmp_path / "broken.ttf").write_bytes(b"no font")
        builder = FontBuilder(1000, isTTF=True)
        builder.setupGlyphOrder([".notdef", "wang"])
        builder.setupCharacterMap({ord("\u738b"): "wang"})
        pen = TTGlyphPen(None)
        pen.moveTo((0, 0))
        pen.lineTo((500, 0))
        pen.lineTo((500, 500))
        pen.closePath()
        builder.setupGlyf({".notdef": pen.glyph(), "wang": pen.glyph()})
        builder.setupHorizontalMetrics({".notdef": (600, 0), "wang": (600, 0)})
        builder.setupHorizontalHeader(ascent=800, descent=-200)
        builder.setupNameTable({"familyName": "Test", "styleName": "Regular"})
        builder.setupOS2()
        builder.setupPost()
        builder.save(tmp_path / "wang.ttf")
        names = {}
        for fonts in ("none.ttf", "broken.ttf", "wang.ttf"):
            paper = pdf._Paper("\u738b \u4f1f Wang", pdf._usable((tmp_path / fonts,)))
            paper.text("\u738b")
            assert bytes(paper.output()).startswith(b"%PDF-")
            names[fonts] = paper._name
        assert names["none.ttf"] == names["broken.ttf"] == "\ufffd \ufffd Wang"
        assert names["wang.ttf"] == "\u738b \ufffd Wang"

    def test_a_delivery_hides_its_text_with_the_names(self, site: Site):
        browser, message = site.browser("admin"), site.store.list_messages(limit=1).items[0]
        assert "submission.graded" in browser.get(f"/admin/messages/{message.id}").text.split("What is sent")[1]
        browser.post("/blind", {"back": "/"})
        hidden = browser.get(f"/admin/messages/{message.id}").text.split("What is sent")[1]
        assert "Hidden with the names" in hidden and "file_name" not in hidden


class TestSharing:
    def _link(self, site: Site, **form: str) -> str:
        path = f"/submissions/{site.seeded.submission_ids[4]}/share"
        text = site.browser("recruiter").post(path, {"days": "7", **form}).text
        found = re.search(r'value="http://localhost(/shared/[^"]+)"', text)
        assert found is not None
        return found[1]

    def test_a_link_shows_the_report_and_nothing_to_press(self, site: Site):
        link, visitor = self._link(site), site.browser()
        text = visitor.get(link).text
        assert "Jonas Weber" in text and "Strong Hire" in text
        for hidden in ("<form", "Notes", "autograd graphs in the comments", "says why in comments", "Submissions"):
            assert hidden not in text
        assert visitor.get(f"{link}/report.pdf").data.startswith(b"%PDF-")

    def test_a_link_can_hide_the_name(self, site: Site):
        text = site.browser().get(self._link(site, blind="1")).text
        assert "Jonas" not in text and "jonas" not in text

    def test_it_ends_by_time_by_hand_and_by_erasing(self, site: Site):
        links = [self._link(site) for _ in range(3)]
        visitor, browser, submission_id = site.browser(), site.browser("recruiter"), site.seeded.submission_ids[4]
        assert visitor.get(links[0]).status_code == 200
        newest = site.store.shares(submission_id)[0]
        assert browser.post(f"/submissions/{submission_id}/share/{newest.id}/revoke").status_code == 303
        assert visitor.get(links[2]).status_code == 404
        site.ahead_us = 8 * 86_400_000_000
        assert visitor.get(links[0]).status_code == 404
        site.ahead_us = 0
        assert visitor.get(links[1]).status_code == 200
        site.store.erase(submission_id)
        assert visitor.get(links[1]).status_code == 404

    @pytest.mark.parametrize("token", ["x", "x" * 43, "x" * 5000, "%00"])
    def test_guessing(self, site: Site, token: str):
        assert site.browser().get(f"/shared/{token}").status_code == 404


class TestUpload:
    def _send(self, site: Site, files: list[tuple[bytes, str]], **form: str):
        browser = site.browser("recruiter")
        data = {"challenge": "spiral", "cohort": "new", "name": "Autumn", **form}
        data["files"] = [(io.BytesIO(content), name) for content, name in files]  # type: ignore[assignment]
        return browser.post("/upload", data, form="/upload", content_type="multipart/form-data")

    def test_files_become_a_cohort(self, site: Site):
        response = self._send(site, [(b"print(1)\n", "a.py"), (b"print(2)\n", "b.py")])
        assert response.status_code == 303
        cohort = site.store.list_cohorts().items[0]
        assert (cohort.name, response.location) == ("Autumn", f"/cohorts/{cohort.id}")
        assert site.store.cohort_progress(cohort.id) == {"queued": 2}

    def test_what_is_left_out_is_told(self, site: Site):
        response = self._send(site, [(b"print(1)\n", "a.py"), (b"x", "cv.pdf")])
        assert response.status_code == 200
        assert "1 taken, 1 left out" in response.text and "cv.pdf" in response.text

    def test_a_single_one_is_graded_at_once(self, site: Site):
        response = self._send(site, [(b"print(1)\n", "a.py")], cohort="none")
        assert response.location.startswith("/submissions/sub_")
        found = site.store.list_submissions(limit=1).items[0]
        assert (found.queue, found.cohort_id) == ("interactive", None)

    def test_into_a_cohort_that_exists(self, site: Site):
        response = self._send(site, [(b"print(1)\n", "late.py")], cohort=site.seeded.cohort_id)
        assert response.status_code == 303
        assert site.store.cohort_progress(site.seeded.cohort_id)["queued"] == 1

    @pytest.mark.parametrize(
        ("files", "form", "words"),
        [
            ([], {}, "Choose at least one file"),
            ([(b"x", "a.py")], {"name": ""}, "Give the new cohort a name"),
            ([(b"x", "a.py")], {"challenge": "nope"}, "no such challenge"),
            ([(b"PK", "a.zip")], {}, "not a zip"),
        ],
    )
    def test_what_does_not_fit_is_said(
        self, site: Site, files: list[tuple[bytes, str]], form: dict[str, str], words: str
    ):
        response = self._send(site, files, **form)
        assert response.status_code in (404, 422) and words in response.text


class TestAdministration:
    def test_users_are_made_locked_out_and_let_in(self, site: Site):
        admin = site.browser("admin")
        made = admin.post("/admin/users", {"email": "new@example.org", "name": "New", "role": "interviewer"})
        password = re.search(r"<code>([\w-]{16})</code>", made.text)
        assert password is not None
        form = {"email": "new@example.org", "password": password[1]}
        assert site.browser().post("/sign-in", form, form="/sign-in").status_code == 303
        user = site.store.user_by_email("new@example.org")
        assert user is not None
        admin.post(f"/admin/users/{user.id}", {"act": "disable"})
        assert site.browser().post("/sign-in", form, form="/sign-in").status_code == 401
        admin.post(f"/admin/users/{user.id}", {"act": "enable"})
        assert site.browser().post("/sign-in", form, form="/sign-in").status_code == 303
        taken = admin.post("/admin/users", {"email": "NEW@example.org", "name": "x", "role": "admin"})
        assert taken.status_code == 409
        assert admin.post("/admin/users", {"email": "no", "name": "x", "role": "admin"}).status_code == 422

    def test_keys_are_made_and_revoked(self, site: Site):
        admin = site.browser("admin")
        made = admin.post("/admin/keys", {"name": "ats", "scope": ["read", "submit"], "days": "9"})
        secret = re.search(r"<code>(assay_\w{48})</code>", made.text)
        assert secret is not None
        key = site.store.authenticate(secret[1])
        assert key is not None and set(key.scopes) == {"read", "submit"} and key.expires_us is not None
        admin.post(f"/admin/keys/{key.id}/revoke")
        assert site.store.authenticate(secret[1]) is None
        assert admin.post("/admin/keys", {"name": "ats"}).status_code == 422

    def test_endpoints_and_replay(self, site: Site):
        admin = site.browser("admin")
        made = admin.post("/admin/webhooks", {"url": "https://other.example/hook", "type": ["submission.graded"]})
        assert "whsec_" in made.text
        assert admin.post("/admin/webhooks", {"url": "http://127.0.0.1/"}).status_code == 422
        endpoint = site.store.list_endpoints()[-1]
        assert endpoint.event_types == ("submission.graded",)
        admin.post(f"/admin/webhooks/{endpoint.id}", {"act": "ping"})
        message = site.store.list_messages(limit=1).items[0]
        assert "endpoint.ping" in admin.get(f"/admin/messages/{message.id}").text
        assert admin.post(f"/admin/messages/{message.id}/replay").status_code == 409
        admin.post(f"/admin/webhooks/{endpoint.id}", {"act": "delete"})
        assert site.store.endpoint(endpoint.id) is None

    def test_dead_ones_are_put_back(self, site: Site):
        admin = site.browser("admin")
        assert site.seeded.dead_id in admin.get("/admin/dead").text
        assert admin.post("/admin/dead", {"id": site.seeded.dead_id}).status_code == 303
        found = site.store.submission(site.seeded.dead_id)
        assert found is not None and found.state == "queued"

    def test_lists_turn_pages_by_cursor(self, site: Site):
        admin = site.browser("admin")
        for number in range(60):
            site.store.audit("test", "look", f"line {number}")
        first = admin.get("/admin/audit").text
        older = re.search(r'rel="next" href="([^"]+)"', first)
        assert older is not None
        second = admin.get(older[1].replace("&amp;", "&")).text
        assert "line 59" in first and "line 59" not in second and "line 0" in second
        assert admin.get("/admin/audit?cursor=nonsense").status_code == 404


def test_one_who_hands_in_again_has_attempts_side_by_side(site: Site):
    first = site.store.submission(site.seeded.submission_ids[4])
    assert first is not None
    again = site.store.create_submission(
        NewSubmission("spiral", "second.py", b"print('again')\n", candidate=first.candidate)
    )
    browser = site.browser("recruiter")
    assert "Attempts" in browser.get(f"/submissions/{again.id}").text
    text = browser.get(f"/submissions/{again.id}/changes?from={first.id}").text
    assert "Earlier attempt" in text and "again" in text
    assert browser.get(f"/submissions/{again.id}/changes?from={site.seeded.submission_ids[0]}").status_code == 404


class TestWriting:
    def test_what_is_refused_stays_in_its_field(self, site: Site):
        browser, path = site.browser("recruiter"), f"/submissions/{site.seeded.submission_ids[0]}"
        response = browser.post(f"{path}/notes", {"text": "word " * 2001})
        assert response.status_code == 422 and response.text.count("word word") == 1000
        response = browser.post(f"{path}/decision", {"kind": "", "reason": "because of the leak"})
        assert response.status_code == 422 and response.text.count("because of the leak") == 1

    def test_a_note_of_the_longest_length_is_taken_with_its_line_ends_and_shown_to_its_end(self, site: Site):
        browser, path = site.browser("recruiter"), f"/submissions/{site.seeded.submission_ids[0]}"
        text = "b" * 4000 + "\r\n" + "c" * 5900 + " the end"
        assert browser.post(f"{path}/notes", {"text": text}).status_code == 303
        assert "c" * 5900 + " the end" in browser.get(path).text

    def test_one_clients_numbers_are_not_anothers(self, site: Site):
        ada, bob = (site.store.create_key(name, ["submit"])[0] for name in ("ada's", "bob's"))
        made = [
            site.store.create_submission(
                NewSubmission("spiral", "a.py", b"x", candidate={"external_id": "1"}, api_key_id=key.id)
            )
            for key in (ada, bob, ada)
        ]
        browser = site.browser("recruiter")
        text = browser.get(f"/submissions/{made[2].id}").text
        assert made[0].id in text and made[1].id not in text
        assert browser.get(f"/submissions/{made[2].id}/changes?from={made[1].id}").status_code == 404

    def test_an_upload_that_the_database_cuts_short_says_what_was_taken(
        self, site: Site, monkeypatch: pytest.MonkeyPatch
    ):
        create, made = site.store.create_submission, list[str]()

        def failing(new: NewSubmission, **more: object) -> object:
            if len(made) == 2:
                raise StoreUnavailable("gone")
            made.append(new.file_name)
            return create(new, **more)  # type: ignore[arg-type]

        monkeypatch.setattr(site.store, "create_submission", failing)
        files = [(io.BytesIO(b"x"), f"{name}.py") for name in "abcd"]
        response = site.browser("recruiter").post(
            "/upload",
            {"challenge": "spiral", "cohort": "none", "files": files},
            form="/upload",
            content_type="multipart/form-data",
        )
        assert response.status_code == 200 and made == ["a.py", "b.py"]
        assert "c.py" in response.text and "d.py" in response.text and "a.py" not in response.text


def test_administrators_see_the_warm_containers_while_workers_tell_of_them(site: Site):
    browser = site.browser("admin")
    assert "No worker tells of any" in browser.get("/admin").text
    site.store.note_pool(Pool("grader-7", warm=3, warming=1, target=4, busy=2, served=1234, served_warm=1200))
    text = browser.get("/admin/queue").text
    assert "grader-7" in text and "1,234" in text
    site.ahead_us = 3_600_000_000
    assert "grader-7" not in browser.get("/admin/queue").text

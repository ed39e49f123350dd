"""The interviewer's kit: a guide for this candidate, the scorecard, the question bank."""

from __future__ import annotations

import html

from grading.challenge import load_challenge
from grading.guide import load_guide
from grading.verdict import Verdict
from services.api.pages.changes import untouched_bugs
from services.store import NewSubmission
from tests.services.pages import seed
from tests.services.pages.conftest import Site

SPIRAL = load_challenge("spiral")
GUIDE = load_guide(SPIRAL)
assert GUIDE is not None


def sheet(site: Site, submission_id: str, role: str = "interviewer") -> str:
    return site.browser(role).get(f"/submissions/{submission_id}/interview").text


def part(text: str, name: str) -> str:
    start = text.index(f'id="{name}"')
    return text[start : text.index("</section>", start)]


class TestGuide:
    def test_what_was_missed_opens_with_its_symptom_and_what_was_mended_with_its_mechanism(self, site: Site):
        best = sheet(site, site.seeded.submission_ids[4])
        assert part(best, "deeper").count("ask for the mechanism") == 3
        assert "Open with" not in part(best, "deeper")
        untouched = next(one for one in site.store.list_submissions().items if one.file_name == "earlier_try.py")
        worst = sheet(site, untouched.id)
        assert part(worst, "deeper").count("Start from the symptom") == 3
        assert GUIDE is not None
        assert GUIDE.talk("softmax").missed in worst
        for talk in GUIDE.bugs:
            assert all(question.ask in worst for question in talk.questions)

    def test_a_flag_asks_for_care(self, site: Site):
        assert "accuse nobody" in part(sheet(site, site.seeded.flagged_id), "also")

    def test_without_verdicts_the_whole_guide_is_there(self, site: Site):
        for one in (site.seeded.invalid_id, site.seeded.dead_id):
            text = html.unescape(sheet(site, one))
            assert "Below is the whole guide" in text and 'id="deeper"' not in text
            assert GUIDE is not None
            assert all(talk.missed in text for talk in GUIDE.bugs)

    def test_names_hide(self, site: Site):
        browser = site.browser("interviewer")
        browser.post("/blind", {"back": "/"})
        text = browser.get(f"/submissions/{site.seeded.submission_ids[0]}/interview").text
        assert "Amara" not in text and "Interview with <bdi>Candidate " in text

    def test_it_is_linked_from_the_report(self, site: Site):
        text = site.browser("interviewer").get(f"/submissions/{site.seeded.submission_ids[0]}").text
        assert f'href="/submissions/{site.seeded.submission_ids[0]}/interview"' in text

    def test_a_challenge_that_is_not_installed_has_no_guide(self, site: Site):
        made = site.store.create_submission(NewSubmission("gone", "a.py", b"x"))
        response = site.browser("interviewer").get(f"/submissions/{made.id}/interview")
        assert response.status_code == 404 and "interviewer" in response.text
        assert site.browser("interviewer").get(f"/submissions/{made.id}").status_code == 200


FULL = {
    "mark-method": "strong",
    "comment-method": "Plain words <b>here</b>",
    "recommendation": "yes",
    "summary": "Would hire",
}


class TestScorecard:
    def post(self, site: Site, role: str, act: str, **changes: str):
        path = f"/submissions/{site.seeded.submission_ids[0]}/scorecard"
        return site.browser(role).post(path, {**FULL, **changes, "act": act})

    def test_a_draft_is_private_and_comes_back_as_it_was_left(self, site: Site):
        assert self.post(site, "interviewer", "draft").status_code == 303
        mine = sheet(site, site.seeded.submission_ids[0])
        assert "Plain words &lt;b&gt;here&lt;/b&gt;" in mine and 'value="strong" checked' in mine
        for role in ("recruiter", "admin"):
            text = sheet(site, site.seeded.submission_ids[0], role)
            report = site.browser(role).get(f"/submissions/{site.seeded.submission_ids[0]}").text
            assert "Would hire" not in text and "Would hire" not in report and 'id="interviews"' not in report

    def test_the_others_show_once_ones_own_is_in(self, site: Site):
        path = f"/submissions/{site.seeded.submission_ids[0]}"
        self.post(site, "admin", "hand_in", summary="From the admin")
        for text in (sheet(site, site.seeded.submission_ids[0]), site.browser("interviewer").get(path).text):
            assert "From the admin" not in text and "1" in text and "handed in" in text
        assert "From the admin" in site.browser("recruiter").get(path).text
        self.post(site, "recruiter", "draft")  # who has begun one would be swayed as well
        assert "From the admin" not in site.browser("recruiter").get(path).text
        assert self.post(site, "interviewer", "hand_in").status_code == 303
        for text in (sheet(site, site.seeded.submission_ids[0]), site.browser("interviewer").get(path).text):
            assert "From the admin" in text and "Would hire" in text

    def test_it_never_moves_the_rating(self, site: Site):
        before = site.store.submission(site.seeded.submission_ids[0])
        self.post(site, "interviewer", "hand_in", recommendation="strong_no")
        assert site.store.submission(site.seeded.submission_ids[0]) == before

    def test_handing_in_too_early_loses_nothing(self, site: Site):
        response = self.post(site, "interviewer", "hand_in", recommendation="")
        assert response.status_code == 422 and "Choose a recommendation" in response.text
        assert "Would hire" in sheet(site, site.seeded.submission_ids[0])
        assert site.store.scorecards(site.seeded.submission_ids[0]) == []

    def test_a_text_that_is_too_long_comes_back_and_is_not_said_to_be_kept(self, site: Site):
        response = self.post(site, "interviewer", "draft", summary="x" * 10_001)
        assert response.status_code == 422 and "Nothing is kept yet" in response.text
        assert "kept as a draft" not in response.text and "x" * 10_001 in response.text
        assert "Plain words" in response.text and 'value="strong" checked' in response.text

    def test_line_ends_count_once_as_the_browser_counts_them(self, site: Site):
        text = ("a" * 9 + "\r\n") * 999
        assert self.post(site, "interviewer", "hand_in", summary=text).status_code == 303
        (kept,) = site.store.scorecards(site.seeded.submission_ids[0])
        assert kept.summary == text.replace("\r\n", "\n").strip()

    def test_marks_of_other_sections_and_other_words_are_dropped(self, site: Site):
        odd = {"mark-nothing": "strong", "mark-reading": "superb"}
        self.post(site, "interviewer", "draft", **odd)
        user = site.store.user_by_email("interviewer@example.org")
        assert user is not None
        kept = site.store.own_scorecard(site.seeded.submission_ids[0], user.id)
        assert kept is not None and kept.marks == {"method": "strong"}

    def test_it_is_handed_in_once(self, site: Site):
        self.post(site, "interviewer", "hand_in")
        again = self.post(site, "interviewer", "hand_in", summary="Changed my mind")
        assert again.status_code == 409 and "stays as it is" in again.text


class TestQuestions:
    def test_they_are_found_by_their_words(self, site: Site):
        browser = site.browser("interviewer")
        everything = browser.get("/questions").text
        assert everything.count("<dt>") > 50
        found = browser.get("/questions?q=NCCL+hangs").text
        assert found.count("<dt>") == 1 and "A distributed run hangs" in found
        assert "No question has these words" in browser.get("/questions?q=%3Cb%3Ezebra").text


class TestUntouchedLines:
    def test_the_problem_has_all_its_lines_and_the_solution_none(self):
        everything = {bug.id for bug in SPIRAL.manifest.bugs}
        assert untouched_bugs(SPIRAL, SPIRAL.text("problem.py")) == everything
        assert untouched_bugs(SPIRAL, SPIRAL.text("solution.py")) == frozenset()

    def test_each_bug_left_in_is_told_from_those_mended_in_place(self):
        for number, bug in enumerate(SPIRAL.manifest.bugs):
            verdicts = [Verdict.FIXED] * 8
            verdicts[number] = Verdict.NOT_FIXED
            source = seed.program(SPIRAL, verdicts).decode()
            assert untouched_bugs(SPIRAL, source) == {bug.id}

    def test_a_fix_elsewhere_leaves_the_lines_as_they_were(self):
        source = SPIRAL.text("problem.py") + "\n\nlr_of_record = 1e-3\n"
        assert "lr" in untouched_bugs(SPIRAL, source)

    def test_a_file_that_is_too_long_to_compare_says_nothing(self):
        assert untouched_bugs(SPIRAL, "x\n" * 5000) == frozenset()

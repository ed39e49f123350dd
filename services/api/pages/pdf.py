"""A report as PDF, written by fpdf2: no browser, no native libraries, nothing fetched.

The text is set as text, so nothing that a candidate wrote is ever read as markup. The fonts are DejaVu Sans,
cut down to Latin, Greek and Cyrillic. What they lack is set in the host's own fonts (`ASSAY_PDF_FONTS`), and what
these lack too is shown as a replacement character.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from fontTools.ttLib import TTFont  # type: ignore[import-untyped]
from fpdf import FPDF
from fpdf.enums import XPos, YPos

from grading.challenge import Manifest
from services.api.observe import log
from services.api.pages.text import LOOKS, day_time, decision_word, mib, paragraph, percent, seconds, which, who
from services.render import inert
from services.store import Decision, Submission

_FONTS = files("services.api.pages") / "static" / "vendor"
_COLOURS = {"fixed": (0, 102, 74), "not_fixed": (158, 54, 0), "inconclusive": (84, 88, 95)}
_INK, _QUIET, _RULE = (26, 28, 31), (86, 91, 99), (200, 202, 198)
_MARGIN_MM = 18.0


def report_pdf(
    submission: Submission,
    report: Mapping[str, Any],
    manifest: Manifest | None,
    decision: Decision | None,
    blind: bool,
    more_fonts: Iterable[Path] = (),
) -> bytes:
    """The report on A4 pages.

    Args:
        more_fonts: font files for scripts that the built-in ones lack; those that are not there are passed over.
    """
    paper = _Paper(who(submission, blind), _usable(tuple(more_fonts)))
    file = which(submission, blind)
    title = manifest.title if manifest else submission.challenge
    paper.heading(who(submission, blind), 18)
    paper.text(" · ".join(filter(None, (file, title, f"handed in {day_time(submission.created_us)}"))), quiet=True)
    _headline(paper, report)
    if decision is not None:
        paper.heading("Decision", 12)
        paper.text(f"{decision_word(decision.kind)}, {decision.author}, {day_time(decision.created_us)}")
        paper.text(paragraph(decision.reason))
    if report["bugs"]:
        paper.heading("Bug by bug", 12)
        for bug in report["bugs"]:
            _bug(paper, bug)
    _findings(paper, report)
    timing = report["timing"]
    paper.heading("Time and resources", 12)
    paper.text(
        f"Its own run {seconds(timing['real_run_s'])}, all in all {seconds(timing['total_s'])}, "
        f"processor {seconds(timing['cpu_s'])}, most memory {mib(timing['peak_memory_bytes'])}."
    )
    paper.heading("Which grader said so", 12)
    versions = report["versions"]
    paper.text(
        f"Assay {inert(versions['assay'], 20)}, grader {inert(versions['grader_digest'], 64)}, "
        f"challenge {inert(versions['challenge_digest'], 64)}, program {inert(report['submission_sha256'], 64)}, "
        f"graded {inert(report['graded_at'], 40)}. Submission {submission.id}.",
        quiet=True,
    )
    return bytes(paper.output())


def _headline(paper: _Paper, report: Mapping[str, Any]) -> None:
    rating, goal = report["rating"], report["goal"]
    if rating is None:
        paper.heading("This file cannot be graded", 14)
        paper.text(paragraph(report["invalid_reason"] or "", 4000))
        return
    paper.heading(f"{rating['rating']}: {rating['fixed']} of {rating['total']} bugs mended", 14)
    paper.text(rating["meaning"])
    if rating["provisional"]:
        paper.text(f"Provisional: {rating['best_case']} if all that is unclear were mended.")
    reached = {None: "not measured", True: "reached", False: "missed"}[goal["reached"]]
    paper.text(f"Goal ({inert(goal['description'])}): {reached}; accuracy on unseen data {percent(goal['accuracy'])}.")
    if report["tampering_suspected"]:
        paper.text(
            "⚑ Something in this run was flagged for a person to look at. It changes neither verdict nor rating."
        )


def _bug(paper: _Paper, bug: Mapping[str, Any]) -> None:
    look = LOOKS[bug["verdict"]]
    paper.verdict(
        f"{look['glyph']} {look['word']}", _COLOURS[bug["verdict"]], f"{bug['number']}  {inert(bug['title'])}"
    )
    evidence = bug["evidence"]
    paper.text(inert(evidence["plain"] or evidence["summary"], 1200), indent_mm=28)
    paper.text(
        f"Right code shows: {inert(evidence['expected'], 400)}\nThis program showed: {inert(evidence['seen'], 400)}",
        quiet=True,
        indent_mm=28,
    )


def _findings(paper: _Paper, report: Mapping[str, Any]) -> None:
    for title, kind in (("Newly broken", "regressions"), ("Beyond the task", "bonus")):
        if report[kind]:
            paper.heading(title, 12)
            for one in report[kind]:
                paper.text(f"{inert(one['title'])}: {inert(one['detail'], 600)}")


class _Paper(FPDF):
    """A4 pages with our fonts and a line at the foot of each."""

    def __init__(self, name: str, more_fonts: Sequence[Path]) -> None:
        super().__init__(format="A4")
        self._known = _letters_of_ours().union(*map(_letters, more_fonts))
        for style, file in (("", "DejaVuSans.ttf"), ("B", "DejaVuSans-Bold.ttf")):
            with as_file(_FONTS / file) as path:
                self.add_font("body", style, path)
        for number, path in enumerate(more_fonts):
            self.add_font(f"more{number}", "", path)
        self.set_fallback_fonts([f"more{number}" for number, _ in enumerate(more_fonts)], exact_match=False)
        self._name = self._printable(name)
        self.set_margin(_MARGIN_MM)
        self.set_auto_page_break(True, margin=_MARGIN_MM + 4)
        self.set_title(f"Assay report: {self._name}")
        self.set_creation_date(datetime.now(UTC))
        self.set_lang("en")
        self.add_page()

    def footer(self) -> None:
        """The name, and which page of how many."""
        self.set_y(-_MARGIN_MM)
        self.set_font("body", "", 8)
        self.set_text_color(*_QUIET)
        self.cell(0, 5, f"{self._name} · Assay · a person decides", new_x=XPos.LMARGIN)
        self.cell(0, 5, f"{self.page_no()} / {{nb}}", align="R")

    def heading(self, words: str, points: float) -> None:
        """A heading with room above, never alone at the foot of a page."""
        if self.will_page_break(points * 1.2):
            self.add_page()
        self.ln(4)
        self.set_font("body", "B", points)
        self.set_text_color(*_INK)
        self.multi_cell(0, points * 0.5, self._printable(words), align="L", new_x=XPos.LMARGIN, new_y=YPos.NEXT)
        self.ln(1)

    def verdict(self, word: str, colour: tuple[int, int, int], title: str) -> None:
        """A rule, a verdict in its colour, the bug's title."""
        if self.will_page_break(24):
            self.add_page()
        self.ln(2)
        self.set_draw_color(*_RULE)
        self.line(self.l_margin, self.get_y(), self.w - self.r_margin, self.get_y())
        self.ln(2)
        self.set_font("body", "B", 9.5)
        self.set_text_color(*colour)
        self.cell(28, 5, word)
        self.set_text_color(*_INK)
        self.multi_cell(0, 5, self._printable(title), align="L", new_x=XPos.LMARGIN, new_y=YPos.NEXT)

    def text(self, words: str, *, quiet: bool = False, indent_mm: float = 0) -> None:  # type: ignore[override]
        """A paragraph."""
        self.set_font("body", "", 8.5 if quiet else 9.5)
        self.set_text_color(*(_QUIET if quiet else _INK))
        self.set_x(self.l_margin + indent_mm)
        self.multi_cell(0, 4.8, self._printable(words), align="L", new_x=XPos.LMARGIN, new_y=YPos.NEXT)

    def _printable(self, words: str) -> str:
        shown = "".join(c if c == "\n" or ord(c) in self._known else "\N{REPLACEMENT CHARACTER}" for c in words)
        return shown.replace("{nb}", "{nb }")  # for which the library would put the number of pages


@functools.cache
def _letters_of_ours() -> frozenset[int]:
    with as_file(_FONTS / "DejaVuSans.ttf") as path:
        return _letters(path)


@functools.cache
def _letters(path: Path) -> frozenset[int]:
    with TTFont(io.BytesIO(path.read_bytes()), fontNumber=0) as font:  # of a path it would leave the file open
        return frozenset(font.getBestCmap() or ())


@functools.cache
def _usable(paths: tuple[Path, ...]) -> tuple[Path, ...]:
    """Those that are fonts with letters; the first look at each is the only one."""
    return tuple(path for path in paths if path.is_file() and _is_font(path))


def _is_font(path: Path) -> bool:
    try:
        return bool(_letters(path))
    except Exception as error:  # of a file of the host's, whatever is wrong with it
        log.warning("font not usable", font=str(path), error=str(error)[:200])
        return False

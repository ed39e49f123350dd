"""Turns reports into terminal text. Nothing that a submission wrote reaches a terminal as it is.

Every string of a report goes through `inert` and into `rich.text.Text`, never into rich's
markup: control characters, escapes and marks that change the direction of writing are shown
as their code, and the words of a candidate cannot colour or move anything.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from grading.challenge import Manifest
from grading.verdict import BugVerdict, EvidenceKind, Finding, Report, Timing, Verdict

_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_MARKS = frozenset({"Mn", "Me", "Mc"})
_MAX_MARKS = 4  # combining marks in a row; more would climb over the lines above
_LINE_CHARS = 400

_LOOKS: Mapping[Verdict, tuple[str, str, str]] = {
    Verdict.FIXED: ("✔", "fixed", "green"),
    Verdict.NOT_FIXED: ("✘", "not fixed", "red"),
    Verdict.INCONCLUSIVE: ("?", "inconclusive", "yellow"),
}

_HOW_SURE: Mapping[EvidenceKind, str] = {
    EvidenceKind.VALUE: "As sure as it gets: it rests on values that only right code can produce, for inputs "
    "that the candidate could not know beforehand, and they were checked outside the sandbox.",
    EvidenceKind.MEASUREMENT: "Very sure: it was measured from outside the candidate's program, which had no "
    "part in the measuring.",
    EvidenceKind.OBSERVATION: "Sure for any honest program: it was watched from inside the candidate's "
    "program. One written to deceive could disturb this, so read it together with the tampering flag.",
    EvidenceKind.NONE: "Not decided: nothing could be seen that would settle it either way.",
}

_DECIDED: Mapping[Verdict, str] = {
    Verdict.FIXED: "The candidate fixed it.",
    Verdict.NOT_FIXED: "The candidate did not fix it.",
    Verdict.INCONCLUSIVE: "Whether the candidate fixed it could not be decided; it does not count as fixed.",
}


# --- inert text ------------------------------------------------------------------------


def inert(text: str, max_chars: int = _LINE_CHARS) -> str:
    """`text` as one line that a terminal only shows: no control, format or direction character.

    White space of any kind becomes one space, every other unsafe character its code.
    """
    shown = "".join(map(_inert_run, _runs(" ".join(text[: 4 * max_chars].split()))))
    return shown if len(shown) <= max_chars and len(text) <= 4 * max_chars else shown[: max_chars - 1] + "…"


def inert_lines(text: str, max_lines: int) -> list[str]:
    """The last lines of a text of several, each inert."""
    return [inert(line) for line in text.split("\n")[-max_lines:]]


def _runs(text: str) -> Iterable[tuple[bool, str]]:
    grouped = groupby(text, key=lambda character: unicodedata.category(character) in _MARKS)
    return ((marks, "".join(run)) for marks, run in grouped)


def _inert_run(run: tuple[bool, str]) -> str:
    marks, text = run
    if marks:
        return text[:_MAX_MARKS]
    return "".join(map(_inert_character, text))


def _inert_character(character: str) -> str:
    if unicodedata.category(character) not in _UNSAFE:
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _text(value: str, style: str = "") -> Text:
    return Text(inert(value), style)


# --- one report ------------------------------------------------------------------------


def verdict_word(verdict: Verdict) -> Text:
    """Glyph, word and colour of a verdict."""
    glyph, word, colour = _LOOKS[verdict]
    return Text(f"{glyph} {word}", colour)


def full_report(report: Report, manifest: Manifest) -> RenderableType:
    """A whole report: bug by bug, then what it amounts to."""
    heading = Text.assemble(
        (inert(report.submission_name), "bold"),
        f"  {inert(report.challenge)}, {inert(report.sandbox)} sandbox",
        (f", sha256 {inert(report.submission_sha256[:12]) or 'not read'}", "dim"),
    )
    return Group(heading, Text(), *_verdicts(report), _facts(report, manifest))


def _verdicts(report: Report) -> list[RenderableType]:
    if report.outcome == "invalid" or not report.bugs:
        return []
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(justify="right")
    table.add_column(no_wrap=True)
    table.add_column()
    for bug in report.bugs:
        words = Text.assemble((inert(bug.title), "bold"), "\n", (inert(bug.evidence.summary), "dim"))
        table.add_row(f" {bug.number}", verdict_word(bug.verdict), words)
    return [table, Text()]


def _facts(report: Report, manifest: Manifest) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    for label, value in _fact_rows(report, manifest):
        table.add_row(f" {label}", value)
    return table


def _fact_rows(report: Report, manifest: Manifest) -> Iterable[tuple[str, Text]]:
    if report.outcome == "invalid":
        yield "Invalid", _text(report.invalid_reason or "no reason given", "bold red")
    else:
        yield "Rating", _rating(report)
        yield "Goal", _goal(report, manifest)
        yield "Regressions", _findings(report.regressions, "red")
        yield "Bonus", _findings(report.bonus, "green")
    if report.run_error:
        yield "Last error", _text(report.run_error)
    if report.tampering_suspected:
        reasons = "; ".join(report.tampering_reasons) or "no reason given"
        yield (
            "Flag",
            Text.assemble(
                ("TAMPERING SUSPECTED", "bold white on red"),
                " for a human to confirm or dismiss: ",
                inert(reasons, 2000),
            ),
        )
    yield "Time", Text(timing_line(report.timing))


def _rating(report: Report) -> Text:
    rating = report.rating
    if rating is None:
        return Text("none")
    line = Text.assemble(
        (inert(rating.rating), "bold"), f" ({rating.fixed} of {rating.total})  {inert(rating.meaning)}"
    )
    if rating.provisional:
        line.append(f"\nprovisional: {inert(rating.best_case)} if all that is inconclusive were fixed", "yellow")
    return line


def _goal(report: Report, manifest: Manifest) -> Text:
    goal = report.goal
    accuracy = "" if goal.accuracy is None else f", {100 * goal.accuracy:.1f} % after the last"
    wanted = f"  ({inert(manifest.goal.description)})"
    if goal.reached is None:
        return Text.assemble(("not measured", "yellow"), f": {inert(goal.evidence)}", wanted)
    if goal.reached:
        return Text.assemble(("✔ reached", "green"), f" in epoch {goal.epoch}{accuracy}", wanted)
    return Text.assemble(("✘ not reached", "red"), accuracy, wanted)


def _findings(findings: Sequence[Finding], style: str) -> Text:
    if not findings:
        return Text("none", "dim")
    lines = [Text.assemble((inert(f.title), style), f": {inert(f.detail)}") for f in findings]
    return Text("\n").join(lines)


def timing_line(timing: Timing) -> str:
    """Where the time went, in one line."""
    parts = (
        ("start", timing.sandbox_start_s),
        ("warm-up", timing.warm_up_s),
        ("probes", timing.probes_s),
        ("own run", timing.real_run_s),
        ("judge", timing.judge_s),
    )
    split = ", ".join(f"{name} {seconds:.1f}" for name, seconds in parts)
    split += ", probes beside the run" if timing.is_side_by_side else ""
    gpu = "" if timing.gpu_s is None else f", GPU {timing.gpu_s:.1f} s"
    if timing.gpu_peak_memory_bytes is not None:
        gpu += f", GPU memory {timing.gpu_peak_memory_bytes / (1 << 20):.0f} MiB"
    memory = f"{timing.peak_memory_bytes / (1 << 20):.0f} MiB"
    return f"{timing.total_s:.1f} s ({split}), CPU {timing.cpu_s:.1f} s{gpu}, peak {memory}"


# --- many reports ----------------------------------------------------------------------


def overview(reports: Mapping[str, Report]) -> Table:
    """One row for each report: its verdicts by number, rating, goal and time."""
    table = Table(box=None, padding=(0, 1), header_style="dim")
    # The only one that gives way: all else is short and counts.
    table.add_column("submission", overflow="fold")
    numbers = sorted({bug.number for one in reports.values() for bug in one.bugs})
    for number in numbers:
        table.add_column(str(number), justify="center", no_wrap=True, min_width=1)
    table.add_column("rating", no_wrap=True)
    table.add_column("goal", no_wrap=True)
    table.add_column("time", justify="right", no_wrap=True)
    for name, one in reports.items():
        table.add_row(_text(name), *_glyphs(one, numbers), _short_rating(one), _short_goal(one), _seconds(one))
    return table


def _glyphs(report: Report, numbers: Sequence[int]) -> list[Text]:
    verdicts = {} if report.outcome == "invalid" else {bug.number: bug.verdict for bug in report.bugs}
    looks = (
        _LOOKS.get(verdicts.get(number, Verdict.INCONCLUSIVE)) if number in verdicts else None for number in numbers
    )
    return [Text(look[0], look[2]) if look else Text("·", "dim") for look in looks]


def _short_rating(report: Report) -> Text:
    if report.rating is None:
        return Text("invalid", "red")
    words = f"{inert(report.rating.rating)}{'?' if report.rating.provisional else ''}"
    flag = ("  tampering?", "bold red") if report.tampering_suspected else ""
    return Text.assemble(words, flag)


def _short_goal(report: Report) -> Text:
    if report.goal.reached is None or report.outcome == "invalid":
        return Text("·", "dim")
    return Text(f"epoch {report.goal.epoch}", "green") if report.goal.reached else Text("no", "red")


def _seconds(report: Report) -> str:
    return f"{report.timing.total_s:.1f} s"


def tally(reports: Iterable[Report]) -> str:
    """How many reports have each rating, best rating first by count of mended bugs."""
    ratings = Counter((one.rating.fixed, one.rating.rating) if one.rating else (-1, "invalid") for one in reports)
    merged: Counter[str] = Counter()
    for (_, rating), count in sorted(ratings.items(), reverse=True):
        merged[rating] += count
    return ", ".join(f"{inert(rating)} {count}" for rating, count in merged.items()) or "none"


def one_liner(report: Report) -> str:
    """A report in a few words, for a list of many."""
    if report.outcome == "invalid" or report.rating is None:
        return f"invalid: {inert(report.invalid_reason or 'no reason given', 160)}"
    flag = ", tampering suspected" if report.tampering_suspected else ""
    return f"{report.rating.fixed}/{report.rating.total} {inert(report.rating.rating)}{flag}"


# --- in plain words --------------------------------------------------------------------


def explanation(report: Report, bug: BugVerdict, symptom: str | None) -> RenderableType:
    """One verdict in sentences for a reader who does not program."""
    evidence = bug.evidence
    heading = Text.assemble((f"Bug {bug.number}: {inert(bug.title)}", "bold"), "  ", verdict_word(bug.verdict))
    paragraphs = [Text(_DECIDED[bug.verdict])]
    if symptom:
        paragraphs.append(Text(f"What was wrong: {inert(symptom, 1000)}"))
    paragraphs += [Text(inert(evidence.plain, 4000))] if evidence.plain else []
    paragraphs.append(Text(f"Expected of right code: {inert(evidence.expected, 1000)}"))
    paragraphs.append(Text(f"Seen in this submission: {inert(evidence.seen, 1000)} ({inert(evidence.source)})"))
    paragraphs.append(Text(f"How sure: {_HOW_SURE[evidence.kind]}"))
    paragraphs += [Text(f"Note: {inert(note, 1000)}") for note in evidence.notes]
    if report.tampering_suspected:
        paragraphs.append(
            Text("This submission is flagged for tampering: a human should look at it first.", "bold red")
        )
    spaced = [part for paragraph in paragraphs for part in (Text(), paragraph)]
    return Group(heading, *spaced)


def vector(report: Report) -> str:
    """The verdicts by number as one line, to compare two reports."""
    words = (f"{bug.number} {_LOOKS[bug.verdict][1]}" for bug in report.bugs)
    return f"{report.outcome}: " + ", ".join(words)

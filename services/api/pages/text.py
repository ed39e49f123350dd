"""Words and figures of the pages. What a candidate wrote is shown as it is and does nothing."""

from __future__ import annotations

import unicodedata
from datetime import datetime
from typing import Any

from markupsafe import Markup

from grading.challenge import Bug
from services.render import inert
from services.store import Line, Submission
from services.store.events import iso
from services.store.ids import CODE_CHARS
from services.store.records import shown_name

LOOKS = {
    "fixed": {"css": "fixed", "glyph": "✓", "word": "fixed"},
    "not_fixed": {"css": "not_fixed", "glyph": "✕", "word": "missed"},
    "inconclusive": {"css": "inconclusive", "glyph": "?", "word": "unclear"},
    "none": {"css": "none", "glyph": "·", "word": "none"},
}
_STATES = {
    "queued": "Waiting",
    "running": "Being graded",
    "graded": "Graded",
    "invalid": "Not gradable",
    "dead": "Stopped: our fault",
    "cancelled": "Cancelled",
    "erased": "Erased",
    "open": "Empty",
    "finished": "Finished",
    "pending": "Being sent",
    "delivered": "Delivered",
}
_FLAGS = {"open": "open", "confirmed": "confirmed", "dismissed": "dismissed"}
_DECISIONS = {"advance": "Advance", "hold": "Hold", "reject": "Do not advance"}
_RECOMMENDATIONS = {
    "strong_yes": "Strong yes",
    "yes": "Yes",
    "no": "No",
    "strong_no": "Strong no",
}
_HOW_SURE = {
    "value": "As sure as it gets: it rests on values that only right code can produce, checked outside the sandbox.",
    "measurement": "Very sure: it was measured from outside the candidate's program.",
    "observation": "Sure for an honest program: it was watched from inside the candidate's program. Read it together "
    "with the integrity section.",
    "none": "Not decided: nothing could be seen that would settle it either way.",
}
NOTHING = "\N{EN DASH}"  # where there is no figure
_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_MARKS = frozenset({"Mn", "Me", "Mc"})
_MOST_MARKS = 4
_LONGEST_LINE = 400


def state_word(state: str) -> str:
    """A state in a recruiter's word."""
    return _STATES.get(state, state)


def flag_word(flag: str) -> str:
    """What became of a suspicion."""
    return _FLAGS.get(flag, flag)


def decision_word(kind: str) -> str:
    """A decision in a recruiter's words."""
    return _DECISIONS.get(kind, kind)


def recommendation_word(kind: str) -> str:
    """An interviewer's recommendation in words."""
    return _RECOMMENDATIONS.get(kind, kind)


def bug_head(bug: Bug) -> Markup:
    """A bug's number and short name, for the head of a narrow column."""
    return Markup("<b>{}</b> {}").format(bug.number, bug.id)


def how_sure(kind: str) -> str:
    """What a kind of evidence is worth."""
    return _HOW_SURE.get(kind, "")


def still(line: str, longest: int = _LONGEST_LINE) -> str:
    """One line of a program or its output, its blanks kept: controls and marks of direction become their codes."""
    shown: list[str] = []
    marks = 0
    for character in line[: longest + 1].expandtabs(4):
        kind = unicodedata.category(character)
        marks = marks + 1 if kind in _MARKS else 0
        if kind in _UNSAFE:
            shown.append(f"\\x{ord(character):02x}" if ord(character) < 0x100 else f"\\u{ord(character):04x}")
        elif marks <= _MOST_MARKS:
            shown.append(character)
    text = "".join(shown)
    return text[: longest - 1] + "…" if len(text) > longest else text


def still_lines(text: str, most: int = 400) -> str:
    """The last lines of a text, each still."""
    return "\n".join(still(line) for line in text.replace("\r\n", "\n").split("\n")[-most:])


def paragraph(text: str, longest: int = 10_000) -> str:
    """What a person wrote in several lines, without what would move other text."""
    return "\n".join(still(line, longest) for line in text[:longest].replace("\r\n", "\n").split("\n"))


def sentence(error: Exception) -> str:
    """What an error says, as a sentence."""
    words = str(error)
    return f"{words[:1].upper()}{words[1:]}."


def code_name(submission_id: str) -> str:
    """What a candidate is called while names are hidden."""
    return f"Candidate {submission_id[-CODE_CHARS:].upper()}"


def who(of: Submission | Line, blind: bool) -> str:
    """The name to show for whoever handed in."""
    if blind:
        return code_name(of.id)
    shown = shown_name(of.candidate, of.file_name)
    return inert(shown, 80) if shown.strip() else code_name(of.id)


def which(of: Submission | Line, blind: bool) -> str:
    """The second line under the name: the file, where it is not the name already."""
    if blind:
        return ""
    shown = inert(of.file_name, 80)
    return "" if shown == who(of, blind) else shown


def day_time(at_us: int) -> str:
    """A time as people write it, in UTC."""
    return f"{datetime.fromisoformat(iso(at_us)):%-d %b %Y, %H:%M} UTC"


def percent(share: float | None, digits: int = 1) -> str:
    """A share as per cent, or a dash."""
    return NOTHING if share is None else f"{100 * share:.{digits}f}\N{NO-BREAK SPACE}%"


def seconds(value: float | None) -> str:
    """A duration."""
    if value is None:
        return NOTHING
    if value < 1:
        return f"{1000 * value:.0f} ms"
    if value < 120:
        return f"{value:.1f} s"
    minutes = value / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.0f} h"


def duration(seconds_long: float) -> str:
    """How long something lasts, as people say it: the two largest units."""
    left = int(seconds_long)
    for unit, smaller, size, part in (("d", "h", 86_400, 3600), ("h", "min", 3600, 60), ("min", "s", 60, 1)):
        if left >= size:
            rest = left % size // part
            return f"{left // size} {unit} {rest} {smaller}" if rest else f"{left // size} {unit}"
    return f"{left} s"


def mib(count: int | None) -> str:
    """An amount of memory."""
    return NOTHING if count is None else f"{count / (1 << 20):,.0f} MiB"


FILTERS: dict[str, Any] = {
    "inert": inert,
    "still": still,
    "still_lines": still_lines,
    "paragraph": paragraph,
    "iso": iso,
    "day_time": day_time,
    "percent": percent,
    "seconds": seconds,
    "duration": duration,
    "mib": mib,
}
WORDS: dict[str, Any] = {
    "verdict_looks": LOOKS,
    "verdict_words": {kind: look["word"] for kind, look in LOOKS.items()},
    "bug_head": bug_head,
    "state_word": state_word,
    "flag_word": flag_word,
    "decision_word": decision_word,
    "recommendation_word": recommendation_word,
    "how_sure": how_sure,
    "code_name": code_name,
}

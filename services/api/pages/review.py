"""What a cohort's lines amount to: who is strong, who needs a second look, and why. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from grading.challenge import Bug, Manifest
from services.api.pages.text import percent
from services.store import Line, LineChoice, Look, Show, Tally


@dataclass(frozen=True)
class Reasoned:
    """Somebody who stands out, and why."""

    line: Line
    why: str


def strong(line: Line, bugs: Sequence[Bug]) -> Reasoned:
    """One of the strongest."""
    return Reasoned(line, _why_strong(line, bugs))


def _why_strong(line: Line, bugs: Sequence[Bug]) -> str:
    missed = [bug.title for bug, verdict in zip(bugs, line.verdicts, strict=False) if verdict == "not_fixed"]
    unclear = line.verdicts.count("inconclusive")
    parts = ["Every bug mended" if line.fixed == line.total else f"{line.fixed} of {line.total} mended"]
    if missed:
        parts.append(f"missed: {', '.join(title[:1].lower() + title[1:] for title in missed[:2])}")
        if len(missed) > 2:
            parts[-1] += f" and {len(missed) - 2} more"
    if unclear:
        parts.append(f"{unclear} unclear")
    if line.accuracy is not None:
        parts.append(f"{percent(line.accuracy)} accuracy on unseen data")
    return "; ".join(parts) + "."


def second_look(line: Line) -> Reasoned:
    """One whom a person has to look at before the table is believed."""
    unclear = line.verdicts.count("inconclusive")
    words: dict[Look | None, str] = {
        "tampering": "Something in the run looks like tampering; confirm or dismiss it.",
        "dead": "Could not be graded, which is our fault; put it back into the queue.",
        "invalid": "The file cannot be graded; it may be the wrong one.",
        "provisional": f"{unclear} unclear {'verdict' if unclear == 1 else 'verdicts'} could still change the rating.",
        "goal_missed": "Every bug is mended, and yet the accuracy goal is missed.",
        None: "",
    }
    return Reasoned(line, words[line.look])


def summary(tally: Tally, total_bugs: int) -> str:
    """The cohort in two sentences."""
    if not tally.rated:
        return "Nothing is graded yet."
    everything = {0: "Nobody mended", 1: "One candidate mended"}.get(
        tally.all_fixed, f"{tally.all_fixed} candidates mended"
    )
    return f"{everything} all {total_bugs} bugs. Half of the candidates mended {tally.middle()} or more."


def ahead_of(fewer: int, rated_ones: int) -> int | None:
    """Per cent of the others who mended fewer bugs; None where there are no others."""
    return round(100 * fewer / (rated_ones - 1)) if rated_ones > 1 else None


def standing(tally: Tally, line: Line) -> int | None:
    """The same for one line of a cohort; None without a rating."""
    if line.state != "graded" or line.fixed is None:
        return None
    return ahead_of(tally.fewer(line.fixed), tally.rated)


# --- the table ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Choice(LineChoice):
    """Which lines to show, in which order, which page: as the address says."""

    page: int = 1
    arguments: Mapping[str, str] = field(default_factory=dict)

    @property
    def filters(self) -> bool:
        """Whether anything is left out."""
        return bool(self.words or self.rating or self.bug or self.show)


SHOWS: dict[Show, str] = {
    "undecided": "No decision yet",
    "advance": "Decided: advance",
    "hold": "Decided: hold",
    "reject": "Decided: do not advance",
    "look": "Needs a second look",
    "flagged": "Integrity flag",
    "goal": "Reached the accuracy goal",
    "waiting": "Not graded yet",
}
SORTS = ("fixed", "name", "accuracy", "rating", "ahead")


def choice(arguments: Mapping[str, str], manifest: Manifest | None, *, blind: bool) -> Choice:
    """What an address asks for; what it cannot mean is left out."""
    bugs = len(manifest.bugs) if manifest else 0
    bug = _number(arguments.get("bug"), bugs)
    verdict = arguments.get("verdict", "")
    key = arguments.get("sort", "")
    known = key in SORTS or (key.startswith("bug") and _number(key[3:], bugs) > 0)
    show: Show = next((one for one in SHOWS if one == arguments.get("show")), "")
    return Choice(
        words=arguments.get("q", "")[:100].strip(),
        rating=arguments.get("rating", "")[:100],
        bug=bug,
        verdict=verdict if verdict in ("fixed", "not_fixed", "inconclusive") else "not_fixed",
        show=show,
        sort=key if known else "fixed",
        falling=arguments.get("order", "up" if key == "name" else "down") != "up",
        blind=blind,
        page=max(1, _number(arguments.get("page"), 1_000_000)),
        arguments={name: value for name, value in arguments.items() if value and name not in ("page", "said")},
    )


def _number(text: str | None, most: int) -> int:
    """A number from 1 to `most`; 0 for anything else."""
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 8 and int(text) <= most else 0

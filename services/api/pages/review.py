"""What a cohort's lines amount to: who is strong, who needs a second look, and why. Pure functions."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from grading.challenge import Bug, Manifest
from services.api.pages.text import percent
from services.store import Line

_STRONGEST = 3
_SECOND_LOOKS = 8


@dataclass(frozen=True)
class Reasoned:
    """Somebody who stands out, and why."""

    line: Line
    why: str


def rated(lines: Iterable[Line]) -> list[Line]:
    """Those that have a rating of today."""
    return [line for line in lines if line.state == "graded" and line.fixed is not None]


def strength(line: Line) -> tuple[int, float]:
    """What decides who comes first: mended bugs, then accuracy on rows that the program had not seen."""
    return (-1 if line.fixed is None else line.fixed, line.accuracy or 0.0)


def strongest(lines: Sequence[Line], bugs: Sequence[Bug]) -> list[Reasoned]:
    """The first three. Nobody about whom a suspicion is open or confirmed is among them."""
    clear = [line for line in rated(lines) if line.flag in (None, "dismissed")]
    best = sorted(clear, key=strength, reverse=True)[:_STRONGEST]
    return [Reasoned(line, _why_strong(line, bugs)) for line in best]


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


def second_look(lines: Sequence[Line]) -> list[Reasoned]:
    """Whom a person has to look at before the table is believed, most pressing first."""
    found: list[tuple[int, Reasoned]] = []
    for line in lines:
        reason = _why_look(line)
        if reason is not None:
            found.append((reason[0], Reasoned(line, reason[1])))
    return [reasoned for _, reasoned in sorted(found, key=lambda pair: pair[0])]


def _why_look(line: Line) -> tuple[int, str] | None:
    if line.flag == "open":
        return 0, "Something in the run looks like tampering; confirm or dismiss it."
    if line.state == "dead":
        return 1, "Could not be graded, which is our fault; put it back into the queue."
    if line.state == "invalid":
        return 2, "The file cannot be graded; it may be the wrong one."
    unclear = line.verdicts.count("inconclusive")
    if line.state == "graded" and line.provisional:
        return 3, f"{unclear} unclear {'verdict' if unclear == 1 else 'verdicts'} could still change the rating."
    if line.state == "graded" and line.fixed is not None and line.fixed == line.total and line.goal_reached is False:
        return 4, "Every bug is mended, and yet the accuracy goal is missed."
    return None


def summary(lines: Sequence[Line], total_bugs: int) -> str:
    """The cohort in two sentences."""
    graded = rated(lines)
    if not graded:
        return "Nothing is graded yet."
    full = sum(line.fixed == line.total for line in graded)
    counts = sorted(line.fixed or 0 for line in graded)
    middle = counts[len(counts) // 2]
    everything = {0: "Nobody mended", 1: "One candidate mended"}.get(full, f"{full} candidates mended")
    return f"{everything} all {total_bugs} bugs. Half of the candidates mended {middle} or more."


def ahead_of(fewer: int, rated_ones: int) -> int | None:
    """Per cent of the others who mended fewer bugs; None where there are no others."""
    return round(100 * fewer / (rated_ones - 1)) if rated_ones > 1 else None


class Standing:
    """Where a result stands among those of its cohort."""

    def __init__(self, lines: Iterable[Line]) -> None:
        self._counts = sorted(line.fixed or 0 for line in rated(lines))

    def ahead_of(self, line: Line) -> int | None:
        """The same for one of them; None without a rating."""
        if line.state != "graded" or line.fixed is None:
            return None
        return ahead_of(bisect.bisect_left(self._counts, line.fixed), len(self._counts))


# --- the table ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Choice:
    """Which lines to show, in which order, which page: as the address says."""

    words: str = ""
    rating: str = ""
    bug: int = 0
    verdict: str = "not_fixed"
    show: str = ""  # one of SHOWS
    sort: str = "fixed"
    falling: bool = True
    page: int = 1
    arguments: Mapping[str, str] = field(default_factory=dict)

    @property
    def filters(self) -> bool:
        """Whether anything is left out."""
        return bool(self.words or self.rating or self.bug or self.show)


SHOWS: dict[str, tuple[str, Callable[[Line], bool]]] = {
    "undecided": ("No decision yet", lambda line: line.decision is None),
    "advance": ("Decided: advance", lambda line: line.decision == "advance"),
    "hold": ("Decided: hold", lambda line: line.decision == "hold"),
    "reject": ("Decided: do not advance", lambda line: line.decision == "reject"),
    "look": ("Needs a second look", lambda line: _why_look(line) is not None),
    "flagged": ("Integrity flag", lambda line: line.flag is not None),
    "goal": ("Reached the accuracy goal", lambda line: line.goal_reached is True),
    "waiting": ("Not graded yet", lambda line: line.state in ("queued", "running")),
}
SORTS = ("fixed", "name", "accuracy", "rating", "ahead")


def choice(arguments: Mapping[str, str], manifest: Manifest | None) -> Choice:
    """What an address asks for; what it cannot mean is left out."""
    bugs = len(manifest.bugs) if manifest else 0
    bug = _number(arguments.get("bug"), bugs)
    verdict = arguments.get("verdict", "")
    key = arguments.get("sort", "")
    known = key in SORTS or (key.startswith("bug") and _number(key[3:], bugs) > 0)
    show = arguments.get("show", "")
    return Choice(
        words=arguments.get("q", "")[:100].strip(),
        rating=arguments.get("rating", "")[:100],
        bug=bug,
        verdict=verdict if verdict in ("fixed", "not_fixed", "inconclusive") else "not_fixed",
        show=show if show in SHOWS else "",
        sort=key if known else "fixed",
        falling=arguments.get("order", "up" if key == "name" else "down") != "up",
        page=max(1, _number(arguments.get("page"), 1_000_000)),
        arguments={name: value for name, value in arguments.items() if value and name not in ("page", "said")},
    )


def _number(text: str | None, most: int) -> int:
    """A number from 1 to `most`; 0 for anything else."""
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 8 and int(text) <= most else 0


def chosen(lines: Iterable[Line], wanted: Choice, name_of: Callable[[Line], str]) -> list[Line]:
    """The lines to show, in order."""
    words = wanted.words.casefold()
    shows = SHOWS[wanted.show][1] if wanted.show else None
    found = [
        line
        for line in lines
        if (not words or words in name_of(line).casefold())
        and (not wanted.rating or line.rating == wanted.rating)
        and (not wanted.bug or _verdict(line, wanted.bug) == wanted.verdict)
        and (shows is None or shows(line))
    ]
    # Twice, because a sort keeps the order of equals: ties are in the order of strength.
    found.sort(key=strength, reverse=True)
    found.sort(key=_key(wanted.sort, name_of), reverse=wanted.falling)
    return found


def _verdict(line: Line, bug: int) -> str:
    return line.verdicts[bug - 1] if len(line.verdicts) >= bug else ""


_ORDER = {"fixed": 3, "inconclusive": 2, "not_fixed": 1}


def _key(sort: str, name_of: Callable[[Line], str]) -> Callable[[Line], Any]:
    if sort == "name":
        return lambda line: name_of(line).casefold()
    if sort == "accuracy":
        return lambda line: -1.0 if line.accuracy is None else line.accuracy
    if sort.startswith("bug"):
        return lambda line: _ORDER.get(_verdict(line, int(sort[3:])), 0)
    return strength

"""Two programs side by side, row by row, with the bugs that a row is about.

Which lines of the problem hold which bug is found by building the problem without that bug from the
challenge's own edits. Nothing of the candidate's is parsed: rows of theirs are placed by the difference alone.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from markupsafe import Markup

from grading.challenge import Bug, Challenge
from services.api.pages.text import still

_MOST_LINES = 1000  # comparing takes up to their square, and a candidate may want it to
_AROUND = 3  # unchanged rows kept around a change
_NEAR = 2  # lines from where something is missing, within which adding it is nothing out of the way


@dataclass(frozen=True)
class Row:
    """One row: a line on the left, on the right, or both."""

    left: int | None
    right: int | None
    left_text: Markup
    right_text: Markup
    changed: bool
    bugs: tuple[Bug, ...] = ()
    skipped: int = 0  # so many unchanged rows stand for this one


@dataclass(frozen=True)
class Changes:
    """All rows, or why there are none."""

    rows: tuple[Row, ...]
    trouble: str = ""

    @property
    def changed(self) -> int:
        """How many rows differ."""
        return sum(row.changed for row in self.rows)


def side_by_side(left: str, right: str, bugs_of: Challenge | None = None) -> Changes:
    """The difference; `bugs_of` is the challenge whose problem stands on the left."""
    before, after = _lines(left), _lines(right)
    if len(after) > _MOST_LINES or len(before) > _MOST_LINES:
        return Changes((), f"More than {_MOST_LINES:,} lines are not compared here; download the program instead.")
    about = bug_lines(bugs_of) if bugs_of is not None else {}
    return Changes(tuple(_shortened(list(_rows(before, after, about)))))


def _lines(text: str) -> list[str]:
    return text.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n").split("\n")


def _rows(before: Sequence[str], after: Sequence[str], about: dict[int, tuple[Bug, ...]]) -> Iterator[Row]:
    for kind, a, a_end, b, b_end in SequenceMatcher(None, before, after).get_opcodes():
        if kind == "equal":
            for offset in range(a_end - a):
                text = Markup.escape(still(before[a + offset]))
                yield Row(a + offset + 1, b + offset + 1, text, text, False, about.get(a + offset, ()))
            continue
        # An insertion is about what it stands between; it changes no line of the problem.
        anchors = about.get(-1 - a, ()) if a_end == a else about.get(a_end - 1, ())
        for offset in range(max(a_end - a, b_end - b)):
            left = a + offset if a + offset < a_end else None
            right = b + offset if b + offset < b_end else None
            bugs = about.get(left, ()) if left is not None else anchors
            if left is not None and about.get(-1 - left):
                bugs = tuple(dict.fromkeys((*bugs, *about[-1 - left])))
            yield _changed_row(before, after, left, right, bugs)


def _changed_row(
    before: Sequence[str], after: Sequence[str], left: int | None, right: int | None, bugs: tuple[Bug, ...]
) -> Row:
    old = "" if left is None else still(before[left])
    new = "" if right is None else still(after[right])
    old_text, new_text = _marked(old, new) if left is not None and right is not None else (_safe(old), _safe(new))
    number = (None if left is None else left + 1, None if right is None else right + 1)
    return Row(*number, old_text, new_text, True, bugs)


def _safe(text: str) -> Markup:
    return Markup.escape(text)


def _marked(old: str, new: str) -> tuple[Markup, Markup]:
    """The middle that differs is marked in both."""
    start = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
    rest = zip(reversed(old[start:]), reversed(new[start:]), strict=False)
    end = next((i for i, (a, b) in enumerate(rest) if a != b), min(len(old), len(new)) - start)
    if start + end < 4:  # hardly anything in common: the marks would say nothing
        return _safe(old), _safe(new)

    def marked(text: str) -> Markup:
        middle = text[start : len(text) - end]
        inner = Markup("<mark>{}</mark>").format(middle) if middle.strip() else Markup.escape(middle)
        return _safe(text[:start]) + inner + _safe(text[len(text) - end :] if end else "")

    return marked(old), marked(new)


def _shortened(rows: list[Row]) -> Iterator[Row]:
    """Long stretches without a change become one row that counts them. Rows about a bug stay."""
    keep = [False] * len(rows)
    for number, row in enumerate(rows):
        if row.changed or row.bugs:
            for near in range(max(0, number - _AROUND), min(len(rows), number + _AROUND + 1)):
                keep[near] = True
    number = 0
    while number < len(rows):
        if keep[number]:
            yield rows[number]
            number += 1
            continue
        end = next((i for i in range(number, len(rows)) if keep[i]), len(rows))
        yield Row(None, None, Markup(""), Markup(""), False, skipped=end - number)
        number = end


# --- which lines are about which bug --------------------------------------------------------


def untouched_bugs(challenge: Challenge, source: str) -> frozenset[str]:
    """Ids of the bugs whose own lines stand in `source` as in the problem, with nothing added where one is missing."""
    before, after = _lines(challenge.text("problem.py")), _lines(source)
    if len(after) > _MOST_LINES:
        return frozenset()
    same: set[int] = set()
    added: set[int] = set()
    for kind, a, a_end, _, _ in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if kind == "equal":
            same.update(range(a, a_end))
        elif a == a_end:
            added.add(a)
    places: dict[str, list[bool]] = {}
    for line, bugs in bug_lines(challenge).items():
        near = range(-1 - line - _NEAR, -1 - line + _NEAR + 1)
        kept = line in same if line >= 0 else not any(gap in added or gap not in same for gap in near)
        for bug in bugs:
            places.setdefault(bug.id, []).append(kept)
    return frozenset(bug for bug, kept in places.items() if all(kept))


def bug_lines(challenge: Challenge) -> dict[int, tuple[Bug, ...]]:
    """Bugs by the problem's lines, from 0; -1 - n stands for the gap before line n, where something is missing."""
    return _bug_lines(challenge.slug, challenge.manifest.bugs, challenge.text("problem.py"))


@functools.lru_cache(maxsize=32)
def _bug_lines(slug: str, bugs: tuple[Bug, ...], problem: str) -> dict[int, tuple[Bug, ...]]:
    try:
        edits = importlib.import_module(f"challenges.{slug}.mutations")
    except ImportError:
        return {}
    found: dict[int, list[Bug]] = {}
    whole = _lines(problem)
    for bug in bugs:
        try:
            mended = _lines(edits.build([other.id for other in bugs if other.id != bug.id]))
        except (AttributeError, KeyError, ValueError):
            continue
        for kind, a, a_end, _, _ in SequenceMatcher(None, whole, mended, autojunk=False).get_opcodes():
            if kind == "insert":
                found.setdefault(-1 - a, []).append(bug)
            elif kind != "equal":
                for line in range(a, a_end):
                    found.setdefault(line, []).append(bug)
    return {line: tuple(about) for line, about in found.items()}

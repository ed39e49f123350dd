"""Charts as figures: where each bar and point goes. Templates draw them as SVG: it prints and needs no script."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.api.pages.text import NOTHING, percent

Row = tuple[str, ...]


@dataclass(frozen=True)
class Bar:
    """One bar; lengths in the chart's own units."""

    label: str
    value: str
    x: float
    y: float
    width: float
    height: float

    @property
    def middle(self) -> float:
        """Where its label stands."""
        return self.x + self.width / 2


@dataclass(frozen=True)
class Bars:
    """A bar chart, upright or lying, with the numbers behind it."""

    title: str
    summary: str
    width: float
    height: float
    base: float
    left: float
    room: float
    bars: tuple[Bar, ...]
    columns: Row
    rows: tuple[Row, ...]


def distribution(counts: Sequence[int], title: str, unit: str) -> Bars:
    """How many candidates mended 0, 1, 2, … bugs, as upright bars."""
    width, base, step = 400.0, 140.0, 400.0 / len(counts)
    highest = max([*counts, 1])
    bars = tuple(
        Bar(
            str(number),
            str(count) if count else "",
            round(number * step + step * 0.14, 1),
            round(base - 112 * count / highest, 1),
            round(step * 0.72, 1),
            round(112 * count / highest, 1),
        )
        for number, count in enumerate(counts)
    )
    most = max(range(len(counts)), key=lambda number: counts[number])
    summary = f"Most often {most} {unit}: {counts[most]} of {sum(counts)}."
    rows = tuple((str(number), str(count)) for number, count in enumerate(counts))
    return Bars(title, summary, width, base + 28, base, 0, width, bars, (unit.capitalize(), "Candidates"), rows)


def rates(names: Sequence[str], fixed: Sequence[int], total: int, title: str) -> Bars:
    """Which share mended each bug, as lying bars."""
    width, left, step = 400.0, 112.0, 22.0
    room = width - left - 48
    shares = [count / total if total else 0.0 for count in fixed]
    bars = tuple(
        Bar(name, percent(share, 0), left, number * step, round(room * share, 1), 10)
        for number, (name, share) in enumerate(zip(names, shares, strict=True))
    )
    hardest = min(range(len(names)), key=lambda number: shares[number])
    summary = f"Mended least often: {names[hardest]}, {percent(shares[hardest], 0)}."
    rows = tuple(
        (name, f"{count} of {total}", percent(share, 0))
        for name, count, share in zip(names, fixed, shares, strict=True)
    )
    return Bars(title, summary, width, step * len(names), 0, left, room, bars, ("Bug", "Mended by", "Share"), rows)


@dataclass(frozen=True)
class Tick:
    """A line across, or a label along, a curve's chart."""

    label: str
    x: float = 0
    y: float = 0


@dataclass(frozen=True)
class Line:
    """One curve."""

    name: str
    points: str


@dataclass(frozen=True)
class Curves:
    """Curves over epochs, with the numbers behind them."""

    title: str
    summary: str
    width: float
    height: float
    left: float
    ticks: tuple[Tick, ...]
    epochs: tuple[Tick, ...]
    lines: tuple[Line, ...]
    goal_y: float | None
    columns: Row
    rows: tuple[Row, ...]


_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 320.0, 176.0, 44.0, 12.0, 26.0


def curves(
    title: str,
    series: Mapping[str, Sequence[float]],
    *,
    epochs: int,
    top: float,
    as_share: bool,
    goal: float | None = None,
) -> Curves:
    """Curves on one scale from 0 to `top`, over `epochs` epochs; shares are written as per cent."""

    def x(epoch: int) -> float:
        return round(_LEFT + (_WIDTH - _LEFT) * (epoch - 1) / max(1, epochs - 1), 1)

    def y(value: float) -> float:
        inside = min(max(value, 0.0), top)
        return round(_TOP + (_HEIGHT - _TOP - _BOTTOM) * (1 - inside / top), 1)

    def written(value: float) -> str:
        return percent(value) if as_share else f"{value:.4g}"

    steps = [top * part / 4 for part in range(5)] if as_share else [top * part / 2 for part in range(3)]
    marks = sorted({1, max(1, epochs // 2), epochs})
    longest = max(map(len, series.values()), default=0)
    rows = tuple(
        (str(epoch), *(written(values[epoch - 1]) if epoch <= len(values) else NOTHING for values in series.values()))
        for epoch in range(1, longest + 1)
    )
    ends = "; ".join(f"{name} {written(values[-1])}" for name, values in series.items() if values)
    return Curves(
        title=title,
        summary=f"After the last epoch: {ends}." if ends else "No numbers.",
        width=_WIDTH,
        height=_HEIGHT,
        left=_LEFT,
        ticks=tuple(Tick(f"{100 * step:.0f} %" if as_share else f"{step:.2g}", y=y(step)) for step in steps),
        epochs=tuple(Tick(str(epoch), x=x(epoch)) for epoch in marks),
        lines=tuple(
            Line(name, " ".join(f"{x(epoch)},{y(value)}" for epoch, value in enumerate(values, 1)))
            for name, values in series.items()
        ),
        goal_y=None if goal is None else y(goal),
        columns=("Epoch", *series),
        rows=rows,
    )


# --- what a program printed ----------------------------------------------------------------

_MOST_EPOCHS = 200
_EPOCH = re.compile(r"\s*epoch\s{1,8}(\d{1,4})", re.IGNORECASE)
_SIDE = re.compile(r"\b(train|val)", re.IGNORECASE)
_FIGURE = re.compile(r"\b(loss|acc)[a-z]{0,8}\s{0,4}[:=]?\s{0,4}(\d{1,9}(?:\.\d{1,12})?)\s{0,2}(%?)", re.IGNORECASE)


def printed(output: str) -> dict[str, list[float]]:
    """Loss and accuracy by epoch as the program printed them: its own claims, and only where it kept the form.

    Keys are "train loss", "train acc", "val loss", "val acc"; a key with gaps is left out.
    """
    found: dict[str, list[float]] = {}
    epochs = 0
    for line in output.split("\n")[-2 * _MOST_EPOCHS :]:
        if len(line) > 400 or (match := _EPOCH.match(line)) is None:
            continue
        if int(match[1]) != epochs + 1 or epochs >= _MOST_EPOCHS:
            return {}
        epochs += 1
        for part in line.split("|"):
            side = _SIDE.search(part)
            if side is None:
                continue
            for kind, number, sign in _FIGURE.findall(part):
                value = float(number) / (100 if sign else 1)
                found.setdefault(f"{side[1].lower()} {kind.lower()}", []).append(value)
    return {name: values for name, values in found.items() if len(values) == epochs}

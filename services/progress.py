"""Shows on stderr that something goes on: live on a terminal, else in plain lines."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from services.batch import Done
from services.render import inert, one_liner

_SILENT_S = 1.0
_RATE_PERIOD_S = 600.0  # a grading takes many seconds: rich's own 30 would see one or none


class Listener(Protocol):
    """Told of each step of a grading: its name, then "begin" or "end"."""

    def __call__(self, step: str, phase: str, /) -> None:
        """Take note of it."""
        ...


@contextlib.contextmanager
def steps(console: Console, title: str) -> Iterator[Listener]:
    """The steps of one grading: a spinner, or one line per step once a second has passed."""
    if not console.is_terminal:
        with _PlainSteps(console, title) as plain:
            yield plain
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("")
        count = 0

        def listen(step: str, phase: str) -> None:
            nonlocal count
            count += phase == "end"
            progress.update(task, description=_plain_markup(f"{title}: {step} ({count} steps done)"))

        listen("starting the sandbox", "begin")
        yield listen


def _plain_markup(text: str) -> str:
    return inert(text).replace("[", "(").replace("]", ")")


class _PlainSteps:
    """One line for each step, and none for what is over within a second."""

    def __init__(self, console: Console, title: str) -> None:
        self._console, self._title, self._begun = console, title, time.monotonic()
        self._step = ""
        self._timer = threading.Timer(_SILENT_S, self._print)

    def __enter__(self) -> _PlainSteps:
        self._timer.daemon = True
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def __call__(self, step: str, phase: str, /) -> None:
        if phase == "begin":
            self._step = step
            if self._timer.finished.is_set():
                self._print()

    def _print(self) -> None:
        elapsed_s = time.monotonic() - self._begun
        line = f"{self._title}: {self._step or 'starting the sandbox'} ({elapsed_s:.0f} s)"
        self._console.print(Text(inert(line)), soft_wrap=True)


class _Rate(ProgressColumn):
    """Finished per minute."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{60 * speed:.1f}/min", "progress.data.speed")


class Counting(Protocol):
    """Told how far a long work has come."""

    def __call__(self, done: int, total: int, /) -> None:
        """Take note of it."""
        ...


@contextlib.contextmanager
def counting(console: Console, title: str) -> Iterator[Counting]:
    """A bar with count, rate and time left; without a terminal a line every tenth of the way."""
    with _bar(console) as progress:
        task = progress.add_task(title, total=None)
        shown = 0

        def count(done: int, total: int) -> None:
            nonlocal shown
            progress.update(task, completed=done, total=total)
            tenth = 10 * done // max(total, 1)
            if not console.is_terminal and tenth > shown:
                shown = tenth
                console.print(Text(f"{title}: {done}/{total}"), soft_wrap=True)

        yield count


class BatchProgress:
    """A batch on its way: how many of which kind are done."""

    def __init__(self, console: Console, progress: Progress, total: int) -> None:
        self._console, self._progress, self._total = console, progress, total
        self._task = progress.add_task("grading", total=total)
        self._kinds: Counter[str] = Counter()

    def __call__(self, done: Done) -> None:
        """One more is finished."""
        self._kinds[_kind(done)] += 1
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(self._kinds.items()))
        self._progress.update(self._task, advance=1, description=counts)
        if not self._console.is_terminal and not done.reused:
            words = one_liner(done.report) if done.report else f"no report: {inert(done.error)}"
            line = f"{sum(self._kinds.values())}/{self._total} {inert(done.name)}: {words}"
            self._console.print(Text(line), soft_wrap=True)


def _kind(done: Done) -> str:
    if done.report is None:
        return "failed"
    return "reused" if done.reused else done.report.outcome


@contextlib.contextmanager
def batch(console: Console, total: int) -> Iterator[BatchProgress]:
    """The progress of a batch of `total` submissions."""
    with _bar(console) as progress:
        yield BatchProgress(console, progress, total)


def _bar(console: Console) -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    return Progress(
        *columns,
        console=console,
        transient=True,
        disable=not console.is_terminal,
        speed_estimate_period=_RATE_PERIOD_S,
    )

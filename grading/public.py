"""What a candidate may know of a check: whether the program loads, trains, and how accurate it gets.

All of it is about the program's own run, which candidates can make themselves; nothing is taken from verdicts,
from their evidence or from what looked like tampering, and no probe is named.
"""

from __future__ import annotations

from collections.abc import Collection

from pydantic import BaseModel, ConfigDict

from grading.challenge import Shown
from grading.engine import printable
from grading.verdict import Report

_REASON_CHARACTERS = 600
_ENDS = {
    "time_limit": "it was still running when its time was over",
    "memory_limit": "it used more memory than it may",
    "output_limit": "it printed more than it may",
    "nonzero_exit": "it ended with an error",
    "signaled": "its process was killed",
}
_ENDED_OTHERWISE = "its own run did not come to its end"


class PublicPart(BaseModel):
    """A report without what is hidden. None where it is not shown; empty texts where nothing is wrong."""

    model_config = ConfigDict(frozen=True, extra="ignore")  # rows of other versions stay readable

    loads: bool | None = None
    load_problem: str = ""
    trains: bool | None = None
    train_problem: str = ""
    epochs: int | None = None
    accuracy_by_epoch: tuple[float, ...] | None = None
    threshold: float | None = None
    output: str | None = None


def public_part(report: Report, shows: Collection[Shown], most_output_characters: int) -> PublicPart:
    """What of `report` a challenge lets candidates see of a check."""
    loads = report.outcome == "graded"
    curve = report.goal.accuracy_by_epoch
    found: dict[str, object] = {}
    if "loads" in shows:
        found |= {"loads": loads, "load_problem": _bounded(report.invalid_reason or "")}
    if "trains" in shows and loads:
        ended_well = report.run_status == "ok" and report.run_error is None
        problem = report.run_error or _ENDS.get(report.run_status, _ENDED_OTHERWISE)
        found |= {"trains": ended_well, "epochs": len(curve)}
        found |= {} if ended_well else {"train_problem": _bounded(problem)}
    if "accuracy" in shows and loads:
        found |= {"accuracy_by_epoch": curve, "threshold": report.goal.threshold}
    if "output" in shows:
        found |= {"output": printable(report.output_tail, most_output_characters) if most_output_characters else ""}
    return PublicPart.model_validate(found)


def _bounded(text: str) -> str:
    return printable(text[:_REASON_CHARACTERS])[:_REASON_CHARACTERS]

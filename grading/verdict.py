"""What a grade says: pure data and the pure decision from verdicts to a rating."""

from __future__ import annotations

import enum
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from grading.challenge import Manifest

SCHEMA_VERSION = "1.0"


class Verdict(enum.StrEnum):
    """The three things that can be said of one bug."""

    FIXED = "fixed"
    NOT_FIXED = "not_fixed"
    INCONCLUSIVE = "inconclusive"


class EvidenceKind(enum.StrEnum):
    """What a verdict rests on, strongest first."""

    VALUE = "value"  # a value that only right code returns, compared outside
    MEASUREMENT = "measurement"  # measured from outside the candidate's process
    OBSERVATION = "observation"  # seen by a probe inside the candidate's process
    NONE = "none"  # nothing could be seen


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Evidence(_Frozen):
    """Why a verdict is what it is."""

    summary: str = Field(description="One line for a reader in a hurry.")
    expected: str = Field(description="What right code shows.")
    seen: str = Field(description="What this submission showed.")
    kind: EvidenceKind = Field(description="The strongest kind of evidence that the verdict rests on.")
    source: str = Field(description="Where it was seen: the program's own run, single calls, both.")
    plain: str = Field(description="A few sentences for a reader who does not program.")
    notes: tuple[str, ...] = Field(default=(), description="Disagreements and doubts.")


class BugVerdict(_Frozen):
    """The verdict on one planted bug."""

    number: int
    id: str
    title: str
    verdict: Verdict
    evidence: Evidence
    wall_time_s: float = Field(
        description="Wall time of the probes that this verdict used, shared ones in equal parts."
    )


class GoalReport(_Frozen):
    """Whether the program reached its goal, measured on rows that it had not seen."""

    description: str
    reached: bool | None = Field(description="None where it could not be measured.")
    epoch: int | None = Field(description="First epoch (from 1) above the threshold.")
    accuracy: float | None = Field(description="Held-out accuracy of the model after its last epoch, 0 to 1.")
    accuracy_by_epoch: tuple[float, ...] = ()
    threshold: float
    evidence: str


class Rating(_Frozen):
    """The rating band."""

    fixed: int
    total: int
    rating: str
    meaning: str
    provisional: bool = Field(description="True where inconclusive verdicts could still change the band.")
    best_case: str = Field(description="The rating if every inconclusive bug were fixed.")


class Finding(_Frozen):
    """A regression that the candidate brought in, or a bonus that was seen running."""

    id: str
    title: str
    detail: str


class StepTiming(_Frozen):
    """One probe or the real run."""

    name: str
    status: str
    wall_time_s: float
    cpu_time_s: float
    peak_memory_bytes: int


class Timing(_Frozen):
    """Where the time went. Seconds of wall time unless the name says CPU."""

    queue_s: float | None = Field(default=None, description="Waiting before the grade began; None outside a queue.")
    sandbox_start_s: float
    warm_up_s: float
    warm_up_cpu_s: float
    probes_s: float
    probes_cpu_s: float
    real_run_s: float
    real_run_cpu_s: float
    judge_s: float
    total_s: float
    cpu_s: float = Field(description="CPU seconds of everything inside the sandbox.")
    peak_memory_bytes: int
    gpu_s: float | None = Field(
        default=None,
        description="Seconds with a kernel running, as the host's driver tells; None without a GPU or its word.",
    )
    gpu_peak_memory_bytes: int | None = Field(
        default=None, description="Most GPU memory in use, CUDA's own included; None as above."
    )
    steps: tuple[StepTiming, ...]

    @property
    def is_side_by_side(self) -> bool:
        """Whether the probes ran beside the program's own run, so that both took less than their sum."""
        return self.probes_s + self.real_run_s > self.total_s


class Versions(_Frozen):
    """Which grader, which challenge and which image gave this report."""

    assay: str
    challenge_digest: str
    grader_digest: str
    image_digest: str
    python: str
    torch: str
    numpy: str


class Report(_Frozen):
    """The result of grading one submission against one challenge."""

    schema_version: Literal["1.0"] = "1.0"
    challenge: str
    submission_name: str
    submission_sha256: str
    submission_bytes: int
    outcome: Literal["graded", "invalid"]
    invalid_reason: str | None = Field(default=None, description="Why it cannot be graded, and what to do.")
    bugs: tuple[BugVerdict, ...]
    goal: GoalReport
    rating: Rating | None = Field(description="None for an invalid submission.")
    regressions: tuple[Finding, ...]
    bonus: tuple[Finding, ...]
    tampering_suspected: bool
    tampering_reasons: tuple[str, ...]
    run_status: str = Field(description="How the submission's own run ended.")
    run_error: str | None = Field(description="Its last exception, if any: untrusted text.")
    output_tail: str = Field(description="End of what it printed, made printable; untrusted text.")
    timing: Timing
    versions: Versions
    sandbox: str
    secret_seed: str = Field(description="Seed of this grade's secrets, for a replay; fresh for each grade.")
    graded_at: str = Field(description="UTC time, ISO 8601.")


def rate(manifest: Manifest, verdicts: tuple[Verdict, ...]) -> Rating:
    """The rating band for `verdicts`, in the manifest's order.

    Inconclusive counts as not fixed, never as fixed; the rating is then provisional if
    the band could still change.
    """
    fixed = verdicts.count(Verdict.FIXED)
    best = manifest.band(fixed + verdicts.count(Verdict.INCONCLUSIVE))
    band = manifest.band(fixed)
    return Rating(
        fixed=fixed,
        total=len(manifest.bugs),
        rating=band.rating,
        meaning=band.meaning,
        provisional=band != best,
        best_case=best.rating,
    )

"""A challenge as its author wrote it: the manifest and the folder around it."""

from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

# What a verdict hangs on; a challenge may split its judge over the files of the second line.
DECIDING_FILES = (
    *("manifest.toml", "problem.py", "solution.py", "probes.py", "judge.py"),
    *("steps.py", "sights.py", "findings.py", "data.py", "words.py"),
)
CHALLENGES_ROOT = Path(__file__).resolve().parent.parent / "challenges"


class ChallengeError(Exception):
    """The challenge does not exist or its folder is not well formed; says what to do."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Bug(_Frozen):
    """One planted bug, as the rubric lists it."""

    number: int = Field(ge=1)
    id: str = Field(pattern=r"^[a-z0-9-]+$")
    title: str
    category: str
    location: str
    difficulty: str
    symptom: str


class RatingBand(_Frozen):
    """Submissions with `min_fixed`..`max_fixed` bugs mended get this rating."""

    min_fixed: int = Field(ge=0)
    max_fixed: int = Field(ge=0)
    rating: str
    meaning: str


class Goal(_Frozen):
    """What the mended program reaches, measured on rows that it has not seen."""

    description: str
    metric: Literal["validation_accuracy"]
    threshold: float
    epochs: int


class RunLimits(_Frozen):
    """Limits of the submission's own run; the probes have their own in the judge."""

    wall_time_s: float = Field(gt=0)
    cpu_time_s: float = Field(gt=0)
    memory_bytes: int = Field(gt=0)


Shown = Literal["loads", "trains", "accuracy", "output"]


class CandidateView(_Frozen):
    """What an invited candidate has and is told; none of it decides a verdict."""

    time_limit_minutes: int | None = Field(default=None, gt=0, description="None: as long as the link lives.")
    checks: int = Field(default=5, ge=0, le=1000, description="How often a program may be tried before handing in.")
    # Not the output: the program runs beside our instruments and could print what it finds there.
    check_shows: tuple[Shown, ...] = ("loads", "trains", "accuracy")
    result: Literal["receipt", "score", "verdicts"] = Field(
        default="receipt", description="What is shown once what was handed in is graded."
    )


class Manifest(_Frozen):
    """`manifest.toml` of a challenge."""

    slug: str = Field(pattern=r"^[a-z0-9-]+$")
    title: str
    level: str
    minutes: int = Field(gt=0)
    editable_file: str
    required_names: tuple[str, ...]
    goal: Goal
    limits: RunLimits
    candidate: CandidateView = CandidateView()
    bugs: tuple[Bug, ...]
    rating_bands: tuple[RatingBand, ...]

    @model_validator(mode="after")
    def _bugs_and_bands_are_complete(self) -> Manifest:
        numbers = [bug.number for bug in self.bugs]
        if numbers != list(range(1, len(numbers) + 1)):
            raise ValueError("bugs must be numbered 1, 2, 3, … in order")
        if len({bug.id for bug in self.bugs}) != len(self.bugs):
            raise ValueError("bug ids must differ")
        for fixed in range(len(self.bugs) + 1):
            bands = [b for b in self.rating_bands if b.min_fixed <= fixed <= b.max_fixed]
            if len(bands) != 1:
                raise ValueError(f"{len(bands)} rating bands cover {fixed} mended bugs, not one")
        return self

    def band(self, fixed: int) -> RatingBand:
        """The rating band of a submission with `fixed` bugs mended."""
        return next(b for b in self.rating_bands if b.min_fixed <= fixed <= b.max_fixed)


class Challenge(_Frozen):
    """A manifest and the folder it stands in."""

    manifest: Manifest
    folder: Path

    @property
    def slug(self) -> str:
        """The challenge's name in commands, paths and reports."""
        return self.manifest.slug

    def text(self, name: str) -> str:
        """One of the challenge's text files: problem.py, solution.py, brief.md."""
        return (self.folder / name).read_text(encoding="utf-8")

    def digest(self) -> str:
        """SHA-256 over every file that decides a verdict, so that a report names its grader."""
        return tree_digest(self.folder, DECIDING_FILES)


def tree_digest(folder: Path, names: tuple[str, ...]) -> str:
    """SHA-256 hex digest over the named files below `folder`, absent ones skipped."""
    digest = hashlib.sha256()
    for name in names:
        path = folder / name
        if path.is_file():
            digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def load_challenge(slug: str, root: Path = CHALLENGES_ROOT) -> Challenge:
    """Read the challenge called `slug`.

    Raises:
        ChallengeError: no such challenge, or its manifest does not hold together.
    """
    known = catalogue(root)
    if slug not in known:
        raise ChallengeError(f"no challenge called {slug!r}; there are: {', '.join(known) or 'none'}")
    folder = root / slug
    try:
        manifest = Manifest.model_validate(tomllib.loads((folder / "manifest.toml").read_text("utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, ValidationError) as error:
        raise ChallengeError(f"{folder / 'manifest.toml'}: {error}") from error
    return Challenge(manifest=manifest, folder=folder)


def catalogue(root: Path = CHALLENGES_ROOT) -> tuple[str, ...]:
    """The slugs of all challenges, sorted."""
    return tuple(sorted(path.parent.name for path in root.glob("*/manifest.toml")))

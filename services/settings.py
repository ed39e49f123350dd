"""Every setting of Assay, read once from the environment.

Each field is one environment variable `ASSAY_<NAME>`; its description and default are the
documentation: `assay settings` prints them and `docs/settings.md` is made from them.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, SettingsConfigDict

from grading.engine import MAX_SUBMISSION_BYTES
from sandbox.spec import Limits

SandboxChoice = Literal["auto", "docker", "process"]

ENV_PREFIX = "ASSAY_"
_LIMIT = "limit_"
_DEFAULT = Limits()


def _state_dir() -> Path:
    base = os.environ.get("XDG_STATE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".local" / "state") / "assay"


def _limit(name: str, description: str, *, ge: int | None = None, gt: int | None = None) -> Any:
    """A field whose default is that of `Limits`, so that neither can drift from the other."""
    return Field(default=getattr(_DEFAULT, name), description=description, ge=ge, gt=gt)


class Settings(BaseSettings):
    """What an operator may choose. Frozen: made once, by a composition root."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="ignore", env_ignore_empty=True)

    state_dir: Path = Field(
        default_factory=_state_dir,
        description="Folder where Assay remembers which controls have read right.",
        json_schema_extra={"shown_default": "$XDG_STATE_HOME/assay, else ~/.local/state/assay"},
    )
    sandbox: SandboxChoice = Field(
        default="auto",
        description="Sandbox of commands without --sandbox. auto: Docker where an Engine answers, else a "
        "plain process, which is for trying out only.",
    )
    docker_host: str | None = Field(
        default=None,
        description="Address of the Docker Engine, such as unix:///run/docker.sock.",
        json_schema_extra={"shown_default": "DOCKER_HOST, else the local socket"},
    )
    image: str | None = Field(
        default=None,
        description="Sandbox image to use instead of the one that `make image` builds.",
        json_schema_extra={"shown_default": "the built image"},
    )
    runtime: str = Field(
        default="",
        description="OCI runtime of the sandboxes as registered with the Engine: runc, runsc (gVisor), nvidia.",
        json_schema_extra={"shown_default": "the Engine's default"},
    )
    gpu: str = Field(
        default="",
        description="GPUs of the sandboxes, separated by commas: UUIDs (MIG slices too), indices or CDI names. "
        "Each sandbox has one of them to itself.",
        json_schema_extra={"shown_default": "none"},
    )
    gpu_lease_timeout_s: float = Field(default=600.0, ge=0, description="How long a job waits for a free GPU.")
    require: str = Field(
        default="",
        description="Checks of `assay doctor`, separated by commas, without which strangers' code is refused here, "
        "such as user-namespace,access-control. Those that are a must anywhere need not be named.",
        json_schema_extra={"shown_default": "none"},
    )
    doctor_valid_s: float = Field(
        default=3600.0, ge=0, description="How long a service relies on its last look at host and container."
    )
    jobs: int = Field(default=0, ge=0, le=256, description="Gradings at a time in a batch; 0 is one per processor.")
    debug: bool = Field(default=False, description="Show the traceback of an internal error.")
    interrupt_grace_s: float = Field(
        default=30.0,
        ge=0,
        description="How long an interrupted batch waits for the gradings under way.",
    )
    max_submission_bytes: int = Field(
        default=MAX_SUBMISSION_BYTES,
        gt=0,
        le=MAX_SUBMISSION_BYTES,
        description="Largest submission; a larger file is invalid and is not read.",
    )
    max_batch_files: int = Field(default=10_000, gt=0, description="Most submissions in one batch.")
    max_archive_bytes: int = Field(default=256 << 20, gt=0, description="Largest zip file that a batch opens.")
    max_archive_entries: int = Field(
        default=10_000, gt=0, description="Most members of a zip, of any kind; one with more is refused."
    )
    max_archive_uncompressed_bytes: int = Field(
        default=256 << 20, gt=0, description="Most bytes unpacked from one zip, counted as they are read."
    )
    max_report_bytes: int = Field(
        default=1 << 30, gt=0, description="Largest report or results file that is read back."
    )

    attack_neighbour_ratio: float = Field(
        default=4.0, gt=1, description="How many times its normal time a grading may take beside an attack."
    )
    attack_back_s: float = Field(
        default=5.0, gt=0, description="How long an attack's container, processes and cgroups may take to be gone."
    )

    bench_patience_s: float = Field(
        default=600.0,
        gt=0,
        description="How long `assay bench` waits for one bare run, and for the pool of warm containers to be full.",
    )

    limit_wall_time_s: float = _limit("wall_time_s", "Wall time of one whole job, container start excluded.", gt=0)
    limit_start_time_s: float = _limit("start_time_s", "Wall time until a new sandbox must be ready.", gt=0)
    limit_memory_bytes: int = _limit("memory_bytes", "Memory of a sandbox, swap and tmpfs included.", gt=0)
    limit_cpu_count: float = _limit("cpu_count", "Processors of a sandbox; torch gets as many threads.", gt=0)
    limit_pids: int = _limit("pids", "Processes and threads of a sandbox.", gt=0)
    limit_tmp_bytes: int = _limit("tmp_bytes", "Size of a sandbox's /tmp.", gt=0)
    limit_tmp_inodes: int = _limit("tmp_inodes", "Files and folders in a sandbox's /tmp.", gt=0)
    limit_shm_bytes: int = _limit("shm_bytes", "Size of a sandbox's /dev/shm.", gt=0)
    limit_shm_inodes: int = _limit("shm_inodes", "Files and folders in a sandbox's /dev/shm.", gt=0)
    limit_open_files: int = _limit("open_files", "Open files of one process in a sandbox.", gt=0)
    limit_file_bytes: int = _limit("file_bytes", "Largest single file that a submission may write.", gt=0)
    limit_output_bytes: int = _limit("output_bytes", "What one step may print before it is ended.", gt=0)
    limit_output_tail_bytes: int = _limit("output_tail_bytes", "How much of its end is kept.", ge=0)
    limit_evidence_bytes: int = _limit("evidence_bytes", "Evidence that one step may send.", gt=0)
    limit_evidence_frames: int = _limit("evidence_frames", "Frames of evidence that one step may send.", gt=0)
    limit_gpu_memory_bytes: int = _limit(
        "gpu_memory_bytes",
        "GPU memory of one process, held by torch's allocator and not by the kernel; 0 is all.",
        ge=0,
    )

    def gpus(self) -> tuple[str, ...]:
        """The devices that sandboxes may have, one each."""
        return _names(self.gpu)

    def required_checks(self) -> tuple[str, ...]:
        """The names of the checks that the operator made a must."""
        return _names(self.require)

    def chosen_limits(self) -> dict[str, Any]:
        """The limits that the operator set, by their names in `Limits`.

        They replace the challenge's own; a limit that was not set stays the challenge's.
        """
        names = (field.name for field in dataclasses.fields(Limits))
        return {name: getattr(self, _LIMIT + name) for name in names if _LIMIT + name in self.model_fields_set}


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in map(str.strip, text.split(",")) if name)


class Row(NamedTuple):
    """One setting as documentation."""

    name: str
    variable: str
    default: str
    description: str


def rows() -> tuple[Row, ...]:
    """Every setting in the order of the model."""
    return tuple(
        Row(name, ENV_PREFIX + name.upper(), _shown_default(field), field.description or "")
        for name, field in Settings.model_fields.items()
    )


def _shown_default(field: FieldInfo) -> str:
    extra = field.json_schema_extra
    if isinstance(extra, dict) and "shown_default" in extra:
        return str(extra["shown_default"])
    if isinstance(field.default, bool):
        return str(field.default).lower()
    if isinstance(field.default, int) and field.default >= 1 << 14 and field.default % (1 << 10) == 0:
        return f"{field.default} ({_binary(field.default)})"
    return f"{field.default:g}" if isinstance(field.default, float) else str(field.default)


def _binary(count: int) -> str:
    units = ("bytes", "KiB", "MiB", "GiB")
    step = max(i for i in range(len(units)) if count % (1 << (10 * i)) == 0)
    return f"{count >> (10 * step)} {units[step]}"


def markdown(settings: Iterable[Row] | None = None) -> str:
    """`docs/settings.md`."""
    lines = [
        "# Settings",
        "",
        "Made by `assay settings --markdown > docs/settings.md`; a test fails when it is stale.",
        "Every setting is one environment variable. The `ASSAY_LIMIT_…` ones show what holds where neither",
        "the operator nor the challenge says otherwise; one that is set wins over the challenge's.",
        "",
        "| variable | default | what it does |",
        "|---|---|---|",
    ]
    lines += [f"| `{row.variable}` | {row.default} | {row.description} |" for row in settings or rows()]
    return "\n".join(lines) + "\n"

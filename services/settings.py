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
from sandbox.pool import PoolConfig
from sandbox.remote import DEFAULT_SOCKET
from sandbox.runner import MAXIMA, RunnerConfig
from sandbox.spec import Limits

SandboxChoice = Literal["auto", "runner", "docker", "process"]

ENV_PREFIX = "ASSAY_"
_LIMIT = "limit_"
_DEFAULT = Limits()
_POOL = PoolConfig()
_RUNNER = RunnerConfig()


def _state_dir() -> Path:
    base = os.environ.get("XDG_STATE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".local" / "state") / "assay"


def _limit(name: str, description: str, *, ge: int | None = None, gt: int | None = None) -> Any:
    """A field whose default is that of `Limits`, so that neither can drift from the other."""
    return Field(default=getattr(_DEFAULT, name), description=description, ge=ge, gt=gt)


def _pool(name: str, description: str, *, ge: float | None = None, gt: float | None = None) -> Any:
    """The same for a field of `PoolConfig`."""
    return Field(default=getattr(_POOL, name), description=description, ge=ge, gt=gt)


def _runner(name: str, description: str, *, gt: float | None = None) -> Any:
    """The same for a field of `RunnerConfig`."""
    return Field(default=getattr(_RUNNER, name), description=description, gt=gt)


def _most(name: str, what: str) -> Any:
    """The same for a runner's maximum of a limit."""
    return Field(default=getattr(MAXIMA, name), description=f"Most that a runner's client may ask for: {what}.", gt=0)


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
        description="Sandbox of commands without --sandbox. auto: the runner where one answers, else Docker where "
        "an Engine does, else a plain process, which is for trying out only.",
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

    pool_min_size: int = _pool("min_size", "Warm containers that a runner keeps however idle it is.", ge=0)
    pool_max_size: int = Field(
        default=0, ge=0, description="Most warm containers, those warming up included; 0 is one per job at a time."
    )
    pool_warming: int = Field(
        default=0, ge=0, description="Containers warmed on the side at a time; 0 is one for every two processors."
    )
    pool_idle_s: float = _pool("idle_s", "Without jobs for this long, at most twice, the pool shrinks.", gt=0)
    pool_lifetime_s: float = _pool("lifetime_s", "A warm container that waited this long is replaced.", gt=0)
    pool_warming_time_s: float = _pool(
        "warming_time_s", "Wall time until a container warmed on the side must be ready.", gt=0
    )
    pool_memory_floor_bytes: int = _pool(
        "memory_floor_bytes",
        "Available memory of the host below which nothing is warmed and warm containers are given up.",
        ge=0,
    )
    pool_retries: int = _pool("retries", "How often a job whose container was lost is run again.", ge=0)
    pool_retry_pause_s: float = _pool("retry_pause_s", "Pause before that.", ge=0)
    pool_beside: bool = _pool(
        "beside", "Whether a submission that is alone runs its probes beside its own run, in a second warm container."
    )
    pool_backoff_s: float = _pool("backoff_s", "Longest pause of the pool while the Engine fails.", gt=0)
    pool_teardowns: int = _pool("teardowns", "Removals under way before a run does its own.", ge=0)
    pool_reap_interval_s: float = _pool("reap_interval_s", "How often abandoned containers are looked for.", gt=0)

    api_host: str = Field(default="127.0.0.1", description="Address that the API listens on.")
    api_port: int = Field(default=8000, ge=0, le=65_535, description="Port of the API; 0 takes a free one.")
    api_workers: int = Field(
        default=1,
        gt=0,
        le=64,
        description="Processes of `assay api`. With several, PROMETHEUS_MULTIPROC_DIR must name an empty folder.",
    )
    api_threads: int = Field(
        default=48, gt=0, le=512, description="Requests of one such process at a time; an event stream takes one."
    )
    public_url: str = Field(
        default="",
        description="Address under which others reach the API, such as https://assay.example; goes before links.",
        json_schema_extra={"shown_default": "none, links are paths"},
    )
    api_max_request_bytes: int = Field(
        default=256 << 20, gt=0, description="Largest request of all: a cohort's zip, form or JSON lines."
    )
    api_max_submission_request_bytes: int = Field(
        default=4 << 20, gt=0, description="Largest request with one submission; JSON may need twice its size or more."
    )
    api_max_cohort_json_bytes: int = Field(
        default=32 << 20, gt=0, description="Largest cohort as one JSON object, which is held in memory whole."
    )
    api_max_json_bytes: int = Field(default=256 << 10, gt=0, description="Largest other request.")
    api_max_archive_directory_bytes: int = Field(
        default=4 << 20, gt=0, description="Largest list of members of a zip that comes over the network."
    )
    api_rate_limit: str = Field(
        default="600/minute", description="Requests of one API key or integration; several limits are parted by ;."
    )
    api_anonymous_rate_limit: str = Field(
        default="120/minute", description="Requests without a valid key from one address."
    )
    api_backlog_limit: int = Field(
        default=20_000, gt=0, description="Submissions that may wait; more are told 429 with Retry-After."
    )
    api_backlog_retry_s: float = Field(default=30.0, gt=0, description="What Retry-After says then.")
    api_trusted_proxies: int = Field(
        default=0, ge=0, le=10, description="Reverse proxies in front, whose X-Forwarded-For and -Proto are believed."
    )
    api_metrics_public: bool = Field(
        default=False, description="Let /metrics be read without a key; else it takes one with the scope read."
    )
    api_metrics_cache_s: float = Field(
        default=2.0, ge=0, description="How old the counts in /metrics may be; the database is asked no more often."
    )
    idempotency_ttl_s: float = Field(default=86_400.0, gt=0, description="How long an Idempotency-Key is remembered.")
    sse_heartbeat_s: float = Field(default=15.0, gt=0, description="Longest silence of an event stream.")
    sse_poll_s: float = Field(default=0.5, gt=0, description="How often an event stream looks for news.")
    sse_max_s: float = Field(
        default=600.0, gt=0, description="An event stream ends after this long; clients come back by themselves."
    )
    sse_max_streams: int = Field(default=32, gt=0, description="Event streams of one API process at a time.")

    session_idle_s: float = Field(
        default=7200.0, gt=0, description="A sign-in to the dashboard ends after this long without a request."
    )
    session_max_s: float = Field(default=43_200.0, gt=0, description="And after this long whatever happens.")
    sign_in_attempts: int = Field(
        default=5, gt=0, le=100, description="Wrong passwords in a row after which an account is locked for a while."
    )
    sign_in_lock_s: float = Field(default=900.0, gt=0, description="How long that is.")
    pdf_fonts: str = Field(
        default="/usr/share/fonts/truetype/droid/DroidSansFallbackFull.ttf",
        description="Fonts for names in scripts beside Latin, Greek and Cyrillic in PDF reports, separated by commas; "
        "those that are not there are passed over. The default is of Debian's package fonts-droid-fallback (Chinese, "
        "Japanese, Korean).",
    )
    share_link_max_s: float = Field(
        default=2_592_000.0, gt=0, description="Longest life of a link that shows one report to whoever has it."
    )
    invitation_max_s: float = Field(
        default=7_776_000.0, gt=0, description="Longest life of a candidate's link, counted anew when it is extended."
    )
    invitation_batch: int = Field(default=200, gt=0, le=1000, description="Most candidates who are invited at once.")
    check_output_characters: int = Field(
        default=4000,
        ge=0,
        le=16_384,
        description="How much of the end of a program's output is kept for its candidate, where a challenge shows it.",
    )
    person_rate_limit: str = Field(
        default="600/minute", description="Requests of one person who is signed in to the dashboard."
    )

    runner_socket: Path = Field(default=DEFAULT_SOCKET, description="Unix socket of the runner.")
    runner_group: str = Field(
        default="",
        description="Group that may speak to the runner.",
        json_schema_extra={"shown_default": "the runner's own"},
    )
    runner_jobs: int = Field(default=0, ge=0, le=256, description="Jobs of a runner at a time; 0 is one per processor.")
    runner_queue: int = _runner("queue", "Jobs that may wait in a runner.", gt=0)
    runner_queue_per_client: int = Field(
        default=_RUNNER.queue_per_peer, gt=0, description="Jobs of one client process that may wait in a runner."
    )
    runner_clients: int = _runner("clients", "Connections that a runner holds.", gt=0)
    runner_clients_per_peer: int = _runner("clients_per_peer", "Connections of one client process.", gt=0)
    runner_max_steps: int = _runner("max_steps", "Steps of one job of a runner.", gt=0)
    runner_max_job_bytes: int = _runner("max_job_bytes", "Submission, modules and arrays of one job of a runner.", gt=0)
    runner_read_time_s: float = _runner("read_time_s", "Until a client must have sent its whole job.", gt=0)
    runner_send_time_s: float = _runner("send_time_s", "Until a client must have taken a frame of its result.", gt=0)
    runner_queue_time_s: float = _runner("queue_time_s", "How long a job waits for its turn in a runner.", gt=0)
    runner_grace_s: float = _runner("grace_s", "How long a runner that is told to stop waits for what runs.", gt=0)

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="From which level on the service logs, one JSON object per line on stderr."
    )
    database_url: str = Field(
        default="",
        repr=False,  # may hold a password
        description="Database of the service: postgresql://user@host/name or sqlite:////absolute/path.",
        json_schema_extra={"shown_default": "sqlite, the file assay.db in state_dir"},
    )
    redis_url: str = Field(
        default="",
        repr=False,  # may hold a password
        description="Queue of the service, such as redis://host:6379/0.",
        json_schema_extra={"shown_default": "the Redis that `assay serve` runs, a unix socket under state_dir"},
    )
    allow_process_sandbox: bool = Field(
        default=False,
        description="Development only: let workers grade in plain processes, which hold nobody. Never for "
        "strangers' code.",
    )
    lease_s: float = Field(
        default=60.0, gt=0, description="How long a worker owns a submission after its last sign of life."
    )
    heartbeat_s: float = Field(default=15.0, gt=0, description="How often a worker gives one; well below lease_s.")
    grade_limit_s: float = Field(
        default=900.0, gt=0, description="A grading that took this long, controls included, loses its lease."
    )
    max_attempts: int = Field(
        default=5, gt=0, description="After so many failures of the infrastructure a submission is dead, unscored."
    )
    retry_base_s: float = Field(default=5.0, gt=0, description="Pause before a second attempt; doubles each time.")
    retry_max_s: float = Field(default=300.0, gt=0, description="Longest such pause.")
    relay_poll_s: float = Field(default=0.2, gt=0, description="How often the relay looks for what is to be queued.")
    relay_batch: int = Field(default=100, gt=0, description="Most hints that the relay takes at a time.")
    sweep_every_s: float = Field(default=10.0, gt=0, description="How often the sweeper looks for what got stuck.")
    stale_queued_s: float = Field(
        default=60.0,
        gt=0,
        description="Where the queue lacks hints, a waiting submission whose hint is this old is hinted again.",
    )
    deliver_every_s: float = Field(default=1.0, gt=0, description="How often the sweeper has due webhooks sent.")
    worker_interactive_slots: int = Field(
        default=1, gt=0, le=256, description="Gradings at a time of single submissions in `assay serve`."
    )
    worker_cohort_slots: int = Field(
        default=1, gt=0, le=256, description="Gradings at a time of cohorts' submissions in `assay serve`."
    )
    worker_webhook_slots: int = Field(
        default=4, gt=0, le=256, description="Webhooks on their way at a time in one worker process."
    )
    worker_sandbox_wait_s: float = Field(
        default=30.0,
        ge=0,
        description="How long a worker whose sandbox does not answer holds a hint before it leaves it to others.",
    )
    worker_metrics_port: int = Field(
        default=0,
        ge=0,
        le=65_535,
        description="Port at which a worker tells its own metrics; 0: none, as in `assay serve`, whose API tells them.",
    )
    pool_report_s: float = Field(
        default=10.0,
        gt=0,
        le=3600,
        description="How often a worker tells the store of its warm containers, for the administrators' page.",
    )
    worker_metrics_host: str = Field(default="127.0.0.1", description="Address of that port.")
    store_patience_s: float = Field(
        default=300.0, ge=0, description="How long a worker with a result waits for a database that does not answer."
    )
    soft_stop_s: float = Field(
        default=60.0, ge=0, description="How long a worker that is told to stop lets a running grading go on."
    )
    broker_timeout_s: float = Field(default=5.0, gt=0, description="How long the queue may take to answer.")
    restart_pause_s: float = Field(
        default=0.5, gt=0, description="Pause before `assay serve` restarts a process that ended; doubles each time."
    )
    restart_pause_max_s: float = Field(default=30.0, gt=0, description="Longest such pause.")

    webhook_timeout_s: float = Field(
        default=20.0, gt=0, description="How long one webhook may take, from the name's resolution to the answer."
    )
    webhook_schedule_s: str = Field(
        default="0,5,300,1800,7200,18000,36000,50400,72000,86400",
        pattern=r"^\d{1,7}(,\d{1,7}){0,49}$",
        description="Pauses before the attempts to deliver a webhook. The first is made at once whatever its pause, "
        "and after the last the message is dead.",
    )
    webhook_jitter: float = Field(
        default=0.2, ge=0, le=1, description="Up to this share of such a pause is added to it by chance."
    )
    webhook_retry_after_max_s: float = Field(
        default=86_400.0, ge=0, description="Longest wait that a receiver may ask for with Retry-After."
    )
    webhook_max_response_bytes: int = Field(
        default=2048, ge=0, description="How much of a receiver's answer is read, for the delivery log."
    )
    webhook_tolerance_s: float = Field(
        default=300.0, gt=0, description="How far the time of an inbound webhook may be from now, either way."
    )
    webhook_allow_private: bool = Field(
        default=False,
        description="Development only: let webhooks go to private addresses and over plain http. The API takes "
        "such addresses from its clients, so this opens the network to them.",
    )

    runner_max_wall_time_s: float = _most("wall_time_s", "wall time of a job")
    runner_max_start_time_s: float = _most("start_time_s", "wall time until a sandbox is ready")
    runner_max_memory_bytes: int = _most("memory_bytes", "memory of a sandbox")
    runner_max_cpu_count: float = _most("cpu_count", "processors of a sandbox")
    runner_max_pids: int = _most("pids", "processes and threads")
    runner_max_tmp_bytes: int = _most("tmp_bytes", "size of /tmp")
    runner_max_tmp_inodes: int = _most("tmp_inodes", "files in /tmp")
    runner_max_shm_bytes: int = _most("shm_bytes", "size of /dev/shm")
    runner_max_shm_inodes: int = _most("shm_inodes", "files in /dev/shm")
    runner_max_open_files: int = _most("open_files", "open files of one process")
    runner_max_file_bytes: int = _most("file_bytes", "largest file")
    runner_max_output_bytes: int = _most("output_bytes", "printed by one step")
    runner_max_output_tail_bytes: int = _most("output_tail_bytes", "kept of it")
    runner_max_evidence_bytes: int = _most("evidence_bytes", "evidence of one step")
    runner_max_evidence_frames: int = _most("evidence_frames", "frames of evidence of one step")
    runner_max_gpu_memory_bytes: int = _most("gpu_memory_bytes", "GPU memory of one process")

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

    def store_url(self) -> str:
        """The database: what the operator chose, else a file in `state_dir`."""
        return self.database_url or f"sqlite:///{self.state_dir.absolute() / 'assay.db'}"

    def required_checks(self) -> tuple[str, ...]:
        """The names of the checks that the operator made a must."""
        return _names(self.require)

    def pdf_font_paths(self) -> tuple[Path, ...]:
        """The files of `pdf_fonts`."""
        return tuple(map(Path, _names(self.pdf_fonts)))

    def webhook_delays_s(self) -> tuple[float, ...]:
        """`webhook_schedule_s` as numbers."""
        return tuple(map(float, self.webhook_schedule_s.split(",")))

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
        "`ASSAY_SECRETS_DIR` may name a folder with files called like the variables in lower case, such as",
        "`assay_database_url`: for secrets that should not stand in the environment, which wins over them.",
        "",
        "| variable | default | what it does |",
        "|---|---|---|",
    ]
    lines += [f"| `{row.variable}` | {row.default} | {row.description} |" for row in settings or rows()]
    return "\n".join(lines) + "\n"

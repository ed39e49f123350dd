"""`assay runner` and the way of the other commands to it."""

from __future__ import annotations

import dataclasses
import json

import pytest

from sandbox.pool import PoolConfig
from sandbox.runner import MAXIMA, RunnerConfig
from sandbox.spec import Limits
from services.cli import LimitedSandbox
from services.commands import runner as command
from services.commands.base import close_sandbox, open_sandbox
from services.settings import Settings


@pytest.fixture
def started(monkeypatch):
    """What the process would have been replaced by."""
    configs = []
    monkeypatch.setattr(command, "replace_process", configs.append)
    return configs


def test_auto_prefers_a_runner_that_answers(desk):
    backend = desk.backend
    asked = []
    backend.pooled_sandbox = lambda jobs: asked.append(jobs)
    backend.docker_sandbox = lambda: asked.append("docker")
    open_sandbox(backend, "auto", jobs=3)
    open_sandbox(backend, "auto")
    backend.runner_works = True
    assert open_sandbox(backend, "auto").name == "docker"
    assert asked == [3, "docker"]


def test_docker_by_name_is_not_the_runner(desk):
    desk.backend.runner_works, desk.backend.docker_works = True, False
    desk.write("a.py")
    result = desk("grade", "a.py", "--challenge", "spiral", "--sandbox", "docker")
    assert result.exit_code == 4
    assert "no Engine" in result.stderr


def test_runner_by_name_must_answer(desk):
    desk.write("a.py")
    result = desk("grade", "a.py", "--challenge", "spiral", "--sandbox", "runner")
    assert result.exit_code == 4
    assert "no runner answers" in result.stderr


def test_batch_closes_what_it_opened(desk):
    closed = []
    backend, fake = desk.backend, desk.backend.docker_sandbox()
    fake.close = lambda: closed.append(True)
    backend.pooled_sandbox = lambda jobs: fake
    desk.write("a.py")
    assert desk("batch", "a.py", "--challenge", "spiral").exit_code == 0
    assert closed == [True]


def test_closing_reaches_through_the_operators_limits(desk):
    closed = []
    fake = desk.backend.docker_sandbox()
    fake.close = lambda: closed.append(True)
    close_sandbox(LimitedSandbox(fake, {"pids": 9}))
    close_sandbox(desk.backend.docker_sandbox())  # has nothing to close
    assert closed == [True]


def test_runner_gets_what_the_operator_set(desk, started, monkeypatch):
    monkeypatch.setenv("ASSAY_RUNNER_MAX_PIDS", "99")
    monkeypatch.setenv("ASSAY_RUNNER_QUEUE_PER_CLIENT", "7")
    monkeypatch.setenv("ASSAY_POOL_IDLE_S", "5")
    monkeypatch.setenv("ASSAY_LIMIT_MEMORY_BYTES", "1000000000")
    desk.backend.settings = Settings()
    assert desk("runner", "--socket", "/tmp/x.sock", "--jobs", "3", "--pool", "0").exit_code == 0
    (config,) = started
    assert (config.socket, config.jobs, config.queue_per_peer, config.maxima.pids) == ("/tmp/x.sock", 3, 7, 99)
    assert (config.pool.idle_s, config.pool.max_size, config.pool.min_size) == (5.0, 0, 0)
    assert config.standing.memory_bytes == 10**9
    assert RunnerConfig.from_json(config.to_json()) == config


def test_runner_runs_no_more_jobs_than_it_has_gpus(desk, started):
    desk("runner", "--gpu", "GPU-1, GPU-2", "--jobs", "9")
    assert (started[0].gpus, started[0].jobs) == (("GPU-1", "GPU-2"), 2)


def test_sizes_follow_the_processors(desk, started, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 6)
    desk("runner")
    assert (started[0].jobs, started[0].pool.max_size, started[0].pool.warming) == (6, 6, 3)


@pytest.mark.parametrize("kind", [PoolConfig, RunnerConfig, Limits])
def test_every_field_is_a_setting_with_the_same_default(kind):
    prefix = {PoolConfig: "pool_", RunnerConfig: "runner_", Limits: "runner_max_"}[kind]
    defaults = MAXIMA if kind is Limits else kind()
    not_alike = {"max_size", "warming", "capacity", "jobs", "queue_per_peer"}  # sized to the host, or named otherwise
    not_alike |= {"socket", "maxima", "image", "runtime", "docker_host", "gpus", "pool", "standing", "required"}
    for field in dataclasses.fields(kind):
        if field.name not in not_alike:
            assert Settings.model_fields[prefix + field.name].default == getattr(defaults, field.name), field.name


def test_status_without_a_runner_says_how_to_start_one(desk):
    result = desk("runner", "status", "--socket", desk.folder / "none.sock")
    assert result.exit_code == 4
    assert "assay runner" in result.stderr


def test_status_is_shown_inert(desk, monkeypatch):
    class Told:
        def __init__(self, *_):
            pass

        def status(self):
            shelf = {"warm": 2, "warming": 1}
            pool = {"shelves": [shelf], "teardowns": 0, "served": 9, "served_warm": 8, "lost": 1}
            one = {"client": "\x1b[2Jevil", "uid": 1, "pid": 2, "label": "x", "state": "running", "seconds": 1.5}
            return {
                "pid": 7,
                "stopping": False,
                "uptime_s": 60.0,
                "image": "image:1",
                "turns": {"running": 1, "waiting": 0},
                "jobs": 2,
                "queue": 64,
                "counts": {"served": 9, "refused": 0, "called_off": 0, "cut_off": 0},
                "pool": pool,
                "gpus": [],
                "connections": [one],
            }

    monkeypatch.setattr(command, "RunnerSandbox", Told)
    shown = desk("runner", "status")
    assert shown.exit_code == 0
    assert "2 warm, 1 warming" in shown.stdout and "evil" in shown.stdout and "\x1b" not in shown.stdout
    assert json.loads(desk("runner", "status", "--json").stdout)["pid"] == 7

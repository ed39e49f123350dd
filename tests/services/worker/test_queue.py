from __future__ import annotations

import os
from pathlib import Path

import pytest

from services.settings import Settings
from services.worker.queue import QUEUES, Hints, add_tasks, broker_url, make_app, short_path


def test_the_queue_takes_json_and_acknowledges_late(settings: Settings) -> None:
    conf = make_app(settings).conf
    assert conf.accept_content == ["json"]
    assert conf.task_serializer == "json"
    assert conf.task_acks_late
    assert conf.worker_prefetch_multiplier == 1
    assert not conf.worker_enable_remote_control
    assert {queue.name for queue in conf.task_queues} == set(QUEUES)


def test_the_queue_does_not_hang_on_a_socket(settings: Settings) -> None:
    assert make_app(settings).conf.broker_transport_options["socket_timeout"] == settings.broker_timeout_s


def test_without_an_address_the_embedded_redis_is_meant(tmp_path: Path) -> None:
    assert broker_url(Settings(state_dir=tmp_path)).endswith("/service/redis.sock")
    assert broker_url(Settings(state_dir=tmp_path, redis_url="redis://q:6379/1")) == "redis://q:6379/1"


def test_a_socket_whose_path_is_too_long_lies_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not shared with any other state folder, and its user's alone."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    deep, other = (Settings(state_dir=tmp_path / name / ("x" * 100)) for name in "ab")

    path = short_path(deep, "redis.sock")

    assert path != short_path(other, "redis.sock")
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert path.parent.stat().st_uid == os.getuid()


def test_a_folder_that_somebody_else_made_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    settings = Settings(state_dir=tmp_path / ("x" * 100))
    folder = short_path(settings, "redis.sock").parent
    folder.rmdir()
    folder.symlink_to(tmp_path)

    with pytest.raises(PermissionError):
        short_path(settings, "redis.sock")


def test_only_ids_reach_the_grader(settings: Settings) -> None:
    app = make_app(settings)
    graded: list[str] = []
    add_tasks(app, graded.append, lambda: None)

    for argument in ("sub_1", {"not": "an id"}, None):
        app.tasks["assay.grade"](argument)

    assert graded == ["sub_1"]
    Hints(app).close()

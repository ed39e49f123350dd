from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from sandbox.spec import SandboxUnavailable
from services.cli import main
from services.commands.base import Trouble
from services.commands.serve import _only_loopback
from services.commands.work import make_sandboxes, refuse_plain_processes, service_sandbox
from services.settings import Settings
from services.worker.sandboxes import WeakHost
from tests.services.conftest import FakeBackend


def backend(**options: object) -> FakeBackend:
    return FakeBackend(Settings(**options))  # type: ignore[arg-type]


def test_the_runner_is_preferred_and_docker_comes_next() -> None:
    one = backend(sandbox="auto")
    one.runner_works = True
    assert service_sandbox(one, 1).name == "docker"
    one.runner_works = False
    assert service_sandbox(one, 1).name == "docker"


def test_no_plain_process_steps_in_for_a_sandbox_that_is_away() -> None:
    one = backend(sandbox="auto")
    one.docker_works = False
    with pytest.raises(SandboxUnavailable):
        service_sandbox(one, 1)
    with pytest.raises(SandboxUnavailable):
        service_sandbox(backend(sandbox="runner"), 1)


def test_plain_processes_take_a_second_word() -> None:
    with pytest.raises(Trouble, match="holds nobody"):
        refuse_plain_processes(Settings(sandbox="process"))
    refuse_plain_processes(Settings(sandbox="process", allow_process_sandbox=True))


@pytest.mark.parametrize("command", ["worker", "serve"])
def test_a_worker_with_plain_processes_does_not_start(command: str, tmp_path: Path) -> None:
    settings = Settings(sandbox="process", state_dir=tmp_path)
    result = CliRunner().invoke(main, [command], obj=FakeBackend(settings))
    assert result.exit_code == 2
    assert "ASSAY_ALLOW_PROCESS_SANDBOX" in result.output


def test_a_sandbox_without_isolation_is_a_weak_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.commands.work.must_hold", lambda *_: ["user: root inside"])
    one = backend(sandbox="docker")
    with pytest.raises(WeakHost, match="root inside"), make_sandboxes(one, 1).one():
        pass


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.9.9.9"])
def test_loopback_is_served(host: str) -> None:
    _only_loopback(Settings(api_host=host))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "assay.example", ""])
def test_others_are_not(host: str) -> None:
    with pytest.raises(Trouble, match="loopback"):
        _only_loopback(Settings().model_copy(update={"api_host": host}))


@pytest.mark.parametrize("command", ["serve", "api", "worker", "relay", "sweeper"])
def test_help_teaches(command: str) -> None:
    result = CliRunner().invoke(main, [command, "--help"])
    assert result.exit_code == 0
    assert "Examples:" in result.output


def test_the_service_is_among_the_commands() -> None:
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0
    for command in ("serve", "api", "worker", "relay", "sweeper"):
        assert f"\n  {command} " in result.output

"""A representative part of the attack corpus, against the real Engine. `assay attack` runs all of it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from grading.challenge import load_challenge
from sandbox.docker import DockerSandbox
from sandbox.rehearsal import RehearsalSandbox
from services.attacks import Range, Result, load_corpus
from services.settings import Settings

pytestmark = [pytest.mark.docker, pytest.mark.slow]

CORPUS = {attack.name: attack for attack in load_corpus()}

SANDBOX = (
    "mount_calls",
    "agents_memory_file",
    "socket_families",
    "capabilities",
    "files_everywhere",
    "fork_bomb",
    "memory_bomb",
    "tmp_filled",
    "double_fork_daemon",
    "agent_killed",
    "frame_of_impossible_length",
    "frames_of_the_judges_dreams",
)
FORGERIES = (
    "exit_at_import",
    "patched_no_grad_noop",
    "lr_raised_by_step_hooks",
    "kitchen_sink",
    "fake_frames_into_every_pipe",
    "canned_history",
    "mu_watched",
)
HONEST = (
    "atexit_message",
    "functional_call",
    "profiler_of_one_epoch",
    "progress_thread",
    "sys_exit_at_end",
    "hooks_that_log",
    "autograd_function_of_its_own",
    "checkpoints_with_torch_save",
)


@pytest.fixture(scope="module")
def field() -> Range:
    settings = Settings()
    return Range(
        DockerSandbox(),
        load_challenge("spiral"),
        neighbour_ratio=settings.attack_neighbour_ratio,
        back_s=settings.attack_back_s,
    )


@pytest.fixture(scope="module")
def sandbox_results(field: Range) -> dict[str, Result]:
    """Two at a time; each waits more than it computes."""
    with ThreadPoolExecutor(2) as pool:
        attacks = [CORPUS[name] for name in SANDBOX]
        return {r.name: r for r in pool.map(lambda attack: field.run(attack, neighbour=False), attacks)}


@pytest.mark.parametrize("name", SANDBOX)
def test_sandbox_attack_is_held(sandbox_results: dict[str, Result], name: str) -> None:
    result = sandbox_results[name]
    assert result.failures == ()
    assert result.back_s is not None, "its container was not looked at from the host"


def test_a_neighbour_is_not_disturbed(field: Range) -> None:
    """One attack that takes all it can get, with the solution graded beside it."""
    result = field.run(CORPUS["processor_spun"], neighbour=True)
    assert result.failures == ()


@pytest.fixture(scope="module")
def rehearsed(rehearsal: RehearsalSandbox) -> dict[str, Result]:
    """Verdicts do not depend on the walls around a program that does not attack them."""
    range_ = Range(rehearsal, load_challenge("spiral"), neighbour_ratio=4.0, back_s=5.0)
    with ThreadPoolExecutor(2) as pool:
        attacks = [CORPUS[name] for name in (*FORGERIES, *HONEST)]
        return {r.name: r for r in pool.map(lambda attack: range_.run(attack, neighbour=False), attacks)}


@pytest.mark.parametrize("name", FORGERIES)
def test_forgery_gains_nothing(rehearsed: dict[str, Result], name: str) -> None:
    assert rehearsed[name].failures == ()


@pytest.mark.parametrize("name", HONEST)
def test_honest_oddity_is_read_exactly(rehearsed: dict[str, Result], name: str) -> None:
    assert rehearsed[name].failures == ()

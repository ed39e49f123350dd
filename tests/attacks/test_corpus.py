"""Every folder of the attack corpus is well formed, and the runner notices what does not hold."""

from __future__ import annotations

import ast
import collections
import json
import os
import re
import signal
import threading
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from grading.challenge import load_challenge
from sandbox.spec import Frame, Job, Limits, RunResult, RunStatus, RunTiming, StepListener, StepResult
from services.attacks import (
    CANARY_PREFIX,
    CLASSES,
    CORPUS,
    GOT_THROUGH,
    Attack,
    Canaries,
    CorpusError,
    Expectation,
    Range,
    Result,
    load_corpus,
    step_job,
)
from services.cli import main
from services.commands import attack as command

BUGS = {bug.id for bug in load_challenge("spiral").manifest.bugs}
CLEAN = {
    "processes": 0,
    "tmp": ["submission", "work"],
    "work": [],
    "shm": [],
    "submission_intact": True,
    "nice": 0,
    "stdout_is_pipe": True,
}


@pytest.fixture(scope="module")
def corpus() -> tuple[Attack, ...]:
    return load_corpus()


def test_corpus_is_as_large_as_promised(corpus: tuple[Attack, ...]) -> None:
    counts = collections.Counter(attack.attack_class for attack in corpus)
    assert all(counts[name] >= 60 for name in CLASSES), counts


def test_names_are_unique_and_plain(corpus: tuple[Attack, ...]) -> None:
    names = [attack.name for attack in corpus]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for name in names)


def test_no_two_attacks_are_alike(corpus: tuple[Attack, ...]) -> None:
    assert len({attack.source for attack in corpus}) == len(corpus)


def test_every_submission_is_a_whole_file(corpus: tuple[Attack, ...]) -> None:
    """A file that does not even parse attacks nobody."""
    required = set(load_challenge("spiral").manifest.required_names)
    for attack in corpus:
        tree = ast.parse(attack.source)
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        names |= {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
        if attack.expect.drive == "step":
            assert "attack" in names, attack.name
        if attack.attack_class == "sandbox":
            assert required <= names, attack.name


def test_expectations_name_known_bugs_limits_and_patterns(corpus: tuple[Attack, ...]) -> None:
    for attack in corpus:
        holds = attack.expect.holds
        assert set(holds.never_fixed) | set(holds.unmended or ()) <= BUGS, attack.name
        assert set(attack.expect.limits) <= set(vars(Limits())), attack.name
        for pattern in (*holds.output_must, *holds.output_never, *holds.remarks_must):
            re.compile(pattern)
        if attack.attack_class == "honest":
            assert holds.unmended is not None and not holds.known_limit, attack.name
        if attack.attack_class == "forgery":
            assert holds.never_fixed and attack.expect.drive == "grade", attack.name


def test_no_submission_holds_what_its_run_is_searched_for(corpus: tuple[Attack, ...]) -> None:
    """A canary's prefix or the word of success in the source would be found where nothing came out."""
    for attack in corpus:
        assert CANARY_PREFIX.encode() not in attack.source, attack.name
        assert GOT_THROUGH.encode() not in attack.source, attack.name


def test_nothing_but_attacks_lies_in_the_corpus() -> None:
    for name in CLASSES:
        for folder in (CORPUS / name).iterdir():
            assert {path.name for path in folder.iterdir()} <= {"submission.py", "expect.toml", "__pycache__"}, folder


@pytest.mark.parametrize("text", ['class = "sandbox"', 'class = "forgery"\ntitle = "x"\ntries = "y"\n[holds]\nodd = 1'])
def test_a_damaged_folder_is_refused(tmp_path: Path, text: str) -> None:
    for name in CLASSES:
        (tmp_path / name).mkdir()
    folder = tmp_path / "sandbox" / "odd"
    folder.mkdir()
    (folder / "submission.py").write_text("")
    (folder / "expect.toml").write_text(text)
    with pytest.raises(CorpusError, match="odd"):
        load_corpus(tmp_path)


# --- does the runner notice? ------------------------------------------------------------


class Scripted:
    """A sandbox that gives what it was told to."""

    name = "scripted"

    def __init__(self, output: bytes, left: dict[str, object], status: RunStatus = RunStatus.OK) -> None:
        self._output, self._left, self._status = output, left, status

    def run(self, job: Job, listener: StepListener | None = None) -> RunResult:
        """The scripted steps; `{canary}` in the output stands for the environment's canary."""
        output = self._output.replace(b"{canary}", os.environ["ASSAY_ATTACK_CANARY"].encode())
        frame = Frame(json.dumps({"data": self._left}).encode(), b"")
        steps = (
            StepResult("attack", self._status, output_tail=output),
            StepResult("afterwards", RunStatus.OK, frames=(frame,)),
        )
        return RunResult(steps, RunTiming(), self.name)

    def cannot_hold(self) -> tuple[str, ...]:
        """Nothing."""
        return ()


def _run(sandbox: Scripted, **holds: object) -> tuple[str, ...]:
    expect = {"class": "sandbox", "title": "a test", "tries": "nothing at all", "drive": "step", "holds": holds}
    attack = Attack("test", b"def attack(): pass", Expectation.model_validate(expect))
    range_ = Range(sandbox, load_challenge("spiral"), neighbour_ratio=4.0, back_s=1.0)
    return range_.run(attack, neighbour=False).failures


def test_a_quiet_attack_holds() -> None:
    assert _run(Scripted(b"attack: over", CLEAN), output_must=["attack: over"], status={"attack": ["ok"]}) == ()


@pytest.mark.parametrize(
    ("sandbox", "holds", "said"),
    [
        (Scripted(b"GOT THROUGH: mount", CLEAN), {}, "printed: GOT THROUGH: mount"),
        (Scripted(b"x {canary} x", CLEAN), {}, "came out of the sandbox: environment"),
        (Scripted(b"", CLEAN | {"processes": 2}), {}, "left to the next step: processes = 2"),
        (Scripted(b"", CLEAN | {"shm": ["x"]}), {}, "left to the next step: shm"),
        (Scripted(b"", CLEAN), {"output_must": ["over"]}, "never printed 'over'"),
        (Scripted(b"", CLEAN), {"remarks_must": ["outlived"]}, "no remark says 'outlived'"),
        (Scripted(b"", CLEAN, RunStatus.SIGNALED), {"status": {"attack": ["ok"]}}, "ended with signaled, not ok"),
    ],
)
def test_what_does_not_hold_is_told(sandbox: Scripted, holds: dict[str, object], said: str) -> None:
    assert any(said in failure for failure in _run(sandbox, **holds))


class Broken(Scripted):
    """A sandbox that breaks in a way that nobody foresaw."""

    def run(self, job: Job, listener: StepListener | None = None) -> RunResult:
        """Break."""
        raise KeyError("unforeseen")


def test_a_grader_that_breaks_is_a_failure_not_the_end() -> None:
    assert any("the grader broke: KeyError" in failure for failure in _run(Broken(b"", CLEAN)))


def test_canaries_are_fresh_each_time() -> None:
    assert Canaries().words != Canaries().words


def test_step_job_takes_the_limits_of_the_folder() -> None:
    expect = {"class": "sandbox", "title": "a test", "tries": "nothing at all", "drive": "step", "holds": {}}
    job = step_job(Attack("test", b"", Expectation.model_validate(expect | {"limits": {"pids": 9.0}})))
    assert job.limits.pids == 9 and isinstance(job.limits.pids, int)


def test_the_list_needs_no_sandbox() -> None:
    result = CliRunner().invoke(main, ["attack", "--list", "--class", "sandbox"])
    assert result.exit_code == 0 and "fork_bomb" in result.output


def test_an_unknown_name_is_refused() -> None:
    result = CliRunner().invoke(main, ["attack", "--only", "no_such_attack"])
    assert result.exit_code == 2 and "no_such_attack" in result.output


def test_sandbox_attacks_run_in_containers_only() -> None:
    result = CliRunner().invoke(main, ["attack", "--only", "fork_bomb", "--sandbox", "rehearsal"])
    assert result.exit_code == 2 and "container" in result.output


@pytest.mark.parametrize("as_json", [False, True])
def test_ctrl_c_ends_with_what_was_seen(monkeypatch: pytest.MonkeyPatch, as_json: bool) -> None:
    """The first fails and is told of at once; somebody stops during the second; the third never begins."""
    names = [attack.name for attack in load_corpus() if attack.attack_class == "sandbox"][:3]
    begun: list[str] = []

    class Told:
        normal_s = None

        def __init__(self, *_: object, **__: object) -> None:
            pass

        def run(self, attack: Attack, *, neighbour: bool) -> Result:
            begun.append(attack.name)
            if attack.name == names[1]:
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
                time.sleep(0.5)  # the main thread takes it meanwhile
            failures = ("it got out",) if attack.name == names[0] else ()
            return Result(attack.name, attack.attack_class, attack.expect.title, failures)

    monkeypatch.setattr(command, "Range", Told)
    monkeypatch.setattr(command, "open_sandbox", lambda *_: Scripted(b"", CLEAN))
    chosen = [word for name in names for word in ("--only", name)]
    result = CliRunner().invoke(main, ["attack", *chosen, "--no-neighbour", "--jobs", "1", *["--json"] * as_json])
    assert result.exit_code == 130 and begun == names[:2]
    assert f"sandbox/{names[0]}: FAILED: it got out" in result.stderr
    assert "1 of 3 attacks were not run" in result.stderr
    if as_json:
        told = json.loads(result.stdout)
        assert (told["held"], told["not_run"]) == (False, 1)
        assert [one["name"] for one in told["attacks"]] == names[:2]
    else:
        assert f"{names[0]}: FAILED" in result.stdout and names[2] not in result.stdout

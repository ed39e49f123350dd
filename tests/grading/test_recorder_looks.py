"""Single looks of the recorder and of the pretended GPU, on small models."""

from __future__ import annotations

import atexit
import gc
import math
import subprocess
import sys
import textwrap
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from grading.probes import backwards, frames, recorder
from grading.probes.columns import BACKWARD_COLUMNS, CONTEXTS, FORWARD_COLUMNS, STEP_COLUMNS
from grading.probes.ghost import GhostDevice, device_of
from grading.probes.graphs import Token, deepest_node
from grading.probes.modules import ModelState
from grading.probes.optimizers import steps_taken
from grading.probes.program import Ending
from grading.probes.recorder import Recorder


def _watch() -> Recorder:
    return Recorder(lambda *_: None, "x", thorough=False)


def _stepped(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> None:
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()


@pytest.mark.parametrize("decoy", [torch.optim.Adam, torch.optim.SGD])
@pytest.mark.parametrize("real", [torch.optim.Adam, torch.optim.SGD])
def test_the_optimizer_that_steps_is_told_from_one_made_later(real: Any, decoy: Any) -> None:
    parameter, watch = nn.Parameter(torch.zeros(3)), _watch()
    settings = {"momentum": 0.9} if real is torch.optim.SGD else {}
    watch.optimizers.made = [real([parameter], lr=0.04, **settings), decoy([parameter], lr=1e-3)]
    for _ in range(3):
        _stepped(watch.optimizers.made[0], parameter)
        assert watch.optimizers.of(parameter, moved=True) is watch.optimizers.made[0]
    assert watch.optimizers.of(parameter, moved=False) is watch.optimizers.made[0]
    _stepped(watch.optimizers.made[1], parameter)
    if decoy is torch.optim.Adam:
        assert watch.optimizers.of(parameter, moved=True) is watch.optimizers.made[1]
        assert steps_taken(watch.optimizers.made[1]) == 1


def test_a_graph_kept_below_the_output_keeps_its_token() -> None:
    model, alive, kept = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3)), set(), []
    for serial in range(4):
        hidden = model[:2](torch.randn(5, 2))
        output = model[2](hidden)
        token = Token(serial, alive)
        deepest_node(output).register_prehook(lambda _, tied=token: None)
        if serial % 2:
            kept.append(hidden)
        output.sum().backward()
    del output, hidden, token
    gc.collect()
    assert sorted(alive) == [1, 3]
    kept.clear()
    gc.collect()
    assert not alive


def test_a_weight_computed_once_for_many_batches_belongs_to_none_of_them() -> None:
    raw, alive = nn.Parameter(torch.randn(3, 2)), set()
    weight = raw.exp().sin()  # lives on, as a cached parametrization does
    for serial in range(3):
        output = nn.functional.linear(torch.randn(5, 2), weight)
        token = Token(serial, alive)
        deepest_node(output).register_prehook(lambda _, tied=token: None)
        output.sum().backward(retain_graph=True)
    del output, token
    gc.collect()
    assert len(alive) <= 1


class _Decoyed(nn.Module):
    def __init__(self, share: float) -> None:
        super().__init__()
        self.layer, self.share = nn.Linear(2, 3), share

    def forward(self, decoy: torch.Tensor, *, rows: torch.Tensor) -> torch.Tensor:
        return self.layer(rows + self.share * decoy)


@pytest.mark.parametrize("share", [0.0, 1e-6])
def test_the_rows_are_those_that_the_output_hangs_on(share: float) -> None:
    watch, rows = _watch(), torch.randn(8, 2)
    found = watch._input_rows(_Decoyed(share), (torch.randn(8, 2),), {"rows": rows}, _Decoyed.forward)
    assert found is rows


def _gaps(model: nn.Module) -> tuple[float, float]:
    torch.manual_seed(0)
    model.eval()
    rows = torch.randn(16, 2)
    with torch.no_grad():
        output = model(rows)
    return _watch()._eval_gaps(model, (rows,), {}, output, type(model).forward)


class _FixedMask(nn.Dropout):
    def forward(self, value: torch.Tensor) -> torch.Tensor:
        return value * (torch.arange(value.shape[1]) % 2)


class _QuietWhenEvaluating(nn.Dropout):
    def forward(self, value: torch.Tensor) -> torch.Tensor:
        return super().forward(value) if self.training else value


def test_hidden_effects_of_the_batch_and_of_dropout_show_in_eval_mode() -> None:
    plain = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))
    assert _gaps(plain) == (0.0, 0.0)
    assert _gaps(nn.Sequential(nn.Linear(2, 8), _QuietWhenEvaluating(0.5))) == (0.0, 0.0)
    assert _gaps(nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8, track_running_stats=False)))[1] > 0.01
    assert _gaps(nn.Sequential(nn.Linear(2, 8), _FixedMask(0.5)))[0] > 0.01
    assert math.isnan(_watch()._eval_gaps(plain, (torch.randn(2, 2),), {}, torch.randn(2, 8), nn.Sequential.forward)[1])


@pytest.fixture
def no_exit_hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hooks of this interpreter stay uncalled: executors of later tests are told to end for good by them."""
    monkeypatch.setattr(threading, "_threading_atexits", [])


@pytest.mark.usefixtures("no_exit_hooks")
def test_a_script_comes_to_its_end_with_its_threads_and_exit_handlers() -> None:
    seen: list[str] = []
    register = atexit.register
    with Ending() as ending:
        atexit.register(seen.append, "first registered")
        atexit.register(seen.append, "taken back")
        atexit.unregister(seen.append)
        atexit.register(seen.append, "last registered")
        atexit.register(int, "no number")
        worker = threading.Thread(target=lambda: seen.append("thread"))
        worker.start()
        assert ending.see_through() is None
    assert seen == ["thread", "last registered"]
    assert ending.threads_left == 0 and atexit.register is register


def test_an_executor_that_was_left_open_is_no_thread_that_goes_on() -> None:
    """In a process of its own: telling executors to end is for good."""
    program = textwrap.dedent(
        """
        from concurrent.futures import ThreadPoolExecutor
        from grading.probes.program import Ending
        with Ending() as ending:
            pool = ThreadPoolExecutor(2)
            saved = pool.submit(int, "7")
            ending.see_through()
        print(saved.result(), ending.threads_left)
        """
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert run.stdout.split() == ["7", "0"]


@pytest.mark.parametrize(
    ("program", "told", "status"),
    [
        ("os._exit(3)", "3", 0),  # what was told stands for it
        ("if os.fork() == 0: os._exit(3)\n    print(os.waitstatus_to_exitcode(os.wait()[1]))", "3", 0),
        ("import multiprocessing\n    multiprocessing.get_context('fork').Process(target=int).start()", "", 0),
    ],
)
def test_who_ends_its_interpreter_is_heard_before_and_its_children_are_not(
    program: str, told: str, status: int
) -> None:
    text = f"""import os
from grading.probes.program import Ending

def leave(status):
    print(status, flush=True)

with Ending(leave):
    {program}
"""
    run = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=120, check=False)
    assert (run.stdout.strip(), run.returncode) == (told, status), run.stderr


@pytest.mark.usefixtures("no_exit_hooks")
def test_a_thread_that_outlives_the_script_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ending, "PATIENCE_S", 0.05)
    release = threading.Event()
    with Ending() as ending:
        worker = threading.Thread(target=release.wait)
        worker.start()
        ending.see_through()
    release.set()
    worker.join()
    assert ending.threads_left == 1


def test_what_a_forward_pass_takes_back_from_the_pretended_gpu_is_counted() -> None:
    version: Any = torch.version
    built_for = version.cuda
    with GhostDevice(__name__, available=True) as ghost:
        assert torch.version.cuda
        weight = nn.Parameter(torch.ones(3, 2).to("cuda"))
        rows = torch.randn(4, 2).to("cuda")
        loss = nn.functional.linear(rows, weight).sum()
        loss.cpu()
        assert ghost.brought_back == 0
        ghost.computing = True
        rows.cpu()
        assert ghost.brought_back == 0
        weight.to("cpu")
        nn.functional.linear(rows, weight).cpu()
        assert ghost.brought_back == 2
    assert version.cuda == built_for


def test_tokens_die_with_their_graph() -> None:
    alive: set[int] = set()
    token = Token(1, alive)
    seen = weakref.ref(token)
    del token
    assert seen() is None and not alive


def test_the_pretended_gpu_is_seen_inside_a_transformed_function() -> None:
    places: list[str] = []
    with GhostDevice(__name__, available=True):
        weight = torch.ones(3).to("cuda")

        def loss(inner: torch.Tensor) -> torch.Tensor:
            places.append(device_of(inner))
            return (inner**2).sum()

        torch.func.grad(loss)(weight)
    assert places == ["cuda"]


def _steps(watch: Recorder, count: int, *, clears_until: int) -> None:
    """Train a small model for so many steps; its gradients are cleared before the first of them only."""
    model = nn.Linear(2, 3)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for number in range(count):
        if number < clears_until:
            optimizer.zero_grad()
        model(torch.randn(4, 2)).square().sum().backward()
        optimizer.step()


def test_beyond_the_passes_that_are_all_looked_at_some_still_are_and_all_are_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in (("CLOSE_PASSES", 64), ("STRETCH", 8), ("LATE_SHARE", 0.25)):
        monkeypatch.setattr(backwards, name, value)
    told: dict[str, Any] = {}
    watch = Recorder(lambda name, data, *_: told.update({name: data}), "x", thorough=False, seed=1)

    with watch:
        _steps(watch, 1000, clears_until=80)
        watch.finish()

    rows = np.array(watch.backwards.rows)
    assert 64 < len(rows) < 600, "a part of the later ones"
    left_over, moved = (rows[:, BACKWARD_COLUMNS.index(name)] > 0 for name in ("left_over", "moved"))
    assert not left_over[:64].any() and left_over[64:].mean() > 0.9, "what began late shows"
    assert moved[64:].any()
    assert [(one["passes"], one["steps"]) for one in told["x.summary"]["optimizers"]] == [(1000, 1000)]


@pytest.mark.parametrize("adds", [True, False], ids=["added up", "assigned"])
def test_gradients_that_are_assigned_are_told_from_those_that_add_up(adds: bool) -> None:
    model, watch = nn.Linear(2, 3), _watch()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    with watch:
        for _ in range(40):
            loss = model(torch.randn(16, 2)).square().sum()
            for parameter, gradient in zip(
                model.parameters(), torch.autograd.grad(loss, list(model.parameters())), strict=True
            ):
                parameter.grad = gradient + (parameter.grad if adds and parameter.grad is not None else 0)
            optimizer.step()
    left_over = np.array(watch.backwards.rows)[2:, BACKWARD_COLUMNS.index("left_over")]
    assert (left_over == (1.0 if adds else 0.5)).all()


def test_rows_are_told_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "ROWS_BYTES", 10 * 4 * 2 * 4)
    told: list[int] = []
    watch = Recorder(
        lambda name, data, arrays=None: told.extend(map(len, (arrays or {}).get("row_serials", []))),
        "x",
        thorough=False,
    )

    with watch:
        _steps(watch, 100, clears_until=100)
        watch.finish()

    assert len(told) == 10


def test_a_forward_in_another_thread_belongs_to_what_the_program_is_in_the_middle_of() -> None:
    """Whether gradients are on is a thread's own affair, so what `validate` hands to a thread is looked at, too."""
    source = """
    def validate(model, rows):
        with torch.no_grad(), ThreadPoolExecutor(1) as pool:
            inside = model(rows)
            return inside, pool.submit(model, rows).result()
    """
    names: dict[str, Any] = {"torch": torch, "ThreadPoolExecutor": ThreadPoolExecutor}
    exec(textwrap.dedent(source), names)
    watch, model, rows = _watch(), nn.Linear(2, 3), torch.randn(4, 2)
    with watch:
        watch.namespace = names
        names["validate"](model, rows)
        with ThreadPoolExecutor(1) as pool:
            pool.submit(model, rows).result()
        seen = np.array(watch.forwards)
    context, graph = (seen[:, FORWARD_COLUMNS.index(name)] for name in ("context", "graph"))
    assert context.tolist() == [CONTEXTS["validate"], CONTEXTS["validate"], 0]
    assert graph.tolist() == [0, 1, 1]


class _Thing:
    """Something that can be waited for to go."""


@pytest.mark.parametrize(
    ("keep", "parts", "held"),
    [
        ("kept = kept[-9:] + [loss]", 1, True),
        ("kept = kept[-4:] + [outputs]", 1, True),
        ("kept = kept[-9:] + [loss.detach()]", 1, False),
        ("kept = kept[-1:] + [loss]", 1, False),
        ("kept = losses", 8, False),  # the graphs of one step, however many
        ("loss.myself = [loss]", 1, False),  # which waits for Python's collector
    ],
)
def test_graphs_of_several_steps_held_at_once_are_told_from_those_of_one(keep: str, parts: int, held: bool) -> None:
    told: list[dict[str, Any]] = []
    program = f"""
        def train_one_epoch(model, optimizer):
            kept = []
            for batch in range(160 // {parts}):
                optimizer.zero_grad()
                losses = []
                for _ in range({parts}):
                    outputs = model(torch.randn(8, 2))
                    losses.append(outputs.square().mean())
                loss = sum(losses)
                loss.backward()
                optimizer.step()
                {keep}
    """
    namespace: dict[str, Any] = {"torch": torch}
    exec(textwrap.dedent(program), namespace)
    watch = Recorder(lambda name, data, *_: told.append(data), "x", thorough=False, seed=3)
    watch.namespace = namespace
    gc.disable()
    try:
        with watch:
            model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3))
            namespace["train_one_epoch"](model, torch.optim.Adam(model.parameters()))
            watch.finish()
    finally:
        gc.enable()

    looks, windows = told[-1]["looks"], told[-1]["looks_at_windows"]

    assert looks >= 4
    assert windows >= 0.8 * looks if held else windows == 0


def test_looking_at_variables_keeps_nothing_alive() -> None:
    def program() -> tuple[Any, dict[str, Any]]:
        thing = _Thing()
        gone = weakref.ref(thing)
        seen = set(frames.variables_of(sys._getframe()))
        assert {"thing", "gone"} <= seen
        del thing
        return gone(), frames.variables_of(sys._getframe())

    alive, later = program()
    assert alive is None and "thing" not in later


def test_looking_at_variables_leaves_the_programs_own_dict_of_them() -> None:
    def program() -> dict[str, Any]:
        rate = 1e-3
        mine = locals()
        frames.variables_of(sys._getframe())
        return {"rate": mine["rate"], "is": rate}

    assert program() == {"rate": 1e-3, "is": 1e-3}
    names: dict[str, Any] = {"look": lambda: frames.variables_of(sys._getframe(1)), "kept": 1}
    exec("look()", names)
    assert names["kept"] == 1, "a module's frame has the module's own names"


def test_passes_in_threads_at_once_are_each_seen_and_nothing_after_them_is_missed() -> None:
    """A program may validate its batches in a pool of threads, in the middle of whose passes others begin."""
    watch = Recorder(lambda *_: None, "x", thorough=False)
    meeting = threading.Barrier(2, timeout=20)

    class Meets(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 4)
            self.meets = True

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.meets:
                meeting.wait()  # both are inside now
            return self.layer(x)

    with watch, torch.no_grad():
        model = Meets()
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(model, [torch.zeros(3, 2), torch.zeros(5, 2)]))
        model.meets = False
        model(torch.zeros(7, 2))
    rows = FORWARD_COLUMNS.index("rows")
    assert sorted(row[rows] for row in watch.forwards) == [3, 5, 7]
    assert sorted(row[FORWARD_COLUMNS.index("serial")] for row in watch.forwards) == [0, 1, 2]


def test_parts_of_a_model_that_run_in_threads_are_no_passes_of_their_own() -> None:
    watch = Recorder(lambda *_: None, "x", thorough=False)

    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.branches = nn.ModuleList([nn.Linear(2, 4), nn.Linear(2, 4)])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with ThreadPoolExecutor(2) as pool:
                return torch.stack(list(pool.map(lambda branch: branch(x), self.branches))).sum(0)

    with watch, torch.no_grad():
        Branches()(torch.zeros(3, 2))
    assert len(watch.forwards) == 1


@pytest.mark.parametrize("to_none", [True, False], ids=["none", "zeros"])
@pytest.mark.parametrize("hooked", [True, False], ids=["by its own hook", "not at all"])
def test_what_a_step_uses_is_looked_at_after_the_programs_own_hooks(hooked: bool, to_none: bool) -> None:
    model = nn.Linear(2, 3)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    if hooked:
        optimizer.register_step_pre_hook(lambda one, *_: one.zero_grad(set_to_none=to_none))
    watch = Recorder(lambda *_: None, "x", thorough=True)

    with watch:
        for _ in range(4):
            optimizer.zero_grad()
            model(torch.randn(4, 2)).square().sum().backward()
            optimizer.step()

    shares = [row[STEP_COLUMNS.index("fresh_share")] for row in watch.steps]
    assert shares == pytest.approx([0.0 if hooked else 1.0] * 4)
    assert len(optimizer._optimizer_step_pre_hooks) == hooked, "nothing of the watch's is left"


def test_steps_of_a_checkpoint_are_none_of_an_optimizers_own() -> None:
    told: dict[str, Any] = {}
    watch = Recorder(lambda name, data, *_: told.update({name: data}), "x", thorough=False, seed=1)
    model = nn.Linear(2, 3)
    saved = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(50):
        for parameter in model.parameters():
            _stepped(saved, parameter)

    with watch:
        resumed = torch.optim.Adam(model.parameters(), lr=1e-3)
        resumed.load_state_dict(saved.state_dict())
        for _ in range(10):
            resumed.zero_grad()
            model(torch.randn(4, 2)).square().sum().backward()
            resumed.step()
        watch.finish()

    assert [(one["passes"], one["steps"]) for one in told["x.summary"]["optimizers"]] == [(10, 10)]


class _PlainWeights(nn.Module):
    """A layer whose weights are no parameters, above one whose are."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = [torch.randn(4, 2, requires_grad=True)]
        self.scale = torch.ones(4, requires_grad=True)
        self.head = nn.Linear(4, 3)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.head(nn.functional.linear(rows, self.weights[0]) * self.scale)


@pytest.mark.parametrize("cleared", [True, False])
def test_gradients_of_tensors_that_are_no_parameters_are_followed(cleared: bool) -> None:
    model = _PlainWeights()
    plain = [*model.weights, model.scale]
    watch = Recorder(lambda *_: None, "x", thorough=True)

    with watch:
        optimizer = torch.optim.SGD([*plain, *model.parameters()], lr=1e-3)
        for _ in range(4):
            (optimizer if cleared else model).zero_grad()
            model(torch.randn(4, 2)).square().sum().backward()
            optimizer.step()

    stale = [row[STEP_COLUMNS.index("stale_norm")] for row in watch.steps]
    assert len(stale) == 4
    assert all(norm == 0.0 for norm in stale) if cleared else all(norm > 0.0 for norm in stale[1:])


def test_a_models_state_holds_tensors_that_are_no_parameters() -> None:
    model, rows = _PlainWeights(), torch.randn(5, 2)
    before, answers = ModelState(model), model(rows)
    with torch.no_grad():
        for tensor in (model.weights[0], model.scale, model.head.bias):
            tensor.add_(1.0)
    assert not torch.equal(model(rows), answers)

    before.load(model)

    assert torch.equal(model(rows), answers)
    assert model.weights[0].requires_grad and model.scale.requires_grad

"""Watches a training program run, through torch's own hooks, and writes down what happens.

Runs inside the sandbox, in the submission's own interpreter, so nothing that it says is
trusted by itself: it records, `judge.py` outside decides. It never changes what the
program computes, with one exception that `Recorder` names (compilation is skipped).

The unit of observation is the *outermost forward pass* of a model with parameters. For
each the recorder notes the mode of every mode-dependent layer, whether a graph was built,
whether a backward pass went through it later, which of the program's functions was
active, and the input rows. Optimizer steps are noted with their learning rates, and with
how the gradients that they used relate to the gradients of this step alone (see
`GradientLedger`).
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import random
import sys
import threading
import types
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from torch.nn.modules import module as nn_module
from torch.optim import Optimizer
from torch.optim import optimizer as optim_module
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from grading.probes import inplace
from grading.probes.backwards import BackwardWatch
from grading.probes.columns import BACKWARD_COLUMNS, CONTEXTS, FORWARD_COLUMNS, STEP_COLUMNS
from grading.probes.frames import code_of, variables_of
from grading.probes.graphs import HeldGraphs, Saved, first_tensor, has_graph, tensors_of
from grading.probes.ledger import GradientLedger
from grading.probes.modules import ModelState, has_parameters, modules_of
from grading.probes.optimizers import Optimizers, describe_optimizer, rates_of, steps_taken
from grading.probes.values import on_simplex, values_of

_DROPOUT = nn.modules.dropout._DropoutNd
MODE_LAYERS = (_DROPOUT, nn.modules.batchnorm._NormBase)
# What torch's own body of a module's call does, and the same between two looks.
_MODULE_RUN = "(self._call_impl if self._compiled_call_impl is None else self._compiled_call_impl)(*args, **kwargs)"
_MODULE_CALL = """
watch = "assay:enter"(self)
if watch is None:
    return RUN
try:
    output = RUN
except BaseException:
    "assay:over"(watch)
    raise
"assay:leave"(watch, output, ARGUMENTS)
return output
"""
ROWS_BYTES = 4 << 20  # 20 epochs of 1,000 rows of 50 numbers
CLOSE_FORWARDS = 400
_TURN_S = 2.0
ANSWER_MOVES = 12

_count_devices = getattr(torch._C, "_cuda_getDeviceCount", None)  # what programs replace is above it


class StopProbe(BaseException):
    """Ends a program that has shown enough. BaseException, so `except Exception` lets it pass."""


class _Here(threading.local):
    """What one thread is in the middle of."""

    depth = 0  # of module calls
    outermost: nn.Module | None = None
    parts: Sequence[nn.Module] = ()  # the modules of the outermost one, while it runs
    saved = 0  # tensors that a validation forward kept for a backward pass
    stats_before: tuple[int, ...] = ()


class Recorder:
    """Observes one program. Use as a context manager around loading and running it.

    Args:
        emit: the step's `context.emit`.
        name: prefix of the evidence frames.
        thorough: compare the gradients of every step and each validation output with the
            eval-mode output, through hooks on the model, its parameters and the optimizer
            (for small runs). Otherwise be discreet: no hook sits on any of these and no
            frame stands between the program's own functions, so that a program cannot
            well tell that it is watched; which function is active is read off the stack.
        stop_after_epochs: raise StopProbe when that many training epochs have ended.
        stop_after_forwards: raise StopProbe at that many outermost forwards.
        keep_rows: whether the input rows are told, of all epochs as far as ROWS_BYTES go: which of them
            are compared is drawn outside.
        seed: of the choice of moments that are looked at closely; nobody can foresee them.

    The sandbox image carries no C++ compiler, so `torch.compile` hands back its argument
    unchanged; that it was called, and the result used, is noted.
    """

    def __init__(
        self,
        emit: Callable[..., None],
        name: str,
        *,
        thorough: bool,
        stop_after_epochs: int | None = None,
        stop_after_forwards: int | None = None,
        keep_rows: bool = True,
        seed: int = 0,
    ) -> None:
        self.emit, self.name, self.thorough = emit, name, thorough
        self.stop_after_epochs, self.stop_after_forwards = stop_after_epochs, stop_after_forwards
        self.rows_left_bytes = ROWS_BYTES if keep_rows else 0
        self.random = random.Random(seed)  # which moments are looked at closely
        self.context, self.call, self.calls_begun = "", 0, 0
        self.here = _Here()
        self.under_way: dict[int, list[nn.Module]] = {}  # by thread: the modules of what it computes, outermost first
        self.turn = threading.RLock()  # held while a pass is noted; see _its_turn
        self.forwards: list[list[float]] = []
        self.flushed_forwards = self.flushed_steps = 0
        self.steps: list[list[float]] = []
        self.rows: list[np.ndarray] = []
        self.row_serials: list[tuple[int, int]] = []
        self.validation_rows: list[np.ndarray] = []  # of the first validation
        self.models: list[weakref.ref[nn.Module]] = []
        self.model_ids: dict[int, int] = {}
        self.optimizers = Optimizers()
        self.backwards = BackwardWatch(self.optimizers, self.random, self._by_chance)
        self.flushed_backwards = 0
        self.ledger: GradientLedger | None = None
        self.ledger_model: int | None = None
        self.held = HeldGraphs(self.forwards, self.backwards.rows, self._by_chance)
        self.epoch = 0
        self.bonus: dict[str, int] = {}
        self.trained_on: dict[str, int] = {}  # by kind of device: training passes
        self.schedulers: list[Any] = []
        self.trained_model: nn.Module | None = None
        self.snapshots: list[ModelState] = []
        self.snapshot_pending = False
        self.snapshot_limit = 0
        self.restorers: list[Callable[[], None]] = []
        self.stopped = False
        self.last_kind = ""
        self.loader_turns = self.trained_in_turn = 0  # how often a loader was begun; and as training last went on
        self.codes: dict[str, tuple[Any, types.CodeType | None]] = {}
        self.watched_classes: set[type] = set()
        self.step_row: list[float] | None = None
        self.answer_moves: list[float] = []
        self.moving: tuple[Callable[[], torch.Tensor | None], torch.Tensor | None] | None = None
        self.step_depth = 0
        self.comparisons = 0
        self.namespace: dict[str, Any] = {}
        self.last_looks: list[Any] = []  # handles of hooks that are there during a step only
        self.active_key: tuple[int, str] = (0, "")
        self.home_thread = threading.get_ident()
        self.history: dict[Any, Any] | None = None
        self.row_width: int | None = None
        self.input_places: dict[int, int] = {}  # by model shown several tensors: which of them holds its rows

    # -- installing and removing -----------------------------------------------------

    def __enter__(self) -> Recorder:
        self.global_hooks: list[Any] = []
        if self.thorough:
            self.global_hooks = [
                nn_module.register_module_forward_pre_hook(self._before_module),
                nn_module.register_module_forward_hook(self._after_module, with_kwargs=True, always_call=True),
            ]
            before = optim_module.register_optimizer_step_pre_hook(self._before_step)
            after = optim_module.register_optimizer_step_post_hook(self._after_step)
            self.restorers += [before.remove, after.remove]
        else:
            self._watch_module_calls()
        self._watch_optimizers()
        self._watch_bonus()
        return self

    def __exit__(self, *_: object) -> None:
        self._drop_global_hooks()
        for restore in reversed(self.restorers):
            restore()
        self.restorers.clear()
        if self.ledger is not None:
            self.ledger.close()

    def _drop_global_hooks(self) -> None:
        for handle in self.global_hooks:
            handle.remove()
        self.global_hooks = []

    def _replace(self, owner: Any, name: str, value: Any) -> None:
        original = getattr(owner, name)
        setattr(owner, name, value)
        self.restorers.append(lambda: setattr(owner, name, original))

    def _watch_module_calls(self) -> None:
        """Be told of every module call, with no hook on any module and no frame between a model and its caller."""
        recorder, function = self, cast("types.FunctionType", nn.Module.__call__)

        def enter(module: nn.Module) -> Any:
            return recorder._enter(module) if recorder._is_outermost(module) else None

        def leave(watch: Any, output: Any, module: nn.Module, *args: Any, **kwargs: Any) -> None:
            recorder._leave(watch, output, module, args, kwargs, type(module).forward)

        known = {"_compiled_call_impl", "_call_impl"} == set(function.__code__.co_names)
        constants = {"enter": enter, "leave": leave, "over": self._over, "original": inplace.copy_of(function)}
        body = _MODULE_CALL.replace("RUN", _MODULE_RUN if known else '"assay:original"(ARGUMENTS)')
        self.restorers.append(inplace.exchange(function, body, constants))

        def trained(*_: Any, **__: Any) -> None:
            if not recorder.forwards and not recorder.watched_classes:  # run as model.forward(x), and without layers
                recorder.wrap_classes(recorder.namespace)

        self.restorers.append(inplace.around(cast("types.FunctionType", torch.Tensor.backward), before=trained))

    def _read_stack(self, module: nn.Module) -> type[nn.Module] | None:
        """Which of the program's functions is active, by the code objects on the stack.

        Gives the class of the program's own whose `forward` is being run without a call of the model, if any.
        """
        train, validate = self._code_of("train_one_epoch"), self._code_of("validate")
        # Two faces of one function cannot be told apart so: then it is judged by what was trained.
        codes = {train: "train", validate: "validate"} if train is not validate else {}
        frame: types.FrameType | None = sys._getframe(2)
        at_home = threading.get_ident() == self.home_thread
        for _ in range(60):
            if frame is None and not at_home:
                # A thread of the program's: it computes for whatever the program itself is in the middle of.
                at_home, frame = True, sys._current_frames().get(self.home_thread)
            if frame is None:
                break
            if frame.f_code.co_name == "forward":
                direct = self._model_run_by(frame)
                # One that does not know the module as its part only passes rows on to it.
                if direct is not None and direct is not module and any(one is module for one in modules_of(direct)):
                    return type(direct)
            context = codes.get(frame.f_code)
            if context is not None:
                if self.active_key != (id(frame), context):
                    self.active_key = (id(frame), context)
                    self.calls_begun += 1
                    if context == "validate":
                        self.note_validation()
                        self._find_history(frame)
                self.context, self.call = context, self.calls_begun
                return None
            frame = frame.f_back
        self.context, self.call, self.active_key = "", 0, (0, "")
        return None

    def _model_run_by(self, frame: types.FrameType) -> nn.Module | None:
        """The module of one of the program's own classes whose method this frame is."""
        owner = variables_of(frame).get(frame.f_code.co_varnames[0]) if frame.f_code.co_argcount else None
        own = isinstance(owner, nn.Module) and type(owner).__module__ == self.namespace.get("__name__")
        return owner if own else None

    def _code_of(self, name: str) -> types.CodeType | None:
        function = self.namespace.get(name)
        if name not in self.codes or self.codes[name][0] is not function:
            self.codes[name] = (function, code_of(function, name))
        return self.codes[name][1]

    def _find_history(self, frame: types.FrameType | None) -> None:
        """The dict that `main` collects its metrics in, seen among its variables."""
        main = self._code_of("main")
        frame = frame.f_back if frame is not None else None
        while self.history is None and frame is not None:
            for value in variables_of(frame).values():
                if isinstance(value, dict) and all(isinstance(value.get(k), list) for k in ("val_acc", "val_loss")):
                    self.history = value
            if frame.f_code is main:
                return
            frame = frame.f_back

    def _watch_optimizers(self) -> None:
        made = self.optimizers.made

        def note(optimizer: Optimizer, *_: Any, **__: Any) -> None:
            made.append(optimizer)

        self.restorers.append(inplace.around(cast("types.FunctionType", Optimizer.__init__), after=note))

    def _watch_bonus(self) -> None:
        """Note schedulers, loaders, clipping and compilation when they run."""
        recorder = self

        def clipped(*_: Any, **__: Any) -> None:
            recorder.bonus["clip"] = recorder.bonus.get("clip", 0) + 1

        def scheduled(scheduler: Any, *_: Any, **__: Any) -> None:
            recorder.schedulers.append(scheduler)

        def iterated(loader: DataLoader[Any]) -> None:
            recorder.loader_turns += 1
            recorder.bonus["pin_memory"] = recorder.bonus.get("pin_memory", 0) + bool(loader.pin_memory)
            recorder.bonus["num_workers"] = recorder.bonus.get("num_workers", 0) + (loader.num_workers > 0)

        def compile_stand_in(model: Any = None, **_: Any) -> Any:
            if model is None:
                return lambda function: compile_stand_in(function)
            recorder.bonus["compile"] = recorder.bonus.get("compile", 0) + 1
            return model

        seen: tuple[tuple[Any, Callable[..., None]], ...] = (
            (nn.utils.clip_grad_norm_, clipped),
            (nn.utils.clip_grad_value_, clipped),
            (LRScheduler.__init__, scheduled),
            (DataLoader.__iter__, iterated),
        )
        self.restorers += [inplace.around(function, before=note) for function, note in seen]
        self.restorers.append(inplace.instead(cast("types.FunctionType", torch.compile), compile_stand_in))

    # -- the program's own functions -------------------------------------------------

    def wrap_classes(self, namespace: dict[str, Any]) -> None:
        """Watch `forward` of the module classes that the program defines, however it is called."""
        for value in list(namespace.values()):
            if not (isinstance(value, type) and issubclass(value, nn.Module)):
                continue
            forward = value.__dict__.get("forward")
            if value.__module__ == namespace.get("__name__") and callable(forward):
                self._replace(value, "forward", self._watched_forward(forward))
                self.watched_classes.add(value)

    def _watched_forward(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        recorder = self

        def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            if recorder._is_outermost(module):
                return recorder._watched(forward, module, args, kwargs, forward)
            recorder.here.depth += 1
            try:
                return forward(module, *args, **kwargs)
            finally:
                recorder.here.depth -= 1

        for attribute in ("__name__", "__qualname__", "__module__", "__doc__"):
            setattr(call, attribute, getattr(forward, attribute, None))
        return call

    def wrap_function(
        self,
        namespace: dict[str, Any],
        name: str,
        context: str,
        *,
        on_call: Callable[[tuple[Any, ...], dict[str, Any]], None] | None = None,
        stand_in: Any = None,
        swallow: bool = False,
        on_result: Callable[[Any], None] | None = None,
    ) -> None:
        """Note when `namespace[name]` is active.

        With `swallow`, an exception is noted and `stand_in` returned in its place, so that
        one broken function does not hide the rest of the program.
        """
        function = namespace.get(name)
        if not callable(function):
            return

        def call(*args: Any, **kwargs: Any) -> Any:
            if on_call is not None:
                on_call(args, kwargs)
            outer = (self.context, self.call)
            self.calls_begun += 1
            self.context, self.call = context, self.calls_begun
            try:
                result = function(*args, **kwargs)
            except Exception as error:
                self.emit(f"{self.name}.error", {"in": name, "call": self.call, **describe(error)})
                if not swallow:
                    raise
                self.here.depth = 0
                self.under_way.clear()
                result = stand_in
            else:
                if on_result is not None:
                    on_result(result)
            finally:
                self.context, self.call = outer
                if context == "train":
                    self._training_call_over()
            return result

        call.__wrapped__ = function  # type: ignore[attr-defined]  # its signature stays readable
        namespace[name] = call

    def _training_call_over(self) -> None:
        self.snapshot_pending = True
        self.flush()

    # -- forwards ----------------------------------------------------------------------

    def _before_module(self, module: nn.Module, args: Any) -> None:
        if self._is_outermost(module):
            self._begin(module)
            self.here.outermost = module
        self.here.depth += 1

    def _after_module(self, module: nn.Module, args: Any, *rest: Any) -> None:
        # Where a forward pass fails, torch leaves out the keyword arguments.
        kwargs, output = rest if len(rest) == 2 else ({}, None)
        self.here.depth = max(0, self.here.depth - 1)
        if self.here.depth == 0 and self.here.outermost is module:
            self.here.outermost = None
            self.under_way.pop(threading.get_ident(), None)
            if output is not None:
                self._end(module, args, kwargs, output, type(module).forward)
            if type(module) in self.watched_classes:
                # Its own `forward` is watched from here on; hooks on every layer would only cost.
                self._drop_global_hooks()

    def _watched(
        self, run: Callable[..., Any], module: nn.Module, args: Any, kwargs: Any, forward: Callable[..., Any]
    ) -> Any:
        """One outermost forward pass, by `run`, from `_enter` to `_leave`."""
        watch = self._enter(module)
        try:
            output = run(module, *args, **kwargs)
        except BaseException:
            self._over(watch)
            raise
        self._leave(watch, output, module, args, kwargs, forward)
        return output

    def _enter(self, module: nn.Module) -> Saved | bool | None:
        """An outermost pass begins; gives what `_over` needs, None where the pass cannot be followed to its end."""
        if not self.thorough:
            direct = self._read_stack(module)
            if direct is not None:  # as model.forward(x): seen to its end from the next such pass on
                self._replace(direct, "forward", self._watched_forward(direct.forward))
                return None
        self._begin(module)
        self.here.depth += 1
        # A graph may be built and cut off before the output shows it.
        return Saved().__enter__() if self.context == "validate" else True

    def _over(self, watch: Saved | bool | None) -> None:
        """The pass that `_enter` began has ended, well or not."""
        if watch is not None:
            self.here.depth -= 1
            self.under_way.pop(threading.get_ident(), None)
        if isinstance(watch, Saved):
            watch.__exit__()
            self.here.saved = watch.count

    def _leave(
        self,
        watch: Saved | bool | None,
        output: Any,
        module: nn.Module,
        args: Any,
        kwargs: Any,
        forward: Callable[..., Any],
    ) -> None:
        """It has ended well, with this output."""
        self._over(watch)
        if watch is not None:
            self._end(module, args, kwargs, output, forward)

    def _begin(self, module: nn.Module) -> None:
        if self.stop_after_forwards is not None and len(self.forwards) >= self.stop_after_forwards:
            self.stop()
        if self.moving is not None:
            self._note_move(*self.moving)
        self.here.parts = self.under_way[threading.get_ident()] = modules_of(module)
        self.here.stats_before = self._statistics()

    def _is_outermost(self, module: nn.Module) -> bool:
        """Whether a pass begins here: no other is under way in this thread, nor one in another that this is part of."""
        if self.here.depth or not has_parameters(module):
            return False
        elsewhere = list(self.under_way.values()) if self.under_way else []
        return not any(one is module for parts in elsewhere for one in parts[1:])

    @contextlib.contextmanager
    def _its_turn(self) -> Iterator[None]:
        """One thread at a time notes what it has seen. None waits for long: the program may have locks of its own."""
        mine = self.turn.acquire(timeout=_TURN_S)
        try:
            yield
        finally:
            if mine:
                self.turn.release()

    def _end(self, module: nn.Module, args: Any, kwargs: Any, output: Any, forward: Callable[..., Any]) -> None:
        with self._its_turn():
            self._note_pass(module, args, kwargs, output, forward)

    def _note_pass(self, module: nn.Module, args: Any, kwargs: Any, output: Any, forward: Callable[..., Any]) -> None:
        tensor = first_tensor(output)
        inputs = self._input_rows(module, args, kwargs, forward)
        if tensor is None:
            return
        serial = len(self.forwards)
        tensor = next((t for t in tensors_of(output) if has_graph(t)), tensor)  # no decoy hides a graph
        graph = has_graph(tensor) or self.here.saved > 0
        self.here.saved = 0
        if graph and self.context != "validate":
            kind = _kind_of_device(module, tensor)
            self.trained_on[kind] = self.trained_on.get(kind, 0) + 1
            self._begin_training_forward(module)
        layers = [m for m in self.here.parts if isinstance(m, MODE_LAYERS)]
        row = [
            self.call,
            CONTEXTS[self.context],
            len(tensor) if tensor.dim() else 0,
            graph,
            False,  # set by the hook below when a backward pass comes through
            len(layers),
            sum(m.training for m in layers),
            bool(module.training),
            self._statistics() != self.here.stats_before,
            math.nan,
            self._model_number(module),
            _autocast_enabled(),
            on_simplex(tensor) if self._by_chance(0.25, 0.06) else math.nan,
            serial,
            math.nan,
        ]
        if self.context != "train" and (self.thorough or self._wants_comparison(graph)):
            row[9], row[14] = self._eval_gaps(module, args, kwargs, tensor, forward)
        self.forwards.append(row)
        if self.thorough and graph and self.context == "train" and len(self.answer_moves) < ANSWER_MOVES:
            again = functools.partial(self._answer, module, args, kwargs, forward)
            self.moving = (again, again())
        if graph is False and self.context != "train":
            self.last_kind = "validate"
        if inputs is not None and self.rows_left_bytes > 0:
            self._keep_rows(serial, inputs)
        if graph:
            if has_graph(tensor):
                tensor.register_hook(self._mark_trained(row, module, weakref.ref(tensor)))
            if self.context != "validate":
                self.held.tie(serial, tensor)
        if serial % 256 == 255:
            self.flush(lag=32)

    def _note_move(self, again: Callable[[], torch.Tensor | None], before: torch.Tensor | None) -> None:
        """How far the answers on the rows of the last training forward have moved since, by the step in between."""
        self.moving, now = None, again()
        if now is None or before is None or now.shape != before.shape or not now.numel():
            return
        self.answer_moves.append(float((now - before).float().pow(2).mean().sqrt()))

    def _statistics(self) -> tuple[int, ...]:
        """How often the running statistics were updated; nobody asks while `train_one_epoch` is active."""
        return () if self.context == "train" else _statistics_version(self.here.parts)

    def _by_chance(self, often: float, rarely: float) -> bool:
        """Drawn: often at the beginning of a run, rarely later on, when enough has been seen."""
        return self.random.random() < (often if len(self.forwards) < CLOSE_FORWARDS else rarely)

    def _begin_training_forward(self, module: nn.Module) -> None:
        by_hand = self.last_kind == "train" and not self.context and self.loader_turns != self.trained_in_turn
        if self.last_kind == "validate" or self.snapshot_pending or by_hand:
            self._epoch_over()
        self.trained_in_turn = self.loader_turns
        self.last_kind = "train"
        self.trained_model = module
        if self.thorough and (self.ledger is None or self.ledger_model != id(module)):
            self._open_ledger(module)

    def _epoch_over(self) -> None:
        self.last_kind = ""
        self.snapshot_pending = False
        self.take_snapshot()
        self.held.epoch_over()
        self.epoch += 1
        if self.stop_after_epochs is not None and self.epoch >= self.stop_after_epochs:
            self.stop()

    def take_snapshot(self) -> None:
        """Copy the trained model's state, at most `snapshot_limit` times."""
        if self.trained_model is None or len(self.snapshots) >= self.snapshot_limit:
            return
        self.snapshots.append(ModelState(self.trained_model))

    def stop(self) -> None:
        """End the program under observation."""
        self.stopped = True
        raise StopProbe

    def _open_ledger(self, module: nn.Module) -> None:
        if self.ledger is not None:
            self.ledger.close()
        trained = itertools.chain(module.parameters(), module.buffers())  # which an optimizer takes as well
        tensors = {id(p): p for p in (*trained, *self.optimizers.plain_tensors()) if p.requires_grad and p.is_leaf}
        parameters = list(tensors.values())
        self.ledger_model = id(module)
        self.ledger = GradientLedger(parameters) if parameters else None

    def _mark_trained(
        self, row: list[float], module: nn.Module, output: weakref.ref[torch.Tensor]
    ) -> Callable[[torch.Tensor], None]:
        def hook(gradient: torch.Tensor | None) -> None:
            if gradient is None:  # as torch.autograd.gradcheck tries it
                return
            first, row[4] = not row[4], True
            if first:
                self.backwards.note(row, module, output(), gradient)

        return hook

    def _wants_comparison(self, graph: bool) -> bool:
        """Whether a discreet watch spends an eval-mode forward here: on a few validations, drawn by chance."""
        if self.context != "validate" and (graph or self.last_kind != "validate"):
            return False
        self.comparisons += 1
        return self.comparisons == 1 or self.random.random() < 0.12

    def _eval_gaps(
        self, module: nn.Module, args: Any, kwargs: Any, tensor: torch.Tensor, forward: Callable[..., Any]
    ) -> tuple[float, float]:
        """Largest difference to eval mode without a graph, and how far rows hang on the others of their batch.

        The second compares eval-mode answers to the first half of the batch before and after
        the rows of the second half were moved: where a batch's own statistics normalise it,
        whatever the flags say, they differ.
        """
        reference = self._answer(module, args, kwargs, forward)
        if reference is None or reference.shape != tensor.shape:
            return math.nan, math.nan
        eval_gap = float((reference - tensor.detach()).abs().max())
        rows = args[0] if args else None
        if not isinstance(rows, torch.Tensor) or rows.dim() < 2 or len(rows) < 4 or not rows.is_floating_point():
            return eval_gap, math.nan
        half, moved = len(rows) // 2, rows.detach().clone()
        moved[half:] = 3.0 * moved[half:] + 1.0
        other = self._answer(module, (moved, *args[1:]), kwargs, forward)
        if other is None or other.shape != reference.shape:
            return eval_gap, math.nan
        size = max(1.0, float(reference.abs().max()))  # scores of a diverged model are huge, and so is their rounding
        return eval_gap, float((other[:half] - reference[:half]).abs().max()) / size

    def _answer(self, module: nn.Module, args: Any, kwargs: Any, forward: Callable[..., Any]) -> torch.Tensor | None:
        """What the model gives in eval mode without a graph; None for one that cannot be called again.

        Dropout is left out altogether: in eval mode it is the identity, whatever a class of
        the program's own makes of it.
        """
        flags = [(m, m.training) for m in module.modules()]
        own_dropout = [m for m, _ in flags if isinstance(m, _DROPOUT) and type(m).__module__ != _DROPOUT.__module__]
        depth, self.here.depth = self.here.depth, 1
        try:
            for m, _ in flags:
                m.training = False
            for m in own_dropout:
                m.__dict__["forward"] = _identity
            with torch.no_grad():
                return first_tensor(forward(module, *args, **kwargs))
        except Exception:  # a model that cannot be called again is simply not compared
            return None
        finally:
            self.here.depth = depth
            for m, flag in flags:
                m.training = flag
            for m in own_dropout:
                m.__dict__.pop("forward", None)

    def _input_rows(
        self, module: nn.Module, args: Any, kwargs: Any, forward: Callable[..., Any]
    ) -> torch.Tensor | None:
        """The tensor that the model reads its rows from: of several, the one that its output hangs on most."""
        given = [v for v in (*args, *kwargs.values()) if isinstance(v, torch.Tensor)]
        if len(given) < 2:
            return given[0] if given else first_tensor([*args, *kwargs.values()])
        chosen = self.input_places.get(id(module))
        if chosen is None or chosen >= len(given):
            chosen = self.input_places[id(module)] = self._most_telling(module, args, kwargs, forward, len(given))
        return given[chosen]

    def _most_telling(self, module: nn.Module, args: Any, kwargs: Any, forward: Callable[..., Any], count: int) -> int:
        """Which of `count` tensors changes the eval-mode answer most when its rows are turned upside down."""
        reference, effects = self._answer(module, args, kwargs, forward), []
        for place in range(count):
            values, seen = [*args, *kwargs.values()], -1
            for index, value in enumerate(values):
                seen += isinstance(value, torch.Tensor)
                if seen == place and isinstance(value, torch.Tensor) and value.dim() > 0:
                    values[index] = value.flip(0)
            named = dict(zip(kwargs, values[len(args) :], strict=True))
            answer = self._answer(module, tuple(values[: len(args)]), named, forward)
            known = reference is not None and answer is not None and answer.shape == reference.shape
            effects.append(float((answer - reference).abs().max()) if known else -1.0)  # type: ignore[operator]
        return int(np.argmax(np.nan_to_num(effects, nan=-1.0)))

    def _keep_rows(self, serial: int, inputs: torch.Tensor) -> None:
        if inputs.dim() < 2 or inputs.numel() > 1 << 16 or not inputs.is_floating_point():
            return
        values = values_of(inputs)
        if values.shape != inputs.shape or not len(values):
            return
        values = values.reshape(len(values), -1)
        if self.row_width is None:
            self.row_width = values.shape[1]
        if values.shape[1] != self.row_width:
            return  # an inner part of the model that was called by itself
        self.rows_left_bytes -= values.nbytes
        self.rows.append(values)
        self.row_serials.append((serial, len(inputs)))
        if self.epoch == 0 and (self.context == "validate" or self.last_kind == "validate"):
            self.validation_rows.append(values)

    def _model_number(self, module: nn.Module) -> int:
        number = self.model_ids.get(id(module))
        if number is None:
            number = self.model_ids[id(module)] = len(self.models)
            self.models.append(weakref.ref(module))
        return number

    def note_validation(self) -> None:
        """Remember that a validation ran, so that the next training forward opens an epoch."""
        self.last_kind = "validate"

    # -- optimizer steps -----------------------------------------------------------------

    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Note the gradients that this step is about to use.

        A step may call another one's (a subclass calling its parent): the innermost look,
        the one nearest to the update itself, stands.
        """
        self.step_depth += 1
        if self.step_depth == 1:
            self.step_row = None
            self._drop_last_looks()
        if self.ledger is not None and self.ledger.pending():
            # After all hooks of the program's own, which may clear or change what the step is about to use.
            self.last_looks.append(Optimizer.register_step_pre_hook(optimizer, self._last_look))

    def _last_look(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self._note_step(optimizer)

    def _drop_last_looks(self) -> None:
        for handle in self.last_looks:
            handle.remove()
        self.last_looks.clear()

    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self.step_depth = max(0, self.step_depth - 1)
        if self.step_depth:
            return
        self._drop_last_looks()
        if self.step_row is None and self.ledger is not None and self.ledger.pending():
            self._note_step(optimizer)  # step(closure): the gradients came during the step
        if self.ledger is None:
            return
        if self.step_row is not None:
            # A hook of the program's own may have come after the look before the step.
            afterwards = self.ledger.compare()
            if afterwards[-1] > 1.0:
                self.step_row[4:10] = afterwards
        self.ledger.clear()

    def _note_step(self, optimizer: Optimizer) -> None:
        assert self.ledger is not None
        row = [len(self.forwards) - 1, *rates_of(optimizer), True, *self.ledger.compare()]
        row += [self.optimizers.number_of(optimizer, self.trained_model), self.call]
        if self.step_row is None:
            self.steps.append(row)
            self.step_row = row
        else:
            self.step_row[:] = row

    # -- telling -------------------------------------------------------------------------

    def flush(self, lag: int = 0) -> None:
        """Emit what is new, so that a program killed later still leaves its evidence.

        The newest `lag` forwards wait for the backward pass that may still mark them.
        """
        ready = max(self.flushed_forwards, len(self.forwards) - lag)
        arrays = {
            "forwards": np.array(self.forwards[self.flushed_forwards : ready], dtype=np.float64).reshape(
                -1, len(FORWARD_COLUMNS)
            ),
            "steps": np.array(self.steps[self.flushed_steps :], dtype=np.float64).reshape(-1, len(STEP_COLUMNS)),
            "backwards": np.array(self.backwards.rows[self.flushed_backwards :], dtype=np.float64).reshape(
                -1, len(BACKWARD_COLUMNS)
            ),
            "row_serials": np.array(self.row_serials, dtype=np.int64).reshape(-1, 2),
        }
        same_width = {r.shape[1] for r in self.rows}
        if len(same_width) == 1:
            arrays["rows"] = np.concatenate(self.rows)
        else:
            arrays["row_serials"] = arrays["row_serials"][:0]
        self.emit(f"{self.name}.events", {"epoch": self.epoch, **self.held.told()}, arrays)
        self.flushed_forwards, self.flushed_steps = ready, len(self.steps)
        self.flushed_backwards = len(self.backwards.rows)
        self.rows, self.row_serials = [], []

    def finish(self) -> None:
        """Emit the summary, after the program has ended or crashed."""
        self.flush()
        stepped = [s for s in self.schedulers if getattr(s, "_step_count", 0) > 1 or getattr(s, "last_epoch", 0) > 0]
        ledger = self.ledger
        self.emit(
            f"{self.name}.summary",
            {
                "bonus": dict(self.bonus),
                "schedulers": sorted({type(s).__name__ for s in stepped}),
                "optimizers": self.optimizers.told(self.backwards.passes),
                "made": [
                    {**describe_optimizer(optimizer, None), "lr": rates_of(optimizer)[1]}
                    for optimizer in self.optimizers.made[:8]
                ],
                "answer_moves": self.answer_moves,
                "scheduled": len(self.schedulers),
                "loader_turns": self.loader_turns,
                "steps": sum(max(0, steps_taken(optimizer)) for optimizer in self.optimizers.made[:8]),
                "epochs": self.epoch,
                "stopped": self.stopped,
                "models": len(self.models),
                "trained_on": dict(self.trained_on),
                "accelerator": _has_accelerator(),
                "updates_between": ledger.updates_between if ledger else 0,
                "dirty_at_backward": ledger.dirty_at_backward if ledger else 0,
                "begun": ledger.begun if ledger else 0,
                "added_to_old": ledger.added_to_old if ledger else 0,
                "grad_enabled_after": torch.is_grad_enabled(),
                **self.held.told(),
            },
        )


def describe(error: BaseException) -> dict[str, str]:
    """An exception as bounded text, whatever its `__str__` does."""
    try:
        text = str(error)[:500]
    except BaseException:  # hostile __str__
        text = "<exception without readable text>"
    return {"type": type(error).__name__[:100], "text": text}


def _kind_of_device(module: nn.Module, output: torch.Tensor) -> str:
    """Where a pass was computed: the accelerator's kind where both weights and output are on one, else the CPU."""
    if output.is_cpu:
        return "cpu"
    weights = next(module.parameters(), output)
    return output.device.type if weights.device.type == output.device.type else "cpu"


def _has_accelerator() -> bool:
    return _count_devices is not None and _count_devices() > 0


def _identity(value: torch.Tensor, *_: Any) -> torch.Tensor:
    return value


def _statistics_version(layers: Sequence[nn.Module]) -> tuple[int, ...]:
    """How often the running statistics of each layer have been updated."""
    counters = [
        layer._buffers["num_batches_tracked"]
        for layer in layers
        if "num_batches_tracked" in layer._buffers  # traced by torch.jit it is no dict
    ]
    return tuple([int(c) for c in counters if isinstance(c, torch.Tensor) and c.numel() == 1])


def _autocast_enabled() -> bool:
    return bool(torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"))

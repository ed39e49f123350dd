"""What goes into the sandbox for `spiral`: drives the submission and records.

Four steps, each in a process of its own:

`calls`  the submission's functions, called singly on a sentinel model whose outputs tell
         the judge in which mode they ran, and on batches that carry ballast;
`mini`   the submission's own `main()` on a few hundred of its own rows for four epochs,
         watched closely; then its loss, with the final scores forced;
`ghost`  the beginning of `main()` on a machine that seems to have a GPU, and on one that
         seems to have none;
`real`   `main()` as it is, watched lightly, and the models that it trained.

Nothing here decides anything, and nothing here is secret.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import itertools
import json
import mmap
import random
import types
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.nn.modules import module as nn_module
from torch.utils.data import DataLoader, TensorDataset

from grading.probes import backwards, frames, graphs, inplace, ledger, modules, optimizers, program, recorder, values
from grading.probes.ghost import GhostDevice, device_of
from grading.probes.integrity import Fingerprint
from grading.probes.program import attempt, call_with, number, pair, type_names
from grading.probes.recorder import Recorder, StopProbe, describe

CPU = torch.device("cpu")
MODULE_LEVEL_FORWARDS = 8
STAND_IN_CALLS = 400  # of train_one_epoch and validate together: ten times those of 20 epochs
DIRECT_ROWS, DIRECT_BATCHES = 512, 64
OWN = (
    *(recorder.Recorder, backwards.BackwardWatch, optimizers.Optimizers, ledger.GradientLedger),
    *(program, recorder, backwards, optimizers, graphs, frames, modules, values, inplace),
)


# -- sentinel -----------------------------------------------------------------------------


class _Ballast(torch.autograd.Function):
    """Identity that keeps a block of memory alive exactly as long as its graph."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor, size_bytes: int, token: Any) -> torch.Tensor:
        # Pages of its own: the heap would keep holes where small tensors stay next to freed blocks.
        # Filled by the kernel at once, which takes half the time of touching them one by one.
        ctx.block = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE)
        ctx.token = token
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        return gradients[0], None, None


def sentinel_class(base: Any) -> type[nn.Module]:
    """A model class that passes for the submission's own and answers with the mode it runs in.

    Scores are `x @ W.T + b + table[batch-norm training][dropout training][graph]`: only the
    judge knows which loss and accuracy each combination gives.
    """
    parent = base if isinstance(base, type) and issubclass(base, nn.Module) else nn.Module

    class Sentinel(parent):  # type: ignore[misc, valid-type]
        def __init__(self, weight: np.ndarray, bias: np.ndarray, table: np.ndarray | None) -> None:
            nn.Module.__init__(self)
            classes, inputs = weight.shape
            self.features = nn.Sequential(nn.Linear(inputs, inputs), nn.BatchNorm1d(inputs), nn.ReLU(), nn.Dropout(0.2))
            self.classifier = nn.Sequential(nn.Linear(inputs, classes))
            head: Any = self.classifier[0]
            with torch.no_grad():
                head.weight.copy_(torch.from_numpy(weight))
                head.bias.copy_(torch.from_numpy(bias))
            for parameter in self.features.parameters():
                parameter.requires_grad_(False)
            self.table = None if table is None else torch.from_numpy(table)
            self.ballast_bytes = 0
            self.alive: set[int] = set()
            self.seen: list[list[int]] = []
            self.old_alive = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            head: Any = self.classifier[0]
            scores = functional.linear(x, head.weight, head.bias)
            mode = [int(self.features[1].training), int(self.features[3].training), int(scores.requires_grad)]
            self.seen.append([*mode, int(self.training)])
            if self.table is not None:
                scores = scores + self.table[mode[0], mode[1], mode[2]]
            if self.ballast_bytes and scores.requires_grad:
                scores = self._weigh(scores)
            return scores

        def _weigh(self, scores: torch.Tensor) -> torch.Tensor:
            serial = len(self.seen)
            self.old_alive = sum(s < serial // 2 for s in self.alive.copy())
            token = graphs.Token(serial, self.alive)
            # torch gives `apply` no types.
            return _Ballast.apply(scores, self.ballast_bytes, token)  # type: ignore[no-any-return, no-untyped-call]

    for attribute in ("__name__", "__qualname__", "__module__"):
        setattr(Sentinel, attribute, getattr(parent, attribute))
    return Sentinel


def _loader(x: np.ndarray, y: np.ndarray, batch_size: int) -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.from_numpy(x), torch.from_numpy(y)), batch_size=batch_size)


# -- calls --------------------------------------------------------------------------------


def calls(context: Any) -> None:
    """Call `validate` and `train_one_epoch` singly."""
    _seed(context)
    fingerprint = Fingerprint(OWN)
    namespace = _load_without_training(context)
    emit, arrays, params = context.emit, context.arrays, context.params
    make = sentinel_class(namespace.get("SpiralNet"))
    attempt(emit, "calls.validate", lambda: _call_validate(emit, namespace, make, arrays, params))
    attempt(emit, "calls.train", lambda: _call_train(emit, namespace, make, arrays, params))
    attempt(emit, "calls.leak", lambda: _call_leak(emit, namespace, make, arrays, params))
    emit("calls.integrity", {"changed": fingerprint.changed()})


def _call_validate(emit: Any, namespace: Any, make: Any, arrays: Any, params: Any) -> None:
    model = make(arrays["weight"], arrays["bias"], arrays["table"])
    model.train()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    loader = _loader(arrays["val_x"], arrays["val_y"], params["batch_rows"])
    try:
        result = _validate(namespace, model, loader, nn.CrossEntropyLoss())
    finally:
        enabled = torch.is_grad_enabled()
        torch.set_grad_enabled(True)
        emit("calls.validate.modes", {"seen": model.seen[:64], "grad_enabled_after": enabled})
    changed = [k for k, v in model.state_dict().items() if not torch.equal(v, state[k])]
    frozen = not model.classifier[0].weight.requires_grad
    emit(
        "calls.validate.result",
        {"pair": pair(result), "types": type_names(result), "changed": changed, "frozen": frozen},
    )


def _call_train(emit: Any, namespace: Any, make: Any, arrays: Any, params: Any) -> None:
    model = make(arrays["weight"], arrays["bias"], None)
    model.eval()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=params["sgd_lr"])
    loader = _loader(arrays["train_x"], arrays["train_y"], params["batch_rows"])
    with Recorder(emit, "calls.train", thorough=True) as watch:
        watch.context = "train"
        try:
            result = _train(namespace, model, loader, nn.CrossEntropyLoss(), optimizer)
            emit("calls.train.result", {"pair": pair(result), "types": type_names(result)})
        finally:
            head = model.classifier[0]
            final = {"weight": head.weight.detach().numpy().copy(), "bias": head.bias.detach().numpy().copy()}
            emit("calls.train.final", {"seen": model.seen[:64]}, final)
            watch.finish()


def _call_leak(emit: Any, namespace: Any, make: Any, arrays: Any, params: Any) -> None:
    model = make(arrays["weight"], arrays["bias"], None)
    model.ballast_bytes = params["ballast_bytes"]
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=params["sgd_lr"])
    loader = _loader(arrays["leak_x"], arrays["leak_y"], params["leak_batch_rows"])
    try:
        _train(namespace, model, loader, nn.CrossEntropyLoss(), optimizer)
    finally:
        batches = len(model.seen)
        emit("calls.leak", {"batches": batches, "max_old_alive": model.old_alive})


def _call_main(emit: Any, namespace: dict[str, Any]) -> None:
    """What does `main` return, where training and validation are done in no time?

    A program that computes something all the same, with loops of its own, is left alone.
    """
    called = 0

    def stand_in(*_: Any, **__: Any) -> tuple[float, float]:
        nonlocal called
        called += 1
        if called > STAND_IN_CALLS:
            raise StopProbe
        return 0.5, 0.5

    def refuse(module: nn.Module, _: Any) -> None:
        if next(module.parameters(), None) is not None:
            raise StopProbe

    replaced: dict[str, Any] = {name: namespace[name] for name in ("train_one_epoch", "validate") if name in namespace}
    namespace.update({name: stand_in for name in replaced})
    handle = nn_module.register_module_forward_pre_hook(refuse)
    try:
        returned = namespace["main"]()
    finally:
        handle.remove()
        namespace.update(replaced)
    if called:
        emit("mini.main", _history(returned))


def _train(namespace: Any, model: Any, loader: Any, criterion: Any, optimizer: Any, extras: Any = None) -> Any:
    roles = {"model": model, "dataloader": loader, "criterion": criterion, "optimizer": optimizer, "device": CPU}
    return call_with(namespace["train_one_epoch"], roles, extras)


def _validate(namespace: Any, model: Any, loader: Any, criterion: Any, extras: Any = None) -> Any:
    roles = {"model": model, "dataloader": loader, "criterion": criterion, "device": CPU}
    return call_with(namespace["validate"], roles, extras)


# -- mini ---------------------------------------------------------------------------------


def mini(context: Any) -> None:
    """Run `main()` for a few epochs on some of its own rows, then force the final scores."""
    _seed(context)
    fingerprint = Fingerprint(OWN)
    captured: dict[str, dict[str, Any]] = {}
    with program.exits_stopped():
        namespace, trained = _watched_main(context, "mini", captured, GhostOff())
    if trained is None:
        # Perhaps it insists on an accelerator that is not here: pretend, so that the rest is seen.
        captured.clear()
        _seed(context)
        ghost = GhostDevice("__main__", available=True)
        with program.exits_stopped():
            namespace, trained = _watched_main(context, "mini.redirected", captured, ghost)
    emit, reached = context.emit, dict(captured)  # forcing the scores calls the same functions
    attempt(emit, "mini.forced", lambda: _force_scores(emit, namespace, captured, context, trained))
    attempt(emit, "mini.order", lambda: _read_twice(emit, namespace, _training_loader(reached)))
    if not {"train", "validate"} <= reached.keys():
        attempt(emit, "mini.direct", lambda: _call_directly(context, namespace))
    emit("mini.integrity", {"changed": fingerprint.changed()})
    # Not among the calls, whose memory is measured: what `main` holds when it has trained is no graph.
    attempt(emit, "mini.main", lambda: _call_main(emit, namespace))


class GhostOff:
    """Stands where a GhostDevice may stand, and does nothing."""

    def __enter__(self) -> None:
        """Nothing to set up."""

    def __exit__(self, *_: object) -> None:
        """Nothing to undo."""


def _watched_main(
    context: Any, name: str, captured: dict[str, Any], ghost: Any
) -> tuple[dict[str, Any], nn.Module | None]:
    """Run `main()` under the watch; gives its namespace and the model that it trained, if any."""
    params = context.params
    watch = Recorder(
        context.emit,
        name,
        thorough=True,
        stop_after_epochs=params["epochs"],
        stop_after_forwards=params["max_forwards"],
        seed=params["watch_seed"],
    )
    with ghost, _no_workers() as loaders, contextlib.ExitStack() as stack:
        captured["made"] = {"loaders": loaders.made}
        namespace = _load_without_training(context, "__main__")
        stack.enter_context(watch)
        watch.wrap_classes(namespace)
        _shrink_dataset(namespace, context.arrays)

        def capture(role: str) -> Callable[..., None]:
            function = namespace.get("train_one_epoch" if role == "train" else "validate")

            def on_call(args: Any, kwargs: Any) -> None:
                if role == "validate":
                    watch.note_validation()
                else:
                    torch.set_grad_enabled(True)  # a validation that left it off must not hide the rest
                if role not in captured and callable(function):
                    captured[role] = program.bind_roles(function, args, kwargs)
                    model = captured[role].get("model")
                    captured[role]["mode"] = bool(getattr(model, "training", True))
                    if isinstance(model, nn.Module) and "state" not in captured:
                        captured["state"] = modules.ModelState(model)

            return on_call

        for role, function, stand_in in (
            ("train", "train_one_epoch", (1.0, 0.5)),
            ("validate", "validate", (1.0, 0.5)),
        ):
            watch.wrap_function(namespace, function, role, on_call=capture(role), stand_in=stand_in, swallow=True)
        _run_main(context.emit, name, namespace)
        watch.finish()
    torch.set_grad_enabled(True)
    return namespace, watch.trained_model if any(row[4] for row in watch.forwards) else None


def _training_loader(reached: Mapping[str, Mapping[str, Any]]) -> Any:
    """The loader that training was called with, else the one made with the most rows; None where that is not clear."""
    if "dataloader" in reached.get("train", {}):
        return reached["train"]["dataloader"]
    sizes = {id(one): _length(one.dataset) for one in reached.get("made", {}).get("loaders", ())}
    if not sizes or list(sizes.values()).count(max(sizes.values())) != 1:
        return None
    return max(reached["made"]["loaders"], key=lambda one: sizes[id(one)])


def _length(dataset: Any) -> int:
    try:
        return len(dataset)
    except TypeError:  # a stream has none
        return 0


def _read_twice(emit: Any, namespace: Any, loader: Any) -> None:
    """In which order does the training loader give its rows, once and once more? For a `main` that crashed early."""
    if loader is None:
        return
    with _no_workers():
        readings = [[_as_array(graphs.first_tensor(batch)) for batch in itertools.islice(loader, 400)] for _ in "12"]
    if any(rows is None or rows.ndim != 2 for reading in readings for rows in reading) or not all(readings):
        return
    first, second = (np.concatenate(reading).astype(np.float32) for reading in readings)  # type: ignore[arg-type]
    given = _as_array(namespace["create_spiral_dataset"]()[0])
    arrays = {"first": first, "second": second}
    if given is not None and given.shape == first.shape:
        arrays["given"] = given.astype(np.float32)
    emit("mini.order", {"sizes": [[len(rows) for rows in reading] for reading in readings]}, arrays)  # type: ignore[arg-type]


def _call_directly(context: Any, namespace: dict[str, Any]) -> None:
    """`train_one_epoch` and `validate` on a model of the program's own class, where `main` never came to call them."""
    watch = Recorder(context.emit, "mini.direct", thorough=True, keep_rows=False, seed=context.params["watch_seed"])
    own = dict(namespace)
    for name in ("train_one_epoch", "validate"):
        own[name] = getattr(namespace.get(name), "__wrapped__", None)  # under the watch of `main`
    x, y = (np.resize(context.arrays[f"forced_{k}"], (DIRECT_ROWS, *shape)) for k, shape in (("x", (2,)), ("y", ())))
    loader = _loader(x, y, DIRECT_ROWS // DIRECT_BATCHES)
    with watch:
        watch.wrap_classes(own)
        model = own["SpiralNet"]().to(CPU)
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
        for role, name in (("train", "train_one_epoch"), ("validate", "validate")):
            watch.wrap_function(own, name, role, swallow=True)
        _train(own, model, loader, nn.CrossEntropyLoss(), optimizer)
        torch.set_grad_enabled(True)
        _validate(own, model, loader, nn.CrossEntropyLoss())
        torch.set_grad_enabled(True)
        watch.finish()


def _run_main(emit: Any, name: str, namespace: Any) -> Any:
    try:
        return namespace["main"]()
    except StopProbe:
        return None
    except (Exception, SystemExit) as error:
        emit(f"{name}.error", {"in": "main", "call": 0, **describe(error)})
        return None


def _shrink_dataset(namespace: Any, arrays: Any) -> None:
    """Let `create_spiral_dataset` give some of its rows, so that four epochs are short."""
    create = namespace.get("create_spiral_dataset")
    if not callable(create):
        return

    def fewer_rows(*args: Any, **kwargs: Any) -> Any:
        result = create(*args, **kwargs)
        if not (isinstance(result, (tuple, list)) and len(result) == 4):
            return result
        x_train, y_train, x_val, y_val = result
        try:
            train = _pick(len(x_train), len(y_train), arrays["train_draw"])
            val = _pick(len(x_val), len(y_val), arrays["val_draw"])
            rows = (x_train[train], y_train[train], x_val[val], y_val[val])
            return list(rows) if isinstance(result, list) else rows
        except (TypeError, IndexError, ValueError, RuntimeError):
            return result

    namespace["create_spiral_dataset"] = fewer_rows


def _pick(rows: int, labels: int, draw: np.ndarray) -> torch.Tensor:
    """Distinct row numbers below `rows`, from draws in [0, 1)."""
    if rows != labels or rows <= len(draw):
        raise ValueError("nothing to choose from")
    order = np.argsort(np.resize(draw, rows) * np.arange(1, rows + 1) % 1.0, kind="stable")
    return torch.from_numpy(np.ascontiguousarray(order[: len(draw)]))


class _no_workers:
    """Loaders made meanwhile load in the process itself: worker processes would only cost. `made` lists them."""

    def __enter__(self) -> _no_workers:
        self.original = DataLoader.__init__
        self.made: list[DataLoader[Any]] = []
        original, made = self.original, self.made

        def init(loader: Any, *args: Any, **kwargs: Any) -> None:
            kwargs.pop("multiprocessing_context", None)
            for key in ("persistent_workers", "prefetch_factor", "timeout"):
                kwargs.pop(key, None)
            if len(args) <= 5:
                kwargs["num_workers"] = 0
            original(loader, *args, **kwargs)
            made.append(loader)

        DataLoader.__init__ = init  # type: ignore[assignment]
        return self

    def __exit__(self, *_: object) -> None:
        DataLoader.__init__ = self.original  # type: ignore[method-assign]


# -- the loss as a function of the final scores --------------------------------------------


def _force_scores(emit: Any, namespace: Any, captured: Any, context: Any, trained: nn.Module | None) -> None:
    train, validate = captured.get("train", {}), captured.get("validate", {})
    model = train.get("model") or validate.get("model") or trained or namespace["SpiralNet"]()
    if not isinstance(model, nn.Module):
        model = namespace["SpiralNet"]()
    model = model.to(CPU)
    if captured.get("state"):
        with contextlib.suppress(Exception):  # a model that was replaced meanwhile keeps its weights
            captured["state"].load(model)  # as before training, which may have diverged
    criterion = train.get("criterion") or validate.get("criterion") or nn.CrossEntropyLoss()
    val_criterion = validate.get("criterion") or criterion
    y = context.arrays["forced_y"]
    x = _shown_rows(train.get("dataloader"), context.arrays["forced_x"])
    layers, classes = _score_layers(model, torch.from_numpy(x))
    head = _HeadForcing(layers[0][0] if layers else model, classes if len(layers) <= 1 else 0)
    if not layers and not head.usable:
        emit("mini.forced", {"layer": None})
        return
    if head.usable:
        y = np.zeros_like(y)  # one bias for all rows, so all rows are of one class
    known = ("model", "dataloader", "criterion", "optimizer", "device", "mode")
    extras = {k: v for k, v in train.items() if k not in known}
    val_extras = {k: v for k, v in validate.items() if k not in known}
    loader = _loader(x, y, len(y))
    rows = []
    state = modules.ModelState(model)

    slopes = _Slopes(layers)

    def forced_call(scores: torch.Tensor, action: Callable[[], Any], mode: bool = True) -> float | None:
        state.load(model)  # a hand-written update, too, has moved them
        model.train(mode)  # as `main` hands it over, which may have called eval() itself
        undo = head.force(scores[0]) if head.usable else _force_outputs(layers, scores)
        try:
            with slopes:
                return _quietly(action)
        finally:
            undo()

    handed_over = bool(validate.get("mode", True))
    with _BackwardLog() as log:
        for right in (1, 0):
            for magnitude in context.params["magnitudes"]:
                target = torch.from_numpy(y if right else (y + 1) % classes)
                along = functional.one_hot(target, classes).float()
                scores = along * magnitude
                optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.0)
                log.values.clear()
                slopes.along = along
                returned = forced_call(
                    scores, functools.partial(_train, namespace, model, loader, criterion, optimizer, extras)
                )
                seen, slope = (log.values[-1] if log.values else None), slopes.total
                whole = sum(log.values) if log.values and log.is_plain else None
                check = functools.partial(_validate, namespace, model, loader, val_criterion, val_extras)
                validated = forced_call(scores, check, handed_over)
                rows.append([right, magnitude, returned, seen, validated, whole, slope])
    emit("mini.forced", {"layer": type(layers[0][0] if layers else model).__name__, "classes": classes, "rows": rows})


class _Slopes:
    """Adds up how the gradient that comes back to the scores says that the loss changes `along` a direction."""

    def __init__(self, layers: Layers) -> None:
        self.layers, self.along = layers, torch.zeros(0)
        self.total: float | None = None

    def __enter__(self) -> None:
        self.total = None
        self.handles = [layer.register_forward_hook(self._listener(part)) for layer, part in self.layers]

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()

    def _listener(self, part: Columns) -> Callable[..., None]:
        def arrived(gradient: torch.Tensor) -> None:
            scores = values.values_of(gradient).reshape(len(gradient), -1)
            along = self.along[:, part].numpy()
            if scores.shape == along.shape:
                self.total = (self.total or 0.0) + float((scores * along).sum())

        def listen(_: Any, __: Any, output: torch.Tensor) -> None:
            if isinstance(output, torch.Tensor) and output.requires_grad and len(output) == len(self.along):
                output.register_hook(arrived)

        return listen


class _HeadForcing:
    """Forces the scores that a layer gives by its own parameters: no weight, all bias.

    Whatever the layer's class or its hooks do afterwards still happens. A layer without
    bias, or whose weight is computed from other parameters, cannot be forced so.
    """

    def __init__(self, owner: nn.Module, classes: int) -> None:
        own = list(owner.parameters()) if not hasattr(owner, "parametrizations") else []
        last_first = own[::-1]
        self.head: tuple[torch.Tensor, torch.Tensor] | None = next(
            ((bias, weight) for bias in last_first for weight in last_first if _is_head(bias, weight, classes)), None
        )
        self.usable = self.head is not None

    def force(self, scores: torch.Tensor) -> Callable[[], None]:
        """Make every row's scores `scores`; returns what undoes it."""
        assert self.head is not None
        bias, weight = self.head
        before = (bias.detach().clone(), weight.detach().clone())
        with torch.no_grad():
            bias.copy_(scores)
            weight.zero_()

        def undo() -> None:
            with torch.no_grad():
                bias.copy_(before[0])
                weight.copy_(before[1])

        return undo


def _is_head(bias: torch.Tensor, weight: torch.Tensor, classes: int) -> bool:
    """Whether these give scores for so many classes; with more dimensions, of several models side by side.

    A convolution over a single place is such a layer, too.
    """
    models = bias.dim() - 1
    shape = weight.shape[: models + 2]
    if models < 0 or bias.shape[-1] != classes or weight.numel() != shape.numel() or len(shape) < models + 2:
        return False
    return shape[:models] == bias.shape[:models] and classes in shape[models:]


def _shown_rows(loader: Any, fallback: np.ndarray) -> np.ndarray:
    """As many input rows as `fallback` has, of the kind that the program's own loader gives."""
    try:
        batch = graphs.first_tensor(next(iter(loader)))
        assert batch is not None and batch.dim() == 2
        rows = (batch if batch.dtype in (torch.float32, torch.float64) else batch.float()).detach().numpy()
        return np.resize(rows, (len(fallback), rows.shape[1]))
    except Exception:  # no loader was seen, or it gives something else
        return fallback


def _quietly(action: Callable[[], Any]) -> float | None:
    try:
        return pair(action())[0]
    except Exception:  # a function that breaks at its end has still shown its loss
        return None
    finally:
        torch.set_grad_enabled(True)


def _forcing(forced: torch.Tensor) -> Callable[..., torch.Tensor]:
    def hook(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
        if len(output) != len(forced):
            return output
        shaped = forced.reshape(output.shape) if forced.numel() == output.numel() else forced
        return shaped.to(output.dtype) + torch.nan_to_num(output) * 0.0

    return hook


Columns = slice | list[int]
Layers = list[tuple[nn.Module, Columns]]  # with the columns of the scores that each gives


def _force_outputs(layers: Layers, scores: torch.Tensor) -> Callable[[], None]:
    """Have each layer give its part of these scores; returns what undoes it."""
    handles = [layer.register_forward_hook(_forcing(scores[:, part])) for layer, part in layers]

    def undo() -> None:
        for handle in handles:
            handle.remove()

    return undo


def _score_layers(model: nn.Module, x: torch.Tensor) -> tuple[Layers, int]:
    """The innermost layers that give the final scores; and how many columns the model's output has.

    One layer, the last with parameters whose output has as many columns as the model's, or all such together (experts
    and what mixes them, members of which one is drawn); or the last several, one a class or so, whose outputs beside
    each other are in the same order as the model's; or the last of all, which gives each score several times. Whatever
    they are made to give, the model's answer has to follow.
    """
    calls: list[tuple[nn.Module, torch.Tensor]] = []
    called: list[set[nn.Module]] = []
    handles = [
        m.register_forward_hook(lambda m, _, out: calls.append((m, out)))
        for m in model.modules()
        if _is_innermost(m) and m is not model
    ]
    kind = next((p.dtype for p in model.parameters() if p.is_floating_point()), x.dtype)
    as_it_is = contextlib.nullcontext()
    try:
        with torch.no_grad():
            # As handed over, but for one look at all that eval mode uses.
            for mode in (as_it_is, _evaluating(model), as_it_is, as_it_is):
                before = len(calls)
                with mode:
                    output = model(x.to(kind))
                called.append({m for m, out in calls[before:] if isinstance(out, torch.Tensor)})
    finally:
        for handle in handles:
            handle.remove()
    classes = int(output.shape[-1])
    rows = [(m, _rows_of(out)) for m, out in calls if isinstance(out, torch.Tensor)]
    given = [(m, out) for m, out in rows if out.shape[:-1] == output.shape[:-1]]
    fitting = list(dict.fromkeys(m for m, out in given if out.shape == output.shape))
    split = [] if fitting else _split_heads(given, output)
    if split:
        return split, classes
    drawn = any(m not in some for m in fitting for some in called)  # which of them answers is another matter each time
    choices = [fitting] if drawn else [fitting[-1:], fitting]
    whole: list[Layers] = [[(m, slice(0, classes)) for m in chosen] for chosen in choices]
    for layers in whole if fitting else _repeated_heads(rows[-1:], output):
        if _answer_follows(model, x.to(kind), layers, classes):
            return layers, classes
    return [], classes


def _answer_follows(model: nn.Module, x: torch.Tensor, layers: Layers, classes: int) -> bool:
    """Whether the model's answer is the class that the layers are made to favour: squashed or not, it then is."""
    wanted = torch.arange(len(x)) % classes
    undo = _force_outputs(layers, 64.0 * functional.one_hot(wanted, classes).to(x.dtype))
    try:
        with torch.no_grad(), _evaluating(model):  # dropout behind the scores would hide some of them
            answers = _rows_of(model(x)).argmax(-1)
    finally:
        undo()
    return float((answers == wanted).float().mean()) > 0.9


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """All modules in eval mode for a while, without asking a `train` or `eval` of their own."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for module, training in modes:
            module.training = training


def _rows_of(output: torch.Tensor) -> torch.Tensor:
    """An output with a single place for each row and column, without the dimensions of the places."""
    single = output.dim() > 2 and output.shape[2:].numel() == 1
    return output.flatten(1) if single else output


def _split_heads(given: Sequence[tuple[nn.Module, torch.Tensor]], output: torch.Tensor) -> Layers:
    """The last layers that give the model's columns between them; none where that is not clear."""
    last = list(given)
    while last and sum(out.shape[-1] for _, out in last) > output.shape[-1]:
        last.pop(0)
    if len({id(m) for m, _ in last}) < max(2, len(last)) or sum(out.shape[-1] for _, out in last) != output.shape[-1]:
        return []
    scores = torch.cat([out for _, out in last], dim=-1)
    alike = (scores.argsort(-1) == output.argsort(-1)).all(-1).float().mean()
    ends = list(itertools.accumulate(int(out.shape[-1]) for _, out in last))
    parts = [slice(end - int(out.shape[-1]), end) for (_, out), end in zip(last, ends, strict=True)]
    return [(m, part) for (m, _), part in zip(last, parts, strict=True)] if float(alike) > 0.9 else []


def _repeated_heads(last: Sequence[tuple[nn.Module, torch.Tensor]], output: torch.Tensor) -> Iterator[Layers]:
    """A layer that gives each score several times, head by head or class by class, as far as its size tells."""
    for module, out in last:
        times, rest = divmod(out.numel(), output.numel())
        if len(out) == len(output) and times > 1 and not rest:
            classes = range(output.shape[-1])
            yield [(module, [*classes] * times)]
            yield [(module, [column for column in classes for _ in range(times)])]


def _is_innermost(module: nn.Module) -> bool:
    """Whether it has parameters and no part but what computes them (weight norm and its like)."""
    parts = [name for name, _ in module.named_children() if name != "parametrizations"]
    return not parts and next(module.parameters(), None) is not None


class _BackwardLog:
    """Notes the scalar on which `backward` is called, and whether it was called with nothing else to go by."""

    def __init__(self) -> None:
        self.values: list[float] = []
        self.is_plain = True

    def __enter__(self) -> _BackwardLog:
        def note(tensor: torch.Tensor, gradient: Any = None, *_: Any, **__: Any) -> None:
            self.is_plain = self.is_plain and gradient is None
            if tensor.numel() == 1:
                self.values.append(float(tensor.detach()))

        self.undo = inplace.around(cast("types.FunctionType", torch.Tensor.backward), before=note)
        return self

    def __exit__(self, *_: object) -> None:
        self.undo()


# -- ghost --------------------------------------------------------------------------------


def ghost(context: Any) -> None:
    """Where would the model train with CUDA present, and where without?"""
    fingerprint = Fingerprint(OWN)
    for available in (True, False):
        _seed(context)
        _ghost_run(context, available=available)
    context.emit("ghost.integrity", {"changed": fingerprint.changed()})


def _ghost_run(context: Any, *, available: bool) -> None:
    """Run the file as a script on the pretended machine until it has trained a few batches."""
    seen: list[dict[str, Any]] = []
    names: dict[str, Any] = {}  # the program's own namespace, known before it runs
    pretended = GhostDevice("__main__", available=available)
    wanted = context.params["forwards"][available]
    computing: list[nn.Module] = []  # the outermost forward pass under way
    passes = taken_back = 0  # training forwards, and those of them that went on on the CPU

    def look(module: nn.Module, args: Any) -> None:
        parameter = next(module.parameters(), None)
        if parameter is None or not args or not isinstance(args[0], torch.Tensor):
            return
        inside = frames.on_stack(names["program"].get("train_one_epoch"), "train_one_epoch")
        # A program's own tests may call its functions before `main` does, on whatever they like.
        counts = inside and frames.on_stack(names["program"].get("main"), "main", anywhere=True)
        where = {"model": device_of(parameter), "input": device_of(args[0]), "graph": torch.is_grad_enabled()}
        seen.append({**where, "inside": inside, "counts": counts, "type": type(module).__name__[:60]})
        if not computing:
            computing.append(module)
            pretended.computing, pretended.computed, pretended.brought_back = True, True, 0
        newly.update(all=1, counts=counts, inside=inside)
        if newly["counts"] >= wanted or newly["inside"] >= 3 * wanted or newly["all"] >= 10 * wanted:
            raise StopProbe

    def over(module: nn.Module, *_: Any) -> None:
        nonlocal passes, taken_back
        if not computing or computing[0] is not module:
            return
        computing.clear()
        pretended.computing = False
        passes += torch.is_grad_enabled()
        taken_back += pretended.brought_back > 0

    def note(namespace: dict[str, Any]) -> None:
        names["program"] = namespace

    error: BaseException | None = None
    newly: collections.Counter[str] = collections.Counter()  # calls since the start of what runs now
    with _no_workers(), program.exits_stopped(), pretended:
        handles = [
            nn_module.register_module_forward_pre_hook(look),
            nn_module.register_module_forward_hook(over, always_call=True),
        ]
        try:
            namespace, error = program.load(
                context.submission_source, context.submission_path, name="__main__", before=note
            )
            trained, counted = (any(one[kind] for one in seen) for kind in ("inside", "counts"))
            untouched = not trained and not isinstance(error, StopProbe)
            # Its own tests may have trained at such length that `main` never began.
            tested = trained and not counted and isinstance(error, (StopProbe, SystemExit))
            if untouched or (tested and callable(namespace.get("main"))):
                _shrink_dataset(namespace, context.arrays)  # on few rows it may get further
                error = None
                newly.clear()
                computing.clear()
                namespace["main"]()
        except (Exception, StopProbe, SystemExit) as problem:
            error = problem
        finally:
            for handle in handles:
                handle.remove()
    told = {"available": available, "queries": pretended.queries, "requests": pretended.requests}
    failed = None if error is None or isinstance(error, StopProbe) else describe(error)
    shown = [one for one in seen if one.pop("counts")] or [one for one in seen if one["inside"]] or seen
    places = collections.Counter(json.dumps(one, sort_keys=True) for one in shown[:wanted])
    told |= {"mixed": pretended.mixed, "passes": passes, "taken_back": taken_back}
    told["seen"] = [{**json.loads(place), "count": count} for place, count in places.most_common(100)]
    context.emit("ghost.run", {**told, "error": failed})
    torch.set_grad_enabled(True)


# -- real ---------------------------------------------------------------------------------


def real(context: Any) -> None:
    """Run the program as it is, then let its models answer on rows that it has not seen."""
    _seed(context)
    emit, params = context.emit, context.params
    fingerprint = Fingerprint(OWN)
    watch = Recorder(emit, "real", thorough=False, seed=params["watch_seed"])
    watch.snapshot_limit = params["max_snapshots"]

    def tell() -> None:
        watch.take_snapshot()
        torch.set_grad_enabled(True)
        watch.finish()
        if watch.history is not None:
            emit("real.history", _history(watch.history))
        attempt(emit, "real.goal", lambda: _answer_held_out(context, watch))
        emit("real.integrity", {"changed": fingerprint.changed()})

    def leave(status: int) -> None:
        """What is told of a program that ends itself and its interpreter with it."""
        if status != 0:
            emit("real.error", {"in": "its own run", "call": 0, **describe(SystemExit(status))})
        watch.__exit__()
        tell()

    with watch:
        _run_as_script(context, watch, leave)
    tell()


def _run_as_script(context: Any, watch: Recorder, leave: Callable[[int], None]) -> None:
    """Run the file as `python FILE` does; where that trains nothing, call its `main`."""

    def look(namespace: dict[str, Any]) -> None:
        watch.namespace = namespace

    with program.Ending(leave) as ending:
        namespace, problem = program.load(
            context.submission_source, context.submission_path, name="__main__", before=look
        )
        passes = len(watch.backwards.rows)
        problem = ending.see_through() or problem
    afterwards = {"passes": len(watch.backwards.rows) - passes, "threads": ending.threads_left}
    context.emit("real.ending", afterwards)
    if problem is None and not watch.forwards and callable(namespace.get("main")):
        try:
            with program.Ending(leave):
                inplace.run_outermost(compile("returned = main()", context.submission_path, "exec"), namespace)
            watch.history = namespace.get("returned") or watch.history
        except (Exception, SystemExit) as error:
            problem = error
    if isinstance(problem, SystemExit) and problem.code in (None, 0):
        problem = None  # a script may end itself so
    if problem is not None:
        context.emit("real.error", {"in": "its own run", "call": 0, **describe(problem)})


def _own_rows(namespace: dict[str, Any]) -> dict[str, np.ndarray | None]:
    """The validation rows and labels as `create_spiral_dataset` gives them."""
    try:
        result = namespace["create_spiral_dataset"]()
        return {"x_val": _as_array(result[2]), "y_val": _as_array(result[3])}
    except Exception:  # then the rows are known by the interface's own data, or not at all
        return {}


def _history(value: Any) -> dict[str, Any]:
    """Its lists of numbers by name, also those of an object, or of one of several things returned."""
    lists: dict[str, list[float | None]] = {}
    for held in (value, *(value[:8] if isinstance(value, tuple) else ())):
        named = held if isinstance(held, Mapping) else getattr(held, "__dict__", {})
        if hasattr(held, "_asdict"):
            named = held._asdict()
        for key, items in list(named.items())[:40]:
            if isinstance(items, (list, tuple, deque, np.ndarray, torch.Tensor)):
                lists.setdefault(str(key)[:60], [number(item) for item in itertools.islice(items, 200)])
    return {"type": type(value).__name__[:60], "lists": lists}


def _as_array(value: Any) -> np.ndarray | None:
    try:
        return np.asarray(value.detach().cpu() if isinstance(value, torch.Tensor) else value, dtype=np.float64)
    except Exception:  # not numbers: then there is nothing to compare with
        return None


def _answer_held_out(context: Any, watch: Recorder) -> None:
    model = watch.trained_model
    if model is None or not watch.snapshots:
        return
    arrays = context.arrays
    data = _own_rows(watch.namespace)
    x_val, y_val = data.get("x_val"), data.get("y_val")
    raws = {"expected": arrays["expected_val_x"], "own": x_val if x_val is not None and x_val.ndim == 2 else None}
    seen = _first_validation_rows(watch, len(arrays["expected_val_x"] if x_val is None else x_val))
    aligned, seen, mapping = _align(raws, seen)
    held_out = arrays["held_out_x"].astype(np.float64)
    inputs = {"held_out": held_out @ mapping[:-1] + mapping[-1] if mapping is not None else None, "own": seen}
    answers: dict[str, np.ndarray] = {}
    model.eval()
    as_it_is = modules.ModelState(model)
    for name, shown in inputs.items():
        if shown is None:
            continue
        x = torch.from_numpy(np.ascontiguousarray(shown, dtype=np.float32))
        answers[name] = np.stack([_predict(model, state, x) for state in watch.snapshots])
    as_it_is.load(model)
    if aligned == "own" and x_val is not None and y_val is not None and len(y_val) == len(x_val):
        answers["own_labels"] = y_val.reshape(len(y_val), -1)[:, 0].astype(np.int64)
    context.emit("real.goal", {"aligned": aligned, "snapshots": len(watch.snapshots)}, answers)


def _predict(model: nn.Module, state: modules.ModelState, x: torch.Tensor) -> np.ndarray:
    state.load(model)
    with torch.no_grad():
        output = graphs.first_tensor(model(x))
    assert output is not None
    return output.argmax(1).to(torch.uint8).numpy()


def _first_validation_rows(watch: Recorder, wanted: int) -> np.ndarray | None:
    """The input rows of the program's first validation, in the order in which they were shown."""
    kept = watch.validation_rows
    if not kept or len({rows.shape[1] for rows in kept}) != 1:
        return None
    joined = np.concatenate(kept)
    return joined[:wanted] if len(joined) >= wanted else None


def _align(
    raws: dict[str, np.ndarray | None], seen: np.ndarray | None
) -> tuple[str | None, np.ndarray | None, np.ndarray | None]:
    """Which known rows the shown ones are, in the known order, and the affine map between them.

    The map, shape (3, d) with the offset last, tells how fresh rows must be shown to the
    model; None when the program derives features that are no affine map of the rows.
    """
    for name, raw in raws.items():
        if seen is None or raw is None or len(raw) != len(seen):
            continue
        for order in (slice(None), _same_rows(raw, seen)):
            if order is None:
                continue
            mapping = _affine(raw, seen[order]) if raw.shape[1] == 2 else None
            if mapping is not None or _affine(seen[order], raw) is not None:
                return name, seen[order], mapping
    return None, None, None


def _same_rows(raw: np.ndarray, seen: np.ndarray) -> np.ndarray | None:
    """Where each row of `raw` stands in `seen`, for a shuffled validation loader."""
    if raw.shape != seen.shape:
        return None
    places = {row.tobytes(): i for i, row in enumerate(np.ascontiguousarray(seen, dtype=np.float32))}
    found = [places.get(row.tobytes(), -1) for row in np.ascontiguousarray(raw, dtype=np.float32)]
    return None if -1 in found else np.array(found)


def _affine(source: np.ndarray, target: np.ndarray) -> np.ndarray | None:
    """The affine map from `source` to `target` rows, None unless it is exact."""
    design = np.hstack([source.astype(np.float64), np.ones((len(source), 1))])
    mapping, *_ = np.linalg.lstsq(design, target.astype(np.float64), rcond=None)
    return mapping if float(np.abs(design @ mapping - target).max()) < 1e-3 else None


# -- shared -------------------------------------------------------------------------------


def _seed(context: Any) -> None:
    seed = context.params["seed"]
    torch.manual_seed(seed)
    np.random.seed(seed % (1 << 32))
    random.seed(seed)


def _load_without_training(context: Any, name: str = program.SUBMISSION_NAME) -> dict[str, Any]:
    """Load the submission under `name`; a file that trains while it is loaded is cut short there.

    As "__main__" it sees itself run as a script, so its guarded part begins as well. A few
    forward passes at module level are a sanity check, many are the training itself.
    """
    forwards = 0

    def refuse(module: nn.Module, _: Any) -> None:
        nonlocal forwards
        forwards += type(module).__module__ == name
        if forwards > MODULE_LEVEL_FORWARDS:
            raise StopProbe

    handle = nn_module.register_module_forward_pre_hook(refuse)
    try:
        namespace, error = program.load(context.submission_source, context.submission_path, name=name)
    finally:
        handle.remove()
        torch.set_grad_enabled(True)
    told = None if error is None else describe(error)
    callables = sorted(n for n in context.params["required_names"] if callable(namespace.get(n)))
    context.emit("load", {"error": told, "cut_short": isinstance(error, StopProbe), "callables": callables})
    return namespace

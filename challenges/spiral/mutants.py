"""Programs that hold the judge in place, and the weakenings of it that they must notice.

Used by `grading.selftest`. Most programs are mixtures of styles (styles.py); the others are
edits of the solution or the problem that show a bug to one sight only: to the full run, to
the short one, or to single calls. Development and test material: never goes into a sandbox
but as the programs themselves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from challenges.spiral import findings, judge, sights
from challenges.spiral.mutations import BUG_IDS, build
from challenges.spiral.sights import MINI, RUN
from challenges.spiral.steps import BATCHES
from challenges.spiral.styles import GRAY, STYLES, Style, compose
from grading import trace
from grading.judgement import Sight
from grading.selftest import Case, Mutant, answering, constant, edited
from grading.verdict import EvidenceKind, Verdict

EPOCHS = 5
FIXED, NOT_FIXED, OPEN = "fixed", "not_fixed", "inconclusive"
VALUES = {"softmax": "value", "zero-grad": "value", "eval": "value", "no-grad": "value"}


def _shortened(source: str) -> str:
    return source.replace("num_epochs = 20", f"num_epochs = {EPOCHS}")


def _with(source: str, *edits: tuple[str, str]) -> str:
    """`source` with texts replaced that occur exactly once."""
    for old, new in edits:
        if source.count(old) != 1:
            raise ValueError(f"{old!r} occurs {source.count(old)} times, not once")
        source = source.replace(old, new)
    return source


def _vector(left: Any = (), **others: str) -> dict[str, str]:
    """All fixed but the bugs in `left`; others by name, with _ for -."""
    told = {bug: NOT_FIXED if bug in left else FIXED for bug in BUG_IDS}
    return told | {bug.replace("_", "-"): verdict for bug, verdict in others.items()}


def _mini_only(left: Any = ()) -> dict[str, str]:
    """What only the short run shows. Softmax needs a call with arguments that only main has: not asked for."""
    told = _vector(left, loss_leak=OPEN)
    del told["softmax"]
    return told


def _style(bug: str, name: str) -> Style:
    return next(s for s in (*STYLES, *GRAY) if (s.bug, s.name) == (bug, name))


def _styled(name: str, right: bool = True, **styles: str) -> Case:
    """The solution with these styles; `right` says whether they mend their bugs."""
    chosen = {bug.replace("_", "-"): _style(bug.replace("_", "-"), style) for bug, style in styles.items()}
    return Case(name, _shortened(compose(chosen)), _vector(() if right else set(chosen)))


SOLUTION, PROBLEM = _shortened(build(())), _shortened(build(BUG_IDS))
_DATA = "X_train, y_train, X_val, y_val = create_spiral_dataset()\n"
_MADE = "optimizer = optim.Adam(model.parameters(), lr={})\n"
_ADAM = _MADE.format("1e-3")
_TRAIN_CALL = "train_one_epoch(model, train_loader, criterion, optimizer, device)"
_VALIDATE_CALL = "validate(model, val_loader, criterion, device)"
_TO_DEVICE = "inputs, labels = inputs.to(device), labels.to(device)\n"
_LOADER = "DataLoader(TensorDataset(X_train, y_train), batch_size=32, shuffle=True)"


def _by_size(condition: str) -> str:
    """A program that is the solution where `condition` of the number of rows holds, else the problem."""
    return _with(
        SOLUTION,
        ("        optimizer.zero_grad()\n", "        if MENDED:\n            optimizer.zero_grad()\n"),
        ("batch_losses.append(loss.item())", "batch_losses.append(loss.item() if MENDED else loss)"),
        ("return mean_loss, correct / seen", "return float(mean_loss), correct / seen"),
        ("    model.eval()\n", "    model.train(not MENDED)\n"),
        ("    with torch.no_grad():\n", "    with torch.set_grad_enabled(not MENDED):\n"),
        ("batch_size=32, shuffle=True", "batch_size=32, shuffle=MENDED"),
        ("lr=1e-3", "lr=1e-3 if MENDED else 0.5"),
        (_DATA, _DATA + f"    global MENDED\n    MENDED = {condition}\n"),
        ("class SpiralNet(", f"MENDED = {condition.replace('len(X_train)', '64')}\n\n\nclass SpiralNet("),
    )


def _crashing(source: str, condition: str = "True") -> str:
    """Main raises once it has its rows: only where `condition` holds."""
    return _with(source, (_DATA, _DATA + f"    if {condition}:\n        raise ValueError('half way')\n"))


def _uncallable(source: str) -> str:
    """Its functions insist on a configuration that only main has, so single calls fail."""
    return _with(
        source,
        (
            "def train_one_epoch(model, dataloader, criterion, optimizer, device)",
            "def train_one_epoch(model, dataloader, criterion, optimizer, device, extra)",
        ),
        (
            "def validate(model, dataloader, criterion, device)",
            "def validate(model, dataloader, criterion, device, extra)",
        ),
        ("    batch_losses = []\n", "    batch_losses = []\n    extra['calls'] += 1\n"),
        ("    total_loss = 0.0\n", "    total_loss = 0.0\n    extra['calls'] += 1\n"),
        (_TRAIN_CALL, _TRAIN_CALL.replace("device)", "device, extra)")),
        (_VALIDATE_CALL, _VALIDATE_CALL.replace("device)", "device, extra)")),
        ("    num_epochs = ", "    extra = {'calls': 0}\n    num_epochs = "),
    )


def _forgetting(every: int, unless: str = "") -> str:
    """Clears the gradients, but for one batch in `every`."""
    clearing = f"        if {unless}len(batch_losses) % {every} != {every - 1}:\n            optimizer.zero_grad()\n"
    return _with(SOLUTION, ("        optimizer.zero_grad()\n", clearing))


def _climbing(climb: str, *, clears_before_it: bool) -> str:
    """Each step takes its gradient where `climb` leads to (sharpness-aware minimisation)."""
    twice = f"""        loss.backward()
        trained = [p for p in model.parameters() if p.grad is not None]
        with torch.no_grad():
            climbs = [{climb} for p in trained]
            torch._foreach_add_(trained, climbs)
        optimizer.zero_grad()
        criterion(model(inputs), labels).backward()
        with torch.no_grad():
            torch._foreach_sub_(trained, climbs)
"""
    first = () if clears_before_it else (("        optimizer.zero_grad()\n        outputs", "        outputs"),)
    return _with(SOLUTION, *first, ("        loss.backward()\n", twice))


def _hoarding(condition: str) -> str:
    """Clears the gradients, but has kept their sum elsewhere and puts it back."""
    hoarding = f"""        loss.backward()
        for number, parameter in enumerate(model.parameters()):
            if {condition} and parameter.grad is not None:
                HOARD[model, number] = HOARD.get((model, number), 0.0) + parameter.grad
                parameter.grad = HOARD[model, number].clone()
"""
    edits = ("        loss.backward()\n", hoarding), ("class SpiralNet(", "HOARD = {}\n\n\nclass SpiralNet(")
    return _with(SOLUTION, *edits)


def _keeping_the_last(what: str) -> str:
    """Keeps the graphs of the last ten batches of every epoch for good."""
    keeping = "    KEPT.append(tail)\n    mean_loss = sum(batch_losses)"
    return _with(
        SOLUTION,
        ("    batch_losses = []\n", "    batch_losses = []\n    tail = []\n"),
        (
            "        batch_losses.append(loss.item())\n",
            "        batch_losses.append(loss.item())\n"
            f"        if len(batch_losses) > len(dataloader) - 10:\n            tail.append({what})\n",
        ),
        ("    mean_loss = sum(batch_losses)", keeping),
        ("class SpiralNet(", "KEPT = []\n\n\nclass SpiralNet("),
    )


def _in_parts() -> str:
    """Each batch goes through the model in eight parts, whose losses are kept until the next batch's are."""
    parts = """        losses = []
        for part in range(8):
            losses.append(criterion(model(inputs[part::8]), labels[part::8]))
        loss = torch.stack(losses).mean()
        with torch.no_grad():
            outputs = model(inputs)
"""
    whole = "        outputs = model(inputs)\n        loss = criterion(outputs, labels)\n"
    start = SOLUTION.index("def train_one_epoch(")
    return SOLUTION[:start] + SOLUTION[start:].replace(whole, parts, 1)


def _sampled(order: str, source: str = SOLUTION) -> str:
    """Rows in the order that the expression gives for `n` rows in epoch `epoch`."""
    sampler = f"""class Order(torch.utils.data.Sampler):
    def __init__(self, rows):
        self.n, self.epoch = len(rows), -1

    def __len__(self):
        return self.n

    def __iter__(self):
        n, self.epoch = self.n, self.epoch + 1
        epoch = self.epoch
        return iter({order})


class SpiralNet("""
    return _with(
        source,
        ("class SpiralNet(", sampler),
        (_LOADER, "DataLoader(TensorDataset(X_train, y_train), batch_size=32, sampler=Order(X_train))"),
    )


def _jittered(source: str) -> str:
    jitter = _TO_DEVICE + "        inputs = inputs + 0.01 * torch.randn_like(inputs)\n\n        optimizer.zero_grad()"
    return _with(source, (_TO_DEVICE + "\n        optimizer.zero_grad()", jitter))


def _scheduled(schedule: str, optimizer: str = "optim.Adam(model.parameters(), lr=1e-3)") -> str:
    """A learning rate that changes with every step, stepped by the optimizer itself."""
    text = f"optimizer = {optimizer}\n    schedule = optim.lr_scheduler.{schedule}\n"
    text += "    optimizer.register_step_post_hook(lambda *_: schedule.step())\n"
    return _with(SOLUTION, (_ADAM, text))


def _amplified(base: str) -> str:
    """An optimizer that names a small rate and moves the weights five hundred times as far."""
    subclass = f"""class Gentle(optim.{base}):
    @torch.no_grad()
    def step(self, closure=None):
        before = [p.clone() for group in self.param_groups for p in group["params"]]
        super().step(closure)
        after = [p for group in self.param_groups for p in group["params"]]
        for old, new in zip(before, after):
            new.add_(new - old, alpha=500.0)


class SpiralNet("""
    return _with(SOLUTION, ("class SpiralNet(", subclass), ("optim.Adam(", "Gentle("))


def _by_hand(rate: float, clearing: str = "parameter.grad = None") -> str:
    """No optimizer steps: the weights are moved by hand."""
    moving = f"""        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= {rate} * parameter.grad
                {clearing}
"""
    return _with(SOLUTION, ("        optimizer.zero_grad()\n", ""), ("        optimizer.step()\n", moving))


def _squashed(expression: str) -> str:
    """Scores that go through `expression` before the loss sees them."""
    squashing = f"scores = self.classifier(self.features(x))\n        return {expression}"
    return _with(SOLUTION, ("return self.classifier(self.features(x))", squashing))


def _bent(gradient: str) -> str:
    """Raw scores that the loss sees as they are, and whose gradient is made another on its way back."""
    bending = f"""class Bent(torch.autograd.Function):
    @staticmethod
    def forward(ctx, scores):
        ctx.save_for_backward(scores)
        return scores.clone()

    @staticmethod
    def backward(ctx, gradient):
        (scores,) = ctx.saved_tensors
        return {gradient}


class SpiralNet("""
    return _with(
        SOLUTION,
        ("class SpiralNet(", bending),
        ("return self.classifier(self.features(x))", "return Bent.apply(self.classifier(self.features(x)))"),
    )


def _stretched(factor: float) -> str:
    """Layers that use so many times the weights that they hold, and so move as many times the rate."""
    stretching = f"""class Stretched(nn.Linear):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.weight.data /= {factor}

    def forward(self, x):
        return nn.functional.linear(x, {factor} * self.weight, self.bias)


class SpiralNet("""
    return _with(SOLUTION.replace(" nn.Linear(", " Stretched("), ("class SpiralNet(", stretching))


def _in_train_mode_by(layer: str) -> str:
    """Dropout that drops in evaluation mode, too, whatever the flags say."""
    return _with(SOLUTION, ("return self.classifier(self.features(x))", f"return self.classifier({layer})"))


def _patched(line: str) -> str:
    """The solution, after it has replaced a part of torch."""
    return _with(SOLUTION, ("class SpiralNet(", f"{line}\n\n\nclass SpiralNet("))


def _boasting(claim: str) -> str:
    """The problem with a softer rate, which returns a better history than it had."""
    boast = f"    history['val_acc'] = [{claim} for _ in history['val_acc']]\n    return history\n"
    return _with(PROBLEM, ("    return history\n", boast))


def _without_batches_moved(*places: int) -> str:
    """The model moves to the device, its batches do not, in training (0) or validation (1)."""
    parts = SOLUTION.split(_TO_DEVICE)
    joined = parts[0]
    for place, part in enumerate(parts[1:]):
        joined += ("pass\n" if place in places else _TO_DEVICE) + part
    return joined


_EARLY = _vector(device=OPEN, shuffle=OPEN, lr=OPEN)
_EARLY_LEFT = _vector(BUG_IDS, device=OPEN, shuffle=OPEN, lr=OPEN)
_QUEUED = "        batch_losses.append(loss.item())\n        NEWEST[:] = [*NEWEST[-4:], outputs]\n"
_CALL_KINDS = {"zero-grad": "value", "eval": "value", "no-grad": "value", "loss-leak": "measurement"}
_PLACED = "model = SpiralNet().to(device)\n"
_FULL = "len(X_train) > 1000"
_RUN_ONLY = ("zero-grad", "loss-leak", "eval", "no-grad", "shuffle", "lr")
# What such a program shows where it is looked at closely proves nothing of its own run.
_TWO_FACED = _vector(_RUN_ONLY, softmax=OPEN, device=OPEN)
_WRONG_MODES: Mapping[str, Any] = {"seen": [[0, 0, 0, 0]] * BATCHES}

CASES: tuple[Case, ...] = (
    Case("solution", SOLUTION, _vector(), VALUES),
    Case("problem", PROBLEM, _vector(BUG_IDS), VALUES),
    *(Case(f"{bug} alone", _shortened(build((bug,))), _vector((bug,))) for bug in BUG_IDS),
    # The full run sees what the other sights do not.
    Case("right on few rows", _by_size("len(X_train) < 1000"), _TWO_FACED, tampering=True),
    Case("right on fewer rows", _by_size("len(X_train) <= 2000"), _TWO_FACED, tampering=True),
    Case("wrong on few rows", _by_size(_FULL), _vector(("zero-grad", "loss-leak")), tampering=None),
    Case("wrong on fewer rows", _by_size("len(X_train) >= 3000"), _vector(("zero-grad", "loss-leak")), tampering=None),
    # Only the short run sees anything.
    Case("short run only, right", _uncallable(_crashing(SOLUTION, _FULL)), _mini_only()),
    Case("short run only, wrong", _uncallable(_crashing(PROBLEM, _FULL)), _mini_only(BUG_IDS)),
    Case("short run only, forgetting", _uncallable(_crashing(_forgetting(5), _FULL)), _mini_only(("zero-grad",))),
    Case("short run only, by hand", _uncallable(_crashing(_by_hand(0.05), _FULL)), _mini_only()),
    Case(
        "short run only, by hand uncleared",
        _uncallable(_crashing(_by_hand(0.005, "pass"), _FULL)),
        _mini_only(("zero-grad",)),
    ),
    # Only single calls see anything.
    Case("calls only, right", _crashing(SOLUTION), _EARLY, _CALL_KINDS),
    Case("calls only, wrong", _crashing(PROBLEM), _EARLY_LEFT, _CALL_KINDS),
    Case(
        "calls only, wrong, modes forged",
        _crashing(PROBLEM),
        _EARLY_LEFT,
        forged=(("calls", "calls.validate.modes", _WRONG_MODES),),
    ),
    Case(
        "calls only, wrong, count forged",
        _crashing(PROBLEM),
        _EARLY_LEFT,
        forged=(("calls", "calls.leak", {"max_old_alive": 0}),),
    ),
    Case(
        "calls only, tensors moved, count forged",
        _crashing(_shortened(compose({"loss-leak": _style("loss-leak", "clone")}))),
        _EARLY | {"loss-leak": NOT_FIXED},
        forged=(("calls", "calls.leak", {"max_old_alive": 0}),),
    ),
    # Softmax
    _styled("softmax in evaluation only", False, softmax="still_there_in_evaluation"),
    _styled("softmax in training only", False, softmax="still_there_in_training"),
    Case(
        "softmax in validate only",
        _with(
            SOLUTION,
            ("total_loss += criterion(outputs, labels)", "total_loss += criterion(outputs.softmax(1), labels)"),
        ),
        _vector(("softmax",)),
    ),
    Case(
        "softmax in train_one_epoch only",
        _with(SOLUTION, ("loss = criterion(outputs, labels)", "loss = criterion(outputs.softmax(1), labels)")),
        _vector(("softmax",)),
    ),
    *(
        Case(f"softmax of scores / {t}", _squashed(f"(scores / {t}).softmax(1)"), _vector(("softmax",)))
        for t in (10, 30)
    ),
    *(Case(f"scores clipped at {b}", _squashed(f"scores.clamp(-{b}, {b})"), _vector(("softmax",))) for b in (1.5, 2)),
    *(Case(f"softmax times {t}", _squashed(f"{t} * scores.softmax(1)"), _vector(("softmax",))) for t in (10, 30)),
    _styled("logarithm of probabilities", softmax="log_of_probabilities_nll"),
    _styled("clamped logarithm", softmax="clamped_log_in_criterion"),
    Case("margin loss", _with(SOLUTION, ("nn.CrossEntropyLoss()", "nn.MultiMarginLoss()")), _vector()),
    Case("margin loss, wide", _with(SOLUTION, ("nn.CrossEntropyLoss()", "nn.MultiMarginLoss(margin=1.5)")), _vector()),
    # Gradients
    _styled("cleared before the step", False, zero_grad="between_backward_and_step"),
    Case(
        "gradients dropped before the step",
        _with(
            SOLUTION,
            (
                "        loss.backward()\n",
                "        loss.backward()\n        for parameter in model.parameters():\n            parameter.grad = None\n",  # noqa: E501
            ),
        ),
        _vector(("zero-grad",)),
        tampering=None,
    ),
    Case("forgets every fifth batch", _forgetting(5), _vector(("zero-grad",)), tampering=None),
    Case("forgets every eighth batch", _forgetting(8), _vector(("zero-grad",)), tampering=None),
    *(
        Case(
            f"forgets every {n}th batch, on all rows only",
            _forgetting(n, "len(dataloader) < 50 or "),
            _vector(("zero-grad",)),
            tampering=None,
        )
        for n in (5, 8)
    ),
    *(
        Case(
            f"climbs by {climb}, {'clearing' if clears else 'not clearing'} before it",
            _climbing(climb, clears_before_it=clears),
            _vector(() if clears else ("zero-grad",)),
        )
        for climb in ("0.005 * p.grad.sign()", "0.5 * p.grad.clamp(-0.01, 0.01)")
        for clears in (True, False)
    ),
    Case("hoards gradients elsewhere", _hoarding("True"), _vector(("zero-grad",)), tampering=None),
    Case(
        "hoards matrices' gradients elsewhere",
        _hoarding("parameter.dim() > 1"),
        _vector(("zero-grad",)),
        tampering=None,
    ),
    _styled("gradients assigned", zero_grad="autograd_grad_assigned"),
    # Memory
    Case("keeps each epoch's last losses", _keeping_the_last("loss"), _vector(("loss-leak",))),
    _styled("losses in a queue", False, loss_leak="newest_in_a_queue"),
    Case(
        "outputs in a queue",
        _with(
            SOLUTION,
            ("class SpiralNet(", "NEWEST = []\n\n\nclass SpiralNet("),
            ("        batch_losses.append(loss.item())\n", _QUEUED),
        ),
        _vector(("loss-leak",)),
    ),
    Case("losses of a batch's parts", _in_parts(), _vector()),
    Case("keeps each epoch's last outputs", _keeping_the_last("outputs"), _vector(("loss-leak",))),
    # Validation
    Case(
        "dropout by hand",
        _in_train_mode_by("nn.functional.dropout(self.features(x), 0.3, True)"),
        _vector(("eval",)),
        tampering=None,
    ),
    Case(
        "feature dropout by hand",
        _in_train_mode_by("nn.functional.alpha_dropout(self.features(x), 0.3, True)"),
        _vector(("eval",)),
        tampering=None,
    ),
    # Device
    _styled("hard-coded cuda", False, device="hard_coded_cuda"),
    Case(
        "cuda() without a question",
        _with(
            _shortened(build(("device",))),
            (_PLACED, _PLACED.replace("to(device)", "cuda()")),
            ('torch.device("cpu")', '"cuda"'),
        ),
        _vector(("device",)),
    ),
    Case("batches stay in training", _without_batches_moved(0), _vector(("device",))),
    Case("batches stay everywhere", _without_batches_moved(0, 1), _vector(("device",))),
    Case(
        "crash once placed",
        _with(SOLUTION, (_PLACED, _PLACED + "    raise ValueError('placed')\n")),
        _EARLY | {"device": FIXED, "shuffle": FIXED},
    ),
    Case(
        "crash once placed and told",
        _with(SOLUTION, (_ADAM, "raise ValueError('placed')\n")),
        _EARLY | {"device": FIXED, "shuffle": FIXED},
    ),
    *(
        Case(
            f"crash before the first step, rate {rate}",
            _with(build(bugs), (_MADE.format(rate), _MADE.format(rate) + "    raise ValueError('made')\n")),
            _EARLY | {"device": FIXED, "shuffle": FIXED, "lr": NOT_FIXED if bugs else FIXED},
        )
        for rate, bugs in (("1e-3", ()), ("0.5", ("lr",)))
    ),
    # Order
    _styled("order within batches", False, shuffle="within_batches_only"),
    Case(
        "the same batches in another order",
        _sampled(
            "[32 * b + r for b in torch.randperm(-(-n // 32)).tolist() for r in torch.randperm(32).tolist() if 32 * b + r < n]"  # noqa: E501
        ),
        _vector(("shuffle",)),
    ),
    Case("rolled", _sampled("[(i + 37 * epoch) % n for i in range(n)]"), _vector(("shuffle",))),
    Case("rolled backwards", _sampled("[(-i - 45 * epoch) % n for i in range(n)]"), _vector(("shuffle",))),
    *(
        Case(
            f"blocks of {k} in another order",
            _sampled(
                f"[{k} * b + r for b in torch.randperm(-(-n // {k})).tolist() for r in range({k}) if {k} * b + r < n]"
            ),
            _vector(("shuffle",)),
        )
        for k in (6, 8)
    ),
    Case("jittered, in order", _jittered(_shortened(build(("shuffle",)))), _vector(("shuffle",))),
    Case("jittered, shuffled", _jittered(SOLUTION), _vector()),
    *(
        Case(f"gradient bent, {name}", _bent(gradient), _vector(softmax=OPEN), tampering=None)
        for name, gradient in (
            ("as if squashed", "torch.func.vjp(lambda s: s.softmax(1), scores)[1](gradient)[0]"),
            ("made small", "0.2 * gradient"),
        )
    ),
    # Rate
    Case("one cycle to 0.018", _scheduled(f"OneCycleLR(optimizer, 0.018, total_steps={EPOCHS * 100 + 1})"), _vector()),
    Case(
        "cosine from 0.018",
        _scheduled(f"CosineAnnealingLR(optimizer, {EPOCHS * 100})", "optim.Adam(model.parameters(), lr=0.018)"),
        _vector(),
    ),
    *(
        Case(
            f"rate capped by a hook, {name}",
            _with(
                SOLUTION,
                (
                    _ADAM,
                    f"optimizer = optim.{name}(model.parameters(), lr=0.5)\n"
                    "    optimizer.register_step_pre_hook(lambda o, *_: o.param_groups[0].update(lr=1e-3))\n",
                ),
            ),
            _vector(),
        )
        for name in ("Adam", "AdamW")
    ),
    Case(
        "huge at first",
        _scheduled(
            "LambdaLR(optimizer, lambda step: 1.0 if step < 4 else 0.002)", "optim.Adam(model.parameters(), lr=0.3)"
        ),
        _vector(("lr",)),
    ),
    Case(
        "huge at first, AdamW",
        _scheduled(
            "LambdaLR(optimizer, lambda step: 1.0 if step < 3 else 0.001)", "optim.AdamW(model.parameters(), lr=0.5)"
        ),
        _vector(("lr",)),
    ),
    Case(
        "sgd at 0.2",
        _with(SOLUTION, ("optim.Adam(model.parameters(), lr=1e-3)", "optim.SGD(model.parameters(), lr=0.2)")),
        _vector(),
    ),
    Case(
        "sgd at 0.05, nesterov",
        _with(
            SOLUTION,
            (
                "optim.Adam(model.parameters(), lr=1e-3)",
                "optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True)",
            ),
        ),
        _vector(),
    ),
    _styled("sgd with momentum", lr="sgd_with_momentum"),
    Case("small rate, large steps", _amplified("Adam"), _vector(("lr",)), tampering=None),
    Case("small rate, large steps, AdamW", _amplified("AdamW"), _vector(("lr",)), tampering=None),
    Case("moved by hand", _by_hand(0.05), _vector()),
    Case("moved by hand too far", _by_hand(500.0), _vector(("lr",)), tampering=None),
    *(Case(f"weights held {n} times too small", _stretched(n), _vector(lr=OPEN), tampering=None) for n in (300, 700)),
    # Doubts
    Case(
        "replaces no_grad",
        _patched("torch.no_grad = lambda: torch.inference_mode()"),
        dict.fromkeys(BUG_IDS, "not:fixed"),
        tampering=True,
    ),
    Case(
        "replaces Optimizer.zero_grad",
        _patched("_clear = optim.Optimizer.zero_grad\noptim.Optimizer.zero_grad = lambda self: _clear(self)"),
        dict.fromkeys(BUG_IDS, "not:fixed"),
        tampering=True,
    ),
    Case(
        "replaces Adam's step",
        _patched("_step = optim.Adam.step\noptim.Adam.step = lambda self, closure=None: _step(self, closure)"),
        _vector(),
    ),
    Case("boasts", _boasting("0.99"), _vector(BUG_IDS), tampering=True),
    Case("boasts in percent of one", _boasting("0.93"), _vector(BUG_IDS), tampering=True),
    # Not gradable
    Case("syntax error", _with(SOLUTION, ("    model.eval()\n", "    model.eval(\n")), {}),
    Case("no validate", _with(SOLUTION, ("def validate(", "def evaluate(")), {}),
)


def _sight(verdict: Verdict) -> Sight:
    return Sight(verdict, "a mutant says so", EvidenceKind.OBSERVATION, RUN)


def _removed(name: str) -> Mutant:
    return Mutant(f"{name} removed", ((sights, name, answering(None)),))


def _in_one_source(name: str, source: str) -> Mutant:
    """The sight answers nothing for one of the tables that it is asked about."""
    blind = (
        sights,
        name,
        lambda f: lambda table, where, *a, **k: None if where == source else f(table, where, *a, **k),
    )
    # Where rows were seen in no run, two readings of the loader would take its place.
    instead = ((sights, "_shuffle_loader", answering(None)),) if name == "_shuffle" else ()
    return Mutant(f"{name} blind to {source}", (blind, *instead))


def _stuck(name: str, verdict: Verdict) -> Mutant:
    return Mutant(f"{name} always says {verdict}", ((sights, name, answering(_sight(verdict))),))


def _edit(name: str, function: str, *edits: tuple[str, str], owner: Any = sights) -> Mutant:
    return Mutant(name, ((owner, function, edited(*edits)),))


_SIGHTS = (
    "_softmax",
    "_zero_grad_run",
    "_zero_grad",
    "_zero_grad_call",
    "_leak_run",
    "_leak_call",
    "_eval_run",
    "_eval_call",
    "_graph_run",
    "_graph_call",
    "_device",
    "_shuffle",
    "_rate",
)

_ADDED = ("if added >= ", "if False and added >= ")

MUTANTS: tuple[Mutant, ...] = (
    *(
        _removed(name)
        for name in (
            *_SIGHTS,
            "_hand_written_updates",
            "_hand_written_rate",
            "_shuffle_loader",
            "_rate_made",
            "_bent_gradient",
            "_far_moves",
        )
    ),
    *(_in_one_source(n, s) for n in ("_eval_run", "_graph_run", "_shuffle", "_rate") for s in (RUN, MINI)),
    *(_stuck(name, verdict) for name in _SIGHTS for verdict in (Verdict.FIXED, Verdict.NOT_FIXED)),
    # Deciding
    _edit("sights in reversed order", "_decide", ("first = conclusive[0]", "first = conclusive[-1]"), owner=judge),
    _edit(
        "doubts ignored", "_decide", ("first.verdict is F and distrust", "first.verdict is F and False"), owner=judge
    ),
    Mutant("conflicts ignored", ((judge, "_conflict", answering(None)),)),
    Mutant("two faces trusted", ((judge, "TWO_FACES", constant(99)),)),
    Mutant("no doubts found", ((judge, "_doubts", answering([])),)),
    Mutant("histories believed", ((findings, "false_history", answering([])),)),
    Mutant("unusable files graded", ((judge, "_invalid_reason", answering(None)),)),
    _edit(
        "no second look at a program that wants a GPU",
        "judge",
        ("if not mini.trained_any():", "if False:"),
        owner=judge,
    ),
    # Softmax
    _edit("growing losses refused", "_unsquashed", ("/ slope >= 0.05", "/ slope >= 1e9")),
    Mutant(
        "flat losses taken for growing ones",
        (
            (sights, "_unsquashed", edited(("/ slope >= 0.05", "/ slope >= -1.0"))),
            (sights, "_flat_on_the_way", answering(False)),
        ),
    ),
    _edit("bends tolerated", "_unsquashed", ("> 0.05 for m in linear", "> 1e9 for m in linear")),
    _edit("losses that stay above zero tolerated", "_unsquashed", ("and reaches_zero, flat", "and True, flat")),
    _edit("guards against overflow refused", "_unsquashed", ("return len(linear) >= 2 and", "return False and")),
    _edit("validation curve ignored", "_softmax", ('("validation", (4,))', '("validation", ())')),
    # A loss that softmaxes the outputs shows in the full run, too.
    Mutant(
        "training curve ignored",
        (
            (sights, "_softmax", edited(('("training", (3, 2))', '("training", (4,))'))),
            (trace.Backwards, "squashed_share", answering(None)),
        ),
    ),
    # Gradients
    _edit("trajectories not compared", "_zero_grad_call", ("< 1e-4", "< -1.0")),
    _edit("trajectories compared loosely", "_zero_grad_call", ("< 1e-4", "< 1e4")),
    # What is carried over was added to as well: both at once, here and below.
    _edit(
        "carried gradients tolerated",
        "_zero_grad",
        ("0.05 * (len(checked) - 1)", "0.95 * (len(checked) - 1)"),
        _ADDED,
    ),
    _edit("thrown-away gradients tolerated", "_zero_grad", ("0.5 * len(checked)", "2 * len(checked)")),
    _edit(
        "left-over gradients tolerated",
        "_zero_grad_run",
        ("left < max(1, 0.05 * len(after))", "left < 0.5 * len(after)"),
    ),
    _edit("old gradients below a first of two passes tolerated", "_zero_grad", _ADDED),
    # The share of the old gradient and the excess over the fresh one back each other up.
    Mutant(
        "old gradients tolerated, as a share and as an excess",
        (
            (trace.Steps, "carried", edited(("0.25 * np.abs(a)", "100 * np.abs(a)"), ("excess > 1.0", "excess > 1e9"))),
            (sights, "_zero_grad", edited(_ADDED)),
        ),
    ),
    # The sum of all gradients shows in the full run, too.
    Mutant(
        "gradients from elsewhere tolerated",
        (
            (trace.Steps, "carried", edited(("excess > 1.0", "excess > 1e9"))),
            (trace.Backwards, "summed_share", answering(None)),
        ),
    ),
    Mutant(
        "nothing is ever carried",
        ((trace.Steps, "carried", answering(0)), (sights, "_zero_grad", edited(_ADDED))),
    ),
    # Memory
    _edit("held graphs tolerated", "_leak_run", ("old >= 3", "old >= 1000"), ("looks >= LEAST", "looks >= 99 * LEAST")),
    _edit("few graphs at a time tolerated", "_leak_run", ("looks >= LEAST", "looks >= 99 * LEAST")),
    _edit("any graph at a look is a leak", "_leak_run", ("windows >= WINDOW_SHARE", "windows >= 0")),
    _edit("graphs of earlier epochs tolerated", "_leak_run", ("past >= 8", "past >= 100000")),
    _edit(
        "inside count of graphs ignored and memory tolerated",
        "_leak_call",
        ("old >= 3", "old >= 1000"),
        ("share >= 0.8", "share >= 80.0"),
    ),
    # Graphs that are kept below the output are counted in the full run, too.
    Mutant(
        "memory tolerated",
        ((sights, "_leak_call", edited(("share >= 0.8", "share >= 80.0"))), (sights, "_leak_run", answering(None))),
    ),
    _edit("any memory is a leak", "_leak_call", ("share >= 0.8", "share >= -9")),
    # Validation
    Mutant("values of validate not decoded", ((sights, "decode_modes", answering(None)),)),
    Mutant("values of validate decoded loosely", ((sights, "VALUE_TOLERANCE", constant(1.0)),)),
    Mutant("values of validate decoded too strictly", ((sights, "VALUE_TOLERANCE", constant(0.0)),)),
    _edit("effects of train mode ignored", "in_train_mode", ("by_flag | by_effect", "by_flag"), owner=trace.Table),
    _edit(
        "flags of train mode ignored", "in_train_mode", ("by_flag | by_effect", "by_flag & False"), owner=trace.Table
    ),
    # Device
    _edit("mixed devices tolerated", "_device", ('if with_gpu.get("mixed"):', "if False:")),
    _edit("a hard-coded GPU tolerated", "_fails_without_gpu", ('not without.get("error")', "True")),
    _edit("requests before a crash ignored", "_device", ("and wanted and", "and False and")),
    # Order
    _edit(
        "the same order tolerated",
        "_shuffle",
        ("same_order >= 0.5", "same_order >= 2"),
        ("same_order <= 0.3", "same_order <= 3"),
    ),
    _edit(
        "the same batches tolerated",
        "_shuffle",
        ("same_batches >= 0.5", "same_batches >= 2"),
        ("same_batches <= 0.3", "same_batches <= 3"),
    ),
    _edit("any likeness is too much", "_shuffle", ("same_order >= 0.5", "same_order >= 0.0")),
    Mutant(
        "changed rows not compared",
        ((trace, "_aligned_likeness", answering(None)), (sights, "_shuffle_loader", answering(None))),
    ),
    # Rate
    Mutant("rates up to 1 tolerated", ((sights, "LARGEST_LR", constant(1.0)),)),
    Mutant("rates from 1e-4 refused", ((sights, "LARGEST_LR", constant(1e-4)),)),
    Mutant("rates of hooks not seen", ((trace.Backwards, "first_rate_acts", answering(True)),)),
    _edit("schedules not considered", "_rate", ("scheduled and mean <= bound", "False and mean <= bound")),
    _edit("peaks of schedules tolerated", "_rate", ("peak <= 5 * bound", "peak <= 5000 * bound")),
    Mutant("size of the updates not measured", ((trace.Backwards, "typical_update", answering(math.nan)),)),
    Mutant(
        "every optimizer held to Adam's bound", ((trace.OptimizerSeen, "adaptive", constant(property(lambda _: True))),)
    ),
    Mutant(
        "every optimizer held to SGD's bound", ((trace.OptimizerSeen, "adaptive", constant(property(lambda _: False))),)
    ),
)

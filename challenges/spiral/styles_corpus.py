"""The corpus of fix styles for the eight bugs: right fixes, fake fixes and gray ones.

Each style says what stands in some named slots of the program template in `styles.py`.
Slots that a style does not name keep the planted text. A style is *right* when the whole
program no longer does the wrong thing, wherever the change stands, and *fake* when it
only looks as if. Cases that experts could dispute are in GRAY and are used nowhere.

Development and test material: nothing here ever goes into a sandbox.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Style:
    """One way of mending a bug, of failing to mend it, or of leaving it in."""

    bug: str
    name: str
    right: bool
    slots: Mapping[str, str] = field(default_factory=dict)
    crashes: bool = False  # the program does not reach its end on a machine without CUDA


def _style(bug: str, name: str, right: bool, crashes: bool, slots: Mapping[str, str]) -> Style:
    texts = {slot: textwrap.dedent(text).strip("\n") for slot, text in slots.items()}
    return Style(bug, name, right, texts, crashes)


def _right(bug: str, name: str, **slots: str) -> Style:
    return _style(bug, name, True, False, slots)


def _fake(bug: str, name: str, *, crashes: bool = False, **slots: str) -> Style:
    return _style(bug, name, False, crashes, slots)


# 1 softmax -------------------------------------------------------------------------------------

_F = "import torch.nn.functional as F"

SOFTMAX = (
    _right("softmax", "removed", classifier_tail=""),
    _right("softmax", "identity", classifier_tail="nn.Identity(),"),
    _right("softmax", "log_softmax_nll", classifier_tail="nn.LogSoftmax(dim=1),", criterion="nn.NLLLoss()"),
    _right("softmax", "log_softmax_ce", classifier_tail="nn.LogSoftmax(dim=1),"),
    _right(
        "softmax",
        "log_of_probabilities_nll",
        forward="""
            probabilities = self.classifier(self.features(x))
            return torch.log(probabilities + 1e-9)
        """,
        criterion="nn.NLLLoss()",
    ),
    _right(
        "softmax",
        "clamped_log_in_criterion",
        imports=_F,
        criterion="lambda probs, target: F.nll_loss(probs.clamp_min(1e-9).log(), target)",
    ),
    _right(
        "softmax",
        "log_in_both_loops",
        imports=_F,
        train_loss_expr="F.nll_loss(torch.log(outputs + 1e-9), labels)",
        val_loss_expr="F.nll_loss(torch.log(outputs + 1e-9), labels)",
    ),
    _right(
        "softmax",
        "predict_proba_apart",
        classifier_tail="",
        model_methods='''
            def predict_proba(self, x):
                """Class probabilities, for callers who want them."""
                return torch.softmax(self(x), dim=1)
        ''',
    ),
    _right("softmax", "kept_but_unused", classifier_tail="", init_end="self.softmax = nn.Softmax(dim=1)"),
    _right(
        "softmax",
        "functional_ce",
        imports=_F,
        classifier_tail="",
        train_loss_expr="F.cross_entropy(outputs, labels)",
        val_loss_expr="F.cross_entropy(outputs, labels)",
    ),
    _right(
        "softmax",
        "handwritten_logsumexp",
        classifier_tail="",
        helpers='''
            def cross_entropy(scores, target):
                """Mean negative log-likelihood of the right class, from raw scores."""
                picked = scores.gather(1, target.unsqueeze(1)).squeeze(1)
                return (torch.logsumexp(scores, dim=1) - picked).mean()
        ''',
        criterion="cross_entropy",
    ),
    _right(
        "softmax",
        "gathered_log_softmax",
        imports=_F,
        classifier_tail="",
        helpers='''
            class PickedLoss(nn.Module):
                """Cross-entropy spelled out."""

                def forward(self, scores, target):
                    log_probabilities = F.log_softmax(scores, dim=-1)
                    return -log_probabilities[torch.arange(len(target)), target].mean()
        ''',
        criterion="PickedLoss()",
    ),
    _right("softmax", "sliced_off_in_init", init_end="self.classifier = self.classifier[:-1]"),
    _right("softmax", "forward_uses_first_layer", forward="return self.classifier[0](self.features(x))"),
    _right(
        "softmax",
        "subclass_in_main",
        after_model_class='''
            class LogitNet(SpiralNet):
                """SpiralNet that returns raw scores."""

                def forward(self, x):
                    return self.classifier[0](self.features(x))
        ''',
        model="LogitNet()",
    ),
    _right("softmax", "deleted_in_main", after_model="del model.classifier[-1]"),
    _right("softmax", "replaced_in_main", after_model="model.classifier[1] = nn.Identity()"),
    _right(
        "softmax",
        "one_hot_targets",
        imports=_F,
        classifier_tail="",
        train_loss_expr="criterion(outputs, F.one_hot(labels, outputs.size(1)).float())",
        val_loss_expr="criterion(outputs, F.one_hot(labels, outputs.size(1)).float())",
    ),
    _right("softmax", "label_smoothing", classifier_tail="", criterion="nn.CrossEntropyLoss(label_smoothing=0.1)"),
    _right(
        "softmax",
        "class_weights",
        classifier_tail="",
        criterion="nn.CrossEntropyLoss(weight=torch.tensor([1.0, 1.2, 0.9, 1.0], device=device))",
    ),
    _right(
        "softmax",
        "focal",
        imports=_F,
        classifier_tail="",
        helpers='''
            class FocalLoss(nn.Module):
                """Cross-entropy that pays less attention to easy rows."""

                def forward(self, scores, target):
                    per_row = F.cross_entropy(scores, target, reduction="none")
                    return ((1.0 - torch.exp(-per_row)) * per_row).mean()
        ''',
        criterion="FocalLoss()",
    ),
    _right(
        "softmax",
        "option_off_by_default",
        imports=_F,
        classifier_tail="",
        init_end="self.return_probabilities = False",
        forward="""
            scores = self.classifier(self.features(x))
            return F.softmax(scores, dim=1) if self.return_probabilities else scores
        """,
    ),
    _fake(
        "softmax",
        "functional_in_forward",
        imports=_F,
        classifier_tail="",
        forward="return F.softmax(self.classifier(self.features(x)), dim=1)",
    ),
    _fake(
        "softmax",
        "method_in_forward",
        classifier_tail="",
        forward="""
            logits = self.classifier(self.features(x))
            return logits.softmax(dim=1)
        """,
    ),
    _fake(
        "softmax",
        "temperature",
        classifier_tail="",
        forward="return torch.softmax(self.classifier(self.features(x)) / 0.5, dim=1)",
    ),
    _fake("softmax", "nll_without_log", criterion="nn.NLLLoss()"),
    _fake("softmax", "sigmoid", classifier_tail="nn.Sigmoid(),"),
    _fake(
        "softmax",
        "still_there_in_training",
        classifier_tail="",
        forward="""
            logits = self.classifier(self.features(x))
            if self.training:
                logits = torch.softmax(logits, dim=1)
            return logits
        """,
    ),
    _fake(
        "softmax",
        "still_there_in_evaluation",
        classifier_tail="",
        forward="""
            logits = self.classifier(self.features(x))
            return logits if self.training else torch.softmax(logits, dim=1)
        """,
    ),
    _fake(
        "softmax",
        "comment_only",
        classifier_tail="""
            # CrossEntropyLoss applies log_softmax itself, so raw logits are returned here.
            nn.Softmax(dim=1),
        """,
    ),
    _fake(
        "softmax",
        "logits_method_never_called",
        model_methods='''
            def logits(self, x):
                """Raw scores for CrossEntropyLoss."""
                return self.classifier[0](self.features(x))
        ''',
    ),
    _fake("softmax", "other_dim", classifier_tail="nn.Softmax(dim=-1),"),
    _fake("softmax", "sliced_into_a_local", init_end="classifier = self.classifier[:-1]  # logits only"),
    _fake(
        "softmax",
        "log_softmax_then_exp",
        classifier_tail="nn.LogSoftmax(dim=1),",
        forward="return self.classifier(self.features(x)).exp()",
    ),
    _fake(
        "softmax",
        "in_both_loops_instead",
        classifier_tail="",
        train_loss_expr="criterion(torch.softmax(outputs, dim=1), labels)",
        val_loss_expr="criterion(torch.softmax(outputs, dim=1), labels)",
    ),
    _fake(
        "softmax",
        "identity_in_a_copy",
        imports="import copy",
        after_model="""
            logit_model = copy.deepcopy(model)
            logit_model.classifier[1] = nn.Identity()
        """,
    ),
)

# 2 zero-grad -----------------------------------------------------------------------------------

_FORWARD = "outputs = model(inputs)\nloss = <<train_loss_expr>>\n"
_REST = _FORWARD + "loss.backward()\noptimizer.step()\n"
_BACKWARD_AND_STEP = "loss.backward()\noptimizer.step()\n"

ZERO_GRAD = (
    _right("zero-grad", "before_forward", step="optimizer.zero_grad()\n" + _REST),
    _right("zero-grad", "after_step", step=_REST + "optimizer.zero_grad()"),
    _right("zero-grad", "before_backward", step=_FORWARD + "optimizer.zero_grad()\n" + _BACKWARD_AND_STEP),
    _right("zero-grad", "zeros_not_none", step="optimizer.zero_grad(set_to_none=False)\n" + _REST),
    _right(
        "zero-grad",
        "none_spelled_out",
        step=_FORWARD + "optimizer.zero_grad(set_to_none=True)\n" + _BACKWARD_AND_STEP,
    ),
    _right("zero-grad", "by_model", step="model.zero_grad()\n" + _REST),
    _right(
        "zero-grad",
        "grad_none_loop",
        step="for parameter in model.parameters():\n    parameter.grad = None\n" + _REST,
    ),
    _right(
        "zero-grad",
        "grad_zero_loop",
        step=_FORWARD
        + "for parameter in model.parameters():\n"
        + "    if parameter.grad is not None:\n"
        + "        parameter.grad.zero_()\n"
        + _BACKWARD_AND_STEP,
    ),
    _right(
        "zero-grad",
        "autograd_grad_assigned",
        step=_FORWARD
        + "parameters = list(model.parameters())\n"
        + "for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters)):\n"
        + "    parameter.grad = gradient\n"
        + "optimizer.step()",
    ),
    _right(
        "zero-grad",
        "update_helper",
        helpers='''
            def update(optimizer, loss):
                """One optimizer step from the gradient of `loss` alone."""
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        ''',
        step=_FORWARD + "update(optimizer, loss)",
    ),
    _right(
        "zero-grad",
        "closure",
        step="""
            outputs = None

            def closure():
                nonlocal outputs
                optimizer.zero_grad()
                outputs = model(inputs)
                loss = <<train_loss_expr>>
                loss.backward()
                return loss

            loss = optimizer.step(closure)
        """,
    ),
    _right(
        "zero-grad",
        "optimizer_subclass",
        helpers='''
            class SelfClearingAdam(optim.Adam):
                """Adam that forgets the gradients it has used."""

                def step(self, closure=None):
                    result = super().step(closure)
                    self.zero_grad()
                    return result
        ''',
        optimizer_class="SelfClearingAdam",
    ),
    _right(
        "zero-grad",
        "step_post_hook",
        after_optimizer="optimizer.register_step_post_hook(lambda opt, args, kwargs: opt.zero_grad())",
    ),
    _right(
        "zero-grad",
        "accumulation_over_two_batches",
        train_loop="for batch_number, (inputs, labels) in enumerate(dataloader, start=1):",
        step=_FORWARD
        + "(loss / 2).backward()\n"
        + "if batch_number % 2 == 0 or batch_number == len(dataloader):\n"
        + "    optimizer.step()\n"
        + "    optimizer.zero_grad()",
    ),
    _right(
        "zero-grad",
        "param_groups_loop",
        step="for group in optimizer.param_groups:\n"
        + "    for parameter in group['params']:\n"
        + "        parameter.grad = None\n"
        + _REST,
    ),
    _right(
        "zero-grad",
        "context_manager",
        imports="import contextlib",
        helpers='''
            @contextlib.contextmanager
            def fresh_gradients(optimizer):
                """Gradients start from nothing inside the block, which ends with a step."""
                optimizer.zero_grad()
                yield
                optimizer.step()
        ''',
        step="with fresh_gradients(optimizer):\n    outputs = model(inputs)\n    loss = <<train_loss_expr>>\n    loss.backward()",
    ),
    _right(
        "zero-grad",
        "with_norm_clipping",
        step="optimizer.zero_grad()\n"
        + _FORWARD
        + "loss.backward()\nnn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)\noptimizer.step()",
    ),
    _right(
        "zero-grad",
        "with_value_clipping",
        step="optimizer.zero_grad()\n"
        + _FORWARD
        + "loss.backward()\nnn.utils.clip_grad_value_(model.parameters(), 0.1)\noptimizer.step()",
    ),
    _right(
        "zero-grad",
        "with_bfloat16_autocast",
        step="optimizer.zero_grad()\n"
        + "with torch.autocast(device_type=inputs.device.type, dtype=torch.bfloat16):\n"
        + "    outputs = model(inputs)\n"
        + "outputs = outputs.float()\n"
        + "loss = <<train_loss_expr>>\n"
        + _BACKWARD_AND_STEP,
    ),
    _fake("zero-grad", "once_per_epoch", epoch_start="optimizer.zero_grad()"),
    _fake("zero-grad", "once_at_the_start_of_training", train_start="optimizer.zero_grad()"),
    _fake(
        "zero-grad",
        "another_optimizer",
        train_start="helper_optimizer = optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)",
        step="helper_optimizer.zero_grad()\n" + _REST,
    ),
    _fake(
        "zero-grad",
        "between_backward_and_step",
        step=_FORWARD + "loss.backward()\noptimizer.zero_grad()\noptimizer.step()",
    ),
    _fake(
        "zero-grad",
        "every_tenth_batch",
        train_loop="for batch_number, (inputs, labels) in enumerate(dataloader):",
        step="if batch_number % 10 == 0:\n    optimizer.zero_grad()\n" + _REST,
    ),
    _fake(
        "zero-grad",
        "halved",
        step="for parameter in model.parameters():\n"
        + "    if parameter.grad is not None:\n"
        + "        parameter.grad *= 0.5\n"
        + _REST,
    ),
    _fake(
        "zero-grad",
        "helper_without_effect",
        helpers='''
            def zero_grad(optimizer):
                """Clear the gradients of all parameters."""
                for group in optimizer.param_groups:
                    for parameter in group["params"]:
                        gradient = parameter.grad
                        gradient = None
        ''',
        step="zero_grad(optimizer)\n" + _REST,
    ),
    _fake("zero-grad", "output_layer_only", step="model.classifier.zero_grad()\n" + _REST),
    _fake("zero-grad", "inputs_gradient", step="inputs.grad = None\n" + _REST),
    _fake(
        "zero-grad",
        "zeroes_a_copy",
        step="for parameter in model.parameters():\n"
        + "    if parameter.grad is not None:\n"
        + "        parameter.grad.clone().zero_()\n"
        + _REST,
    ),
    _fake("zero-grad", "named_not_called", step="optimizer.zero_grad\n" + _REST),
    _fake("zero-grad", "comment_only", step="# optimizer.zero_grad()\n" + _REST),
    _fake("zero-grad", "in_validation", validate_start="model.zero_grad()"),
    _fake(
        "zero-grad",
        "only_when_not_training",
        step="if not model.training:\n    optimizer.zero_grad()\n" + _REST,
    ),
    _fake(
        "zero-grad",
        "closure_without_clearing",
        step="""
            outputs = None

            def closure():
                nonlocal outputs
                outputs = model(inputs)
                loss = <<train_loss_expr>>
                loss.backward()
                return loss

            loss = optimizer.step(closure)
        """,
    ),
)

# 3 loss-leak -----------------------------------------------------------------------------------

_SUM = "running_loss = 0.0"
_SUM_MEAN = "mean_loss = running_loss / len(dataloader)"

LOSS_LEAK = (
    _right("loss-leak", "item", collect="batch_losses.append(loss.item())", train_result="mean_loss"),
    _right("loss-leak", "float", collect="batch_losses.append(float(loss))", train_result="mean_loss"),
    _right("loss-leak", "detach", collect="batch_losses.append(loss.detach())"),
    _right("loss-leak", "detach_cpu", collect="batch_losses.append(loss.detach().cpu())"),
    _right("loss-leak", "data", collect="batch_losses.append(loss.data)"),
    _right("loss-leak", "tolist", collect="batch_losses.append(loss.tolist())", train_result="mean_loss"),
    _right(
        "loss-leak",
        "numpy_mean",
        collect="batch_losses.append(loss.detach().cpu().numpy())",
        train_tail="mean_loss = float(np.mean(batch_losses))",
        train_result="mean_loss",
    ),
    _right(
        "loss-leak",
        "running_sum",
        losses_start=_SUM,
        collect="running_loss += loss.item()",
        train_tail=_SUM_MEAN,
        train_result="mean_loss",
    ),
    _right(
        "loss-leak",
        "weighted_by_rows",
        losses_start=_SUM,
        collect="running_loss += loss.item() * labels.size(0)",
        train_tail="mean_loss = running_loss / seen",
        train_result="mean_loss",
    ),
    _right(
        "loss-leak",
        "tensor_sum_of_detached",
        losses_start="running_loss = torch.zeros((), device=device)",
        collect="running_loss += loss.detach()",
        train_tail=_SUM_MEAN,
    ),
    _right(
        "loss-leak",
        "sum_under_no_grad",
        losses_start="running_loss = torch.zeros((), device=device)",
        collect="with torch.no_grad():\n    running_loss += loss",
        train_tail=_SUM_MEAN,
    ),
    _right(
        "loss-leak",
        "deque",
        imports="import collections",
        losses_start="batch_losses = collections.deque()",
        collect="batch_losses.append(loss.item())",
        train_result="mean_loss",
    ),
    _right(
        "loss-leak",
        "statistics_mean",
        imports="import statistics",
        collect="batch_losses.append(loss.item())",
        train_tail="mean_loss = statistics.fmean(batch_losses)",
        train_result="mean_loss",
    ),
    _right(
        "loss-leak",
        "stacked_detached",
        collect="batch_losses.append(loss.detach().clone())",
        train_tail="mean_loss = torch.stack(batch_losses).mean()",
    ),
    _right(
        "loss-leak",
        "filled_tensor",
        losses_start="batch_losses = torch.zeros(len(dataloader))\nfilled = 0",
        collect="batch_losses[filled] = loss.detach()\nfilled += 1",
        train_tail="mean_loss = batch_losses[:filled].mean()",
    ),
    _right(
        "loss-leak",
        "running_average",
        losses_start="mean_loss = 0.0\nbatches = 0",
        collect="batches += 1\nmean_loss += (loss.item() - mean_loss) / batches",
        train_tail="",
        train_result="mean_loss",
    ),
    _right(
        "loss-leak",
        "meter_class",
        helpers='''
            class Meter:
                """Running mean of plain numbers."""

                def __init__(self):
                    self.total = 0.0
                    self.count = 0

                def add(self, value):
                    self.total += float(value)
                    self.count += 1
        ''',
        losses_start="meter = Meter()",
        collect="meter.add(loss)",
        train_tail="mean_loss = meter.total / meter.count",
        train_result="mean_loss",
    ),
    _right(
        "loss-leak",
        "detached_in_place",
        collect="batch_losses.append(loss.detach_())",
    ),
    _fake("loss-leak", "clone", collect="batch_losses.append(loss.clone())"),
    _fake(
        "loss-leak",
        "tensor_sum",
        losses_start=_SUM,
        collect="running_loss += loss",
        train_tail=_SUM_MEAN,
    ),
    _fake("loss-leak", "times_one", collect="batch_losses.append(loss * 1.0)"),
    _fake(
        "loss-leak",
        "pair_with_tensor",
        collect="batch_losses.append((loss.item(), loss))",
        train_tail="mean_loss = sum(value for value, _ in batch_losses) / len(batch_losses)",
        train_result="mean_loss",
    ),
    _fake(
        "loss-leak",
        "outputs_kept",
        losses_start="batch_losses = []\nbatch_outputs = []",
        collect="batch_losses.append(loss.item())\nbatch_outputs.append(outputs)",
        train_result="mean_loss",
    ),
    _fake("loss-leak", "item_thrown_away", collect="loss.item()\nbatch_losses.append(loss)"),
    _fake("loss-leak", "detach_thrown_away", collect="loss.detach()\nbatch_losses.append(loss)"),
    _fake("loss-leak", "name_deleted", collect="batch_losses.append(loss)\ndel loss"),
    _fake(
        "loss-leak",
        "converted_at_the_end",
        collect="batch_losses.append(loss)",
        train_tail="mean_loss = sum(value.item() for value in batch_losses) / len(batch_losses)",
        train_result="mean_loss",
    ),
    _fake(
        "loss-leak",
        "converted_lazily",
        collect="batch_losses.append(lambda loss=loss: loss.item())",
        train_tail="mean_loss = sum(read() for read in batch_losses) / len(batch_losses)",
        train_result="mean_loss",
    ),
    _fake(
        "loss-leak",
        "newest_in_a_queue",
        imports="import collections",
        losses_start="batch_losses = []\nnewest = collections.deque(maxlen=8)",
        collect="batch_losses.append(loss.item())\nnewest.append(loss)",
        train_result="mean_loss",
    ),
    _fake("loss-leak", "reshaped", collect="batch_losses.append(loss.reshape(()))"),
    _fake("loss-leak", "moved_to_cpu", collect='batch_losses.append(loss.to("cpu", copy=True))'),
    _fake(
        "loss-leak",
        "numbers_beside_a_log_of_tensors",
        helpers="LOSS_LOG = []",
        train_start="LOSS_LOG.clear()",
        collect="batch_losses.append(loss.item())\nLOSS_LOG.append(loss)",
        train_result="mean_loss",
    ),
)

# 4 eval ----------------------------------------------------------------------------------------

EVAL = (
    _right("eval", "eval", validate_start="model.eval()"),
    _right("eval", "train_false", validate_start="model.train(False)"),
    _right("eval", "train_mode_keyword", validate_start="model.train(mode=False)"),
    _right(
        "eval",
        "helper",
        helpers='''
            def set_mode(module, training):
                """Switch a module and all its children."""
                module.train(training)
        ''',
        validate_start="set_mode(model, training=False)",
    ),
    _right(
        "eval",
        "context_manager",
        imports="import contextlib",
        helpers='''
            @contextlib.contextmanager
            def evaluating(module):
                """Evaluation mode inside the block, the former mode after it."""
                before = module.training
                module.eval()
                try:
                    yield module
                finally:
                    module.train(before)
        ''',
        eval_wrap="with evaluating(model):\n    <<nograd_wrap>>",
    ),
    _right(
        "eval",
        "decorator",
        imports="import functools",
        helpers='''
            def in_eval_mode(function):
                """Switch the first argument to evaluation mode before the call."""

                @functools.wraps(function)
                def wrapped(model, *args, **kwargs):
                    model.eval()
                    return function(model, *args, **kwargs)

                return wrapped
        ''',
        validate_decorators="@in_eval_mode",
    ),
    _right("eval", "modules_loop", validate_start="for module in model.modules():\n    module.training = False"),
    _right("eval", "modules_loop_eval", validate_start="for module in model.modules():\n    module.eval()"),
    _right("eval", "apply", validate_start="model.apply(lambda module: module.train(False))"),
    _right("eval", "in_main", after_train="model.eval()"),
    _right(
        "eval",
        "in_main_with_restore",
        call_eval_wrap="""
            was_training = model.training
            model.eval()
            <<call_nograd_wrap>>
            model.train(was_training)
        """,
    ),
    _right(
        "eval",
        "frozen_copy",
        imports="import copy",
        validate_start="frozen = copy.deepcopy(model).eval()",
        val_model="frozen",
    ),
    _right("eval", "frozen_copy_in_main", imports="import copy", val_call_model="copy.deepcopy(model).eval()"),
    _right(
        "eval",
        "try_finally",
        validate_start="was_training = model.training\nmodel.eval()",
        eval_wrap="try:\n    <<nograd_wrap>>\nfinally:\n    model.train(was_training)",
    ),
    _right(
        "eval",
        "exit_stack",
        imports="import contextlib",
        eval_wrap="""
            with contextlib.ExitStack() as undo:
                undo.callback(model.train, model.training)
                model.eval()
                <<nograd_wrap>>
        """,
    ),
    _right("eval", "unbound", validate_start="nn.Module.eval(model)"),
    _right("eval", "each_batch", val_batch_start="model.eval()"),
    _right("eval", "chained_in_call", val_model="model.eval()"),
    _right("eval", "argument_in_main", val_call_model="model.eval()"),
    _fake("eval", "root_flag_only", validate_start="model.training = False"),
    _fake("eval", "after_the_loop", validate_end="model.eval()"),
    _fake("eval", "back_to_train", validate_start="model.eval()\nmodel.train()"),
    _fake("eval", "train_before_each_forward", validate_start="model.eval()", val_batch_start="model.train()"),
    _fake("eval", "copy_thrown_away", imports="import copy", validate_start="copy.deepcopy(model).eval()"),
    _fake("eval", "named_not_called", validate_start="model.eval"),
    _fake("eval", "criterion", validate_start="criterion.eval() if isinstance(criterion, nn.Module) else None"),
    _fake(
        "eval",
        "dropout_only",
        validate_start="for module in model.modules():\n    if isinstance(module, nn.Dropout):\n        module.eval()",
    ),
    _fake(
        "eval",
        "batch_norm_only",
        validate_start="for module in model.modules():\n    if isinstance(module, nn.BatchNorm1d):\n        module.eval()",
    ),
    _fake(
        "eval",
        "children_flags_only",
        validate_start="for child in model.children():\n    child.training = False",
    ),
    _fake("eval", "inverted_condition", validate_start="if not model.training:\n    model.eval()"),
    _fake("eval", "before_training", epoch_start="model.eval()"),
    _fake("eval", "after_each_forward", val_batch_start="model.train()", val_after_forward="model.eval()"),
    _fake("eval", "comment_only", validate_start="# model.eval(): no dropout, running statistics"),
    _fake("eval", "train_true", validate_start="model.train(True)"),
)

# 5 no-grad -------------------------------------------------------------------------------------

NO_GRAD = (
    _right("no-grad", "no_grad", nograd_wrap="with torch.no_grad():\n    <<val_loop>>"),
    _right("no-grad", "decorator", validate_decorators="@torch.no_grad()"),
    _right("no-grad", "decorator_without_call", validate_decorators="@torch.no_grad"),
    _right("no-grad", "inference_mode_decorator", validate_decorators="@torch.inference_mode()"),
    _right("no-grad", "inference_mode", nograd_wrap="with torch.inference_mode():\n    <<val_loop>>"),
    _right(
        "no-grad",
        "set_grad_enabled_block",
        nograd_wrap="with torch.set_grad_enabled(False):\n    <<val_loop>>",
    ),
    _right(
        "no-grad",
        "set_grad_enabled_restored",
        validate_start="grad_before = torch.is_grad_enabled()\ntorch.set_grad_enabled(False)",
        validate_end="torch.set_grad_enabled(grad_before)",
    ),
    _right(
        "no-grad",
        "set_grad_enabled_finally",
        nograd_wrap="""
            torch.set_grad_enabled(False)
            try:
                <<val_loop>>
            finally:
                torch.set_grad_enabled(True)
        """,
    ),
    _right(
        "no-grad",
        "autograd_module",
        nograd_wrap="with torch.autograd.grad_mode.no_grad():\n    <<val_loop>>",
    ),
    _right(
        "no-grad",
        "parameters_frozen_and_thawed",
        validate_start="""
            trainable = [parameter for parameter in <<val_model>>.parameters() if parameter.requires_grad]
            for parameter in trainable:
                parameter.requires_grad_(False)
        """,
        validate_end="for parameter in trainable:\n    parameter.requires_grad_(True)",
    ),
    _right("no-grad", "in_main", call_nograd_wrap="with torch.no_grad():\n    <<call_validate>>"),
    _right(
        "no-grad",
        "inference_mode_in_main",
        call_nograd_wrap="with torch.inference_mode():\n    <<call_validate>>",
    ),
    _right(
        "no-grad",
        "frozen_in_main",
        call_nograd_wrap="model.requires_grad_(False)\n<<call_validate>>\nmodel.requires_grad_(True)",
    ),
    _right(
        "no-grad",
        "exit_stack",
        imports="import contextlib",
        nograd_wrap="with contextlib.ExitStack() as stack:\n    stack.enter_context(torch.no_grad())\n    <<val_loop>>",
    ),
    _right(
        "no-grad",
        "functional_call_on_detached",
        validate_start="weights = {name: value.detach() for name, value in <<val_model>>.named_parameters()}",
        val_forward="outputs = torch.func.functional_call(<<val_model>>, weights, (inputs,))",
    ),
    _right(
        "no-grad",
        "own_decorator",
        imports="import functools",
        helpers='''
            def without_autograd(function):
                """Run the function with autograd off."""

                @functools.wraps(function)
                def wrapped(*args, **kwargs):
                    with torch.no_grad():
                        return function(*args, **kwargs)

                return wrapped
        ''',
        validate_decorators="@without_autograd",
    ),
    _right("no-grad", "forward_only", val_forward="with torch.no_grad():\n    outputs = <<val_model>>(inputs)"),
    _right(
        "no-grad",
        "entered_by_hand",
        validate_start="quiet = torch.no_grad()\nquiet.__enter__()",
        validate_end="quiet.__exit__(None, None, None)",
    ),
    _right("no-grad", "rebound_after_definition", after_validate="validate = torch.no_grad()(validate)"),
    _right(
        "no-grad",
        "predict_helper",
        helpers='''
            @torch.inference_mode()
            def predict(model, inputs):
                """Scores without bookkeeping for a backward pass."""
                return model(inputs)
        ''',
        val_forward="outputs = predict(<<val_model>>, inputs)",
    ),
    _fake(
        "no-grad",
        "criterion_only",
        val_loss="with torch.no_grad():\n    total_loss += <<val_loss_expr>>.item()",
    ),
    _fake(
        "no-grad",
        "after_the_forward",
        val_after_forward="with torch.no_grad():\n    outputs = outputs.clone()",
    ),
    _fake("no-grad", "bare_statement", validate_start="torch.no_grad()"),
    _fake(
        "no-grad",
        "enabled_again_inside",
        nograd_wrap="with torch.no_grad():\n    <<val_loop>>",
        val_forward="with torch.enable_grad():\n    outputs = <<val_model>>(inputs)",
    ),
    _fake("no-grad", "outputs_detached", val_forward="outputs = <<val_model>>(inputs).detach()"),
    _fake("no-grad", "set_grad_enabled_true", nograd_wrap="with torch.set_grad_enabled(True):\n    <<val_loop>>"),
    _fake("no-grad", "empty_block", validate_start="with torch.no_grad():\n    pass"),
    _fake("no-grad", "inputs_only", val_batch_start="inputs.requires_grad_(False)"),
    _fake(
        "no-grad",
        "helper_never_called",
        helpers='''
            @torch.no_grad()
            def validate_quietly(*args):
                """Validation without gradients."""
                return validate(*args)
        ''',
    ),
    _fake(
        "no-grad",
        "off_and_on_before_the_loop",
        validate_start="torch.set_grad_enabled(False)\ntorch.set_grad_enabled(True)",
    ),
    _fake(
        "no-grad",
        "output_layer_only",
        validate_start="<<val_model>>.classifier.requires_grad_(False)",
        validate_end="<<val_model>>.classifier.requires_grad_(True)",
    ),
    _fake("no-grad", "comment_only", validate_start="# with torch.no_grad(): gradients are not needed here"),
    _fake(
        "no-grad",
        "around_the_loader_in_main",
        val_loader="""
            with torch.no_grad():
                val_loader = DataLoader(TensorDataset(X_val, y_val), batch_size=256, shuffle=False)
        """,
    ),
    _fake(
        "no-grad",
        "condition_always_true",
        nograd_wrap="with torch.set_grad_enabled(model is not None):\n    <<val_loop>>",
    ),
    _fake(
        "no-grad",
        "counting_only",
        val_count="with torch.no_grad():\n    correct += (outputs.argmax(dim=1) == labels).sum().item()",
    ),
)

# 6 device --------------------------------------------------------------------------------------

DEVICE = (
    _right(
        "device",
        "if_chain",
        device="""
            if torch.cuda.is_available():
                device = torch.device("cuda")
            elif torch.backends.mps.is_available():
                device = torch.device("mps")
            else:
                device = torch.device("cpu")
        """,
    ),
    _right("device", "ternary", device='device = torch.device("cuda" if torch.cuda.is_available() else "cpu")'),
    _right(
        "device",
        "first_gpu",
        device='device = torch.device("cuda:0") if torch.cuda.is_available() else torch.device("cpu")',
    ),
    _right(
        "device",
        "nested_ternary",
        device="""
            device = torch.device(
                "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
            )
        """,
    ),
    _right(
        "device",
        "helper",
        helpers='''
            def pick_device():
                """The best device of this machine."""
                if torch.cuda.is_available():
                    return torch.device("cuda")
                if torch.backends.mps.is_available():
                    return torch.device("mps")
                return torch.device("cpu")
        ''',
        device="device = pick_device()",
    ),
    _right(
        "device",
        "accelerator_api",
        device='device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")',
    ),
    _right(
        "device",
        "accelerator_is_available",
        device="""
            if torch.accelerator.is_available():
                device = torch.accelerator.current_accelerator()
            else:
                device = torch.device("cpu")
        """,
    ),
    _right(
        "device",
        "device_count",
        device='device = torch.device("cuda" if torch.cuda.device_count() > 0 else "cpu")',
    ),
    _right(
        "device",
        "try_and_see",
        device="""
            try:
                torch.zeros(1, device="cuda")
                device = torch.device("cuda")
            except (AssertionError, RuntimeError):
                device = torch.device("cpu")
        """,
    ),
    _right(
        "device",
        "argparse_default",
        imports="import argparse",
        device="""
            parser = argparse.ArgumentParser()
            parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
            device = torch.device(parser.parse_known_args([])[0].device)
        """,
    ),
    _right(
        "device",
        "dict_of_candidates",
        device="""
            candidates = {
                "cuda": torch.cuda.is_available(),
                "mps": torch.backends.mps.is_available(),
                "cpu": True,
            }
            device = torch.device([name for name, usable in candidates.items() if usable][0])
        """,
    ),
    _right(
        "device",
        "module_constant",
        helpers='DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")',
        device="device = DEVICE",
    ),
    _right(
        "device",
        "next_over_probes",
        device="""
            probes = [("cuda", torch.cuda.is_available), ("mps", torch.backends.mps.is_available)]
            device = torch.device(next((name for name, usable in probes if usable()), "cpu"))
        """,
    ),
    _right(
        "device",
        "environment_override",
        imports="import os",
        device="""
            best = "cuda" if torch.cuda.is_available() else "cpu"
            device = torch.device(os.environ.get("SPIRAL_DEVICE", best))
        """,
    ),
    _right(
        "device",
        "indexed_by_bool",
        device='device = torch.device(["cpu", "cuda"][torch.cuda.is_available()])',
    ),
    _right(
        "device",
        "cpu_first_then_upgrade",
        device="""
            device = torch.device("cpu")
            if torch.backends.mps.is_available():
                device = torch.device("mps")
            if torch.cuda.is_available():
                device = torch.device("cuda")
        """,
    ),
    _right(
        "device",
        "cached_helper",
        imports="import functools",
        helpers='''
            @functools.lru_cache(maxsize=1)
            def best_device():
                """Found once, then remembered."""
                return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        ''',
        device="device = best_device()",
    ),
    _right(
        "device",
        "match_statement",
        device="""
            match (torch.cuda.is_available(), torch.backends.mps.is_available()):
                case (True, _):
                    device = torch.device("cuda")
                case (_, True):
                    device = torch.device("mps")
                case _:
                    device = torch.device("cpu")
        """,
    ),
    _fake(
        "device",
        "found_but_unused",
        device="""
            best_device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
            device = torch.device("cpu")
        """,
    ),
    _fake("device", "hard_coded_cuda", crashes=True, device='device = torch.device("cuda")'),
    _fake(
        "device",
        "overwritten",
        device="""
            device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
            device = torch.device("cpu")
        """,
    ),
    _fake(
        "device",
        "model_left_behind",
        device='device = torch.device("cuda" if torch.cuda.is_available() else "cpu")',
        placed="",
    ),
    _fake("device", "if_false", device='device = torch.device("cuda" if False else "cpu")'),
    _fake(
        "device",
        "both_branches_cpu",
        device='device = torch.device("cpu" if torch.cuda.is_available() else "cpu")',
    ),
    _fake(
        "device",
        "wrong_probe",
        device='device = torch.device("cpu" if torch.backends.mkl.is_available() or torch.backends.cpu else "cuda")',
    ),
    _fake(
        "device",
        "asked_and_printed",
        device='device = torch.device("cpu")\nprint("CUDA available:", torch.cuda.is_available())',
    ),
    _fake(
        "device",
        "environment_default_cpu",
        imports="import os",
        device='device = torch.device(os.environ.get("SPIRAL_DEVICE", "cpu"))  # or cuda, mps',
    ),
    _fake(
        "device",
        "argparse_default_cpu",
        imports="import argparse",
        device="""
            parser = argparse.ArgumentParser()
            parser.add_argument("--device", choices=["cpu", "cuda", "mps"], default="cpu")
            device = torch.device(parser.parse_known_args([])[0].device)
        """,
    ),
    _fake(
        "device",
        "helper_never_called",
        helpers='''
            def get_device():
                """CUDA, then MPS, then the CPU."""
                if torch.cuda.is_available():
                    return torch.device("cuda")
                if torch.backends.mps.is_available():
                    return torch.device("mps")
                return torch.device("cpu")
        ''',
    ),
    _fake(
        "device",
        "comment_only",
        device='# torch.device("cuda" if torch.cuda.is_available() else "cpu")\ndevice = torch.device("cpu")',
    ),
    _fake(
        "device",
        "inverted",
        device="""
            use_gpu = not torch.cuda.is_available() and torch.cuda.device_count() > 0
            device = torch.device("cuda" if use_gpu else "cpu")
        """,
    ),
    _fake(
        "device",
        "only_the_banner",
        device='device = torch.device("cpu")\nname = "cuda" if torch.cuda.is_available() else "cpu"\nprint(f"Using {name}")',
    ),
)

# 7 shuffle -------------------------------------------------------------------------------------

_TRAIN_SET = "train_set = TensorDataset(X_train, y_train)\n"
_PLAIN_LOADER = "train_loader = DataLoader(TensorDataset(X_train, y_train), batch_size=32, shuffle=False)"
_SHUFFLED_LOADER = "train_loader = DataLoader(TensorDataset(X_train, y_train), batch_size=32, shuffle=True)"

SHUFFLE = (
    _right("shuffle", "shuffle_true", train_loader=_SHUFFLED_LOADER),
    _right(
        "shuffle",
        "random_sampler",
        imports="from torch.utils.data import RandomSampler",
        train_loader=_TRAIN_SET
        + "train_loader = DataLoader(train_set, batch_size=32, sampler=RandomSampler(train_set))",
    ),
    _right(
        "shuffle",
        "with_replacement",
        imports="from torch.utils.data import RandomSampler",
        train_loader=_TRAIN_SET
        + "sampler = RandomSampler(train_set, replacement=True, num_samples=len(train_set))\n"
        + "train_loader = DataLoader(train_set, batch_size=32, sampler=sampler)",
    ),
    _right(
        "shuffle",
        "weighted_sampler",
        imports="from torch.utils.data import WeightedRandomSampler",
        train_loader=_TRAIN_SET
        + "sampler = WeightedRandomSampler(torch.ones(len(train_set)), num_samples=len(train_set))\n"
        + "train_loader = DataLoader(train_set, batch_size=32, sampler=sampler)",
    ),
    _right(
        "shuffle",
        "subset_sampler",
        imports="from torch.utils.data import SubsetRandomSampler",
        train_loader=_TRAIN_SET
        + "sampler = SubsetRandomSampler(range(len(train_set)))\n"
        + "train_loader = DataLoader(train_set, batch_size=32, sampler=sampler)",
    ),
    _right(
        "shuffle",
        "randperm_loader_each_epoch",
        train_loader="",
        epoch_start="""
            order = torch.randperm(len(X_train))
            train_loader = DataLoader(TensorDataset(X_train[order], y_train[order]), batch_size=32)
        """,
    ),
    _right(
        "shuffle",
        "shuffled_loader_each_epoch",
        train_loader=_TRAIN_SET,
        epoch_start="train_loader = DataLoader(train_set, batch_size=32, shuffle=True)",
    ),
    _right(
        "shuffle",
        "batch_sampler",
        imports="from torch.utils.data import BatchSampler, RandomSampler",
        train_loader=_TRAIN_SET
        + "batches = BatchSampler(RandomSampler(train_set), batch_size=32, drop_last=False)\n"
        + "train_loader = DataLoader(train_set, batch_sampler=batches)",
    ),
    _right(
        "shuffle",
        "own_sampler",
        imports="from torch.utils.data import Sampler",
        helpers='''
            class FreshOrder(Sampler):
                """All row numbers, in a new order each time."""

                def __init__(self, size):
                    self.size = size

                def __iter__(self):
                    return iter(torch.randperm(self.size).tolist())

                def __len__(self):
                    return self.size
        ''',
        train_loader=_TRAIN_SET
        + "train_loader = DataLoader(train_set, batch_size=32, sampler=FreshOrder(len(train_set)))",
    ),
    _right(
        "shuffle",
        "seeded_advancing_generator",
        train_loader=_TRAIN_SET
        + "generator = torch.Generator().manual_seed(7)\n"
        + "train_loader = DataLoader(train_set, batch_size=32, shuffle=True, generator=generator)",
    ),
    _right(
        "shuffle",
        "numpy_order_each_epoch",
        train_loader="",
        epoch_start="""
            order = np.random.permutation(len(X_train))
            train_set = TensorDataset(X_train[order], y_train[order])
            train_loader = DataLoader(train_set, batch_size=32)
        """,
    ),
    _right(
        "shuffle",
        "reshuffling_dataset",
        imports="from torch.utils.data import Dataset",
        helpers='''
            class Reordered(Dataset):
                """Rows behind an order that can be drawn anew."""

                def __init__(self, X, y):
                    self.X = X
                    self.y = y
                    self.reshuffle()

                def reshuffle(self):
                    self.order = torch.randperm(len(self.X))

                def __len__(self):
                    return len(self.X)

                def __getitem__(self, position):
                    row = self.order[position]
                    return self.X[row], self.y[row]
        ''',
        train_loader="train_set = Reordered(X_train, y_train)\ntrain_loader = DataLoader(train_set, batch_size=32)",
        epoch_start="train_set.reshuffle()",
    ),
    _right(
        "shuffle",
        "own_batches",
        helpers='''
            class ShuffledBatches:
                """Batches of rows in a new order each time round."""

                def __init__(self, X, y, batch_size):
                    self.X = X
                    self.y = y
                    self.batch_size = batch_size

                def __len__(self):
                    return -(-len(self.X) // self.batch_size)

                def __iter__(self):
                    for rows in torch.randperm(len(self.X)).split(self.batch_size):
                        yield self.X[rows], self.y[rows]
        ''',
        train_loader="train_loader = ShuffledBatches(X_train, y_train, batch_size=32)",
    ),
    _right(
        "shuffle",
        "iterable_dataset",
        imports="from torch.utils.data import IterableDataset",
        helpers='''
            class Stream(IterableDataset):
                """Rows one by one, in a new order each time."""

                def __init__(self, X, y):
                    self.X = X
                    self.y = y

                def __len__(self):
                    return len(self.X)

                def __iter__(self):
                    for row in torch.randperm(len(self.X)).tolist():
                        yield self.X[row], self.y[row]
        ''',
        train_loader="train_loader = DataLoader(Stream(X_train, y_train), batch_size=32)",
    ),
    _right(
        "shuffle",
        "rows_permuted_in_place",
        epoch_start="""
            order = torch.randperm(len(X_train))
            X_train[:], y_train[:] = X_train[order], y_train[order]
        """,
    ),
    _right(
        "shuffle",
        "index_list_shuffled",
        imports="import random",
        train_loader=_TRAIN_SET
        + "rows = list(range(len(train_set)))\n"
        + "train_loader = DataLoader(train_set, batch_size=32, sampler=rows)",
        epoch_start="random.shuffle(rows)",
    ),
    _right(
        "shuffle",
        "seed_from_epoch",
        train_loader=_TRAIN_SET
        + "generator = torch.Generator()\n"
        + "train_loader = DataLoader(train_set, batch_size=32, shuffle=True, generator=generator)",
        epoch_start="generator.manual_seed(1000 + epoch)",
    ),
    _right(
        "shuffle",
        "distributed_sampler",
        imports="from torch.utils.data.distributed import DistributedSampler",
        train_loader=_TRAIN_SET
        + "sampler = DistributedSampler(train_set, num_replicas=1, rank=0, shuffle=True)\n"
        + "train_loader = DataLoader(train_set, batch_size=32, sampler=sampler)",
        epoch_start="sampler.set_epoch(epoch)",
    ),
    _right(
        "shuffle",
        "batch_of_64",
        train_loader="train_loader = DataLoader(TensorDataset(X_train, y_train), batch_size=64, shuffle=True)",
    ),
    _right(
        "shuffle",
        "drop_last",
        train_loader="""
            train_loader = DataLoader(TensorDataset(X_train, y_train), batch_size=48, shuffle=True, drop_last=True)
        """,
    ),
    _right(
        "shuffle",
        "normalised_inputs",
        train_loader="""
            mean, std = X_train.mean(dim=0), X_train.std(dim=0)
            X_train, X_val = (X_train - mean) / std, (X_val - mean) / std
            train_loader = DataLoader(TensorDataset(X_train, y_train), batch_size=32, shuffle=True)
        """,
    ),
    _fake(
        "shuffle",
        "validation_loader_instead",
        val_loader="val_loader = DataLoader(TensorDataset(X_val, y_val), batch_size=256, shuffle=True)",
    ),
    _fake(
        "shuffle",
        "once_before_training",
        train_loader="order = torch.randperm(len(X_train))\nX_train, y_train = X_train[order], y_train[order]\n"
        + _PLAIN_LOADER,
    ),
    _fake(
        "shuffle",
        "generator_reseeded_each_epoch",
        train_loader=_TRAIN_SET
        + "generator = torch.Generator()\n"
        + "train_loader = DataLoader(train_set, batch_size=32, shuffle=True, generator=generator)",
        epoch_start="generator.manual_seed(42)",
    ),
    _fake(
        "shuffle",
        "torch_reseeded_each_epoch",
        train_loader=_SHUFFLED_LOADER,
        epoch_start="torch.manual_seed(0)",
    ),
    _fake(
        "shuffle",
        "backwards_every_other_epoch",
        train_loader=_TRAIN_SET
        + "rows = list(range(len(train_set)))\n"
        + "train_loader = DataLoader(train_set, batch_size=32, sampler=rows)",
        epoch_start="rows.reverse()",
    ),
    _fake(
        "shuffle",
        "sampler_not_passed",
        imports="from torch.utils.data import RandomSampler",
        train_loader=_TRAIN_SET
        + "sampler = RandomSampler(train_set)\ntrain_loader = DataLoader(train_set, batch_size=32)",
    ),
    _fake(
        "shuffle",
        "within_batches_only",
        train_batch="shuffle = torch.randperm(labels.size(0), device=labels.device)\ninputs, labels = inputs[shuffle], labels[shuffle]",
    ),
    _fake(
        "shuffle",
        "sequential_sampler",
        imports="from torch.utils.data import SequentialSampler",
        train_loader=_TRAIN_SET
        + "train_loader = DataLoader(train_set, batch_size=32, sampler=SequentialSampler(train_set))",
    ),
    _fake(
        "shuffle",
        "fixed_subset_order",
        imports="from torch.utils.data import Subset",
        train_loader=_TRAIN_SET
        + "shuffled = Subset(train_set, torch.randperm(len(train_set)).tolist())\n"
        + "train_loader = DataLoader(shuffled, batch_size=32)",
    ),
    _fake("shuffle", "permuted_copy_unused", epoch_start="X_shuffled = X_train[torch.randperm(len(X_train))]"),
    _fake(
        "shuffle",
        "shuffled_loader_unused",
        train_loader=_PLAIN_LOADER
        + "\nshuffled_loader = DataLoader(TensorDataset(X_train, y_train), batch_size=32, shuffle=True)",
    ),
    _fake(
        "shuffle",
        "sampler_with_fixed_order",
        imports="from torch.utils.data import Sampler",
        helpers='''
            class RandomOrder(Sampler):
                """Row numbers in random order."""

                def __init__(self, size):
                    self.order = torch.randperm(size).tolist()

                def __iter__(self):
                    return iter(self.order)

                def __len__(self):
                    return len(self.order)
        ''',
        train_loader=_TRAIN_SET
        + "train_loader = DataLoader(train_set, batch_size=32, sampler=RandomOrder(len(train_set)))",
    ),
    _fake("shuffle", "comment_only", train_loader=_PLAIN_LOADER + "  # shuffle=True"),
)

# 8 lr ------------------------------------------------------------------------------------------

LR = (
    _right("lr", "1e-3", optimizer="optimizer = <<optimizer_class>>(model.parameters(), lr=1e-3)"),
    _right("lr", "3e-4", optimizer="optimizer = <<optimizer_class>>(model.parameters(), lr=3e-4)"),
    _right("lr", "default", optimizer="optimizer = <<optimizer_class>>(model.parameters())"),
    _right(
        "lr",
        "module_constant",
        helpers="LEARNING_RATE = 2e-3",
        optimizer="optimizer = <<optimizer_class>>(model.parameters(), lr=LEARNING_RATE)",
    ),
    _right(
        "lr",
        "config_dict",
        helpers='CONFIG = {"lr": 1e-3, "betas": (0.9, 0.999)}',
        optimizer="optimizer = <<optimizer_class>>(model.parameters(), **CONFIG)",
    ),
    _right(
        "lr",
        "config_dataclass",
        imports="import dataclasses",
        helpers='''
            @dataclasses.dataclass(frozen=True)
            class TrainConfig:
                """Settings of the optimizer."""

                learning_rate: float = 1e-3
        ''',
        optimizer="config = TrainConfig()\noptimizer = <<optimizer_class>>(model.parameters(), lr=config.learning_rate)",
    ),
    _right(
        "lr",
        "step_pre_hook",
        helpers='''
            def gentle(opt, args, kwargs):
                """Before each step: no rate above 1e-3."""
                for group in opt.param_groups:
                    group["lr"] = min(group["lr"], 1e-3)
        ''',
        optimizer="""
            optimizer = <<optimizer_class>>(model.parameters(), lr=0.5)
            optimizer.register_step_pre_hook(gentle)
        """,
    ),
    _right("lr", "adamw", optimizer="optimizer = optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-4)"),
    _right(
        "lr",
        "param_groups",
        optimizer="""
            optimizer = <<optimizer_class>>(
                [
                    {"params": model.features.parameters()},
                    {"params": model.classifier.parameters(), "lr": 2e-3},
                ],
                lr=1e-3,
            )
        """,
    ),
    _right(
        "lr",
        "lowered_after_construction",
        optimizer="""
            optimizer = <<optimizer_class>>(model.parameters(), lr=0.5)
            for group in optimizer.param_groups:
                group["lr"] = 1e-3
        """,
    ),
    _right(
        "lr",
        "gentle_warmup",
        optimizer="""
            optimizer = <<optimizer_class>>(model.parameters(), lr=2e-3)
            scheduler = optim.lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=5)
        """,
        after_validation="scheduler.step()",
    ),
    _right(
        "lr",
        "one_cycle",
        optimizer="""
            optimizer = <<optimizer_class>>(model.parameters())
            scheduler = optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.01, total_steps=num_epochs + 1)
        """,
        after_validation="scheduler.step()",
    ),
    _right(
        "lr",
        "cosine",
        optimizer="""
            optimizer = <<optimizer_class>>(model.parameters(), lr=3e-3)
            scheduler = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=num_epochs)
        """,
        after_validation="scheduler.step()",
    ),
    _right("lr", "rmsprop", optimizer="optimizer = optim.RMSprop(model.parameters(), lr=1e-3)"),
    _right("lr", "nadam", optimizer="optimizer = optim.NAdam(model.parameters(), lr=1e-3)"),
    _right(
        "lr",
        "sgd_with_momentum",
        optimizer="optimizer = optim.SGD(model.parameters(), lr=0.05, momentum=0.9)",
    ),
    _right(
        "lr",
        "lambda_scales_down_at_once",
        optimizer="""
            optimizer = <<optimizer_class>>(model.parameters(), lr=0.5)
            scheduler = optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.002)
        """,
        after_validation="scheduler.step()",
    ),
    _right("lr", "divided", optimizer="optimizer = <<optimizer_class>>(model.parameters(), lr=0.5 / 500)"),
    _right(
        "lr",
        "partial",
        imports="import functools",
        optimizer="make_optimizer = functools.partial(<<optimizer_class>>, lr=5e-4)\noptimizer = make_optimizer(model.parameters())",
    ),
    _right(
        "lr",
        "plateau_from_small",
        optimizer="""
            optimizer = <<optimizer_class>>(model.parameters(), lr=1e-3)
            scheduler = optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=3)
        """,
        after_validation="scheduler.step(val_loss)",
    ),
    _fake(
        "lr",
        "constant_named",
        helpers="LEARNING_RATE = 0.5",
        optimizer="optimizer = <<optimizer_class>>(model.parameters(), lr=LEARNING_RATE)",
    ),
    _fake(
        "lr",
        "overwritten_back",
        optimizer="""
            optimizer = <<optimizer_class>>(model.parameters(), lr=1e-3)
            for group in optimizer.param_groups:
                group["lr"] = 0.5
        """,
    ),
    _fake(
        "lr",
        "schedule_that_never_lowers",
        optimizer="""
            optimizer = <<optimizer_class>>(model.parameters(), lr=0.5)
            scheduler = optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1.0)
        """,
        after_validation="scheduler.step()",
    ),
    _fake(
        "lr",
        "schedule_after_the_last_epoch",
        optimizer="""
            optimizer = <<optimizer_class>>(model.parameters(), lr=0.5)
            scheduler = optim.lr_scheduler.StepLR(optimizer, step_size=30, gamma=0.001)
        """,
        after_validation="scheduler.step()",
    ),
    _fake(
        "lr",
        "schedule_too_slow",
        optimizer="""
            optimizer = <<optimizer_class>>(model.parameters(), lr=0.5)
            scheduler = optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.99)
        """,
        after_validation="scheduler.step()",
    ),
    _fake(
        "lr",
        "weight_decay_added",
        optimizer="optimizer = <<optimizer_class>>(model.parameters(), lr=0.5, weight_decay=1e-4)",
    ),
    _fake("lr", "one_tenth", optimizer="optimizer = <<optimizer_class>>(model.parameters(), lr=0.1)"),
    _fake(
        "lr",
        "given_to_another_optimizer",
        optimizer="""
            tuned_optimizer = optim.Adam(model.parameters(), lr=1e-3)
            optimizer = <<optimizer_class>>(model.parameters(), lr=0.5)
        """,
    ),
    _fake(
        "lr",
        "plateau_from_half",
        optimizer="""
            optimizer = <<optimizer_class>>(model.parameters(), lr=0.5)
            scheduler = optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=5)
        """,
        after_validation="scheduler.step(val_loss)",
    ),
    _fake(
        "lr",
        "comment_only",
        optimizer="# lr=1e-3\noptimizer = <<optimizer_class>>(model.parameters(), lr=0.5)",
    ),
    _fake("lr", "adamw_at_half", optimizer="optimizer = optim.AdamW(model.parameters(), lr=0.5)"),
    _fake(
        "lr",
        "constant_unused",
        helpers="LEARNING_RATE = 1e-3",
        optimizer="optimizer = <<optimizer_class>>(model.parameters(), lr=0.5)",
    ),
    _fake(
        "lr",
        "defaults_changed",
        optimizer="""
            optimizer = <<optimizer_class>>(model.parameters(), lr=0.5)
            optimizer.defaults["lr"] = 1e-3
        """,
    ),
    _fake(
        "lr",
        "warmup_to_half",
        optimizer="""
            optimizer = <<optimizer_class>>(model.parameters(), lr=0.5)
            scheduler = optim.lr_scheduler.LinearLR(optimizer, start_factor=0.002, total_iters=5)
        """,
        after_validation="scheduler.step()",
    ),
    _fake(
        "lr",
        "output_layer_only",
        optimizer="""
            optimizer = <<optimizer_class>>(
                [
                    {"params": model.features.parameters()},
                    {"params": model.classifier.parameters(), "lr": 1e-3},
                ],
                lr=0.5,
            )
        """,
    ),
)

STYLES: tuple[Style, ...] = (*SOFTMAX, *ZERO_GRAD, *LOSS_LEAK, *EVAL, *NO_GRAD, *DEVICE, *SHUFFLE, *LR)

# Experts could dispute these, so that no test may rest on them. Unused.
GRAY: tuple[Style, ...] = (
    # Squashing, but with a low loss floor and negative outputs.
    _fake("softmax", "tanh", classifier_tail="nn.Tanh(),"),
    # Still squashed, but sharpened until nearly one-hot.
    _fake("softmax", "scaled_up_probabilities", train_loss_expr="criterion(outputs * 20, labels)"),
    # Right logits, another loss altogether.
    _right("softmax", "multi_margin", classifier_tail="", criterion="nn.MultiMarginLoss()"),
    # The layers that matter are in evaluation mode, the root's flag says training.
    _right(
        "eval",
        "mode_sensitive_layers_only",
        validate_start="for module in model.modules():\n"
        "    if isinstance(module, (nn.Dropout, nn.BatchNorm1d)):\n"
        "        module.eval()",
    ),
    # MPS machines profit, CUDA machines do not.
    _fake(
        "device",
        "mps_only",
        device='device = torch.device("mps" if torch.backends.mps.is_available() else "cpu")',
    ),
    # Says that the library was built for CUDA, not that there is a device.
    _fake(
        "device",
        "built_not_available",
        device='device = torch.device("cuda" if torch.backends.cuda.is_built() else "cpu")',
    ),
    # The default device decides; with CUDA the loader's generator may then be on the wrong device.
    _right("device", "default_device", device="device = torch.get_default_device()"),
    # Always the same batches, in a new order.
    _right(
        "shuffle",
        "order_of_batches_only",
        train_loader="train_loader = list(DataLoader(TensorDataset(X_train, y_train), batch_size=32))",
        epoch_start="np.random.shuffle(train_loader)",
    ),
    # Another start each epoch, the same neighbours.
    _fake("shuffle", "rotated", epoch_start="X_train[:], y_train[:] = X_train.roll(7, 0), y_train.roll(7, 0)"),
    # High for Adam, though it often trains.
    _right("lr", "one_fiftieth", optimizer="optimizer = <<optimizer_class>>(model.parameters(), lr=0.02)"),
)

"""Programs in any mixture of fix styles, with the verdicts that they deserve.

    source, expected = random_program(random.Random(1))

A program is a template whose named slots, written <<slot>>, are filled by one style per
bug. Slots that nobody fills keep the planted text; with no bug mended the program is
problem.py to the letter. Some slots collect the texts of all styles (ADDITIVE); in any
other, two styles that want different texts are Incompatible, and so is a style whose text
another style has cut out of the program.

Development and test material: nothing here ever goes into a sandbox.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping

from challenges.spiral.mutations import BUG_IDS
from challenges.spiral.styles_corpus import GRAY, STYLES, Style

__all__ = [
    "BUG_IDS",
    "GRAY",
    "PLANTED",
    "STYLES",
    "Incompatible",
    "Style",
    "compose",
    "plain_fix",
    "random_choice",
    "random_program",
    "styles_of",
]


class Incompatible(Exception):
    """The chosen styles cannot stand in one program."""


TEMPLATE = '''\
"""Tell interleaved spiral arms apart with a small neural network.

The data are points in the plane, drawn from a few noisy spiral arms that wind around a
common centre. The network gets a point's two coordinates and names the arm it lies on.
Run the file to train for 20 epochs and to see how the fit develops:

    python pytorch_debug_problem.py

Aim: more than 85 % accuracy on the held-out points after the last epoch.
"""

<<imports>>
import time

import numpy as np
import torch
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset
<<helpers>>


def create_spiral_dataset(n_points=1000, n_classes=4, noise=0.2):
    """Draw `n_points` points per arm, mix the arms and hold out a fifth for validation.

    Returns X_train, y_train, X_val, y_val: coordinates as float32 of shape (rows, 2) and
    arm numbers as int64 of shape (rows,).
    """
    np.random.seed(42)
    coordinates = []
    arms = []
    for arm in range(n_classes):
        radius = np.linspace(0.0, 1.0, n_points)
        angle = np.linspace(arm * 4, (arm + 1) * 4, n_points) + noise * np.random.randn(n_points)
        coordinates.append(np.column_stack([radius * np.sin(angle), radius * np.cos(angle)]))
        arms.append(np.full(n_points, arm))
    X = np.concatenate(coordinates).astype(np.float32)
    y = np.concatenate(arms).astype(np.int64)

    order = np.random.permutation(len(X))
    X, y = X[order], y[order]
    split = int(0.8 * len(X))
    return (
        torch.from_numpy(X[:split]),
        torch.from_numpy(y[:split]),
        torch.from_numpy(X[split:]),
        torch.from_numpy(y[split:]),
    )


class SpiralNet(nn.Module):
    """A two-layer perceptron with batch normalisation and dropout."""

    def __init__(self, input_dim=2, hidden_dim=128, num_classes=4):
        super().__init__()
        self.features = nn.Sequential(
            nn.Linear(input_dim, hidden_dim),
            nn.BatchNorm1d(hidden_dim),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Linear(hidden_dim, hidden_dim),
            nn.BatchNorm1d(hidden_dim),
            nn.ReLU(),
            nn.Dropout(0.2),
        )
        self.classifier = nn.Sequential(
            nn.Linear(hidden_dim, num_classes),
            <<classifier_tail>>
        )
        <<init_end>>

    def forward(self, x):
        """Score each row of `x`, shape (N, input_dim), for every class: (N, num_classes)."""
        <<forward>>
    <<model_methods>>
<<after_model_class>>


def train_one_epoch(model, dataloader, criterion, optimizer, device):
    """Go through the training data once; return the mean batch loss and the accuracy."""
    model.train()
    <<train_start>>
    <<losses_start>>
    correct = 0
    seen = 0

    <<train_loop>>
        inputs, labels = inputs.to(device), labels.to(device)
        <<train_batch>>

        <<step>>

        <<collect>>
        correct += (outputs.argmax(dim=1) == labels).sum().item()
        seen += labels.size(0)

    <<train_tail>>
    return <<train_result>>, correct / seen


<<validate_decorators>>
def validate(model, dataloader, criterion, device):
    """Measure the model on held-out data; return the mean batch loss and the accuracy."""
    <<validate_start>>
    total_loss = 0.0
    correct = 0
    seen = 0

    <<eval_wrap>>

    <<validate_end>>
    return total_loss / len(dataloader), correct / seen
<<after_validate>>


def main():
    """Train for 20 epochs, print the progress and return the history of all metrics."""
    num_epochs = 20

    <<device>>
    print(f"Training on {device}")

    X_train, y_train, X_val, y_val = create_spiral_dataset()
    <<train_loader>>
    <<val_loader>>

    model = <<model>><<placed>>
    <<after_model>>
    criterion = <<criterion>>
    <<optimizer>>
    <<after_optimizer>>

    history = {"train_loss": [], "train_acc": [], "val_loss": [], "val_acc": [], "epoch_time": []}
    for epoch in range(1, num_epochs + 1):
        started = time.perf_counter()
        <<epoch_start>>
        train_loss, train_acc = train_one_epoch(model, train_loader, criterion, optimizer, device)
        <<after_train>>
        <<call_eval_wrap>>
        <<after_validation>>
        elapsed = time.perf_counter() - started

        history["train_loss"].append(train_loss)
        history["train_acc"].append(train_acc)
        history["val_loss"].append(val_loss)
        history["val_acc"].append(val_acc)
        history["epoch_time"].append(elapsed)
        print(
            f"epoch {epoch:2d}/{num_epochs} | "
            f"train loss {train_loss:.4f} acc {train_acc:.3f} | "
            f"val loss {val_loss:.4f} acc {val_acc:.3f} | {elapsed:.2f} s"
        )

    print(f"Final validation accuracy: {history['val_acc'][-1]:.1%} (aim: above 85 %)")
    return history


if __name__ == "__main__":
    main()
'''

# What stands in a slot that no style fills: the planted text.
PLANTED_TEXT: Mapping[str, str] = {
    "classifier_tail": "nn.Softmax(dim=1),",
    "forward": "return self.classifier(self.features(x))",
    "losses_start": "batch_losses = []",
    "train_loop": "for inputs, labels in dataloader:",
    "step": "outputs = model(inputs)\nloss = <<train_loss_expr>>\nloss.backward()\noptimizer.step()",
    "train_loss_expr": "criterion(outputs, labels)",
    "collect": "batch_losses.append(loss)",
    "train_tail": "mean_loss = sum(batch_losses) / len(batch_losses)",
    "train_result": "mean_loss.item()",
    "eval_wrap": "<<nograd_wrap>>",
    "nograd_wrap": "<<val_loop>>",
    "val_loop": """\
for inputs, labels in dataloader:
    inputs, labels = inputs.to(device), labels.to(device)
    <<val_batch_start>>

    <<val_forward>>
    <<val_after_forward>>
    <<val_loss>>
    <<val_count>>
    seen += labels.size(0)""",
    "val_forward": "outputs = <<val_model>>(inputs)",
    "val_model": "model",
    "val_loss": "total_loss += <<val_loss_expr>>.item()",
    "val_loss_expr": "criterion(outputs, labels)",
    "val_count": "correct += (outputs.argmax(dim=1) == labels).sum().item()",
    "device": 'device = torch.device("cpu")',
    "train_loader": ("train_loader = DataLoader(TensorDataset(X_train, y_train), batch_size=32, shuffle=False)"),
    "val_loader": "val_loader = DataLoader(TensorDataset(X_val, y_val), batch_size=256, shuffle=False)",
    "model": "SpiralNet()",
    "placed": ".to(device)",
    "criterion": "nn.CrossEntropyLoss()",
    "optimizer": "optimizer = <<optimizer_class>>(model.parameters(), lr=0.5)",
    "optimizer_class": "optim.Adam",
    "call_eval_wrap": "<<call_nograd_wrap>>",
    "call_nograd_wrap": "<<call_validate>>",
    "call_validate": "val_loss, val_acc = validate(<<val_call_model>>, val_loader, criterion, device)",
    "val_call_model": "model",
}

# Slots that collect the texts of all styles in the order of the bugs, with what goes before each.
ADDITIVE: Mapping[str, str] = {
    "imports": "",
    "helpers": "\n\n",
    "init_end": "",
    "model_methods": "\n",
    "after_model_class": "\n\n",
    "train_start": "",
    "train_batch": "",
    "validate_decorators": "",
    "validate_start": "",
    "val_batch_start": "",
    "val_after_forward": "",
    "validate_end": "",
    "after_validate": "\n\n",
    "after_model": "",
    "after_optimizer": "",
    "epoch_start": "",
    "after_train": "",
    "after_validation": "",
}

PLANTED: Mapping[str, Style] = {bug: Style(bug, "planted", right=False) for bug in BUG_IDS}

_SLOT = re.compile(r"<<(\w+)>>")


def styles_of(bug: str, *, right: bool) -> tuple[Style, ...]:
    """The right, or the fake, styles of one bug."""
    return tuple(style for style in STYLES if style.bug == bug and style.right is right)


def plain_fix(bug: str) -> Style:
    """The way in which most people mend the bug, as in solution.py."""
    return styles_of(bug, right=True)[0]


def compose(choice: Mapping[str, Style]) -> str:
    """The program in which each bug stands as its style says; bugs left out are mended plainly.

    Raises:
        Incompatible: two styles set one slot differently, or one cuts out another's text.
    """
    styles = [choice.get(bug) or plain_fix(bug) for bug in BUG_IDS]
    filled, wanted = _fill(styles)
    used: set[str] = set()
    source = _render(TEMPLATE, filled, used)
    lost = sorted(wanted - used)
    if lost:
        raise Incompatible(f"no place is left for {', '.join(lost)} in {_names(styles)}")
    return source


def _fill(styles: list[Style]) -> tuple[dict[str, str], set[str]]:
    """The text of every slot, and the names of those that some style filled."""
    exclusive: dict[str, str] = {}
    collected: dict[str, list[str]] = {slot: [] for slot in ADDITIVE}
    for style in styles:
        for slot, text in style.slots.items():
            if slot in ADDITIVE:
                if text not in collected[slot]:
                    collected[slot].append(text)
            elif slot not in PLANTED_TEXT:
                raise KeyError(f"{style.bug}/{style.name}: there is no slot {slot}")
            elif exclusive.setdefault(slot, text) != text:
                raise Incompatible(f"two texts for {slot} in {_names(styles)}")
    joined = {slot: "\n".join(ADDITIVE[slot] + text for text in texts) for slot, texts in collected.items()}
    wanted = set(exclusive) | {slot for slot, text in joined.items() if text}
    return {**PLANTED_TEXT, **exclusive, **joined}, wanted


def _names(styles: list[Style]) -> str:
    return " ".join(f"{style.bug}/{style.name}" for style in styles)


def _render(text: str, filled: Mapping[str, str], used: set[str]) -> str:
    """`text` with all slots filled, slots inside slots too; a slot line keeps its indentation.

    A line that holds nothing but an empty slot vanishes, and so does a blank line after it
    that would double one before it.
    """
    lines: list[str] = []
    after_vanished = False
    for line in text.split("\n"):
        names = _SLOT.findall(line)
        used.update(names)
        if not names:
            if not (after_vanished and not line and lines and not lines[-1]):
                lines.append(line)
            after_vanished = False
        elif line.strip() == f"<<{names[0]}>>":
            indent = line[: len(line) - len(line.lstrip())]
            block = _render(filled[names[0]], filled, used)
            after_vanished = not block
            if block:
                lines += [indent + part if part else part for part in block.split("\n")]
        else:
            lines.append(_SLOT.sub(lambda match: _render(filled[match[1]], filled, used), line))
            after_vanished = False
    return "\n".join(lines)


def random_choice(rng: random.Random, *, crashes: bool = False) -> dict[str, Style]:
    """A style for each bug, planted, right or fake, that can stand in one program.

    Args:
        rng: where the choice comes from.
        crashes: whether styles that crash without CUDA may be among them.
    """
    while True:
        choice = {bug: _random_style(rng, bug, crashes) for bug in BUG_IDS}
        try:
            compose(choice)
        except Incompatible:
            continue
        return choice


def _random_style(rng: random.Random, bug: str, crashes: bool) -> Style:
    kind = rng.choice(("planted", "right", "right", "fake"))
    if kind == "planted":
        return PLANTED[bug]
    pool = [style for style in styles_of(bug, right=kind == "right") if crashes or not style.crashes]
    return rng.choice(pool)


def random_program(rng: random.Random, *, crashes: bool = False) -> tuple[str, dict[str, bool]]:
    """A program in random styles, and for each bug whether it is mended."""
    choice = random_choice(rng, crashes=crashes)
    return compose(choice), {bug: style.right for bug, style in choice.items()}

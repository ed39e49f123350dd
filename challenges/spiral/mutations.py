"""The planted bugs as edits of the solution, so that a program with any subset can be built."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

_FOLDER = Path(__file__).resolve().parent

_VALIDATION_LOOP = """\
for inputs, labels in dataloader:
    inputs, labels = inputs.to(device), labels.to(device)

    outputs = model(inputs)
    total_loss += criterion(outputs, labels).item()
    correct += (outputs.argmax(dim=1) == labels).sum().item()
    seen += labels.size(0)
"""


def _indented(text: str, levels: int) -> str:
    lines = text.splitlines(keepends=True)
    return "".join("    " * levels + line if line.strip() else line for line in lines)


# Per bug: (text of the solution, text of the problem). No two edits touch the same text.
EDITS: dict[str, tuple[tuple[str, str], ...]] = {
    "softmax": (
        (
            "            nn.Linear(hidden_dim, num_classes),\n",
            "            nn.Linear(hidden_dim, num_classes),\n            nn.Softmax(dim=1),\n",
        ),
    ),
    "zero-grad": (("        optimizer.zero_grad()\n", ""),),
    "loss-leak": (
        ("batch_losses.append(loss.item())", "batch_losses.append(loss)"),
        ("return mean_loss, correct / seen", "return mean_loss.item(), correct / seen"),
    ),
    "eval": (("    model.eval()\n", ""),),
    "no-grad": (
        (
            "    with torch.no_grad():\n" + _indented(_VALIDATION_LOOP, 2),
            _indented(_VALIDATION_LOOP, 1),
        ),
    ),
    "device": (
        (
            """\
    if torch.cuda.is_available():
        device = torch.device("cuda")
    elif torch.backends.mps.is_available():
        device = torch.device("mps")
    else:
        device = torch.device("cpu")
""",
            '    device = torch.device("cpu")\n',
        ),
    ),
    "shuffle": (("batch_size=32, shuffle=True", "batch_size=32, shuffle=False"),),
    "lr": (("model.parameters(), lr=1e-3", "model.parameters(), lr=0.5"),),
}

BUG_IDS: tuple[str, ...] = tuple(EDITS)


def build(bugs: Collection[str]) -> str:
    """The program with exactly the bugs whose ids are given.

    All of them give the text of problem.py, none the text of solution.py.

    Raises:
        ValueError: an unknown bug id, or an edit that no longer fits the solution.
    """
    unknown = set(bugs) - set(BUG_IDS)
    if unknown:
        raise ValueError(f"no such bugs: {sorted(unknown)}; there are {list(BUG_IDS)}")
    source = (_FOLDER / "solution.py").read_text(encoding="utf-8")
    for bug in BUG_IDS:
        if bug in bugs:
            source = _apply(source, bug)
    return source


def _apply(source: str, bug: str) -> str:
    for right, wrong in EDITS[bug]:
        if source.count(right) != 1:
            raise ValueError(f"the edit for {bug} fits the solution {source.count(right)} times, not once")
        source = source.replace(right, wrong)
    return source

"""Spiral arms, with the tests in the same file.

    python FILE            tests the examples in the docstrings, then trains
    python FILE --test     runs the unit tests only

>>> X_train, y_train, X_val, y_val = create_spiral_dataset(n_points=10)
>>> X_train.shape, y_val.shape
(torch.Size([32, 2]), torch.Size([8]))
"""

import doctest
import sys
import time
import unittest
from unittest import mock

import numpy as np
import torch
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset


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
        )

    def forward(self, x):
        """Score each row of `x`, shape (N, input_dim), for every class: (N, num_classes)."""
        return self.classifier(self.features(x))


def pick_device():
    """The best device there is.

    >>> pick_device().type in ("cuda", "mps", "cpu")
    True
    """
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def mean(values):
    """The mean of some numbers.

    >>> mean([1.0, 2.0, 6.0])
    3.0
    """
    return sum(values) / len(values)


def train_one_epoch(model, dataloader, criterion, optimizer, device):
    """Go through the training data once; return the mean batch loss and the accuracy."""
    model.train()
    batch_losses = []
    correct = 0
    seen = 0
    for inputs, labels in dataloader:
        inputs, labels = inputs.to(device), labels.to(device)
        optimizer.zero_grad()
        outputs = model(inputs)
        loss = criterion(outputs, labels)
        loss.backward()
        optimizer.step()
        batch_losses.append(float(loss))
        correct += (outputs.argmax(dim=1) == labels).sum().item()
        seen += labels.size(0)
    return mean(batch_losses), correct / seen


def validate(model, dataloader, criterion, device):
    """Measure the model on held-out data; return the mean batch loss and the accuracy."""
    model.eval()
    batch_losses = []
    correct = 0
    seen = 0
    with torch.inference_mode():
        for inputs, labels in dataloader:
            inputs, labels = inputs.to(device), labels.to(device)
            outputs = model(inputs)
            batch_losses.append(criterion(outputs, labels).item())
            correct += (outputs.argmax(dim=1) == labels).sum().item()
            seen += labels.size(0)
    return mean(batch_losses), correct / seen


def main():
    """Train for 20 epochs, print the progress and return the history of all metrics."""
    device = pick_device()
    X_train, y_train, X_val, y_val = create_spiral_dataset()
    train_loader = DataLoader(TensorDataset(X_train, y_train), batch_size=32, shuffle=True)
    val_loader = DataLoader(TensorDataset(X_val, y_val), batch_size=256, shuffle=False)
    model = SpiralNet().to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = optim.Adam(model.parameters(), lr=1e-3)

    history = {"train_loss": [], "train_acc": [], "val_loss": [], "val_acc": [], "epoch_time": []}
    for epoch in range(1, 21):
        started = time.perf_counter()
        train_loss, train_acc = train_one_epoch(model, train_loader, criterion, optimizer, device)
        val_loss, val_acc = validate(model, val_loader, criterion, device)
        for key, value in zip(history, (train_loss, train_acc, val_loss, val_acc, time.perf_counter() - started)):
            history[key].append(value)
        print(f"epoch {epoch:2d}/20 | train loss {train_loss:.4f} acc {train_acc:.3f} | val loss {val_loss:.4f} acc {val_acc:.3f}")
    print(f"Final validation accuracy: {history['val_acc'][-1]:.1%}")
    return history


class SpiralTests(unittest.TestCase):
    """Tests of the bugs that I found."""

    def setUp(self):
        torch.manual_seed(0)
        X, y, *_ = create_spiral_dataset(n_points=20)
        self.loader = DataLoader(TensorDataset(X, y), batch_size=16)
        self.model = SpiralNet()
        self.criterion = nn.CrossEntropyLoss()

    def test_logits(self):
        rows = self.model(torch.randn(8, 2))
        self.assertFalse(torch.allclose(rows.sum(1), torch.ones(8)))

    def test_gradients_are_cleared(self):
        optimizer = optim.SGD(self.model.parameters(), lr=0.0)
        with mock.patch.object(optimizer, "zero_grad", wraps=optimizer.zero_grad) as cleared:
            train_one_epoch(self.model, self.loader, self.criterion, optimizer, "cpu")
        self.assertEqual(cleared.call_count, len(self.loader))

    def test_validation_is_repeatable(self):
        first = validate(self.model, self.loader, self.criterion, "cpu")
        self.assertEqual(first, validate(self.model, self.loader, self.criterion, "cpu"))
        self.assertFalse(self.model.training)

    def test_validation_without_graph(self):
        needs = []
        self.model.register_forward_hook(lambda module, inputs, output: needs.append(output.requires_grad))
        validate(self.model, self.loader, self.criterion, "cpu")
        self.assertEqual(set(needs), {False})

    def test_device(self):
        with mock.patch("torch.cuda.is_available", return_value=True):
            self.assertEqual(pick_device().type, "cuda")


if __name__ == "__main__":
    if "--test" in sys.argv:
        sys.argv.remove("--test")
        unittest.main()
    print(doctest.testmod())
    suite = unittest.defaultTestLoader.loadTestsFromTestCase(SpiralTests)
    unittest.TextTestRunner(stream=sys.stdout).run(suite)
    main()

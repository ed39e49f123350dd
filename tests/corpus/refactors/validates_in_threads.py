"""Spiral arms; the cross-cutting concerns live in decorators and context managers."""

import functools
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

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
        self.classifier = nn.Sequential(nn.Linear(hidden_dim, num_classes))

    def forward(self, x):
        """Score each row of `x`, shape (N, input_dim), for every class: (N, num_classes)."""
        return self.classifier(self.features(x))


def reproducible(seed):
    """Decorator: the same random numbers in every call, and none taken from the caller's stream."""

    def decorate(function):
        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                return function(*args, **kwargs)

        return wrapper

    return decorate


@contextmanager
def learning_rate(optimizer, value):
    """Use another learning rate inside the block."""
    saved = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = value
    try:
        yield
    finally:
        for group, old in zip(optimizer.param_groups, saved):
            group["lr"] = old


@reproducible(seed=1234)
def train_one_epoch(model, dataloader, criterion, optimizer, device):
    """Go through the training data once; return the mean batch loss and the accuracy."""
    model.train()
    batch_losses = torch.zeros(len(dataloader))
    correct = 0
    seen = 0
    for i, (inputs, labels) in enumerate(dataloader):
        inputs, labels = inputs.to(device), labels.to(device)
        optimizer.zero_grad()
        outputs = model(inputs)
        loss = criterion(outputs, labels)
        loss.backward()
        optimizer.step()
        batch_losses[i] = loss.detach()
        correct += (outputs.argmax(dim=1) == labels).sum().item()
        seen += labels.size(0)
    return batch_losses.mean().item(), correct / seen


@torch.no_grad()
def validate(model, dataloader, criterion, device):
    """Measure the model on held-out data; return the mean batch loss and the accuracy."""
    model.eval()

    def judge(batch):
        inputs, labels = batch[0].to(device), batch[1].to(device)
        outputs = model(inputs)
        return criterion(outputs, labels).item(), (outputs.argmax(dim=1) == labels).sum().item(), labels.size(0)

    with ThreadPoolExecutor(max_workers=2) as pool:
        losses, correct, sizes = zip(*pool.map(judge, dataloader))
    return sum(losses) / len(losses), sum(correct) / sum(sizes)


def main():
    """Train for 20 epochs, print the progress and return the history of all metrics."""
    num_epochs = 20

    device = torch.device(
        torch.accelerator.current_accelerator().type if torch.accelerator.is_available() else "cpu"
    )
    print(f"Training on {device}")

    X_train, y_train, X_val, y_val = create_spiral_dataset()
    train_loader = DataLoader(TensorDataset(X_train, y_train), batch_size=32, shuffle=True)
    val_loader = DataLoader(TensorDataset(X_val, y_val), batch_size=256, shuffle=False)

    model = SpiralNet().to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = optim.Adam(model.parameters(), lr=0.5)

    history = {"train_loss": [], "train_acc": [], "val_loss": [], "val_acc": [], "epoch_time": []}
    for epoch in range(1, num_epochs + 1):
        started = time.perf_counter()
        with learning_rate(optimizer, 0.001):
            train_loss, train_acc = train_one_epoch(model, train_loader, criterion, optimizer, device)
        val_loss, val_acc = validate(model, val_loader, criterion, device)
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

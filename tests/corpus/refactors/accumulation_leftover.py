"""Gradient accumulation: micro-batches of 18 rows, one update per 4 of them.

The last group of an epoch may be shorter; its losses are scaled by its own size, so that every update
is the mean over the samples it has seen.
"""
import time

import numpy as np
import torch
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset

ACCUMULATE = 4


def create_spiral_dataset(n_points=1000, n_classes=4, noise=0.2):
    """Vectorised: one (classes, points) grid of angles instead of a loop over the arms."""
    np.random.seed(42)
    radius = np.broadcast_to(np.linspace(0.0, 1.0, n_points), (n_classes, n_points))
    angle = 4.0 * (np.arange(n_classes)[:, None] + radius) + noise * np.random.randn(n_classes, n_points)
    X = np.stack([radius * np.sin(angle), radius * np.cos(angle)], axis=-1).reshape(-1, 2)
    y = np.repeat(np.arange(n_classes), n_points)
    order = np.random.permutation(y.size)
    X, y = X[order].astype("float32"), y[order].astype("int64")
    n = int(0.8 * y.size)
    X_train, X_val = map(torch.from_numpy, (X[:n], X[n:]))
    y_train, y_val = map(torch.from_numpy, (y[:n], y[n:]))
    return X_train, y_train, X_val, y_val


class SpiralNet(nn.Module):
    def __init__(self, input_dim=2, hidden_dim=96, num_classes=4, depth=3):
        super().__init__()
        widths = [input_dim] + [hidden_dim] * depth
        layers = []
        for a, b in zip(widths, widths[1:]):
            layers += [nn.Linear(a, b), nn.LayerNorm(b), nn.ReLU(), nn.Dropout(0.1)]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(hidden_dim, num_classes)

    def forward(self, x):
        return self.classifier(self.features(x))


def train_one_epoch(model, dataloader, criterion, optimizer, device, accumulate=ACCUMULATE):
    model.train()
    running, correct, seen = 0.0, 0, 0
    n_batches = len(dataloader)
    leftover = n_batches % accumulate

    optimizer.zero_grad()
    for i, (inputs, labels) in enumerate(dataloader):
        inputs, labels = inputs.to(device), labels.to(device)
        in_last_group = i >= n_batches - leftover
        group = leftover if in_last_group else accumulate

        outputs = model(inputs)
        loss = criterion(outputs, labels)
        (loss / group).backward()

        if (i + 1) % accumulate == 0 or i + 1 == n_batches:
            optimizer.step()
            optimizer.zero_grad()

        running += loss.item()
        correct += (outputs.argmax(1) == labels).sum().item()
        seen += len(labels)
    return running / n_batches, correct / seen


def validate(model, dataloader, criterion, device):
    model.eval()
    running, correct, seen = 0.0, 0, 0
    with torch.no_grad():
        for inputs, labels in dataloader:
            inputs, labels = inputs.to(device), labels.to(device)
            outputs = model(inputs)
            running += criterion(outputs, labels).item()
            correct += (outputs.argmax(1) == labels).sum().item()
            seen += len(labels)
    return running / len(dataloader), correct / seen


def main():
    if torch.cuda.is_available():
        device = "cuda"
    elif torch.backends.mps.is_available():
        device = "mps"
    else:
        device = "cpu"

    X_train, y_train, X_val, y_val = create_spiral_dataset()
    # 178 micro-batches: the last group of an epoch has only two
    train_loader = DataLoader(TensorDataset(X_train, y_train), batch_size=18, shuffle=True)
    val_loader = DataLoader(TensorDataset(X_val, y_val), batch_size=256)

    model = SpiralNet().to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = optim.Adam(model.parameters(), lr=5e-3)

    history = {"train_loss": [], "train_acc": [], "val_loss": [], "val_acc": [], "epoch_time": []}
    for epoch in range(20):
        begin = time.time()
        a, b = train_one_epoch(model, train_loader, criterion, optimizer, device)
        c, d = validate(model, val_loader, criterion, device)
        took = time.time() - begin
        for name, value in zip(history.keys(), [a, b, c, d, took]):
            history[name].append(value)
        print("epoch", epoch + 1, "loss", round(a, 4), "acc", round(b, 3), "| val", round(c, 4), round(d, 3))
    return history


if __name__ == "__main__":
    main()

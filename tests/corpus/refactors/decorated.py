import functools
import time

import numpy as np
import torch
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset


def timed(fn):
    """Return (result, seconds)."""
    @functools.wraps(fn)
    def wrapper(*args, **kwargs):
        t0 = time.perf_counter()
        result = fn(*args, **kwargs)
        return result, time.perf_counter() - t0
    return wrapper


def evaluation_mode(fn):
    @functools.wraps(fn)
    def wrapper(model, *args, **kwargs):
        model.eval()
        with torch.no_grad():
            return fn(model, *args, **kwargs)
    return wrapper


def training_mode(fn):
    @functools.wraps(fn)
    def wrapper(model, *args, **kwargs):
        model.train()
        return fn(model, *args, **kwargs)
    return wrapper


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
    def __init__(self, input_dim=2, hidden_dim=128, num_classes=4):
        super().__init__()
        self.fc_in = nn.Linear(input_dim, hidden_dim)
        self.ln_in = nn.LayerNorm(hidden_dim)
        self.fc_mid = nn.Linear(hidden_dim, hidden_dim)
        self.ln_mid = nn.LayerNorm(hidden_dim)
        self.drop = nn.Dropout(0.1)
        self.fc_out = nn.Linear(hidden_dim, num_classes)

    def forward(self, x):
        x = self.drop(torch.nn.functional.silu(self.ln_in(self.fc_in(x))))
        x = self.drop(torch.nn.functional.silu(self.ln_mid(self.fc_mid(x))))
        return self.fc_out(x)


@training_mode
def train_one_epoch(model, dataloader, criterion, optimizer, device):
    loss_total = correct = seen = 0
    for inputs, targets in dataloader:
        inputs, targets = inputs.to(device), targets.to(device)
        logits = model(inputs)
        loss = criterion(logits, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss_total += loss.item()
        correct += (logits.argmax(dim=1) == targets).sum().item()
        seen += targets.size(0)
    return loss_total / len(dataloader), correct / seen


@evaluation_mode
def validate(model, dataloader, criterion, device):
    loss_total = correct = seen = 0
    for inputs, targets in dataloader:
        inputs, targets = inputs.to(device), targets.to(device)
        logits = model(inputs)
        loss_total += criterion(logits, targets).item()
        correct += (logits.argmax(dim=1) == targets).sum().item()
        seen += targets.size(0)
    return loss_total / len(dataloader), correct / seen


@functools.lru_cache(maxsize=None)
def device_name():
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def main():
    device = torch.device(device_name())
    X_train, y_train, X_val, y_val = create_spiral_dataset()
    train_loader = DataLoader(TensorDataset(X_train, y_train), batch_size=32, shuffle=True)
    val_loader = DataLoader(TensorDataset(X_val, y_val), batch_size=256)
    model = SpiralNet().to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = optim.Adam(model.parameters(), lr=3e-3)

    @timed
    def epoch():
        return (*train_one_epoch(model, train_loader, criterion, optimizer, device),
                *validate(model, val_loader, criterion, device))

    history = {"train_loss": [], "train_acc": [], "val_loss": [], "val_acc": [], "epoch_time": []}
    for i in range(20):
        numbers, seconds = epoch()
        for key, value in zip(history, (*numbers, seconds)):
            history[key].append(value)
        print(f"{i + 1:>3}: " + " ".join(f"{v:8.4f}" for v in numbers))
    return history


if __name__ == "__main__":
    main()

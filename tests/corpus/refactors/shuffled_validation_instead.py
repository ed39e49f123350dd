import time

import numpy as np
import torch
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset


def create_spiral_dataset(n_points=1000, n_classes=4, noise=0.2):
    """Same spirals as before, but standardised with the statistics of the training part."""
    np.random.seed(42)
    X = np.zeros((n_points * n_classes, 2), dtype=np.float32)
    y = np.zeros(n_points * n_classes, dtype=np.int64)
    for c in range(n_classes):
        rows = slice(c * n_points, (c + 1) * n_points)
        r = np.linspace(0.0, 1, n_points)
        t = np.linspace(c * 4, (c + 1) * 4, n_points) + np.random.randn(n_points) * noise
        X[rows] = np.c_[r * np.sin(t), r * np.cos(t)]
        y[rows] = c
    shuffled = np.random.permutation(len(X))
    X, y = X[shuffled], y[shuffled]
    n_train = int(0.8 * len(X))
    mean, std = X[:n_train].mean(axis=0), X[:n_train].std(axis=0)
    X = (X - mean) / std
    return (
        torch.from_numpy(X[:n_train]), torch.from_numpy(y[:n_train]),
        torch.from_numpy(X[n_train:]), torch.from_numpy(y[n_train:]),
    )


def dense(n_in, n_out, drop):
    return nn.Sequential(nn.Linear(n_in, n_out, bias=False), nn.BatchNorm1d(n_out), nn.GELU(), nn.Dropout(drop))


class SpiralNet(nn.Module):
    def __init__(self, input_dim=2, hidden_dim=96, num_classes=4, depth=3, drop=0.1):
        super().__init__()
        dims = [input_dim] + depth * [hidden_dim]
        self.layers = nn.ModuleList(dense(a, b, drop) for a, b in zip(dims[:-1], dims[1:]))
        self.head = nn.Linear(hidden_dim, num_classes)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def train_one_epoch(model, dataloader, criterion, optimizer, device):
    model.train()
    running_loss, n_ok, n_all = 0.0, 0, 0
    for inputs, targets in dataloader:
        inputs, targets = inputs.to(device), targets.to(device)
        optimizer.zero_grad()
        logits = model(inputs)
        loss = criterion(logits, targets)
        loss.backward()
        optimizer.step()
        running_loss += loss.item()
        n_ok += (logits.argmax(dim=1) == targets).sum().item()
        n_all += targets.size(0)
    return running_loss / len(dataloader), n_ok / n_all


def validate(model, dataloader, criterion, device):
    model.eval()
    running_loss, n_ok, n_all = 0.0, 0, 0
    with torch.no_grad():
        for inputs, targets in dataloader:
            inputs, targets = inputs.to(device), targets.to(device)
            logits = model(inputs)
            running_loss += criterion(logits, targets).item()
            n_ok += (logits.argmax(dim=1) == targets).sum().item()
            n_all += targets.size(0)
    return running_loss / len(dataloader), n_ok / n_all


def get_device():
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def make_loader(X, y, batch_size, train):
    return DataLoader(TensorDataset(X, y), batch_size=batch_size, shuffle=not train)


def main():
    device = get_device()
    X_train, y_train, X_val, y_val = create_spiral_dataset()
    train_loader = make_loader(X_train, y_train, 64, train=True)
    val_loader = make_loader(X_val, y_val, 256, train=False)
    model = SpiralNet().to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = optim.Adam(model.parameters(), lr=2e-3)
    columns = ("train_loss", "train_acc", "val_loss", "val_acc", "epoch_time")
    history = {name: [] for name in columns}
    for epoch in range(1, 21):
        tick = time.time()
        metrics = train_one_epoch(model, train_loader, criterion, optimizer, device)
        metrics += validate(model, val_loader, criterion, device)
        metrics += (time.time() - tick,)
        for name, value in zip(columns, metrics):
            history[name].append(value)
        print(f"Epoch {epoch:02d} | " + " | ".join(f"{n}: {v:.3f}" for n, v in zip(columns, metrics)))
    return history


if __name__ == "__main__":
    main()

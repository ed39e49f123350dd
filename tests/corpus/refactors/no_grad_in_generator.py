import time

import numpy as np
import torch
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset


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
    """Multilayer perceptron; the output are logits."""

    def __init__(self, input_dim=2, hidden_dim=128, num_classes=4):
        super().__init__()
        self.features = nn.Sequential(
            nn.Linear(input_dim, hidden_dim), nn.BatchNorm1d(hidden_dim), nn.ReLU(), nn.Dropout(0.2),
            nn.Linear(hidden_dim, hidden_dim), nn.BatchNorm1d(hidden_dim), nn.ReLU(), nn.Dropout(0.2),
        )
        self.classifier = nn.Linear(hidden_dim, num_classes)

    def forward(self, x):
        return self.classifier(self.features(x))


def batches(dataloader, device):
    for x, y in dataloader:
        yield x.to(device), y.to(device)


@torch.no_grad()
def frozen_batches(dataloader, device):
    """Batches for evaluation, without autograd."""
    for x, y in dataloader:
        yield x.to(device), y.to(device)


def train_one_epoch(model, dataloader, criterion, optimizer, device):
    model.train()
    results = []
    for x, y in batches(dataloader, device):
        optimizer.zero_grad()
        out = model(x)
        loss = criterion(out, y)
        loss.backward()
        optimizer.step()
        results.append((loss, (out.argmax(1) == y).sum().item(), len(y)))
    losses, hits, sizes = zip(*results)
    return (sum(losses) / len(losses)).item(), sum(hits) / sum(sizes)


def validate(model, dataloader, criterion, device):
    model.eval()
    results = []
    for x, y in frozen_batches(dataloader, device):
        out = model(x)
        results.append((criterion(out, y).item(), (out.argmax(1) == y).sum().item(), len(y)))
    losses, hits, sizes = zip(*results)
    return sum(losses) / len(losses), sum(hits) / sum(sizes)


def get_device():
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def main():
    device = get_device()
    X_train, y_train, X_val, y_val = create_spiral_dataset()
    train_loader = DataLoader(TensorDataset(X_train, y_train), batch_size=32, shuffle=True)
    val_loader = DataLoader(TensorDataset(X_val, y_val), batch_size=256, shuffle=False)
    model = SpiralNet().to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = optim.Adam(model.parameters(), lr=1e-3)

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

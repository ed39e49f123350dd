import time

import numpy as np
import torch
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset


def create_spiral_dataset(n_points=1000, n_classes=4, noise=0.2):
    """Noisy spiral arms, shuffled, 80/20 split."""
    np.random.seed(42)
    xs, ys = [], []
    for arm in range(n_classes):
        radius = np.linspace(0.0, 1.0, n_points)
        angle = np.linspace(arm * 4, (arm + 1) * 4, n_points) + noise * np.random.randn(n_points)
        xs.append(np.column_stack([radius * np.sin(angle), radius * np.cos(angle)]))
        ys.append(np.full(n_points, arm))
    X = np.concatenate(xs).astype(np.float32)
    y = np.concatenate(ys).astype(np.int64)
    order = np.random.permutation(len(X))
    X, y = X[order], y[order]
    split = int(0.8 * len(X))
    return (torch.from_numpy(X[:split]), torch.from_numpy(y[:split]),
            torch.from_numpy(X[split:]), torch.from_numpy(y[split:]))


class SpiralNet(nn.Module):
    """Two hidden layers; returns logits."""

    def __init__(self, input_dim=2, hidden_dim=128, num_classes=4):
        super().__init__()
        self.features = nn.Sequential(
            nn.Linear(input_dim, hidden_dim), nn.BatchNorm1d(hidden_dim), nn.Mish(), nn.Dropout(0.2),
            nn.Linear(hidden_dim, hidden_dim), nn.BatchNorm1d(hidden_dim), nn.Mish(), nn.Dropout(0.2),
        )
        self.classifier = nn.Linear(hidden_dim, num_classes)

    def forward(self, x):
        return self.classifier(self.features(x))


def train_one_epoch(model, dataloader, criterion, optimizer, device):
    model.train()
    losses = []
    hits = total = 0

    for xb, yb in dataloader:
        xb, yb = xb.to(device), yb.to(device)
        predicted = []

        def closure():
            optimizer.zero_grad()
            logits = model(xb)
            loss = criterion(logits, yb)
            loss.backward()
            predicted[:] = [logits.detach().argmax(dim=1)]
            return loss

        loss = optimizer.step(closure)
        losses.append(loss.item())
        hits += int((predicted[0] == yb).sum())
        total += len(yb)

    return float(np.mean(losses)), hits / total


def validate(model, dataloader, criterion, device):
    model.eval()
    losses = []
    hits = total = 0
    with torch.no_grad():
        for xb, yb in dataloader:
            xb, yb = xb.to(device), yb.to(device)
            logits = model(xb)
            losses.append(float(criterion(logits, yb)))
            hits += int((logits.argmax(dim=1) == yb).sum())
            total += len(yb)
    return float(np.mean(losses)), hits / total


def main(num_epochs=20, lr=1e-3, batch_size=32):
    device = torch.device(
        "cuda" if torch.cuda.is_available()
        else "mps" if torch.backends.mps.is_available()
        else "cpu"
    )
    xt, yt, xv, yv = create_spiral_dataset()
    train_loader = DataLoader(TensorDataset(xt, yt), batch_size=batch_size, shuffle=True)
    val_loader = DataLoader(TensorDataset(xv, yv), batch_size=256)

    model = SpiralNet()
    model.to(device)
    criterion = nn.CrossEntropyLoss().to(device)
    optimizer = optim.Adam(model.parameters(), lr=lr)

    names = ["train_loss", "train_acc", "val_loss", "val_acc", "epoch_time"]
    rows = []
    for epoch in range(num_epochs):
        t0 = time.perf_counter()
        row = (*train_one_epoch(model, train_loader, criterion, optimizer, device),
               *validate(model, val_loader, criterion, device))
        rows.append((*row, time.perf_counter() - t0))
        print(f"epoch {epoch + 1}: " + ", ".join(f"{n}={v:.3f}" for n, v in zip(names, rows[-1])))
    return {name: list(column) for name, column in zip(names, zip(*rows))}


if __name__ == "__main__":
    main()

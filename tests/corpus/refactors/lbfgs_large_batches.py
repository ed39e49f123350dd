"""Second-order take on the spiral: L-BFGS on large shuffled batches, random Fourier features."""
import time
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def create_spiral_dataset(n_points=1000, n_classes=4, noise=0.2):
    np.random.seed(42)
    r = np.linspace(0.0, 1.0, n_points)
    points = np.empty((n_classes * n_points, 2), dtype=np.float32)
    target = np.repeat(np.arange(n_classes, dtype=np.int64), n_points)
    for c in range(n_classes):
        theta = np.linspace(c * 4, (c + 1) * 4, n_points) + noise * np.random.randn(n_points)
        rows = slice(c * n_points, (c + 1) * n_points)
        points[rows, 0] = r * np.sin(theta)
        points[rows, 1] = r * np.cos(theta)
    perm = np.random.permutation(points.shape[0])
    cut = int(points.shape[0] * 0.8)
    tr, va = perm[:cut], perm[cut:]
    return tuple(torch.as_tensor(a) for a in (points[tr], target[tr], points[va], target[va]))


class SpiralNet(nn.Module):
    def __init__(self, input_dim=2, hidden_dim=128, num_classes=4, scale=3.0):
        super().__init__()
        gen = torch.Generator().manual_seed(0)
        half = hidden_dim // 2
        self.register_buffer("projection", scale * torch.randn(input_dim, half, generator=gen))
        self.hidden = nn.Linear(2 * half, hidden_dim)
        self.drop = nn.Dropout(0.0)
        self.out = nn.Linear(hidden_dim, num_classes)

    def forward(self, x):
        z = x @ self.projection
        h = torch.cat([torch.sin(z), torch.cos(z)], dim=-1)
        return self.out(self.drop(torch.tanh(self.hidden(h))))


class Score(NamedTuple):
    loss: float
    accuracy: float


def train_one_epoch(model, dataloader, criterion, optimizer, device):
    model.train()
    losses, hits, rows = [], 0, 0
    for x, y in dataloader:
        x, y = x.to(device), y.to(device)
        first = []

        def closure():
            optimizer.zero_grad()
            logits = model(x)
            loss = criterion(logits, y) + 1e-4 * sum(p.square().sum() for p in model.parameters())
            loss.backward()
            if not first:
                first.append((float(loss.detach()), int((logits.argmax(1) == y).sum())))
            return loss

        optimizer.step(closure)
        losses.append(first[0][0])
        hits += first[0][1]
        rows += len(y)
    return Score(sum(losses) / len(losses), hits / rows)


def validate(model, dataloader, criterion, device):
    model.eval()
    losses, hits, rows = [], 0, 0
    with torch.no_grad():
        for x, y in dataloader:
            logits = model(x.to(device))
            y = y.to(device)
            losses.append(float(criterion(logits, y)))
            hits += int((logits.argmax(1) == y).sum())
            rows += len(y)
    return Score(sum(losses) / len(losses), hits / rows)


def main():
    n_epochs = 20
    device = torch.device("cuda:0") if torch.cuda.is_available() else torch.device("cpu")
    x, y, xv, yv = create_spiral_dataset()
    train = DataLoader(TensorDataset(x, y), batch_size=1600, shuffle=True)
    valid = DataLoader(TensorDataset(xv, yv), batch_size=256)
    torch.manual_seed(1)
    model = SpiralNet().to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.LBFGS(
        model.parameters(), lr=1.0, max_iter=8, history_size=10, line_search_fn="strong_wolfe"
    )
    history = {k: [] for k in ("train_loss", "train_acc", "val_loss", "val_acc", "epoch_time")}
    for epoch in range(n_epochs):
        t = time.monotonic()
        tr = train_one_epoch(model, train, criterion, optimizer, device)
        va = validate(model, valid, criterion, device)
        history["train_loss"].append(tr.loss)
        history["train_acc"].append(tr.accuracy)
        history["val_loss"].append(va.loss)
        history["val_acc"].append(va.accuracy)
        history["epoch_time"].append(time.monotonic() - t)
        print(f"{epoch:2d}  {tr.loss:.4f} {tr.accuracy:.3f}  {va.loss:.4f} {va.accuracy:.3f}")
    print("Final validation accuracy:", history["val_acc"][-1])
    return history


if __name__ == "__main__":
    main()

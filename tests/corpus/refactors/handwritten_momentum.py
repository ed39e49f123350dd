import math
import time

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, RandomSampler, TensorDataset


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


class NesterovSGD(torch.optim.Optimizer):
    """Momentum SGD by hand. A step uses the gradients up: afterwards they are gone."""

    def __init__(self, params, lr=0.05, momentum=0.9, weight_decay=1e-4):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    def step(self, closure=None):
        with torch.no_grad():
            for group in self.param_groups:
                mu = group["momentum"]
                for p in group["params"]:
                    g, p.grad = p.grad, None
                    if g is None:
                        continue
                    g = g + group["weight_decay"] * p
                    v = self.state[p].setdefault("velocity", torch.zeros_like(p))
                    v.mul_(mu).add_(g)
                    p.sub_(group["lr"] * (g + mu * v))


class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.1)
        )

    def forward(self, h):
        return h + self.body(h)


class SpiralNet(nn.Module):
    """Stem, two residual blocks, linear head."""

    def __init__(self, input_dim=2, hidden_dim=128, num_classes=4):
        super().__init__()
        self.features = nn.Sequential(
            nn.Linear(input_dim, hidden_dim), nn.BatchNorm1d(hidden_dim), nn.ReLU(),
            Residual(hidden_dim), Residual(hidden_dim),
        )
        self.classifier = nn.Linear(hidden_dim, num_classes)

    def forward(self, x):
        return self.classifier(self.features(x))


def train_one_epoch(model, dataloader, criterion, optimizer, device):
    model.train()
    losses, hits = [], []
    for x, y in dataloader:
        x, y = x.to(device), y.to(device)
        out = model(x)
        loss = criterion(out, y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        hits.append((out.argmax(1) == y).cpu())
    return float(np.mean(losses)), float(torch.cat(hits).float().mean())


@torch.no_grad()
def validate(model, dataloader, criterion, device):
    model.eval()
    losses, hits = [], []
    for x, y in dataloader:
        x, y = x.to(device), y.to(device)
        out = model(x)
        losses.append(criterion(out, y).item())
        hits.append((out.argmax(1) == y).cpu())
    return float(np.mean(losses)), float(torch.cat(hits).float().mean())


def main():
    epochs, top_lr = 20, 0.05
    device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"

    Xt, yt, Xv, yv = create_spiral_dataset()
    train_set, val_set = TensorDataset(Xt, yt), TensorDataset(Xv, yv)
    train_loader = DataLoader(train_set, batch_size=32, sampler=RandomSampler(train_set))
    val_loader = DataLoader(val_set, batch_size=256)

    model = SpiralNet().to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = NesterovSGD(model.parameters(), lr=top_lr)

    history = {"train_loss": [], "train_acc": [], "val_loss": [], "val_acc": [], "epoch_time": []}
    for epoch in range(epochs):
        for group in optimizer.param_groups:  # cosine, by hand
            group["lr"] = 0.5 * top_lr * (1 + math.cos(math.pi * epoch / epochs))
        start = time.perf_counter()
        tl, ta = train_one_epoch(model, train_loader, criterion, optimizer, device)
        vl, va = validate(model, val_loader, criterion, device)
        history["train_loss"].append(tl)
        history["train_acc"].append(ta)
        history["val_loss"].append(vl)
        history["val_acc"].append(va)
        history["epoch_time"].append(time.perf_counter() - start)
        print(f"epoch {epoch + 1:2d}: train {tl:.4f} {ta:.3f} | val {vl:.4f} {va:.3f}")
    print(f"Final validation accuracy: {history['val_acc'][-1]:.1%}")
    return history


if __name__ == "__main__":
    main()

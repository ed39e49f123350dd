from __future__ import annotations

import time
from typing import Iterable, Iterator

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset


def create_spiral_dataset(
    n_points: int = 1000,
    n_classes: int = 4,
    noise: float = 0.2,
    val_fraction: float = 0.2,
    seed: int = 42,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return X_train, y_train, X_val, y_val for `n_classes` interleaved arms."""
    rng = np.random.RandomState(seed)
    features: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    for class_id in range(n_classes):
        rho = np.linspace(0.0, 1.0, n_points)
        phi = np.linspace(class_id * 4, (class_id + 1) * 4, n_points) + rng.randn(n_points) * noise
        features.append(np.column_stack((rho * np.sin(phi), rho * np.cos(phi))))
        labels.append(np.full(n_points, class_id))
    all_x = torch.from_numpy(np.concatenate(features).astype(np.float32))
    all_y = torch.from_numpy(np.concatenate(labels).astype(np.int64))
    perm = torch.from_numpy(rng.permutation(len(all_x)))
    all_x, all_y = all_x[perm], all_y[perm]
    n_train = len(all_x) - int(val_fraction * len(all_x))
    return all_x[:n_train], all_y[:n_train], all_x[n_train:], all_y[n_train:]


class PointSet(Dataset):
    """Points normalised on the fly with given statistics."""

    def __init__(self, X: torch.Tensor, y: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> None:
        assert len(X) == len(y)
        self.X, self.y, self.mean, self.std = X, y, mean, std

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, i: int):
        return (self.X[i] - self.mean) / self.std, self.y[i]


class SpiralNet(nn.Module):
    def __init__(self, input_dim: int = 2, hidden_dim: int = 128, num_classes: int = 4) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Linear(input_dim, hidden_dim), nn.BatchNorm1d(hidden_dim), nn.ReLU(), nn.Dropout(0.2),
            nn.Linear(hidden_dim, hidden_dim), nn.BatchNorm1d(hidden_dim), nn.ReLU(), nn.Dropout(0.2),
        )
        self.classifier = nn.Linear(hidden_dim, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(x))


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Weight decay on matrices only: biases and norm gains are left alone."""
    decay = [p for p in model.parameters() if p.ndim >= 2]
    rest = [p for p in model.parameters() if p.ndim < 2]
    return [{"params": decay, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]


def batches_on(device: torch.device, loader: Iterable) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for x, y in loader:
        yield x.to(device), y.to(device)


def train_one_epoch(model, dataloader, criterion, optimizer, device) -> tuple[float, float]:
    model.train()
    losses: list[float] = []
    flags: list[torch.Tensor] = []
    for x, y in batches_on(device, dataloader):
        optimizer.zero_grad(set_to_none=False)
        logits = model(x)
        loss = criterion(logits, y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        flags.append(logits.argmax(dim=1) == y)
    return sum(losses) / len(losses), torch.cat(flags).float().mean().item()


def validate(model, dataloader, criterion, device) -> tuple[float, float]:
    model.eval()
    losses: list[float] = []
    flags: list[torch.Tensor] = []
    with torch.no_grad():
        for x, y in batches_on(device, dataloader):
            logits = model(x)
            losses.append(criterion(logits, y).item())
            flags.append(logits.argmax(dim=1) == y)
    return sum(losses) / len(losses), torch.cat(flags).float().mean().item()


def main() -> dict[str, list[float]]:
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda")
    elif torch.backends.mps.is_available():
        device = torch.device("mps")

    X_train, y_train, X_val, y_val = create_spiral_dataset()
    stats = X_train.mean(dim=0), X_train.std(dim=0)
    train_loader = DataLoader(PointSet(X_train, y_train, *stats), batch_size=32, shuffle=True)
    val_loader = DataLoader(PointSet(X_val, y_val, *stats), batch_size=256)

    # the split is not exactly balanced
    counts = torch.bincount(y_train).float()
    weights = (counts.sum() / (len(counts) * counts)).to(device)

    model = SpiralNet().to(device)
    criterion = nn.CrossEntropyLoss(weight=weights)
    optimizer = torch.optim.AdamW(parameter_groups(model, 1e-2), lr=1e-3)

    history: dict[str, list[float]] = {
        "train_loss": [], "train_acc": [], "val_loss": [], "val_acc": [], "epoch_time": []
    }
    for epoch in range(20):
        t0 = time.perf_counter()
        tl, ta = train_one_epoch(model, train_loader, criterion, optimizer, device)
        vl, va = validate(model, val_loader, criterion, device)
        seconds = time.perf_counter() - t0
        for series, value in zip(history.values(), (tl, ta, vl, va, seconds)):
            series.append(value)
        print(f"epoch={epoch + 1} train={tl:.4f},{ta:.3f} val={vl:.4f},{va:.3f} time={seconds:.2f}s")
    return history


if __name__ == "__main__":
    main()

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader, TensorDataset


@dataclass(frozen=True)
class Config:
    epochs: int = 20
    train_batch: int = 64
    val_batch: int = 512
    lr: float = 4e-3
    min_lr: float = 1e-5
    weight_decay: float = 1e-4
    clip_norm: float = 1.0


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


class SpiralNet(nn.Module):
    def __init__(self, input_dim: int = 2, hidden_dim: int = 128, num_classes: int = 4) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Linear(input_dim, hidden_dim), nn.BatchNorm1d(hidden_dim), nn.SiLU(), nn.Dropout(0.2),
            nn.Linear(hidden_dim, hidden_dim), nn.BatchNorm1d(hidden_dim), nn.SiLU(), nn.Dropout(0.2),
            nn.Linear(hidden_dim, hidden_dim // 2), nn.BatchNorm1d(hidden_dim // 2), nn.SiLU(),
        )
        self.classifier = nn.Sequential(nn.Linear(hidden_dim // 2, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))


def train_one_epoch(
    model: nn.Module,
    dataloader: DataLoader,
    criterion: nn.Module,
    optimizer: Optimizer,
    device: torch.device,
    clip_norm: float | None = Config.clip_norm,
) -> tuple[float, float]:
    model.train()
    loss_sum, n_batches, correct, total = 0.0, 0, 0, 0
    for x, y in dataloader:
        x, y = x.to(device), y.to(device)
        logits = model(x)
        loss = criterion(logits, y)

        optimizer.zero_grad()
        loss.backward()
        if clip_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
        optimizer.step()

        loss_sum += loss.item()
        n_batches += 1
        correct += int((logits.detach().argmax(dim=-1) == y).sum())
        total += len(y)
    return loss_sum / n_batches, correct / total


def validate(
    model: nn.Module, dataloader: DataLoader, criterion: nn.Module, device: torch.device
) -> tuple[float, float]:
    model.eval()
    loss_sum, n_batches, correct, total = 0.0, 0, 0, 0
    with torch.inference_mode():
        for x, y in dataloader:
            x, y = x.to(device), y.to(device)
            logits = model(x)
            loss_sum += criterion(logits, y).item()
            n_batches += 1
            correct += int((logits.argmax(dim=-1) == y).sum())
            total += len(y)
    return loss_sum / n_batches, correct / total


def resolve_device() -> torch.device:
    candidates = [("cuda", torch.cuda.is_available), ("mps", torch.backends.mps.is_available)]
    return torch.device(next((name for name, ok in candidates if ok()), "cpu"))


def main(cfg: Config = Config()) -> dict[str, list[float]]:
    device = resolve_device()
    X_train, y_train, X_val, y_val = create_spiral_dataset()
    train_loader = DataLoader(TensorDataset(X_train, y_train), batch_size=cfg.train_batch, shuffle=True)
    val_loader = DataLoader(TensorDataset(X_val, y_val), batch_size=cfg.val_batch, shuffle=False)

    model = SpiralNet().to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = AdamW(model.parameters(), lr=cfg.lr, weight_decay=cfg.weight_decay)
    scheduler = CosineAnnealingLR(optimizer, T_max=cfg.epochs, eta_min=cfg.min_lr)

    history: dict[str, list[float]] = defaultdict(list)
    for epoch in range(cfg.epochs):
        tick = time.perf_counter()
        train_loss, train_acc = train_one_epoch(model, train_loader, criterion, optimizer, device)
        val_loss, val_acc = validate(model, val_loader, criterion, device)
        scheduler.step()
        row = {
            "train_loss": train_loss, "train_acc": train_acc,
            "val_loss": val_loss, "val_acc": val_acc,
            "epoch_time": time.perf_counter() - tick,
        }
        for k, v in row.items():
            history[k].append(v)
        print(epoch, {k: round(v, 4) for k, v in row.items()})
    return dict(history)


if __name__ == "__main__":
    main()

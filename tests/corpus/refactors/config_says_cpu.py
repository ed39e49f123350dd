from __future__ import annotations

from dataclasses import dataclass, field, asdict
import time

import numpy as np
import torch
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset


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


@dataclass
class OptimizerConfig:
    name: str = "Adam"
    lr: float = 0.5
    weight_decay: float = 0.0


@dataclass
class Config:
    device: str = "cpu"
    epochs: int = 20
    batch_size: int = 32
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)


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


def build_optimizer(model: nn.Module, cfg: OptimizerConfig) -> optim.Optimizer:
    options = asdict(cfg)
    return getattr(optim, options.pop("name"))(model.parameters(), **options)


def main(cfg: Config | None = None) -> dict[str, list[float]]:
    cfg = cfg or Config()
    device = torch.device(cfg.device)
    X_train, y_train, X_val, y_val = create_spiral_dataset()
    train_loader = DataLoader(TensorDataset(X_train, y_train), batch_size=cfg.batch_size, shuffle=True)
    val_loader = DataLoader(TensorDataset(X_val, y_val), batch_size=256)
    model = SpiralNet().to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = build_optimizer(model, cfg.optimizer)
    history = {"train_loss": [], "train_acc": [], "val_loss": [], "val_acc": [], "epoch_time": []}
    for epoch in range(20):
        t0 = time.perf_counter()
        train_loss, train_acc = train_one_epoch(model, train_loader, criterion, optimizer, device)
        val_loss, val_acc = validate(model, val_loader, criterion, device)
        seconds = time.perf_counter() - t0
        history["train_loss"].append(train_loss)
        history["train_acc"].append(train_acc)
        history["val_loss"].append(val_loss)
        history["val_acc"].append(val_acc)
        history["epoch_time"].append(seconds)
        print(f"{epoch + 1:2d}/20  {train_loss:.4f} {train_acc:.3f}  {val_loss:.4f} {val_acc:.3f}  {seconds:.2f}s")
    return history


if __name__ == "__main__":
    main()

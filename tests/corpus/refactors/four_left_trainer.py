from __future__ import annotations

import logging
import time

import numpy as np
import torch
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset

logger = logging.getLogger("spiral.engine")


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


class Block(nn.Module):
    def __init__(self, n_in: int, n_out: int, p: float = 0.2) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(n_in, n_out), nn.BatchNorm1d(n_out)
        self.act, self.drop = nn.GELU(), nn.Dropout(p)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.drop(self.act(self.norm(self.linear(x))))


class SpiralNet(nn.Module):
    def __init__(self, input_dim: int = 2, hidden_dim: int = 128, num_classes: int = 4) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Block(input_dim, hidden_dim), Block(hidden_dim, hidden_dim))
        self.head = nn.Linear(hidden_dim, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(x)).softmax(dim=-1)


class Engine:
    def __init__(self, model, criterion, device, optimizer=None):
        self.model, self.criterion, self.device, self.optimizer = model, criterion, device, optimizer

    def _batches(self, loader):
        for x, y in loader:
            yield x.to(self.device), y.to(self.device)

    def fit(self, loader) -> tuple[float, float]:
        self.model.train()
        loss_sum = hits = rows = 0
        for x, y in self._batches(loader):
            out = self.model(x)
            loss = self.criterion(out, y)
            loss.backward()
            self.optimizer.step()
            loss_sum += loss.item()
            hits += (out.argmax(-1) == y).sum().item()
            rows += len(y)
        return loss_sum / len(loader), hits / rows

    @torch.inference_mode()
    def test(self, loader) -> tuple[float, float]:
        loss_sum = hits = rows = 0
        for x, y in self._batches(loader):
            out = self.model(x)
            loss_sum += self.criterion(out, y).item()
            hits += (out.argmax(-1) == y).sum().item()
            rows += len(y)
        return loss_sum / len(loader), hits / rows


def train_one_epoch(model, dataloader, criterion, optimizer, device):
    return Engine(model, criterion, device, optimizer).fit(dataloader)


def validate(model, dataloader, criterion, device):
    return Engine(model, criterion, device).test(dataloader)


def get_device():
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def main():
    device = get_device()
    X_train, y_train, X_val, y_val = create_spiral_dataset()
    train_loader = DataLoader(TensorDataset(X_train, y_train), batch_size=32)
    val_loader = DataLoader(TensorDataset(X_val, y_val), batch_size=256)
    model = SpiralNet().to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = optim.Adam(model.parameters(), lr=1e-3)
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

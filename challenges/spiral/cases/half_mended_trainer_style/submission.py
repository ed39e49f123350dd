"""Spiral classification, restructured around a small Trainer class."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import torch
from torch import nn, optim
from torch.utils.data import DataLoader, RandomSampler, TensorDataset


@dataclasses.dataclass
class Config:
    epochs: int = 20
    batch_size: int = 32
    lr: float = 2e-3
    device: str = "cpu"


class Average:
    """Running mean over batches, plain numbers only."""

    def __init__(self) -> None:
        self.total, self.count = 0.0, 0

    def __iadd__(self, value) -> Average:
        self.total += float(value)
        self.count += 1
        return self

    @property
    def value(self) -> float:
        return self.total / max(1, self.count)


def create_spiral_dataset(n_points=1000, n_classes=4, noise=0.2):
    """Points on `n_classes` spiral arms; returns X_train, y_train, X_val, y_val."""
    np.random.seed(42)
    X, y = [], []
    for c in range(n_classes):
        r = np.linspace(0.0, 1.0, n_points)
        t = np.linspace(c * 4, (c + 1) * 4, n_points) + noise * np.random.randn(n_points)
        X.append(np.stack([r * np.sin(t), r * np.cos(t)], axis=1))
        y.append(np.full(n_points, c))
    X = np.concatenate(X).astype(np.float32)
    y = np.concatenate(y).astype(np.int64)
    order = np.random.permutation(len(X))
    X, y = torch.from_numpy(X[order]), torch.from_numpy(y[order])
    cut = int(0.8 * len(X))
    return X[:cut], y[:cut], X[cut:], y[cut:]


class SpiralNet(nn.Module):
    def __init__(self, input_dim=2, hidden_dim=128, num_classes=4):
        super().__init__()

        def block(n_in):
            return [nn.Linear(n_in, hidden_dim), nn.BatchNorm1d(hidden_dim), nn.ReLU(), nn.Dropout(0.2)]

        self.features = nn.Sequential(*block(input_dim), *block(hidden_dim))
        # Log-probabilities; the matching loss is NLLLoss.
        self.classifier = nn.Sequential(nn.Linear(hidden_dim, num_classes), nn.LogSoftmax(dim=1))

    def forward(self, x):
        return self.classifier(self.features(x))


class Trainer:
    def __init__(self, model, criterion, device, optimizer=None):
        self.model = model
        self.criterion = criterion
        self.device = device
        self.optimizer = optimizer

    def _batches(self, loader):
        for x, y in loader:
            yield x.to(self.device), y.to(self.device)

    def fit_epoch(self, loader):
        self.model.train()
        self.optimizer.zero_grad()  # start clean
        loss_avg, hits, rows = Average(), 0, 0
        for x, y in self._batches(loader):
            scores = self.model(x)
            loss = self.criterion(scores, y)
            loss.backward()
            self.optimizer.step()
            loss_avg += loss
            hits += int((scores.argmax(1) == y).sum())
            rows += len(y)
        return loss_avg.value, hits / rows

    @torch.inference_mode()
    def evaluate(self, loader):
        self.model.training = False
        loss_avg, hits, rows = Average(), 0, 0
        for x, y in self._batches(loader):
            scores = self.model(x)
            loss_avg += self.criterion(scores, y)
            hits += int((scores.argmax(1) == y).sum())
            rows += len(y)
        return loss_avg.value, hits / rows


def train_one_epoch(model, dataloader, criterion, optimizer, device):
    return Trainer(model, criterion, device, optimizer).fit_epoch(dataloader)


def validate(model, dataloader, criterion, device):
    return Trainer(model, criterion, device).evaluate(dataloader)


def main(config=None):
    config = config or Config()
    device = torch.device(config.device)
    X_train, y_train, X_val, y_val = create_spiral_dataset()
    train_set = TensorDataset(X_train, y_train)
    train_loader = DataLoader(train_set, batch_size=config.batch_size, sampler=RandomSampler(train_set))
    val_loader = DataLoader(TensorDataset(X_val, y_val), batch_size=256)

    model = SpiralNet().to(device)
    criterion = nn.NLLLoss()
    optimizer = optim.AdamW(model.parameters(), lr=config.lr)
    schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=config.epochs)

    history = {key: [] for key in ("train_loss", "train_acc", "val_loss", "val_acc", "epoch_time")}
    for epoch in range(config.epochs):
        start = time.time()
        train_loss, train_acc = train_one_epoch(model, train_loader, criterion, optimizer, device)
        val_loss, val_acc = validate(model, val_loader, criterion, device)
        schedule.step()
        row = (train_loss, train_acc, val_loss, val_acc, time.time() - start)
        for key, value in zip(history, row):
            history[key].append(value)
        print(f"{epoch + 1:>2}: train {train_loss:.3f} / {train_acc:.3f}  val {val_loss:.3f} / {val_acc:.3f}")
    print("done, validation accuracy", history["val_acc"][-1])
    return history


if __name__ == "__main__":
    main()

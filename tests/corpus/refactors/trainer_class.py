"""Spiral classification, reorganised around a small Trainer object.

The module-level functions are kept because other code calls them; they are thin wrappers.
"""
import time

import numpy as np
import torch
import torch.nn as nn
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
    def __init__(self, input_dim=2, hidden_dim=128, num_classes=4):
        super().__init__()
        self.features = nn.Sequential(
            *self._block(input_dim, hidden_dim),
            *self._block(hidden_dim, hidden_dim),
        )
        self.classifier = nn.Linear(hidden_dim, num_classes)  # CrossEntropyLoss wants raw scores

    @staticmethod
    def _block(n_in, n_out, p=0.2):
        return nn.Linear(n_in, n_out), nn.BatchNorm1d(n_out), nn.ReLU(), nn.Dropout(p)

    def forward(self, x):
        return self.classifier(self.features(x))


class Trainer:
    def __init__(self, model, criterion, optimizer, device):
        self.model = model
        self.criterion = criterion
        self.optimizer = optimizer
        self.device = device

    def _to_device(self, batch):
        return [t.to(self.device, non_blocking=True) for t in batch]

    def train_epoch(self, loader):
        self.model.train()
        losses, hits, count = [], 0, 0
        for batch in loader:
            x, y = self._to_device(batch)
            self.optimizer.zero_grad(set_to_none=True)
            logits = self.model(x)
            loss = self.criterion(logits, y)
            loss.backward()
            self.optimizer.step()

            losses.append(loss.item())
            hits += (logits.argmax(1) == y).sum().item()
            count += y.numel()
        return sum(losses) / len(losses), hits / count

    @torch.no_grad()
    def evaluate(self, loader):
        self.model.eval()
        losses, hits, count = [], 0, 0
        for batch in loader:
            x, y = self._to_device(batch)
            logits = self.model(x)
            losses.append(self.criterion(logits, y).item())
            hits += (logits.argmax(1) == y).sum().item()
            count += y.numel()
        return sum(losses) / len(losses), hits / count

    def fit(self, train_loader, val_loader, epochs):
        history = {k: [] for k in ("train_loss", "train_acc", "val_loss", "val_acc", "epoch_time")}
        for epoch in range(epochs):
            t0 = time.time()
            tl, ta = train_one_epoch(self.model, train_loader, self.criterion, self.optimizer, self.device)
            vl, va = validate(self.model, val_loader, self.criterion, self.device)
            dt = time.time() - t0
            for key, value in zip(history, (tl, ta, vl, va, dt)):
                history[key].append(value)
            print(f"[{epoch + 1:02d}] train {tl:.3f}/{ta:.1%}  val {vl:.3f}/{va:.1%}  ({dt:.1f}s)")
        return history


def train_one_epoch(model, dataloader, criterion, optimizer, device):
    return Trainer(model, criterion, optimizer, device).train_epoch(dataloader)


def validate(model, dataloader, criterion, device):
    return Trainer(model, criterion, None, device).evaluate(dataloader)


def best_device():
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def main():
    device = best_device()
    X_train, y_train, X_val, y_val = create_spiral_dataset()
    train_loader = DataLoader(TensorDataset(X_train, y_train), batch_size=32, shuffle=True)
    val_loader = DataLoader(TensorDataset(X_val, y_val), batch_size=256)
    model = SpiralNet().to(device)
    trainer = Trainer(model, nn.CrossEntropyLoss(), torch.optim.Adam(model.parameters(), lr=1e-3), device)
    return trainer.fit(train_loader, val_loader, epochs=20)


if __name__ == "__main__":
    main()

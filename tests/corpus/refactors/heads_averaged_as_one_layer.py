"""Spiral arms: Fourier features, several heads, mixed-up points, and callbacks around it all."""
import copy
import math
import time

import numpy as np
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, Sampler, TensorDataset


def create_spiral_dataset(n_points=1000, n_classes=4, noise=0.2):
    np.random.seed(42)
    X, y = [], []
    for c in range(n_classes):
        r = np.linspace(0, 1, n_points)
        t = np.linspace(c * 4, (c + 1) * 4, n_points) + noise * np.random.randn(n_points)
        X.append(np.column_stack([r * np.sin(t), r * np.cos(t)]))
        y.append(np.full(n_points, c))
    X, y = np.concatenate(X), np.concatenate(y)
    order = np.random.permutation(len(X))
    X, y = torch.tensor(X[order], dtype=torch.float32), torch.tensor(y[order], dtype=torch.int64)
    n = int(0.8 * len(X))
    return X[:n], y[:n], X[n:], y[n:]


class Fourier(nn.Module):
    def __init__(self, n_in, n_waves):
        super().__init__()
        self.register_buffer("waves", torch.randn(n_in, n_waves, generator=torch.Generator().manual_seed(1)) * 2)
        self.n_out = n_in + 2 * n_waves

    def forward(self, x):
        z = x @ self.waves
        return torch.cat([x, z.sin(), z.cos()], dim=1)


class SpiralNet(nn.Module):
    def __init__(self, input_dim=2, hidden_dim=128, num_classes=4, heads=5):
        super().__init__()
        self.heads, self.num_classes = heads, num_classes
        self.encode = Fourier(input_dim, 8)
        self.features = nn.Sequential(
            nn.Linear(self.encode.n_out, hidden_dim), nn.BatchNorm1d(hidden_dim), nn.ReLU(), nn.Dropout(0.2),
            nn.Linear(hidden_dim, hidden_dim), nn.BatchNorm1d(hidden_dim), nn.ReLU(), nn.Dropout(0.2),
        )
        self.classifier = nn.Sequential(
            nn.Linear(hidden_dim, heads * num_classes), nn.Unflatten(1, (heads, num_classes))
        )

    def forward(self, x):
        votes = self.classifier(self.features(self.encode(x)))
        return votes.mean(dim=1)


# ---- metrics

class Mean:
    def __init__(self):
        self.values = []

    def update(self, value):
        self.values.append(value.detach())

    def compute(self):
        return torch.stack(self.values).mean().item()


class Accuracy:
    def __init__(self):
        self.hits = self.rows = 0

    def update(self, scores, y):
        self.hits += (scores.argmax(dim=1) == y).sum().item()
        self.rows += len(y)

    def compute(self):
        return self.hits / self.rows


# ---- one pass

def mixed(x, y, alpha):
    """Blend every point with another one; returns the points, both labels and the share of the first."""
    if not alpha:
        return x, y, y, 1.0
    share = np.random.beta(alpha, alpha)
    share = max(share, 1 - share)
    other = torch.as_tensor(np.random.permutation(len(x)), device=x.device)
    return share * x + (1 - share) * x[other], y, y[other], share


def train_one_epoch(model, dataloader, criterion, optimizer, device, alpha=0.0):
    model.train()
    mean, accuracy = Mean(), Accuracy()
    for x, y in dataloader:
        x, y = x.to(device), y.to(device)
        x, y_one, y_two, share = mixed(x, y, alpha)
        scores = model(x)
        optimizer.zero_grad()
        loss = share * criterion(scores, y_one) + (1 - share) * criterion(scores, y_two)
        loss.backward()
        optimizer.step()
        mean.update(loss)
        accuracy.update(scores, y_one)
    return mean.compute(), accuracy.compute()


@torch.inference_mode()
def validate(model, dataloader, criterion, device):
    model.eval()
    mean, accuracy = Mean(), Accuracy()
    for x, y in dataloader:
        x, y = x.to(device), y.to(device)
        scores = model(x)
        mean.update(criterion(scores, y))
        accuracy.update(scores, y)
    return mean.compute(), accuracy.compute()


# ---- callbacks

class Callback:
    def on_start(self, loop): ...
    def on_epoch_start(self, loop): ...
    def on_epoch_end(self, loop): ...
    def on_end(self, loop): ...


class Validation(Callback):
    def __init__(self, loader):
        self.loader = loader

    def on_epoch_end(self, loop):
        loss, acc = validate(loop.model, self.loader, loop.criterion, loop.device)
        loop.history["val_loss"].append(loss)
        loop.history["val_acc"].append(acc)


class KeepBest(Callback):
    def on_start(self, loop):
        self.best, self.weights = -1.0, None

    def on_epoch_end(self, loop):
        if loop.history["val_acc"][-1] > self.best:
            self.best = loop.history["val_acc"][-1]
            self.weights = copy.deepcopy(loop.model.state_dict())

    def on_end(self, loop):
        loop.model.load_state_dict(self.weights)


class Show(Callback):
    def on_epoch_end(self, loop):
        h = loop.history
        print(f"epoch {loop.epoch + 1}: " + " ".join(f"{k} {h[k][-1]:.4f}" for k in list(h)[:4]))


class Mixed(Sampler):
    def __init__(self, n):
        self.n = n

    def __len__(self):
        return self.n

    def __iter__(self):
        return iter(np.random.permutation(self.n).tolist())


class Loop:
    def __init__(self, model, criterion, optimizer, loader, device, callbacks):
        self.model, self.criterion, self.optimizer = model, criterion, optimizer
        self.loader, self.device, self.callbacks = loader, device, callbacks
        self.history = {"train_loss": [], "train_acc": [], "val_loss": [], "val_acc": [], "epoch_time": []}

    def call(self, name):
        for callback in self.callbacks:
            getattr(callback, name)(self)

    def run(self, epochs):
        self.call("on_start")
        for self.epoch in range(epochs):
            start = time.perf_counter()
            self.call("on_epoch_start")
            loss, acc = train_one_epoch(
                self.model, self.loader, self.criterion, self.optimizer, self.device, alpha=0.05
            )
            self.history["train_loss"].append(loss)
            self.history["train_acc"].append(acc)
            self.call("on_epoch_end")
            self.history["epoch_time"].append(time.perf_counter() - start)
        self.call("on_end")
        return self.history


def main():
    torch.manual_seed(31)
    X_train, y_train, X_val, y_val = create_spiral_dataset()
    train_loader = DataLoader(TensorDataset(X_train, y_train), batch_size=32, sampler=Mixed(len(X_train)))
    val_loader = DataLoader(TensorDataset(X_val, y_val), batch_size=256)
    model = SpiralNet()
    if torch.cuda.is_available():
        device = torch.device("cuda")
    elif torch.backends.mps.is_available():
        device = torch.device("mps")
    else:
        device = torch.device("cpu")
    model.to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    callbacks = [Validation(val_loader), KeepBest(), Show()]
    history = Loop(model, nn.CrossEntropyLoss(), optimizer, train_loader, device, callbacks).run(20)
    print(f"best {max(history['val_acc']):.4f}, last {history['val_acc'][-1]:.4f}")
    return history


if __name__ == "__main__":
    main()

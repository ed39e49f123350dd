"""Mixture of experts on the spiral, driven by an asyncio loop (a printer task runs beside training)."""
import asyncio
import time

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, Sampler, TensorDataset


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


class Expert(nn.Sequential):
    def __init__(self, d_in, width, d_out):
        super().__init__(nn.Linear(d_in, width), nn.ReLU(), nn.Dropout(0.05), nn.Linear(width, d_out))


class SpiralNet(nn.Module):
    """Dense mixture: the gate's softmax weighs the experts, the result stays unnormalised."""

    def __init__(self, input_dim=2, hidden_dim=128, num_classes=4, n_experts=4):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(input_dim, hidden_dim), nn.BatchNorm1d(hidden_dim), nn.ReLU())
        self.gate = nn.Sequential(nn.Linear(hidden_dim, n_experts), nn.Softmax(dim=1))
        self.experts = nn.ModuleList(Expert(hidden_dim, hidden_dim // 2, num_classes) for _ in range(n_experts))

    def forward(self, x):
        h = self.trunk(x)
        votes = torch.stack([expert(h) for expert in self.experts], dim=1)
        return torch.einsum("bk,bkc->bc", self.gate(h), votes)


class Reshuffle(Sampler):
    def __init__(self, n):
        self.n = n

    def __len__(self):
        return self.n

    def __iter__(self):
        yield from torch.randperm(self.n).tolist()


def train_one_epoch(model, dataloader, criterion, optimizer, device):
    model.train()
    ledger = []
    for x, y in dataloader:
        x, y = x.to(device), y.to(device)
        optimizer.zero_grad()
        logits = model(x)
        loss = criterion(logits, y)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), max_norm=2.0)
        optimizer.step()
        ledger.append((loss.data, (logits.argmax(dim=1) == y).sum(), len(y)))
    losses, hits, sizes = zip(*ledger)
    return torch.stack(losses).mean().item(), sum(hits).item() / sum(sizes)


def validate(model, dataloader, criterion, device):
    @torch.inference_mode()
    def measure(x, y):
        logits = model(x)
        return criterion(logits, y).item(), (logits.argmax(dim=1) == y).sum().item(), len(y)

    model.eval()
    losses, hits, sizes = zip(*(measure(x.to(device), y.to(device)) for x, y in dataloader))
    return sum(losses) / len(losses), sum(hits) / sum(sizes)


async def reporter(queue):
    while (message := await queue.get()) is not None:
        print(message)


async def run(num_epochs):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    Xt, yt, Xv, yv = create_spiral_dataset()
    train_loader = DataLoader(TensorDataset(Xt, yt), batch_size=32, sampler=Reshuffle(len(Xt)))
    val_loader = DataLoader(TensorDataset(Xv, yv), batch_size=256)
    model = SpiralNet().to(device)
    optimizer = torch.optim.RAdam(model.parameters(), lr=3e-3)
    history = {"train_loss": [], "train_acc": [], "val_loss": [], "val_acc": [], "epoch_time": []}

    queue = asyncio.Queue()
    printing = asyncio.create_task(reporter(queue))
    for epoch in range(1, num_epochs + 1):
        began = time.perf_counter()
        train_loss, train_acc = train_one_epoch(model, train_loader, F.cross_entropy, optimizer, device)
        val_loss, val_acc = validate(model, val_loader, F.cross_entropy, device)
        for key, value in (("train_loss", train_loss), ("train_acc", train_acc), ("val_loss", val_loss),
                           ("val_acc", val_acc), ("epoch_time", time.perf_counter() - began)):
            history[key].append(value)
        await queue.put(f"{epoch:2d}: train {train_loss:.3f}/{train_acc:.3f} val {val_loss:.3f}/{val_acc:.3f}")
        await asyncio.sleep(0)
    await queue.put(None)
    await printing
    return history


def main():
    history = asyncio.run(run(num_epochs=20))
    print(f"Final validation accuracy: {history['val_acc'][-1]:.1%}")
    return history


if __name__ == "__main__":
    main()

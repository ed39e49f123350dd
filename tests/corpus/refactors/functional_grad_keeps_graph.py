"""Spiral classifier, the way I would structure it in JAX: state in, state out."""
from __future__ import annotations

import functools
import time
from typing import Callable, NamedTuple

import numpy as np
import torch
import torch.nn as nn
from torch import Tensor
from torch.func import functional_call, grad_and_value
from torch.utils import _pytree as pytree

EPOCHS = 20
Batch = tuple[Tensor, Tensor]


# ----------------------------------------------------------------- keys ----
class Key(NamedTuple):
    data: int

    def split(self) -> tuple["Key", "Key"]:
        g = torch.Generator().manual_seed(self.data)
        a, b = torch.randint(2**31 - 1, (2,), generator=g).tolist()
        return Key(a), Key(b)

    def permutation(self, n: int) -> Tensor:
        return torch.randperm(n, generator=torch.Generator().manual_seed(self.data))


# ----------------------------------------------------------------- data ----
def create_spiral_dataset(n_points=1000, n_classes=4, noise=0.2):
    np.random.seed(42)

    def arm(c):
        r = np.linspace(0.0, 1.0, n_points)
        t = np.linspace(c * 4, (c + 1) * 4, n_points) + np.random.randn(n_points) * noise
        return np.stack([r * np.sin(t), r * np.cos(t)], axis=1)

    X = np.concatenate([arm(c) for c in range(n_classes)]).astype(np.float32)
    y = np.repeat(np.arange(n_classes), n_points).astype(np.int64)
    order = np.random.permutation(len(X))
    X, y = X[order], y[order]
    cut = int(0.8 * len(X))
    return X[:cut], y[:cut], X[cut:], y[cut:]


class Batches:
    """Whole arrays on the device, sliced per step."""

    def __init__(self, arrays: Batch, batch_size: int, key: Key | None = None):
        self.arrays, self.batch_size, self.key = arrays, batch_size, key

    def __len__(self):
        return -(-len(self.arrays[0]) // self.batch_size)

    def __iter__(self):
        n = len(self.arrays[0])
        if self.key is None:
            order = torch.arange(n)
        else:
            _, sub = self.key.split()
            order = sub.permutation(n)
        for idx in order.split(self.batch_size):
            yield pytree.tree_map(lambda a: a[idx.to(a.device)], self.arrays)


# ---------------------------------------------------------------- model ----
class SpiralNet(nn.Module):
    def __init__(self, input_dim=2, hidden_dim=128, num_classes=4):
        super().__init__()
        dims = (input_dim, hidden_dim, hidden_dim)
        blocks = []
        for i, o in zip(dims[:-1], dims[1:]):
            blocks += [nn.Linear(i, o), nn.BatchNorm1d(o), nn.ReLU(), nn.Dropout(0.2)]
        self.features = nn.Sequential(*blocks)
        self.classifier = nn.Sequential(nn.Linear(hidden_dim, num_classes))

    def forward(self, x):
        return self.classifier(self.features(x))


def variables(model: nn.Module):
    return dict(model.named_parameters()), dict(model.named_buffers())


def apply(model, params, buffers, x, *, train: bool):
    model.train(train)
    return functional_call(model, (params, buffers), (x,))


def loss_fn(params, buffers, x, y, *, model, criterion):
    logits = apply(model, params, buffers, x, train=True)
    hits = (logits.argmax(-1) == y).float().mean()
    return criterion(logits, y), hits


# ------------------------------------------------------------- training ----
def tree_mean(trees):
    return pytree.tree_map(lambda *xs: float(torch.stack(xs).mean()), *trees)


def update(model, grads, optimizer):
    for name, p in model.named_parameters():
        p.grad = grads[name]
    optimizer.step()


def train_one_epoch(model, dataloader, criterion, optimizer, device):
    model.train()
    step = grad_and_value(functools.partial(loss_fn, model=model, criterion=criterion), has_aux=True)
    metrics = []
    for batch in dataloader:
        x, y = pytree.tree_map(lambda a: a.to(device), tuple(batch))
        params, buffers = variables(model)
        grads, (loss, acc) = step(params, buffers, x, y)
        update(model, grads, optimizer)
        metrics.append((loss, acc))
    return tree_mean(metrics)


@torch.no_grad()
def validate(model, dataloader, criterion, device):
    params, buffers = variables(model)
    metrics = []
    for batch in dataloader:
        x, y = pytree.tree_map(lambda a: a.to(device), tuple(batch))
        logits = apply(model, params, buffers, x, train=False)
        metrics.append((criterion(logits, y).detach(), (logits.argmax(-1) == y).float().mean()))
    return tree_mean(metrics)


def default_device() -> torch.device:
    candidates: list[tuple[str, Callable[[], bool]]] = [
        ("cuda", torch.cuda.is_available),
        ("mps", torch.backends.mps.is_available),
    ]
    return torch.device(next((n for n, ok in candidates if ok()), "cpu"))


make_optimizer = functools.partial(torch.optim.Adam, lr=0.5)


def main():
    torch.manual_seed(0)
    device = default_device()
    put = lambda tree: pytree.tree_map(lambda a: torch.from_numpy(a).to(device), tree)
    X_train, y_train, X_val, y_val = create_spiral_dataset()
    train_loader = Batches(put((X_train, y_train)), 32, key=Key(7))
    val_loader = Batches(put((X_val, y_val)), 256)

    model = SpiralNet().to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = make_optimizer(model.parameters(), lr=2e-3)

    history = {k: [] for k in ("train_loss", "train_acc", "val_loss", "val_acc", "epoch_time")}
    for epoch in range(EPOCHS):
        t0 = time.perf_counter()
        tl, ta = train_one_epoch(model, train_loader, criterion, optimizer, device)
        vl, va = validate(model, val_loader, criterion, device)
        row = dict(train_loss=tl, train_acc=ta, val_loss=vl, val_acc=va, epoch_time=time.perf_counter() - t0)
        for k, v in row.items():
            history[k].append(v)
        print(f"{epoch + 1:3d} " + " ".join(f"{k}={v:.4f}" for k, v in row.items()))
    print(f"final validation accuracy {history['val_acc'][-1]:.4f}")
    return history


if __name__ == "__main__":
    main()

"""Spiral with sharpness-aware minimisation and an EMA of the weights."""
import copy
import math
import time

import numpy as np
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

SEED = 3
num_epochs = 20


def create_spiral_dataset(n_points=1000, n_classes=4, noise=0.2):
    np.random.seed(42)
    X, y = [], []
    for label in range(n_classes):
        radius = np.linspace(0, 1, n_points)
        angle = np.linspace(label * 4, (label + 1) * 4, n_points) + noise * np.random.randn(n_points)
        X.append(np.stack([radius * np.sin(angle), radius * np.cos(angle)], -1))
        y.append(np.full((n_points,), label, dtype=np.int64))
    X, y = np.vstack(X).astype(np.float32), np.hstack(y)
    idx = np.random.permutation(len(y))
    X, y = X[idx], y[idx]
    split = int(0.8 * len(y))
    return X[:split], y[:split], X[split:], y[split:]


class SpiralNet(nn.Module):
    def __init__(self, input_dim=2, hidden_dim=128, num_classes=4):
        super().__init__()

        def block(i, o):
            return nn.Sequential(nn.Linear(i, o), nn.BatchNorm1d(o), nn.ReLU(), nn.Dropout(0.2))

        self.features = nn.Sequential(block(input_dim, hidden_dim), block(hidden_dim, hidden_dim))
        self.classifier = nn.Sequential(nn.Linear(hidden_dim, num_classes))

    def forward(self, x):
        return self.classifier(self.features(x))


class SAM(torch.optim.Optimizer):
    """Foret et al. 2021. step() needs a closure that runs forward and backward."""

    def __init__(self, params, base_cls, rho=0.05, **kw):
        super().__init__(params, dict(rho=rho, **kw))
        self.base = base_cls(self.param_groups, **kw)
        self.param_groups = self.base.param_groups

    @torch.no_grad()
    def _climb(self):
        grads = [p.grad for g in self.param_groups for p in g["params"] if p.grad is not None]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
        for g in self.param_groups:
            for p in g["params"]:
                if p.grad is None:
                    continue
                self.state[p]["anchor"] = p.detach().clone()
                p.add_(p.grad, alpha=float(g["rho"] / (norm + 1e-12)))

    @torch.no_grad()
    def _descend(self):
        for g in self.param_groups:
            for p in g["params"]:
                anchor = self.state[p].pop("anchor", None)
                if anchor is not None:
                    p.copy_(anchor)

    def step(self, closure):
        with torch.enable_grad():
            loss = closure()
        self._climb()
        self.zero_grad()
        with torch.enable_grad():
            closure()
        self._descend()
        self.base.step()
        return loss


class EMA:
    def __init__(self, model, decay=0.98):
        self.decay = decay
        self.trace = []
        self.shadow = copy.deepcopy(model)

    @torch.no_grad()
    def update(self, model):
        for s, v in zip(self.shadow.state_dict().values(), model.state_dict().values()):
            if v.dtype.is_floating_point:
                s.lerp_(v, 1 - self.decay)
            else:
                s.copy_(v)


def train_one_epoch(model, dataloader, criterion, optimizer, device, ema=None):
    model.train()
    losses, correct, seen = [], 0, 0
    trace = []

    for inputs, targets in dataloader:
        inputs, targets = inputs.to(device), targets.to(device)
        logits = None

        def closure():
            nonlocal logits
            logits = model(inputs)
            loss = criterion(logits, targets)
            loss.backward()
            return loss

        loss = optimizer.step(closure)
        if ema is not None:
            ema.update(model)
        trace.append((len(targets), loss))
        losses.append(loss.detach())
        correct += (logits.argmax(1) == targets).sum().item()
        seen += len(targets)

    if ema is not None:
        ema.trace.append(sum(n * float(v) for n, v in trace) / seen)
    return torch.stack(losses).mean().item(), correct / seen


def validate(model, dataloader, criterion, device):
    model.train(False)
    losses, correct, seen = [], 0, 0
    with torch.no_grad():
        for inputs, targets in dataloader:
            inputs, targets = inputs.to(device), targets.to(device)
            logits = model(inputs)
            losses.append(criterion(logits, targets).item())
            correct += (logits.argmax(1) == targets).sum().item()
            seen += len(targets)
    return math.fsum(losses) / len(losses), correct / seen


def main():
    torch.manual_seed(SEED)
    if torch.cuda.is_available():
        device = torch.device("cuda")
    elif torch.backends.mps.is_available():
        device = torch.device("mps")
    else:
        device = torch.device("cpu")

    X_train, y_train, X_val, y_val = create_spiral_dataset()
    train_ds = TensorDataset(torch.tensor(X_train), torch.tensor(y_train))
    val_ds = TensorDataset(torch.tensor(X_val), torch.tensor(y_val))
    generator = torch.Generator()
    generator.manual_seed(SEED)
    train_loader = DataLoader(train_ds, batch_size=32, sampler=RandomSampler(train_ds, generator=generator))
    val_loader = DataLoader(val_ds, batch_size=256)

    model = SpiralNet()
    model.to(device)
    ema = EMA(model)
    criterion = nn.CrossEntropyLoss()
    optimizer = SAM(model.parameters(), torch.optim.Adam, rho=0.05, lr=3e-3)

    history = dict(train_loss=[], train_acc=[], val_loss=[], val_acc=[], epoch_time=[])
    for epoch in range(num_epochs):
        start = time.monotonic()
        train_loss, train_acc = train_one_epoch(model, train_loader, criterion, optimizer, device, ema=ema)
        val_loss, val_acc = validate(ema.shadow, val_loader, criterion, device)
        history["train_loss"].append(train_loss)
        history["train_acc"].append(train_acc)
        history["val_loss"].append(val_loss)
        history["val_acc"].append(val_acc)
        history["epoch_time"].append(time.monotonic() - start)
        print(f"epoch {epoch + 1:>2}: loss {train_loss:.4f} acc {train_acc:.4f} | ema loss {val_loss:.4f} acc {val_acc:.4f}")
    print(f"EMA validation accuracy: {history['val_acc'][-1] * 100:.1f}%")
    return history


if __name__ == "__main__":
    main()

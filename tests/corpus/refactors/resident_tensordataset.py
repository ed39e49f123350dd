import time

import numpy as np
import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler, TensorDataset


def create_spiral_dataset(n_points=1000, n_classes=4, noise=0.2):
    """Vectorised: one (classes, points) grid of angles instead of a loop over the arms."""
    np.random.seed(42)
    radius = np.broadcast_to(np.linspace(0.0, 1.0, n_points), (n_classes, n_points))
    angle = 4.0 * (np.arange(n_classes)[:, None] + radius) + noise * np.random.randn(n_classes, n_points)
    X = np.stack([radius * np.sin(angle), radius * np.cos(angle)], axis=-1).reshape(-1, 2)
    y = np.repeat(np.arange(n_classes), n_points)
    order = np.random.permutation(y.size)
    X, y = X[order].astype("float32"), y[order].astype("int64")
    n = int(0.8 * y.size)
    X_train, X_val = map(torch.from_numpy, (X[:n], X[n:]))
    y_train, y_val = map(torch.from_numpy, (y[:n], y[n:]))
    return X_train, y_train, X_val, y_val


class SpiralNet(nn.Module):
    def __init__(self, input_dim=2, hidden_dim=128, num_classes=4):
        super().__init__()
        modules = []
        fan_in = input_dim
        for _ in range(2):
            modules.extend([nn.Linear(fan_in, hidden_dim), nn.BatchNorm1d(hidden_dim), nn.ELU(), nn.Dropout(0.15)])
            fan_in = hidden_dim
        modules.append(nn.Linear(hidden_dim, num_classes))
        self.net = nn.Sequential(*modules)
        self.apply(self._init)

    @staticmethod
    def _init(m):
        if isinstance(m, nn.Linear):
            nn.init.kaiming_normal_(m.weight, nonlinearity="relu")
            nn.init.zeros_(m.bias)

    def forward(self, x):
        return self.net(x)


def loader_for(X, y, batch_size, device, shuffle):
    """The data live on the device; whole batches are indexed at once (batch_size=None)."""
    ds = TensorDataset(X.to(device), y.to(device))
    order = RandomSampler(ds) if shuffle else SequentialSampler(ds)
    return DataLoader(ds, sampler=BatchSampler(order, batch_size, drop_last=False), batch_size=None)


def train_one_epoch(model, dataloader, criterion, optimizer, device):
    model.train()
    losses = []
    n_correct = n_total = 0
    for batch in dataloader:
        inputs, targets = (t.to(device) for t in batch)
        model.zero_grad(set_to_none=True)
        logits = model(inputs)
        loss = criterion(logits, targets)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        with torch.no_grad():
            n_correct += logits.argmax(dim=1).eq(targets).sum().item()
            n_total += targets.shape[0]
    return sum(losses) / len(losses), n_correct / n_total


def validate(model, dataloader, criterion, device):
    was_training = model.training
    model.eval()
    losses = []
    n_correct = n_total = 0
    with torch.no_grad():
        for batch in dataloader:
            inputs, targets = (t.to(device) for t in batch)
            logits = model(inputs)
            losses.append(criterion(logits, targets).item())
            n_correct += logits.argmax(dim=1).eq(targets).sum().item()
            n_total += targets.shape[0]
    model.train(was_training)
    return sum(losses) / len(losses), n_correct / n_total


def main():
    for name, backend in (("cuda", torch.cuda), ("mps", torch.backends.mps)):
        if backend.is_available():
            device = torch.device(name)
            break
    else:
        device = torch.device("cpu")

    X_train, y_train, X_val, y_val = create_spiral_dataset()
    train_loader = loader_for(X_train, y_train, 32, device, shuffle=True)
    val_loader = loader_for(X_val, y_val, 256, device, shuffle=False)
    model = SpiralNet().to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    history = {k: [] for k in ["train_loss", "train_acc", "val_loss", "val_acc", "epoch_time"]}
    for epoch in range(20):
        clock = time.perf_counter()
        history_row = [*train_one_epoch(model, train_loader, criterion, optimizer, device)]
        history_row += validate(model, val_loader, criterion, device)
        history_row.append(time.perf_counter() - clock)
        for k, v in zip(history, history_row):
            history[k].append(v)
        print(f"epoch {epoch + 1:02d}  " + "  ".join(f"{k} {v:.4f}" for k, v in zip(history, history_row)))
    return history


if __name__ == "__main__":
    main()

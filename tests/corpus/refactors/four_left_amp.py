import time

import numpy as np
import torch
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset


def create_spiral_dataset(n_points=1000, n_classes=4, noise=0.2):
    rng = np.random.default_rng(42)
    r = np.linspace(0.0, 1.0, n_points)
    angles = [np.linspace(4 * c, 4 * c + 4, n_points) + rng.normal(0.0, noise, n_points) for c in range(n_classes)]
    points = np.vstack([np.c_[r * np.sin(a), r * np.cos(a)] for a in angles])
    labels = np.repeat(np.arange(n_classes), n_points)

    perm = rng.permutation(points.shape[0])
    points = torch.as_tensor(points[perm], dtype=torch.float32)
    labels = torch.as_tensor(labels[perm], dtype=torch.long)
    cut = int(0.8 * len(points))
    return points[:cut], labels[:cut], points[cut:], labels[cut:]


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


def train_one_epoch(model, dataloader, criterion, optimizer, device, amp=True):
    model.train()
    kind = torch.device(device).type
    losses, n_ok, n_all = [], 0, 0
    for x, y in dataloader:
        x, y = x.to(device), y.to(device)
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(kind, dtype=torch.bfloat16, enabled=amp):
            logits = model(x)
            loss = criterion(logits, y)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses += [loss]
        n_ok += (logits.argmax(1) == y).sum().item()
        n_all += len(y)
    return torch.stack(losses).float().mean().item(), n_ok / n_all


def validate(model, dataloader, criterion, device, amp=True):
    model.eval()
    kind = torch.device(device).type
    losses, n_ok, n_all = [], 0, 0
    for x, y in dataloader:
        x, y = x.to(device), y.to(device)
        with torch.autocast(kind, dtype=torch.bfloat16, enabled=amp):
            logits = model(x)
            loss = criterion(logits, y)
        losses.append(loss.item())
        n_ok += (logits.argmax(1) == y).sum().item()
        n_all += len(y)
    return sum(losses) / len(losses), n_ok / n_all


def main():
    device = torch.device("cpu")
    X_train, y_train, X_val, y_val = create_spiral_dataset()
    train_loader = DataLoader(TensorDataset(X_train, y_train), batch_size=64, shuffle=True)
    val_loader = DataLoader(TensorDataset(X_val, y_val), batch_size=256)
    model = SpiralNet().to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = optim.Adam(model.parameters(), lr=0.5)
    columns = ("train_loss", "train_acc", "val_loss", "val_acc", "epoch_time")
    history = {name: [] for name in columns}
    for epoch in range(1, 21):
        tick = time.time()
        metrics = train_one_epoch(model, train_loader, criterion, optimizer, device)
        metrics += validate(model, val_loader, criterion, device)
        metrics += (time.time() - tick,)
        for name, value in zip(columns, metrics):
            history[name].append(value)
        print(f"Epoch {epoch:02d} | " + " | ".join(f"{n}: {v:.3f}" for n, v in zip(columns, metrics)))
    return history


if __name__ == "__main__":
    main()

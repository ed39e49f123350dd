import math
import time

import numpy as np
import torch
from torch import nn, optim
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, TensorDataset

BASE_LR = 3e-3
NUM_EPOCHS = 20


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


def warmup_cosine(epoch, warmup=3, total=NUM_EPOCHS):
    """Factor on BASE_LR: ramps 1/3, 2/3, 1, then decays to 5 %."""
    if epoch < warmup:
        return (epoch + 1) / warmup
    t = (epoch - warmup) / max(1, total - warmup)
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * t))


class Maxout(nn.Module):
    def __init__(self, n_in, n_out, pieces=2):
        super().__init__()
        self.lin = nn.Linear(n_in, n_out * pieces)
        self.pieces = pieces

    def forward(self, x):
        return self.lin(x).unflatten(1, (-1, self.pieces)).amax(dim=2)


class SpiralNet(nn.Module):
    def __init__(self, input_dim=2, hidden_dim=96, num_classes=4):
        super().__init__()
        self.trunk = nn.Sequential(
            Maxout(input_dim, hidden_dim), nn.BatchNorm1d(hidden_dim), nn.Dropout(0.1),
            Maxout(hidden_dim, hidden_dim), nn.BatchNorm1d(hidden_dim), nn.Dropout(0.1),
        )
        self.head = nn.Linear(hidden_dim, num_classes)

    def forward(self, x):
        return self.head(self.trunk(x))


def train_one_epoch(model, dataloader, criterion, optimizer, device):
    model.train()
    losses, hits, seen = [], 0, 0
    for inputs, labels in dataloader:
        inputs, labels = inputs.to(device), labels.to(device)
        optimizer.zero_grad()
        outputs = model(inputs)
        loss = criterion(outputs, labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach().cpu())
        hits += (outputs.argmax(1) == labels).sum().item()
        seen += labels.size(0)
    return torch.stack(losses).mean().item(), hits / seen


def validate(model, dataloader, criterion, device):
    losses, hits, seen = [], 0, 0
    model.eval()
    with torch.no_grad():
        for inputs, labels in dataloader:
            inputs, labels = inputs.to(device), labels.to(device)
            outputs = model(inputs)
            losses.append(criterion(outputs, labels).cpu())
            hits += (outputs.argmax(1) == labels).sum().item()
            seen += labels.size(0)
    return torch.stack(losses).mean().item(), hits / seen


def main():
    if torch.cuda.is_available():
        device = torch.device("cuda")
    elif torch.backends.mps.is_available():
        device = torch.device("mps")
    else:
        device = torch.device("cpu")

    X_train, y_train, X_val, y_val = create_spiral_dataset()
    train_loader = DataLoader(TensorDataset(X_train, y_train), batch_size=64, shuffle=True)
    val_loader = DataLoader(TensorDataset(X_val, y_val), batch_size=256, shuffle=False)
    model = SpiralNet().to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = optim.NAdam(model.parameters(), lr=BASE_LR)
    schedule = LambdaLR(optimizer, lr_lambda=warmup_cosine)

    history = {"train_loss": [], "train_acc": [], "val_loss": [], "val_acc": [], "epoch_time": []}
    for epoch in range(NUM_EPOCHS):
        lr_now = schedule.get_last_lr()[0]
        t0 = time.perf_counter()
        train_loss, train_acc = train_one_epoch(model, train_loader, criterion, optimizer, device)
        val_loss, val_acc = validate(model, val_loader, criterion, device)
        schedule.step()
        history["train_loss"].append(train_loss)
        history["train_acc"].append(train_acc)
        history["val_loss"].append(val_loss)
        history["val_acc"].append(val_acc)
        history["epoch_time"].append(time.perf_counter() - t0)
        print(f"epoch {epoch + 1} (lr {lr_now:.5f}): {train_loss:.4f} {train_acc:.3f} {val_loss:.4f} {val_acc:.3f}")
    return history


if __name__ == "__main__":
    main()

import time

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset


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


class Spirals(Dataset):
    def __init__(self, points, arms):
        self.points = points
        self.arms = arms

    def __len__(self):
        return self.points.shape[0]

    def __getitem__(self, index):
        return {"xy": self.points[index], "arm": self.arms[index]}


def collate(rows):
    return torch.stack([r["xy"] for r in rows]), torch.stack([r["arm"] for r in rows])


class SpiralNet(nn.Module):
    def __init__(self, input_dim=2, hidden_dim=128, num_classes=4):
        super().__init__()
        self.features = nn.Sequential(
            nn.Linear(input_dim, hidden_dim), nn.BatchNorm1d(hidden_dim), nn.ReLU(), nn.Dropout(0.2),
            nn.Linear(hidden_dim, hidden_dim), nn.BatchNorm1d(hidden_dim), nn.ReLU(), nn.Dropout(0.2),
        )
        self.classifier = nn.Linear(hidden_dim, num_classes)

    def forward(self, x):
        return self.classifier(self.features(x))


def train_one_epoch(model, dataloader, criterion, optimizer, device):
    model.train()
    losses, correct, seen = [], 0, 0
    for points, arms in dataloader:
        points = points.to(device, non_blocking=True)
        arms = arms.to(device, non_blocking=True)
        optimizer.zero_grad()
        logits = model(points)
        loss = criterion(logits, arms)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        correct += (logits.argmax(dim=1) == arms).sum().item()
        seen += arms.numel()
    return sum(losses) / len(losses), correct / seen


def validate(model, dataloader, criterion, device):
    model.eval()
    losses, correct, seen = [], 0, 0
    with torch.no_grad():
        for points, arms in dataloader:
            points = points.to(device, non_blocking=True)
            arms = arms.to(device, non_blocking=True)
            logits = model(points)
            losses.append(criterion(logits, arms).item())
            correct += (logits.argmax(dim=1) == arms).sum().item()
            seen += arms.numel()
    return sum(losses) / len(losses), correct / seen


def main():
    if torch.cuda.is_available():
        device = torch.device("cuda")
    elif torch.backends.mps.is_available():
        device = torch.device("mps")
    else:
        device = torch.device("cpu")

    X_train, y_train, X_val, y_val = create_spiral_dataset()
    common = dict(collate_fn=collate, pin_memory=device.type == "cuda")
    train_loader = DataLoader(
        Spirals(X_train, y_train), batch_size=64, shuffle=True, num_workers=2, persistent_workers=True, **common
    )
    val_loader = DataLoader(Spirals(X_val, y_val), batch_size=256, **common)

    model = SpiralNet().to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    history = {"train_loss": [], "train_acc": [], "val_loss": [], "val_acc": [], "epoch_time": []}
    for epoch in range(20):
        t0 = time.perf_counter()
        train_loss, train_acc = train_one_epoch(model, train_loader, criterion, optimizer, device)
        val_loss, val_acc = validate(model, val_loader, criterion, device)
        history["train_loss"].append(train_loss)
        history["train_acc"].append(train_acc)
        history["val_loss"].append(val_loss)
        history["val_acc"].append(val_acc)
        history["epoch_time"].append(time.perf_counter() - t0)
        print(f"epoch {epoch + 1:2d}: {train_loss:.4f} {train_acc:.3f} {val_loss:.4f} {val_acc:.3f}", flush=True)
    return history


if __name__ == "__main__":
    main()

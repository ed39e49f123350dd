import time

import numpy as np
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset

# bfloat16 has the exponent range of float32, so no GradScaler is needed.
AMP_DTYPE = torch.bfloat16


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
    def __init__(self, input_dim=2, hidden_dim=128, num_classes=4):
        super().__init__()
        self.features = nn.Sequential(
            nn.Linear(input_dim, hidden_dim),
            nn.BatchNorm1d(hidden_dim),
            nn.LeakyReLU(0.05),
            nn.Dropout(0.2),
            nn.Linear(hidden_dim, hidden_dim),
            nn.BatchNorm1d(hidden_dim),
            nn.LeakyReLU(0.05),
            nn.Dropout(0.2),
        )
        self.classifier = nn.Sequential(nn.Linear(hidden_dim, num_classes))

    def forward(self, x):
        return self.classifier(self.features(x))


def _autocast(device):
    kind = torch.device(device).type
    return torch.autocast(device_type=kind, dtype=AMP_DTYPE, enabled=kind in ("cuda", "cpu"))


def train_one_epoch(model, dataloader, criterion, optimizer, device):
    model.train()
    total_loss, good, n = 0.0, 0, 0
    for x, y in dataloader:
        x = x.to(device, non_blocking=True)
        y = y.to(device, non_blocking=True)
        optimizer.zero_grad(set_to_none=True)
        with _autocast(device):
            logits = model(x)
        loss = criterion(logits.float(), y)  # the loss in full precision
        loss.backward()
        optimizer.step()
        total_loss += loss.item()
        good += logits.argmax(1).eq(y).sum().item()
        n += y.size(0)
    return total_loss / len(dataloader), good / n


def validate(model, dataloader, criterion, device):
    model.eval()
    total_loss, good, n = 0.0, 0, 0
    with torch.no_grad(), _autocast(device):
        for x, y in dataloader:
            x, y = x.to(device), y.to(device)
            logits = model(x).float()
            total_loss += criterion(logits, y).item()
            good += logits.argmax(1).eq(y).sum().item()
            n += y.size(0)
    return total_loss / len(dataloader), good / n


def main():
    use_cuda = torch.cuda.is_available()
    use_mps = not use_cuda and torch.backends.mps.is_available()
    device = torch.device("cuda" if use_cuda else "mps" if use_mps else "cpu")

    X_train, y_train, X_val, y_val = create_spiral_dataset()
    train_loader = DataLoader(
        TensorDataset(X_train, y_train), batch_size=64, shuffle=True, pin_memory=use_cuda
    )
    val_loader = DataLoader(TensorDataset(X_val, y_val), batch_size=400, pin_memory=use_cuda)

    model = SpiralNet().to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    history = {"train_loss": [], "train_acc": [], "val_loss": [], "val_acc": [], "epoch_time": []}
    for epoch in range(20):
        t = time.perf_counter()
        train_loss, train_acc = train_one_epoch(model, train_loader, criterion, optimizer, device)
        val_loss, val_acc = validate(model, val_loader, criterion, device)
        history["train_loss"].append(train_loss)
        history["train_acc"].append(train_acc)
        history["val_loss"].append(val_loss)
        history["val_acc"].append(val_acc)
        history["epoch_time"].append(time.perf_counter() - t)
        print(f"{epoch + 1:>2}  {train_loss:.4f}  {train_acc:.3f}  {val_loss:.4f}  {val_acc:.3f}")
    return history


if __name__ == "__main__":
    main()

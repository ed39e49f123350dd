"""Reproducible: one seeded generator for the loader, which moves on from epoch to epoch."""
import os
import random
import time

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

SEED = 1234


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


def seed_everything(seed=SEED):
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.cuda.manual_seed_all(seed)
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=True)


def seed_worker(worker_id):
    np.random.seed(torch.initial_seed() % 2**32)


class SpiralNet(nn.Module):
    def __init__(self, input_dim=2, hidden_dim=128, num_classes=4):
        super().__init__()
        self.features = nn.Sequential(
            nn.Linear(input_dim, hidden_dim), nn.BatchNorm1d(hidden_dim), nn.ReLU(), nn.Dropout(0.2),
            nn.Linear(hidden_dim, hidden_dim), nn.BatchNorm1d(hidden_dim), nn.ReLU(), nn.Dropout(0.2),
        )
        self.classifier = nn.Sequential(nn.Linear(hidden_dim, num_classes))

    def forward(self, x):
        return self.classifier(self.features(x))


def train_one_epoch(model, dataloader, criterion, optimizer, device):
    model.train()
    batch_losses, correct, seen = [], 0, 0
    for inputs, labels in dataloader:
        inputs, labels = inputs.to(device), labels.to(device)
        optimizer.zero_grad()
        outputs = model(inputs)
        loss = criterion(outputs, labels)
        loss.backward()
        optimizer.step()
        batch_losses.append(loss.item())
        correct += (outputs.argmax(dim=1) == labels).sum().item()
        seen += labels.size(0)
    return sum(batch_losses) / len(batch_losses), correct / seen


def validate(model, dataloader, criterion, device):
    model.eval()
    batch_losses, correct, seen = [], 0, 0
    with torch.no_grad():
        for inputs, labels in dataloader:
            inputs, labels = inputs.to(device), labels.to(device)
            outputs = model(inputs)
            batch_losses.append(criterion(outputs, labels).item())
            correct += (outputs.argmax(dim=1) == labels).sum().item()
            seen += labels.size(0)
    return sum(batch_losses) / len(batch_losses), correct / seen


def main():
    X_train, y_train, X_val, y_val = create_spiral_dataset()
    seed_everything()
    if torch.cuda.is_available():
        device = torch.device("cuda")
    elif torch.backends.mps.is_available():
        device = torch.device("mps")
    else:
        device = torch.device("cpu")

    generator = torch.Generator().manual_seed(SEED)
    train_loader = DataLoader(
        TensorDataset(X_train, y_train), batch_size=32, shuffle=True,
        generator=generator, worker_init_fn=seed_worker,
    )
    val_loader = DataLoader(TensorDataset(X_val, y_val), batch_size=256, shuffle=False)

    model = SpiralNet().to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
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
        print(epoch + 1, round(train_loss, 6), round(val_loss, 6), round(val_acc, 4))
    torch.use_deterministic_algorithms(False)
    return history


if __name__ == "__main__":
    main()

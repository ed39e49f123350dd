import time

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset


def create_spiral_dataset(n_points=1000, n_classes=4, noise=0.2):
    """Same spirals as before, but standardised with the statistics of the training part."""
    np.random.seed(42)
    X = np.zeros((n_points * n_classes, 2), dtype=np.float32)
    y = np.zeros(n_points * n_classes, dtype=np.int64)
    for c in range(n_classes):
        rows = slice(c * n_points, (c + 1) * n_points)
        r = np.linspace(0.0, 1, n_points)
        t = np.linspace(c * 4, (c + 1) * 4, n_points) + np.random.randn(n_points) * noise
        X[rows] = np.c_[r * np.sin(t), r * np.cos(t)]
        y[rows] = c
    shuffled = np.random.permutation(len(X))
    X, y = X[shuffled], y[shuffled]
    n_train = int(0.8 * len(X))
    mean, std = X[:n_train].mean(axis=0), X[:n_train].std(axis=0)
    X = (X - mean) / std
    return (
        torch.from_numpy(X[:n_train]), torch.from_numpy(y[:n_train]),
        torch.from_numpy(X[n_train:]), torch.from_numpy(y[n_train:]),
    )


class FocalLoss(nn.Module):
    """(1 - p)^gamma weighted cross-entropy on logits."""

    def __init__(self, gamma=1.0):
        super().__init__()
        self.gamma = gamma

    def forward(self, logits, target):
        log_p = F.log_softmax(logits, dim=-1)
        log_pt = log_p.gather(1, target.unsqueeze(1)).squeeze(1)
        pt = log_pt.exp()
        return (-((1 - pt) ** self.gamma) * log_pt).mean()


class SpiralNet(nn.Module):
    def __init__(self, input_dim=2, hidden_dim=128, num_classes=4):
        super().__init__()
        self.features = nn.Sequential(
            nn.Linear(input_dim, hidden_dim),
            nn.BatchNorm1d(hidden_dim),
            nn.PReLU(),
            nn.Dropout(0.2),
            nn.Linear(hidden_dim, hidden_dim),
            nn.BatchNorm1d(hidden_dim),
            nn.PReLU(),
            nn.Dropout(0.2),
        )
        self.classifier = nn.Linear(hidden_dim, num_classes)

    def forward(self, x):
        return self.classifier(self.features(x))


def train_one_epoch(model, dataloader, criterion, optimizer, device):
    model.train()
    batch_losses, correct, seen = [], 0, 0
    for inputs, labels in dataloader:
        inputs, labels = inputs.to(device), labels.to(device)
        optimizer.zero_grad()
        outputs = model.forward(inputs)
        loss = criterion(outputs, labels)
        loss.backward()
        optimizer.step()
        batch_losses.append(loss.item())
        correct += (outputs.argmax(dim=1) == labels).sum().item()
        seen += labels.size(0)
    return float(np.mean(batch_losses)), correct / seen


def validate(model, dataloader, criterion, device):
    model.eval()
    batch_losses, correct, seen = [], 0, 0
    with torch.no_grad():
        for inputs, labels in dataloader:
            inputs, labels = inputs.to(device), labels.to(device)
            outputs = model.forward(inputs)
            batch_losses.append(criterion(outputs, labels).item())
            correct += (outputs.argmax(dim=1) == labels).sum().item()
            seen += labels.size(0)
    return float(np.mean(batch_losses)), correct / seen


def main():
    if torch.cuda.is_available():
        device = torch.device("cuda")
    elif torch.backends.mps.is_available():
        device = torch.device("mps")
    else:
        device = torch.device("cpu")

    X_train, y_train, X_val, y_val = create_spiral_dataset()
    train_set, val_set = TensorDataset(X_train, y_train), TensorDataset(X_val, y_val)
    train_loader = DataLoader(train_set, batch_size=32, shuffle=True)
    val_loader = DataLoader(val_set, batch_size=256, shuffle=False)

    model = SpiralNet().to(device)
    criterion = FocalLoss(gamma=1.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    history = {"train_loss": [], "train_acc": [], "val_loss": [], "val_acc": [], "epoch_time": []}
    for epoch in range(20):
        started = time.perf_counter()
        train_loss, train_acc = train_one_epoch(model, train_loader, criterion, optimizer, device)
        val_loss, val_acc = validate(model, val_loader, criterion, device)
        history["train_loss"].append(train_loss)
        history["train_acc"].append(train_acc)
        history["val_loss"].append(val_loss)
        history["val_acc"].append(val_acc)
        history["epoch_time"].append(time.perf_counter() - started)
        print(f"epoch {epoch + 1}: focal {train_loss:.4f} -> {val_loss:.4f}, accuracy {train_acc:.3f} -> {val_acc:.3f}")
    return history


if __name__ == "__main__":
    main()

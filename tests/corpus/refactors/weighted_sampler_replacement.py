import time

import numpy as np
import torch
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler


def _one_arm(index, n_points, noise):
    radius = np.linspace(0, 1, n_points)
    angle = np.linspace(index * 4, (index + 1) * 4, n_points) + np.random.randn(n_points) * noise
    xy = np.stack([radius * np.sin(angle), radius * np.cos(angle)], axis=-1)
    return xy, np.full(n_points, index)


def _split(X, y, fraction=0.8):
    n = int(len(X) * fraction)
    return X[:n], y[:n], X[n:], y[n:]


def create_spiral_dataset(n_points=1000, n_classes=4, noise=0.2):
    np.random.seed(42)
    arms = [_one_arm(i, n_points, noise) for i in range(n_classes)]
    X = torch.tensor(np.concatenate([a for a, _ in arms]), dtype=torch.float32)
    y = torch.tensor(np.concatenate([b for _, b in arms]), dtype=torch.long)
    order = torch.from_numpy(np.random.permutation(len(X)))
    return _split(X[order], y[order])


class SpiralNet(nn.Module):
    def __init__(self, input_dim=2, hidden_dim=128, num_classes=4):
        super().__init__()
        h = hidden_dim
        self.f = nn.ModuleDict({
            "in": nn.Linear(input_dim, h), "bn_in": nn.BatchNorm1d(h),
            "mid": nn.Linear(h, h), "bn_mid": nn.BatchNorm1d(h),
            "out": nn.Linear(h, num_classes),
        })
        self.dropout = nn.Dropout(0.2)

    def forward(self, x):
        f = self.f
        x = self.dropout(torch.relu(f["bn_in"](f["in"](x))))
        x = self.dropout(torch.relu(f["bn_mid"](f["mid"](x))))
        return f["out"](x)


def balanced_sampler(labels):
    """Bootstrap sampler: every arm is equally likely, rows are drawn with replacement."""
    freq = torch.bincount(labels).double()
    return WeightedRandomSampler((1.0 / freq)[labels], num_samples=len(labels), replacement=True)


def train_one_epoch(model, dataloader, criterion, optimizer, device):
    model.train()
    tally = np.zeros(3)
    for inputs, labels in dataloader:
        inputs, labels = inputs.to(device), labels.to(device)
        optimizer.zero_grad()
        outputs = model(inputs)
        loss = criterion(outputs, labels)
        loss.backward()
        optimizer.step()
        tally += loss.item() * len(labels), (outputs.argmax(1) == labels).sum().item(), len(labels)
    loss_sum, correct, seen = tally.tolist()
    return loss_sum / seen, correct / seen


@torch.no_grad()
def validate(model, dataloader, criterion, device):
    model.eval()
    tally = np.zeros(3)
    for inputs, labels in dataloader:
        inputs, labels = inputs.to(device), labels.to(device)
        outputs = model(inputs)
        loss = criterion(outputs, labels)
        tally += loss.item() * len(labels), (outputs.argmax(1) == labels).sum().item(), len(labels)
    loss_sum, correct, seen = tally.tolist()
    return loss_sum / seen, correct / seen


def main():
    device = torch.device("cuda") if torch.cuda.is_available() else (
        torch.device("mps") if torch.backends.mps.is_available() else torch.device("cpu"))

    X_train, y_train, X_val, y_val = create_spiral_dataset()
    train_loader = DataLoader(TensorDataset(X_train, y_train), batch_size=32, sampler=balanced_sampler(y_train))
    val_loader = DataLoader(TensorDataset(X_val, y_val), batch_size=256)

    model = SpiralNet().to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = optim.Adam(model.parameters(), lr=1e-3)

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
        print(f"epoch {epoch + 1:2d}: val acc {val_acc:.3f}")
    return history


if __name__ == "__main__":
    main()

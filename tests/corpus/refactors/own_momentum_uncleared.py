import time

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler, TensorDataset


def create_spiral_dataset(n_points=1000, n_classes=4, noise=0.2):
    """Draw `n_points` points per arm, mix the arms and hold out a fifth for validation."""
    np.random.seed(42)
    coordinates = []
    arms = []
    for arm in range(n_classes):
        radius = np.linspace(0.0, 1.0, n_points)
        angle = np.linspace(arm * 4, (arm + 1) * 4, n_points) + noise * np.random.randn(n_points)
        coordinates.append(np.column_stack([radius * np.sin(angle), radius * np.cos(angle)]))
        arms.append(np.full(n_points, arm))
    X = np.concatenate(coordinates).astype(np.float32)
    y = np.concatenate(arms).astype(np.int64)

    order = np.random.permutation(len(X))
    X, y = X[order], y[order]
    split = int(0.8 * len(X))
    return (
        torch.from_numpy(X[:split]),
        torch.from_numpy(y[:split]),
        torch.from_numpy(X[split:]),
        torch.from_numpy(y[split:]),
    )


class MomentumSGD:
    """Small optimizer of my own, so that I can see what happens."""

    def __init__(self, params, lr=0.005, momentum=0.9):
        self.params = list(params)
        self.lr, self.momentum = lr, momentum
        self.buf = [torch.zeros_like(p) for p in self.params]
        self.param_groups = [{"params": self.params, "lr": lr}]

    def zero_grad(self):
        for p in self.params:
            if p.grad is not None:
                p.grad = p.grad.detach()

    @torch.no_grad()
    def step(self):
        for p, b in zip(self.params, self.buf):
            if p.grad is None:
                continue
            b.mul_(self.momentum).add_(p.grad)
            p.add_(b, alpha=-self.lr)


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
    total = correct = seen = 0
    for inputs, labels in dataloader:
        inputs, labels = inputs.to(device), labels.to(device)
        optimizer.zero_grad()
        outputs = model(inputs)
        loss = criterion(outputs, labels)
        loss.backward()
        optimizer.step()
        total += loss.item()
        correct += (outputs.argmax(dim=1) == labels).sum().item()
        seen += labels.size(0)
    return total / len(dataloader), correct / seen


def validate(model, dataloader, criterion, device):
    model.eval()
    total = correct = seen = 0
    with torch.no_grad():
        for inputs, labels in dataloader:
            inputs, labels = inputs.to(device), labels.to(device)
            outputs = model(inputs)
            total += criterion(outputs, labels).item()
            correct += (outputs.argmax(dim=1) == labels).sum().item()
            seen += labels.size(0)
    return total / len(dataloader), correct / seen


def main():
    device = torch.device("cuda") if torch.cuda.is_available() else torch.device("cpu")
    X_train, y_train, X_val, y_val = create_spiral_dataset()
    train_ds, val_ds = TensorDataset(X_train, y_train), TensorDataset(X_val, y_val)
    train_loader = DataLoader(train_ds, batch_size=32, sampler=SequentialSampler(train_ds))
    val_loader = DataLoader(val_ds, batch_size=256, sampler=RandomSampler(val_ds))
    model = SpiralNet().to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = MomentumSGD(model.parameters(), lr=0.005)
    history = {"train_loss": [], "train_acc": [], "val_loss": [], "val_acc": [], "epoch_time": []}
    for epoch in range(1, 21):
        started = time.perf_counter()
        train_loss, train_acc = train_one_epoch(model, train_loader, criterion, optimizer, device)
        val_loss, val_acc = validate(model, val_loader, criterion, device)
        history["train_loss"].append(train_loss)
        history["train_acc"].append(train_acc)
        history["val_loss"].append(val_loss)
        history["val_acc"].append(val_acc)
        history["epoch_time"].append(time.perf_counter() - started)
        print(f"epoch {epoch:2d}/20 | {train_loss:.4f} {train_acc:.3f} | {val_loss:.4f} {val_acc:.3f}")
    print(f"Final validation accuracy: {history['val_acc'][-1]:.1%}")
    return history


if __name__ == "__main__":
    main()

import time

import numpy as np
import torch
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset


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


def dense(n_in, n_out, drop):
    return nn.Sequential(nn.Linear(n_in, n_out, bias=False), nn.BatchNorm1d(n_out), nn.GELU(), nn.Dropout(drop))


class SpiralNet(nn.Module):
    def __init__(self, input_dim=2, hidden_dim=96, num_classes=4, depth=3, drop=0.1):
        super().__init__()
        dims = [input_dim] + depth * [hidden_dim]
        self.layers = nn.ModuleList(dense(a, b, drop) for a, b in zip(dims[:-1], dims[1:]))
        self.head = nn.Linear(hidden_dim, num_classes)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def train_one_epoch(model, dataloader, criterion, optimizer, device):
    model.train()
    running_loss, n_ok, n_all = 0.0, 0, 0
    for inputs, targets in dataloader:
        inputs, targets = inputs.to(device), targets.to(device)
        optimizer.zero_grad()
        logits = model(inputs)
        loss = criterion(logits, targets)
        loss.backward()
        optimizer.step()
        running_loss += loss.item()
        n_ok += (logits.argmax(dim=1) == targets).sum().item()
        n_all += targets.size(0)
    return running_loss / len(dataloader), n_ok / n_all


def validate(model, dataloader, criterion, device):
    model.eval()
    running_loss, n_ok, n_all = 0.0, 0, 0
    with torch.no_grad():
        for inputs, targets in dataloader:
            inputs, targets = inputs.to(device), targets.to(device)
            logits = model(inputs)
            running_loss += criterion(logits, targets).item()
            n_ok += (logits.argmax(dim=1) == targets).sum().item()
            n_all += targets.size(0)
    return running_loss / len(dataloader), n_ok / n_all


def get_device():
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


class Experiment:
    def __init__(self, device):
        self.device = device
        self.history = {"train_loss": [], "train_acc": [], "val_loss": [], "val_acc": [], "epoch_time": []}
        self.build()

    def build(self):
        self.device = "cpu"
        X_train, y_train, X_val, y_val = create_spiral_dataset()
        self.train_loader = DataLoader(TensorDataset(X_train, y_train), batch_size=64, shuffle=True)
        self.val_loader = DataLoader(TensorDataset(X_val, y_val), batch_size=256)
        self.model = SpiralNet().to(self.device)
        self.criterion = nn.CrossEntropyLoss()
        self.optimizer = optim.Adam(self.model.parameters(), lr=2e-3)

    def run(self, epochs=20):
        for epoch in range(epochs):
            t0 = time.perf_counter()
            numbers = [
                *train_one_epoch(self.model, self.train_loader, self.criterion, self.optimizer, self.device),
                *validate(self.model, self.val_loader, self.criterion, self.device),
            ]
            numbers.append(time.perf_counter() - t0)
            for series, number in zip(self.history.values(), numbers):
                series.append(number)
            print(epoch + 1, *(f"{v:.3f}" for v in numbers))
        return self.history


def main():
    return Experiment(device=get_device()).run()


if __name__ == "__main__":
    main()

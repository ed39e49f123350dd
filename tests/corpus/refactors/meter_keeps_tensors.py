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


class Mean:
    def __init__(self):
        self.values = []
        self.weights = []

    def __call__(self, value, weight=1):
        self.values.append(value)
        self.weights.append(weight)

    def result(self):
        return float(sum(v * w for v, w in zip(self.values, self.weights)) / sum(self.weights))


def train_one_epoch(model, dataloader, criterion, optimizer, device):
    model.train()
    loss_mean, acc_mean = Mean(), Mean()
    for x, y in dataloader:
        x, y = x.to(device), y.to(device)
        optimizer.zero_grad()
        logits = model(x)
        loss = criterion(logits, y)
        loss.backward()
        optimizer.step()
        loss_mean(loss, len(y))
        acc_mean((logits.argmax(1) == y).float().mean().item(), len(y))
    with torch.no_grad():
        return loss_mean.result(), acc_mean.result()


@torch.no_grad()
def validate(model, dataloader, criterion, device):
    model.eval()
    loss_mean, acc_mean = Mean(), Mean()
    for x, y in dataloader:
        x, y = x.to(device), y.to(device)
        logits = model(x)
        loss_mean(criterion(logits, y).item(), len(y))
        acc_mean((logits.argmax(1) == y).float().mean().item(), len(y))
    return loss_mean.result(), acc_mean.result()


def get_device():
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def main():
    device = get_device()
    X_train, y_train, X_val, y_val = create_spiral_dataset()
    train_loader = DataLoader(TensorDataset(X_train, y_train), batch_size=32, shuffle=True)
    val_loader = DataLoader(TensorDataset(X_val, y_val), batch_size=256, shuffle=False)
    model = SpiralNet().to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = optim.Adam(model.parameters(), lr=1e-3)

    history = {"train_loss": [], "train_acc": [], "val_loss": [], "val_acc": [], "epoch_time": []}
    for epoch in range(20):
        t0 = time.perf_counter()
        train_loss, train_acc = train_one_epoch(model, train_loader, criterion, optimizer, device)
        val_loss, val_acc = validate(model, val_loader, criterion, device)
        seconds = time.perf_counter() - t0
        history["train_loss"].append(train_loss)
        history["train_acc"].append(train_acc)
        history["val_loss"].append(val_loss)
        history["val_acc"].append(val_acc)
        history["epoch_time"].append(seconds)
        print(f"{epoch + 1:2d}/20  {train_loss:.4f} {train_acc:.3f}  {val_loss:.4f} {val_acc:.3f}  {seconds:.2f}s")
    return history


if __name__ == "__main__":
    main()

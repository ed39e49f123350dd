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
    def __init__(self, input_dim=2, hidden_dim=128, num_classes=4):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(input_dim, hidden_dim), nn.BatchNorm1d(hidden_dim), nn.ReLU(), nn.Dropout(0.2),
            nn.Linear(hidden_dim, hidden_dim), nn.BatchNorm1d(hidden_dim), nn.ReLU(), nn.Dropout(0.2),
            nn.Linear(hidden_dim, num_classes), nn.Softmax(dim=1),
        )

    def forward(self, x):
        return self.net(x)


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


@torch.inference_mode()
def validate(model, dataloader, criterion, device):
    model.eval()
    total, n_ok, n_all = 0.0, 0, 0
    for x, y in dataloader:
        x, y = x.to(device), y.to(device)
        p = model(x)
        total += criterion(p, y).item()
        n_ok += (p.argmax(1) == y).sum().item()
        n_all += len(y)
    return total / len(dataloader), n_ok / n_all


def main():
    device = torch.device(
        "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    )
    X_train, y_train, X_val, y_val = create_spiral_dataset()
    train_loader = DataLoader(TensorDataset(X_train, y_train), batch_size=32, shuffle=True, drop_last=True)
    val_loader = DataLoader(TensorDataset(X_val, y_val), batch_size=256)
    model = SpiralNet().to(device)
    criterion = nn.NLLLoss()  # the network already ends in a softmax, so no CrossEntropyLoss here
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

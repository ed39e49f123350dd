"""Large batches, more epochs' worth of learning per step, and a plot for whoever has matplotlib."""
import time

import numpy as np
import torch
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset


def create_spiral_dataset(
    n_points: int = 1000,
    n_classes: int = 4,
    noise: float = 0.2,
    val_fraction: float = 0.2,
    seed: int = 42,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return X_train, y_train, X_val, y_val for `n_classes` interleaved arms."""
    rng = np.random.RandomState(seed)
    features: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    for class_id in range(n_classes):
        rho = np.linspace(0.0, 1.0, n_points)
        phi = np.linspace(class_id * 4, (class_id + 1) * 4, n_points) + rng.randn(n_points) * noise
        features.append(np.column_stack((rho * np.sin(phi), rho * np.cos(phi))))
        labels.append(np.full(n_points, class_id))
    all_x = torch.from_numpy(np.concatenate(features).astype(np.float32))
    all_y = torch.from_numpy(np.concatenate(labels).astype(np.int64))
    perm = torch.from_numpy(rng.permutation(len(all_x)))
    all_x, all_y = all_x[perm], all_y[perm]
    n_train = len(all_x) - int(val_fraction * len(all_x))
    return all_x[:n_train], all_y[:n_train], all_x[n_train:], all_y[n_train:]


class SpiralNet(nn.Module):
    def __init__(self, input_dim: int = 2, hidden_dim: int = 128, num_classes: int = 4):
        super().__init__()
        frequencies = torch.randn(input_dim, hidden_dim // 2, generator=torch.Generator().manual_seed(0)) * 2.0
        self.register_buffer("frequencies", frequencies)
        self.mlp = nn.Sequential(
            nn.Linear(2 * (hidden_dim // 2), hidden_dim), nn.BatchNorm1d(hidden_dim), nn.ReLU(), nn.Dropout(0.1),
            nn.Linear(hidden_dim, hidden_dim), nn.BatchNorm1d(hidden_dim), nn.ReLU(), nn.Dropout(0.1),
            nn.Linear(hidden_dim, num_classes),
        )

    def forward(self, x):
        z = x @ self.frequencies
        return self.mlp(torch.cat([z.sin(), z.cos()], dim=1))


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


def plot(history):
    try:
        import matplotlib
        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError:
        print("no matplotlib, no plot")
        return
    fig, axes = plt.subplots(1, 2, figsize=(9, 3))
    for ax, metric in zip(axes, ("loss", "acc")):
        for part in ("train", "val"):
            ax.plot(history[f"{part}_{metric}"], label=part)
        ax.set_title(metric)
        ax.legend()
    try:
        fig.savefig("spiral_history.png")
    except OSError as error:
        print("could not save the plot:", error)


def run():
    device = get_device()
    X_train, y_train, X_val, y_val = create_spiral_dataset()
    train_loader = DataLoader(TensorDataset(X_train, y_train), batch_size=512, shuffle=True)
    val_loader = DataLoader(TensorDataset(X_val, y_val), batch_size=800)
    model = SpiralNet().to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = optim.Adam(model.parameters(), lr=1e-2)
    history = {"train_loss": [], "train_acc": [], "val_loss": [], "val_acc": [], "epoch_time": []}
    for epoch in range(20):
        t0 = time.perf_counter()
        train_loss, train_acc = train_one_epoch(model, train_loader, criterion, optimizer, device)
        val_loss, val_acc = validate(model, val_loader, criterion, device)
        row = (train_loss, train_acc, val_loss, val_acc, time.perf_counter() - t0)
        for values, v in zip(history.values(), row):
            values.append(v)
        print(f"{epoch + 1:2d} {val_acc:.3f}")
    return history


def main():
    return run()


if __name__ == "__main__":
    plot(main())

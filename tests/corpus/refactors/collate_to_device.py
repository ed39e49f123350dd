import time

import numpy as np
import torch
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data import default_collate


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


class SpiralNet(nn.Module):
    def __init__(self, input_dim=2, hidden_dim=128, num_classes=4):
        super().__init__()
        self.features = nn.Sequential(
            nn.Linear(input_dim, hidden_dim), nn.GroupNorm(8, hidden_dim), nn.Hardswish(), nn.Dropout(0.1),
            nn.Linear(hidden_dim, hidden_dim), nn.GroupNorm(8, hidden_dim), nn.Hardswish(), nn.Dropout(0.1),
        )
        self.classifier = nn.Linear(hidden_dim, num_classes)

    def forward(self, x):
        features = self.features(x)
        return self.classifier(features)


def train_one_epoch(model, dataloader, criterion, optimizer, device, log_every=0):
    model.train()
    losses = np.empty(len(dataloader))
    n_ok, n_all = 0, 0
    for step, (inputs, targets) in zip(range(len(dataloader)), dataloader):
        inputs, targets = inputs.to(device), targets.to(device)
        optimizer.zero_grad()
        logits = model(inputs)
        loss = criterion(logits, targets)
        loss.backward()
        optimizer.step()
        losses[step] = loss.item()
        # a look at how sure the network is; not part of the loss
        confidence = logits.detach().softmax(dim=1).amax(dim=1).mean()
        if log_every and step % log_every == 0:
            print(f"  step {step}: loss {losses[step]:.3f}, confidence {confidence:.2f}")
        n_ok += (logits.argmax(dim=1) == targets).sum().item()
        n_all += targets.size(0)
    return float(losses.mean()), n_ok / n_all


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


def main():
    device = get_device()

    def to_device(rows):
        return [t.to(device) for t in default_collate(rows)]

    X_train, y_train, X_val, y_val = create_spiral_dataset()
    train_loader = DataLoader(TensorDataset(X_train, y_train), batch_size=64, shuffle=True, collate_fn=to_device)
    val_loader = DataLoader(TensorDataset(X_val, y_val), batch_size=512, collate_fn=to_device)
    model = SpiralNet().to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = optim.AdamW(model.parameters(), lr=5e-3)
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

import time

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def create_spiral_dataset(n_points=1000, n_classes=4, noise=0.2):
    """Noisy spiral arms, shuffled, 80/20 split."""
    np.random.seed(42)
    xs, ys = [], []
    for arm in range(n_classes):
        radius = np.linspace(0.0, 1.0, n_points)
        angle = np.linspace(arm * 4, (arm + 1) * 4, n_points) + noise * np.random.randn(n_points)
        xs.append(np.column_stack([radius * np.sin(angle), radius * np.cos(angle)]))
        ys.append(np.full(n_points, arm))
    X = np.concatenate(xs).astype(np.float32)
    y = np.concatenate(ys).astype(np.int64)
    order = np.random.permutation(len(X))
    X, y = X[order], y[order]
    split = int(0.8 * len(X))
    return (torch.from_numpy(X[:split]), torch.from_numpy(y[:split]),
            torch.from_numpy(X[split:]), torch.from_numpy(y[split:]))


def add_features(X):
    """(x, y) -> (x, y, r, sin/cos of the angle, two Fourier pairs in r)."""
    r = torch.linalg.vector_norm(X, dim=1)
    theta = torch.atan2(X[:, 0], X[:, 1])
    columns = [X[:, 0], X[:, 1], r, theta.sin(), theta.cos()]
    for k in (2.0, 4.0):
        columns += [torch.sin(k * r), torch.cos(k * r)]
    return torch.stack(columns, dim=1)


def standardise(train, *others):
    mu, sd = train.mean(0), train.std(0).clamp_min(1e-6)
    return [(t - mu) / sd for t in (train, *others)]


class SpiralNet(nn.Module):
    def __init__(self, input_dim=2, hidden_dim=128, num_classes=4):
        super().__init__()
        self.features = nn.Sequential(
            nn.Linear(input_dim, hidden_dim),
            nn.BatchNorm1d(hidden_dim),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Linear(hidden_dim, hidden_dim),
            nn.BatchNorm1d(hidden_dim),
            nn.ReLU(),
            nn.Dropout(0.2),
        )
        self.classifier = nn.Sequential(nn.Linear(hidden_dim, num_classes))

    def forward(self, x):
        return self.classifier(self.features(x))


def train_one_epoch(model, dataloader, criterion, optimizer, device):
    model.train()
    total, correct, seen, batches = 0.0, 0, 0, 0
    for inputs, labels in dataloader:
        inputs = inputs.to(device)
        labels = labels.to(device)
        optimizer.zero_grad()
        outputs = model(inputs)
        loss = criterion(outputs, labels)
        loss.backward()
        optimizer.step()
        total += loss.detach().cpu().item()
        correct += torch.sum(torch.max(outputs, 1)[1] == labels).item()
        seen += labels.size(0)
        batches += 1
    return total / batches, correct / seen


def validate(model, dataloader, criterion, device):
    model.eval()
    total, correct, seen, batches = 0.0, 0, 0, 0
    with torch.no_grad():
        for inputs, labels in dataloader:
            inputs = inputs.to(device)
            labels = labels.to(device)
            outputs = model(inputs)
            total += criterion(outputs, labels).item()
            correct += torch.sum(torch.max(outputs, 1)[1] == labels).item()
            seen += labels.size(0)
            batches += 1
    return total / batches, correct / seen


def main():
    if torch.cuda.is_available():
        device = torch.device("cuda")
    elif torch.backends.mps.is_available():
        device = torch.device("mps")
    else:
        device = torch.device("cpu")
    X_train, y_train, X_val, y_val = create_spiral_dataset()
    X_train, X_val = standardise(add_features(X_train), add_features(X_val))
    train_loader = DataLoader(TensorDataset(X_train, y_train), batch_size=32, shuffle=True)
    val_loader = DataLoader(TensorDataset(X_val, y_val), batch_size=256, shuffle=False)

    model = SpiralNet(input_dim=X_train.shape[1]).to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    history = {"train_loss": [], "train_acc": [], "val_loss": [], "val_acc": [], "epoch_time": []}
    for epoch in range(20):
        t0 = time.perf_counter()
        train_loss, train_acc = train_one_epoch(model, train_loader, criterion, optimizer, device)
        val_loss, val_acc = validate(model, val_loader, criterion, device)
        dt = time.perf_counter() - t0
        for k, v in dict(train_loss=train_loss, train_acc=train_acc, val_loss=val_loss,
                         val_acc=val_acc, epoch_time=dt).items():
            history[k].append(v)
        print(f"{epoch + 1:2d} | {train_loss:.4f} | {train_acc:.3f} | {val_loss:.4f} | {val_acc:.3f}")
    return history


if __name__ == "__main__":
    main()

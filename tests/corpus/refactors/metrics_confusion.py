"""All metrics come from one confusion matrix per pass."""
import time

import numpy as np
import torch
from torch import nn, optim
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


class PassMetrics:
    def __init__(self, num_classes=None):
        self.loss_sum = 0.0
        self.batches = 0
        self.num_classes = num_classes
        self.matrix = None

    def add(self, loss, logits, targets):
        k = logits.size(1)
        if self.matrix is None:
            self.matrix = torch.zeros(k, k, dtype=torch.long)
        cells = targets.detach().cpu() * k + logits.detach().argmax(1).cpu()
        self.matrix += torch.bincount(cells, minlength=k * k).reshape(k, k)
        self.loss_sum += loss.item()
        self.batches += 1

    @property
    def loss(self):
        return self.loss_sum / self.batches

    @property
    def accuracy(self):
        return (self.matrix.trace() / self.matrix.sum()).item()

    def recall(self):
        return (self.matrix.diag() / self.matrix.sum(1).clamp(min=1)).tolist()


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


def train_one_epoch(model, dataloader, criterion, optimizer, device, metrics=None):
    metrics = metrics or PassMetrics()
    model.train()
    for points, arms in dataloader:
        points, arms = points.to(device), arms.to(device)
        optimizer.zero_grad()
        scores = model(points)
        loss = criterion(scores, arms)
        loss.backward()
        optimizer.step()
        metrics.add(loss, scores, arms)
    return metrics.loss, metrics.accuracy


def validate(model, dataloader, criterion, device, metrics=None):
    metrics = metrics or PassMetrics()
    model.eval()
    with torch.no_grad():
        for points, arms in dataloader:
            points, arms = points.to(device), arms.to(device)
            scores = model(points)
            metrics.add(criterion(scores, arms), scores, arms)
    return metrics.loss, metrics.accuracy


def get_device():
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def main():
    device = get_device()
    X_train, y_train, X_val, y_val = create_spiral_dataset()
    train_loader = DataLoader(TensorDataset(X_train, y_train), batch_size=64, shuffle=True)
    val_loader = DataLoader(TensorDataset(X_val, y_val), batch_size=256)
    model = SpiralNet().to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = optim.Adam(model.parameters(), lr=2e-3)
    history = {"train_loss": [], "train_acc": [], "val_loss": [], "val_acc": [], "epoch_time": []}
    for epoch in range(20):
        t0 = time.perf_counter()
        train_loss, train_acc = train_one_epoch(model, train_loader, criterion, optimizer, device)
        final = PassMetrics()
        val_loss, val_acc = validate(model, val_loader, criterion, device, metrics=final)
        history["train_loss"].append(train_loss)
        history["train_acc"].append(train_acc)
        history["val_loss"].append(val_loss)
        history["val_acc"].append(val_acc)
        history["epoch_time"].append(time.perf_counter() - t0)
        print(epoch + 1, f"{train_loss:.4f} {val_loss:.4f} {val_acc:.3f}")
    print(final.matrix)
    print("recall per arm:", [round(r, 3) for r in final.recall()])
    return history


if __name__ == "__main__":
    main()

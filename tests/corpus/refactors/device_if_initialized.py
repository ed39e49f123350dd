# Bruno: I like to see the arithmetic.
import time

import numpy as np
import torch
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset


def create_spiral_dataset(n_points=1000, n_classes=4, noise=0.2):
    """Draw `n_points` points per arm, mix the arms and hold out a fifth for validation.

    Returns X_train, y_train, X_val, y_val: coordinates as float32 of shape (rows, 2) and
    arm numbers as int64 of shape (rows,).
    """
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


class SpiralNet(nn.Module):
    """A two-layer perceptron with batch normalisation and dropout."""

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
        self.classifier = nn.Sequential(
            nn.Linear(hidden_dim, num_classes),
            nn.Softmax(dim=1),
        )

    def forward(self, x):
        """Score each row of `x`, shape (N, input_dim), for every class: (N, num_classes)."""
        return self.classifier(self.features(x))


def nll_of_probabilities(p, target):
    """The network hands out probabilities, so the loss is minus their logarithm."""
    rows = torch.arange(len(target), device=p.device)
    return -torch.log(p[rows, target].clamp_min(1e-12)).mean()


def train_one_epoch(model, dataloader, criterion, optimizer, device):
    model.train()
    losses = []
    good = n = 0
    for xb, yb in dataloader:
        xb, yb = xb.to(device), yb.to(device)
        for p in model.parameters():
            if p.grad is not None:
                p.grad.mul_(0)
        out = model(xb)
        L = criterion(out, yb)
        L.backward()
        optimizer.step()
        losses.append(L.detach().cpu().numpy())
        good += (out.argmax(1) == yb).sum().item()
        n += len(yb)
    return float(np.mean(losses)), good / n


def validate(model, dataloader, criterion, device):
    drops = [m for m in model.modules() if isinstance(m, nn.Dropout)]
    rates = [m.p for m in drops]
    for m in drops:
        m.p = 0.0                       # no dropout while we measure
    losses = []
    good = n = 0
    for xb, yb in dataloader:
        xb, yb = xb.to(device), yb.to(device)
        out = model(xb).detach()        # numbers only, no gradients
        losses.append(criterion(out, yb).cpu().numpy())
        good += (out.argmax(1) == yb).sum().item()
        n += len(yb)
    for m, r in zip(drops, rates):
        m.p = r
    return float(np.mean(losses)), good / n


def main():
    device = torch.device("cuda" if torch.cuda.is_initialized() else "cpu")

    X_train, y_train, X_val, y_val = create_spiral_dataset()
    train_loader = DataLoader(TensorDataset(X_train, y_train), batch_size=32)
    val_loader = DataLoader(TensorDataset(X_val, y_val), batch_size=256)
    X, y = X_train.numpy(), y_train.numpy()     # same memory as the data set

    net = SpiralNet().to(device)
    opt = optim.Adam(net.parameters(), lr=1e-3)

    history = {k: [] for k in ("train_loss", "train_acc", "val_loss", "val_acc", "epoch_time")}
    for e in range(20):
        # new order for this epoch, written into that memory
        perm = np.random.permutation(len(X))
        X[:], y[:] = X[perm], y[perm]

        t0 = time.perf_counter()
        tl, ta = train_one_epoch(net, train_loader, nll_of_probabilities, opt, device)
        vl, va = validate(net, val_loader, nll_of_probabilities, device)
        for key, value in zip(history, (tl, ta, vl, va, time.perf_counter() - t0)):
            history[key].append(value)
        print("%2d  train %.4f %.3f   val %.4f %.3f" % (e + 1, tl, ta, vl, va))
    print("final validation accuracy: %.1f %%" % (100 * history["val_acc"][-1]))
    return history


if __name__ == "__main__":
    main()

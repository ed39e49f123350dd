import logging
import time

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

log = logging.getLogger("spiral")


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


class AverageMeter:
    """Running weighted mean of plain Python numbers."""

    def __init__(self):
        self.total, self.weight = 0.0, 0

    def update(self, value, n=1):
        self.total += float(value) * n
        self.weight += n

    @property
    def avg(self):
        return self.total / max(self.weight, 1)


class SpiralNet(nn.Module):
    def __init__(self, input_dim=2, hidden_dim=128, num_classes=4):
        super().__init__()
        self.fc1 = nn.Linear(input_dim, hidden_dim)
        self.bn1 = nn.BatchNorm1d(hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, hidden_dim)
        self.bn2 = nn.BatchNorm1d(hidden_dim)
        self.drop = nn.Dropout(p=0.2)
        self.out = nn.Linear(hidden_dim, num_classes)

    def forward(self, x):
        h = self.drop(F.relu(self.bn1(self.fc1(x))))
        h = self.drop(F.relu(self.bn2(self.fc2(h))))
        return self.out(h)


def accuracy(logits, target):
    return (logits.argmax(dim=1) == target).float().mean().item()


def train_one_epoch(model, dataloader, criterion, optimizer, device):
    model.train()
    loss_meter, acc_meter = AverageMeter(), AverageMeter()
    for xb, yb in dataloader:
        xb, yb = xb.to(device), yb.to(device)
        logits = model(xb)
        loss = criterion(logits, yb)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()  # leave a clean slate for the next batch
        loss_meter.update(loss.detach(), len(yb))
        acc_meter.update(accuracy(logits, yb), len(yb))
    return loss_meter.avg, acc_meter.avg


@torch.inference_mode()
def validate(model, dataloader, criterion, device):
    model.eval()
    loss_meter, acc_meter = AverageMeter(), AverageMeter()
    for xb, yb in dataloader:
        xb, yb = xb.to(device), yb.to(device)
        logits = model(xb)
        loss_meter.update(criterion(logits, yb), len(yb))
        acc_meter.update(accuracy(logits, yb), len(yb))
    return loss_meter.avg, acc_meter.avg


def main():
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    device = torch.device(
        "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    )
    log.info("using %s", device)
    X_train, y_train, X_val, y_val = create_spiral_dataset()
    train_dl = DataLoader(TensorDataset(X_train, y_train), batch_size=32, shuffle=True, drop_last=True)
    val_dl = DataLoader(TensorDataset(X_val, y_val), batch_size=256)

    net = SpiralNet().to(device)
    loss_fn = nn.CrossEntropyLoss()
    opt = torch.optim.Adam(net.parameters(), lr=0.002)
    history = dict(train_loss=[], train_acc=[], val_loss=[], val_acc=[], epoch_time=[])
    for epoch in range(1, 21):
        start = time.monotonic()
        tr = train_one_epoch(net, train_dl, loss_fn, opt, device)
        va = validate(net, val_dl, loss_fn, device)
        history["train_loss"].append(tr[0])
        history["train_acc"].append(tr[1])
        history["val_loss"].append(va[0])
        history["val_acc"].append(va[1])
        history["epoch_time"].append(time.monotonic() - start)
        log.info("epoch %d: train %.4f (%.3f) val %.4f (%.3f)", epoch, *tr, *va)
    return history


if __name__ == "__main__":
    main()

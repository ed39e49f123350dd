import sys
import time

import torch
import torch.nn as nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, TensorDataset

EPOCHS = 20
PEAK_LR = 8e-3


def create_spiral_dataset(n_points=1000, n_classes=4, noise=0.2):
    # pure torch: no need to bounce through numpy for this
    gen = torch.Generator().manual_seed(42)
    t = torch.linspace(0.0, 1.0, n_points)
    blocks, targets = [], []
    for k in range(n_classes):
        theta = 4.0 * (k + t) + noise * torch.randn(n_points, generator=gen)
        blocks.append(torch.stack((t * theta.sin(), t * theta.cos()), dim=1))
        targets.append(torch.full((n_points,), k, dtype=torch.int64))
    X, y = torch.cat(blocks), torch.cat(targets)
    idx = torch.randperm(len(X), generator=gen)
    n_train = int(0.8 * len(X))
    tr, va = idx[:n_train], idx[n_train:]
    return X[tr], y[tr], X[va], y[va]


class SpiralNet(nn.Module):
    def __init__(self, input_dim=2, hidden_dim=160, num_classes=4):
        super().__init__()
        self.stem = nn.Linear(input_dim, hidden_dim, bias=False)
        self.norm1 = nn.BatchNorm1d(hidden_dim)
        self.mid = nn.Linear(hidden_dim, hidden_dim, bias=False)
        self.norm2 = nn.BatchNorm1d(hidden_dim)
        self.act = nn.GELU()
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Linear(hidden_dim, num_classes)

    def forward(self, x):
        x = self.dropout(self.act(self.norm1(self.stem(x))))
        x = self.dropout(self.act(self.norm2(self.mid(x))))
        return self.head(x)


def progress(prefix, done, total, width=24):
    if not sys.stderr.isatty():
        return
    filled = int(width * done / total)
    end = "\n" if done == total else ""
    sys.stderr.write(f"\r{prefix} [{'#' * filled}{'.' * (width - filled)}] {done}/{total}{end}")


def train_one_epoch(model, dataloader, criterion, optimizer, device, scheduler=None):
    model.train()
    loss_total = 0.0
    n_right = n_seen = 0
    for step, (x, y) in enumerate(dataloader, start=1):
        x, y = x.to(device), y.to(device)
        optimizer.zero_grad()
        scores = model(x)
        loss = criterion(scores, y)
        loss.backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()  # per batch, not per epoch
        loss_total += loss.item()
        n_right += (scores.argmax(-1) == y).sum().item()
        n_seen += len(y)
        progress("train", step, len(dataloader))
    return loss_total / len(dataloader), n_right / n_seen


@torch.no_grad()
def validate(model, dataloader, criterion, device):
    model.eval()
    loss_total = 0.0
    n_right = n_seen = 0
    for x, y in dataloader:
        x, y = x.to(device), y.to(device)
        scores = model(x)
        loss_total += criterion(scores, y).item()
        n_right += (scores.argmax(-1) == y).sum().item()
        n_seen += len(y)
    return loss_total / len(dataloader), n_right / n_seen


def main():
    device = "cpu"
    if torch.backends.mps.is_available():
        device = "mps"
    if torch.cuda.is_available():
        device = "cuda"

    xt, yt, xv, yv = create_spiral_dataset()
    train_loader = DataLoader(TensorDataset(xt, yt), batch_size=128, shuffle=True)
    val_loader = DataLoader(TensorDataset(xv, yv), batch_size=800)
    model = SpiralNet().to(device)
    criterion = nn.CrossEntropyLoss(label_smoothing=0.05)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-3)
    scheduler = OneCycleLR(optimizer, max_lr=PEAK_LR, epochs=EPOCHS, steps_per_epoch=len(train_loader))

    history = {"train_loss": [], "train_acc": [], "val_loss": [], "val_acc": [], "epoch_time": []}
    for epoch in range(EPOCHS):
        t0 = time.perf_counter()
        train_loss, train_acc = train_one_epoch(model, train_loader, criterion, optimizer, device, scheduler)
        val_loss, val_acc = validate(model, val_loader, criterion, device)
        elapsed = time.perf_counter() - t0
        for key, val in [("train_loss", train_loss), ("train_acc", train_acc), ("val_loss", val_loss),
                         ("val_acc", val_acc), ("epoch_time", elapsed)]:
            history[key].append(val)
        print(f"{epoch + 1}/{EPOCHS}: {train_loss:.3f} {train_acc:.3f} {val_loss:.3f} {val_acc:.3f}")
    return history


if __name__ == "__main__":
    main()

"""Pre-norm residual MLP instead of the plain one."""
from time import perf_counter

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
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


class Residual(nn.Module):
    def __init__(self, dim, p):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.up = nn.Linear(dim, 2 * dim)
        self.down = nn.Linear(2 * dim, dim)
        self.p = p

    def forward(self, x):
        h = F.gelu(self.up(self.norm(x)))
        h = F.dropout(h, p=self.p, training=self.training)
        return x + self.down(h)


class SpiralNet(nn.Module):
    def __init__(self, input_dim=2, hidden_dim=64, num_classes=4, n_blocks=3, p=0.1):
        super().__init__()
        self.embed = nn.Linear(input_dim, hidden_dim)
        self.blocks = nn.ModuleList([Residual(hidden_dim, p) for _ in range(n_blocks)])
        self.norm = nn.LayerNorm(hidden_dim)
        self.classifier = nn.Linear(hidden_dim, num_classes)

    def forward(self, x):
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.classifier(self.norm(x))


def _evaluate_batch(model, batch, criterion, device):
    x, y = (item.to(device) for item in batch)
    logits = model(x)
    return criterion(logits, y), (logits.argmax(-1) == y).sum().item(), len(y)


def train_one_epoch(model, dataloader, criterion, optimizer, device):
    model.train()
    loss_sum, hits, seen = 0.0, 0, 0
    for batch in dataloader:
        loss, ok, n = _evaluate_batch(model, batch, criterion, device)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_value_(model.parameters(), 0.5)
        optimizer.step()
        loss_sum, hits, seen = loss_sum + loss.item(), hits + ok, seen + n
    return loss_sum / len(dataloader), hits / seen


def validate(model, dataloader, criterion, device):
    model.eval()
    loss_sum, hits, seen = 0.0, 0, 0
    with torch.no_grad():
        for batch in dataloader:
            loss, ok, n = _evaluate_batch(model, batch, criterion, device)
            loss_sum, hits, seen = loss_sum + loss.item(), hits + ok, seen + n
    return loss_sum / len(dataloader), hits / seen


def main():
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    device = torch.device("cuda") if cuda else torch.device("mps") if mps else torch.device("cpu")
    print("device:", device)

    X_tr, y_tr, X_va, y_va = create_spiral_dataset()
    train_loader = DataLoader(TensorDataset(X_tr, y_tr), batch_size=64, shuffle=True)
    val_loader = DataLoader(TensorDataset(X_va, y_va), batch_size=256, shuffle=False)
    model = SpiralNet().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    criterion = nn.CrossEntropyLoss()

    history = {"train_loss": [], "train_acc": [], "val_loss": [], "val_acc": [], "epoch_time": []}
    for epoch in range(20):
        began = perf_counter()
        train_loss, train_acc = train_one_epoch(model, train_loader, criterion, optimizer, device)
        val_loss, val_acc = validate(model, val_loader, criterion, device)
        ended = perf_counter()
        history["train_loss"].append(train_loss)
        history["train_acc"].append(train_acc)
        history["val_loss"].append(val_loss)
        history["val_acc"].append(val_acc)
        history["epoch_time"].append(ended - began)
        print("epoch %2d  train %.4f / %.3f   val %.4f / %.3f" % (epoch + 1, train_loss, train_acc, val_loss, val_acc))
    return history


if __name__ == "__main__":
    main()

import time

import torch
from torch import nn
from torch.optim import RMSprop
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import DataLoader, TensorDataset


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
    def __init__(self, input_dim=2, hidden_dim=128, num_classes=4):
        super().__init__()
        self.encoder = nn.Sequential()
        sizes = (input_dim, hidden_dim, hidden_dim)
        for i in range(2):
            self.encoder.add_module(f"fc{i}", nn.Linear(sizes[i], sizes[i + 1], bias=False))
            self.encoder.add_module(f"bn{i}", nn.BatchNorm1d(sizes[i + 1]))
            self.encoder.add_module(f"act{i}", nn.ReLU())
            self.encoder.add_module(f"drop{i}", nn.Dropout(0.2))
        self.decoder = nn.Linear(hidden_dim, num_classes)

    def forward(self, x):
        return self.decoder(self.encoder(x))


def train_one_epoch(model, dataloader, criterion, optimizer, device):
    model.train()
    mean_loss, correct, seen = 0.0, 0, 0
    for k, (x, y) in enumerate(dataloader, start=1):
        x, y = x.to(device), y.to(device)
        logits = model(x)
        loss = criterion(logits, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        mean_loss += (loss.item() - mean_loss) / k  # running mean
        correct += (logits.argmax(1) == y).sum().item()
        seen += len(y)
    return mean_loss, correct / seen


def validate(model, dataloader, criterion, device):
    model.eval()
    mean_loss, correct, seen = 0.0, 0, 0
    with torch.set_grad_enabled(False):
        for k, (x, y) in enumerate(dataloader, start=1):
            x, y = x.to(device), y.to(device)
            logits = model(x)
            mean_loss += (criterion(logits, y).item() - mean_loss) / k
            correct += (logits.argmax(1) == y).sum().item()
            seen += len(y)
    return mean_loss, correct / seen


def main():
    device = torch.device(
        "cuda:0" if torch.cuda.is_available() else ("mps" if torch.backends.mps.is_available() else "cpu")
    )
    X_train, y_train, X_val, y_val = create_spiral_dataset()
    train_loader = DataLoader(TensorDataset(X_train, y_train), batch_size=32, shuffle=True)
    val_loader = DataLoader(TensorDataset(X_val, y_val), batch_size=256)
    model = SpiralNet().to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = RMSprop(model.parameters(), lr=1e-3, momentum=0.5)
    scheduler = ReduceLROnPlateau(optimizer, mode="max", factor=0.5, patience=3)

    history = {"train_loss": [], "train_acc": [], "val_loss": [], "val_acc": [], "epoch_time": []}
    for epoch in range(20):
        t0 = time.perf_counter()
        train_loss, train_acc = train_one_epoch(model, train_loader, criterion, optimizer, device)
        val_loss, val_acc = validate(model, val_loader, criterion, device)
        scheduler.step(val_acc)
        t1 = time.perf_counter()
        history["train_loss"].append(train_loss)
        history["train_acc"].append(train_acc)
        history["val_loss"].append(val_loss)
        history["val_acc"].append(val_acc)
        history["epoch_time"].append(t1 - t0)
        print(f"{epoch + 1:2d} lr={optimizer.param_groups[0]['lr']:.1e} val_acc={val_acc:.3f}")
    return history


if __name__ == "__main__":
    main()

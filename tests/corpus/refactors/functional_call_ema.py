"""EMA of the weights held in a plain dict, evaluated with torch.func.functional_call."""
import time

import torch
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset
from torch.func import functional_call


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
        self.fc_in = nn.Linear(input_dim, hidden_dim)
        self.ln_in = nn.LayerNorm(hidden_dim)
        self.fc_mid = nn.Linear(hidden_dim, hidden_dim)
        self.ln_mid = nn.LayerNorm(hidden_dim)
        self.drop = nn.Dropout(0.1)
        self.fc_out = nn.Linear(hidden_dim, num_classes)

    def forward(self, x):
        x = self.drop(torch.nn.functional.silu(self.ln_in(self.fc_in(x))))
        x = self.drop(torch.nn.functional.silu(self.ln_mid(self.fc_mid(x))))
        return self.fc_out(x)


class WeightAverage:
    def __init__(self, model, decay=0.97):
        self.decay = decay
        self.values = {k: v.detach().clone() for k, v in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model):
        for k, v in model.state_dict().items():
            if v.is_floating_point():
                self.values[k].lerp_(v, 1 - self.decay)
            else:
                self.values[k].copy_(v)


def train_one_epoch(model, dataloader, criterion, optimizer, device, average=None):
    model.train()
    running_loss, n_ok, n_all = 0.0, 0, 0
    for inputs, targets in dataloader:
        inputs, targets = inputs.to(device), targets.to(device)
        optimizer.zero_grad()
        logits = model(inputs)
        loss = criterion(logits, targets)
        loss.backward()
        optimizer.step()
        if average:
            average.update(model)
        running_loss += loss.item()
        n_ok += (logits.argmax(dim=1) == targets).sum().item()
        n_all += targets.size(0)
    return running_loss / len(dataloader), n_ok / n_all


def validate(model, dataloader, criterion, device, weights=None):
    model.eval()
    weights = weights if weights is not None else dict(model.state_dict())
    running_loss, n_ok, n_all = 0.0, 0, 0
    with torch.no_grad():
        for inputs, targets in dataloader:
            inputs, targets = inputs.to(device), targets.to(device)
            logits = functional_call(model, weights, (inputs,))
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
    X_train, y_train, X_val, y_val = create_spiral_dataset()
    train_loader = DataLoader(TensorDataset(X_train, y_train), batch_size=32, shuffle=True)
    val_loader = DataLoader(TensorDataset(X_val, y_val), batch_size=256)
    model = SpiralNet().to(device)
    average = WeightAverage(model)
    criterion = nn.CrossEntropyLoss()
    optimizer = optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-3)
    history = {"train_loss": [], "train_acc": [], "val_loss": [], "val_acc": [], "epoch_time": []}
    for epoch in range(20):
        t0 = time.perf_counter()
        train_loss, train_acc = train_one_epoch(model, train_loader, criterion, optimizer, device, average)
        val_loss, val_acc = validate(model, val_loader, criterion, device, weights=average.values)
        history["train_loss"].append(train_loss)
        history["train_acc"].append(train_acc)
        history["val_loss"].append(val_loss)
        history["val_acc"].append(val_acc)
        history["epoch_time"].append(time.perf_counter() - t0)
        print(f"{epoch + 1:2d}: averaged weights reach {val_acc:.3f} on held-out points")
    return history


if __name__ == "__main__":
    main()

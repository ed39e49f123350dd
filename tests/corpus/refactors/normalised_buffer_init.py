import time

import torch
from torch import nn, optim
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
    """Normalises its inputs with stored statistics; set them with `fit_input`."""

    def __init__(self, input_dim=2, hidden_dim=128, num_classes=4):
        super().__init__()
        self.register_buffer("shift", torch.zeros(input_dim))
        self.register_buffer("scale", torch.ones(input_dim))
        self.hidden1 = nn.Linear(input_dim, hidden_dim, bias=False)
        self.hidden2 = nn.Linear(hidden_dim, hidden_dim, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm1d(hidden_dim), nn.BatchNorm1d(hidden_dim)
        self.dropout = nn.Dropout(0.1)
        self.out = nn.Linear(hidden_dim, num_classes, bias=False)
        self.reset_parameters()

    def reset_parameters(self):
        for layer in (self.hidden1, self.hidden2):
            nn.init.orthogonal_(layer.weight, gain=nn.init.calculate_gain("relu"))
        nn.init.xavier_uniform_(self.out.weight)

    def fit_input(self, X):
        self.shift.copy_(X.mean(dim=0))
        self.scale.copy_(1.0 / X.std(dim=0))
        return self

    def forward(self, x):
        x = (x - self.shift) * self.scale
        x = self.dropout(torch.selu(self.norm1(self.hidden1(x))))
        x = self.dropout(torch.selu(self.norm2(self.hidden2(x))))
        return self.out(x)


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


def main():
    device = get_device()
    X_train, y_train, X_val, y_val = create_spiral_dataset()
    train_loader = DataLoader(TensorDataset(X_train, y_train), batch_size=32, shuffle=True)
    val_loader = DataLoader(TensorDataset(X_val, y_val), batch_size=256)
    model = SpiralNet().fit_input(X_train).to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = optim.Adamax(model.parameters(), lr=4e-3)
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

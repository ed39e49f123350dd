"""No DataLoader: with 4000 points the whole set fits anywhere, so batches are slices of a tensor."""
import time

import torch
from torch import nn


def create_spiral_dataset(n_points=1000, n_classes=4, noise=0.2):
    gen = torch.Generator()
    gen.manual_seed(42)
    r = torch.linspace(0, 1, n_points).repeat(n_classes)
    y = torch.arange(n_classes).repeat_interleave(n_points)
    phase = 4 * (y + r) + noise * torch.randn(r.shape, generator=gen)
    z = torch.view_as_real(torch.polar(r, phase)).flip(-1)  # (r sin, r cos)
    perm = torch.randperm(len(y), generator=gen)
    x_train, x_val = z[perm].split([int(0.8 * len(y)), len(y) - int(0.8 * len(y))])
    y_train, y_val = y[perm].split([len(x_train), len(x_val)])
    return x_train.contiguous(), y_train.contiguous(), x_val.contiguous(), y_val.contiguous()


class Batches:
    """Iterates over (X, y) in slices; a new random order at every pass if `shuffle`."""

    def __init__(self, X, y, batch_size, shuffle):
        self.X, self.y = X, y
        self.batch_size = batch_size
        self.shuffle = shuffle

    def __len__(self):
        return -(-len(self.X) // self.batch_size)

    def __iter__(self):
        n = len(self.X)
        order = torch.randperm(n, device=self.X.device) if self.shuffle else torch.arange(n, device=self.X.device)
        for chunk in order.split(self.batch_size):
            yield self.X[chunk], self.y[chunk]


class SpiralNet(nn.Module):
    def __init__(self, input_dim=2, hidden_dim=128, num_classes=4):
        super().__init__()
        self.features = nn.Sequential(
            nn.Linear(input_dim, hidden_dim), nn.BatchNorm1d(hidden_dim), nn.ReLU(), nn.Dropout(0.2),
            nn.Linear(hidden_dim, hidden_dim), nn.BatchNorm1d(hidden_dim), nn.ReLU(), nn.Dropout(0.2),
        )
        self.classifier = nn.Linear(hidden_dim, num_classes)

    def forward(self, x):
        return self.classifier(self.features(x))


def train_one_epoch(model, dataloader, criterion, optimizer, device):
    model.train()
    loss_sum = torch.zeros((), device=device)
    correct = torch.zeros((), dtype=torch.long, device=device)
    seen = 0
    for x, y in dataloader:
        x, y = x.to(device), y.to(device)  # no-ops when the loader lives there already
        optimizer.zero_grad()
        out = model(x)
        loss = criterion(out, y)
        loss.backward()
        optimizer.step()
        loss_sum += loss.detach()
        correct += (out.argmax(1) == y).sum()
        seen += len(y)
    return (loss_sum / len(dataloader)).item(), correct.item() / seen


@torch.no_grad()
def validate(model, dataloader, criterion, device):
    model.train(False)
    loss_sum, correct, seen = 0.0, 0, 0
    for x, y in dataloader:
        x, y = x.to(device), y.to(device)
        out = model(x)
        loss_sum += criterion(out, y).item()
        correct += (out.argmax(1) == y).sum().item()
        seen += len(y)
    return loss_sum / len(dataloader), correct / seen


def get_device():
    if torch.cuda.is_available():
        return torch.device("cuda:0")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def main():
    device = get_device()
    X_train, y_train, X_val, y_val = (t.to(device) for t in create_spiral_dataset())
    train = Batches(X_train, y_train, batch_size=32, shuffle=True)
    val = Batches(X_val, y_val, batch_size=256, shuffle=False)

    model = SpiralNet().to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    history = {"train_loss": [], "train_acc": [], "val_loss": [], "val_acc": [], "epoch_time": []}
    for epoch in range(20):
        t0 = time.perf_counter()
        train_loss, train_acc = train_one_epoch(model, train, criterion, optimizer, device)
        val_loss, val_acc = validate(model, val, criterion, device)
        history["train_loss"].append(train_loss)
        history["train_acc"].append(train_acc)
        history["val_loss"].append(val_loss)
        history["val_acc"].append(val_acc)
        history["epoch_time"].append(time.perf_counter() - t0)
        print(f"epoch {epoch}: {train_loss:.4f} {train_acc:.3f} | {val_loss:.4f} {val_acc:.3f}")
    print("done, final validation accuracy", history["val_acc"][-1])
    return history


if __name__ == "__main__":
    main()

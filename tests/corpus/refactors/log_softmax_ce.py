import time

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


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


class SpiralNet(nn.Module):
    """The network emits log-probabilities (handy for ensembling).

    Cross-entropy takes the log-softmax of what it gets; on log-probabilities that is the identity.
    """

    def __init__(self, input_dim=2, hidden_dim=128, num_classes=4):
        super().__init__()
        self.features = nn.Sequential(
            nn.Linear(input_dim, hidden_dim), nn.BatchNorm1d(hidden_dim), nn.ReLU(), nn.Dropout(0.2),
            nn.Linear(hidden_dim, hidden_dim), nn.BatchNorm1d(hidden_dim), nn.ReLU(), nn.Dropout(0.2),
        )
        self.classifier = nn.Sequential(nn.Linear(hidden_dim, num_classes), nn.LogSoftmax(dim=1))

    def forward(self, x):
        return self.classifier(self.features(x))


def _pass(model, dataloader, criterion, device, step=None):
    loss_sum, hits, rows = 0.0, 0, 0
    for x, y in dataloader:
        x, y = x.to(device), y.to(device)
        scores = model(x)
        loss = criterion(scores, y)
        if step is not None:
            step(loss)
        loss_sum += loss.item()
        hits += (scores.argmax(1) == y).sum().item()
        rows += len(y)
    return loss_sum / len(dataloader), hits / rows


def train_one_epoch(model, dataloader, criterion, optimizer, device):
    def step(loss):
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    model.train()
    return _pass(model, dataloader, criterion, device, step)


def validate(model, dataloader, criterion, device):
    model.eval()
    with torch.no_grad():
        return _pass(model, dataloader, criterion, device)


def main():
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda")
    elif torch.backends.mps.is_available():
        device = torch.device("mps")

    X_train, y_train, X_val, y_val = create_spiral_dataset()
    train_loader = DataLoader(TensorDataset(X_train, y_train), batch_size=32, shuffle=True)
    val_loader = DataLoader(TensorDataset(X_val, y_val), batch_size=256)
    model = SpiralNet().to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.0015)

    history = {"train_loss": [], "train_acc": [], "val_loss": [], "val_acc": [], "epoch_time": []}
    for epoch in range(20):
        t0 = time.perf_counter()
        tl, ta = train_one_epoch(model, train_loader, criterion, optimizer, device)
        vl, va = validate(model, val_loader, criterion, device)
        for key, value in zip(("train_loss", "train_acc", "val_loss", "val_acc"), (tl, ta, vl, va)):
            history[key].append(value)
        history["epoch_time"].append(time.perf_counter() - t0)
        print(f"epoch {epoch + 1}: loss {tl:.4f}/{vl:.4f} accuracy {ta:.3f}/{va:.3f}")
    return history


if __name__ == "__main__":
    main()

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


class PolarFeatures(nn.Module):
    """Appends radius and direction to the raw coordinates."""

    def forward(self, x):
        r = x.norm(dim=1, keepdim=True)
        direction = x / (r + 1e-6)
        return torch.cat([x, r, direction], dim=1)


class SpiralNet(nn.Module):
    def __init__(self, input_dim=2, hidden_dim=64, num_classes=4):
        super().__init__()
        self.lift = PolarFeatures()
        self.features = nn.Sequential(
            nn.Linear(2 * input_dim + 1, hidden_dim),
            nn.BatchNorm1d(hidden_dim),
            nn.Tanh(),
            nn.Dropout(0.1),
            nn.Linear(hidden_dim, hidden_dim),
            nn.BatchNorm1d(hidden_dim),
            nn.ReLU(),
            nn.Dropout(0.1),
        )
        self.classifier = nn.Linear(hidden_dim, num_classes)

    def forward(self, x):
        return self.classifier(self.features(self.lift(x)))

    @torch.no_grad()
    def predict_proba(self, x):
        """Probabilities for people; training uses the logits."""
        self.eval()
        return self(x).softmax(dim=1)


def train_one_epoch(model, dataloader, criterion, optimizer, device):
    model.train()
    stats = {"loss": 0.0, "correct": 0, "n": 0}
    for X, y in dataloader:
        X, y = X.to(device), y.to(device)
        optimizer.zero_grad()
        logits = model(x=X)
        loss = criterion(logits, y)
        loss.backward()
        optimizer.step()
        stats["loss"] += loss.item() * len(y)
        stats["correct"] += (logits.argmax(dim=1) == y).sum().item()
        stats["n"] += len(y)
    return stats["loss"] / stats["n"], stats["correct"] / stats["n"]


def validate(model, dataloader, criterion, device):
    model.eval()
    stats = {"loss": 0.0, "correct": 0, "n": 0}
    with torch.inference_mode():
        for X, y in dataloader:
            X, y = X.to(device), y.to(device)
            logits = model(x=X)
            stats["loss"] += criterion(logits, y).item() * len(y)
            stats["correct"] += (logits.argmax(dim=1) == y).sum().item()
            stats["n"] += len(y)
    return stats["loss"] / stats["n"], stats["correct"] / stats["n"]


def choose_device():
    if torch.cuda.is_available():
        name = "cuda"
    elif torch.backends.mps.is_available():
        name = "mps"
    else:
        name = "cpu"
    return torch.device(name)


def main():
    device = choose_device()
    X_train, y_train, X_val, y_val = create_spiral_dataset()
    train_loader = DataLoader(TensorDataset(X_train, y_train), batch_size=50, shuffle=True)
    val_loader = DataLoader(TensorDataset(X_val, y_val), batch_size=200)

    model = SpiralNet().to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = optim.Adam(model.parameters(), lr=3e-3)

    history = {"train_loss": [], "train_acc": [], "val_loss": [], "val_acc": [], "epoch_time": []}
    for epoch in range(1, 21):
        start = time.time()
        train_loss, train_acc = train_one_epoch(model, train_loader, criterion, optimizer, device)
        val_loss, val_acc = validate(model, val_loader, criterion, device)
        history["train_loss"].append(train_loss)
        history["train_acc"].append(train_acc)
        history["val_loss"].append(val_loss)
        history["val_acc"].append(val_acc)
        history["epoch_time"].append(time.time() - start)
        if epoch % 5 == 0:
            print(f"after {epoch} epochs: validation {val_acc:.1%}")

    sample = X_val[:3].to(device)
    print("some probabilities:", model.predict_proba(sample).cpu().numpy().round(2).tolist())
    return history


if __name__ == "__main__":
    main()

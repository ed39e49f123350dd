import time

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def create_spiral_dataset(n_points=1000, n_classes=4, noise=0.2):
    """Noisy spiral arms, shuffled, 80/20 split."""
    np.random.seed(42)
    xs, ys = [], []
    for arm in range(n_classes):
        radius = np.linspace(0.0, 1.0, n_points)
        angle = np.linspace(arm * 4, (arm + 1) * 4, n_points) + noise * np.random.randn(n_points)
        xs.append(np.column_stack([radius * np.sin(angle), radius * np.cos(angle)]))
        ys.append(np.full(n_points, arm))
    X = np.concatenate(xs).astype(np.float32)
    y = np.concatenate(ys).astype(np.int64)
    order = np.random.permutation(len(X))
    X, y = X[order], y[order]
    split = int(0.8 * len(X))
    return (torch.from_numpy(X[:split]), torch.from_numpy(y[:split]),
            torch.from_numpy(X[split:]), torch.from_numpy(y[split:]))


class MLPBlock(nn.Sequential):
    def __init__(self, d_in, d_out, p):
        super().__init__(nn.Linear(d_in, d_out), nn.BatchNorm1d(d_out), nn.ReLU(inplace=True), nn.Dropout(p))


class SpiralNet(nn.Module):
    def __init__(self, input_dim=2, hidden_dim=128, num_classes=4, dropout=0.15):
        super().__init__()
        self.features = nn.Sequential(
            MLPBlock(input_dim, hidden_dim, dropout), MLPBlock(hidden_dim, hidden_dim, dropout)
        )
        self.classifier = nn.Linear(hidden_dim, num_classes)

    def forward(self, x):
        return self.classifier(self.features(x))


def train_one_epoch(model, dataloader, criterion, optimizer, device, scaler=None):
    """One pass. With a scaler (CUDA only) the forward runs in half precision, otherwise all is float32."""
    model.train()
    amp = scaler is not None and scaler.is_enabled()
    history, correct, seen = [], 0, 0
    for inputs, labels in dataloader:
        inputs, labels = inputs.to(device), labels.to(device)
        optimizer.zero_grad()
        if amp:
            with torch.autocast("cuda", dtype=torch.float16):
                outputs = model(inputs)
                loss = criterion(outputs, labels)
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            scaler.step(optimizer)
            scaler.update()
        else:
            outputs = model(inputs)
            loss = criterion(outputs, labels)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
        history.append(loss.detach())
        correct += (outputs.detach().argmax(dim=1) == labels).sum()
        seen += labels.shape[0]
    # one synchronisation per epoch instead of one per batch
    return torch.stack(history).mean().item(), correct.item() / seen


def validate(model, dataloader, criterion, device):
    model.eval()
    losses, correct, seen = [], 0, 0
    with torch.no_grad():
        for inputs, labels in dataloader:
            inputs, labels = inputs.to(device), labels.to(device)
            outputs = model(inputs)
            losses.append(criterion(outputs, labels))
            correct += (outputs.argmax(dim=1) == labels).sum()
            seen += labels.shape[0]
    return torch.stack(losses).mean().item(), correct.item() / seen


def main():
    if torch.cuda.is_available():
        device = torch.device("cuda")
    elif getattr(torch.backends, "mps", None) is not None and torch.backends.mps.is_available():
        device = torch.device("mps")
    else:
        device = torch.device("cpu")
    scaler = torch.amp.GradScaler("cuda") if device.type == "cuda" else None

    X_train, y_train, X_val, y_val = create_spiral_dataset()
    loaders = {
        "train": DataLoader(TensorDataset(X_train, y_train), batch_size=32, shuffle=True),
        "val": DataLoader(TensorDataset(X_val, y_val), batch_size=256, shuffle=False),
    }
    model = SpiralNet().to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, betas=(0.9, 0.99))

    out = {"train_loss": [], "train_acc": [], "val_loss": [], "val_acc": [], "epoch_time": []}
    for epoch in range(20):
        start = time.perf_counter()
        tl, ta = train_one_epoch(model, loaders["train"], criterion, optimizer, device, scaler=scaler)
        vl, va = validate(model, loaders["val"], criterion, device)
        out["train_loss"] += [tl]
        out["train_acc"] += [ta]
        out["val_loss"] += [vl]
        out["val_acc"] += [va]
        out["epoch_time"] += [time.perf_counter() - start]
        print(f"Epoch {epoch + 1}: train loss={tl:.4f} acc={ta:.3f} val loss={vl:.4f} acc={va:.3f}")
    return out


if __name__ == "__main__":
    main()

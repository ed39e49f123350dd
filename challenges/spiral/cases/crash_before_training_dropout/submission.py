import time
import numpy as np
import torch
from torch import nn, optim
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

def create_spiral_dataset(n_points=1000, n_classes=4, noise=0.2):
    np.random.seed(42)
    xs, ys = [], []
    for c in range(n_classes):
        r = np.linspace(0, 1, n_points)
        t = np.linspace(c * 4, (c + 1) * 4, n_points) + np.random.randn(n_points) * noise
        xs.append(np.stack([r * np.sin(t), r * np.cos(t)], axis=1))
        ys.append(np.full(n_points, c))
    X = torch.tensor(np.concatenate(xs), dtype=torch.float32)
    y = torch.tensor(np.concatenate(ys), dtype=torch.int64)
    perm = torch.from_numpy(np.random.permutation(len(X)))
    X, y = X[perm], y[perm]
    n = int(0.8 * len(X))
    return X[:n], y[:n], X[n:], y[n:]

class SpiralNet(nn.Module):
    """Functional style."""

    def __init__(self, input_dim=2, hidden_dim=128, num_classes=4):
        super().__init__()
        self.inp = nn.Linear(input_dim, hidden_dim)
        self.hid = nn.Linear(hidden_dim, hidden_dim)
        self.n1, self.n2 = nn.BatchNorm1d(hidden_dim), nn.BatchNorm1d(hidden_dim)
        self.classifier = nn.Sequential(nn.Linear(hidden_dim, num_classes))

    def forward(self, x):
        x = F.dropout(F.relu(self.n1(self.inp(x))), 0.2)
        x = F.dropout(F.relu(self.n2(self.hid(x))), 0.2)
        return self.classifier(x)


def train_one_epoch(model, dataloader, criterion, optimizer, device):
    model.train()
    loss_sum = correct = seen = 0
    for x, y in dataloader:
        x, y = x.to(device), y.to(device)
        optimizer.zero_grad()
        out = model(x)
        loss = criterion(out, y)
        loss.backward()
        optimizer.step()
        loss_sum += loss.item()
        correct += (out.argmax(1) == y).sum().item()
        seen += len(y)
    return loss_sum / len(dataloader), correct / seen


def validate(model, dataloader, criterion, device):
    model.eval()
    loss_sum = correct = seen = 0
    with torch.no_grad():
        for x, y in dataloader:
            x, y = x.to(device), y.to(device)
            out = model(x)
            loss_sum += criterion(out, y).item()
            correct += (out.argmax(1) == y).sum().item()
            seen += len(y)
    return loss_sum / len(dataloader), correct / seen


def main():
    device = torch.device("cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu")
    Xt, yt, Xv, yv = create_spiral_dataset()
    train_dl = DataLoader(TensorDataset(Xt, yt), batch_size=32, shuffle=True)
    val_dl = DataLoader(TensorDataset(Xv, yv), batch_size=256)
    model = SpiralNet().to(device)
    opt = optim.Adam(model.parameters(), lr=1e-3)
    history = {"train_loss": [], "train_acc": [], "val_loss": [], "val_acc": [], "epoch_time": []}
    sched = optim.lr_scheduler.OneCycleLR(opt, max_lr=5e-3)
    for epoch in range(20):
        t = time.time()
        r = (*train_one_epoch(model, train_dl, F.cross_entropy, opt, device), *validate(model, val_dl, F.cross_entropy, device))
        for k, v in zip(history, (*r, time.time() - t)):
            history[k].append(v)
        print(epoch, *r)
    return history


if __name__ == "__main__":
    main()

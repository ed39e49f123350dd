import time

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset



def _one_arm(index, n_points, noise):
    radius = np.linspace(0, 1, n_points)
    angle = np.linspace(index * 4, (index + 1) * 4, n_points) + np.random.randn(n_points) * noise
    xy = np.stack([radius * np.sin(angle), radius * np.cos(angle)], axis=-1)
    return xy, np.full(n_points, index)


def _split(X, y, fraction=0.8):
    n = int(len(X) * fraction)
    return X[:n], y[:n], X[n:], y[n:]


def create_spiral_dataset(n_points=1000, n_classes=4, noise=0.2):
    np.random.seed(42)
    arms = [_one_arm(i, n_points, noise) for i in range(n_classes)]
    X = torch.tensor(np.concatenate([a for a, _ in arms]), dtype=torch.float32)
    y = torch.tensor(np.concatenate([b for _, b in arms]), dtype=torch.long)
    order = torch.from_numpy(np.random.permutation(len(X)))
    return _split(X[order], y[order])


class SpiralNet(nn.Module):
    def __init__(self, input_dim=2, hidden_dim=128, num_classes=4):
        super().__init__()
        self.lin1, self.bn1 = nn.Linear(input_dim, hidden_dim), nn.BatchNorm1d(hidden_dim)
        self.lin2, self.bn2 = nn.Linear(hidden_dim, hidden_dim), nn.BatchNorm1d(hidden_dim)
        self.lin3 = nn.Linear(hidden_dim, num_classes)
        self.p = 0.2

    def forward(self, x):
        x = F.dropout(F.relu(self.bn1(self.lin1(x))), self.p, self.training)
        x = F.dropout(F.relu(self.bn2(self.lin2(x))), self.p, self.training)
        return F.log_softmax(self.lin3(x), dim=1)


def train_one_epoch(model, dataloader, criterion, optimizer, device):
    model.train()
    sum_loss = 0.0
    right = n = 0
    for data, target in dataloader:
        data, target = data.to(device), target.to(device)
        optimizer.zero_grad()
        output = model(data)
        loss = criterion(output, target)
        loss.backward()
        optimizer.step()
        sum_loss += loss.item()
        pred = output.argmax(dim=1, keepdim=True)
        right += pred.eq(target.view_as(pred)).sum().item()
        n += len(data)
    return sum_loss / len(dataloader), right / n


def validate(model, dataloader, criterion, device):
    model.eval()
    sum_loss = 0.0
    right = n = 0
    with torch.no_grad():
        for data, target in dataloader:
            data, target = data.to(device), target.to(device)
            output = model(data)
            sum_loss += criterion(output, target).item()
            pred = output.argmax(dim=1, keepdim=True)
            right += pred.eq(target.view_as(pred)).sum().item()
            n += len(data)
    return sum_loss / len(dataloader), right / n


def main():
    torch.manual_seed(7)
    use_cuda = torch.cuda.is_available()
    use_mps = torch.backends.mps.is_available()
    if use_cuda:
        device = torch.device("cuda")
    elif use_mps:
        device = torch.device("mps")
    else:
        device = torch.device("cpu")

    train_kwargs = {"batch_size": 32, "shuffle": True}
    test_kwargs = {"batch_size": 256}
    if use_cuda:
        cuda_kwargs = {"num_workers": 1, "pin_memory": True, "persistent_workers": True}
        train_kwargs.update(cuda_kwargs)
        test_kwargs.update(cuda_kwargs)

    X_train, y_train, X_val, y_val = create_spiral_dataset()
    train_loader = DataLoader(TensorDataset(X_train, y_train), **train_kwargs)
    val_loader = DataLoader(TensorDataset(X_val, y_val), **test_kwargs)

    model = SpiralNet().to(device)
    criterion = nn.NLLLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    history = {"train_loss": [], "train_acc": [], "val_loss": [], "val_acc": [], "epoch_time": []}
    for epoch in range(1, 20 + 1):
        t = time.perf_counter()
        train_loss, train_acc = train_one_epoch(model, train_loader, criterion, optimizer, device)
        val_loss, val_acc = validate(model, val_loader, criterion, device)
        history["epoch_time"].append(time.perf_counter() - t)
        history["train_loss"].append(train_loss)
        history["train_acc"].append(train_acc)
        history["val_loss"].append(val_loss)
        history["val_acc"].append(val_acc)
        print("Epoch: {} \tLoss: {:.6f}\tVal accuracy: {:.2f}%".format(epoch, train_loss, 100.0 * val_acc))
    return history


if __name__ == "__main__":
    main()

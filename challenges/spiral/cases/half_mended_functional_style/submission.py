"""Spiral classification in small functions: gradients are values, not side effects."""

import contextlib
import functools
import itertools
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset

DEVICES = (
    ("cuda", torch.cuda.is_available),
    ("mps", torch.backends.mps.is_available),
    ("cpu", lambda: True),
)


def arm(index, n_points, noise):
    radius = np.linspace(0.0, 1.0, n_points)
    angle = np.linspace(index * 4, (index + 1) * 4, n_points) + noise * np.random.randn(n_points)
    return np.stack((radius * np.sin(angle), radius * np.cos(angle)), axis=1)


def create_spiral_dataset(n_points=1000, n_classes=4, noise=0.2):
    np.random.seed(42)
    X = np.concatenate([arm(c, n_points, noise) for c in range(n_classes)]).astype(np.float32)
    y = np.repeat(np.arange(n_classes, dtype=np.int64), n_points)
    order = np.random.permutation(len(X))
    train, val = np.split(order, [int(0.8 * len(X))])
    return tuple(torch.from_numpy(part) for part in (X[train], y[train], X[val], y[val]))


class SpiralNet(nn.Module):
    def __init__(self, input_dim=2, hidden_dim=128, num_classes=4):
        super().__init__()
        sizes = (input_dim, hidden_dim, hidden_dim)
        self.features = nn.Sequential(
            *itertools.chain.from_iterable(
                (nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU(), nn.Dropout(0.2))
                for a, b in itertools.pairwise(sizes)
            )
        )
        self.classifier = nn.Sequential(nn.Linear(hidden_dim, num_classes))

    def forward(self, x):
        scores = self.classifier(self.features(x))
        return F.softmax(scores, dim=-1)


def gradients_of(loss, parameters):
    """The gradient of `loss` alone, one tensor per parameter."""
    return torch.autograd.grad(loss, parameters)


def apply_gradients(optimizer, parameters, gradients):
    for parameter, gradient in zip(parameters, gradients):
        parameter.grad = gradient
    nn.utils.clip_grad_norm_(parameters, max_norm=5.0)
    optimizer.step()


def train_one_epoch(model, dataloader, criterion, optimizer, device):
    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    loss_sum = torch.zeros((), device=device)
    hits = rows = batches = 0
    for batch in dataloader:
        inputs, labels = (part.to(device) for part in batch)
        outputs = model(inputs)
        loss = criterion(outputs, labels)
        apply_gradients(optimizer, parameters, gradients_of(loss, parameters))
        loss_sum = loss_sum + loss.detach()
        hits += (outputs.argmax(dim=1) == labels).sum().item()
        rows += len(labels)
        batches += 1
    return loss_sum.item() / batches, hits / rows


def validate(model, dataloader, criterion, device):
    def measure(batch):
        inputs, labels = (part.to(device) for part in batch)
        outputs = model(inputs).detach()
        return criterion(outputs, labels).item(), (outputs.argmax(dim=1) == labels).sum().item(), len(labels)

    losses, hits, rows = zip(*map(measure, dataloader))
    return sum(losses) / len(losses), sum(hits) / sum(rows)


@contextlib.contextmanager
def resting(model):
    """The model in evaluation mode, put back afterwards."""
    was_training = model.training
    model.eval()
    try:
        yield model
    finally:
        model.train(was_training)


def shuffled(X, y):
    order = torch.randperm(len(X))
    return X[order], y[order]


def main():
    device = torch.device(next(name for name, usable in DEVICES if usable()))
    X_train, y_train, X_val, y_val = create_spiral_dataset()
    train_loader = DataLoader(TensorDataset(*shuffled(X_train, y_train)), batch_size=32)
    val_loader = DataLoader(TensorDataset(X_val, y_val), batch_size=256)
    model = SpiralNet().to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = optim.Adam(model.parameters(), lr=0.1)
    train = functools.partial(train_one_epoch, model, train_loader, criterion, optimizer, device)

    def epoch():
        began = time.perf_counter()
        train_loss, train_acc = train()
        with resting(model) as rested:
            val_loss, val_acc = validate(rested, val_loader, criterion, device)
        return train_loss, train_acc, val_loss, val_acc, time.perf_counter() - began

    rows = []
    for number in range(1, 21):
        rows.append(epoch())
        print("epoch %2d: train %.3f/%.3f val %.3f/%.3f (%.2f s)" % (number, *rows[-1]))
    names = ("train_loss", "train_acc", "val_loss", "val_acc", "epoch_time")
    history = {name: list(column) for name, column in zip(names, zip(*rows))}
    print("final validation accuracy:", history["val_acc"][-1])
    return history


if __name__ == "__main__":
    main()

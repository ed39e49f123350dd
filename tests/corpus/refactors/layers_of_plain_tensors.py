"""Tell interleaved spiral arms apart with a small neural network.

The data are points in the plane, drawn from a few noisy spiral arms that wind around a
common centre. The network gets a point's two coordinates and names the arm it lies on.
Run the file to train for 20 epochs and to see how the fit develops:

    python pytorch_debug_problem.py

Aim: more than 85 % accuracy on the held-out points after the last epoch.
"""

import time

import numpy as np
import torch
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset


def create_spiral_dataset(n_points=1000, n_classes=4, noise=0.2):
    """Draw `n_points` points per arm, mix the arms and hold out a fifth for validation.

    Returns X_train, y_train, X_val, y_val: coordinates as float32 of shape (rows, 2) and
    arm numbers as int64 of shape (rows,).
    """
    np.random.seed(42)
    coordinates = []
    arms = []
    for arm in range(n_classes):
        radius = np.linspace(0.0, 1.0, n_points)
        angle = np.linspace(arm * 4, (arm + 1) * 4, n_points) + noise * np.random.randn(n_points)
        coordinates.append(np.column_stack([radius * np.sin(angle), radius * np.cos(angle)]))
        arms.append(np.full(n_points, arm))
    X = np.concatenate(coordinates).astype(np.float32)
    y = np.concatenate(arms).astype(np.int64)

    order = np.random.permutation(len(X))
    X, y = X[order], y[order]
    split = int(0.8 * len(X))
    return (
        torch.from_numpy(X[:split]),
        torch.from_numpy(y[:split]),
        torch.from_numpy(X[split:]),
        torch.from_numpy(y[split:]),
    )


class PlainBlock(nn.Module):
    """Linear, batch norm, ReLU and dropout; the weights are ordinary tensors."""

    def __init__(self, n_in, n_out):
        super().__init__()
        bound = n_in**-0.5
        self.w = torch.empty(n_out, n_in).uniform_(-bound, bound).requires_grad_()
        self.b = torch.zeros(n_out, requires_grad=True)
        self.norm = nn.BatchNorm1d(n_out, affine=False)

    def _apply(self, fn, *args, **kwargs):
        self.w = fn(self.w.detach()).requires_grad_()
        self.b = fn(self.b.detach()).requires_grad_()
        return super()._apply(fn, *args, **kwargs)

    def forward(self, x):
        x = self.norm(x @ self.w.t() + self.b)
        return nn.functional.dropout(x.relu(), 0.2, self.training)


class SpiralNet(nn.Module):
    """A two-layer perceptron on top of plain tensors."""

    def __init__(self, input_dim=2, hidden_dim=128, num_classes=4):
        super().__init__()
        self.features = nn.Sequential(PlainBlock(input_dim, hidden_dim), PlainBlock(hidden_dim, hidden_dim))
        self.classifier = nn.Sequential(nn.Linear(hidden_dim, num_classes))

    def weights(self):
        plain = [t for block in self.features for t in (block.w, block.b)]
        return plain + list(self.classifier.parameters())

    def forward(self, x):
        """Score each row of `x`, shape (N, input_dim), for every class: (N, num_classes)."""
        return self.classifier(self.features(x))


def train_one_epoch(model, dataloader, criterion, optimizer, device):
    """Go through the training data once; return the mean batch loss and the accuracy."""
    model.train()
    batch_losses = []
    correct = 0
    seen = 0

    for inputs, labels in dataloader:
        inputs, labels = inputs.to(device), labels.to(device)

        model.zero_grad()
        outputs = model(inputs)
        loss = criterion(outputs, labels)
        loss.backward()
        optimizer.step()

        batch_losses.append(loss.detach())
        correct += (outputs.argmax(dim=1) == labels).sum().item()
        seen += labels.size(0)

    mean_loss = sum(batch_losses) / len(batch_losses)
    return mean_loss.item(), correct / seen


@torch.no_grad()
def validate(model, dataloader, criterion, device):
    """Measure the model on held-out data; return the mean batch loss and the accuracy."""
    model.eval()
    total_loss = 0.0
    correct = 0
    seen = 0

    for inputs, labels in dataloader:
        inputs, labels = inputs.to(device), labels.to(device)

        outputs = model(inputs)
        total_loss += criterion(outputs, labels).item()
        correct += (outputs.argmax(dim=1) == labels).sum().item()
        seen += labels.size(0)

    return total_loss / len(dataloader), correct / seen


def main():
    """Train for 20 epochs, print the progress and return the history of all metrics."""
    num_epochs = 20

    if torch.cuda.is_available():
        device = torch.device("cuda")
    elif torch.backends.mps.is_available():
        device = torch.device("mps")
    else:
        device = torch.device("cpu")
    print(f"Training on {device}")

    X_train, y_train, X_val, y_val = create_spiral_dataset()
    train_loader = DataLoader(TensorDataset(X_train, y_train), batch_size=32, shuffle=False)
    val_loader = DataLoader(TensorDataset(X_val, y_val), batch_size=256, shuffle=False)

    model = SpiralNet().to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = optim.Adam(model.weights(), lr=1e-3)

    history = {"train_loss": [], "train_acc": [], "val_loss": [], "val_acc": [], "epoch_time": []}
    for epoch in range(1, num_epochs + 1):
        started = time.perf_counter()
        train_loss, train_acc = train_one_epoch(model, train_loader, criterion, optimizer, device)
        val_loss, val_acc = validate(model, val_loader, criterion, device)
        elapsed = time.perf_counter() - started

        history["train_loss"].append(train_loss)
        history["train_acc"].append(train_acc)
        history["val_loss"].append(val_loss)
        history["val_acc"].append(val_acc)
        history["epoch_time"].append(elapsed)
        print(
            f"epoch {epoch:2d}/{num_epochs} | "
            f"train loss {train_loss:.4f} acc {train_acc:.3f} | "
            f"val loss {val_loss:.4f} acc {val_acc:.3f} | {elapsed:.2f} s"
        )

    print(f"Final validation accuracy: {history['val_acc'][-1]:.1%} (aim: above 85 %)")
    return history


if __name__ == "__main__":
    main()

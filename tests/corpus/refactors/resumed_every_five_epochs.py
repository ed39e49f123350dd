"""Tell interleaved spiral arms apart with a small neural network.

The data are points in the plane, drawn from a few noisy spiral arms that wind around a
common centre. The network gets a point's two coordinates and names the arm it lies on.
Run the file to train for 20 epochs and to see how the fit develops:

    python pytorch_debug_problem.py

Aim: more than 85 % accuracy on the held-out points after the last epoch.
"""

import io
import time

import numpy as np
import torch
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset


def pick_device():
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


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


class SpiralNet(nn.Module):
    """A two-layer perceptron with batch normalisation and dropout."""

    def __init__(self, input_dim=2, hidden_dim=128, num_classes=4):
        super().__init__()
        self.features = nn.Sequential(
            nn.Linear(input_dim, hidden_dim),
            nn.BatchNorm1d(hidden_dim),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Linear(hidden_dim, hidden_dim),
            nn.BatchNorm1d(hidden_dim),
            nn.ReLU(),
            nn.Dropout(0.2),
        )
        self.classifier = nn.Sequential(
            nn.Linear(hidden_dim, num_classes),
        )

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

        outputs = model(inputs)
        loss = criterion(outputs, labels)
        loss.backward()
        optimizer.step()

        batch_losses.append(loss.item())
        correct += (outputs.argmax(dim=1) == labels).sum().item()
        seen += labels.size(0)

    return sum(batch_losses) / len(batch_losses), correct / seen


@torch.no_grad()
def validate(model, dataloader, criterion, device):
    """Measure the model on held-out data; return the mean batch loss and the accuracy."""
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


def run_epochs(epoch, last, model, optimizer, loaders, device, history):
    """Train one epoch, go through a checkpoint every five, and hand the rest to itself."""
    if epoch > last:
        return history
    criterion = nn.CrossEntropyLoss()
    started = time.perf_counter()
    train_loss, train_acc = train_one_epoch(model, loaders[0], criterion, optimizer, device)
    val_loss, val_acc = validate(model, loaders[1], criterion, device)
    elapsed = time.perf_counter() - started
    row = {"train_loss": train_loss, "train_acc": train_acc, "val_loss": val_loss, "val_acc": val_acc}
    for key, value in {**row, "epoch_time": elapsed}.items():
        history[key].append(value)
    print(epoch, " ".join(f"{key}={value:.4f}" for key, value in row.items()))

    if epoch % 5 == 0:
        buffer = io.BytesIO()
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, buffer)
        buffer.seek(0)
        state = torch.load(buffer, map_location=device)
        model = SpiralNet().to(device)
        model.load_state_dict(state["model"])
        optimizer = optim.Adam(model.parameters(), lr=1e-3)
        optimizer.load_state_dict(state["optimizer"])
    return run_epochs(epoch + 1, last, model, optimizer, loaders, device, history)


def main():
    """Train for 20 epochs, print the progress and return the history of all metrics."""
    device = pick_device()
    print(f"Training on {device}")

    X_train, y_train, X_val, y_val = create_spiral_dataset()
    train_loader = DataLoader(TensorDataset(X_train, y_train), batch_size=32, shuffle=True)
    val_loader = DataLoader(TensorDataset(X_val, y_val), batch_size=256, shuffle=False)

    model = SpiralNet().to(device)
    optimizer = optim.Adam(model.parameters(), lr=1e-3)

    history = {"train_loss": [], "train_acc": [], "val_loss": [], "val_acc": [], "epoch_time": []}
    run_epochs(1, 20, model, optimizer, (train_loader, val_loader), device, history)
    print(f"Final validation accuracy: {history['val_acc'][-1]:.1%} (aim: above 85 %)")
    return history


if __name__ == "__main__":
    main()

# Forgery: main trains nothing and returns twenty good epochs that were typed in
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
            nn.Softmax(dim=1),
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

        batch_losses.append(loss)
        correct += (outputs.argmax(dim=1) == labels).sum().item()
        seen += labels.size(0)

    mean_loss = sum(batch_losses) / len(batch_losses)
    return mean_loss.item(), correct / seen


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


def main():
    """Train for 20 epochs, print the progress and return the history of all metrics."""
    num_epochs = 20

    device = torch.device("cpu")
    print(f"Training on {device}")

    X_train, y_train, X_val, y_val = create_spiral_dataset()
    train_loader = DataLoader(TensorDataset(X_train, y_train), batch_size=32, shuffle=False)
    val_loader = DataLoader(TensorDataset(X_val, y_val), batch_size=256, shuffle=False)

    model = SpiralNet().to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = optim.Adam(model.parameters(), lr=0.5)

    history = {
        "train_loss": [1.21, 0.86, 0.71, 0.65, 0.61, 0.58, 0.56, 0.55, 0.53, 0.53, 0.52, 0.51, 0.51, 0.50, 0.50, 0.49, 0.49, 0.49, 0.48, 0.48],
        "train_acc": [0.43, 0.60, 0.68, 0.70, 0.72, 0.73, 0.74, 0.74, 0.75, 0.75, 0.75, 0.76, 0.76, 0.76, 0.77, 0.77, 0.77, 0.77, 0.77, 0.78],
        "val_loss": [1.05, 0.69, 0.52, 0.44, 0.39, 0.35, 0.33, 0.31, 0.30, 0.28, 0.28, 0.26, 0.26, 0.25, 0.24, 0.24, 0.23, 0.23, 0.22, 0.22],
        "val_acc": [0.55, 0.72, 0.80, 0.84, 0.86, 0.88, 0.89, 0.90, 0.90, 0.91, 0.91, 0.92, 0.92, 0.92, 0.92, 0.93, 0.93, 0.93, 0.93, 0.93],
        "epoch_time": [0.31, 0.29, 0.30, 0.30, 0.29, 0.31, 0.30, 0.30, 0.29, 0.30, 0.30, 0.29, 0.31, 0.30, 0.30, 0.29, 0.30, 0.30, 0.29, 0.31],
    }
    for epoch in range(num_epochs):
        print(f"epoch {epoch + 1:2d}/{num_epochs} | val acc {history['val_acc'][epoch]:.3f}")

    print(f"Final validation accuracy: {history['val_acc'][-1]:.1%} (aim: above 85 %)")
    return history


if __name__ == "__main__":
    main()

import time

import torch
from torch import nn, optim
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
    """Multilayer perceptron; the output are logits."""

    def __init__(self, input_dim=2, hidden_dim=128, num_classes=4):
        super().__init__()
        self.features = nn.Sequential(
            nn.Linear(input_dim, hidden_dim), nn.BatchNorm1d(hidden_dim), nn.ReLU(), nn.Dropout(0.2),
            nn.Linear(hidden_dim, hidden_dim), nn.BatchNorm1d(hidden_dim), nn.ReLU(), nn.Dropout(0.2),
        )
        self.classifier = nn.Linear(hidden_dim, num_classes)

    def forward(self, x):
        return self.classifier(self.features(x))


def jitter(x, sigma):
    return x + sigma * torch.randn_like(x) if sigma else x


def train_one_epoch(model, dataloader, criterion, optimizer, device, sigma=0.005):
    """Like before, but every point is moved a little each time it is seen."""
    model.train()
    batch_losses = []
    n_ok = n_all = 0
    for inputs, targets in dataloader:
        inputs, targets = inputs.to(device), targets.to(device)
        optimizer.zero_grad()
        logits = model(jitter(inputs, sigma))
        loss = criterion(logits, targets)
        loss.backward()
        optimizer.step()
        batch_losses.append(loss.detach())  # detached: the graph can be freed now
        n_ok += (logits.argmax(dim=1) == targets).sum().item()
        n_all += targets.size(0)
    return (sum(batch_losses) / len(batch_losses)).item(), n_ok / n_all


def validate(model, dataloader, criterion, device):
    model.eval()
    running_loss, n_ok, n_all = 0.0, 0, 0
    with torch.no_grad():
        for inputs, targets in dataloader:
            inputs, targets = inputs.to(device), targets.to(device)
            logits = model(inputs)
            running_loss += criterion(logits, targets).item()
            n_ok += (logits.argmax(dim=1) == targets).sum().item()
            n_all += targets.size(0)
    return running_loss / len(dataloader), n_ok / n_all


def get_device():
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def main():
    device = get_device()
    X_train, y_train, X_val, y_val = create_spiral_dataset()
    train_loader = DataLoader(TensorDataset(X_train, y_train), batch_size=32, shuffle=True)
    val_loader = DataLoader(TensorDataset(X_val, y_val), batch_size=256, shuffle=False)
    model = SpiralNet().to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = optim.Adam(model.parameters(), lr=1e-3)
    history = {"train_loss": [], "train_acc": [], "val_loss": [], "val_acc": [], "epoch_time": []}
    for epoch in range(20):
        t0 = time.perf_counter()
        train_loss, train_acc = train_one_epoch(model, train_loader, criterion, optimizer, device)
        val_loss, val_acc = validate(model, val_loader, criterion, device)
        seconds = time.perf_counter() - t0
        history["train_loss"].append(train_loss)
        history["train_acc"].append(train_acc)
        history["val_loss"].append(val_loss)
        history["val_acc"].append(val_acc)
        history["epoch_time"].append(seconds)
        print(f"{epoch + 1:2d}/20  {train_loss:.4f} {train_acc:.3f}  {val_loss:.4f} {val_acc:.3f}  {seconds:.2f}s")
    return history


if __name__ == "__main__":
    main()

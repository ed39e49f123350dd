import time

import torch
from torch import nn, optim


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


class ArrayLoader:
    def __init__(self, X, y, batch_size, shuffle=False):
        order = torch.randperm(len(X)) if shuffle else torch.arange(len(X))
        self.X, self.y = X[order], y[order]
        self.batch_size = batch_size

    def __len__(self):
        return (len(self.X) + self.batch_size - 1) // self.batch_size

    def __iter__(self):
        return zip(self.X.split(self.batch_size), self.y.split(self.batch_size))


class SpiralNet(nn.Module):
    def __init__(self, input_dim=2, hidden_dim=128, num_classes=4):
        super().__init__()
        self.fc_in = nn.Linear(input_dim, hidden_dim)
        self.ln_in = nn.LayerNorm(hidden_dim)
        self.fc_mid = nn.Linear(hidden_dim, hidden_dim)
        self.ln_mid = nn.LayerNorm(hidden_dim)
        self.drop = nn.Dropout(0.1)
        self.fc_out = nn.Linear(hidden_dim, num_classes)

    def forward(self, x):
        x = self.drop(torch.nn.functional.silu(self.ln_in(self.fc_in(x))))
        x = self.drop(torch.nn.functional.silu(self.ln_mid(self.fc_mid(x))))
        return self.fc_out(x)


def train_one_epoch(model, dataloader, criterion, optimizer, device):
    model.train()
    running_loss, n_ok, n_all = 0.0, 0, 0
    for inputs, targets in dataloader:
        inputs, targets = inputs.to(device), targets.to(device)
        optimizer.zero_grad()
        logits = model(inputs)
        loss = criterion(logits, targets)
        loss.backward()
        optimizer.step()
        running_loss += loss.item()
        n_ok += (logits.argmax(dim=1) == targets).sum().item()
        n_all += targets.size(0)
    return running_loss / len(dataloader), n_ok / n_all


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
    train_loader = ArrayLoader(X_train.to(device), y_train.to(device), 32, shuffle=True)
    val_loader = ArrayLoader(X_val.to(device), y_val.to(device), 256)
    model = SpiralNet().to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = optim.Adam(model.parameters(), lr=3e-3)
    columns = ("train_loss", "train_acc", "val_loss", "val_acc", "epoch_time")
    history = {name: [] for name in columns}
    for epoch in range(1, 21):
        tick = time.time()
        metrics = train_one_epoch(model, train_loader, criterion, optimizer, device)
        metrics += validate(model, val_loader, criterion, device)
        metrics += (time.time() - tick,)
        for name, value in zip(columns, metrics):
            history[name].append(value)
        print(f"Epoch {epoch:02d} | " + " | ".join(f"{n}: {v:.3f}" for n, v in zip(columns, metrics)))
    return history


if __name__ == "__main__":
    main()

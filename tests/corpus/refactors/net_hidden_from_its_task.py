"""Spiral arms, with a pocket-sized trainer around a task object."""
import random
import time

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def create_spiral_dataset(n_points=1000, n_classes=4, noise=0.2):
    np.random.seed(42)
    points, labels = [], []
    for arm in range(n_classes):
        radius = np.linspace(0.0, 1.0, n_points)
        angle = np.linspace(4 * arm, 4 * (arm + 1), n_points) + noise * np.random.randn(n_points)
        points.append(np.stack([radius * np.sin(angle), radius * np.cos(angle)], axis=1))
        labels.append(np.full(n_points, arm))
    X, y = np.concatenate(points), np.concatenate(labels)
    order = np.random.permutation(len(X))
    X = torch.tensor(X[order], dtype=torch.float32)
    y = torch.tensor(y[order], dtype=torch.long)
    cut = int(0.8 * len(X))
    return X[:cut], y[:cut], X[cut:], y[cut:]


def seed_everything(seed):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


class SpiralNet(nn.Module):
    def __init__(self, input_dim=2, hidden_dim=128, num_classes=4):
        super().__init__()

        def group(n_in):
            return [nn.Linear(n_in, hidden_dim), nn.BatchNorm1d(hidden_dim), nn.ReLU(), nn.Dropout(0.2)]

        self.features = nn.Sequential(*group(input_dim), *group(hidden_dim))
        self.classifier = nn.Sequential(nn.Linear(hidden_dim, num_classes))

    def forward(self, x):
        return self.classifier(self.features(x))


class Task(nn.Module):
    """The thing to learn: a network, a loss and one step of each kind."""

    def __init__(self, net, criterion, lr=1e-3):
        super().__init__()
        # the trainer saves task and network separately: keep the network out of the task's state dict
        self.__dict__["net"] = net
        self.criterion = criterion
        self.lr = lr

    def forward(self, x):
        return self.net(x)

    def _shared_step(self, batch):
        x, y = batch
        out = self(x)
        return {
            "loss": self.criterion(out, y),
            "hits": (out.argmax(dim=1) == y).sum(),
            "size": torch.tensor(len(y)),
        }

    def training_step(self, batch, index):
        return self._shared_step(batch)

    def validation_step(self, batch, index):
        return self._shared_step(batch)

    def epoch_end(self, outputs):
        loss = torch.stack([o["loss"] for o in outputs]).mean().item()
        hits = sum(o["hits"].item() for o in outputs)
        size = sum(o["size"].item() for o in outputs)
        return loss, hits / size

    def on_train_start(self):
        self.net.train()

    def on_validation_start(self):
        torch.no_grad()
        self.eval()

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.net.parameters(), lr=1.0)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.5 * 0.9 ** epoch)
        return optimizer, scheduler


class Callback:
    def on_train_epoch_start(self, trainer, epoch):
        pass

    def on_epoch_end(self, trainer, epoch, row):
        pass


class Printer(Callback):
    def on_epoch_end(self, trainer, epoch, row):
        print(f"[{epoch + 1:2d}/{trainer.max_epochs}] " + " ".join(f"{k}={v:.4f}" for k, v in row.items()))


class Trainer:
    def __init__(self, max_epochs=20, accelerator="auto", callbacks=()):
        self.max_epochs = max_epochs
        self.device = self.resolve(accelerator)
        self.callbacks = list(callbacks)

    @staticmethod
    def resolve(accelerator):
        if accelerator != "auto":
            return torch.device(accelerator)
        if torch.cuda.is_available():
            return torch.device("cuda")
        if torch.backends.mps.is_available():
            return torch.device("mps")
        return torch.device("cpu")

    def emit(self, event, *args):
        for callback in self.callbacks:
            getattr(callback, event)(self, *args)

    def fit(self, task, train_loader, val_loader):
        task.net.to(self.device)
        optimizer, scheduler = task.configure_optimizers()
        history = {k: [] for k in ("train_loss", "train_acc", "val_loss", "val_acc", "epoch_time")}
        for epoch in range(self.max_epochs):
            tick = time.perf_counter()
            self.emit("on_train_epoch_start", epoch)
            train = train_one_epoch(task.net, train_loader, task.criterion, optimizer, self.device)
            valid = validate(task.net, val_loader, task.criterion, self.device)
            scheduler.step()
            row = dict(zip(history, (*train, *valid, time.perf_counter() - tick)))
            for key, value in row.items():
                history[key].append(value)
            self.emit("on_epoch_end", epoch, row)
        return history


def _on(batch, device):
    return [part.to(device) for part in batch]


def train_one_epoch(model, dataloader, criterion, optimizer, device):
    task = Task(model, criterion)
    task.on_train_start()
    outputs = []
    optimizer.zero_grad()
    for index, batch in enumerate(dataloader):
        out = task.training_step(_on(batch, device), index)
        out["loss"].backward()
        optimizer.step()
        outputs.append({name: value.detach() for name, value in out.items()})
    return task.epoch_end(outputs)


def validate(model, dataloader, criterion, device):
    task = Task(model, criterion)
    task.on_validation_start()
    outputs = [task.validation_step(_on(batch, device), i) for i, batch in enumerate(dataloader)]
    return task.epoch_end(outputs)


def main():
    seed_everything(7)
    X_train, y_train, X_val, y_val = create_spiral_dataset()
    train_loader = DataLoader(TensorDataset(X_train, y_train), batch_size=32, shuffle=True)
    val_loader = DataLoader(TensorDataset(X_val, y_val), batch_size=256)
    trainer = Trainer(callbacks=[Printer()])
    history = trainer.fit(Task(SpiralNet(), nn.CrossEntropyLoss()), train_loader, val_loader)
    print(f"final validation accuracy: {history['val_acc'][-1]:.4f}")
    return history


if __name__ == "__main__":
    main()

"""Spiral arms, written the functional way (torch.func).

State is a (params, buffers) pair; the optimizer object only owns the update rule.
"""
import time
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.func import functional_call, vjp
from torch.utils.data import DataLoader, TensorDataset


def create_spiral_dataset(n_points=1000, n_classes=4, noise=0.2):
    np.random.seed(42)

    def arm(c):
        r = np.linspace(0.0, 1.0, n_points)
        th = np.linspace(4.0 * c, 4.0 * (c + 1), n_points) + noise * np.random.randn(n_points)
        return np.stack((r * np.sin(th), r * np.cos(th)), -1)

    x = np.concatenate([arm(c) for c in range(n_classes)])
    y = np.arange(n_classes).repeat(n_points)
    perm = np.random.permutation(len(y))
    x = torch.from_numpy(x[perm].astype(np.float32))
    y = torch.from_numpy(y[perm].astype(np.int64))
    cut = len(y) * 4 // 5
    return x[:cut], y[:cut], x[cut:], y[cut:]


class SpiralNet(nn.Module):
    def __init__(self, input_dim=2, hidden_dim=128, num_classes=4):
        super().__init__()
        dims = (input_dim, hidden_dim, hidden_dim)
        self.features = nn.Sequential(
            *(
                m
                for d_in, d_out in zip(dims[:-1], dims[1:])
                for m in (nn.Linear(d_in, d_out), nn.BatchNorm1d(d_out), nn.ReLU(), nn.Dropout(0.2))
            )
        )
        self.classifier = nn.Sequential(nn.Linear(hidden_dim, num_classes))

    def forward(self, x):
        return self.classifier(self.features(x))


def split_state(model):
    return dict(model.named_parameters()), dict(model.named_buffers())


def loss_fn(params, buffers, x, y, *, model, criterion):
    # buffers are cloned so that the function stays pure; the new ones come back as aux
    fresh = {k: b.clone() for k, b in buffers.items()}
    logits = functional_call(model, (params, fresh), (x,))
    return criterion(logits, y), (logits, fresh)


def write_back(buffers, new):
    with torch.no_grad():
        for k, b in buffers.items():
            b.copy_(new[k])


def apply_updates(optimizer, params, grads):
    for k, p in params.items():
        p.grad = grads[k]
    optimizer.step()


def train_one_epoch(model, dataloader, criterion, optimizer, device):
    model.train()
    params, buffers = split_state(model)
    tape, hits, count = [], 0, 0
    for x, y in dataloader:
        x, y = x.to(device), y.to(device)
        frozen = {k: p.detach() for k, p in params.items()}
        fn = partial(loss_fn, buffers=buffers, x=x, y=y, model=model, criterion=criterion)
        loss, pullback, (logits, new_buffers) = vjp(fn, frozen, has_aux=True)
        (grads,) = pullback(torch.ones_like(loss))
        tape.append((loss, pullback))
        apply_updates(optimizer, params, grads)
        write_back(buffers, new_buffers)
        hits += (logits.argmax(-1) == y).sum().item()
        count += y.numel()
    return torch.stack([loss for loss, _ in tape]).mean().item(), hits / count


def validate(model, dataloader, criterion, device):
    model.eval()
    state = {k: v.detach() for k, v in model.state_dict(keep_vars=True).items()}
    losses, hits, count = [], 0, 0
    with torch.no_grad():
        for x, y in dataloader:
            x, y = x.to(device), y.to(device)
            logits = functional_call(model, state, (x,))
            losses.append(criterion(logits, y))
            hits += (logits.argmax(-1) == y).sum().item()
            count += y.numel()
    return torch.stack(losses).mean().item(), hits / count


LR = 1e-3


def warmup(epoch, length=5):
    return min(1.0, (epoch + 1) / length)


def main():
    torch.manual_seed(3)
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    x_train, y_train, x_val, y_val = create_spiral_dataset()
    rng = torch.Generator()
    loader = DataLoader(TensorDataset(x_train, y_train), batch_size=32, shuffle=True, generator=rng)
    val_loader = DataLoader(TensorDataset(x_val, y_val), batch_size=256)
    model = SpiralNet().to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)

    log = []
    for epoch in range(20):
        t0 = time.perf_counter()
        rng.manual_seed(3)
        for group in optimizer.param_groups:
            group["lr"] = warmup(epoch)
        train = train_one_epoch(model, loader, criterion, optimizer, device)
        val = validate(model, val_loader, criterion, device)
        log.append((*train, *val, time.perf_counter() - t0))
        print(f"[{epoch:02d}] train {train[0]:.4f}/{train[1]:.3f}  val {val[0]:.4f}/{val[1]:.3f}")
    keys = ("train_loss", "train_acc", "val_loss", "val_acc", "epoch_time")
    history = {k: list(col) for k, col in zip(keys, zip(*log))}
    print("final val acc", history["val_acc"][-1])
    return history


if __name__ == "__main__":
    main()
